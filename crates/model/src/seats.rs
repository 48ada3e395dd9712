//! Rules across a label: hosts of one rack that claim the seat of a group at the same time.
//!
//! The claims, the flags, the witnesses and what they know of each other are the real code. A handoff
//! is no more here than its durable record on the target: what becomes of the machine is the other
//! model's.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use evenkeel_core::effect::Effect;
use evenkeel_core::message::{Message, Witness};
use evenkeel_core::model::{ClaimId, Group, HandoffId, HandoffKey, HostId, MachineId};
use evenkeel_core::rules::Labels;
use evenkeel_core::witness::{Acquaintances, Claim, Here, Outcome, Seat, Witnesses};
use stateright::{Model, Property};

use crate::node::{host, index};

/// How often each thing may happen in one course of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Claims that begin.
    pub claims: u8,
    /// Agents that are killed.
    pub kills: u8,
    /// Records that cannot be written.
    pub store_failures: u8,
    /// Handoffs that sources give up.
    pub given_up: u8,
    /// Machines that leave the rack.
    pub departures: u8,
}

/// What is made wrong on purpose, to show that it would be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Hosts ask before they raise their flags.
    FlagLast,
    /// Nobody looks at whom the witness knows.
    NoHosts,
    /// A restarted agent does not count the handoffs on record.
    ForgetRecords,
    /// A restarted agent knows nobody.
    ForgetHosts,
    /// A restarted agent answers before it has measured.
    Unmeasured,
    /// A reservation ends by time.
    Expiry,
    /// A claim does not wait for silent witnesses.
    SilenceIsConsent,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Hosts in the rack.
    pub hosts: usize,
    /// Machines of the group; the first is on the first host, if `one_inside`, all others are outside.
    pub machines: usize,
    /// Whether the first machine is in the rack at first.
    pub one_inside: bool,
    /// Whether nobody in the rack knows its last host, nor the other way round: both know one host
    /// outside.
    pub joins: bool,
    /// How often each thing may happen.
    pub bounds: Bounds,
    /// What is made wrong.
    pub sabotage: Sabotage,
}

/// One host. The last is outside the rack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its agent, if it runs.
    pub agent: Option<Agent>,
    /// Whom it has written down to know.
    pub known: Acquaintances,
    /// Handoffs on record, with their machines.
    pub records: BTreeMap<HandoffId, usize>,
}

/// What an agent holds in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// The real code.
    pub witnesses: Witnesses,
    /// Machines that it has measured here; none before it has.
    pub view: Option<BTreeSet<usize>>,
    /// Machines that have arrived since.
    pub landed: BTreeSet<usize>,
    /// Handoffs on record, as it knows them.
    pub records: BTreeMap<HandoffId, usize>,
}

/// Something that was said: it can be heard from now on, at any time.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    from: usize,
    to: usize,
    claim: ClaimId,
    said: Witness,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// The hosts.
    pub nodes: Vec<Node>,
    /// Everything that was ever said.
    pub letters: BTreeMap<String, Letter>,
    /// Where each machine is; `None` is outside the rack.
    pub places: Vec<Option<usize>>,
    /// Handoffs for which a host has promised to keep the seat.
    pub promised: BTreeMap<HandoffId, usize>,
    /// The handoff that the source of each machine has under way.
    pub offers: Vec<Option<HandoffId>>,
    /// Claims that are open: who claims, and which machine.
    pub open: BTreeMap<ClaimId, (usize, usize)>,
    /// How often each thing may still happen.
    pub left: Bounds,
    /// How many claims have begun.
    pub begun: u64,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.nodes, &self.places, &self.offers, &self.promised).hash(state);
        (&self.open, self.left, self.begun).hash(state);
        for key in self.letters.keys() {
            key.hash(state);
        }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let keys = |state: &Self| state.letters.keys().cloned().collect::<Vec<_>>();
        (&self.nodes, &self.places, &self.offers, &self.promised)
            == (&other.nodes, &other.places, &other.offers, &other.promised)
            && (&self.open, self.left, self.begun) == (&other.open, other.left, other.begun)
            && keys(self) == keys(other)
    }
}

/// Where a list of effects is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nowhere.
    Never,
    /// The agent is killed before this effect.
    Kill(usize),
    /// This record cannot be written.
    Fail(usize),
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A host is asked to keep room for a machine.
    Claim(usize, usize, Cut),
    /// Something that was said is heard.
    Deliver(String, Cut),
    /// A claim has waited for too long.
    Silent(ClaimId),
    /// The source of a machine gives up.
    GiveUp(usize),
    /// A machine comes to the host that has it on record.
    Arrive(usize),
    /// That host takes note.
    Land(usize, HandoffId),
    /// A source says that nothing comes of a handoff.
    Word(usize, HandoffId),
    /// A machine leaves the rack.
    Depart(usize),
    /// A host is measured.
    Measure(usize),
    /// An agent is killed.
    Kill(usize),
    /// An agent is started again.
    Restart(usize),
    /// A reservation ends by time.
    Expire(usize, HandoffId),
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Rack(pub Setup);

fn machine(number: usize) -> MachineId {
    MachineId::new(&format!("m{number}")).unwrap_or_else(|error| unreachable!("{error}"))
}

fn groups() -> Vec<Group> {
    vec!["web@rack".parse().unwrap_or_else(|error| unreachable!("{error}"))]
}

impl Rack {
    fn labels(&self, at: usize) -> Labels {
        let rack = if at < self.0.hosts { "r1" } else { "r2" };
        [("rack".to_owned(), rack.to_owned())].into()
    }

    /// Hosts that `at` knows from the beginning.
    fn members(&self, at: usize) -> Arc<[HostId]> {
        let (outside, last) = (self.0.hosts, self.0.hosts - 1);
        let knows = |other: &usize| {
            !self.0.joins
                || at == *other
                || at == outside && *other != last
                || *other == outside
                || (at != last && *other != last)
        };
        (0..=outside).filter(knows).map(host).collect()
    }

    fn start(&self, state: &mut State, at: usize) {
        let node = &mut state.nodes[at];
        let records = match self.0.sabotage {
            Sabotage::ForgetRecords => BTreeMap::new(),
            _ => node.records.clone(),
        };
        let known = match self.0.sabotage {
            Sabotage::ForgetHosts => Acquaintances::default(),
            _ => node.known.clone(),
        };
        let witnesses = Witnesses::new(host(at), self.labels(at), known);
        node.agent = Some(Agent { witnesses, view: None, landed: BTreeSet::new(), records });
    }

    /// Carries effects out. The agent is killed, or a record not written, where it is cut off.
    fn carry_out(&self, state: &mut State, me: usize, effects: Vec<Effect>, cut: Cut) {
        for (number, effect) in effects.into_iter().enumerate() {
            if cut == Cut::Kill(number) {
                state.left.kills -= 1;
                return self.kill(state, me);
            }
            match effect {
                Effect::Acquaint(_) if cut == Cut::Fail(number) => {
                    state.left.store_failures -= 1;
                    if let Some(agent) = &mut state.nodes[me].agent {
                        agent.witnesses.not_kept();
                    }
                    return;
                }
                Effect::Acquaint(known) => state.nodes[me].known.keep(known),
                Effect::Send(to, Message::Witness(claim, said)) => {
                    let letter = Letter { from: me, to: index(&to), claim, said };
                    state.letters.insert(format!("{letter:?}"), letter);
                }
                _ => {}
            }
        }
    }

    fn kill(&self, state: &mut State, at: usize) {
        state.nodes[at].agent = None;
        state.open.retain(|_, (who, _)| *who != at);
        // Sources do not wait for what is forgotten.
        for offer in &mut state.offers {
            let kept = |handoff: &HandoffId| {
                let open = state.open.keys().any(|claim| claim.0 == handoff.0);
                open || state.promised.contains_key(handoff)
            };
            *offer = offer.filter(kept);
        }
        Self::forget_letters(state);
    }

    /// Nobody takes an answer to a claim that is not open.
    fn forget_letters(state: &mut State) {
        let open = &state.open;
        state.letters.retain(|_, letter| {
            matches!(letter.said, Witness::Ask(_)) || open.contains_key(&letter.claim)
        });
    }

    /// Writes down what came of a claim.
    fn conclude(state: &mut State, me: usize, claim: ClaimId, outcome: Option<Outcome>) {
        let Some(Outcome { handoff: HandoffKey { id: handoff, .. }, result }) = outcome else {
            return;
        };
        let Some((_, number)) = state.open.remove(&claim) else { return };
        Self::forget_letters(state);
        for offer in state.offers.iter_mut().filter(|o| result.is_err() && **o == Some(handoff)) {
            *offer = None;
        }
        if result.is_ok() {
            state.promised.insert(handoff, me);
            let node = &mut state.nodes[me];
            node.records.insert(handoff, number);
            if let Some(agent) = &mut node.agent {
                agent.records.insert(handoff, number);
            }
        }
    }

    /// Lets an agent act on its witnesses, with what it holds.
    fn with<T>(
        &self,
        state: &mut State,
        me: usize,
        act: impl FnOnce(&mut Witnesses, &Here<'_>, &mut Vec<Effect>) -> T,
    ) -> Option<(T, Vec<Effect>)> {
        let agent = state.nodes[me].agent.as_mut()?;
        let (mut out, groups) = (Vec::new(), groups());
        let is_measured = agent.view.is_some() || self.0.sabotage == Sabotage::Unmeasured;
        let all = agent.view.iter().flatten().chain(&agent.landed).chain(agent.records.values());
        let ids: BTreeSet<_> = all.map(|number| machine(*number)).collect();
        let machines = ids.iter().map(|id| (id, groups.as_slice())).collect();
        let here = Here { is_measured, machines };
        let done = act(&mut agent.witnesses, &here, &mut out);
        Some((done, out))
    }

    fn deliver(&self, state: &mut State, key: &str) -> Option<(usize, Vec<Effect>)> {
        let Letter { from, to, claim, said } = state.letters.get(key)?.clone();
        match said {
            Witness::Ask(ask) => {
                let known = state.nodes[to].known.clone();
                let blind = Witnesses::new(host(to), self.labels(to), known);
                let asked = |witnesses: &mut Witnesses, here: &Here<'_>, out: &mut Vec<Effect>| {
                    if self.0.sabotage == Sabotage::FlagLast {
                        let mut unseen = blind;
                        unseen.asked(&host(from), claim, ask.clone(), here, out);
                        witnesses.asked(&host(from), claim, ask, here, &mut Vec::new());
                    } else {
                        witnesses.asked(&host(from), claim, ask, here, out);
                    }
                };
                let ((), effects) = self.with(state, to, asked)?;
                Some((to, effects))
            }
            Witness::Answer(mut answer) => {
                if self.0.sabotage == Sabotage::NoHosts {
                    answer.hosts.clear();
                }
                let (outcome, effects) = self.with(state, to, |witnesses, here, out| {
                    witnesses.answered(&host(from), claim, answer, here, out)
                })?;
                Self::conclude(state, to, claim, outcome);
                Some((to, effects))
            }
            Witness::Removed(_) => None,
        }
    }

    fn claim(&self, state: &mut State, me: usize, number: usize) -> Option<(usize, Vec<Effect>)> {
        state.left.claims -= 1;
        state.begun += 1;
        let (handoff, claim) = (HandoffId(state.begun), ClaimId(state.begun));
        state.offers[number] = Some(handoff);
        state.open.insert(claim, (me, number));
        let seats = Seat::needed(&groups(), &self.labels(me));
        // Its source takes no part here.
        let handoff = HandoffKey::new(handoff, &host(me));
        let wanted = Claim { handoff, machine: machine(number), seats, pressing: false };
        let (outcome, effects) =
            self.with(state, me, |witnesses, here, out| witnesses.claim(claim, wanted, here, out))?;
        Self::conclude(state, me, claim, outcome);
        Some((me, effects))
    }

    /// Lets every host in the rack have told all others of itself.
    fn introduce(&self, state: &mut State) {
        let labels: Vec<_> = (0..=self.0.hosts).map(|at| (host(at), self.labels(at))).collect();
        for at in 0..self.0.hosts {
            let hosts = labels.iter().map(|(host, labels)| (host, labels));
            state.nodes[at].known = Acquaintances::introduced(&labels[at].1, hosts);
        }
    }

    /// Whether the agent may be asked to take a machine.
    fn may_claim(&self, state: &State, me: usize, number: usize) -> bool {
        let agent = state.nodes[me].agent.as_ref();
        // It takes part in no exchange before it has been measured, and has no handoff of it.
        let idle = agent.is_some_and(|agent| {
            agent.view.is_some()
                && !agent.witnesses.takes(&machine(number))
                && !agent.records.values().any(|other| *other == number)
        });
        state.left.claims > 0
            && idle
            && state.offers[number].is_none()
            && state.places[number] != Some(me)
    }

    fn actions_of(&self, state: &State, me: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[me];
        let Some(agent) = &node.agent else { return actions.push(Action::Restart(me)) };
        let here = |number: &usize| state.places[*number] == Some(me);
        let now: BTreeSet<_> = (0..self.0.machines).filter(here).collect();
        if agent.view.as_ref() != Some(&now) {
            actions.push(Action::Measure(me));
        }
        if state.left.kills > 0 && me < self.0.hosts {
            actions.push(Action::Kill(me));
        }
        for (handoff, number) in &agent.records {
            if here(number) {
                actions.push(Action::Land(me, *handoff));
            } else if state.offers[*number] != Some(*handoff) {
                actions.push(Action::Word(me, *handoff));
            }
            if self.0.sabotage == Sabotage::Expiry && !here(number) {
                actions.push(Action::Expire(me, *handoff));
            }
        }
        if me < self.0.hosts {
            for number in (0..self.0.machines).filter(|m| self.may_claim(state, me, *m)) {
                self.with_cuts(state, actions, |cut| Action::Claim(me, number, cut));
            }
        }
    }

    /// Adds an action, and the same with its effects cut off around each record that it writes.
    fn with_cuts(&self, state: &State, actions: &mut Vec<Action>, make: impl Fn(Cut) -> Action) {
        actions.push(make(Cut::Never));
        if state.left.kills == 0 && state.left.store_failures == 0 {
            return;
        }
        let Some((me, effects)) = self.effects_of(&mut state.clone(), &make(Cut::Never)) else {
            return;
        };
        if me >= self.0.hosts {
            return;
        }
        let records = effects.iter().enumerate().filter(|(_, e)| matches!(e, Effect::Acquaint(_)));
        for (record, _) in records {
            if state.left.kills > 0 {
                actions.push(make(Cut::Kill(record)));
            }
            if state.left.store_failures > 0 {
                actions.push(make(Cut::Fail(record)));
            }
        }
    }

    fn effects_of(&self, state: &mut State, action: &Action) -> Option<(usize, Vec<Effect>)> {
        match action {
            Action::Claim(me, number, _) => self.claim(state, *me, *number),
            Action::Deliver(key, _) => self.deliver(state, key),
            _ => None,
        }
    }

    fn happen(&self, state: &mut State, action: &Action) -> Option<()> {
        match *action {
            Action::Claim(_, _, cut) | Action::Deliver(_, cut) => {
                let (me, effects) = self.effects_of(state, action)?;
                self.carry_out(state, me, effects, cut);
            }
            Action::Silent(claim) => {
                let (me, _) = *state.open.get(&claim)?;
                let (mut outcome, _) = self.with(state, me, |w, _, _| w.expire(claim))?;
                if let (Sabotage::SilenceIsConsent, Some(outcome)) = (self.0.sabotage, &mut outcome)
                {
                    outcome.result = Ok(());
                }
                Self::conclude(state, me, claim, outcome);
            }
            Action::GiveUp(number) => {
                state.left.given_up -= 1;
                state.offers[number] = None;
            }
            Action::Arrive(number) => {
                let handoff = state.offers[number].take()?;
                state.places[number] = Some(state.promised.remove(&handoff)?);
            }
            Action::Land(me, handoff) => {
                let node = &mut state.nodes[me];
                node.records.remove(&handoff);
                let agent = node.agent.as_mut()?;
                let number = agent.records.remove(&handoff)?;
                agent.landed.insert(number);
            }
            Action::Word(me, handoff) | Action::Expire(me, handoff) => {
                let node = &mut state.nodes[me];
                node.records.remove(&handoff);
                node.agent.as_mut()?.records.remove(&handoff);
            }
            Action::Depart(number) => {
                state.left.departures -= 1;
                state.places[number] = None;
            }
            Action::Measure(me) => {
                let here = |number: &usize| state.places[*number] == Some(me);
                let now = (0..self.0.machines).filter(here).collect();
                let agent = state.nodes[me].agent.as_mut()?;
                agent.landed.clear();
                agent.view = Some(now);
            }
            Action::Kill(me) => {
                state.left.kills -= 1;
                self.kill(state, me);
            }
            Action::Restart(me) => self.start(state, me),
        }
        Some(())
    }
}

impl Model for Rack {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = |at| {
            let mut known = Acquaintances::default();
            known.meet(&self.members(at));
            Node { agent: None, known, records: BTreeMap::new() }
        };
        let place = |number| (number == 0 && self.0.one_inside).then_some(0);
        let mut state = State {
            nodes: (0..=self.0.hosts).map(node).collect(),
            letters: BTreeMap::new(),
            places: (0..self.0.machines).map(place).collect(),
            promised: BTreeMap::new(),
            offers: vec![None; self.0.machines],
            open: BTreeMap::new(),
            left: self.0.bounds,
            begun: 0,
        };
        if !self.0.joins {
            self.introduce(&mut state);
        }
        for at in 0..=self.0.hosts {
            let unharmed = Self(Setup { sabotage: Sabotage::None, ..self.0 });
            unharmed.start(&mut state, at);
            unharmed.happen(&mut state, &Action::Measure(at));
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (key, letter) in &state.letters {
            if state.nodes[letter.to].agent.is_some() {
                self.with_cuts(state, actions, |cut| Action::Deliver(key.clone(), cut));
            }
        }
        actions.extend(state.open.keys().map(|claim| Action::Silent(*claim)));
        for me in 0..state.nodes.len() {
            self.actions_of(state, me, actions);
        }
        for number in 0..self.0.machines {
            if let Some(handoff) = state.offers[number] {
                if state.promised.contains_key(&handoff) {
                    actions.push(Action::Arrive(number));
                }
                if state.left.given_up > 0 {
                    actions.push(Action::GiveUp(number));
                }
            } else if state.places[number].is_some() && state.left.departures > 0 {
                actions.push(Action::Depart(number));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.happen(&mut state, &action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "at most one machine of the group is in the rack",
                |_, state: &State| state.places.iter().flatten().count() <= 1,
            ),
            Property::sometimes("one arrives", |model: &Self, state: &State| {
                let inside = state.places.iter().enumerate().filter(|(_, place)| place.is_some());
                let came = |(number, place): (usize, &Option<usize>)| {
                    number > 0 || !model.0.one_inside || *place != Some(0)
                };
                inside.into_iter().any(came)
            }),
        ]
    }
}

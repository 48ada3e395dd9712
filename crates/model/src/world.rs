//! All hosts, what is under way between them, and every next thing that can happen.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use evenkeel_core::decision::{Choice, Decision, Reason, Role};
use evenkeel_core::effect::Effect;
use evenkeel_core::exchange::Agreement;
use evenkeel_core::handoff::{Handoffs, Mark, MarkKind, Offer, Phase, Terms, Turn};
use evenkeel_core::message::{Candidate, Message, PROTOCOL, Pass};
use evenkeel_core::model::{Entry, Epoch, ExchangeId, HandoffId, Ticket, Time};
use evenkeel_core::port::{Commit, MigrationStats, Presence, Stamp};
use stateright::{Model, Property};

use crate::hypervisor::{Copy, Step, boot, power_cut};
use crate::node::{Answer, Input, Letter, NoChance, Node, facade, host, index, machine};

/// How often each thing may happen in one course of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Handoffs that begin.
    pub handoffs: u8,
    /// Agents that are killed.
    pub kills: u8,
    /// Records that cannot be written.
    pub store_failures: u8,
    /// Migrations that end otherwise than well.
    pub faults: u8,
    /// Hosts that lose their power.
    pub power_cuts: u8,
    /// Stores that are lost.
    pub lost_stores: u8,
    /// Hosts that an operator fences.
    pub fences: u8,
    /// Things that another member says which are not so.
    pub lies: u8,
}

/// What is made wrong on purpose, to show that it would be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Records are written after what depends on them.
    RecordLast,
    /// A hypervisor says that what ran the machine has ended when the migration begins: what is held
    /// there is then released on the target's word alone.
    GoneTooSoon,
    /// Nobody changes whether a host starts a machine at boot.
    Autostart,
    /// A source that has booted since does not wait for the target's word: it takes it for said that there
    /// is nothing.
    Unasked,
    /// Handoffs are known by their id alone: whoever names one counts as its other host.
    ById,
    /// Every copy of which a host has no record is said to have come from the member that lies, which
    /// therefore decides over it.
    Named,
    /// A hypervisor says of every machine that is off that it has left by a migration: nothing waits for
    /// a proof that it has not run on.
    Unproved,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Two or three, all of them honest. The member that lies is one more, of which nothing else is known.
    pub hosts: usize,
    /// The commit point of every handoff.
    pub commit: Commit,
    /// Whether the machine's storage keeps two copies apart.
    pub locks: bool,
    /// Whether agents carry what hypervisors say to each other, and so hear how a migration ends.
    pub carried: bool,
    /// How often each thing may happen.
    pub bounds: Bounds,
    /// What is made wrong.
    pub sabotage: Sabotage,
}

/// An invariant that was broken by something done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// 2: a target let the machine run before its release was durable on the source.
    ResumedBeforeRelease,
    /// 3: a source let the machine run, or started it, after it had released it.
    RanAfterRelease,
    /// 4: a copy was destroyed that this host had claimed.
    DestroyedWhatWasClaimed,
    /// 7: memory was let run that is older than what has run since.
    StaleMemory,
}

/// Why the machine may be nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// A host died that held its memory.
    pub host_died: bool,
    /// A host died that alone held its memory and had not claimed it yet.
    pub died_unclaimed: bool,
    /// The guest ended, or what alone ran it did.
    pub guest_ended: bool,
    /// Somebody gave up by time: nothing had arrived in time, or a hypervisor did not answer when it
    /// was told whether to start it at boot.
    pub gave_up: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// The hosts.
    pub nodes: Vec<Node>,
    /// Everything that was ever said.
    pub letters: BTreeMap<String, Letter>,
    /// How often each thing may still happen.
    pub left: Bounds,
    /// How many handoffs have begun.
    pub begun: u64,
    /// Why the machine may be nowhere.
    pub excuse: Left,
    /// Every handoff that was released durably, by whom and up to which epoch, whatever becomes of
    /// that host's store.
    pub released: BTreeMap<HandoffId, (usize, Epoch)>,
    /// Every handoff that was claimed durably, by whom.
    pub claimed: BTreeMap<HandoffId, usize>,
    /// The age of the newest memory that runs or has run.
    pub newest: u8,
    /// What was broken.
    pub broken: Option<Broken>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.nodes, self.left, self.begun, self.excuse, self.broken, self.newest).hash(state);
        (&self.released, &self.claimed).hash(state);
        for key in self.letters.keys() {
            key.hash(state);
        }
    }
}

impl PartialEq for State {
    /// By what tells two states apart, as the checker does.
    fn eq(&self, other: &Self) -> bool {
        let digest = |state: &Self| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        digest(self) == digest(other)
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
    /// The first host begins to hand the machine over to the second.
    Give(usize, usize),
    /// Something that was said is heard.
    Deliver(String, Cut),
    /// An agent takes in what its hypervisor has answered.
    Answer(usize, Cut),
    /// The same, after a long time.
    AnswerLate(usize, Cut),
    /// A timer of a handoff is due.
    Timer(usize, HandoffId, Cut),
    /// The same, so often and so late that no limit is left.
    Late(usize, HandoffId, Cut),
    /// The migration from this host goes on, or ends.
    Migrates(usize, Step),
    /// An agent is killed.
    Kill(usize),
    /// An agent is started again.
    Restart(usize, Cut),
    /// A host loses its power.
    PowerCut(usize),
    /// It is back.
    Boot(usize),
    /// The store of a host whose agent does not run is lost.
    LoseStore(usize),
    /// An operator fences a host that is off.
    Fence(usize),
    /// An operator says so to another one.
    Claim(usize, usize, Cut),
    /// An operator keeps the machine on a host that cannot tell whether it ran on there.
    Keep(usize, usize, Cut),
    /// Another member says something to a host about a handoff that is none of its.
    Lie(usize, HandoffId, Pass, Cut),
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct World(pub Setup);

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let running = Copy {
            presence: Presence::Running,
            stamp: Stamp { epoch: Epoch(1), handoff: None },
            autostart: true,
            from: None,
            age: 0,
        };
        let nodes = (0..self.0.hosts).map(|at| Node::new(at, (at == 0).then_some(running)));
        vec![State {
            nodes: nodes.collect(),
            letters: BTreeMap::new(),
            left: self.0.bounds,
            begun: 0,
            excuse: Left::default(),
            released: BTreeMap::new(),
            claimed: BTreeMap::new(),
            newest: 0,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (key, letter) in &state.letters {
            if state.nodes[letter.to].agent.is_some() {
                self.with_cuts(state, actions, |cut| Action::Deliver(key.clone(), cut));
            }
        }
        for (at, node) in state.nodes.iter().enumerate() {
            self.actions_of(state, at, node, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.happen(&mut state, &action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("1: at most one host runs it", |_, state: &State| {
                state.nodes.iter().filter(|node| node.runs()).count() <= 1
            }),
            Property::always("2: released before it is let run", |_, state: &State| {
                state.broken != Some(Broken::ResumedBeforeRelease)
            }),
            Property::always("3: what was released is not let run", |_, state: &State| {
                state.broken != Some(Broken::RanAfterRelease)
            }),
            Property::always("4: what was claimed is not destroyed", |_, state: &State| {
                state.broken != Some(Broken::DestroyedWhatWasClaimed)
            }),
            Property::always("7: no stale memory is let run", |_, state: &State| {
                state.broken != Some(Broken::StaleMemory)
            }),
            Property::always("5: some host holds it", |_, state: &State| {
                let held = state.nodes.iter().any(Node::holds);
                held || state.excuse.host_died || state.excuse.guest_ended
            }),
            Property::always(
                "6: at rest, one host runs it and starts it at boot",
                |w, state: &State| {
                    let told = w.0.sabotage != Sabotage::Autostart
                        && state.left.lost_stores == w.0.bounds.lost_stores;
                    let Left { died_unclaimed, guest_ended, gave_up, .. } = state.excuse;
                    let excused = died_unclaimed || guest_ended || gave_up;
                    !state.is_at_rest() || excused || state.is_at_home(told)
                },
            ),
            Property::sometimes("it arrives, and nothing is left to do", |_, state: &State| {
                let idle = |n: &Node| n.agent.as_ref().is_some_and(|a| a.iter().next().is_none());
                let arrived = state.nodes[1].copy;
                state.begun > 0
                    && state.nodes.iter().all(idle)
                    && arrived.is_some_and(|copy| copy.runs() && copy.autostart)
            }),
        ]
    }
}

impl State {
    /// Whether every host is up, and no agent has anything left to do.
    fn is_at_rest(&self) -> bool {
        let idle = |n: &Node| {
            let agent = n.agent.as_ref().is_some_and(|agent| agent.iter().next().is_none());
            n.powered && agent && n.answers.is_empty() && n.job.is_none()
        };
        self.nodes.iter().all(idle)
    }

    /// Whether one host runs the machine, and starts it at boot if all that was told of that is known.
    fn is_at_home(&self, told: bool) -> bool {
        let copies = self.nodes.iter().filter_map(|node| node.copy);
        copies.filter(|copy| copy.runs() && (copy.autostart || !told)).count() == 1
    }
}

/// What the member that lies can say, of handoffs that have begun and of one that has not. Of several
/// lies only those that would begin or decide something: the others would be too many.
fn lies(begun: u64, bound: u8) -> Vec<(HandoffId, Pass)> {
    let decides = |pass: &Pass| {
        let begins = matches!(pass, Pass::Reserve { .. });
        begins || matches!(pass, Pass::Released { .. } | Pass::Cancel { .. } | Pass::Claimed)
    };
    let (machine, stats) = (machine(), MigrationStats::default());
    let reason = Reason::MigrationFailed;
    // What the first source has numbered first: it can be read, too.
    let ticket = Some(Ticket { life: 1, number: 1 });
    let entry = Entry { epoch: Epoch(2), ..Entry::default() };
    let autostart = Some(true);
    let passes = [
        Pass::Reserve {
            exchange: ExchangeId(0),
            machine: machine.clone(),
            entry,
            verdicts: Vec::new(),
            in_return: None,
            commit: Some(Commit::Strict),
            autostart,
            ticket,
            cpu: None,
            past: None,
        },
        Pass::Reserved {
            uri: String::new(),
            protocol: Some(PROTOCOL),
            ticket,
            machine: Some(machine.clone()),
            disks: None,
        },
        Pass::Refused { reason, detail: None },
        Pass::Released { machine: machine.clone(), stats, autostart, unanswered: None },
        Pass::Claimed,
        Pass::Missing,
        Pass::Cancel { reason, machine: Some(machine.clone()) },
        Pass::Discarded,
        Pass::Where { machine: machine.clone() },
        Pass::Holding { machine, ticket },
    ];
    let passes: Vec<_> = passes.into_iter().filter(|p| bound == 1 || decides(p)).collect();
    let of = |id: u64| passes.clone().into_iter().map(move |pass| (HandoffId(id), pass));
    (1..=begun + 1).flat_map(of).collect()
}

impl World {
    /// The member that lies.
    pub(crate) const fn liar(&self) -> usize {
        self.0.hosts
    }

    fn actions_of(&self, state: &State, at: usize, node: &Node, actions: &mut Vec<Action>) {
        let left = &state.left;
        if let Some(agent) = &node.agent {
            let may_give = node.copy.is_some_and(|c| c.presence == Presence::Running)
                && !agent.moves(&machine())
                && left.handoffs > 0;
            if may_give {
                let others = (0..state.nodes.len()).filter(|&to| to != at);
                actions.extend(others.map(|to| Action::Give(at, to)));
            }
            if let Some(answer) = node.answers.front() {
                self.with_cuts(state, actions, |cut| Action::Answer(at, cut));
                if matches!(answer, Answer::Looked(..)) {
                    self.with_cuts(state, actions, |cut| Action::AnswerLate(at, cut));
                }
            }
            for handoff in agent.iter() {
                self.with_cuts(state, actions, |cut| Action::Timer(at, handoff.id, cut));
                if handoff.phase != Phase::Offered {
                    self.with_cuts(state, actions, |cut| Action::Late(at, handoff.id, cut));
                }
            }
            for fenced in (0..state.nodes.len()).filter(|&n| state.nodes[n].fenced) {
                self.with_cuts(state, actions, |cut| Action::Claim(at, fenced, cut));
            }
            for handoff in agent.iter().filter(|handoff| handoff.waits_for_proof()) {
                let peer = index(&handoff.peer);
                self.with_cuts(state, actions, |cut| Action::Keep(at, peer, cut));
            }
            if left.lies > 0 {
                for (id, pass) in lies(state.begun, self.0.bounds.lies) {
                    self.with_cuts(state, actions, |cut| Action::Lie(at, id, pass.clone(), cut));
                }
            }
            if left.kills > 0 {
                actions.push(Action::Kill(at));
            }
        } else if node.powered {
            self.with_cuts(state, actions, |cut| Action::Restart(at, cut));
            if left.lost_stores > 0 {
                actions.push(Action::LoseStore(at));
            }
        }
        if let Some(job) = node.job {
            actions.extend(
                job.next(left.faults > 0, self.0.carried).map(|step| Action::Migrates(at, step)),
            );
        }
        if node.powered && left.power_cuts > 0 {
            actions.push(Action::PowerCut(at));
        }
        if !node.powered && !node.fenced {
            actions.push(Action::Boot(at));
            if left.fences > 0 {
                actions.push(Action::Fence(at));
            }
        }
    }

    /// Adds an action, and the same with its effects cut off around each record that it writes.
    fn with_cuts(&self, state: &State, actions: &mut Vec<Action>, make: impl Fn(Cut) -> Action) {
        actions.push(make(Cut::Never));
        if state.left.kills == 0 && state.left.store_failures == 0 {
            return;
        }
        let mut probe = state.clone();
        let Some((_, effects)) = self.effects_of(&mut probe, &make(Cut::Never)) else { return };
        let records = effects.iter().enumerate().filter(|(_, e)| matches!(e, Effect::Persist(_)));
        for (record, _) in records {
            if state.left.kills > 0 {
                actions.extend([Cut::Kill(record), Cut::Kill(record + 1)].map(&make));
            }
            if state.left.store_failures > 0 {
                actions.push(make(Cut::Fail(record)));
            }
        }
    }

    fn happen(&self, state: &mut State, action: &Action) -> Option<()> {
        match *action {
            Action::Deliver(_, cut)
            | Action::Answer(_, cut)
            | Action::AnswerLate(_, cut)
            | Action::Timer(_, _, cut)
            | Action::Late(_, _, cut)
            | Action::Restart(_, cut)
            | Action::Claim(_, _, cut)
            | Action::Keep(_, _, cut)
            | Action::Lie(_, _, _, cut) => {
                // What is kept is off, unless its host has booted without it.
                state.excuse.guest_ended |= matches!(action, Action::Keep(..));
                let (me, effects) = self.effects_of(state, action)?;
                self.carry_out(state, me, effects, cut);
            }
            Action::Give(from, to) => self.give(state, from, to),
            Action::Migrates(at, step) => self.advance_job(state, at, step)?,
            Action::Kill(at) => {
                state.left.kills -= 1;
                state.nodes[at].kill();
            }
            Action::PowerCut(at) => power_cut(state, at),
            Action::Boot(at) => boot(state, at),
            Action::LoseStore(at) => {
                state.left.lost_stores -= 1;
                state.nodes[at].disk = Default::default();
            }
            Action::Fence(at) => {
                state.left.fences -= 1;
                state.nodes[at].fenced = true;
            }
        }
        Some(())
    }

    /// Lets an agent take something in. Returns whose agent, and what it wants to be done.
    fn effects_of(&self, state: &mut State, action: &Action) -> Option<(usize, Vec<Effect>)> {
        let (me, input) = match action {
            Action::Deliver(key, _) => {
                let Letter { from, to, handoff, pass } = state.letters.get(key)?.clone();
                if matches!(pass, Pass::Reserve { .. }) {
                    // It refers to an exchange, which is over with it.
                    state.letters.remove(key);
                    return Some((to, take(&mut state.nodes[to], to, from, handoff, pass)));
                }
                (to, Input::Hear(from, handoff, pass))
            }
            Action::Lie(to, handoff, pass, _) => {
                state.left.lies -= 1;
                let liar = self.liar();
                if matches!(pass, Pass::Reserve { .. }) {
                    let pass = pass.clone();
                    return Some((*to, take(&mut state.nodes[*to], *to, liar, *handoff, pass)));
                }
                let mut live = state.nodes[*to].agent.iter().flat_map(Handoffs::iter);
                let by_id = live.find(|live| live.id == *handoff).map(|live| index(&live.peer));
                let by_id = by_id.filter(|_| self.0.sabotage == Sabotage::ById);
                (*to, Input::Hear(by_id.unwrap_or(liar), *handoff, pass.clone()))
            }
            Action::Keep(at, peer, _) => (*at, Input::Claim(*peer)),
            Action::Answer(at, _) => (*at, Input::Told(state.nodes[*at].answers.pop_front()?)),
            Action::AnswerLate(at, _) => {
                (*at, Input::ToldLate(state.nodes[*at].answers.pop_front()?))
            }
            Action::Timer(at, id, _) => (*at, Input::Timer(*id)),
            Action::Late(at, id, _) => (*at, Input::Late(*id)),
            Action::Claim(at, fenced, _) => (*at, Input::Claim(*fenced)),
            Action::Restart(at, _) => {
                state.nodes[*at].start();
                (*at, Input::Recover)
            }
            _ => return None,
        };
        let mut effects = state.nodes[me].take_in(me, input);
        if self.0.sabotage == Sabotage::RecordLast {
            effects.sort_by_key(|effect| matches!(effect, Effect::Persist(_)));
        }
        Some((me, effects))
    }

    fn carry_out(&self, state: &mut State, me: usize, effects: Vec<Effect>, cut: Cut) {
        let count = effects.len();
        // Also if that cannot be written: it is over for the agent.
        state.excuse.gave_up |= effects.iter().any(gave_up);
        for (number, effect) in effects.into_iter().enumerate() {
            if cut == Cut::Kill(number) {
                break;
            }
            match effect {
                Effect::Persist(handoff) if cut == Cut::Fail(number) => {
                    state.left.store_failures -= 1;
                    let then = state.nodes[me].take_in(me, Input::StoreFailed(handoff.key()));
                    return self.carry_out(state, me, then, Cut::Never);
                }
                Effect::Persist(handoff) => {
                    match handoff.mark() {
                        Some(Mark { kind: MarkKind::Released, epoch, handoff, .. }) => {
                            state.released.insert(handoff, (me, epoch));
                        }
                        Some(Mark { kind: MarkKind::Claimed, handoff, .. }) => {
                            state.claimed.insert(handoff, me);
                        }
                        None => {}
                    }
                    state.nodes[me].disk.keep(handoff);
                }
                // What is said to the member that lies does not bind it.
                Effect::Send(to, _) if index(&to) == self.liar() => {}
                Effect::Send(to, Message::Handoff(handoff, pass)) => {
                    let letter = Letter { from: me, to: index(&to), handoff, pass };
                    self.say(state, letter);
                }
                Effect::Order(order) => self.order(state, me, order),
                _ => {}
            }
        }
        if matches!(cut, Cut::Kill(at) if at <= count) {
            state.left.kills -= 1;
            state.nodes[me].kill();
        }
    }

    fn say(&self, state: &mut State, letter: Letter) {
        let node = &state.nodes[letter.from];
        let booted =
            node.agent.iter().flat_map(Handoffs::iter).any(|handoff| {
                handoff.id == letter.handoff && handoff.boot != node.boots.to_string()
            });
        if self.0.sabotage == Sabotage::Unasked && booted {
            let pass = match letter.pass {
                Pass::Where { .. } => Some(Pass::Missing),
                Pass::Cancel { .. } => Some(Pass::Discarded),
                _ => None,
            };
            let Letter { from, to, handoff, .. } = letter;
            let answer = pass.map(|pass| Letter { from: to, to: from, handoff, pass });
            state.letters.extend(answer.map(|answer| (format!("{answer:?}"), answer)));
        }
        state.letters.insert(format!("{letter:?}"), letter);
    }

    fn give(&self, state: &mut State, from: usize, to: usize) {
        state.left.handoffs -= 1;
        state.begun += 1;
        let Some(copy) = state.nodes[from].copy else { return };
        let choice = Choice { commit: self.0.commit, because: String::new() };
        let (from_stamp, autostart) = (copy.stamp, copy.autostart);
        let terms = Terms { choice, from: from_stamp, autostart, persistent: true };
        let agreement = agreement(from, to, copy.stamp.epoch.next());
        let mut effects = Vec::new();
        let mut facade = facade(from);
        let (id, node) = (HandoffId(state.begun), &mut state.nodes[from]);
        let (now, mut chance) = (Time::from_unix_ms(0), NoChance);
        let mut turn = Turn::new(&mut facade, &mut node.looks, now, &mut chance, &mut effects);
        if let Some(agent) = &mut node.agent {
            agent.give(id, agreement, terms, &mut turn);
        }
        self.carry_out(state, from, effects, Cut::Never);
    }
}

/// Whether a handoff has ended by time, with something undone.
fn gave_up(effect: &Effect) -> bool {
    let Effect::Persist(handoff) = effect else { return false };
    let Decision { ending, detail, .. } = &handoff.decision;
    let expired = handoff.phase == Phase::Cancelled && *ending == Reason::ReservationExpired;
    expired || detail.contains("could not be told")
}

/// Has a host keep room for what another one offers.
fn take(node: &mut Node, me: usize, from: usize, id: HandoffId, pass: Pass) -> Vec<Effect> {
    let mut out = Vec::new();
    let Pass::Reserve { entry, commit, autostart, ticket, .. } = pass else { return out };
    let mut facade = facade(me);
    let (now, mut chance) = (Time::from_unix_ms(0), NoChance);
    let mut turn = Turn::new(&mut facade, &mut node.looks, now, &mut chance, &mut out);
    let Some(agent) = node.agent.as_mut() else { return out };
    if let Some((reason, _)) = agent.refusal(id, &machine()) {
        turn.out.push(Effect::Send(
            host(from),
            Message::Handoff(id, Pass::Refused { reason, detail: None }),
        ));
        return out;
    }
    let offer = Offer {
        agreement: agreement(me, from, entry.epoch),
        commit: commit.unwrap_or(Commit::Fast),
        autostart: autostart.unwrap_or(false),
        ticket,
        past: None,
    };
    agent.take(id, offer, "there".to_owned(), &mut turn);
    out
}

/// What `me` has agreed on with `peer`.
fn agreement(me: usize, peer: usize, epoch: Epoch) -> Agreement {
    let exchange = ExchangeId(0);
    Agreement {
        exchange,
        peer: host(peer),
        candidate: Candidate::new(machine(), "m"),
        at_receiver: 0.0,
        entry: Entry { epoch, ..Entry::default() },
        verdicts: Vec::new(),
        decision: Decision {
            peer: Some(host(peer)),
            role: Some(Role::Source),
            ..Decision::new(exchange, host(me), Reason::Moved, Time::from_unix_ms(0))
        },
        in_return: None,
    }
}

//! The surface of the core: one host's balancer.
//!
//! [`Balancer::handle`] takes something that happened and returns what to do about it. It holds one
//! [`Host`], at most one [`Exchange`] and the [`Handoffs`] under way, and only decides which of them
//! an input is for.

mod config;
mod crowded;
mod directed;
mod emptying;
mod explaining;
mod heard;
mod mending;
mod passing;
mod pausing;
mod recommending;
mod seeking;
mod talking;
mod watching;
mod wishes;
mod witnessing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::index;
use rand::{Rng, RngExt};

pub use self::config::Config;
use self::crowded::Crowded;
pub use self::emptying::Drain;
use self::emptying::Emptying;
use self::heard::Others;
pub use self::heard::{ClusterContention, Heard};
use self::mending::Mending;
use self::wishes::Purpose;
use crate::appraisal::Appraising;
use crate::control::{Authority, Control};
use crate::cost::Experience;
use crate::decision::{Decision, Reason, Role};
use crate::effect::{Effect, Input, Timer};
use crate::estimate::Averaging;
use crate::exchange::Exchange;
use crate::handoff::{Handoff, Handoffs, Offer, Recovered, Turn};
use crate::host::Host;
use crate::host::Taker;
use crate::load::Machine;
use crate::message::{Message, Talk};
use crate::model::{
    Entry, ExchangeId, HostId, HostProfile, HostState, MachineId, Rules, TARGET_LOAD_MAX, Time,
};
use crate::port::{Event, HandoffKey, Order, Rewrite};
use crate::select::Policy;
use crate::survey::Survey;
use crate::swap::{Owed, Promise};
use crate::witness::Witnesses;
use directed::DirectedMoves;
use recommending::Recommendations;
use watching::Watching;

pub use directed::{Directed, Outcome, Stage};
pub use recommending::Recommendation;
pub use watching::{Leftover, Twin};

/// Rounds in the time of one while nothing is known of the cluster.
const LEARNING_ROUNDS: u32 = 10;

/// One host's balancer.
#[derive(Clone, Debug)]
pub struct Balancer {
    config: Config,
    host: Host,
    /// Sorted; may hold this host.
    members: Arc<[HostId]>,
    exchange: Option<Exchange>,
    survey: Option<Survey>,
    /// The host that something is offered to because of it, as it said it stands.
    pursued: Option<Taker>,
    /// Surveys in a row in which this host asked for something and got nothing.
    unfed: u32,
    /// Surveys in a row in which nothing was agreed on.
    unlucky: u32,
    /// How far this host was above its limit in the last of them.
    unlucky_at: f64,
    /// Rounds in a row in which nobody was asked.
    silent_rounds: u32,
    crowded: Crowded,
    mending: Mending,
    others: Others,
    promise: Option<Promise>,
    owed: Option<Owed>,
    /// Questions to several hosts that wait for answers.
    appraising: Vec<(Purpose, Appraising)>,
    emptying: Option<Emptying>,
    handoffs: Handoffs,
    /// Handoffs that were under way when the agent ended last; taken up at the start.
    recovered: Recovered,
    /// Where peers reach this host's hypervisor.
    migration_uri: String,
    sampling: bool,
    stopping: bool,
    watching: Watching,
    directed: DirectedMoves,
    recommendations: Recommendations,
    witnesses: Witnesses,
    /// When other hosts changed what they say of their labels last.
    relabelled: BTreeMap<HostId, Time>,
    pause_news: pausing::News,
    /// What waits for its witnesses.
    reserving: BTreeMap<HandoffKey, Offer>,
}

impl Balancer {
    /// A balancer for this host, with what its store holds.
    #[must_use]
    pub fn new(config: Config, profile: HostProfile, mut recovered: Recovered) -> Self {
        let known = std::mem::take(&mut recovered.acquaintances);
        let witnesses = Witnesses::new(profile.id.clone(), profile.labels.clone(), known);
        let mut host = Host::new(profile, config.metering);
        (host.calm, host.restraint) = (config.calm, config.restraint);
        (host.ceilings, host.costing) = (config.ceilings, config.costing);
        host.experience = Experience::new(&config.costing);
        host.tentative = config.tentative;
        (host.mode, host.repair) = (config.commit, config.repair);
        host.control = Control { mode: config.mode, closed: false, pause: recovered.pause.clone() };
        host.copy_storage = config.copy_storage;
        if matches!(config.policy, Policy::MeanAware(_)) && !config.tentative {
            host.levelling = Some(config.levelling);
            host.averaging = Averaging::hasty();
        }
        host.floor = config.floor;
        // Half-difference keeps to its rule, and in plans nobody waits for anything.
        let helps = matches!(config.policy, Policy::MeanAware(_)) && !config.tentative;
        host.starving = config.starving.filter(|_| helps);
        Self {
            handoffs: Handoffs::new(config.limits.clone()),
            config,
            host,
            members: Arc::default(),
            exchange: None,
            survey: None,
            pursued: None,
            unfed: 0,
            unlucky: 0,
            unlucky_at: 0.0,
            silent_rounds: 0,
            crowded: Crowded::default(),
            mending: Mending::default(),
            others: Others::default(),
            promise: None,
            owed: None,
            appraising: Vec::new(),
            emptying: None,
            recovered,
            migration_uri: String::new(),
            sampling: false,
            stopping: false,
            watching: Watching::default(),
            directed: DirectedMoves::default(),
            recommendations: Recommendations::default(),
            witnesses,
            relabelled: BTreeMap::new(),
            pause_news: pausing::News::default(),
            reserving: BTreeMap::new(),
        }
    }

    /// The host and what it knows of itself.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The live members; with this host among them where the driver shares one list.
    #[must_use]
    pub fn members(&self) -> &[HostId] {
        &self.members
    }

    /// The handoffs under way.
    pub fn handoffs(&self) -> impl Iterator<Item = &Handoff> {
        self.handoffs.iter()
    }

    /// The host that this one is talking to, if any.
    #[must_use]
    pub fn talking_to(&self) -> Option<&HostId> {
        self.exchange.as_ref().map(Exchange::peer)
    }

    /// The order that programs a target load for a machine of this host, or with `None` removes it,
    /// so that it counts as measured again.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn program_target(
        &self,
        machine: &MachineId,
        target: Option<f64>,
    ) -> Result<Order, String> {
        if let Some(load) =
            target.filter(|t| !(t.is_finite() && (0.0..=TARGET_LOAD_MAX).contains(t)))
        {
            return Err(format!("a target load of {load} is out of range: 0 to {TARGET_LOAD_MAX}"));
        }
        self.edited(machine, |entry| Entry { target_load: target, ..entry })
    }

    /// The order that gives a machine of this host these rules, if its rules still are `over`.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn set_rules(
        &self,
        machine: &MachineId,
        rules: Rules,
        over: Option<&Rules>,
    ) -> Result<Order, String> {
        rules.check().map_err(|error| error.to_string())?;
        let known = self.host.view.machines().get(machine);
        if let (Some(over), Some(entry)) = (over, known.and_then(Machine::entry))
            && *over != entry.rules
        {
            return Err(format!(
                "the rules of machine `{machine}` were changed since they were read; nothing has \
                 changed by this"
            ));
        }
        self.edited(machine, |entry| Entry { rules, ..entry })
    }

    fn edited(
        &self,
        machine: &MachineId,
        edit: impl FnOnce(Entry) -> Entry,
    ) -> Result<Order, String> {
        let host = self.host.id();
        let known = self.host.view.machines().get(machine);
        let known = known.ok_or_else(|| format!("host `{host}` has no machine `{machine}`"))?;
        if self.handoffs.moves(machine) {
            return Err(format!("machine `{}` is being moved; try again later", known.facts.name));
        }
        let entry = known.facts.entry.as_ref().map_err(|why| {
            format!("the schedule entry of machine `{}` cannot be read: {why}", known.facts.name)
        })?;
        let rewrite = Rewrite { over: Some(entry.clone()), entry: edit(entry.clone()) };
        Ok(Order::WriteEntry(machine.clone(), rewrite))
    }

    /// Takes what happened at `now`, which must not lie before the `now` of an earlier call, and
    /// appends what to do about it to `out`.
    pub fn handle(&mut self, input: Input, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        let first = out.len();
        match input {
            Input::Start => self.start(now, rng, out),
            Input::Members(mut members) => {
                members.retain(|m| m != self.host.id());
                members.sort_unstable();
                members.dedup();
                self.meet(members.into(), out);
            }
            Input::Acquaint(members) => self.meet(members, out),
            Input::Message(from, Message::Exchange(id, talk)) => {
                self.talk(id, &from, talk, now, rng, out);
            }
            Input::Message(from, Message::Handoff(id, pass)) => {
                self.pass(id, &from, pass, now, rng, out);
            }
            Input::Message(from, Message::Watch(watch)) => self.watch(&from, watch, now, rng, out),
            Input::Message(from, Message::Witness(id, said)) => {
                self.witness(id, &from, said, now, out);
            }
            Input::Undelivered(to, why) => self.undelivered(&to, &why, now, out),
            Input::Timer(timer) => self.timer(timer, now, rng, out),
            Input::Hypervisor(event) => self.event(event, now, out),
            Input::StoreFailed(key, why) => {
                self.hand(now, out, |handoffs, turn| handoffs.store_failed(&key, why, turn));
            }
            Input::FinishPassed(id) => {
                self.hand(now, out, |handoffs, turn| handoffs.finish_passed(id, turn));
            }
            Input::NotKept(_) => self.witnesses.not_kept(),
            Input::Removed(host) => self.remove(&host, now, out),
            Input::Revoked(host) => self.removed(&host, now, out),
            Input::Forget(host) => self.forget(&host, now, out),
            Input::ForgetPause => self.forget_pause(),
            Input::ForgetMean => {
                let hasty = self.host.levelling(None).is_some();
                let averaging = if hasty { Averaging::hasty() } else { Averaging::default() };
                self.host.averaging = averaging;
            }
            Input::Claim { machine, fenced } => {
                self.hand(now, out, |handoffs, turn| handoffs.claim(&machine, &fenced, turn));
            }
            Input::SetState(state) => self.set_state(state, now),
            Input::Wish(id, wish) => self.wish(id, wish, now, rng, out),
            Input::Pause(pause) => self.set_pause(pause, now, out),
            Input::Migrate(order) => {
                self.begin_directed(order, Authority::Told, (None, None), now);
            }
            Input::Approve(id) => self.approve(id, now),
            Input::Skip(id) => self.recommendations.skip(id),
            Input::Closed(closed) => self.host.control.closed = closed,
            Input::Stop | Input::StopNow => self.stop(input == Input::StopNow, now, out),
        }
        self.swap(now, rng, out);
        self.appraised(now, out);
        self.direct(first, now, rng, out);
        self.empty(now, rng, out);
        self.pursue(now, rng, out);
        if self.stopping && !self.handoffs.hold_up_stop() {
            out.push(Effect::Stopped);
        }
    }

    fn start(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        self.doubt_pause(now);
        out.push(Effect::SetTimer(Timer::Sample, now));
        // Anywhere in the first period: hosts that are started together do not act together.
        let first = self.between_rounds().mul_f64(rng.random_range(0.0..1.0));
        out.push(Effect::SetTimer(Timer::Round, now + first));
        // Entries that move before memory does are on one host for sure.
        if !self.config.tentative {
            out.push(Effect::SetTimer(Timer::Watch, now + watching::WATCH_EVERY));
        }
        let recovered = std::mem::take(&mut self.recovered);
        self.hand(now, out, |handoffs, turn| handoffs.recover(recovered, turn));
    }

    /// Takes part from now on, or not. A host that comes back is filled gently.
    fn set_state(&mut self, state: HostState, now: Time) {
        if self.host.state != HostState::Active && state == HostState::Active {
            self.host.past.returned(now);
        }
        self.host.state = state;
    }

    fn stop(&mut self, abort: bool, now: Time, out: &mut Vec<Effect>) {
        self.stopping = true;
        self.refuse_all(Reason::Stopping, now, out);
        if let Some(exchange) = self.exchange.take() {
            // Unlike a close, it is understood by whoever is to say something next.
            let decline =
                Talk::Decline { reason: Reason::Stopping, detail: String::new(), report: None };
            out.push(Effect::Send(
                exchange.peer().clone(),
                Message::Exchange(exchange.id(), decline),
            ));
            let record = exchange.abandon(&self.host, Reason::Stopping, String::new(), now);
            out.push(Effect::Record(record));
        }
        if abort {
            self.hand(now, out, Handoffs::abort_all);
        }
    }

    fn timer(&mut self, timer: Timer, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        match timer {
            Timer::Sample => {
                out.push(Effect::SetTimer(Timer::Sample, now + self.config.sample));
                self.sample(out);
            }
            Timer::Round => {
                let swing = self.config.jitter.clamp(0.0, 0.99);
                let wait = self.between_rounds().mul_f64(1.0 + rng.random_range(-swing..=swing));
                out.push(Effect::SetTimer(Timer::Round, now + wait));
                self.round(now, rng, out);
            }
            Timer::Exchange(id) => {
                if let Some(survey) = self.survey.as_mut().filter(|s| s.id() == id) {
                    survey.close();
                }
                if let Some(survey) = self.directed.survey(id) {
                    survey.close();
                }
                if let Some(owed) = self.owed.take_if(|owed| owed.exchange == id && owed.overdue)
                    && self.handoffs.has_just_moved(owed.after)
                {
                    let detail = "what was to come back in return has not come";
                    let record = owed.unpaid(&self.host, Reason::TimedOut, detail, now);
                    out.push(Effect::Record(record));
                }
                if let Some(index) = self.appraising.iter().position(|(_, a)| a.id == id) {
                    let (purpose, asked) = self.appraising.remove(index);
                    self.conclude(purpose, asked, now, out);
                }
                if let Some(exchange) = self.exchange.take_if(|e| e.id() == id) {
                    let detail = format!("`{}` did not answer in time", exchange.peer());
                    let record = exchange.abandon(&self.host, Reason::TimedOut, detail, now);
                    out.push(Effect::Record(record));
                }
            }
            Timer::Watch => self.watch_timer(now, rng, out),
            // Gone on with after every input.
            Timer::Directed => {}
            Timer::Witness(id) => {
                let outcome = self.witnesses.expire(id);
                self.concluded(outcome, now, out);
            }
            // Looked after below, as after everything that happens.
            Timer::Empty => {}
            Timer::Handoff(id) => {
                self.hand(now, out, |handoffs, turn| handoffs.timer(id, turn));
            }
        }
    }

    /// Mean time between two rounds: while nothing is known of the cluster, rounds cost next to
    /// nothing, and the sooner it is known the better.
    fn between_rounds(&self) -> Duration {
        let learning = self.host.levelling(None).is_some() && self.host.averaging.is_learning();
        if learning { self.config.round / LEARNING_ROUNDS } else { self.config.round }
    }

    fn sample(&mut self, out: &mut Vec<Effect>) {
        if !self.sampling {
            self.sampling = true;
            out.push(Effect::Order(Order::Sample));
        }
    }

    fn event(&mut self, event: Event, now: Time, out: &mut Vec<Effect>) {
        match event {
            Event::Sampled(result) => {
                self.sampling = false;
                match result {
                    Ok(sample) => {
                        self.migration_uri.clone_from(&sample.facts.migration_uri);
                        self.notice(&sample, now, out);
                        let starved = self.host.starves().is_some();
                        self.host.observe(sample);
                        self.host.holds.forget_taken(now);
                        self.host.take_stock(now);
                        self.forget_recommendations(now);
                        self.hasten(starved, now, out);
                    }
                    Err(failure) => self.host.view.fail(failure.detail),
                }
            }
            Event::EmulatorGone(id) => {
                self.hand(now, out, |handoffs, turn| handoffs.emulator_gone(id, turn));
            }
            Event::MigrationEnded(id, result) => {
                self.hand(now, out, |handoffs, turn| handoffs.migrated(id, result, turn));
            }
            Event::Looked(machine, look, sight) => {
                self.watched(&machine, look, sight.as_ref().ok(), now, out);
                self.hand(now, out, |handoffs, turn| handoffs.looked(&machine, look, &sight, turn));
            }
            Event::ScheduleChanged(machine) => {
                self.hand(now, out, |handoffs, turn| handoffs.changed(&machine, turn));
                self.sample(out);
            }
            Event::Connected => {
                self.host.unfit.clear();
                self.sample(out);
                self.handoffs.look_again(&mut Turn::new(&mut self.host, now, out));
            }
            Event::Disconnected(why) => self.host.view.fail(why),
            Event::Progress(id, progress) => self.handoffs.progressed(id, progress),
            Event::EntryWritten(machine, Ok(entry)) => self.host.view.rewritten(&machine, entry),
            // As it is now is known with the next sample.
            Event::EntryWritten(_, Err(_)) => self.sample(out),
            Event::Examined(id, verdict) => {
                self.hand(now, out, |handoffs, turn| handoffs.examined(id, verdict, turn));
            }
            Event::Resumed(machine, result) => {
                self.hand(now, out, |handoffs, turn| handoffs.resumed(&machine, &result, turn));
            }
            Event::Discarded(machine, result) => {
                self.hand(now, out, |handoffs, turn| handoffs.discarded(&machine, &result, turn));
            }
            Event::Started(machine, result) => {
                self.hand(now, out, |handoffs, turn| handoffs.started(&machine, &result, turn));
            }
            Event::AutostartSet(machine, wanted, result) => {
                self.hand(now, out, |handoffs, turn| {
                    handoffs.autostart_set(&machine, wanted, &result, turn);
                });
            }
        }
    }

    /// Has the next round come at once if a machine has begun to starve that did not before.
    fn hasten(&self, starved: bool, now: Time, out: &mut Vec<Effect>) {
        if !starved && self.host.starves().is_some() {
            out.push(Effect::SetTimer(Timer::Round, now));
        }
    }

    /// Draws another host at random (claims 4, 17, 27) and asks it for its load.
    fn round(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        if self.is_busy() || self.stopping || self.directed.is_waiting() {
            return;
        }
        let id = ExchangeId(rng.next_u64());
        let Some(mut own) = self.own_report(id, now, out) else {
            return;
        };
        // One that knows the mean goes on learning.
        let stands_still = self.host.control.permits(Role::Donor, own.authority(), now).err();
        if let (Policy::HalfDifference, Some(reason)) = (&self.config.policy, stands_still) {
            let record = self.lonely(id, reason, String::new(), now);
            return out.push(Effect::Record(record));
        }
        let peers = self.draw(1, rng);
        if peers.is_empty() {
            let record = self.lonely(id, Reason::NoPeer, String::new(), now);
            out.push(Effect::Record(record));
            return;
        }
        if let Policy::MeanAware(policy) = self.config.policy {
            return self.ask_around(id, &policy, now, rng, out);
        }
        let belongs = self.mend(now);
        own.mends = belongs.is_some().then_some(true);
        let peers = belongs.into_iter().flatten().chain(peers);
        let Some(peer) = peers.into_iter().next() else { return };
        if self.is_emptying() {
            return;
        }
        let (exchange, inquiry) = Exchange::open(id, peer, &self.host, own, now);
        self.say(exchange, inquiry, now, out);
    }

    /// Up to `count` other hosts, at random, each at most once.
    fn draw(&self, count: usize, rng: &mut impl Rng) -> Vec<HostId> {
        // One more, in case that this host itself is drawn.
        let drawn = index::sample(rng, self.members.len(), (count + 1).min(self.members.len()));
        let others =
            drawn.iter().map(|index| &self.members[index]).filter(|m| *m != self.host.id());
        others.take(count).cloned().collect()
    }

    fn own_report(
        &self,
        id: ExchangeId,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Option<crate::message::Report> {
        match self.host.report(None, now) {
            Ok(report) => Some(report),
            Err(unknown) => {
                let record = self.lonely(id, Reason::UnknownLoad, unknown.to_string(), now);
                out.push(Effect::Record(record));
                None
            }
        }
    }

    /// The record of a round in which nobody was asked.
    fn lonely(&self, exchange: ExchangeId, ending: Reason, detail: String, now: Time) -> Decision {
        Decision {
            detail,
            authority: self.host.authority(),
            ..Decision::new(exchange, self.host.id().clone(), ending, now)
        }
    }

    /// Whether it neither begins an exchange nor takes part in one.
    fn is_busy(&self) -> bool {
        self.is_engaged() || self.directed.is_looking()
    }

    /// A host is in one exchange at a time, and in no more handoffs than it may be.
    fn is_engaged(&self) -> bool {
        self.exchange.is_some()
            || self.owed.is_some()
            || self.handoffs.engaged() + self.reserving.len() >= self.config.handoffs_max.max(1)
    }

    /// Whether an operator's word that `fenced` runs nothing would settle where a machine is.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn can_claim(&self, machine: &MachineId, fenced: &HostId) -> Result<(), String> {
        self.handoffs.can_claim(machine, fenced)
    }

    /// Lets the handoffs act on this host.
    fn hand(
        &mut self,
        now: Time,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Handoffs, &mut Turn<'_>),
    ) {
        act(&mut self.handoffs, &mut Turn::new(&mut self.host, now, out));
    }

    fn undelivered(&mut self, to: &HostId, why: &str, now: Time, out: &mut Vec<Effect>) {
        for outcome in self.witnesses.undelivered(to, why) {
            self.concluded(Some(outcome), now, out);
        }
        if let Some(survey) = &mut self.survey {
            survey.miss(to);
        }
        self.directed.missed(to);
        self.appraising.iter_mut().for_each(|(_, asked)| asked.miss(to));
        if let Some(exchange) = self.exchange.take_if(|e| e.peer() == to) {
            let record = exchange.abandon(&self.host, Reason::Unreachable, why.to_owned(), now);
            out.push(Effect::Record(record));
        }
        self.hand(now, out, |handoffs, turn| handoffs.undelivered(to, why, turn));
    }
}

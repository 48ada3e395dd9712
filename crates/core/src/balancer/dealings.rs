//! What a host deals with: whose an input is, and what the parts of a balancer want of each other.
//!
//! Each part owns its state and answers what is said to it. What a part begins comes back to here as an
//! opening, since a host is in one exchange at a time.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::config::Config;
use super::drain::Draining;
use super::heard::Others;
use super::members::Members;
use super::orders::Orders;
use super::pauses::{self, Pauses};
use super::questions::{self, Purpose, Question, Questions};
use super::recommendations::{Recommendation, Recommendations};
use super::rounds::Rounds;
use super::scene::Scene;
use super::seats::Seats;
use super::swaps::Swaps;
use super::twins::{Twins, WATCH_EVERY};
use crate::appraisal::Appraising;
use crate::control::Authority;
use crate::decision::Reason;
use crate::effect::{Effect, Input, MoveOrder, Timer};
use crate::exchange::Exchange;
use crate::handoff::{Handoffs, Recovered};
use crate::host::Host;
use crate::message::{Message, Talk, Watch, Witness};
use crate::model::{ClaimId, HostId, HostState, MoveId};
use crate::port::{Event, HostSample, Order};
use crate::turn::Turn;
use crate::witness::Outcome;

/// Rounds in the time of one while nothing is known of the cluster.
const LEARNING_ROUNDS: u32 = 10;

/// What a host deals with, and what it stands on.
#[derive(Clone, Debug)]
pub(super) struct Dealings {
    pub(super) scene: Scene,
    /// The exchange with another host, if there is one.
    pub(super) exchange: Option<Exchange>,
    pub(super) rounds: Rounds,
    pub(super) others: Others,
    pub(super) swaps: Swaps,
    pub(super) questions: Questions,
    /// What is known while this host is being emptied.
    pub(super) draining: Option<Draining>,
    pub(super) orders: Orders,
    pub(super) recommendations: Recommendations,
    pub(super) seats: Seats,
    pub(super) twins: Twins,
    pub(super) pauses: Pauses,
    /// Handoffs that were under way when the agent ended last; taken up at the start.
    recovered: Recovered,
    /// Where peers reach this host's hypervisor.
    pub(super) migration_uri: String,
    /// Whether a sample is awaited.
    sampling: bool,
}

impl Dealings {
    /// Of a host that has not been measured yet, with what its store holds.
    pub(super) fn new(config: Config, host: &Host, mut recovered: Recovered) -> Self {
        let known = std::mem::take(&mut recovered.acquaintances);
        let seats = Seats::new(host.id().clone(), host.profile.labels.clone(), known);
        let handoffs = Handoffs::new(config.limits.clone());
        Self {
            scene: Scene { config, members: Members::default(), handoffs, stopping: false },
            exchange: None,
            rounds: Rounds::default(),
            others: Others::default(),
            swaps: Swaps::default(),
            questions: Questions::default(),
            draining: None,
            orders: Orders::default(),
            recommendations: Recommendations::default(),
            seats,
            twins: Twins::default(),
            pauses: Pauses::default(),
            recovered,
            migration_uri: String::new(),
            sampling: false,
        }
    }

    /// Whether this host neither begins an exchange nor takes part in one.
    pub(super) fn is_busy(&self) -> bool {
        self.is_engaged() || self.orders.is_looking()
    }

    /// A host is in one exchange at a time, and in no more handoffs than it may be.
    fn is_engaged(&self) -> bool {
        let handoffs = self.scene.handoffs.engaged() + self.seats.waiting();
        self.exchange.is_some()
            || self.swaps.is_owed()
            || handoffs >= self.scene.config.handoffs_max.max(1)
    }

    /// Takes in what has happened.
    pub(super) fn take_in(&mut self, input: Input, turn: &mut Turn<'_>) {
        match input {
            Input::Start => self.start(turn),
            Input::Members(mut members) => {
                members.retain(|m| m != turn.host.id());
                members.sort_unstable();
                members.dedup();
                self.meet(members.into(), turn);
            }
            Input::Acquaint(members) => self.meet(members, turn),
            Input::Message(from, message) => self.hear(&from, message, turn),
            Input::Undelivered(to, why) => self.undelivered(&to, &why, turn),
            Input::Timer(timer) => self.timer(timer, turn),
            Input::Hypervisor(event) => self.event(event, turn),
            Input::StoreFailed(key, why) => self.scene.handoffs.store_failed(&key, why, turn),
            Input::FinishPassed(id) => self.scene.handoffs.finish_passed(id, turn),
            Input::NotKept(_) => self.seats.not_kept(),
            operators => self.obey(operators, turn),
        }
    }

    /// An operator wants something, or the authority.
    fn obey(&mut self, input: Input, turn: &mut Turn<'_>) {
        match input {
            Input::Removed(host) => self.remove(&host, turn),
            Input::Revoked(host) => self.removed(&host, turn),
            Input::Forget(host) => self.forget(&host, turn),
            Input::ForgetPause => turn.host.control.pause = None,
            Input::ForgetMean => turn.host.forget_mean(),
            Input::Claim { machine, fenced } => self.scene.handoffs.claim(&machine, &fenced, turn),
            Input::SetState(state) => turn.host.take_part(state, turn.now),
            Input::Wish(id, wish) => {
                self.questions.wish(id, wish, &self.scene, turn);
                self.appraised(turn);
            }
            Input::Pause(pause) => pauses::set(pause, &self.scene.members, turn),
            Input::Migrate(order) => {
                self.orders.begin(order, Authority::Told, (None, None), &self.scene, turn);
            }
            Input::Approve(id) => self.approve(id, turn),
            Input::Skip(id) => self.recommendations.skip(id),
            Input::Closed(closed) => turn.host.control.closed = closed,
            Input::Stop => self.stop(turn),
            Input::StopNow => {
                self.stop(turn);
                self.scene.handoffs.abort_all(turn);
            }
            // Taken in before.
            _ => {}
        }
    }

    /// Goes on with what waits for this host to be free. Effects of this turn begin at `first`.
    pub(super) fn go_on(&mut self, first: usize, turn: &mut Turn<'_>) {
        self.swap(turn);
        self.appraised(turn);
        self.direct(first, turn);
        self.drain(turn);
        while !self.is_busy()
            && let Some(opening) = self.rounds.pursue(&self.scene, turn)
        {
            self.open(opening, turn);
        }
        if self.scene.stopping && !self.scene.handoffs.hold_up_stop() {
            turn.out.push(Effect::Stopped);
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>) {
        pauses::doubt(turn);
        turn.set_timer(Timer::Sample, turn.now);
        // Anywhere in the first period: hosts that are started together do not act together.
        let first = self.between_rounds(turn.host).mul_f64(turn.rng.random_range(0.0..1.0));
        turn.set_timer(Timer::Round, turn.now + first);
        // Entries that move before memory does are on one host for sure.
        if !self.scene.config.tentative {
            turn.set_timer(Timer::Watch, turn.now + WATCH_EVERY);
        }
        let recovered = std::mem::take(&mut self.recovered);
        self.scene.handoffs.recover(recovered, turn);
    }

    fn stop(&mut self, turn: &mut Turn<'_>) {
        self.scene.stopping = true;
        self.seats.refuse_all(Reason::Stopping, turn);
        if let Some(exchange) = self.exchange.take() {
            // Unlike a close, it is understood by whoever is to say something next.
            let decline =
                Talk::Decline { reason: Reason::Stopping, detail: String::new(), report: None };
            turn.talk(exchange.peer(), exchange.id(), decline);
            let record = exchange.abandon(turn.host, Reason::Stopping, String::new(), turn.now);
            turn.record(record);
        }
    }

    /// These are members now.
    fn meet(&mut self, members: Arc<[HostId]>, turn: &mut Turn<'_>) {
        self.seats.meet(&members, turn);
        let before = self.scene.members.replace(members);
        pauses::tell_newcomers(&before, self.scene.members.all(), turn);
    }

    /// Another host has said something.
    fn hear(&mut self, from: &HostId, message: Message, turn: &mut Turn<'_>) {
        let scene = &self.scene;
        match message {
            Message::Exchange(id, talk) => self.talk(id, from, talk, turn),
            Message::Handoff(id, pass) => self.pass(id, from, pass, turn),
            Message::Watch(Watch::Pause(register)) => {
                self.pauses.hear(from, register, &scene.members, turn);
            }
            Message::Watch(Watch::Running(theirs, told)) => {
                self.twins.compare(from, theirs, told, scene, turn);
            }
            Message::Watch(Watch::Runs(machine)) => {
                self.twins.look_into(machine, from, scene, turn);
            }
            Message::Witness(id, said) => {
                if let Some(admitted) = self.seats.hear(id, from, said, &scene.handoffs, turn) {
                    self.accept(admitted, turn);
                }
            }
        }
    }

    fn timer(&mut self, timer: Timer, turn: &mut Turn<'_>) {
        match timer {
            Timer::Sample => {
                turn.set_timer(Timer::Sample, turn.now + self.scene.config.sample);
                self.sample(turn);
            }
            Timer::Round => self.round(turn),
            Timer::Exchange(id) => {
                self.rounds.timer(id);
                self.orders.timer(id);
                self.swaps.timer(id, &self.scene.handoffs, turn);
                if let Some((purpose, asked)) = self.questions.timer(id) {
                    self.conclude(purpose, asked, turn);
                }
                if let Some(exchange) = self.exchange.take_if(|e| e.id() == id) {
                    let detail = format!("`{}` did not answer in time", exchange.peer());
                    turn.record(exchange.abandon(turn.host, Reason::TimedOut, detail, turn.now));
                }
            }
            Timer::Watch => {
                turn.set_timer(Timer::Watch, turn.now + WATCH_EVERY);
                self.seats.introduce(&self.scene, turn);
                self.twins.timer(&self.scene, turn);
            }
            Timer::Witness(id) => {
                if let Some(admitted) = self.seats.timer(id, turn) {
                    self.accept(admitted, turn);
                }
            }
            // Gone on with after everything that happens.
            Timer::Directed | Timer::Empty => {}
            Timer::Handoff(id) => self.scene.handoffs.timer(id, turn),
        }
    }

    /// The next round is due, and the one after that set.
    fn round(&mut self, turn: &mut Turn<'_>) {
        let swing = self.scene.config.jitter.clamp(0.0, 0.99);
        let factor = 1.0 + turn.rng.random_range(-swing..=swing);
        turn.set_timer(Timer::Round, turn.now + self.between_rounds(turn.host).mul_f64(factor));
        if self.is_busy() || self.scene.stopping || self.orders.is_waiting() {
            return;
        }
        if let Some(opening) = self.rounds.begin(&self.scene, turn) {
            self.open(opening, turn);
        }
    }

    /// Mean time between two rounds: while nothing is known of the cluster, rounds cost next to
    /// nothing, and the sooner it is known the better.
    fn between_rounds(&self, host: &Host) -> Duration {
        let learning = host.levelling(None).is_some() && host.averaging.is_learning();
        let round = self.scene.config.round;
        if learning { round / LEARNING_ROUNDS } else { round }
    }

    fn sample(&mut self, turn: &mut Turn<'_>) {
        if !self.sampling {
            self.sampling = true;
            turn.order(Order::Sample);
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        let handoffs = &mut self.scene.handoffs;
        match event {
            Event::Sampled(result) => {
                self.sampling = false;
                match result {
                    Ok(sample) => self.sampled(sample, turn),
                    Err(failure) => turn.host.view.fail(failure.detail),
                }
            }
            Event::EmulatorGone(id) => handoffs.emulator_gone(id, turn),
            Event::MigrationEnded(id, result) => handoffs.migrated(id, result, turn),
            Event::Looked(machine, look, sight) => {
                self.twins.looked(&machine, look, sight.as_ref().ok(), &self.scene, turn);
                self.scene.handoffs.looked(&machine, look, &sight, turn);
            }
            Event::ScheduleChanged(machine) => {
                handoffs.changed(&machine, turn);
                self.sample(turn);
            }
            Event::Connected => {
                turn.host.unfit.clear();
                self.sample(turn);
                self.scene.handoffs.look_again(turn);
            }
            Event::Disconnected(why) => turn.host.view.fail(why),
            Event::Progress(id, progress) => handoffs.progressed(id, progress),
            Event::EntryWritten(machine, Ok(entry)) => turn.host.view.rewritten(&machine, entry),
            // As it is now is known with the next sample.
            Event::EntryWritten(_, Err(_)) => self.sample(turn),
            Event::Examined(id, verdict) => handoffs.examined(id, verdict, turn),
            Event::Resumed(machine, result) => handoffs.resumed(&machine, &result, turn),
            Event::Discarded(machine, result) => handoffs.discarded(&machine, &result, turn),
            Event::Started(machine, result) => handoffs.started(&machine, &result, turn),
            Event::AutostartSet(machine, wanted, result) => {
                handoffs.autostart_set(&machine, wanted, &result, turn);
            }
        }
    }

    fn sampled(&mut self, sample: HostSample, turn: &mut Turn<'_>) {
        self.migration_uri.clone_from(&sample.facts.migration_uri);
        self.twins.notice(&sample, &self.scene, turn);
        let starved = turn.host.starves().is_some();
        turn.host.observe(sample);
        turn.host.holds.forget_taken(turn.now);
        turn.host.take_stock(turn.now);
        self.recommendations.forget(&self.scene.handoffs, turn);
        // The next round comes at once if a machine has begun to starve that did not before.
        if !starved && turn.host.starves().is_some() {
            turn.set_timer(Timer::Round, turn.now);
        }
    }

    /// Another host cannot be reached.
    fn undelivered(&mut self, to: &HostId, why: &str, turn: &mut Turn<'_>) {
        let outcomes = self.seats.undelivered(to, why);
        self.witnessed(outcomes, turn);
        self.rounds.miss(to);
        self.orders.miss(to);
        self.questions.miss(to);
        if let Some(exchange) = self.exchange.take_if(|e| e.peer() == to) {
            let why = why.to_owned();
            turn.record(exchange.abandon(turn.host, Reason::Unreachable, why, turn.now));
        }
        self.scene.handoffs.undelivered(to, why, turn);
    }

    /// Claims of seats have ended: room is kept for what all witnesses are clear of.
    fn witnessed(&mut self, outcomes: Vec<Outcome>, turn: &mut Turn<'_>) {
        for outcome in outcomes {
            if let Some(admitted) = self.seats.conclude(outcome, turn) {
                self.accept(admitted, turn);
            }
        }
    }

    /// An operator says that there is no such host.
    fn forget(&mut self, host: &HostId, turn: &mut Turn<'_>) {
        if self.scene.members.has(host) {
            return;
        }
        let outcomes = self.seats.forget(host);
        self.witnessed(outcomes, turn);
    }

    /// An operator has removed a host. Others learn it from the list; earlier versions believe it.
    fn remove(&mut self, host: &HostId, turn: &mut Turn<'_>) {
        let removed = Message::Witness(ClaimId(0), Witness::Removed(host.clone()));
        let own = turn.host.id().clone();
        let others = self.scene.members.others(&own).filter(|member| *member != host);
        others.for_each(|other| turn.tell(other, removed.clone()));
        self.removed(host, turn);
    }

    /// A host was removed: it is no witness any more, and nothing comes from it.
    fn removed(&mut self, host: &HostId, turn: &mut Turn<'_>) {
        let Some(outcomes) = self.seats.remove(host, turn) else { return };
        self.witnessed(outcomes, turn);
        self.scene.handoffs.removed(host, turn);
    }

    /// What an operator may approve of now.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn can_approve(&self, id: MoveId, host: &Host) -> Result<&Recommendation, String> {
        let known = self.recommendations.known(id, host)?;
        self.orders.can_begin(&known.machine, Some(&known.to), &self.scene, host)?;
        Ok(known)
    }

    /// An operator approves: what was recommended is judged anew, and moves if it still helps.
    fn approve(&mut self, id: MoveId, turn: &mut Turn<'_>) {
        if self.can_approve(id, turn.host).is_err() {
            return;
        }
        let Some(found) = self.recommendations.take(id, turn.host) else { return };
        let Recommendation { machine, to, measure, in_return, mends, .. } = found;
        // A rule that is broken still is to be mended whatever the loads say.
        let told = mends && turn.host.misplaced(turn.now).contains_key(&machine);
        let authority = if told { Authority::Told } else { Authority::Ordered };
        let order = MoveOrder { id, machine, to: Some(to) };
        self.orders.begin(order, authority, (measure, in_return), &self.scene, turn);
    }

    /// Goes on with directed moves: takes note of what was recorded since `first`, and begins the
    /// next if this host is free for it.
    fn direct(&mut self, mut first: usize, turn: &mut Turn<'_>) {
        while !self.orders.is_empty() {
            let mut records = Vec::new();
            for effect in &turn.out[first.min(turn.out.len())..] {
                if let Effect::Record(decision) = effect {
                    records.push(decision.clone());
                }
            }
            first = turn.out.len();
            records.iter().for_each(|decision| self.orders.note(decision, turn));
            self.orders.settle(&self.scene, turn.now);
            let next = self.orders.next(turn.now).filter(|_| !self.is_engaged());
            let Some(index) = next else { return };
            if let Some(opening) = self.orders.pursue(index, &self.scene, turn) {
                self.open(opening, turn);
            }
        }
    }

    /// Goes on emptying this host, if it is to be emptied and is free to.
    fn drain(&mut self, turn: &mut Turn<'_>) {
        if !self.scene.drains(turn.host) {
            self.draining = None;
            return;
        }
        // Before the first sample it is not known what there is.
        if self.scene.stopping || turn.host.report(None, turn.now).is_err() {
            return;
        }
        self.draining.get_or_insert_with(|| Draining::begin(turn.host, turn.now));
        while !self.is_busy()
            && let Some(opening) = self.draining.as_mut().and_then(|draining| draining.offer(turn))
        {
            self.open(opening, turn);
        }
        if self.is_busy() || self.questions.ask_for_room() {
            return;
        }
        let Some(draining) = &mut self.draining else { return };
        if let Some((peers, candidates)) = draining.ask(&self.scene, turn) {
            let (purpose, giver) = (Purpose::Empty, HostState::Draining);
            let question = Question { purpose, candidates, peers: &peers, giver };
            self.questions.ask(question, &self.scene, turn);
        }
    }

    /// Deals with questions that have been answered.
    fn appraised(&mut self, turn: &mut Turn<'_>) {
        while let Some((purpose, asked)) = self.questions.answered() {
            self.conclude(purpose, asked, turn);
        }
    }

    /// Deals with a question that has been answered by as many as ever will.
    fn conclude(&mut self, purpose: Purpose, asked: Appraising, turn: &mut Turn<'_>) {
        match purpose {
            Purpose::Empty => {
                if let Some(draining) = &mut self.draining {
                    draining.hear(asked, &self.scene, turn);
                }
            }
            Purpose::Place(wish) => questions::place(wish, asked, self.is_busy(), turn),
            Purpose::Drain { wish, force, bound } => {
                questions::drain(wish, force, bound, &asked, turn);
            }
        }
    }
}

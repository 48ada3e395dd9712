//! The one place in the agent where an effect becomes I/O.
//!
//! The loop waits for whatever comes first (a message, an event of the hypervisor, a timer, a
//! request, a signal), gives it to the core and carries out what the core returns, in order. It
//! decides nothing.

mod answering;
mod editing;
mod emptying;
mod explaining;
mod operating;
mod vouching;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evenkeel_core::balancer::Balancer;
use evenkeel_core::control::{Pause, PauseRegister};
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::Handoff;
use evenkeel_core::message::{Message, Talk};
use evenkeel_core::model::{HostId, HostProfile, Resources, Time};
use evenkeel_core::port::{
    Event, Failure, FailureKind, HandoffId, HostSample, Migration, Order, Progress,
};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_membership::{self as membership, Change, Member, Membership, Output};
use evenkeel_net::{Net, NetEvent};
use evenkeel_store::Store;
use evenkeel_wire::{WireError, decode, encode};
use rand_chacha::ChaCha12Rng;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

pub(crate) use emptying::Wishes;
pub(crate) use vouching::{Proved, Vouching};

use crate::alarms::{self, Alarms};
use crate::carrier::{Carrier, Ways};
use crate::clock::Clock;
use crate::hours::OpenHours;
use crate::ledger::Ledger;
use crate::request::Request;
use crate::silent::{Silences, SilentMember};
use crate::sole::Sole;
use crate::timers::{Due, Timers};
use crate::watchdog::Watchdog;
pub(crate) use editing::Edits;

/// How long the last words to other hosts may take.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
/// How long an agent that is stopping waits for its migrations to be aborted and its machines to be
/// found again. What is open then is on record, and settled at the next start.
const ABORT_TIME_MAX: Duration = Duration::from_secs(10);
/// Most records that wait to be closed.
const UNCLOSED_MAX: usize = 256;
/// Lines about refused frames in the log per [`REFUSALS_WINDOW`]: a peer must not fill the disk.
const REFUSALS_MAX: u32 = 10;
/// The same about members that come and go.
const MEMBER_LINES_MAX: u32 = 1000;
const REFUSALS_WINDOW: Duration = Duration::from_secs(10);

/// What the loop listens to.
pub(crate) struct Sources {
    pub(crate) net: mpsc::Receiver<NetEvent>,
    pub(crate) hypervisor: mpsc::Receiver<Event>,
    pub(crate) requests: mpsc::Receiver<Request>,
    /// Other agents found at the addresses that were configured.
    pub(crate) seeds: mpsc::Receiver<(HostId, SocketAddr)>,
    /// Hosts that this one has removed from the cluster.
    pub(crate) removed: mpsc::Receiver<HostId>,
    /// Migrations whose last step's answer has reached libvirt here.
    pub(crate) finished: mpsc::Receiver<HandoffId>,
    /// Names that are proved now to be those of hosts, or cannot be.
    pub(crate) proved: mpsc::Receiver<Proved>,
    /// Stop, and the second time, stop now.
    pub(crate) stop: mpsc::Receiver<()>,
}

pub(crate) struct Driver {
    pub(crate) balancer: Balancer,
    pub(crate) rng: ChaCha12Rng,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) net: Net,
    pub(crate) membership: Membership,
    pub(crate) hypervisor: Box<dyn Hypervisor>,
    pub(crate) carrier: Carrier,
    pub(crate) ways: Ways,
    pub(crate) timers: Timers,
    /// Where other hosts were last reached, also those that seem dead.
    pub(crate) addresses: BTreeMap<HostId, SocketAddr>,
    /// Whether it was told addresses of other agents.
    pub(crate) seeded: bool,
    /// Members that could not be written down yet: tried again until they can.
    pub(crate) unremembered: BTreeMap<HostId, SocketAddr>,
    pub(crate) removed: mpsc::Sender<HostId>,
    pub(crate) vouching: Vouching,
    pub(crate) ledger: Ledger,
    pub(crate) progress: BTreeMap<HandoffId, Progress>,
    /// What operators wish that is not answered yet.
    pub(crate) wishes: Wishes,
    /// Changes of schedule entries under way.
    pub(crate) edits: Edits,
    pub(crate) refusals: Refusals,
    /// Lines about members that come and go.
    pub(crate) gossip: Refusals,
    pub(crate) silences: Silences,
    /// Records of handoffs that have ended which could not be written, in their order: tried again
    /// until they can.
    pub(crate) unclosed: VecDeque<Handoff>,
    pub(crate) hours: OpenHours,
    pub(crate) alarms: Alarms,
    /// Why the last sample failed, if it did.
    pub(crate) unmeasured: Option<String>,
    pub(crate) identity_dir: PathBuf,
    /// Holds other agents off from this host's libvirt.
    pub(crate) sole: Sole,
    pub(crate) stop_grace: Duration,
    pub(crate) stopped: bool,
}

/// Lines in the present window, which others can cause.
#[derive(Debug)]
pub(crate) struct Refusals {
    since: Option<Instant>,
    count: u32,
    max: u32,
}

/// How far a stop is.
#[derive(Clone, Copy)]
enum Stopping {
    /// Waiting for what is under way, until then.
    Finishing(Instant),
    /// Waiting for it to be aborted, until then.
    Aborting(Instant),
}

impl Stopping {
    const fn until(self) -> Instant {
        match self {
            Self::Finishing(at) | Self::Aborting(at) => at,
        }
    }
}

impl Driver {
    /// Runs until the core says that nothing is under way any more.
    pub(crate) async fn run(mut self, mut sources: Sources, mut watchdog: Watchdog) {
        self.watch_hours();
        self.feed(Input::Start);
        self.heed_removals();
        let mut stopping: Option<Stopping> = None;
        while !self.stopped {
            let due = self.timers.next().map(|at| self.clock.instant_of(at));
            let limit = stopping.map(Stopping::until);
            watchdog.turn(Instant::now());
            let wake = [due, limit, watchdog.next()].into_iter().flatten().min();
            tokio::select! {
                Some(event) = sources.net.recv() => self.net_event(event),
                Some(event) = sources.hypervisor.recv() => self.hypervisor_event(event),
                Some(request) = sources.requests.recv() => self.answer(request),
                Some((host, addr)) = sources.seeds.recv() => {
                    self.addresses.insert(host.clone(), addr);
                    self.membership(membership::Input::Join { host, addr });
                }
                Some(host) = sources.removed.recv() => self.feed(Input::Removed(host)),
                Some(handoff) = sources.finished.recv() => {
                    self.feed(Input::FinishPassed(handoff));
                }
                Some(proved) = sources.proved.recv() => self.proved(proved),
                Some(()) = sources.stop.recv() => {
                    stopping = Some(self.stop(stopping));
                }
                () = sleep_until(wake) => self.due_timers(),
            }
            match stopping {
                Some(Stopping::Finishing(at)) if at <= Instant::now() => {
                    warn!("migrations under way outlast the grace for stopping");
                    stopping = Some(self.stop(stopping));
                }
                Some(Stopping::Aborting(at)) if at <= Instant::now() => {
                    warn!("not everything is settled: the next start looks where machines are");
                    break;
                }
                _ => {}
            }
        }
        for decision in self.ledger.all().collect::<Vec<_>>() {
            self.write_record(&decision);
        }
        self.membership(membership::Input::Leave);
        self.net.close(CLOSE_TIME_MAX).await;
    }

    /// Begins to stop, or stops what it has waited for so far.
    fn stop(&mut self, before: Option<Stopping>) -> Stopping {
        match before {
            None => {
                info!("stopping: finishing what is under way");
                notify(sd_notify::NotifyState::Stopping);
                self.feed(Input::Stop);
                Stopping::Finishing(Instant::now() + self.stop_grace)
            }
            Some(Stopping::Finishing(_)) => {
                info!("stopping now: aborting what is under way");
                self.feed(Input::StopNow);
                Stopping::Aborting(Instant::now() + ABORT_TIME_MAX)
            }
            Some(aborting) => aborting,
        }
    }

    fn due_timers(&mut self) {
        while let Some(due) = self.timers.take_due(self.clock.now()) {
            match due {
                Due::Core(Timer::Sample) => {
                    self.close_records();
                    self.watch_hours();
                    let now = self.clock.now();
                    self.alarms.tell(&alarms::of(&self.balancer, now), now);
                    self.alarms.tell_left_out(self.balancer.host().left_out(now));
                    for decision in self.ledger.due(self.clock.now()) {
                        self.write_record(&decision);
                    }
                    let is_host = |member: &Member| self.net.vouches(&member.host);
                    if !self.membership.members().all(is_host) {
                        self.tell_members();
                    }
                    self.feed(Input::Timer(Timer::Sample));
                }
                Due::Core(timer) => self.feed(Input::Timer(timer)),
                Due::Membership(timer) => self.membership(membership::Input::Timer(timer)),
            }
        }
    }

    /// Tells the core when the hours begin or end in which this host may move machines by itself.
    fn watch_hours(&mut self) {
        if let Some(closed) = self.hours.look(jiff::Timestamp::now()) {
            info!(closed, "the hours in which this host moves machines by itself");
            self.feed(Input::Closed(closed));
        }
    }

    /// Closes the records that there was no room to close before.
    fn close_records(&mut self) {
        while let Some((host, addr)) = self.unremembered.pop_first() {
            if self.store.remember(&host, addr).is_err() {
                self.unremembered.insert(host, addr);
                return;
            }
        }
        while let Some(handoff) = self.unclosed.front() {
            if self.store.persist(handoff).is_err() {
                return;
            }
            if handoff.phase.has_ended() {
                info!(machine = %handoff.name, "the record of a handoff is closed after all");
            }
            self.unclosed.pop_front();
        }
    }

    /// Keeps what could not be written of a handoff that has ended for the core, perhaps in the very
    /// effects that are dropped now: nobody else would write it. Beyond the bound, the next start
    /// finds it open and looks.
    fn keep_unwritten(&mut self, failed: Handoff, dropped: impl Iterator<Item = Effect>) {
        let key = failed.key();
        if self.balancer.handoffs().any(|handoff| handoff.key() == key) {
            return;
        }
        let later = dropped.filter_map(|effect| match effect {
            Effect::Persist(handoff) if handoff.key() == key => Some(handoff),
            _ => None,
        });
        let room = UNCLOSED_MAX.saturating_sub(self.unclosed.len());
        self.unclosed.extend(std::iter::once(failed).chain(later).take(room));
    }

    /// Gives an input to the core and carries out the effects, and those of whatever failed.
    pub(crate) fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.balancer.handle(input, self.clock.now(), &mut self.rng, &mut effects);
            // Before anybody is told that a machine may come.
            self.carrier.expect(self.balancer.handoffs());
            let mut effects = effects.into_iter();
            while let Some(effect) = effects.next() {
                let record = match &effect {
                    Effect::Persist(handoff) => Some(handoff.clone()),
                    _ => None,
                };
                match (self.carry_out(effect), record) {
                    // What stands behind a record that is not durable depended on it, and the core
                    // is not to take it for durable in anything else that it hears.
                    (Some(failed @ Input::StoreFailed(..)), Some(record)) => {
                        self.keep_unwritten(record, effects);
                        inputs.push_front(failed);
                        break;
                    }
                    (Some(failed @ Input::NotKept(_)), _) => {
                        inputs.push_front(failed);
                        break;
                    }
                    (failed, _) => inputs.extend(failed),
                }
            }
        }
    }

    /// Does one thing. Returns what to tell the core if that failed.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Persist(handoff) => {
                if let Err(error) = self.store.persist(&handoff) {
                    error!(machine = %handoff.name, %error, "handoff not made durable");
                    return Some(Input::StoreFailed(handoff.key(), error.to_string()));
                }
            }
            Effect::Acquaint(acquaintance) => {
                if let Err(error) = self.store.acquaint(&acquaintance) {
                    error!(host = %acquaintance.host, %error, "acquaintance not made durable");
                    return Some(Input::NotKept(acquaintance.host));
                }
            }
            Effect::Send(to, message) => {
                if let Err(why) = self.send(&to, &message) {
                    return Some(Input::Undelivered(to, why));
                }
            }
            Effect::SetTimer(timer, at) => self.timers.set(timer, at),
            Effect::Order(order) => {
                let mut order = order;
                if let Order::Migrate(migration) = &mut order
                    && let Err(failure) = self.carry(migration)
                {
                    let ended = Event::MigrationEnded(migration.handoff, Err(failure));
                    return Some(Input::Hypervisor(ended));
                }
                self.hypervisor.submit(order);
            }
            Effect::Record(decision) => self.record(decision),
            Effect::Keep(register) => self.keep(&register),
            Effect::Answer(id, answer) => return self.answered(id, answer),
            Effect::Stopped => self.stopped = true,
        }
        None
    }

    fn send(&self, to: &HostId, message: &Message) -> Result<(), String> {
        let known = self.addresses.get(to);
        let addr = known.ok_or_else(|| format!("the address of host `{to}` is not known"))?;
        self.net.send(to, *addr, encode(message)).map_err(|why| why.to_string())
    }

    fn keep(&mut self, register: &PauseRegister) {
        match &register.pause {
            Some(Pause { until, by, reason }) => {
                warn!(on = %register.on, by, until = %instant(*until), reason, "the cluster is paused");
            }
            None => info!(on = %register.on, "the pause of the cluster is ended"),
        }
        if let Err(error) = self.store.keep(register) {
            warn!(%error, "a restart of this agent forgets the pause until another host tells of it");
        }
    }

    /// Makes ready for a migration. What the target has said of how it is reached is replaced by what
    /// this host makes of it.
    fn carry(&mut self, migration: &mut Migration) -> Result<(), Failure> {
        migration.uri = self.ways.uri(&migration.to, &migration.uri).map_err(|why| {
            self.carrier.accuse(&migration.to, why.clone());
            let why = format!("machine `{}` is not sent: {why}", migration.machine);
            Failure::new(FailureKind::PeerRefused, why)
        })?;
        let addr = self.addresses.get(&migration.to).copied();
        let known = self.balancer.host().view.machines().get(&migration.machine);
        let name = known.map_or("", |machine| &machine.facts.name);
        self.carrier.depart(migration, name, addr).map_err(|error| {
            let why = format!("machine `{}` cannot be carried: {error}", migration.machine);
            Failure::new(FailureKind::Other, why)
        })
    }

    fn record(&mut self, decision: Decision) {
        if let Some(handoff) = decision.handoff {
            self.progress.remove(&handoff);
        }
        if let Some(decision) = self.ledger.take(decision, self.clock.now()) {
            self.write_record(&decision);
        }
    }

    fn write_record(&mut self, decision: &Decision) {
        log(decision);
        if let Err(error) = self.store.record(decision) {
            warn!(%error, "decision not recorded");
        }
    }

    fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Message { from, bytes } => match decode(&bytes) {
                Ok(message) => self.hear(from, message),
                Err(error) => self.undecodable(&from, &error),
            },
            NetEvent::Datagram { from, bytes } => {
                self.membership(membership::Input::Datagram { from, bytes: &bytes });
            }
            NetEvent::Undelivered { to, why } => self.feed(Input::Undelivered(to, why.to_string())),
            // In the log already. The host becomes a member when its agent says so.
            NetEvent::Enrolled { .. } => {}
            NetEvent::Met { host, certificate } => self.met(&host, &certificate),
            NetEvent::Revoked => self.heed_removals(),
        }
    }

    /// A frame that cannot be decoded is dropped; one of another version is declined, so that the
    /// other side knows why.
    fn undecodable(&mut self, from: &HostId, error: &WireError) {
        if self.refusals.pass(Instant::now()) {
            warn!(host = %from, %error, "frame refused");
        }
        if let WireError::Version { exchange: Some(id), .. } = error {
            let (reason, detail) = (Reason::Version, error.to_string());
            let decline = Talk::Decline { reason, detail, report: None };
            if let Err(why) = self.send(from, &Message::Exchange(*id, decline)) {
                debug!(host = %from, why, "could not be told so");
            }
        }
    }

    fn membership(&mut self, input: membership::Input<'_>) {
        let mut changed = false;
        for output in self.membership.handle(input, self.clock.now()) {
            match output {
                Output::Send { to, bytes } => self.net.send_datagram(&to.host, to.addr, bytes),
                Output::SetTimer { timer, at } => self.timers.add(timer, at),
                Output::Changed(change) => {
                    changed = true;
                    self.member_changed(&change);
                }
                Output::Refused { from, why } => debug!(?from, why, "membership datagram refused"),
            }
        }
        if changed {
            self.tell_members();
        }
    }

    /// The members that do not answer.
    pub(crate) fn silent(&self) -> Vec<SilentMember> {
        let here = self.balancer.host().id();
        let is_silent = |host: &&HostId| {
            *host != here && self.membership.member(host).is_none() && !self.net.has_removed(host)
        };
        self.silences.of(self.addresses.keys().filter(is_silent))
    }

    fn member_changed(&mut self, change: &Change) {
        match change {
            Change::Up(member) | Change::Replaced { after: member, .. } => {
                self.silences.end(&member.host);
            }
            Change::Down(member) => self.silences.begin(&member.host, self.clock.now()),
            Change::Renewed(_) => {}
        }
        // Gossip can say this as often as a member likes.
        if !self.gossip.pass(Instant::now()) {
            return;
        }
        match change {
            Change::Up(member) | Change::Replaced { after: member, .. } => {
                info!(host = %member.host, address = %member.addr, "member is alive");
            }
            Change::Down(member) => warn!(host = %member.host, "member is gone"),
            Change::Renewed(_) => info!("was taken for dead; back in the cluster"),
        }
    }

    fn hypervisor_event(&mut self, mut event: Event) {
        if let Event::MigrationEnded(handoff, result) = &mut event
            && let Some(why) = self.carrier.departed(*handoff)
            && let Err(failure) = result
        {
            failure.detail = format!("{} ({why})", failure.detail);
        }
        match &mut event {
            // A late one would stay for good.
            Event::Progress(handoff, progress)
                if self.balancer.handoffs().any(|h| h.id == *handoff) =>
            {
                self.progress.insert(*handoff, *progress);
            }
            Event::Disconnected(why) => warn!(why, "libvirt is not reached: nothing is balanced"),
            Event::Connected => {
                info!("libvirt is reached");
                if let Err(error) = self.sole.ensure() {
                    error!(%error, "stopping");
                    self.stopped = true;
                }
            }
            Event::Sampled(result) => {
                if let Ok(HostSample { background: Some(own), facts, .. }) = result {
                    *own = beyond(own, &facts.capacity, &self.balancer.host().profile);
                }
                self.sampled(result.as_ref().err());
            }
            _ => {}
        }
        let written = match &event {
            Event::EntryWritten(machine, result) => Some((machine.clone(), result.clone())),
            _ => None,
        };
        let sampled = matches!(event, Event::Sampled(Ok(_)));
        self.feed(Input::Hypervisor(event));
        // Answered once the core shows it to whoever asks next.
        if let Some((machine, result)) = written {
            self.entry_written(&machine, result);
        }
        if sampled {
            self.entries_sampled();
        }
    }

    /// Writes of a failure to measure once, until there is another one.
    fn sampled(&mut self, failure: Option<&Failure>) {
        let why = failure.map(|failure| failure.detail.clone());
        match (&self.unmeasured, &why) {
            (before, Some(why)) if before.as_ref() != Some(why) => warn!(why, "not measured"),
            (Some(_), None) => info!("measured again"),
            _ => {}
        }
        self.unmeasured = why;
    }

    /// The members remembered from an earlier life are asked first.
    pub(crate) fn join_remembered(&mut self) {
        let remembered: Vec<_> = self.addresses.clone().into_iter().collect();
        for (host, addr) in remembered {
            self.membership(membership::Input::Join { host, addr });
        }
    }
}

impl Refusals {
    /// About frames that are refused.
    pub(crate) const fn of_frames() -> Self {
        Self { since: None, count: 0, max: REFUSALS_MAX }
    }

    /// About members: a cluster that is started at once may have many.
    pub(crate) const fn of_members() -> Self {
        Self { since: None, count: 0, max: MEMBER_LINES_MAX }
    }

    /// Whether another refused frame may be written of.
    fn pass(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= REFUSALS_WINDOW) {
            *self = Self { since: Some(now), count: 0, ..*self };
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.max
    }
}

pub(crate) async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What a host does besides its machines of what machines may use: where less is declared than there
/// is, the rest is for the host itself. In reference cores.
fn beyond(own: &Resources, found: &Resources, profile: &HostProfile) -> Resources {
    let rest = |own: f64, found: f64, declared: f64| (own - (found - declared).max(0.0)).max(0.0);
    let capacity = &profile.capacity;
    Resources {
        cpu_cores: rest(own.cpu_cores, found.cpu_cores, capacity.cpu_cores) * profile.cpu_speed,
        memory_bytes: rest(own.memory_bytes, found.memory_bytes, capacity.memory_bytes),
        io_bytes_per_s: own.io_bytes_per_s,
    }
}

/// A point in time as people read it.
fn instant(time: Time) -> jiff::Timestamp {
    let ms = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX)
}

fn log(decision: &Decision) {
    let peer = decision.peer.as_ref().map_or("-", HostId::as_str);
    let Decision { exchange, ending, detail, .. } = decision;
    match (ending, decision.chosen()) {
        (Reason::Moved, Some(machine)) => {
            let downtime_ms = decision.stats.map_or(0, |stats| stats.downtime_ms);
            info!(%exchange, peer, role = ?decision.role, machine = machine.name, downtime_ms, "moved");
        }
        (Reason::Observing | Reason::AwaitsApproval, Some(machine)) => {
            let to = matches!(decision.role, Some(Role::Source));
            info!(%exchange, peer, %ending, machine = machine.name, to, "would be moved");
        }
        (_, Some(machine)) => {
            warn!(%exchange, peer, machine = machine.name, %ending, detail, "not moved");
        }
        (_, None) => debug!(%exchange, peer, %ending, detail, "exchange ended"),
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_declared_of_a_host_is_its_own_to_use() {
        let of =
            |cpu_cores, memory_bytes| Resources { cpu_cores, memory_bytes, io_bytes_per_s: 7.0 };
        let mut profile = HostProfile::new(HostId::new("h").unwrap(), of(6.0, 60.0));
        profile.cpu_speed = 2.0;
        for (own, counted) in [(of(1.5, 3.0), of(0.0, 0.0)), (of(5.0, 10.0), of(6.0, 6.0))] {
            let found = beyond(&own, &of(8.0, 64.0), &profile);
            assert_eq!(found, counted, "{own:?}");
        }
        // More may be declared than there is.
        assert_eq!(beyond(&of(1.0, 1.0), &of(4.0, 40.0), &profile), of(2.0, 1.0));
    }
}

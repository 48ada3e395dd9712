//! A machine on its way from one host to another.
//!
//! ```text
//!  source                                              target
//!  Offered ────────────── Reserve ───────────────────▶ Reserved      room is kept, until it expires
//!  Transferring ◀──────── Reserved ─────────────────
//!     │  ═══════════ hypervisor migrates ═══════════▶
//!     ├─ done ──▶ Released ── Released (repeated) ────▶ Claiming      is it really here?
//!     │              Done ◀── Claimed ───────────────── Done
//!     ├─ failed ─▶ Doubt: look where the machine is
//!     │              here ──▶ Cancelled ── Cancel ─────▶ Cancelled
//!     └              gone ──▶ Released, as above
//! ```
//!
//! The commit point is the hypervisor's own: when it reports success the machine runs on the target
//! and its definition and entry are gone from the source. Whatever is unclear afterwards (a failure
//! with unknown outcome, a restarted agent, a reservation that ran out) is settled by **looking** at
//! the hypervisor, never by a time-out alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Reason, Role};
use crate::effect::{Effect, Timer};
use crate::exchange::Agreement;
use crate::host::{Host, Incoming};
use crate::message::{Message, Pass};
use crate::model::{Entry, HostId, MachineId, Resources, Time};
use crate::port::{Failure, HandoffId, Migration, MigrationStats, Order, Presence};

/// How far a handoff is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Source: waits for the target to keep room.
    Offered,
    /// Source: the hypervisor migrates.
    Transferring,
    /// Source: the migration ended in a way that does not tell where the machine is.
    Doubt,
    /// Source: the machine has left; waits for the target to say that it has it.
    Released,
    /// Target: room is kept.
    Reserved,
    /// Target: the source says that the machine has left; looks for it here.
    Claiming,
    /// The machine runs on the target and its entry is there.
    Done,
    /// The machine is where it was.
    Cancelled,
}

/// One handoff, as one of its two hosts sees it. This is also the durable record of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handoff {
    /// Its id, the same on both hosts.
    pub id: HandoffId,
    /// Whether this host gives or takes.
    pub role: Role,
    /// The other host.
    pub peer: HostId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Its schedule entry as it reads on the target.
    pub entry: Entry,
    /// What it uses, for the target to believe until it has measured it.
    pub usage: Resources,
    /// What it will load the target.
    pub load: f64,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Its anti-affinity groups.
    pub anti_affinity: Vec<String>,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Time,
    /// How often it has been looked after in this phase.
    pub attempts: u32,
    /// Why it is being cancelled, where that is known before the hypervisor has answered.
    pub cancelled_for: Option<Reason>,
    /// The record of the exchange that led to it.
    pub decision: Decision,
}

/// Limits of time for handoffs.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a peer may take to answer.
    pub reply_time_max: Duration,
    /// How long room is kept before the target looks whether anything arrives.
    pub reservation_time: Duration,
    /// How long a migration may last before it is aborted.
    pub migration_time_max: Duration,
    /// Most that a migration may send, in bytes per second.
    pub bandwidth_bytes_per_s: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reply_time_max: Duration::from_secs(5),
            reservation_time: Duration::from_secs(30),
            migration_time_max: Duration::from_secs(600),
            bandwidth_bytes_per_s: None,
        }
    }
}

/// First wait before a message is repeated or a look taken again; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// So often a machine in doubt must have been seen not running before it counts as staying: for a
/// moment after it has left, its definition is still here.
const LOOKS_NOT_RUNNING: u32 = 2;
/// Most questions about handoffs that are not known here which wait for a look; the source of a
/// further one asks again.
const ASKED_MAX: usize = 64;

fn backoff(attempts: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << attempts.min(10)).min(RETRY_MAX)
}

/// What a handoff acts on, for the length of one input.
pub struct Turn<'a> {
    /// This host.
    pub host: &'a mut Host,
    /// The time.
    pub now: Time,
    /// Where effects go, in order.
    pub out: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    fn persist(&mut self, handoff: &Handoff) {
        self.out.push(Effect::Persist(handoff.clone()));
    }

    fn send(&mut self, handoff: &Handoff, pass: Pass) {
        let message = Message::Handoff(handoff.id, pass);
        self.out.push(Effect::Send(handoff.peer.clone(), message));
    }

    fn order(&mut self, order: Order) {
        self.out.push(Effect::Order(order));
    }

    fn look(&mut self, handoff: &Handoff) {
        self.order(Order::Look(handoff.machine.clone()));
    }

    fn abort(&mut self, handoff: &Handoff) {
        self.order(Order::Abort(handoff.machine.clone()));
    }

    fn wake(&mut self, id: HandoffId, after: Duration) {
        self.out.push(Effect::SetTimer(Timer::Handoff(id), self.now + after));
    }
}

/// The handoffs of one host that are under way.
#[derive(Clone, Debug, Default)]
pub struct Handoffs {
    live: BTreeMap<HandoffId, Handoff>,
    /// Sources that say a machine is here of which no record tells, until it has been looked for.
    asked: BTreeMap<HandoffId, (HostId, MachineId)>,
    limits: Limits,
    /// The one that ended last, and how.
    last: Option<(HandoffId, Reason)>,
    aborting: bool,
}

impl Handoffs {
    /// None under way.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { live: BTreeMap::new(), asked: BTreeMap::new(), limits, last: None, aborting: false }
    }

    /// Those under way.
    pub fn iter(&self) -> impl Iterator<Item = &Handoff> {
        self.live.values()
    }

    /// How many of them keep this host from beginning another exchange: those whose machine has
    /// not certainly left or arrived.
    #[must_use]
    pub fn engaged(&self) -> usize {
        self.live.values().filter(|h| h.phase != Phase::Released).count()
    }

    /// Whether the agent must not end yet. Once it has been told to abort, room that is kept here
    /// holds nothing up: it is on record, and what arrives meanwhile is claimed at the next start.
    #[must_use]
    pub fn hold_up_stop(&self) -> bool {
        self.live.values().any(|h| match h.phase {
            Phase::Offered | Phase::Transferring | Phase::Doubt => true,
            Phase::Reserved | Phase::Claiming => !self.aborting,
            Phase::Released | Phase::Done | Phase::Cancelled => false,
        })
    }

    /// Whether this handoff with `peer` is under way.
    #[must_use]
    pub fn knows(&self, id: HandoffId, peer: &HostId) -> bool {
        self.live.get(&id).is_some_and(|h| h.peer == *peer)
    }

    /// Takes up the handoffs that were under way when the agent ended: looks where each machine is.
    pub fn recover(&mut self, records: Vec<Handoff>, turn: &mut Turn<'_>) {
        for mut handoff in records {
            match handoff.phase {
                Phase::Done | Phase::Cancelled => continue,
                Phase::Offered | Phase::Transferring | Phase::Doubt => {
                    turn.abort(&handoff);
                    handoff.phase = Phase::Doubt;
                    if handoff.decision.detail.is_empty() {
                        handoff.decision.detail =
                            "this agent ended and was started again meanwhile".to_owned();
                    }
                }
                Phase::Released | Phase::Reserved | Phase::Claiming => {}
            }
            hold(turn.host, &handoff);
            handoff.attempts = 0;
            turn.wake(handoff.id, Duration::ZERO);
            self.live.insert(handoff.id, handoff);
        }
    }

    /// Source: asks the target to keep room for what was agreed on.
    pub fn give(&mut self, id: HandoffId, agreement: Agreement, turn: &mut Turn<'_>) {
        let exchange = agreement.exchange;
        let verdicts = agreement.verdicts.clone();
        let in_return = agreement.in_return.as_ref().map(|c| c.machine.clone());
        let handoff = begin(id, Role::Donor, agreement, turn.now);
        hold(turn.host, &handoff);
        let pass = Pass::Reserve {
            exchange,
            machine: handoff.machine.clone(),
            entry: handoff.entry.clone(),
            verdicts,
            in_return,
        };
        turn.send(&handoff, pass);
        turn.wake(id, self.limits.reply_time_max);
        self.live.insert(id, handoff);
    }

    /// Target: keeps room for what was agreed on. `uri` is where this host's hypervisor is reached.
    pub fn take(&mut self, id: HandoffId, agreement: Agreement, uri: String, turn: &mut Turn<'_>) {
        let handoff = begin(id, Role::Receiver, agreement, turn.now);
        hold(turn.host, &handoff);
        turn.persist(&handoff);
        turn.send(&handoff, Pass::Reserved { uri });
        turn.wake(id, self.limits.reservation_time);
        self.live.insert(id, handoff);
    }

    /// The other host said something about a handoff.
    pub fn hear(&mut self, id: HandoffId, from: &HostId, pass: Pass, turn: &mut Turn<'_>) {
        let Some(handoff) = self.live.get_mut(&id).filter(|h| h.peer == *from) else {
            return self.hear_of_unknown(id, from, pass, turn);
        };
        match (handoff.phase, pass) {
            (Phase::Offered, Pass::Reserved { uri }) => {
                enter(handoff, Phase::Transferring, turn.now);
                turn.persist(handoff);
                turn.order(Order::Migrate(Migration {
                    handoff: id,
                    machine: handoff.machine.clone(),
                    to: handoff.peer.clone(),
                    uri,
                    entry: handoff.entry.clone(),
                    bandwidth_bytes_per_s: self.limits.bandwidth_bytes_per_s,
                }));
                turn.wake(id, self.limits.migration_time_max);
            }
            (Phase::Offered, Pass::Refused { reason }) => {
                self.cancel(id, reason, String::new(), None, turn);
            }
            (Phase::Released, Pass::Claimed) => self.finish(id, Reason::Moved, turn),
            (Phase::Released, Pass::Missing) => self.finish(id, Reason::Ended, turn),
            (Phase::Reserved | Phase::Claiming, Pass::Released { stats, .. }) => {
                handoff.decision.stats = Some(stats);
                enter(handoff, Phase::Claiming, turn.now);
                turn.look(handoff);
                turn.wake(id, RETRY_MAX);
            }
            (Phase::Reserved, Pass::Cancel { reason }) => {
                self.cancel(id, reason, String::new(), None, turn);
            }
            // Late, repeated or out of turn: what was decided stands.
            _ => {}
        }
    }

    /// The other host speaks of a handoff that has ended here and is forgotten, or whose record is
    /// lost.
    fn hear_of_unknown(&mut self, id: HandoffId, from: &HostId, pass: Pass, turn: &mut Turn<'_>) {
        match pass {
            // What the last sample saw may be older than the machine's arrival: look.
            Pass::Released { machine, .. } if self.asked.len() < ASKED_MAX => {
                turn.order(Order::Look(machine.clone()));
                self.asked.insert(id, (from.clone(), machine));
            }
            // Too late: nothing will come, and room need not be kept until it expires.
            Pass::Reserved { .. } => {
                let cancel = Pass::Cancel { reason: Reason::TimedOut };
                turn.out.push(Effect::Send(from.clone(), Message::Handoff(id, cancel)));
            }
            _ => {}
        }
    }

    /// Answers those who asked about a machine of which no record tells.
    fn answer_asked(&mut self, machine: &MachineId, seen: Option<Presence>, turn: &mut Turn<'_>) {
        let ids = self.asked.iter().filter(|(_, (_, asked))| asked == machine).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            let Some((from, _)) = self.asked.remove(&id) else { continue };
            let answer = match seen {
                Some(Presence::Running | Presence::Leaving | Presence::Paused) => Pass::Claimed,
                Some(Presence::Absent | Presence::Defined) => Pass::Missing,
                // Whoever asked will ask again.
                None => continue,
            };
            turn.out.push(Effect::Send(from, Message::Handoff(id, answer)));
        }
    }

    /// The hypervisor answers again: looks at once where machines are, instead of at the next
    /// attempt.
    pub fn look_again(&mut self, turn: &mut Turn<'_>) {
        for handoff in self.live.values() {
            if matches!(handoff.phase, Phase::Doubt | Phase::Reserved | Phase::Claiming) {
                turn.look(handoff);
            }
        }
    }

    /// A handoff's timer is due.
    pub fn timer(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        let Some(handoff) = self.live.get_mut(&id) else {
            return;
        };
        handoff.attempts += 1;
        let again = backoff(handoff.attempts);
        match handoff.phase {
            Phase::Offered => {
                let detail = format!("`{}` did not answer a reservation", handoff.peer);
                let tell = Some(Pass::Cancel { reason: Reason::TimedOut });
                self.cancel(id, Reason::TimedOut, detail, tell, turn);
            }
            Phase::Transferring => {
                handoff.cancelled_for.get_or_insert(Reason::MigrationTooLong);
                turn.abort(handoff);
                turn.wake(id, RETRY_MAX);
            }
            Phase::Doubt | Phase::Reserved | Phase::Claiming => {
                turn.look(handoff);
                turn.wake(id, again);
            }
            Phase::Released => {
                let pass = released(handoff);
                turn.wake(id, again);
                turn.persist(handoff);
                turn.send(handoff, pass);
            }
            Phase::Done | Phase::Cancelled => {}
        }
    }

    /// The hypervisor is done with a migration of this host.
    pub fn migrated(
        &mut self,
        id: HandoffId,
        result: Result<MigrationStats, Failure>,
        turn: &mut Turn<'_>,
    ) {
        let Some(handoff) = self.live.get_mut(&id).filter(|h| h.phase == Phase::Transferring)
        else {
            return;
        };
        match result {
            Ok(stats) => {
                handoff.decision.stats = Some(stats);
                self.release(id, turn);
            }
            Err(failure) => {
                handoff.decision.detail = failure.detail;
                enter(handoff, Phase::Doubt, turn.now);
                turn.look(handoff);
                turn.wake(id, RETRY_MAX);
            }
        }
    }

    /// The hypervisor says where a machine is; settles every handoff that waits to know.
    pub fn looked(
        &mut self,
        machine: &MachineId,
        presence: Result<Presence, Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.answer_asked(machine, presence.as_ref().ok().copied(), turn);
        let waiting = |h: &&Handoff| {
            h.machine == *machine
                && matches!(h.phase, Phase::Doubt | Phase::Reserved | Phase::Claiming)
        };
        let Some(handoff) = self.live.values().find(waiting) else {
            return;
        };
        let (id, phase, attempts) = (handoff.id, handoff.phase, handoff.attempts);
        match (phase, presence) {
            (Phase::Doubt, Ok(Presence::Running)) => self.stays(id, turn),
            // Shut down, or paused by somebody, and no migration of it under way.
            (Phase::Doubt, Ok(Presence::Defined | Presence::Paused))
                if attempts >= LOOKS_NOT_RUNNING =>
            {
                self.stays(id, turn);
            }
            (Phase::Doubt, Ok(Presence::Absent)) => self.release(id, turn),
            (Phase::Doubt, Ok(Presence::Leaving)) => {
                // The abort came too early to find it, or did not reach the hypervisor.
                turn.abort(handoff);
                turn.wake(id, backoff(attempts));
            }
            (Phase::Reserved, Ok(Presence::Absent | Presence::Defined)) => {
                let detail = "nothing arrived".to_owned();
                self.cancel(id, Reason::ReservationExpired, detail, None, turn);
            }
            (Phase::Claiming, Ok(Presence::Absent | Presence::Defined)) => {
                let handoff = &self.live[&id];
                turn.send(handoff, Pass::Missing);
                self.finish(id, Reason::Ended, turn);
            }
            // Paused here by somebody, since the source says that it has left.
            (Phase::Claiming, Ok(Presence::Paused))
            | (Phase::Reserved | Phase::Claiming, Ok(Presence::Running | Presence::Leaving)) => {
                let handoff = &self.live[&id];
                turn.send(handoff, Pass::Claimed);
                turn.host.view.believe(handoff.machine.clone(), handoff.usage);
                turn.host.averaging.arrived(&handoff.usage);
                self.finish(id, Reason::Moved, turn);
            }
            // Still arriving or leaving, or the hypervisor could not say: look again.
            _ => turn.wake(id, backoff(attempts)),
        }
    }

    /// A record of this handoff could not be made durable, and what depended on it was not done.
    pub fn store_failed(&mut self, id: HandoffId, why: String, turn: &mut Turn<'_>) {
        let Some(handoff) = self.live.get(&id) else {
            return;
        };
        let reason = Reason::StoreFailed;
        let tell = match handoff.phase {
            Phase::Transferring => Pass::Cancel { reason },
            Phase::Reserved => Pass::Refused { reason },
            // The machine has moved; its timer will try again to say so durably.
            _ => return,
        };
        self.cancel(id, reason, why, Some(tell), turn);
    }

    /// A message to `peer` could not be delivered.
    pub fn undelivered(&mut self, peer: &HostId, why: &str, turn: &mut Turn<'_>) {
        let lost = |h: &&Handoff| h.peer == *peer && h.phase == Phase::Offered;
        let ids: Vec<_> = self.live.values().filter(lost).map(|h| h.id).collect();
        for id in ids {
            self.cancel(id, Reason::Unreachable, why.to_owned(), None, turn);
        }
    }

    /// Aborts what can be aborted, because the agent must stop now.
    pub fn abort_all(&mut self, turn: &mut Turn<'_>) {
        self.aborting = true;
        let ids: Vec<_> = self.live.keys().copied().collect();
        for id in ids {
            let Some(handoff) = self.live.get_mut(&id) else {
                continue;
            };
            match handoff.phase {
                Phase::Offered => {
                    let tell = Some(Pass::Cancel { reason: Reason::Stopping });
                    self.cancel(id, Reason::Stopping, String::new(), tell, turn);
                }
                Phase::Transferring => {
                    handoff.cancelled_for = Some(Reason::Stopping);
                    turn.abort(handoff);
                }
                _ => {}
            }
        }
    }

    /// Whether a handoff is under way.
    #[must_use]
    pub fn is_live(&self, id: HandoffId) -> bool {
        self.live.contains_key(&id)
    }

    /// Whether this handoff was the last to end, and its machine has moved.
    #[must_use]
    pub fn has_just_moved(&self, id: HandoffId) -> bool {
        self.last == Some((id, Reason::Moved))
    }

    /// Whether a machine is on its way from or to this host.
    #[must_use]
    pub fn moves(&self, machine: &MachineId) -> bool {
        self.live.values().any(|h| h.machine == *machine)
    }

    /// Source: the machine has left.
    fn release(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        let Some(handoff) = self.live.get_mut(&id) else {
            return;
        };
        enter(handoff, Phase::Released, turn.now);
        turn.host.view.outdate();
        turn.host.holds.outgoing.remove(&handoff.machine);
        turn.host.averaging.left(&handoff.usage);
        let pass = released(handoff);
        turn.wake(id, RETRY_MIN);
        turn.order(Order::Sample);
        turn.persist(handoff);
        turn.send(handoff, pass);
    }

    /// Source: the machine is still here.
    fn stays(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        let handoff = &self.live[&id];
        let reason = handoff.cancelled_for.unwrap_or(Reason::MigrationFailed);
        let detail = handoff.decision.detail.clone();
        let tell = Some(Pass::Cancel { reason });
        self.cancel(id, reason, detail, tell, turn);
    }

    /// Ends a handoff whose machine stays where it was.
    fn cancel(
        &mut self,
        id: HandoffId,
        reason: Reason,
        detail: String,
        tell: Option<Pass>,
        turn: &mut Turn<'_>,
    ) {
        let Some(handoff) = self.live.get_mut(&id) else {
            return;
        };
        if let Some(pass) = tell {
            turn.send(handoff, pass);
        }
        handoff.decision.detail = detail;
        self.end(id, Phase::Cancelled, reason, turn);
    }

    /// Ends a handoff whose machine has moved.
    fn finish(&mut self, id: HandoffId, reason: Reason, turn: &mut Turn<'_>) {
        self.end(id, Phase::Done, reason, turn);
        turn.host.view.outdate();
        turn.order(Order::Sample);
    }

    fn end(&mut self, id: HandoffId, phase: Phase, reason: Reason, turn: &mut Turn<'_>) {
        let Some(mut handoff) = self.live.remove(&id) else {
            return;
        };
        enter(&mut handoff, phase, turn.now);
        turn.host.holds.incoming.remove(&id);
        turn.host.holds.outgoing.remove(&handoff.machine);
        self.last = Some((id, reason));
        turn.host.conclude(&handoff, reason, turn.now);
        handoff.decision.ending = reason;
        handoff.decision.ended = turn.now;
        turn.out.push(Effect::Record(handoff.decision.clone()));
        // Last, since nothing depends on it: a record left open is settled by looking again.
        turn.out.push(Effect::Persist(handoff));
    }
}

fn begin(id: HandoffId, role: Role, agreement: Agreement, now: Time) -> Handoff {
    let Agreement { peer, candidate, at_receiver, entry, mut decision, .. } = agreement;
    decision.handoff = Some(id);
    Handoff {
        id,
        role,
        peer,
        machine: candidate.machine,
        name: candidate.name,
        entry,
        usage: candidate.factors,
        load: at_receiver,
        memory_bytes: candidate.memory_bytes,
        anti_affinity: candidate.anti_affinity,
        phase: match role {
            Role::Donor => Phase::Offered,
            Role::Receiver => Phase::Reserved,
        },
        since: now,
        attempts: 0,
        cancelled_for: None,
        decision,
    }
}

/// Marks what a handoff holds of this host.
fn hold(host: &mut Host, handoff: &Handoff) {
    match (handoff.role, handoff.phase) {
        (Role::Donor, Phase::Released) => {}
        (Role::Donor, _) => {
            host.holds.outgoing.insert(handoff.machine.clone());
        }
        (Role::Receiver, _) => {
            let incoming = Incoming {
                machine: handoff.machine.clone(),
                memory_bytes: handoff.memory_bytes,
                usage: handoff.usage,
                anti_affinity: handoff.anti_affinity.clone(),
            };
            host.holds.incoming.insert(handoff.id, incoming);
        }
    }
}

fn enter(handoff: &mut Handoff, phase: Phase, now: Time) {
    handoff.phase = phase;
    handoff.since = now;
    handoff.attempts = 0;
}

fn released(handoff: &Handoff) -> Pass {
    Pass::Released {
        machine: handoff.machine.clone(),
        stats: handoff.decision.stats.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;

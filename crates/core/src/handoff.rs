//! A machine on its way from one host to another: never two, never none.
//!
//! ```text
//!  source                                              target
//!  Offered ────────────── Reserve ───────────────────▶ Reserved       room is kept
//!  Armed ◀─────────────── Reserved ─────────────────
//!  Transferring ═══════ hypervisor migrates ═════════▶ Reserved       it arrives, and is paused
//!     │                                                Holding        it is complete
//!  Released  ── Released (repeated until answered) ──▶ Claimed        it is let run
//!  Done ◀──────────────── Claimed ──────────────────── Done
//! ```
//!
//! The source releases when its hypervisor has reported success, or before that when the target says
//! that it holds the machine and what ran it at the source is known to have ended.
//!
//! The commit point is the source's record `Released`: before it the machine is the source's, after
//! it the target's. It is durable before the target hears of it, and the target's record `Claimed` is
//! durable before the machine is let run there ([`Commit::Strict`](crate::port::Commit::Strict)). Where locks keep two copies of
//! a machine apart, the hypervisor's own commit point will do, which is a little faster
//! ([`Commit::Fast`](crate::port::Commit::Fast)).
//!
//! Whatever is unclear (a failure with unknown outcome, a restarted agent, a lost message) is settled
//! by **looking** at the hypervisor and **asking** the other host, never by a time-out alone. One
//! state nothing can settle: a copy that is held, complete and paused, while its source is silent. It
//! stays so, with an alarm, until the source answers or an operator has fenced it ([`Handoffs::claim`]).
//!
//! | file | holds |
//! | --- | --- |
//! | `limits`, `turn` | limits of time and attempts; what a handoff does with its turn |
//! | `begin` | how a handoff begins, or is taken up after a restart |
//! | `source`, `target` | the two sides: what a handoff does next |
//! | `release` | the commit point, and what follows from it |
//! | `cancelling` | a source whose machine stays |
//! | `starting` | a machine whose host has booted without it |
//! | `operator` | what an operator says of it |
//! | `state` | what tells two states of it apart, for model checking |
//! | `question`, `strangers` | questions about handoffs of which no record tells |
//!
//! What is durable of a handoff is in [`record`](crate::record), and by which commit point a machine is
//! moved in [`commit`](crate::commit): both are below everything here.

mod begin;
mod cancelling;
mod limits;
mod operator;
mod question;
mod release;
mod source;
mod starting;
mod state;
mod strangers;
mod target;
mod turn;

use std::collections::BTreeMap;

use crate::decision::{Reason, Role};
use crate::effect::Effect;
use crate::message::Pass;
use crate::model::{DiskPlace, HostId, MachineId, Ticket};
use crate::port::{
    Failure, HandoffId, HandoffKey, LookId, MigrationStats, Order, Progress, Sight, Unfit,
};

pub use crate::commit::Mode;
pub use crate::record::{Handoff, Mark, MarkKind, Phase, Recovered, Terms};
pub use crate::turn::Turn;
pub use begin::Offer;
use limits::ENGAGED_ATTEMPTS_MAX;
pub use limits::Limits;
use question::Strangers;
use turn::Next;

/// The handoffs of one host that are under way.
#[derive(Clone, Debug, Default)]
pub struct Handoffs {
    /// By id and other host; no two have the same id: [`Self::refusal`].
    live: BTreeMap<HandoffKey, Handoff>,
    /// The newest mark of each kind of every machine whose handoff is over.
    marks: BTreeMap<(MarkKind, MachineId), Mark>,
    /// The lives of this store and the highest number of a durable handoff in each.
    lives: BTreeMap<u64, u64>,
    /// This life, and the highest number that was given in it.
    ticket: Ticket,
    boot: String,
    strangers: Strangers,
    limits: Limits,
    /// The one that ended last, and how.
    last: Option<(HandoffId, Reason)>,
    aborting: bool,
}

impl Handoffs {
    /// None under way.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Those under way.
    pub fn iter(&self) -> impl Iterator<Item = &Handoff> {
        self.live.values()
    }

    /// The newest mark of each kind of every machine whose handoff is over.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.values()
    }

    /// How many of them keep this host from beginning another exchange: those that will be over
    /// soon.
    #[must_use]
    pub fn engaged(&self) -> usize {
        let engaged = |h: &&Handoff| h.is_brisk() && h.attempts < ENGAGED_ATTEMPTS_MAX;
        self.live.values().filter(engaged).count()
    }

    /// Whether the agent must not end yet. Once it has been told to abort, what arrives here holds
    /// nothing up: it is on record, and claimed at the next start.
    #[must_use]
    pub fn hold_up_stop(&self) -> bool {
        self.live.values().any(|h| match h.role {
            Role::Source => h.is_brisk(),
            Role::Target => h.is_brisk() && !self.aborting,
        })
    }

    /// Whether this handoff is under way.
    #[must_use]
    pub fn knows(&self, key: &HandoffKey) -> bool {
        self.live.contains_key(key)
    }

    /// Why this host keeps no room for a machine by a handoff of this id, by what it knows of either:
    /// whoever names an id that is known here may mean to speak of another host's handoff.
    #[must_use]
    pub fn refusal(&self, id: HandoffId, machine: &MachineId) -> Option<(Reason, String)> {
        if self.moves(machine) {
            return Some((Reason::UnderWay, String::new()));
        }
        let known = format!("handoff {id} is known here already");
        self.has_known(id).then_some((Reason::AlreadyHere, known))
    }

    /// Whether a handoff of this id is under way, or was the last that a machine moved by.
    #[must_use]
    pub fn has_known(&self, id: HandoffId) -> bool {
        self.is_live(id) || self.marks.values().any(|mark| mark.handoff == id)
    }

    /// Whether a handoff is under way.
    #[must_use]
    pub fn is_live(&self, id: HandoffId) -> bool {
        self.live.keys().any(|key| key.id == id)
    }

    /// Whether this handoff was the last to end, and its machine has moved.
    #[must_use]
    pub fn has_just_moved(&self, id: HandoffId) -> bool {
        self.last == Some((id, Reason::Moved))
    }

    /// Whether a machine is on its way from or to this host, or it is not settled that it is not.
    #[must_use]
    pub fn moves(&self, machine: &MachineId) -> bool {
        self.live.values().any(|h| h.machine == *machine)
    }

    /// Whether a machine that this handoff brought is here by right: it is under way, or was the last
    /// that the machine came by.
    #[must_use]
    pub fn explains(&self, id: HandoffId) -> bool {
        self.has_known(id)
    }

    /// The other host said something about a handoff.
    pub fn hear(&mut self, id: HandoffId, from: &HostId, pass: Pass, turn: &mut Turn<'_>) {
        if let Pass::Where { machine } = pass {
            return self.asked_where(HandoffKey::new(id, from), machine, turn);
        }
        let key = HandoffKey::new(id, from);
        if !self.knows(&key) {
            return self.hear_of_unknown(key, pass, turn);
        }
        self.with(&key, turn, |h, limits, turn| match h.role {
            Role::Source => source::hear(h, pass, limits, turn),
            Role::Target => target::hear(h, pass, turn),
        });
    }

    /// The hypervisor answers again: looks at once where machines are, instead of at the next
    /// attempt.
    pub fn look_again(&mut self, turn: &mut Turn<'_>) {
        let unclear = |p| !matches!(p, Phase::Offered | Phase::Armed | Phase::Transferring);
        for handoff in self.live.values_mut().filter(|h| unclear(h.phase)) {
            turn.look(handoff);
        }
    }

    /// A handoff's timer is due.
    pub fn timer(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        self.with_id(id, turn, |h, limits, turn| {
            h.attempts = h.attempts.saturating_add(1);
            match h.role {
                Role::Source => source::timer(h, limits, turn),
                Role::Target => target::timer(h, turn),
            }
        });
    }

    /// What ran the machine of a migration of this host has ended.
    pub fn emulator_gone(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        self.with_id(id, turn, |h, _, turn| {
            source::emulator_gone(h, turn);
            Next::Stay
        });
    }

    /// The target's answer to the last step of a migration of this host has reached its hypervisor.
    pub fn finish_passed(&mut self, id: HandoffId, turn: &mut Turn<'_>) {
        self.with_id(id, turn, |h, _, turn| {
            source::finish_passed(h, turn);
            Next::Stay
        });
    }

    /// The hypervisor is done with a migration of this host.
    pub fn migrated(
        &mut self,
        id: HandoffId,
        result: Result<MigrationStats, Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.with_id(id, turn, |h, _, turn| {
            source::migrated(h, result, turn);
            Next::Stay
        });
    }

    /// Something has happened to a machine that may have brought its handoff forward.
    pub fn changed(&mut self, machine: &MachineId, turn: &mut Turn<'_>) {
        self.with_machine(machine, turn, |h, _, turn| {
            if h.role == Role::Target {
                target::changed(h, turn);
            }
            Next::Stay
        });
    }

    /// The hypervisor says where a machine is; settles whatever waits to know.
    pub fn looked(
        &mut self,
        machine: &MachineId,
        look: LookId,
        sight: &Result<Sight, Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.with_machine(machine, turn, |h, limits, turn| match h.role {
            // Of what was seen before, something may not be so any more.
            _ if look < h.look => Next::Stay,
            Role::Source => source::looked(h, sight.clone(), limits, turn),
            Role::Target => target::looked(h, sight.clone(), limits, turn),
        });
        self.answer_strangers(machine, look, sight.as_ref().ok(), turn);
    }

    /// The hypervisor has examined a machine that is to come here.
    pub fn examined(
        &mut self,
        id: HandoffId,
        verdict: Result<Vec<DiskPlace>, Unfit>,
        turn: &mut Turn<'_>,
    ) {
        self.with_id(id, turn, |h, _, turn| match h.role {
            Role::Source => Next::Stay,
            Role::Target => target::examined(h, verdict, turn),
        });
    }

    /// The answer to [`Order::Resume`].
    pub fn resumed(
        &mut self,
        machine: &MachineId,
        result: &Result<(), Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.with_machine(machine, turn, |h, _, turn| match h.role {
            Role::Source => cancelling::resumed(h, result.clone(), turn),
            Role::Target => target::resumed(h, result.clone(), turn),
        });
    }

    /// The answer to [`Order::Discard`].
    pub fn discarded(
        &mut self,
        machine: &MachineId,
        result: &Result<(), Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.with_machine(machine, turn, |h, _, turn| match h.role {
            Role::Source => {
                source::discarded(h, result.clone(), turn);
                Next::Stay
            }
            Role::Target => target::discarded(h, result.clone(), turn),
        });
        self.discarded_for_strangers(machine, result, turn);
    }

    /// The answer to [`Order::Start`].
    pub fn started(
        &mut self,
        machine: &MachineId,
        result: &Result<(), Failure>,
        turn: &mut Turn<'_>,
    ) {
        self.with_machine(machine, turn, |h, _, turn| match h.role {
            Role::Source => cancelling::started(h, result.clone(), turn),
            Role::Target => target::started(h, result.clone(), turn),
        });
    }

    /// The answer to [`Order::SetAutostart`].
    pub fn autostart_set(
        &mut self,
        machine: &MachineId,
        wanted: bool,
        result: &Result<(), Failure>,
        turn: &mut Turn<'_>,
    ) {
        let boot = self.boot.clone();
        self.with_machine(machine, turn, |h, limits, turn| match h.role {
            // The answer to an earlier wish.
            _ if wanted == (h.phase == Phase::Armed) => Next::Stay,
            Role::Source => source::autostart_set(h, result.clone(), &boot, limits, turn),
            Role::Target => target::autostart_set(h, result.clone(), turn),
        });
    }

    /// A record of this handoff could not be made durable, and what depended on it was not done.
    pub fn store_failed(&mut self, key: &HandoffKey, why: String, turn: &mut Turn<'_>) {
        self.with(key, turn, |h, _, turn| match h.role {
            Role::Source => source::store_failed(h, why, turn),
            Role::Target => target::store_failed(h, why, turn),
        });
    }

    /// A message to `peer` could not be delivered.
    pub fn undelivered(&mut self, peer: &HostId, why: &str, turn: &mut Turn<'_>) {
        let lost = |h: &&Handoff| h.peer == *peer && h.phase == Phase::Offered;
        let keys: Vec<_> = self.live.values().filter(lost).map(Handoff::key).collect();
        for key in keys {
            self.with(&key, turn, |h, _, _| {
                h.decision.detail = why.to_owned();
                Next::Cancelled(Reason::Unreachable)
            });
        }
    }

    /// The hypervisor has said how far a migration is. Not durable: it tells only what a link carries.
    pub fn progressed(&mut self, id: HandoffId, progress: Progress) {
        let mut of_it = self.live.values_mut().filter(|h| h.id == id && h.role == Role::Source);
        if let Some(handoff) = of_it.next() {
            handoff.sent = Some(progress);
        }
    }

    /// Lets one handoff take an input, and ends it if that is what comes of it.
    fn with(
        &mut self,
        key: &HandoffKey,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Handoff, &Limits, &mut Turn<'_>) -> Next,
    ) {
        let Some(mut handoff) = self.live.remove(key) else { return };
        turn.spared = self.claimed(&handoff.machine).map(|mark| mark.handoff);
        let next = act(&mut handoff, &self.limits, turn);
        match next {
            Next::Stay => {
                self.live.insert(handoff.key(), handoff);
            }
            Next::Done(reason) => {
                self.end(handoff, Phase::Done, reason, turn);
                turn.host.view.outdate();
                turn.order(Order::Sample);
            }
            Next::Cancelled(reason) => {
                // What was sampled while it was not started at boot is not how it is.
                let disarmed = handoff.role == Role::Source && handoff.autostart;
                self.end(handoff, Phase::Cancelled, reason, turn);
                if disarmed {
                    turn.host.view.outdate();
                    turn.order(Order::Sample);
                }
            }
        }
    }

    /// The same for the one live handoff of this id, for what comes from this host itself.
    fn with_id(
        &mut self,
        id: HandoffId,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Handoff, &Limits, &mut Turn<'_>) -> Next,
    ) {
        let found = self.live.keys().find(|key| key.id == id).cloned();
        if let Some(key) = found {
            self.with(&key, turn, act);
        }
    }

    /// The same for the one live handoff of a machine.
    fn with_machine(
        &mut self,
        machine: &MachineId,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Handoff, &Limits, &mut Turn<'_>) -> Next,
    ) {
        let found = self.live.values().find(|h| h.machine == *machine).map(Handoff::key);
        if let Some(key) = found {
            self.with(&key, turn, act);
        }
    }

    /// The mark by which a machine is this host's, unless it has released the machine since.
    fn claimed(&self, machine: &MachineId) -> Option<&Mark> {
        let of = |kind| self.marks.get(&(kind, machine.clone()));
        let released = of(MarkKind::Released).map(|mark| mark.epoch);
        of(MarkKind::Claimed).filter(|mark| released.is_none_or(|epoch| epoch <= mark.epoch))
    }

    fn end(&mut self, mut handoff: Handoff, phase: Phase, reason: Reason, turn: &mut Turn<'_>) {
        if let Some(mark) = handoff.mark() {
            self.remember(mark);
        }
        handoff.go_on(phase, turn.now);
        turn.host.holds.incoming.remove(&handoff.key());
        if handoff.role == Role::Target && phase == Phase::Done {
            turn.host.holds.land(&handoff, turn.now);
        }
        turn.host.holds.outgoing.remove(&handoff.machine);
        turn.host.holds.settling.remove(&handoff.machine);
        self.last = Some((handoff.id, reason));
        turn.host.conclude(&handoff, reason, turn.now);
        handoff.decision.ending = reason;
        handoff.decision.ended = turn.now;
        turn.out.push(Effect::Record(handoff.decision.clone()));
        // Last, since nothing depends on it: a record left open is settled by looking again.
        turn.out.push(Effect::Persist(handoff));
    }

    fn remember(&mut self, mark: Mark) {
        let key = (mark.kind, mark.machine.clone());
        let known = self.marks.get(&key).map(|known| known.epoch);
        if known.is_none_or(|epoch| epoch <= mark.epoch) {
            self.marks.insert(key, mark);
        }
    }
}

#[cfg(test)]
mod tests;

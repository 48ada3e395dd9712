//! The side that takes.
//!
//! ```text
//!  Reserved ── complete, paused ──▶ Holding ── Released ──▶ Claimed ── it runs ──▶ Done
//!     │  └── fast: it runs ───────────────────────────────────▲
//!     │                              │ Cancel
//!     ▼ nothing arrived              ▼
//!  Cancelled ◀──────────────── Discarding
//! ```
//!
//! What the memory of a machine that is still arriving is good for, only its source knows: to this
//! side it is `Reserved` until it is complete.

use std::time::Duration;

use super::limits::{AUTOSTARTS_MAX, Limits, RETRY_MIN, STORE_RETRY, backoff};
use super::starting;
use super::turn::Next;
use crate::decision::Reason;
use crate::message::{PROTOCOL, Pass};
use crate::model::DiskPlace;
use crate::port::{
    Commit, Examination, Failure, FailureKind, Order, Presence, Sight, Stamp, Unfit,
};
use crate::record::{Handoff, Phase};
use crate::turn::Turn;

/// What is said of a machine that is off when it was to be let run.
const ENDED_HERE: &str = "it ended after this host had taken it over";
/// So often is waited, twice as long each time, for a source to say what a migration cost.
const UNANSWERED_MAX: u32 = 3;

/// Nothing is promised before a look has told that nothing of the machine is here: neither a copy of
/// it, nor a definition (with, perhaps, an image of its memory), nor another machine with its UUID.
fn looked_before_promise(
    h: &mut Handoff,
    sight: Result<Sight, Failure>,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    let refuse = |h: &mut Handoff, turn: &mut Turn<'_>, reason, detail: String| {
        h.decision.detail.clone_from(&detail);
        turn.send(h, Pass::Refused { reason, detail: Some(detail) });
        Next::Cancelled(reason)
    };
    let presence = match sight {
        Ok(sight) => sight.presence,
        Err(failure) => return refuse(h, turn, Reason::FitUnknown, failure.detail),
    };
    if presence != Presence::Absent {
        let here = turn.host.id();
        let detail = format!("`{here}` has a machine with this UUID already ({presence:?})");
        return refuse(h, turn, Reason::AlreadyHere, detail);
    }
    if turn.now.since(h.since) >= limits.reservation_time {
        h.decision.detail = "the hypervisor did not say in time whether it can run here".to_owned();
        return Next::Cancelled(Reason::ReservationExpired);
    }
    if h.seen.replace(presence).is_some() {
        // It is being examined.
        return Next::Stay;
    }
    nothing_is_here(h, turn);
    Next::Stay
}

/// Nothing of the machine is here. It is promised room once it is known that it can run here.
pub(super) fn nothing_is_here(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.needs.can_be_examined() {
        let (handoff, machine, needs) = (h.id, h.machine.clone(), h.needs.clone());
        let name = Some(h.name.clone()).filter(|name| !name.is_empty());
        turn.order(Order::Examine(Examination { handoff, machine, name, needs }));
    } else {
        promise(h, Vec::new(), turn);
    }
}

/// Promises the source that there is room, and that the machine can run here.
fn promise(h: &mut Handoff, disks: Vec<DiskPlace>, turn: &mut Turn<'_>) {
    h.examined = true;
    h.disks.clone_from(&disks);
    turn.persist(h);
    turn.send(h, reserved(h, disks));
}

/// Room is kept.
fn reserved(h: &Handoff, disks: Vec<DiskPlace>) -> Pass {
    let disks = (!disks.is_empty()).then_some(disks);
    let (protocol, machine) = (Some(PROTOCOL), Some(h.machine.clone()));
    Pass::Reserved { uri: h.uri.clone(), protocol, ticket: h.ticket, disks, machine }
}

/// The hypervisor has said whether the machine can run here.
pub(super) fn examined(
    h: &mut Handoff,
    verdict: Result<Vec<DiskPlace>, Unfit>,
    turn: &mut Turn<'_>,
) -> Next {
    if h.phase != Phase::Reserved || h.examined {
        return Next::Stay;
    }
    let unfit = match verdict {
        Ok(disks) => {
            promise(h, disks, turn);
            return Next::Stay;
        }
        Err(unfit) => unfit,
    };
    h.decision.detail = unfit.to_string();
    let reason = match unfit {
        Unfit::Lacks(missing) => {
            let reason = missing.reason();
            turn.host.unfit.learn(&h.machine, &h.needs, missing, turn.now);
            reason
        }
        Unfit::NotTold(_) => Reason::FitUnknown,
    };
    turn.send(h, Pass::Refused { reason, detail: Some(h.decision.detail.clone()) });
    Next::Cancelled(reason)
}

/// The source said something.
pub(super) fn hear(h: &mut Handoff, pass: Pass, turn: &mut Turn<'_>) -> Next {
    match (h.phase, pass) {
        (Phase::Reserved | Phase::Holding, Pass::Released { stats, unanswered, .. }) => {
            h.decision.stats = Some(stats);
            h.steps.unanswered = unanswered == Some(true);
            h.steps.released = true;
            turn.wake(h.id, RETRY_MIN);
            turn.look(h);
        }
        (Phase::Reserved | Phase::Holding, Pass::Cancel { reason, .. }) => {
            h.cancelled_for = Some(reason);
            turn.enter(h, Phase::Discarding, RETRY_MIN);
            // What has arrived may have come from another host, under the same id.
            turn.look(h);
        }
        // The source knows nothing of it, and nothing is on its way.
        (phase, Pass::Refused { .. })
            if phase == Phase::Reserved || (phase == Phase::Holding && h.missed) =>
        {
            h.cancelled_for = Some(Reason::ReservationExpired);
            turn.look(h);
        }
        (Phase::Discarding, Pass::Released { .. }) => {
            h.steps.released = true;
            turn.look(h);
        }
        (Phase::Claimed, Pass::Released { stats, unanswered: None | Some(false), .. })
            if h.steps.unanswered =>
        {
            h.decision.stats = Some(stats);
            h.steps.unanswered = false;
            if h.steps.settled {
                turn.send(h, Pass::Claimed);
            }
            if h.steps.autostart {
                return arrived(h, turn);
            }
        }
        (Phase::Claimed, Pass::Released { .. } | Pass::Cancel { .. }) if h.steps.settled => {
            turn.send(h, Pass::Claimed);
        }
        _ => {}
    }
    Next::Stay
}

/// Whether what was seen is the copy that this handoff brought: its entry names the handoff, and no
/// other host than the source as the one that it came from. A source of an earlier version writes no
/// handoff into the entry. In a plan an entry keeps naming the host that it came from first.
fn is_it(h: &Handoff, sight: &Sight, planned: bool) -> bool {
    let stamp = sight.stamp;
    let by_it = stamp.handoff == Some(h.id)
        || (h.ticket.is_none() && stamp.handoff.is_none() && stamp.epoch == h.entry.epoch);
    by_it && (planned || sight.from.as_ref().is_none_or(|from| *from == h.peer))
}

/// A look at this host's hypervisor.
pub(super) fn looked(
    h: &mut Handoff,
    sight: Result<Sight, Failure>,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    if h.phase == Phase::Reserved && !h.examined {
        return looked_before_promise(h, sight, limits, turn);
    }
    let sight = match sight {
        Ok(sight) => sight,
        Err(failure) => {
            h.last_error = failure.detail;
            return Next::Stay;
        }
    };
    let here = if is_it(h, &sight, turn.host.settings.tentative) {
        sight.presence
    } else {
        Presence::Absent
    };
    h.seen = Some(here);
    match h.phase {
        Phase::Reserved | Phase::Holding => looked_before_claim(h, here, limits, turn),
        Phase::Claimed => looked_after_claim(h, here, sight.stamp, turn),
        Phase::Discarding => looked_while_discarding(h, here, sight.stamp, turn),
        _ => Next::Stay,
    }
}

fn looked_before_claim(
    h: &mut Handoff,
    here: Presence,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    let released = h.steps.released;
    match here {
        // By the hypervisor's commit point, or because somebody let it run.
        Presence::Running | Presence::Leaving => return claim(h, true, turn),
        // Fast: somebody paused it here, if the source says that it has left; else it is arriving.
        Presence::Paused if h.commit == Commit::Fast => {
            if released {
                return claim(h, true, turn);
            }
        }
        Presence::Held | Presence::Paused | Presence::Stranded if released => {
            return claim(h, false, turn);
        }
        // It was complete when this host lost its power.
        Presence::Defined if h.missed && released => {
            turn.enter(h, Phase::Claimed, RETRY_MIN);
            h.seen = Some(Presence::Defined);
            turn.start(h, h.to());
        }
        Presence::Defined if h.missed && h.cancelled_for.is_none() => {
            wait_with_what_is_left(h, turn);
        }
        Presence::Held | Presence::Paused => hold_back(h, turn),
        // Paused by a migration that nobody tells the end of: it may lack a part of its memory, and
        // its source must not let go on this host's word.
        Presence::Incoming | Presence::Stranded => {}
        Presence::Absent | Presence::Defined if released => {
            turn.send(h, Pass::Missing);
            return Next::Done(Reason::Ended);
        }
        Presence::Absent | Presence::Defined => {
            if h.phase == Phase::Holding {
                h.decision.detail = "the copy that was held is gone".to_owned();
                return Next::Cancelled(Reason::Ended);
            }
            let expired = turn.now.since(h.since) >= limits.reservation_time;
            // Nobody else may have its seat before the source has said that nothing will come.
            let told = h.cancelled_for.is_some();
            if expired && h.needs_seat() && h.examined && !told {
                turn.send(h, reserved(h, Vec::new()));
            } else if expired || told {
                h.decision.detail = "nothing arrived".to_owned();
                return Next::Cancelled(Reason::ReservationExpired);
            }
        }
    }
    Next::Stay
}

/// Something has happened to the machine here: what arrives may be complete.
pub(super) fn changed(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Reserved && h.examined && h.commit == Commit::Strict {
        turn.wake(h.id, RETRY_MIN);
        turn.look(h);
    }
}

/// It is complete and waits for the source's word: asks for it.
fn hold_back(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Reserved {
        turn.enter(h, Phase::Holding, RETRY_MIN);
    }
    h.seen = Some(Presence::Held);
    turn.send(h, Pass::Holding { machine: h.machine.clone(), ticket: h.ticket });
}

/// This host has lost the memory of a copy that was complete, and has its definition. Whether the
/// machine is its own, the source alone knows: to the question whether it may still come it answers
/// that it stays, or else it says by itself that it is released.
fn wait_with_what_is_left(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Reserved {
        turn.enter(h, Phase::Holding, RETRY_MIN);
    }
    turn.send(h, reserved(h, Vec::new()));
}

/// The machine is this host's. `runs` if it does so already.
fn claim(h: &mut Handoff, runs: bool, turn: &mut Turn<'_>) -> Next {
    let unanswered = h.steps.unanswered;
    turn.enter(h, Phase::Claimed, RETRY_MIN);
    h.steps.unanswered = unanswered;
    if runs {
        return runs_here(h, turn);
    }
    turn.resume(h, h.to());
    Next::Stay
}

fn looked_after_claim(h: &mut Handoff, here: Presence, stamp: Stamp, turn: &mut Turn<'_>) -> Next {
    match here {
        Presence::Running | Presence::Leaving => runs_here(h, turn),
        Presence::Held | Presence::Paused | Presence::Stranded | Presence::Incoming => {
            turn.resume(h, stamp);
            Next::Stay
        }
        Presence::Defined if h.missed && !h.steps.settled => {
            turn.start(h, stamp);
            Next::Stay
        }
        Presence::Defined => {
            h.decision.detail = ENDED_HERE.to_owned();
            runs_here(h, turn)
        }
        Presence::Absent => {
            turn.send(h, Pass::Claimed);
            h.decision.detail = ENDED_HERE.to_owned();
            Next::Done(Reason::Ended)
        }
    }
}

/// It runs, or has ended since: says so, and has it started at boot if it was at the source.
fn runs_here(h: &mut Handoff, turn: &mut Turn<'_>) -> Next {
    h.steps.settled = true;
    turn.send(h, Pass::Claimed);
    if !h.autostart || h.steps.autostart {
        return arrived(h, turn);
    }
    turn.set_autostart(h, true);
    Next::Stay
}

/// All is done here. It is over when the source's hypervisor is done too, and has told what it cost.
fn arrived(h: &mut Handoff, turn: &mut Turn<'_>) -> Next {
    h.steps.autostart = true;
    if h.seen == Some(Presence::Defined) {
        return Next::Done(Reason::Ended);
    }
    if h.steps.unanswered && h.attempts < UNANSWERED_MAX {
        return Next::Stay;
    }
    let past = h.past.take().map(|past| *past);
    turn.host.view.believe(h.machine.clone(), h.usage, past);
    turn.host.averaging.arrived(&h.usage);
    Next::Done(Reason::Moved)
}

/// The hypervisor has let the machine run, or not.
pub(super) fn resumed(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Claimed || h.steps.settled {
        return Next::Stay;
    }
    match result {
        Ok(()) => runs_here(h, turn),
        Err(failure) => {
            h.last_error = failure.detail;
            Next::Stay
        }
    }
}

/// The hypervisor has started the machine that this host booted without, or not.
pub(super) fn started(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Claimed || h.steps.settled {
        return Next::Stay;
    }
    let runs = result.is_ok();
    if !starting::is_over(h, result, turn) {
        return Next::Stay;
    }
    h.seen = Some(if runs { Presence::Running } else { Presence::Defined });
    runs_here(h, turn)
}

/// This host starts the machine at boot from now on, or could not be told to.
pub(super) fn autostart_set(
    h: &mut Handoff,
    result: Result<(), Failure>,
    turn: &mut Turn<'_>,
) -> Next {
    if h.phase != Phase::Claimed || !h.steps.settled {
        return Next::Stay;
    }
    match result {
        Ok(()) => arrived(h, turn),
        Err(failure) => {
            let never = matches!(failure.kind, FailureKind::NoSuchMachine | FailureKind::Refused);
            h.last_error = failure.detail;
            if never {
                return arrived(h, turn);
            }
            Next::Stay
        }
    }
}

fn looked_while_discarding(
    h: &mut Handoff,
    here: Presence,
    stamp: Stamp,
    turn: &mut Turn<'_>,
) -> Next {
    match here {
        Presence::Absent => gone(h, turn),
        // The other copy is gone, and the source has released this one after all.
        Presence::Running | Presence::Leaving if h.steps.released => claim(h, true, turn),
        // It was let run by the hypervisor or by somebody, and is never killed.
        Presence::Running | Presence::Leaving => {
            h.steps.twice = true;
            turn.send(h, Pass::Claimed);
            Next::Stay
        }
        _ => {
            turn.discard(h, stamp);
            Next::Stay
        }
    }
}

/// The hypervisor has destroyed what had arrived, or not.
pub(super) fn discarded(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Discarding {
        return Next::Stay;
    }
    match result {
        Ok(()) => gone(h, turn),
        Err(failure) => {
            h.last_error = failure.detail;
            turn.look(h);
            Next::Stay
        }
    }
}

fn gone(h: &Handoff, turn: &mut Turn<'_>) -> Next {
    turn.send(h, Pass::Discarded);
    Next::Cancelled(h.cancelled_for.unwrap_or(Reason::MigrationFailed))
}

/// It is time to look after it.
pub(super) fn timer(h: &mut Handoff, turn: &mut Turn<'_>) -> Next {
    turn.wake(h.id, backoff(h.attempts));
    if h.phase == Phase::Claimed && h.steps.settled {
        if h.steps.autostart {
            return arrived(h, turn);
        }
        if h.attempts >= AUTOSTARTS_MAX {
            h.decision.detail = "the host could not be told to start it at boot".to_owned();
            return arrived(h, turn);
        }
        turn.set_autostart(h, true);
    } else {
        turn.look(h);
    }
    Next::Stay
}

/// Takes up what was under way when the agent ended.
pub(super) fn recover(h: &Handoff, turn: &mut Turn<'_>) {
    turn.wake(h.id, Duration::ZERO);
}

/// A record could not be written: what depended on it was not done, and the phase before holds.
pub(super) fn store_failed(h: &mut Handoff, why: String, turn: &mut Turn<'_>) -> Next {
    h.last_error.clone_from(&why);
    let Some(before) = h.before.take() else {
        turn.send(h, Pass::Refused { reason: Reason::StoreFailed, detail: None });
        h.decision.detail = why;
        return Next::Cancelled(Reason::StoreFailed);
    };
    h.go_back(before);
    turn.wake(h.id, STORE_RETRY);
    Next::Stay
}

/// An operator says that the source was fenced: it runs nothing and never will.
pub(super) fn claim_fenced(h: &mut Handoff, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Holding {
        return Next::Stay;
    }
    h.decision.detail = format!("an operator says that `{}` was fenced", h.peer);
    claim(h, false, turn)
}

//! A source whose machine stays: it has said so durably, and sees to it that nothing is left of the
//! handoff.

use super::limits::RETRY_MIN;
use super::release::release;
use super::starting;
use super::turn::Next;
use crate::decision::Reason;
use crate::message::Pass;
use crate::port::{Failure, Presence, Sight};
use crate::record::{Handoff, Phase};
use crate::turn::Turn;

/// So often a cancellation is told to a target that does not answer. After that the handoff ends:
/// whatever the target holds cannot run without this host's word, and it asks for that.
const CANCELS_MAX: u32 = 10;

pub(super) fn cancel(h: &Handoff, reason: Reason) -> Pass {
    Pass::Cancel { reason, machine: Some(h.machine.clone()) }
}

fn reason(h: &Handoff) -> Reason {
    h.cancelled_for.unwrap_or(Reason::MigrationFailed)
}

pub(super) fn tell_cancelled(h: &Handoff, turn: &mut Turn<'_>) {
    turn.send(h, cancel(h, reason(h)));
}

/// The machine stays, and this host never says otherwise.
pub(super) fn cancel_after(h: &mut Handoff, turn: &mut Turn<'_>) {
    let seen = h.seen;
    turn.enter(h, Phase::Cancelling, RETRY_MIN);
    turn.host.holds.outgoing.remove(&h.machine);
    turn.host.holds.settling.insert(h.machine.clone());
    h.steps.settled = match seen {
        None | Some(Presence::Stranded) => false,
        Some(Presence::Defined) => !h.missed,
        Some(_) => true,
    };
    match seen {
        Some(Presence::Stranded) => turn.resume(h, h.from),
        None => turn.look(h),
        Some(_) => {}
    }
    h.steps.autostart = !h.autostart;
    if h.autostart {
        turn.set_autostart(h, true);
    }
    tell_cancelled(h, turn);
}

/// Gives up before the hypervisor was ordered to migrate.
pub(super) fn cancel_before(h: &mut Handoff, reason: Reason, turn: &mut Turn<'_>) {
    h.cancelled_for = Some(reason);
    h.seen = (!h.missed).then_some(Presence::Running);
    cancel_after(h, turn);
}

pub(super) fn looked_while_cancelling(h: &mut Handoff, sight: &Sight, turn: &mut Turn<'_>) -> Next {
    let there = h.steps.runs_there;
    match sight.presence {
        Presence::Stranded if !there => {
            turn.resume(h, sight.stamp);
            return Next::Stay;
        }
        // What the target says settles it: it runs there, and here it does not.
        Presence::Absent | Presence::Defined | Presence::Stranded if there => {
            release(h, sight.presence != Presence::Absent, turn);
            return Next::Stay;
        }
        Presence::Defined if h.missed => {
            starting::start_if_alone(h, turn);
            return Next::Stay;
        }
        Presence::Running | Presence::Leaving if there => h.steps.twice = true,
        Presence::Leaving => {
            turn.abort(h);
            return Next::Stay;
        }
        _ => {}
    }
    h.steps.settled = true;
    cancelled_if_settled(h)
}

pub(super) fn cancelled_if_settled(h: &Handoff) -> Next {
    let steps = &h.steps;
    if h.phase == Phase::Cancelling
        && steps.settled
        && steps.autostart
        && !steps.twice
        && (steps.acknowledged || h.attempts >= CANCELS_MAX)
    {
        return Next::Cancelled(reason(h));
    }
    Next::Stay
}

/// The hypervisor has let the machine run here again, or not.
pub(super) fn resumed(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Cancelling {
        return Next::Stay;
    }
    match result {
        Ok(()) => h.steps.settled = true,
        Err(failure) => {
            h.last_error = failure.detail;
            turn.look(h);
        }
    }
    cancelled_if_settled(h)
}

/// The hypervisor has started the machine that this host booted without, or not.
pub(super) fn started(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> Next {
    if h.phase != Phase::Cancelling || h.steps.settled {
        return Next::Stay;
    }
    if starting::is_over(h, result, turn) {
        h.steps.settled = true;
    }
    cancelled_if_settled(h)
}

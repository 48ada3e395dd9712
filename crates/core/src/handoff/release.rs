//! What a source does when it releases a machine: the commit point, and what follows from it.

use super::limits::RETRY_MIN;
use crate::message::Pass;
use crate::port::{Commit, Order};
use crate::record::{Handoff, Phase};
use crate::turn::Turn;

/// The target holds it, and nothing here can let it run any more: it need not stand still until the
/// hypervisor has cleared up and answered. What that leaves is a leftover until it says that there is
/// none, also to an agent that is started again meanwhile.
pub(super) fn release_if_parted(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.commit != Commit::Strict || !h.steps.held || !h.steps.gone {
        return;
    }
    h.leftover = true;
    turn.enter(h, Phase::Released, RETRY_MIN);
    h.steps.unanswered = true;
    tell_released(h, turn);
}

/// **The commit point.** The machine is the target's from here on.
pub(super) fn release(h: &mut Handoff, leftover: bool, turn: &mut Turn<'_>) {
    h.leftover = leftover;
    turn.enter(h, Phase::Released, RETRY_MIN);
    forget(h, turn);
    tell_released(h, turn);
}

/// It is no part of this host's load any more.
fn forget(h: &Handoff, turn: &mut Turn<'_>) {
    turn.host.view.outdate();
    turn.host.holds.outgoing.remove(&h.machine);
    turn.host.holds.settling.remove(&h.machine);
    turn.host.averaging.left(&h.usage);
    turn.order(Order::Sample);
}

/// The migration of a machine that was released before is over, or should have been long ago.
pub(super) fn answered_at_last(h: &mut Handoff, turn: &mut Turn<'_>) {
    if std::mem::take(&mut h.steps.unanswered) {
        forget(h, turn);
    }
}

/// Tells the target that the machine is its own, once nothing is left of it here that could be let run.
pub(super) fn tell_released(h: &Handoff, turn: &mut Turn<'_>) {
    if h.leftover && !h.steps.unanswered {
        turn.discard(h, h.from);
    } else {
        turn.send(h, released(h));
    }
}

fn released(h: &Handoff) -> Pass {
    Pass::Released {
        machine: h.machine.clone(),
        stats: h.decision.stats.unwrap_or_default(),
        autostart: Some(h.autostart),
        unanswered: h.steps.unanswered.then_some(true),
    }
}

pub(super) fn no_leftover(h: &mut Handoff, turn: &mut Turn<'_>) {
    h.leftover = false;
    tell_released(h, turn);
}

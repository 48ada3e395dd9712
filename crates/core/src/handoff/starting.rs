//! A machine whose host has booted without it.
//!
//! So that no power cut can start it twice, no host starts a machine at boot while it is on its way.
//! One that loses its power meanwhile therefore boots without it. As soon as it is settled whose the
//! machine is, and that nothing runs it elsewhere, that host does what it would have done when it
//! booted: it starts the machine, once. A machine that then does not start stays off, as after any boot.

use super::limits::AUTOSTARTS_MAX;
use crate::port::{Failure, FailureKind};
use crate::record::Handoff;
use crate::turn::Turn;

/// Whether this host, in this boot, has booted without the machine because of this handoff.
pub(super) fn has_missed_boot(h: &Handoff, boot: &str) -> bool {
    let told = !boot.is_empty() && !h.boot.is_empty();
    // What was armed again in an earlier boot was started at this one, whatever became of it since.
    let armed = h.rearmed.as_deref().is_some_and(|rearmed| rearmed != boot);
    h.autostart && told && h.boot != boot && !armed
}

/// Source: starts a machine that was seen to be off here, once the target has said that it has
/// nothing.
pub(super) fn start_if_alone(h: &Handoff, turn: &mut Turn<'_>) {
    if h.steps.acknowledged {
        turn.start(h, h.from);
    }
}

/// Whether it has been started, or it has failed in a way that another attempt would not mend. Looks
/// again otherwise.
pub(super) fn is_over(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) -> bool {
    let told = match result {
        Ok(()) => "this host had booted without it, and has started it".to_owned(),
        Err(failure) => {
            let lost = matches!(failure.kind, FailureKind::Unreachable | FailureKind::Busy);
            if lost && h.attempts < AUTOSTARTS_MAX {
                h.last_error = failure.detail;
                turn.look(h);
                return false;
            }
            format!("this host had booted without it, and could not start it: {}", failure.detail)
        }
    };
    let detail = &mut h.decision.detail;
    if !detail.is_empty() {
        detail.push_str("; ");
    }
    detail.push_str(&told);
    true
}

//! The side that gives.
//!
//! ```text
//!  Offered ─ Reserved ─▶ Armed ─ autostart is off ─▶ Transferring ─ success ─▶ Released ─ Claimed ─▶ Done
//!     │                    │                            │ failure               ▲    └── Missing ─▶ Done
//!     │                    │                            ▼                       │
//!     ▼                    ▼                          Doubt ── not here, there ─┘
//!  Cancelled ◀────── Cancelling ◀── here, or not there ─┘
//! ```
//!
//! A machine that is not started at boot has nothing to disarm and skips `Armed`. As good as success is
//! that the target holds it and what ran it here has ended; the hypervisor's own word then comes after
//! `Released`, and nothing is `Done` before.

use super::cancelling::{
    cancel, cancel_after, cancel_before, cancelled_if_settled, looked_while_cancelling,
    tell_cancelled,
};
use super::limits::{AUTOSTARTS_MAX, Limits, RETRY_MAX, RETRY_MIN, STORE_RETRY, backoff};
use super::release::{answered_at_last, no_leftover, release, release_if_parted, tell_released};
use super::turn::Next;
use crate::decision::Reason;
use crate::message::Pass;
use crate::port::{
    Commit, Failure, FailureKind, Migration, MigrationStats, ORDER_TIME_MAX, Order, Presence, Sight,
};
use crate::record::{Handoff, Phase, Steps};
use crate::turn::Turn;

/// So often a machine in doubt must have been seen not running before it counts as staying, where
/// the target is of an earlier version and cannot be asked.
const LOOKS_NOT_RUNNING: u32 = 2;

/// The target said something.
pub(super) fn hear(h: &mut Handoff, pass: Pass, limits: &Limits, turn: &mut Turn<'_>) -> Next {
    match (h.phase, pass) {
        (Phase::Offered, Pass::Reserved { uri, protocol, disks, .. }) => {
            h.disks = disks.unwrap_or_default();
            return reserved(h, uri, protocol, limits, turn);
        }
        (Phase::Offered, Pass::Refused { reason, detail }) => {
            h.decision.detail = detail.unwrap_or_default();
            return Next::Cancelled(reason);
        }
        (Phase::Transferring, Pass::Holding { machine, ticket })
            if ticket.is_some() && ticket == h.ticket && machine == h.machine =>
        {
            h.steps.held = true;
            release_if_parted(h, turn);
        }
        (Phase::Doubt, answer @ (Pass::Holding { .. } | Pass::Claimed | Pass::Missing)) => {
            answered(h, &answer, turn);
        }
        // With something left here it is told, and answers, again.
        (Phase::Released, Pass::Claimed | Pass::Missing) if h.leftover => {}
        (Phase::Released, Pass::Claimed) => return Next::Done(Reason::Moved),
        (Phase::Released, Pass::Missing) => return Next::Done(Reason::Ended),
        // Told just now, the two have crossed; if that was lost it is told again soon.
        (Phase::Released, Pass::Holding { .. }) if h.attempts > 0 => tell_released(h, turn),
        (Phase::Cancelling, Pass::Discarded | Pass::Missing) => {
            h.steps.acknowledged = true;
            h.steps.runs_there = false;
            h.steps.twice = false;
            if h.missed && !h.steps.settled {
                turn.look(h);
            }
            return cancelled_if_settled(h);
        }
        (Phase::Cancelling, Pass::Holding { .. }) => tell_cancelled(h, turn),
        // It runs there: does it here?
        (Phase::Cancelling, Pass::Claimed) => {
            h.steps.runs_there = true;
            h.steps.settled = false;
            h.last_error = format!("`{}` says that the machine runs there", h.peer);
            turn.look(h);
        }
        // Late, repeated or out of turn: what was decided stands.
        _ => {}
    }
    Next::Stay
}

fn reserved(
    h: &mut Handoff,
    uri: String,
    protocol: Option<u16>,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    if protocol.is_none() {
        if h.commit == Commit::Strict {
            turn.send(h, cancel(h, Reason::Version));
            h.decision.detail = format!("`{}` cannot hold a machine back until told", h.peer);
            return Next::Cancelled(Reason::Version);
        }
        h.ticket = None;
    }
    h.uri = uri;
    if h.autostart {
        turn.enter(h, Phase::Armed, RETRY_MAX);
        turn.set_autostart(h, false);
    } else {
        transfer(h, limits, turn);
    }
    Next::Stay
}

fn transfer(h: &mut Handoff, limits: &Limits, turn: &mut Turn<'_>) {
    turn.enter(h, Phase::Transferring, limits.migration_time_max);
    turn.order(Order::Migrate(Migration {
        handoff: h.id,
        machine: h.machine.clone(),
        to: h.peer.clone(),
        uri: h.uri.clone(),
        entry: h.entry.clone(),
        commit: h.commit,
        bandwidth_bytes_per_s: limits.bandwidth_bytes_per_s,
        needs: h.needs.clone(),
        disks: h.disks.clone(),
    }));
}

/// The target's answer to the migration's last step has reached the hypervisor here, which does not let
/// the machine run on any more. Durable, since after a gap in which nobody looked nothing else may tell.
pub(super) fn finish_passed(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Transferring && h.commit == Commit::Strict && !h.finished {
        h.finished = true;
        h.before = Some(Phase::Transferring);
        turn.persist(h);
    }
}

/// What ran the machine here has ended.
pub(super) fn emulator_gone(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Transferring {
        h.steps.gone = true;
        release_if_parted(h, turn);
    }
}

/// The hypervisor is done with the migration.
pub(super) fn migrated(
    h: &mut Handoff,
    result: Result<MigrationStats, Failure>,
    turn: &mut Turn<'_>,
) {
    if let Ok(stats) = &result {
        h.decision.stats = Some(*stats);
    }
    match (h.phase, result) {
        (Phase::Transferring, Ok(_)) => release(h, false, turn),
        (Phase::Transferring, Err(failure)) => {
            h.decision.detail.clone_from(&failure.detail);
            h.failed = Some(failure.kind);
            match failure.kind {
                FailureKind::NeedsChanged => {
                    h.cancelled_for.get_or_insert(Reason::NeedsChanged);
                }
                // Neither the machine nor the target has failed: it is tried again later.
                FailureKind::Busy => {
                    h.cancelled_for.get_or_insert(Reason::JobUnderWay);
                }
                _ => {}
            }
            doubt(h, failure.detail, turn);
        }
        (Phase::Released, Ok(_)) if h.leftover => {
            answered_at_last(h, turn);
            no_leftover(h, turn);
        }
        (Phase::Released, Err(failure)) if h.steps.unanswered => {
            h.last_error = failure.detail;
            answered_at_last(h, turn);
            tell_released(h, turn);
        }
        _ => {}
    }
}

/// It is not known where the machine is: look. Nothing durable, since a restart leads here too.
pub(super) fn doubt(h: &mut Handoff, why: String, turn: &mut Turn<'_>) {
    h.go_on(Phase::Doubt, turn.now);
    h.attempts = 0;
    h.seen = None;
    // That what ran it has ended while it was paused stays so.
    h.steps = Steps { gone: h.steps.gone, ..Steps::default() };
    h.last_error = why;
    turn.wake(h.id, RETRY_MIN);
    turn.look(h);
}

/// A look at this host's hypervisor.
pub(super) fn looked(
    h: &mut Handoff,
    sight: Result<Sight, Failure>,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    let sight = match sight {
        Ok(sight) => sight,
        Err(failure) => {
            if matches!(h.phase, Phase::Doubt | Phase::Cancelling | Phase::Released) {
                h.last_error = failure.detail;
            }
            return Next::Stay;
        }
    };
    match h.phase {
        Phase::Doubt => {
            h.left = sight.left;
            looked_in_doubt(h, sight.presence, limits, turn);
        }
        Phase::Cancelling => return looked_while_cancelling(h, &sight, turn),
        Phase::Released if h.steps.unanswered => {}
        // Whatever is here is not the copy that was released.
        Phase::Released if h.leftover && sight.stamp != h.from => no_leftover(h, turn),
        Phase::Released if h.leftover => {
            h.steps.twice = matches!(sight.presence, Presence::Running | Presence::Leaving);
        }
        _ => {}
    }
    Next::Stay
}

fn looked_in_doubt(h: &mut Handoff, here: Presence, limits: &Limits, turn: &mut Turn<'_>) {
    h.seen = Some(here);
    match here {
        // Nothing runs there before this host has said so, and now it never will.
        Presence::Running | Presence::Paused => cancel_after(h, turn),
        Presence::Leaving => {
            let late = turn.now.since(h.since) >= limits.migration_time_max;
            // A job that was under way before may be somebody else's migration, which is theirs to abort.
            let ours = |reason| reason != Reason::JobUnderWay;
            if late || h.cancelled_for.is_some_and(ours) {
                h.cancelled_for.get_or_insert(Reason::MigrationTooLong);
                turn.abort(h);
            }
        }
        _ if h.ticket.is_none() => match here {
            Presence::Absent => release(h, false, turn),
            _ if h.attempts >= LOOKS_NOT_RUNNING => cancel_after(h, turn),
            _ => {}
        },
        Presence::Stranded
            if h.commit == Commit::Strict && turn.now.since(h.since) >= limits.doubt_time_max =>
        {
            cancel_after(h, turn);
        }
        Presence::Absent | Presence::Defined | Presence::Stranded => {
            turn.send(h, Pass::Where { machine: h.machine.clone() });
        }
        Presence::Incoming | Presence::Held => {
            h.last_error = "a copy that is arriving here is not what was sent away".to_owned();
        }
    }
}

/// Whether what the target holds is the machine's newest memory: this host has surely not let it run on
/// after the copy there was complete. That is so if the hypervisor was told that the migration had
/// succeeded, if what ran it was seen to end while it was paused, if the hypervisor says that it left,
/// or if it took a definition away that outlives everything else. Where locks keep two copies apart,
/// what has arrived runs before its source hears of it.
const fn has_surely_left(h: &Handoff) -> bool {
    let undefined = h.persistent && matches!(h.seen, Some(Presence::Absent));
    matches!(h.commit, Commit::Fast) || h.finished || h.steps.gone || h.left || undefined
}

/// The target has said what it holds, and no migration is under way here any more.
fn answered(h: &mut Handoff, answer: &Pass, turn: &mut Turn<'_>) {
    let there = !matches!(answer, Pass::Missing);
    let off = matches!(h.seen, Some(Presence::Absent | Presence::Defined));
    if off && matches!(answer, Pass::Holding { .. }) && !has_surely_left(h) {
        // It may have run on here, and its disks with it, while nobody looked: a memory that is older
        // than they are would destroy them. An operator may know.
        h.steps.held = true;
        h.last_error = format!("it is off here, and `{}` holds its memory", h.peer);
        return;
    }
    match h.seen {
        // Whatever the target finds there is its own: here is nothing that could be kept.
        Some(Presence::Absent) => release(h, false, turn),
        Some(Presence::Defined | Presence::Stranded) if there => release(h, true, turn),
        Some(Presence::Stranded) => cancel_after(h, turn),
        Some(Presence::Defined) => {
            h.cancelled_for = Some(Reason::Ended);
            cancel_after(h, turn);
        }
        // A look is under way, or the timer is going to take one. An answer must not lead to the next
        // question by itself: while a store cannot be written, two hosts would ask and answer without
        // a pause.
        _ => {}
    }
}

/// The hypervisor has destroyed what was left here, or not.
pub(super) fn discarded(h: &mut Handoff, result: Result<(), Failure>, turn: &mut Turn<'_>) {
    if h.phase != Phase::Released || !h.leftover {
        return;
    }
    match result {
        Ok(()) => no_leftover(h, turn),
        Err(failure) => {
            h.last_error = failure.detail;
            turn.look(h);
        }
    }
}

/// Whether this host starts the machine at boot has been changed, or not.
pub(super) fn autostart_set(
    h: &mut Handoff,
    result: Result<(), Failure>,
    boot: &str,
    limits: &Limits,
    turn: &mut Turn<'_>,
) -> Next {
    match (h.phase, result) {
        (Phase::Armed, Ok(())) => transfer(h, limits, turn),
        (Phase::Armed, Err(failure)) => {
            h.decision.detail = failure.detail;
            cancel_before(h, Reason::MigrationFailed, turn);
        }
        (Phase::Cancelling, Ok(())) => {
            h.steps.autostart = true;
            h.rearmed = Some(boot.to_owned());
            let next = cancelled_if_settled(h);
            if next == Next::Stay {
                // A later boot is known by it to have started the machine.
                h.before = Some(Phase::Cancelling);
                turn.persist(h);
            }
            return next;
        }
        (Phase::Cancelling, Err(failure)) => {
            // A machine that is gone or has no definition is not started at boot.
            h.steps.autostart =
                matches!(failure.kind, FailureKind::NoSuchMachine | FailureKind::Refused);
            h.last_error = failure.detail;
        }
        _ => {}
    }
    cancelled_if_settled(h)
}

/// It is time to look after it.
pub(super) fn timer(h: &mut Handoff, limits: &Limits, turn: &mut Turn<'_>) -> Next {
    match h.phase {
        Phase::Offered => {
            h.decision.detail = format!("`{}` did not answer a reservation", h.peer);
            turn.send(h, cancel(h, Reason::TimedOut));
            return Next::Cancelled(Reason::TimedOut);
        }
        // It was ordered and not answered in time, or its record could not be written.
        Phase::Armed => cancel_before(h, Reason::TimedOut, turn),
        Phase::Transferring => {
            h.cancelled_for.get_or_insert(Reason::MigrationTooLong);
            turn.abort(h);
            turn.wake(h.id, RETRY_MAX);
        }
        Phase::Doubt => {
            turn.wake(h.id, backoff(h.attempts).min(limits.doubt_time_max));
            turn.look(h);
        }
        Phase::Released => {
            turn.wake(h.id, backoff(h.attempts));
            if turn.now.since(h.since) >= ORDER_TIME_MAX {
                answered_at_last(h, turn);
            }
            tell_released(h, turn);
        }
        Phase::Cancelling => {
            turn.wake(h.id, backoff(h.attempts));
            if !h.steps.settled || h.steps.twice {
                turn.look(h);
            }
            if !h.steps.autostart && h.attempts >= AUTOSTARTS_MAX {
                h.decision
                    .detail
                    .push_str("; the host could not be told to start it at boot again");
                h.steps.autostart = true;
            }
            if !h.steps.autostart {
                turn.set_autostart(h, true);
            }
            if !h.steps.acknowledged {
                tell_cancelled(h, turn);
            }
            return cancelled_if_settled(h);
        }
        _ => {}
    }
    Next::Stay
}

/// Takes up what was under way when the agent ended.
pub(super) fn recover(h: &mut Handoff, turn: &mut Turn<'_>) {
    match h.phase {
        // The hypervisor was not ordered to migrate before `Transferring` was durable.
        Phase::Armed => cancel_before(h, Reason::Stopping, turn),
        Phase::Transferring | Phase::Doubt => {
            if h.decision.detail.is_empty() {
                h.decision.detail = "this agent ended and was started again meanwhile".to_owned();
            }
            doubt(h, String::new(), turn);
        }
        _ => turn.wake(h.id, std::time::Duration::ZERO),
    }
    if h.phase == Phase::Cancelling && !h.autostart {
        h.steps.autostart = true;
    }
}

/// A record could not be written: what depended on it was not done, and the phase before holds.
pub(super) fn store_failed(h: &mut Handoff, why: String, turn: &mut Turn<'_>) -> Next {
    h.last_error.clone_from(&why);
    match (h.phase, h.before.take()) {
        (Phase::Armed | Phase::Transferring, None | Some(Phase::Offered)) => {
            turn.send(h, cancel(h, Reason::StoreFailed));
            h.decision.detail = why;
            return Next::Cancelled(Reason::StoreFailed);
        }
        // It goes on as before; only a gap may have to be settled by an operator now.
        (Phase::Transferring, Some(Phase::Transferring)) => h.finished = false,
        (Phase::Transferring, _) => {
            h.go_back(Phase::Armed);
            turn.wake(h.id, RETRY_MIN);
        }
        // Looked at later: at once, the same would be decided and fail again.
        (Phase::Released | Phase::Cancelling, Some(Phase::Transferring | Phase::Doubt)) => {
            h.go_back(Phase::Doubt);
            h.since = turn.now;
            h.seen = None;
            h.steps = Steps { gone: h.steps.gone, ..Steps::default() };
            turn.wake(h.id, STORE_RETRY);
        }
        (Phase::Released | Phase::Cancelling, Some(before)) => {
            h.go_back(before);
            turn.wake(h.id, RETRY_MIN);
        }
        _ => {}
    }
    Next::Stay
}

/// An operator says that the target was fenced: it runs nothing and never will.
pub(super) fn claim(h: &mut Handoff, turn: &mut Turn<'_>) {
    if h.phase == Phase::Doubt && h.seen.is_some_and(|seen| seen != Presence::Absent) {
        let held = h.steps.held;
        h.decision.detail = if held {
            format!("an operator keeps it here, whatever `{}` holds of it", h.peer)
        } else {
            format!("an operator says that `{}` was fenced", h.peer)
        };
        cancel_after(h, turn);
        // One that has just answered has to say first that it has discarded what it holds.
        h.steps.acknowledged = !held;
    } else if h.waits_to_start() {
        h.decision.detail = format!("an operator says that `{}` was fenced", h.peer);
        h.steps.acknowledged = true;
        turn.look(h);
    }
}

//! Claims about migrations.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{Entry, HostId, MachineId};
use evenkeel_core::port::{Event, FailureKind, HandoffId, Migration, Order, Presence};

use super::watch::{QUIET, Watch, full_entry};
use super::{ANSWER_MAX, Guest, MIGRATION_MAX, Rig, SLOW_BYTES_PER_S, SLOW_SPAN};

/// Orders a migration that lasts, and waits until it is under way.
pub(super) fn begin_slowly(w: &mut Watch<'_>, handoff: u64, id: &MachineId) -> Migration {
    let mut migration = w.migration(handoff, id, &full_entry(9));
    migration.bandwidth_bytes_per_s = Some(SLOW_BYTES_PER_S);
    w.order(Order::Migrate(migration.clone()));
    let a = w.a.clone();
    w.until(&a, "progress", SLOW_SPAN, |event| {
        matches!(event, Event::Progress(id, _) if id.0 == handoff).then_some(())
    });
    migration
}

/// Asserts that nothing more is answered: each order was, once.
fn assert_answered_once(w: &mut Watch<'_>, host: &HostId) {
    let rest = w.rest(host, QUIET);
    let again = rest.iter().find(|event| matches!(event, Event::MigrationEnded(..)));
    assert!(again.is_none(), "a migration was answered twice: {rest:?}");
}

/// A machine that is migrated is gone here, definition and entry included, and is there with the
/// entry that the order gave it.
pub fn a_migration_moves_machine_definition_and_entry(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept"));
    assert_eq!(w.write_entry(&id, &full_entry(3)), Ok(()));
    w.forget_schedule_changes(&a);
    let migration = w.migration(1, &id, &full_entry(4));
    w.order(Order::Migrate(migration));
    let stats = w.ended(&a, 1, MIGRATION_MAX).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert!(stats.elapsed_ms > 0 && stats.downtime_ms <= stats.elapsed_ms, "{stats:?}");
    w.schedule_changed(&a, &id);
    w.schedule_changed(&b, &id);
    w.assert_runs_only_on(&b, &a, &id);
    assert!(w.measured(&a, &id).is_none(), "its entry is still in the schedule here");
    let there = w.measured(&b, &id).unwrap_or_else(|| panic!("it is not in the schedule there"));
    assert_eq!(there.facts.entry, Ok(full_entry(4)));
    assert!(there.facts.persistent, "its definition did not come along");
    w.rig.stop(&b, &id);
    assert_eq!(w.look(&b, &id), Ok(Presence::Defined));
    assert_eq!(w.entry(&b, &id), Ok(full_entry(4)), "in the definition");
    assert_answered_once(&mut w, &a);
}

/// A machine without a definition has none on the other host either.
pub fn a_transient_machine_stays_transient(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("passing").transient());
    let migration = w.migration(1, &id, &full_entry(1));
    w.order(Order::Migrate(migration));
    assert!(w.ended(&a, 1, MIGRATION_MAX).is_ok());
    w.assert_runs_only_on(&b, &a, &id);
    let there = w.measured(&b, &id).unwrap_or_else(|| panic!("it is not in the schedule there"));
    assert!(!there.facts.persistent && there.facts.entry == Ok(full_entry(1)), "{there:?}");
    w.rig.stop(&b, &id);
    assert_eq!(w.look(&b, &id), Ok(Presence::Absent));
}

/// What a machine consumed is counted from zero where it arrives.
pub fn counters_restart_on_the_other_host(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest { burn: 0.9, ..Guest::new("busy") });
    w.rig.pass(Duration::from_secs(6));
    let before = w.counters(&a, &id).cpu_time_ns;
    let migration = w.migration(1, &id, &Entry::default());
    w.order(Order::Migrate(migration));
    assert!(w.ended(&a, 1, MIGRATION_MAX).is_ok());
    let after = w.counters(&b, &id).cpu_time_ns;
    assert!(after < before, "{after} ns there, {before} ns here");
    w.rig.pass(Duration::from_secs(1));
    assert!(w.counters(&b, &id).cpu_time_ns > after, "it does not run there");
}

/// Nothing is left behind that would be in the way of coming back.
pub fn a_machine_moves_there_and_back_again(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept"));
    let there = w.migration(1, &id, &full_entry(1));
    w.order(Order::Migrate(there.clone()));
    assert!(w.ended(&a, 1, MIGRATION_MAX).is_ok());
    let uri = w.sample(&a).facts.migration_uri.clone();
    let (to, entry) = (a.clone(), full_entry(2));
    let back = Migration { handoff: HandoffId(2), uri, to, entry, ..there };
    w.rig.submit(&b, Order::Migrate(back));
    assert!(w.ended(&b, 2, MIGRATION_MAX).is_ok());
    w.assert_runs_only_on(&a, &b, &id);
    assert_eq!(w.entry(&a, &id), Ok(full_entry(2)));
}

/// A migration to nowhere leaves machine, definition and entry as they were.
pub fn a_migration_that_fails_changes_nothing(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let kept = w.rig.boot(&a, &Guest::new("kept"));
    let passing = w.rig.boot(&a, &Guest::new("passing").transient());
    for (handoff, id) in [(1, &kept), (2, &passing)] {
        assert_eq!(w.write_entry(id, &full_entry(3)), Ok(()));
        let before = w.measured(&a, id).map(|machine| machine.facts);
        let mut migration = w.migration(handoff, id, &full_entry(4));
        migration.uri.push_str("-nowhere");
        w.order(Order::Migrate(migration));
        let ended = w.ended(&a, handoff, MIGRATION_MAX).map_err(|failure| failure.kind);
        assert_eq!(ended, Err(FailureKind::PeerRefused));
        w.assert_runs_only_on(&a, &b, id);
        let after = w.measured(&a, id).map(|machine| machine.facts);
        assert_eq!(before.map(Arc::unwrap_or_clone), after.map(Arc::unwrap_or_clone));
    }
    assert_answered_once(&mut w, &a);
}

/// An abort is answered by the migration, and the machine runs on here as if nothing had been.
pub fn an_aborted_migration_leaves_the_machine_running(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept").slow_to_move());
    assert_eq!(w.write_entry(&id, &full_entry(3)), Ok(()));
    w.order(Order::Abort(id.clone()));
    begin_slowly(&mut w, 1, &id);
    w.order(Order::Abort(id.clone()));
    let ended = w.ended(&a, 1, SLOW_SPAN).map_err(|failure| failure.kind);
    assert_eq!(ended, Err(FailureKind::Aborted));
    w.assert_runs_only_on(&a, &b, &id);
    assert_eq!(w.entry(&a, &id), Ok(full_entry(3)));
    assert_answered_once(&mut w, &a);
    let again = w.migration(2, &id, &full_entry(4));
    w.order(Order::Migrate(again));
    assert!(w.ended(&a, 2, MIGRATION_MAX).is_ok(), "after an abort it can still be migrated");
    w.assert_runs_only_on(&b, &a, &id);
}

/// A second migration of the same machine is refused and does not disturb the first.
pub fn a_machine_under_migration_is_busy(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept").slow_to_move());
    let first = begin_slowly(&mut w, 1, &id);
    w.order(Order::Migrate(Migration { handoff: HandoffId(2), ..first }));
    let ended = w.ended(&a, 2, ANSWER_MAX).map_err(|failure| failure.kind);
    assert_eq!(ended, Err(FailureKind::Busy));
    assert_eq!(w.look(&a, &id), Ok(Presence::Leaving), "a look does not wait for the migration");
    let leaving = w.measured(&a, &id).map(|machine| (machine.presence, machine.counters.is_some()));
    assert_eq!(leaving, Some((Presence::Leaving, true)), "nor does a sample");
    let written = w.write_entry(&id, &full_entry(5)).map_err(|failure| failure.kind);
    assert_eq!(written, Err(FailureKind::Busy), "the entry would be lost on the way");
    w.order(Order::Abort(id.clone()));
    let ended = w.ended(&a, 1, SLOW_SPAN).map_err(|failure| failure.kind);
    assert_eq!(ended, Err(FailureKind::Aborted), "the first migration was disturbed");
    assert_eq!(w.entry(&a, &id), Ok(Entry::default()));
    assert_answered_once(&mut w, &a);
}

/// Progress grows, and comes before the end.
pub fn a_migration_reports_progress(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept").slow_to_move());
    begin_slowly(&mut w, 1, &id);
    let moved = w.until(&a, "bytes sent", SLOW_SPAN, |event| match event {
        Event::Progress(HandoffId(1), progress) if progress.bytes_done > 0 => Some(*progress),
        _ => None,
    });
    let later = w.until(&a, "more bytes sent", SLOW_SPAN * 2, |event| match event {
        Event::Progress(HandoffId(1), next) if next.bytes_done > moved.bytes_done => Some(*next),
        _ => None,
    });
    assert!(later.elapsed_ms > moved.elapsed_ms, "{moved:?}, then {later:?}");
    w.order(Order::Abort(id));
    assert!(w.ended(&a, 1, SLOW_SPAN).is_err());
    // What was told before the end, such as the first progress of a slow start, is not late.
    w.forget(&a);
    let rest = w.rest(&a, QUIET);
    let late = rest.iter().rposition(|event| matches!(event, Event::Progress(..)));
    assert!(late.is_none(), "progress after the end: {rest:?}");
}

/// Machines that are elsewhere, or do not run, are not migrated.
pub fn only_what_runs_here_can_be_migrated(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let off = w.rig.boot(&a, &Guest::new("off"));
    w.rig.stop(&a, &off);
    let elsewhere = w.rig.boot(&b, &Guest::new("elsewhere"));
    for (handoff, id, kind) in
        [(1, &off, FailureKind::NotRunning), (2, &elsewhere, FailureKind::NoSuchMachine)]
    {
        let migration = w.migration(handoff, id, &Entry::default());
        w.order(Order::Migrate(migration));
        let ended = w.ended(&a, handoff, ANSWER_MAX);
        let failure = ended.expect_err("what does not run here was migrated");
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.detail.contains(id.as_str()), "{failure:?} does not name the machine");
    }
    assert_eq!(w.look(&a, &off), Ok(Presence::Defined));
    w.assert_runs_only_on(&b, &a, &elsewhere);
}

/// One migration does not wait for another, nor does a sample for either.
pub fn migrations_of_several_machines_run_side_by_side(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let slow = w.rig.boot(&a, &Guest::new("slow").slow_to_move());
    let quick = ["quick1", "quick2"].map(|name| w.rig.boot(&a, &Guest::new(name)));
    begin_slowly(&mut w, 1, &slow);
    for (handoff, id) in [(2, &quick[0]), (3, &quick[1])] {
        let migration = w.migration(handoff, id, &full_entry(handoff));
        w.order(Order::Migrate(migration));
    }
    w.sample(&a);
    for (handoff, id) in [(2, &quick[0]), (3, &quick[1])] {
        assert!(w.ended(&a, handoff, SLOW_SPAN).is_ok(), "behind a slow one");
        w.assert_runs_only_on(&b, &a, id);
        assert_eq!(w.entry(&b, id), Ok(full_entry(handoff)));
    }
    w.order(Order::Abort(slow.clone()));
    let ended = w.ended(&a, 1, SLOW_SPAN).map_err(|failure| failure.kind);
    assert_eq!(ended, Err(FailureKind::Aborted));
    w.assert_runs_only_on(&a, &b, &slow);
}

//! The side that gives.

use super::*;

fn key() -> HandoffKey {
    HandoffKey::new(ID, &host_id("target"))
}

#[test]
fn starting_at_boot_is_restored_where_the_machine_stays() {
    let mut source = offered(Commit::Strict, true);
    let armed = stored(&source.hear(reserved_by_peer()));
    let on = Order::SetAutostart(machine(), true);
    // Killed before the hypervisor answered.
    let (mut again, out) = source.restarted(&armed);
    assert!(orders(&out).contains(&&on), "{out:?}");
    assert_eq!(again.phase(), Some(Phase::Cancelling));
    again.hear(Pass::Discarded);
    assert_eq!(ending(&again.autostart(true, &Ok(()))), Some(Reason::Stopping));
    // The migration failed, and the hypervisor is slow to take the order.
    source.autostart(false, &Ok(()));
    let failure = || Failure::new(FailureKind::Unreachable, "gone");
    source.act(|h, turn| h.migrated(ID, Err(failure()), turn));
    assert!(orders(&source.looked(Presence::Running)).contains(&&on));
    source.hear(Pass::Discarded);
    assert_eq!(ending(&source.autostart(true, &Err(failure()))), None);
    assert!(orders(&source.timer()).contains(&&on), "tried again");
    assert_eq!(ending(&source.autostart(true, &Ok(()))), Some(Reason::MigrationFailed));
}

#[test]
fn a_source_in_doubt_goes_by_what_is_here_and_what_is_there() {
    use Presence::{Absent, Defined, Paused, Running, Stranded};
    let hold = || Pass::Holding { machine: machine(), ticket: None };
    // Here, there (where that is asked), and the phase that follows.
    let table = [
        (Running, None, Phase::Cancelling),
        (Paused, None, Phase::Cancelling),
        (Absent, Some(hold()), Phase::Released),
        (Absent, Some(Pass::Claimed), Phase::Released),
        (Absent, Some(Pass::Missing), Phase::Released),
        (Absent, Some(Pass::Arriving), Phase::Doubt),
        (Defined, Some(hold()), Phase::Released),
        (Defined, Some(Pass::Missing), Phase::Cancelling),
        (Stranded, Some(hold()), Phase::Released),
        (Stranded, Some(Pass::Claimed), Phase::Released),
        (Stranded, Some(Pass::Missing), Phase::Cancelling),
    ];
    for commit in [Commit::Fast, Commit::Strict] {
        for (here, there, phase) in &table {
            let mut side = in_doubt(commit);
            let looked = side.looked(*here);
            let asked = said(&looked).contains(&&Pass::Where { machine: machine() });
            assert_eq!(asked, there.is_some(), "{here:?}");
            if let Some(answer) = there {
                side.hear(answer.clone());
            }
            // Strict, it may have run on here: see `stale`.
            let unproved = commit == Commit::Strict && (*here, there) == (Defined, &Some(hold()));
            let phase = if unproved { Phase::Doubt } else { *phase };
            assert_eq!(side.phase(), Some(phase), "{here:?} here, {there:?} there");
        }
    }
}

#[test]
fn an_answer_decides_nothing_while_a_migration_is_under_way() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Leaving);
    assert!(!looks(&side.hear(Pass::Missing)), "its timer looks");
    assert_eq!(side.phase(), Some(Phase::Doubt));
}

#[test]
fn two_hosts_do_not_ask_and_answer_without_a_pause_while_a_store_cannot_be_written() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Absent);
    let hold = || Pass::Holding { machine: machine(), ticket: None };
    side.hear(hold());
    assert_eq!(side.phase(), Some(Phase::Released));
    let why = "no space left on device".to_owned();
    side.act(|handoffs, turn| handoffs.store_failed(&key(), why, turn));
    assert_eq!(side.phase(), Some(Phase::Doubt));
    let out = side.hear(hold());
    assert!(!looks(&out) && said(&out).is_empty(), "{out:?}");
}

#[test]
fn what_is_left_here_is_destroyed_before_the_target_is_told() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    let out = side.hear(Pass::Holding { machine: machine(), ticket: None });
    assert_durable_first(&out, Phase::Released);
    assert_eq!((said(&out), orders(&out)), (vec![], vec![&Order::Discard(machine(), here())]));
    // Also after a restart.
    let (mut side, _) = side.restarted(&stored(&out));
    let out = side.timer();
    assert_eq!((said(&out), orders(&out)), (vec![], vec![&Order::Discard(machine(), here())]));
    let gone = side.done(Handoffs::discarded, &Ok(()));
    assert!(matches!(said(&gone)[..], [Pass::Released { .. }]));
    assert_eq!(ending(&side.hear(Pass::Claimed)), Some(Reason::Moved));
}

#[test]
fn a_leftover_that_runs_keeps_the_target_from_being_told_and_is_not_killed() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    side.hear(Pass::Holding { machine: machine(), ticket: None });
    let refused = Failure::new(FailureKind::Refused, "it runs");
    assert!(looks(&side.done(Handoffs::discarded, &Err(refused))));
    assert_eq!(said(&side.looked(Presence::Running)), Vec::<&Pass>::new());
    assert!(side.handoff().is_alarming(side.now), "somebody let it run");
    // Another copy, under another stamp, is not the one that was released.
    let other = Sight::new(Presence::Running, Stamp { epoch: Epoch(9), ..here() });
    assert!(matches!(said(&side.saw(other))[..], [Pass::Released { .. }]));
}

#[test]
fn a_machine_left_paused_is_let_run_only_after_its_cancellation_is_durable() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Stranded);
    let out = side.hear(Pass::Missing);
    assert_durable_first(&out, Phase::Cancelling);
    assert!(orders(&out).contains(&&Order::Resume(machine(), here())));
    let (mut side, _) = side.restarted(&stored(&out));
    assert!(looks(&side.timer()));
    let again = side.looked(Presence::Stranded);
    assert_eq!(orders(&again), [&Order::Resume(machine(), here())]);
    side.done(Handoffs::resumed, &Ok(()));
    assert_eq!(ending(&side.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn silence_lets_a_machine_run_here_only_where_the_target_waits_to_be_told() {
    for (commit, phase) in [(Commit::Strict, Phase::Cancelling), (Commit::Fast, Phase::Doubt)] {
        let mut side = in_doubt(commit);
        side.looked(Presence::Stranded);
        side.now = side.now + Limits::default().doubt_time_max;
        side.looked(Presence::Stranded);
        assert_eq!(side.phase(), Some(phase), "{commit:?}");
    }
    for presence in [Presence::Absent, Presence::Defined] {
        let mut side = in_doubt(Commit::Strict);
        side.now = side.now + Duration::from_secs(1_000_000);
        side.looked(presence);
        assert_eq!(side.phase(), Some(Phase::Doubt), "{presence:?}");
        assert!(side.handoff().is_alarming(side.now));
    }
}

#[test]
fn an_operator_who_has_fenced_the_target_keeps_what_is_left_here() {
    let mut side = in_doubt(Commit::Fast);
    let target = host_id("target");
    assert!(side.handoffs.can_claim(&machine(), &target).is_err(), "not looked yet");
    side.looked(Presence::Stranded);
    let out = side.act(|h, turn| h.claim(&machine(), &target, turn));
    assert_durable_first(&out, Phase::Cancelling);
    assert!(orders(&out).contains(&&Order::Resume(machine(), here())));
    let mut side = in_doubt(Commit::Fast);
    side.looked(Presence::Absent);
    assert!(side.handoffs.can_claim(&machine(), &target).is_err(), "nothing is here");
}

#[test]
fn a_source_answers_a_target_that_holds_a_machine_by_its_records() {
    let hold = |number, life| {
        let ticket = Some(Ticket { life, number });
        Pass::Holding { machine: machine(), ticket }
    };
    // It has released it, and forgotten all but that.
    let mut source = released_source();
    source.hear(Pass::Missing);
    assert!(matches!(said(&source.hear(hold(1, LIFE)))[..], [Pass::Released { .. }]));
    // Nothing of that life is lost, so it was never released.
    let mut source = offered(Commit::Strict, false);
    source.timer();
    assert_eq!(said(&source.hear(hold(1, LIFE))), [&cancelled()]);
    let mut later = Side::new("source");
    later.handoffs.lives.insert(LIFE - 1, 8);
    assert_eq!(said(&later.hear(hold(8, LIFE - 1))), [&cancelled()]);
    // A store that was lost, or restored from a backup, does not know: look.
    for unknown in [hold(9, LIFE - 1), hold(1, LIFE - 2)] {
        let out = later.hear(unknown.clone());
        assert!(said(&out).is_empty() && looks(&out));
        assert_eq!(later.looked(Presence::Absent), [], "the machine may be the other's");
        later.hear(unknown);
        assert_eq!(said(&later.looked(Presence::Running)), [&cancelled()]);
    }
}

#[test]
fn a_target_that_cannot_hold_a_machine_back_is_given_none_that_needs_it() {
    let old = || Pass::Reserved {
        uri: "qemu:///target".to_owned(),
        protocol: None,
        ticket: None,
        disks: None,
        machine: None,
    };
    let out = offered(Commit::Strict, false).hear(old());
    assert_eq!(ending(&out), Some(Reason::Version));
    assert!(orders(&out).is_empty());
    let mut side = offered(Commit::Fast, false);
    assert!(matches!(orders(&side.hear(old()))[..], [Order::Migrate(_)]));
    // It cannot be asked either, and answers a release.
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    assert!(matches!(said(&side.looked(Presence::Absent))[..], [Pass::Released { .. }]));
}

#[test]
fn a_machine_paused_where_it_arrived_fast_is_claimed_and_left_paused() {
    let mut side = reserved(Commit::Fast, false);
    assert_eq!(said(&side.looked(Presence::Paused)), Vec::<&Pass>::new(), "still arriving");
    side.hear(released());
    let settled = side.looked(Presence::Paused);
    assert_eq!((said(&settled), ending(&settled)), (vec![&Pass::Claimed], Some(Reason::Moved)));
    assert!(orders(&settled).is_empty());
}

#[test]
fn an_abort_by_somebody_else_is_a_failed_migration_and_no_stop_of_an_agent() {
    let mut side = transferring(Commit::Strict);
    let aborted = Failure::new(FailureKind::Aborted, "operation aborted by client");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    side.looked(Presence::Running);
    assert_eq!(ending(&side.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn a_migration_that_goes_on_after_a_restart_is_waited_for_until_it_lasts_too_long() {
    let mut before = offered(Commit::Strict, false);
    let durable = stored(&before.hear(reserved_by_peer()));
    let (mut side, out) = before.restarted(&durable);
    assert!(looks(&out));
    assert!(!aborts(&side.looked(Presence::Leaving)));
    side.now = side.now + Limits::default().migration_time_max;
    assert!(aborts(&side.looked(Presence::Leaving)));
    side.looked(Presence::Running);
    let out = side.hear(Pass::Discarded);
    assert_eq!(ending(&out), Some(Reason::MigrationTooLong));
    let detail = out.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision.detail.clone()),
        _ => None,
    });
    assert!(detail.unwrap().contains("started again"));
}

#[test]
fn a_target_that_does_not_answer_a_cancellation_holds_nothing_up_and_is_answered_when_it_asks() {
    let mut side = in_doubt(Commit::Strict);
    side.looked(Presence::Running);
    assert_eq!(side.handoffs.engaged(), 0);
    let last = (0..100).map(|_| side.timer()).find_map(|out| ending(&out));
    assert_eq!(last, Some(Reason::MigrationFailed));
    let ticket = Some(Ticket { life: LIFE, number: 1 });
    assert_eq!(said(&side.hear(Pass::Holding { machine: machine(), ticket })), [&cancelled()]);
}

#[test]
fn a_source_without_records_keeps_what_runs_here_and_waits_for_the_end_of_what_is_leaving() {
    for (presence, answer) in [
        (Presence::Running, vec![cancelled()]),
        (Presence::Leaving, vec![]),
        (Presence::Absent, vec![]),
    ] {
        let mut side = Side::new("source");
        assert!(looks(&side.hear(Pass::Holding { machine: machine(), ticket: None })));
        let out = side.looked(presence);
        assert_eq!(said(&out), answer.iter().collect::<Vec<_>>(), "{presence:?}");
    }
}

#[test]
fn a_source_that_knows_nothing_of_a_reservation_says_whether_anything_is_on_its_way() {
    use Presence::{Absent, Defined, Held, Leaving, Paused, Running, Stranded};
    let unknown = Some(Ticket { life: LIFE + 9, number: 1 });
    let Pass::Reserved { uri, protocol, machine, .. } = reserved_by_peer() else { unreachable!() };
    let asked = Pass::Reserved { uri, protocol, machine, ticket: unknown, disks: None };
    for (presence, says) in [
        (Running, true),
        (Paused, true),
        (Defined, true),
        (Absent, true),
        (Leaving, false),
        (Stranded, false),
        (Held, false),
    ] {
        let mut side = Side::new("source");
        assert!(looks(&side.hear(asked.clone())));
        let out = side.looked(presence);
        let refused = Pass::Refused { reason: Reason::TimedOut, detail: None };
        let expected = if says { vec![&refused] } else { Vec::new() };
        assert_eq!(said(&out), expected, "{presence:?}");
    }
}

fn it_is_held() -> Pass {
    Pass::Holding { machine: machine(), ticket: Some(TICKET) }
}

fn gone(side: &mut Side) -> Vec<Effect> {
    side.act(|handoffs, turn| handoffs.emulator_gone(ID, turn))
}

/// A source that has released before its hypervisor has answered, and what it did then.
fn released_before_the_answer() -> (Side, Vec<Effect>) {
    let mut side = transferring(Commit::Strict);
    assert_eq!(side.hear(it_is_held()), []);
    let out = gone(&mut side);
    assert_eq!(side.phase(), Some(Phase::Released));
    (side, out)
}

#[test]
fn what_is_held_there_and_ended_here_is_released_before_the_hypervisor_answers() {
    let (_, out) = released_before_the_answer();
    assert_durable_first(&out, Phase::Released);
    let told =
        |out: &[Effect]| matches!(said(out)[..], [Pass::Released { unanswered: Some(true), .. }]);
    assert!(told(&out) && orders(&out).is_empty(), "{out:?}");
    // In either order.
    let mut side = transferring(Commit::Strict);
    assert_eq!(gone(&mut side), []);
    assert!(told(&side.hear(it_is_held())));
    // Told again until it is answered, but not to whom it was just told.
    assert_eq!(side.hear(it_is_held()), []);
    assert!(told(&side.timer()) && told(&side.hear(it_is_held())));
}

#[test]
fn neither_what_is_held_nor_what_has_ended_releases_by_itself() {
    let other = Pass::Holding { machine: machine(), ticket: Some(Ticket { number: 2, ..TICKET }) };
    for holding in [other, Pass::Holding { machine: machine(), ticket: None }, Pass::Claimed] {
        let mut side = transferring(Commit::Strict);
        gone(&mut side);
        assert_eq!(side.hear(holding), []);
    }
    let mut side = transferring(Commit::Strict);
    side.hear(it_is_held());
    assert_eq!(side.timer().len(), 2, "it is aborted");
    // What was known before the migration failed tells nothing of what came after.
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    assert_eq!(gone(&mut side), []);
    assert_eq!(side.phase(), Some(Phase::Doubt));
    // The hypervisor's own commit point stays the hypervisor's.
    let mut side = transferring(Commit::Fast);
    side.hear(it_is_held());
    assert_eq!(gone(&mut side), []);
}

#[test]
fn what_was_released_early_has_moved_when_the_hypervisor_has_answered() {
    let (mut side, _) = released_before_the_answer();
    assert_eq!(side.hear(Pass::Claimed), [], "a domain may be here");
    assert_eq!(side.looked(Presence::Leaving), []);
    assert!(side.handoffs.engaged() == 1 && side.handoffs.hold_up_stop());
    let stats = MigrationStats { elapsed_ms: 7, downtime_ms: 1, bytes: 5 };
    let out = side.act(|handoffs, turn| handoffs.migrated(ID, Ok(stats), turn));
    let told = said(&out);
    assert!(
        matches!(told[..], [Pass::Released { stats: s, unanswered: None, .. }] if *s == stats),
        "{told:?}"
    );
    let out = side.hear(Pass::Claimed);
    let record = out.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision),
        _ => None,
    });
    let record = record.expect("it is over");
    assert_eq!((record.ending, record.stats), (Reason::Moved, Some(stats)));
}

#[test]
fn what_a_failed_migration_leaves_of_what_was_released_early_is_destroyed() {
    let discards = |out: &[Effect]| orders(out) == [&Order::Discard(machine(), here())];
    let failed = |side: &mut Side| {
        let failure = Failure::new(FailureKind::Other, "guest unexpectedly quit");
        side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn))
    };
    // It fails; the hypervisor never answers; the agent was killed and does not know.
    let (mut side, _) = released_before_the_answer();
    assert!(discards(&failed(&mut side)));
    let (mut silent, _) = released_before_the_answer();
    silent.now = silent.now + crate::port::ORDER_TIME_MAX;
    assert!(discards(&silent.timer()));
    let (side, out) = released_before_the_answer();
    let (mut again, _) = side.restarted(&stored(&out));
    assert!(discards(&again.timer()));
    for mut side in [silent, again] {
        assert_eq!(side.hear(Pass::Claimed), []);
        let out = side.done(Handoffs::discarded, &Ok(()));
        assert!(matches!(said(&out)[..], [Pass::Released { unanswered: None, .. }]), "{out:?}");
        assert_eq!(ending(&side.hear(Pass::Claimed)), Some(Reason::Moved));
    }
}

#[test]
fn what_could_not_be_released_early_for_want_of_a_record_is_found_out_anew() {
    let (mut side, _) = released_before_the_answer();
    side.act(|handoffs, turn| handoffs.store_failed(&key(), "disk full".to_owned(), turn));
    assert_eq!(side.phase(), Some(Phase::Doubt));
    side.act(|handoffs, turn| handoffs.migrated(ID, Ok(MigrationStats::default()), turn));
    side.looked(Presence::Absent);
    let out = side.hear(it_is_held());
    assert_durable_first(&out, Phase::Released);
    assert!(matches!(said(&out)[..], [Pass::Released { unanswered: None, .. }]), "{out:?}");
}

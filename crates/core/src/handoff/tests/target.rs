//! The side that takes.

use super::*;

#[test]
fn a_machine_that_is_held_waits_for_its_source_for_ever() {
    let mut side = holding();
    for hours in 0..1000 {
        side.now = side.now + Duration::from_secs(3600);
        assert!(looks(&side.timer()));
        let out = side.looked(Presence::Held);
        assert!(matches!(said(&out)[..], [Pass::Holding { .. }]), "after {hours} h");
        assert_eq!(orders(&out), Vec::<&Order>::new());
    }
    let handoff = side.handoff();
    assert!(handoff.is_alarming(side.now) && handoff.waits_for().contains("evenkeel claim web"));
    assert_eq!(side.handoffs.engaged(), 0, "it holds nothing else up");
}

#[test]
fn a_copy_that_may_be_incomplete_is_not_offered_to_its_source() {
    for presence in [Presence::Incoming, Presence::Stranded] {
        let mut side = reserved(Commit::Strict, false);
        assert_eq!(said(&side.looked(presence)), Vec::<&Pass>::new(), "{presence:?}");
        assert_eq!(side.handoff().phase, Phase::Reserved);
    }
}

#[test]
fn an_operator_who_has_fenced_the_source_lets_a_held_machine_run() {
    let (source, stranger) = (host_id("source"), host_id("stranger"));
    let mut side = holding();
    assert!(side.handoffs.can_claim(&machine(), &stranger).unwrap_err().contains("`source`"));
    assert_eq!(side.act(|h, turn| h.claim(&machine(), &stranger, turn)), []);
    assert_eq!(side.handoffs.can_claim(&machine(), &source), Ok(()));
    let out = side.act(|h, turn| h.claim(&machine(), &source, turn));
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&Order::Resume(machine(), there())]);
    assert!(reserved(Commit::Strict, false).handoffs.can_claim(&machine(), &source).is_err());
}

#[test]
fn a_target_that_is_told_to_discard_does_it_until_nothing_is_left() {
    let mut side = holding();
    side.hear(cancelled());
    let failure = Failure::new(FailureKind::Unreachable, "gone");
    assert!(looks(&side.done(Handoffs::discarded, &Err(failure))));
    assert_eq!(orders(&side.looked(Presence::Held)), [&Order::Discard(machine(), there())]);
    let out = side.done(Handoffs::discarded, &Ok(()));
    assert_eq!(said(&out), [&Pass::Discarded]);
    assert_eq!(ending(&out), Some(Reason::MigrationFailed));
    // Asked again, it says so again.
    assert!(looks(&side.hear(cancelled())));
    assert_eq!(said(&side.looked(Presence::Absent)), [&Pass::Discarded]);
}

#[test]
fn a_target_without_a_record_takes_what_its_source_has_released() {
    let mut side = Side::new("target");
    assert!(looks(&side.hear(released())));
    let out = side.looked(Presence::Held);
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&Order::Resume(machine(), there())]);
    let out = side.done(Handoffs::resumed, &Ok(()));
    assert_eq!((said(&out), ending(&out)), (vec![&Pass::Claimed], Some(Reason::Moved)));
}

#[test]
fn a_target_that_has_forgotten_looks_before_it_answers() {
    use Presence::{Absent, Held, Incoming, Paused, Running, Stranded};
    let hold = || Pass::Holding { machine: machine(), ticket: None };
    let find = || Pass::Where { machine: machine() };
    for (question, presence, answer) in [
        (released(), Running, Some(Pass::Claimed)),
        (released(), Absent, Some(Pass::Missing)),
        (released(), Incoming, None),
        (find(), Running, Some(Pass::Claimed)),
        (find(), Held, Some(hold())),
        (find(), Paused, Some(hold())),
        (find(), Incoming, Some(Pass::Arriving)),
        (find(), Stranded, Some(Pass::Arriving)),
        (find(), Absent, Some(Pass::Missing)),
        (cancelled(), Absent, Some(Pass::Discarded)),
        (cancelled(), Running, Some(Pass::Claimed)),
    ] {
        let mut side = Side::new("target");
        let heard = side.hear(question.clone());
        assert!(looks(&heard) && said(&heard).is_empty(), "{heard:?}");
        let said_then = side.looked(presence);
        assert_eq!(
            said(&said_then),
            answer.iter().collect::<Vec<_>>(),
            "{question:?}, {presence:?}"
        );
        assert!(said(&side.looked(presence)).is_empty(), "asked once, answered once");
    }
    // A hypervisor that does not answer decides nothing.
    let mut side = Side::new("target");
    side.hear(released());
    let silent = Failure::new(FailureKind::Unreachable, "gone");
    let out =
        side.act(|handoffs, turn| handoffs.looked(&machine(), *turn.looks, &Err(silent), turn));
    assert!(said(&out).is_empty());
    assert!(looks(&side.hear(released())), "the next question is looked after again");
}

#[test]
fn what_was_claimed_is_never_discarded_whatever_is_said_later() {
    let mut side = holding();
    side.hear(released());
    side.looked(Presence::Held);
    assert_eq!(side.hear(cancelled()), [], "claimed, and not run yet");
    side.done(Handoffs::resumed, &Ok(()));
    for presence in [Presence::Paused, Presence::Running, Presence::Absent] {
        side.hear(cancelled());
        let out = side.looked(presence);
        assert_eq!((said(&out), orders(&out)), (vec![&Pass::Claimed], vec![]), "{presence:?}");
    }
}

#[test]
fn questions_about_unknown_handoffs_are_bounded() {
    let mut side = Side::new("target");
    let from = host_id("source");
    let mut ordered = 0;
    for id in 0..10_000 {
        let out = side.act(|handoffs, turn| handoffs.hear(HandoffId(id), &from, released(), turn));
        ordered += out.len();
    }
    assert_eq!(ordered, 64);
}

#[test]
fn room_kept_for_a_source_that_has_given_up_is_freed_at_once() {
    // A source that has lost its records does not know whether it has.
    assert!(said(&Side::new("source").hear(reserved_by_peer())).is_empty());
    let mut source = offered(Commit::Strict, false);
    source.timer();
    let late = source.hear(reserved_by_peer());
    let [cancel] = said(&late)[..] else { panic!("{late:?}") };
    let mut target = reserved(Commit::Strict, false);
    target.hear(cancel.clone());
    let out = target.done(Handoffs::discarded, &Ok(()));
    assert_eq!(ending(&out), Some(Reason::TimedOut));
    assert!(target.host.holds.incoming.is_empty());
}

#[test]
fn a_reservation_that_expires_frees_the_memory() {
    let mut target = reserved(Commit::Strict, false);
    target.timer();
    assert_eq!(ending(&target.looked(Presence::Absent)), None, "it may still come");
    target.now = target.now + Limits::default().reservation_time;
    assert_eq!(ending(&target.looked(Presence::Incoming)), None, "it is arriving");
    assert_eq!(ending(&target.looked(Presence::Absent)), Some(Reason::ReservationExpired));
    assert!(target.host.holds.incoming.is_empty());
}

#[test]
fn a_target_that_must_stop_now_leaves_its_reservation_on_record_and_waits_for_nobody() {
    let mut target = reserved(Commit::Strict, false);
    assert!(target.handoffs.hold_up_stop(), "at first it waits for what is under way");
    target.act(Handoffs::abort_all);
    assert!(!target.handoffs.hold_up_stop());
    assert_eq!(target.phase(), Some(Phase::Reserved));

    let mut source = transferring(Commit::Strict);
    assert!(aborts(&source.act(Handoffs::abort_all)));
    assert!(source.handoffs.hold_up_stop(), "its machine must be found first");
    let aborted = Failure::new(FailureKind::Aborted, "aborted");
    source.act(|handoffs, turn| handoffs.migrated(ID, Err(aborted), turn));
    source.looked(Presence::Running);
    assert!(!source.handoffs.hold_up_stop());
    assert_eq!(ending(&source.hear(Pass::Discarded)), Some(Reason::Stopping));
}

#[test]
fn what_was_seen_before_a_question_is_no_answer_to_it() {
    // A look is under way when the source asks, or says that the machine is released.
    for question in [Pass::Where { machine: machine() }, released()] {
        let mut side = reserved(Commit::Strict, false);
        side.timer();
        let before = side.looks;
        side.hear(question.clone());
        let nothing = Ok(Sight::default());
        let out = side.act(|h, turn| h.looked(&machine(), before, &nothing, turn));
        assert!(said(&out).is_empty(), "{question:?}: {out:?}");
        assert!(!said(&side.looked(Presence::Absent)).is_empty(), "{question:?}");
    }
}

/// A target that keeps room for a machine which others are kept away by from the whole rack.
fn reserved_with_a_seat() -> Side {
    let mut side = Side::new("target");
    let mut agreement = agreement(&side.host);
    agreement.entry.rules.anti_affinity = vec!["web@rack".parse().unwrap()];
    let (commit, uri) = (Commit::Strict, "qemu:///target".to_owned());
    let offer = Offer { agreement, commit, autostart: false, ticket: Some(TICKET), past: None };
    side.act(|handoffs, turn| handoffs.take(ID, offer, uri, turn));
    side.saw(Sight::default());
    side
}

#[test]
fn a_reservation_that_keeps_others_away_does_not_end_by_time_alone() {
    let mut side = reserved_with_a_seat();
    for hours in 0..100 {
        side.now = side.now + Duration::from_secs(3600);
        assert!(looks(&side.timer()));
        let out = side.looked(Presence::Absent);
        assert_eq!(said(&out), [&reserved_by_peer()], "after {hours} h it asks its source");
        assert_eq!(side.phase(), Some(Phase::Reserved));
    }
    // The source knows nothing of it, and what it says is looked into once more.
    assert!(looks(&side.hear(Pass::Refused { reason: Reason::TimedOut, detail: None })));
    assert_eq!(ending(&side.looked(Presence::Absent)), Some(Reason::ReservationExpired));

    let mut side = reserved_with_a_seat();
    side.hear(Pass::Refused { reason: Reason::TimedOut, detail: None });
    let out = side.looked(Presence::Held);
    assert!(matches!(said(&out)[..], [Pass::Holding { .. }]), "what has arrived is not given up");

    let mut side = reserved_with_a_seat();
    let source = host_id("source");
    assert!(looks(&side.act(|handoffs, turn| handoffs.removed(&source, turn))));
    assert_eq!(ending(&side.looked(Presence::Absent)), Some(Reason::ReservationExpired));
}

#[test]
fn what_arrives_is_looked_at_when_something_happens_to_it() {
    let changed = |side: &mut Side| side.act(|handoffs, turn| handoffs.changed(&machine(), turn));
    assert!(looks(&changed(&mut reserved(Commit::Strict, false))));
    assert_eq!(changed(&mut reserved(Commit::Fast, false)), []);
    assert_eq!(changed(&mut holding()), []);
    assert_eq!(changed(&mut transferring(Commit::Strict)), []);
}

#[test]
fn a_target_that_was_told_early_waits_for_what_it_cost_but_not_for_long() {
    let early = || Pass::Released {
        machine: machine(),
        stats: MigrationStats::default(),
        autostart: Some(true),
        unanswered: Some(true),
    };
    let stats = MigrationStats { elapsed_ms: 7, downtime_ms: 1, bytes: 5 };
    let late =
        Pass::Released { machine: machine(), stats, autostart: Some(true), unanswered: None };
    let claimed = || {
        let mut side = reserved(Commit::Strict, true);
        side.looked(Presence::Held);
        side.hear(early());
        side.looked(Presence::Held);
        assert_eq!(said(&side.done(Handoffs::resumed, &Ok(()))), [&Pass::Claimed]);
        side
    };
    for autostart_first in [true, false] {
        let mut side = claimed();
        let out = if autostart_first {
            assert_eq!(side.autostart(true, &Ok(())), []);
            assert_eq!(side.hear(early()).len(), 1, "it says again that it runs");
            side.hear(late.clone())
        } else {
            assert_eq!(said(&side.hear(late.clone())), [&Pass::Claimed]);
            side.autostart(true, &Ok(()))
        };
        let record = out.iter().find_map(|effect| match effect {
            Effect::Record(decision) => Some(decision.stats),
            _ => None,
        });
        assert_eq!(record, Some(Some(stats)));
    }
    let mut side = claimed();
    side.autostart(true, &Ok(()));
    let endings = [1, 2, 3].map(|_| ending(&side.timer()));
    assert_eq!(endings, [None, None, Some(Reason::Moved)]);
}

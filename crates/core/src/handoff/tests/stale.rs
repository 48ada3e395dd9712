//! A memory that is older than the disks it would run on.

use super::*;

fn holds() -> Pass {
    Pass::Holding { machine: machine(), ticket: Some(TICKET) }
}

/// A source whose agent was started again while its hypervisor migrated, after `before` had happened.
fn restarted(persistent: bool, before: impl FnOnce(&mut Side, &mut Recovered)) -> Side {
    let mut side = Side::new("source");
    let agreed = agreement(&side.host);
    let terms = Terms { persistent, ..terms(Commit::Strict, false) };
    side.act(|handoffs, turn| handoffs.give(ID, agreed, terms, turn));
    let mut durable = stored(&side.hear(reserved_by_peer()));
    before(&mut side, &mut durable);
    let (side, _) = side.restarted(&durable);
    assert_eq!(side.phase(), Some(Phase::Doubt));
    side
}

fn finish_passes(side: &mut Side, durable: &mut Recovered) {
    let out = side.act(|handoffs, turn| handoffs.finish_passed(ID, turn));
    let [Effect::Persist(record)] = &out[..] else { panic!("{out:?}") };
    durable.keep(record.clone());
}

fn is_released(side: &Side) -> bool {
    side.phase() == Some(Phase::Released)
}

#[test]
fn what_may_have_run_on_while_nobody_looked_is_not_released_without_a_proof() {
    let nothing = |_: &mut Side, _: &mut Recovered| {};
    // A transient machine leaves nothing behind, however it ended.
    for (persistent, seen) in [(true, Presence::Defined), (false, Presence::Absent)] {
        let mut side = restarted(persistent, nothing);
        side.looked(seen);
        for _ in 0..100 {
            assert_eq!(said(&side.hear(holds())), Vec::<&Pass>::new(), "{seen:?}");
            side.now = side.now + Duration::from_secs(3600);
            side.timer();
            side.looked(seen);
        }
        side.hear(holds());
        let handoff = side.handoff();
        assert!(handoff.waits_for_proof() && handoff.is_alarming(side.now));
        let words = handoff.waits_for();
        assert!(words.contains("evenkeel claim web --i-have-fenced target"), "{words}");
        // The target's operator has decided.
        side.looked(seen);
        side.hear(Pass::Claimed);
        assert!(is_released(&side), "{seen:?}");
    }
}

#[test]
fn a_machine_that_surely_left_is_released_after_any_gap() {
    let mut carried = restarted(true, finish_passes);
    carried.looked(Presence::Defined);
    carried.hear(holds());
    assert!(is_released(&carried), "libvirt here had the target's answer");

    let mut undefined = restarted(true, |_, _| {});
    undefined.looked(Presence::Absent);
    undefined.hear(holds());
    assert!(is_released(&undefined), "libvirt here took the definition away");

    let mut left = restarted(true, |_, _| {});
    left.saw(Sight { left: true, ..Sight::new(Presence::Defined, here()) });
    left.hear(holds());
    assert!(is_released(&left), "libvirt here says that it has left");

    let mut paused = restarted(true, |_, _| {});
    paused.looked(Presence::Stranded);
    paused.hear(holds());
    assert!(is_released(&paused), "it has been paused since");
}

#[test]
fn what_an_agent_has_seen_end_while_it_was_paused_needs_no_other_proof() {
    let mut side = transferring(Commit::Strict);
    side.act(|handoffs, turn| handoffs.emulator_gone(ID, turn));
    let failure = Failure::new(FailureKind::Other, "broke off");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    side.looked(Presence::Defined);
    side.hear(holds());
    assert!(is_released(&side));
}

#[test]
fn a_commit_point_of_the_hypervisor_waits_for_no_proof() {
    let mut side = in_doubt(Commit::Fast);
    side.looked(Presence::Defined);
    side.hear(holds());
    assert!(is_released(&side), "locks keep the two apart");
}

#[test]
fn what_ran_at_the_target_by_the_hypervisors_commit_point_is_not_called_missing_after_a_power_cut()
{
    let find = || Pass::Where { machine: machine() };
    for (commit, answer) in [(Commit::Fast, Pass::Claimed), (Commit::Strict, Pass::Missing)] {
        let mut side = reserved(commit, false);
        side.hear(find());
        let look = side.looks;
        let from = Some(host_id("source"));
        let sight = Sight { from, ..Sight::new(Presence::Defined, there()) };
        let out = side.act(|handoffs, turn| {
            handoffs.answer_strangers(&machine(), look, Some(&sight), turn);
        });
        assert_eq!(said(&out), [&answer], "{commit:?}");
    }
}

#[test]
fn an_operator_who_keeps_it_has_what_is_held_there_discarded_first() {
    let mut side = restarted(true, |_, _| {});
    side.looked(Presence::Defined);
    side.hear(holds());
    let target = host_id("target");
    assert_eq!(side.handoffs.can_claim(&machine(), &target), Ok(()));
    let out = side.act(|h, turn| h.claim(&machine(), &target, turn));
    assert_durable_first(&out, Phase::Cancelling);
    assert!(matches!(said(&out)[..], [Pass::Cancel { .. }]), "{out:?}");
    assert_eq!(ending(&out), None);
    assert_eq!(ending(&side.hear(Pass::Discarded)), Some(Reason::MigrationFailed));
}

#[test]
fn a_proof_that_cannot_be_written_down_does_not_end_a_migration() {
    let mut side = transferring(Commit::Strict);
    side.act(|handoffs, turn| handoffs.finish_passed(ID, turn));
    let key = side.handoff().key();
    let out = side.act(|h, turn| h.store_failed(&key, "disk full".to_owned(), turn));
    assert_eq!((said(&out), ending(&out)), (Vec::new(), None));
    assert_eq!((side.phase(), side.handoff().finished), (Some(Phase::Transferring), false));
    side.act(|h, turn| h.migrated(ID, Ok(MigrationStats::default()), turn));
    assert!(is_released(&side));
}

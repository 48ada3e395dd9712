//! Hosts that lose their power while a machine that they start at boot is on its way.

use super::*;

fn start(stamp: Stamp) -> Order {
    Order::Start(machine(), stamp)
}

/// What a source has stored when its machine is on its way.
fn on_its_way() -> (Side, Recovered) {
    let mut source = offered(Commit::Strict, true);
    source.hear(reserved_by_peer());
    let durable = stored(&source.autostart(false, &Ok(())));
    (source, durable)
}

/// A source that was booted meanwhile, and has its machine back.
fn booted_source() -> (Side, Recovered) {
    let (source, durable) = on_its_way();
    let (mut source, _) = source.restarted_in(&durable, "boot 2");
    source.looked(Presence::Defined);
    let out = source.hear(Pass::Missing);
    assert_eq!(source.phase(), Some(Phase::Cancelling));
    (source, stored(&out))
}

fn detail(effects: &[Effect]) -> &str {
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision.detail.as_str()),
        _ => None,
    });
    told.expect("a record of the decision")
}

#[test]
fn a_source_that_booted_without_its_machine_starts_it_once_the_target_has_nothing() {
    let (mut source, _) = booted_source();
    source.autostart(true, &Ok(()));
    for _ in 0..20 {
        assert!(looks(&source.timer()));
        assert_eq!(orders(&source.looked(Presence::Defined)), Vec::<&Order>::new(), "not asked");
    }
    assert!(source.handoff().waits_for().contains("`target` to say that it has nothing"));
    assert!(looks(&source.hear(Pass::Discarded)), "what was seen before may not be so any more");
    assert_eq!(orders(&source.looked(Presence::Defined)), [&start(here())]);
    let out = source.done(Handoffs::started, &Ok(()));
    assert_eq!(ending(&out), Some(Reason::Ended));
    assert!(detail(&out).contains("has started it"), "{}", detail(&out));
}

#[test]
fn a_source_that_the_target_contradicts_starts_nothing() {
    let (mut source, _) = booted_source();
    source.autostart(true, &Ok(()));
    source.hear(Pass::Claimed);
    let out = source.looked(Presence::Defined);
    assert_durable_first(&out, Phase::Released);
    assert_eq!(orders(&out), [&Order::Discard(machine(), here())]);
}

#[test]
fn an_operator_who_has_fenced_the_target_has_the_source_start_its_machine() {
    let (mut source, _) = booted_source();
    let target = host_id("target");
    assert_eq!(source.handoffs.can_claim(&machine(), &target), Ok(()));
    assert!(looks(&source.act(|h, turn| h.claim(&machine(), &target, turn))));
    assert_eq!(orders(&source.looked(Presence::Defined)), [&start(here())]);
}

#[test]
fn a_machine_is_started_only_by_a_boot_that_missed_it() {
    let (source, way) = on_its_way();
    let (booted, waits) = booted_source();
    let rearmed = {
        let (mut booted, _) = booted.restarted_in(&waits, "boot 2");
        stored(&booted.autostart(true, &Ok(())))
    };
    let other = {
        let mut source = offered(Commit::Strict, false);
        stored(&source.hear(reserved_by_peer()))
    };
    let mut old = way.clone();
    old.handoffs[0].boot.clear();
    // What is stored, the boot, and whether that one missed the machine.
    for (what, durable, boot, missed) in [
        ("the agent was killed", &way, "boot 1", false),
        ("the host was booted", &way, "boot 2", true),
        ("the host does not tell", &way, "", false),
        ("a record of an earlier version", &old, "boot 2", false),
        ("not started at boot anyway", &other, "boot 2", false),
        ("killed while it waits", &waits, "boot 2", true),
        ("booted again before it was armed", &waits, "boot 3", true),
        ("killed after it was armed", &rearmed, "boot 2", true),
        ("booted again after it was armed", &rearmed, "boot 3", false),
    ] {
        let (mut side, _) = source.restarted_in(durable, boot);
        side.looked(Presence::Defined);
        side.hear(Pass::Missing);
        side.hear(Pass::Discarded);
        let out = [side.timer(), side.looked(Presence::Defined)].concat();
        assert_eq!(orders(&out).contains(&&start(here())), missed, "{what}");
    }
}

#[test]
fn a_source_that_was_about_to_send_its_machine_looks_before_it_starts_it() {
    let mut source = offered(Commit::Strict, true);
    let armed = stored(&source.hear(reserved_by_peer()));
    let (mut source, out) = source.restarted_in(&armed, "boot 2");
    assert!(looks(&out));
    source.hear(Pass::Discarded);
    source.autostart(true, &Ok(()));
    assert_eq!(orders(&source.looked(Presence::Defined)), [&start(here())]);
    // Or it runs already, and nothing is to be done.
    let (mut source, _) = source.restarted_in(&armed, "boot 2");
    source.hear(Pass::Discarded);
    source.autostart(true, &Ok(()));
    assert_eq!(ending(&source.looked(Presence::Running)), Some(Reason::Stopping));
}

#[test]
fn a_machine_that_does_not_start_ends_its_handoff_and_is_told_of() {
    let (mut source, _) = booted_source();
    source.autostart(true, &Ok(()));
    source.hear(Pass::Discarded);
    source.looked(Presence::Defined);
    let gone = Failure::new(FailureKind::Unreachable, "no answer");
    assert!(looks(&source.done(Handoffs::started, &Err(gone))), "it may run");
    assert_eq!(orders(&source.looked(Presence::Defined)), [&start(here())]);
    let failure = Failure::new(FailureKind::Other, "its disk is missing");
    let out = source.done(Handoffs::started, &Err(failure));
    assert_eq!(ending(&out), Some(Reason::Ended));
    assert!(detail(&out).ends_with("could not start it: its disk is missing"));
}

#[test]
fn a_target_that_booted_without_what_it_had_claimed_starts_it() {
    let mut target = reserved(Commit::Strict, true);
    target.hear(released());
    let claimed = stored(&target.looked(Presence::Held));
    let (mut booted, _) = target.restarted_in(&claimed, "boot 2");
    assert_eq!(orders(&booted.looked(Presence::Defined)), [&start(there())]);
    let out = booted.done(Handoffs::started, &Ok(()));
    assert_eq!(said(&out), [&Pass::Claimed]);
    assert_eq!(orders(&out), [&Order::SetAutostart(machine(), true)]);
    assert_eq!(ending(&booted.autostart(true, &Ok(()))), Some(Reason::Moved));
    // It ended by itself: it is not started, but will be at the next boot.
    let (mut target, _) = target.restarted(&claimed);
    let out = target.looked(Presence::Defined);
    assert_eq!(orders(&out), [&Order::SetAutostart(machine(), true)]);
    assert_eq!(ending(&target.autostart(true, &Ok(()))), Some(Reason::Ended));
}

#[test]
fn a_target_that_booted_asks_its_source_before_it_starts_what_is_left() {
    let mut target = reserved(Commit::Strict, true);
    let durable = stored(&target.looked(Presence::Held));
    let booted = || target.restarted_in(&durable, "boot 2").0;
    let mut side = booted();
    let out = side.looked(Presence::Defined);
    assert!(matches!(said(&out)[..], [Pass::Reserved { .. }]), "{out:?}");
    assert_eq!(orders(&out), Vec::<&Order>::new());
    side.hear(released());
    let out = side.looked(Presence::Defined);
    assert_durable_first(&out, Phase::Claimed);
    assert_eq!(orders(&out), [&start(there())]);
    // It stays at its source.
    let mut side = booted();
    side.looked(Presence::Defined);
    assert!(looks(&side.hear(cancelled())));
    let out = side.looked(Presence::Defined);
    assert_eq!(orders(&out), [&Order::Discard(machine(), there())]);
    // Its source knows nothing.
    let mut side = booted();
    side.looked(Presence::Defined);
    side.hear(Pass::Refused { reason: Reason::TimedOut, detail: None });
    assert_eq!(ending(&side.looked(Presence::Defined)), Some(Reason::Ended));
}

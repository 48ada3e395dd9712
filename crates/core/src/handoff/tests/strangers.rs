//! What hosts say of handoffs that are none of theirs, and what is known here already.

use super::*;

fn stranger() -> HostId {
    host_id("stranger")
}

/// A third host says something about this side's handoff, or about its machine.
fn told_by_a_stranger(side: &mut Side, pass: Pass) -> Vec<Effect> {
    side.act(|handoffs, turn| handoffs.hear(ID, &stranger(), pass, turn))
}

/// Everything that one host can say about a handoff to another.
fn everything() -> Vec<Pass> {
    let reason = Reason::MigrationFailed;
    vec![
        reserved_by_peer(),
        Pass::Refused { reason, detail: None },
        released(),
        Pass::Claimed,
        Pass::Missing,
        cancelled(),
        Pass::Cancel { reason, machine: None },
        Pass::Discarded,
        Pass::Where { machine: machine() },
        Pass::Holding { machine: machine(), ticket: Some(TICKET) },
        Pass::Arriving,
    ]
}

/// What changes something: records, and orders other than to look.
fn deeds(effects: &[Effect]) -> Vec<&Effect> {
    let looks = |effect: &&Effect| {
        matches!(effect, Effect::Order(Order::Look(..)) | Effect::SetTimer(..) | Effect::Send(..))
    };
    effects.iter().filter(|effect| !looks(effect)).collect()
}

/// A target that has claimed the machine and is done.
fn claimed() -> Side {
    let mut side = holding();
    side.hear(released());
    side.looked(Presence::Held);
    side.done(Handoffs::resumed, &Ok(()));
    assert!(side.phase().is_none());
    side
}

#[test]
fn nothing_that_a_third_host_says_of_a_handoff_changes_anything() {
    use Presence::{Absent, Defined, Held, Incoming, Leaving, Paused, Running, Stranded};
    let sides: [fn() -> Side; 8] = [
        || Side::new("target"),
        || reserved(Commit::Strict, true),
        || reserved(Commit::Fast, true),
        holding,
        claimed,
        || transferring(Commit::Strict),
        || in_doubt(Commit::Strict),
        released_source,
    ];
    for (number, make) in sides.into_iter().enumerate() {
        for pass in everything() {
            for seen in [Absent, Defined, Incoming, Held, Paused, Stranded, Leaving, Running] {
                let mut side = make();
                let before = side.phase();
                let out = told_by_a_stranger(&mut side, pass.clone());
                assert_eq!(deeds(&out), Vec::<&Effect>::new(), "{number}: {pass:?}");
                // A look that was ordered for the stranger tells nothing to anybody else.
                let stamp = if number < 5 { there() } else { here() };
                let from = Some(host_id("source"));
                let look = side.looks;
                let sight = Sight { from, ..Sight::new(seen, stamp) };
                let mine = side.handoffs.iter().next().is_some_and(|h| h.look == look);
                if !mine && !looks(&out) {
                    continue;
                }
                let out = side.act(|handoffs, turn| {
                    handoffs.answer_strangers(&machine(), look, Some(&sight), turn);
                });
                assert_eq!(deeds(&out), Vec::<&Effect>::new(), "{number}: {pass:?}, {seen:?}");
                assert_eq!(side.phase(), before, "{number}: {pass:?}, {seen:?}");
            }
        }
    }
}

#[test]
fn a_copy_is_adopted_from_the_host_that_it_came_from_and_from_no_other() {
    for autostart in [false, true] {
        let word = || Pass::Released {
            machine: machine(),
            stats: MigrationStats::default(),
            autostart: Some(autostart),
            unanswered: None,
        };
        for (from, adopted) in [
            (Some(stranger()), true),
            (Some(host_id("source")), false),
            (Some(host_id("target")), false),
            (None, false),
        ] {
            let mut side = Side::new("target");
            told_by_a_stranger(&mut side, word());
            let sight = Sight { from: from.clone(), ..Sight::new(Presence::Held, there()) };
            let out = side.saw(sight);
            let resumed = orders(&out).contains(&&Order::Resume(machine(), there()));
            assert_eq!(resumed, adopted, "{from:?}: {out:?}");
            assert_eq!(side.handoffs.iter().count(), usize::from(adopted));
        }
    }
}

#[test]
fn what_waits_without_a_record_is_destroyed_on_its_sources_word_and_never_what_may_have_run() {
    use Presence::{Defined, Held, Incoming, Paused, Stranded};
    for (seen, destroyed) in
        [(Held, true), (Incoming, true), (Paused, false), (Stranded, false), (Defined, false)]
    {
        let mut side = Side::new("target");
        side.hear(cancelled());
        let out = side.looked(seen);
        let discards = orders(&out).contains(&&Order::Discard(machine(), there()));
        assert_eq!(discards, destroyed, "{seen:?}: {out:?}");
    }
}

#[test]
fn an_id_or_a_machine_that_is_known_here_is_refused() {
    let (new, other) = (HandoffId(99), MachineId::new("other").unwrap());
    let known = |side: &Side, id: HandoffId, machine: &MachineId| {
        side.handoffs.refusal(id, machine).map(|(reason, _)| reason)
    };
    for side in [holding(), transferring(Commit::Strict), released_source()] {
        assert_eq!(known(&side, ID, &other), Some(Reason::AlreadyHere), "a handoff under way");
        assert_eq!(known(&side, new, &machine()), Some(Reason::UnderWay));
        assert_eq!(known(&side, new, &other), None);
    }
    let side = claimed();
    assert_eq!(known(&side, ID, &other), Some(Reason::AlreadyHere), "claimed by it");
    let mut side = released_source();
    side.hear(Pass::Claimed);
    assert_eq!(known(&side, ID, &other), Some(Reason::AlreadyHere), "released by it");
    // It may come back by another one: what the hypervisor has of it is looked at first.
    assert_eq!(known(&side, new, &machine()), None);
}

#[test]
fn no_room_is_promised_for_a_machine_that_the_hypervisor_knows() {
    use Presence::{Defined, Held, Incoming, Leaving, Paused, Running, Stranded};
    for seen in [Defined, Incoming, Held, Paused, Stranded, Leaving, Running] {
        let mut side = Side::new("target");
        let agreement = agreement(&side.host);
        let offer = Offer {
            agreement,
            commit: Commit::Strict,
            autostart: false,
            ticket: Some(TICKET),
            past: None,
        };
        let out = side.act(|h, turn| h.take(ID, offer, "qemu:///target".to_owned(), turn));
        assert!(looks(&out) && said(&out).is_empty(), "{out:?}");
        let out = side.saw(Sight::new(seen, Stamp::default()));
        let [Pass::Refused { reason: Reason::AlreadyHere, detail: Some(detail) }] = said(&out)[..]
        else {
            panic!("{seen:?}: {out:?}")
        };
        assert!(detail.contains("`target`"), "{detail}");
        assert!(side.phase().is_none() && side.host.holds.incoming.is_empty());
    }
}

#[test]
fn what_was_claimed_is_spared_even_by_a_handoff_of_the_same_id() {
    // A record of an earlier version, which took what it knew already.
    let mut durable = stored(&holding().act(|handoffs, turn| {
        let mut handoff = handoffs.iter().next().unwrap().clone();
        handoff.phase = Phase::Discarding;
        handoff.cancelled_for = Some(Reason::TimedOut);
        turn.persist(&handoff);
    }));
    durable.marks = claimed().handoffs.marks().cloned().collect();
    let (mut side, _) = Side::new("target").restarted(&durable);
    for seen in [Presence::Held, Presence::Paused, Presence::Defined] {
        side.timer();
        assert_eq!(orders(&side.looked(seen)), Vec::<&Order>::new(), "{seen:?}");
    }
}

#[test]
fn a_copy_that_another_host_has_sent_under_the_same_id_belongs_to_that_host() {
    // The reservation of one host has expired; another one has room kept by the same id, for the same
    // machine, and then what the first has sent arrives after all.
    use Presence::{Held, Incoming, Running};
    for seen in [Incoming, Held, Running] {
        for word in
            [cancelled(), released(), Pass::Refused { reason: Reason::TimedOut, detail: None }]
        {
            let mut side = reserved(Commit::Strict, false);
            side.hear(word.clone());
            let sight = Sight { from: Some(stranger()), ..Sight::new(seen, there()) };
            let out = side.saw(sight);
            assert_eq!(orders(&out), Vec::<&Order>::new(), "{word:?}, {seen:?}");
        }
    }
}

#[test]
fn a_handoff_of_one_id_does_not_replace_that_of_another_host() {
    let mut side = released_source();
    let mut agreement = agreement(&side.host);
    agreement.peer = stranger();
    agreement.candidate.machine = MachineId::new("other").unwrap();
    let offer =
        Offer { agreement, commit: Commit::Strict, autostart: false, ticket: None, past: None };
    assert!(side.handoffs.refusal(ID, &offer.agreement.candidate.machine).is_some());
    // Nor would it if it were not refused.
    side.act(|h, turn| h.take(ID, offer, "qemu:///x".to_owned(), turn));
    let out = side.hear(Pass::Holding { machine: machine(), ticket: Some(TICKET) });
    assert!(!said(&out).iter().any(|pass| matches!(pass, Pass::Cancel { .. })), "{out:?}");
    assert_eq!(ending(&side.hear(Pass::Claimed)), Some(Reason::Moved));
}

#[test]
fn a_reservation_expires_although_the_clock_was_set_back_meanwhile() {
    let side = reserved(Commit::Strict, false);
    let mut durable = Recovered::default();
    durable.keep(side.handoff().clone());
    let mut earlier = Side::new("target");
    earlier.now = Time::from_unix_ms(5);
    let (mut side, _) = earlier.restarted(&durable);
    side.timer();
    assert_eq!(ending(&side.looked(Presence::Absent)), None, "it waits anew");
    side.now = side.now + Limits::default().reservation_time;
    side.timer();
    assert_eq!(ending(&side.looked(Presence::Absent)), Some(Reason::ReservationExpired));
    // Nor is an alarm put off by a clock that was ahead.
    let mut durable = Recovered::default();
    durable.keep(holding().handoff().clone());
    let (mut side, _) = earlier.restarted(&durable);
    side.now = side.now + Duration::from_secs(60);
    assert!(side.handoff().is_alarming(side.now));
}

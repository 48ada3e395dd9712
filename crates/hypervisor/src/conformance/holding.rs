//! Claims about copies that are held back, let run and discarded, and about starting at boot.

use evenkeel_core::model::{Entry, HostId, MachineId};
use evenkeel_core::port::{Commit, Event, Failure, FailureKind, Migration, Order, Presence, Stamp};

use super::migrating::begin_slowly;
use super::watch::{QUIET, Watch, full_entry};
use super::{ANSWER_MAX, Guest, MIGRATION_MAX, Rig, SLOW_BYTES_PER_S, SLOW_SPAN};

/// Moves a machine to the second host, where it is held.
fn move_and_hold(w: &mut Watch<'_>, handoff: u64, id: &MachineId) -> Stamp {
    let (a, b) = (w.a.clone(), w.b.clone());
    let entry = full_entry(handoff);
    let migration = w.migration(handoff, id, &entry);
    w.order(Order::Migrate(Migration { commit: Commit::Strict, ..migration }));
    let ended = w.ended(&a, handoff, MIGRATION_MAX);
    assert!(ended.is_ok(), "{ended:?}");
    let stamp = Stamp::of(&entry);
    assert_eq!(w.copy(&b, id), Ok((Presence::Held, stamp)));
    assert_eq!(w.look(&a, id), Ok(Presence::Absent), "a copy is left here");
    stamp
}

type Answered = Result<(), FailureKind>;

fn resume(w: &mut Watch<'_>, host: &HostId, id: &MachineId, stamp: Stamp) -> Answered {
    w.rig.submit(host, Order::Resume(id.clone(), stamp));
    answered(w, host, "that it was let run", |event| match event {
        Event::Resumed(machine, answer) if machine == id => Some(answer.clone()),
        _ => None,
    })
}

fn discard(w: &mut Watch<'_>, host: &HostId, id: &MachineId, stamp: Stamp) -> Answered {
    w.rig.submit(host, Order::Discard(id.clone(), stamp));
    answered(w, host, "that it was discarded", |event| match event {
        Event::Discarded(machine, answer) if machine == id => Some(answer.clone()),
        _ => None,
    })
}

fn set_autostart(w: &mut Watch<'_>, host: &HostId, id: &MachineId, wanted: bool) -> Answered {
    w.rig.submit(host, Order::SetAutostart(id.clone(), wanted));
    answered(w, host, "that autostart was set", |event| match event {
        Event::AutostartSet(machine, told, answer) if machine == id && *told == wanted => {
            Some(answer.clone())
        }
        _ => None,
    })
}

fn start(w: &mut Watch<'_>, host: &HostId, id: &MachineId, stamp: Stamp) -> Answered {
    w.rig.submit(host, Order::Start(id.clone(), stamp));
    answered(w, host, "that it was started", |event| match event {
        Event::Started(machine, answer) if machine == id => Some(answer.clone()),
        _ => None,
    })
}

fn answered(
    w: &mut Watch<'_>,
    host: &HostId,
    what: &str,
    wanted: impl Fn(&Event) -> Option<Result<(), Failure>>,
) -> Answered {
    w.until(host, what, ANSWER_MAX, wanted).map_err(|failure| failure.kind)
}

fn other(stamp: Stamp) -> Stamp {
    Stamp { handoff: None, ..stamp }
}

/// A look tells which copy it saw, of a machine that runs and of a definition.
pub fn a_look_tells_which_copy_is_here(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept"));
    assert_eq!(w.sight(&a, &id).map(|sight| sight.stamp), Ok(Stamp::default()));
    assert_eq!(w.write_entry(&id, &full_entry(3)), Ok(()));
    let stamp = Stamp::of(&full_entry(3));
    assert_eq!(w.copy(&a, &id), Ok((Presence::Running, stamp)));
    w.rig.stop(&a, &id);
    assert_eq!(w.copy(&a, &id), Ok((Presence::Defined, stamp)));
}

/// What arrives strictly does not run until it is ordered to, and to order it twice does no harm.
pub fn a_machine_that_arrives_strictly_is_held_until_it_is_let_run(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    for (handoff, guest) in [(1, Guest::new("kept")), (2, Guest::new("passing").transient())] {
        let id = w.rig.boot(&a, &Guest { burn: 0.9, ..guest });
        let stamp = move_and_hold(&mut w, handoff, &id);
        let before = w.counters(&b, &id).cpu_time_ns;
        w.rig.pass(std::time::Duration::from_secs(2));
        // The emulator itself uses a little.
        let idle = w.counters(&b, &id).cpu_time_ns - before;
        assert!(idle < 400_000_000, "it used {idle} ns in 2 s while it was held");
        assert_eq!(resume(&mut w, &b, &id, other(stamp)), Err(FailureKind::Refused));
        assert_eq!(w.look(&b, &id), Ok(Presence::Held), "another copy was meant");
        assert_eq!(resume(&mut w, &b, &id, stamp), Ok(()));
        w.assert_runs_only_on(&b, &a, &id);
        assert_eq!(resume(&mut w, &b, &id, stamp), Ok(()), "a second time");
        assert_eq!(resume(&mut w, &a, &id, stamp), Err(FailureKind::NoSuchMachine));
    }
}

/// What ran a machine that is held elsewhere is said to have ended once, and not after the answer; what
/// still runs one is not.
pub fn the_end_of_what_ran_a_machine_is_told_before_its_migration_is_answered(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let gone = |event: &Event| matches!(event, Event::EmulatorGone(_));
    let strictly = |w: &mut Watch<'_>, handoff: u64, id: &MachineId| {
        let migration = w.migration(handoff, id, &full_entry(handoff));
        Migration { commit: Commit::Strict, ..migration }
    };
    let stays = w.rig.boot(&a, &Guest::new("stays").slow_to_move());
    let slowly = strictly(&mut w, 1, &stays);
    w.order(Order::Migrate(Migration { bandwidth_bytes_per_s: Some(SLOW_BYTES_PER_S), ..slowly }));
    w.until(&a, "progress", SLOW_SPAN, |e| matches!(e, Event::Progress(..)).then_some(()));
    w.order(Order::Abort(stays.clone()));
    assert!(w.ended(&a, 1, SLOW_SPAN).is_err());
    w.settles(&a, &stays, Presence::Running);
    let rest = w.rest(&a, QUIET);
    assert!(!rest.iter().any(gone), "it runs: {rest:?}");

    let leaves = w.rig.boot(&a, &Guest::new("leaves"));
    let migration = strictly(&mut w, 2, &leaves);
    w.order(Order::Migrate(migration));
    let first = w.until(&a, "that what ran it has ended", MIGRATION_MAX, |event| match event {
        Event::EmulatorGone(id) | Event::MigrationEnded(id, _) => Some((id.0, gone(event))),
        _ => None,
    });
    assert_eq!(first, (2, true), "it is answered first");
    w.settles(&b, &leaves, Presence::Held);
    assert!(w.ended(&a, 2, MIGRATION_MAX).is_ok());
    let rest = w.rest(&a, QUIET);
    assert!(!rest.iter().any(gone), "told twice: {rest:?}");
}

/// A copy that is held can be destroyed, definition and all, and only by its stamp.
pub fn a_held_copy_can_be_discarded(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    for (handoff, guest) in [(1, Guest::new("kept")), (2, Guest::new("passing").transient())] {
        let id = w.rig.boot(&a, &guest);
        let stamp = move_and_hold(&mut w, handoff, &id);
        assert_eq!(discard(&mut w, &b, &id, other(stamp)), Err(FailureKind::Refused));
        assert_eq!(w.look(&b, &id), Ok(Presence::Held), "another copy was meant");
        assert_eq!(discard(&mut w, &b, &id, stamp), Ok(()));
        assert_eq!(w.look(&b, &id), Ok(Presence::Absent));
        assert_eq!(discard(&mut w, &b, &id, stamp), Ok(()), "a second time");
    }
}

/// What runs is never discarded; a definition without a machine is.
pub fn what_runs_is_never_discarded(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept"));
    assert_eq!(discard(&mut w, &a, &id, Stamp::default()), Err(FailureKind::Refused));
    assert_eq!(w.look(&a, &id), Ok(Presence::Running));
    w.rig.stop(&a, &id);
    let stamp = Stamp::of(&full_entry(1));
    assert_eq!(discard(&mut w, &a, &id, stamp), Err(FailureKind::Refused));
    assert_eq!(w.look(&a, &id), Ok(Presence::Defined));
    assert_eq!(discard(&mut w, &a, &id, Stamp::default()), Ok(()));
    assert_eq!(w.look(&a, &id), Ok(Presence::Absent));
}

/// A machine that is on its way shows there as one that is arriving; to discard that copy ends the
/// migration, and the machine runs on here.
pub fn a_copy_that_is_arriving_can_be_discarded(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept").slow_to_move());
    let migration = begin_slowly(&mut w, 1, &id);
    let stamp = Stamp::of(&migration.entry);
    assert_eq!(w.copy(&b, &id), Ok((Presence::Incoming, stamp)));
    assert_eq!(resume(&mut w, &b, &id, stamp), Err(FailureKind::Refused), "it is not complete");
    assert_eq!(discard(&mut w, &b, &id, other(stamp)), Err(FailureKind::Refused));
    assert_eq!(discard(&mut w, &b, &id, stamp), Ok(()));
    assert!(w.ended(&a, 1, SLOW_SPAN).is_err());
    w.settles(&a, &id, Presence::Running);
    w.settles(&b, &id, Presence::Absent);
}

/// What is defined and off can be started, by its stamp, and to order it twice does no harm.
pub fn what_is_defined_and_off_can_be_started(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept"));
    assert_eq!(w.write_entry(&id, &full_entry(3)), Ok(()));
    let stamp = Stamp::of(&full_entry(3));
    assert_eq!(start(&mut w, &a, &id, stamp), Ok(()), "it runs");
    assert_eq!(start(&mut w, &b, &id, stamp), Err(FailureKind::NoSuchMachine));
    w.rig.stop(&a, &id);
    assert_eq!(start(&mut w, &a, &id, other(stamp)), Err(FailureKind::Refused));
    assert_eq!(w.look(&a, &id), Ok(Presence::Defined), "another copy was meant");
    assert_eq!(start(&mut w, &a, &id, stamp), Ok(()));
    assert_eq!(w.copy(&a, &id), Ok((Presence::Running, stamp)));
    assert_eq!(start(&mut w, &a, &id, stamp), Ok(()), "a second time");
}

/// A copy that waits for its source's word is not let run by an order to start it, and neither is one
/// that is still arriving.
pub fn what_is_held_or_arriving_cannot_be_started(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept"));
    let stamp = move_and_hold(&mut w, 1, &id);
    assert_eq!(start(&mut w, &b, &id, stamp), Err(FailureKind::Refused));
    assert_eq!(w.look(&b, &id), Ok(Presence::Held));
    let id = w.rig.boot(&a, &Guest::new("slow").slow_to_move());
    let migration = begin_slowly(&mut w, 2, &id);
    let stamp = Stamp::of(&migration.entry);
    assert_eq!(start(&mut w, &b, &id, stamp), Err(FailureKind::Refused));
    assert_eq!(w.look(&b, &id), Ok(Presence::Incoming));
    assert_eq!(discard(&mut w, &b, &id, stamp), Ok(()));
    assert!(w.ended(&a, 2, SLOW_SPAN).is_err());
    w.settles(&a, &id, Presence::Running);
}

/// Whether a host starts a machine at boot is told and can be changed, and does not travel.
pub fn starting_at_boot_can_be_changed_and_does_not_travel(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let kept = w.rig.boot(&a, &Guest::new("kept"));
    let passing = w.rig.boot(&a, &Guest::new("passing").transient());
    let told = |w: &mut Watch<'_>, host: &HostId, id: &MachineId| {
        w.measured(host, id).map(|machine| machine.facts.autostart)
    };
    assert_eq!(told(&mut w, &a, &kept), Some(false));
    for wanted in [true, false, true] {
        assert_eq!(set_autostart(&mut w, &a, &kept, wanted), Ok(()));
        assert_eq!(told(&mut w, &a, &kept), Some(wanted));
    }
    assert_eq!(set_autostart(&mut w, &a, &passing, true), Err(FailureKind::Refused));
    assert_eq!(set_autostart(&mut w, &a, &passing, false), Ok(()));
    assert_eq!(set_autostart(&mut w, &b, &kept, true), Err(FailureKind::NoSuchMachine));
    let migration = w.migration(1, &kept, &Entry::default());
    w.order(Order::Migrate(migration));
    assert!(w.ended(&a, 1, MIGRATION_MAX).is_ok());
    assert_eq!(told(&mut w, &b, &kept), Some(false));
}

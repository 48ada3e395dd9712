//! Claims about measuring, looking and entries.

use std::time::Duration;

use evenkeel_core::model::{Entry, Epoch, MachineId, Requirements};
use evenkeel_core::port::{
    Event, Examination, FailureKind, HandoffId, LookId, Migration, Order, Presence, Rewrite, Stamp,
    Unfit,
};

use super::watch::{QUIET, Watch, full_entry};
use super::{ANSWER_MAX, Guest, Rig, SLOW_BYTES_PER_S};

/// Long enough for counters to move.
const A_WHILE: Duration = Duration::from_secs(2);

fn nobody() -> MachineId {
    let id = "00000000-dead-4bad-8bad-000000000000";
    MachineId::new(id).unwrap_or_else(|error| panic!("{error}"))
}

/// A sample holds every machine of the host, running or not, and what they consumed.
pub fn a_sample_lists_every_machine_with_counters_that_grow(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let busy = w.rig.boot(&a, &Guest { burn: 0.5, ..Guest::new("busy") });
    let idle = w.rig.boot(&a, &Guest { burn: 0.0, ..Guest::new("idle") }.transient());
    let off = w.rig.boot(&a, &Guest::new("off"));
    w.rig.stop(&a, &off);

    let first = w.sample(&a);
    let (busy_before, idle_before) = (w.counters(&a, &busy), w.counters(&a, &idle));
    w.rig.pass(A_WHILE);
    let second = w.sample(&a);
    let (busy_after, idle_after) = (w.counters(&a, &busy), w.counters(&a, &idle));

    let ids: Vec<_> = first.machines.iter().map(|m| m.facts.id.clone()).collect();
    assert!(ids.is_sorted(), "machines are listed by id: {ids:?}");
    for (id, presence) in
        [(&busy, Presence::Running), (&idle, Presence::Running), (&off, Presence::Defined)]
    {
        let found = first.machines.iter().find(|m| m.facts.id == *id);
        let found = found.unwrap_or_else(|| panic!("`{id}` is not in {ids:?}"));
        assert_eq!(found.presence, presence, "of `{}`", found.facts.name);
        assert_eq!(found.counters.is_some(), presence == Presence::Running);
    }
    let span_ns = second.at.since(first.at).as_nanos() as f64;
    let burned = (busy_after.cpu_time_ns - busy_before.cpu_time_ns) as f64;
    let idled = (idle_after.cpu_time_ns - idle_before.cpu_time_ns) as f64;
    assert!(span_ns >= A_WHILE.as_nanos() as f64 * 0.9, "only {span_ns} ns passed");
    assert!(burned > idled && burned > span_ns * 0.1, "{burned} of {span_ns} ns burned");
    assert!(burned < span_ns * 1.5, "one virtual CPU burned {burned} ns in {span_ns}");
    assert!(busy_after.memory_bytes > 0, "a running machine occupies memory");
}

/// Facts of host and machine are complete and plausible.
pub fn a_sample_says_what_host_and_machine_are(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let kept = w.rig.boot(&a, &Guest::new("kept"));
    let passing = w.rig.boot(&a, &Guest::new("passing").transient());

    let host = w.sample(&a).facts;
    assert!(host.capacity.is_plausible(), "{:?}", host.capacity);
    assert!(host.capacity.cpu_cores >= 1.0 && host.capacity.memory_bytes >= 1e6);
    assert!(!host.migration_uri.is_empty());
    assert_ne!(host.migration_uri, w.sample(&b).facts.migration_uri);

    for (id, name, persistent) in [(kept, "kept", true), (passing, "passing", false)] {
        let found = w.measured(&a, &id);
        let facts = found.unwrap_or_else(|| panic!("`{name}` is not in the sample")).facts;
        assert_eq!((&*facts.name, facts.vcpus, facts.persistent), (name, 1, persistent));
        assert!((facts.memory_bytes - f64::from(32 << 20)).abs() < 1.0, "{}", facts.memory_bytes);
        assert!(!facts.needs.local_storage, "a machine without disks needs no storage");
        // Of another host: none takes what is on itself already.
        let needs = Requirements { host_uuid: None, ..facts.needs.clone() };
        assert_eq!(host.provides.meets(&needs), Ok(()), "a host provides what runs on it");
        assert_eq!(facts.entry, Ok(Entry::default()), "where none was written");
    }
}

/// A look tells whether a machine is here and runs.
pub fn a_look_tells_what_is_here(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let kept = w.rig.boot(&a, &Guest::new("kept"));
    let passing = w.rig.boot(&a, &Guest::new("passing").transient());
    w.assert_runs_only_on(&a, &b, &kept);
    w.rig.stop(&a, &kept);
    w.rig.stop(&a, &passing);
    assert_eq!(w.look(&a, &kept), Ok(Presence::Defined));
    assert_eq!(w.look(&a, &passing), Ok(Presence::Absent));
    assert_eq!(w.look(&a, &nobody()), Ok(Presence::Absent));
}

/// What is written is read, of persistent and transient machines, running or not.
pub fn an_entry_reads_back_as_it_was_written(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let kept = w.rig.boot(&a, &Guest::new("kept"));
    let passing = w.rig.boot(&a, &Guest::new("passing").transient());
    let off = w.rig.boot(&a, &Guest::new("off"));
    w.rig.stop(&a, &off);
    for id in [&kept, &passing, &off] {
        for entry in [full_entry(1), Entry::default(), full_entry(u64::MAX)] {
            assert_eq!(w.write_entry(id, &entry), Ok(()));
            assert_eq!(w.entry(&a, id), Ok(entry));
        }
    }
    // Somebody else has changed it since it was read: nothing is written.
    let over = Some(full_entry(7));
    let stale = w.rewrite(&kept, Rewrite { over, entry: Entry::default() });
    assert_eq!(stale.map_err(|failure| failure.kind), Err(FailureKind::Changed));
    assert_eq!(w.entry(&a, &kept), Ok(full_entry(u64::MAX)));
    let over = Some(full_entry(u64::MAX));
    assert_eq!(w.rewrite(&kept, Rewrite { over, entry: full_entry(8) }), Ok(()));
    assert_eq!(w.entry(&a, &kept), Ok(full_entry(8)));
    let refused = w.write_entry(&nobody(), &Entry::default());
    assert_eq!(refused.map_err(|failure| failure.kind), Err(FailureKind::NoSuchMachine));
}

/// The entry of a persistent machine is part of its definition.
pub fn an_entry_outlives_a_stop_and_a_start(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept"));
    assert_eq!(w.write_entry(&id, &full_entry(5)), Ok(()));
    w.rig.stop(&a, &id);
    assert_eq!(w.entry(&a, &id), Ok(full_entry(5)));
    w.rig.start(&a, &id);
    assert_eq!(w.entry(&a, &id), Ok(full_entry(5)));
    assert_eq!(w.look(&a, &id), Ok(Presence::Running));
}

/// A text that is no entry is not taken for an empty one.
pub fn an_entry_that_is_nonsense_is_reported_and_can_be_rewritten(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept"));
    w.forget_schedule_changes(&a);
    w.rig.spoil_entry(&a, &id);
    w.schedule_changed(&a, &id);
    let refused = w.entry(&a, &id);
    let text = refused.expect_err("an epoch of `abc` was taken for an entry");
    assert!(text.contains("epoch") && text.contains("abc"), "`{text}` does not say what is wrong");
    assert_eq!(w.write_entry(&id, &full_entry(1)), Ok(()));
    assert_eq!(w.entry(&a, &id), Ok(full_entry(1)));
}

/// Whatever an operator does to a machine is told without being asked for.
pub fn what_happens_to_a_machine_is_told(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let a = w.a.clone();
    let id = w.rig.boot(&a, &Guest::new("kept"));
    w.schedule_changed(&a, &id);
    w.forget_schedule_changes(&a);
    w.rig.stop(&a, &id);
    w.schedule_changed(&a, &id);
    w.forget_schedule_changes(&a);
    w.rig.start(&a, &id);
    w.schedule_changed(&a, &id);
    w.forget_schedule_changes(&a);
    w.rig.spoil_entry(&a, &id);
    w.schedule_changed(&a, &id);
}

/// A hypervisor that dies leaves no order without an answer, and works again when it is back.
pub fn every_order_is_answered_when_the_hypervisor_dies(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept").slow_to_move());
    let mut migration = w.migration(1, &id, &Entry::default());
    migration.bandwidth_bytes_per_s = Some(SLOW_BYTES_PER_S);
    w.order(Order::Migrate(migration.clone()));
    w.until(&a, "progress", ANSWER_MAX, |event| {
        matches!(event, Event::Progress(HandoffId(1), _)).then_some(())
    });
    w.rig.sever(&a);
    w.until(&a, "that it is gone", ANSWER_MAX, |event| {
        matches!(event, Event::Disconnected(_)).then_some(())
    });
    let unreachable = Err(FailureKind::Unreachable);
    assert_eq!(w.ended(&a, 1, ANSWER_MAX).map_err(|failure| failure.kind), unreachable);
    let second = Migration { handoff: HandoffId(2), ..migration };
    let orders = [
        Order::Abort(id.clone()),
        Order::Sample,
        Order::Look(id.clone(), LookId(7)),
        Order::WriteEntry(id.clone(), Entry::default().into()),
        Order::Migrate(second),
        Order::Resume(id.clone(), Stamp::default()),
        Order::Discard(id.clone(), Stamp::default()),
        Order::SetAutostart(id.clone(), false),
        Order::Start(id.clone(), Stamp::default()),
        Order::Examine(Examination {
            handoff: HandoffId(3),
            machine: id.clone(),
            name: None,
            needs: Requirements::default(),
        }),
    ];
    for order in orders {
        w.order(order);
    }
    assert_eq!(w.ended(&a, 2, ANSWER_MAX).map_err(|failure| failure.kind), unreachable);
    w.until(&a, "that a sample failed", ANSWER_MAX, |event| match event {
        Event::Sampled(Err(failure)) if failure.kind == FailureKind::Unreachable => Some(()),
        _ => None,
    });
    w.until(&a, "that a look failed", ANSWER_MAX, |event| match event {
        Event::Looked(_, LookId(7), Err(failure)) if failure.kind == FailureKind::Unreachable => {
            Some(())
        }
        _ => None,
    });
    w.until(&a, "that a write failed", ANSWER_MAX, |event| match event {
        Event::EntryWritten(_, Err(failure)) if failure.kind == FailureKind::Unreachable => {
            Some(())
        }
        _ => None,
    });
    for what in ["resume", "discard", "autostart", "start"] {
        w.until(&a, &format!("that `{what}` failed"), ANSWER_MAX, |event| {
            let (Event::Resumed(_, Err(failure))
            | Event::Discarded(_, Err(failure))
            | Event::Started(_, Err(failure))
            | Event::AutostartSet(_, _, Err(failure))) = event
            else {
                return None;
            };
            (failure.kind == FailureKind::Unreachable).then_some(())
        });
    }

    w.until(&a, "that an examination failed", ANSWER_MAX, |event| match event {
        Event::Examined(HandoffId(3), Err(Unfit::NotTold(failure)))
            if failure.kind == FailureKind::Unreachable =>
        {
            Some(())
        }
        _ => None,
    });

    w.rig.restore(&a);
    w.until(&a, "that it is back", ANSWER_MAX, |event| {
        matches!(event, Event::Connected).then_some(())
    });
    // The machine outlives its hypervisor, and what had arrived of it there is cleared away.
    w.settles(&a, &id, Presence::Running);
    w.settles(&b, &id, Presence::Absent);
    let entry = Entry { epoch: Epoch(7), ..Entry::default() };
    assert_eq!(w.write_entry(&id, &entry), Ok(()));
    assert_eq!(w.entry(&a, &id), Ok(entry));
    let answers: Vec<Event> = w
        .rest(&a, QUIET)
        .into_iter()
        .filter(|e| !matches!(e, Event::ScheduleChanged(_) | Event::Progress(..)))
        .collect();
    assert!(answers.is_empty(), "answered more than once: {answers:?}");
}

use std::time::Duration;

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{DiskPlace, LocalDisk, Locks, Provides, Requirements, Resources};
use evenkeel_core::port::{
    Commit, Counters, Examination, HandoffId, HostSample, Migration, MigrationStats,
};

use super::*;
use crate::conformance::{Guest, Rig};

const MIB: f64 = 1_048_576.0;

fn host_id(name: &str) -> HostId {
    HostId::new(name).unwrap()
}

fn machine_id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

fn facts(name: &str, memory_bytes: f64, vcpus: u32, persistent: bool) -> MachineFacts {
    MachineFacts {
        id: machine_id(name),
        name: name.into(),
        vcpus,
        memory_bytes,
        needs: Requirements::default(),
        persistent,
        autostart: false,
        locks: Locks::default(),
        entry: Ok(Entry::default()),
    }
}

/// A cloud of two hosts as the conformance suite sees it.
struct MemoryRig {
    cloud: MemoryCloud,
    waiting: VecDeque<(HostId, Event)>,
}

impl MemoryRig {
    fn boxed() -> Box<dyn Rig> {
        let capacity =
            Resources { cpu_cores: 4.0, memory_bytes: 1024.0 * MIB, io_bytes_per_s: 100.0 * MIB };
        let mut cloud = MemoryCloud::new(Time::from_unix_ms(1_000_000));
        for name in ["h1", "h2"] {
            let mut host = MemoryHost::new(host_id(name), capacity);
            host.reaping = Duration::from_millis(200);
            host.facts.provides = Provides {
                machine_types: ["pc".to_owned()].into(),
                networks: Some([].into()),
                ..Provides::default()
            };
            cloud.add_host(host).unwrap();
        }
        Box::new(Self { cloud, waiting: VecDeque::new() })
    }

    /// Takes the next event of a host that has happened already.
    fn take(&mut self, host: &HostId) -> Option<Event> {
        while let Some(event) = self.cloud.next_event() {
            self.waiting.push_back(event);
        }
        let index = self.waiting.iter().position(|(to, _)| to == host)?;
        self.waiting.remove(index).map(|(_, event)| event)
    }
}

impl Rig for MemoryRig {
    fn hosts(&self) -> Vec<HostId> {
        vec![host_id("h1"), host_id("h2")]
    }

    fn submit(&mut self, host: &HostId, order: Order) {
        self.cloud.on(host).unwrap().submit(order);
    }

    fn next_event(&mut self, host: &HostId, limit: Duration) -> Option<Event> {
        let end = self.cloud.now() + limit;
        loop {
            if let Some(event) = self.take(host) {
                return Some(event);
            }
            match self.cloud.next_due().filter(|due| *due <= end) {
                Some(due) => self.cloud.advance_to(due),
                None => {
                    self.cloud.advance_to(end);
                    return None;
                }
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        self.cloud.advance_to(self.cloud.now() + span);
    }

    fn boot(&mut self, host: &HostId, guest: &Guest) -> MachineId {
        let memory_bytes = guest.memory_bytes as f64;
        let facts = facts(guest.name, memory_bytes, 1, guest.persistent);
        let id = facts.id.clone();
        let wants = Resources { cpu_cores: guest.burn, memory_bytes, io_bytes_per_s: 0.0 };
        let workload = Workload { wants, dirty_bytes_per_s: guest.dirties_bytes as f64 };
        self.cloud.place(host, facts, workload, true).unwrap();
        id
    }

    fn stop(&mut self, _: &HostId, machine: &MachineId) {
        self.cloud.stop(machine).unwrap();
    }

    fn start(&mut self, _: &HostId, machine: &MachineId) {
        self.cloud.start(machine).unwrap();
    }

    fn spoil_entry(&mut self, _: &HostId, machine: &MachineId) {
        self.cloud.edit_entry(machine, Err("`epoch` is `abc`".to_owned())).unwrap();
    }

    fn sever(&mut self, host: &HostId) {
        self.cloud.disconnect(host).unwrap();
    }

    fn restore(&mut self, host: &HostId) {
        self.cloud.reconnect(host).unwrap();
    }
}

mod conformance {
    crate::conformance_tests!(super::MemoryRig::boxed);
}

/// Three hosts of two cores, `m` of 1000 MiB on the first, reached over links of 100 MiB/s.
fn three_hosts() -> MemoryCloud {
    let capacity = Resources { cpu_cores: 2.0, memory_bytes: 1e10, io_bytes_per_s: 10.0 * MIB };
    let mut cloud = MemoryCloud::new(Time::from_unix_ms(0));
    for name in ["h1", "h2", "h3"] {
        let host = MemoryHost::new(host_id(name), capacity);
        cloud.add_host(MemoryHost { link_bytes_per_s: 100.0 * MIB, ..host }).unwrap();
    }
    cloud.place(&host_id("h1"), facts("m", 1000.0 * MIB, 2, true), wants(1.0), true).unwrap();
    drain(&mut cloud);
    cloud
}

fn wants(cpu_cores: f64) -> Workload {
    let wants = Resources { cpu_cores, memory_bytes: 1000.0 * MIB, io_bytes_per_s: 0.0 };
    Workload { wants, dirty_bytes_per_s: 0.0 }
}

fn drain(cloud: &mut MemoryCloud) -> Vec<(HostId, Event)> {
    std::iter::from_fn(|| cloud.next_event()).collect()
}

fn migrate(cloud: &mut MemoryCloud, machine: &str, from: &str, to: &str) {
    let here = host_id(from);
    let mut facts = cloud.machines_on(&here).map(|(facts, _)| facts);
    let needs =
        facts.find(|facts| facts.id == machine_id(machine)).map(|facts| facts.needs.clone());
    drop(facts);
    migrate_as(cloud, machine, from, to, (needs.unwrap_or_default(), Vec::new()));
}

/// With what was agreed on.
fn migrate_as(
    cloud: &mut MemoryCloud,
    machine: &str,
    from: &str,
    to: &str,
    (needs, disks): (Requirements, Vec<DiskPlace>),
) {
    let migration = Migration {
        handoff: HandoffId(1),
        machine: machine_id(machine),
        to: host_id(to),
        uri: format!("memory:///{to}"),
        entry: Entry::default(),
        commit: Commit::Fast,
        bandwidth_bytes_per_s: None,
        needs,
        disks,
    };
    cloud.on(&host_id(from)).unwrap().submit(Order::Migrate(migration));
}

fn outcome(cloud: &mut MemoryCloud) -> Option<Result<MigrationStats, FailureKind>> {
    drain(cloud).into_iter().find_map(|(_, event)| match event {
        Event::MigrationEnded(_, outcome) => Some(outcome.map_err(|failure| failure.kind)),
        _ => None,
    })
}

fn sample(cloud: &mut MemoryCloud, host: &str) -> HostSample {
    cloud.on(&host_id(host)).unwrap().submit(Order::Sample);
    let found = drain(cloud).into_iter().find_map(|(_, event)| match event {
        Event::Sampled(sample) => sample.ok(),
        _ => None,
    });
    found.unwrap()
}

fn counters(cloud: &mut MemoryCloud, host: &str, machine: &str) -> Counters {
    let sample = sample(cloud, host);
    let found = sample.machines.iter().find(|m| m.facts.id == machine_id(machine));
    found.unwrap().counters.unwrap()
}

#[test]
fn a_migration_ends_when_its_bytes_are_through() {
    let mut cloud = three_hosts();
    migrate(&mut cloud, "m", "h1", "h2");
    let end = Time::from_unix_ms(0) + PREPARATION + Duration::from_secs(10);
    cloud.advance_to(end - Duration::from_millis(1));
    assert_eq!(outcome(&mut cloud), None);
    assert_eq!(cloud.locate(&machine_id("m")), Some((&host_id("h1"), Presence::Leaving)));
    assert_eq!(cloud.next_due(), Some(end));
    cloud.advance_to(end);
    let stats = outcome(&mut cloud).unwrap().unwrap();
    assert_eq!((stats.elapsed_ms, stats.bytes), (10_200, (1000.0 * MIB) as u64));
    assert_eq!(cloud.locate(&machine_id("m")), Some((&host_id("h2"), Presence::Running)));
    assert_eq!(cloud.next_due(), None);
}

#[test]
fn migrations_share_the_link_that_they_have_in_common() {
    let mut cloud = three_hosts();
    cloud.place(&host_id("h2"), facts("n", 500.0 * MIB, 1, true), wants(0.5), true).unwrap();
    migrate(&mut cloud, "m", "h1", "h2");
    migrate(&mut cloud, "n", "h2", "h3");
    // Half a link each for 10 s: `n` is through, and `m` has the whole one for what is left.
    for (ms, machine, at) in [(10_200, "n", "h3"), (15_200, "m", "h2")] {
        cloud.advance_to(Time::from_unix_ms(ms - 1));
        assert_ne!(cloud.locate(&machine_id(machine)).unwrap().0, &host_id(at), "too early");
        cloud.advance_to(Time::from_unix_ms(ms));
        assert_eq!(cloud.locate(&machine_id(machine)).unwrap().0, &host_id(at));
    }
}

#[test]
fn a_migration_takes_processor_time_from_the_machines_of_both_hosts() {
    let capacity = Resources { cpu_cores: 2.0, memory_bytes: 1e10, io_bytes_per_s: MIB };
    let mut cloud = MemoryCloud::new(Time::from_unix_ms(0));
    for name in ["h1", "h2"] {
        let host = MemoryHost::new(host_id(name), capacity);
        let link_bytes_per_s = 100.0 * MIB;
        cloud.add_host(MemoryHost { migration_cores: 1.0, link_bytes_per_s, ..host }).unwrap();
        let busy = facts(&format!("busy-{name}"), MIB, 2, true);
        cloud.place(&host_id(name), busy, wants(2.0), true).unwrap();
    }
    cloud.place(&host_id("h1"), facts("m", 1000.0 * MIB, 1, true), wants(0.0), true).unwrap();
    migrate(&mut cloud, "m", "h1", "h2");
    cloud.advance_to(Time::from_unix_ms(10_000));
    assert_eq!(cloud.wanted_on(&host_id("h1")).cpu_cores, 3.0);
    for host in ["h1", "h2"] {
        let used = counters(&mut cloud, host, &format!("busy-{host}"));
        assert_eq!(used.cpu_time_ns, 10_000_000_000, "half of two cores on {host}");
    }
}

#[test]
fn machines_that_want_more_than_there_is_share_it_and_wait_for_the_rest() {
    let mut cloud = three_hosts();
    cloud.place(&host_id("h1"), facts("n", MIB, 8, false), wants(3.0), true).unwrap();
    cloud.advance_to(Time::from_unix_ms(10_000));
    // 4 cores wanted, 2 there: everybody gets half.
    for (machine, wanted) in [("m", 1.0), ("n", 3.0)] {
        let used = counters(&mut cloud, "h1", machine);
        assert_eq!(used.cpu_time_ns, (wanted * 5e9) as u64, "{machine}");
        assert_eq!(used.cpu_delay_ns, Some((wanted * 5e9) as u64), "{machine}");
    }
    cloud.stop(&machine_id("n")).unwrap();
    cloud.advance_to(Time::from_unix_ms(20_000));
    assert_eq!(counters(&mut cloud, "h1", "m").cpu_time_ns, 15_000_000_000);
}

#[test]
fn a_machine_uses_no_more_than_its_virtual_cpus_and_longer_on_slow_cores() {
    let mut cloud = MemoryCloud::new(Time::from_unix_ms(0));
    let capacity = Resources { cpu_cores: 8.0, memory_bytes: 1e10, io_bytes_per_s: MIB };
    let slow = MemoryHost { cpu_speed: 0.5, ..MemoryHost::new(host_id("slow"), capacity) };
    cloud.add_host(slow).unwrap();
    for (name, vcpus) in [("wide", 4), ("narrow", 1)] {
        cloud.place(&host_id("slow"), facts(name, MIB, vcpus, true), wants(1.0), true).unwrap();
    }
    cloud.advance_to(Time::from_unix_ms(1_000));
    assert_eq!(counters(&mut cloud, "slow", "wide").cpu_time_ns, 2_000_000_000);
    assert_eq!(counters(&mut cloud, "slow", "narrow").cpu_time_ns, 1_000_000_000);
}

#[test]
fn an_injected_fault_strikes_once_and_when_it_was_told_to() {
    let mut cloud = three_hosts();
    let failure = Failure::new(FailureKind::Other, "cosmic ray");
    let fault = Fault { failure, after: 0.5, leaves: Aftermath::Here };
    cloud.fail_next_migration(&host_id("h1"), fault).unwrap();
    migrate(&mut cloud, "m", "h1", "h2");
    cloud.advance_to(Time::from_unix_ms(5_100));
    assert_eq!(outcome(&mut cloud), Some(Err(FailureKind::Other)));
    assert_eq!(cloud.locate(&machine_id("m")), Some((&host_id("h1"), Presence::Running)));
    migrate(&mut cloud, "m", "h1", "h2");
    cloud.advance_to(Time::from_unix_ms(60_000));
    assert!(outcome(&mut cloud).unwrap().is_ok());
}

#[test]
fn a_host_without_power_takes_its_machines_with_it_and_answers_nobody() {
    for (off, left, ended) in [
        ("h1", Presence::Defined, None),
        ("h2", Presence::Running, Some(Err(FailureKind::PeerRefused))),
    ] {
        let mut cloud = three_hosts();
        migrate(&mut cloud, "m", "h1", "h2");
        cloud.advance_to(Time::from_unix_ms(1_000));
        cloud.power_off(&host_id(off)).unwrap();
        cloud.on(&host_id(off)).unwrap().submit(Order::Sample);
        cloud.advance_to(Time::from_unix_ms(60_000));
        let events = drain(&mut cloud);
        assert!(events.iter().all(|(host, _)| *host != host_id(off)), "{events:?}");
        let told = events.into_iter().find_map(|(_, event)| match event {
            Event::MigrationEnded(_, outcome) => Some(outcome.map_err(|failure| failure.kind)),
            _ => None,
        });
        assert_eq!(told, ended);
        assert_eq!(cloud.locate(&machine_id("m")), Some((&host_id("h1"), left)));
        let (machine, host) = (machine_id("m"), host_id("h1"));
        let refused = (off == "h1").then_some(CloudError::NoPower { machine, host });
        assert_eq!(cloud.start(&machine_id("m")).err(), refused);
        cloud.reconnect(&host_id(off)).unwrap();
        assert_eq!(drain(&mut cloud), [(host_id(off), Event::Connected)]);
        assert_eq!(sample(&mut cloud, off).at, Time::from_unix_ms(60_000));
    }
}

#[test]
fn the_other_host_refuses_what_it_cannot_run() {
    let mut cloud = three_hosts();
    let mut picky = facts("picky", MIB, 1, true);
    picky.needs.storage = vec!["ceph".to_owned()];
    cloud.place(&host_id("h1"), picky, wants(0.1), true).unwrap();
    migrate(&mut cloud, "picky", "h1", "h3");
    cloud.advance_to(Time::from_unix_ms(60_000));
    assert_eq!(outcome(&mut cloud), Some(Err(FailureKind::PeerRefused)));
}

#[test]
fn a_machine_that_needs_more_than_was_agreed_on_is_not_begun() {
    let mut cloud = three_hosts();
    let mut grown = facts("grown", MIB, 1, true);
    grown.needs.devices = Some(vec!["a USB stick".to_owned()]);
    cloud.place(&host_id("h1"), grown, wants(0.1), true).unwrap();
    migrate_as(&mut cloud, "grown", "h1", "h3", Default::default());
    assert_eq!(outcome(&mut cloud), Some(Err(FailureKind::NeedsChanged)));
}

#[test]
fn a_local_disk_travels_to_where_the_other_host_wants_it_and_takes_its_time() {
    let mut spans = Vec::new();
    for used_bytes in [0, 1 << 30] {
        let mut cloud = three_hosts();
        let mut facts = facts("local", MIB, 1, true);
        facts.needs.local_storage = true;
        let (name, pool) = ("vda".to_owned(), "images".to_owned());
        facts.needs.local_disks =
            Some(vec![LocalDisk { name, pool, used_bytes, ..LocalDisk::default() }]);
        let needs = facts.needs.clone();
        cloud.place(&host_id("h1"), facts, wants(0.1), true).unwrap();
        drain(&mut cloud);
        let order = Examination {
            handoff: HandoffId(9),
            machine: machine_id("local"),
            name: None,
            needs: needs.clone(),
        };
        let examine = |cloud: &mut MemoryCloud| {
            cloud.on(&host_id("h3")).unwrap().submit(Order::Examine(order.clone()));
            match drain(cloud).pop() {
                Some((_, Event::Examined(HandoffId(9), verdict))) => verdict,
                other => panic!("{other:?}"),
            }
        };
        let refused = examine(&mut cloud).map_err(|unfit| match unfit {
            Unfit::Lacks(missing) => missing.reason(),
            Unfit::NotTold(failure) => panic!("{failure:?}"),
        });
        assert_eq!(refused, Err(Reason::NoDiskRoom));
        let mut there = HostFacts::default();
        there.provides.pools.insert("images".to_owned());
        cloud.set_host_facts(&host_id("h3"), there).unwrap();
        let disks = examine(&mut cloud).unwrap();
        assert_eq!(disks[0].name, "vda");

        migrate_as(&mut cloud, "local", "h1", "h3", (needs.clone(), Vec::new()));
        cloud.advance_to(Time::from_unix_ms(60_000));
        assert_eq!(outcome(&mut cloud), Some(Err(FailureKind::PeerRefused)), "not said where to");
        let began = cloud.now();
        migrate_as(&mut cloud, "local", "h1", "h3", (needs, disks));
        cloud.advance_to(began + Duration::from_secs(600));
        spans.push(outcome(&mut cloud).unwrap().unwrap());
    }
    assert!(spans[1].bytes >= spans[0].bytes + (1 << 30), "{spans:?}");
    assert!(spans[1].elapsed_ms > spans[0].elapsed_ms, "{spans:?}");
}

#[test]
fn a_machine_that_stops_on_its_way_is_not_migrated() {
    let mut cloud = three_hosts();
    migrate(&mut cloud, "m", "h1", "h2");
    cloud.advance_to(Time::from_unix_ms(1_000));
    cloud.stop(&machine_id("m")).unwrap();
    assert_eq!(outcome(&mut cloud), Some(Err(FailureKind::NotRunning)));
    cloud.advance_to(Time::from_unix_ms(60_000));
    assert_eq!(cloud.locate(&machine_id("m")), Some((&host_id("h1"), Presence::Defined)));
}

#[test]
fn a_machine_is_never_placed_twice() {
    let mut cloud = three_hosts();
    let again = cloud.place(&host_id("h2"), facts("m", MIB, 1, true), wants(0.1), true);
    let (machine, host) = (machine_id("m"), host_id("h1"));
    assert_eq!(again, Err(CloudError::MachineExists { machine, host }));
    let again = cloud.add_host(MemoryHost::new(host_id("h1"), Resources::ZERO));
    assert_eq!(again, Err(CloudError::HostExists(host_id("h1"))));
}

//! Whatever is done to a cloud in memory, machines are neither lost nor doubled and every migration
//! is answered once.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::model::{
    Entry, Epoch, HostId, Locks, MachineFacts, MachineId, Requirements, Resources, Time,
};
use evenkeel_core::port::{Commit, Event, HandoffId, Migration, Order, Presence};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_hypervisor::memory::{MemoryCloud, MemoryHost, Workload};
use proptest::prelude::*;

const HOSTS: usize = 3;
const MACHINES: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Migrate { machine: usize, from: usize, to: usize },
    Abort { host: usize, machine: usize },
    Write { host: usize, machine: usize },
    Pause(usize),
    Start(usize),
    Stop(usize),
    Disconnect(usize),
    Reconnect(usize),
    PowerOff(usize),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (host, machine) = (0..HOSTS, 0..MACHINES);
    let step = prop_oneof![
        4 => (machine.clone(), host.clone(), host.clone())
            .prop_map(|(machine, from, to)| Step::Migrate { machine, from, to }),
        1 => (host.clone(), machine.clone()).prop_map(|(host, machine)| Step::Abort { host, machine }),
        1 => (host.clone(), machine.clone()).prop_map(|(host, machine)| Step::Write { host, machine }),
        1 => machine.clone().prop_map(Step::Pause),
        2 => machine.clone().prop_map(Step::Start),
        1 => machine.prop_map(Step::Stop),
        1 => host.clone().prop_map(Step::Disconnect),
        2 => host.clone().prop_map(Step::Reconnect),
        1 => host.prop_map(Step::PowerOff),
        4 => (0u64..2_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..60)
}

fn host(index: usize) -> HostId {
    HostId::new(&format!("h{index}")).expect("it is there")
}

fn machine(index: usize) -> MachineId {
    MachineId::new(&format!("m{index}")).expect("it is there")
}

fn cloud() -> MemoryCloud {
    let mut cloud = MemoryCloud::new(Time::from_unix_ms(0));
    let capacity = Resources { cpu_cores: 2.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
    for index in 0..HOSTS {
        let (link_bytes_per_s, reaping) = (1e8, Duration::from_millis(200));
        let host = MemoryHost::new(host(index), capacity);
        let added = MemoryHost { link_bytes_per_s, reaping, ..host };
        cloud.add_host(added).expect("it is there");
    }
    for index in 0..MACHINES {
        let memory_bytes = 1e8;
        let facts = MachineFacts {
            id: machine(index),
            name: "m".into(),
            vcpus: 1,
            memory_bytes,
            needs: Requirements::default(),
            persistent: true,
            autostart: false,
            locks: Locks::default(),
            entry: Ok(Entry::default()),
        };
        let wants = Resources { cpu_cores: 0.8, memory_bytes, io_bytes_per_s: 1e6 };
        let workload = Workload { wants, dirty_bytes_per_s: 2e7 * index as f64 };
        cloud.place(&host(index % HOSTS), facts, workload, true).expect("it is there");
    }
    cloud
}

/// Carries out a step. What is refused changes nothing, and that is looked at afterwards.
fn take(cloud: &mut MemoryCloud, number: u64, step: &Step) {
    let order = |cloud: &mut MemoryCloud, at: usize, order: Order| {
        cloud.on(&host(at)).expect("it is there").submit(order);
    };
    match *step {
        Step::Migrate { machine: which, from, to } => {
            let migration = Migration {
                handoff: HandoffId(number),
                machine: machine(which),
                to: host(to),
                uri: format!("memory:///h{to}"),
                entry: Entry { epoch: Epoch(number), ..Entry::default() },
                commit: Commit::Fast,
                bandwidth_bytes_per_s: None,
                needs: Requirements::default(),
                disks: Vec::new(),
            };
            order(cloud, from, Order::Migrate(migration));
        }
        Step::Abort { host, machine: which } => order(cloud, host, Order::Abort(machine(which))),
        Step::Write { host, machine: which } => {
            order(cloud, host, Order::WriteEntry(machine(which), Entry::default().into()));
        }
        Step::Pause(which) => drop(cloud.pause(&machine(which))),
        Step::Start(which) => drop(cloud.start(&machine(which))),
        Step::Stop(which) => cloud.stop(&machine(which)).expect("it is there"),
        Step::Disconnect(at) => cloud.disconnect(&host(at)).expect("it is there"),
        Step::Reconnect(at) => cloud.reconnect(&host(at)).expect("it is there"),
        Step::PowerOff(at) => cloud.power_off(&host(at)).expect("it is there"),
        Step::Pass(ms) => cloud.advance_to(cloud.now() + Duration::from_millis(ms)),
    }
}

proptest! {
    #[test]
    fn machines_are_neither_lost_nor_doubled_and_migrations_answered_once(steps in steps()) {
        let mut cloud = cloud();
        let mut answers: BTreeMap<u64, usize> = BTreeMap::new();
        // A host without power neither takes orders nor answers them.
        let powered = !steps.iter().any(|step| matches!(step, Step::PowerOff(_)));
        let ordered = steps.iter().filter(|step| matches!(step, Step::Migrate { .. })).count();
        for (number, step) in (0u64..).zip(&steps) {
            take(&mut cloud, number, step);
            for index in 0..MACHINES {
                let on: Vec<usize> = (0..HOSTS)
                    .filter(|&at| {
                        let at = host(at);
                        let mut here = cloud.machines_on(&at);
                        here.any(|(m, p)| m.id == machine(index) && p != Presence::Incoming)
                    })
                    .collect();
                prop_assert_eq!(on.len(), 1, "machine {} is on hosts {:?}", index, on);
                let located = cloud.locate(&machine(index)).map(|(host, _)| host.clone());
                prop_assert_eq!(located, Some(host(on[0])));
            }
        }
        let settled = cloud.now() + Duration::from_secs(600);
        cloud.advance_to(settled);
        while let Some((_, event)) = cloud.next_event() {
            if let Event::MigrationEnded(handoff, _) = event {
                *answers.entry(handoff.0).or_default() += 1;
            }
        }
        prop_assert!(answers.values().all(|&count| count == 1), "{:?}", answers);
        prop_assert!(!powered || answers.len() == ordered, "{} of {} answered", answers.len(), ordered);
        prop_assert_eq!(cloud.next_due(), None);
        for index in 0..MACHINES {
            let presence = cloud.locate(&machine(index)).map(|(_, presence)| presence);
            prop_assert_ne!(presence, Some(Presence::Leaving), "a migration never ended");
        }
    }
}

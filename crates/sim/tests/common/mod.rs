//! Clusters for tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this"
)]

use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::{
    Entry, HostId, HostProfile, Locks, MachineFacts, MachineId, Requirements, Resources, Rules,
    Time,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::{Calm, Policy};
use evenkeel_hypervisor::memory::Workload;
use evenkeel_sim::{Cluster, HostSpec};

pub const GIB: f64 = 1_073_741_824.0;

pub fn host_id(index: usize) -> HostId {
    HostId::new(&format!("n{index:03}")).unwrap()
}

pub fn machine_id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

pub fn at(seconds: u64) -> Time {
    Time::from_unix_ms(seconds * 1000)
}

/// Acts on every difference, every ten seconds.
pub fn eager() -> Config {
    Config {
        round: Duration::from_secs(10),
        sample: Duration::from_secs(2),
        calm: Calm::NONE,
        restraint: Restraint::NONE,
        policy: Policy::HalfDifference,
        ..Config::default()
    }
}

/// The same with the policy that knows the mean.
pub fn mean_aware() -> Config {
    Config { policy: Policy::default(), ..eager() }
}

pub fn profile(index: usize) -> HostProfile {
    let capacity = Resources { cpu_cores: 16.0, memory_bytes: 128.0 * GIB, io_bytes_per_s: 1.0e9 };
    HostProfile::new(host_id(index), capacity)
}

pub fn facts(name: &str, memory_gib: f64) -> MachineFacts {
    MachineFacts {
        id: machine_id(name),
        name: name.into(),
        vcpus: 8,
        memory_bytes: memory_gib * GIB,
        needs: Requirements::default(),
        persistent: true,
        autostart: false,
        locks: Locks::default(),
        entry: Ok(Entry::default()),
    }
}

pub fn with_rules(name: &str, rules: Rules) -> MachineFacts {
    MachineFacts { entry: Ok(Entry { rules, ..Entry::default() }), ..facts(name, 1.0) }
}

pub fn work(cpu_cores: f64, memory_gib: f64, io_bytes_per_s: f64) -> Workload {
    let wants = Resources { cpu_cores, memory_bytes: memory_gib * GIB, io_bytes_per_s };
    Workload { wants, dirty_bytes_per_s: 1.0e6 }
}

/// How long libvirt takes to see that a QEMU has ended.
const REAPING: Duration = Duration::from_millis(200);

/// Like hosts, not started yet.
pub fn cluster(seed: u64, hosts: usize, config: &Config) -> Cluster {
    let mut cluster = Cluster::new(seed);
    for index in 0..hosts {
        let mut host = HostSpec::new(profile(index), config.clone());
        host.hypervisor.reaping = REAPING;
        cluster.add_host(host).unwrap();
    }
    cluster
}

/// Like hosts with `cpus.len()` machines, all on the first host, started.
pub fn crowded(seed: u64, hosts: usize, config: &Config, cpus: &[f64]) -> Cluster {
    let mut cluster = cluster(seed, hosts, config);
    for (index, &cpu) in cpus.iter().enumerate() {
        let name = format!("v{index:03}");
        cluster.place(&host_id(0), facts(&name, 2.0), work(cpu, 2.0, cpu * 1e7)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster
}

pub fn loads(cluster: &Cluster) -> Vec<f64> {
    let load = |id: &HostId| cluster.balancer(id).unwrap().host().load(cluster.now()).unwrap();
    cluster.hosts().map(load).collect()
}

pub fn home(cluster: &Cluster, machine: &str) -> HostId {
    cluster.cloud().locate(&machine_id(machine)).unwrap().0.clone()
}

/// Fails with the first broken invariant, the log's end behind it.
pub fn assert_sound(cluster: &mut Cluster) {
    cluster.check_all();
    if let Some(violation) = cluster.violations().first() {
        let tail: Vec<_> = cluster.log().iter().rev().take(40).map(ToString::to_string).collect();
        panic!("{violation}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
}

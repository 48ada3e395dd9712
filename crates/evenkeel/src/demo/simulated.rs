//! The demo where no hypervisor can be had: the same core in virtual time over in-memory hosts.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::{
    Entry, HostId, HostProfile, Locks, MachineFacts, MachineId, Requirements, Resources, Time,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_hypervisor::memory::Workload;
use evenkeel_sim::{Cluster, HostSpec};

use super::frame::{Frame, HostBar, compare};
use super::told;
use crate::output::{Failure, say};
use crate::scene::Scene;

/// Virtual time that the hosts are given to level, and to show that they stay so.
const SPAN: Duration = Duration::from_secs(600);
const GIB: f64 = 1073741824.0;

pub(super) fn run(scene: &Scene) -> Result<(), Failure> {
    let mut cluster = cluster(scene)?;
    cluster.keep_records();
    cluster.start();
    let known = |c: &Cluster| frame(c).is_known(scene.hosts);
    cluster.run_while(Time::from_unix_ms(0) + SPAN, |c| !known(c));
    let before = frame(&cluster);
    cluster.run_until(Time::from_unix_ms(0) + SPAN);
    let donors = |d: &&evenkeel_core::decision::Decision| {
        d.handoff.is_some() && d.role == Some(evenkeel_core::decision::Role::Source)
    };
    for decision in cluster.records().iter().filter(donors) {
        say!("  {}", told(decision))?;
    }
    let after = frame(&cluster);
    say!("{}", compare(&before, &after))?;
    cluster.check_all();
    match cluster.violations() {
        [] if after.spread() < before.spread() => Ok(()),
        [] => Err("the hosts did not end closer together than they began".into()),
        [violation, ..] => Err(format!("an invariant was broken: {violation:?}").into()),
    }
}

fn cluster(scene: &Scene) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::new(1);
    let names: Vec<_> =
        scene.host_names().iter().map(|name| HostId::new(name)).collect::<Result<_, _>>()?;
    for name in &names {
        let capacity =
            Resources { cpu_cores: scene.cores, memory_bytes: 4.0 * GIB, io_bytes_per_s: 1e9 };
        let config = Config {
            restraint: Restraint { cool_down: Duration::from_secs(10), ..Restraint::default() },
            ..Config::default()
        };
        cluster.add_host(HostSpec::new(HostProfile::new(name.clone(), capacity), config))?;
    }
    for (name, burn) in scene.guests() {
        let id = MachineId::new(&name)?;
        let facts = MachineFacts {
            name: Arc::from(id.as_str()),
            id,
            vcpus: 1,
            memory_bytes: GIB / 4.0,
            needs: Requirements::default(),
            persistent: true,
            autostart: false,
            locks: Locks::default(),
            entry: Ok(Entry::default()),
        };
        let cpu_cores = f64::from(burn) / 1000.0;
        let wants = Resources { cpu_cores, memory_bytes: GIB / 8.0, io_bytes_per_s: 0.0 };
        let workload = Workload { wants, dirty_bytes_per_s: 2e6 };
        cluster.place(&names[0], facts, workload)?;
    }
    Ok(cluster)
}

fn frame(cluster: &Cluster) -> Frame {
    let bar = |host: &HostId| {
        let balancer = cluster.balancer(host);
        HostBar {
            host: host.to_string(),
            load: balancer.and_then(|b| b.host().load(cluster.now()).ok()),
            machines: balancer.map_or_else(Vec::new, |b| {
                b.host().view.machines().values().map(|m| m.facts.name.to_string()).collect()
            }),
        }
    };
    Frame { hosts: cluster.hosts().map(bar).collect() }
}

//! What agents would come to, and when: the agents themselves over a snapshot, in virtual time.
//!
//! Where a [`plan`](crate::plan::plan) asks how well a cluster could be levelled, this is what agents
//! with some configuration will do: the same agents as on real hosts, which sample, talk, migrate and
//! wait, until nothing has moved for so long that nothing more will. Loads stay as the snapshot has
//! them, and memory takes the time that it takes on the configured link.

use std::time::{Duration, Instant};

use evenkeel_core::balancer::Config;
use evenkeel_core::decision::{Reason, Role};
use evenkeel_core::effect::Input;
use evenkeel_core::model::{HostId, HostState, MachineFacts, Time};
use evenkeel_core::select::Policy;
use evenkeel_hypervisor::memory::{CloudError, Workload};

use crate::bounds::Bounds;
use crate::cluster::{Cluster, HostSpec};
use crate::plan::{FORMAT, Plan, Step, balance, hindrances, kept, moves, sorted, staying};
use crate::snapshot::Snapshot;

/// By what to foresee.
#[derive(Clone, Debug, PartialEq)]
pub struct Foresight {
    /// What reproduces it exactly.
    pub seed: u64,
    /// How agents balance.
    pub config: Config,
    /// Cores that a migration keeps busy on each of its two hosts.
    pub migration_cores: f64,
}

impl Default for Foresight {
    fn default() -> Self {
        Self { seed: 1, config: Config::default(), migration_cores: 1.0 }
    }
}

/// It is over when nothing has moved for so long.
const SILENCE: Duration = Duration::from_secs(20 * 60);
/// The same while a host has moved as much as it may within an hour.
const SILENCE_OF_LIMITED: Duration = Duration::from_secs(70 * 60);
/// The most loaded host is asked what keeps its machines if it is above the mean by more than this part.
const ABOVE: f64 = 0.05;
/// Longest that is looked ahead.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);
/// Time between two looks.
const LOOK: Duration = Duration::from_secs(60);
/// In clusters of more hosts than this agents sample more seldom, which costs most of the time.
const MANY_HOSTS: usize = 200;

/// Foresees what agents would do, and tells `watch` now and then the minutes so far and the moves.
///
/// # Errors
/// When the snapshot names a host or machine twice or a host that is not there, which
/// [`Snapshot::check`] refuses.
pub fn foresee(
    snapshot: &Snapshot,
    how: &Foresight,
    mut watch: impl FnMut(u64, u64),
) -> Result<Plan, CloudError> {
    let began = Instant::now();
    let snapshot = &sorted(snapshot);
    let mut cluster = furnish(snapshot, how)?;
    let (mut steps, mut last) = (Vec::new(), Time::default());
    let index = |machine: &evenkeel_core::model::MachineId| {
        snapshot.vms.binary_search_by(|vm| vm.id.cmp(machine)).ok()
    };
    let start = cluster.now();
    while cluster.now() < start + AHEAD_MAX {
        let until = cluster.now() + LOOK;
        cluster.run_until(until);
        for moved in cluster.take_moves() {
            last = moved.at;
            let Some(vm) = index(&moved.machine) else { continue };
            let ends_s = Some(moved.at.since(start).as_secs_f64());
            steps.push(Step { vm, from: moved.from, to: moved.to, ends_s });
        }
        watch(cluster.now().since(start).as_secs() / 60, steps.len() as u64);
        if is_over(&cluster, last) {
            break;
        }
    }
    let homes: Vec<HostId> = snapshot.vms.iter().map(|vm| vm.host.clone()).collect();
    let mut ends = homes.clone();
    for step in &steps {
        ends[step.vm].clone_from(&step.to);
    }
    let before = balance(snapshot, &homes);
    let hindrances = match steps.is_empty() {
        true => hindrances(&cluster, snapshot, &before, ABOVE),
        false => Vec::new(),
    };
    let staying = staying(&cluster, snapshot, &ends);
    let tally = cluster.tally();
    let rounds = last.since(start).as_secs_f64() / how.config.round.as_secs_f64();
    Ok(Plan {
        format: FORMAT,
        seed: how.seed,
        ends_s: Some(last.since(start).as_secs_f64()),
        before,
        after: balance(snapshot, &ends),
        moves: moves(snapshot, &steps, matches!(how.config.policy, Policy::HalfDifference)),
        kept: kept(snapshot),
        staying,
        hindrances,
        rounds: rounds.ceil() as u64,
        messages: tally.messages,
        message_bytes: tally.message_bytes,
        bounds: Bounds::of(snapshot),
        elapsed_ms: began.elapsed().as_secs_f64() * 1e3,
    })
}

/// Whether nothing is under way, and nothing has been for so long that nothing more is to come.
fn is_over(cluster: &Cluster, last: Time) -> bool {
    let now = cluster.now();
    let limited = |host: &evenkeel_core::host::Host| {
        [Role::Source, Role::Target]
            .into_iter()
            .any(|role| host.may(role, host.authority(), now) == Err(Reason::MoveLimit))
    };
    let silence = if cluster.live_hosts().any(limited) { SILENCE_OF_LIMITED } else { SILENCE };
    now.since(last) >= silence && cluster.on_their_way().is_empty()
}

/// The snapshot as a cluster at work, its agents started.
fn furnish(snapshot: &Snapshot, how: &Foresight) -> Result<Cluster, CloudError> {
    let mut config = how.config.clone();
    if snapshot.hosts.len() > MANY_HOSTS {
        config.sample = config.sample.max(config.round / 2);
        config.metering.stale_after = config.metering.stale_after.max(config.sample * 3);
    }
    let mut cluster = Cluster::new(how.seed);
    for host in &snapshot.hosts {
        let mut spec = HostSpec::new(host.profile(), config.clone());
        spec.state = host.state;
        spec.hypervisor.link_bytes_per_s = config.costing.link_bytes_per_s;
        spec.hypervisor.migration_cores = how.migration_cores;
        spec.hypervisor.background = host.background;
        cluster.add_host(spec)?;
    }
    for vm in &snapshot.vms {
        // A snapshot may be of more than its virtual CPUs could use.
        let facts =
            MachineFacts { vcpus: vm.vcpus.max(vm.usage.cpu_cores.ceil() as u32), ..vm.facts() };
        let work = Workload { wants: vm.usage, dirty_bytes_per_s: vm.dirty_bytes_per_s };
        cluster.place(&vm.host, facts, work)?;
    }
    cluster.start_acquainted();
    for host in snapshot.hosts.iter().filter(|h| h.state != HostState::Active) {
        cluster.input(&host.id, Input::SetState(host.state));
    }
    Ok(cluster)
}

//! Clusters made up from a seed: like hosts or unlike ones, machines of all sizes, and a placement
//! as skewed as grown clusters are.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::model::{
    Group, HostId, HostState, IdError, MachineId, Resources, Rules, Weights,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::snapshot::{FORMAT, Snapshot, SnapshotHost, SnapshotMachine};

const GIB: f64 = 1_073_741_824.0;

/// What to make up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Hosts.
    pub hosts: usize,
    /// Machines.
    pub machines: usize,
    /// Whether every other host is twice as large and a quarter faster.
    pub mixed: bool,
    /// How skewed the placement is: machines choose a host with a probability that falls with its
    /// rank to this power. 0 is even.
    pub skew: f64,
    /// Racks that the hosts are in, one after the other; 0 is none.
    pub racks: usize,
    /// Machines of a group that keeps apart across racks, at most; 0 is no groups.
    pub group: usize,
    /// Hosts, the last, that have no machines at first.
    pub spare: usize,
}

impl Recipe {
    /// Like hosts with a skewed placement.
    #[must_use]
    pub const fn uniform(hosts: usize, machines: usize) -> Self {
        Self { hosts, machines, mixed: false, skew: 1.0, racks: 0, group: 0, spare: 0 }
    }

    /// Two kinds of hosts with a skewed placement.
    #[must_use]
    pub const fn mixed(hosts: usize, machines: usize) -> Self {
        Self { mixed: true, ..Self::uniform(hosts, machines) }
    }
}

/// Makes up a cluster.
///
/// # Errors
/// Never for fewer than a billion hosts and machines: their ids are numbers.
pub fn generate(recipe: &Recipe, seed: u64) -> Result<Snapshot, IdError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut hosts = Vec::with_capacity(recipe.hosts);
    for index in 0..recipe.hosts {
        hosts.push(host(index, recipe.mixed && index % 2 == 1, recipe.mixed)?);
        if recipe.racks > 0 {
            let rack = format!("r{:02}", index % recipe.racks);
            hosts[index].labels.insert("rack".to_owned(), rack);
        }
    }
    let used = recipe.hosts.saturating_sub(recipe.spare).max(1);
    let mut ranks: Vec<usize> = (0..used).collect();
    for index in (1..ranks.len()).rev() {
        ranks.swap(index, rng.random_range(0..=index));
    }
    let mut total = 0.0;
    let mut reach = Vec::with_capacity(used);
    for rank in &ranks {
        total += ((rank + 1) as f64).powf(-recipe.skew);
        reach.push(total);
    }
    let mut free: Vec<f64> = hosts
        .iter()
        .map(|h| (h.capacity.memory_bytes - h.reserved_memory_bytes).max(0.0))
        .collect();
    let mut vms = Vec::with_capacity(recipe.machines);
    for index in 0..recipe.machines {
        let mut vm = machine(index, &mut rng)?;
        let mut place = 0;
        // Full hosts send machines on; at last to the one with the most room.
        for attempt in 0..1000 {
            let drawn = rng.random_range(0.0..total.max(f64::MIN_POSITIVE));
            place = reach.partition_point(|&r| r <= drawn).min(used - 1);
            if free[place] >= vm.memory_bytes {
                break;
            }
            if attempt == 999 {
                let widest = (0..used).max_by(|&a, &b| free[a].total_cmp(&free[b]));
                place = widest.unwrap_or(0);
            }
        }
        free[place] -= vm.memory_bytes;
        vm.host = hosts[place].id.clone();
        vms.push(vm);
    }
    if recipe.racks > 0 && recipe.group > 0 {
        keep_apart(&mut vms, &hosts, recipe.group);
    }
    Ok(Snapshot { format: FORMAT.to_owned(), taken_at: None, hosts, vms })
}

/// Puts every machine into the first group of at most `size` that has none in its rack yet.
fn keep_apart(vms: &mut [SnapshotMachine], hosts: &[SnapshotHost], size: usize) {
    let rack = |host: &SnapshotHost| host.labels.get("rack").cloned().unwrap_or_default();
    let racks: BTreeMap<_, _> = hosts.iter().map(|host| (host.id.clone(), rack(host))).collect();
    let mut groups: Vec<BTreeSet<&String>> = Vec::new();
    for vm in vms {
        let Some(rack) = racks.get(&vm.host) else { continue };
        let open = groups.iter().position(|g| g.len() < size && !g.contains(rack));
        let number = open.unwrap_or(groups.len());
        if open.is_none() {
            groups.push(BTreeSet::new());
        }
        groups[number].insert(rack);
        vm.rules.anti_affinity.extend(format!("g{number}@rack").parse::<Group>());
    }
}

fn host(index: usize, large: bool, mixed: bool) -> Result<SnapshotHost, IdError> {
    let size = if large { 2.0 } else { 1.0 };
    Ok(SnapshotHost {
        id: HostId::new(&format!("n{index:03}"))?,
        capacity: Resources {
            cpu_cores: 16.0 * size,
            memory_bytes: 128.0 * GIB * size,
            io_bytes_per_s: 1e9,
        },
        cpu_speed: if mixed && !large { 0.8 } else { 1.0 },
        weights: Weights::default(),
        reserved_memory_bytes: 4.0 * GIB,
        state: HostState::Active,
        labels: BTreeMap::new(),
        background: None,
    })
}

/// Sizes in powers of two; CPU as a share of the virtual CPUs that is small for most machines.
fn machine(index: usize, rng: &mut ChaCha8Rng) -> Result<SnapshotMachine, IdError> {
    let vcpus = 1u32 << rng.random_range(0..4u32);
    let memory_bytes = f64::from(1u32 << rng.random_range(0..5u32)) * GIB;
    let busy = rng.random_range(0.0..1.0f64).powi(2) * 0.7 + 0.02;
    let cpu_cores = f64::from(vcpus) * busy;
    let io_bytes_per_s = rng.random_range(0.0..1.0f64).powi(3) * 1.2e8;
    let id = format!("v{index:04}");
    Ok(SnapshotMachine {
        id: MachineId::new(&id)?,
        name: id,
        host: HostId::new("nowhere")?,
        vcpus,
        memory_bytes,
        usage: Resources { cpu_cores, memory_bytes, io_bytes_per_s },
        target_load: None,
        dirty_bytes_per_s: rng.random_range(0.0..1.0f64).powi(2) * 5e7,
        movable: true,
        rules: Rules::default(),
    })
}

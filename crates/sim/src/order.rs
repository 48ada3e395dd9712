//! In which order machines can go where they shall: every step must fit the memory that is free by
//! then and break no rule, as machines are where they are meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::model::HostId;

use crate::snapshot::{Snapshot, SnapshotMachine};

/// One move: which machine, by its place in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) vm: usize,
}

/// What can be done, and what not for want of room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) steps: Vec<Step>,
    /// Machines that wait for each other's room, and therefore stay.
    pub(crate) blocked: Vec<usize>,
}

/// Finds an order in which every machine goes from its host to its target.
pub(crate) fn order(snapshot: &Snapshot, targets: &[HostId]) -> Order {
    let mut free: BTreeMap<&HostId, f64> =
        snapshot.hosts.iter().map(|h| (&h.id, h.profile().usable_memory_bytes())).collect();
    let mut groups: BTreeSet<(&HostId, &str)> = BTreeSet::new();
    for vm in &snapshot.vms {
        if let Some(free) = free.get_mut(&vm.host) {
            *free -= vm.promised_memory_bytes();
        }
        groups.extend(vm.rules.anti_affinity.iter().map(|g| (&vm.host, g.as_str())));
    }
    let displaced = |&index: &usize| targets[index] != snapshot.vms[index].host;
    let mut waiting: Vec<usize> = (0..snapshot.vms.len()).filter(displaced).collect();
    waiting.sort_unstable_by_key(|&index| &snapshot.vms[index].id);
    let mut steps = Vec::with_capacity(waiting.len());
    loop {
        let before = waiting.len();
        waiting.retain(|&index| {
            let (vm, to) = (&snapshot.vms[index], &targets[index]);
            let memory = vm.promised_memory_bytes();
            let fits = free.get(to).is_some_and(|&free| memory <= free);
            let clashes = vm.rules.anti_affinity.iter().any(|g| groups.contains(&(to, g.as_str())));
            if !fits || clashes {
                return true;
            }
            free.entry(to).and_modify(|free| *free -= memory);
            free.entry(&vm.host).and_modify(|free| *free += memory);
            for group in &vm.rules.anti_affinity {
                groups.remove(&(&vm.host, group.as_str()));
                groups.insert((to, group.as_str()));
            }
            steps.push(Step { vm: index });
            false
        });
        if waiting.is_empty() || waiting.len() == before {
            return Order { steps, blocked: waiting };
        }
    }
}

/// What a live migration is predicted to cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

/// Speed of the link that is assumed, in bytes per second: 10 Gbit/s.
const LINK_BYTES_PER_S: f64 = 1.25e9;

/// Pre-copy: memory in use is sent once, and again what was dirtied meanwhile, a fraction of dirty
/// rate over bandwidth each time; at most as much again as four times the memory.
pub(crate) fn predict(vm: &SnapshotMachine) -> Cost {
    let memory = vm.usage.memory_bytes;
    let ratio = (vm.dirty_bytes_per_s / LINK_BYTES_PER_S).clamp(0.0, 0.8);
    let bytes = memory / (1.0 - ratio);
    Cost { bytes, seconds: bytes / LINK_BYTES_PER_S }
}

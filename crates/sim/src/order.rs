//! In which order machines can go where they shall: every step must fit the memory that is free by
//! then and break no rule, as machines are where they are meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::model::HostId;
use evenkeel_core::select::{LOAD_EPSILON, Price};

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

/// Where machines are meanwhile, and what that leaves.
struct State<'a> {
    snapshot: &'a Snapshot,
    targets: &'a [HostId],
    free: BTreeMap<&'a HostId, f64>,
    groups: BTreeSet<(&'a HostId, &'a str)>,
    loads: BTreeMap<HostId, f64>,
}

impl<'a> State<'a> {
    fn new(snapshot: &'a Snapshot, targets: &'a [HostId], loads: BTreeMap<HostId, f64>) -> Self {
        let mut free: BTreeMap<&HostId, f64> =
            snapshot.hosts.iter().map(|h| (&h.id, h.profile().usable_memory_bytes())).collect();
        let mut groups = BTreeSet::new();
        for vm in &snapshot.vms {
            if let Some(free) = free.get_mut(&vm.host) {
                *free -= vm.promised_memory_bytes();
            }
            groups.extend(vm.rules.anti_affinity.iter().map(|g| (&vm.host, g.as_str())));
        }
        Self { snapshot, targets, free, groups, loads }
    }

    /// Whether the machine could go now.
    fn fits(&self, index: usize) -> bool {
        let (vm, to) = (&self.snapshot.vms[index], &self.targets[index]);
        let fits = self.free.get(to).is_some_and(|&free| vm.promised_memory_bytes() <= free);
        fits && !vm.rules.anti_affinity.iter().any(|g| self.groups.contains(&(to, g.as_str())))
    }

    /// Whether its going would load the receiver more than the donor is now.
    fn lifts(&self, index: usize, price: Price) -> bool {
        let load = |host| self.loads.get(host).copied().unwrap_or(0.0);
        let (vm, to) = (&self.snapshot.vms[index], &self.targets[index]);
        load(to) + price.at_receiver > load(&vm.host) + LOAD_EPSILON
    }

    fn go(&mut self, index: usize, price: Price) {
        let (vm, to) = (&self.snapshot.vms[index], &self.targets[index]);
        let memory = vm.promised_memory_bytes();
        self.free.entry(to).and_modify(|free| *free -= memory);
        self.free.entry(&vm.host).and_modify(|free| *free += memory);
        self.loads.entry(to.clone()).and_modify(|load| *load += price.at_receiver);
        self.loads.entry(vm.host.clone()).and_modify(|load| *load -= price.at_donor);
        for group in &vm.rules.anti_affinity {
            self.groups.remove(&(&vm.host, group.as_str()));
            self.groups.insert((to, group.as_str()));
        }
    }
}

/// Finds an order in which every machine goes from its host to its target. The most loaded hosts
/// give first, and a step that would lift the maximum of its pair waits until it no longer does;
/// where only such steps are left, as where two machines change places, one of them is made.
///
/// `loads` are those of the hosts at the beginning, `price` tells what a machine loads its host and
/// its target.
pub(crate) fn order(
    snapshot: &Snapshot,
    targets: &[HostId],
    loads: BTreeMap<HostId, f64>,
    price: impl Fn(usize) -> Price,
) -> Order {
    let displaced = |&index: &usize| targets[index] != snapshot.vms[index].host;
    let mut waiting: Vec<usize> = (0..snapshot.vms.len()).filter(displaced).collect();
    let load = |index: usize| loads.get(&snapshot.vms[index].host).copied().unwrap_or(0.0);
    let id = |index: usize| &snapshot.vms[index].id;
    waiting.sort_unstable_by(|&a, &b| load(b).total_cmp(&load(a)).then_with(|| id(a).cmp(id(b))));
    let mut state = State::new(snapshot, targets, loads);
    let mut steps = Vec::with_capacity(waiting.len());
    loop {
        let before = waiting.len();
        waiting.retain(|&index| {
            let price = price(index);
            let goes = state.fits(index) && !state.lifts(index, price);
            if goes {
                state.go(index, price);
                steps.push(Step { vm: index });
            }
            !goes
        });
        if waiting.len() < before {
            continue;
        }
        let Some(place) = waiting.iter().position(|&index| state.fits(index)) else {
            return Order { steps, blocked: waiting };
        };
        let index = waiting.remove(place);
        state.go(index, price(index));
        steps.push(Step { vm: index });
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

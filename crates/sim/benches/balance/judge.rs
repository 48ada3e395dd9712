//! Judging a list of moves, whoever made it.

use std::collections::BTreeMap;

use evenkeel_core::model::{HostId, HostProfile, MachineId, Resources};
use evenkeel_sim::snapshot::Snapshot;

/// What a list of moves comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) moves: usize,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    pub(crate) cv: f64,
    /// Memory in use of the machines moved, in bytes, every time.
    pub(crate) bytes: f64,
    /// Moves onto a host that had not enough free memory at that point.
    pub(crate) without_room: usize,
}

/// Carries out `moves`, in order.
pub(crate) fn judge<'a>(
    snapshot: &Snapshot,
    moves: impl IntoIterator<Item = (&'a MachineId, &'a HostId)>,
) -> Verdict {
    let hosts: BTreeMap<&HostId, HostProfile> =
        snapshot.hosts.iter().map(|host| (&host.id, host.profile())).collect();
    let machines: BTreeMap<&MachineId, _> = snapshot.vms.iter().map(|vm| (&vm.id, vm)).collect();
    let mut places: BTreeMap<&MachineId, &HostId> =
        snapshot.vms.iter().map(|vm| (&vm.id, &vm.host)).collect();
    let mut free: BTreeMap<&HostId, f64> =
        hosts.iter().map(|(id, host)| (*id, host.usable_memory_bytes())).collect();
    for vm in &snapshot.vms {
        free.entry(&vm.host).and_modify(|free| *free -= vm.promised_memory_bytes());
    }
    let (mut count, mut bytes, mut without_room) = (0, 0.0, 0);
    for (machine, to) in moves {
        let (Some(vm), Some((to, _))) = (machines.get(machine), hosts.get_key_value(to)) else {
            continue;
        };
        let Some(place) = places.get_mut(machine) else { continue };
        let memory = vm.promised_memory_bytes();
        without_room += usize::from(free.get(*to).is_none_or(|&free| free < memory));
        free.entry(*place).and_modify(|free| *free += memory);
        free.entry(to).and_modify(|free| *free -= memory);
        *place = to;
        count += 1;
        bytes += vm.usage.memory_bytes;
    }
    let mut used: BTreeMap<&HostId, Resources> =
        snapshot.hosts.iter().map(|host| (&host.id, host.background.unwrap_or_default())).collect();
    for vm in &snapshot.vms {
        let (Some(home), Some(used)) = (hosts.get(&vm.host), used.get_mut(places[&vm.id])) else {
            continue;
        };
        *used += vm.factors(home);
    }
    let loads: Vec<f64> = used.iter().map(|(id, usage)| hosts[*id].price(usage)).collect();
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    let variance = loads.iter().map(|load| (load - mean).powi(2)).sum::<f64>() / loads.len() as f64;
    Verdict {
        moves: count,
        max: loads.iter().copied().fold(0.0, f64::max),
        mean,
        cv: if mean > 0.0 { variance.sqrt() / mean } else { 0.0 },
        bytes,
        without_room,
    }
}

//! What keeps machines where a plan leaves them, as the hosts themselves say it.

use std::collections::BTreeMap;

use evenkeel_core::control::Authority;
use evenkeel_core::decision::{Reason, Refusal};
use evenkeel_core::host::{Giver, Host, Toward};
use evenkeel_core::model::{HostId, HostState, MachineId, Time};
use serde::Serialize;

use crate::cluster::Cluster;

/// A machine that stays on a host that is to be emptied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Staying {
    /// The host, which is not empty therefore.
    pub host: HostId,
    /// The machine.
    pub vm: MachineId,
    /// Why, in the end.
    pub reason: Reason,
    /// What is missing, in words; may be empty.
    pub detail: String,
    /// What keeps it from each other host: how many hosts by which reason.
    pub refusals: Vec<(Reason, usize)>,
}

/// What keeps so many machines of the most loaded host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hindrance {
    /// Why they stay.
    pub reason: Reason,
    /// How many.
    pub machines: usize,
}

/// A settled cluster, to be asked.
pub(crate) struct Settled<'a>(pub(crate) &'a Cluster);

impl Settled<'_> {
    /// Why a machine stays on a host that is to be emptied.
    pub(crate) fn staying(&self, host: &HostId, vm: &MachineId) -> Staying {
        let mut counts: BTreeMap<Reason, (usize, String)> = BTreeMap::new();
        for refusal in self.judged(host, vm).into_iter().flat_map(Result::err) {
            let (count, detail) = counts.entry(refusal.reason).or_default();
            *count += 1;
            if detail.is_empty() {
                *detail = refusal.detail;
            }
        }
        // What most hosts say; of equal ones the first by code, which every run gives alike.
        let most =
            counts.iter().max_by_key(|(reason, (count, _))| (*count, std::cmp::Reverse(*reason)));
        let (reason, detail) = self.open(host, vm).map_or_else(
            || most.map_or((Reason::NoPeer, String::new()), |(r, (_, d))| (*r, d.clone())),
            |reason| (reason, String::new()),
        );
        let refusals = counts.into_iter().map(|(reason, (count, _))| (reason, count)).collect();
        Staying { host: host.clone(), vm: vm.clone(), reason, detail, refusals }
    }

    /// Whether a machine stays although another host would take it: no order of moves brings it there.
    fn open(&self, host: &HostId, vm: &MachineId) -> Option<Reason> {
        let is_there = self.host(host).is_some_and(|own| own.view.machines().contains_key(vm));
        let taken = self.judged(host, vm).iter().any(Result::is_ok);
        (!is_there || taken).then_some(Reason::NoImprovement)
    }

    /// What keeps the machines of a host, the commonest first.
    pub(crate) fn hindrances(&self, host: &HostId) -> Vec<Hindrance> {
        let Some(own) = self.host(host) else { return Vec::new() };
        let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
        for vm in own.view.machines().keys() {
            *counts.entry(self.staying(host, vm).reason).or_default() += 1;
        }
        let mut found: Vec<_> =
            counts.into_iter().map(|(reason, machines)| Hindrance { reason, machines }).collect();
        found.sort_by_key(|h| (std::cmp::Reverse(h.machines), h.reason));
        found
    }

    fn host(&self, id: &HostId) -> Option<&Host> {
        Some(self.0.balancer(id)?.host())
    }

    /// What each other host says of a machine, and its own of giving it there.
    fn judged(&self, host: &HostId, vm: &MachineId) -> Vec<Result<(), Refusal>> {
        let Some(own) = self.host(host).filter(|own| own.view.machines().contains_key(vm)) else {
            return Vec::new();
        };
        let others = self.0.live_hosts().filter(|other| other.id() != host);
        others.map(|other| judge(own, other, vm, self.0.now())).collect()
    }
}

fn judge(own: &Host, other: &Host, vm: &MachineId, now: Time) -> Result<(), Refusal> {
    let toward = Toward { labels: Some(&other.profile.labels), ..Toward::of(other.id()) };
    let candidate = own.offerable(None, vm, &toward, now)?;
    let authority =
        if own.state == HostState::Draining { Authority::Ordered } else { own.authority() };
    other.takes(authority, now)?;
    let (gauge, pressing) = (own.gauge(now), own.state == HostState::Draining);
    let giver = Giver { gauge: gauge.as_ref(), pressing, authority };
    let quote = other.quote(None, &candidate, giver, now);
    match quote.refusal {
        Some(reason) => Err(Refusal { reason, detail: quote.detail.unwrap_or_default() }),
        None => Ok(()),
    }
}

//! How the largest load falls, round by round.

use std::collections::BTreeMap;

use evenkeel_core::model::{HostId, HostProfile, MachineId, Time};
use evenkeel_core::port::{Event, HandoffId, Order};
use evenkeel_sim::What;
use evenkeel_sim::plan::{Options, ROUND, trace};

use crate::Failure;
use crate::inputs::Input;

/// The log of more hosts would take more memory than the plan.
pub(crate) const HOSTS_MAX: usize = 1000;

/// The largest load over the mean before the first round and after every one.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) hosts: usize,
    pub(crate) max_over_mean: Vec<f64>,
}

impl Curve {
    /// Rounds until the largest load is within `share` of what it is in the end.
    pub(crate) fn rounds_to_within(&self, share: f64) -> usize {
        let last = self.max_over_mean.last().copied().unwrap_or(1.0);
        let limit = last * (1.0 + share);
        self.max_over_mean.iter().rposition(|&value| value > limit).map_or(0, |round| round + 1)
    }
}

/// Follows the plan of seed 1.
pub(crate) fn of(input: &Input) -> Result<Curve, Failure> {
    let snapshot = &input.snapshot;
    let hosts: BTreeMap<HostId, HostProfile> =
        snapshot.hosts.iter().map(|host| (host.id.clone(), host.profile())).collect();
    let mut used: BTreeMap<HostId, _> = snapshot
        .hosts
        .iter()
        .map(|host| (host.id.clone(), host.background.unwrap_or_default()))
        .collect();
    let mut places = BTreeMap::new();
    for vm in &snapshot.vms {
        let usage = vm.factors(&hosts[&vm.host]);
        used.entry(vm.host.clone()).and_modify(|used| *used += usage);
        places.insert(vm.id.clone(), (vm.host.clone(), usage));
    }
    let worst = |used: &BTreeMap<HostId, _>| {
        let loads: Vec<f64> = used.iter().map(|(id, usage)| hosts[id].price(usage)).collect();
        let mean = loads.iter().sum::<f64>() / loads.len() as f64;
        loads.into_iter().fold(0.0, f64::max) / mean.max(f64::MIN_POSITIVE)
    };
    let traced = trace(snapshot, &Options::default())?;
    if let Some(violation) = traced.violations.first() {
        return Err(format!("{}: an invariant was broken: {violation:?}", input.name).into());
    }
    let start = traced.log.first().map_or(Time::default(), |line| line.at);
    let mut on_the_way: BTreeMap<HandoffId, (MachineId, HostId)> = BTreeMap::new();
    let mut curve = vec![worst(&used)];
    for line in traced.log {
        let round = (line.at.since(start).as_secs_f64() / ROUND.as_secs_f64()) as usize;
        while curve.len() <= round {
            curve.push(worst(&used));
        }
        match line.what {
            What::Ordered(Order::Migrate(m)) => {
                on_the_way.insert(m.handoff, (m.machine, m.to));
            }
            What::Noticed(Event::MigrationEnded(id, Ok(_))) => {
                let Some((machine, to)) = on_the_way.remove(&id) else { continue };
                let Some((place, usage)) = places.get_mut(&machine) else { continue };
                used.entry(place.clone()).and_modify(|used| *used = *used - *usage);
                used.entry(to.clone()).and_modify(|used| *used += *usage);
                *place = to;
            }
            _ => {}
        }
    }
    curve.push(worst(&used));
    let (name, hosts) = (input.name.clone(), input.hosts());
    Ok(Curve { name, hosts, max_over_mean: curve })
}

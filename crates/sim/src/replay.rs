//! Replays: what machines really used, tick by tick, on a simulated cluster that balances meanwhile.
//!
//! Every host has its balancer, measures its machines through counters, and migrations take the time
//! that their memory takes on the link. Scores are of what machines *want*, as the trace has it, on
//! the hosts where they are: not of what was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::{
    Entry, HostId, HostProfile, IdError, Locks, MachineFacts, MachineId, Requirements, Resources,
};
use evenkeel_hypervisor::memory::{CloudError, Workload};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::cluster::{Cluster, HostSpec};

/// What machines used over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// How long one tick lasts.
    pub tick: Duration,
    /// Every machine; all have the same number of ticks.
    pub machines: Vec<Vec<Resources>>,
}

impl Trace {
    /// How many ticks it has.
    #[must_use]
    pub fn ticks(&self) -> usize {
        self.machines.first().map_or(0, Vec::len)
    }
}

/// A replay that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The simulated hosts refused something.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// More hosts than have names.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A machine of the trace fits no host.
    #[error("machine {machine} of the trace with {bytes:.0} bytes of memory fits no host")]
    NoRoom {
        /// Its place in the trace.
        machine: usize,
        /// Memory that it occupies at most.
        bytes: f64,
    },
}

/// How to replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Like hosts.
    pub hosts: usize,
    /// What each has.
    pub capacity: Resources,
    /// How they balance; `None` leaves every machine where it is.
    pub config: Option<Config>,
    /// Seed of the placement and of the run.
    pub seed: u64,
    /// Ticks to replay, and from which one on to score.
    pub ticks: usize,
    /// Scores before this tick do not count.
    pub score_from: usize,
    /// Memory that machines dirty, as a share of what they occupy, per second.
    pub dirty_share_per_s: f64,
}

/// What a replay comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    /// Population standard deviation of host loads over their mean, mean over time.
    pub cv: f64,
    /// Largest load over the mean, mean over time.
    pub max_over_mean: f64,
    /// The same, exceeded in one tick of a hundred.
    pub max_over_mean_p99: f64,
    /// Ticks of hosts on which machines wanted more CPU than there is.
    pub overloaded_host_ticks: u64,
    /// Migrations an hour.
    pub migrations_per_hour: f64,
    /// Machines that came back within an hour to a host that they had left.
    pub returns: u64,
    /// What migrations sent, in bytes.
    pub migrated_bytes: u64,
    /// Messages that a host said per round.
    pub messages_per_host_round: f64,
    /// Broken invariants.
    pub violations: u64,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Replay {
    /// Runs it.
    ///
    /// # Errors
    /// When the machines do not fit on the hosts.
    pub fn run(&self, trace: &Trace) -> Result<Score, ReplayError> {
        let mut cluster = Cluster::new(self.seed);
        let names = self.furnish(trace, &mut cluster)?;
        if self.config.is_some() {
            cluster.start_acquainted();
        }
        let profile = HostProfile::new(HostId::new("any")?, self.capacity);
        let mut tally = Watch::default();
        let ticks = self.ticks.min(trace.ticks());
        for tick in 0..ticks {
            let loads = self.apply(tick, trace, &names, &mut cluster, &profile)?;
            if tick >= self.score_from {
                tally.see(&loads);
            }
            if tick == self.score_from {
                tally.begin(&cluster);
            }
            let end = cluster.now() + trace.tick;
            cluster.run_while(end, |c| {
                tally.watch(c);
                true
            });
        }
        cluster.check_all();
        let scored = trace.tick * u32::try_from(ticks - self.score_from).unwrap_or(u32::MAX);
        Ok(tally.score(&cluster, scored, self))
    }

    /// Hosts, and machines on random ones that have room for the most that they will occupy.
    fn furnish(&self, trace: &Trace, cluster: &mut Cluster) -> Result<Vec<MachineId>, ReplayError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut free = vec![self.capacity.memory_bytes; self.hosts];
        let mut ids = Vec::with_capacity(self.hosts);
        for index in 0..self.hosts {
            let id = HostId::new(&format!("n{index:03}"))?;
            let profile = HostProfile::new(id.clone(), self.capacity);
            cluster.add_host(HostSpec::new(profile, self.config.clone().unwrap_or_default()))?;
            ids.push(id);
        }
        let mut names = Vec::with_capacity(trace.machines.len());
        for (machine, usage) in trace.machines.iter().enumerate() {
            let most = |of: fn(&Resources) -> f64| {
                usage.iter().take(self.ticks).map(of).fold(0.0, f64::max)
            };
            let bytes = most(|u| u.memory_bytes);
            let place = (0..1000)
                .map(|_| rng.random_range(0..self.hosts))
                .find(|&host| free[host] >= bytes)
                .ok_or(ReplayError::NoRoom { machine, bytes })?;
            free[place] -= bytes;
            let id = MachineId::new(&format!("v{machine:04}"))?;
            let facts = MachineFacts {
                id: id.clone(),
                name: id.as_str().into(),
                vcpus: most(|u| u.cpu_cores).ceil().max(1.0) as u32,
                memory_bytes: bytes,
                needs: Requirements::default(),
                persistent: true,
                autostart: false,
                locks: Locks::default(),
                entry: Ok(Entry::default()),
            };
            cluster.place(&ids[place], facts, Workload::default())?;
            names.push(id);
        }
        Ok(names)
    }

    /// Lets every machine do what it does in a tick. Answers what hosts are asked for.
    fn apply(
        &self,
        tick: usize,
        trace: &Trace,
        names: &[MachineId],
        cluster: &mut Cluster,
        profile: &HostProfile,
    ) -> Result<Vec<(f64, bool)>, ReplayError> {
        let mut wanted: BTreeMap<HostId, Resources> =
            cluster.hosts().map(|id| (id.clone(), Resources::ZERO)).collect();
        for (name, usage) in names.iter().zip(&trace.machines) {
            let wants = usage[tick];
            let dirty_bytes_per_s = wants.memory_bytes * self.dirty_share_per_s;
            cluster.cloud_mut().set_workload(name, Workload { wants, dirty_bytes_per_s })?;
            if let Some((host, _)) = cluster.cloud().locate(name)
                && let Some(sum) = wanted.get_mut(host)
            {
                *sum += wants;
            }
        }
        let load = |sum: &Resources| (profile.price(sum), sum.cpu_cores > self.capacity.cpu_cores);
        Ok(wanted.values().map(load).collect())
    }
}

/// What is seen on the way.
#[derive(Default)]
struct Watch {
    cvs: Vec<f64>,
    maxima: Vec<f64>,
    overloaded: u64,
    begun_with: (u64, u64, u64),
    migrations: u64,
    /// When machines left which hosts.
    left: BTreeMap<(MachineId, HostId), evenkeel_core::model::Time>,
    places: BTreeMap<MachineId, HostId>,
    returns: u64,
}

impl Watch {
    fn see(&mut self, loads: &[(f64, bool)]) {
        let count = loads.len() as f64;
        let mean = loads.iter().map(|l| l.0).sum::<f64>() / count;
        let variance = loads.iter().map(|l| (l.0 - mean).powi(2)).sum::<f64>() / count;
        if mean > 0.0 {
            self.cvs.push(variance.sqrt() / mean);
            self.maxima.push(loads.iter().map(|l| l.0).fold(0.0, f64::max) / mean);
        }
        self.overloaded += loads.iter().filter(|l| l.1).count() as u64;
    }

    fn begin(&mut self, cluster: &Cluster) {
        let tally = cluster.tally();
        self.begun_with = (tally.migrations, tally.migrated_bytes, tally.messages);
    }

    /// Sees every machine that has come to another host.
    fn watch(&mut self, cluster: &Cluster) {
        if cluster.tally().migrations == self.migrations && !self.places.is_empty() {
            return;
        }
        self.migrations = cluster.tally().migrations;
        for host in cluster.hosts() {
            for (facts, _) in cluster.cloud().machines_on(host) {
                let before = self.places.insert(facts.id.clone(), host.clone());
                let Some(before) = before.filter(|before| before != host) else { continue };
                self.left.insert((facts.id.clone(), before), cluster.now());
                let left = self.left.get(&(facts.id.clone(), host.clone()));
                if left.is_some_and(|&at| cluster.now().since(at) < HOUR) {
                    self.returns += 1;
                }
            }
        }
    }

    fn score(mut self, cluster: &Cluster, scored: Duration, replay: &Replay) -> Score {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        self.maxima.sort_by(f64::total_cmp);
        let p99 = self.maxima.get(self.maxima.len() * 99 / 100).copied().unwrap_or(1.0);
        let (tally, (migrations, bytes, messages)) = (cluster.tally(), self.begun_with);
        let hours = scored.as_secs_f64() / HOUR.as_secs_f64();
        let round = replay.config.as_ref().map_or(trace_round(), |config| config.round);
        let rounds = scored.as_secs_f64() / round.as_secs_f64();
        Score {
            cv: mean(&self.cvs),
            max_over_mean: mean(&self.maxima),
            max_over_mean_p99: p99,
            overloaded_host_ticks: self.overloaded,
            migrations_per_hour: (tally.migrations - migrations) as f64 / hours,
            returns: self.returns,
            migrated_bytes: tally.migrated_bytes - bytes,
            messages_per_host_round: (tally.messages - messages) as f64
                / (rounds * replay.hosts as f64),
            violations: cluster.violations().len() as u64,
        }
    }
}

const fn trace_round() -> Duration {
    Duration::from_secs(300)
}

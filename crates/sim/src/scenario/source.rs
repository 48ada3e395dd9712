//! Where the hosts and machines of a scenario come from, and what machines want over time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_config::{duration, duration_or_none};
use evenkeel_core::model::{HostId, HostState, MachineId, Resources, Rules, Weights};
use evenkeel_hypervisor::memory::Workload;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::happening::RulesTable;
use super::{Scenario, ScenarioError, beside};
use crate::generate::{Recipe, generate};
use crate::snapshot::{FORMAT, Snapshot, SnapshotHost, SnapshotMachine};
use crate::traces::{self, Trace};

/// `[generate]`: a made-up cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// Like hosts, or two kinds.
    #[serde(default)]
    pub kind: GenerateKind,
    /// So many hosts.
    pub hosts: usize,
    /// So many machines.
    pub machines: usize,
    /// Its own seed: another seed of the run is the same cluster.
    #[serde(default = "one")]
    pub seed: u64,
    /// How skewed the placement is; 0 is even.
    #[serde(default = "skewed")]
    pub skew: f64,
    /// Racks that the hosts are in, by their label `rack`; 0 is none.
    #[serde(default)]
    pub racks: usize,
    /// Machines of a group that keeps apart across racks, at most; 0 is no groups.
    #[serde(default)]
    pub group: usize,
    /// Hosts, the last, that have no machines at first.
    #[serde(default)]
    pub spare: usize,
}

/// Kinds of made-up clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerateKind {
    /// Like hosts.
    #[default]
    Uniform,
    /// Every other host is twice as large and a quarter faster.
    Mixed,
}

const fn one() -> u64 {
    1
}

const fn skewed() -> f64 {
    1.0
}

/// `[trace]`: what real machines used, on like hosts, placed at random.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceTable {
    /// How it is written.
    pub kind: TraceKind,
    /// Where it is.
    pub path: PathBuf,
    /// So many hosts.
    pub hosts: usize,
    /// Of so many reference cores each.
    pub cpu_cores: f64,
    /// Of so much memory each.
    pub memory: ByteSize,
    /// Of so much I/O per second each.
    pub io_per_s: ByteSize,
    /// Memory that machines dirty, as a share of what they occupy, per second.
    #[serde(default = "dirty")]
    pub dirty_share_per_s: f64,
    /// Seed of the placement; that of the run unless given.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Takes ticks to last so long, instead of as long as they did.
    #[serde(default, deserialize_with = "duration_or_none")]
    pub tick: Option<Duration>,
}

/// How a trace is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceKind {
    /// A directory of Bitbrains GWA-T-12 "rnd", one file a metric.
    Bitbrains,
    /// A day of PlanetLab.
    Planetlab,
    /// Lines of `seconds,machine,cpu_cores,memory_bytes,io_bytes_per_s`.
    Csv,
}

const fn dirty() -> f64 {
    0.005
}

/// `[[hosts]]`: hosts written out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTable {
    /// Its id; with `count`, what the ids begin with.
    pub id: String,
    /// So many alike, numbered from 1.
    #[serde(default)]
    pub count: Option<usize>,
    /// Its own cores.
    #[serde(default = "cores")]
    pub cpu_cores: f64,
    /// Memory.
    #[serde(default = "memory")]
    pub memory: ByteSize,
    /// I/O per second.
    #[serde(default = "io")]
    pub io_per_s: ByteSize,
    /// Speed of a core relative to the reference core.
    #[serde(default = "skewed")]
    pub cpu_speed: f64,
    /// How much each resource counts.
    #[serde(default)]
    pub weights: Weights,
    /// Memory that no machine may take.
    #[serde(default)]
    pub reserved_memory: ByteSize,
    /// Whether it takes part.
    #[serde(default)]
    pub state: HostState,
    /// Cores that it uses besides its machines.
    #[serde(default)]
    pub background_cores: f64,
}

const fn cores() -> f64 {
    16.0
}

const fn memory() -> ByteSize {
    ByteSize::gib(128)
}

const fn io() -> ByteSize {
    ByteSize::gb(1)
}

/// `[[machines]]`: machines written out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineTable {
    /// Its id; with `count`, what the ids begin with.
    pub id: String,
    /// So many alike, numbered from 1.
    #[serde(default)]
    pub count: Option<usize>,
    /// The host that runs it.
    pub host: HostId,
    /// Virtual CPUs.
    #[serde(default = "vcpus")]
    pub vcpus: u32,
    /// Reference cores that it wants.
    #[serde(default)]
    pub cpu_cores: f64,
    /// Memory that it occupies.
    #[serde(default = "small")]
    pub memory: ByteSize,
    /// Memory that it may come to occupy; what it does occupy unless given.
    #[serde(default)]
    pub memory_max: ByteSize,
    /// I/O per second.
    #[serde(default)]
    pub io_per_s: ByteSize,
    /// Memory that it dirties per second.
    #[serde(default)]
    pub dirty_per_s: ByteSize,
    /// Its target load on its host, if one is programmed.
    #[serde(default)]
    pub target_load: Option<f64>,
    /// What may happen to it.
    #[serde(default)]
    pub rules: RulesTable,
}

const fn vcpus() -> u32 {
    8
}

const fn small() -> ByteSize {
    ByteSize::gib(2)
}

/// `[load]`: how the loads of machines change over time, where no trace says so.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// How often.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// By how much CPU and I/O go up and down at random, as a share.
    pub flicker: f64,
    /// By how much they go up and down with the time of the day, each machine by its own clock.
    pub day: f64,
    /// By how much they drift, as a share: the standard deviation of what is forgotten within
    /// `drift_time`.
    pub drift: f64,
    /// How long a drift is remembered.
    #[serde(deserialize_with = "duration")]
    pub drift_time: Duration,
}

impl Default for Load {
    fn default() -> Self {
        let (every, drift_time) = (Duration::from_secs(300), Duration::from_secs(3600));
        Self { every, flicker: 0.0, day: 0.0, drift: 0.0, drift_time }
    }
}

impl Load {
    const fn changes(&self) -> bool {
        self.flicker > 0.0 || self.day > 0.0 || self.drift > 0.0
    }
}

/// A cluster, and what its machines want over time.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) snapshot: Snapshot,
    pub(super) demand: Demand,
}

/// What machines want over time.
#[derive(Debug)]
pub(super) struct Demand {
    /// In the order of the snapshot's machines.
    base: Vec<Workload>,
    phases: Vec<f64>,
    /// How far each machine has drifted, in standard deviations.
    drifts: Vec<f64>,
    trace: Option<(Trace, f64)>,
    load: Load,
    rng: ChaCha8Rng,
}

impl Source {
    /// The cluster of a scenario that is in `directory`.
    pub(super) fn of(
        scenario: &Scenario,
        directory: &Path,
        seed: u64,
    ) -> Result<Self, ScenarioError> {
        if let Some(table) = &scenario.trace {
            return table.source(directory, scenario, seed);
        }
        let snapshot = if let Some(made_up) = &scenario.generate {
            let mixed = made_up.kind == GenerateKind::Mixed;
            let recipe = Recipe {
                mixed,
                skew: made_up.skew,
                racks: made_up.racks,
                group: made_up.group,
                spare: made_up.spare,
                ..Recipe::uniform(made_up.hosts, made_up.machines)
            };
            generate(&recipe, made_up.seed)?
        } else if let Some(file) = &scenario.snapshot {
            let path = beside(directory, file);
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ScenarioError::Read { path, source })?;
            Snapshot::parse(&text)?
        } else {
            written_out(scenario)?
        };
        snapshot.check()?;
        let base = snapshot
            .vms
            .iter()
            .map(|vm| Workload { wants: vm.usage, dirty_bytes_per_s: vm.dirty_bytes_per_s });
        let demand = Demand::new(base.collect(), None, &scenario.load, seed);
        Ok(Self { snapshot, demand })
    }
}

fn numbered(id: &str, count: Option<usize>) -> Vec<String> {
    let one = |index| format!("{id}{index}");
    count.map_or_else(|| vec![id.to_owned()], |count| (1..=count).map(one).collect())
}

const fn bytes(size: ByteSize) -> f64 {
    size.as_u64() as f64
}

pub(super) fn written_out(scenario: &Scenario) -> Result<Snapshot, ScenarioError> {
    let mut snapshot =
        Snapshot { format: FORMAT.to_owned(), taken_at: None, hosts: Vec::new(), vms: Vec::new() };
    for table in &scenario.hosts {
        for id in numbered(&table.id, table.count) {
            snapshot.hosts.push(table.host(&id)?);
        }
    }
    for table in &scenario.machines {
        for id in numbered(&table.id, table.count) {
            snapshot.vms.push(table.machine(&id)?);
        }
    }
    Ok(snapshot)
}

impl HostTable {
    fn host(&self, id: &str) -> Result<SnapshotHost, ScenarioError> {
        let background = Resources { cpu_cores: self.background_cores, ..Resources::ZERO };
        Ok(SnapshotHost {
            id: HostId::new(id)?,
            capacity: Resources {
                cpu_cores: self.cpu_cores,
                memory_bytes: bytes(self.memory),
                io_bytes_per_s: bytes(self.io_per_s),
            },
            cpu_speed: self.cpu_speed,
            weights: self.weights,
            reserved_memory_bytes: bytes(self.reserved_memory),
            state: self.state,
            labels: Default::default(),
            background: (self.background_cores > 0.0).then_some(background),
        })
    }
}

impl MachineTable {
    fn machine(&self, id: &str) -> Result<SnapshotMachine, ScenarioError> {
        Ok(SnapshotMachine {
            id: MachineId::new(id)?,
            name: id.to_owned(),
            host: self.host.clone(),
            vcpus: self.vcpus,
            memory_bytes: bytes(self.memory_max.max(self.memory)),
            usage: Resources {
                cpu_cores: self.cpu_cores,
                memory_bytes: bytes(self.memory),
                io_bytes_per_s: bytes(self.io_per_s),
            },
            target_load: self.target_load,
            dirty_bytes_per_s: bytes(self.dirty_per_s),
            movable: true,
            rules: self.rules.clone().into(),
        })
    }
}

impl TraceTable {
    fn source(
        &self,
        directory: &Path,
        scenario: &Scenario,
        seed: u64,
    ) -> Result<Source, ScenarioError> {
        let path = beside(directory, &self.path);
        let span = scenario.duration.as_secs_f64();
        let ticks_in = |tick: Duration| (span / tick.as_secs_f64().max(1.0)).ceil() as usize;
        let mut trace = match self.kind {
            TraceKind::Bitbrains => {
                traces::bitbrains(&path, |tick| ticks_in(self.tick.unwrap_or(tick)))?
            }
            TraceKind::Planetlab => traces::planetlab(&path)?,
            TraceKind::Csv => traces::csv(&path)?,
        };
        trace.tick = self.tick.unwrap_or(trace.tick);
        let snapshot = self.place(&trace, self.seed.unwrap_or(seed))?;
        let base = vec![Workload::default(); snapshot.vms.len()];
        let demand = Demand::new(base, Some((trace, self.dirty_share_per_s)), &scenario.load, seed);
        Ok(Source { snapshot, demand })
    }

    /// Like hosts, and the machines on random ones that have room for the most they will occupy.
    fn place(&self, trace: &Trace, seed: u64) -> Result<Snapshot, ScenarioError> {
        let capacity = Resources {
            cpu_cores: self.cpu_cores,
            memory_bytes: bytes(self.memory),
            io_bytes_per_s: bytes(self.io_per_s),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut hosts = Vec::with_capacity(self.hosts);
        for index in 0..self.hosts {
            hosts.push(SnapshotHost {
                id: HostId::new(&format!("n{index:03}"))?,
                capacity,
                cpu_speed: 1.0,
                weights: Weights::default(),
                reserved_memory_bytes: 0.0,
                state: HostState::Active,
                labels: Default::default(),
                background: None,
            });
        }
        let mut free = vec![capacity.memory_bytes; self.hosts];
        let mut vms = Vec::with_capacity(trace.machines.len());
        for (index, usage) in trace.machines.iter().enumerate() {
            let most = |of: fn(&Resources) -> f64| usage.iter().map(of).fold(0.0, f64::max);
            let memory_bytes = most(|u| u.memory_bytes);
            let host = (0..1000)
                .map(|_| rng.random_range(0..self.hosts.max(1)))
                .find(|&host| free.get(host).is_some_and(|free| *free >= memory_bytes))
                .ok_or(ScenarioError::NoRoom { machine: index, bytes: memory_bytes })?;
            free[host] -= memory_bytes;
            let id = MachineId::new(&format!("v{index:04}"))?;
            vms.push(SnapshotMachine {
                name: id.to_string(),
                id,
                host: hosts[host].id.clone(),
                vcpus: most(|u| u.cpu_cores).ceil().max(1.0) as u32,
                memory_bytes,
                usage: usage.first().copied().unwrap_or(Resources::ZERO),
                target_load: None,
                dirty_bytes_per_s: 0.0,
                movable: true,
                rules: Rules::default(),
            });
        }
        Ok(Snapshot { format: FORMAT.to_owned(), taken_at: None, hosts, vms })
    }
}

/// A draw from the standard normal distribution (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * rng.random_range(f64::MIN_POSITIVE..1.0f64).ln()).sqrt();
    radius * rng.random_range(0.0..std::f64::consts::TAU).cos()
}

impl Demand {
    fn new(base: Vec<Workload>, trace: Option<(Trace, f64)>, load: &Load, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1);
        let phases = base.iter().map(|_| rng.random_range(0.0..std::f64::consts::TAU)).collect();
        let drifts = vec![0.0; base.len()];
        Self { base, phases, drifts, trace, load: load.clone(), rng }
    }

    /// How long a tick lasts; `None` where loads stay as they are.
    pub(super) fn tick(&self) -> Option<Duration> {
        match &self.trace {
            Some((trace, _)) => Some(trace.tick),
            None => self.load.changes().then_some(self.load.every),
        }
    }

    /// What a machine wants from now on.
    pub(super) fn set(&mut self, machine: usize, wants: Resources) {
        self.base[machine].wants = wants;
    }

    /// What a machine wanted at first, or was told to.
    pub(super) fn base(&self, machine: usize) -> Workload {
        self.base[machine]
    }

    /// What every machine wants in a tick.
    pub(super) fn at(&mut self, tick: usize) -> Vec<Workload> {
        if let Some((trace, share)) = &self.trace {
            let last = trace.ticks().saturating_sub(1);
            let wants = |usage: &Vec<Resources>| usage[tick.min(last)];
            let workload = |wants: Resources| Workload {
                dirty_bytes_per_s: wants.memory_bytes * share,
                wants,
            };
            return trace.machines.iter().map(|usage| workload(wants(usage))).collect();
        }
        let Load { every, flicker, day, drift, drift_time } = self.load;
        if drift > 0.0 {
            let kept = (-every.as_secs_f64() / drift_time.as_secs_f64()).exp();
            let fresh = (1.0 - kept * kept).sqrt();
            for drifted in &mut self.drifts {
                *drifted = *drifted * kept + fresh * normal(&mut self.rng);
            }
        }
        let angle = (every * tick as u32).as_secs_f64() / 86_400.0 * std::f64::consts::TAU;
        let rng = &mut self.rng;
        let shaped = |((base, phase), drifted): ((&Workload, &f64), &f64)| {
            let swing = (1.0 + day * (angle + phase).sin()) * (drift * drifted).exp();
            let noise = 1.0 + flicker * rng.random_range(-1.0..=1.0);
            let mut workload = *base;
            workload.wants.cpu_cores *= swing * noise;
            workload.wants.io_bytes_per_s *= swing * noise;
            workload
        };
        self.base.iter().zip(&self.phases).zip(&self.drifts).map(shaped).collect()
    }
}

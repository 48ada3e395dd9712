//! One host in memory: its machines, and what they consume as virtual time passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{Entry, HostFacts, HostId, MachineFacts, MachineId, Resources, Time};
use evenkeel_core::port::{
    Counters, Failure, HostSample, MachineSample, Presence, Pressure, Sight, Stamp,
};

/// Speed of the network that a host migrates over unless it is told otherwise: 10 Gbit/s.
const LINK_BYTES_PER_S: f64 = 1.25e9;

/// A host to be added to a [`super::MemoryCloud`].
#[derive(Clone, Debug)]
pub struct MemoryHost {
    /// Its id.
    pub id: HostId,
    /// What its hypervisor says of it. The migration URI is how other hosts find it: unique.
    pub facts: HostFacts,
    /// What it does besides its machines.
    pub background: Option<Resources>,
    /// Speed of one of its cores relative to the reference core; above zero.
    pub cpu_speed: f64,
    /// What it sends and receives in migrations at most, in bytes per second. Those under way at the
    /// same time, from and to it, share it evenly.
    pub link_bytes_per_s: f64,
    /// Cores of it that each migration from or to it keeps busy while it lasts.
    pub migration_cores: f64,
    /// How long after a machine has left its migration is answered.
    pub reaping: Duration,
    /// Features of its CPU; `None` if it has all. A machine's CPU is described by the names of its
    /// features, with blanks between them.
    pub cpu_features: Option<BTreeSet<String>>,
}

impl MemoryHost {
    /// A host of cores of speed 1 with a link of 10 Gbit/s, reached under its own name.
    #[must_use]
    pub fn new(id: HostId, capacity: Resources) -> Self {
        let migration_uri = format!("memory:///{id}");
        Self {
            id,
            facts: HostFacts { capacity, migration_uri, ..HostFacts::default() },
            background: None,
            cpu_speed: 1.0,
            link_bytes_per_s: LINK_BYTES_PER_S,
            migration_cores: 0.0,
            reaping: Duration::ZERO,
            cpu_features: None,
        }
    }
}

/// What a machine does all the time until it is told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Workload {
    /// What it wants: reference cores, bytes of memory, bytes of I/O per second. It gets less where
    /// the host has less than its machines want together, and no more CPU than it has virtual CPUs.
    pub wants: Resources,
    /// Memory that it dirties, in bytes per second.
    pub dirty_bytes_per_s: f64,
}

/// How the next migration from a host goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What the hypervisor answers.
    pub failure: Failure,
    /// How much of its time the migration takes before, from 0 to 1.
    pub after: f64,
    /// What it leaves behind.
    pub leaves: Aftermath,
}

/// What a migration leaves behind that is answered with a failure: everything that libvirt can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Aftermath {
    /// The machine runs on at the source, and nothing has arrived.
    #[default]
    Here,
    /// It has moved, and only the answer was lost.
    Moved,
    /// The source could not learn how it ended and lets the machine run on, while the copy that has
    /// arrived is complete: libvirt's hole. Where the hypervisor's commit point is trusted and locks
    /// hold, the source cannot let it run, and is left as with [`Aftermath::Stranded`].
    Both,
    /// The source does not know how it ended and leaves the machine paused; a complete copy has
    /// arrived.
    Stranded,
    /// The same, and nothing has arrived.
    StrandedAlone,
    /// The guest has ended on the way.
    Ended,
}

/// How a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Its hypervisor answers.
    Up,
    /// Its hypervisor is gone; its machines run on.
    Severed,
    /// It is without power.
    Off,
}

pub(super) struct Host {
    pub(super) spec: MemoryHost,
    pub(super) facts: Arc<HostFacts>,
    pub(super) link: Link,
    pub(super) machines: BTreeMap<MachineId, Machine>,
    pub(super) fault: Option<Fault>,
    /// How every migration to it goes wrong, if it does.
    pub(super) arrivals: Option<Fault>,
    /// Migrations under way to this host.
    pub(super) incoming: BTreeSet<u64>,
    /// Migrations whose bytes go over its link, either way.
    pub(super) transfers: BTreeSet<u64>,
    /// Until when consumption has been accounted for.
    settled: Time,
}

pub(super) struct Machine {
    pub(super) facts: Arc<MachineFacts>,
    /// Whether it runs, whatever else is under way with it.
    pub(super) presence: Presence,
    pub(super) workload: Workload,
    /// The migration under way, if any.
    pub(super) job: Option<u64>,
    /// How every migration of it goes wrong, if it does.
    pub(super) fault: Option<Fault>,
    /// By how much its counters are wrong, per resource.
    pub(super) misread: Option<Resources>,
    /// Whether somebody else than an agent has migrated it here.
    pub(super) arrived: bool,
    /// Whether what runs it answers nothing.
    pub(super) hung: bool,
    used: Used,
}

/// Consumption since the host began to run the machine.
#[derive(Clone, Copy, Default)]
struct Used {
    cpu_ns: f64,
    delay_ns: f64,
    io_bytes: f64,
}

impl Machine {
    pub(super) fn new(facts: Arc<MachineFacts>, presence: Presence, workload: Workload) -> Self {
        Self {
            facts,
            presence,
            workload,
            job: None,
            fault: None,
            misread: None,
            arrived: false,
            hung: false,
            used: Used::default(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.presence.is_resident()
    }

    /// Memory that it occupies, in bytes.
    pub(super) fn occupied_bytes(&self) -> f64 {
        self.workload.wants.memory_bytes.clamp(0.0, self.facts.memory_bytes.max(0.0))
    }

    /// Cores of this host that it would keep busy if it had them for itself.
    fn wanted_cores(&self, cpu_speed: f64) -> f64 {
        let wanted = self.workload.wants.cpu_cores / cpu_speed;
        wanted.clamp(0.0, f64::from(self.facts.vcpus))
    }

    /// How it is, as a look would tell.
    pub(super) fn seen(&self) -> Presence {
        match (self.presence, self.job) {
            (Presence::Running, Some(_)) => Presence::Leaving,
            (presence, _) => presence,
        }
    }

    /// All that a look tells.
    pub(super) fn sight(&self) -> Sight {
        let entry = self.facts.entry.as_ref().ok();
        let stamp = entry.map(Stamp::of).unwrap_or_default();
        let from = entry.and_then(Entry::came_from).cloned();
        Sight { from, ..Sight::new(self.seen(), stamp) }
    }

    fn sample(&self) -> MachineSample {
        let wrong = self.misread.unwrap_or(Resources {
            cpu_cores: 1.0,
            memory_bytes: 1.0,
            io_bytes_per_s: 1.0,
        });
        let counters = (self.is_live() && !self.hung).then(|| Counters {
            cpu_time_ns: (self.used.cpu_ns * wrong.cpu_cores) as u64,
            cpu_delay_ns: Some(self.used.delay_ns as u64),
            io_bytes: (self.used.io_bytes * wrong.io_bytes_per_s) as u64,
            memory_bytes: (self.occupied_bytes() * wrong.memory_bytes) as u64,
            dirty_bytes_per_s: Some(self.workload.dirty_bytes_per_s as u64),
            pressure: Pressure::default(),
        });
        MachineSample {
            facts: Arc::clone(&self.facts),
            presence: self.seen(),
            arrived: self.arrived,
            counters,
        }
    }
}

impl Host {
    pub(super) fn new(spec: MemoryHost, now: Time) -> Self {
        Self {
            facts: Arc::new(spec.facts.clone()),
            spec,
            link: Link::Up,
            machines: BTreeMap::new(),
            fault: None,
            arrivals: None,
            incoming: BTreeSet::new(),
            transfers: BTreeSet::new(),
            settled: now,
        }
    }

    /// Accounts for what the machines consumed up to `now`. To be called before anything changes
    /// that their consumption depends on.
    pub(super) fn settle(&mut self, now: Time) {
        let span = now.since(self.settled);
        self.settled = self.settled.max(now);
        if span == Duration::ZERO {
            return;
        }
        let speed = self.spec.cpu_speed;
        let running = || self.machines.values().filter(|m| m.presence == Presence::Running);
        let (mut cores, mut io) = (0.0, 0.0);
        for machine in running() {
            cores += machine.wanted_cores(speed);
            io += machine.workload.wants.io_bytes_per_s.max(0.0);
        }
        let capacity = self.facts.capacity;
        // Migrations come first, and never take all of it.
        let left = (capacity.cpu_cores - self.migrating_cores()).max(0.01 * capacity.cpu_cores);
        let (cpu_share, io_share) = (granted(cores, left), granted(io, capacity.io_bytes_per_s));
        let seconds = span.as_secs_f64();
        for machine in self.machines.values_mut().filter(|m| m.presence == Presence::Running) {
            let wanted_ns = machine.wanted_cores(speed) * seconds * 1e9;
            machine.used.cpu_ns += wanted_ns * cpu_share;
            machine.used.delay_ns += wanted_ns * (1.0 - cpu_share);
            machine.used.io_bytes +=
                machine.workload.wants.io_bytes_per_s.max(0.0) * seconds * io_share;
        }
    }

    /// Cores that migrations from and to it keep busy now.
    pub(super) fn migrating_cores(&self) -> f64 {
        self.spec.migration_cores * self.transfers.len() as f64
    }

    pub(super) fn sample(&mut self, now: Time) -> HostSample {
        self.settle(now);
        HostSample {
            at: now,
            facts: Arc::clone(&self.facts),
            background: self.spec.background,
            pressure: Pressure::default(),
            machines: self.machines.values().map(Machine::sample).collect(),
        }
    }
}

/// The share of what is wanted that a host can give; a resource without a capacity has no limit.
fn granted(wanted: f64, capacity: f64) -> f64 {
    if capacity > 0.0 && wanted > capacity { capacity / wanted } else { 1.0 }
}

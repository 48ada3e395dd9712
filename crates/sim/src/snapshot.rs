//! `evenkeel.snapshot/v1`: what a cluster looks like at one moment.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::model::{
    Entry, HostId, HostProfile, HostState, IdError, Locks, MachineFacts, MachineId, ProfileError,
    Requirements, Resources, Rules, Weights,
};
use serde::{Deserialize, Serialize};

/// The value of `format`.
pub const FORMAT: &str = "evenkeel.snapshot/v1";

/// A cluster at one moment. Unknown fields are ignored: later versions add some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Always [`FORMAT`].
    pub format: String,
    /// When, as RFC 3339; not interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<String>,
    /// The hosts.
    pub hosts: Vec<SnapshotHost>,
    /// The machines.
    pub vms: Vec<SnapshotMachine>,
}

/// A host of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotHost {
    /// Its id.
    pub id: HostId,
    /// Own cores, bytes, bytes per second.
    pub capacity: Resources,
    /// Speed of a core relative to the reference core.
    #[serde(default = "one")]
    pub cpu_speed: f64,
    /// How much each resource counts here; normalised to sum 1.
    #[serde(default)]
    pub weights: Weights,
    /// Memory that no machine may take, in bytes.
    #[serde(default)]
    pub reserved_memory_bytes: f64,
    /// Whether it takes part.
    #[serde(default)]
    pub state: HostState,
    /// Free-form labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it uses besides its machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Resources>,
}

/// A machine of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotMachine {
    /// Its id.
    pub id: MachineId,
    /// Its name; the id if empty.
    #[serde(default)]
    pub name: String,
    /// The host that runs it.
    pub host: HostId,
    /// Virtual CPUs.
    #[serde(default = "one_cpu")]
    pub vcpus: u32,
    /// Memory that it may come to occupy, in bytes; what it occupies if 0.
    #[serde(default)]
    pub memory_bytes: f64,
    /// What it uses: reference cores, bytes, bytes per second.
    pub usage: Resources,
    /// Its target load on its host, if one is programmed.
    #[serde(default)]
    pub target_load: Option<f64>,
    /// Memory that it dirties, in bytes per second.
    #[serde(default)]
    pub dirty_bytes_per_s: f64,
    /// Whether it may be moved at all.
    #[serde(default = "yes")]
    pub movable: bool,
    /// What may happen to it.
    #[serde(default)]
    pub rules: Rules,
}

const fn one() -> f64 {
    1.0
}

const fn one_cpu() -> u32 {
    1
}

const fn yes() -> bool {
    true
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is no JSON, or not of this form.
    #[error("not a snapshot: {0}")]
    Form(#[from] serde_json::Error),
    /// It is of another format.
    #[error("the format is `{0}`, and this reads `{FORMAT}`")]
    Format(String),
    /// It has no hosts.
    #[error("it has no hosts")]
    NoHosts,
    /// Two hosts or two machines have the same id.
    #[error("{kind} `{id}` is there twice")]
    Twice {
        /// `host` or `machine`.
        kind: &'static str,
        /// Which.
        id: String,
    },
    /// A machine is on a host that is not there.
    #[error("machine `{machine}` is on host `{host}`, which is not in the snapshot")]
    NoSuchHost {
        /// The machine.
        machine: MachineId,
        /// The host.
        host: HostId,
    },
    /// A host cannot be reckoned with.
    #[error(transparent)]
    Host(#[from] ProfileError),
    /// A figure makes no sense.
    #[error("{kind} `{id}`: {what} is {value}, which makes no sense")]
    Figure {
        /// `host` or `machine`.
        kind: &'static str,
        /// Which.
        id: String,
        /// Which figure.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Largest target load and largest amount: beyond it a figure is a mistake of units.
const AMOUNT_MAX: f64 = 1e18;

impl Snapshot {
    /// Reads and checks a snapshot.
    ///
    /// # Errors
    /// What is wrong with it, and with which host or machine.
    pub fn parse(json: &str) -> Result<Self, SnapshotError> {
        let snapshot: Self = serde_json::from_str(json)?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When a figure is not a number, which [`Self::check`] refuses.
    pub fn to_json(&self) -> Result<String, SnapshotError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Checks that every figure makes sense and everything mentioned is there.
    ///
    /// # Errors
    /// What is wrong, and with which host or machine.
    pub fn check(&self) -> Result<(), SnapshotError> {
        if self.format != FORMAT {
            return Err(SnapshotError::Format(self.format.clone()));
        }
        if self.hosts.is_empty() {
            return Err(SnapshotError::NoHosts);
        }
        let mut hosts = BTreeSet::new();
        for host in &self.hosts {
            let twice = || SnapshotError::Twice { kind: "host", id: host.id.to_string() };
            hosts.insert(&host.id).then_some(()).ok_or_else(twice)?;
            host.check()?;
        }
        let mut machines = BTreeSet::new();
        for vm in &self.vms {
            let twice = || SnapshotError::Twice { kind: "machine", id: vm.id.to_string() };
            machines.insert(&vm.id).then_some(()).ok_or_else(twice)?;
            if !hosts.contains(&vm.host) {
                let (machine, host) = (vm.id.clone(), vm.host.clone());
                return Err(SnapshotError::NoSuchHost { machine, host });
            }
            vm.check()?;
        }
        Ok(())
    }
}

fn figure(
    kind: &'static str,
    id: &str,
    what: &'static str,
    value: f64,
) -> Result<(), SnapshotError> {
    if (0.0..=AMOUNT_MAX).contains(&value) {
        return Ok(());
    }
    Err(SnapshotError::Figure { kind, id: id.to_owned(), what, value })
}

impl SnapshotHost {
    /// The host as the arithmetic sees it.
    #[must_use]
    pub fn profile(&self) -> HostProfile {
        HostProfile {
            cpu_speed: self.cpu_speed,
            weights: self.weights,
            reserved_memory_bytes: self.reserved_memory_bytes,
            labels: self.labels.clone(),
            ..HostProfile::new(self.id.clone(), self.capacity)
        }
    }

    fn check(&self) -> Result<(), SnapshotError> {
        let id = self.id.as_str();
        let background = self.background.unwrap_or_default();
        for (what, value) in [
            ("capacity.cpu_cores", self.capacity.cpu_cores),
            ("capacity.memory_bytes", self.capacity.memory_bytes),
            ("capacity.io_bytes_per_s", self.capacity.io_bytes_per_s),
            ("reserved_memory_bytes", self.reserved_memory_bytes),
            ("background.cpu_cores", background.cpu_cores),
            ("background.memory_bytes", background.memory_bytes),
            ("background.io_bytes_per_s", background.io_bytes_per_s),
        ] {
            figure("host", id, what, value)?;
        }
        Ok(self.profile().check()?)
    }
}

impl SnapshotMachine {
    /// Memory that it may come to occupy, in bytes.
    #[must_use]
    pub fn promised_memory_bytes(&self) -> f64 {
        self.memory_bytes.max(self.usage.memory_bytes)
    }

    /// Its name, or its id.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.name.is_empty() { self.id.as_str() } else { &self.name }
    }

    /// What a hypervisor says of it. One that may not be moved is ignored.
    #[must_use]
    pub fn facts(&self) -> MachineFacts {
        let ignore = self.rules.ignore || !self.movable;
        MachineFacts {
            id: self.id.clone(),
            name: self.name().into(),
            vcpus: self.vcpus,
            memory_bytes: self.promised_memory_bytes(),
            needs: Requirements::default(),
            persistent: true,
            autostart: false,
            locks: Locks::default(),
            entry: Ok(Entry {
                target_load: self.target_load,
                rules: Rules { ignore, ..self.rules.clone() },
                ..Entry::default()
            }),
        }
    }

    /// What it takes of a host, when programmed or as measured.
    #[must_use]
    pub fn factors(&self, on: &HostProfile) -> Resources {
        self.target_load.map_or(self.usage, |share| on.share_as_usage(share))
    }

    fn check(&self) -> Result<(), SnapshotError> {
        for (what, value) in [
            ("usage.cpu_cores", self.usage.cpu_cores),
            ("usage.memory_bytes", self.usage.memory_bytes),
            ("usage.io_bytes_per_s", self.usage.io_bytes_per_s),
            ("memory_bytes", self.memory_bytes),
            ("dirty_bytes_per_s", self.dirty_bytes_per_s),
            ("target_load", self.target_load.unwrap_or(0.0)),
        ] {
            figure("machine", self.id.as_str(), what, value)?;
        }
        Ok(())
    }
}

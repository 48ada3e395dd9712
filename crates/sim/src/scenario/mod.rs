//! Scenarios: a cluster, what befalls it and what is expected of it, as people write them in TOML.
//! `docs/simulation.md` describes every key.

mod expect;
mod happening;
mod report;
mod run;
mod source;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_config::{BalanceConfig, CeilingsConfig, ValueError, check, duration};
use evenkeel_core::model::{HostId, IdError, MachineId};
use evenkeel_hypervisor::memory::CloudError;
use serde::Deserialize;

pub use expect::Unmet;
pub use happening::{Deed, Faults, Happening};
pub use report::{FORMAT, InvariantResult, Report, Spread};
pub use run::{Observer, Simulation};
pub use source::{Generate, HostTable, Load, MachineTable, TraceTable};

use crate::snapshot::SnapshotError;
use crate::traces::TraceError;

/// A scenario, as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// What reproduces the run exactly.
    pub seed: u64,
    /// How long it runs.
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    /// Before this nothing is scored.
    #[serde(deserialize_with = "duration")]
    pub warm_up: Duration,
    /// How long it goes on without faults afterwards; every handoff must end by then.
    #[serde(deserialize_with = "duration")]
    pub heal: Duration,
    /// Time between two looks at the balance.
    #[serde(deserialize_with = "duration")]
    pub measure: Duration,
    /// Whether agents run at all.
    pub agents: bool,
    /// A made-up cluster.
    pub generate: Option<Generate>,
    /// A file with a cluster as `evenkeel snapshot` writes it.
    pub snapshot: Option<PathBuf>,
    /// What real machines used.
    pub trace: Option<TraceTable>,
    /// Hosts written out.
    pub hosts: Vec<HostTable>,
    /// Machines written out.
    pub machines: Vec<MachineTable>,
    /// How loads change over time.
    pub load: Load,
    /// How agents balance, by the keys of an agent's configuration.
    pub balance: BalanceConfig,
    /// How much of each resource of every host may be in use.
    pub ceilings: CeilingsConfig,
    /// How messages travel.
    pub network: NetworkTable,
    /// What migrations cost.
    pub migration: MigrationTable,
    /// How hosts know of each other.
    pub membership: MembershipTable,
    /// What goes wrong at random.
    pub faults: Faults,
    /// What happens at a given time.
    pub event: Vec<Happening>,
    /// What the report must say.
    pub expect: toml::Table,
}

/// `[network]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkTable {
    /// Least time that a message takes.
    #[serde(deserialize_with = "duration")]
    pub delay_min: Duration,
    /// Most time that a message takes.
    #[serde(deserialize_with = "duration")]
    pub delay_max: Duration,
    /// Share of messages that get lost.
    pub loss: f64,
    /// Share of messages that arrive twice.
    pub duplication: f64,
}

/// `[migration]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationTable {
    /// What a host sends and receives in migrations at most, per second.
    pub link: ByteSize,
    /// Cores that a migration keeps busy on each of its two hosts.
    pub cpu_cores: f64,
}

/// `[membership]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MembershipTable {
    /// Who tells; by default the agents' own up to 1,000 hosts.
    pub kind: Option<MembershipKind>,
    /// After how long the oracle tells.
    #[serde(deserialize_with = "duration")]
    pub detection: Duration,
}

/// Who tells hosts of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipKind {
    /// The agents' own, over the simulated network.
    Foca,
    /// Somebody who knows everything.
    Oracle,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            seed: 1,
            duration: Duration::from_secs(3600),
            warm_up: Duration::ZERO,
            heal: Duration::from_secs(1200),
            measure: Duration::from_secs(60),
            agents: true,
            generate: None,
            snapshot: None,
            trace: None,
            hosts: Vec::new(),
            machines: Vec::new(),
            load: Load::default(),
            balance: BalanceConfig::default(),
            ceilings: CeilingsConfig::default(),
            network: NetworkTable::default(),
            migration: MigrationTable::default(),
            membership: MembershipTable::default(),
            faults: Faults::default(),
            event: Vec::new(),
            expect: toml::Table::new(),
        }
    }
}

impl Default for NetworkTable {
    fn default() -> Self {
        let (delay_min, delay_max) = (Duration::from_millis(1), Duration::from_millis(2));
        Self { delay_min, delay_max, loss: 0.0, duplication: 0.0 }
    }
}

impl Default for MigrationTable {
    fn default() -> Self {
        Self { link: ByteSize(1_250_000_000), cpu_cores: 1.0 }
    }
}

impl Default for MembershipTable {
    fn default() -> Self {
        Self { kind: None, detection: Duration::from_secs(5) }
    }
}

/// Why a scenario cannot be used or run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or a key or value of it is not known.
    #[error("{0}")]
    Parse(String),
    /// A value makes no sense.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// There must be one source of hosts and machines.
    #[error(
        "{0} of `generate`, `snapshot`, `trace` and `hosts` are given: hosts and machines come from \
         one of them"
    )]
    Sources(usize),
    /// The snapshot cannot be used.
    #[error("`snapshot`: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The trace cannot be used.
    #[error("`trace`: {0}")]
    Trace(#[from] TraceError),
    /// A machine of the trace fits no host.
    #[error(
        "machine {machine} of the trace occupies {bytes:.0} bytes, and no host has room for it"
    )]
    NoRoom {
        /// Its number.
        machine: usize,
        /// What it occupies at most.
        bytes: f64,
    },
    /// Something is not there.
    #[error("`event` at {at:?}: there is no {kind} `{name}`")]
    Unknown {
        /// When.
        at: Duration,
        /// `host` or `machine`.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// A key that has no effect here.
    #[error("`{key}` has no effect here: {why}")]
    Idle {
        /// The key.
        key: &'static str,
        /// Why it has none.
        why: &'static str,
    },
    /// A bound on a figure that no report has.
    #[error("`expect.{key}`: {why}")]
    Expect {
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The simulated hosts refuse something.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

/// Largest scenario in hosts and machines.
const MANY: usize = 1_000_000;

impl Scenario {
    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// What is wrong with it, and with which key.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = evenkeel_config::parse(text).map_err(ScenarioError::Parse)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The hosts and machines that it writes out, as a snapshot.
    ///
    /// # Errors
    /// When an id is none.
    pub fn written_out(&self) -> Result<crate::snapshot::Snapshot, ScenarioError> {
        source::written_out(self)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let sources = usize::from(self.generate.is_some())
            + usize::from(self.snapshot.is_some())
            + usize::from(self.trace.is_some())
            + usize::from(!self.hosts.is_empty());
        if sources != 1 {
            return Err(ScenarioError::Sources(sources));
        }
        self.balance.check()?;
        self.ceilings.check()?;
        let years = evenkeel_config::SPAN_MAX;
        for (key, span, least) in [
            ("duration", self.duration, Duration::from_secs(1)),
            ("measure", self.measure, Duration::from_secs(1)),
            ("load.every", self.load.every, Duration::from_secs(1)),
            ("load.drift_time", self.load.drift_time, Duration::from_secs(1)),
            ("faults.lasts", self.faults.lasts, Duration::from_secs(1)),
            ("heal", self.heal, Duration::ZERO),
            ("warm_up", self.warm_up, Duration::ZERO),
        ] {
            let sane = (least..=years).contains(&span);
            check(sane, key, &format!("{span:?}"), "from 1s to 8760h")?;
        }
        let shorter = self.warm_up < self.duration;
        check(shorter, "warm_up", &format!("{:?}", self.warm_up), "shorter than `duration`")?;
        for (key, share) in [
            ("network.loss", self.network.loss),
            ("network.duplication", self.network.duplication),
            ("load.flicker", self.load.flicker),
            ("load.day", self.load.day),
            ("load.drift", self.load.drift),
        ] {
            check((0.0..=1.0).contains(&share), key, &share, "a share, from 0 to 1")?;
        }
        let cores = self.migration.cpu_cores;
        let sane = cores.is_finite() && cores >= 0.0;
        check(sane, "migration.cpu_cores", &cores, "a number of cores, 0 or more")?;
        if let Some(made_up) = &self.generate {
            let sane = (1..=MANY).contains(&made_up.hosts) && made_up.machines <= MANY;
            check(sane, "generate.hosts", &made_up.hosts, "from 1 to a million, as `machines`")?;
        }
        for (_, rate) in self.faults.rates() {
            let sane = (0.0..=3600.0).contains(&rate);
            check(sane, "faults", &rate, "a number an hour, from 0 to 3600")?;
        }
        self.check_effects()?;
        expect::check(&self.expect)
    }

    /// What is given and could have no effect is a mistake.
    fn check_effects(&self) -> Result<(), ScenarioError> {
        let refuse = |key: &'static str, why: &'static str| ScenarioError::Idle { key, why };
        if self.trace.is_some() && self.load != Load::default() {
            return Err(refuse("load", "what machines want is told by `trace`"));
        }
        let foca = self.membership.kind == Some(MembershipKind::Foca);
        if foca && self.membership.detection != MembershipTable::default().detection {
            return Err(refuse("membership.detection", "only the oracle tells after a time"));
        }
        if let Some(made_up) = &self.generate
            && made_up.group > 0
            && made_up.racks == 0
        {
            return Err(refuse("generate.group", "groups keep apart across `racks`"));
        }
        for happening in self.event.iter().filter(|happening| happening.lasts.is_some()) {
            if let Some(why) = happening.deed.has_no_end() {
                return Err(refuse("event.lasts", why));
            }
        }
        Ok(())
    }
}

/// Where a file that a scenario names is: relative to the scenario.
fn beside(directory: &Path, file: &Path) -> PathBuf {
    directory.join(file)
}

/// What an event is about.
fn unknown(at: Duration, kind: &'static str, name: &impl ToString) -> ScenarioError {
    ScenarioError::Unknown { at, kind, name: name.to_string() }
}

/// Hosts and machines by name.
type Names = (Vec<HostId>, Vec<MachineId>);

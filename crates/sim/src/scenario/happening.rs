//! What befalls a simulated cluster: at random by a mix, or at a given time.

use std::time::Duration;

use evenkeel_config::{duration, duration_or_none};
use evenkeel_core::control::Autonomy;
use evenkeel_core::model::{Group, HostId, HostState, MachineId, Place, Resources, Rules};
use serde::Deserialize;

/// `[faults]`: how often each goes wrong somewhere in the cluster, on average an hour.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How long each lasts on average.
    #[serde(deserialize_with = "duration")]
    pub lasts: Duration,
    /// An agent is killed, and started again.
    pub agent_crash: f64,
    /// A host loses its power, and comes back.
    pub power_loss: f64,
    /// The same, and its disk is empty.
    pub disk_loss: f64,
    /// Some hosts are cut off from the others.
    pub partition: f64,
    /// The same, but they are still heard.
    pub one_way_partition: f64,
    /// An agent's store cannot be written.
    pub store_full: f64,
    /// Each write takes two seconds.
    pub store_slow: f64,
    /// An agent is killed, and started again with an empty store.
    pub store_lost: f64,
    /// A hypervisor goes away, and comes back; machines run on.
    pub hypervisor_restart: f64,
    /// A host's clock jumps by up to ten minutes either way, and its agent is started anew.
    pub clock_jump: f64,
    /// Three messages of ten get lost, two arrive twice.
    pub message_burst: f64,
    /// The next migration from a host fails on its way.
    pub migration_failure: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            lasts: Duration::from_secs(60),
            agent_crash: 0.0,
            power_loss: 0.0,
            disk_loss: 0.0,
            partition: 0.0,
            one_way_partition: 0.0,
            store_full: 0.0,
            store_slow: 0.0,
            store_lost: 0.0,
            hypervisor_restart: 0.0,
            clock_jump: 0.0,
            message_burst: 0.0,
            migration_failure: 0.0,
        }
    }
}

/// Kinds of random faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AgentCrash,
    PowerLoss,
    DiskLoss,
    Partition,
    OneWayPartition,
    StoreFull,
    StoreSlow,
    StoreLost,
    HypervisorRestart,
    ClockJump,
    MessageBurst,
    MigrationFailure,
}

impl Faults {
    /// Every kind and how often it strikes an hour.
    pub(super) const fn rates(&self) -> [(Kind, f64); 12] {
        [
            (Kind::AgentCrash, self.agent_crash),
            (Kind::PowerLoss, self.power_loss),
            (Kind::DiskLoss, self.disk_loss),
            (Kind::Partition, self.partition),
            (Kind::OneWayPartition, self.one_way_partition),
            (Kind::StoreFull, self.store_full),
            (Kind::StoreSlow, self.store_slow),
            (Kind::StoreLost, self.store_lost),
            (Kind::HypervisorRestart, self.hypervisor_restart),
            (Kind::ClockJump, self.clock_jump),
            (Kind::MessageBurst, self.message_burst),
            (Kind::MigrationFailure, self.migration_failure),
        ]
    }
}

/// `[[event]]`: something that happens at a given time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happening {
    /// When, since the beginning.
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    /// Again and again after this time, until the end.
    #[serde(default, deserialize_with = "duration_or_none")]
    pub every: Option<Duration>,
    /// After how long it ends; otherwise it goes on, and what goes wrong ends with the scenario's
    /// duration.
    #[serde(default, deserialize_with = "duration_or_none")]
    pub lasts: Option<Duration>,
    /// What.
    #[serde(rename = "do")]
    pub deed: Deed,
}

/// What can happen at a given time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    /// An agent is killed, and started again at the end.
    Kill {
        /// Whose.
        host: HostId,
    },
    /// A host loses its power, and gets it back at the end.
    PowerOff {
        /// Which.
        host: HostId,
        /// Whether its disk is empty then.
        #[serde(default)]
        disk_lost: bool,
    },
    /// Hosts are cut off from all others.
    Partition {
        /// Which.
        hosts: Vec<HostId>,
        /// Whether they are still heard.
        #[serde(default)]
        one_way: bool,
    },
    /// A store cannot be written.
    StoreFull {
        /// Whose.
        host: HostId,
    },
    /// An agent is killed and its store emptied; it is started again at the end.
    StoreLost {
        /// Whose.
        host: HostId,
    },
    /// The next migration from a host fails on its way.
    FailNextMigration {
        /// Which.
        host: HostId,
        /// After which share of its time.
        #[serde(default)]
        after: f64,
    },
    /// Every write takes so long.
    StoreSlow {
        /// Whose.
        host: HostId,
        /// How long.
        #[serde(deserialize_with = "duration")]
        takes: Duration,
    },
    /// A hypervisor goes away; machines run on.
    HypervisorDown {
        /// Whose.
        host: HostId,
    },
    /// A host's clock is off by so many seconds, and its agent is started anew.
    Clock {
        /// Whose.
        host: HostId,
        /// Seconds ahead, or behind if negative.
        ahead_s: f64,
    },
    /// Messages get lost or arrive twice.
    Messages {
        /// Share that gets lost.
        #[serde(default)]
        loss: f64,
        /// Share that arrives twice.
        #[serde(default)]
        duplication: f64,
    },
    /// An operator says whether a host takes part.
    State {
        /// Which.
        host: HostId,
        /// From now on.
        state: HostState,
    },
    /// A machine wants something else from now on.
    Load {
        /// Which.
        machine: MachineId,
        /// Reference cores, bytes, bytes per second; what is left out is 0.
        wants: Wants,
    },
    /// A machine's rules are others from now on.
    Rules {
        /// Which.
        machine: MachineId,
        /// What may happen to it.
        rules: RulesTable,
    },
    /// A machine ends.
    Stop {
        /// Which.
        machine: MachineId,
    },
    /// Every migration of a machine fails on its way.
    FailMigrations {
        /// Which.
        machine: MachineId,
        /// After which share of its time.
        #[serde(default)]
        after: f64,
    },
    /// A machine's counters are wrong by these factors on the host where it is.
    Misread {
        /// Which.
        machine: MachineId,
        /// Factors; what is left out is right.
        #[serde(default)]
        factors: Factors,
    },
    /// A machine is said to have so many virtual CPUs.
    Vcpus {
        /// Which.
        machine: MachineId,
        /// So many.
        vcpus: u32,
    },
    /// Somebody else moves a machine, without a word to any agent.
    Move {
        /// Which.
        machine: MachineId,
        /// Where to.
        to: HostId,
    },
}

/// Amounts, each of which may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wants {
    /// Reference cores.
    pub cpu_cores: Option<f64>,
    /// Bytes.
    pub memory_bytes: Option<f64>,
    /// Bytes per second.
    pub io_bytes_per_s: Option<f64>,
}

impl Wants {
    /// These amounts, and of what is left out those of before.
    pub(super) fn or(&self, before: Resources) -> Resources {
        Resources {
            cpu_cores: self.cpu_cores.unwrap_or(before.cpu_cores),
            memory_bytes: self.memory_bytes.unwrap_or(before.memory_bytes),
            io_bytes_per_s: self.io_bytes_per_s.unwrap_or(before.io_bytes_per_s),
        }
    }
}

/// Factors, each 1 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Factors {
    /// Of CPU time.
    pub cpu: f64,
    /// Of memory.
    pub memory: f64,
    /// Of I/O.
    pub io: f64,
}

impl Default for Factors {
    fn default() -> Self {
        Self { cpu: 1.0, memory: 1.0, io: 1.0 }
    }
}

impl From<Factors> for Resources {
    fn from(factors: Factors) -> Self {
        let Factors { cpu, memory, io } = factors;
        Self { cpu_cores: cpu, memory_bytes: memory, io_bytes_per_s: io }
    }
}

/// Rules, as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesTable {
    /// Where it may run; empty means anywhere.
    pub pinned_to: Vec<Place>,
    /// Groups whose members stay together.
    pub affinity: Vec<Group>,
    /// Groups whose members stay apart.
    pub anti_affinity: Vec<Group>,
    /// Never moved by the balancer.
    pub ignore: bool,
    /// Never migrated live.
    pub never_live: bool,
    /// Higher is helped first and moved last.
    pub priority: i32,
    /// Largest share of a host that it may come to load.
    pub max_share: Option<f64>,
    /// How much may be done with it without an operator.
    pub mode: Option<Autonomy>,
}

impl From<RulesTable> for Rules {
    fn from(table: RulesTable) -> Self {
        let RulesTable { pinned_to, affinity, anti_affinity, .. } = table;
        let RulesTable { ignore, never_live, priority, max_share, mode, .. } = table;
        let rules =
            Self { pinned_to, affinity, anti_affinity, ignore, never_live, ..Self::default() };
        Self { priority, max_share, mode, ..rules }
    }
}

impl Deed {
    /// Hosts that it is about.
    pub(super) fn hosts(&self) -> Vec<&HostId> {
        match self {
            Self::Kill { host }
            | Self::PowerOff { host, .. }
            | Self::StoreFull { host }
            | Self::StoreSlow { host, .. }
            | Self::StoreLost { host }
            | Self::FailNextMigration { host, .. }
            | Self::HypervisorDown { host }
            | Self::Clock { host, .. }
            | Self::State { host, .. }
            | Self::Move { to: host, .. } => vec![host],
            Self::Partition { hosts, .. } => hosts.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// Why it cannot end, if so.
    pub(super) const fn has_no_end(&self) -> Option<&'static str> {
        match self {
            Self::Stop { .. } => Some("a machine that has ended does not come back"),
            Self::Move { .. } => Some("a machine that was moved does not go back by itself"),
            Self::FailNextMigration { .. } => Some("it is over with the next migration"),
            _ => None,
        }
    }

    /// What it is called.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerOff { .. } => "power_off",
            Self::Partition { .. } => "partition",
            Self::StoreFull { .. } => "store_full",
            Self::StoreLost { .. } => "store_lost",
            Self::StoreSlow { .. } => "store_slow",
            Self::FailNextMigration { .. } => "fail_next_migration",
            Self::HypervisorDown { .. } => "hypervisor_down",
            Self::Clock { .. } => "clock",
            Self::Messages { .. } => "messages",
            Self::State { .. } => "state",
            Self::Load { .. } => "load",
            Self::Rules { .. } => "rules",
            Self::Stop { .. } => "stop",
            Self::FailMigrations { .. } => "fail_migrations",
            Self::Misread { .. } => "misread",
            Self::Vcpus { .. } => "vcpus",
            Self::Move { .. } => "move",
        }
    }

    /// The machine that it is about.
    pub(super) const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Load { machine, .. }
            | Self::Rules { machine, .. }
            | Self::Stop { machine }
            | Self::FailMigrations { machine, .. }
            | Self::Misread { machine, .. }
            | Self::Vcpus { machine, .. }
            | Self::Move { machine, .. } => Some(machine),
            _ => None,
        }
    }
}

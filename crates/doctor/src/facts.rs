//! What is to be known of a host.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Everything that was found out about a host, at one moment. What could not be found out says why,
/// in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The host.
    pub host: String,
    /// Its clock when this was gathered, in milliseconds since 1970.
    pub at_ms: u64,
    /// Version of the agent or program that gathered it.
    pub evenkeel: String,
    /// Its agent; `None` if none was asked.
    pub agent: Option<AgentFacts>,
    /// Its libvirt.
    pub libvirt: Result<LibvirtFacts, String>,
    /// How machines come to it.
    pub migration: MigrationFacts,
    /// What it proves itself with.
    pub identity: Result<IdentityFacts, String>,
    /// What it has, and what is declared of that.
    pub capacity: CapacityFacts,
    /// Where the agent keeps its records.
    pub store: StoreFacts,
    /// What is under `[storage]`, by id.
    pub storage: BTreeMap<String, StorageFacts>,
    /// The lock manager that is declared.
    pub lock_manager: Option<String>,
    /// Whether the kernel tells pressure stall information.
    pub pressure: bool,
}

/// The agent of a host, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Why its load is not known, if so.
    pub unknown: Option<String>,
    /// The other members that it knows to be alive.
    pub members: Vec<String>,
    /// Whether it was told of other hosts: by `seeds`, by a join token, or by having met them.
    #[serde(default)]
    pub knows_others: bool,
    /// What somebody has to look at: what is wrong, and what to do.
    #[serde(default)]
    pub alarms: Vec<(String, String)>,
    /// Machines that stay where they are whatever other hosts have: their names, and why.
    #[serde(default)]
    pub kept: Vec<(String, String)>,
    /// Members that do not answer, and since when, in milliseconds since 1970.
    #[serde(default)]
    pub silent: BTreeMap<String, u64>,
}

/// A version as libvirt numbers them: 1,000,000 × major + 1,000 × minor + release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The 10 of 10.0.2.
    #[must_use]
    pub const fn major(self) -> u64 {
        self.0 / 1_000_000
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.0 / 1000 % 1000, self.0 % 1000)
    }
}

/// A host's libvirt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibvirtFacts {
    /// Where it was asked.
    pub uri: String,
    /// Its version.
    pub version: Version,
    /// QEMU's.
    pub qemu: Version,
    /// Whether machines have the processor's help (KVM).
    pub hardware: bool,
    /// How it executes machines by preference: `kvm`, `qemu`.
    pub virt_type: String,
    /// The richest CPU that it can give to machines, in its own words; empty if it does not tell.
    pub cpu: String,
    /// The model of that.
    pub cpu_model: String,
    /// Machines here that are emulated in software, running or not.
    pub emulated_machines: u32,
    /// The lock manager in its configuration, where that can be read.
    pub lock_manager: Option<String>,
    /// What it calls its host; empty if it does not tell.
    #[serde(default)]
    pub host_uuid: String,
}

/// How machines come to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationFacts {
    /// Whether agents carry them, through their own link.
    pub carried: bool,
    /// By which URI other hosts' libvirt reaches this one.
    pub uri: String,
    /// Why that is not reached from this host itself, if so.
    pub unreached: Option<String>,
    /// First and last of the ports at which QEMU listens for machines.
    pub ports: (u16, u16),
    /// How many of the first of them that were tried are free, and how many were tried.
    pub free: (u16, u16),
}

/// A host's certificate and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityFacts {
    /// The host that the certificate names.
    pub host: String,
    /// The cluster.
    pub cluster: String,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: u64,
    /// When it is to be renewed.
    pub renewal_due_ms: u64,
}

/// What a host has, and what is declared of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityFacts {
    /// Memory that the kernel tells, in bytes; 0 if it does not.
    pub memory: u64,
    /// Memory that is declared, in bytes.
    pub declared: Option<u64>,
    /// Memory that no machine may take, in bytes.
    pub reserved: u64,
}

/// Where the agent keeps its records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFacts {
    /// The directory.
    pub path: String,
    /// Why it cannot be written, if so.
    pub fault: Option<String>,
    /// Its file system, such as `ext4`; empty if not known.
    pub file_system: String,
    /// What is free there, in bytes.
    pub free: u64,
}

/// Storage that is declared to be within reach of other hosts too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFacts {
    /// Where it is on this host.
    pub path: String,
    /// Whether that is there.
    pub found: bool,
    /// What is mounted there or above, such as `nas:/vm`; empty if not known.
    pub source: String,
    /// Its file system.
    pub file_system: String,
    /// What libvirt takes it for.
    #[serde(default)]
    pub sharing: Sharing,
}

/// What libvirt takes storage for that is declared as shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Shared.
    Shared,
    /// Storage of one host.
    Local,
    /// It is not known which of the two.
    #[default]
    Unknown,
    /// Nothing is there: an empty directory.
    Nothing,
    /// What is there does not answer.
    Silent,
}

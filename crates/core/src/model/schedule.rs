//! Schedules: what a host is to execute, and what goes along when it moves.

use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::Autonomy;
use super::{Epoch, HandoffId, HostId, MachineId, Requirements, Rules, Time};

/// A machine's last change of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LastMove {
    /// When it ended.
    #[n(0)]
    pub at: Time,
    /// Where the machine came from.
    #[n(1)]
    pub from: HostId,
    /// Moves in close succession, this one among them; `None` is one.
    #[n(2)]
    #[serde(default)]
    pub moves: Option<u32>,
    /// What the machine's migrations have cost before, in percent of what was predicted; `None` if
    /// nothing is known.
    #[n(3)]
    #[serde(default)]
    pub cost_percent: Option<u32>,
    /// Whether somebody else than Evenkeel has moved it; `None` if not. It then came from a host that
    /// nobody knows, and [`Self::from`] is where it was found.
    #[n(4)]
    #[serde(default)]
    pub others: Option<bool>,
}

impl LastMove {
    /// Whether somebody else than Evenkeel has moved it.
    #[must_use]
    pub fn is_others(&self) -> bool {
        self.others == Some(true)
    }
}

/// Largest target load, as a share of the host. Above 1 it is more than the host has, which a machine
/// may want; what is far above is a percentage by mistake.
pub const TARGET_LOAD_MAX: f64 = 10.0;

/// One entry of a host's schedule: that it is to execute this machine, and how.
///
/// The entry is kept in the machine's libvirt metadata and therefore moves with it: migrating
/// deletes it on one host and inserts it on the other (claims 13, 22, 33).
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Entry {
    /// How often the entry has changed hosts, also by others than the balancer where it was noticed.
    #[n(0)]
    pub epoch: Epoch,
    /// The machine's *target load* on the host that holds this entry, as a share of that host
    /// (0.25 is a quarter of it), where one is programmed: it then counts instead of what is
    /// measured (claims 7, 30). Restated for the other host when the entry moves.
    #[n(1)]
    pub target_load: Option<f64>,
    /// What may happen to it.
    #[n(2)]
    pub rules: Rules,
    /// Its last change of hosts, if any.
    #[n(3)]
    pub last_move: Option<LastMove>,
    /// The handoff that brought the machine to the host that holds this entry, if one did. With the
    /// epoch it tells one copy of the machine from another.
    #[n(4)]
    pub handoff: Option<HandoffId>,
}

impl Entry {
    /// The host that it came from by its last move, if Evenkeel has moved it.
    #[must_use]
    pub fn came_from(&self) -> Option<&HostId> {
        self.last_move.as_ref().filter(|last| !last.is_others()).map(|last| &last.from)
    }

    /// How much may be done with the machine without an operator.
    #[must_use]
    pub fn mode(&self) -> Autonomy {
        self.rules.mode.unwrap_or_default()
    }
}

/// Why a copy of a machine that wrongly runs could do no harm to its disks, if so: what decides
/// whether the hypervisor's own commit point is safe for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locks {
    /// It has no disk that it writes to.
    NoWritableDisk,
    /// Every disk that it writes to is on a file system, or an image, whose locks hold on all hosts
    /// (NFSv4, CephFS, GFS2, an RBD image with an exclusive lock).
    Shared,
    /// The hypervisor leases every disk from a lock manager (sanlock, virtlockd on shared storage).
    Manager,
    /// Nothing would keep two copies apart; in words, which disk and why.
    None(String),
}

impl Locks {
    /// Whether two copies are kept apart.
    #[must_use]
    pub const fn hold(&self) -> bool {
        !matches!(self, Self::None(_))
    }
}

impl Default for Locks {
    /// Until something is known, nothing holds.
    fn default() -> Self {
        Self::None("its storage has not been looked at".to_owned())
    }
}

/// What a machine is, as far as it changes rarely.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineFacts {
    /// Its identity: the libvirt UUID.
    pub id: MachineId,
    /// The name that people use.
    pub name: Arc<str>,
    /// Virtual CPUs; at least 1.
    pub vcpus: u32,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// What it needs of a host.
    pub needs: Requirements,
    /// Whether its definition outlives its running: such a definition moves along.
    pub persistent: bool,
    /// Whether its host starts it at boot.
    pub autostart: bool,
    /// What would keep two copies of it apart.
    pub locks: Locks,
    /// Its schedule entry, or what is wrong with the text of it.
    pub entry: Result<Entry, String>,
}

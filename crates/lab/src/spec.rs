//! What a lab is to consist of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::layout::{CONSOLES, HANDOFFS};

/// Port numbers, sockets and the two cores of a small machine bound what makes sense.
pub(crate) const HOSTS_MAX: usize = 16;
const GUESTS_MAX: usize = 200;
const HOST_NAME_CHARS_MAX: usize = 10;
const GUEST_NAME_CHARS_MAX: usize = 20;
const GUEST_MEMORY_MIB: std::ops::RangeInclusive<u32> = 8..=2560;
/// The guest itself lives below this.
const GUEST_OWN_MEMORY_MIB: u32 = 3;
/// UNIX socket paths hold 107 characters. The longest one that libvirt makes below a host's
/// directory is `etc/libvirt/qemu/lib/domain-1000-NAME/monitor.sock`.
const SOCKET_PATH_CHARS_MAX: usize = 107;
const LIBVIRT_SOCKET_CHARS: usize = "/etc/libvirt/qemu/lib/domain-1000-/monitor.sock".len();

/// A whole lab: where it lives, its hosts and the guests it starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabSpec {
    /// The directory for everything of the lab. It must not exist yet, or be empty, and is removed
    /// when the lab is taken down. Short, because socket paths are.
    pub dir: PathBuf,
    /// One to sixteen hosts.
    pub hosts: Vec<HostSpec>,
    /// Up to 200 guests.
    pub guests: Vec<GuestSpec>,
    /// How to run an agent on each host; none without.
    pub agents: Option<AgentsSpec>,
}

/// One host of a lab: a libvirt daemon with a capacity of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Its name: up to ten letters, digits and hyphens.
    pub id: String,
    /// CPU capacity in cores; 0.5 is half a core. Enforced where the user may.
    pub cpu_cores: f64,
    /// Memory capacity in MiB. Declared, not enforced.
    pub memory_mib: u64,
    /// I/O capacity in MiB/s. Declared, not enforced.
    pub io_mib_s: f64,
    /// Speed of a core relative to the reference core.
    pub cpu_speed: f64,
    /// Weights of CPU, memory and I/O in this host's load; the agent's defaults without.
    pub weights: Option<Weights>,
    /// Labels, such as `rack = r7`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl HostSpec {
    /// A host with this CPU capacity in cores, 4 GiB of memory and 100 MiB/s.
    #[must_use]
    pub fn new(id: &str, cpu_cores: f64) -> Self {
        Self {
            id: id.to_owned(),
            cpu_cores,
            memory_mib: 4096,
            io_mib_s: 100.0,
            cpu_speed: 1.0,
            weights: None,
            labels: BTreeMap::new(),
        }
    }
}

/// How much each resource counts in a host's load; only the proportions matter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Weights {
    pub cpu: f64,
    pub memory: f64,
    pub io: f64,
}

/// One guest: a few megabytes that burn and dirty what they are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Its name: up to twenty letters, digits and hyphens.
    pub name: String,
    /// The host on which it starts.
    pub host: String,
    /// Memory in MiB, 8 to 2560.
    pub memory_mib: u32,
    /// Share of a CPU it burns, in permille.
    pub burn_permille: u32,
    /// How much memory it writes over and over.
    pub dirty: Dirty,
    /// Time between its reports, in milliseconds, 10 to 60,000.
    pub report_ms: u32,
    /// Whether libvirt keeps a definition of it when it stops.
    pub persistent: bool,
}

impl GuestSpec {
    /// A persistent guest of 32 MiB that burns this share of a CPU and dirties 2 MiB/s.
    #[must_use]
    pub fn new(name: &str, host: &str, burn_permille: u32) -> Self {
        Self {
            name: name.to_owned(),
            host: host.to_owned(),
            memory_mib: 32,
            burn_permille,
            dirty: Dirty { mib: 4, mib_per_s: 2 },
            report_ms: 200,
            persistent: true,
        }
    }
}

/// Memory that a guest writes over and over, verifying each page before it writes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirty {
    /// Size of the area in MiB; 0 for none.
    pub mib: u32,
    /// Rate in MiB/s; 0 is as fast as the guest can, and keeps its CPU busy.
    pub mib_per_s: u32,
}

/// How to run the agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsSpec {
    /// The `evenkeel` program.
    pub program: PathBuf,
    /// Lines of TOML that every agent's configuration ends with.
    pub extra_config: String,
    /// Whether what this machine does besides running the lab counts in the load of every host.
    #[serde(default)]
    pub background: bool,
}

fn is_name(text: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !text.starts_with('-')
}

impl LabSpec {
    /// Finds out what cannot be built, naming the host or guest.
    ///
    /// # Errors
    /// [`LabError::Specification`].
    pub fn check(&self) -> Result<(), LabError> {
        let refuse = |message: String| Err(LabError::Specification(message));
        if !self.dir.is_absolute() {
            return refuse(format!(
                "the directory `{}` must be an absolute path",
                self.dir.display()
            ));
        }
        if self.hosts.is_empty() || self.hosts.len() > HOSTS_MAX {
            return refuse(format!("{} hosts; 1 to {HOSTS_MAX} are possible", self.hosts.len()));
        }
        if self.guests.len() > GUESTS_MAX {
            return refuse(format!(
                "{} guests; up to {GUESTS_MAX} are possible",
                self.guests.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for host in &self.hosts {
            host.check(&self.dir)?;
            if !seen.insert(&host.id) {
                return refuse(format!("two hosts are called `{}`", host.id));
            }
        }
        let mut seen = BTreeSet::new();
        for guest in &self.guests {
            guest.check()?;
            if !seen.insert(&guest.name) {
                return refuse(format!("two guests are called `{}`", guest.name));
            }
            if !self.hosts.iter().any(|host| host.id == guest.host) {
                return refuse(format!(
                    "guest `{}` is on the unknown host `{}`",
                    guest.name, guest.host
                ));
            }
        }
        Ok(())
    }
}

impl HostSpec {
    fn check(&self, dir: &Path) -> Result<(), LabError> {
        let Self { id, cpu_cores, memory_mib, io_mib_s, cpu_speed, .. } = self;
        let refuse = |message: String| Err(LabError::Specification(message));
        if !is_name(id, HOST_NAME_CHARS_MAX) || [CONSOLES, HANDOFFS].contains(&id.as_str()) {
            return refuse(format!(
                "`{id}` is no host name: up to {HOST_NAME_CHARS_MAX} letters, digits and hyphens"
            ));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(*cpu_cores)
            || *memory_mib == 0
            || !positive(*io_mib_s)
            || !positive(*cpu_speed)
        {
            return refuse(format!("host `{id}` must have more than nothing of every capacity"));
        }
        let socket_chars =
            dir.as_os_str().len() + 1 + id.len() + LIBVIRT_SOCKET_CHARS + GUEST_NAME_CHARS_MAX;
        if socket_chars > SOCKET_PATH_CHARS_MAX {
            return refuse(format!(
                "the directory `{}` is {} characters too long for libvirt's sockets",
                dir.display(),
                socket_chars - SOCKET_PATH_CHARS_MAX
            ));
        }
        Ok(())
    }
}

impl GuestSpec {
    pub(crate) fn check(&self) -> Result<(), LabError> {
        let Self { name, memory_mib, burn_permille, dirty, report_ms, .. } = self;
        let refuse = |message: String| Err(LabError::Specification(message));
        if !is_name(name, GUEST_NAME_CHARS_MAX) {
            return refuse(format!(
                "`{name}` is no guest name: up to {GUEST_NAME_CHARS_MAX} letters, digits and hyphens"
            ));
        }
        if !GUEST_MEMORY_MIB.contains(memory_mib) {
            return refuse(format!(
                "guest `{name}` has {memory_mib} MiB; {GUEST_MEMORY_MIB:?} are possible"
            ));
        }
        if dirty.mib > memory_mib - GUEST_OWN_MEMORY_MIB || dirty.mib_per_s > 10_000 {
            return refuse(format!("guest `{name}` of {memory_mib} MiB cannot dirty {dirty:?}"));
        }
        if *burn_permille > 1000 || !(10..=60_000).contains(report_ms) {
            return refuse(format!(
                "guest `{name}` burns up to 1000 permille and reports every 10 to 60000 ms"
            ));
        }
        Ok(())
    }
}

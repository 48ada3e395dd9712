//! The state file of a lab: what runs where, for whoever asks and for cleaning up after a crash.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;
use crate::error::{Attempt, LabError};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::process::ProcessRef;
use crate::spec::{HostSpec, LabSpec};
use crate::user::LabUser;
use crate::view::View;
use crate::virsh::Virsh;

/// What a lab is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Hosts are coming up.
    Starting,
    /// All hosts came up.
    Up,
    /// Hosts are being taken down.
    Stopping,
    /// The supervisor is gone, and nobody looks after what may be left.
    Stale,
}

/// Written by the supervisor at every change, read by everybody else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Whether the lab ends with the process that brought it up.
    pub(crate) tied: bool,
    pub(crate) spec: LabSpec,
    pub(crate) user: LabUser,
    pub(crate) machine: Machine,
    pub(crate) view: View,
    /// The first of the port numbers that belong to this lab.
    pub(crate) first_port: u16,
    pub(crate) supervisor: Option<ProcessRef>,
    pub(crate) hosts: Vec<HostState>,
}

/// One host as it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostState {
    pub(crate) id: String,
    pub(crate) uuid: String,
    pub(crate) libvirtd: Option<ProcessRef>,
    pub(crate) agent: Option<ProcessRef>,
    pub(crate) capacity: Option<Capacity>,
}

/// Port numbers of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// First and last for incoming migrations.
    pub(crate) migration: (u16, u16),
    /// Where the agent listens (UDP and TCP).
    pub(crate) agent: u16,
}

const PORTS_PER_HOST: u16 = 20;
const MIGRATION_PORTS_PER_HOST: u16 = 16;
pub(crate) const PORTS_PER_LAB: u16 = PORTS_PER_HOST * crate::spec::HOSTS_MAX as u16;

impl Ports {
    pub(crate) fn of(first_port: u16, host_index: usize) -> Self {
        // Hosts are at most HOSTS_MAX, so this cannot overflow.
        let first = first_port + PORTS_PER_HOST * host_index as u16;
        Self {
            migration: (first, first + MIGRATION_PORTS_PER_HOST - 1),
            agent: first + MIGRATION_PORTS_PER_HOST,
        }
    }
}

impl State {
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(&self.spec.dir)
    }

    pub(crate) fn read(dir: &Path) -> Result<Self, LabError> {
        let path = Layout::new(dir).state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LabError::NotThere(dir.to_owned()));
            }
            Err(error) => return Err(error).attempt(|| format!("read `{}`", path.display())),
        };
        serde_json::from_slice(&text).attempt(|| format!("understand `{}`", path.display()))
    }

    /// Replaces the file in one step, so that a reader sees either the old state or the new.
    pub(crate) fn write(&self) -> Result<(), LabError> {
        let path = self.layout().state();
        let new: PathBuf = path.with_extension("json.new");
        let action = || format!("write `{}`", path.display());
        fs::write(&new, serde_json::to_vec_pretty(self).attempt(action)?).attempt(action)?;
        fs::rename(&new, &path).attempt(action)
    }

    pub(crate) fn host_index(&self, id: &str) -> Result<usize, LabError> {
        let index = self.hosts.iter().position(|host| host.id == id);
        index.ok_or_else(|| LabError::UnknownHost(id.to_owned()))
    }

    /// Host specifications and what became of them, in the same order.
    pub(crate) fn hosts_with_specs(&self) -> impl Iterator<Item = (&HostSpec, &HostState)> {
        self.spec.hosts.iter().zip(&self.hosts)
    }

    /// A command that runs on a host: as the lab's user, with what the host sees.
    pub(crate) fn command_on(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        self.view.command(&self.user, &self.layout(), host, program)
    }

    pub(crate) fn virsh<'a>(&'a self, host: &'a str) -> Virsh<'a> {
        Virsh { user: &self.user, machine: &self.machine, host, layout: self.layout().host(host) }
    }
}

impl HostState {
    pub(crate) fn is_alive(&self) -> bool {
        self.libvirtd.is_some_and(ProcessRef::is_alive)
    }

    pub(crate) fn agent_is_alive(&self) -> bool {
        self.agent.is_some_and(ProcessRef::is_alive)
    }
}

/// A number that differs between directories: FNV-1a, which is stable from run to run.
pub(crate) fn number_of(dir: &Path) -> u64 {
    dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// libvirt refuses to migrate between hosts of the same UUID, and all hosts of a lab share a
/// machine's; so each gets one of its own, in the form of a random one.
pub(crate) fn host_uuid(dir: &Path, index: usize) -> String {
    let number = number_of(dir);
    format!("{:08x}-{:04x}-4000-8000-{index:012x}", number >> 32, (number >> 16) & 0xffff)
}

//! Makes a host a member of a cluster, and takes it out again.
//!
//! ```text
//!   Circumstances::look ──▶ proposals ──▶ Answers ──▶ install ──▶ Installed
//!   what the host is like     the caller asks       files, service, all or nothing
//! ```
//!
//! Whoever calls this speaks with people; nothing here prints or asks. What can be known to fail is
//! looked at before anything is written. What fails later takes back what was done before it
//! ([`Undo`]), so that a host is set up or is as it was.

mod account;
mod answers;
mod circumstances;
mod error;
mod install;
mod leave;
mod service;
mod undo;

pub use answers::{Answers, Way};
pub use circumstances::{Circumstances, Member, Proposed};
pub use error::SetupError;
pub use install::{Installed, Service, install};
pub use leave::{Left, leave};
pub use service::is_managed;
pub use undo::Undo;

use std::path::{Path, PathBuf};

/// Where things are on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The agent's configuration file.
    pub config: PathBuf,
    /// Where the agent keeps its records.
    pub state_dir: PathBuf,
    /// Where the agent is asked.
    pub socket: PathBuf,
    /// The libvirt of this host.
    pub libvirt: String,
}

impl Default for Places {
    fn default() -> Self {
        let config = evenkeel_agent::Config::default();
        Self {
            config: PathBuf::from("/etc/evenkeel/agent.toml"),
            state_dir: config.state_dir,
            socket: config.api_socket,
            libvirt: config.libvirt.uri,
        }
    }
}

impl Places {
    /// The directory of the configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.config.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Where the host's certificate and key go.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.dir().join("identity")
    }

    /// Where the authority of a new cluster goes.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir().join(evenkeel_agent::config::AUTHORITY_DIR)
    }

    /// Whether all of it is where the service expects it.
    #[must_use]
    pub fn are_usual(&self) -> bool {
        let Self { config, state_dir, socket, libvirt: _ } = Self::default();
        (&config, &state_dir, &socket) == (&self.config, &self.state_dir, &self.socket)
    }
}

//! Where everything of a lab is.

use std::path::{Path, PathBuf};

/// The directory of the guests' consoles; hosts are its neighbours, so none can be called this.
pub(crate) const CONSOLES: &str = "consoles";
/// The directory in which each host sees another one, likewise.
pub(crate) const HANDOFFS: &str = "handoffs";

/// The paths within a lab's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.dir.join("supervisor.log")
    }

    /// Names with a dot cannot be those of hosts.
    pub(crate) fn program_copy(&self) -> PathBuf {
        self.dir.join("evenkeel.copy")
    }

    pub(crate) fn guest_image(&self) -> PathBuf {
        self.dir.join("guest.elf")
    }

    pub(crate) fn consoles(&self) -> PathBuf {
        self.dir.join(CONSOLES)
    }

    /// One file for a guest wherever it runs. The path is part of the domain and travels with it,
    /// and both ends of a migration append to the file, so the stream comes out joined.
    pub(crate) fn console(&self, guest: &str) -> PathBuf {
        self.consoles().join(format!("{guest}.log"))
    }

    /// Where every host sees the sockets of its own migrations: to the hosts of a migration they have
    /// the same path.
    pub(crate) fn handoffs(&self) -> PathBuf {
        self.dir.join(HANDOFFS)
    }

    pub(crate) fn host(&self, id: &str) -> HostLayout {
        HostLayout { dir: self.dir.join(id) }
    }
}

/// The paths within a host's directory: the XDG directories that make its daemon a world apart.
#[derive(Debug, Clone)]
pub(crate) struct HostLayout {
    pub(crate) dir: PathBuf,
}

impl HostLayout {
    pub(crate) fn runtime(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("etc")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn all(&self) -> [PathBuf; 5] {
        [self.dir.clone(), self.runtime(), self.config(), self.cache(), self.data()]
    }

    pub(crate) fn libvirt_config(&self) -> PathBuf {
        self.config().join("libvirt")
    }

    pub(crate) fn libvirtd_conf(&self) -> PathBuf {
        self.libvirt_config().join("libvirtd.conf")
    }

    pub(crate) fn libvirtd_log(&self) -> PathBuf {
        self.dir.join("libvirtd.log")
    }

    pub(crate) fn libvirt_socket(&self) -> PathBuf {
        self.runtime().join("libvirt/libvirt-sock")
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///session?socket={}", self.libvirt_socket().display())
    }

    pub(crate) fn notify_socket(&self, daemon: &str) -> PathBuf {
        self.dir.join(format!("{daemon}.notify"))
    }

    /// The sockets of this host's migrations, which it sees as [`Layout::handoffs`].
    pub(crate) fn own_handoffs(&self) -> PathBuf {
        self.dir.join(HANDOFFS)
    }

    pub(crate) fn agent_config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// The local API of the agent.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    pub(crate) fn agent_state(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// The host's certificate and key.
    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.join("identity")
    }

    /// The cluster's authority, on the first host.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.join("ca")
    }

    /// What the host joins the cluster with, on all but the first.
    pub(crate) fn join_token(&self) -> PathBuf {
        self.dir.join("join.token")
    }

    pub(crate) fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The variables that every program of this host runs with, and no others.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        vec![
            ("PATH", path.into()),
            ("LC_ALL", "C".into()),
            ("HOME", self.dir.clone()),
            ("XDG_RUNTIME_DIR", self.runtime()),
            ("XDG_CONFIG_HOME", self.config()),
            ("XDG_CACHE_HOME", self.cache()),
            ("XDG_DATA_HOME", self.data()),
        ]
    }
}

//! The seam to libvirt: what a lab itself does with guests, through the `virsh` program.

use std::path::Path;
use std::time::Duration;

use crate::error::LabError;
use crate::layout::HostLayout;
use crate::machine::Machine;
use crate::process::{self, Finished};
use crate::user::LabUser;

const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);

/// `virsh` of one host.
pub(crate) struct Virsh<'a> {
    pub(crate) user: &'a LabUser,
    pub(crate) machine: &'a Machine,
    pub(crate) host: &'a str,
    pub(crate) layout: HostLayout,
}

impl Virsh<'_> {
    fn try_run(&self, args: &[&str], limit: Duration) -> Result<Finished, LabError> {
        let mut command = self.user.command(&self.machine.virsh);
        command
            .args(["--quiet", "--connect", &self.layout.uri()])
            .args(args)
            .env_clear()
            .envs(self.layout.environment())
            .current_dir(&self.layout.dir);
        process::run(&mut command, limit)
    }

    fn run(&self, args: &[&str], limit: Duration) -> Result<String, LabError> {
        let finished = self.try_run(args, limit)?;
        if finished.success {
            return Ok(finished.stdout);
        }
        Err(LabError::Command {
            host: self.host.to_owned(),
            command: format!("virsh {}", args.join(" ")),
            message: finished.stderr.trim().to_owned(),
        })
    }

    /// Has libvirt find out what QEMU can do, which takes it a second the first time.
    pub(crate) fn warm_up(&self) -> Result<(), LabError> {
        self.run(&["domcapabilities"], COMMAND_LIMIT).map(drop)
    }

    /// Makes a definition that libvirt keeps, without starting the guest.
    pub(crate) fn define(&self, xml: &Path) -> Result<(), LabError> {
        self.run(&["define", &xml.display().to_string()], COMMAND_LIMIT).map(drop)
    }

    pub(crate) fn start(&self, guest: &str) -> Result<(), LabError> {
        self.run(&["start", guest], COMMAND_LIMIT).map(drop)
    }

    /// Starts a guest of which libvirt keeps no definition.
    pub(crate) fn create(&self, xml: &Path) -> Result<(), LabError> {
        self.run(&["create", &xml.display().to_string()], COMMAND_LIMIT).map(drop)
    }

    pub(crate) fn destroy(&self, guest: &str) -> Result<(), LabError> {
        self.run(&["destroy", guest], COMMAND_LIMIT).map(drop)
    }

    pub(crate) fn undefine(&self, guest: &str) -> Result<(), LabError> {
        self.run(&["undefine", guest], COMMAND_LIMIT).map(drop)
    }

    /// The names of the guests that are running.
    pub(crate) fn running(&self) -> Result<Vec<String>, LabError> {
        self.names(&["list", "--name", "--state-running"])
    }

    /// The names of all guests: running, paused, or only defined.
    pub(crate) fn all(&self) -> Result<Vec<String>, LabError> {
        self.names(&["list", "--name", "--all"])
    }

    fn names(&self, args: &[&str]) -> Result<Vec<String>, LabError> {
        let names = self.run(args, COMMAND_LIMIT)?;
        Ok(names
            .lines()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Whether libvirt keeps a definition of the guest.
    pub(crate) fn is_persistent(&self, guest: &str) -> Result<bool, LabError> {
        Ok(self
            .names(&["list", "--name", "--all", "--persistent"])?
            .iter()
            .any(|name| name == guest))
    }

    /// The terminal behind the guest's serial port.
    pub(crate) fn terminal(&self, guest: &str) -> Result<String, LabError> {
        self.run(&["ttyconsole", guest], COMMAND_LIMIT).map(|path| path.trim().to_owned())
    }

    /// Migrates a guest live from here, with its definition if it has one.
    pub(crate) fn migrate(&self, guest: &str, to_uri: &str) -> Result<(), LabError> {
        let mut args = vec!["migrate", "--live", "--p2p", "--migrateuri", "tcp://127.0.0.1"];
        args.extend(["--listen-address", "127.0.0.1"]);
        if self.is_persistent(guest)? {
            args.extend(["--persistent", "--undefinesource"]);
        }
        args.extend([guest, to_uri]);
        self.run(&args, MIGRATION_LIMIT).map(drop)
    }
}

//! Who the daemons and guests of a lab run as: never root.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError};

/// libvirt takes root to mean its system mode, so root's lab runs as this user, who needs an entry
/// in the password file.
const UNPRIVILEGED: &str = "nobody";

/// The user that a lab's daemons and guests run as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LabUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether programs must be started through `setpriv` to become this user.
    pub(crate) drops: bool,
    /// The group that may use `/dev/kvm`, which is kept where this user is become.
    kvm_group: Option<u32>,
}

impl LabUser {
    /// The user who asks, or `nobody` for root.
    pub(crate) fn choose() -> Result<Self, LabError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if uid != 0 {
            return Ok(Self { uid, gid, drops: false, kvm_group: None });
        }
        let passwd = fs::read_to_string("/etc/passwd").attempt(|| "read /etc/passwd".to_owned())?;
        let (uid, gid) =
            passwd_entry(&passwd, UNPRIVILEGED).ok_or_else(|| LabError::NoHypervisor {
                reason: format!("root's labs run as `{UNPRIVILEGED}`, who is not in /etc/passwd"),
                hint: "run as an ordinary user".to_owned(),
            })?;
        let kvm_group =
            fs::metadata("/dev/kvm").ok().map(|device| device.gid()).filter(|gid| *gid != 0);
        Ok(Self { uid, gid, drops: true, kvm_group })
    }

    /// A command that runs as this user.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        if !self.drops {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        match self.kvm_group {
            Some(group) => command.arg(format!("--groups={group}")),
            None => command.arg("--clear-groups"),
        };
        command.arg("--").arg(program);
        command
    }

    /// Makes this user the owner of a path.
    pub(crate) fn own(&self, path: &Path) -> Result<(), LabError> {
        if !self.drops {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .attempt(|| format!("give `{}` to user {}", path.display(), self.uid))
    }

    /// Creates a directory for this user, which others may read but not write.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), LabError> {
        fs::create_dir_all(path).attempt(|| format!("create `{}`", path.display()))?;
        self.own(path)
    }

    /// Writes a file for this user.
    pub(crate) fn write(&self, path: &Path, content: impl AsRef<[u8]>) -> Result<(), LabError> {
        fs::write(path, content).attempt(|| format!("write `{}`", path.display()))?;
        self.own(path)
    }

    /// Whether this user may open the file with these permission bits (4 read, 2 write, 1 search).
    pub(crate) fn may(&self, path: &Path, bits: u32) -> io::Result<bool> {
        let file = fs::metadata(path)?;
        let shift = if file.uid() == self.uid {
            6
        } else if self.is_in_group(file.gid()) {
            3
        } else {
            0
        };
        Ok((file.mode() >> shift) & bits == bits)
    }

    /// Whether this user can get at the file through all directories above it, with these bits.
    pub(crate) fn reaches(&self, path: &Path, bits: u32) -> bool {
        let searchable = |dir: &Path| self.may(dir, 1).unwrap_or(false);
        self.may(path, bits).unwrap_or(false) && path.ancestors().skip(1).all(searchable)
    }

    fn is_in_group(&self, gid: u32) -> bool {
        if gid == self.gid || self.kvm_group == Some(gid) {
            return true;
        }
        !self.drops
            && rustix::process::getgroups()
                .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
    }
}

fn passwd_entry(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2);
    Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
}

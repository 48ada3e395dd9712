//! The user that the agent runs as, and the groups that it needs.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

use crate::error::{Attempt, SetupError};

/// The user that the package makes.
const USER: &str = "evenkeel";
/// libvirt's configuration of QEMU.
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";

/// A user of the system and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The agent's, if this host has it and this process may give files away.
    pub(crate) fn of_agent() -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(&users).filter(|_| rustix::process::geteuid().is_root())
    }

    fn find(users: &str) -> Option<Self> {
        let line = users.lines().find(|line| line.split(':').next() == Some(USER))?;
        let mut ids = line.split(':').skip(2);
        let (uid, gid) = (ids.next()?.parse().ok()?, ids.next()?.parse().ok()?);
        Some(Self { uid, gid })
    }

    /// Gives the agent a directory with the files in it.
    pub(crate) fn give(self, dir: &Path) -> Result<(), SetupError> {
        let give = || -> io::Result<()> {
            for entry in fs::read_dir(dir)? {
                chown(entry?.path(), Some(self.uid), Some(self.gid))?;
            }
            chown(dir, Some(self.uid), Some(self.gid))
        };
        give().attempt("give the agent's user", dir)
    }

    /// Lets the agent read a file of root's.
    pub(crate) fn let_read(self, file: &Path) -> Result<(), SetupError> {
        chown(file, None, Some(self.gid)).attempt("let the agent's user read", file)
    }
}

/// The group that QEMU runs as on this host: agents share the sockets of machines that arrive with it.
pub(crate) fn group_of_qemu() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    configured(&read(QEMU_CONF)).or_else(|| {
        let groups = read("/etc/group");
        usual(&groups, &read("/etc/os-release")).map(str::to_owned)
    })
}

fn configured(qemu_conf: &str) -> Option<String> {
    let mut values = qemu_conf.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        (key.trim() == "group").then(|| value.trim().trim_matches('"').to_owned())
    });
    // A number is no name of a group, and `+0` is root's.
    values.next_back().filter(|group| group.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// What the distribution built libvirt with.
fn usual(groups: &str, os_release: &str) -> Option<&'static str> {
    let is_ubuntu = os_release.lines().any(|line| line == "ID=ubuntu");
    let usual = if is_ubuntu { ["kvm", "libvirt-qemu"] } else { ["libvirt-qemu", "qemu"] };
    let exists = |name: &&str| groups.lines().any(|line| line.split(':').next() == Some(*name));
    usual.into_iter().find(exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_qemu_is_the_configured_one_or_that_of_the_distribution() {
        assert_eq!(configured("#group = \"root\"\n user = \"q\"\n"), None);
        assert_eq!(configured("group = \"vms\"\n").as_deref(), Some("vms"));
        assert_eq!(configured("group = \"+107\"\n"), None);
        let groups = "root:x:0:\nkvm:x:1:\nlibvirt-qemu:x:2:\n";
        assert_eq!(usual(groups, "ID=debian\n"), Some("libvirt-qemu"));
        assert_eq!(usual(groups, "NAME=x\nID=ubuntu\n"), Some("kvm"));
        assert_eq!(usual("qemu:x:3:\n", "ID=\"rocky\"\n"), Some("qemu"));
        assert_eq!(usual("root:x:0:\n", ""), None);
    }

    #[test]
    fn the_agents_user_is_found_by_its_name_alone() {
        let users = "root:x:0:0::/:/bin/sh\nevenkeel2:x:9:9:::\nevenkeel:x:990:991::/:/none\n";
        assert_eq!(Account::find(users), Some(Account { uid: 990, gid: 991 }));
        assert_eq!(Account::find("evenkeel:x:nine:9:::\n"), None);
    }
}

//! What a host of a lab sees of the file system.
//!
//! The sockets of a migration have the same path on both of its hosts. Those of a lab share one file
//! system, so each has a mount namespace, in which one directory is another one for every host.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process;
use crate::user::LabUser;

/// `mount` takes orders from root only, so whoever is not is root in a namespace around the mount.
const BIND: &str = r#"mount --bind "$1" "$2" && shift 4 && exec "$@""#;
const BIND_AS_USER: &str = r#"mount --bind "$1" "$2" && uid=$3 gid=$4 && shift 4 &&
exec unshare --user --map-user="$uid" --map-group="$gid" -- "$@""#;
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How the hosts of a lab come by views of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum View {
    /// By mount namespaces, as root may make them.
    Root,
    /// By mount namespaces within user namespaces, where the system lets users make them.
    User,
    /// Not at all: agents cannot carry machines between such hosts.
    Shared,
}

impl View {
    /// The first that works for this host of a lab, whose directories are there.
    pub(crate) fn find(user: &LabUser, layout: &Layout, host: &str) -> Self {
        let works = |view: &Self| {
            let mut command = view.command(user, layout, host, "true");
            process::run(&mut command, PROBE_LIMIT).is_ok_and(|finished| finished.success)
        };
        let root = user.drops.then_some(Self::Root);
        root.into_iter().chain([Self::User]).find(works).unwrap_or(Self::Shared)
    }

    /// A command that runs as the lab's user and sees what this host sees.
    pub(crate) fn command(
        self,
        user: &LabUser,
        layout: &Layout,
        host: &str,
        program: impl AsRef<OsStr>,
    ) -> Command {
        let (script, flags): (_, &[&str]) = match self {
            Self::Shared => return user.command(program),
            Self::Root => (BIND, &["--mount", "--propagation", "private"]),
            Self::User => (BIND_AS_USER, &["--user", "--map-root-user", "--mount"]),
        };
        let mut command = match self {
            Self::Root => Command::new("unshare"),
            _ => user.command("unshare"),
        };
        command.args(flags).args(["--", "sh", "-c", script, "sh"]);
        command.arg(layout.host(host).own_handoffs()).arg(layout.handoffs());
        command.arg(user.uid.to_string()).arg(user.gid.to_string());
        if self == Self::Root {
            let dropped = user.command(program);
            command.arg(dropped.get_program()).args(dropped.get_args());
        } else {
            command.arg(program);
        }
        command
    }
}

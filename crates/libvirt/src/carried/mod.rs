//! Migrations whose connections somebody else carries: over UNIX sockets only.
//!
//! A host that is reached so says [`carried_uri`]. On the source, libvirt is told to reach the other
//! host's libvirt and QEMU at sockets in a directory of the handoff ([`Sockets`]), where whoever
//! carries them listens; on the target QEMU listens at the same path.
//!
//! libvirt's own protocol is not passed on. A [`Control`] parses every frame of either side, compares it
//! with what the two hosts have agreed on, and writes a new frame from what it has parsed:
//!
//! | module | parses |
//! | --- | --- |
//! | `xdr` | numbers, texts and bytes as the protocol writes them |
//! | `message` | frames, and the bodies of the calls and replies that a migration needs |
//! | `params` | the parameters and flags of a migration |
//! | `document` | XML, into a tree that is written anew |
//! | `closed` | which elements, attributes and values a domain's description and a cookie may have |
//! | `judge` | a description against what was agreed on |
//! | `cookie` | the cookie of a migration |
//! | `here` | what this host has: emulators, storage, other machines' files |
//! | `image` | whether a disk image refers to another file |

mod closed;
mod control;
mod cookie;
mod document;
pub(crate) mod fuzzing;
mod here;
mod image;
mod judge;
mod message;
mod params;
mod xdr;

use std::path::{Path, PathBuf};

use evenkeel_core::port::HandoffId;

pub use control::{Agreed, Control, Refused};
pub use here::{Admission, Here};
pub(crate) use judge::{cpu, special};

/// The transport of a URI that says so.
const TRANSPORT: &str = "qemu+evenkeel:///";

/// How a host is reached whose libvirt, connected to as `uri`, others reach through a carrier.
#[must_use]
pub fn carried_uri(uri: &str) -> String {
    format!("{TRANSPORT}{}", mode(uri))
}

/// Whether a host that is reached so is reached through a carrier.
#[must_use]
pub fn is_carried(uri: &str) -> bool {
    uri.starts_with(TRANSPORT)
}

/// `system` or `session`.
fn mode(uri: &str) -> &str {
    let path = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    path.split(['?', '#']).next().filter(|mode| !mode.is_empty()).unwrap_or("system")
}

/// The sockets of one handoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// The directory that holds them and nothing else.
    pub dir: PathBuf,
}

impl Sockets {
    /// Those of a handoff, in a directory with those of all handoffs.
    #[must_use]
    pub fn of(dir: &Path, handoff: HandoffId) -> Self {
        Self { dir: dir.join(handoff.to_string()) }
    }

    /// Where the source's libvirt reaches the target's.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// Where the source's QEMU sends the machine's memory to, and the target's takes it.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.dir.join("memory")
    }

    /// Where the source's QEMU copies disks to, and the target's takes them.
    #[must_use]
    pub fn disks(&self) -> PathBuf {
        self.dir.join("disks")
    }

    /// What the source's libvirt connects to, for a host that is reached at `uri`.
    pub(crate) fn destination(&self, uri: &str) -> String {
        format!("qemu+unix:///{}?socket={}", mode(uri), self.control().display())
    }

    /// Where it sends memory to.
    pub(crate) fn migrate_uri(&self) -> String {
        format!("unix://{}", self.memory().display())
    }

    /// Where it copies disks to.
    pub(crate) fn disks_uri(&self) -> String {
        format!("unix://{}", self.disks().display())
    }
}

/// Where libvirt listens on this host for a connection like `uri`; nothing if it is not known.
#[must_use]
pub fn socket_of(uri: &str) -> Option<PathBuf> {
    if let Some((_, parameters)) = uri.split_once('?') {
        let named = parameters.split('&').find_map(|p| p.strip_prefix("socket="));
        if let Some(path) = named {
            return Some(PathBuf::from(path));
        }
    }
    let dir = if mode(uri) == "session" {
        PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?)
    } else {
        PathBuf::from("/run")
    };
    let found = ["libvirt/virtqemud-sock", "libvirt/libvirt-sock"].map(|name| dir.join(name));
    found.iter().find(|path| path.exists()).or(found.last()).cloned()
}

#[cfg(test)]
mod lies;
#[cfg(test)]
mod tests;

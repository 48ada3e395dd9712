//! Migrations whose connections somebody else carries: over UNIX sockets only.
//!
//! A host that is reached so says [`carried_uri`]. On the source, libvirt is told to reach the other
//! host's libvirt and QEMU at sockets in a directory of the handoff ([`Sockets`]), where whoever
//! carries them listens; on the target QEMU listens at the same path. libvirt's own protocol is passed on
//! as far as a [`Filter`] lets it.

use std::fmt;
use std::path::{Path, PathBuf};

use evenkeel_core::port::HandoffId;

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

/// A frame begins with its length, itself included, in 4 bytes, and a header of six numbers of 4
/// bytes each, most significant first: program, version, procedure, type, serial, status
/// (`virnetprotocol.x`).
const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = LENGTH_BYTES + 24;
/// `VIR_NET_MESSAGE_MAX`, and the length itself.
const FRAME_BYTES_MAX: u32 = (32 << 20) + 4;
/// The program of connections and domains (`remote_protocol.x`).
const REMOTE: u32 = 0x2000_8086;
/// The program of keepalives (`virkeepaliveprotocol.x`).
const KEEPALIVE: u32 = 0x6b65_6570;
/// `VIR_NET_CALL`, and for keepalives `VIR_NET_MESSAGE`.
const CALL: u32 = 0;
const MESSAGE: u32 = 2;
/// What a source's libvirt calls on the target's for a peer-to-peer migration, by number
/// (`remote_procedure`).
const CALLS: &[u32] = &[
    1,   // CONNECT_OPEN
    2,   // CONNECT_CLOSE
    41,  // CONNECT_GET_URI
    60,  // CONNECT_SUPPORTS_FEATURE
    66,  // AUTH_LIST
    303, // DOMAIN_MIGRATE_PREPARE3_PARAMS
    306, // DOMAIN_MIGRATE_FINISH3_PARAMS
    360, // CONNECT_REGISTER_CLOSE_CALLBACK
    361, // CONNECT_UNREGISTER_CLOSE_CALLBACK
];

/// What of libvirt's protocol another host's libvirt may say to this one's: what a migration to here
/// needs. It cannot list, look at, define, start or stop domains, nor touch storage or networks.
#[derive(Debug, Default)]
pub struct Filter {
    /// What has come of the present frame's header.
    header: Vec<u8>,
    /// What is still to come of its body.
    body: u64,
}

impl Filter {
    /// Looks at the next bytes, however they are cut.
    ///
    /// # Errors
    /// What is not allowed. Nothing of these bytes is to be passed on, and nothing after them.
    pub fn inspect(&mut self, mut bytes: &[u8]) -> Result<(), NotAllowed> {
        while !bytes.is_empty() {
            if self.body > 0 {
                let skipped =
                    usize::try_from(self.body).map_or(bytes.len(), |b| b.min(bytes.len()));
                self.body -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER_BYTES - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() == HEADER_BYTES {
                self.body = judge(&self.header)?;
                self.header.clear();
            }
        }
        Ok(())
    }
}

/// How long the body of a frame with this header is, if it is allowed.
fn judge(header: &[u8]) -> Result<u64, NotAllowed> {
    let mut numbers = header
        .chunks_exact(4)
        .map(|word| word.iter().fold(0, |number: u32, byte| number << 8 | u32::from(*byte)));
    let mut next = || numbers.next().unwrap_or_default();
    let (length, program, _version, procedure, kind) = (next(), next(), next(), next(), next());
    let body = length.checked_sub(HEADER_BYTES as u32);
    let body = body.filter(|_| length <= FRAME_BYTES_MAX);
    let body = body.ok_or(NotAllowed::Length(length))?;
    match (program, kind) {
        (REMOTE, CALL) if CALLS.contains(&procedure) => Ok(u64::from(body)),
        (KEEPALIVE, MESSAGE) => Ok(u64::from(body)),
        _ => Err(NotAllowed::Call { program, procedure, kind }),
    }
}

/// What another host's libvirt may not say to this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    /// A frame of so many bytes.
    Length(u32),
    /// Something that no migration to here needs.
    Call {
        /// The program.
        program: u32,
        /// Its procedure.
        procedure: u32,
        /// 0 for a call.
        kind: u32,
    },
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "it sends a libvirt frame of {bytes} bytes"),
            Self::Call { program, procedure, kind } => write!(
                f,
                "it calls procedure {procedure} (type {kind}) of libvirt's program {program:#x}, \
                 which no migration needs"
            ),
        }
    }
}

impl std::error::Error for NotAllowed {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(program: u32, procedure: u32, kind: u32, body: usize) -> Vec<u8> {
        let length = (HEADER_BYTES + body) as u32;
        let words = [length, program, 1, procedure, kind, 7, 0];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.resize(length as usize, 0xff);
        bytes
    }

    #[test]
    fn a_migration_passes_and_every_other_call_does_not() {
        for procedure in 0..1000 {
            let mut filter = Filter::default();
            let said = filter.inspect(&frame(REMOTE, procedure, CALL, 12));
            assert_eq!(said.is_ok(), CALLS.contains(&procedure), "{procedure}: {said:?}");
        }
        let stream = Filter::default().inspect(&frame(REMOTE, 303, 3, 12));
        assert_eq!(stream, Err(NotAllowed::Call { program: REMOTE, procedure: 303, kind: 3 }));
        let qemu = Filter::default().inspect(&frame(0x2000_8087, 1, CALL, 12));
        assert!(qemu.is_err(), "the monitor of QEMU was passed through");
        assert_eq!(Filter::default().inspect(&frame(KEEPALIVE, 1, MESSAGE, 0)), Ok(()));
    }

    #[test]
    fn a_frame_of_an_impossible_length_does_not_pass() {
        for length in [0, 27, FRAME_BYTES_MAX + 1, u32::MAX] {
            let mut bytes = frame(REMOTE, 1, CALL, 0);
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(Filter::default().inspect(&bytes), Err(NotAllowed::Length(length)));
        }
    }

    proptest! {
        #[test]
        fn a_call_is_found_however_the_bytes_are_cut(
            bodies in prop::collection::vec(0usize..200, 1..8),
            cuts in prop::collection::vec(1usize..50, 1..40),
        ) {
            let mut bytes: Vec<u8> =
                bodies.iter().flat_map(|body| frame(REMOTE, 303, CALL, *body)).collect();
            bytes.extend(frame(REMOTE, 10, CALL, 4));
            let (mut filter, mut rest, mut cuts) = (Filter::default(), &bytes[..], cuts.iter().cycle());
            let mut outcome = Ok(());
            while !rest.is_empty() && outcome.is_ok() {
                let cut = cuts.next().copied().unwrap_or(1).min(rest.len());
                outcome = filter.inspect(&rest[..cut]);
                rest = &rest[cut..];
            }
            let found = NotAllowed::Call { program: REMOTE, procedure: 10, kind: CALL };
            prop_assert_eq!(outcome, Err(found));
        }
    }

    #[test]
    fn the_sockets_of_a_handoff_are_found_from_either_side() {
        let sockets = Sockets::of(Path::new("/run/evenkeel/handoffs"), HandoffId(0xab));
        let dir = "/run/evenkeel/handoffs/00000000000000ab";
        for (uri, announced, destination) in [
            ("qemu:///system", "qemu+evenkeel:///system", "qemu+unix:///system"),
            (
                "qemu+unix:///session?socket=/x/y",
                "qemu+evenkeel:///session",
                "qemu+unix:///session",
            ),
            ("qemu+unix:///system?mode=direct", "qemu+evenkeel:///system", "qemu+unix:///system"),
        ] {
            assert_eq!(carried_uri(uri), announced);
            assert!(is_carried(announced) && !is_carried(uri));
            let want = format!("{destination}?socket={dir}/control");
            assert_eq!(sockets.destination(announced), want);
        }
        assert_eq!(sockets.migrate_uri(), format!("unix://{dir}/memory"));
        assert_eq!(sockets.disks_uri(), format!("unix://{dir}/disks"));
        assert_eq!(socket_of("qemu+unix:///session?socket=/x/y"), Some("/x/y".into()));
    }
}

//! Machines carried between agents: libvirt's control connection, and the machine's memory and disks.
//!
//! ```text
//!  source                                                             target
//!  libvirtd ─ DIR/HANDOFF/control ─ agent ══ TLS over TCP ══ agent ─ libvirtd's socket
//!  QEMU ───── DIR/HANDOFF/memory ── agent ══ TLS over TCP ══ agent ─ DIR/HANDOFF/memory ─ QEMU
//!  QEMU ───── DIR/HANDOFF/disks ─── agent ══ TLS over TCP ══ agent ─ DIR/HANDOFF/disks ── QEMU
//! ```
//!
//! The source listens from the order to migrate until its end. The target lets a stream in only from
//! the host of a handoff that is under way here, and joins it to one of three sockets: libvirt's own, and
//! those that QEMU makes for this machine. What the two libvirts say is parsed and written anew by both
//! agents ([`evenkeel_libvirt::Control`]): the target's against a source that lies, the source's against a
//! target that lies.

mod arrivals;
mod conversation;
mod emulator;
mod way;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::handoff::Handoff;
use evenkeel_core::model::{HostId, MachineId};
use evenkeel_core::port::{Commit, HandoffId, Migration};
use evenkeel_libvirt::{Agreed, Control, Here, LibvirtConfig, Sockets, is_carried};
use evenkeel_net::{Caller, Net, Pace};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::accusations::{Accusations, Accused};

use arrivals::{Arrivals, Expected};
use conversation::Conversation;
use emulator::Emulator;
pub(crate) use way::Ways;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// From the source's libvirt to the target's.
    Control,
    /// From the source's QEMU to the target's.
    Memory,
    /// The same, for disks that are copied along; one stream for each.
    Disks,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Control, Self::Memory, Self::Disks];

    /// How many streams of a handoff there may be at once.
    const fn streams_max(self) -> usize {
        match self {
            Self::Control | Self::Memory => 1,
            Self::Disks => 16,
        }
    }

    /// Where libvirt and QEMU are told to find it.
    fn socket(self, sockets: &Sockets) -> PathBuf {
        match self {
            Self::Control => sockets.control(),
            Self::Memory => sockets.memory(),
            Self::Disks => sockets.disks(),
        }
    }

    /// The request with which a stream of a handoff begins: one byte, and the handoff's eight.
    fn request(self, handoff: HandoffId) -> Vec<u8> {
        let what = match self {
            Self::Control => 1,
            Self::Memory => 2,
            Self::Disks => 3,
        };
        [&[what], handoff.0.to_be_bytes().as_slice()].concat()
    }

    fn of(request: &[u8]) -> Option<(Self, HandoffId)> {
        let (what, handoff) = request.split_first()?;
        let channel = match what {
            1 => Self::Control,
            2 => Self::Memory,
            3 => Self::Disks,
            _ => return None,
        };
        Some((channel, HandoffId(u64::from_be_bytes(handoff.try_into().ok()?))))
    }
}

/// Looks at what this host has, for a machine that is to come; or says why libvirt did not answer.
pub(crate) type Look = Arc<dyn Fn(&MachineId) -> Result<Here, String> + Send + Sync>;

/// libvirt on this host, for machines that come.
#[derive(Clone)]
pub(crate) struct Libvirt {
    /// Its connection, such as `qemu:///system`.
    pub(crate) uri: String,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    pub(crate) look: Look,
}

impl Libvirt {
    pub(crate) fn new(config: LibvirtConfig, socket: PathBuf) -> Self {
        let uri = config.uri.clone();
        Self { uri, socket, look: Arc::new(move |machine| Here::look(&config, machine)) }
    }
}

/// Carries machines away from this host, and lets them in.
pub(crate) struct Carrier {
    net: Net,
    /// The directory of all handoffs' sockets.
    dir: PathBuf,
    pace: Option<Arc<Pace>>,
    accusations: Accusations,
    departures: BTreeMap<HandoffId, Departure>,
    /// Nothing where machines come by other ways.
    arrivals: Option<Arrivals>,
    /// Who is told that the target's answer to a migration's last step has reached libvirt here.
    finished: Option<mpsc::Sender<HandoffId>>,
}

/// What a host asks for that only wants to know whether machines could be carried to another one.
pub(crate) const REACH: &[u8] = b"reach";

impl Carrier {
    /// Carries machines away, with sockets in `dir`, and at most so many bytes a second.
    pub(crate) fn new(net: Net, dir: PathBuf, bytes_per_s: Option<u64>) -> Self {
        let pace = bytes_per_s.map(|limit| Arc::new(Pace::new(limit)));
        let accusations = Accusations::default();
        let (departures, arrivals, finished) = (BTreeMap::new(), None, None);
        Self { net, dir, pace, accusations, departures, arrivals, finished }
    }

    /// Tells of every migration away from here whose last step's answer has reached libvirt.
    pub(crate) fn tell_finished(&mut self, finished: mpsc::Sender<HandoffId>) {
        self.finished = Some(finished);
    }

    /// Lets machines in, too, to this libvirt.
    ///
    /// # Errors
    /// When the directory of the sockets cannot be had.
    pub(crate) fn let_in(
        &mut self,
        mut callers: mpsc::Receiver<Caller>,
        libvirt: Libvirt,
    ) -> io::Result<()> {
        make_dir(&self.dir, 0o711)?;
        // What an earlier life has left: nobody listens there any more.
        for left in fs::read_dir(&self.dir)?.flatten() {
            remove(&left.path());
        }
        let arrivals = Arrivals::new(libvirt, self.accusations.clone());
        self.arrivals = Some(arrivals.clone());
        tokio::spawn(async move {
            while let Some(caller) = callers.recv().await {
                arrivals.receive(caller);
            }
        });
        Ok(())
    }

    /// Listens for the connections of a migration of the machine of this name to a host whose agent is
    /// at `addr`, if it is one to be carried.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn depart(
        &mut self,
        migration: &Migration,
        name: &str,
        addr: Option<SocketAddr>,
    ) -> io::Result<()> {
        if !is_carried(&migration.uri) {
            return Ok(());
        }
        let unknown = || format!("the address of host `{}` is not known", migration.to);
        let addr = addr.ok_or_else(|| io::Error::other(unknown()))?;
        make_dir(&self.dir, 0o711)?;
        let sockets = Sockets::of(&self.dir, migration.handoff);
        // libvirt connects as root, or as the agent's user; for disks QEMU does, of the agent's group.
        let copies = !migration.disks.is_empty();
        make_dir(&sockets.dir, if copies { 0o710 } else { 0o700 })?;
        let libvirt = self.arrivals.as_ref().map(Arrivals::libvirt).unwrap_or_default();
        let machine = migration.machine.clone();
        let emulator = Arc::new(Emulator { libvirt, machine, name: name.to_owned() });
        let trouble = Arc::default();
        let mut departure =
            Departure { dir: sockets.dir.clone(), trouble, streams: JoinSet::new() };
        for channel in Channel::ALL {
            let mode = match channel {
                Channel::Control | Channel::Memory => 0o600,
                Channel::Disks if copies => 0o660,
                Channel::Disks => continue,
            };
            let path = channel.socket(&sockets);
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
            let way = Way {
                net: self.net.clone(),
                to: migration.to.clone(),
                addr,
                request: channel.request(migration.handoff),
                agreed: (channel == Channel::Control).then(|| agreed(migration, &sockets)),
                // libvirt alone can reach the others.
                emulator: (channel == Channel::Disks).then(|| Arc::clone(&emulator)),
                pace: self.pace.clone(),
                finished: self.finished.clone().filter(|_| channel == Channel::Control),
                handoff: migration.handoff,
                accusations: self.accusations.clone(),
                trouble: Arc::clone(&departure.trouble),
            };
            departure.streams.spawn(Arc::new(way).listen(listener, channel.streams_max()));
        }
        self.departures.insert(migration.handoff, departure);
        Ok(())
    }

    /// A host has said what it must not.
    pub(crate) fn accuse(&self, host: &HostId, last: String) {
        self.accusations.add(host, last);
    }

    /// Hosts that have said what they must not.
    pub(crate) fn accused(&self) -> Vec<Accused> {
        self.accusations.all()
    }

    /// A migration is over. Says what went wrong with carrying it, if something did.
    pub(crate) fn departed(&mut self, handoff: HandoffId) -> Option<String> {
        let departure = self.departures.remove(&handoff)?;
        lock(&departure.trouble).take()
    }

    /// Lets in what belongs to these handoffs, and nothing else.
    pub(crate) fn expect<'a>(&self, handoffs: impl Iterator<Item = &'a Handoff>) {
        self.expect_only(handoffs.filter_map(Expected::of).collect());
    }

    fn expect_only(&self, expected: BTreeMap<HandoffId, Expected>) {
        if let Some(arrivals) = &self.arrivals {
            arrivals.expect(&self.dir, expected);
        }
    }
}

/// A machine on its way from here. Dropped, its sockets and streams are closed.
struct Departure {
    dir: PathBuf,
    trouble: Arc<Mutex<Option<String>>>,
    streams: JoinSet<()>,
}

impl Drop for Departure {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Where what comes through one socket goes.
struct Way {
    net: Net,
    to: HostId,
    addr: SocketAddr,
    request: Vec<u8>,
    /// What the two hosts have agreed on, where their libvirts speak.
    agreed: Option<Agreed>,
    /// Whose alone it is, where more than libvirt can reach the socket.
    emulator: Option<Arc<Emulator>>,
    pace: Option<Arc<Pace>>,
    handoff: HandoffId,
    finished: Option<mpsc::Sender<HandoffId>>,
    accusations: Accusations,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Way {
    /// Carries connections, so many at once; more wait.
    async fn listen(self: Arc<Self>, listener: UnixListener, streams_max: usize) {
        let mut streams = JoinSet::new();
        while let Ok((local, _)) = listener.accept().await {
            streams.spawn(Arc::clone(&self).carry(local));
            if streams.len() >= streams_max {
                streams.join_next().await;
            }
        }
    }

    async fn carry(self: Arc<Self>, local: UnixStream) {
        let own = self.emulator.as_ref().map_or(Ok(()), |emulator| emulator.calls(&local));
        if let Err(why) = own {
            warn!(host = %self.to, %why, "a disk is copied by nobody else than its machine");
            *lock(&self.trouble) = Some(why.to_string());
            return;
        }
        let stream = match self.net.open_stream(&self.to, self.addr, &self.request).await {
            Ok(stream) => stream,
            Err(why) => {
                warn!(host = %self.to, %why, "a machine cannot be carried");
                *lock(&self.trouble) = Some(why.to_string());
                return;
            }
        };
        let joined = match &self.agreed {
            Some(agreed) => {
                let control = Control::new(agreed.clone(), None);
                let told = self.finished.clone().map(|finished| (self.handoff, finished));
                let conversation = Conversation::of_source(control, told);
                stream.relay(local, conversation).await
            }
            None => stream.join(local, self.pace.as_deref()).await,
        };
        let Err(why) = joined else { return };
        let said = if why.kind() == io::ErrorKind::PermissionDenied {
            self.accusations.add(&self.to, why.to_string());
            format!("what is said with host `{}` is not let pass: {why}", self.to)
        } else {
            debug!(host = %self.to, %why, "carrying a machine broke off");
            format!("the connection with host `{}` broke off: {why}", self.to)
        };
        *lock(&self.trouble) = Some(said);
    }
}

/// What the source knows of what was agreed on.
fn agreed(migration: &Migration, sockets: &Sockets) -> Agreed {
    Agreed {
        sockets: sockets.clone(),
        uri: migration.uri.clone(),
        machine: migration.machine.clone(),
        name: None,
        entry: migration.entry.clone(),
        paused: migration.commit == Commit::Strict,
        memory_bytes: f64::INFINITY,
        needs: migration.needs.clone(),
        disks: migration.disks.clone(),
    }
}

/// Makes a directory with exactly these rights.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!(%error, dir = %dir.display(), "a handoff's sockets stay");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete when the lock is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

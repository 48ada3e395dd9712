//! Machines carried between agents: libvirt's control connection and the machine's memory.
//!
//! ```text
//!  source                                                             target
//!  libvirtd ─ DIR/HANDOFF/control ─ agent ══ TLS over TCP ══ agent ─ libvirtd's socket
//!  QEMU ───── DIR/HANDOFF/memory ── agent ══ TLS over TCP ══ agent ─ DIR/HANDOFF/memory ─ QEMU
//! ```
//!
//! The source listens from the order to migrate until its end. The target lets a stream in only from
//! the host of a handoff that is under way here, one of each kind, and joins it to one of two sockets:
//! libvirt's own, as far as a migration needs it, and the one that QEMU makes for this machine.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evenkeel_core::decision::Role;
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::model::HostId;
use evenkeel_core::port::{HandoffId, Migration};
use evenkeel_libvirt::{Filter, Sockets, is_carried};
use evenkeel_net::{Caller, Inspect, Net, Pace};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// From the source's libvirt to the target's.
    Control,
    /// From the source's QEMU to the target's.
    Memory,
}

impl Channel {
    const ALL: [Self; 2] = [Self::Control, Self::Memory];

    /// The request with which a stream of a handoff begins: one byte, and the handoff's eight.
    fn request(self, handoff: HandoffId) -> Vec<u8> {
        let what = match self {
            Self::Control => 1,
            Self::Memory => 2,
        };
        [&[what], handoff.0.to_be_bytes().as_slice()].concat()
    }

    fn of(request: &[u8]) -> Option<(Self, HandoffId)> {
        let (what, handoff) = request.split_first()?;
        let channel = match what {
            1 => Self::Control,
            2 => Self::Memory,
            _ => return None,
        };
        Some((channel, HandoffId(u64::from_be_bytes(handoff.try_into().ok()?))))
    }
}

/// Carries machines away from this host, and lets them in.
pub(crate) struct Carrier {
    net: Net,
    /// The directory of all handoffs' sockets.
    dir: PathBuf,
    pace: Option<Arc<Pace>>,
    departures: BTreeMap<HandoffId, Departure>,
    /// Nothing where machines come by other ways.
    arrivals: Option<Arrivals>,
}

impl Carrier {
    /// Carries machines away, with sockets in `dir`, and at most so many bytes a second.
    pub(crate) fn new(net: Net, dir: PathBuf, bytes_per_s: Option<u64>) -> Self {
        let pace = bytes_per_s.map(|limit| Arc::new(Pace::new(limit)));
        Self { net, dir, pace, departures: BTreeMap::new(), arrivals: None }
    }

    /// Lets machines in, too, with libvirt at this socket.
    ///
    /// # Errors
    /// When the directory of the sockets cannot be had.
    pub(crate) fn let_in(
        &mut self,
        mut callers: mpsc::Receiver<Caller>,
        libvirt: PathBuf,
    ) -> io::Result<()> {
        make_dir(&self.dir, 0o711)?;
        // What an earlier life has left: nobody listens there any more.
        for left in fs::read_dir(&self.dir)?.flatten() {
            remove(&left.path());
        }
        let arrivals = Arrivals { known: Arc::default(), libvirt };
        self.arrivals = Some(arrivals.clone());
        tokio::spawn(async move {
            while let Some(caller) = callers.recv().await {
                arrivals.receive(caller);
            }
        });
        Ok(())
    }

    /// Listens for the connections of a migration to a host whose agent is at `addr`, if it is one
    /// to be carried.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn depart(
        &mut self,
        migration: &Migration,
        addr: Option<SocketAddr>,
    ) -> io::Result<()> {
        if !is_carried(&migration.uri) {
            return Ok(());
        }
        let unknown = || format!("the address of host `{}` is not known", migration.to);
        let addr = addr.ok_or_else(|| io::Error::other(unknown()))?;
        make_dir(&self.dir, 0o711)?;
        let sockets = Sockets::of(&self.dir, migration.handoff);
        make_dir(&sockets.dir, 0o700)?;
        let trouble = Arc::default();
        let mut departure =
            Departure { dir: sockets.dir.clone(), trouble, streams: JoinSet::new() };
        for channel in Channel::ALL {
            let path = match channel {
                Channel::Control => sockets.control(),
                Channel::Memory => sockets.memory(),
            };
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let way = Way {
                net: self.net.clone(),
                to: migration.to.clone(),
                addr,
                request: channel.request(migration.handoff),
                pace: self.pace.clone(),
                trouble: Arc::clone(&departure.trouble),
            };
            departure.streams.spawn(way.carry(listener));
        }
        self.departures.insert(migration.handoff, departure);
        Ok(())
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

/// What a handoff to here may have.
struct Expected {
    from: HostId,
    /// Whether more streams may come.
    open: bool,
}

impl Expected {
    fn of(handoff: &Handoff) -> Option<(HandoffId, Self)> {
        let open = match (handoff.role, handoff.phase) {
            (Role::Receiver, Phase::Reserved | Phase::Holding) => true,
            // What it is claimed by needs no more of its source than to end.
            (Role::Receiver, Phase::Claimed) => false,
            _ => return None,
        };
        Some((handoff.id, Self { from: handoff.peer.clone(), open }))
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
    pace: Option<Arc<Pace>>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Way {
    /// Carries connections, one after the other: libvirt makes one of each kind.
    async fn carry(self, listener: UnixListener) {
        while let Ok((local, _)) = listener.accept().await {
            let opened = self.net.open_stream(&self.to, self.addr, &self.request).await;
            let stream = match opened {
                Ok(stream) => stream,
                Err(why) => {
                    warn!(host = %self.to, %why, "a machine cannot be carried");
                    *lock(&self.trouble) = Some(why.to_string());
                    continue;
                }
            };
            if let Err(why) = stream.join(local, self.pace.as_deref(), None).await {
                debug!(host = %self.to, %why, "carrying a machine broke off");
                let said = format!("the connection with host `{}` broke off: {why}", self.to);
                *lock(&self.trouble) = Some(said);
            }
        }
    }
}

/// Machines on their way to here.
#[derive(Clone)]
struct Arrivals {
    known: Arc<Mutex<BTreeMap<HandoffId, Arrival>>>,
    libvirt: PathBuf,
}

/// A machine on its way to here. Dropped, its sockets and streams are closed.
struct Arrival {
    from: HostId,
    sockets: Sockets,
    /// Whether more streams may come.
    open: bool,
    /// One stream of each kind.
    places: [Arc<Semaphore>; 2],
    streams: JoinSet<()>,
}

impl Arrival {
    fn new(from: HostId, sockets: Sockets) -> Self {
        // QEMU, which is of the agent's group, makes its socket there.
        if let Err(error) = make_dir(&sockets.dir, 0o770) {
            warn!(%error, dir = %sockets.dir.display(), "no directory for an incoming machine");
        }
        let places = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        Self { from, sockets, open: true, places, streams: JoinSet::new() }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        remove(&self.sockets.dir);
    }
}

impl Arrivals {
    fn expect(&self, dir: &Path, expected: BTreeMap<HandoffId, Expected>) {
        let mut known = lock(&self.known);
        known.retain(|id, _| expected.contains_key(id));
        for (id, Expected { from, open }) in expected {
            let new = || Arrival::new(from, Sockets::of(dir, id));
            known.entry(id).or_insert_with(new).open = open;
        }
    }

    /// Lets a caller in, or tells it why not.
    fn receive(&self, caller: Caller) {
        let mut known = lock(&self.known);
        match admit(&mut known, &caller) {
            Ok((arrival, channel, place)) => {
                while arrival.streams.try_join_next().is_some() {}
                let target = match channel {
                    Channel::Control => Target::Libvirt(self.libvirt.clone()),
                    Channel::Memory => Target::Qemu(arrival.sockets.memory()),
                };
                arrival.streams.spawn(let_in(caller, target, place));
            }
            Err(why) => {
                warn!(host = %caller.from, why, "a stream is not taken");
                tokio::spawn(async move { caller.decline(&why).await });
            }
        }
    }
}

/// Whose handoff a caller belongs to, and its place in it; or why it has none.
fn admit<'a>(
    known: &'a mut BTreeMap<HandoffId, Arrival>,
    caller: &Caller,
) -> Result<(&'a mut Arrival, Channel, OwnedSemaphorePermit), String> {
    let (channel, handoff) = Channel::of(&caller.request)
        .ok_or_else(|| "this version does not know what is asked for".to_owned())?;
    let arrival = known
        .get_mut(&handoff)
        .filter(|arrival| arrival.from == caller.from && arrival.open)
        .ok_or_else(|| format!("no machine is expected from it by handoff {handoff}"))?;
    let place = arrival.places[channel as usize].clone().try_acquire_owned();
    let place = place.map_err(|_| format!("{channel:?} of handoff {handoff} is there already"))?;
    Ok((arrival, channel, place))
}

/// What a stream from another host is joined to.
enum Target {
    Libvirt(PathBuf),
    Qemu(PathBuf),
}

impl Target {
    async fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Libvirt(path) => UnixStream::connect(path).await,
            Self::Qemu(path) => {
                // QEMU may write in its directory: it must not lead elsewhere from there.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let socket = rustix::fs::open(path, flags, Mode::empty())?;
                let found = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
                if found != FileType::Socket {
                    return Err(io::Error::other("what QEMU is to listen at is no socket"));
                }
                UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
            }
        }
    }

    /// What of the other host's bytes may pass.
    fn inspect(&self) -> Option<Inspect> {
        match self {
            Self::Libvirt(_) => {
                let mut filter = Filter::default();
                Some(Box::new(move |bytes| filter.inspect(bytes).map_err(|why| why.to_string())))
            }
            Self::Qemu(_) => None,
        }
    }
}

async fn let_in(caller: Caller, target: Target, _place: OwnedSemaphorePermit) {
    let from = caller.from.clone();
    let local = match target.connect().await {
        Ok(local) => local,
        Err(error) => {
            let (what, path) = match &target {
                Target::Libvirt(path) => ("libvirt", path),
                Target::Qemu(path) => ("QEMU", path),
            };
            let why = format!("{what} does not answer at `{}`: {error}", path.display());
            warn!(host = %from, why, "a machine cannot be let in");
            return caller.decline(&why).await;
        }
    };
    let joined = match caller.accept().await {
        Ok(stream) => stream.join(local, None, target.inspect()).await,
        Err(error) => Err(error),
    };
    match joined {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            warn!(host = %from, %why, "a stream is cut off");
        }
        Err(why) => debug!(host = %from, %why, "a stream broke off"),
        Ok(joined) => debug!(host = %from, ?joined, "a stream has ended"),
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
mod tests;

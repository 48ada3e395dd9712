//! The target's side: who is let in, and to what.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use evenkeel_core::decision::Role;
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::model::HostId;
use evenkeel_core::port::HandoffId;
use evenkeel_libvirt::{Filter, Sockets};
use evenkeel_net::{Caller, Inspect};
use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::{Channel, lock, make_dir, remove};

/// What a handoff to here may have.
pub(super) struct Expected {
    pub(super) from: HostId,
    /// Whether more streams may come.
    pub(super) open: bool,
}

impl Expected {
    pub(super) fn of(handoff: &Handoff) -> Option<(HandoffId, Self)> {
        let open = match (handoff.role, handoff.phase) {
            (Role::Receiver, Phase::Reserved | Phase::Holding) => true,
            // What it is claimed by needs no more of its source than to end.
            (Role::Receiver, Phase::Claimed) => false,
            _ => return None,
        };
        Some((handoff.id, Self { from: handoff.peer.clone(), open }))
    }
}

/// Machines on their way to here.
#[derive(Clone)]
pub(super) struct Arrivals {
    known: Arc<Mutex<BTreeMap<HandoffId, Arrival>>>,
    libvirt: PathBuf,
}

/// A machine on its way to here. Dropped, its sockets and streams are closed.
struct Arrival {
    from: HostId,
    sockets: Sockets,
    /// Whether more streams may come.
    open: bool,
    /// For streams of each kind.
    places: [Arc<Semaphore>; 3],
    streams: JoinSet<()>,
}

impl Arrival {
    fn new(from: HostId, sockets: Sockets) -> Self {
        // QEMU, which is of the agent's group, makes its socket there.
        if let Err(error) = make_dir(&sockets.dir, 0o770) {
            warn!(%error, dir = %sockets.dir.display(), "no directory for an incoming machine");
        }
        let places = Channel::ALL.map(|channel| Arc::new(Semaphore::new(channel.streams_max())));
        Self { from, sockets, open: true, places, streams: JoinSet::new() }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        remove(&self.sockets.dir);
    }
}

impl Arrivals {
    /// Nobody is expected yet. libvirt listens at this socket.
    pub(super) fn new(libvirt: PathBuf) -> Self {
        Self { known: Arc::default(), libvirt }
    }

    /// Lets in what belongs to these handoffs, and nothing else.
    pub(super) fn expect(&self, dir: &Path, expected: BTreeMap<HandoffId, Expected>) {
        let mut known = lock(&self.known);
        known.retain(|id, _| expected.contains_key(id));
        for (id, Expected { from, open }) in expected {
            let new = || Arrival::new(from, Sockets::of(dir, id));
            known.entry(id).or_insert_with(new).open = open;
        }
    }

    /// Lets a caller in, or tells it why not.
    pub(super) fn receive(&self, caller: Caller) {
        let mut known = lock(&self.known);
        match admit(&mut known, &caller) {
            Ok((arrival, channel, place)) => {
                while arrival.streams.try_join_next().is_some() {}
                let target = match channel {
                    Channel::Control => Target::Libvirt(self.libvirt.clone()),
                    qemu => Target::Qemu(qemu.socket(&arrival.sockets)),
                };
                arrival.streams.spawn(let_in(caller, channel, target, place));
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
    let place = place.map_err(|_| format!("{channel:?} of handoff {handoff} has its streams"))?;
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

async fn let_in(caller: Caller, channel: Channel, target: Target, _place: OwnedSemaphorePermit) {
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
        Ok(joined) => info!(host = %from, ?channel, bytes = joined.received, "carried here"),
    }
}

//! The target's side: who is let in, and to what.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use evenkeel_core::decision::Role;
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::model::{DiskPlace, Entry, HostId, MachineId, Requirements};
use evenkeel_core::port::{Commit, HandoffId};
use evenkeel_libvirt::{Agreed, Control, Sockets};
use evenkeel_net::Caller;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::accusations::Accusations;
use crate::carrier::REACH;

use super::conversation::Conversation;
use super::{Channel, Libvirt, emulator, lock, make_dir, remove};

/// What a handoff to here may have.
pub(super) struct Expected {
    pub(super) from: HostId,
    /// Whether more streams may come.
    pub(super) open: bool,
    pub(super) terms: Terms,
}

/// What was agreed on of a machine that is to come.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) machine: MachineId,
    pub(super) name: String,
    pub(super) entry: Entry,
    pub(super) paused: bool,
    pub(super) memory_bytes: f64,
    pub(super) needs: Requirements,
    pub(super) disks: Vec<DiskPlace>,
}

impl Terms {
    fn of(handoff: &Handoff) -> Self {
        Self {
            machine: handoff.machine.clone(),
            name: handoff.name.clone(),
            entry: handoff.entry.clone(),
            paused: handoff.commit == Commit::Strict,
            memory_bytes: handoff.memory_bytes,
            needs: handoff.needs().clone(),
            disks: handoff.places().to_vec(),
        }
    }

    fn agreed(self, sockets: Sockets, uri: String) -> Agreed {
        let Self { machine, name, entry, paused, memory_bytes, needs, disks } = self;
        let name = Some(name);
        Agreed { sockets, uri, machine, name, entry, paused, memory_bytes, needs, disks }
    }
}

impl Expected {
    pub(super) fn of(handoff: &Handoff) -> Option<(HandoffId, Self)> {
        let open = match (handoff.role, handoff.phase) {
            (Role::Target, Phase::Reserved | Phase::Holding) => true,
            // What it is claimed by needs no more of its source than to end.
            (Role::Target, Phase::Claimed) => false,
            _ => return None,
        };
        Some((handoff.id, Self { from: handoff.peer.clone(), open, terms: Terms::of(handoff) }))
    }
}

/// Machines on their way to here.
#[derive(Clone)]
pub(super) struct Arrivals {
    known: Arc<Mutex<BTreeMap<HandoffId, Arrival>>>,
    libvirt: Libvirt,
    accusations: Accusations,
}

/// A machine on its way to here. Dropped, its sockets and streams are closed.
struct Arrival {
    from: HostId,
    sockets: Sockets,
    /// Whether more streams may come.
    open: bool,
    terms: Terms,
    /// Whether the two libvirts have spoken: they do once.
    controlled: bool,
    /// For streams of each kind.
    places: [Arc<Semaphore>; 3],
    streams: JoinSet<()>,
}

impl Arrival {
    fn new(from: HostId, sockets: Sockets, terms: Terms) -> Self {
        // QEMU, which is of the agent's group, makes its socket there.
        if let Err(error) = make_dir(&sockets.dir, 0o770) {
            warn!(%error, dir = %sockets.dir.display(), "no directory for an incoming machine");
        }
        let places = Channel::ALL.map(|channel| Arc::new(Semaphore::new(channel.streams_max())));
        let streams = JoinSet::new();
        Self { from, sockets, open: true, terms, controlled: false, places, streams }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        remove(&self.sockets.dir);
    }
}

impl Arrivals {
    /// Nobody is expected yet.
    pub(super) fn new(libvirt: Libvirt, accusations: Accusations) -> Self {
        Self { known: Arc::default(), libvirt, accusations }
    }

    /// Where libvirt listens.
    pub(super) fn libvirt(&self) -> PathBuf {
        self.libvirt.socket.clone()
    }

    /// Lets in what belongs to these handoffs, and nothing else.
    pub(super) fn expect(&self, dir: &Path, expected: BTreeMap<HandoffId, Expected>) {
        let mut known = lock(&self.known);
        known.retain(|id, _| expected.contains_key(id));
        for (id, Expected { from, open, terms }) in expected {
            let new = || Arrival::new(from, Sockets::of(dir, id), terms.clone());
            let arrival = known.entry(id).or_insert_with(new);
            arrival.open = open;
            arrival.terms = terms;
        }
    }

    /// Lets a caller in, or tells it why not.
    pub(super) fn receive(&self, caller: Caller) {
        if caller.request == REACH {
            // Whoever asks wants to know whether it is reached.
            tokio::spawn(async move { caller.decline("it is reached").await });
            return;
        }
        let mut known = lock(&self.known);
        match admit(&mut known, &caller) {
            Ok((arrival, channel, place)) => {
                while arrival.streams.try_join_next().is_some() {}
                let terms = arrival.terms.clone();
                let target = match channel {
                    Channel::Control => {
                        let agreed =
                            terms.agreed(arrival.sockets.clone(), self.libvirt.uri.clone());
                        Target::Libvirt(self.libvirt.clone(), Box::new(agreed))
                    }
                    qemu => Target::Qemu {
                        socket: qemu.socket(&arrival.sockets),
                        libvirt: self.libvirt.socket.clone(),
                        terms: Box::new(terms),
                    },
                };
                let accusations = self.accusations.clone();
                arrival.streams.spawn(let_in(caller, channel, target, place, accusations));
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
    if channel == Channel::Control && std::mem::replace(&mut arrival.controlled, true) {
        return Err(format!("libvirt has been spoken to for handoff {handoff} already"));
    }
    Ok((arrival, channel, place))
}

/// What a stream from another host is joined to.
enum Target {
    Libvirt(Libvirt, Box<Agreed>),
    Qemu {
        socket: PathBuf,
        /// Where libvirt listens, beside which it says which process runs a machine.
        libvirt: PathBuf,
        terms: Box<Terms>,
    },
}

impl Target {
    async fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Libvirt(libvirt, _) => UnixStream::connect(&libvirt.socket).await,
            Self::Qemu { socket, libvirt, terms } => {
                // QEMU may write in its directory: it must not lead elsewhere from there.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::open(socket, flags, Mode::empty())?;
                let found = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
                if found != FileType::Socket {
                    return Err(io::Error::other("what QEMU is to listen at is no socket"));
                }
                let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
                let stream = UnixStream::connect(path).await?;
                let listener = stream.peer_cred()?;
                emulator::runs(listener.pid(), libvirt, &terms.machine, &terms.name)?;
                Ok(stream)
            }
        }
    }
}

async fn let_in(
    caller: Caller,
    channel: Channel,
    target: Target,
    _place: OwnedSemaphorePermit,
    accusations: Accusations,
) {
    let from = caller.from.clone();
    let (control, local) = match ready(&target).await {
        Ok(ready) => ready,
        Err(error) => {
            let (what, path) = match &target {
                Target::Libvirt(libvirt, _) => ("libvirt", &libvirt.socket),
                Target::Qemu { socket, .. } => ("QEMU", socket),
            };
            let why = format!("{what} does not answer at `{}`: {error}", path.display());
            warn!(host = %from, why, "a machine cannot be let in");
            return caller.decline(&why).await;
        }
    };
    let joined = match (caller.accept().await, control) {
        (Ok(stream), Some(control)) => stream.relay(local, Conversation::of_target(control)).await,
        (Ok(stream), None) => stream.join(local, None).await,
        (Err(error), _) => Err(error),
    };
    match joined {
        Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
            accusations.add(&from, why.to_string());
        }
        Err(why) => debug!(host = %from, %why, "a stream broke off"),
        Ok(joined) => info!(host = %from, ?channel, bytes = joined.received, "carried here"),
    }
}

/// The connection, and for libvirt what it may be asked.
async fn ready(target: &Target) -> io::Result<(Option<Control>, UnixStream)> {
    let control = match target {
        Target::Libvirt(libvirt, agreed) => {
            let (look, machine) = (libvirt.look.clone(), agreed.machine.clone());
            let looked = tokio::task::spawn_blocking(move || look(&machine)).await;
            let here = looked.map_err(io::Error::other)?.map_err(io::Error::other)?;
            Some(Control::new(Agreed::clone(agreed), Some(here)))
        }
        Target::Qemu { .. } => None,
    };
    Ok((control, target.connect().await?))
}

//! Connections by host, and messages on their way through them.
//!
//! A peer has a queue and, while there is something in it, one task that works it off: it takes a
//! connection that stands or makes one (so that nobody is called twice at once), writes each
//! message onto a stream of its own, and leaves the wait for the acknowledgement to another task.
//! A message whose connection breaks before that goes back to the head of the queue, a few times.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use evenkeel_core::model::HostId;
use quinn::{Connection, ConnectionError, SendStream, Side, StoppedError, WriteError};
use tokio::time::{Instant, timeout_at};

use crate::incoming;
use crate::limits::DATAGRAM_BUFFER_BYTES;
use crate::net::{DialError, Inner, NetEvent, Undelivered, code, plain, shown_on, streams};
use crate::services;

/// How often a message is written before it is given up.
const ATTEMPTS_MAX: u8 = 3;

#[derive(Default)]
pub(crate) struct Peers(Mutex<HashMap<HostId, Peer>>);

#[derive(Default)]
struct Peer {
    /// The newest last.
    links: Vec<Link>,
    messages: VecDeque<Outgoing>,
    datagrams: VecDeque<Bytes>,
    /// Where a datagram that waits wants to go.
    datagrams_to: Option<SocketAddr>,
    /// Messages taken from the queue and not yet settled.
    under_way: usize,
    working: bool,
}

/// A connection with a peer, and who called.
struct Link {
    connection: Connection,
    side: Side,
}

impl Link {
    fn stands(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether it leads to whoever listens at `addr`. A host that moved is not found at the end of
    /// a connection from before. One that called us may have done so from another of its
    /// addresses, but always from the port at which it listens.
    fn leads_to(&self, addr: SocketAddr) -> bool {
        let remote = self.connection.remote_address();
        remote == addr || (self.side.is_server() && remote.port() == addr.port())
    }
}

struct Outgoing {
    addr: SocketAddr,
    bytes: Bytes,
    deadline: Instant,
    attempts: u8,
}

enum Job {
    Carry(Outgoing),
    /// Only datagrams wait, for a connection.
    Connect(SocketAddr),
}

impl Peer {
    /// The newest connection that stands and leads to `addr`.
    fn link_to(&mut self, addr: SocketAddr) -> Option<Connection> {
        self.links.retain(Link::stands);
        let newest = self.links.iter().rev().find(|link| link.leads_to(addr));
        newest.map(|link| link.connection.clone())
    }

    fn is_settled(&self) -> bool {
        self.messages.is_empty() && self.under_way == 0 && !self.working
    }

    fn flush_datagrams(&mut self, link: &Connection) {
        for bytes in self.datagrams.drain(..) {
            send_datagram(link, bytes);
        }
    }
}

/// Hands a datagram to QUIC if there is room; QUIC itself would drop an older one.
fn send_datagram(link: &Connection, bytes: Bytes) {
    if bytes.len() < link.datagram_send_buffer_space() {
        // Too long for the path, or the connection is gone: dropped either way.
        let _ = link.send_datagram(bytes);
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, HashMap<HostId, Peer>> {
        // No invariant of ours spans a panic: every change is complete when the lock is released.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn are_settled(&self) -> bool {
        self.lock().values().all(Peer::is_settled)
    }

    /// How many connections stand.
    pub(crate) fn links(&self) -> usize {
        self.lock().values().flat_map(|peer| &peer.links).filter(|link| link.stands()).count()
    }

    /// Every connection that stands, and with whom.
    pub(crate) fn links_standing(&self) -> Vec<(HostId, Connection)> {
        let peers = self.lock();
        let links = peers.iter().flat_map(|(host, peer)| peer.links.iter().map(move |l| (host, l)));
        let standing = links.filter(|(_, link)| link.stands());
        standing.map(|(host, link)| (host.clone(), link.connection.clone())).collect()
    }

    /// Whether QUIC still holds datagrams that have not left.
    pub(crate) fn have_datagrams(&self) -> bool {
        // QUIC reckons with room for one more datagram's bookkeeping.
        let nearly_all = DATAGRAM_BUFFER_BYTES - 256;
        self.lock()
            .values()
            .flat_map(|peer| &peer.links)
            .any(|link| link.stands() && link.connection.datagram_send_buffer_space() < nearly_all)
    }

    fn forget_if_idle(peers: &mut HashMap<HostId, Peer>, host: &HostId) {
        let idle = |peer: &mut Peer| {
            peer.links.retain(Link::stands);
            peer.links.is_empty() && peer.is_settled() && peer.datagrams.is_empty()
        };
        if peers.get_mut(host).is_some_and(idle) {
            peers.remove(host);
        }
    }
}

impl Inner {
    pub(crate) fn send(
        self: &Arc<Self>,
        to: &HostId,
        addr: SocketAddr,
        bytes: Bytes,
    ) -> Result<(), Undelivered> {
        let (size, max) = (bytes.len(), self.limits.message_bytes_max);
        if size > max {
            return Err(Undelivered::TooLong { bytes: size, max });
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Undelivered::Closing);
        }
        let mut peers = self.peers.lock();
        let peer = peers.entry(to.clone()).or_default();
        let max = self.limits.messages_to_peer_max;
        if peer.messages.len() + peer.under_way >= max {
            return Err(Undelivered::QueueFull { max });
        }
        let deadline = Instant::now() + self.limits.delivery;
        peer.messages.push_back(Outgoing { addr, bytes, deadline, attempts: 0 });
        self.put_to_work(to, peer);
        Ok(())
    }

    pub(crate) fn send_datagram(self: &Arc<Self>, to: &HostId, addr: SocketAddr, bytes: Bytes) {
        if self.closing.load(Ordering::Acquire) {
            return;
        }
        let mut peers = self.peers.lock();
        let peer = peers.entry(to.clone()).or_default();
        if let Some(link) = peer.link_to(addr) {
            return send_datagram(&link, bytes);
        }
        if peer.datagrams.len() >= self.limits.datagrams_waiting_max {
            peer.datagrams.pop_front();
        }
        peer.datagrams.push_back(bytes);
        peer.datagrams_to = Some(addr);
        self.put_to_work(to, peer);
    }

    fn put_to_work(self: &Arc<Self>, host: &HostId, peer: &mut Peer) {
        if !peer.working {
            peer.working = true;
            self.runtime.spawn(work(self.clone(), host.clone()));
        }
    }

    /// Takes a connection with a host into use, for both directions.
    pub(crate) fn adopt(self: &Arc<Self>, host: &HostId, link: Connection) {
        let addr = link.remote_address().ip();
        self.doors.seen(addr, std::time::Instant::now());
        self.streams.seen(addr);
        link.set_max_concurrent_uni_streams(streams(self.limits.messages_from_peer_max));
        link.set_max_concurrent_bi_streams(streams(services::REQUESTS_MAX));
        {
            let mut peers = self.peers.lock();
            let peer = peers.entry(host.clone()).or_default();
            peer.links.retain(Link::stands);
            while peer.links.len() >= self.limits.connections_per_peer_max {
                let oldest = peer.links.remove(0).connection;
                oldest.close(code::SUPERSEDED, b"there is a newer connection");
            }
            peer.flush_datagrams(&link);
            peer.links.push(Link { connection: link.clone(), side: link.side() });
        }
        // A list may have come into force since the certificate was looked at. Whoever brings one
        // into force goes through the links after that: one of the two sees the other.
        if let Err(why) = self.name_of(&link) {
            link.close(code::REFUSED, why.to_string().as_bytes());
            tracing::warn!(%host, "connection closed: {why}");
            return self.release(host);
        }
        if let Some(certificate) = shown_on(&link) {
            self.has_met(&certificate);
        }
        self.runtime.spawn(incoming::read_messages(self.clone(), host.clone(), link.clone()));
        self.runtime.spawn(incoming::read_datagrams(self.clone(), host.clone(), link.clone()));
        self.runtime.spawn(self.clone().serve(host.clone(), link.clone()));
        if link.side().is_client() {
            self.runtime.spawn(self.clone().offer_list(host.clone(), link));
        }
    }

    /// A connection with a host is gone.
    pub(crate) fn release(&self, host: &HostId) {
        Peers::forget_if_idle(&mut self.peers.lock(), host);
    }

    /// What is to be done for a peer, or nothing any more.
    fn next_job(&self, host: &HostId) -> Option<Job> {
        let mut peers = self.peers.lock();
        let peer = peers.get_mut(host)?;
        if let Some(message) = peer.messages.pop_front() {
            peer.under_way += 1;
            return Some(Job::Carry(message));
        }
        if let Some(addr) = peer.datagrams_to.take() {
            match peer.link_to(addr) {
                Some(link) => peer.flush_datagrams(&link),
                None => return Some(Job::Connect(addr)),
            }
        }
        peer.datagrams.clear();
        peer.working = false;
        Peers::forget_if_idle(&mut peers, host);
        drop(peers);
        self.settled.notify_waiters();
        None
    }

    /// A message is no longer under way: it arrived, was given up, or goes back to the queue.
    fn settle(self: &Arc<Self>, host: &HostId, again: Option<Outgoing>) {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get_mut(host) {
            peer.under_way -= 1;
            if let Some(message) = again {
                peer.messages.push_front(message);
                self.put_to_work(host, peer);
            }
        }
        Peers::forget_if_idle(&mut peers, host);
        drop(peers);
        self.settled.notify_waiters();
    }

    async fn give_up(self: &Arc<Self>, host: &HostId, why: Undelivered) {
        let event = NetEvent::Undelivered { to: host.clone(), why };
        // Nobody listens any more: then nobody waits for it either.
        let _ = self.events.send(event).await;
        self.settle(host, None);
    }

    /// A connection that stands, or a new one.
    pub(crate) async fn link_to(
        self: &Arc<Self>,
        host: &HostId,
        addr: SocketAddr,
    ) -> Result<Connection, DialError> {
        let link = self.peers.lock().get_mut(host).and_then(|peer| peer.link_to(addr));
        if let Some(link) = link {
            return Ok(link);
        }
        let (_, link) = self.dial(addr, Some(host)).await?;
        self.adopt(host, link.clone());
        Ok(link)
    }
}

/// Works off the queue of one peer until it is empty.
async fn work(inner: Arc<Inner>, host: HostId) {
    while let Some(job) = inner.next_job(&host) {
        match job {
            Job::Carry(message) => carry(&inner, &host, message).await,
            Job::Connect(addr) => {
                // Membership notices by itself that its datagrams are not answered.
                if let Err(e) = inner.link_to(&host, addr).await {
                    tracing::debug!(%host, "datagrams dropped: {e}");
                }
            }
        }
    }
}

/// Writes one message and leaves its acknowledgement to be awaited.
async fn carry(inner: &Arc<Inner>, host: &HostId, mut message: Outgoing) {
    message.attempts += 1;
    let (addr, deadline) = (message.addr, message.deadline);
    let link = match timeout_at(deadline, inner.link_to(host, addr)).await {
        Ok(Ok(link)) => link,
        Ok(Err(why)) => return inner.give_up(host, why.into()).await,
        Err(_) => {
            let why = DialError::Silent { addr, limit: inner.limits.delivery };
            return inner.give_up(host, why.into()).await;
        }
    };
    match timeout_at(deadline, write(&link, &message.bytes)).await {
        Ok(Ok(stream)) => {
            let (inner, host) = (inner.clone(), host.clone());
            inner.runtime.clone().spawn(async move {
                let acknowledged = timeout_at(deadline, stream.stopped()).await;
                drop(stream);
                match acknowledged {
                    Ok(Ok(None)) => inner.settle(&host, None),
                    Ok(Ok(Some(code))) => {
                        let why = Undelivered::Declined { code: code.into_inner() };
                        inner.give_up(&host, why).await;
                    }
                    Ok(Err(StoppedError::ConnectionLost(e))) => {
                        lost(&inner, &host, message, &e).await;
                    }
                    Ok(Err(e)) => {
                        inner.give_up(&host, Undelivered::Lost(e.to_string())).await;
                    }
                    Err(_) => late(&inner, &host, &link).await,
                }
            });
        }
        Ok(Err(Failed::Lost(e))) => lost(inner, host, message, &e).await,
        Ok(Err(Failed::Declined(code))) => {
            inner.give_up(host, Undelivered::Declined { code }).await;
        }
        Err(_) => late(inner, host, &link).await,
    }
}

/// The deadline is over. The connection is given up with the message: the next one must not wait
/// for a dead peer again.
async fn late(inner: &Arc<Inner>, host: &HostId, link: &Connection) {
    link.close(code::STALLED, b"a message was not acknowledged in time");
    inner.give_up(host, Undelivered::NotAcknowledged(inner.limits.delivery)).await;
}

async fn lost(inner: &Arc<Inner>, host: &HostId, message: Outgoing, e: &ConnectionError) {
    if inner.closing.load(Ordering::Acquire) && *e == ConnectionError::LocallyClosed {
        inner.give_up(host, Undelivered::Closing).await;
    } else if message.attempts < ATTEMPTS_MAX
        && Instant::now() < message.deadline
        // Whoever refuses our certificate will refuse it again.
        && !matches!(e, ConnectionError::ConnectionClosed(_))
    {
        inner.settle(host, Some(message));
    } else {
        inner.give_up(host, Undelivered::Lost(plain(e))).await;
    }
}

enum Failed {
    Lost(ConnectionError),
    Declined(u64),
}

async fn write(link: &Connection, bytes: &Bytes) -> Result<SendStream, Failed> {
    let mut stream = link.open_uni().await.map_err(Failed::Lost)?;
    match stream.write_chunk(bytes.clone()).await {
        Ok(()) => {}
        Err(WriteError::ConnectionLost(e)) => return Err(Failed::Lost(e)),
        Err(WriteError::Stopped(code)) => return Err(Failed::Declined(code.into_inner())),
        // We neither send early data nor finish a stream before it is written.
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
            return Err(Failed::Declined(code::REFUSED.into_inner()));
        }
    }
    // It fails only for a stream that the peer has stopped, which its acknowledgement tells.
    let _ = stream.finish();
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::revocations::{Revocations, mark_of};
    use crate::{ClusterCa, Limits, Net};

    #[tokio::test]
    async fn a_link_that_was_named_before_its_host_was_removed_is_not_taken_into_use() {
        let dir = std::env::temp_dir().join(format!("evenkeel-peers-{}", std::process::id()));
        let ca = ClusterCa::init(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let bind = |name: &str| {
            let identity = ca.issue(&HostId::new(name).unwrap()).unwrap();
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            Net::bind(any, &identity, Limits::default(), None).unwrap()
        };
        let ((a, _a_events), (b, _b_events)) = (bind("a"), bind("b"));
        // Named, and not yet in use.
        let (host, link) = a.inner.dial(b.local_addr().unwrap(), None).await.unwrap();
        let now = std::time::SystemTime::now();
        let revoked = [(mark_of(&host), now)].into();
        a.inner.revoked.learn(Revocations { number: 1, revoked, der: vec![1] }).unwrap();
        a.inner.adopt(&host, link.clone());
        assert_eq!(a.connections(), 0);
        assert!(link.close_reason().is_some() && !a.vouches(&host));
    }
}

//! The surface: messages and datagrams to and from named hosts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use evenkeel_core::model::HostId;
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, TransportConfig, VarInt};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::book::Book;
use crate::doors::Doors;
use crate::enroller::Enroller;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::peers::Peers;
use crate::rates::Rates;
use crate::revocations::Revoked;
use crate::streams::Streams;
use crate::throttle::Throttle;
use crate::tls::{self, Credentials, PeerRefused, Refusal};
use crate::{calls, incoming, name::Name};

/// Codes with which connections are closed and streams are stopped.
pub(crate) mod code {
    use quinn::VarInt;

    pub(crate) const BYE: VarInt = VarInt::from_u32(0);
    pub(crate) const TOO_LARGE: VarInt = VarInt::from_u32(1);
    pub(crate) const TOO_SLOW: VarInt = VarInt::from_u32(2);
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(3);
    pub(crate) const SUPERSEDED: VarInt = VarInt::from_u32(4);
    pub(crate) const STALLED: VarInt = VarInt::from_u32(5);
}

/// What comes from the network.
#[derive(Debug)]
pub enum NetEvent {
    /// A message. It may come twice if the link broke while it was acknowledged.
    Message {
        /// The host that its certificate names.
        from: HostId,
        /// The message, not empty-checked, at most [`Limits::message_bytes_max`] long.
        bytes: Vec<u8>,
    },
    /// A datagram.
    Datagram {
        /// The host that its certificate names.
        from: HostId,
        /// The datagram.
        bytes: Bytes,
    },
    /// A message did not arrive, or nobody knows whether it did.
    Undelivered {
        /// For whom it was.
        to: HostId,
        /// Why.
        why: Undelivered,
    },
    /// A host has received a certificate from this one.
    Enrolled {
        /// The new host.
        host: HostId,
        /// Where it asked from.
        remote: SocketAddr,
    },
    /// A host's certificate was seen that was not known, and is of this cluster: to be kept for
    /// [`Net::remember`].
    Met {
        /// The host.
        host: HostId,
        /// Its certificate.
        certificate: Vec<u8>,
    },
    /// Another list of removed hosts is in force: [`Net::has_removed`] says of each.
    Revoked,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// It is too long to be sent. It was not.
    #[error("the message has {bytes} bytes and may have {max}")]
    TooLong {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Too many are on their way to that host. It was not sent.
    #[error("{max} messages to it are on their way already")]
    QueueFull {
        /// The limit.
        max: usize,
    },
    /// There is no connection and none could be made. It was not sent.
    #[error("{0}")]
    Unreachable(#[from] DialError),
    /// The peer did not take it.
    #[error("the peer did not take the message (code {code}; 1: too long, 2: too slow)")]
    Declined {
        /// Code of the refusal.
        code: u64,
    },
    /// The connection broke again and again. It may have arrived.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The time was over. It may have arrived.
    #[error("not acknowledged within {0:?}")]
    NotAcknowledged(Duration),
    /// This side is closing. It may have arrived.
    #[error("this agent is closing its connections")]
    Closing,
}

/// Why there is no connection to a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Somebody answers whom we do not believe.
    #[error("refused the agent at {addr}: {why}")]
    Refused {
        /// Where.
        addr: SocketAddr,
        /// Why.
        why: PeerRefused,
    },
    /// Nobody answers, or whoever does refuses us.
    #[error("cannot reach an agent at {addr}: {why}")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// What QUIC says.
        why: String,
    },
    /// Nobody answers in time.
    #[error("nobody answers at {addr} within {limit:?}")]
    Silent {
        /// Where.
        addr: SocketAddr,
        /// How long was waited.
        limit: Duration,
    },
}

/// Why the network cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The UDP port cannot be had.
    #[error(
        "cannot listen on UDP {addr}: {source}; if another agent runs on this host, stop it first"
    )]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The TCP port cannot be had.
    #[error(
        "cannot listen on TCP {addr}: {source}; machines are carried over the same port number as \
         messages, which another program has"
    )]
    BindStreams {
        /// Which.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or key does not work.
    #[error("cannot speak TLS as host `{host}`: {why}")]
    Tls {
        /// This host.
        host: HostId,
        /// What TLS said.
        why: String,
    },
}

/// One UDP port through which this host speaks with the others, both as caller and as called.
///
/// Cheap to clone. When the last clone is gone, everything is closed.
#[derive(Clone)]
pub struct Net {
    pub(crate) inner: Arc<Inner>,
    _open: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Endpoint);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(code::BYE, b"the agent is gone");
    }
}

pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) me: HostId,
    pub(crate) limits: Limits,
    pub(crate) events: mpsc::Sender<NetEvent>,
    pub(crate) peers: Peers,
    /// Signalled when a peer has nothing on its way any more.
    pub(crate) settled: Notify,
    pub(crate) closing: AtomicBool,
    pub(crate) enroller: Option<Enroller>,
    /// Who may prove who it is by QUIC.
    pub(crate) doors: Doors,
    pub(crate) rates: Rates,
    pub(crate) book: Book,
    pub(crate) runtime: Handle,
    /// The authority's certificate.
    pub(crate) ca: CertificateDer<'static>,
    /// Where the identity is kept, if in files.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) revoked: Revoked,
    pub(crate) saving: tokio::sync::Mutex<()>,
    /// Who hears of calls.
    pub(crate) listener: Mutex<Option<mpsc::Sender<calls::Call>>>,
    pub(crate) streams: Streams,
    credentials: RwLock<Credentials>,
    transport: Arc<TransportConfig>,
    refusals: Throttle,
}

impl Net {
    /// Listens on a UDP address, and brings hosts into the cluster if `enroller` is given.
    ///
    /// The receiver must be read from: as long as it is full, nothing more is taken from peers.
    ///
    /// # Errors
    /// When the port is taken, or the certificate does not work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(
        addr: SocketAddr,
        identity: &Identity,
        limits: Limits,
        enroller: Option<Enroller>,
    ) -> Result<(Self, mpsc::Receiver<NetEvent>), NetError> {
        let failed = |source| NetError::Bind { addr, source };
        let transport = limits.transport();
        let revoked = Revoked::new(identity.revocations.clone());
        let credentials = credentials(identity, &revoked)?;
        let server = server_config(&credentials, &transport)
            .map_err(|why| NetError::Tls { host: identity.host.clone(), why })?;
        let socket = std::net::UdpSocket::bind(addr).map_err(failed)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new(endpoint_config(identity), Some(server), socket, runtime)
            .map_err(failed)?;
        let (events, receiver) = mpsc::channel(limits.events_max);
        let inner = Arc::new(Inner {
            endpoint: endpoint.clone(),
            me: identity.host.clone(),
            events,
            peers: Peers::default(),
            settled: Notify::new(),
            closing: AtomicBool::new(false),
            enroller,
            doors: Doors::new(),
            rates: Rates::new(),
            book: Book::default(),
            runtime: Handle::current(),
            ca: identity.ca.clone(),
            dir: identity.dir.clone(),
            revoked,
            saving: tokio::sync::Mutex::new(()),
            listener: Mutex::new(None),
            streams: Streams::new(),
            credentials: RwLock::new(credentials),
            transport,
            refusals: Throttle::new(10, Duration::from_secs(10)),
            limits,
        });
        inner.runtime.spawn(incoming::accept(inner.clone()));
        Ok((Self { inner, _open: Arc::new(CloseOnDrop(endpoint)) }, receiver))
    }

    /// Where this host listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.endpoint.local_addr()
    }

    /// Sends a message to a host, which is called at `addr` unless there is a connection with it.
    /// What becomes of it is only heard of if it is not delivered, as [`NetEvent::Undelivered`].
    /// Messages to one host usually arrive in order.
    ///
    /// # Errors
    /// When it is too long, too many are on their way, or this side is closing. It was not sent
    /// and no event follows.
    pub fn send(&self, to: &HostId, addr: SocketAddr, bytes: Vec<u8>) -> Result<(), Undelivered> {
        self.inner.send(to, addr, bytes.into())
    }

    /// Sends a datagram to a host, or drops it: when it is too long, the queue is full, or the host
    /// cannot be reached at `addr`.
    pub fn send_datagram(&self, to: &HostId, addr: SocketAddr, bytes: impl Into<Bytes>) {
        self.inner.send_datagram(to, addr, bytes.into());
    }

    /// Calls an address and says which host of this cluster answers. The connection is kept for
    /// what is sent to it next.
    ///
    /// # Errors
    /// When nobody answers within [`Limits::handshake`], or somebody whom we do not believe.
    pub async fn identify(&self, addr: SocketAddr) -> Result<HostId, DialError> {
        let (host, connection) = self.inner.dial(addr, None).await?;
        self.inner.adopt(&host, connection);
        Ok(host)
    }

    /// Shows another certificate from now on, without a restart. Connections that stand are kept.
    ///
    /// # Errors
    /// When it does not work, or names another host. The one before then stays in use.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), NetError> {
        let failed = |why| NetError::Tls { host: identity.host.clone(), why };
        if identity.host != self.inner.me {
            return Err(failed(format!("this agent runs as host `{}`", self.inner.me)));
        }
        let credentials = credentials(identity, &self.inner.revoked)?;
        let server = server_config(&credentials, &self.inner.transport).map_err(failed)?;
        *self.inner.credentials.write().unwrap_or_else(PoisonError::into_inner) = credentials;
        self.inner.endpoint.set_server_config(Some(server));
        Ok(())
    }

    /// How many connections with hosts stand, whoever called.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.peers.links()
    }

    /// Takes no more messages, gives those under way `limit` to arrive, and says goodbye.
    pub async fn close(&self, limit: Duration) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Release);
        let _ = tokio::time::timeout(limit, inner.until_settled()).await;
        inner.endpoint.close(code::BYE, b"the agent is going");
        let _ = tokio::time::timeout(limit, inner.endpoint.wait_idle()).await;
    }
}

impl Inner {
    /// Calls an address. With a host given, anybody else there is refused.
    pub(crate) async fn dial(
        &self,
        addr: SocketAddr,
        expected: Option<&HostId>,
    ) -> Result<(HostId, Connection), DialError> {
        let credentials = self.credentials();
        let limit = self.limits.handshake;
        let call = Call { endpoint: &self.endpoint, transport: &self.transport, addr, limit };
        let (name, connection) = call.dial(&credentials, expected.cloned()).await?;
        match name {
            Name::Host(_, host) if host == self.me => {
                connection.close(code::REFUSED, b"this is your own host id");
                Err(DialError::Refused { addr, why: PeerRefused::OwnName(host) })
            }
            Name::Host(_, host) => Ok((host, connection)),
            other => Err(DialError::Refused { addr, why: PeerRefused::NoHost(other.to_string()) }),
        }
    }

    /// What this host shows and believes now.
    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whom the certificate of an established connection names.
    pub(crate) fn name_of(&self, connection: &Connection) -> Result<Name, PeerRefused> {
        let credentials = self.credentials.read().unwrap_or_else(PoisonError::into_inner);
        name_of(&credentials, connection)
    }

    /// Writes why somebody was refused, unless strangers have filled the log already.
    pub(crate) fn log_refusal(&self, remote: SocketAddr, why: &dyn std::fmt::Display) {
        if let Some(held_back) = self.refusals.pass(Instant::now()) {
            tracing::warn!(%remote, held_back, "refused: {why}");
        }
    }

    /// Until nothing of ours is under way.
    async fn until_settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.peers.are_settled() {
                break;
            }
            settled.await;
        }
        // QUIC tells nobody when a datagram has left; it does within a turn of its task.
        while self.peers.have_datagrams() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// One attempt to reach somebody.
pub(crate) struct Call<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) transport: &'a Arc<TransportConfig>,
    pub(crate) addr: SocketAddr,
    pub(crate) limit: Duration,
}

impl Call<'_> {
    pub(crate) async fn dial(
        &self,
        credentials: &Credentials,
        expected: Option<HostId>,
    ) -> Result<(Name, Connection), DialError> {
        let addr = self.addr;
        let unreachable = |why: String| DialError::Unreachable { addr, why };
        let refusal = Refusal::default();
        let crypto = credentials.client(expected, &refusal).map_err(unreachable)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting = self
            .endpoint
            .connect_with(config, addr, tls::SERVER_NAME)
            .map_err(|e| unreachable(e.to_string()))?;
        let connection = match tokio::time::timeout(self.limit, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => {
                return Err(match refusal.get() {
                    Some(why) => DialError::Refused { addr, why: why.clone() },
                    None => unreachable(plain(&e)),
                });
            }
            Err(_) => return Err(DialError::Silent { addr, limit: self.limit }),
        };
        match name_of(credentials, &connection) {
            Ok(name) => Ok((name, connection)),
            Err(why) => Err(DialError::Refused { addr, why }),
        }
    }
}

fn name_of(credentials: &Credentials, connection: &Connection) -> Result<Name, PeerRefused> {
    let missing = || PeerRefused::Invalid("there is none".to_owned());
    credentials.trust.named(&shown_on(connection).ok_or_else(missing)?)
}

/// The certificate that the other side of a connection has shown.
pub(crate) fn shown_on(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

fn credentials(identity: &Identity, revoked: &Revoked) -> Result<Credentials, NetError> {
    let key = identity.key.clone_key().into();
    Credentials::new(&identity.ca, identity.certificate.clone(), &key, revoked.clone())
        .map_err(|why| NetError::Tls { host: identity.host.clone(), why })
}

fn server_config(
    credentials: &Credentials,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ServerConfig, String> {
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(credentials.server()?));
    config.transport_config(transport.clone());
    // Nobody sends anything before it is known who calls, and few wait to be looked at.
    config.max_incoming(1024).incoming_buffer_size(64 << 10).incoming_buffer_size_total(4 << 20);
    Ok(config)
}

/// An agent that was restarted must be able to tell its peers that the connections of its earlier
/// life are gone, or they would write into the void until they time out. So what QUIC signs such
/// notices with does not change while the host's key does not.
fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, identity.key.secret_pkcs8_der());
    let derive = |purpose: &[u8]| hmac::sign(&secret, purpose);
    let reset = hmac::Key::new(hmac::HMAC_SHA256, derive(b"evenkeel stateless reset").as_ref());
    let ids = derive(b"evenkeel connection ids");
    let key = ids.as_ref().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(key)));
    config
}

/// Why a connection ended, in few words. What a stranger wrote is cut and cleaned.
pub(crate) fn plain(e: &ConnectionError) -> String {
    let said = |reason: &[u8]| {
        let text = String::from_utf8_lossy(reason);
        let text = text.strip_prefix("unexpected error: ").unwrap_or(&text);
        text.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    match e {
        ConnectionError::TransportError(e) if !e.reason.is_empty() => said(e.reason.as_bytes()),
        ConnectionError::ConnectionClosed(e) if !e.reason.is_empty() => {
            format!("the other side refused: {}", said(&e.reason))
        }
        ConnectionError::ApplicationClosed(e) if !e.reason.is_empty() => {
            format!("the other side closed: {}", said(&e.reason))
        }
        other => said(other.to_string().as_bytes()),
    }
}

/// A stream count as QUIC has it.
pub(crate) fn streams(count: u32) -> VarInt {
    VarInt::from_u32(count)
}

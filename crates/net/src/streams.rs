//! Byte streams with other hosts: TCP with the TLS, the certificates and the port number of QUIC.
//!
//! ```text
//!  caller ─ TLS, both certificates ─ request (2 bytes of length, then it) ─▶ callee
//!         ◀──────────────── 0, or 1 and why not (2 bytes of length, then it) ─────
//!         ◀════════════════════════ bytes, both ways ════════════════════════▶
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_core::model::HostId;
use rustix::net::sockopt;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::doors::{Doors, Inside};
use crate::name::Name;
use crate::net::{DialError, Inner, Net, NetError};
use crate::tls::{PeerRefused, Refusal, SERVER_NAME, STREAM_ALPN, Trust};

/// Largest request with which a stream begins, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64;
/// Longest reason why a stream is not taken, in bytes; longer ones are cut.
const REASON_BYTES_MAX: usize = 512;
/// Callers that wait for the driver.
const CALLERS_MAX: usize = 16;
const TAKEN: u8 = 0;
const DECLINED: u8 = 1;
/// A peer that does not answer is given up after about 30 s, as by libvirt's own keepalive.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 4);

/// Why there is no stream with a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It cannot be reached, or whoever answers is not believed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It does not take the stream.
    #[error("host `{host}` does not take the stream: {why}")]
    Declined {
        /// Which.
        host: HostId,
        /// In its words.
        why: String,
    },
}

/// Read in large pieces: a record of TLS has 16 KiB, and the kernel would be asked for each.
type Tcp = BufReader<TcpStream>;
/// What is read from and written to the network at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// What all streams share.
pub(crate) struct Streams {
    /// Who may prove who it is by TCP.
    doors: Doors,
    from: Arc<Mutex<HashMap<HostId, usize>>>,
    /// Changes when a host has been removed from the cluster.
    removals: watch::Sender<()>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self { doors: Doors::new(), from: Arc::default(), removals: watch::Sender::new(()) }
    }

    /// A member was seen at this address.
    pub(crate) fn seen(&self, addr: IpAddr) {
        self.doors.seen(addr, Instant::now());
    }

    /// Has every stream look whether its peer is still of this cluster.
    pub(crate) fn recheck(&self) {
        self.removals.send_replace(());
    }

    fn place(&self, host: &HostId, max: usize) -> Option<Place> {
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let count = from.entry(host.clone()).or_default();
        (*count < max).then(|| {
            *count += 1;
            Place { from: self.from.clone(), host: host.clone() }
        })
    }
}

/// One of the streams that a peer may have open here.
struct Place {
    from: Arc<Mutex<HashMap<HostId, usize>>>,
    host: HostId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = from.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                from.remove(&self.host);
            }
        }
    }
}

/// Bytes to and from a host of this cluster.
pub struct Stream {
    pub(crate) io: TlsStream<Tcp>,
    trust: Arc<Trust>,
    certificate: CertificateDer<'static>,
    removals: watch::Receiver<()>,
    _place: Option<Place>,
}

impl Stream {
    /// What tells when the peer has been removed from the cluster.
    pub(crate) fn removal(&self) -> impl Future<Output = PeerRefused> + Send + use<> {
        let mut removals = self.removals.clone();
        let (trust, certificate) = (self.trust.clone(), self.certificate.clone());
        async move {
            loop {
                if let Err(why) = trust.named(&certificate) {
                    return why;
                }
                if removals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// A host that wants a stream, and what for. Dropped, it hears nothing but the end.
pub struct Caller {
    /// The host that its certificate names.
    pub from: HostId,
    /// What it asks for, in at most [`REQUEST_BYTES_MAX`] bytes.
    pub request: Vec<u8>,
    stream: Stream,
    limit: Duration,
}

impl Caller {
    /// Takes the stream.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn accept(mut self) -> io::Result<Stream> {
        self.answer(&[TAKEN]).await?;
        Ok(self.stream)
    }

    /// Says why not.
    pub async fn decline(mut self, why: &str) {
        let why = &why.as_bytes()[..why.len().min(REASON_BYTES_MAX)];
        let length = (why.len() as u16).to_be_bytes();
        // Whether it arrives is for the other to see.
        let _ = self.answer(&[&[DECLINED], length.as_slice(), why].concat()).await;
        let _ = timeout(self.limit, self.stream.io.shutdown()).await;
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let io = &mut self.stream.io;
        let write = async {
            io.write_all(bytes).await?;
            io.flush().await
        };
        timeout(self.limit, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Net {
    /// Takes callers that want streams, at the address of the UDP port. What they want is for the
    /// driver to judge; as long as the receiver is full, they wait.
    ///
    /// # Errors
    /// When the TCP port is taken.
    pub async fn listen_streams(&self) -> Result<mpsc::Receiver<Caller>, NetError> {
        let addr = self.local_addr().map_err(|source| NetError::BindStreams {
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            source,
        })?;
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| NetError::BindStreams { addr, source })?;
        let (callers, receiver) = mpsc::channel(CALLERS_MAX);
        self.inner.runtime.spawn(accept(self.inner.clone(), listener, callers));
        Ok(receiver)
    }

    /// Opens a stream with a host, which is called at `addr`.
    ///
    /// # Errors
    /// When it cannot be reached within [`Limits::handshake`](crate::Limits::handshake), is not the
    /// one that was called, or does not take the stream.
    ///
    /// # Panics
    /// When the request is longer than [`REQUEST_BYTES_MAX`].
    pub async fn open_stream(
        &self,
        to: &HostId,
        addr: SocketAddr,
        request: &[u8],
    ) -> Result<Stream, StreamError> {
        assert!(request.len() <= REQUEST_BYTES_MAX, "a request of {} bytes", request.len());
        let limit = self.inner.limits.handshake;
        let opening = self.inner.open_stream(to, addr, request);
        match timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(DialError::Silent { addr, limit }.into()),
        }
    }
}

impl Inner {
    async fn open_stream(
        &self,
        to: &HostId,
        addr: SocketAddr,
        request: &[u8],
    ) -> Result<Stream, StreamError> {
        let refusal = Refusal::default();
        let unreachable = |why: String| match refusal.get() {
            Some(why) => DialError::Refused { addr, why: why.clone() },
            None => DialError::Unreachable { addr, why },
        };
        let credentials = self.credentials();
        let config = credentials.calling_for_stream(to, &refusal).map_err(unreachable)?;
        let failed = |e: io::Error| unreachable(e.to_string());
        let tcp = TcpStream::connect(addr).await.map_err(failed)?;
        let tcp = tuned(tcp).map_err(failed)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|e| unreachable(e.to_string()))?;
        let io = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(failed)?;
        let (host, mut stream) = self
            .stream(TlsStream::from(io), credentials.trust.clone())
            .map_err(|why| DialError::Refused { addr, why })?;
        debug_assert_eq!(host, *to, "the verifier has seen to that");
        let asked = ask(&mut stream.io, request).await.map_err(failed)?;
        asked.map_err(|why| StreamError::Declined { host: to.clone(), why })?;
        Ok(stream)
    }

    /// An encrypted connection as a stream with whom its certificate names.
    fn stream(
        &self,
        mut io: TlsStream<Tcp>,
        trust: Arc<Trust>,
    ) -> Result<(HostId, Stream), PeerRefused> {
        let shown = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = shown.ok_or_else(|| PeerRefused::Invalid("there is none".to_owned()))?;
        let certificate = shown.clone().into_owned();
        match &mut io {
            TlsStream::Client(io) => io.get_mut().1.set_buffer_limit(Some(PIECE_BYTES)),
            TlsStream::Server(io) => io.get_mut().1.set_buffer_limit(Some(PIECE_BYTES)),
        }
        match trust.named(&certificate)? {
            Name::Host(_, host) if host == self.me => Err(PeerRefused::OwnName(host)),
            Name::Host(_, host) => {
                let removals = self.streams.removals.subscribe();
                Ok((host, Stream { io, trust, certificate, removals, _place: None }))
            }
            other => Err(PeerRefused::NoHost(other.to_string())),
        }
    }

    /// Lets a caller prove who it is and say what it wants.
    async fn greet_stream(&self, tcp: TcpStream) -> Result<Caller, String> {
        let tcp = tuned(tcp).map_err(|e| e.to_string())?;
        let credentials = self.credentials();
        let acceptor = TlsAcceptor::from(Arc::new(credentials.called(STREAM_ALPN)?));
        let io = acceptor.accept(tcp).await.map_err(|e| e.to_string())?;
        let (from, mut stream) = self
            .stream(TlsStream::from(io), credentials.trust.clone())
            .map_err(|why| why.to_string())?;
        let place = self.streams.place(&from, self.limits.streams_from_peer_max);
        stream._place = Some(place.ok_or_else(|| format!("host `{from}` has too many streams"))?);
        let request = read_short(&mut stream.io, REQUEST_BYTES_MAX);
        let request = request.await.map_err(|e| format!("host `{from}`: {e}"))?;
        Ok(Caller { from, request, stream, limit: self.limits.handshake })
    }
}

/// Takes callers until nobody listens to them any more.
async fn accept(inner: Arc<Inner>, listener: TcpListener, callers: mpsc::Sender<Caller>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = callers.closed() => return,
        };
        let Ok((tcp, remote)) = accepted else {
            // No descriptor is left, as a rule: it does not help to try again at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        match inner.streams.doors.enter(remote.ip(), &inner.limits, Instant::now()) {
            Ok(inside) => {
                inner.runtime.spawn(greet(inner.clone(), tcp, remote, callers.clone(), inside));
            }
            Err(why) => inner.log_refusal(remote, &why),
        }
    }
}

async fn greet(
    inner: Arc<Inner>,
    tcp: TcpStream,
    remote: SocketAddr,
    callers: mpsc::Sender<Caller>,
    _inside: Inside,
) {
    match timeout(inner.limits.handshake, inner.greet_stream(tcp)).await {
        // While the driver is busy it waits, and counts as one that proves who it is.
        Ok(Ok(caller)) => drop(callers.send(caller).await),
        Ok(Err(why)) => inner.log_refusal(remote, &why),
        Err(_) => inner.log_refusal(remote, &"it did not say in time what it wants"),
    }
}

fn tuned(tcp: TcpStream) -> io::Result<Tcp> {
    let (idle, interval, count) = KEEPALIVE;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&tcp, true)?;
    sockopt::set_tcp_keepidle(&tcp, idle)?;
    sockopt::set_tcp_keepintvl(&tcp, interval)?;
    sockopt::set_tcp_keepcnt(&tcp, count)?;
    // The same for what was sent and is not acknowledged.
    let limit = (idle + interval * count).as_millis() as u32;
    sockopt::set_tcp_user_timeout(&tcp, limit)?;
    Ok(BufReader::with_capacity(PIECE_BYTES, tcp))
}

/// Says what is wanted, and hears whether it is had.
async fn ask(io: &mut TlsStream<Tcp>, request: &[u8]) -> io::Result<Result<(), String>> {
    // Its length has been checked.
    io.write_all(&(request.len() as u16).to_be_bytes()).await?;
    io.write_all(request).await?;
    io.flush().await?;
    match io.read_u8().await? {
        TAKEN => Ok(Ok(())),
        _ => {
            let why = read_short(io, REASON_BYTES_MAX).await?;
            let why = String::from_utf8_lossy(&why);
            Ok(Err(why.chars().filter(|c| !c.is_control()).collect()))
        }
    }
}

async fn read_short(io: &mut TlsStream<Tcp>, max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(io.read_u16().await?);
    if length > max {
        return Err(io::Error::other(format!("{length} bytes where {max} are allowed")));
    }
    let mut bytes = vec![0; length];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

//! What a stream of bytes between two agents costs by each transport: the choice of decision 11.
//!
//! ```sh
//! cargo bench -p evenkeel-net --bench transports       # MIB=2048
//! ```
//!
//! A UNIX socket at each end, as with a machine's memory, over loopback, all in one process. CPU is
//! all that the process takes, with the writing and reading at the ends, which are the same each time.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::unwrap_used, reason = "a bench that fails panics")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use evenkeel_core::model::HostId;
use evenkeel_net::{ClusterCa, Limits, Net};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_buf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::Runtime;

const BUFFER_BYTES: usize = 256 << 10;
/// More than a fast link holds in flight.
const WINDOW_BYTES: u32 = 16 << 20;

fn main() {
    let mib = std::env::var("MIB").map_or(2048, |text| text.parse().unwrap());
    println!("{mib} MiB:\n\n{:<20} {:>8} {:>16}", "", "MiB/s", "CPU, s per GiB");
    measure("TCP, in clear", mib, tcp);
    measure("TCP with TLS 1.3", mib, tls);
    measure("QUIC", mib, quic);
}

/// Sends so much into one socket and reads it from the other, with a transport between them.
fn measure<F>(name: &str, mib: u32, transport: fn(UnixStream, UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let before = cpu_s();
    let seconds = Runtime::new().unwrap().block_on(async {
        let (mut source, near) = UnixStream::pair().unwrap();
        let (far, mut sink) = UnixStream::pair().unwrap();
        tokio::spawn(transport(near, far));
        let began = Instant::now();
        tokio::spawn(async move {
            let page = vec![7; 1 << 20];
            for _ in 0..mib {
                source.write_all(&page).await.unwrap();
            }
        });
        let (mut buffer, mut received) = (vec![0; BUFFER_BYTES], 0);
        while received < (mib as usize) << 20 {
            received += sink.read(&mut buffer).await.unwrap();
        }
        began.elapsed().as_secs_f64()
    });
    let (mib, cpu) = (f64::from(mib), cpu_s() - before);
    println!("{name:<20} {:>8.0} {:>16.2}", mib / seconds, cpu / (mib / 1024.0));
}

async fn pass(from: impl tokio::io::AsyncRead + Unpin, mut to: impl tokio::io::AsyncWrite + Unpin) {
    let mut from = tokio::io::BufReader::with_capacity(BUFFER_BYTES, from);
    copy_buf(&mut from, &mut to).await.unwrap();
    to.shutdown().await.unwrap();
}

async fn tcp(near: UnixStream, far: UnixStream) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let calling = TcpStream::connect(listener.local_addr().unwrap());
    let (here, there) = tokio::join!(calling, listener.accept());
    tokio::spawn(pass(near, here.unwrap()));
    pass(there.unwrap().0, far).await;
}

/// As agents carry machines.
async fn tls(near: UnixStream, far: UnixStream) {
    let dir = std::env::temp_dir().join(format!("evenkeel-transports-{}", std::process::id()));
    let ca = ClusterCa::init(&dir).unwrap();
    let host = |name| {
        let id = HostId::new(name).unwrap();
        let (net, _) =
            Net::bind(loopback(), &ca.issue(&id).unwrap(), Limits::default(), None).unwrap();
        (id, net)
    };
    let ((_, a), (to, b)) = (host("a"), host("b"));
    std::fs::remove_dir_all(&dir).unwrap();
    let mut callers = b.listen_streams().await.unwrap();
    let addr = b.local_addr().unwrap();
    let taking = async { callers.recv().await.unwrap().accept().await };
    let (here, there) = tokio::join!(a.open_stream(&to, addr, b""), taking);
    tokio::spawn(here.unwrap().join(near, None));
    there.unwrap().join(far, None).await.unwrap();
}

async fn quic(near: UnixStream, far: UnixStream) {
    let made = rcgen::generate_simple_self_signed(vec!["evenkeel".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls13 = [&rustls::version::TLS13];
    let called = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&tls13)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let calling = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&tls13)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(u64::from(WINDOW_BYTES));
    let transport = Arc::new(transport);
    let crypto = QuicServerConfig::try_from(called).unwrap();
    let mut called = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    called.transport_config(transport.clone());
    let crypto = QuicClientConfig::try_from(calling).unwrap();
    let mut calling = quinn::ClientConfig::new(Arc::new(crypto));
    calling.transport_config(transport);
    let b = quinn::Endpoint::server(called, loopback()).unwrap();
    let a = quinn::Endpoint::client(loopback()).unwrap();
    let connecting = a.connect_with(calling, b.local_addr().unwrap(), "evenkeel").unwrap();
    let taking = async { b.accept().await.unwrap().await };
    let (here, there) = tokio::join!(connecting, taking);
    let (here, there) = (here.unwrap(), there.unwrap());
    let send = here.open_uni().await.unwrap();
    tokio::spawn(pass(near, send));
    pass(there.accept_uni().await.unwrap(), far).await;
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Processor time of this process so far, of user and system.
fn cpu_s() -> f64 {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |n: usize| fields.split_whitespace().nth(n).unwrap().parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_S
}

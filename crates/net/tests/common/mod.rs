//! Agents on loopback, and directories that clean up after themselves.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod founder;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use evenkeel_core::model::HostId;
use evenkeel_net::{ClusterCa, Identity, Limits, Net, NetEvent};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::mpsc::Receiver;

pub fn host(name: &str) -> HostId {
    HostId::new(name).expect("letters and digits")
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A directory that is removed at the end.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("evenkeel-net-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The authority of a new cluster.
pub fn cluster() -> ClusterCa {
    ClusterCa::init(Dir::new().path()).expect("a new cluster")
}

/// Limits under which waiting for nothing does not take long.
pub fn limits() -> Limits {
    Limits {
        handshake: Duration::from_secs(2),
        delivery: Duration::from_secs(3),
        idle: Duration::from_secs(20),
        ..Limits::default()
    }
}

/// A host that listens on loopback.
pub struct Agent {
    pub id: HostId,
    pub net: Net,
    pub addr: SocketAddr,
    pub events: Receiver<NetEvent>,
}

impl Agent {
    pub fn start(identity: &Identity) -> Self {
        Self::at(loopback(), identity, limits())
    }

    pub fn at(addr: SocketAddr, identity: &Identity, limits: Limits) -> Self {
        let (net, events) = Net::bind(addr, identity, limits, None).expect("a free port");
        let addr = net.local_addr().expect("an address");
        Self { id: identity.host().clone(), net, addr, events }
    }

    pub fn send(&self, to: &Self, bytes: &[u8]) {
        self.net.send(&to.id, to.addr, bytes.to_vec()).expect("room in the queue");
    }

    /// The next event that is not about certificates.
    pub async fn next(&mut self) -> NetEvent {
        loop {
            match self.next_of_all().await {
                NetEvent::Met { .. } | NetEvent::Revoked => {}
                event => return event,
            }
        }
    }

    pub async fn next_of_all(&mut self) -> NetEvent {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv())
            .await
            .expect("an event within ten seconds")
            .expect("the network runs")
    }

    /// Until this host has met another one.
    pub async fn meets(&mut self, other: &HostId) -> Vec<u8> {
        loop {
            if let NetEvent::Met { host, certificate } = self.next_of_all().await
                && host == *other
            {
                return certificate;
            }
        }
    }

    /// The next message, and from whom.
    pub async fn message(&mut self) -> (HostId, Vec<u8>) {
        match self.next().await {
            NetEvent::Message { from, bytes } => (from, bytes),
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// The next event must be that a message did not arrive; why.
    pub async fn undelivered(&mut self) -> (HostId, String) {
        match self.next().await {
            NetEvent::Undelivered { to, why } => (to, why.to_string()),
            other => panic!("{other:?} instead of a failure"),
        }
    }

    /// Nothing has come, and nothing that was sent to this agent before `other` sent a message has.
    pub async fn nothing_but_from(&mut self, other: &Self) {
        other.send(self, b"the end");
        let (from, bytes) = self.message().await;
        assert_eq!((from, &bytes[..]), (other.id.clone(), &b"the end"[..]));
    }
}

/// Two hosts of one cluster.
pub fn pair() -> (Agent, Agent) {
    let ca = cluster();
    let agent = |name| Agent::start(&ca.issue(&host(name)).expect("a certificate"));
    (agent("a"), agent("b"))
}

/// Believes everybody, as an attacker may.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Calls an agent as an attacker would: with QUIC and TLS alone, showing what is given.
pub async fn call(
    addr: SocketAddr,
    alpn: &[u8],
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<quinn::Connection, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| text(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut tls = match shown {
        Some((certificate, key)) => {
            builder.with_client_auth_cert(vec![certificate], key).map_err(|e| text(&e))?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(|e| text(&e))?;
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let endpoint = quinn::Endpoint::client(loopback()).map_err(|e| text(&e))?;
    endpoint
        .connect_with(config, addr, "evenkeel")
        .map_err(|e| text(&e))?
        .await
        .map_err(|e| text(&e))
}

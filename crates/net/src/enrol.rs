//! How a host gets its certificate.
//!
//! ```text
//! new host, with a join token                    an agent that holds the authority's key
//!   connects with the enrolment certificate  ──▶   verified like any other, may open one stream
//!   host id wished for, signing request      ──▶   Registrar::admit: on disk before anything is sent
//!                                            ◀──   certificate, or why not
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evenkeel_core::model::HostId;
use minicbor::{Decode, Encode};
use quinn::{Connection, Endpoint};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::time::timeout;

use crate::ca::{CLOCK_SLACK, generate_key};
use crate::enroller::AdmissionRefused;
use crate::files::{self, PkiError};
use crate::identity::{HOST_CERTIFICATE_FILE, HOST_KEY_FILE, Identity};
use crate::limits::Limits;
use crate::name::TokenId;
use crate::net::{Call, DialError, Inner, NetEvent, code, plain, streams};
use crate::revocations::Revoked;
use crate::tls::Credentials;
use crate::token::JoinToken;

/// Whom the token named, beside the certificate.
pub const SEEDS_FILE: &str = "seeds";

/// Largest request and answer in bytes.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Why a host could not join. It has no certificate; its key, once made, is kept for the next try.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is too old.
    #[error(
        "join token `{token}` has expired, {late} ago by this host's clock: make another with \
         `evenkeel cluster join-token`, or set the clock if it is wrong (`timedatectl set-ntp true`)"
    )]
    Expired {
        /// Which.
        token: TokenId,
        /// How long ago, in words.
        late: String,
    },
    /// The token is from the future.
    #[error(
        "join token `{token}` was made {early} from now by this host's clock, which is behind: set it \
         (`timedatectl set-ntp true`), and join again with the same token"
    )]
    TooEarly {
        /// Which.
        token: TokenId,
        /// How far ahead, in words.
        early: String,
    },
    /// An agent was asked, and what it answered did not arrive. It may have let the host in: the key is
    /// kept, and the same token works again.
    #[error(
        "the agent at {addr} was asked to let host `{host}` in, and its answer was lost ({why}): \
         join again with the same token, which brings in the key that is kept for it"
    )]
    Lost {
        /// Who was asked.
        addr: SocketAddr,
        /// For whom.
        host: HostId,
        /// How the answer was lost.
        why: String,
    },
    /// No agent could be asked. The last failure.
    #[error("none of the agents in the join token could be asked: {0}")]
    Unreachable(String),
    /// An agent said no.
    #[error("the agent at {addr} does not let host `{host}` in: {why}")]
    Refused {
        /// Who said it.
        addr: SocketAddr,
        /// For whom.
        host: HostId,
        /// Its words.
        why: String,
    },
    /// What it gave is no certificate for this host.
    #[error("the certificate that the agent at {addr} gave {why}")]
    Unusable {
        /// Who gave it.
        addr: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// Keys and certificates on this host.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct Request {
    #[n(0)]
    host: HostId,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) signing_request: Vec<u8>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
pub(crate) struct Answer {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(crate) certificate: Option<Vec<u8>>,
    #[n(1)]
    pub(crate) refusal: Option<String>,
}

impl Answer {
    pub(crate) fn new(result: Result<CertificateDer<'_>, String>) -> Self {
        match result {
            Ok(certificate) => Self { certificate: Some(certificate.to_vec()), refusal: None },
            Err(why) => Self { certificate: None, refusal: Some(why) },
        }
    }
}

pub(crate) fn encode(value: &impl Encode<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A vector takes everything, and no field of ours fails to encode.
    let encoded = minicbor::encode(value, &mut bytes);
    debug_assert!(encoded.is_ok());
    bytes
}

/// What proves that whoever asks for a certificate has the key.
pub(crate) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, String> {
    let request = CertificateParams::default()
        .serialize_request(key)
        .map_err(|e| format!("cannot make a signing request: {e}"))?;
    Ok(request.der().to_vec())
}

/// Serves somebody who holds a join token: one request, one answer.
pub(crate) async fn serve(inner: &Arc<Inner>, link: &Connection, token: TokenId) {
    let remote = link.remote_address();
    match timeout(inner.limits.handshake, answer(inner, link, token.clone())).await {
        Ok(Ok(host)) => {
            tracing::info!(%host, %remote, %token, "a host has joined the cluster");
            let _ = inner.events.send(NetEvent::Enrolled { host, remote }).await;
        }
        Ok(Err(why)) => inner.log_refusal(remote, &why),
        Err(_) => inner.log_refusal(remote, &"its request to join took too long"),
    }
    link.close(code::BYE, b"done");
}

async fn answer(inner: &Arc<Inner>, link: &Connection, token: TokenId) -> Result<HostId, String> {
    link.set_max_concurrent_bi_streams(streams(1));
    let (mut send, mut recv) = link.accept_bi().await.map_err(|e| plain(&e))?;
    let bytes = recv.read_to_end(FRAME_BYTES_MAX).await.map_err(|e| e.to_string())?;
    let result = decide(inner, token, &bytes).await;
    let (result, answer) = match result {
        Ok((host, certificate)) => (Ok(host), Answer::new(Ok(certificate))),
        Err(why) => (Err(why.clone()), Answer::new(Err(why))),
    };
    // It is admitted, whether or not the answer arrives: it may ask again.
    let sent = send.write_all(&encode(&answer)).await;
    if sent.is_ok() && send.finish().is_ok() {
        let _ = send.stopped().await;
    }
    result
}

async fn decide(
    inner: &Arc<Inner>,
    token: TokenId,
    bytes: &[u8],
) -> Result<(HostId, CertificateDer<'static>), String> {
    let request: Request =
        minicbor::decode(bytes).map_err(|e| format!("the request to join is malformed: {e}"))?;
    let Some(enroller) = inner.enroller.clone() else {
        return Err(format!(
            "host `{}` does not hold the key of the cluster's authority: ask the one where \
             `evenkeel cluster init` ran",
            inner.me
        ));
    };
    let host = request.host.clone();
    if host == inner.me {
        return Err(AdmissionRefused::HostTaken(host).to_string());
    }
    // The registrar writes to disk.
    let revoked = inner.revoked.clone();
    let admit = move || enroller.admit(token, &request.host, &request.signing_request, &revoked);
    let certificate = tokio::task::spawn_blocking(admit)
        .await
        .map_err(|e| format!("the agent failed: {e}"))??;
    Ok((host, certificate))
}

/// Joins the cluster of a token as `host`: makes a key, asks for a certificate, and writes both
/// into `dir`.
///
/// # Errors
/// When the token is too old or used, the id is taken, nobody can be asked, or there is an identity
/// in `dir` already.
pub async fn enrol(
    token: &JoinToken,
    host: &HostId,
    dir: &Path,
    limits: &Limits,
) -> Result<Identity, EnrolError> {
    let certificate = dir.join(HOST_CERTIFICATE_FILE);
    if certificate.exists() {
        let remedy = "this host has joined a cluster; use another directory, or move it away";
        return Err(PkiError::Exists { path: certificate, remedy }.into());
    }
    token.is_timely(SystemTime::now())?;
    let key = kept_key(dir)?;
    let asked = Asked { token, host, key: &key, limits };
    let mut failure = "it names none".to_owned();
    for addr in &token.seeds {
        match asked.ask(*addr).await {
            Ok(identity) => {
                identity.save_certificates(dir)?;
                keep_seeds(dir, &token.seeds)?;
                return Ok(Identity { dir: Some(dir.to_owned()), ..identity });
            }
            Err(EnrolError::Unreachable(why)) => failure = why,
            Err(other) => return Err(other),
        }
    }
    Err(EnrolError::Unreachable(failure))
}

/// Keeps whom the token named, for an agent that is started before it has met anybody.
fn keep_seeds(dir: &Path, seeds: &[SocketAddr]) -> Result<(), PkiError> {
    let lines: String = seeds.iter().map(|addr| format!("{addr}\n")).collect();
    files::replace(&dir.join(SEEDS_FILE), &lines, 0o644)
}

/// The agents that the token named by which this host has joined; none if it has made the cluster.
#[must_use]
pub fn kept_seeds(dir: &Path) -> Vec<SocketAddr> {
    let kept = std::fs::read_to_string(dir.join(SEEDS_FILE)).unwrap_or_default();
    kept.lines().filter_map(|line| line.parse().ok()).collect()
}

/// A span as people say it, roughly.
fn roughly(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    match (minutes / 1440, minutes / 60) {
        (0, 0) => format!("{minutes} min"),
        (0, hours) => format!("{hours} h"),
        (days, _) => format!("{days} d"),
    }
}

impl JoinToken {
    /// Whether the token can be used at this time, by this host's clock.
    ///
    /// # Errors
    /// That it has expired, or that the clock is behind the time at which it was made.
    pub fn is_timely(&self, now: SystemTime) -> Result<(), EnrolError> {
        let token = self.id.clone();
        if let Ok(late) = now.duration_since(self.expires) {
            return Err(EnrolError::Expired { token, late: roughly(late) });
        }
        match self.begins.duration_since(now) {
            Ok(early) if !early.is_zero() => {
                let early = roughly(early + CLOCK_SLACK);
                Err(EnrolError::TooEarly { token, early })
            }
            _ => Ok(()),
        }
    }
}

/// The key of an earlier try, or a new one, which is on disk before it is used.
fn kept_key(dir: &Path) -> Result<KeyPair, PkiError> {
    const REMEDY: &str = "remove it to make a new one";
    let path = dir.join(HOST_KEY_FILE);
    if path.exists() {
        let key = files::read_key(&path, REMEDY)?;
        return KeyPair::try_from(&key)
            .map_err(|e| files::content(&path, format!("cannot be used ({e}): {REMEDY}")));
    }
    let key = generate_key()?;
    files::make_dir(dir)?;
    files::write_new(&path, &key.serialize_pem(), 0o600, REMEDY)?;
    Ok(key)
}

struct Asked<'a> {
    token: &'a JoinToken,
    host: &'a HostId,
    key: &'a KeyPair,
    limits: &'a Limits,
}

impl Asked<'_> {
    async fn ask(&self, addr: SocketAddr) -> Result<Identity, EnrolError> {
        let unreachable = |why: String| EnrolError::Unreachable(format!("{addr}: {why}"));
        let any: SocketAddr = match addr {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(any).map_err(|e| unreachable(e.to_string()))?;
        let limit = self.limits.handshake;
        let call = Call { endpoint: &endpoint, transport: &self.limits.transport(), addr, limit };
        let token = self.token;
        let credentials = Credentials::new(
            &token.ca,
            token.certificate.clone(),
            &token.key.clone_key().into(),
            Revoked::default(),
        )
        .map_err(unreachable)?;
        let (_, link) = call
            .dial(&credentials, None)
            .await
            .map_err(|e: DialError| unreachable(e.to_string()))?;
        let answer = timeout(limit, self.exchange(&link)).await;
        link.close(code::BYE, b"done");
        let lost = |why: String| EnrolError::Lost { addr, host: self.host.clone(), why };
        let answer =
            answer.map_err(|_| lost(format!("none came within {limit:?}")))?.map_err(lost)?;
        let _ = timeout(limit, endpoint.wait_idle()).await;
        self.check(addr, answer)
    }

    async fn exchange(&self, link: &Connection) -> Result<Answer, String> {
        let signing_request = signing_request(self.key)?;
        let request = Request { host: self.host.clone(), signing_request };
        let (mut send, mut recv) = link.open_bi().await.map_err(|e| plain(&e))?;
        send.write_all(&encode(&request)).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        let bytes = recv.read_to_end(FRAME_BYTES_MAX).await.map_err(|e| e.to_string())?;
        minicbor::decode(&bytes).map_err(|e| format!("its answer is malformed: {e}"))
    }

    fn check(&self, addr: SocketAddr, answer: Answer) -> Result<Identity, EnrolError> {
        let Some(certificate) = answer.certificate else {
            let why = answer.refusal.unwrap_or_else(|| "it gives no reason".to_owned());
            return Err(EnrolError::Refused { addr, host: self.host.clone(), why });
        };
        let unusable = |why: String| EnrolError::Unusable { addr, why };
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        let identity =
            Identity::checked(self.token.ca.clone(), CertificateDer::from(certificate), key)
                .map_err(unusable)?;
        if identity.host != *self.host {
            return Err(unusable(format!("names host `{}`", identity.host)));
        }
        Ok(identity)
    }
}

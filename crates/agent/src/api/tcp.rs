//! The API over TCP, for operators and tools on other machines: with TLS only, and only for whoever
//! knows the token. Off unless configured.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::forward::{REQUEST_BYTES_MAX, TIME_MAX, answer};
use crate::config::TcpConfig;
use crate::error::TcpError;
use crate::request::Problem;

/// Callers at once; more wait to be taken.
const CALLERS_MAX: usize = 32;
/// Of these, from one address; of IPv6, from one network of 64 bits. More are closed.
const CALLERS_FROM_ADDRESS_MAX: usize = 8;
/// How long a caller may take until TLS is spoken.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long no caller is taken after the system has failed to give one.
const PAUSE: Duration = Duration::from_millis(100);
/// A token that is shorter could be guessed.
const TOKEN_BYTES_MIN: usize = 32;

/// A port at which the API is served.
pub(crate) struct Tcp {
    listener: TcpListener,
    tls: TlsAcceptor,
    token: Arc<str>,
}

impl Tcp {
    /// Reads the certificate, key and token, and listens.
    pub(crate) async fn open(config: &TcpConfig) -> Result<Self, TcpError> {
        let token = token(&config.token_file)?;
        let tls = TlsAcceptor::from(Arc::new(tls(config)?));
        let addr = config.listen;
        let listener = TcpListener::bind(addr).await;
        let listener = listener.map_err(|source| TcpError::Listen { addr, source })?;
        Ok(Self { listener, tls, token })
    }

    /// Serves whoever calls, as if the call came from this host itself.
    pub(crate) async fn serve(self, router: Router) {
        let service = router
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .layer(from_fn_with_state(self.token, check));
        let room = Arc::new(Semaphore::new(CALLERS_MAX));
        let callers = Callers::default();
        loop {
            let Ok(seat) = room.clone().acquire_owned().await else { return };
            let (stream, from) = match self.listener.accept().await {
                Ok(caller) => caller,
                Err(error) => {
                    tracing::warn!(%error, "no caller of the API can be taken");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(place) = callers.admit(from.ip()) else {
                tracing::debug!(%from, "a caller of the API has its connections already");
                continue;
            };
            let (tls, service) = (self.tls.clone(), service.clone());
            tokio::spawn(async move {
                if let Err(why) = converse(stream, &tls, service).await {
                    tracing::debug!(%from, why, "a caller of the API is gone");
                }
                drop((place, seat));
            });
        }
    }
}

/// How many callers there are from where.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

impl Callers {
    /// A place for a caller, if its address has one left.
    fn admit(&self, addr: IpAddr) -> Option<Place> {
        let from = match addr {
            IpAddr::V4(_) => addr,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => v4.into(),
                None => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            },
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(from).or_default();
        if *count >= CALLERS_FROM_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { callers: self.clone(), from })
    }
}

/// A caller's place among those from its address, until it is dropped.
struct Place {
    callers: Callers,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.from);
            }
        }
    }
}

async fn converse(stream: TcpStream, tls: &TlsAcceptor, service: Router) -> Result<(), String> {
    let shaken = timeout(HANDSHAKE, tls.accept(stream)).await;
    let stream = shaken.map_err(|_| "no TLS in time")?.map_err(|e| e.to_string())?;
    let answered = timeout(TIME_MAX, answer(stream, service)).await;
    answered.map_err(|_| "it took too long")?.map_err(|e| e.to_string())
}

/// Lets a request pass that shows the token.
async fn check(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION);
    let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|shown| is_same(shown, token.as_bytes())) {
        return next.run(request).await;
    }
    let error = "show this host's token: `Authorization: Bearer TOKEN`".to_owned();
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, Json(Problem { error })).into_response()
}

/// Compares without telling by the time taken how much is right.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn token(path: &Path) -> Result<Arc<str>, TcpError> {
    let failed = |why: String| TcpError::File { path: path.to_owned(), why };
    secret(path)?;
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let token = text.trim();
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    if token.len() < TOKEN_BYTES_MIN || !is_plain {
        let remedy = format!("openssl rand -hex 32 > {}", path.display());
        return Err(failed(format!(
            "a token is one line of {TOKEN_BYTES_MIN} and more visible ASCII characters: make one \
             with `{remedy}`"
        )));
    }
    Ok(token.into())
}

/// Refuses a secret that others may read.
fn secret(path: &Path) -> Result<(), TcpError> {
    let failed = |why: String| TcpError::File { path: path.to_owned(), why };
    let mode = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let (mode, path) = (mode & 0o777, path.display());
        return Err(failed(format!(
            "others can read or change it (mode {mode:04o}): run `chmod 600 {path}`; if somebody \
             may have read it, make a new one"
        )));
    }
    Ok(())
}

fn tls(config: &TcpConfig) -> Result<ServerConfig, TcpError> {
    let failed = |path: &Path, why: String| TcpError::File { path: path.to_owned(), why };
    secret(&config.key)?;
    let (certificate, key) = (&config.certificate, &config.key);
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|e| failed(certificate, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| failed(key, e.to_string()))?;
    let unusable = |e: rustls::Error| {
        let (certificate, why) = (certificate.clone(), e.to_string());
        TcpError::Tls { certificate, why }
    };
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)
}

#[cfg(test)]
mod tests;

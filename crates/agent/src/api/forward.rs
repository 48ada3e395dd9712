//! Requests between agents: what is asked here of another host is asked there, over the mutually
//! authenticated link, as HTTP on a [call](evenkeel_net::Call).
//!
//! One request is spoken on a call. It is passed on once, never from host to host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Extension, Path as UrlPath, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use evenkeel_core::model::HostId;
use evenkeel_net::{Call, CallStream, Net, StreamError};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tower::ServiceExt;

use super::access::{Caller, Member};
use super::ask::{self, Driver, Failed, problem};
use super::insight::NEXT;
use crate::carrier::REACH;
use crate::config::Members;
use crate::error::with_causes;
use crate::request;

/// How long a request may take, from the first byte to the last of its answer. Less than a client
/// waits, who is then told which host did not answer.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(30);
/// Largest request that is passed on or taken from another host, in bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Requests of this host that may be under way at others, and of others here.
const REQUESTS_MAX: usize = 32;
/// Requests of one other host that may be under way here; more wait, as long as a request may take.
const REQUESTS_OF_PEER_MAX: usize = 4;

/// Passes on what is asked of other hosts.
#[derive(Clone)]
pub(crate) struct Forward {
    here: HostId,
    net: Net,
    driver: Driver,
    local: Router,
    room: Arc<Semaphore>,
}

impl Forward {
    /// For a host whose own API is `local`.
    pub(crate) fn new(here: HostId, net: Net, driver: Driver, local: Router) -> Self {
        Self { here, net, driver, local, room: Arc::new(Semaphore::new(REQUESTS_MAX)) }
    }

    /// The routes that name a host.
    pub(crate) fn routes(self) -> Router {
        Router::new().route("/api/v1/hosts/{host}/{*what}", routing::any(forward)).with_state(self)
    }

    /// What the agent of another host answers to this, or that of this host itself.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        host: &HostId,
        path: &'static str,
    ) -> Result<T, Failed> {
        let body = self.fetch(host, Uri::from_static(path)).await?;
        serde_json::from_slice(&body)
            .map_err(|error| problem(StatusCode::BAD_GATEWAY, error.to_string()))
    }

    /// The same, not read yet.
    pub(crate) async fn fetch(&self, host: &HostId, uri: Uri) -> Result<Bytes, Failed> {
        let broken = |why: String| problem(StatusCode::BAD_GATEWAY, why);
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri;
        let response = if *host == self.here {
            self.local.clone().oneshot(request).await.into_response()
        } else {
            self.ask(host, request).await?
        };
        let status = response.status();
        let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
        let body = body.map_err(|error| broken(error.to_string()))?;
        if !status.is_success() {
            let why = format!("host `{host}`: {}", String::from_utf8_lossy(&body));
            return Err(problem(status, why));
        }
        Ok(body)
    }

    /// Why no machine could be carried to a host, if so: by the TCP connection that one goes by, up to
    /// where the other agent says that it expects none.
    pub(crate) async fn fails_to_carry(&self, host: &HostId) -> Result<Option<String>, Failed> {
        let address = |reply| request::Request::Address(host.clone(), reply);
        let addr = ask::ask(&self.driver, StatusCode::NOT_FOUND, address).await?;
        Ok(match self.net.open_stream(host, addr, REACH).await {
            Ok(_) | Err(StreamError::Declined { .. }) => None,
            Err(StreamError::Dial(why)) => {
                let port = addr.port();
                Some(format!("machines go by TCP to port {port}, which does not answer: {why}"))
            }
        })
    }

    async fn ask(&self, host: &HostId, request: Request) -> Result<Response, Failed> {
        let _room = self.room.try_acquire().map_err(|_| {
            let why = format!("{REQUESTS_MAX} requests to other hosts are under way: try again");
            problem(StatusCode::SERVICE_UNAVAILABLE, why)
        })?;
        let address = |reply| request::Request::Address(host.clone(), reply);
        let addr = ask::ask(&self.driver, StatusCode::NOT_FOUND, address).await?;
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|_| {
            let why = format!("a request to host `{host}` may have {REQUEST_BYTES_MAX} bytes");
            problem(StatusCode::PAYLOAD_TOO_LARGE, why)
        })?;
        let request = hyper::Request::builder()
            .method(parts.method)
            .uri(parts.uri)
            .header(header::HOST, "evenkeel")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| problem(StatusCode::BAD_REQUEST, e.to_string()))?;
        let unreachable = |why: String| {
            let why = format!(
                "host `{host}` does not answer for its agent at {addr}: {why}; see that its agent \
                 runs and is of this version, or run the command there"
            );
            problem(StatusCode::BAD_GATEWAY, why)
        };
        let stream = self.net.call(host, addr).await.map_err(|e| unreachable(e.to_string()))?;
        converse(stream, request).await.map_err(unreachable)
    }
}

/// One request and its answer.
async fn converse(
    stream: CallStream,
    request: hyper::Request<Full<Bytes>>,
) -> Result<Response, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| with_causes(&e))?;
    // Ends with the request, whose error says what went wrong.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| with_causes(&e))?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    let mut answer = (parts.status, Body::from(body.to_bytes())).into_response();
    for name in [header::CONTENT_TYPE, NEXT] {
        if let Some(value) = parts.headers.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    Ok(answer)
}

async fn forward(
    State(forward): State<Forward>,
    UrlPath((host, _)): UrlPath<(HostId, String)>,
    mut request: Request,
) -> Response {
    let Some(uri) = beyond_host(request.uri()) else {
        return problem(StatusCode::NOT_FOUND, "no such request".to_owned()).into_response();
    };
    *request.uri_mut() = uri;
    if host == forward.here {
        // What this route has found in the path is not for the one that answers.
        request.extensions_mut().clear();
        return forward.local.oneshot(request).await.into_response();
    }
    match timeout(TIME_MAX, forward.ask(&host, request)).await {
        Ok(answer) => answer.into_response(),
        Err(_) => {
            let why = format!(
                "host `{host}` has not answered within {TIME_MAX:?}: whether it did what it was \
                 asked is not known; ask again, or on that host"
            );
            problem(StatusCode::GATEWAY_TIMEOUT, why).into_response()
        }
    }
}

/// `/api/v1/hosts/HOST/status?x` as that host knows it: `/api/v1/status?x`.
fn beyond_host(uri: &Uri) -> Option<Uri> {
    let text = uri.path_and_query()?.as_str().strip_prefix("/api/v1/hosts/")?;
    let (_, what) = text.split_once('/')?;
    format!("/api/v1/{what}").parse().ok()
}

/// Answers other hosts until nothing comes any more.
pub(crate) async fn serve(
    here: HostId,
    may: Members,
    router: Router,
    mut calls: mpsc::Receiver<Call>,
) {
    let router = router.layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX));
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    // As many as have asked lately.
    let mut of_peers: BTreeMap<HostId, Arc<Semaphore>> = BTreeMap::new();
    while let Some(Call { from, stream }) = calls.recv().await {
        of_peers.retain(|_, own| own.available_permits() < REQUESTS_OF_PEER_MAX);
        let of_peer = || Arc::new(Semaphore::new(REQUESTS_OF_PEER_MAX));
        let own = of_peers.entry(from.clone()).or_insert_with(of_peer).clone();
        let member = Member { host: from.clone(), here: here.clone(), may };
        let service = router.clone().layer(Extension(Caller::Member(member)));
        let room = room.clone();
        tokio::spawn(async move {
            let answered = timeout(TIME_MAX, async {
                let _own = own.acquire().await;
                let _room = room.acquire().await;
                answer(stream, service).await
            });
            match answered.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(host = %from, %error, "a request broke off"),
                Err(_) => tracing::debug!(host = %from, "a request took too long"),
            }
        });
    }
}

/// Answers one request on a stream.
pub(crate) async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Router,
) -> Result<(), hyper::Error> {
    hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await
}

#[cfg(test)]
mod tests;

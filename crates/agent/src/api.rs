//! The local API: HTTP over a UNIX socket that only the agent's own user can open, and where so
//! configured [over TCP](tcp).
//!
//! `/api/v1/hosts/HOST/…` asks the agent of another host for `/api/v1/…`, as far as that host's
//! configuration [grants](access) it.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /healthz` | `ok` while the driver answers |
//! | `GET /api/v1/status` | [`Status`](crate::Status) |
//! | `GET /api/v1/brief` | [`Brief`](evenkeel_desk::Brief): the host as pictures of the cluster need it |
//! | `GET /`, `GET /api/v1/cluster`, `…/events`, `…/history`, `…/inbox` | the page, and the whole cluster (see [`serve`](evenkeel_desk::serve)) |
//! | `GET /api/v1/decisions`, `GET /api/v1/explain/…` | why things are as they are (see [`insight`]) |
//! | `GET /api/v1/facts` | [`Facts`](evenkeel_doctor::Facts) about this host, for whoever judges it |
//! | `GET /api/v1/migration_uri` | by which URI other hosts' libvirt reaches this one; `null`: agents carry |
//! | `GET /api/v1/reach/HOST` | why this host does not reach that one's libvirt, or `null`; on the host itself |
//! | `GET /metrics` | the same status for Prometheus |
//! | `POST /api/v1/machines/ID/claim` | takes a machine for this host's, whose other host was fenced |
//! | `PUT /api/v1/machines/ID/target` | programs a target load, or with `null` removes it |
//! | `PUT /api/v1/machines/ID/rules` | gives a machine other rules than it has |
//! | `POST /api/v1/machines/ID/move` | moves a machine to the host named, or with `null` to the best |
//! | `GET /api/v1/moves/ID` | [`MoveStatus`](crate::status::MoveStatus) |
//! | `GET /api/v1/recommendations` | what waits for an operator |
//! | `POST /api/v1/recommendations/ID/approve` | judges one anew, and moves the machine if it still helps |
//! | `DELETE /api/v1/recommendations/ID` | drops one |
//! | `PUT /api/v1/pause` | pauses the whole cluster |
//! | `DELETE /api/v1/pause` | ends the pause |
//! | `PUT /api/v1/state` | `"cordoned"`: the host takes nothing; `"active"`: it takes part again |
//! | `POST /api/v1/drain` | empties the host if the rest can hold it; what of it fits |
//! | `POST /api/v1/place` | where a new machine fits best |
//! | `DELETE /api/v1/hosts/ID` | removes a host from the cluster |
//! | `POST /api/v1/leave` | removes the host that asks, of which its certificate is proof |
//! | `DELETE /api/v1/names/ID` | forgets a name, of which no host is alive |
//! | `POST /api/v1/reset/pause`, `…/mean` | forgets what others have said of that |
//! | `POST /api/v1/certificate` | renews this host's certificate; when the new one expires |

mod access;
mod ask;
mod desk;
mod emptying;
mod facts;
mod forward;
mod insight;
mod metrics;
mod operating;
mod tcp;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Extension, Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use evenkeel_core::model::{HostId, MachineId};
use evenkeel_net::Net;
use evenkeel_store::History;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use access::{Caller, Need};
use ask::{Driver, Failed, ask};
use forward::Forward;
pub(crate) use insight::NEXT;
pub(crate) use tcp::Tcp;

use crate::clock::Clock;
use crate::config::{Config, Members};
use crate::error::AgentError;
use crate::request::{Change, Edit, Request, Reset, RulesWish};
use crate::status::Status;

/// Requests that may wait for the driver.
const REQUESTS_MAX: usize = 32;

/// The API's socket in the file system, which goes with the agent: one that nobody serves would
/// only puzzle.
#[derive(Debug)]
pub(crate) struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Who is served besides the users of the socket.
pub(crate) struct Peers {
    pub(crate) here: HostId,
    pub(crate) net: Net,
    pub(crate) may: Members,
    /// Whoever knows the token.
    pub(crate) tcp: Option<Tcp>,
    /// Where decisions are read.
    pub(crate) history: Arc<History>,
    /// The time, as the driver knows it.
    pub(crate) clock: Clock,
}

/// Serves the API on the socket, and other hosts as far as they `may` ask, until the agent ends.
/// Requests arrive at the receiver returned.
///
/// # Errors
/// When the socket cannot be made, or another agent serves it: that one is not disturbed.
pub(crate) fn serve(
    config: &Config,
    peers: Peers,
) -> Result<(Socket, mpsc::Receiver<Request>), AgentError> {
    let path = config.api_socket.as_path();
    let failed = |source| AgentError::Api { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(AgentError::ApiInUse(path.to_owned()));
    }
    let listener = listen(path).map_err(failed)?;
    let socket = Socket(path.to_owned());
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let Peers { here, net, may, tcp, history, clock } = peers;
    let routes = routes().layer(Extension(Arc::new(config.clone()))).layer(Extension(history));
    let routes = routes.with_state(requests.clone());
    let calls = net.calls();
    let local = routes.clone().layer(Extension(Caller::Local));
    let forward = Forward::new(here.clone(), net, requests.clone(), local);
    let desk = desk::routes(here.clone(), clock, requests, forward.clone());
    let ways = Router::new().route("/api/v1/reach/{host}", get(facts::reach));
    let ways = ways
        .route_layer(from_fn_with_state(Need::Own, access::check))
        .layer(Extension(Arc::new(config.clone())));
    let own = routes.merge(ways.with_state(forward.clone()));
    let local = own.clone().layer(Extension(Caller::Local));
    let forward = forward.routes();
    let needs_own = from_fn_with_state(Need::Own, access::check);
    let for_peers = own.merge(forward.clone().route_layer(needs_own));
    let local = local.merge(forward).merge(desk);
    tcp.map(|tcp| tokio::spawn(tcp.serve(local.clone())));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(Guarded(listener), local).await {
            tracing::error!(%error, "the local API ended");
        }
    });
    tokio::spawn(forward::serve(here, may, for_peers, calls));
    Ok((socket, receiver))
}

/// What may be asked, by what that takes of another host.
fn routes() -> Router<Driver> {
    let needs = |need| from_fn_with_state(need, access::check);
    let read = Router::new()
        .route("/healthz", get(healthz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/brief", get(desk::brief))
        .route("/api/v1/facts", get(facts::answer))
        .route("/api/v1/migration_uri", get(facts::migration_uri))
        .route("/api/v1/place", post(emptying::place))
        .merge(insight::routes())
        .route("/metrics", get(metrics))
        .merge(operating::reading())
        .route_layer(needs(Need::Read));
    let operate = Router::new()
        .route("/api/v1/machines/{id}/target", put(set_target))
        .route("/api/v1/machines/{id}/rules", put(set_rules))
        .merge(operating::acting())
        .route("/api/v1/state", put(emptying::set_state))
        .route("/api/v1/drain", post(emptying::drain))
        .route_layer(needs(Need::Operate));
    let own = Router::new()
        .route("/api/v1/hosts/{id}", delete(remove_host))
        .route("/api/v1/names/{id}", delete(forget))
        .route("/api/v1/reset/{what}", post(reset))
        .route("/api/v1/certificate", post(renew_certificate))
        .route("/api/v1/machines/{id}/claim", post(claim))
        .route_layer(needs(Need::Own));
    // Whoever asks, it is about itself.
    let leave = Router::new().route("/api/v1/leave", post(leave));
    read.merge(operate).merge(own).merge(leave)
}

/// Takes connections of the agent's own user, and of root, only: whatever became of the socket's
/// mode, the kernel tells who calls.
struct Guarded(UnixListener);

impl axum::serve::Listener for Guarded {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = axum::serve::Listener::accept(&mut self.0).await;
            let own = rustix::process::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(caller) if caller.uid() == own || caller.uid() == 0 => return (stream, addr),
                Ok(caller) => {
                    tracing::warn!(uid = caller.uid(), "a caller of the local API is refused");
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller of the local API cannot be told, and is refused");
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Listens on the socket, which nobody else can open at any time. One that is there already and
/// that nobody serves is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // No longer than the path itself, which may be as long as one can be.
    let fresh = path.with_file_name(format!(".{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&fresh, path));
    if placed.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    placed.map(|()| listener)
}

async fn healthz(State(driver): State<Driver>) -> Result<&'static str, Failed> {
    ask(&driver, StatusCode::SERVICE_UNAVAILABLE, Request::Status).await.map(|_| "ok")
}

async fn status(State(driver): State<Driver>) -> Result<Json<Status>, Failed> {
    ask(&driver, StatusCode::SERVICE_UNAVAILABLE, Request::Status).await.map(Json)
}

async fn set_target(
    State(driver): State<Driver>,
    UrlPath(machine): UrlPath<MachineId>,
    Json(target): Json<Option<f64>>,
) -> Result<Json<()>, Failed> {
    edit(&driver, machine, Change::Target(target)).await
}

async fn set_rules(
    State(driver): State<Driver>,
    UrlPath(machine): UrlPath<MachineId>,
    Json(wish): Json<RulesWish>,
) -> Result<Json<()>, Failed> {
    edit(&driver, machine, Change::Rules(Box::new(wish))).await
}

async fn edit(driver: &Driver, machine: MachineId, what: Change) -> Result<Json<()>, Failed> {
    let refused = StatusCode::CONFLICT;
    let request = |answer| Request::Edit(Edit { machine, what, tries: 0, answer });
    ask(driver, refused, request).await.map(Json)
}

async fn remove_host(
    State(driver): State<Driver>,
    UrlPath(host): UrlPath<HostId>,
) -> Result<Json<()>, Failed> {
    ask(&driver, StatusCode::CONFLICT, |answer| Request::RemoveHost(host, answer)).await.map(Json)
}

/// Removes the member that asks. On the host itself nobody is the one to leave.
async fn leave(
    State(driver): State<Driver>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<()>, Failed> {
    let Caller::Member(member) = caller else {
        let why = "a host leaves by `evenkeel leave`, which asks another one".to_owned();
        return Err(ask::problem(StatusCode::CONFLICT, why));
    };
    let host = member.host;
    tracing::info!(%host, "asks to leave the cluster");
    ask(&driver, StatusCode::CONFLICT, |answer| Request::RemoveHost(host, answer)).await.map(Json)
}

async fn forget(
    State(driver): State<Driver>,
    UrlPath(host): UrlPath<HostId>,
) -> Result<Json<()>, Failed> {
    ask(&driver, StatusCode::CONFLICT, |answer| Request::Forget(host, answer)).await.map(Json)
}

async fn reset(
    State(driver): State<Driver>,
    UrlPath(what): UrlPath<Reset>,
) -> Result<Json<()>, Failed> {
    ask(&driver, StatusCode::CONFLICT, |answer| Request::Reset(what, answer)).await.map(Json)
}

/// Answers in RFC 3339.
async fn renew_certificate(State(driver): State<Driver>) -> Result<Json<String>, Failed> {
    let expires = ask(&driver, StatusCode::CONFLICT, Request::RenewCertificate).await?;
    Ok(Json(jiff::Timestamp::try_from(expires).unwrap_or_default().to_string()))
}

async fn claim(
    State(driver): State<Driver>,
    UrlPath(machine): UrlPath<MachineId>,
    Json(fenced): Json<HostId>,
) -> Result<Json<()>, Failed> {
    let refused = StatusCode::CONFLICT;
    ask(&driver, refused, |answer| Request::Claim(machine, fenced, answer)).await.map(Json)
}

async fn metrics(State(driver): State<Driver>) -> Result<impl IntoResponse, Failed> {
    let status = ask(&driver, StatusCode::SERVICE_UNAVAILABLE, Request::Status).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&status)))
}

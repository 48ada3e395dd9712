//! The local API: HTTP over a UNIX socket that only the agent's own user can open.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /healthz` | `ok` while the driver answers |
//! | `GET /api/v1/status` | [`Status`](crate::Status) |
//! | `GET /api/v1/decisions?limit=N` | the newest decision records, newest first |
//! | `PUT /api/v1/machines/ID/target` | programs a target load, or with `null` removes it |

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use evenkeel_core::decision::Decision;
use evenkeel_core::model::MachineId;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::AgentError;
use crate::status::Status;

/// Most decision records in one answer.
const DECISIONS_MAX: u32 = 10_000;
/// Requests that may wait for the driver.
const REQUESTS_MAX: usize = 32;

/// What the API asks the driver.
#[derive(Debug)]
pub(crate) enum Request {
    Status(oneshot::Sender<Status>),
    Decisions(u32, oneshot::Sender<Result<Vec<Decision>, String>>),
    SetTarget(MachineId, Option<f64>, oneshot::Sender<Result<(), String>>),
}

/// What is wrong, as the API says it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// In words.
    pub error: String,
}

type Failed = (StatusCode, Json<Problem>);
type Driver = mpsc::Sender<Request>;

/// Serves the API on the socket until the agent ends. Requests arrive at the receiver returned.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(socket: &Path) -> Result<mpsc::Receiver<Request>, AgentError> {
    let failed = |source| AgentError::Api { path: socket.to_owned(), source };
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // The store's lock says that no other agent runs here: a socket that is there is a leftover.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/decisions", get(decisions))
        .route("/api/v1/machines/{id}/target", put(set_target))
        .with_state(requests);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the local API ended");
        }
    });
    Ok(receiver)
}

/// Asks the driver and waits for its answer.
async fn ask<T>(
    driver: &Driver,
    make: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Failed> {
    let gone = || problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    driver.send(make(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

fn problem(status: StatusCode, error: String) -> Failed {
    (status, Json(Problem { error }))
}

async fn healthz(State(driver): State<Driver>) -> Result<&'static str, Failed> {
    ask(&driver, Request::Status).await.map(|_| "ok")
}

async fn status(State(driver): State<Driver>) -> Result<Json<Status>, Failed> {
    ask(&driver, Request::Status).await.map(Json)
}

#[derive(Deserialize)]
struct Newest {
    limit: Option<u32>,
}

async fn decisions(
    State(driver): State<Driver>,
    Query(newest): Query<Newest>,
) -> Result<Json<Vec<Decision>>, Failed> {
    let limit = newest.limit.unwrap_or(50).min(DECISIONS_MAX);
    let decisions = ask(&driver, |answer| Request::Decisions(limit, answer)).await?;
    decisions.map(Json).map_err(|why| problem(StatusCode::INTERNAL_SERVER_ERROR, why))
}

async fn set_target(
    State(driver): State<Driver>,
    UrlPath(machine): UrlPath<MachineId>,
    Json(target): Json<Option<f64>>,
) -> Result<Json<()>, Failed> {
    let done = ask(&driver, |answer| Request::SetTarget(machine, target, answer)).await?;
    done.map(Json).map_err(|why| problem(StatusCode::CONFLICT, why))
}

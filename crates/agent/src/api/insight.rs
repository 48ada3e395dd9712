//! Why things are as they are: decision records and explanations, over the local API.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/v1/decisions?limit=N&since=MS&moves=BOOL&machine=ID&exchange=ID` | decision records, newest first |
//! | `GET /api/v1/explain/machines/NAME` | [`MachineExplained`], of a machine's name or id |
//! | `GET /api/v1/explain/host` | [`HostExplained`] |

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use evenkeel_core::decision::Decision;
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{ExchangeId, MachineId, Time};
use evenkeel_store::Wanted;
use serde::Deserialize;

use super::ask::{Driver, Failed, ask};
use crate::request::{Question, Request};

/// Most decision records in one answer, and how many there are unless it is said.
const DECISIONS: (u32, u32) = (10_000, 50);

/// What may be asked; it changes nothing.
pub(crate) fn routes() -> Router<Driver> {
    Router::new()
        .route("/api/v1/decisions", get(decisions))
        .route("/api/v1/explain/machines/{name}", get(machine))
        .route("/api/v1/explain/host", get(host))
}

#[derive(Deserialize)]
struct Filter {
    limit: Option<u32>,
    /// In milliseconds since 1970.
    since: Option<Time>,
    #[serde(default)]
    moves: bool,
    machine: Option<MachineId>,
    exchange: Option<ExchangeId>,
}

async fn decisions(
    State(driver): State<Driver>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<Decision>>, Failed> {
    let Filter { limit, since, moves, machine, exchange } = filter;
    let limit = limit.unwrap_or(DECISIONS.1).min(DECISIONS.0);
    let wanted = Wanted { limit, since, moves, machine, exchange };
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    let question = |answer| Request::Insight(Question::Decisions(wanted, answer));
    ask(&driver, failed, question).await.map(Json)
}

async fn machine(
    State(driver): State<Driver>,
    Path(name): Path<String>,
) -> Result<Json<MachineExplained>, Failed> {
    let question = |answer| Request::Insight(Question::Machine(name, answer));
    ask(&driver, StatusCode::NOT_FOUND, question).await.map(Json)
}

async fn host(State(driver): State<Driver>) -> Result<Json<HostExplained>, Failed> {
    let question = |answer| Request::Insight(Question::Host(answer));
    ask(&driver, StatusCode::INTERNAL_SERVER_ERROR, question).await.map(Json)
}

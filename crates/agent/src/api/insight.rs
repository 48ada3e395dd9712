//! Why things are as they are: decision records and explanations, over the local API.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api/v1/decisions?limit=N&since=MS&moves=BOOL&machine=ID&exchange=ID&before=N` | decision records, newest first; with a header `evenkeel-next` there are more, and it is the `before` that asks for them |
//! | `GET /api/v1/explain/machines/NAME` | [`MachineExplained`], of a machine's name or id |
//! | `GET /api/v1/explain/host` | [`HostExplained`] |

use std::sync::Arc;

use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{ExchangeId, MachineId, Time};
use evenkeel_store::{History, Wanted};
use serde::Deserialize;

use super::ask::{Driver, Failed, ask, problem};
use crate::request::{Question, Request};

/// The header of an answer that is not all of what was asked for: `before` of the next request.
pub(crate) const NEXT: HeaderName = HeaderName::from_static("evenkeel-next");

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
    /// As an earlier answer said in [`NEXT`].
    before: Option<u64>,
}

/// Read where it holds up nothing but others that read: the driver has nothing to do with it.
async fn decisions(
    Extension(history): Extension<Arc<History>>,
    Query(filter): Query<Filter>,
) -> Result<Response, Failed> {
    let Filter { limit, since, moves, machine, exchange, before } = filter;
    let limit = limit.unwrap_or(DECISIONS.1).min(DECISIONS.0);
    let wanted = Wanted { limit, since, moves, machine, exchange, before };
    let failed = |why: String| problem(StatusCode::INTERNAL_SERVER_ERROR, why);
    let page = tokio::task::spawn_blocking(move || history.page(&wanted)).await;
    let page = page.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    let mut answer = Json(page.decisions).into_response();
    if let Some(next) = page.next {
        answer.headers_mut().insert(NEXT, HeaderValue::from(next));
    }
    Ok(answer)
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

//! What operators say to a host about moving machines, and what it answers: directed moves,
//! recommendations, pauses.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use evenkeel_core::model::{HostId, MachineId, MoveId};

use super::ask::{Driver, Failed, ask};
use crate::request::{Operation, PauseWish, Reply, Request};
use crate::status::{MoveStatus, RecommendationStatus};

/// What only reads.
pub(crate) fn reading() -> Router<Driver> {
    Router::new()
        .route("/api/v1/moves/{id}", get(directed))
        .route("/api/v1/recommendations", get(recommendations))
}

/// What acts.
pub(crate) fn acting() -> Router<Driver> {
    Router::new()
        .route("/api/v1/machines/{id}/move", post(migrate))
        .route("/api/v1/recommendations/{id}/approve", post(approve))
        .route("/api/v1/recommendations/{id}", delete(skip))
        .route("/api/v1/pause", put(pause).delete(resume))
}

async fn operate<T>(
    requests: &Driver,
    otherwise: StatusCode,
    make: impl FnOnce(Reply<T>) -> Operation,
) -> Result<Json<T>, Failed> {
    ask(requests, otherwise, |answer| Request::Operate(make(answer))).await.map(Json)
}

async fn migrate(
    State(requests): State<Driver>,
    Path(machine): Path<MachineId>,
    Json(to): Json<Option<HostId>>,
) -> Result<Json<MoveStatus>, Failed> {
    let refused = StatusCode::CONFLICT;
    operate(&requests, refused, |answer| Operation::Migrate(machine, to, answer)).await
}

async fn directed(
    State(requests): State<Driver>,
    Path(id): Path<MoveId>,
) -> Result<Json<MoveStatus>, Failed> {
    operate(&requests, StatusCode::NOT_FOUND, |answer| Operation::Move(id, answer)).await
}

async fn recommendations(
    State(requests): State<Driver>,
) -> Result<Json<Vec<RecommendationStatus>>, Failed> {
    operate(&requests, StatusCode::SERVICE_UNAVAILABLE, Operation::Recommendations).await
}

async fn approve(
    State(requests): State<Driver>,
    Path(id): Path<MoveId>,
) -> Result<Json<MoveStatus>, Failed> {
    operate(&requests, StatusCode::CONFLICT, |answer| Operation::Approve(id, answer)).await
}

async fn skip(State(requests): State<Driver>, Path(id): Path<MoveId>) -> Result<Json<()>, Failed> {
    operate(&requests, StatusCode::NOT_FOUND, |answer| Operation::Skip(id, answer)).await
}

async fn pause(
    State(requests): State<Driver>,
    Json(wish): Json<PauseWish>,
) -> Result<Json<()>, Failed> {
    let refused = StatusCode::BAD_REQUEST;
    operate(&requests, refused, |answer| Operation::Pause(Some(wish), answer)).await
}

async fn resume(State(requests): State<Driver>) -> Result<Json<()>, Failed> {
    operate(&requests, StatusCode::CONFLICT, |answer| Operation::Pause(None, answer)).await
}

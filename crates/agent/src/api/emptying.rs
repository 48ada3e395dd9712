//! Taking a host out and in again, and asking where a new machine fits.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use evenkeel_core::appraisal::{Fit, Wish};
use evenkeel_core::message::Candidate;
use evenkeel_core::model::{HostState, MachineId, Resources};

use super::ask::{Driver, Failed, ask, problem};
use crate::request::{DrainRequest, PlaceRequest, Placement, Request, Waiter};

/// Says whether the host takes part; that it is to be emptied is said otherwise.
pub(crate) async fn set_state(
    State(driver): State<Driver>,
    Json(state): Json<HostState>,
) -> Result<Json<()>, Failed> {
    if state == HostState::Draining {
        let why = "a host is emptied by `POST /api/v1/drain`, which looks first whether the rest \
                   can hold its machines";
        return Err(problem(StatusCode::CONFLICT, why.to_owned()));
    }
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    ask(&driver, failed, |reply| Request::SetState(state, reply)).await.map(Json)
}

pub(crate) async fn drain(
    State(driver): State<Driver>,
    Json(request): Json<DrainRequest>,
) -> Result<Json<Fit>, Failed> {
    let make = |reply| {
        let wish = Wish::Drain { force: request.force };
        Request::Wish(Box::new(wish), Waiter::Drain(request, reply))
    };
    ask(&driver, StatusCode::CONFLICT, make).await.map(Json)
}

pub(crate) async fn place(
    State(driver): State<Driver>,
    Json(request): Json<PlaceRequest>,
) -> Result<Json<Placement>, Failed> {
    let bad = |why: String| problem(StatusCode::BAD_REQUEST, why);
    let PlaceRequest { memory_bytes, cpu_cores, io_bytes_per_s, rules } = request;
    rules.check().map_err(|e| bad(e.to_string()))?;
    let factors = Resources { cpu_cores, memory_bytes, io_bytes_per_s };
    if !factors.is_plausible() {
        return Err(bad(format!("no machine uses {factors:?}")));
    }
    let candidate = Candidate {
        factors,
        memory_bytes,
        anti_affinity: rules.anti_affinity.clone(),
        rules: Some(rules),
        ..Candidate::new(MachineId::new("new").map_err(|e| bad(e.to_string()))?, "new")
    };
    let make =
        |reply| Request::Wish(Box::new(Wish::Place(Box::new(candidate))), Waiter::Place(reply));
    ask(&driver, StatusCode::SERVICE_UNAVAILABLE, make).await.map(Json)
}

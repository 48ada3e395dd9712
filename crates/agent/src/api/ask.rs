//! How the API asks the driver, and how it says that something is refused.

use axum::Json;
use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use crate::request::{Problem, Reply, Request};

/// A refusal: its status, and why in words.
pub(crate) type Failed = (StatusCode, Json<Problem>);
/// Where the driver is asked.
pub(crate) type Driver = mpsc::Sender<Request>;

/// Asks the driver and waits for its answer; `otherwise` is the status of its refusal.
pub(crate) async fn ask<T>(
    driver: &Driver,
    otherwise: StatusCode,
    make: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Failed> {
    let gone = || problem(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    driver.send(make(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?.map_err(|why| problem(otherwise, why))
}

pub(crate) fn problem(status: StatusCode, error: String) -> Failed {
    (status, Json(Problem { error }))
}

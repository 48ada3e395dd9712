//! What is to be known of this host, for whoever asks over the API.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path as UrlPath, State};
use axum::http::StatusCode;
use evenkeel_core::model::HostId;
use evenkeel_doctor::{AgentFacts, Facts};

use super::ask::{Driver, Failed, ask, problem};
use super::forward::Forward;
use crate::config::{CarrierKind, Config};
use crate::facts::{gather, of_agent, reached};
use crate::looks::Looks;
use crate::request::Request;

/// However many ask, one thread finds out: it may be stuck at a file system that is gone.
static GATHERED: Looks<Facts> = Looks::new();

/// How long all of it may take.
const TIME_MAX: Duration = Duration::from_secs(20);

/// `GET /api/v1/facts`.
pub(crate) async fn answer(
    State(driver): State<Driver>,
    Extension(config): Extension<Arc<Config>>,
) -> Result<Json<Facts>, Failed> {
    let status = ask(&driver, StatusCode::SERVICE_UNAVAILABLE, Request::Status).await;
    let mut facts =
        in_time(move || GATHERED.share("this host", TIME_MAX, move |_| Ok(gather(&config))))
            .await?
            .map_err(|why| problem(StatusCode::GATEWAY_TIMEOUT, why))?;
    facts.agent = Some(match status {
        Ok(status) => of_agent(&status),
        Err((_, Json(refused))) => {
            AgentFacts { unknown: Some(refused.error), ..AgentFacts::default() }
        }
    });
    Ok(Json(facts))
}

/// `GET /api/v1/migration_uri`: by which URI other hosts' libvirt reaches this one; `null` if agents
/// carry machines here.
pub(crate) async fn migration_uri(
    Extension(config): Extension<Arc<Config>>,
) -> Json<Option<String>> {
    let carried = config.carrier() == CarrierKind::Agents;
    Json((!carried).then(|| config.migration_uri()))
}

/// `GET /api/v1/reach/HOST`: why this host does not reach the libvirt of that one, or `null`. That
/// host itself is asked where it is. Not for other hosts: they would have this one open connections.
pub(crate) async fn reach(
    State(forward): State<Forward>,
    Extension(config): Extension<Arc<Config>>,
    UrlPath(host): UrlPath<HostId>,
) -> Result<Json<Option<String>>, Failed> {
    let uri: Option<String> = forward.get(&host, "/api/v1/migration_uri").await?;
    match uri {
        None => forward.fails_to_carry(&host).await.map(Json),
        // What it says is not opened, but what this host makes of it.
        Some(said) => match config.ways().uri(&host, &said) {
            Ok(uri) => in_time(move || reached(&uri)).await.map(Json),
            Err(why) => Ok(Json(Some(why))),
        },
    }
}

/// Does what blocks where that holds nothing up, and waits for it for some time.
async fn in_time<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failed> {
    let done = tokio::time::timeout(TIME_MAX, tokio::task::spawn_blocking(work)).await;
    let late = || {
        let why = format!("libvirt has not answered within {TIME_MAX:?}");
        problem(StatusCode::GATEWAY_TIMEOUT, why)
    };
    done.map_err(|_| late())?.map_err(|_| late())
}

//! What operators look at: this host in [brief](Brief), and a [desk](evenkeel_desk) over the briefs of
//! all hosts, which asks them like `/api/v1/hosts/HOST/…` does.
//!
//! The desk serves whoever asks this host itself: another member could have this host ask all others.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, Uri};
use axum::{Json, Router};
use evenkeel_core::model::{HostId, Time};
use evenkeel_desk::serve::{Me, Role};
use evenkeel_desk::{Ask, Brief, Desk, Listed, Pace, serve};

use super::ask::{Driver, Failed, ask};
use super::forward::Forward;
use crate::clock::Clock;
use crate::config::{Config, Members};
use crate::request::Request;

/// `GET /api/v1/brief`: this host in brief.
pub(crate) async fn brief(
    State(driver): State<Driver>,
    Extension(config): Extension<Arc<Config>>,
) -> Result<Json<Brief>, Failed> {
    let brief = ask(&driver, StatusCode::SERVICE_UNAVAILABLE, Request::Brief).await?;
    Ok(Json(Brief { grants: grants(config.api.members), ..brief }))
}

const fn grants(members: Members) -> evenkeel_desk::brief::Grants {
    use evenkeel_desk::brief::Grants;
    match members {
        Members::None => Grants::None,
        Members::Read => Grants::Read,
        Members::Operate => Grants::Operate,
    }
}

/// The hosts of the cluster, as this one reaches them.
#[derive(Clone)]
struct Reached {
    here: HostId,
    clock: Clock,
    driver: Driver,
    forward: Forward,
}

impl Ask for Reached {
    fn here(&self) -> HostId {
        self.here.clone()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    async fn hosts(&self) -> Result<Vec<Listed>, String> {
        let asked = ask(&self.driver, StatusCode::SERVICE_UNAVAILABLE, Request::Hosts).await;
        asked.map_err(|(_, Json(problem))| problem.error)
    }

    async fn get(&self, host: HostId, path: String) -> Result<Bytes, String> {
        let uri: Uri = path.parse().map_err(|e| format!("`{path}` is no path: {e}"))?;
        let answer = self.forward.fetch(&host, uri).await;
        answer.map_err(|(_, Json(problem))| problem.error)
    }
}

/// The routes of the desk.
pub(crate) fn routes(here: HostId, clock: Clock, driver: Driver, forward: Forward) -> Router {
    let me = Me { name: "whoever is on this host".to_owned(), role: Role::Own, recorded: false };
    let reached = Reached { here, clock, driver, forward };
    serve::routes(Desk::start(reached, Pace::default()), me)
}

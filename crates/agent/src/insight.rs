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
use evenkeel_store::{StoreError, Wanted};
use serde::Deserialize;

use crate::api::{self, Failed, Reply, Request};
use crate::driver::Driver;

/// Most decision records in one answer, and how many there are unless it is said.
const DECISIONS: (u32, u32) = (10_000, 50);

/// A question about why.
#[derive(Debug)]
pub(crate) enum Question {
    Decisions(Wanted, Reply<Vec<Decision>>),
    /// A machine's name or id.
    Machine(String, Reply<MachineExplained>),
    Host(Reply<HostExplained>),
}

impl Question {
    /// Answers with `why` there is no other answer. Whoever asked may have gone away.
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Self::Decisions(_, reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Machine(_, reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Host(reply) => drop(reply.send(Err(why.to_owned()))),
        }
    }
}

/// What may be asked; it changes nothing.
pub(crate) fn routes() -> Router<api::Driver> {
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
    State(driver): State<api::Driver>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<Decision>>, Failed> {
    let Filter { limit, since, moves, machine, exchange } = filter;
    let limit = limit.unwrap_or(DECISIONS.1).min(DECISIONS.0);
    let wanted = Wanted { limit, since, moves, machine, exchange };
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    let question = |answer| Request::Insight(Question::Decisions(wanted, answer));
    api::ask(&driver, failed, question).await.map(Json)
}

async fn machine(
    State(driver): State<api::Driver>,
    Path(name): Path<String>,
) -> Result<Json<MachineExplained>, Failed> {
    let question = |answer| Request::Insight(Question::Machine(name, answer));
    api::ask(&driver, StatusCode::NOT_FOUND, question).await.map(Json)
}

async fn host(State(driver): State<api::Driver>) -> Result<Json<HostExplained>, Failed> {
    let question = |answer| Request::Insight(Question::Host(answer));
    api::ask(&driver, StatusCode::INTERNAL_SERVER_ERROR, question).await.map(Json)
}

impl Driver {
    /// Answers a question about why.
    pub(crate) fn tell_why(&self, question: Question) {
        // Whoever asked may have gone away; that is no error.
        match question {
            Question::Decisions(wanted, answer) => {
                let _ = answer.send(self.store.decisions(&wanted).map_err(in_words));
            }
            Question::Machine(name, answer) => {
                let _ = answer.send(self.explain_machine(&name));
            }
            Question::Host(answer) => {
                let newest = self.store.decisions(&Wanted::newest(1)).map_err(in_words);
                let explained = newest.map(|newest| HostExplained {
                    record: newest.into_iter().next(),
                    ..self.balancer.explain_host(self.clock.now())
                });
                let _ = answer.send(explained);
            }
        }
    }

    fn explain_machine(&self, name: &str) -> Result<MachineExplained, String> {
        let host = self.balancer.host();
        let named = |(id, m): &(&MachineId, &evenkeel_core::load::Machine)| {
            id.as_str() == name || &*m.facts.name == name
        };
        let found = host.view.machines().iter().find(named).map(|(id, _)| id);
        let explained = found.and_then(|id| self.balancer.explain(id, self.clock.now()));
        let mut explained = explained.ok_or_else(|| {
            format!("host `{}` has no machine `{name}` in its schedule", host.id())
        })?;
        let last = self.store.last_judgement(&explained.machine).map_err(in_words)?;
        if let Some(record) = last {
            explained.remember(record);
        }
        Ok(explained)
    }
}

fn in_words(error: impl Into<StoreError>) -> String {
    error.into().to_string()
}

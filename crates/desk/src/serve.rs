//! What the desk answers over HTTP.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /`, `/app.js`, `/app.css` | the page |
//! | `GET /api/v1/me` | who asks, and what they may ([`Me`]) |
//! | `GET /api/v1/cluster` | every host in brief ([`Update`]); with `machines=0` without machines |
//! | `GET /api/v1/events` | the same as a stream (server-sent events): first all, then what is new; goes on after the `Last-Event-ID` |
//! | `GET /api/v1/history?since=MS&limit=N&moves=BOOL&host=H&machine=NAME&exchange=ID` | decisions of all hosts, each migration once ([`History`]) |
//! | `GET /api/v1/inbox` | the moves that wait for an operator, of all hosts ([`Inbox`]) |
//! | `GET /api/v1/reasons` | every reason code, what it means and what to do |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::HostId;
use futures_util::stream;
use serde::{Deserialize, Serialize};

use crate::cluster::{Mark, Update};
use crate::gather::{Desk, Watcher};
use crate::history::{History, merged};
use crate::{Ask, assets};

/// Time between two events of a stream, at least: a browser draws more than it needs to otherwise.
const EVENT_EVERY: Duration = Duration::from_millis(250);
/// How often a stream shows that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Most decisions in one answer, and how many there are unless it is said.
const DECISIONS: (usize, usize) = (1000, 100);

/// Who asks, and what they may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    /// What they are called.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// Whether what is shown was recorded, and nothing can be done.
    pub recorded: bool,
}

/// What somebody may, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Read,
    /// Act: move machines, pause, drain.
    Operate,
    /// What could make a machine run twice, or changes who is in the cluster.
    Own,
}

/// Why something was not done: `application/problem+json`, RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// Why.
    pub detail: String,
    /// The same as `detail`, for programs that read earlier versions.
    pub error: String,
}

impl Problem {
    /// A problem with this status and these words.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: status.as_u16(),
            error: detail.clone(),
            detail,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, serde_json::to_string(&self).unwrap_or_default()).into_response()
    }
}

/// The moves that wait for an operator, of all hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inbox {
    /// As each host says it, by its `GET /api/v1/recommendations`.
    pub recommendations: Vec<serde_json::Value>,
    /// Hosts that could not be asked, and why.
    pub missing: BTreeMap<HostId, String>,
}

/// The routes of a desk, the page among them. Whoever asks is `me`, unless an extension says otherwise.
pub fn routes<A: Ask>(desk: Desk<A>, me: Me) -> Router {
    Router::new()
        .route("/api/v1/cluster", get(cluster::<A>))
        .route("/api/v1/events", get(events::<A>))
        .route("/api/v1/history", get(history::<A>))
        .route("/api/v1/inbox", get(inbox::<A>))
        .with_state(desk)
        .route("/api/v1/reasons", get(reasons))
        .route(
            "/api/v1/me",
            get(move |said: Option<Extension<Me>>| async move {
                Json(said.map_or(me, |Extension(me)| me))
            }),
        )
        .merge(assets::routes())
}

/// Serves these routes to whoever connects, without end.
///
/// # Errors
/// When nobody can connect any more.
pub async fn listen(listener: tokio::net::TcpListener, routes: Router) -> std::io::Result<()> {
    axum::serve(listener, routes).await
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default = "one")]
    machines: u8,
}

const fn one() -> u8 {
    1
}

async fn cluster<A: Ask>(
    State(desk): State<Desk<A>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Response {
    desk.look();
    desk.heard_once().await;
    let mut update = desk.since(None);
    if wanted.machines == 0 {
        let bare = |brief: &mut Arc<crate::Brief>| Arc::make_mut(brief).machines.clear();
        update.hosts.iter_mut().for_each(bare);
    }
    let tag = format!("\"{}-{}\"", update.rev, wanted.machines);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value == tag.as_str());
    let told = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if known {
        return (StatusCode::NOT_MODIFIED, told).into_response();
    }
    (told, Json(update)).into_response()
}

async fn events<A: Ask>(State(desk): State<Desk<A>>, headers: HeaderMap) -> Response {
    let Some(watcher) = desk.watch() else {
        let why =
            "too many pages are open on this host already: close one, or look from another host";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let known = headers.get("last-event-id").and_then(|id| Mark::parse(id.to_str().ok()?));
    let first = Streaming { desk, watcher, known, told: false };
    let updates = stream::unfold(first, |mut streaming| async move {
        let event = streaming.next().await;
        Some((Ok::<_, Infallible>(event), streaming))
    });
    let alive = KeepAlive::new().interval(ALIVE_EVERY);
    // Proxies keep what they are not told to pass on at once.
    ([("x-accel-buffering", "no")], Sse::new(updates).keep_alive(alive)).into_response()
}

/// One stream to somebody who looks.
struct Streaming<A> {
    desk: Desk<A>,
    watcher: Watcher<A>,
    known: Option<Mark>,
    told: bool,
}

impl<A: Ask> Streaming<A> {
    async fn next(&mut self) -> Event {
        if self.told {
            self.watcher.news().await;
            tokio::time::sleep(EVENT_EVERY).await;
        } else {
            self.desk.heard_once().await;
        }
        self.told = true;
        let update: Update = self.desk.since(self.known);
        self.known = Mark::parse(&update.rev);
        let event = Event::default().id(update.rev.clone()).event("update");
        // What is served is always writable as JSON.
        event.json_data(&update).unwrap_or_default()
    }
}

/// Which decisions are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
struct Filter {
    since: Option<u64>,
    limit: Option<usize>,
    #[serde(default)]
    moves: bool,
    host: Option<HostId>,
    machine: Option<String>,
    exchange: Option<String>,
}

async fn history<A: Ask>(
    State(desk): State<Desk<A>>,
    Query(filter): Query<Filter>,
) -> Result<Json<History>, Problem> {
    let limit = filter.limit.unwrap_or(DECISIONS.1).min(DECISIONS.0);
    // Only some of what a host has decided is about one machine.
    let of_each = if filter.machine.is_some() { DECISIONS.0 } else { limit };
    let mut path = format!("/api/v1/decisions?limit={of_each}&moves={}", filter.moves);
    if let Some(since) = filter.since {
        path += &format!("&since={since}");
    }
    if let Some(exchange) = &filter.exchange {
        if exchange.is_empty() || !exchange.chars().all(|c| c.is_ascii_alphanumeric()) {
            let why = format!("`{}` is no exchange", exchange.escape_default());
            return Err(Problem::new(StatusCode::BAD_REQUEST, why));
        }
        path += &format!("&exchange={exchange}");
    }
    let hosts = asked(&desk, filter.host.as_ref()).await?;
    let (mut records, mut missing) = (Vec::new(), BTreeMap::new());
    for (host, answer) in desk.ask_all(hosts, &path).await {
        let read = answer.and_then(|bytes| {
            serde_json::from_slice::<Vec<Decision>>(&bytes).map_err(|e| e.to_string())
        });
        match read {
            Ok(found) => records.extend(found),
            Err(why) => drop(missing.insert(host, why)),
        }
    }
    if let Some(name) = &filter.machine {
        records.retain(|record| concerns(record, name));
    }
    let mut decisions = merged(records);
    decisions.truncate(limit);
    Ok(Json(History { decisions, missing }))
}

/// Whether a record judges a machine, by name or id.
fn concerns(record: &Decision, name: &str) -> bool {
    record.candidates.iter().any(|judged| judged.name == name || judged.machine.as_str() == name)
}

/// The host that is wanted, or all that are alive.
async fn asked<A: Ask>(desk: &Desk<A>, host: Option<&HostId>) -> Result<Vec<HostId>, Problem> {
    if let Some(host) = host {
        return Ok(vec![host.clone()]);
    }
    let listed = desk.ask().hosts().await;
    let listed = listed.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why))?;
    Ok(listed.into_iter().filter(|listed| listed.alive).map(|listed| listed.host).collect())
}

async fn inbox<A: Ask>(State(desk): State<Desk<A>>) -> Result<Json<Inbox>, Problem> {
    let hosts = asked(&desk, None).await?;
    let (mut recommendations, mut missing) = (Vec::new(), BTreeMap::new());
    for (host, answer) in desk.ask_all(hosts, "/api/v1/recommendations").await {
        let read = answer.and_then(|bytes| {
            serde_json::from_slice::<Vec<serde_json::Value>>(&bytes).map_err(|e| e.to_string())
        });
        match read {
            Ok(found) => recommendations.extend(found),
            Err(why) => drop(missing.insert(host, why)),
        }
    }
    Ok(Json(Inbox { recommendations, missing }))
}

/// A reason code and its words.
#[derive(Serialize)]
struct Told {
    code: Reason,
    meaning: &'static str,
    remedy: &'static str,
}

async fn reasons() -> impl IntoResponse {
    let told = |code: &Reason| Told { code: *code, meaning: code.meaning(), remedy: code.remedy() };
    let all: Vec<Told> = Reason::ALL.iter().map(told).collect();
    ([(header::CACHE_CONTROL, "max-age=3600")], Json(all))
}

//! What operators say to a host about moving machines, and what it answers: directed moves,
//! recommendations, pauses.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use evenkeel_core::balancer::{Balancer, Directed, MoveOrder, Outcome, Recommendation, Stage};
use evenkeel_core::control::{Authority, Autonomy, Pause};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::model::{HostId, MachineId, MoveId, Resource, Time};
use evenkeel_core::port::{HandoffId, MigrationStats, Progress};
use evenkeel_core::select::{Pair, Price};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::api::{Driver as Requests, Failed, Reply, Request, ask};
use crate::driver::Driver;

/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest name and longest reason of who pauses, in bytes.
const WORDS_BYTES_MAX: usize = 512;

/// What operators ask of the driver.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Moves a machine, to a host or anywhere.
    Migrate(MachineId, Option<HostId>, Reply<MoveStatus>),
    /// How far a directed move is.
    Move(MoveId, Reply<MoveStatus>),
    Recommendations(Reply<Vec<RecommendationStatus>>),
    Approve(MoveId, Reply<MoveStatus>),
    Skip(MoveId, Reply<()>),
    /// Pauses the cluster, or with `None` ends the pause.
    Pause(Option<PauseWish>, Reply<()>),
}

impl Operation {
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Self::Migrate(_, _, reply) | Self::Move(_, reply) | Self::Approve(_, reply) => {
                drop(reply.send(Err(why.to_owned())));
            }
            Self::Recommendations(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Skip(_, reply) | Self::Pause(_, reply) => drop(reply.send(Err(why.to_owned()))),
        }
    }
}

/// How much a host does by itself, and what it was told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Its mode.
    pub mode: Autonomy,
    /// Whether this is outside the hours in which it may move machines by its own decision.
    pub outside_hours: bool,
    /// When that changes next; missing if not within eight days.
    pub hours_change: Option<Time>,
    /// The pause that holds now, if one does.
    pub pause: Option<Pause>,
    /// Recommendations that wait for an operator.
    pub recommendations: usize,
    /// Directed moves that are not over.
    pub moves: Vec<MoveStatus>,
}

impl OperationStatus {
    pub(crate) fn of(
        balancer: &Balancer,
        progress: &BTreeMap<HandoffId, Progress>,
        hours_change: Option<Time>,
        now: Time,
    ) -> Self {
        let control = &balancer.host().control;
        let open = balancer.directed().filter(|d| !matches!(d.stage, Stage::Ended(_)));
        Self {
            mode: control.mode,
            outside_hours: control.closed,
            hours_change,
            pause: control.pause_at(now).cloned(),
            recommendations: balancer.recommendations().count(),
            moves: open.map(|directed| MoveStatus::of(directed, progress)).collect(),
        }
    }
}

/// How far a directed move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveStage {
    /// It waits for this host or the other to be free.
    Waiting,
    /// Other hosts are asked where it fits.
    Looking,
    /// Another host is asked to take it.
    Asking,
    /// It is being handed over.
    Moving,
    /// It is over.
    Ended,
}

/// A move that an operator has ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Its id.
    pub id: MoveId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// The host that has it, or had it when the move was ordered.
    pub from: HostId,
    /// Where to, as far as it is known.
    pub to: Option<HostId>,
    /// On whose word.
    pub authority: Authority,
    /// When it was ordered.
    pub ordered: Time,
    /// How far it is.
    pub stage: MoveStage,
    /// What it ended with (`MOVED`, or why not), or why it waits.
    pub reason: Option<Reason>,
    /// More on that, in words.
    pub detail: String,
    /// Who did not take it, and why.
    pub refusals: Vec<(HostId, Reason)>,
    /// How far the hypervisor is, where it says.
    pub progress: Option<Progress>,
    /// What it cost, if it has moved.
    pub stats: Option<MigrationStats>,
}

impl MoveStatus {
    fn of(directed: &Directed, progress: &BTreeMap<HandoffId, Progress>) -> Self {
        let Directed { id, machine, name, from, to, authority, ordered, .. } = directed.clone();
        let mut status = Self {
            id,
            machine,
            name,
            from,
            to,
            authority,
            ordered,
            stage: MoveStage::Looking,
            reason: None,
            detail: String::new(),
            refusals: directed.refusals.clone(),
            progress: None,
            stats: None,
        };
        match &directed.stage {
            Stage::Waiting { why, .. } => {
                (status.stage, status.reason) = (MoveStage::Waiting, *why);
            }
            Stage::Looking(_) => {}
            Stage::Asking { peer, .. } => {
                (status.stage, status.to) = (MoveStage::Asking, Some(peer.clone()));
            }
            Stage::Moving { handoff, peer } => {
                (status.stage, status.to) = (MoveStage::Moving, Some(peer.clone()));
                status.progress = progress.get(handoff).copied();
            }
            Stage::Ended(Outcome { ending, detail, peer, stats, .. }) => {
                (status.stage, status.reason) = (MoveStage::Ended, Some(*ending));
                status.detail.clone_from(detail);
                status.to = peer.clone().or(status.to);
                status.stats = *stats;
            }
        }
        status
    }
}

/// A move that a host recommends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecommendationStatus {
    /// Its id.
    pub id: MoveId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// The host that has it.
    pub from: HostId,
    /// Where to.
    pub to: HostId,
    /// The machine that would come back in return.
    pub in_return: Option<String>,
    /// Both loads, when it was found; on a host that asks first, as if what it recommended before
    /// had happened.
    pub pair: Option<Pair>,
    /// What the machine loads either.
    pub price: Option<Price>,
    /// Of which resource loads and prices are, if not of all together.
    pub measure: Option<Resource>,
    /// Bytes that its migration is predicted to send.
    pub bytes: Option<f64>,
    /// Seconds that its migration is predicted to take.
    pub seconds: Option<f64>,
    /// When it was found.
    pub since: Time,
    /// When it expires.
    pub until: Time,
}

impl RecommendationStatus {
    fn of(from: &HostId, recommendation: &Recommendation) -> Self {
        let Recommendation { id, machine, name, to, pair, price, measure, since, until, .. } =
            recommendation.clone();
        let predicted = recommendation.predicted.as_ref();
        Self {
            id,
            machine,
            name,
            from: from.clone(),
            to,
            in_return: recommendation.in_return.as_ref().map(|back| back.name.clone()),
            pair,
            price,
            measure,
            bytes: predicted.map(|cost| cost.bytes),
            seconds: predicted.map(|cost| cost.seconds),
            since,
            until,
        }
    }
}

/// How an operator wants the cluster to be paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseWish {
    /// For how long, in seconds.
    pub seconds: u64,
    /// Who wants it.
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl PauseWish {
    fn pause(self, now: Time) -> Result<Pause, String> {
        let Self { seconds, by, reason } = self;
        let span = Duration::from_secs(seconds);
        if span.is_zero() || span > PAUSE_MAX {
            let days = PAUSE_MAX.as_secs() / 86_400;
            return Err(format!("a pause is of 1 second to {days} days, and not of {seconds} s"));
        }
        if by.len().max(reason.len()) > WORDS_BYTES_MAX {
            return Err(format!("name and reason of a pause have at most {WORDS_BYTES_MAX} bytes"));
        }
        Ok(Pause { until: now + span, by, reason })
    }
}

impl Driver {
    pub(crate) fn operate(&mut self, operation: Operation) {
        // Whoever asked may have gone away; that is no error.
        match operation {
            Operation::Migrate(machine, to, answer) => {
                let _ = answer.send(self.migrate(machine, to));
            }
            Operation::Move(id, answer) => drop(answer.send(self.directed(id))),
            Operation::Recommendations(answer) => {
                let host = self.balancer.host().id();
                let all = self.balancer.recommendations();
                let all = all.map(|r| RecommendationStatus::of(host, r)).collect();
                let _ = answer.send(Ok(all));
            }
            Operation::Approve(id, answer) => {
                let could = self.balancer.can_approve(id).map(|_| ());
                let done = could.and_then(|()| {
                    self.feed(Input::Approve(id));
                    self.directed(id)
                });
                let _ = answer.send(done);
            }
            Operation::Skip(id, answer) => {
                let known = self.balancer.recommendations().any(|r| r.id == id);
                self.feed(Input::Skip(id));
                let host = self.balancer.host().id();
                let gone = || format!("host `{host}` recommends no move `{id}`");
                let _ = answer.send(known.then_some(()).ok_or_else(gone));
            }
            Operation::Pause(wish, answer) => {
                let pause = wish.map(|wish| wish.pause(self.clock.now())).transpose();
                let done = pause.map(|pause| self.feed(Input::Pause(pause)));
                let _ = answer.send(done);
            }
        }
    }

    fn migrate(&mut self, machine: MachineId, to: Option<HostId>) -> Result<MoveStatus, String> {
        self.balancer.can_migrate(&machine, to.as_ref())?;
        let id = MoveId(self.rng.next_u64());
        let wanted = to.as_ref().map_or("wherever it fits best", HostId::as_str);
        info!(%machine, to = wanted, "an operator orders a move");
        self.feed(Input::Migrate(MoveOrder { id, machine, to }));
        self.directed(id)
    }

    fn directed(&self, id: MoveId) -> Result<MoveStatus, String> {
        let found = self.balancer.directed().find(|directed| directed.id == id);
        found.map(|directed| MoveStatus::of(directed, &self.progress)).ok_or_else(|| {
            format!(
                "host `{}` knows no move `{id}`: its agent was started again meanwhile, or it \
                 ended long ago; what was under way goes on, and `evenkeel history` says what \
                 became of it",
                self.balancer.host().id()
            )
        })
    }
}

/// What only reads.
pub(crate) fn reading() -> Router<Requests> {
    Router::new()
        .route("/api/v1/moves/{id}", get(directed))
        .route("/api/v1/recommendations", get(recommendations))
}

/// What acts.
pub(crate) fn acting() -> Router<Requests> {
    Router::new()
        .route("/api/v1/machines/{id}/move", post(migrate))
        .route("/api/v1/recommendations/{id}/approve", post(approve))
        .route("/api/v1/recommendations/{id}", delete(skip))
        .route("/api/v1/pause", put(pause).delete(resume))
}

async fn operate<T>(
    requests: &Requests,
    otherwise: StatusCode,
    make: impl FnOnce(Reply<T>) -> Operation,
) -> Result<Json<T>, Failed> {
    ask(requests, otherwise, |answer| Request::Operate(make(answer))).await.map(Json)
}

async fn migrate(
    State(requests): State<Requests>,
    Path(machine): Path<MachineId>,
    Json(to): Json<Option<HostId>>,
) -> Result<Json<MoveStatus>, Failed> {
    let refused = StatusCode::CONFLICT;
    operate(&requests, refused, |answer| Operation::Migrate(machine, to, answer)).await
}

async fn directed(
    State(requests): State<Requests>,
    Path(id): Path<MoveId>,
) -> Result<Json<MoveStatus>, Failed> {
    operate(&requests, StatusCode::NOT_FOUND, |answer| Operation::Move(id, answer)).await
}

async fn recommendations(
    State(requests): State<Requests>,
) -> Result<Json<Vec<RecommendationStatus>>, Failed> {
    operate(&requests, StatusCode::SERVICE_UNAVAILABLE, Operation::Recommendations).await
}

async fn approve(
    State(requests): State<Requests>,
    Path(id): Path<MoveId>,
) -> Result<Json<MoveStatus>, Failed> {
    operate(&requests, StatusCode::CONFLICT, |answer| Operation::Approve(id, answer)).await
}

async fn skip(
    State(requests): State<Requests>,
    Path(id): Path<MoveId>,
) -> Result<Json<()>, Failed> {
    operate(&requests, StatusCode::NOT_FOUND, |answer| Operation::Skip(id, answer)).await
}

async fn pause(
    State(requests): State<Requests>,
    Json(wish): Json<PauseWish>,
) -> Result<Json<()>, Failed> {
    let refused = StatusCode::BAD_REQUEST;
    operate(&requests, refused, |answer| Operation::Pause(Some(wish), answer)).await
}

async fn resume(State(requests): State<Requests>) -> Result<Json<()>, Failed> {
    operate(&requests, StatusCode::CONFLICT, |answer| Operation::Pause(None, answer)).await
}

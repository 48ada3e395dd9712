//! How much a host does by itself, and what operators have it do.

use std::collections::BTreeMap;

use evenkeel_core::balancer::{Balancer, Directed, Outcome, Recommendation, Stage};
use evenkeel_core::control::{Authority, Autonomy, Pause};
use evenkeel_core::decision::Reason;
use evenkeel_core::model::{HostId, MachineId, MoveId, Resource, Time};
use evenkeel_core::port::{HandoffId, MigrationStats, Progress};
use evenkeel_core::select::{Pair, Price};
use serde::{Deserialize, Serialize};

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
    pub(crate) fn of(directed: &Directed, progress: &BTreeMap<HandoffId, Progress>) -> Self {
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
    pub(crate) fn of(from: &HostId, recommendation: &Recommendation) -> Self {
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

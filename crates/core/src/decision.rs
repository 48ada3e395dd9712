//! Decision records: who decided what, when, on which figures, and why not otherwise.
//!
//! A record is data. Both hosts of an exchange keep their own, and the two agree.

use serde::{Deserialize, Serialize};

use crate::ceiling::Measure;
use crate::control::Authority;
use crate::cost::Prediction;
use crate::load::Basis;
pub use crate::model::Role;
use crate::model::{ExchangeId, HostId, MachineId, Missing, Resources, Time};
use crate::port::{Commit, HandoffId, MigrationStats};
pub use crate::reason::Reason;
use crate::select::Pair;

/// The commit point of a handoff, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// The commit point.
    pub commit: Commit,
    /// Why, in words.
    pub because: String,
}

/// One machine of the source, as it was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Where its load comes from.
    pub basis: Option<Basis>,
    /// Its load factors, as the source sent them.
    pub factors: Option<Resources>,
    /// What it loads the source.
    pub at_donor: Option<f64>,
    /// What it would load the target, by the target's own capacity and weights.
    pub at_receiver: Option<f64>,
    /// Chosen, or why not.
    pub verdict: Reason,
    /// What is missing, in words that name it; empty where the code says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why a machine may not leave or come: the code, and what it is about in words, if there is more to
/// say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// The words; empty where the code says it all.
    pub detail: String,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }
}

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Self {
        Self { reason: missing.reason(), detail: missing.to_string() }
    }
}

/// One exchange, as one of its two hosts saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The exchange; both hosts' records of it carry the same id.
    pub exchange: ExchangeId,
    /// The host that keeps this record.
    pub host: HostId,
    /// The host that drew the other at random.
    pub initiator: HostId,
    /// The other host, if it came to that.
    pub peer: Option<HostId>,
    /// What the recording host was, if it came to that.
    pub role: Option<Role>,
    /// When the exchange began, at this host.
    pub began: Time,
    /// When it ended.
    pub ended: Time,
    /// Both loads, if it came to that.
    pub pair: Option<Pair>,
    /// Every machine of the source that was considered.
    pub candidates: Vec<Judged>,
    /// The handoff of the machine chosen, if any.
    pub handoff: Option<HandoffId>,
    /// How it ended.
    pub ending: Reason,
    /// More on the ending, in words; empty if the code says it all.
    pub detail: String,
    /// What the migration cost, if there was one.
    pub stats: Option<MigrationStats>,
    /// What it was predicted to cost.
    #[serde(default)]
    pub predicted: Option<Prediction>,
    /// The resource that was over its ceiling, if that is what it was about: then loads and prices in
    /// this record are shares of that resource.
    #[serde(default)]
    pub measure: Measure,
    /// By which commit point the machine was handed over, and why; the source's record has it.
    #[serde(default)]
    pub commit: Option<Choice>,
    /// On whose word a machine was to move.
    #[serde(default)]
    pub authority: Authority,
    /// How many more of the kind there were since the record before, which have none of their own:
    /// what this peer began, and came to nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Decision {
    /// The record of an exchange that this host began and ended at this time, with nobody and about
    /// no machine, for whoever knows more of it to fill in.
    #[must_use]
    pub fn new(exchange: ExchangeId, host: HostId, ending: Reason, at: Time) -> Self {
        Self {
            exchange,
            initiator: host.clone(),
            host,
            peer: None,
            role: None,
            began: at,
            ended: at,
            pair: None,
            candidates: Vec::new(),
            handoff: None,
            ending,
            detail: String::new(),
            stats: None,
            predicted: None,
            measure: None,
            commit: None,
            authority: Authority::default(),
            more: 0,
        }
    }

    /// The machine that was chosen, if any.
    #[must_use]
    pub fn chosen(&self) -> Option<&Judged> {
        let chosen = |c: &&Judged| matches!(c.verdict, Reason::Chosen | Reason::RuleRepaired);
        self.candidates.iter().find(chosen)
    }
}

//! Explanations: what keeps a machine where it is now, and a host from giving.
//!
//! An explanation is live: the rules that a donor judges by are applied to what it knows at this
//! moment, against what the other hosts last said of themselves. What only the other host can say
//! (whether it has the CPU model, the storage, a machine of the same group) is taken from the last
//! record that judged the machine. Reasons come in the order in which they decide: first what the
//! machine itself is kept by, then its host, then the hosts that it could go to.

use serde::{Deserialize, Serialize};

use crate::contention::Contention;
use crate::cost::Prediction;
use crate::decision::{Decision, Judged, Reason, Role};
use crate::load::Basis;
use crate::model::{HostId, HostState, MachineId, Resources, Rules, Time};

/// What a reason is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// The machine, wherever it were to go.
    Machine,
    /// Its host, whatever machine it were.
    Host,
    /// A host that it could go to.
    Peer(HostId),
    /// The last record that judged it, with this host.
    Record(Option<HostId>),
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The code.
    pub code: Reason,
    /// What it is about.
    pub about: About,
    /// The figures behind it, in words; empty if the code says it all.
    pub detail: String,
    /// What the code means.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
}

impl Why {
    /// A reason with what its code means.
    #[must_use]
    pub fn new(code: Reason, about: About, detail: impl Into<String>) -> Self {
        let (meaning, remedy) = (code.meaning().to_owned(), code.remedy().to_owned());
        Self { code, about, detail: detail.into(), meaning, remedy }
    }
}

/// How a machine would fare with one other host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prospect {
    /// The other host.
    pub peer: HostId,
    /// When it last said how it stands.
    pub heard: Time,
    /// Its load then.
    pub load: f64,
    /// Whether it takes part.
    pub state: HostState,
    /// What the machine would load it, where its prices are known.
    pub at_receiver: Option<f64>,
    /// What this host would say of the machine.
    pub verdict: Reason,
}

/// Why a machine is where it is: `evenkeel.explanation/v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineExplained {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: HostId,
    /// When this was said.
    pub at: Time,
    /// Every reason, the one that decides first.
    pub reasons: Vec<Why>,
    /// Where its load comes from.
    pub basis: Option<Basis>,
    /// What it is expected to use.
    pub expected: Option<Resources>,
    /// How much more it may come to use.
    pub margin: Resources,
    /// How long its load is expected to last, in seconds, at most `payback`.
    pub lasting_s: f64,
    /// What it loads its host, where known.
    pub load: Option<f64>,
    /// What it goes without.
    pub contention: Contention,
    /// What moving it is predicted to cost, if that is known and worth it.
    pub cost: Option<Prediction>,
    /// What may happen to it.
    pub rules: Rules,
    /// How it would fare with the hosts heard of.
    pub prospects: Vec<Prospect>,
    /// The last record that judged it, if any.
    pub record: Option<Decision>,
}

/// Why a host does not give: `evenkeel.explanation/v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostExplained {
    /// The host.
    pub host: HostId,
    /// When this was said.
    pub at: Time,
    /// Whether it takes part.
    pub state: HostState,
    /// Its load, where known.
    pub load: Option<f64>,
    /// Its fair share of the cluster's load, where known.
    pub target: Option<f64>,
    /// The load that it must not be above, where known.
    pub limit: Option<f64>,
    /// What keeps it from giving, or from taking; empty if it is looking for somebody to give to.
    pub reasons: Vec<Why>,
    /// Its machines, each with the reason that decides.
    pub machines: Vec<MachineBrief>,
    /// The other hosts, as last heard of.
    pub peers: Vec<PeerBrief>,
    /// Its last record, if any.
    pub record: Option<Decision>,
}

/// One machine in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineBrief {
    /// Its name.
    pub name: String,
    /// What it loads its host, where known.
    pub load: Option<f64>,
    /// What it goes without, from 0 to 100, where known.
    pub contention_score: Option<u8>,
    /// The reason that decides.
    pub why: Why,
}

/// Another host in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerBrief {
    /// Which.
    pub peer: HostId,
    /// When it last said how it stands.
    pub heard: Time,
    /// Its load then.
    pub load: f64,
    /// Whether it takes part.
    pub state: HostState,
    /// What it goes without, from 0 to 100, where told.
    pub contention_score: Option<u8>,
}

impl MachineExplained {
    /// The reason that decides.
    #[must_use]
    pub fn verdict(&self) -> Option<Reason> {
        self.reasons.first().map(|why| why.code)
    }

    /// Takes in the last record that judged the machine: what only the other host could say, and how
    /// that exchange ended, stand before what is guessed of hosts that it could go to.
    pub fn remember(&mut self, record: Decision) {
        let judged = record.candidates.iter().find(|judged| judged.machine == self.machine);
        let before = self.reasons.iter().position(|why| matches!(why.about, About::Peer(_)));
        let at = before.unwrap_or(self.reasons.len());
        let told = judged.map_or_else(Vec::new, |judged| told(&record, judged));
        let guessed = self.reasons.split_off(at);
        self.reasons = distinct(self.reasons.drain(..).chain(told).chain(guessed));
        self.record = Some(record);
    }
}

/// Each code once, as it is told first.
pub(crate) fn distinct(reasons: impl Iterator<Item = Why>) -> Vec<Why> {
    let mut kept: Vec<Why> = Vec::new();
    for why in reasons {
        if kept.iter().all(|known| known.code != why.code) {
            kept.push(why);
        }
    }
    kept
}

/// What a record says of a machine that it judged.
fn told(record: &Decision, judged: &Judged) -> Vec<Why> {
    let about = || About::Record(record.peer.clone());
    let ended = || Why::new(record.ending, about(), record.detail.clone());
    let verdict = || Why::new(judged.verdict, about(), judged.detail.clone());
    let undecided = record.chosen().is_none() && judged.verdict == Reason::Farther;
    match (judged.verdict, record.ending, record.role) {
        // It came here by it, and what kept it elsewhere says nothing of here.
        (Reason::Chosen | Reason::RuleRepaired, Reason::Moved, _) | (_, _, Some(Role::Target)) => {
            Vec::new()
        }
        (Reason::Chosen | Reason::RuleRepaired, ..) => vec![ended()],
        // It was never chosen among.
        _ if undecided => vec![ended()],
        (_, Reason::Moved | Reason::NoCandidate, _) => vec![verdict()],
        _ => vec![verdict(), ended()],
    }
}

//! What is said in an exchange.

use minicbor::{Decode, Encode};

use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy};
use crate::cost::Prediction;
use crate::decision::Reason;
use crate::estimate::Estimate;
use crate::history::Track;
use crate::load::{Basis, Unknown};
use crate::model::{Group, HostId, HostState, MachineId, Requirements, Resources, Rules};
use crate::rules::{Labels, Tie};

/// Most machines that one offer holds.
pub const OFFER_MAX: usize = 64;

/// What a host says of itself when it compares loads.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Report {
    /// Its load; 1.0 is the whole host.
    #[n(0)]
    pub load: f64,
    /// Whether it gives and takes.
    #[n(1)]
    pub state: HostState,
    /// [`super::PROTOCOL`] of the agent; none is 2 or earlier.
    #[n(2)]
    pub protocol: Option<u16>,
    /// How much of what is wanted of it it cannot give: see [`crate::contention`].
    #[n(3)]
    pub contention: Option<u8>,
    /// Whether it asks because a rule is broken there, and wants to give whatever the loads.
    #[n(4)]
    pub mends: Option<bool>,
    /// How much it does by itself; everything if it does not say.
    #[n(5)]
    pub mode: Option<Autonomy>,
}

impl Report {
    /// On whose word it gives machines.
    #[must_use]
    pub fn authority(&self) -> Authority {
        match self.state {
            HostState::Draining => Authority::Ordered,
            HostState::Active | HostState::Cordoned => self.mode.unwrap_or_default().into(),
        }
    }
}

/// What is said in an exchange.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Talk {
    /// "This is my load. What is yours?"
    #[n(0)]
    Inquire(
        #[n(0)] Report,
        /// What it could take, where it asks because it is below its fair share.
        #[n(1)]
        Option<Box<Room>>,
    ),
    /// "Mine is lower: offer me something." A statement, not a promise.
    #[n(1)]
    Accept(#[n(0)] Report),
    /// "Not now."
    #[n(2)]
    Decline {
        /// Why.
        #[n(0)]
        reason: Reason,
        /// More on it, in words.
        #[n(1)]
        detail: String,
        /// The load, where it is known.
        #[n(2)]
        report: Option<Report>,
    },
    /// "These could go to you; what would they load you?"
    #[n(3)]
    Offer {
        /// Of the source, now.
        #[n(0)]
        report: Report,
        /// At most [`OFFER_MAX`].
        #[n(1)]
        candidates: Vec<Candidate>,
        /// The resource that loads and prices of this exchange are shares of, if they are.
        #[n(2)]
        measure: Measure,
        /// How full the source is.
        #[n(3)]
        gauge: Option<Gauge>,
        /// On whose word they are to move, where that is not plain from the report.
        #[n(4)]
        authority: Option<Authority>,
    },
    /// "This is what they would load me", in the order of the offer.
    #[n(4)]
    Quotes {
        /// Of the target, now.
        #[n(0)]
        report: Report,
        /// One for each candidate.
        #[n(1)]
        quotes: Vec<Quote>,
    },
    /// "None of them."
    #[n(5)]
    Close {
        /// How the exchange ended.
        #[n(0)]
        reason: Reason,
        /// The source's verdict on each candidate, in the order of the offer.
        #[n(1)]
        verdicts: Vec<Reason>,
    },
    /// "How do you stand? And let us average what we know of the cluster."
    #[n(6)]
    Probe(#[n(0)] Probe),
    /// "This is how I stand." A statement, not a promise.
    #[n(7)]
    Standing(#[n(0)] Standing),
    /// "What would these load you, and what room have you?" A question; nothing is offered.
    #[n(27)]
    Appraise(#[n(0)] Appraise),
    /// "This much, and this." A statement, not a promise.
    #[n(28)]
    Appraisal(#[n(0)] Appraisal),
}

impl Talk {
    /// What a host says that does not know its load.
    #[must_use]
    pub fn unknown(why: &Unknown) -> Self {
        Self::Decline { reason: Reason::UnknownLoad, detail: why.to_string(), report: None }
    }
}

/// What a host asks others that plans what could go where.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Appraise {
    /// At most [`OFFER_MAX`].
    #[n(0)]
    pub candidates: Vec<Candidate>,
    /// What they would come from: one that is being emptied is not held up by limits on moves.
    #[n(1)]
    pub giver: HostState,
    /// How full that is.
    #[n(2)]
    pub gauge: Option<Gauge>,
}

/// What room a host has, and its prices.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Appraisal {
    /// Its load and state.
    #[n(0)]
    pub report: Report,
    /// One for each candidate, each as if it came alone.
    #[n(1)]
    pub quotes: Vec<Quote>,
    /// Memory that it could still promise, in bytes.
    #[n(2)]
    pub free_memory_bytes: f64,
    /// Memory that its own machines and those on their way to it may come to occupy, in bytes.
    #[n(3)]
    pub promised_memory_bytes: f64,
    /// How full it is.
    #[n(4)]
    pub gauge: Option<Gauge>,
    /// Whether it would not take anything just now, because it is occupied with another host.
    #[n(5)]
    pub busy: bool,
}

/// What a host asks several others.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Probe {
    /// What the surveyor knows of the cluster, to be averaged with; only one of several is asked to.
    #[n(0)]
    pub estimate: Option<Estimate>,
    /// Whether the surveyor has something to give, and therefore wants to know what the other has.
    #[n(1)]
    pub giving: bool,
    /// The resource that the answer is to be given in, if not in loads.
    #[n(2)]
    pub measure: Measure,
    /// [`super::PROTOCOL`] of the surveyor; none is 2 or earlier.
    #[n(3)]
    pub protocol: Option<u16>,
    /// On whose word the surveyor gives; a balancer's own if it does not say.
    #[n(4)]
    pub authority: Option<Authority>,
}

/// How a host stands.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Standing {
    /// Its load and state.
    #[n(0)]
    pub report: Report,
    /// The answer to an estimate.
    #[n(1)]
    pub estimate: Option<Estimate>,
    /// What it could take, if the surveyor has something to give and it can take anything now.
    #[n(2)]
    pub room: Option<Room>,
    /// Why it takes nothing, if the surveyor has something to give.
    #[n(3)]
    pub refusal: Option<Reason>,
}

/// What a host could take, for others to reckon with. Its own quotes count in the end.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Room {
    /// Its fair share of the cluster's load.
    #[n(0)]
    pub target: f64,
    /// The load that it must not be above.
    #[n(1)]
    pub limit: f64,
    /// What one unit of each resource loads it: its prices, by its own capacity and weights.
    #[n(2)]
    pub rates: Resources,
    /// Memory that it could still promise, in bytes.
    #[n(3)]
    pub free_memory_bytes: f64,
    /// Its own machines that could go to the surveyor in return; at most [`OFFER_MAX`].
    #[n(4)]
    pub tenants: Vec<Tenant>,
    /// How full it is.
    #[n(5)]
    pub gauge: Option<Gauge>,
    /// Its labels.
    #[n(6)]
    pub labels: Option<Labels>,
    /// What it would have been loaded with in the past, with the machines that it has now; `None` from
    /// a host of an earlier version, and where loads are not what is compared.
    #[n(7)]
    pub past: Option<Track>,
}

/// A machine of a host that has room, which could go to the surveyor in return for another.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Tenant {
    /// The machine; its price is what it loads the host that has it.
    #[n(0)]
    pub candidate: Candidate,
    /// Where its memory is, if only its entry has come so far.
    #[n(1)]
    pub origin: Option<HostId>,
}

/// A machine that could move, and its load factors.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Candidate {
    /// The machine.
    #[n(0)]
    pub machine: MachineId,
    /// Its name.
    #[n(1)]
    pub name: String,
    /// Where its load comes from.
    #[n(2)]
    pub basis: Basis,
    /// Its load factors: what it uses, for the target to price.
    #[n(3)]
    pub factors: Resources,
    /// What it loads the source.
    #[n(4)]
    pub at_donor: f64,
    /// Memory that it may come to occupy, in bytes.
    #[n(5)]
    pub memory_bytes: f64,
    /// What it needs of a host besides room.
    #[n(6)]
    pub needs: Requirements,
    /// Groups whose members must not share a host: all that a target of an earlier version judges.
    #[n(7)]
    pub anti_affinity: Vec<Group>,
    /// How much more it may come to use.
    #[n(8)]
    pub margin: Option<Resources>,
    /// What its migration is predicted to cost.
    #[n(9)]
    pub cost: Option<Prediction>,
    /// Its rules, of which the target judges what only it can know; not for one of an earlier
    /// version.
    #[n(10)]
    pub rules: Option<Rules>,
    /// What it leaves of each of its affinity groups, in the order of its rules.
    #[n(11)]
    pub ties: Option<Vec<Tie>>,
    /// Whether it breaks a rule where it is, and is given because of that: a hard one, or a soft one.
    #[n(12)]
    pub mends: Option<bool>,
}

impl Candidate {
    /// A machine that uses nothing, needs nothing and may go anywhere, for whoever knows more of it to
    /// fill in.
    #[must_use]
    pub fn new(machine: MachineId, name: &str) -> Self {
        Self {
            machine,
            name: name.to_owned(),
            basis: Basis::Actual,
            factors: Resources::ZERO,
            at_donor: 0.0,
            memory_bytes: 0.0,
            needs: Requirements::default(),
            anti_affinity: Vec::new(),
            margin: None,
            cost: None,
            rules: None,
            ties: None,
            mends: None,
        }
    }
}

/// The target's answer to one candidate.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Quote {
    /// What it would load the target.
    #[n(0)]
    pub at_receiver: f64,
    /// Why the target cannot take it, if so.
    #[n(1)]
    pub refusal: Option<Reason>,
    /// What is missing, in words that name it.
    #[n(2)]
    pub detail: Option<String>,
}

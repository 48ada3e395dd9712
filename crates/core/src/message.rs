//! The protocol on one page: everything that one host ever says to another.
//!
//! Field numbers are the wire contract: a number once used is never used for something else, and a
//! field added later is an `Option`. `evenkeel-wire` frames these, checks limits and versions.
//!
//! ```text
//!  initiator                       peer
//!     │ ── Inquire(report) ────────▶ │   who is the more loaded?
//!     │ ◀──────── Accept(report) ─── │   the initiator: it goes on with an Offer
//!     │ ◀──── Offer(candidates) ──── │   the peer: it offers at once
//!     │ ◀────────────── Decline ──── │   neither, or not now
//!
//!  surveyor                      each of several
//!     │ ── Probe(estimate) ────────▶ │   what could you take, and what do you have?
//!     │ ◀──────────── Standing ───── │   then an Offer to the best of them, as below
//!
//!  whoever plans                 each of several
//!     │ ── Appraise(candidates) ───▶ │   what would these load you?
//!     │ ◀─── Appraisal(prices) ───── │   nobody is engaged by it
//!
//!   donor                         receiver
//!     │ ── Offer(candidates) ──────▶ │   load factors and the donor's prices
//!     │ ◀──────── Quotes(prices) ─── │   the receiver's prices and refusals
//!     │ ── Close ──────────────────▶ │   no machine fits, or:
//!     │ ── Reserve(machine) ───────▶ │
//!     │ ◀──────── Reserved(uri) ──── │
//!     │ ═════ live migration ══════▶ │
//!     │ ── Released ───────────────▶ │   the entry is deleted here
//!     │ ◀────────────── Claimed ──── │   the entry is inserted there
//!
//!   when something went wrong
//!     │ ── Where ──────────────────▶ │   Holding, Arriving, Claimed or Missing
//!     │ ◀────────────── Holding ──── │   Released or Cancel
//!     │ ── Cancel ─────────────────▶ │   Discarded
//!
//!   a machine that must be the only one of its group among hosts with one value of a label
//!  claimant                        every host that has it, or may have it
//!     │ ── Ask(machine, seats) ────▶ │
//!     │ ◀────────── Answer(verdict)  │
//!
//!   now and then
//!     │ ── Running ────────────────▶ │   Runs, for what both run
//! ```

use minicbor::{Decode, Encode};

use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy, PauseRegister};
use crate::cost::Prediction;
use crate::decision::Reason;
use crate::estimate::Estimate;
use crate::flocks::Flock;
use crate::handoff::Ticket;
use crate::load::Basis;
use crate::model::{
    ClaimId, DiskPlace, Entry, ExchangeId, Group, HostId, HostState, MachineId, Requirements,
    Resources, Rules,
};
use crate::port::{Commit, HandoffId, MigrationStats};
use crate::rules::{Labels, Tie};
use crate::witness::Seat;

/// What one host says to another.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Message {
    /// Part of an exchange.
    #[n(0)]
    Exchange(#[n(0)] ExchangeId, #[n(1)] Talk),
    /// Part of a handoff.
    #[n(1)]
    Handoff(#[n(0)] HandoffId, #[n(1)] Pass),
    /// What hosts run, so that they find what runs twice.
    #[n(2)]
    Watch(#[n(0)] Watch),
    /// Part of a claim to a seat; see [`crate::witness`].
    #[n(3)]
    Witness(#[n(0)] ClaimId, #[n(1)] Witness),
}

/// Most hosts that one answer names.
pub const HOSTS_MAX: usize = 4096;

/// What is said about seats: what at most one machine of a group may have among the hosts with one
/// value of a label.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Witness {
    /// Claimant: "May I have these seats for this machine?"
    #[n(0)]
    Ask(#[n(0)] Ask),
    /// "This is what I know, and I have written down who you are."
    #[n(1)]
    Answer(#[n(0)] Answer),
    /// "An operator has removed this host from the cluster."
    #[n(2)]
    Removed(#[n(0)] HostId),
}

/// A claimant's question.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Ask {
    /// The machine; with none, the claimant only tells of itself.
    #[n(0)]
    pub machine: Option<MachineId>,
    /// The seats that it needs.
    #[n(1)]
    pub seats: Vec<Seat>,
    /// The claimant's labels.
    #[n(2)]
    pub labels: Labels,
    /// A digest of the hosts that the claimant knows.
    #[n(3)]
    pub known: u64,
}

/// A witness's answer.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Answer {
    /// About the seats.
    #[n(0)]
    pub verdict: Verdict,
    /// The witness's labels.
    #[n(1)]
    pub labels: Labels,
    /// All hosts that the witness knows, where they are not those that the claimant knows; at most
    /// [`HOSTS_MAX`].
    #[n(2)]
    pub hosts: Vec<HostId>,
    /// Hosts that an operator has removed.
    #[n(3)]
    pub removed: Vec<HostId>,
}

/// What a witness says of seats.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Verdict {
    /// "Nothing here is in the way."
    #[n(0)]
    Clear,
    /// "I do not know what I run."
    #[n(1)]
    Unsure,
    /// "I want to take another machine of the group."
    #[n(2)]
    Claimed {
        /// The other machine.
        #[n(0)]
        by: MachineId,
        /// Whether one of the two insists.
        #[n(1)]
        hard: bool,
    },
    /// "I have another machine of the group, or am getting it."
    #[n(3)]
    Taken {
        /// The other machine.
        #[n(0)]
        by: MachineId,
        /// Whether one of the two insists.
        #[n(1)]
        hard: bool,
    },
}

impl Verdict {
    /// The worse of two counts. A wish counts less than that somebody does not know.
    #[must_use]
    pub const fn weight(&self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Claimed { hard: false, .. } => 1,
            Self::Taken { hard: false, .. } => 2,
            Self::Unsure => 3,
            Self::Claimed { hard: true, .. } => 4,
            Self::Taken { hard: true, .. } => 5,
        }
    }
}

/// Most machines that one message names as running.
pub const RUNNING_MAX: usize = 4096;

/// Most groups that one message tells of.
pub const FLOCKS_MAX: usize = 64;

/// What hosts tell each other of what they run.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Watch {
    /// "This is what I run", each machine by a digest of its id; at most [`RUNNING_MAX`]. And of which
    /// groups; at most [`FLOCKS_MAX`].
    #[n(0)]
    Running(#[n(0)] Vec<u64>, #[n(1)] Option<Vec<Flock>>),
    /// "I run this one. Do you?" Said back if so, the first time.
    #[n(1)]
    Runs(#[n(0)] MachineId),
    /// "This is what I know of pauses."
    #[n(2)]
    Pause(#[n(0)] PauseRegister),
}

/// What a host says of itself when it compares loads.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Report {
    /// Its load; 1.0 is the whole host.
    #[n(0)]
    pub load: f64,
    /// Whether it gives and takes.
    #[n(1)]
    pub state: HostState,
    /// [`PROTOCOL`] of the agent; none is 2 or earlier.
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
    Inquire(#[n(0)] Report),
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
        /// Of the donor, now.
        #[n(0)]
        report: Report,
        /// At most [`OFFER_MAX`].
        #[n(1)]
        candidates: Vec<Candidate>,
        /// The resource that loads and prices of this exchange are shares of, if they are.
        #[n(2)]
        measure: Measure,
        /// How full the donor is.
        #[n(3)]
        gauge: Option<Gauge>,
        /// On whose word they are to move, where that is not plain from the report.
        #[n(4)]
        authority: Option<Authority>,
    },
    /// "This is what they would load me", in the order of the offer.
    #[n(4)]
    Quotes {
        /// Of the receiver, now.
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
        /// The donor's verdict on each candidate, in the order of the offer.
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
    /// [`PROTOCOL`] of the surveyor; none is 2 or earlier.
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

/// Most machines that one offer holds.
pub const OFFER_MAX: usize = 64;

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
    /// Its load factors: what it uses, for the receiver to price.
    #[n(3)]
    pub factors: Resources,
    /// What it loads the donor.
    #[n(4)]
    pub at_donor: f64,
    /// Memory that it may come to occupy, in bytes.
    #[n(5)]
    pub memory_bytes: f64,
    /// What it needs of a host besides room.
    #[n(6)]
    pub needs: Requirements,
    /// Groups whose members must not share a host: all that a receiver of an earlier version judges.
    #[n(7)]
    pub anti_affinity: Vec<Group>,
    /// How much more it may come to use.
    #[n(8)]
    pub margin: Option<Resources>,
    /// What its migration is predicted to cost.
    #[n(9)]
    pub cost: Option<Prediction>,
    /// Its rules, of which the receiver judges what only it can know; not for one of an earlier
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

/// The receiver's answer to one candidate.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Quote {
    /// What it would load the receiver.
    #[n(0)]
    pub at_receiver: f64,
    /// Why the receiver cannot take it, if so.
    #[n(1)]
    pub refusal: Option<Reason>,
    /// What is missing, in words that name it.
    #[n(2)]
    pub detail: Option<String>,
}

/// Longest description of a CPU, in bytes; with every feature spelled out it is a tenth of that.
pub const CPU_BYTES_MAX: usize = 32 * 1024;

/// What this version understands within the frames that all versions read: 2 has a commit point of
/// its own, 3 judges all [`Rules`].
pub const PROTOCOL: u16 = 3;

/// What is said in a handoff.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Pass {
    /// Source: "Keep room for this one of your quotes."
    #[n(0)]
    Reserve {
        /// The exchange in which it was quoted.
        #[n(0)]
        exchange: ExchangeId,
        /// The machine.
        #[n(1)]
        machine: MachineId,
        /// Its schedule entry as it will read on the receiver.
        #[n(2)]
        entry: Entry,
        /// The donor's verdict on each candidate, in the order of the offer.
        #[n(3)]
        verdicts: Vec<Reason>,
        /// The machine that is to come back in return, once this one has arrived.
        #[n(4)]
        in_return: Option<MachineId>,
        /// The commit point; the hypervisor's own if there is none.
        #[n(5)]
        commit: Option<Commit>,
        /// Whether the source starts it at boot.
        #[n(6)]
        autostart: Option<bool>,
        /// The source's number for it.
        #[n(7)]
        ticket: Option<Ticket>,
        /// The CPU that it runs with, in its hypervisor's words; at most [`CPU_BYTES_MAX`].
        #[n(12)]
        cpu: Option<String>,
    },
    /// Target: "It is kept; migrate to this address."
    #[n(1)]
    Reserved {
        /// Where the target's hypervisor is reached.
        #[n(0)]
        uri: String,
        /// [`PROTOCOL`] of the target; none if it only knows the hypervisor's commit point.
        #[n(1)]
        protocol: Option<u16>,
        /// The source's number for it, as it was told.
        #[n(2)]
        ticket: Option<Ticket>,
        /// The machine.
        #[n(3)]
        machine: Option<MachineId>,
        /// Where the copies of its local disks go, if it has any that are copied.
        #[n(8)]
        disks: Option<Vec<DiskPlace>>,
    },
    /// Target: "It cannot be."
    #[n(2)]
    Refused {
        /// Why.
        #[n(0)]
        reason: Reason,
        /// What is missing, in words that name it.
        #[n(1)]
        detail: Option<String>,
    },
    /// Source: "It is yours, and its entry is deleted here." Durable before it is said, and repeated
    /// until it is answered. Where the hypervisor takes its time to say so, "no longer runs here" has to
    /// do first (`unanswered`).
    #[n(3)]
    Released {
        /// The machine.
        #[n(0)]
        machine: MachineId,
        /// What the migration cost.
        #[n(1)]
        stats: MigrationStats,
        /// Whether the source started it at boot.
        #[n(2)]
        autostart: Option<bool>,
        /// Whether the source's hypervisor has not answered the migration yet: it is released again
        /// with what it cost once it has.
        #[n(3)]
        unanswered: Option<bool>,
    },
    /// Target: "It runs here, and its entry is inserted."
    #[n(4)]
    Claimed,
    /// Target: "It is not here."
    #[n(5)]
    Missing,
    /// Source: "It stays; forget the reservation, and destroy what has arrived." Repeated until
    /// answered.
    #[n(6)]
    Cancel {
        /// Why.
        #[n(0)]
        reason: Reason,
        /// The machine.
        #[n(1)]
        machine: Option<MachineId>,
    },
    /// Target: "Nothing of it is here any more."
    #[n(7)]
    Discarded,
    /// Source: "What do you hold of it?" Answered by [`Pass::Holding`], [`Pass::Arriving`],
    /// [`Pass::Claimed`] or [`Pass::Missing`].
    #[n(8)]
    Where {
        /// The machine.
        #[n(0)]
        machine: MachineId,
    },
    /// Target: "It is here, complete and paused. Is it mine?" Repeated until answered.
    #[n(9)]
    Holding {
        /// The machine.
        #[n(0)]
        machine: MachineId,
        /// The source's number for it.
        #[n(1)]
        ticket: Option<Ticket>,
    },
    /// Target: "It is arriving."
    #[n(10)]
    Arriving,
}

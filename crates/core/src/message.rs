//! The protocol on one page: everything that one host ever says to another.
//!
//! Field numbers are the wire contract: a number once used is never used for something else, and a
//! field added later is an `Option`. `evenkeel-wire` frames these, checks limits and versions.
//!
//! ```text
//!  initiator                       peer
//!     │ ── Inquire(report, room) ──▶ │   who is the more loaded? (with room: I lack something)
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
//!   source                         target
//!     │ ── Offer(candidates) ──────▶ │   load factors and the source's prices
//!     │ ◀──────── Quotes(prices) ─── │   the target's prices and refusals
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

mod talk;

use minicbor::{Decode, Encode};

use crate::control::PauseRegister;
use crate::decision::Reason;
use crate::flocks::Flock;
use crate::history::History;
use crate::model::{ClaimId, DiskPlace, Entry, ExchangeId, HostId, MachineId, Seat, Ticket};
use crate::port::{Commit, HandoffId, MigrationStats};
use crate::rules::Labels;

pub use self::talk::{
    Appraisal, Appraise, Candidate, OFFER_MAX, Probe, Quote, Report, Room, Standing, Talk, Tenant,
};

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

/// Longest description of a CPU, in bytes; with every feature spelled out it is a tenth of that.
pub const CPU_BYTES_MAX: usize = 32 * 1024;

/// What this version understands within the frames that all versions read: 2 has a commit point of
/// its own, 3 judges all [`Rules`](crate::model::Rules).
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
        /// Its schedule entry as it will read on the target.
        #[n(2)]
        entry: Entry,
        /// The source's verdict on each candidate, in the order of the offer.
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
        /// What it used in the past.
        #[n(13)]
        past: Option<Box<History>>,
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

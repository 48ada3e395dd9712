//! What two hosts have agreed on, before anything of it is done.

use crate::decision::{Decision, Reason};
use crate::message::Candidate;
use crate::model::{Entry, ExchangeId, HostId};

/// What both hosts agreed on: the machine to hand over.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// The exchange.
    pub exchange: ExchangeId,
    /// The other host.
    pub peer: HostId,
    /// The machine and what it needs, as offered.
    pub candidate: Candidate,
    /// What it will load the target.
    pub at_receiver: f64,
    /// Its schedule entry, as it will read on the target.
    pub entry: Entry,
    /// The source's verdict on each candidate offered.
    pub verdicts: Vec<Reason>,
    /// The record of the exchange so far; the handoff will close it.
    pub decision: Decision,
    /// What goes the other way once this has arrived, if anything.
    pub in_return: Option<Candidate>,
}

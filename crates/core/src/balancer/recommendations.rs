//! What a host would move and does not by itself, because it or the other or the machine observes,
//! or asks an operator first.
//!
//! Whatever is found is held for a while: the machine is not looked at again, and a host that is not
//! automatic reckons as if it had gone. So it says each thing once, and what it says next goes with
//! what it has said before.

use std::time::Duration;

use crate::agreement::Agreement;
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::cost::Prediction;
use crate::decision::{Reason, Role};
use crate::handoff::Handoffs;
use crate::host::Host;
use crate::message::{Candidate, Talk};
use crate::model::{HostId, MachineId, MoveId, Time};
use crate::select::{Pair, Price};
use crate::turn::Turn;

/// Most that are held at once; the oldest goes first.
const HELD_MAX: usize = 64;

/// A move that a host recommends.
#[derive(Clone, Debug)]
pub struct Recommendation {
    /// Its id: that of the exchange in which it was found.
    pub id: MoveId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Where to.
    pub to: HostId,
    /// The machine that would come back in return.
    pub in_return: Option<Candidate>,
    /// Both loads, when it was found.
    pub pair: Option<Pair>,
    /// What the machine loads either.
    pub price: Option<Price>,
    /// Of which resource loads and prices are, if not of all together.
    pub measure: Measure,
    /// What it is predicted to cost.
    pub predicted: Option<Prediction>,
    /// When it was found.
    pub since: Time,
    /// When it expires.
    pub until: Time,
    /// Whether it is to mend a rule.
    pub mends: bool,
    /// Whether it only says what would be done.
    pub observed: bool,
    /// Whether an operator does not want it.
    pub skipped: bool,
}

/// What a host holds back.
#[derive(Clone, Debug, Default)]
pub(super) struct Recommendations(Vec<Recommendation>);

impl Recommendations {
    /// What waits for an operator's word, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Recommendation> {
        self.0.iter().filter(|r| !r.observed && !r.skipped)
    }

    /// Drops one, and does not find it again until it would have expired.
    pub(super) fn skip(&mut self, id: MoveId) {
        self.0.iter_mut().filter(|r| r.id == id).for_each(|r| r.skipped = true);
    }

    /// Says what would happen instead of doing it.
    pub(super) fn withhold(
        &mut self,
        agreement: Agreement,
        reason: Reason,
        holds_for: Duration,
        turn: &mut Turn<'_>,
    ) {
        let Agreement { exchange, peer, candidate, verdicts, mut decision, in_return, .. } =
            agreement;
        turn.talk(&peer, exchange, Talk::Close { reason, verdicts });
        (decision.ending, decision.ended) = (reason, turn.now);
        if let Some(observed) = observed(decision.authority) {
            let chosen = decision.chosen();
            let price = chosen.and_then(|c| c.at_donor.zip(c.at_receiver));
            let recommendation = Recommendation {
                id: MoveId(exchange.0),
                mends: candidate.mends.is_some(),
                machine: candidate.machine,
                name: candidate.name,
                to: peer,
                in_return,
                pair: decision.pair,
                price: price.map(|(at_donor, at_receiver)| Price { at_donor, at_receiver }),
                measure: decision.measure,
                predicted: decision.predicted,
                since: turn.now,
                until: turn.now + holds_for,
                observed,
                skipped: false,
            };
            self.hold(recommendation, turn.host);
        }
        turn.record(decision);
    }

    fn hold(&mut self, recommendation: Recommendation, host: &mut Host) {
        self.0.retain(|r| r.machine != recommendation.machine);
        if self.0.len() >= HELD_MAX {
            self.0.remove(0);
        }
        self.0.push(recommendation);
        self.note_in(host);
    }

    /// Forgets what has expired, and what is of a machine that is not here any more.
    pub(super) fn forget(&mut self, handoffs: &Handoffs, turn: &mut Turn<'_>) {
        if self.0.is_empty() {
            return;
        }
        let machines = turn.host.view.machines();
        self.0.retain(|r| {
            turn.now < r.until && machines.contains_key(&r.machine) && !handoffs.moves(&r.machine)
        });
        self.note_in(turn.host);
    }

    /// Has the host reckon with what is held.
    fn note_in(&self, host: &mut Host) {
        let why = |r: &Recommendation| match r.observed {
            true => Reason::Observing,
            false => Reason::AwaitsApproval,
        };
        host.holds.recommended = self.0.iter().map(|r| (r.machine.clone(), why(r))).collect();
    }

    /// One that an operator may approve of.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn known(&self, id: MoveId, host: &Host) -> Result<&Recommendation, String> {
        self.iter().find(|r| r.id == id).ok_or_else(|| {
            format!("host `{}` recommends no move `{id}` any more: it has expired", host.id())
        })
    }

    /// Takes out one that an operator approves of.
    pub(super) fn take(&mut self, id: MoveId, host: &mut Host) -> Option<Recommendation> {
        let index = self.0.iter().position(|r| r.id == id)?;
        let found = self.0.remove(index);
        self.note_in(host);
        Some(found)
    }
}

/// Why what was agreed on does not happen by itself.
pub(super) fn withheld(agreement: &Agreement, turn: &Turn<'_>) -> Option<Reason> {
    let authority = agreement.decision.authority;
    let permitted = turn.host.control.permits(Role::Source, authority, turn.now);
    authority.withheld().or(permitted.err())
}

/// Whether what may not happen on this word is only said; `None` where it may happen.
const fn observed(authority: Authority) -> Option<bool> {
    match authority {
        Authority::Observe => Some(true),
        Authority::Approve => Some(false),
        Authority::Automatic | Authority::Ordered | Authority::Told => None,
    }
}

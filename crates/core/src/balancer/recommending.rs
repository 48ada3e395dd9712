//! What a host would move and does not by itself, because it or the other or the machine observes,
//! or asks an operator first.
//!
//! Whatever is found is held for a while: the machine is not looked at again, and a host that is not
//! automatic reckons as if it had gone. So it says each thing once, and what it says next goes with
//! what it has said before.

use std::time::Duration;

use super::Balancer;
use crate::agreement::Agreement;
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::cost::Prediction;
use crate::decision::Reason;
use crate::effect::{Effect, MoveOrder};
use crate::message::{Candidate, Message, Talk};
use crate::model::{HostId, MachineId, MoveId, Time};
use crate::select::{Pair, Price};

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
    /// Whether it only says what would be done.
    pub observed: bool,
    /// Whether an operator does not want it.
    pub skipped: bool,
}

/// What a host holds back.
#[derive(Clone, Debug, Default)]
pub(super) struct Recommendations(Vec<Recommendation>);

impl Recommendations {
    /// Drops one, and does not find it again until it would have expired.
    pub(super) fn skip(&mut self, id: MoveId) {
        self.0.iter_mut().filter(|r| r.id == id).for_each(|r| r.skipped = true);
    }
}

impl Balancer {
    /// What waits for an operator's word, the oldest first.
    pub fn recommendations(&self) -> impl Iterator<Item = &Recommendation> {
        self.recommendations.0.iter().filter(|r| !r.observed && !r.skipped)
    }

    /// Why what was agreed on does not happen by itself.
    pub(super) fn withheld(&self, agreement: &Agreement, now: Time) -> Option<Reason> {
        let authority = agreement.decision.authority;
        let permitted = self.host.control.permits(crate::decision::Role::Donor, authority, now);
        authority.withheld().or(permitted.err())
    }

    /// Says what would happen instead of doing it.
    pub(super) fn withhold(
        &mut self,
        agreement: Agreement,
        reason: Reason,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        if let Some(survey) = &mut self.survey {
            survey.fruitful = true;
        }
        self.unlucky = 0;
        let Agreement { exchange, peer, candidate, verdicts, mut decision, in_return, .. } =
            agreement;
        let close = Talk::Close { reason, verdicts };
        out.push(Effect::Send(peer.clone(), Message::Exchange(exchange, close)));
        (decision.ending, decision.ended) = (reason, now);
        if let Some(observed) = observed(decision.authority) {
            let chosen = decision.chosen();
            let price = chosen.and_then(|c| c.at_donor.zip(c.at_receiver));
            self.hold(Recommendation {
                id: MoveId(exchange.0),
                machine: candidate.machine,
                name: candidate.name,
                to: peer,
                in_return,
                pair: decision.pair,
                price: price.map(|(at_donor, at_receiver)| Price { at_donor, at_receiver }),
                measure: decision.measure,
                predicted: decision.predicted,
                since: now,
                until: now + self.config.recommendation_time,
                observed,
                skipped: false,
            });
        }
        out.push(Effect::Record(decision));
    }

    fn hold(&mut self, recommendation: Recommendation) {
        let held = &mut self.recommendations.0;
        held.retain(|r| r.machine != recommendation.machine);
        if held.len() >= HELD_MAX {
            held.remove(0);
        }
        held.push(recommendation);
        self.note_held();
    }

    /// Forgets what has expired, and what is of a machine that is not here any more.
    pub(super) fn forget_recommendations(&mut self, now: Time) {
        if self.recommendations.0.is_empty() {
            return;
        }
        let machines = self.host.view.machines();
        let handoffs = &self.handoffs;
        self.recommendations.0.retain(|r| {
            now < r.until && machines.contains_key(&r.machine) && !handoffs.moves(&r.machine)
        });
        self.note_held();
    }

    fn note_held(&mut self) {
        let held = self.recommendations.0.iter();
        let why = |r: &Recommendation| match r.observed {
            true => Reason::Observing,
            false => Reason::AwaitsApproval,
        };
        self.host.holds.recommended = held.map(|r| (r.machine.clone(), why(r))).collect();
    }

    /// Whether a recommendation could be followed now, as far as this host knows by itself.
    ///
    /// # Errors
    /// Why not, in words; nothing changes then.
    pub fn can_approve(&self, id: MoveId) -> Result<&Recommendation, String> {
        let known = self.recommendations().find(|r| r.id == id);
        let known = known.ok_or_else(|| {
            format!("host `{}` recommends no move `{id}` any more: it has expired", self.host.id())
        })?;
        self.can_migrate(&known.machine, Some(&known.to))?;
        Ok(known)
    }

    /// An operator approves: what was recommended is judged anew, and moves if it still helps.
    pub(super) fn approve(&mut self, id: MoveId, now: Time) {
        let Ok(found) = self.can_approve(id) else { return };
        let Recommendation { machine, to, measure, in_return, .. } = found.clone();
        self.recommendations.0.retain(|r| r.id != id);
        self.note_held();
        let order = MoveOrder { id, machine, to: Some(to) };
        self.begin_directed(order, Authority::Ordered, (measure, in_return), now);
    }
}

/// Whether what may not happen on this word is only said; `None` where it may happen.
const fn observed(authority: Authority) -> Option<bool> {
    match authority {
        Authority::Observe => Some(true),
        Authority::Approve => Some(false),
        Authority::Automatic | Authority::Ordered | Authority::Told => None,
    }
}

/// How long a recommendation holds unless told otherwise.
pub(super) const RECOMMENDATION_TIME: Duration = Duration::from_secs(3600);

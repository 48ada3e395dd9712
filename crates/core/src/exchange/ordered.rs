//! An exchange about one machine that an operator has ordered to be moved.

use super::{Exchange, Phase, Step};
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::decision::Reason;
use crate::host::Host;
use crate::message::{Candidate, Talk};
use crate::model::{ExchangeId, MachineId, Time};
use crate::select::{Pair, Price, improves};
use crate::survey::Answer as Answered;

/// What an operator has ordered.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// The machine.
    pub machine: MachineId,
    /// On whose word: loads are judged unless it is [`Authority::Told`].
    pub authority: Authority,
    /// What is to come back in return, of a recommendation that was a swap.
    pub in_return: Option<Candidate>,
}

impl Exchange {
    /// Opens a conversation with an offer of the machine that was ordered, and nothing else.
    #[must_use]
    pub fn order(
        id: ExchangeId,
        to: &Answered,
        ordered: Ordered,
        measure: Measure,
        host: &Host,
        now: Time,
    ) -> Step {
        let Ordered { machine, authority, .. } = ordered.clone();
        let begun = Self::begin(id, to.peer.clone(), host.id().clone(), now);
        let mut exchange = Self { measure, authority, ordered: Some(Box::new(ordered)), ..begun };
        let own = match host.report(measure, now) {
            Ok(own) => own,
            Err(unknown) => {
                let why = unknown.to_string();
                return Step::End(None, exchange.record(host, Reason::UnknownLoad, why, now));
            }
        };
        let Some(known) = host.view.machines().get(&machine) else {
            let why = "it is not here any more".to_owned();
            return Step::End(None, exchange.record(host, Reason::Ended, why, now));
        };
        let mut judged = host.judged(measure, &machine, known);
        let candidate = host.offerable(measure, &machine, &to.toward(authority), now);
        if let Err(refusal) = &candidate {
            (judged.verdict, judged.detail) = (refusal.reason, refusal.detail.clone());
        }
        let candidates: Vec<_> = candidate.into_iter().collect();
        let nothing = candidates.is_empty();
        let offer = Talk::Offer {
            report: own,
            candidates: candidates.clone(),
            measure,
            gauge: host.gauge(now),
            authority: Some(authority),
        };
        exchange.phase = Phase::Offering { own, judged: vec![judged], candidates };
        if nothing {
            let record = exchange.record(host, Reason::NoCandidate, String::new(), now);
            return Step::End(None, record);
        }
        Step::Say(exchange, offer)
    }
}

impl Ordered {
    /// The verdict on the machine, which alone was offered, and what comes back in return with what
    /// that loads here.
    pub(super) fn choose(
        &self,
        pair: &Pair,
        (measure, prices): (Measure, &[Result<Price, Reason>]),
        host: &Host,
    ) -> (Vec<Reason>, Option<(Candidate, f64)>) {
        let back = self.in_return.as_ref().map(|c| (c.clone(), host.price(measure, &c.factors)));
        let judge = |price: &Result<Price, Reason>| {
            let price = (*price)?;
            if self.authority == Authority::Told {
                return Ok(());
            }
            let (at_donor, at_receiver) =
                back.as_ref().map_or((0.0, 0.0), |(c, here)| (*here, c.at_donor));
            let net = Price {
                at_donor: price.at_donor - at_donor,
                at_receiver: price.at_receiver - at_receiver,
            };
            improves(pair, net, &host.calm)
        };
        let verdicts: Vec<_> =
            prices.iter().map(|price| judge(price).err().unwrap_or(Reason::Chosen)).collect();
        let goes = verdicts.contains(&Reason::Chosen);
        (verdicts, back.filter(|_| goes))
    }
}

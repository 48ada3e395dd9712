//! How an exchange opens about one machine that an operator has ordered to be moved.

use super::{Exchange, Offering, Ordered, Phase, Step};
use crate::ceiling::Measure;
use crate::decision::Reason;
use crate::host::{Host, Taker};
use crate::message::Talk;
use crate::model::{ExchangeId, Time};

impl Exchange {
    /// Opens a conversation with an offer of the machine that was ordered, and nothing else.
    #[must_use]
    pub fn order(
        id: ExchangeId,
        to: &Taker,
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
            Err(unknown) => return exchange.unknown(&unknown, host, now),
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
        exchange.phase = Phase::Offering(Offering { own, judged: vec![judged], candidates });
        if nothing {
            let record = exchange.record(host, Reason::NoCandidate, String::new(), now);
            return Step::End(None, record);
        }
        Step::Say(exchange, offer)
    }
}

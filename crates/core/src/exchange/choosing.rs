//! The donor's choice, with both prices.

use super::{Agreement, Exchange, Phase, Step, entry_there, verdicts};
use crate::control::Authority;
use crate::decision::{Judged, Reason};
use crate::host::Host;
use crate::message::{Candidate, Quote, Report, Talk};
use crate::model::{HostState, Time};
use crate::select::{Pair, Price, emptying, half_difference, mending};

impl Exchange {
    /// Donor: selects with both prices.
    #[expect(clippy::too_many_arguments, reason = "the whole of what the choice is made from")]
    pub(super) fn choose(
        mut self,
        own: Report,
        mut judged: Vec<Judged>,
        candidates: Vec<Candidate>,
        theirs: Report,
        quotes: &[Quote],
        host: &Host,
        now: Time,
    ) -> Step {
        let pair = Pair { donor: own.load, receiver: theirs.load };
        let prices: Vec<_> = candidates
            .iter()
            .zip(quotes)
            .map(|(candidate, quote)| match quote.refusal {
                Some(reason) => Err(reason),
                None => Ok(Price { at_donor: candidate.at_donor, at_receiver: quote.at_receiver }),
            })
            .collect();
        let emptied = own.state == HostState::Draining;
        let (mut verdicts, in_return) = match (&self.survey, &self.ordered) {
            (_, Some(ordered)) => ordered.choose(&pair, (self.measure, &prices), host),
            (None, None) if self.mending => {
                let priority = |c: &Candidate| c.rules.as_ref().map_or(0, |rules| rules.priority);
                let ranked: Vec<_> = candidates.iter().map(priority).zip(prices).collect();
                (mending::first(&ranked), None)
            }
            (None, None) if emptied => {
                let sized: Vec<_> = candidates.iter().map(|c| c.memory_bytes).zip(prices).collect();
                (emptying::largest(&sized), None)
            }
            (None, None) => (half_difference(&pair, &prices, &host.settings.calm), None),
            (Some(surveyed), None) => {
                let offer = (self.measure, &candidates[..], &prices[..]);
                surveyed.choose(&pair, &self.toward(&theirs), offer, host, now)
            }
        };
        let chosen = verdicts.iter().position(|&v| v == Reason::Chosen);
        if let Some(index) = chosen.filter(|_| self.mending) {
            verdicts[index] = Reason::RuleRepaired;
        }
        for ((judged, quote), verdict) in judged.iter_mut().zip(quotes).zip(&verdicts) {
            judged.at_receiver = Some(quote.at_receiver);
            judged.verdict = *verdict;
            if quote.refusal == Some(*verdict) {
                judged.detail = quote.detail.clone().unwrap_or_default();
            }
        }
        judged.extend(
            in_return
                .as_ref()
                .map(|(back, at_donor)| verdicts::judged(back, Some(*at_donor), Reason::Returned)),
        );
        let by_loads = !emptied && !self.mending;
        let by_difference = by_loads && self.survey.is_none() && self.ordered.is_none();
        let ending = match chosen {
            _ if by_difference && !pair.exceeds(&host.settings.calm) => Reason::WithinDeadBand,
            None => Reason::NoCandidate,
            Some(_) => Reason::Moved,
        };
        verdicts.iter_mut().for_each(|verdict| *verdict = verdict.told());
        self.phase = Phase::Offering { own, judged, candidates };
        let mut decision = self.record(host, ending, String::new(), now);
        decision.pair = Some(pair);
        let Phase::Offering { mut candidates, .. } = self.phase else { unreachable!("set above") };
        let Some(index) = chosen.filter(|_| ending == Reason::Moved) else {
            return Step::End(Some(Talk::Close { reason: ending, verdicts }), decision);
        };
        let candidate = candidates.swap_remove(index);
        decision.predicted = candidate.cost;
        let at_receiver = quotes[index].at_receiver;
        let Some(entry) = entry_there(host, &self.peer, &candidate, at_receiver, now) else {
            decision.ending = Reason::Ended;
            let close = Talk::Close { reason: Reason::Ended, verdicts };
            return Step::End(Some(close), decision);
        };
        let modes = [theirs.mode.unwrap_or_default(), entry.mode()];
        decision.authority = modes.into_iter().fold(self.authority, Authority::within);
        Step::Agree(Box::new(Agreement {
            exchange: self.id,
            peer: self.peer,
            candidate,
            at_receiver,
            entry,
            verdicts,
            decision,
            in_return: in_return.map(|(back, _)| back),
        }))
    }
}

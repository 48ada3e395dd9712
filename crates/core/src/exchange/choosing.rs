//! The source's choice, with both prices.

use super::{Agreement, Exchange, Offering, Step, entry_there, verdicts};
use crate::control::Authority;
use crate::decision::{Judged, Reason};
use crate::host::Host;
use crate::message::{Candidate, Quote, Report, Talk};
use crate::model::{HostState, Time};
use crate::select::{Pair, Price, emptying, half_difference, mending};

/// What a source chooses.
struct Choice {
    /// On each candidate.
    verdicts: Vec<Reason>,
    /// What comes back in return, with what it loads here.
    in_return: Option<(Candidate, f64)>,
}

impl From<(Vec<Reason>, Option<(Candidate, f64)>)> for Choice {
    fn from((verdicts, in_return): (Vec<Reason>, Option<(Candidate, f64)>)) -> Self {
        Self { verdicts, in_return }
    }
}

/// Both prices of each candidate, or why it cannot be taken.
fn prices(candidates: &[Candidate], quotes: &[Quote]) -> Vec<Result<Price, Reason>> {
    let price = |(candidate, quote): (&Candidate, &Quote)| match quote.refusal {
        Some(reason) => Err(reason),
        None => Ok(Price { at_donor: candidate.at_donor, at_receiver: quote.at_receiver }),
    };
    candidates.iter().zip(quotes).map(price).collect()
}

/// The verdicts as the record has them.
fn judge(mut judged: Vec<Judged>, quotes: &[Quote], choice: &Choice) -> Vec<Judged> {
    for ((judged, quote), verdict) in judged.iter_mut().zip(quotes).zip(&choice.verdicts) {
        judged.at_receiver = Some(quote.at_receiver);
        judged.verdict = *verdict;
        if quote.refusal == Some(*verdict) {
            judged.detail = quote.detail.clone().unwrap_or_default();
        }
    }
    let back = choice.in_return.as_ref();
    judged.extend(
        back.map(|(back, at_donor)| verdicts::judged(back, Some(*at_donor), Reason::Returned)),
    );
    judged
}

impl Exchange {
    /// Source: selects with both prices.
    pub(super) fn choose(
        self,
        offering: Offering,
        theirs: &Report,
        quotes: &[Quote],
        host: &Host,
        now: Time,
    ) -> Step {
        let pair = Pair { donor: offering.own.load, receiver: theirs.load };
        let mut choice = self.select(&offering, theirs, quotes, host, now);
        let chosen = choice.verdicts.iter().position(|&v| v == Reason::Chosen);
        if let Some(index) = chosen.filter(|_| self.mending) {
            choice.verdicts[index] = Reason::RuleRepaired;
        }
        let judged = judge(offering.judged, quotes, &choice);
        let by_loads = offering.own.state != HostState::Draining && !self.mending;
        let by_difference = by_loads && self.survey.is_none() && self.ordered.is_none();
        let ending = match chosen {
            _ if by_difference && !pair.exceeds(&host.settings.calm) => Reason::WithinDeadBand,
            None => Reason::NoCandidate,
            Some(_) => Reason::Moved,
        };
        let verdicts: Vec<_> = choice.verdicts.iter().map(|verdict| verdict.told()).collect();
        let mut decision = self.record(host, ending, String::new(), now);
        (decision.pair, decision.candidates) = (Some(pair), judged);
        let Some(index) = chosen.filter(|_| ending == Reason::Moved) else {
            return Step::End(Some(Talk::Close { reason: ending, verdicts }), decision);
        };
        let mut candidates = offering.candidates;
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
            in_return: choice.in_return.map(|(back, _)| back),
        }))
    }

    /// By the rule that this exchange goes by.
    fn select(
        &self,
        offering: &Offering,
        theirs: &Report,
        quotes: &[Quote],
        host: &Host,
        now: Time,
    ) -> Choice {
        let Offering { own, candidates, .. } = offering;
        let pair = Pair { donor: own.load, receiver: theirs.load };
        let prices = prices(candidates, quotes);
        let emptied = own.state == HostState::Draining;
        match (&self.survey, &self.ordered) {
            (_, Some(ordered)) => ordered.choose(&pair, (self.measure, &prices), host).into(),
            (None, None) if self.mending => {
                let priority = |c: &Candidate| c.rules.as_ref().map_or(0, |rules| rules.priority);
                let ranked: Vec<_> = candidates.iter().map(priority).zip(prices).collect();
                (mending::first(&ranked), None).into()
            }
            (None, None) if emptied => {
                let sized: Vec<_> = candidates.iter().map(|c| c.memory_bytes).zip(prices).collect();
                (emptying::largest(&sized), None).into()
            }
            (None, None) => (half_difference(&pair, &prices, &host.settings.calm), None).into(),
            (Some(surveyed), None) => {
                let offer = (self.measure, &candidates[..], &prices[..]);
                surveyed.choose(&pair, &self.toward(theirs), offer, host, now).into()
            }
        }
    }
}

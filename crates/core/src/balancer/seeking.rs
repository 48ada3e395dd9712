//! How a host that knows the mean looks for somebody to give to, and keeps what swaps promise.

use rand::Rng;

use super::Balancer;
use crate::decision::Reason;
use crate::effect::{Effect, Timer};
use crate::exchange::Exchange;
use crate::message::{Message, Probe, Standing, Talk};
use crate::model::{ExchangeId, HostId, Time};
use crate::port::HandoffId;
use crate::select::{LOAD_EPSILON, MeanAware, Policy};
use crate::survey::Survey;

/// A change of a host's excess by more than this part of it is worth a new search.
const NEWS: f64 = 0.25;

impl Balancer {
    /// Asks several others how they stand if there is something to give, one if the cluster is not
    /// known yet or it has been some time, and nobody otherwise.
    pub(super) fn ask_around(
        &mut self,
        id: ExchangeId,
        policy: &MeanAware,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        if self.survey.as_ref().is_some_and(|survey| !survey.is_ready()) {
            return;
        }
        let learning = self.host.averaging.tick();
        self.silent_rounds += 1;
        let excess = self.host.excess(now).unwrap_or(0.0);
        let overloaded = excess > LOAD_EPSILON;
        // What was found out about another load says nothing about this one.
        if (excess - self.unlucky_at).abs() > NEWS * self.unlucky_at.abs() {
            self.unlucky = 0;
        }
        let is_turn = self.silent_rounds >= policy.idle_rounds.max(1);
        let hopeful = self.unlucky < policy.surveys_max();
        let giving = overloaded && (hopeful || is_turn);
        if !giving && !learning && !is_turn {
            return;
        }
        self.silent_rounds = 0;
        let count = if giving { policy.probes.max(1) } else { 1 };
        let peers = self.draw(count, rng);
        let told = self.host.averaging.told();
        let fresh_until = now + self.config.round;
        let (survey, probes) = Survey::open(id, &peers, giving, told, fresh_until);
        out.extend(probes.map(|(to, talk)| Effect::Send(to, Message::Exchange(id, talk))));
        let limit = now + self.config.limits.reply_time_max.min(self.config.round / 2);
        out.push(Effect::SetTimer(Timer::Exchange(id), limit));
        self.survey = Some(survey);
    }

    /// Answers how this host stands.
    pub(super) fn stand(&mut self, from: &HostId, probe: Probe, now: Time) -> Talk {
        let giving = probe.giving && !self.is_busy();
        match self.host.standing(from, giving, now) {
            Ok((report, room)) => {
                let estimate = probe.estimate.map(|theirs| self.host.averaging.answer(theirs));
                Talk::Standing(Standing { report, estimate, room })
            }
            Err(unknown) => {
                let (reason, detail) = (Reason::UnknownLoad, unknown.to_string());
                Talk::Decline { reason, detail, report: None }
            }
        }
    }

    /// Goes on with a survey that has been answered: offers to the best of those that are left.
    pub(super) fn pursue(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        let Policy::MeanAware(policy) = self.config.policy else { return };
        while self.survey.as_ref().is_some_and(Survey::is_ready) && !self.is_busy() {
            let Some(mut survey) = self.survey.take() else { return };
            match self.host.is_overloaded(now) {
                _ if !survey.is_giving() && !self.stopping => {
                    let record =
                        self.lonely(survey.id(), Reason::WithinDeadBand, String::new(), now);
                    return out.push(Effect::Record(record));
                }
                _ if !survey.is_fresh(now) || self.stopping => return,
                // Known again with the next sample.
                None => return self.survey = Some(survey),
                Some(false) => return self.unlucky = 0,
                Some(true) => {}
            }
            let value_max = (self.unlucky / policy.patience.max(1)).min(2) as i32;
            let Some(best) = survey.best(&self.host, value_max, now) else {
                if survey.answered && !survey.fruitful {
                    self.unlucky = self.unlucky.saturating_add(1);
                    self.unlucky_at = self.host.excess(now).unwrap_or(0.0);
                    let detail = "no host asked can take a machine such that both end better off";
                    let record =
                        self.lonely(survey.id(), Reason::NoCandidate, detail.to_owned(), now);
                    out.push(Effect::Record(record));
                }
                return;
            };
            self.survey = Some(survey);
            let (id, peer) = (ExchangeId(rng.next_u64()), best.peer.clone());
            let step = Exchange::propose(id, best, value_max, &self.host, now);
            self.step(step, &peer, id, now, rng, out);
        }
    }

    /// Keeps a promise once it is due, and stops waiting for what is owed once it is overdue.
    pub(super) fn swap(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        if let Some(promise) = self.promise.take_if(|p| !self.handoffs.is_live(p.after))
            && self.handoffs.has_just_moved(promise.after)
            && !self.stopping
            && let Some(agreement) = promise.keep(&self.host, now)
        {
            let id = HandoffId(rng.next_u64());
            self.give(id, agreement, now, out);
        }
        if let Some(owed) = &mut self.owed
            && !owed.overdue
            && !self.handoffs.is_live(owed.after)
        {
            owed.overdue = true;
            let limit = now + self.config.limits.reply_time_max;
            out.push(Effect::SetTimer(Timer::Exchange(owed.exchange), limit));
        }
    }

    /// Whether there is nothing to do as far as this host knows: it knows the cluster, is not above
    /// its limit or has found nobody to give to for some time, and nothing is under way.
    #[must_use]
    pub fn is_content(&self, now: Time) -> bool {
        let idle = !self.is_busy() && self.handoffs.iter().next().is_none();
        let Policy::MeanAware(policy) = self.config.policy else { return idle };
        let settled = self.host.averaging.is_steady() || self.members.is_empty();
        let hopeless = self.unlucky >= policy.surveys_max();
        idle && settled && (hopeless || self.host.is_overloaded(now) != Some(true))
    }
}

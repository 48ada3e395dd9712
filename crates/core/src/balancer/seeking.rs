//! How a host that knows the mean looks for somebody to give to, and keeps what swaps promise.

use std::time::Duration;

use rand::Rng;

use super::Balancer;
use crate::ceiling::Measure;
use crate::decision::{Decision, Reason, Role};
use crate::effect::{Effect, Timer};
use crate::exchange::{Agreement, Exchange};
use crate::message::{Message, Probe, Standing, Talk};
use crate::model::{ExchangeId, HostId, Time};
use crate::select::mean_aware::is_trifle;
use crate::select::{MeanAware, Policy};
use crate::survey::Survey;

/// A change of a host's excess by more than this part of it is worth a new search.
const NEWS: f64 = 0.25;
/// A host that has just moved something asks again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// Rounds for which a host that was full is taken to be so still.
const FULL_ROUNDS: u32 = 6;
/// Hosts are drawn for so many to be asked, so that there is a choice.
const DRAWN_PER_ASKED: usize = 3;

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
        let permitted = self.host.control.permits(Role::Donor, self.host.authority(), now).is_ok();
        let belongs = if permitted { self.mend(now) } else { None };
        let mending = belongs.is_some();
        let wanted = self.host.wants_to_give(now).flatten();
        let wanted = wanted.filter(|_| !mending && !self.is_emptying());
        let measure = wanted.flatten();
        let excess = self.host.excess(measure, now).unwrap_or(0.0);
        let overloaded = wanted.is_some();
        // What was found out about another load says nothing about this one.
        if (excess - self.unlucky_at).abs() > NEWS * self.unlucky_at.abs() {
            self.unlucky = 0;
        }
        let is_turn = self.silent_rounds >= policy.idle_rounds.max(1);
        let hopeful = !self.is_hopeless(policy, measure, now);
        let wants = overloaded && (hopeful || is_turn);
        let held_back = self.host.may_give(now).err().filter(|_| wants);
        if let Some(reason) = held_back {
            out.push(Effect::Record(self.lonely(id, reason, String::new(), now)));
        }
        let giving = mending || wants && held_back.is_none();
        let asking = !giving && self.wants_to_take(policy, is_turn, now);
        if !giving && !asking && !learning && !is_turn {
            return;
        }
        self.silent_rounds = 0;
        let count = if giving || asking { policy.probes.max(1) } else { 1 };
        let mut peers = self.draw(if giving { DRAWN_PER_ASKED * count } else { count }, rng);
        if let Some(target) = self.host.target(None).filter(|_| measure.is_none() && !asking) {
            let span = self.config.round * FULL_ROUNDS;
            peers = self.crowded.pick(peers, count, target, span, now);
        }
        let mut asked = belongs.unwrap_or_default();
        peers.retain(|peer| !asked.contains(peer));
        asked.append(&mut peers);
        asked.truncate(count);
        let peers = asked;
        let told = self.host.averaging.told();
        let fresh_until = now + self.config.round;
        let what = (giving, measure, self.host.authority(), mending);
        let (survey, probes) = Survey::open(id, &peers, what, told, fresh_until);
        out.extend(probes.map(|(to, talk)| Effect::Send(to, Message::Exchange(id, talk))));
        let limit = now + self.config.limits.reply_time_max.min(self.config.round / 2);
        out.push(Effect::SetTimer(Timer::Exchange(id), limit));
        self.survey = Some(if asking { survey.asking() } else { survey });
    }

    /// Whether this host should ask others for something, because it is far below its fair share.
    fn wants_to_take(&self, policy: &MeanAware, is_turn: bool, now: Time) -> bool {
        let hopeful = is_turn || self.unfed < policy.surveys_max();
        hopeful && !self.stopping && !self.is_busy() && self.may_ask(now)
    }

    /// Whether it lacks something and may take it.
    fn may_ask(&self, now: Time) -> bool {
        let takes = self.host.takes(self.host.authority(), now).is_ok();
        let observes = self.host.authority() < crate::control::Authority::Automatic;
        takes && !observes && self.host.lacks(now) == Some(true)
    }

    /// Goes on with a survey for somebody to take from: asks the most loaded of those that are left.
    fn beg(&mut self, mut survey: Survey, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        let standing = self.host.asks(now).filter(|_| survey.is_fresh(now) && self.may_ask(now));
        let best = standing.and_then(|(own, room)| {
            let peer = survey.fullest(own.load)?;
            Some((peer, own, room))
        });
        let Some((peer, own, room)) = best else {
            if survey.fruitful {
                self.unfed = 0;
                out.push(Effect::SetTimer(Timer::Round, now + AGAIN));
            } else {
                self.unfed = self.unfed.saturating_add(1);
                let record = self.lonely(survey.id(), Reason::NoCandidate, String::new(), now);
                out.push(Effect::Record(record));
            }
            return;
        };
        self.survey = Some(survey);
        let id = ExchangeId(rng.next_u64());
        let (exchange, inquiry) = Exchange::ask(id, peer, &self.host, (own, room), now);
        self.say(exchange, inquiry, now, out);
    }

    /// A host has agreed to take a machine: it counts on, as it stands then.
    pub(super) fn count_on(&mut self, agreement: &Agreement) {
        let Some(mut answer) = self.pursued.take_if(|a| a.peer == agreement.peer) else { return };
        if agreement.in_return.is_some() || agreement.decision.measure.is_some() {
            return;
        }
        self.host.with(&mut answer, &agreement.candidate.machine, agreement.at_receiver);
        if let Some(survey) = &mut self.survey {
            survey.again(answer);
        }
    }

    /// Whether so many surveys were in vain that no more is to be expected of another one.
    fn is_hopeless(&self, policy: &MeanAware, measure: Measure, now: Time) -> bool {
        let (excess, target) = (self.host.excess(measure, now), self.host.target(measure));
        let trifle = excess.zip(target).is_some_and(|(excess, target)| is_trifle(excess, target));
        self.unlucky >= if trifle { policy.patience } else { policy.surveys_max() }
    }

    /// Answers how this host stands.
    pub(super) fn stand(&mut self, from: &HostId, probe: Probe, now: Time) -> Talk {
        if probe.giving && probe.measure.is_none() {
            // It has more than it wants to have, however much that is.
            self.crowded.hear(from, f64::INFINITY, now);
        }
        let busy = probe.giving && self.is_busy();
        match self.host.standing(from, &Probe { giving: probe.giving && !busy, ..probe }, now) {
            Ok((report, room)) => {
                let estimate = probe.estimate.map(|theirs| self.host.averaging.answer(theirs));
                let refusal = room.as_ref().err().copied().flatten();
                let refusal = if busy { Some(Reason::Busy) } else { refusal };
                Talk::Standing(Standing { report, estimate, room: room.ok(), refusal })
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
            if survey.is_asking() && !self.stopping {
                return self.beg(survey, now, rng, out);
            }
            match self.host.is_overloaded(now) {
                _ if survey.is_mending() && survey.is_fresh(now) && !self.stopping => {
                    if !self.host.mends(now) {
                        return;
                    }
                }
                overloaded if !survey.is_giving() && !self.stopping => {
                    let ending = match (overloaded, self.host.target(None)) {
                        // What keeps it from giving is on record already.
                        (Some(true), _) => return,
                        (_, None) => Reason::Learning,
                        (_, Some(_)) => Reason::WithinDeadBand,
                    };
                    let record = self.lonely(survey.id(), ending, String::new(), now);
                    return out.push(Effect::Record(record));
                }
                _ if !survey.is_fresh(now) || self.stopping => {
                    if survey.fruitful && self.host.levelling(None).is_some() {
                        out.push(Effect::SetTimer(Timer::Round, now + AGAIN));
                    }
                    return;
                }
                // Known again with the next sample.
                None => return self.survey = Some(survey),
                Some(false) => {
                    self.unlucky = 0;
                    let detail = "it is above its limit no more".to_owned();
                    let id = survey.id();
                    let record = self.lonely(id, Reason::WithinDeadBand, detail, now);
                    return out.push(Effect::Record(record));
                }
                // What was asked for is not what matters any more: the next survey asks for that.
                Some(true) if self.host.wants_to_give(now) != Some(Some(survey.measure())) => {
                    return;
                }
                Some(true) => {}
            }
            let value_max = (self.unlucky / policy.patience.max(1)).min(2) as i32;
            let Some(best) = survey.best(&self.host, value_max, now) else {
                if survey.is_mending() {
                    return self.mended_in_vain(&survey, now, out);
                }
                if survey.answered && !survey.fruitful {
                    self.unlucky = self.unlucky.saturating_add(1);
                    self.unlucky_at = self.host.excess(survey.measure(), now).unwrap_or(0.0);
                }
                if survey.fruitful && self.host.levelling(survey.measure()).is_some() {
                    out.push(Effect::SetTimer(Timer::Round, now + AGAIN));
                }
                if !survey.fruitful {
                    let refused = survey.refused_for();
                    out.push(Effect::Record(match refused {
                        Some((reason, detail)) => self.lonely(survey.id(), reason, detail, now),
                        None => self.fruitless(&survey, now),
                    }));
                }
                return;
            };
            let (measure, mending) = (survey.measure(), survey.is_mending());
            self.survey = Some(survey);
            self.pursued = self.host.levelling(measure).map(|_| best.clone());
            let (id, peer) = (ExchangeId(rng.next_u64()), best.peer.clone());
            let step = Exchange::propose(id, best, (measure, mending), value_max, &self.host, now);
            self.step(step, &peer, id, now, rng, out);
        }
    }

    /// The record of a survey that nothing came of.
    fn fruitless(&self, survey: &Survey, now: Time) -> Decision {
        let (ending, detail) = match survey.heard {
            0 => (Reason::TimedOut, "none of the hosts asked has answered"),
            _ if !survey.answered => (Reason::NoRoom, ""),
            _ => {
                let detail = "no host asked can take a machine such that both end better off";
                (Reason::NoCandidate, detail)
            }
        };
        let record = self.lonely(survey.id(), ending, detail.to_owned(), now);
        // Plans judge again by themselves what stays.
        let judged = survey.answered && !self.config.tentative;
        let candidates = if judged { survey.verdicts(&self.host, now) } else { Vec::new() };
        Decision { role: Some(Role::Donor), measure: survey.measure(), candidates, ..record }
    }

    /// Keeps a promise once it is due, and stops waiting for what is owed once it is overdue.
    pub(super) fn swap(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        if let Some(promise) = self.promise.take_if(|p| !self.handoffs.is_live(p.after))
            && self.handoffs.has_just_moved(promise.after)
            && !self.stopping
            && let Some(agreement) = promise.keep(&self.host, now)
        {
            let id = self.draw_handoff(rng);
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
        let measure = self.host.wants_to_give(now).flatten().flatten();
        idle && settled
            && !self.may_mend(now)
            && (self.is_hopeless(&policy, measure, now)
                || self.host.is_overloaded(now) != Some(true))
    }
}

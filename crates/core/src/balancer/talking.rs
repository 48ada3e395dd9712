//! What is said in an exchange: to whom it belongs, and what follows from it.

use rand::Rng;

use super::Balancer;
use super::mending::Mending;
use crate::decision::Reason;
use crate::effect::{Effect, Timer};
use crate::exchange::{Answer, Exchange, Offered, Step};
use crate::message::{Message, Probe, Standing, Talk};
use crate::model::{ExchangeId, HostId, Time};
use crate::survey::Survey;
use crate::swap::Owed;

/// Leaves an estimate out that cannot be.
fn doubt(talk: &mut Talk, now: Time) {
    let (Talk::Probe(Probe { estimate, .. }) | Talk::Standing(Standing { estimate, .. })) = talk
    else {
        return;
    };
    *estimate = estimate.take().filter(|estimate| estimate.can_be(now));
}

impl Balancer {
    pub(super) fn talk(
        &mut self,
        id: ExchangeId,
        from: &HostId,
        mut talk: Talk,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        doubt(&mut talk, now);
        // Plans have no use for it, and too many hosts.
        if !self.config.tentative {
            let asked = self.survey.as_ref().filter(|survey| survey.id() == id);
            self.others.hear(from, &talk, asked.and_then(Survey::measure), now);
        }
        if let Some(exchange) = self.exchange.take_if(|e| e.id() == id && e.peer() == from) {
            if exchange.has_answered(&talk) {
                self.exchange = Some(exchange);
                return;
            }
            let step = exchange.hear(talk, &self.host, now);
            return self.step(step, from, id, now, rng, out);
        }
        if let Some(survey) = self.survey.as_mut().filter(|survey| survey.id() == id) {
            match talk {
                Talk::Standing(standing) => {
                    if survey.measure().is_none() {
                        self.crowded.hear(from, standing.report.load, now);
                    }
                    survey.hear(from, standing, &mut self.host);
                }
                _ => survey.refuse(from),
            }
            return;
        }
        if let Some((_, asked)) = self.appraising.iter_mut().find(|(_, asked)| asked.id == id) {
            match talk {
                Talk::Appraisal(said) => asked.hear(from, said),
                _ => asked.miss(from),
            }
            return;
        }
        if self.hear_standing(id, from, &talk) {
            return;
        }
        self.remind_of_pause(from, &talk, now, out);
        let refuse = |reason| Talk::Decline { reason, detail: String::new(), report: None };
        let reply = |talk| Effect::Send(from.clone(), Message::Exchange(id, talk));
        match talk {
            Talk::Inquire(..) | Talk::Offer { .. } | Talk::Probe(_) | Talk::Appraise(_)
                if self.stopping =>
            {
                out.push(reply(refuse(Reason::Stopping)));
            }
            Talk::Inquire(..) | Talk::Offer { .. } if self.is_busy() => {
                out.push(reply(refuse(Reason::Busy)));
            }
            Talk::Inquire(theirs, room) => {
                let room = room.map(|room| *room);
                match Exchange::answer(id, from, (theirs, room), &self.host, now) {
                    Answer::Say(talk) => out.push(reply(talk)),
                    Answer::Engage(exchange, talk) => self.say(exchange, talk, now, out),
                    Answer::Decline(talk, record) => {
                        out.push(reply(talk));
                        out.push(Effect::Record(record));
                    }
                }
            }
            Talk::Offer { report, candidates, measure, gauge, authority } => {
                let offered = Offered { report, candidates, measure, gauge, authority };
                let step = Exchange::take_offer(id, from, offered, &self.host, now);
                self.step(step, from, id, now, rng, out);
            }
            Talk::Probe(probe) => out.push(reply(self.stand(from, probe, now))),
            Talk::Appraise(asked) => out.push(reply(self.appraise(&asked, now))),
            // Late: that conversation is over, and both sides have their limits of time.
            Talk::Accept(_)
            | Talk::Decline { .. }
            | Talk::Quotes { .. }
            | Talk::Close { .. }
            | Talk::Standing(_)
            | Talk::Appraisal(_) => {}
        }
    }

    pub(super) fn step(
        &mut self,
        step: Step,
        peer: &HostId,
        id: ExchangeId,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        match step {
            Step::Say(exchange, talk) => self.say(exchange, talk, now, out),
            Step::End(talk, record) => {
                if let Some(talk) = talk {
                    out.push(Effect::Send(peer.clone(), Message::Exchange(id, talk)));
                }
                out.push(Effect::Record(record));
            }
            Step::Agree(agreement) => {
                if let Some(reason) = self.withheld(&agreement, now) {
                    return self.withhold(*agreement, reason, now, out);
                }
                let handoff = self.draw_handoff(rng);
                self.directed.agreed(id, handoff);
                self.count_on(&agreement);
                if let Some(survey) = &mut self.survey {
                    survey.fruitful = true;
                }
                self.unlucky = 0;
                self.mending = Mending::default();
                self.owed = Owed::of(&agreement, handoff);
                self.give(handoff, *agreement, now, out);
            }
        }
    }

    pub(super) fn say(&mut self, exchange: Exchange, talk: Talk, now: Time, out: &mut Vec<Effect>) {
        let id = exchange.id();
        out.push(Effect::Send(exchange.peer().clone(), Message::Exchange(id, talk)));
        let limit = now + self.config.limits.reply_time_max;
        out.push(Effect::SetTimer(Timer::Exchange(id), limit));
        self.exchange = Some(exchange);
    }
}

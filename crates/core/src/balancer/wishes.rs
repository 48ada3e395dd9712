//! What an operator wishes and several hosts have to be asked about first.

use rand::Rng;

use super::Balancer;
use crate::appraisal::{Answer, Appraiser, Appraising, Fit, Lacking, Wish, WishId, fit, places};
use crate::decision::Reason;
use crate::effect::{Effect, Timer};
use crate::host::Host;
use crate::message::{Appraise, Candidate, Message, OFFER_MAX, Talk};
use crate::model::{ExchangeId, HostId, HostState, Time};

/// Questions under way at once; further wishes are refused.
const ASKED_MAX: usize = 8;
/// Most hosts that are asked whether they can hold another one's machines.
const HOLDERS_MAX: usize = 256;
/// Most hosts that are asked where a new machine fits best. In larger clusters as many are drawn at
/// random: the best of 16 is among the best sixteenth with a chance of two in three.
const PLACES_MAX: usize = 16;

/// What a question is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// Whom to give to next.
    Empty,
    Drain {
        wish: WishId,
        force: bool,
        /// Machines that may not leave, whoever would take them.
        bound: Vec<Lacking>,
    },
    Place(WishId),
}

impl Balancer {
    pub(super) fn wish(
        &mut self,
        id: WishId,
        wish: Wish,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        let refuse = |why: String| Effect::Answer(id, Answer::Refused(why));
        if self.appraising.len() >= ASKED_MAX {
            return out.push(refuse(format!("{ASKED_MAX} questions are under way: try again")));
        }
        if self.stopping {
            return out.push(refuse("the agent is stopping".to_owned()));
        }
        match wish {
            Wish::Drain { .. } if self.host.state == HostState::Draining => {
                out.push(Effect::Answer(id, Answer::Drain(Fit { begins: true, ..Fit::default() })));
            }
            Wish::Drain { force } => {
                let peers = self.draw(HOLDERS_MAX, rng);
                let emptied = Host { state: HostState::Draining, ..self.host.clone() };
                let (candidates, stay) = emptied.to_give(&peers, now);
                let bound = stay.iter().filter(|(.., refusal)| !passes(refusal.reason));
                let bound = bound.map(|(_, machine, refusal)| Lacking::bound(machine, refusal));
                let purpose = Purpose::Drain { wish: id, force, bound: bound.collect() };
                self.ask(purpose, candidates, &peers, HostState::Draining, now, rng, out);
            }
            Wish::Place(candidate) => {
                let peers = self.draw(PLACES_MAX, rng);
                self.ask(
                    Purpose::Place(id),
                    vec![*candidate],
                    &peers,
                    HostState::Active,
                    now,
                    rng,
                    out,
                );
            }
        }
        self.appraised(now, out);
    }

    /// Asks `peers` for their prices.
    #[expect(clippy::too_many_arguments, reason = "who asks whom what, and what for")]
    pub(super) fn ask(
        &mut self,
        purpose: Purpose,
        candidates: Vec<Candidate>,
        peers: &[HostId],
        giver: HostState,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        let id = ExchangeId(rng.next_u64());
        let gauge = self.host.gauge(now).filter(|_| giver == HostState::Draining);
        let asked = candidates.iter().take(OFFER_MAX).cloned().collect();
        let question = Appraise { candidates: asked, giver, gauge };
        for peer in peers {
            let talk = Talk::Appraise(question.clone());
            out.push(Effect::Send(peer.clone(), Message::Exchange(id, talk)));
        }
        let limit = now + self.config.limits.reply_time_max;
        out.push(Effect::SetTimer(Timer::Exchange(id), limit));
        self.appraising.push((purpose, Appraising::new(id, candidates, peers)));
    }

    /// Answers another host's question.
    pub(super) fn appraise(&self, asked: &Appraise, now: Time) -> Talk {
        match self.host.appraise(asked, self.is_busy(), now) {
            Ok(said) => Talk::Appraisal(said),
            Err(unknown) => Talk::Decline {
                reason: Reason::UnknownLoad,
                detail: unknown.to_string(),
                report: None,
            },
        }
    }

    /// Deals with questions that have been answered.
    pub(super) fn appraised(&mut self, now: Time, out: &mut Vec<Effect>) {
        let ready = |(_, asked): &(Purpose, Appraising)| asked.is_ready();
        while let Some(index) = self.appraising.iter().position(ready) {
            let (purpose, asked) = self.appraising.remove(index);
            self.conclude(purpose, asked, now, out);
        }
    }

    /// Deals with a question that has been answered by as many as ever will.
    pub(super) fn conclude(
        &mut self,
        purpose: Purpose,
        asked: Appraising,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        match purpose {
            Purpose::Empty => self.found(asked, now),
            Purpose::Place(wish) => {
                let silent = asked.silent().len();
                let Some(candidate) = asked.candidates.into_iter().next() else { return };
                let mut hosts = asked.answers;
                let count = hosts.len() + silent + 1;
                let question = Appraise {
                    candidates: vec![candidate.clone()],
                    giver: HostState::Active,
                    gauge: None,
                };
                if let Ok(said) = self.host.appraise(&question, self.is_busy(), now) {
                    hosts.push(Appraiser { host: self.host.id().clone(), said });
                }
                let places = places(&candidate, &hosts);
                out.push(Effect::Answer(wish, Answer::Place(places, count)));
            }
            Purpose::Drain { wish, force, bound } => {
                let silent = asked.silent();
                let machines = asked.candidates.len() + bound.len();
                let bytes = asked.candidates.iter().map(|c| c.memory_bytes);
                let bytes = bytes.chain(bound.iter().map(|l| l.memory_bytes)).sum();
                let (lacking, no_spare) = fit(&asked.candidates, &asked.answers);
                let lacking: Vec<_> = bound.into_iter().chain(lacking).collect();
                // Nothing to hold: the rest is as it was.
                let no_spare = no_spare.filter(|_| machines > 0);
                let fit = Fit {
                    hosts: asked.answers.len(),
                    silent,
                    machines,
                    memory_bytes: bytes,
                    begins: force || lacking.is_empty() && no_spare.is_none(),
                    lacking,
                    no_spare,
                };
                if fit.begins {
                    self.set_state(HostState::Draining, now);
                }
                out.push(Effect::Answer(wish, Answer::Drain(fit)));
            }
        }
    }
}

/// Whether what keeps a machine from leaving passes by itself.
const fn passes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UnderWay
            | Reason::Quarantined
            | Reason::FailedThere
            | Reason::TargetFails
            | Reason::UnknownLoad
    )
}

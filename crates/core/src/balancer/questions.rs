//! What an operator wishes and several hosts have to be asked about first.

use super::scene::Scene;
use crate::appraisal::{Answer, Appraiser, Appraising, Fit, Lacking, Wish, WishId, fit, places};
use crate::decision::Reason;
use crate::effect::{Effect, Timer};
use crate::host::Host;
use crate::message::{Appraise, Candidate, OFFER_MAX, Talk};
use crate::model::{ExchangeId, HostId, HostState};
use crate::turn::Turn;

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

/// A question to several hosts: what they could take.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) purpose: Purpose,
    pub(super) candidates: Vec<Candidate>,
    pub(super) peers: &'a [HostId],
    /// The state of the host that gives.
    pub(super) giver: HostState,
}

/// Questions to several hosts that wait for answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions(Vec<(Purpose, Appraising)>);

impl Questions {
    /// Whether others are being asked whom to give to next.
    pub(super) fn ask_for_room(&self) -> bool {
        self.0.iter().any(|(purpose, _)| matches!(purpose, Purpose::Empty))
    }

    /// An operator wishes something.
    pub(super) fn wish(&mut self, id: WishId, wish: Wish, scene: &Scene, turn: &mut Turn<'_>) {
        let refuse = |why: String| Effect::Answer(id, Answer::Refused(why));
        if self.0.len() >= ASKED_MAX {
            return turn
                .out
                .push(refuse(format!("{ASKED_MAX} questions are under way: try again")));
        }
        if scene.stopping {
            return turn.out.push(refuse("the agent is stopping".to_owned()));
        }
        match wish {
            Wish::Drain { .. } if turn.host.state == HostState::Draining => {
                let fit = Fit { begins: true, ..Fit::default() };
                turn.out.push(Effect::Answer(id, Answer::Drain(fit)));
            }
            Wish::Drain { force } => {
                let peers = scene.draw(HOLDERS_MAX, turn);
                let emptied = Host { state: HostState::Draining, ..turn.host.clone() };
                let (candidates, stay) = emptied.to_give(&peers, turn.now);
                let bound = stay.iter().filter(|(.., refusal)| !passes(refusal.reason));
                let bound = bound.map(|(_, machine, refusal)| Lacking::bound(machine, refusal));
                let purpose = Purpose::Drain { wish: id, force, bound: bound.collect() };
                let giver = HostState::Draining;
                self.ask(Question { purpose, candidates, peers: &peers, giver }, scene, turn);
            }
            Wish::Place(candidate) => {
                let peers = scene.draw(PLACES_MAX, turn);
                let (purpose, giver) = (Purpose::Place(id), HostState::Active);
                let candidates = vec![*candidate];
                self.ask(Question { purpose, candidates, peers: &peers, giver }, scene, turn);
            }
        }
    }

    /// Asks other hosts for their prices.
    pub(super) fn ask(&mut self, question: Question<'_>, scene: &Scene, turn: &mut Turn<'_>) {
        let Question { purpose, candidates, peers, giver } = question;
        let id = ExchangeId(turn.rng.next_u64());
        let gauge = turn.host.gauge(turn.now).filter(|_| giver == HostState::Draining);
        let asked = candidates.iter().take(OFFER_MAX).cloned().collect();
        let question = Appraise { candidates: asked, giver, gauge };
        for peer in peers {
            turn.talk(peer, id, Talk::Appraise(question.clone()));
        }
        turn.set_timer(Timer::Exchange(id), turn.now + scene.config.limits.reply_time_max);
        self.0.push((purpose, Appraising::new(id, candidates, peers)));
    }

    /// The question that was asked in this exchange.
    pub(super) fn of(&mut self, id: ExchangeId) -> Option<&mut Appraising> {
        self.0.iter_mut().map(|(_, asked)| asked).find(|asked| asked.id == id)
    }

    /// Another host cannot be reached.
    pub(super) fn miss(&mut self, host: &HostId) {
        self.0.iter_mut().for_each(|(_, asked)| asked.miss(host));
    }

    /// Takes out a question that has been answered.
    pub(super) fn answered(&mut self) -> Option<(Purpose, Appraising)> {
        let index = self.0.iter().position(|(_, asked)| asked.is_ready())?;
        Some(self.0.remove(index))
    }

    /// Takes out the question of this exchange: nobody else will answer.
    pub(super) fn timer(&mut self, id: ExchangeId) -> Option<(Purpose, Appraising)> {
        let index = self.0.iter().position(|(_, asked)| asked.id == id)?;
        Some(self.0.remove(index))
    }
}

/// Answers another host's question, as one that is `busy` or not.
pub(super) fn appraise(asked: &Appraise, busy: bool, turn: &Turn<'_>) -> Talk {
    match turn.host.appraise(asked, busy, turn.now) {
        Ok(said) => Talk::Appraisal(said),
        Err(unknown) => Talk::unknown(&unknown),
    }
}

/// Says where a new machine fits, by all who have answered and this host, which is `busy` or not.
pub(super) fn place(wish: WishId, asked: Appraising, busy: bool, turn: &mut Turn<'_>) {
    let silent = asked.silent().len();
    let Some(candidate) = asked.candidates.into_iter().next() else { return };
    let mut hosts = asked.answers;
    let count = hosts.len() + silent + 1;
    let candidates = vec![candidate.clone()];
    let question = Appraise { candidates, giver: HostState::Active, gauge: None };
    if let Ok(said) = turn.host.appraise(&question, busy, turn.now) {
        hosts.push(Appraiser { host: turn.host.id().clone(), said });
    }
    let places = places(&candidate, &hosts);
    turn.out.push(Effect::Answer(wish, Answer::Place(places, count)));
}

/// Says whether others can hold what is on this host, and begins to empty it if they can, or if it is
/// forced.
pub(super) fn drain(
    wish: WishId,
    force: bool,
    bound: Vec<Lacking>,
    asked: &Appraising,
    turn: &mut Turn<'_>,
) {
    let machines = asked.candidates.len() + bound.len();
    let bytes = asked.candidates.iter().map(|c| c.memory_bytes);
    let memory_bytes = bytes.chain(bound.iter().map(|l| l.memory_bytes)).sum();
    let (lacking, no_spare) = fit(&asked.candidates, &asked.answers);
    let lacking: Vec<_> = bound.into_iter().chain(lacking).collect();
    // Nothing to hold: the rest is as it was.
    let no_spare = no_spare.filter(|_| machines > 0);
    let fit = Fit {
        hosts: asked.answers.len(),
        silent: asked.silent(),
        machines,
        memory_bytes,
        begins: force || lacking.is_empty() && no_spare.is_none(),
        lacking,
        no_spare,
    };
    if fit.begins {
        turn.host.state = HostState::Draining;
    }
    turn.out.push(Effect::Answer(wish, Answer::Drain(fit)));
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

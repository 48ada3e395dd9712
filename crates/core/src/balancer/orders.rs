//! Moves that an operator has ordered, one machine each, by the same exchange as any other.
//!
//! ```text
//!   Waiting ──▶ Looking (no host was named) ──▶ Asking ──▶ Moving ──▶ Ended
//!      ▲                                          │  │ refused, and nobody else to ask
//!      └───────────── the other host is busy ─────┘  └───────────────▶ Ended
//! ```
//!
//! They come before what this host would do by itself. What they end with is kept for a while, for
//! whoever has ordered them; the records of the exchange and the handoff are as ever.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt;

use super::scene::{Opening, Scene};
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::decision::{Decision, Judged, Reason, Refusal};
use crate::effect::{MoveOrder, Timer};
use crate::exchange::{Exchange, Ordered};
use crate::host::Host;
use crate::message::{Candidate, Talk};
use crate::model::{ExchangeId, HostId, MachineId, MoveId, Time};
use crate::port::{HandoffId, MigrationStats, Presence};
use crate::survey::{Aim, Goal, Survey};
use crate::turn::Turn;

/// Most directed moves that wait or are under way at once, and most that have ended and are kept.
const MOVES_MAX: usize = 64;
/// Most hosts that are asked where a machine could go.
const ASKED_MAX: usize = 64;
/// How long one waits for hosts that are busy.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one waits for hosts that do not know their load: one that was started knows it soon, and one
/// whose hypervisor does not answer never.
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(60);
/// How long before a host that was busy is asked again, on average.
const RETRY: Duration = Duration::from_secs(1);

/// A move of one machine that an operator has ordered.
#[derive(Clone, Debug)]
pub struct Directed {
    /// Its id.
    pub id: MoveId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// The host that has it when it is ordered.
    pub from: HostId,
    /// Where to; to wherever it fits best if `None`.
    pub to: Option<HostId>,
    /// On whose word: [`Authority::Told`], or [`Authority::Ordered`] where loads are judged.
    pub authority: Authority,
    /// When it was ordered.
    pub ordered: Time,
    /// How far it is.
    pub stage: Stage,
    /// Who did not take it, and why.
    pub refusals: Vec<(HostId, Reason)>,
    /// Where it was tried in vain, why, and what was said of it.
    failed: Vec<(HostId, Reason, String)>,
    measure: Measure,
    in_return: Option<Candidate>,
}

/// How far a directed move is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// It waits for this host, or for the time given, to be tried again.
    Waiting {
        /// When to try.
        at: Time,
        /// Why it came to nothing last.
        why: Option<Reason>,
    },
    /// Others are asked where it fits.
    Looking(Survey),
    /// Another host is asked to take it.
    Asking {
        /// The exchange.
        exchange: ExchangeId,
        /// The other host.
        peer: HostId,
        /// Others that could take it, if this one does not.
        others: Survey,
    },
    /// It is being handed over.
    Moving {
        /// The handoff.
        handoff: HandoffId,
        /// The other host.
        peer: HostId,
    },
    /// It is over.
    Ended(Outcome),
}

/// What came of a directed move.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// When it ended.
    pub at: Time,
    /// [`Reason::Moved`], or why not.
    pub ending: Reason,
    /// More on it, in words; may be empty.
    pub detail: String,
    /// The other host, if it came to that.
    pub peer: Option<HostId>,
    /// What it cost, if it has moved.
    pub stats: Option<MigrationStats>,
}

/// The directed moves of one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    /// In the order in which they were ordered.
    open: Vec<Directed>,
    /// The newest last.
    ended: VecDeque<Directed>,
}

impl Orders {
    /// Whether one is about to be settled with another host.
    pub(super) fn is_looking(&self) -> bool {
        self.open.iter().any(|m| matches!(m.stage, Stage::Looking(_)))
    }

    /// Whether one waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.open.iter().any(|m| matches!(m.stage, Stage::Waiting { .. }))
    }

    fn survey(&mut self, id: ExchangeId) -> Option<&mut Survey> {
        self.open.iter_mut().find_map(|m| match &mut m.stage {
            Stage::Looking(survey) if survey.id() == id => Some(survey),
            _ => None,
        })
    }

    /// The timer of an exchange is due: whoever has not answered its survey does not.
    pub(super) fn timer(&mut self, id: ExchangeId) {
        if let Some(survey) = self.survey(id) {
            survey.close();
        }
    }

    /// Another host cannot be reached.
    pub(super) fn miss(&mut self, host: &HostId) {
        for directed in &mut self.open {
            if let Stage::Looking(survey) = &mut directed.stage {
                survey.miss(host);
            }
        }
    }

    /// An exchange has led to a handoff.
    pub(super) fn agreed(&mut self, exchange: ExchangeId, handoff: HandoffId) {
        for directed in &mut self.open {
            if let Stage::Asking { exchange: asked, peer, .. } = &directed.stage
                && *asked == exchange
            {
                directed.stage = Stage::Moving { handoff, peer: peer.clone() };
            }
        }
    }

    fn end(&mut self, index: usize, outcome: Outcome) {
        let ended = Directed { stage: Stage::Ended(outcome), ..self.open.remove(index) };
        if self.ended.len() >= MOVES_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    /// Those under way, and the newest that have ended.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Directed> {
        self.open.iter().chain(&self.ended)
    }

    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a machine of a host could be ordered to another, or anywhere, as far as this host knows
    /// by itself.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn can_begin(
        &self,
        machine: &MachineId,
        to: Option<&HostId>,
        scene: &Scene,
        own: &Host,
    ) -> Result<(), String> {
        let host = own.id();
        let known = own.view.machines().get(machine);
        let known = known.ok_or_else(|| format!("host `{host}` has no machine `{machine}`"))?;
        let name = &known.facts.name;
        let stays = |why: String| Err(format!("{why}: machine `{name}` stays on `{host}`"));
        if scene.stopping {
            return stays(format!("the agent of `{host}` is stopping"));
        }
        if to == Some(host) {
            return Err(format!("machine `{name}` is on host `{host}` already"));
        }
        if let Some(to) = to.filter(|to| !scene.members.has(to)) {
            let others: Vec<_> = scene.members.others(host).map(HostId::as_str).collect();
            let alive = others.join(", ");
            return stays(format!("no live host is called `{to}` (alive are: {alive})"));
        }
        if scene.members.others(host).next().is_none() {
            return stays("no other host of the cluster is alive".to_owned());
        }
        let ordered = self.open.iter().any(|m| m.machine == *machine);
        if ordered || scene.handoffs.moves(machine) {
            return Err(format!(
                "machine `{name}` is being moved already; `evenkeel status` says where to"
            ));
        }
        if known.presence != Presence::Running {
            return stays("only a running machine is moved live".to_owned());
        }
        if self.open.len() >= MOVES_MAX {
            return stays(format!("{MOVES_MAX} ordered moves wait already"));
        }
        Ok(())
    }

    /// Lets a directed move wait for its turn. One that cannot be is none: see [`Self::can_begin`].
    pub(super) fn begin(
        &mut self,
        order: MoveOrder,
        authority: Authority,
        (measure, in_return): (Measure, Option<Candidate>),
        scene: &Scene,
        turn: &Turn<'_>,
    ) {
        let MoveOrder { id, machine, to } = order;
        if self.can_begin(&machine, to.as_ref(), scene, turn.host).is_err() {
            return;
        }
        let known = turn.host.view.machines().get(&machine);
        let name = known.map_or_else(String::new, |m| m.facts.name.to_string());
        let from = turn.host.id().clone();
        self.open.push(Directed {
            id,
            machine,
            name,
            from,
            to,
            authority,
            ordered: turn.now,
            stage: Stage::Waiting { at: turn.now, why: None },
            refusals: Vec::new(),
            failed: Vec::new(),
            measure,
            in_return,
        });
    }

    /// The next that is to be gone on with.
    pub(super) fn next(&self, now: Time) -> Option<usize> {
        self.open.iter().position(|directed| match &directed.stage {
            Stage::Waiting { at, .. } => *at <= now,
            Stage::Looking(survey) => survey.is_ready(),
            _ => false,
        })
    }

    /// Ends what has waited for too long, or will not be heard of any more.
    pub(super) fn settle(&mut self, scene: &Scene, now: Time) {
        for index in (0..self.open.len()).rev() {
            let directed = &self.open[index];
            let (ending, peer) = match &directed.stage {
                Stage::Waiting { .. } | Stage::Looking(_) if scene.stopping => {
                    (Reason::Stopping, None)
                }
                Stage::Waiting { why, .. } if now.since(directed.ordered) > patience(*why) => {
                    (why.unwrap_or(Reason::Busy), directed.to.clone())
                }
                Stage::Moving { handoff, peer } if !scene.handoffs.is_live(*handoff) => {
                    (Reason::Ended, Some(peer.clone()))
                }
                _ => continue,
            };
            let detail = String::new();
            self.end(index, Outcome { at: now, ending, detail, peer, stats: None });
        }
    }

    /// Takes note of a record, if it is of a directed move.
    pub(super) fn note(&mut self, decision: &Decision, turn: &mut Turn<'_>) {
        let is_of = |directed: &Directed| match &directed.stage {
            Stage::Asking { exchange, .. } => *exchange == decision.exchange,
            Stage::Moving { handoff, .. } => Some(*handoff) == decision.handoff,
            _ => false,
        };
        let Some(index) = self.open.iter().position(is_of) else { return };
        let now = turn.now;
        let directed = &mut self.open[index];
        let verdict = decision.candidates.iter().find(|c| c.machine == directed.machine);
        let reason = match (decision.ending, verdict) {
            (Reason::NoCandidate, Some(judged)) => judged.verdict,
            (ending, _) => ending,
        };
        let waiting = Stage::Waiting { at: now, why: None };
        let stage = std::mem::replace(&mut directed.stage, waiting);
        if let Stage::Moving { peer, .. } = &stage
            && directed.to.is_none()
            && another_may_do(reason)
        {
            // Where it went wrong is left out, and everybody else is asked.
            directed.stage = Stage::Waiting { at: now, why: Some(reason) };
            directed.failed.push((peer.clone(), reason, decision.detail.clone()));
            return;
        }
        if let Stage::Asking { peer, others, .. } = stage {
            directed.refusals.push((peer, reason));
            // Others are asked; who was named may be asked again.
            if directed.to.is_none() {
                directed.stage = Stage::Looking(others);
                return;
            }
            if is_transient(reason) {
                return self.try_later(index, reason, turn);
            }
        }
        let Decision { detail, peer, stats, .. } = decision.clone();
        // What is missing stands with the machine.
        let detail = match verdict {
            Some(judged) if detail.is_empty() => judged.detail.clone(),
            _ => detail,
        };
        self.end(index, Outcome { at: now, ending: reason, detail, peer, stats });
    }

    /// Tries again in a while. Two hosts that are after each other do not meet for ever.
    fn try_later(&mut self, index: usize, why: Reason, turn: &mut Turn<'_>) {
        let at = turn.now + RETRY.mul_f64(turn.rng.random_range(0.5..1.5));
        self.open[index].stage = Stage::Waiting { at, why: Some(why) };
        turn.set_timer(Timer::Directed, at);
    }

    /// Looks for somebody to take a machine, or asks who was named or found.
    pub(super) fn pursue(
        &mut self,
        index: usize,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) -> Option<Opening> {
        let directed = &mut self.open[index];
        let (machine, authority) = (directed.machine.clone(), directed.authority);
        let waiting = Stage::Waiting { at: turn.now, why: None };
        let Stage::Looking(mut survey) = std::mem::replace(&mut directed.stage, waiting) else {
            self.look_around(index, scene, turn);
            return None;
        };
        let Some(best) = survey.roomiest(turn.host, (&machine, authority), turn.now) else {
            self.nobody_takes(index, &survey, turn);
            return None;
        };
        let id = ExchangeId(turn.rng.next_u64());
        let directed = &mut self.open[index];
        let (peer, others) = (best.peer.clone(), survey);
        directed.stage = Stage::Asking { exchange: id, peer: peer.clone(), others };
        let order = Ordered { machine, authority, in_return: directed.in_return.clone() };
        let step = Exchange::order(id, &best, order, directed.measure, turn.host, turn.now);
        Some(Opening { id, peer, step })
    }

    /// Asks who was named, or others, whether a machine could go there.
    fn look_around(&mut self, index: usize, scene: &Scene, turn: &mut Turn<'_>) {
        let named = self.open[index].to.clone();
        let mut peers = named.map_or_else(|| scene.draw(ASKED_MAX, turn), |to| vec![to]);
        let failed = &self.open[index].failed;
        peers.retain(|peer| !failed.iter().any(|(host, ..)| host == peer));
        let (id, told) = (ExchangeId(turn.rng.next_u64()), turn.host.averaging.told());
        let directed = &mut self.open[index];
        let failed = directed.failed.iter();
        directed.refusals = failed.map(|(host, reason, _)| (host.clone(), *reason)).collect();
        let (measure, authority) = (directed.measure, directed.authority);
        let aim = Aim { goal: Goal::Give, measure, authority };
        let (survey, probes) = Survey::open(id, &peers, aim, told, turn.now + PATIENCE);
        directed.stage = Stage::Looking(survey);
        probes.for_each(|(to, talk)| turn.talk(&to, id, talk));
        turn.set_timer(Timer::Exchange(id), turn.now + scene.config.limits.reply_time_max);
    }

    /// Nobody is left to ask.
    fn nobody_takes(&mut self, index: usize, survey: &Survey, turn: &mut Turn<'_>) {
        let directed = &mut self.open[index];
        let asked = std::mem::take(&mut directed.refusals);
        let asked = asked.into_iter().map(|(host, reason)| (host, reason.into()));
        let all: Vec<_> = asked.chain(survey.refusals().iter().cloned()).collect();
        let mut reasons = all.iter().map(|(_, refusal)| refusal.reason);
        if let Some(why) = reasons.find(|reason| is_transient(*reason)) {
            return self.try_later(index, why, turn);
        }
        let directed = &mut self.open[index];
        let (ending, detail) = directed.why_nobody(&all);
        directed.refusals = all.into_iter().map(|(host, why)| (host, why.reason)).collect();
        let (machine, authority) = (directed.machine.clone(), directed.authority);
        let (named, at) = (directed.to.clone(), turn.now);
        let known = turn.host.view.machines().get(&machine);
        let judged = known.map(|known| turn.host.judged(None, &machine, known));
        let judged = judged.map(|judged| Judged { verdict: ending, ..judged });
        let outcome =
            Outcome { at, ending, detail: detail.clone(), peer: named.clone(), stats: None };
        self.end(index, outcome);
        let lonely = turn.lonely(survey.id(), ending, detail);
        let candidates = judged.into_iter().collect();
        turn.record(Decision { peer: named, candidates, authority, ..lonely });
    }

    /// A host asked where a machine could go has answered. Whether it was asked.
    pub(super) fn hear(
        &mut self,
        survey: ExchangeId,
        from: &HostId,
        said: &Talk,
        turn: &mut Turn<'_>,
    ) -> bool {
        let Some(survey) = self.survey(survey) else { return false };
        match said {
            Talk::Standing(standing) => survey.hear(from, standing.clone(), turn.host),
            Talk::Decline { reason, .. } => survey.refused(from, *reason),
            _ => survey.miss(from),
        }
        true
    }
}

impl Directed {
    /// Why nobody takes the machine, of those who have refused it.
    fn why_nobody(&self, refused: &[(HostId, Refusal)]) -> (Reason, String) {
        let said = |(host, why): &(HostId, Refusal)| match why.detail.as_str() {
            "" => format!("{host}: {}", why.reason),
            words => format!("{host}: {} ({words})", why.reason),
        };
        match (refused, &self.to) {
            (all, None) if let Some((host, reason, words)) = self.failed.last() => {
                let others = all.iter().filter(|(other, _)| other != host);
                let said = others.map(|refused| format!("; {}", said(refused)));
                (*reason, format!("{host}: {words}{}", said.collect::<String>()))
            }
            ([], _) => (Reason::TimedOut, "no other host has answered".to_owned()),
            ([.., (_, why)], Some(_)) => (why.reason, why.detail.clone()),
            (all, None) => {
                let said: Vec<_> = all.iter().map(said).collect();
                (Reason::NoCandidate, said.join(", "))
            }
        }
    }
}

/// How long one waits that came to nothing for this.
const fn patience(why: Option<Reason>) -> Duration {
    match why {
        Some(Reason::UnknownLoad) => PATIENCE_UNKNOWN,
        _ => PATIENCE,
    }
}

/// Whether a machine whose handoff has ended like this may be taken by another host.
const fn another_may_do(ending: Reason) -> bool {
    !matches!(
        ending,
        Reason::Moved
            | Reason::Ended
            | Reason::Stopping
            | Reason::StoreFailed
            | Reason::MigrationTooLong
    )
}

/// Whether what was refused for this may soon be taken.
const fn is_transient(reason: Reason) -> bool {
    matches!(reason, Reason::Busy | Reason::UnknownLoad | Reason::UnderWay)
}

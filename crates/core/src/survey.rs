//! Asking several hosts how they stand, before anything is offered to one of them.
//!
//! ```text
//!   Open: probes are out ── all have answered, or it has been long enough ──▶ Ready
//!   Ready: the best fit among the answers gets an offer; then the next best, while they are fresh
//! ```
//!
//! Answers are statements, not promises: between answer and offer a host may have taken something
//! else. Its quotes then say so, and the choice is made again with them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ceiling::Measure;
use crate::control::Authority;
use crate::decision::{Judged, Reason, Refusal};
use crate::estimate::Estimate;
use crate::host::{Host, Taker, Toward};
use crate::message::{PROTOCOL, Probe, Report, Standing, Talk};
use crate::model::{ExchangeId, HostId, HostState, MachineId, Time};
use crate::select::mean_aware::Score;

/// What a survey is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Only to learn.
    Learn,
    /// To find somebody to give to.
    Give,
    /// To find somebody to take what breaks a rule, whatever the loads.
    Mend,
    /// To find somebody to take from.
    Take,
}

/// What a survey asks about.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// What it is for.
    pub goal: Goal,
    /// What loads and prices are of.
    pub measure: Measure,
    /// On whose word machines would move.
    pub authority: Authority,
}

/// One survey of one host.
#[derive(Clone, Debug)]
pub struct Survey {
    id: ExchangeId,
    goal: Goal,
    measure: Measure,
    waiting: BTreeSet<HostId>,
    told: Option<(HostId, Estimate)>,
    answers: Vec<Taker>,
    /// What those asked said of themselves who are not asked for room.
    reports: Vec<(HostId, Report)>,
    refusals: Vec<(HostId, Refusal)>,
    fresh_until: Time,
    /// How many of those asked have said anything.
    pub heard: usize,
    /// Whether anybody has answered that it has room.
    pub answered: bool,
    /// Whether something was agreed on because of it.
    pub fruitful: bool,
}

impl Survey {
    /// Asks `peers`, the first of which is also averaged with. Answers what to say to each.
    pub fn open(
        id: ExchangeId,
        peers: &[HostId],
        Aim { goal, measure, authority }: Aim,
        estimate: Estimate,
        fresh_until: Time,
    ) -> (Self, impl Iterator<Item = (HostId, Talk)>) {
        let survey = Self {
            id,
            goal,
            measure,
            waiting: peers.iter().cloned().collect(),
            told: peers.first().map(|peer| (peer.clone(), estimate)),
            answers: Vec::new(),
            reports: Vec::new(),
            refusals: Vec::new(),
            fresh_until,
            heard: 0,
            answered: false,
            fruitful: false,
        };
        let giving = survey.is_giving();
        let probes = peers.iter().enumerate().map(move |(index, peer)| {
            let estimate = (index == 0).then_some(estimate);
            let said = Some(authority).filter(|word| *word != Authority::Automatic);
            let protocol = Some(PROTOCOL);
            let probe = Probe { estimate, giving, measure, protocol, authority: said };
            (peer.clone(), Talk::Probe(probe))
        });
        (survey, probes)
    }

    /// Whether it looks for somebody to take from.
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        matches!(self.goal, Goal::Take)
    }

    /// Takes out the most loaded of those that are more loaded than `load` and give by themselves.
    pub fn fullest(&mut self, load: f64) -> Option<HostId> {
        let gives = |r: &Report| r.load > load && r.state != HostState::Draining;
        let open = self.reports.iter().enumerate().filter(|(_, (_, report))| gives(report));
        // Of equal ones the first.
        let best = open.rev().max_by(|a, b| a.1.1.load.total_cmp(&b.1.1.load));
        let best = best.map(|(index, _)| index)?;
        Some(self.reports.remove(best).0)
    }

    /// A host that has taken something counts on, as it stands now.
    pub fn again(&mut self, answer: Taker) {
        self.answers.push(answer);
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> ExchangeId {
        self.id
    }

    /// Whether it looks for somebody to give to, rather than only to learn.
    #[must_use]
    pub const fn is_giving(&self) -> bool {
        matches!(self.goal, Goal::Give | Goal::Mend)
    }

    /// What loads and prices are of.
    #[must_use]
    pub const fn measure(&self) -> Measure {
        self.measure
    }

    /// Whether it looks for somebody to take what breaks a rule, whatever the loads.
    #[must_use]
    pub const fn is_mending(&self) -> bool {
        matches!(self.goal, Goal::Mend)
    }

    /// Whether nobody is waited for any more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether what was answered still counts.
    #[must_use]
    pub fn is_fresh(&self, now: Time) -> bool {
        now < self.fresh_until
    }

    /// One of those asked has answered.
    pub fn hear(&mut self, from: &HostId, standing: Standing, host: &mut Host) {
        if !self.waiting.remove(from) {
            return;
        }
        self.heard += 1;
        if let (Some(answer), Some((peer, told))) = (standing.estimate, &self.told)
            && peer == from
        {
            host.averaging.learn(*told, answer);
        }
        if self.is_asking() {
            self.reports.push((from.clone(), standing.report));
        }
        if let Some(room) = standing.room {
            self.answered = true;
            self.answers.push(Taker { peer: from.clone(), report: standing.report, room });
        } else if let Some(reason) = standing.refusal {
            self.refusals.push((from.clone(), reason.into()));
        }
    }

    /// Who takes nothing, or not what it was asked for, and why.
    #[must_use]
    pub fn refusals(&self) -> &[(HostId, Refusal)] {
        &self.refusals
    }

    /// Why nobody takes anything, if an operator does not want them to: the reason that all of them
    /// have, and in words who has which.
    #[must_use]
    pub fn refused_for(&self) -> Option<(Reason, String)> {
        let lasting =
            |reason| matches!(reason, Reason::Observing | Reason::Paused | Reason::OutsideHours);
        let reasons = self.refusals.iter().map(|(_, refusal)| refusal.reason);
        let mut refusals = reasons.filter(|reason| lasting(*reason));
        let first = refusals.clone().next().filter(|_| !self.answered)?;
        let same = refusals.all(|reason| reason == first);
        let ending = if same { first } else { Reason::NoCandidate };
        let said: Vec<_> =
            self.refusals.iter().map(|(host, why)| format!("{host}: {}", why.reason)).collect();
        Some((ending, said.join(", ")))
    }

    /// One of those asked says no.
    pub fn refused(&mut self, from: &HostId, reason: Reason) {
        if self.waiting.remove(from) {
            self.heard += 1;
            self.refusals.push((from.clone(), reason.into()));
        }
    }

    /// One of those asked has said no.
    pub fn refuse(&mut self, from: &HostId) {
        self.heard += usize::from(self.waiting.remove(from));
    }

    /// One of those asked will not answer.
    pub fn miss(&mut self, from: &HostId) {
        self.waiting.remove(from);
    }

    /// It has been long enough: whoever has not answered does not.
    pub fn close(&mut self) {
        self.waiting.clear();
    }

    /// Takes out the answer of the host that has this machine the least loaded, within its ceilings
    /// if any is. Whoever cannot take it has refused from then on.
    pub fn roomiest(
        &mut self,
        host: &Host,
        (machine, authority): (&MachineId, Authority),
        now: Time,
    ) -> Option<Taker> {
        let mut best: Option<(usize, (bool, f64))> = None;
        let mut index = 0;
        while let Some(answer) = self.answers.get(index) {
            match host.fit(self.measure, machine, (answer, authority), now) {
                Ok((load, within)) => {
                    let rank = (!within, load);
                    if best.is_none_or(|(_, least)| rank < least) {
                        best = Some((index, rank));
                    }
                    index += 1;
                }
                Err(refusal) => {
                    let refused = self.answers.remove(index);
                    self.refusals.push((refused.peer, refusal));
                }
            }
        }
        best.map(|(index, _)| self.answers.remove(index))
    }

    /// The verdict on each machine of a host for which no answer is good enough: of each, from the
    /// answer by which it came furthest.
    #[must_use]
    pub fn verdicts(&self, host: &Host, now: Time) -> Vec<Judged> {
        let mut nearest: BTreeMap<MachineId, Judged> = BTreeMap::new();
        for Taker { peer, report, room } in &self.answers {
            for judged in host.judge_with_room(self.measure, peer, report.load, room, now) {
                let open = |judged: &Judged| {
                    matches!(
                        judged.verdict,
                        Reason::GainSmall | Reason::NotYet | Reason::NoImprovement
                    )
                };
                let known = nearest.get(&judged.machine);
                if known.is_none_or(|known| open(&judged) && !open(known)) {
                    nearest.insert(judged.machine.clone(), judged);
                }
            }
        }
        nearest.into_values().collect()
    }

    /// Takes out the answer that promises the best move, if one costs at most `value_max` more
    /// moves than it saves. Of equally good ones the first to answer is taken. What is left of a
    /// survey that was fruitful already is only good for what fits without further ado: the next
    /// survey may find better.
    pub fn best(&mut self, host: &Host, value_max: i32, now: Time) -> Option<Taker> {
        let mut best: Option<(usize, Score)> = None;
        for (index, answer) in self.answers.iter().enumerate() {
            let toward = Toward { mending: self.is_mending(), ..answer.toward(host.authority()) };
            let Some((donor, ids)) = host.side(self.measure, &toward, &answer.room, now) else {
                continue;
            };
            let receiver = host.side_of(self.measure, answer.report.load, &answer.room, now);
            let (sides, how) = ((&receiver, &answer.room), (value_max, self.is_mending()));
            let choice = host.choose(self.measure, (&donor, &ids), sides, how, now);
            if let Some(choice) = choice
                && !(self.fruitful && (choice.score.overfills || choice.score.swaps))
                && best.is_none_or(|(_, score)| choice.score.rank() < score.rank())
            {
                best = Some((index, choice.score));
            }
        }
        best.map(|(index, _)| self.answers.remove(index))
    }
}

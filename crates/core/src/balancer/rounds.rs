//! The rounds of a host: in each it looks for somebody to give to, or to learn from.

use std::time::Duration;

use super::crowd::Crowd;
use super::repair::{self, Repair};
use super::scene::{Opening, Scene};
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::decision::{Decision, Reason, Role};
use crate::effect::Timer;
use crate::exchange::{Agreement, Exchange, Step};
use crate::host::{Host, Taker, ToGive};
use crate::message::{Probe, Standing, Talk};
use crate::model::{ExchangeId, HostId, Time};
use crate::select::mean_aware::is_trifle;
use crate::select::{MeanAware, Policy};
use crate::survey::{Aim, Goal, Survey};
use crate::turn::Turn;

/// A change of a host's excess by more than this part of it is worth a new search.
const NEWS: f64 = 0.25;
/// A host that has just moved something asks again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// Rounds for which a host that was full is taken to be so still.
const FULL_ROUNDS: u32 = 6;
/// Hosts are drawn for so many to be asked, so that there is a choice.
const DRAWN_PER_ASKED: usize = 3;

/// What a host remembers from round to round.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    survey: Option<Survey>,
    /// The host that something is offered to because of the survey, as it said it stands.
    pursued: Option<Taker>,
    /// Surveys in a row in which this host asked for something and got nothing.
    unfed: u32,
    /// Surveys in a row in which nothing was agreed on.
    unlucky: u32,
    /// How far this host was above its limit in the last of them.
    unlucky_at: f64,
    /// Rounds in a row in which nobody was asked.
    silent: u32,
    crowd: Crowd,
    repair: Repair,
}

/// What becomes of a survey whose answers are all in.
enum Worth {
    /// An offer.
    Offer,
    /// Nothing now: it waits for the next sample.
    Waits,
    /// Nothing any more.
    Nothing,
}

impl Rounds {
    /// Draws another host at random (claims 4, 17, 27) and asks it for its load, or several how they
    /// stand.
    pub(super) fn begin(&mut self, scene: &Scene, turn: &mut Turn<'_>) -> Option<Opening> {
        let id = ExchangeId(turn.rng.next_u64());
        let mut own = match turn.host.report(None, turn.now) {
            Ok(own) => own,
            Err(unknown) => {
                turn.record(turn.lonely(id, Reason::UnknownLoad, unknown.to_string()));
                return None;
            }
        };
        // One that knows the mean goes on learning.
        let stands_still = turn.host.control.permits(Role::Source, own.authority(), turn.now).err();
        if let (Policy::HalfDifference, Some(reason)) = (&scene.config.policy, stands_still) {
            turn.record(turn.lonely(id, reason, String::new()));
            return None;
        }
        let peers = scene.draw(1, turn);
        if peers.is_empty() {
            turn.record(turn.lonely(id, Reason::NoPeer, String::new()));
            return None;
        }
        if let Policy::MeanAware(policy) = scene.config.policy {
            self.ask_around(id, &policy, scene, turn);
            return None;
        }
        let belongs = self.repair.seek(&scene.members, turn);
        own.mends = belongs.is_some().then_some(true);
        let peer = belongs.into_iter().flatten().chain(peers).next()?;
        if scene.drains(turn.host) {
            return None;
        }
        let (exchange, inquiry) = Exchange::open(id, peer.clone(), turn.host, own, turn.now);
        Some(Opening { id, peer, step: Step::Say(exchange, inquiry) })
    }

    /// Asks several others how they stand if there is something to give, one if the cluster is not
    /// known yet or it has been some time, and nobody otherwise.
    fn ask_around(
        &mut self,
        id: ExchangeId,
        policy: &MeanAware,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) {
        if self.survey.as_ref().is_some_and(|survey| !survey.is_ready()) {
            return;
        }
        let now = turn.now;
        let learning = turn.host.averaging.tick();
        self.silent += 1;
        let permitted = turn.host.control.permits(Role::Source, turn.host.authority(), now).is_ok();
        let belongs = if permitted { self.repair.seek(&scene.members, turn) } else { None };
        let mending = belongs.is_some();
        let others = mending || scene.drains(turn.host);
        let wanted = if others { ToGive::Nothing } else { turn.host.wants_to_give(now) };
        let measure = wanted.measure();
        let excess = turn.host.excess(measure, now).unwrap_or(0.0);
        // What was found out about another load says nothing about this one.
        if (excess - self.unlucky_at).abs() > NEWS * self.unlucky_at.abs() {
            self.unlucky = 0;
        }
        let is_turn = self.silent >= policy.idle_rounds.max(1);
        let hopeful = !self.is_hopeless(policy, measure, turn.host, now);
        let wants = wanted.is_something() == Some(true) && (hopeful || is_turn);
        let held_back = turn.host.may_give(now).err().filter(|_| wants);
        if let Some(reason) = held_back {
            turn.record(turn.lonely(id, reason, String::new()));
        }
        let hopeful = is_turn || self.unfed < policy.surveys_max();
        let goal = match held_back {
            _ if mending => Goal::Mend,
            None if wants => Goal::Give,
            _ if hopeful && may_ask(turn.host, now) => Goal::Take,
            _ if learning || is_turn => Goal::Learn,
            _ => return,
        };
        self.silent = 0;
        let count = if goal == Goal::Learn { 1 } else { policy.probes.max(1) };
        let giving = matches!(goal, Goal::Give | Goal::Mend);
        let drawn = scene.draw(if giving { DRAWN_PER_ASKED * count } else { count }, turn);
        let crowd = measure.is_none() && goal != Goal::Take;
        let peers = self.pick(drawn, belongs.unwrap_or_default(), (count, crowd), scene, turn);
        let told = turn.host.averaging.told();
        let fresh_until = now + scene.config.round;
        let aim = Aim { goal, measure, authority: turn.host.authority() };
        let (survey, probes) = Survey::open(id, &peers, aim, told, fresh_until);
        probes.for_each(|(to, talk)| turn.talk(&to, id, talk));
        let wait = scene.config.limits.reply_time_max.min(scene.config.round / 2);
        turn.set_timer(Timer::Exchange(id), now + wait);
        self.survey = Some(survey);
    }

    /// Whom to ask of those drawn: first those that are right for what breaks a rule, last those that
    /// were full, if `crowd` says that this matters.
    fn pick(
        &self,
        mut drawn: Vec<HostId>,
        mut right: Vec<HostId>,
        (count, crowd): (usize, bool),
        scene: &Scene,
        turn: &Turn<'_>,
    ) -> Vec<HostId> {
        if let Some(target) = turn.host.target(None).filter(|_| crowd) {
            let span = scene.config.round * FULL_ROUNDS;
            drawn = self.crowd.pick(drawn, count, target, span, turn.now);
        }
        drawn.retain(|peer| !right.contains(peer));
        right.append(&mut drawn);
        right.truncate(count);
        right
    }

    /// What the loads of a survey are of, if the survey is this exchange.
    pub(super) fn measure_of(&self, id: ExchangeId) -> Measure {
        self.survey.as_ref().filter(|survey| survey.id() == id).and_then(Survey::measure)
    }

    /// A host has answered how it stands. What it has said is given back if it was not asked.
    pub(super) fn hear(
        &mut self,
        id: ExchangeId,
        from: &HostId,
        talk: Talk,
        turn: &mut Turn<'_>,
    ) -> Option<Talk> {
        let Some(survey) = self.survey.as_mut().filter(|survey| survey.id() == id) else {
            return Some(talk);
        };
        match talk {
            Talk::Standing(standing) => {
                if survey.measure().is_none() {
                    self.crowd.hear(from, standing.report.load, turn.now);
                }
                survey.hear(from, standing, turn.host);
            }
            _ => survey.refuse(from),
        }
        None
    }

    /// Another host cannot be reached.
    pub(super) fn miss(&mut self, host: &HostId) {
        if let Some(survey) = &mut self.survey {
            survey.miss(host);
        }
    }

    /// The timer of an exchange is due: whoever has not answered its survey does not.
    pub(super) fn timer(&mut self, id: ExchangeId) {
        if let Some(survey) = self.survey.as_mut().filter(|survey| survey.id() == id) {
            survey.close();
        }
    }

    /// Something was taken that this host has asked for.
    pub(super) fn is_fed(&mut self) {
        if let Some(survey) = self.survey.as_mut().filter(|survey| survey.is_asking()) {
            survey.fruitful = true;
        }
    }

    /// Something is agreed on, although it may not happen by itself.
    pub(super) fn bear_fruit(&mut self) {
        if let Some(survey) = &mut self.survey {
            survey.fruitful = true;
        }
        self.unlucky = 0;
    }

    /// Something is agreed on, and happens.
    pub(super) fn agreed(&mut self, agreement: &Agreement, turn: &Turn<'_>) {
        self.count_on(agreement, turn);
        self.bear_fruit();
        self.repair = Repair::default();
    }

    /// A host has agreed to take a machine: it counts on, as it stands then.
    fn count_on(&mut self, agreement: &Agreement, turn: &Turn<'_>) {
        let Some(mut answer) = self.pursued.take_if(|a| a.peer == agreement.peer) else { return };
        if agreement.in_return.is_some() || agreement.decision.measure.is_some() {
            return;
        }
        turn.host.with(&mut answer, &agreement.candidate.machine, agreement.at_receiver);
        if let Some(survey) = &mut self.survey {
            survey.again(answer);
        }
    }

    /// Goes on with a survey for somebody to take from: asks the most loaded of those that are left.
    fn beg(&mut self, mut survey: Survey, turn: &mut Turn<'_>) -> Option<Opening> {
        let fresh = survey.is_fresh(turn.now) && may_ask(turn.host, turn.now);
        let standing = turn.host.asks(turn.now).filter(|_| fresh);
        let best = standing.and_then(|(own, room)| {
            let peer = survey.fullest(own.load)?;
            Some((peer, own, room))
        });
        let Some((peer, own, room)) = best else {
            if survey.fruitful {
                self.unfed = 0;
                turn.set_timer(Timer::Round, turn.now + AGAIN);
            } else {
                self.unfed = self.unfed.saturating_add(1);
                turn.record(turn.lonely(survey.id(), Reason::NoCandidate, String::new()));
            }
            return None;
        };
        self.survey = Some(survey);
        let id = ExchangeId(turn.rng.next_u64());
        let (exchange, inquiry) = Exchange::ask(id, peer.clone(), turn.host, (own, room), turn.now);
        Some(Opening { id, peer, step: Step::Say(exchange, inquiry) })
    }

    /// Whether so many surveys were in vain that no more is to be expected of another one.
    fn is_hopeless(&self, policy: &MeanAware, measure: Measure, host: &Host, now: Time) -> bool {
        let (excess, target) = (host.excess(measure, now), host.target(measure));
        let trifle = excess.zip(target).is_some_and(|(excess, target)| is_trifle(excess, target));
        self.unlucky >= if trifle { policy.patience } else { policy.surveys_max() }
    }

    /// Answers how this host stands, as one that is `busy` or not.
    pub(super) fn stand(
        &mut self,
        from: &HostId,
        probe: Probe,
        busy: bool,
        turn: &mut Turn<'_>,
    ) -> Talk {
        if probe.giving && probe.measure.is_none() {
            // It has more than it wants to have, however much that is.
            self.crowd.hear(from, f64::INFINITY, turn.now);
        }
        let busy = probe.giving && busy;
        let asked = Probe { giving: probe.giving && !busy, ..probe };
        match turn.host.standing(from, &asked, turn.now) {
            Ok((report, room)) => {
                let estimate = probe.estimate.map(|theirs| turn.host.averaging.answer(theirs));
                let refusal = room.as_ref().err().copied().flatten();
                let refusal = if busy { Some(Reason::Busy) } else { refusal };
                Talk::Standing(Standing { report, estimate, room: room.ok(), refusal })
            }
            Err(unknown) => Talk::unknown(&unknown),
        }
    }

    /// Goes on with a survey that has been answered, for a host that is free: offers to the best of
    /// those that are left.
    pub(super) fn pursue(&mut self, scene: &Scene, turn: &mut Turn<'_>) -> Option<Opening> {
        let Policy::MeanAware(policy) = scene.config.policy else { return None };
        let mut survey = self.survey.take_if(|survey| survey.is_ready())?;
        if survey.is_asking() && !scene.stopping {
            return self.beg(survey, turn);
        }
        match self.worth(&survey, scene, turn) {
            Worth::Offer => {}
            Worth::Nothing => return None,
            Worth::Waits => {
                self.survey = Some(survey);
                return None;
            }
        }
        let value_max = (self.unlucky / policy.patience.max(1)).min(2) as i32;
        let Some(best) = survey.best(turn.host, value_max, turn.now) else {
            self.nobody_fits(&survey, scene, turn);
            return None;
        };
        let what = (survey.measure(), survey.is_mending());
        self.survey = Some(survey);
        self.pursued = turn.host.levelling(what.0).map(|_| best.clone());
        let (id, peer) = (ExchangeId(turn.rng.next_u64()), best.peer.clone());
        let step = Exchange::propose(id, best, what, value_max, turn.host, turn.now);
        Some(Opening { id, peer, step })
    }

    /// What becomes of a survey whose answers are all in.
    fn worth(&mut self, survey: &Survey, scene: &Scene, turn: &mut Turn<'_>) -> Worth {
        let is_open = survey.is_fresh(turn.now) && !scene.stopping;
        let overloaded = turn.host.is_overloaded(turn.now);
        if survey.is_mending() && is_open {
            return if turn.host.mends(turn.now) { Worth::Offer } else { Worth::Nothing };
        }
        if !survey.is_giving() && !scene.stopping {
            let ending = match (overloaded, turn.host.target(None)) {
                // What keeps it from giving is on record already.
                (Some(true), _) => return Worth::Nothing,
                (_, None) => Reason::Learning,
                (_, Some(_)) => Reason::WithinDeadBand,
            };
            turn.record(turn.lonely(survey.id(), ending, String::new()));
            return Worth::Nothing;
        }
        if !is_open {
            if survey.fruitful && turn.host.levelling(None).is_some() {
                turn.set_timer(Timer::Round, turn.now + AGAIN);
            }
            return Worth::Nothing;
        }
        match overloaded {
            // Known again with the next sample.
            None => Worth::Waits,
            Some(false) => {
                self.unlucky = 0;
                let detail = "it is above its limit no more".to_owned();
                turn.record(turn.lonely(survey.id(), Reason::WithinDeadBand, detail));
                Worth::Nothing
            }
            // What was asked for is not what matters any more: the next survey asks for that.
            Some(true) if turn.host.wants_to_give(turn.now) != ToGive::of(survey.measure()) => {
                Worth::Nothing
            }
            Some(true) => Worth::Offer,
        }
    }

    /// None of those asked is good enough.
    fn nobody_fits(&mut self, survey: &Survey, scene: &Scene, turn: &mut Turn<'_>) {
        if survey.is_mending() {
            return repair::was_in_vain(survey, turn);
        }
        if survey.answered && !survey.fruitful {
            self.unlucky = self.unlucky.saturating_add(1);
            self.unlucky_at = turn.host.excess(survey.measure(), turn.now).unwrap_or(0.0);
        }
        if survey.fruitful && turn.host.levelling(survey.measure()).is_some() {
            turn.set_timer(Timer::Round, turn.now + AGAIN);
        }
        if !survey.fruitful {
            turn.record(match survey.refused_for() {
                Some((reason, detail)) => turn.lonely(survey.id(), reason, detail),
                None => fruitless(survey, scene, turn),
            });
        }
    }

    /// Whether there is nothing to do for a host that is `idle`, as far as it knows: it knows the
    /// cluster, and is not above its limit or has found nobody to give to for some time.
    pub(super) fn is_content(&self, idle: bool, scene: &Scene, host: &Host, now: Time) -> bool {
        let Policy::MeanAware(policy) = scene.config.policy else { return idle };
        let settled = host.averaging.is_steady() || scene.members.all().is_empty();
        let measure = host.wants_to_give(now).measure();
        idle && settled
            && !self.repair.is_open(host, now)
            && (self.is_hopeless(&policy, measure, host, now)
                || host.is_overloaded(now) != Some(true))
    }
}

/// Whether a host lacks something and may take it.
fn may_ask(host: &Host, now: Time) -> bool {
    let takes = host.takes(host.authority(), now).is_ok();
    let observes = host.authority() < Authority::Automatic;
    takes && !observes && host.lacks(now) == Some(true)
}

/// The record of a survey that nothing came of.
fn fruitless(survey: &Survey, scene: &Scene, turn: &Turn<'_>) -> Decision {
    let (ending, detail) = match survey.heard {
        0 => (Reason::TimedOut, "none of the hosts asked has answered"),
        _ if !survey.answered => (Reason::NoRoom, ""),
        _ => {
            let detail = "no host asked can take a machine such that both end better off";
            (Reason::NoCandidate, detail)
        }
    };
    let record = turn.lonely(survey.id(), ending, detail.to_owned());
    // Plans judge again by themselves what stays.
    let judged = survey.answered && !scene.config.tentative;
    let candidates = if judged { survey.verdicts(turn.host, turn.now) } else { Vec::new() };
    Decision { role: Some(Role::Source), measure: survey.measure(), candidates, ..record }
}

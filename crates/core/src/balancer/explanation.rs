//! What a balancer would say if it were asked now why nothing moves.

use super::drain::Draining;
use super::heard::{Heard, Others};
use super::scene::Scene;
use crate::control::Pause;
use crate::decision::{Judged, Reason, Refusal, Role};
use crate::explain::{
    About, HostExplained, MachineBrief, MachineExplained, PeerBrief, Prospect, Why, distinct,
};
use crate::handoff::Handoff;
use crate::host::{Host, Toward};
use crate::load::Implausible;
use crate::model::{HostId, HostState, MachineId, Time};
use crate::select::{Pair, Policy};

/// Stands for hosts of which nothing has been heard.
const NOBODY: &str = "-";

/// All that an explanation is made of.
#[derive(Debug)]
pub(super) struct Explainer<'a> {
    pub(super) host: &'a Host,
    pub(super) scene: &'a Scene,
    pub(super) others: &'a Others,
    pub(super) draining: Option<&'a Draining>,
}

impl Explainer<'_> {
    /// Why a machine of this host is where it is; `None` if it has none of that id.
    pub(super) fn machine(&self, id: &MachineId, now: Time) -> Option<MachineExplained> {
        let host = self.host;
        let machine = host.view.machines().get(id)?;
        let prospects: Vec<_> = self
            .others
            .of(&self.scene.members)
            .filter_map(|peer| self.prospect(peer, id, now))
            .collect();
        let known = machine.factors(&host.profile).ok();
        let anybody = self.scene.members.others(host.id()).next();
        let cost = anybody.and_then(|peer| host.candidate(None, id, &Toward::of(peer), now)?.cost);
        let guessed = prospects.iter().map(|prospect| {
            let detail = format!("its load is {}", percent(prospect.load));
            Why::new(prospect.verdict, About::Peer(prospect.peer.clone()), detail)
        });
        let certain = self.of_drain(id, now).into_iter().chain(self.of_machine(id, now));
        let certain = certain.chain(self.not_yet(id, now)).chain(self.of_host(now));
        let reasons = distinct(certain.chain(guessed));
        Some(MachineExplained {
            machine: id.clone(),
            name: machine.facts.name.to_string(),
            host: host.id().clone(),
            at: now,
            reasons,
            basis: known.map(|(basis, _)| basis),
            expected: known.map(|(_, factors)| factors),
            margin: machine.margin,
            lasting_s: machine.lasting(host.settings.costing.payback).as_secs_f64(),
            load: known.map(|(_, factors)| host.profile.price(&factors)),
            contention: machine.contention,
            cost,
            rules: machine.entry().map(|entry| entry.rules.clone()).unwrap_or_default(),
            prospects,
            record: None,
        })
    }

    /// Why this host does not give.
    pub(super) fn host(&self, now: Time) -> HostExplained {
        let host = self.host;
        let brief = |id: &MachineId| {
            let explained = self.machine(id, now)?;
            let why = explained.reasons.into_iter().next();
            Some(MachineBrief {
                name: explained.name,
                load: explained.load,
                contention_score: explained.contention.score(),
                why: why.unwrap_or_else(|| Why::new(Reason::Farther, About::Host, String::new())),
            })
        };
        let peer = |(peer, heard): (&HostId, &Heard)| PeerBrief {
            peer: peer.clone(),
            heard: heard.at,
            load: heard.report.load,
            state: heard.report.state,
            contention_score: heard.report.contention,
        };
        HostExplained {
            host: host.id().clone(),
            at: now,
            state: host.state,
            load: host.load(now).ok(),
            target: host.target(None),
            limit: host.limit(None),
            reasons: self.of_host(now),
            machines: host.view.machines().keys().filter_map(brief).collect(),
            peers: self.others.of(&self.scene.members).map(peer).collect(),
            record: None,
        }
    }

    /// What keeps a machine, whichever host it were to go to.
    fn of_machine(&self, id: &MachineId, now: Time) -> Vec<Why> {
        // Nobody is left to go to; what keeps the machine itself does so all the same.
        let nobody = HostId::new(NOBODY).ok();
        let peers: Vec<_> = match self.scene.members.all().is_empty() {
            true => nobody.iter().collect(),
            false => self.scene.members.others(self.host.id()).collect(),
        };
        let mut reasons: Vec<Why> = Vec::new();
        // A machine that makes no sense is new as long as it does not, which is not what keeps it.
        let machine = self.host.view.machines().get(id);
        let unknown = machine.and_then(|m| m.factors(&self.host.profile).err());
        if unknown.is_some_and(|why| why != Implausible::SeenOnce) {
            let detail = self.figures(Reason::UnknownLoad, id, now);
            reasons.push(Why::new(Reason::UnknownLoad, About::Machine, detail));
        }
        for peer in peers {
            match self.host.refusal(None, id, peer, now) {
                None => return Vec::new(),
                Some(refusal) if reasons.iter().any(|why| why.code == refusal.reason) => {}
                Some(Refusal { reason, detail }) => {
                    let figures = || match reason {
                        Reason::NotConverging => self.host.why_not_converging(id, peer, now),
                        _ => Some(self.figures(reason, id, now)),
                    };
                    let figures = || figures().unwrap_or_default();
                    let detail = if detail.is_empty() { figures() } else { detail };
                    reasons.push(Why::new(reason, About::Machine, detail));
                }
            }
        }
        reasons
    }

    /// Why a machine stays although its host is being emptied, by the hosts asked last.
    fn of_drain(&self, id: &MachineId, now: Time) -> Option<Why> {
        let staying = self
            .draining?
            .progress(self.host, self.scene, now)
            .staying
            .into_iter()
            .find(|lacking| lacking.machine == *id)?;
        let counts = staying.refusals.iter().map(|(code, hosts)| format!("{code} by {hosts}"));
        let counts: Vec<_> = counts.collect();
        let about = if counts.is_empty() { About::Machine } else { About::Host };
        let detail = match (counts.is_empty(), staying.detail) {
            (true, detail) => detail,
            (false, detail) if detail.is_empty() => counts.join(", "),
            (false, detail) => format!("{}: {detail}", counts.join(", ")),
        };
        Some(Why::new(staying.reason, about, detail))
    }

    /// What a move of a machine would be worth, where it does not pay yet: to the host heard of where
    /// it would be worth most, or at most.
    fn not_yet(&self, id: &MachineId, now: Time) -> Option<Why> {
        let host = self.host;
        host.levelling(None).filter(|_| host.state == HostState::Active)?;
        let others = Toward::of(host.id());
        host.candidate(None, id, &others, now)?;
        let with = |(_, heard): (&HostId, &Heard)| {
            let room = heard.room.as_ref().filter(|_| heard.measure.is_none())?;
            host.worth_with(id, heard.report.load, room, now)
        };
        let best = self
            .others
            .of(&self.scene.members)
            .filter_map(with)
            .max_by(|a, b| a.net().total_cmp(&b.net()));
        let worth = best.or_else(|| host.worth_at_most(id, now))?;
        let span_s = 60.0 * f64::from(host.known_minutes(now));
        let unpaid = worth.net() < 0.0 && worth.gain > 0.0;
        unpaid.then(|| Why::new(Reason::NotYet, About::Machine, worth.words(span_s)))
    }

    /// The figures behind a reason that keeps a machine.
    fn figures(&self, code: Reason, id: &MachineId, now: Time) -> String {
        let Some(machine) = self.host.view.machines().get(id) else { return String::new() };
        match code {
            Reason::EntryInvalid => machine.facts.entry.as_ref().err().cloned().unwrap_or_default(),
            Reason::UnknownLoad => {
                let unknown = machine.factors(&self.host.profile).err();
                unknown.map_or_else(String::new, |why| why.to_string())
            }
            Reason::CoolDown => {
                let last = machine.entry().and_then(|entry| entry.last_move.as_ref());
                last.map_or_else(String::new, |last| {
                    let (ago, moves) = (now.since(last.at).as_secs(), last.moves.unwrap_or(1));
                    let wait = self.host.settings.restraint.cool_down_after(moves).as_secs();
                    format!("it came from `{}` {ago} s ago and stays for {wait} s", last.from)
                })
            }
            Reason::UnderWay => {
                let moving = self.scene.handoffs.iter().find(|h| h.machine == *id);
                moving.map(Handoff::waits_for).unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    /// What keeps this host, whatever machine it were.
    fn of_host(&self, now: Time) -> Vec<Why> {
        let host = self.host;
        let about = |code, detail: String| Why::new(code, About::Host, detail);
        if self.scene.stopping {
            return vec![about(Reason::Stopping, String::new())];
        }
        let load = match host.load(now) {
            Ok(load) => load,
            Err(unknown) => return vec![about(Reason::UnknownLoad, unknown.to_string())],
        };
        if self.scene.members.others(host.id()).next().is_none() {
            return vec![about(Reason::NoPeer, String::new())];
        }
        if let Err(code) = host.control.permits(Role::Source, host.authority(), now) {
            let pause = host.control.pause_at(now).filter(|_| code == Reason::Paused);
            let words = |pause: &Pause| format!("by {}: {}", pause.by, pause.reason);
            return vec![about(code, pause.map(words).unwrap_or_default())];
        }
        let limited = host.may(Role::Source, host.authority(), now).err();
        if self.scene.config.policy == Policy::HalfDifference {
            return limited.map(|code| about(code, String::new())).into_iter().collect();
        }
        let Some((target, limit)) = host.target(None).zip(host.limit(None)) else {
            return vec![about(Reason::Learning, String::new())];
        };
        let figures = format!(
            "its load is {}, its fair share {}, and it gives above {}",
            percent(load),
            percent(target),
            percent(limit)
        );
        match (host.is_overloaded(now), host.may_give(now)) {
            (Some(true), Ok(())) => Vec::new(),
            (Some(true), Err(code)) => vec![about(code, figures)],
            _ => vec![about(Reason::WithinDeadBand, figures)],
        }
    }

    /// How a machine would fare with a host that has been heard of.
    fn prospect(
        &self,
        (peer, heard): (&HostId, &Heard),
        id: &MachineId,
        now: Time,
    ) -> Option<Prospect> {
        let judged = self.judged_with(peer, heard, id, now);
        let refused = match heard.report.state {
            HostState::Active => None,
            HostState::Cordoned => Some(Reason::Cordoned),
            HostState::Draining => Some(Reason::Draining),
        };
        let verdict = refused.or(judged.as_ref().map(|judged| judged.verdict))?;
        Some(Prospect {
            peer: peer.clone(),
            heard: heard.at,
            load: heard.report.load,
            state: heard.report.state,
            at_receiver: judged.and_then(|judged| judged.at_receiver),
            verdict,
        })
    }

    fn judged_with(
        &self,
        peer: &HostId,
        heard: &Heard,
        id: &MachineId,
        now: Time,
    ) -> Option<Judged> {
        let load = heard.report.load;
        let judged = match (&heard.room, self.scene.config.policy) {
            (Some(room), Policy::MeanAware(_)) => {
                self.host.judge_with_room(heard.measure, peer, load, room, now)
            }
            (_, Policy::HalfDifference) if heard.measure.is_none() => {
                let pair = Pair { donor: self.host.load(now).ok()?, receiver: load };
                let mut judged = self.host.judge_by_half(peer, &pair, now);
                let calm = !pair.exceeds(&self.host.settings.calm);
                let open = [Reason::Chosen, Reason::Farther, Reason::NoImprovement];
                let open = |judged: &&mut Judged| open.contains(&judged.verdict);
                for judged in judged.iter_mut().filter(|j| calm && open(j)) {
                    judged.verdict = Reason::WithinDeadBand;
                }
                judged
            }
            _ => return None,
        };
        judged.into_iter().find(|judged| judged.machine == *id)
    }
}

fn percent(load: f64) -> String {
    format!("{:.1} %", load * 100.0)
}

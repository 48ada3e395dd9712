//! Emptying this host: one machine after the other, largest first, to whoever has room for it.
//!
//! Several hosts, drawn at random, are asked for their prices for all that is to go; the largest that
//! any of them takes goes to the one that ends least loaded, and so on with the same answers while
//! they are fresh. Nothing waits for a round: as soon as this host is free the next one is offered,
//! and whoever finds nobody asks others, at growing intervals, for as long as it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scene::{Opening, Scene};
use crate::appraisal::{Appraiser, Appraising, Lacking, Refusals};
use crate::effect::Timer;
use crate::exchange::Exchange;
use crate::host::{Host, Toward};
use crate::load::Machine;
use crate::message::{Candidate, Report};
use crate::model::{ExchangeId, HostId, Time};
use crate::turn::Turn;

/// Hosts asked at once.
const ASKED: usize = 12;
/// The first wait before others are asked, when nobody had room. It doubles up to a round.
const RETRY: Duration = Duration::from_secs(1);

/// What a host knows that is being emptied.
#[derive(Clone, Debug)]
pub(super) struct Draining {
    since: Time,
    /// What it had to give then.
    machines: usize,
    bytes: f64,
    /// What was asked about last, and the answers.
    candidates: Vec<Candidate>,
    answers: Vec<Appraiser>,
    /// Who was offered something since.
    spent: BTreeSet<HostId>,
    fresh_until: Time,
    /// Questions in a row to which nobody had room for anything.
    fruitless: u32,
    /// Nobody is asked before.
    next: Time,
}

/// How far a host is that is being emptied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when, or since its agent was started.
    pub since: Time,
    /// Machines that it had then.
    pub machines: usize,
    /// Memory that they occupied, in bytes.
    pub bytes: f64,
    /// Machines that it still has.
    pub machines_left: usize,
    /// Memory that they occupy, in bytes.
    pub bytes_left: f64,
    /// How much longer it takes for those that may go, in seconds, where that can be told.
    pub seconds_left: Option<f64>,
    /// Those that nobody can take as things are, or that may not leave, each with the reason. It goes
    /// on trying.
    pub staying: Vec<Lacking>,
}

/// Memory of a machine that has to be moved, in bytes.
fn bytes_of(machine: &Machine) -> f64 {
    machine.measured().map_or(machine.facts.memory_bytes, |usage| usage.memory_bytes)
}

impl Draining {
    pub(super) fn begin(host: &Host, now: Time) -> Self {
        Self {
            since: now,
            machines: host.occupants().count(),
            bytes: host.occupants().map(|(_, machine)| bytes_of(machine)).sum(),
            candidates: Vec::new(),
            answers: Vec::new(),
            spent: BTreeSet::new(),
            fresh_until: now,
            fruitless: 0,
            next: now,
        }
    }

    /// The largest machine that anybody takes who was not offered something yet: who, and how it
    /// stands.
    fn taker(&self, host: &Host, now: Time) -> Option<(HostId, Report)> {
        let free = || self.answers.iter().filter(|a| !a.said.busy && !self.spent.contains(&a.host));
        for (index, candidate) in self.candidates.iter().enumerate() {
            let takes = free().filter(|a| {
                a.takes(index, candidate).is_ok()
                    && host.candidate(None, &candidate.machine, &Toward::of(&a.host), now).is_some()
            });
            let after = |a: &Appraiser| {
                a.said.report.load + a.said.quotes.get(index).map_or(0.0, |quote| quote.at_receiver)
            };
            if let Some(best) = takes.min_by(|a, b| after(a).total_cmp(&after(b))) {
                return Some((best.host.clone(), best.said.report));
            }
        }
        None
    }

    /// Offers the next machine to the host that ends least loaded with it, while answers are fresh.
    pub(super) fn offer(&mut self, turn: &mut Turn<'_>) -> Option<Opening> {
        if turn.now >= self.fresh_until {
            return None;
        }
        let (peer, report) = self.taker(turn.host, turn.now)?;
        self.spent.insert(peer.clone());
        self.fruitless = 0;
        let id = ExchangeId(turn.rng.next_u64());
        let step = Exchange::give(id, peer.clone(), report, turn.host, turn.now);
        Some(Opening { id, peer, step })
    }

    /// Whom to ask next for room, and for which machines.
    pub(super) fn ask(
        &mut self,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) -> Option<(Vec<HostId>, Vec<Candidate>)> {
        if turn.now < self.next {
            return None;
        }
        let peers = scene.draw(ASKED, turn);
        let (candidates, _) = turn.host.to_give(&peers, turn.now);
        self.fruitless = self.fruitless.saturating_add(1);
        let wait = RETRY.saturating_mul(1 << (self.fruitless - 1).min(10));
        self.next = turn.now + wait.min(scene.config.round);
        turn.set_timer(Timer::Empty, self.next);
        Some((peers, candidates))
    }

    /// Others have said what they could take.
    pub(super) fn hear(&mut self, asked: Appraising, scene: &Scene, turn: &Turn<'_>) {
        self.candidates = asked.candidates;
        self.answers = asked.answers;
        self.spent.clear();
        self.fresh_until = turn.now + scene.config.round;
        if self.taker(turn.host, turn.now).is_some() {
            // When these have been offered something, others are asked at once.
            self.next = turn.now;
        }
    }

    /// How far the host is.
    pub(super) fn progress(&self, host: &Host, scene: &Scene, now: Time) -> Drain {
        let staying = self.staying(host, scene, now);
        let bytes_left: f64 = host.occupants().map(|(_, machine)| bytes_of(machine)).sum();
        let bound: f64 = staying
            .iter()
            .filter_map(|lacking| host.view.machines().get(&lacking.machine))
            .map(bytes_of)
            .sum();
        let (gone, took) = (self.bytes - bytes_left, now.since(self.since).as_secs_f64());
        let link = host.experience.link_bytes_per_s(now);
        let rate = if gone > 0.0 && took > 0.0 { gone / took } else { link };
        let seconds = (bytes_left - bound).max(0.0) / rate;
        Drain {
            since: self.since,
            machines: self.machines,
            bytes: self.bytes,
            machines_left: host.occupants().count(),
            bytes_left,
            seconds_left: Some(seconds).filter(|s| s.is_finite() && (*s > 0.0 || bound <= 0.0)),
            staying,
        }
    }

    /// What does not leave, by what the hosts have said that were asked last.
    fn staying(&self, host: &Host, scene: &Scene, now: Time) -> Vec<Lacking> {
        let known: Vec<_> = self.answers.iter().map(|a| a.host.clone()).collect();
        let peers = if known.is_empty() { scene.members.all() } else { &known[..] };
        let (_, bound) = host.to_give(peers, now);
        let bound = bound.iter().map(|(_, machine, refusal)| Lacking::bound(machine, refusal));
        let mut staying: Vec<_> = bound.collect();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let is_here = host.view.machines().contains_key(&candidate.machine);
            let is_bound = staying.iter().any(|lacking| lacking.machine == candidate.machine);
            if !is_here || is_bound || scene.handoffs.moves(&candidate.machine) {
                continue;
            }
            let mut refusals = Refusals::default();
            let said = self.answers.iter().filter_map(|host| host.takes(index, candidate).err());
            said.for_each(|refusal| refusals.count(refusal));
            if refusals.len() == self.answers.len() {
                staying.push(refusals.of(candidate));
            }
        }
        staying
    }
}

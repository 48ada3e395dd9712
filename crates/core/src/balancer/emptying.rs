//! Emptying this host: one machine after the other, largest first, to whoever has room for it.
//!
//! Several hosts, drawn at random, are asked for their prices for all that is to go; the largest that
//! any of them takes goes to the one that ends least loaded, and so on with the same answers while
//! they are fresh. Nothing waits for a round: as soon as this host is free the next one is offered,
//! and whoever finds nobody asks others, at growing intervals, for as long as it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::Balancer;
use super::wishes::Purpose;
use crate::appraisal::{Appraiser, Appraising, Lacking, Refusals};
use crate::effect::{Effect, Timer};
use crate::exchange::Exchange;
use crate::host::{Host, Toward};
use crate::load::Machine;
use crate::message::{Candidate, Report};
use crate::model::{ExchangeId, HostId, HostState, Time};

/// Hosts asked at once.
const ASKED: usize = 12;
/// The first wait before others are asked, when nobody had room. It doubles up to a round.
const RETRY: Duration = Duration::from_secs(1);

/// A host that is being emptied.
#[derive(Clone, Debug)]
pub(super) struct Emptying {
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

impl Emptying {
    fn begin(host: &Host, now: Time) -> Self {
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
    fn receiver(&self, host: &Host, now: Time) -> Option<(HostId, Report)> {
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
}

impl Balancer {
    /// Whether this host empties itself: while only entries move, the policy does that in its rounds.
    pub(super) fn is_emptying(&self) -> bool {
        self.host.state == HostState::Draining && !self.config.tentative
    }

    /// Goes on emptying this host, if it is to be emptied and is free to.
    pub(super) fn empty(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        if !self.is_emptying() {
            self.emptying = None;
            return;
        }
        // Before the first sample it is not known what there is.
        if self.stopping || self.host.report(None, now).is_err() {
            return;
        }
        let mut emptying = self.emptying.take().unwrap_or_else(|| Emptying::begin(&self.host, now));
        while !self.is_busy()
            && now < emptying.fresh_until
            && let Some((peer, report)) = emptying.receiver(&self.host, now)
        {
            emptying.spent.insert(peer.clone());
            emptying.fruitless = 0;
            let id = ExchangeId(rng.next_u64());
            let step = Exchange::give(id, peer.clone(), report, &self.host, now);
            self.step(step, &peer, id, now, rng, out);
        }
        let asking = self.appraising.iter().any(|(purpose, _)| matches!(purpose, Purpose::Empty));
        if !self.is_busy() && !asking && now >= emptying.next {
            let peers = self.draw(ASKED, rng);
            let (candidates, _) = self.host.to_give(&peers, now);
            emptying.fruitless = emptying.fruitless.saturating_add(1);
            let wait = RETRY.saturating_mul(1 << (emptying.fruitless - 1).min(10));
            emptying.next = now + wait.min(self.config.round);
            out.push(Effect::SetTimer(Timer::Empty, emptying.next));
            self.emptying = Some(emptying);
            return self.ask(
                Purpose::Empty,
                candidates,
                &peers,
                HostState::Draining,
                now,
                rng,
                out,
            );
        }
        self.emptying = Some(emptying);
    }

    /// Others have said what they could take.
    pub(super) fn found(&mut self, asked: Appraising, now: Time) {
        let Some(emptying) = &mut self.emptying else { return };
        emptying.candidates = asked.candidates;
        emptying.answers = asked.answers;
        emptying.spent.clear();
        emptying.fresh_until = now + self.config.round;
        if emptying.receiver(&self.host, now).is_some() {
            // When these have been offered something, others are asked at once.
            emptying.next = now;
        }
    }

    /// How far this host is, if it is being emptied.
    #[must_use]
    pub fn drain(&self, now: Time) -> Option<Drain> {
        let emptying = self.emptying.as_ref()?;
        let staying = self.staying(emptying, now);
        let bytes_left: f64 = self.host.occupants().map(|(_, machine)| bytes_of(machine)).sum();
        let bound: f64 = staying
            .iter()
            .filter_map(|lacking| self.host.view.machines().get(&lacking.machine))
            .map(bytes_of)
            .sum();
        let (gone, took) = (emptying.bytes - bytes_left, now.since(emptying.since).as_secs_f64());
        let link = self.host.experience.link_bytes_per_s(now);
        let rate = if gone > 0.0 && took > 0.0 { gone / took } else { link };
        let seconds = (bytes_left - bound).max(0.0) / rate;
        Some(Drain {
            since: emptying.since,
            machines: emptying.machines,
            bytes: emptying.bytes,
            machines_left: self.host.occupants().count(),
            bytes_left,
            seconds_left: Some(seconds).filter(|s| s.is_finite() && (*s > 0.0 || bound <= 0.0)),
            staying,
        })
    }

    /// What does not leave, by what the hosts have said that were asked last.
    fn staying(&self, emptying: &Emptying, now: Time) -> Vec<Lacking> {
        let known: Vec<_> = emptying.answers.iter().map(|a| a.host.clone()).collect();
        let peers = if known.is_empty() { self.members() } else { &known[..] };
        let (_, bound) = self.host.to_give(peers, now);
        let bound = bound.iter().map(|(_, machine, refusal)| Lacking::bound(machine, refusal));
        let mut staying: Vec<_> = bound.collect();
        for (index, candidate) in emptying.candidates.iter().enumerate() {
            let is_here = self.host.view.machines().contains_key(&candidate.machine);
            let is_bound = staying.iter().any(|lacking| lacking.machine == candidate.machine);
            if !is_here || is_bound || self.handoffs.moves(&candidate.machine) {
                continue;
            }
            let mut refusals = Refusals::default();
            let said =
                emptying.answers.iter().filter_map(|host| host.takes(index, candidate).err());
            said.for_each(|refusal| refusals.count(refusal));
            if refusals.len() == emptying.answers.len() {
                staying.push(refusals.of(candidate));
            }
        }
        staying
    }
}

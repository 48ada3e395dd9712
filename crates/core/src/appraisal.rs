//! What would fit where: other hosts' own prices for machines, without a word that engages anybody.
//!
//! ```text
//!   asks ── Appraise ──▶ each of several      they ── Appraisal ──▶ one after the other
//!   all have answered, or it has been long enough: what was wished for is answered with what is known
//! ```
//!
//! A host that is being emptied finds its receivers so; an operator who wants to empty one is told
//! before whether the rest can hold its machines, and where a new machine fits best.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::decision::{Reason, Refusal};
use crate::load::Machine;
use crate::message::{Appraisal, Candidate, OFFER_MAX};
use crate::model::{ExchangeId, HostId, HostState, MachineId};
use crate::restraint::unwilling;

/// Something that an operator wishes, as its driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WishId(pub u64);

/// What an operator wishes.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// That this host be emptied, if the rest can hold its machines and spare one of their hosts;
    /// or in any case.
    Drain {
        /// Whatever the rest can hold.
        force: bool,
    },
    /// To know where a machine fits best that there is not yet.
    Place(Box<Candidate>),
}

/// What becomes of a wish.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What the rest could hold.
    Drain(Fit),
    /// Hosts for a new machine, the best first; how many were asked.
    Place(Vec<Berth>, usize),
    /// Nothing, and why.
    Refused(String),
}

/// Whether the rest of the cluster can hold what a host has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Hosts that were asked and have answered.
    pub hosts: usize,
    /// Hosts that were asked and have not.
    pub silent: Vec<HostId>,
    /// Machines that are to go.
    pub machines: usize,
    /// Memory that they may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Those that find no room, or may not leave.
    pub lacking: Vec<Lacking>,
    /// If the rest could not do without one of them afterwards: which one, at the worst.
    pub no_spare: Option<NoSpare>,
    /// Whether the host is emptied now.
    pub begins: bool,
}

/// A machine that no host asked can take, or that may not leave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lacking {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Why, as most hosts see it.
    pub reason: Reason,
    /// What it is about, in words; empty where the code says it all.
    pub detail: String,
    /// How many hosts have refused it for which reason; none where it may not leave.
    pub refusals: BTreeMap<Reason, usize>,
}

/// What would be missing if a host failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoSpare {
    /// The host.
    pub host: HostId,
    /// Memory that all others together would lack, in bytes.
    pub memory_bytes: f64,
}

/// A host for a new machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Berth {
    /// The host.
    pub host: HostId,
    /// Whether it takes machines.
    pub state: HostState,
    /// Its load now.
    pub load: f64,
    /// What the machine would load it, by its own capacity and weights.
    pub price: f64,
    /// Memory that it could still promise, in bytes.
    pub free_memory_bytes: f64,
    /// Why it cannot take it.
    pub refusal: Option<Reason>,
}

/// A host, and what it has said.
#[derive(Clone, Debug, PartialEq)]
pub struct Appraiser {
    /// The host.
    pub host: HostId,
    /// What it has said.
    pub said: Appraisal,
}

impl Appraiser {
    /// Whether it would take the candidate of this index now, by what it has said.
    ///
    /// # Errors
    /// Why not.
    pub fn takes(&self, index: usize, candidate: &Candidate) -> Result<(), Refusal> {
        if let Some(reason) = unwilling(self.said.report.state) {
            return Err(reason.into());
        }
        // Where there were more machines than one question holds, memory alone has to tell.
        if let Some(quote) = self.said.quotes.get(index)
            && let Some(reason) = quote.refusal
        {
            return Err(Refusal { reason, detail: quote.detail.clone().unwrap_or_default() });
        }
        if candidate.memory_bytes > self.said.free_memory_bytes {
            return Err(Reason::NoMemory.into());
        }
        Ok(())
    }
}

/// A question to several hosts that waits for its answers.
#[derive(Clone, Debug)]
pub struct Appraising {
    /// By which its answers are known.
    pub id: ExchangeId,
    /// What was asked about, as far as one question holds it.
    pub candidates: Vec<Candidate>,
    /// What has been answered.
    pub answers: Vec<Appraiser>,
    asked: Vec<HostId>,
    waiting: BTreeSet<HostId>,
}

impl Appraising {
    /// A question that was put to `peers`.
    #[must_use]
    pub fn new(id: ExchangeId, candidates: Vec<Candidate>, peers: &[HostId]) -> Self {
        let waiting = peers.iter().cloned().collect();
        Self { id, candidates, answers: Vec::new(), asked: peers.to_vec(), waiting }
    }

    /// Somebody has answered.
    pub fn hear(&mut self, from: &HostId, said: Appraisal) {
        // One price for each, or it was not this question.
        let asked = self.candidates.len().min(OFFER_MAX);
        if self.waiting.contains(from) && said.quotes.len() == asked {
            self.waiting.remove(from);
            self.answers.push(Appraiser { host: from.clone(), said });
        }
    }

    /// One of those asked will not answer.
    pub fn miss(&mut self, from: &HostId) {
        self.waiting.remove(from);
    }

    /// Who has not answered.
    #[must_use]
    pub fn silent(&self) -> Vec<HostId> {
        let has_answered = |host: &HostId| self.answers.iter().any(|answer| answer.host == *host);
        self.asked.iter().filter(|host| !has_answered(host)).cloned().collect()
    }

    /// Whether nobody is waited for any more.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// What becomes of `candidates` if all of them have to find room at `hosts`, largest first and each
/// where most memory is free: which do not, and what is missing then if a host fails.
#[must_use]
pub fn fit(candidates: &[Candidate], hosts: &[Appraiser]) -> (Vec<Lacking>, Option<NoSpare>) {
    let mut hosts = hosts.to_vec();
    let mut order: Vec<_> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| candidates[b].memory_bytes.total_cmp(&candidates[a].memory_bytes));
    let mut lacking = Vec::new();
    for index in order {
        let candidate = &candidates[index];
        let mut refusals = Refusals::default();
        let mut best: Option<usize> = None;
        for (at, host) in hosts.iter().enumerate() {
            let gauge = host.said.gauge.as_ref();
            let margin = candidate.margin.unwrap_or_default();
            let admits = |()| {
                let admits = gauge.map(|g| g.admits(&candidate.factors, &margin, None));
                admits.unwrap_or(Ok(())).map_err(Refusal::from)
            };
            match host.takes(index, candidate).and_then(admits) {
                Ok(()) => {
                    let free = |at: usize| hosts[at].said.free_memory_bytes;
                    if best.is_none_or(|best| free(at) > free(best)) {
                        best = Some(at);
                    }
                }
                Err(refusal) => refusals.count(refusal),
            }
        }
        match best {
            Some(at) => hosts[at].said.accommodate(candidate),
            None => lacking.push(refusals.of(candidate)),
        }
    }
    (lacking, no_spare(&hosts))
}

/// The host whose failure the others could least make up for, if there is one at all. Memory is
/// counted in sums: whether it suffices machine by machine is not known.
fn no_spare(hosts: &[Appraiser]) -> Option<NoSpare> {
    let free = |host: &Appraiser| match host.said.report.state {
        HostState::Active => host.said.free_memory_bytes.max(0.0),
        _ => 0.0,
    };
    let all: f64 = hosts.iter().map(free).sum();
    let missing = |host: &Appraiser| NoSpare {
        host: host.host.clone(),
        memory_bytes: host.said.promised_memory_bytes - (all - free(host)),
    };
    let short = hosts.iter().map(missing).filter(|missing| missing.memory_bytes > 0.0);
    short.max_by(|a, b| a.memory_bytes.total_cmp(&b.memory_bytes))
}

impl Appraisal {
    /// As if a machine had come.
    pub fn accommodate(&mut self, candidate: &Candidate) {
        self.free_memory_bytes -= candidate.memory_bytes;
        self.promised_memory_bytes += candidate.memory_bytes;
        if let Some(gauge) = &mut self.gauge {
            gauge.used += candidate.factors;
        }
    }
}

/// Why hosts do not take a machine.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counts: BTreeMap<Reason, usize>,
    details: BTreeMap<Reason, String>,
}

impl Refusals {
    /// One more host does not.
    pub fn count(&mut self, refusal: Refusal) {
        *self.counts.entry(refusal.reason).or_default() += 1;
        self.details.entry(refusal.reason).or_insert(refusal.detail);
    }

    /// How many do not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.values().sum()
    }

    /// Whether none has refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The machine that they do not take, with the reason that most of those give that take machines.
    #[must_use]
    pub fn of(mut self, candidate: &Candidate) -> Lacking {
        // A host that takes nothing at all says nothing of this machine.
        let is_of_machine = |reason: Reason| !matches!(reason, Reason::Cordoned | Reason::Draining);
        let most = self.counts.iter().rev().max_by_key(|(r, count)| (is_of_machine(**r), **count));
        let reason = most.map_or(Reason::NoPeer, |(reason, _)| *reason);
        Lacking {
            machine: candidate.machine.clone(),
            name: candidate.name.clone(),
            memory_bytes: candidate.memory_bytes,
            reason,
            detail: self.details.remove(&reason).unwrap_or_default(),
            refusals: self.counts,
        }
    }
}

impl Lacking {
    /// A machine that may not leave, whoever would take it.
    #[must_use]
    pub fn bound(machine: &Machine, refusal: &Refusal) -> Self {
        Self {
            machine: machine.facts.id.clone(),
            name: machine.facts.name.to_string(),
            memory_bytes: machine.facts.memory_bytes,
            reason: refusal.reason,
            detail: refusal.detail.clone(),
            refusals: BTreeMap::new(),
        }
    }
}

/// The answers to where a machine fits best, the best host first: one that takes it, and of those the
/// one that ends least loaded.
#[must_use]
pub fn places(candidate: &Candidate, hosts: &[Appraiser]) -> Vec<Berth> {
    let place = |host: &Appraiser| Berth {
        host: host.host.clone(),
        state: host.said.report.state,
        load: host.said.report.load,
        price: host.said.quotes.first().map_or(0.0, |quote| quote.at_receiver),
        free_memory_bytes: host.said.free_memory_bytes,
        refusal: host.takes(0, candidate).err().map(|refusal| refusal.reason),
    };
    let mut places: Vec<_> = hosts.iter().map(place).collect();
    let after = |place: &Berth| place.load + place.price;
    places.sort_by(|a, b| {
        let refused = a.refusal.is_some().cmp(&b.refusal.is_some());
        refused.then(after(a).total_cmp(&after(b))).then(a.host.cmp(&b.host))
    });
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::message::{Quote, Report};

    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

    fn machine(name: &str, gib: f64) -> Candidate {
        Candidate {
            at_donor: 0.1,
            memory_bytes: gib * GIB,
            ..Candidate::new(MachineId::new(name).unwrap(), name)
        }
    }

    fn report(load: f64, state: HostState) -> Report {
        Report { load, state, protocol: None, contention: None, mends: None, mode: None }
    }

    /// A host with so much free and promised memory, and its refusals.
    fn host(name: &str, free: f64, promised: f64, refusals: &[Option<Reason>]) -> Appraiser {
        let quote =
            |refusal: &Option<Reason>| Quote { at_receiver: 0.1, refusal: *refusal, detail: None };
        let said = Appraisal {
            report: report(0.5, HostState::Active),
            quotes: refusals.iter().map(quote).collect(),
            free_memory_bytes: free * GIB,
            promised_memory_bytes: promised * GIB,
            gauge: None,
            busy: false,
        };
        Appraiser { host: HostId::new(name).unwrap(), said }
    }

    #[test]
    fn the_rest_holds_a_host_if_every_machine_fits_and_then_any_one_host_may_fail() {
        let all = [None; 3];
        let machines = [machine("a", 4.0), machine("b", 4.0), machine("c", 2.0)];
        // (free, promised) of the others, machines lacking, whose failure is too much.
        let cases = [
            (vec![(20.0, 4.0), (20.0, 4.0)], vec![], None),
            (vec![(20.0, 4.0), (5.0, 4.0)], vec![], Some("h0")),
            (vec![(12.0, 4.0)], vec![], Some("h0")),
            // In sum there is room, but not in one place.
            (vec![(3.0, 0.0), (3.0, 0.0), (4.0, 0.0)], vec!["b"], None),
            (vec![], vec!["a", "b", "c"], None),
        ];
        for (others, lacking, without) in cases {
            let host = |(i, (free, promised)): (usize, &(f64, f64))| {
                host(&format!("h{i}"), *free, *promised, &all)
            };
            let hosts: Vec<_> = others.iter().enumerate().map(host).collect();
            let (found, short) = fit(&machines, &hosts);
            let names: Vec<_> = found.iter().map(|l| l.name.as_str()).collect();
            assert_eq!(names, lacking, "{others:?}");
            assert_eq!(short.map(|s| s.host.to_string()).as_deref(), without, "{others:?}");
        }
    }

    #[test]
    fn a_machine_that_lacks_room_has_the_reason_that_most_hosts_give() {
        let (memory, rule) = (Some(Reason::NoMemory), Some(Reason::RuleAntiAffinity));
        let mut hosts = [
            host("h1", 9.0, 0.0, &[memory]),
            host("h2", 9.0, 0.0, &[rule]),
            host("h3", 1.0, 0.0, &[None]),
            host("h4", 9.0, 0.0, &[None]),
            host("h5", 9.0, 0.0, &[None]),
            host("h6", 9.0, 0.0, &[None]),
        ];
        // Those that take nothing at all do not count, however many.
        hosts[3..].iter_mut().for_each(|host| host.said.report.state = HostState::Cordoned);
        let (lacking, _) = fit(&[machine("a", 4.0)], &hosts);
        assert_eq!(lacking[0].reason, Reason::NoMemory);
        assert_eq!(lacking[0].refusals[&Reason::NoMemory], 2);
        assert_eq!(lacking[0].refusals[&Reason::RuleAntiAffinity], 1);
    }

    #[test]
    fn a_new_machine_fits_best_where_it_is_taken_and_leaves_the_lowest_load() {
        let mut hosts = [
            host("full", 1.0, 0.0, &[None]),
            host("busy", 9.0, 0.0, &[None]),
            host("idle", 9.0, 0.0, &[None]),
            host("out", 9.0, 0.0, &[None]),
        ];
        hosts[2].said.report.load = 0.2;
        hosts[3].said.report = report(0.0, HostState::Cordoned);
        let found = places(&machine("a", 4.0), &hosts);
        let names: Vec<_> = found.iter().map(|p| p.host.as_str()).collect();
        assert_eq!(names, ["idle", "busy", "out", "full"]);
        let refusals: Vec<_> = found.iter().map(|p| p.refusal).collect();
        assert_eq!(refusals, [None, None, Some(Reason::Cordoned), Some(Reason::NoMemory)]);
    }
}

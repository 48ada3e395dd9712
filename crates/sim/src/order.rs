//! In which order machines can go where they shall, every step sound as machines are where they are
//! meanwhile: it fits the memory that is free by then, breaks no rule and no ceiling, and leaves the
//! receiver below what the donor had before it, unless the donor is being emptied or the machine
//! breaks a rule there.
//!
//! Hosts negotiated with what is passed on in between, which a plan leaves out, and so the order has
//! to be found anew. In an attempt whatever may go goes, the machines of the most loaded hosts first.
//! What could not go in the end would have had to go sooner: the next attempt makes others wait for
//! it that left its donor or went to its receiver, chosen at random. The better of the two is gone on
//! from. What goes in none of them stays: what is printed is then less good rather than not true.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::ceiling::{Ceilings, Gauge};
use evenkeel_core::model::{Group, HostId, HostProfile, HostState, Resources};
use evenkeel_core::rules::of_places;
use evenkeel_core::select::{LOAD_EPSILON, Price};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::snapshot::{Snapshot, SnapshotHost, SnapshotMachine};

/// What can be done, and what not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Machines to move, by their places in the snapshot, in this order.
    pub(crate) steps: Vec<usize>,
    /// Machines that no order found brings to where they shall be.
    pub(crate) blocked: Vec<usize>,
}

/// A machine that shall move; hosts by their places in the snapshot.
struct Leap<'a> {
    vm: usize,
    machine: &'a SnapshotMachine,
    from: usize,
    to: usize,
    factors: Resources,
    price: Price,
    /// Whether it is where it must not be.
    misplaced: bool,
}

/// A host as it is meanwhile.
#[derive(Clone)]
struct Place<'a> {
    used: Resources,
    load: f64,
    free_bytes: f64,
    /// Members of each anti-affinity and of each affinity group, of the former also those that insist.
    apart: BTreeMap<Key<'a>, u32>,
    insist: BTreeMap<Key<'a>, u32>,
    together: BTreeMap<Key<'a>, u32>,
}

/// A group by its name and the label that it is across.
type Key<'a> = (&'a str, Option<&'a str>);

fn key(group: &Group) -> Key<'_> {
    (group.name(), group.label())
}

fn count(members: &BTreeMap<Key<'_>, u32>, group: &Group) -> u32 {
    members.get(&key(group)).copied().unwrap_or(0)
}

impl<'a> Place<'a> {
    fn count(&mut self, machine: &'a SnapshotMachine, comes: bool) {
        let tell = |members: &mut BTreeMap<_, u32>, group: &'a Group| {
            let count = members.entry(key(group)).or_default();
            *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        };
        for group in &machine.rules.anti_affinity {
            tell(&mut self.apart, group);
            if !group.is_soft() {
                tell(&mut self.insist, group);
            }
        }
        machine.rules.affinity.iter().for_each(|group| tell(&mut self.together, group));
    }
}

/// Everything that an order is sought for.
struct Problem<'a> {
    profiles: Vec<HostProfile>,
    draining: Vec<bool>,
    start: Vec<Place<'a>>,
    leaps: Vec<Leap<'a>>,
    /// Hosts by each value of each label.
    zones: BTreeMap<(String, String), Vec<usize>>,
    /// Leaps of machines that keep away from others across a label.
    across: Vec<usize>,
    /// For each host the leaps from it and to it.
    leaving: Vec<Vec<usize>>,
    coming: Vec<Vec<usize>>,
}

impl<'a> Problem<'a> {
    fn new(snapshot: &'a Snapshot, targets: &[HostId]) -> Self {
        let profiles: Vec<_> = snapshot.hosts.iter().map(SnapshotHost::profile).collect();
        let index: BTreeMap<_, _> =
            snapshot.hosts.iter().enumerate().map(|(index, host)| (&host.id, index)).collect();
        let place = |(host, profile): (&SnapshotHost, &HostProfile)| Place {
            used: host.background.unwrap_or_default(),
            load: 0.0,
            free_bytes: profile.usable_memory_bytes(),
            apart: BTreeMap::new(),
            insist: BTreeMap::new(),
            together: BTreeMap::new(),
        };
        let mut start: Vec<_> = snapshot.hosts.iter().zip(&profiles).map(place).collect();
        let mut leaps = Vec::new();
        for (vm, (machine, target)) in snapshot.vms.iter().zip(targets).enumerate() {
            let (Some(&from), Some(&to)) = (index.get(&machine.host), index.get(target)) else {
                continue;
            };
            let factors = machine.factors(&profiles[from]);
            start[from].used += factors;
            start[from].free_bytes -= machine.promised_memory_bytes();
            start[from].count(machine, true);
            if from != to {
                let (at_donor, at_receiver) =
                    (profiles[from].price(&factors), profiles[to].price(&factors));
                let price = Price { at_donor, at_receiver };
                let (id, labels) = (&machine.host, &profiles[from].labels);
                let misplaced = of_places(&machine.rules, id, Some(labels)).is_some();
                leaps.push(Leap { vm, machine, from, to, factors, price, misplaced });
            }
        }
        for (place, profile) in start.iter_mut().zip(&profiles) {
            place.load = profile.price(&place.used);
        }
        // The most loaded hosts give first.
        leaps.sort_by(|a: &Leap<'_>, b| {
            let by_load = start[b.from].load.total_cmp(&start[a.from].load);
            by_load.then_with(|| a.machine.id.cmp(&b.machine.id))
        });
        let (mut leaving, mut coming) = (vec![vec![]; start.len()], vec![vec![]; start.len()]);
        for (index, leap) in leaps.iter().enumerate() {
            leaving[leap.from].push(index);
            coming[leap.to].push(index);
        }
        let mut zones: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (host, profile) in profiles.iter().enumerate() {
            for (label, value) in &profile.labels {
                zones.entry((label.clone(), value.clone())).or_default().push(host);
            }
        }
        let mut groups = leaps.iter().map(|leap| &leap.machine.rules.anti_affinity);
        let is_across = |groups: &Vec<Group>| groups.iter().any(|group| group.label().is_some());
        let across = (0..leaps.len()).filter(|_| groups.next().is_some_and(is_across)).collect();
        let draining = snapshot.hosts.iter().map(|h| h.state == HostState::Draining).collect();
        Self { zones, across, profiles, draining, start, leaps, leaving, coming }
    }

    fn gauge(&self, host: usize, places: &[Place<'_>]) -> Gauge {
        Gauge {
            capacity: self.profiles[host].share_as_usage(1.0),
            used: places[host].used,
            margin: Resources::ZERO,
            ceilings: Ceilings::FULL.0,
        }
    }

    /// Whether a machine may go as things are.
    fn is_sound(&self, leap: &Leap<'_>, places: &[Place<'_>]) -> bool {
        let (here, there) = (&places[leap.from], &places[leap.to]);
        let rules = &leap.machine.rules;
        let lifts = there.load + leap.price.at_receiver >= here.load - LOAD_EPSILON;
        let clash = |g: &Group| self.clashes(leap, g, places);
        let tears = |g: &Group| count(&there.together, g) + 1 < count(&here.together, g);
        let crowded = || rules.anti_affinity.iter().any(|g| count(&here.apart, g) > 1);
        // Whoever has gone from a draining host is on a host that is none.
        if lifts && !self.draining[leap.from] && !leap.misplaced && !crowded()
            || leap.machine.promised_memory_bytes() > there.free_bytes
            || rules.anti_affinity.iter().any(clash)
            || !leap.misplaced && rules.affinity.iter().any(|g| !g.is_soft() && tears(g))
        {
            return false;
        }
        let (taker, giver) = (self.gauge(leap.to, places), self.gauge(leap.from, places));
        taker.admits(&leap.factors, &Resources::ZERO, Some(&giver)).is_ok()
    }

    /// Whether a machine would come to where another of a group is, that it stays apart from.
    fn clashes(&self, leap: &Leap<'_>, group: &Group, places: &[Place<'_>]) -> bool {
        let value = group.label().and_then(|label| {
            let value = self.profiles[leap.to].labels.get(label)?;
            self.zones.get(&(label.to_owned(), value.clone()))
        });
        let hosts = value.map_or(std::slice::from_ref(&leap.to), Vec::as_slice);
        let soft = group.is_soft();
        let members = |host: &usize| {
            let place = &places[*host];
            let own = u32::from(*host == leap.from && !soft);
            count(if soft { &place.insist } else { &place.apart }, group) - own
        };
        hosts.iter().any(|host| members(host) > 0)
    }

    fn go(&self, leap: &Leap<'a>, places: &mut [Place<'a>]) {
        let memory = leap.machine.promised_memory_bytes();
        let here = &mut places[leap.from];
        (here.used, here.free_bytes) = (here.used - leap.factors, here.free_bytes + memory);
        here.load -= leap.price.at_donor;
        here.count(leap.machine, false);
        let there = &mut places[leap.to];
        (there.used, there.free_bytes) = (there.used + leap.factors, there.free_bytes - memory);
        there.load += leap.price.at_receiver;
        there.count(leap.machine, true);
    }

    /// Whatever may go goes, in the order of the leaps, but nothing before what it must wait for, as
    /// long as anything else may go.
    fn attempt(&self, waits: &Waits) -> Attempt {
        let mut places = self.start.clone();
        let mut steps = Vec::with_capacity(self.leaps.len());
        let mut waiting: BTreeSet<usize> = (0..self.leaps.len()).collect();
        let mut agenda = waiting.clone();
        let mut held = BTreeSet::new();
        loop {
            let may_go = |index: &usize| self.is_sound(&self.leaps[*index], &places);
            let mut next = None;
            while let Some(index) = agenda.pop_first() {
                let must_wait = |others: &BTreeSet<usize>| !others.is_disjoint(&waiting);
                if !may_go(&index) {
                    continue;
                }
                if waits.get(&index).is_some_and(must_wait) {
                    held.insert(index);
                    continue;
                }
                next = Some(index);
                break;
            }
            // Only what waits for what cannot go is left: the first of that goes all the same.
            let next = next.or_else(|| {
                std::mem::take(&mut held).into_iter().find(|i| waiting.contains(i) && may_go(i))
            });
            let Some(index) = next else {
                return Attempt { steps, blocked: waiting.into_iter().collect() };
            };
            let (from, to) = (self.leaps[index].from, self.leaps[index].to);
            self.go(&self.leaps[index], &mut places);
            waiting.remove(&index);
            steps.push(index);
            // What it has made room for or pushed up, and what waited for it.
            let touched = [&self.leaving[to], &self.leaving[from]];
            let touched = touched.into_iter().chain([&self.coming[from], &self.coming[to]]);
            agenda.extend(touched.flatten().filter(|other| waiting.contains(other)));
            if self.across.binary_search(&index).is_ok() {
                agenda.extend(self.across.iter().filter(|other| waiting.contains(other)));
            }
        }
    }

    /// Makes what left the donor of a blocked leap, or went to its receiver, wait for it; sometimes
    /// instead of for what it waited for.
    fn hold_back(&self, leap: usize, blocked: &[usize], waits: &mut Waits, rng: &mut ChaCha8Rng) {
        let (from, to) = (self.leaps[leap].from, self.leaps[leap].to);
        let (leaving, coming, instead) = match rng.random_range(0..6) {
            0 => (true, true, false),
            1 => (true, false, false),
            2 => (false, true, false),
            3 => (true, true, true),
            // Not all at once: some may come free with others.
            _ => return,
        };
        if instead {
            waits.retain(|&other, _| self.leaps[other].from != from && self.leaps[other].to != to);
        }
        let leaving = self.leaving[from].iter().filter(|_| leaving);
        let coming = self.coming[to].iter().filter(|_| coming);
        for &other in leaving.chain(coming).filter(|other| blocked.binary_search(other).is_err()) {
            waits.entry(other).or_default().insert(leap);
        }
    }
}

/// For a leap those that it must wait for.
type Waits = BTreeMap<usize, BTreeSet<usize>>;

/// What came of an attempt: leaps in the order in which they were made, and the rest.
#[derive(Clone)]
struct Attempt {
    steps: Vec<usize>,
    blocked: Vec<usize>,
}

/// Attempts at most.
const ATTEMPTS_MAX: u32 = 256;
/// Attempts without a better one after which it is begun anew.
const STALE: u32 = 24;

/// Finds an order in which machines go from their hosts to their targets.
pub(crate) fn order(snapshot: &Snapshot, targets: &[HostId], seed: u64) -> Order {
    let problem = Problem::new(snapshot, targets);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let first = problem.attempt(&Waits::new());
    let (mut waits, mut last, mut best) = (Waits::new(), first.clone(), first.clone());
    let mut stale = 0;
    for _ in 0..ATTEMPTS_MAX {
        if best.blocked.is_empty() {
            break;
        }
        if stale >= STALE {
            (waits, last, stale) = (Waits::new(), first.clone(), 0);
        }
        let mut more = waits.clone();
        for &blocked in &last.blocked {
            problem.hold_back(blocked, &last.blocked, &mut more, &mut rng);
        }
        let attempt = problem.attempt(&more);
        stale = if attempt.blocked.len() < last.blocked.len() { 0 } else { stale + 1 };
        if attempt.blocked.len() <= last.blocked.len() {
            (last, waits) = (attempt, more);
        }
        if last.blocked.len() < best.blocked.len() {
            best = last.clone();
        }
    }
    let vm = |leaps: Vec<usize>| leaps.into_iter().map(|index| problem.leaps[index].vm).collect();
    Order { steps: vm(best.steps), blocked: vm(best.blocked) }
}

/// What a live migration is predicted to cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
}

/// Speed of the link that is assumed, in bytes per second: 10 Gbit/s.
const LINK_BYTES_PER_S: f64 = 1.25e9;

/// Pre-copy: memory in use is sent once, and again what was dirtied meanwhile, a fraction of dirty
/// rate over bandwidth each time; at most as much again as four times the memory.
pub(crate) fn predict(vm: &SnapshotMachine) -> Cost {
    let memory = vm.usage.memory_bytes;
    let ratio = (vm.dirty_bytes_per_s / LINK_BYTES_PER_S).clamp(0.0, 0.8);
    let bytes = memory / (1.0 - ratio);
    Cost { bytes, seconds: bytes / LINK_BYTES_PER_S }
}

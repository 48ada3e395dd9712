//! One host as a partner in an exchange: what it could give, what it could take, at what price.

use std::collections::{BTreeMap, BTreeSet};

use crate::advantage::priced;
use crate::ceiling::{Ceilings, Gauge, Measure};
use crate::cost::{Costing, Experience, Prediction, Weight};
use crate::decision::{Judged, Reason, Role};
use crate::estimate::{Averaging, Stock};
use crate::handoff::{Handoff, Mode};
use crate::load::{Basis, Machine, Metering, Unknown, View};
use crate::message::{Candidate, OFFER_MAX, Probe, Quote, Report, Room, Tenant};
use crate::model::{Entry, HostId, HostProfile, HostState, MachineId, Missing, Resources, Time};
use crate::port::{HandoffId, HostSample, Presence};
use crate::restraint::{Past, Restraint};
use crate::select::mean_aware::{self, Choice, Piece, Side};
use crate::select::relief;
use crate::select::{Calm, LOAD_EPSILON, Pair, rounded};

/// A host: what it has, what it knows of itself, and what its handoffs hold.
#[derive(Clone, Debug)]
pub struct Host {
    /// Capacity, speed and weights.
    pub profile: HostProfile,
    /// Whether it takes part.
    pub state: HostState,
    /// Its machines and what they use.
    pub view: View,
    /// What handoffs under way hold of it.
    pub holds: Holds,
    /// When a difference is worth acting on.
    pub calm: Calm,
    /// What keeps it from acting.
    pub restraint: Restraint,
    /// How much of each resource may be in use.
    pub ceilings: Ceilings,
    /// Within which bounds migrations are worth it.
    pub costing: Costing,
    /// What it remembers of its own moves.
    pub past: Past,
    /// What it has learnt of what migrations cost.
    pub experience: Experience,
    /// What it knows of the cluster.
    pub averaging: Averaging,
    /// Whether only entries move, and memory later: see [`Self::origin`].
    pub tentative: bool,
    /// By which commit point it hands machines over.
    pub mode: Mode,
}

/// What handoffs under way hold of a host.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// Room kept for machines on their way here.
    pub incoming: BTreeMap<HandoffId, Incoming>,
    /// Machines on their way out.
    pub outgoing: BTreeSet<MachineId>,
    /// Machines that stay, which is not settled with the other host yet.
    pub settling: BTreeSet<MachineId>,
    /// Machines that were seen running on another host, too.
    pub doubled: BTreeSet<MachineId>,
}

/// Room kept for a machine on its way here.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The machine.
    pub machine: MachineId,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// What it uses.
    pub usage: Resources,
    /// Its anti-affinity groups.
    pub anti_affinity: Vec<String>,
}

impl Host {
    /// An active host that has not been measured yet.
    #[must_use]
    pub fn new(profile: HostProfile, metering: Metering) -> Self {
        Self {
            profile,
            state: HostState::Active,
            view: View::new(metering),
            holds: Holds::default(),
            calm: Calm::default(),
            restraint: Restraint::default(),
            ceilings: Ceilings::default(),
            costing: Costing::default(),
            past: Past::default(),
            experience: Experience::new(&Costing::default()),
            averaging: Averaging::default(),
            tentative: false,
            mode: Mode::default(),
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &HostId {
        &self.profile.id
    }

    /// Takes in a sample. A machine that is still arriving is not in the schedule yet: what it will
    /// take is held for it, and would count twice.
    pub fn observe(&mut self, mut sample: HostSample) {
        let arriving = |id: &MachineId| self.holds.incoming.values().any(|i| i.machine == *id);
        sample.machines.retain(|m| !arriving(&m.facts.id));
        self.view.observe(sample, &self.profile);
    }

    /// Its load: what its machines and it itself use, with machines on their way counted where they
    /// are going.
    ///
    /// # Errors
    /// When the load of the host or of one of its machines is not known.
    pub fn load(&self, now: Time) -> Result<f64, Unknown> {
        self.amount(None, now)
    }

    /// The same in a measure.
    fn amount(&self, measure: Measure, now: Time) -> Result<f64, Unknown> {
        // Sums of what comes and goes leave a rounding error behind.
        Ok(self.price(measure, &self.usage(now)?).max(0.0))
    }

    /// What its machines and it itself use, with machines on their way counted where they are going.
    fn usage(&self, now: Time) -> Result<Resources, Unknown> {
        let mut usage = self.view.usage(&self.profile, now)?;
        for incoming in self.holds.incoming.values() {
            usage += incoming.usage;
        }
        let leaving = self.holds.outgoing.iter().filter_map(|id| self.view.machines().get(id));
        for (_, factors) in leaving.filter_map(|m| m.factors(&self.profile).ok()) {
            usage = usage - factors;
        }
        Ok(usage)
    }

    /// What `usage` comes to here in a measure.
    #[must_use]
    pub fn price(&self, measure: Measure, usage: &Resources) -> f64 {
        match measure {
            None => self.profile.price(usage),
            Some(resource) => self.profile.shares(usage)[resource],
        }
    }

    /// How full it is; `None` where that is not known.
    #[must_use]
    pub fn gauge(&self, now: Time) -> Option<Gauge> {
        Some(Gauge {
            capacity: self.profile.share_as_usage(1.0),
            used: self.usage(now).ok()?,
            margin: self.view.margin(),
            ceilings: self.ceilings.0,
        })
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When its load is not known.
    pub fn report(&self, measure: Measure, now: Time) -> Result<Report, Unknown> {
        Ok(Report { load: self.amount(measure, now)?, state: self.state })
    }

    /// Brings what this host itself has and uses into its estimate of the cluster. A host that is
    /// being emptied has nothing to offer.
    pub fn take_stock(&mut self, now: Time) {
        if let Ok(usage) = self.view.usage(&self.profile, now) {
            let share = if self.state == HostState::Draining { 0.0 } else { 1.0 };
            let stays = |m: &Machine| m.entry().is_none_or(|entry| entry.rules.ignore);
            let machines = self.view.machines().values().filter(|m| !stays(m));
            let machines = machines.filter_map(|m| m.factors(&self.profile).ok());
            self.averaging.follow(&Stock {
                usage,
                capacity: self.profile.share_as_usage(share),
                rates: self.rates(None),
                machines: machines.map(|(_, usage)| usage).collect(),
            });
        }
        self.past.sampled(self.is_overloaded(now) == Some(true));
        let machines = self.view.machines();
        self.past.retain(|machine| machines.contains_key(machine));
        self.experience.retain(|machine| machines.contains_key(machine));
    }

    /// Its fair share of the cluster's load, or of a resource; `None` while it does not know the
    /// cluster.
    #[must_use]
    pub fn target(&self, measure: Measure) -> Option<f64> {
        let target = match measure {
            None => self.averaging.target(&self.profile.weights)?,
            Some(resource) => self.averaging.share(resource)?,
        };
        Some(if self.state == HostState::Draining { 0.0 } else { target })
    }

    /// The load that it must not be above: its target and half the dead band, which a pair that
    /// lies symmetrically about its target is apart. Of a resource, its ceiling, if not all hosts
    /// together are above it.
    #[must_use]
    pub fn limit(&self, measure: Measure) -> Option<f64> {
        let target = self.target(measure)?;
        let band = self.calm.difference_min.max(self.calm.dead_band * target) / 2.0;
        Some(measure.map_or(0.0, |resource| self.ceilings.0[resource]).max(target + band))
    }

    /// The best move from this host's side to another's: of entries while only they move, or of
    /// memory.
    #[must_use]
    pub fn choose(&self, donor: &Side, receiver: &Side, value_max: i32) -> Option<Choice> {
        let mean = f64::midpoint(donor.load, receiver.load).max(0.0);
        let gain_min = self.calm.gain_min * mean;
        if self.tentative {
            mean_aware::choose(donor, receiver, value_max, gain_min)
        } else {
            relief::choose(donor, receiver, gain_min)
        }
    }

    /// How far it is above its limit, or below if negative; `None` where its load or the cluster is
    /// not known. What machines use that were started just now does not count: most of them will
    /// use less.
    #[must_use]
    pub fn excess(&self, measure: Measure, now: Time) -> Option<f64> {
        let news = self.view.machines().values().filter(|m| m.is_new);
        let news = news.filter_map(|m| m.measured().ok()).fold(Resources::ZERO, |a, b| a + b);
        let known = self.amount(measure, now).ok()? - self.price(measure, &news);
        Some(known - self.limit(measure)?)
    }

    /// Whether it should give, and then in which measure: first of all a resource that is over its
    /// ceiling. While only entries move nobody waits for that, and what levels the load may do both.
    /// `None` where its load or the cluster is not known.
    #[must_use]
    pub fn wants_to_give(&self, now: Time) -> Option<Option<Measure>> {
        let above = |measure| self.excess(measure, now).map(|excess| excess > LOAD_EPSILON);
        let strained = self.gauge(now)?.strained();
        let sheds = strained.is_some() && above(strained)?;
        let overloaded = above(None)?;
        Some(match (sheds, overloaded) {
            (true, true) if self.tentative => Some(None),
            (true, _) => Some(strained),
            (false, true) => Some(None),
            (false, false) => None,
        })
    }

    /// Whether it should give; `None` where its load or the cluster is not known.
    #[must_use]
    pub fn is_overloaded(&self, now: Time) -> Option<bool> {
        Some(self.wants_to_give(now)?.is_some())
    }

    /// Whether it may give now, if it should.
    ///
    /// # Errors
    /// What keeps it.
    pub fn may_give(&self, now: Time) -> Result<(), Reason> {
        if self.state == HostState::Draining {
            return Ok(());
        }
        if !self.past.has_held(&self.restraint) {
            return Err(Reason::Held);
        }
        self.past.may(Role::Donor, &self.restraint, now)
    }

    /// A handoff of this host has ended: remembers what that says for the next one.
    pub fn conclude(&mut self, handoff: &Handoff, ending: Reason, now: Time) {
        let machine = &handoff.machine;
        match (handoff.role, ending) {
            (role, Reason::Moved) => {
                self.past.moved(machine, role, now);
                let last = handoff.entry.last_move.as_ref();
                let told = last.and_then(|l| l.cost_percent).map(|p| f64::from(p) / 100.0);
                if let (Some(predicted), Some(stats)) =
                    (&handoff.decision.predicted, &handoff.decision.stats)
                {
                    self.experience.learn(machine, told, predicted, stats);
                }
            }
            (Role::Donor, Reason::MigrationFailed | Reason::MigrationTooLong) => {
                self.past.failed(machine, now);
            }
            _ => {}
        }
    }

    /// Where the memory of a machine is whose entry alone has moved here.
    #[must_use]
    pub fn origin<'m>(&self, entry: &'m Entry) -> Option<&'m HostId> {
        entry.last_move.as_ref().filter(|_| self.tentative).map(|last| &last.from)
    }

    /// How it stands, for `peer` to reckon with.
    ///
    /// # Errors
    /// When its load is not known.
    pub fn standing(
        &self,
        peer: &HostId,
        probe: &Probe,
        now: Time,
    ) -> Result<(Report, Option<Room>), Unknown> {
        let measure = probe.measure;
        let report = self.report(measure, now)?;
        let known = self.target(measure).zip(self.limit(measure));
        let takes = probe.giving
            && self.state == HostState::Active
            && self.past.may(Role::Receiver, &self.restraint, now).is_ok();
        let room = known.filter(|_| takes).map(|(target, limit)| Room {
            target,
            limit,
            rates: self.rates(measure),
            free_memory_bytes: self.free_memory_bytes(),
            tenants: self.tenants(measure, peer, now),
            gauge: self.gauge(now),
        });
        Ok((report, room))
    }

    /// What one unit of each resource loads it.
    fn rates(&self, measure: Measure) -> Resources {
        let one = |cpu_cores, memory_bytes, io_bytes_per_s| {
            self.price(measure, &Resources { cpu_cores, memory_bytes, io_bytes_per_s })
        };
        Resources {
            cpu_cores: one(1.0, 0.0, 0.0),
            memory_bytes: one(0.0, 1.0, 0.0),
            io_bytes_per_s: one(0.0, 0.0, 1.0),
        }
    }

    /// Its machines that could go to `peer` in return for another.
    fn tenants(&self, measure: Measure, peer: &HostId, now: Time) -> Vec<Tenant> {
        let machines = self.view.machines().iter();
        let tenant = machines.filter_map(|(id, machine)| {
            let (entry, candidate) = self.candidate_of(measure, id, machine, peer, now).ok()?;
            // What it would be programmed to load there, only the other side could say.
            if candidate.basis == Basis::Target {
                return None;
            }
            Some(Tenant { candidate, origin: self.origin(entry).cloned() })
        });
        tenant.take(OFFER_MAX).collect()
    }

    /// One of its machines as a candidate, if it may go to `peer`.
    #[must_use]
    pub fn candidate(
        &self,
        measure: Measure,
        id: &MachineId,
        peer: &HostId,
        now: Time,
    ) -> Option<Candidate> {
        let machine = self.view.machines().get(id)?;
        Some(self.candidate_of(measure, id, machine, peer, now).ok()?.1)
    }

    fn candidate_of<'m>(
        &self,
        measure: Measure,
        id: &MachineId,
        machine: &'m Machine,
        peer: &HostId,
        now: Time,
    ) -> Result<(&'m Entry, Candidate), Reason> {
        let entry = self.may_leave(id, machine, peer, now)?;
        let (basis, factors) = machine.factors(&self.profile).map_err(|_| Reason::UnknownLoad)?;
        // A load that was programmed says nothing of a single resource.
        if measure.is_some() && basis == Basis::Target {
            return Err(Reason::NoImprovement);
        }
        let cost = self.affordable(machine, entry, &factors)?;
        let facts = &machine.facts;
        let candidate = Candidate {
            machine: facts.id.clone(),
            name: facts.name.to_string(),
            basis,
            factors,
            at_donor: self.price(measure, &factors),
            memory_bytes: facts.memory_bytes,
            needs: facts.needs.clone(),
            anti_affinity: entry.rules.anti_affinity.clone(),
            margin: (!self.tentative).then_some(machine.margin),
            cost,
        };
        Ok((entry, candidate))
    }

    /// What moving a machine is predicted to cost, if that is worth it. While only entries move, it
    /// costs nothing.
    fn affordable(
        &self,
        machine: &Machine,
        entry: &Entry,
        factors: &Resources,
    ) -> Result<Option<Prediction>, Reason> {
        if self.tentative {
            return Ok(None);
        }
        let used = machine.measured().unwrap_or(*factors);
        let weight = Weight {
            memory_bytes: used.memory_bytes,
            cpu_cores: used.cpu_cores,
            dirty_bytes_per_s: machine.dirty_bytes_per_s,
            correction: self.correction(&machine.facts.id, entry),
        };
        let (link, bounds) = (self.experience.link_bytes_per_s(), &self.costing);
        let cost = Prediction::of(&weight, link, bounds.downtime_max)
            .filter(|cost| cost.seconds <= bounds.time_max.as_secs_f64())
            .ok_or(Reason::NotConverging)?;
        let load = self.profile.price(factors);
        let core = Resources { cpu_cores: 1.0, ..Resources::ZERO };
        let price = cost.load_seconds(self.profile.price(&core), load);
        let lasting = machine.lasting(bounds.payback).as_secs_f64();
        if load > LOAD_EPSILON && price > load * lasting {
            return Err(Reason::CostHigh);
        }
        Ok(Some(cost))
    }

    /// By how much predictions for a machine were too low so far, as a factor.
    #[must_use]
    pub fn correction(&self, machine: &MachineId, entry: &Entry) -> f64 {
        let told = entry.last_move.as_ref().and_then(|last| last.cost_percent);
        self.experience.correction(machine, told.map(|percent| f64::from(percent) / 100.0))
    }

    /// Its own side of a choice with a host that said what room it has: all that it could give, and
    /// in the same order the machines.
    #[must_use]
    pub fn side(
        &self,
        measure: Measure,
        peer: &HostId,
        room: &Room,
        now: Time,
    ) -> Option<(Side, Vec<MachineId>)> {
        let (target, limit) = self.target(measure).zip(self.limit(measure))?;
        let own = self.gauge(now);
        let mut pieces = Vec::with_capacity(self.view.machines().len());
        let mut ids = Vec::with_capacity(pieces.capacity());
        for (id, machine) in self.view.machines() {
            let Ok(entry) = self.may_leave(id, machine, peer, now) else { continue };
            let Ok((_, factors)) = machine.factors(&self.profile) else { continue };
            let Ok(cost) = self.affordable(machine, entry, &factors) else { continue };
            let origin = self.origin(entry);
            let admits =
                |gauge: &Gauge| gauge.admits(&factors, &machine.margin, own.as_ref()).is_ok();
            pieces.push(Piece {
                at_donor: self.price(measure, &factors),
                at_receiver: priced(&factors, &room.rates),
                memory_bytes: machine.facts.memory_bytes,
                at_home: origin.is_none(),
                homeward: origin == Some(peer),
                movable: room.gauge.as_ref().is_none_or(admits),
                seconds: cost.map_or(0.0, |cost| cost.seconds),
            });
            ids.push(id.clone());
        }
        let (load, free_memory_bytes) = (self.amount(measure, now).ok()?, self.free_memory_bytes());
        let par = self.price(measure, &self.averaging.mix());
        Some((Side { load, target, limit, par, free_memory_bytes, pieces }, ids))
    }

    /// The other side of it: a host that said what room it has.
    #[must_use]
    pub fn side_of(&self, measure: Measure, load: f64, room: &Room, now: Time) -> Side {
        let own = self.gauge(now);
        let piece = |tenant: &Tenant| Piece {
            at_donor: self.price(measure, &tenant.candidate.factors),
            at_receiver: tenant.candidate.at_donor,
            memory_bytes: tenant.candidate.memory_bytes,
            at_home: tenant.origin.is_none(),
            homeward: tenant.origin.as_ref() == Some(self.id()),
            movable: self.can_take(&tenant.candidate, own.as_ref(), None).is_ok(),
            seconds: tenant.candidate.cost.map_or(0.0, |cost| cost.seconds),
        };
        Side {
            load,
            target: room.target,
            limit: room.limit,
            par: priced(&self.averaging.mix(), &room.rates),
            free_memory_bytes: room.free_memory_bytes,
            pieces: room.tenants.iter().map(piece).collect(),
        }
    }

    /// Memory that it could still promise, in bytes.
    #[must_use]
    pub fn free_memory_bytes(&self) -> f64 {
        let coming: f64 = self.holds.incoming.values().map(|i| i.memory_bytes).sum();
        let ceiling = self.ceilings.0.memory * self.profile.capacity.memory_bytes;
        self.profile.usable_memory_bytes().min(ceiling)
            - self.view.committed_memory_bytes()
            - coming
    }

    /// What it could give to `peer`: every machine judged, those on offer first and in the order of
    /// the candidates. The verdict on those is still open and reads [`Reason::Farther`].
    #[must_use]
    pub fn candidates(
        &self,
        measure: Measure,
        peer: &HostId,
        pair: &Pair,
        now: Time,
    ) -> (Vec<Judged>, Vec<Candidate>) {
        let mut offered = Vec::new();
        let mut kept = Vec::new();
        for (id, machine) in self.view.machines() {
            let known = machine.factors(&self.profile).ok();
            let mut judged = Judged {
                machine: id.clone(),
                name: machine.facts.name.to_string(),
                basis: known.map(|k| k.0),
                factors: known.map(|k| k.1),
                at_donor: known.map(|k| self.price(measure, &k.1)),
                at_receiver: None,
                verdict: Reason::Farther,
            };
            match self.candidate_of(measure, id, machine, peer, now) {
                Err(reason) => {
                    judged.verdict = reason;
                    kept.push(judged);
                }
                Ok((_, candidate)) => offered.push((judged, candidate)),
            }
        }
        let distance = |c: &Candidate| rounded((c.at_donor - pair.wanted()).abs());
        offered.sort_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
        for (mut judged, _) in offered.drain(offered.len().min(OFFER_MAX)..) {
            judged.verdict = Reason::NotOffered;
            kept.push(judged);
        }
        let (mut judged, candidates): (Vec<_>, Vec<_>) = offered.into_iter().unzip();
        judged.append(&mut kept);
        (judged, candidates)
    }

    /// Whether a machine of this host may go to `peer` at all; its entry if so.
    fn may_leave<'m>(
        &self,
        id: &MachineId,
        machine: &'m Machine,
        peer: &HostId,
        now: Time,
    ) -> Result<&'m Entry, Reason> {
        let held = self.holds.outgoing.contains(id) || self.holds.settling.contains(id);
        if held || machine.presence == Presence::Leaving {
            return Err(Reason::UnderWay);
        }
        if self.holds.doubled.contains(id) {
            return Err(Reason::RunsTwice);
        }
        let entry = machine.entry().ok_or(Reason::EntryInvalid)?;
        if machine.presence != Presence::Running {
            return Err(Reason::NotRunning);
        }
        if self.mode.choose(&machine.facts.locks).is_none() {
            return Err(Reason::NoLocks);
        }
        let rules = &entry.rules;
        if rules.ignore {
            return Err(Reason::RuleIgnored);
        }
        if !rules.pinned_to.is_empty() && !rules.pinned_to.contains(peer) {
            return Err(Reason::RulePinned);
        }
        if self.past.is_quarantined(id, &self.restraint, now) {
            return Err(Reason::Quarantined);
        }
        if self.state != HostState::Draining {
            if machine.is_new {
                return Err(Reason::WarmingUp);
            }
            let last = entry.last_move.as_ref();
            if last.is_some_and(|last| self.restraint.is_cooling(last, peer, now)) {
                return Err(Reason::CoolDown);
            }
        }
        let has_mate = |(other, m): (&MachineId, &Machine)| {
            other != id
                && m.entry().is_some_and(|e| shares_group(&e.rules.affinity, &rules.affinity))
        };
        if !rules.affinity.is_empty() && self.view.machines().iter().any(has_mate) {
            return Err(Reason::RuleAffinity);
        }
        Ok(entry)
    }

    /// What a candidate of another host would load this one, and whether it could be taken. `donor`
    /// is how full the other is.
    #[must_use]
    pub fn quote(
        &self,
        measure: Measure,
        candidate: &Candidate,
        donor: Option<&Gauge>,
        now: Time,
    ) -> Quote {
        let at_receiver = self.price(measure, &candidate.factors);
        let free = candidate.memory_bytes <= self.free_memory_bytes();
        let refusal = if free {
            self.can_take(candidate, self.gauge(now).as_ref(), donor).err()
        } else {
            Some(Reason::NoMemory)
        };
        Quote { at_receiver, refusal }
    }

    /// Whether it could take a machine, wherever its memory comes from.
    fn can_take(
        &self,
        candidate: &Candidate,
        own: Option<&Gauge>,
        donor: Option<&Gauge>,
    ) -> Result<(), Reason> {
        if let Some(own) = own {
            own.admits(&candidate.factors, &candidate.margin.unwrap_or_default(), donor)?;
        }
        self.view.provides().meets(&candidate.needs).map_err(|missing| match missing {
            Missing::Cpu => Reason::NoCpuModel,
            Missing::Storage => Reason::NoStorage,
        })?;
        let groups = &candidate.anti_affinity;
        let on_host = self.view.machines().values().filter_map(Machine::entry);
        let clash = on_host.map(|e| &e.rules.anti_affinity).any(|g| shares_group(g, groups))
            || self.holds.incoming.values().any(|i| shares_group(&i.anti_affinity, groups));
        if clash { Err(Reason::RuleAntiAffinity) } else { Ok(()) }
    }
}

fn shares_group(a: &[String], b: &[String]) -> bool {
    a.iter().any(|group| b.contains(group))
}

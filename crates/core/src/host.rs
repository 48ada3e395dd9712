//! One host as a partner in an exchange: what it could give, what it could take, at what price.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decision::{Judged, Reason};
use crate::estimate::Averaging;
use crate::handoff::Mode;
use crate::load::{Basis, Machine, Metering, Unknown, View};
use crate::message::{Candidate, OFFER_MAX, Quote, Report, Room, Tenant};
use crate::model::{
    Entry, HostId, HostProfile, HostState, MachineId, Missing, Resource, Resources, Time,
};
use crate::port::{HandoffId, HostSample, Presence};
use crate::select::mean_aware::{Piece, Side};
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
    /// How long a machine that has moved stays where it is.
    pub cool_down: Duration,
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
    /// What it will load this host.
    pub load: f64,
    /// Its anti-affinity groups.
    pub anti_affinity: Vec<String>,
}

impl Host {
    /// An active host that has not been measured yet.
    #[must_use]
    pub fn new(profile: HostProfile, metering: Metering, calm: Calm, cool_down: Duration) -> Self {
        Self {
            profile,
            state: HostState::Active,
            view: View::new(metering),
            holds: Holds::default(),
            calm,
            cool_down,
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
        let present = self.profile.price(&self.view.usage(&self.profile, now)?);
        let coming: f64 = self.holds.incoming.values().map(|i| i.load).sum();
        let leaving = self.holds.outgoing.iter().filter_map(|id| self.view.machines().get(id));
        let leaving: f64 =
            leaving.filter_map(|m| self.price_of(m)).map(|(_, _, price)| price).sum();
        // Sums of what comes and goes leave a rounding error behind.
        Ok((present + coming - leaving).max(0.0))
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When its load is not known.
    pub fn report(&self, now: Time) -> Result<Report, Unknown> {
        Ok(Report { load: self.load(now)?, state: self.state })
    }

    /// Brings what this host itself has and uses into its estimate of the cluster. A host that is
    /// being emptied has nothing to offer.
    pub fn take_stock(&mut self, now: Time) {
        if let Ok(usage) = self.view.usage(&self.profile, now) {
            let share = if self.state == HostState::Draining { 0.0 } else { 1.0 };
            self.averaging.follow(usage, self.profile.share_as_usage(share));
        }
    }

    /// Its fair share of the cluster's load; `None` while it does not know the cluster.
    #[must_use]
    pub fn target(&self) -> Option<f64> {
        let target = self.averaging.target(&self.profile.weights)?;
        Some(if self.state == HostState::Draining { 0.0 } else { target })
    }

    /// The load that it must not be above: its target and half the dead band, which a pair that
    /// lies symmetrically about its target is apart.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        let target = self.target()?;
        Some(
            target + f64::midpoint(0.0, self.calm.difference_min.max(self.calm.dead_band * target)),
        )
    }

    /// What a move between hosts of these loads must gain at least.
    #[must_use]
    pub fn gain_min(&self, donor: f64, receiver: f64) -> f64 {
        self.calm.gain_min * f64::midpoint(donor, receiver).max(0.0)
    }

    /// How far it is above its limit, or below if negative; `None` where its load or the cluster is
    /// not known.
    #[must_use]
    pub fn excess(&self, now: Time) -> Option<f64> {
        Some(self.load(now).ok()? - self.limit()?)
    }

    /// Whether it is above its limit; `None` where its load or the cluster is not known.
    #[must_use]
    pub fn is_overloaded(&self, now: Time) -> Option<bool> {
        Some(self.excess(now)? > LOAD_EPSILON)
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
        giving: bool,
        now: Time,
    ) -> Result<(Report, Option<Room>), Unknown> {
        let report = self.report(now)?;
        let known = self.target().zip(self.limit());
        let room = match known {
            Some((target, limit)) if giving && self.state == HostState::Active => Some(Room {
                target,
                limit,
                rates: self.rates(),
                free_memory_bytes: self.free_memory_bytes(),
                tenants: self.tenants(peer, now),
            }),
            _ => None,
        };
        Ok((report, room))
    }

    /// What one unit of each resource loads it.
    fn rates(&self) -> Resources {
        let one = |cpu_cores, memory_bytes, io_bytes_per_s| {
            self.profile.price(&Resources { cpu_cores, memory_bytes, io_bytes_per_s })
        };
        Resources {
            cpu_cores: one(1.0, 0.0, 0.0),
            memory_bytes: one(0.0, 1.0, 0.0),
            io_bytes_per_s: one(0.0, 0.0, 1.0),
        }
    }

    /// Its machines that could go to `peer` in return for another.
    fn tenants(&self, peer: &HostId, now: Time) -> Vec<Tenant> {
        let machines = self.view.machines().iter();
        let tenant = machines.filter_map(|(id, machine)| {
            let entry = self.may_leave(id, machine, peer, now).ok()?;
            let (basis, factors, price) = self.price_of(machine)?;
            // What it would be programmed to load there, only the other side could say.
            if basis == Basis::Target {
                return None;
            }
            let origin = self.origin(entry).cloned();
            Some(Tenant { candidate: candidate(machine, entry, basis, factors, price), origin })
        });
        tenant.take(OFFER_MAX).collect()
    }

    /// One of its machines as a candidate, if it may go to `peer`.
    #[must_use]
    pub fn candidate(&self, id: &MachineId, peer: &HostId, now: Time) -> Option<Candidate> {
        let machine = self.view.machines().get(id)?;
        let entry = self.may_leave(id, machine, peer, now).ok()?;
        let (basis, factors, price) = self.price_of(machine)?;
        Some(candidate(machine, entry, basis, factors, price))
    }

    /// Its own side of a choice with a host whose prices per unit are `rates`: all that it could
    /// give, and in the same order the machines.
    #[must_use]
    pub fn side(
        &self,
        peer: &HostId,
        rates: &Resources,
        now: Time,
    ) -> Option<(Side, Vec<MachineId>)> {
        let (target, limit) = self.target().zip(self.limit())?;
        let mut pieces = Vec::with_capacity(self.view.machines().len());
        let mut ids = Vec::with_capacity(pieces.capacity());
        for (id, machine) in self.view.machines() {
            let Ok(entry) = self.may_leave(id, machine, peer, now) else { continue };
            let Some((_, factors, at_donor)) = self.price_of(machine) else { continue };
            let origin = self.origin(entry);
            pieces.push(Piece {
                at_donor,
                at_receiver: priced(&factors, rates),
                memory_bytes: machine.facts.memory_bytes,
                at_home: origin.is_none(),
                homeward: origin == Some(peer),
                movable: true,
            });
            ids.push(id.clone());
        }
        let (load, free_memory_bytes) = (self.load(now).ok()?, self.free_memory_bytes());
        Some((Side { load, target, limit, free_memory_bytes, pieces }, ids))
    }

    /// The other side of it: a host that said what room it has.
    #[must_use]
    pub fn side_of(&self, load: f64, room: &Room) -> Side {
        let piece = |tenant: &Tenant| Piece {
            at_donor: self.profile.price(&tenant.candidate.factors),
            at_receiver: tenant.candidate.at_donor,
            memory_bytes: tenant.candidate.memory_bytes,
            at_home: tenant.origin.is_none(),
            homeward: tenant.origin.as_ref() == Some(self.id()),
            movable: self.can_take(&tenant.candidate, false).is_ok(),
        };
        Side {
            load,
            target: room.target,
            limit: room.limit,
            free_memory_bytes: room.free_memory_bytes,
            pieces: room.tenants.iter().map(piece).collect(),
        }
    }

    /// Basis, load factors and price here of a machine of this host, where known.
    fn price_of(&self, machine: &Machine) -> Option<(Basis, Resources, f64)> {
        let (basis, factors) = machine.factors(&self.profile).ok()?;
        Some((basis, factors, self.profile.price(&factors)))
    }

    /// Memory that it could still promise, in bytes.
    #[must_use]
    pub fn free_memory_bytes(&self) -> f64 {
        let coming: f64 = self.holds.incoming.values().map(|i| i.memory_bytes).sum();
        self.profile.usable_memory_bytes() - self.view.committed_memory_bytes() - coming
    }

    /// What it could give to `peer`: every machine judged, those on offer first and in the order of
    /// the candidates. The verdict on those is still open and reads [`Reason::Farther`].
    #[must_use]
    pub fn candidates(
        &self,
        peer: &HostId,
        pair: &Pair,
        now: Time,
    ) -> (Vec<Judged>, Vec<Candidate>) {
        let mut offered = Vec::new();
        let mut kept = Vec::new();
        for (id, machine) in self.view.machines() {
            let priced = self.price_of(machine);
            let mut judged = Judged {
                machine: id.clone(),
                name: machine.facts.name.to_string(),
                basis: priced.map(|p| p.0),
                factors: priced.map(|p| p.1),
                at_donor: priced.map(|p| p.2),
                at_receiver: None,
                verdict: Reason::Farther,
            };
            let entry = self.may_leave(id, machine, peer, now);
            match (entry, priced) {
                (Err(reason), _) => judged.verdict = reason,
                (Ok(_), None) => judged.verdict = Reason::UnknownLoad,
                (Ok(entry), Some((basis, factors, at_donor))) => {
                    let candidate = candidate(machine, entry, basis, factors, at_donor);
                    offered.push((judged, candidate));
                    continue;
                }
            }
            kept.push(judged);
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
        // Further ahead than clocks differ, it was not written by a host, and would hold for ever.
        if let Some(last) = &entry.last_move
            && now.since(last.at) < self.cool_down
            && last.at <= now + self.cool_down
        {
            return Err(Reason::CoolDown);
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

    /// What a candidate of another host would load this one, and whether it could be taken.
    #[must_use]
    pub fn quote(&self, candidate: &Candidate) -> Quote {
        let at_receiver = self.profile.price(&candidate.factors);
        Quote { at_receiver, refusal: self.can_take(candidate, true).err() }
    }

    /// Whether it could take a machine; if `now_free`, into the memory that is free now.
    fn can_take(&self, candidate: &Candidate, now_free: bool) -> Result<(), Reason> {
        if now_free && candidate.memory_bytes > self.free_memory_bytes() {
            return Err(Reason::NoMemory);
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

/// What a host with these prices per unit charges for a machine.
#[must_use]
pub fn priced(factors: &Resources, rates: &Resources) -> f64 {
    Resource::ALL.iter().map(|&r| factors[r] * rates[r]).sum()
}

fn candidate(
    machine: &Machine,
    entry: &Entry,
    basis: Basis,
    factors: Resources,
    price: f64,
) -> Candidate {
    let facts = &machine.facts;
    Candidate {
        machine: facts.id.clone(),
        name: facts.name.to_string(),
        basis,
        factors,
        at_donor: price,
        memory_bytes: facts.memory_bytes,
        needs: facts.needs.clone(),
        anti_affinity: entry.rules.anti_affinity.clone(),
    }
}

fn shares_group(a: &[String], b: &[String]) -> bool {
    a.iter().any(|group| b.contains(group))
}

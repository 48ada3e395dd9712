//! One host as a partner in an exchange: what it could give, what it could take, at what price.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decision::{Judged, Reason};
use crate::load::{Basis, Machine, Metering, Unknown, View};
use crate::message::{Candidate, OFFER_MAX, Quote, Report};
use crate::model::{Entry, HostId, HostProfile, HostState, MachineId, Missing, Resources, Time};
use crate::port::{HandoffId, HostSample, Presence};
use crate::select::{Calm, Pair};

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
}

/// What handoffs under way hold of a host.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// Room kept for machines on their way here.
    pub incoming: BTreeMap<HandoffId, Incoming>,
    /// Machines on their way out.
    pub outgoing: BTreeSet<MachineId>,
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
                    let facts = &machine.facts;
                    let candidate = Candidate {
                        machine: id.clone(),
                        name: judged.name.clone(),
                        basis,
                        factors,
                        at_donor,
                        memory_bytes: facts.memory_bytes,
                        needs: facts.needs.clone(),
                        anti_affinity: entry.rules.anti_affinity.clone(),
                    };
                    offered.push((judged, candidate));
                    continue;
                }
            }
            kept.push(judged);
        }
        let distance = |c: &Candidate| (c.at_donor - pair.wanted()).abs();
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
        if self.holds.outgoing.contains(id) || machine.presence == Presence::Leaving {
            return Err(Reason::UnderWay);
        }
        let entry = machine.entry().ok_or(Reason::EntryInvalid)?;
        if machine.presence != Presence::Running {
            return Err(Reason::NotRunning);
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
        Quote { at_receiver, refusal: self.can_take(candidate).err() }
    }

    fn can_take(&self, candidate: &Candidate) -> Result<(), Reason> {
        if candidate.memory_bytes > self.free_memory_bytes() {
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

fn shares_group(a: &[String], b: &[String]) -> bool {
    a.iter().any(|group| b.contains(group))
}

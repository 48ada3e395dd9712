//! Machines of a host as they are judged one by one: which may leave, which could come, and at what
//! price.

use super::ruling::{is_hard, judges_rules};
use super::{Giver, Host, Taker, Toward};
use crate::advantage::priced;
use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy};
use crate::cost::{Prediction, Weight};
use crate::decision::{Judged, Reason, Refusal};
use crate::load::{Basis, Machine};
use crate::message::{Candidate, OFFER_MAX, Quote, Room, Tenant};
use crate::model::{
    Entry, HostId, HostState, LastMove, MachineId, Requirements, Resources, Rules, Time,
};
use crate::port::Presence;
use crate::select::mean_aware::{Piece, Side};
use crate::select::{LOAD_EPSILON, Pair, rounded};

/// How long a machine that a job was under way on is not tried again.
const BUSY_FOR: std::time::Duration = std::time::Duration::from_secs(60);

impl Host {
    /// Its machines that could go to `peer` in return for another.
    pub(super) fn tenants(
        &self,
        measure: Measure,
        peer: &HostId,
        (protocol, authority): (Option<u16>, Authority),
        now: Time,
    ) -> Vec<Tenant> {
        let toward = Toward { peer, protocol, labels: None, mending: false, authority };
        let machines = self.view.machines().iter();
        let tenant = machines.filter_map(|(id, machine)| {
            let (entry, candidate) = self.candidate_of(measure, id, machine, &toward, now).ok()?;
            // A machine that nobody has ordered to move does not go by another one's word.
            if Authority::Automatic.within(entry.mode()) < authority.min(Authority::Automatic) {
                return None;
            }
            // What it would be programmed to load there, only the other side could say.
            if candidate.basis == Basis::Target {
                return None;
            }
            Some(Tenant { candidate, origin: self.origin(entry).cloned() })
        });
        tenant.take(OFFER_MAX).collect()
    }

    /// One of its machines as a candidate, if it may go there.
    #[must_use]
    pub fn candidate(
        &self,
        measure: Measure,
        id: &MachineId,
        toward: &Toward<'_>,
        now: Time,
    ) -> Option<Candidate> {
        self.offerable(measure, id, toward, now).ok()
    }

    /// The same.
    ///
    /// # Errors
    /// Why it may not.
    pub fn offerable(
        &self,
        measure: Measure,
        id: &MachineId,
        toward: &Toward<'_>,
        now: Time,
    ) -> Result<Candidate, Refusal> {
        let machine = self.view.machines().get(id).ok_or(Reason::Ended)?;
        Ok(self.candidate_of(measure, id, machine, toward, now)?.1)
    }

    /// The same for a machine that was looked up.
    pub(super) fn candidate_for(
        &self,
        id: &MachineId,
        machine: &Machine,
        peer: &HostId,
        now: Time,
    ) -> Result<Candidate, Refusal> {
        Ok(self.candidate_of(None, id, machine, &Toward::of(peer), now)?.1)
    }

    /// Why one of its machines may not go to `peer`, if so.
    #[must_use]
    pub fn refusal(
        &self,
        measure: Measure,
        id: &MachineId,
        peer: &HostId,
        now: Time,
    ) -> Option<Refusal> {
        let machine = self.view.machines().get(id)?;
        self.candidate_of(measure, id, machine, &Toward::of(peer), now).err()
    }

    fn candidate_of<'m>(
        &self,
        measure: Measure,
        id: &MachineId,
        machine: &'m Machine,
        toward: &Toward<'_>,
        now: Time,
    ) -> Result<(&'m Entry, Candidate), Refusal> {
        let mends = toward.mending.then(|| is_hard(&self.mended(now)));
        let told = toward.authority == Authority::Told;
        let pressing = told || self.is_pressing(measure, mends);
        let entry = self.may_leave(id, machine, toward, pressing, now)?;
        let (basis, factors) = machine.factors(&self.profile).map_err(|_| Reason::UnknownLoad)?;
        // A load that was programmed says nothing of a single resource.
        if measure.is_some() && basis == Basis::Target {
            return Err(Reason::NoImprovement.into());
        }
        let cost = match self.affordable(machine, entry, &factors, (toward.peer, now)) {
            Err(_) if told => None,
            judged => judged?,
        };
        let facts = &machine.facts;
        let candidate = Candidate {
            machine: facts.id.clone(),
            name: facts.name.to_string(),
            basis,
            factors,
            at_donor: self.price(measure, &factors),
            memory_bytes: facts.memory_bytes,
            needs: self.needs_of(machine),
            anti_affinity: entry.rules.anti_affinity.clone(),
            rules: judges_rules(toward.protocol).then(|| entry.rules.clone()),
            ties: judges_rules(toward.protocol).then(|| self.ties(id, &entry.rules)),
            mends,
            margin: (!self.settings.tentative).then_some(machine.margin),
            cost,
        };
        Ok((entry, candidate))
    }

    /// What moving a machine is predicted to cost, if that is worth it. While only entries move, it
    /// costs nothing.
    pub(super) fn affordable(
        &self,
        machine: &Machine,
        entry: &Entry,
        factors: &Resources,
        (peer, now): (&HostId, Time),
    ) -> Result<Option<Prediction>, Reason> {
        if self.settings.tentative {
            return Ok(None);
        }
        let weight = self.weight(machine, entry, factors);
        let (link, bounds) = (self.experience.link_to(peer, now), &self.settings.costing);
        if self.experience.gives_up(&machine.facts.id, &weight, link, now).is_some() {
            return Err(Reason::NotConverging);
        }
        let cost = Prediction::of(&weight, link, bounds.downtime_max)
            .filter(|cost| cost.seconds <= bounds.time_max.as_secs_f64())
            .ok_or(Reason::NotConverging)?;
        // Whoever goes must go, whatever it costs.
        if self.state == HostState::Draining {
            return Ok(Some(cost));
        }
        let load = self.profile.price(factors);
        let core = Resources { cpu_cores: 1.0, ..Resources::ZERO };
        let price = cost.load_seconds(self.profile.price(&core), load);
        let lasting = machine.lasting(bounds.payback).as_secs_f64();
        if load > LOAD_EPSILON && price > load * lasting {
            return Err(Reason::CostHigh);
        }
        Ok(Some(cost))
    }

    /// What is known of a machine of this host before it is migrated.
    pub(super) fn weight(&self, machine: &Machine, entry: &Entry, factors: &Resources) -> Weight {
        let used = machine.measured().unwrap_or(*factors);
        Weight {
            memory_bytes: used.memory_bytes,
            cpu_cores: used.cpu_cores,
            dirty_bytes_per_s: machine.dirty_bytes_per_s,
            disk_bytes: machine.facts.needs.copied_bytes(),
            correction: self.correction(&machine.facts.id, entry),
        }
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
        toward: &Toward<'_>,
        room: &Room,
        now: Time,
    ) -> Option<(Side, Vec<MachineId>)> {
        let (target, limit) = self.target(measure).zip(self.limit(measure))?;
        let own = self.gauge(now);
        let mut pieces = Vec::with_capacity(self.view.machines().len());
        let mut ids = Vec::with_capacity(pieces.capacity());
        let mended = toward.mending.then(|| self.mended(now));
        let mends = mended.as_ref().map(is_hard);
        let pressing = self.is_pressing(measure, mends);
        let toward = Toward { labels: room.labels.as_ref(), ..*toward };
        let priority = |m: &Machine| m.entry().map_or(0, |entry| entry.rules.priority);
        let mut machines: Vec<_> = self.view.machines().iter().collect();
        // Of equal choices the first is taken.
        machines.sort_by_key(|(_, m)| priority(m));
        for (id, machine) in machines {
            if mended.as_ref().is_some_and(|mended| !mended.contains_key(id)) {
                continue;
            }
            let Ok(entry) = self.may_leave(id, machine, &toward, pressing, now) else { continue };
            let Ok((_, factors)) = machine.factors(&self.profile) else { continue };
            let affordable = self.affordable(machine, entry, &factors, (toward.peer, now));
            let Ok(cost) = affordable else { continue };
            let origin = self.origin(entry);
            let admits =
                |gauge: &Gauge| gauge.admits(&factors, &machine.margin, own.as_ref()).is_ok();
            pieces.push(Piece {
                at_donor: self.price(measure, &factors),
                at_receiver: priced(&factors, &room.rates),
                memory_bytes: machine.facts.memory_bytes,
                at_home: origin.is_none(),
                homeward: origin == Some(toward.peer),
                movable: room.gauge.as_ref().is_none_or(admits),
                withheld: false,
                seconds: cost.map_or(0.0, |cost| cost.seconds),
                effort: cost.map_or(0.0, |cost| self.effort_of(&cost, self.price(None, &factors))),
                priority: entry.rules.priority,
                starving: self.is_starving(id),
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
        let pressing = self.is_pressing(measure, None);
        let piece = |tenant: &Tenant| Piece {
            at_donor: self.price(measure, &tenant.candidate.factors),
            at_receiver: tenant.candidate.at_donor,
            memory_bytes: tenant.candidate.memory_bytes,
            at_home: tenant.origin.is_none(),
            homeward: tenant.origin.as_ref() == Some(self.id()),
            movable: self.can_take(&tenant.candidate, own.as_ref(), (None, pressing), now).is_ok(),
            withheld: false,
            seconds: tenant.candidate.cost.map_or(0.0, |cost| cost.seconds),
            effort: tenant.candidate.cost.map_or(0.0, |cost| {
                self.effort_of(&cost, self.price(None, &tenant.candidate.factors))
            }),
            priority: 0,
            starving: false,
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

    /// What it could give: every machine judged, or where a rule is to be mended every one that is
    /// misplaced, those on offer first and in the order of the candidates. The verdict on those is
    /// still open and reads [`Reason::Farther`].
    #[must_use]
    pub fn candidates(
        &self,
        measure: Measure,
        toward: &Toward<'_>,
        pair: &Pair,
        now: Time,
    ) -> (Vec<Judged>, Vec<Candidate>) {
        let mut offered = Vec::new();
        let mut kept = Vec::new();
        let mended = toward.mending.then(|| self.mended(now));
        for (id, machine) in self.view.machines() {
            if mended.as_ref().is_some_and(|mended| !mended.contains_key(id)) {
                continue;
            }
            let mut judged = self.judged(measure, id, machine);
            match self.candidate_of(measure, id, machine, toward, now) {
                Err(refusal) => {
                    (judged.verdict, judged.detail) = (refusal.reason, refusal.detail);
                    kept.push(judged);
                }
                Ok((_, candidate)) => offered.push((judged, candidate)),
            }
        }
        // Largest first where everything has to go.
        let distance = |c: &Candidate| match self.state {
            HostState::Draining => -c.memory_bytes,
            _ => rounded((c.at_donor - pair.wanted()).abs()),
        };
        let priority = |c: &Candidate| c.rules.as_ref().map_or(0, |rules| rules.priority);
        offered.sort_by(|(_, a), (_, b)| {
            distance(a).total_cmp(&distance(b)).then(priority(a).cmp(&priority(b)))
        });
        for (mut judged, _) in offered.drain(offered.len().min(OFFER_MAX)..) {
            judged.verdict = Reason::NotOffered;
            kept.push(judged);
        }
        let (mut judged, candidates): (Vec<_>, Vec<_>) = offered.into_iter().unzip();
        judged.append(&mut kept);
        (judged, candidates)
    }

    /// A machine of this host as it is judged, with the verdict still open.
    pub(crate) fn judged(&self, measure: Measure, id: &MachineId, machine: &Machine) -> Judged {
        let known = machine.factors(&self.profile).ok();
        Judged {
            machine: id.clone(),
            name: machine.facts.name.to_string(),
            basis: known.map(|k| k.0),
            factors: known.map(|k| k.1),
            at_donor: known.map(|k| self.price(measure, &k.1)),
            at_receiver: None,
            verdict: Reason::Farther,
            detail: String::new(),
        }
    }

    /// What a host that has answered would be loaded with this machine, and whether that is within
    /// its ceilings.
    ///
    /// # Errors
    /// Why it cannot go there.
    pub fn fit(
        &self,
        measure: Measure,
        machine: &MachineId,
        (taker, authority): (&Taker, Authority),
        now: Time,
    ) -> Result<(f64, bool), Refusal> {
        let candidate = self.offerable(measure, machine, &taker.toward(authority), now)?;
        if candidate.memory_bytes > taker.room.free_memory_bytes {
            return Err(Reason::NoMemory.into());
        }
        let (factors, margin) = (&candidate.factors, candidate.margin.unwrap_or_default());
        let own = self.gauge(now);
        let within = taker.room.gauge.as_ref();
        let within = within.is_none_or(|g| g.admits(factors, &margin, own.as_ref()).is_ok());
        Ok((taker.report.load + priced(factors, &taker.room.rates), within))
    }

    /// Whether a machine of this host may go there at all; its entry if so.
    pub(super) fn may_leave<'m>(
        &self,
        id: &MachineId,
        machine: &'m Machine,
        toward: &Toward<'_>,
        pressing: bool,
        now: Time,
    ) -> Result<&'m Entry, Refusal> {
        let held = self.holds.outgoing.contains(id) || self.holds.settling.contains(id);
        if held || machine.presence == Presence::Leaving {
            return Err(Reason::UnderWay.into());
        }
        if self.holds.doubled.contains(id) {
            return Err(Reason::RunsTwice.into());
        }
        let entry = machine.entry().ok_or(Reason::EntryInvalid)?;
        if machine.presence != Presence::Running {
            return Err(Reason::NotRunning.into());
        }
        if self.settings.commit.choose(&machine.facts.locks).is_none() {
            return Err(Reason::NoLocks.into());
        }
        machine.facts.needs.movable(self.may_copy(&entry.rules))?;
        self.lets_go(id, &entry.rules, toward, pressing, now)?;
        if toward.authority != Authority::Told {
            self.is_left_alone(id, machine, entry, toward, now)?;
        }
        Ok(entry)
    }

    /// What keeps a machine here unless an operator has said that it goes.
    fn is_left_alone(
        &self,
        id: &MachineId,
        machine: &Machine,
        entry: &Entry,
        toward: &Toward<'_>,
        now: Time,
    ) -> Result<(), Reason> {
        let Toward { peer, authority, .. } = *toward;
        if self.holds.busy.get(id).is_some_and(|at| now.since(*at) < BUSY_FOR) {
            return Err(Reason::JobUnderWay);
        }
        self.past.failures.may_try(id, peer, self.settings.restraint.quarantine, now)?;
        if authority.is_operators() || self.state == HostState::Draining {
            return Ok(());
        }
        if let Some(reason) = self.holds.recommended.get(id) {
            return Err(*reason);
        }
        if entry.mode() == Autonomy::Observe && authority > Authority::Observe {
            return Err(Reason::Observing);
        }
        if toward.mending {
            return Ok(());
        }
        if machine.is_new {
            return Err(Reason::WarmingUp);
        }
        let cooling = |last: &&LastMove| self.settings.restraint.is_cooling(last, peer, now);
        match entry.last_move.as_ref().filter(cooling) {
            Some(last) if last.is_others() => Err(Reason::OtherMover),
            Some(_) => Err(Reason::CoolDown),
            None => Ok(()),
        }
    }

    /// Whether disks of a machine that are on this host alone may be copied.
    const fn may_copy(&self, rules: &Rules) -> bool {
        self.settings.copy_storage || rules.copy_storage
    }

    /// What a machine of this host needs of another one. Local disks are told only where they may be
    /// copied.
    fn needs_of(&self, machine: &Machine) -> Requirements {
        let mut needs = machine.facts.needs.clone();
        if !machine.entry().is_some_and(|entry| self.may_copy(&entry.rules)) {
            needs.local_disks = None;
        }
        needs
    }

    /// What a candidate of another host would load this one, and whether it could be taken.
    #[must_use]
    pub fn quote(
        &self,
        measure: Measure,
        candidate: &Candidate,
        giver: Giver<'_>,
        now: Time,
    ) -> Quote {
        let Giver { gauge, pressing, authority } = giver;
        let at_receiver = self.price(measure, &candidate.factors);
        let free = candidate.memory_bytes <= self.free_memory_bytes()
            && self.has_memory_for(&candidate.factors, candidate.margin.as_ref(), now);
        // Who was told to move it need not mind how busy this host is.
        let own = self.gauge(now).filter(|_| authority != Authority::Told);
        let refusal = if free {
            let told = authority == Authority::Told;
            let pressing = pressing || told || measure.is_some() || candidate.mends == Some(true);
            self.can_take(candidate, own.as_ref(), (gauge, pressing), now).err()
        } else {
            Some(Reason::NoMemory.into())
        };
        let detail = refusal.as_ref().map(|r| r.detail.clone()).filter(|words| !words.is_empty());
        Quote { at_receiver, refusal: refusal.map(|refusal| refusal.reason), detail }
    }

    /// Whether what a machine uses, and may come to use, is really there, where more memory may be
    /// promised than there is.
    fn has_memory_for(&self, usage: &Resources, margin: Option<&Resources>, now: Time) -> bool {
        if self.settings.ceilings.0.memory <= 1.0 {
            return true;
        }
        let Some(own) = self.gauge(now) else { return false };
        let more = margin.map_or(0.0, |margin| margin.memory_bytes).hypot(own.margin.memory_bytes);
        let after = own.used.memory_bytes + usage.memory_bytes + more;
        after <= self.profile.usable_memory_bytes()
    }

    /// Whether it could take a machine, wherever its memory comes from.
    fn can_take(
        &self,
        candidate: &Candidate,
        own: Option<&Gauge>,
        (donor, pressing): (Option<&Gauge>, bool),
        now: Time,
    ) -> Result<(), Refusal> {
        if let Some(own) = own {
            own.admits(&candidate.factors, &candidate.margin.unwrap_or_default(), donor)?;
        }
        self.view.provides().meets(&candidate.needs)?;
        self.unfit.recall(&candidate.machine, &candidate.needs, now)?;
        self.lets_come(candidate, pressing)?;
        self.neighbours_mind(candidate)?;
        Ok(self.seats_are_free(&candidate.machine, &candidate.anti_affinity)?)
    }
}

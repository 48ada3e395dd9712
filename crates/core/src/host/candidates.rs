//! Machines of a host as they are judged one by one: which may leave, which could come, and at what
//! price.

use super::ruling::{is_hard, judges_rules};
use super::{Host, Toward};
use crate::advantage::priced;
use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy};
use crate::cost::{Prediction, Weight};
use crate::decision::{Judged, Reason};
use crate::load::{Basis, Machine};
use crate::message::{Candidate, OFFER_MAX, Quote, Room, Tenant};
use crate::model::{Entry, HostId, LastMove, MachineId, Missing, Resources, Time};
use crate::port::Presence;
use crate::select::mean_aware::{Piece, Side};
use crate::select::{LOAD_EPSILON, Pair, rounded};
use crate::survey::Answer;

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
    ///
    /// # Errors
    /// Why not.
    pub fn candidate(
        &self,
        measure: Measure,
        id: &MachineId,
        toward: &Toward<'_>,
        now: Time,
    ) -> Result<Candidate, Reason> {
        let machine = self.view.machines().get(id).ok_or(Reason::Ended)?;
        Ok(self.candidate_of(measure, id, machine, toward, now)?.1)
    }

    fn candidate_of<'m>(
        &self,
        measure: Measure,
        id: &MachineId,
        machine: &'m Machine,
        toward: &Toward<'_>,
        now: Time,
    ) -> Result<(&'m Entry, Candidate), Reason> {
        let mends = toward.mending.then(|| is_hard(&self.mended(now)));
        let told = toward.authority == Authority::Told;
        let pressing = told || self.is_pressing(measure, mends);
        let entry = self.may_leave(id, machine, toward, pressing, now)?;
        let (basis, factors) = machine.factors(&self.profile).map_err(|_| Reason::UnknownLoad)?;
        // A load that was programmed says nothing of a single resource.
        if measure.is_some() && basis == Basis::Target {
            return Err(Reason::NoImprovement);
        }
        let cost = match self.affordable(machine, entry, &factors) {
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
            needs: facts.needs.clone(),
            anti_affinity: entry.rules.anti_affinity.clone(),
            rules: judges_rules(toward.protocol).then(|| entry.rules.clone()),
            ties: judges_rules(toward.protocol).then(|| self.ties(id, &entry.rules)),
            mends,
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
            let Ok(cost) = self.affordable(machine, entry, &factors) else { continue };
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
                seconds: cost.map_or(0.0, |cost| cost.seconds),
                priority: entry.rules.priority,
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
            movable: self.can_take(&tenant.candidate, own.as_ref(), None, pressing).is_ok(),
            seconds: tenant.candidate.cost.map_or(0.0, |cost| cost.seconds),
            priority: 0,
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
                Err(reason) => {
                    judged.verdict = reason;
                    kept.push(judged);
                }
                Ok((_, candidate)) => offered.push((judged, candidate)),
            }
        }
        let distance = |c: &Candidate| rounded((c.at_donor - pair.wanted()).abs());
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
        (answer, authority): (&Answer, Authority),
        now: Time,
    ) -> Result<(f64, bool), Reason> {
        let candidate = self.candidate(measure, machine, &answer.toward(authority), now)?;
        if candidate.memory_bytes > answer.room.free_memory_bytes {
            return Err(Reason::NoMemory);
        }
        let (factors, margin) = (&candidate.factors, candidate.margin.unwrap_or_default());
        let own = self.gauge(now);
        let within = answer.room.gauge.as_ref();
        let within = within.is_none_or(|g| g.admits(factors, &margin, own.as_ref()).is_ok());
        Ok((answer.report.load + priced(factors, &answer.room.rates), within))
    }

    /// Whether a machine of this host may go there at all; its entry if so.
    fn may_leave<'m>(
        &self,
        id: &MachineId,
        machine: &'m Machine,
        toward: &Toward<'_>,
        pressing: bool,
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
        if self.past.is_quarantined(id, &self.restraint, now) {
            return Err(Reason::Quarantined);
        }
        if authority.is_operators() {
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
        let cooling = |last: &&LastMove| self.restraint.is_cooling(last, peer, now);
        match entry.last_move.as_ref().filter(cooling) {
            Some(last) if last.is_others() => Err(Reason::OtherMover),
            Some(_) => Err(Reason::CoolDown),
            None => Ok(()),
        }
    }

    /// What a candidate of another host would load this one, and whether it could be taken. `donor`
    /// is how full the other is, and soft rules yield where something is `pressing` there.
    #[must_use]
    pub fn quote(
        &self,
        measure: Measure,
        candidate: &Candidate,
        (donor, pressing, authority): (Option<&Gauge>, bool, Authority),
        now: Time,
    ) -> Quote {
        let at_receiver = self.price(measure, &candidate.factors);
        let free = candidate.memory_bytes <= self.free_memory_bytes();
        // Who was told to move it need not mind how busy this host is.
        let own = self.gauge(now).filter(|_| authority != Authority::Told);
        let refusal = if free {
            let told = authority == Authority::Told;
            let pressing = pressing || told || measure.is_some() || candidate.mends == Some(true);
            self.can_take(candidate, own.as_ref(), donor, pressing).err()
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
        pressing: bool,
    ) -> Result<(), Reason> {
        if let Some(own) = own {
            own.admits(&candidate.factors, &candidate.margin.unwrap_or_default(), donor)?;
        }
        self.view.provides().meets(&candidate.needs).map_err(|missing| match missing {
            Missing::Cpu => Reason::NoCpuModel,
            Missing::Storage => Reason::NoStorage,
        })?;
        self.lets_come(candidate, pressing)
    }
}

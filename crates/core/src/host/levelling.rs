//! What moves of a host's machines would have levelled, by what it and another one used in the past.

use super::Taker;
use super::{Host, Toward};
use crate::advantage::priced;
use crate::ceiling::Measure;
use crate::cost::Prediction;
use crate::history::{Ages, History, Track, minute};
use crate::load::{Basis, Machine};
use crate::message::Room;
use crate::model::{HostId, MachineId, Resources, Time};
use crate::select::LOAD_EPSILON;
use crate::select::levelling::{self, Levelling, Tracks, Weighing, Worth, effort};
use crate::select::mean_aware::{Choice, Side};

impl Host {
    /// How much a move must be worth here, where it is judged by that: memory moves at once, and
    /// whole loads are compared.
    #[must_use]
    pub fn levelling(&self, measure: Measure) -> Option<&Levelling> {
        self.settings.levelling.as_ref().filter(|_| measure.is_none() && !self.settings.tentative)
    }

    /// Adds to `sums` what a machine used in these minutes at such prices per unit; where nothing is
    /// known of that, what it uses now.
    fn add_past(&self, machine: &Machine, sums: &mut [f64], minutes: &[u32], rates: &Resources) {
        let Ok((basis, now)) = machine.factors(&self.profile) else { return };
        let measured = basis == Basis::Actual && machine.presence.is_resident();
        if !measured || machine.history.first().is_none() {
            let now = priced(&now, rates);
            sums.iter_mut().for_each(|sum| *sum += now);
        } else {
            machine.history.add_priced(sums, minutes, rates);
        }
    }

    /// Its machines that are not on their way out. For what it gives, those that were started just
    /// now do not count.
    fn remaining(&self, giving: bool) -> impl Iterator<Item = (&MachineId, &Machine)> {
        let machines = self.view.machines().iter();
        machines.filter(move |(id, m)| !(self.holds.outgoing.contains(*id) || giving && m.is_new))
    }

    /// Since when it is known what its machines used: of the one that is known for longest. Of a host
    /// without machines everything is known.
    fn known_since(&self) -> u32 {
        let firsts = self.remaining(false).filter(|(_, m)| m.presence.is_resident());
        firsts.filter_map(|(_, m)| m.history.first()).min().unwrap_or(0)
    }

    /// What it would have been loaded with in these minutes, with what is here now.
    fn past_loads(&self, minutes: &[u32], giving: bool) -> Vec<f64> {
        let coming: Resources =
            self.holds.incoming.values().fold(Resources::ZERO, |sum, i| sum + i.usage);
        let (rates, coming) = (self.rates(None), self.price(None, &coming));
        let mut loads = vec![coming; minutes.len()];
        self.view.add_background(&mut loads, minutes, &rates);
        for (_, machine) in self.remaining(giving) {
            self.add_past(machine, &mut loads, minutes, &rates);
        }
        loads
    }

    /// The same for another host to reckon with.
    pub(super) fn past(&self, now: Time) -> Track {
        let minutes = Ages::since(self.known_since(), now).minutes;
        let loads = self.past_loads(&minutes, false);
        Track::of(minutes.into_iter().zip(loads).rev())
    }

    /// How far it was above its fair share in each of these ages.
    fn above(&self, ages: &Ages, now: Time) -> Option<(Vec<f64>, Vec<f64>)> {
        let share_now = self.target(None)?;
        let mut shares = vec![share_now];
        shares.extend(ages.minutes.iter().map(|&m| self.shares.at(m).unwrap_or(share_now)));
        let mut loads = vec![self.excess(None, now)? + self.limit(None)?];
        loads.extend(self.past_loads(&ages.minutes, true));
        let above = loads.iter().zip(&shares).map(|(load, share)| load - share).collect();
        Some((above, shares))
    }

    /// The pair of this host as donor and one that has said what room it has.
    fn weigh<'a>(
        &self,
        ages: &'a Ages,
        (load, room): (f64, &Room),
        now: Time,
    ) -> Option<Weighing<'a>> {
        let (x, shares) = self.above(ages, now)?;
        let ratio = if shares[0] > 0.0 { room.target / shares[0] } else { 1.0 };
        let there = |minute: u32| room.past.as_ref().and_then(|past| past.at(minute));
        let loads = ages.minutes.iter().map(|&m| there(m).unwrap_or(load));
        let loads = std::iter::once(load).chain(loads);
        let y = loads.zip(&shares).map(|(load, share)| load - share * ratio).collect();
        let mean = f64::midpoint(shares[0], room.target);
        Some(Weighing::of(ages, x, y, mean))
    }

    /// What one of its machines loads a host with such rates over time, and what it would this one.
    fn track(
        &self,
        machine: &Machine,
        ages: &Ages,
        rates: &Resources,
        (at_donor, at_receiver): (f64, f64),
    ) -> (Vec<f64>, Vec<f64>) {
        let now = machine.factors(&self.profile).map(|(_, now)| priced(&now, rates)).unwrap_or(0.0);
        // The other host's own quote counts.
        let quoted = if now > 0.0 { at_receiver / now } else { 1.0 };
        let series = |first: f64, rates: &Resources, factor: f64| {
            let mut loads = vec![0.0; ages.minutes.len() + 1];
            self.add_past(machine, &mut loads[1..], &ages.minutes, rates);
            loads.iter_mut().for_each(|load| *load *= factor);
            loads[0] = first;
            loads
        };
        let own = self.rates(None);
        (series(at_donor, &own, 1.0), series(at_receiver, rates, quoted))
    }

    /// The ages by which it is judged with a host that has said what room it has.
    fn ages(&self, room: Option<&Room>, now: Time) -> Ages {
        let theirs = room.and_then(|room| room.past.as_ref()?.first()).unwrap_or(0);
        Ages::since(self.known_since().max(theirs), now)
    }

    /// The move to another host that is worth most, if one is worth its price.
    pub(super) fn level(
        &self,
        levelling: &Levelling,
        (donor, ids): (&Side, &[MachineId]),
        (receiver, room): (&Side, &Room),
        now: Time,
    ) -> Option<Choice> {
        let ages = self.ages(Some(room), now);
        let weighing = self.weigh(&ages, (receiver.load, room), now)?;
        let tracks: Tracks = ids
            .iter()
            .zip(&donor.pieces)
            .map(|(id, piece)| match self.view.machines().get(id).filter(|_| piece.movable) {
                Some(machine) => {
                    let prices = (piece.at_donor, piece.at_receiver);
                    self.track(machine, &ages, &room.rates, prices)
                }
                None => (Vec::new(), Vec::new()),
            })
            .collect();
        let demands = (levelling.kappa, self.settings.floor.gain_min);
        levelling::choose(&weighing, (donor, receiver), &tracks, demands)
    }

    /// Whether a move to a host that has asked for one pays.
    #[must_use]
    pub(crate) fn has_something_for(&self, lacking: &Taker, now: Time) -> bool {
        let toward = lacking.toward(self.authority());
        let Some((donor, ids)) = self.side(None, &toward, &lacking.room, now) else { return false };
        let receiver = self.side_of(None, lacking.report.load, &lacking.room, now);
        let sides = (&receiver, &lacking.room);
        self.choose(None, (&donor, &ids), sides, (0, false), now).is_some()
    }

    /// What a move of one of its machines to such a host would be worth.
    #[must_use]
    pub fn worth_with(&self, id: &MachineId, load: f64, room: &Room, now: Time) -> Option<Worth> {
        let levelling = self.levelling(None)?;
        let machine = self.view.machines().get(id)?;
        let (_, factors) = machine.factors(&self.profile).ok()?;
        let ages = self.ages(Some(room), now);
        let weighing = self.weigh(&ages, (load, room), now)?;
        let prices = (self.price(None, &factors), priced(&factors, &room.rates));
        let (a, b) = self.track(machine, &ages, &room.rates, prices);
        let effort = self.effort(machine, now)?;
        Some(weighing.worth(&a, &b, effort, levelling.kappa))
    }

    /// What a move of one of its machines would be worth at most: to a host that is as far below its
    /// fair share as this one is above it.
    #[must_use]
    pub fn worth_at_most(&self, id: &MachineId, now: Time) -> Option<Worth> {
        let ages = self.ages(None, now);
        let weighing = self.mirrored(&ages, now)?;
        self.worth_mirrored(&ages, &weighing, self.view.machines().get(id)?, now)
    }

    /// This host and one that is as far below its fair share as this one is above it.
    fn mirrored<'a>(&self, ages: &'a Ages, now: Time) -> Option<Weighing<'a>> {
        let (x, shares) = self.above(ages, now)?;
        let y = x.iter().map(|above| -above).collect();
        Some(Weighing::of(ages, x, y, shares[0]))
    }

    fn worth_mirrored(
        &self,
        ages: &Ages,
        weighing: &Weighing<'_>,
        machine: &Machine,
        now: Time,
    ) -> Option<Worth> {
        let kappa = self.levelling(None)?.kappa;
        let (_, factors) = machine.factors(&self.profile).ok()?;
        let load = self.price(None, &factors);
        let (mut a, _) = self.track(machine, ages, &self.rates(None), (load, load));
        // What is larger than that may go to one that is further below, or in return for another.
        let part = weighing.above_now() / load;
        if part < 1.0 {
            a.iter_mut().for_each(|load| *load *= part);
        }
        Some(weighing.worth(&a, &a, self.effort(machine, now)?, kappa))
    }

    /// What moving one of its machines costs, in seconds; `None` if it cannot move.
    fn effort(&self, machine: &Machine, now: Time) -> Option<f64> {
        let (_, factors) = machine.factors(&self.profile).ok()?;
        // To any host: of the link to this name nothing was learnt.
        let anybody = HostId::new("anybody").ok()?;
        let toward = (&anybody, now);
        let cost = self.affordable(machine, machine.entry()?, &factors, toward).ok()??;
        Some(self.effort_of(&cost, self.price(None, &factors)))
    }

    /// The same by what its migration is predicted to cost.
    pub(super) fn effort_of(&self, cost: &Prediction, load: f64) -> f64 {
        let share = self.target(None).filter(|share| *share > 0.0);
        effort(cost, share.map_or(1.0, |share| load / share))
    }

    /// Whether there is a host that it might pay to give a machine to.
    pub(super) fn has_something_to_level(&self, now: Time) -> Option<bool> {
        if self.excess(None, now)? <= LOAD_EPSILON {
            return Some(false);
        }
        let ages = self.ages(None, now);
        let weighing = self.mirrored(&ages, now)?;
        let nobody = HostId::new("nobody").ok()?;
        let toward = Toward::of(&nobody);
        let pays = |machine: &Machine| {
            let worth = self.worth_mirrored(&ages, &weighing, machine, now);
            worth.is_some_and(|worth| worth.net() >= 0.0)
        };
        let goes = |id: &MachineId, m: &Machine| self.may_leave(id, m, &toward, true, now).is_ok();
        Some(self.remaining(true).any(|(id, machine)| goes(id, machine) && pays(machine)))
    }

    /// Whether it is so far below its fair share that it might pay to give it a machine: one of just
    /// what it lacks, with as much memory for its load as is usual in the cluster.
    #[must_use]
    pub fn lacks(&self, now: Time) -> Option<bool> {
        let kappa = self.levelling(None)?.kappa;
        let ages = self.ages(None, now);
        let share = self.target(None)?;
        let shares = ages.minutes.iter().map(|&m| self.shares.at(m).unwrap_or(share));
        let shares = std::iter::once(share).chain(shares);
        let loads = std::iter::once(self.load(now).ok()?);
        let loads = loads.chain(self.past_loads(&ages.minutes, false));
        let y: Vec<f64> = loads.zip(shares).map(|(load, share)| load - share).collect();
        let lack = -ages.weights.iter().zip(&y).map(|(w, y)| w * y).sum::<f64>();
        if lack <= LOAD_EPSILON || y[0] >= 0.0 {
            return Some(false);
        }
        let weighing = Weighing::of(&ages, y.iter().map(|y| -y).collect(), y.clone(), share);
        let mix = self.averaging.mix();
        let par = self.price(None, &mix);
        // Of machines that are many the typical one is a twelfth of a host.
        let size = lack.min(share / 12.0);
        let bytes = if par > 0.0 { mix.memory_bytes * size / par } else { 0.0 };
        let seconds = bytes / self.experience.link_bytes_per_s(now);
        let cost = Prediction { bytes, seconds, ..Default::default() };
        let a = vec![size; y.len()];
        let worth = weighing.worth(&a, &a, self.effort_of(&cost, size), kappa);
        Some(worth.net() >= 0.0)
    }

    /// What a machine used in the past, for whoever takes it.
    #[must_use]
    pub fn history_of(&self, id: &MachineId) -> Option<Box<History>> {
        let machine = self.view.machines().get(id).filter(|_| self.levelling(None).is_some())?;
        machine.history.first().map(|_| Box::new(machine.history.told()))
    }

    /// What is known of a host once it has agreed to take a machine: what it said, and the machine.
    pub(crate) fn with(&self, answer: &mut Taker, id: &MachineId, at_receiver: f64) {
        let Some(machine) = self.view.machines().get(id) else { return };
        let Ok((_, factors)) = machine.factors(&self.profile) else { return };
        let room = &mut answer.room;
        answer.report.load += at_receiver;
        room.free_memory_bytes -= machine.facts.memory_bytes;
        if let Some(gauge) = &mut room.gauge {
            gauge.used += factors;
        }
        let rates = room.rates;
        if let Some(past) = &mut room.past {
            let minutes = past.minutes();
            let mut loads = vec![0.0; minutes.len()];
            self.add_past(machine, &mut loads, &minutes, &rates);
            past.add(&loads);
        }
    }

    /// Keeps what its fair share is, for later.
    pub(super) fn note_share(&mut self, now: Time) {
        if let Some(share) = self.target(None).filter(|_| self.settings.levelling.is_some()) {
            self.shares.observe(now, share);
        }
    }

    /// Since how many minutes it is known what is here.
    #[must_use]
    pub fn known_minutes(&self, now: Time) -> u32 {
        minute(now).saturating_sub(self.known_since())
    }
}

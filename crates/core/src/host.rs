//! One host as a partner in an exchange: what it could give, what it could take, at what price.

mod appraising;
mod candidates;
mod concluding;
mod holds;
mod judgement;
mod levelling;
mod neighbours;
mod ruling;
mod seats;
mod settings;
mod taker;
mod to_give;
mod unfit;

use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy, Control};
use crate::cost::Experience;
use crate::decision::{Reason, Role};
use crate::estimate::{Averaging, Stock};
use crate::flocks::Flocks;
use crate::history::Track;
use crate::load::{Machine, Unknown, View};
use crate::message::{PROTOCOL, Probe, Report, Room};
use crate::model::{
    Entry, HostId, HostProfile, HostState, LastMove, MachineId, Resource, Resources, Time,
};
use crate::port::{HostSample, Presence};
use crate::restraint::Past;
use crate::select::mean_aware::{self, Choice, Side};
use crate::select::{LOAD_EPSILON, emptying, mending, relief};

pub use holds::{Holds, Incoming, Landed, Taken};
pub use ruling::{Misplaced, Toward};
pub use settings::Settings;
pub use taker::{Giver, Taker};
pub use to_give::ToGive;
pub use unfit::Unfit;

/// A host: what it has, what it knows of itself, and what its handoffs hold.
#[derive(Clone, Debug)]
pub struct Host {
    /// Capacity, speed and weights.
    pub profile: HostProfile,
    /// What it was told at its making.
    pub(crate) settings: Settings,
    /// Whether it takes part.
    pub state: HostState,
    /// Its machines and what they use.
    pub view: View,
    /// What handoffs under way hold of it.
    pub holds: Holds,
    /// Its fair shares of the past.
    pub shares: Track,
    /// What it remembers of its own moves.
    pub past: Past,
    /// What it has learnt of what migrations cost.
    pub experience: Experience,
    /// What it knows of the cluster.
    pub averaging: Averaging,
    /// What operators have said of how much it does by itself.
    pub control: Control,
    /// Where others of its machines' groups are.
    pub flocks: Flocks,
    /// What its hypervisor has said that it cannot run.
    pub unfit: Unfit,
}

impl Host {
    /// An active host that has not been measured yet.
    #[must_use]
    pub fn new(profile: HostProfile, settings: Settings) -> Self {
        let mut host = Self {
            profile,
            state: HostState::Active,
            view: View::new(settings.metering),
            holds: Holds::default(),
            shares: Track::default(),
            past: Past::default(),
            experience: Experience::new(&settings.costing),
            averaging: Averaging::default(),
            control: Control { mode: settings.autonomy, ..Control::default() },
            flocks: Flocks::default(),
            unfit: Unfit::default(),
            settings,
        };
        host.forget_mean();
        host
    }

    /// Begins anew to learn of the cluster.
    pub fn forget_mean(&mut self) {
        let hasty = self.levelling(None).is_some();
        self.averaging = if hasty { Averaging::hasty() } else { Averaging::default() };
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
        self.holds.seen(sample.at, sample.machines.iter().map(|m| &m.facts.id));
        if *self.view.provides() != sample.facts.provides {
            self.unfit.clear();
        }
        self.view.observe(sample, &self.profile);
    }

    /// Takes part from now on, or not. A host that comes back is filled gently.
    pub fn take_part(&mut self, state: HostState, now: Time) {
        if self.state != HostState::Active && state == HostState::Active {
            self.past.returned(now);
        }
        self.state = state;
    }

    /// Its load: what its machines and it itself use, with machines on their way counted where they
    /// are going.
    ///
    /// # Errors
    /// When the load of the host or of one of its machines is not known.
    pub fn load(&self, now: Time) -> Result<f64, Unknown> {
        // Sums of what comes and goes leave a rounding error behind.
        Ok(self.price(None, &self.usage(now)?).max(0.0))
    }

    /// What it reckons with, in a measure: on a host that does not act by itself, as if what it
    /// recommends had happened.
    fn amount(&self, measure: Measure, now: Time) -> Result<f64, Unknown> {
        let mut usage = self.usage(now)?;
        if self.control.mode != Autonomy::Automatic {
            let gone = self.holds.recommended.keys().filter_map(|id| self.view.machines().get(id));
            for (_, factors) in gone.filter_map(|m| m.factors(&self.profile).ok()) {
                usage = usage - factors;
            }
        }
        Ok(self.price(measure, &usage).max(0.0))
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
            ceilings: self.settings.ceilings.0,
        })
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When its load is not known.
    pub fn report(&self, measure: Measure, now: Time) -> Result<Report, Unknown> {
        let mode = Some(self.control.mode).filter(|mode| *mode != Autonomy::Automatic);
        let load = self.amount(measure, now)?;
        let contention = self.view.contention().score().filter(|_| !self.settings.tentative);
        let (state, protocol) = (self.state, Some(PROTOCOL));
        Ok(Report { load, state, protocol, contention, mends: None, mode })
    }

    /// On whose word it gives machines.
    #[must_use]
    pub fn authority(&self) -> Authority {
        self.control.authority(self.state)
    }

    /// Whether it takes part in another move on such a word.
    ///
    /// # Errors
    /// What keeps it.
    pub fn may(&self, role: Role, authority: Authority, now: Time) -> Result<(), Reason> {
        self.control.permits(role, authority, now)?;
        if authority.is_operators() {
            return Ok(());
        }
        match role {
            Role::Source => self.past.may(role, &self.settings.restraint, now),
            Role::Target => self.may_take(self.state, now),
        }
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
        self.note_share(now);
        // Not worth the arithmetic where a single sample would do.
        if self.settings.levelling.is_none() || self.settings.restraint.hold > 1 {
            self.past.sampled(self.is_overloaded(now) == Some(true));
        }
        let machines = self.view.machines();
        self.holds.busy.retain(|machine, _| machines.contains_key(machine));
        self.past.failures.retain(|machine| machines.contains_key(machine));
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
    /// lies symmetrically about its target is apart; where moves are judged by what they are worth,
    /// there is none but what an operator has set. Of a resource, its ceiling, if not all hosts
    /// together are above it.
    #[must_use]
    pub fn limit(&self, measure: Measure) -> Option<f64> {
        let target = self.target(measure)?;
        let calm = if self.levelling(measure).is_some() {
            &self.settings.floor
        } else {
            &self.settings.calm
        };
        let band = calm.difference_min.max(calm.dead_band * target) / 2.0;
        // Where machines starve of it, what its ceiling allows is too much.
        let allowed = measure.filter(|resource| self.starves() != Some(*resource));
        Some(allowed.map_or(0.0, |resource| self.settings.ceilings.0[resource]).max(target + band))
    }

    /// The best move from this host's side to another's: of entries while only they move, or of
    /// memory.
    #[must_use]
    pub fn choose(
        &self,
        measure: Measure,
        (donor, ids): (&Side, &[MachineId]),
        (receiver, room): (&Side, &Room),
        (value_max, mending): (i32, bool),
        now: Time,
    ) -> Option<Choice> {
        let mean = f64::midpoint(donor.load, receiver.load).max(0.0);
        // A machine that starves is worth helping for less.
        let helps =
            self.settings.levelling.is_some() && measure.is_some() && measure == self.starves();
        let gain_min = self.settings.calm.gain_min * if helps { 0.4 * mean } else { mean };
        if mending {
            mending::choose(donor, receiver)
        } else if self.state == HostState::Draining {
            emptying::choose(donor, receiver)
        } else if self.settings.tentative {
            mean_aware::choose(donor, receiver, value_max, gain_min)
        } else if let Some(levelling) = self.levelling(measure) {
            self.level(levelling, (donor, ids), (receiver, room), now)
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
    /// A host that is being emptied does so as long as it has anything that may move.
    #[must_use]
    pub fn wants_to_give(&self, now: Time) -> ToGive {
        self.known_to_give(now).unwrap_or(ToGive::Unknown)
    }

    /// The same; `None` where its load or the cluster is not known.
    fn known_to_give(&self, now: Time) -> Option<ToGive> {
        if self.state == HostState::Draining {
            self.usage(now).ok().zip(self.target(None))?;
            let stays = |id, m: &Machine| {
                self.holds.outgoing.contains(id) || m.entry().is_none_or(|e| e.rules.ignore)
            };
            let goes = self.view.machines().iter().any(|(id, m)| !stays(id, m));
            return Some(if goes { ToGive::Load } else { ToGive::Nothing });
        }
        let above = |measure| self.excess(measure, now).map(|excess| excess > LOAD_EPSILON);
        let strained = self.starves().or(self.gauge(now)?.strained());
        // Where all hosts together are short of it, there is nowhere to shed it to.
        let is_short =
            |r: Resource| self.target(Some(r)).is_some_and(|t| t > self.settings.ceilings.0[r]);
        let is_short = self.levelling(None).is_some() && strained.is_some_and(is_short);
        let sheds = strained.is_some() && !is_short && above(strained)?;
        let overloaded = match self.levelling(None) {
            Some(_) => self.has_something_to_level(now)?,
            None => above(None)?,
        };
        Some(match (strained.filter(|_| sheds), overloaded) {
            (Some(resource), false) => ToGive::Resource(resource),
            (Some(resource), true) if !self.settings.tentative => ToGive::Resource(resource),
            (_, true) => ToGive::Load,
            (None, false) => ToGive::Nothing,
        })
    }

    /// Whether it should give; `None` where its load or the cluster is not known.
    #[must_use]
    pub fn is_overloaded(&self, now: Time) -> Option<bool> {
        self.wants_to_give(now).is_something()
    }

    /// Whether it may give now, if it should.
    ///
    /// # Errors
    /// What keeps it.
    pub fn may_give(&self, now: Time) -> Result<(), Reason> {
        if self.state == HostState::Draining {
            return Ok(());
        }
        let holds = self.settings.levelling.is_none() || self.settings.restraint.hold > 1;
        if holds && !self.past.has_held(&self.settings.restraint) && self.starves().is_none() {
            return Err(Reason::Held);
        }
        self.may(Role::Source, self.authority(), now)
    }

    /// Whether it may take a machine now from a host in this state: one that is being emptied is not
    /// held up by limits.
    ///
    /// # Errors
    /// What keeps it.
    pub fn may_take(&self, giver: HostState, now: Time) -> Result<(), Reason> {
        if giver == HostState::Draining {
            return Ok(());
        }
        self.past.may(Role::Target, &self.settings.restraint, now)?;
        self.past.is_eased_in(self.holds.incoming.len(), &self.settings.restraint, now)
    }

    /// Whether a machine of this host starves, one that runs and is not on its way out.
    #[must_use]
    pub fn is_starving(&self, id: &MachineId) -> bool {
        let machine = self.view.machines().get(id);
        let runs = machine.filter(|m| m.presence == Presence::Running);
        let here = runs.filter(|_| !self.holds.outgoing.contains(id));
        here.zip(self.settings.starving).is_some_and(|(m, from)| m.contention.starves(from))
    }

    /// What the machine of this host that starves most is short of, if one does: CPU or I/O, of which
    /// machines that leave give some back at once.
    #[must_use]
    pub fn starves(&self) -> Option<Resource> {
        self.settings.starving?;
        let machines = self.view.machines().iter();
        let starving = machines.filter(|(id, _)| self.is_starving(id)).map(|(_, m)| &m.contention);
        let worst = starving.max_by_key(|contention| contention.score())?.worst();
        worst.filter(|resource| *resource != Resource::Memory)
    }

    /// Where the memory of a machine is whose entry alone has moved here.
    #[must_use]
    pub fn origin<'m>(&self, entry: &'m Entry) -> Option<&'m HostId> {
        entry.last_move.as_ref().filter(|_| self.settings.tentative).map(|last| &last.from)
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
    ) -> Result<(Report, Result<Room, Option<Reason>>), Unknown> {
        let measure = probe.measure;
        let report = self.report(measure, now)?;
        let authority = probe.authority.unwrap_or_default();
        if !probe.giving {
            return Ok((report, Err(None)));
        }
        if let Err(reason) = self.takes(authority, now) {
            return Ok((report, Err(Some(reason))));
        }
        let known = self.target(measure).zip(self.limit(measure));
        // What an operator has ordered needs room, and not what is fair.
        let room = known.or(authority.is_operators().then_some((report.load, report.load)));
        let room = room.map(|(target, limit)| Room {
            target,
            limit,
            rates: self.rates(measure),
            free_memory_bytes: self.free_memory_bytes(),
            tenants: self.tenants(measure, peer, (probe.protocol, authority), now),
            gauge: self.gauge(now),
            labels: Some(self.profile.labels.clone()),
            past: self.levelling(measure).map(|_| self.past(now)),
        });
        Ok((report, room.ok_or(Some(Reason::Learning))))
    }

    /// What it says when it asks for something.
    #[must_use]
    pub fn asks(&self, now: Time) -> Option<(Report, Room)> {
        let nobody = Probe {
            estimate: None,
            giving: true,
            measure: None,
            protocol: Some(PROTOCOL),
            authority: None,
        };
        let (report, room) = self.standing(self.id(), &nobody, now).ok()?;
        Some((report, Room { tenants: Vec::new(), ..room.ok()? }))
    }

    /// Moves in close succession that count once a machine of this host moves: an operator's emptying
    /// a host is no unrest of the machine.
    #[must_use]
    pub fn moves_with(&self, last: Option<&LastMove>, now: Time) -> u32 {
        let moves = self.settings.restraint.moves_with(last, now);
        if self.state == HostState::Draining { moves.saturating_sub(1).max(1) } else { moves }
    }

    /// Whether it takes machines on such a word.
    ///
    /// # Errors
    /// Why not.
    pub fn takes(&self, authority: Authority, now: Time) -> Result<(), Reason> {
        match self.state {
            HostState::Active => {
                // An operator who names this host may want to try it.
                if authority != Authority::Told {
                    self.past.failures.may_take(now)?;
                }
                self.may(Role::Target, authority, now)
            }
            HostState::Cordoned => Err(Reason::Cordoned),
            HostState::Draining => Err(Reason::Draining),
        }
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

    /// Memory that it could still promise, in bytes.
    #[must_use]
    pub fn free_memory_bytes(&self) -> f64 {
        let coming: f64 = self.holds.incoming.values().map(|i| i.memory_bytes).sum();
        let landed: f64 = self.holds.landed.values().map(|l| l.memory_bytes).sum();
        // What the host itself occupies, beyond what is kept for it.
        let own = self.view.background().memory_bytes - self.profile.reserved_memory_bytes;
        self.settings.ceilings.promisable_bytes(&self.profile)
            - own.max(0.0)
            - self.view.committed_memory_bytes()
            - coming
            - landed
    }
}

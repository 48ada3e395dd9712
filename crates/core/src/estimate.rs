//! What a host knows of the whole cluster: running averages that pairs keep level.
//!
//! Every host holds an estimate of the mean usage and the mean capacity of all hosts, and begins
//! with its own. Two hosts that meet both take the mean of their two estimates. The sum over all
//! hosts never changes thereby, while the differences shrink by a constant factor a round (Jelasity,
//! Montresor and Babaoglu, *Gossip-based aggregation in large dynamic networks*, 2005): after a
//! number of rounds that grows with the logarithm of the hosts, everybody knows the mean. Nobody
//! collects anything, and what is said does not grow with the cluster.
//!
//! The ratio of the two sums, weighed as a host weighs its resources, is the load that would be this
//! host's **fair share** of all there is: `T = Σ_r weight_r · Σ usage_r / Σ capacity_r`. Usage is
//! absolute (reference cores, bytes), so `T` does not depend on where machines are: moving one
//! changes no sum, and unlike hosts each find a target that is fair by their own capacity.
//!
//! Unlike hosts can do better than that by their [comparative advantage](crate::advantage). How much
//! better is averaged along with the rest, and the target is set a little above it.
//!
//! A lost answer leaves a little of the sum behind on one side, a host that goes takes its estimate
//! along. Therefore averaging starts over in *epochs*: hosts that hear of a higher one join it with
//! what they use themselves, and go by the result of the one before until the new one has settled.

use minicbor::{Decode, Encode};

use crate::advantage::{Advantage, Met, priced};
use crate::model::{PerResource, Resource, Resources, Time, Weights};

/// A running mean over hosts, as told to another host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct Estimate {
    /// Which start of the averaging it belongs to.
    #[n(0)]
    pub epoch: u32,
    /// Mean usage of a host.
    #[n(1)]
    pub usage: Resources,
    /// Mean capacity of a host, CPU in reference cores.
    #[n(2)]
    pub capacity: Resources,
    /// How low the cluster could go; not told by hosts that do not know of it.
    #[n(3)]
    pub advantage: Option<Advantage>,
}

/// Averaging starts over at most so often: a round of any host takes longer than a quarter of a second.
const EPOCH_TIME_MIN_MS: u64 = EPOCH_ROUNDS as u64 * 250;
/// Epochs that may have begun before the beginning of time, which is not long ago in a simulation.
const EPOCH_SLACK: u64 = 10_000;

impl Estimate {
    /// Whether averaging can have started over so often by `now`. A host that joined a later epoch would
    /// never begin another one, and all others with it.
    #[must_use]
    pub fn can_be(&self, now: Time) -> bool {
        u64::from(self.epoch) <= now.unix_ms() / EPOCH_TIME_MIN_MS + EPOCH_SLACK
    }
}

/// What a host has and uses, as it takes stock of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Stock {
    /// All that is used.
    pub usage: Resources,
    /// What it has to offer, CPU in reference cores.
    pub capacity: Resources,
    /// What one unit of each resource loads it.
    pub rates: Resources,
    /// What each machine uses that may move.
    pub machines: Vec<Resources>,
}

/// Targets are set to so much of the reach, where that is below the fair share: machines cannot be
/// cut in pieces, and to come closer would take many moves for little.
const AMBITION: f64 = 1.027;
/// Changes of the target up to this fraction are none.
const STEADY_CHANGE: f64 = 0.006;
/// So many averagings in a row without a change make an estimate settled.
const STEADY_COUNT: u32 = 3;
/// Averagings after which an epoch counts even if it is not steady: enough for any cluster.
const MATURE_AVERAGINGS: u32 = 24;
/// The same at work, where a rough mean at once is better than a good one late: after ten averagings
/// what is left of a difference is a thirtieth.
const MATURE_AT_WORK: u32 = 10;
/// Weight of the newest averaging in what is then believed.
const TRACKING: f64 = 0.25;
/// Own rounds after which averaging starts over.
const EPOCH_ROUNDS: u32 = 240;

/// One host's part in the averaging.
#[derive(Clone, Debug, Default)]
pub struct Averaging {
    /// What of the estimate is its own doing: what it would be without any other host.
    own: Option<Estimate>,
    met: Met,
    current: Estimate,
    /// Averagings in a row that changed next to nothing.
    steady: u32,
    /// Own rounds in this epoch.
    rounds: u32,
    /// Averagings in this epoch.
    averagings: u32,
    /// Whether another host has averaged with this one since its last own round.
    met_lately: bool,
    /// The last settled result, of this epoch or the one before.
    settled: Option<Settled>,
    /// Whether a rough mean will do until there is a good one.
    hasty: bool,
}

/// What is believed of the cluster.
#[derive(Clone, Copy, Debug)]
struct Settled {
    /// Usage per capacity.
    shares: PerResource,
    /// Mean usage of a host.
    mix: Resources,
    /// See [`crate::advantage`].
    reach: f64,
}

impl Averaging {
    /// One for which a rough mean will do until there is a good one.
    #[must_use]
    pub fn hasty() -> Self {
        Self { hasty: true, ..Self::default() }
    }

    /// Whether it knows nothing of the cluster yet.
    #[must_use]
    pub const fn is_learning(&self) -> bool {
        self.settled.is_none()
    }

    /// Takes in what this host itself has and uses now.
    pub fn follow(&mut self, stock: &Stock) {
        let (usage, capacity) = (stock.usage, stock.capacity);
        let Some(before) = self.own else {
            self.current = Estimate { usage, capacity, ..self.current };
            self.current.advantage = Some(self.advantage(stock));
            return self.own = Some(self.current);
        };
        // What is settled already is not worth the arithmetic.
        let advantage =
            if self.is_steady() { before.advantage } else { Some(self.advantage(stock)) };
        let now = Estimate { usage, capacity, advantage, ..before };
        self.current = self.current.changed(&before, &now);
        self.own = Some(now);
    }

    /// What the cluster's reach has of this host.
    fn advantage(&self, stock: &Stock) -> Advantage {
        let (rates, mix) = (stock.rates, self.mix());
        let stays = stock.machines.iter().fold(stock.usage, |rest, usage| rest - *usage);
        let least = self.met.least(&rates, &stays, &stock.machines, &mix);
        let (par, shares) = (priced(&mix, &rates), ratio(&self.current));
        let weighed = |r: Resource| rates[r] * stock.capacity[r] * shares[r];
        let fair = Resource::ALL.into_iter().map(weighed).sum::<f64>();
        Advantage { rates, least, fair: if par > 0.0 { fair / par } else { 0.0 } }
    }

    /// Mean usage of a host, as far as it is known.
    #[must_use]
    pub fn mix(&self) -> Resources {
        self.settled.map_or(self.current.usage, |settled| settled.mix)
    }

    /// A machine has come here from another host. That is no news about the cluster: the estimates
    /// of both stay as level as they are.
    pub fn arrived(&mut self, usage: &Resources) {
        self.moved(usage, 1.0);
    }

    /// A machine has gone to another host, which is no news either.
    pub fn left(&mut self, usage: &Resources) {
        self.moved(usage, -1.0);
    }

    fn moved(&mut self, usage: &Resources, sign: f64) {
        let mix = self.mix();
        let Some(own) = &mut self.own else { return };
        own.usage += usage.scaled(sign);
        if let Some(own) = &mut own.advantage {
            let machine = std::slice::from_ref(usage);
            own.least += sign * self.met.least(&own.rates, &Resources::ZERO, machine, &mix);
        }
    }

    /// One of this host's own rounds has begun. Answers whether it should average with another one:
    /// not if others have just done so with it, and not if nothing changes any more.
    pub fn tick(&mut self) -> bool {
        let wants = !self.met_lately && !self.is_steady();
        self.met_lately = false;
        self.rounds += 1;
        if self.rounds > EPOCH_ROUNDS {
            self.begin(self.current.epoch.saturating_add(1));
        }
        wants
    }

    /// What to tell another host.
    #[must_use]
    pub const fn told(&self) -> Estimate {
        self.current
    }

    /// Averages with what another host told. Answers what to tell it.
    pub fn answer(&mut self, theirs: Estimate) -> Estimate {
        self.meet(&theirs);
        if theirs.epoch == self.current.epoch {
            self.move_to(self.current.mean(&theirs));
            self.met_lately = true;
        }
        self.current
    }

    /// Averages with the answer to what was told. It may have changed since: what is added is what
    /// the other host has given up, so that the sum over both stays the same.
    pub fn learn(&mut self, told: Estimate, answer: Estimate) {
        let joins = answer.epoch > self.current.epoch;
        self.meet(&answer);
        if !joins && told.epoch == answer.epoch && told.epoch == self.current.epoch {
            self.move_to(self.current.changed(&told, &answer));
        }
    }

    /// Remembers another host's rates, and joins the epoch that it is in.
    fn meet(&mut self, other: &Estimate) {
        if let Some(other) = &other.advantage {
            self.met.meet(other.rates);
        }
        if other.epoch > self.current.epoch {
            self.begin(other.epoch);
        }
    }

    /// What a host with these weights should come to: its fair share, or less where unlike hosts
    /// can do better; `None` until the estimate has settled once.
    #[must_use]
    pub fn target(&self, weights: &Weights) -> Option<f64> {
        let (settled, weights) = (self.settled?, weights.get());
        let fair = Resource::ALL.iter().map(|&r| weights[r] * settled.shares[r]).sum::<f64>();
        Some(fair * (AMBITION * settled.reach).min(1.0))
    }

    /// The share of a resource that is in use in the whole cluster; `None` until that has settled
    /// once.
    #[must_use]
    pub fn share(&self, resource: Resource) -> Option<f64> {
        Some(self.settled?.shares[resource])
    }

    /// Whether the present epoch has settled.
    #[must_use]
    pub const fn is_steady(&self) -> bool {
        self.steady >= STEADY_COUNT
    }

    fn begin(&mut self, epoch: u32) {
        self.current = Estimate { epoch, ..self.own.unwrap_or(self.current) };
        (self.steady, self.rounds, self.averagings) = (0, 0, 0);
    }

    /// How low the cluster could go, as far as this host knows: one that has met only its like
    /// takes all to be alike.
    fn reach(&self, estimate: &Estimate) -> f64 {
        let unlike = |own: &Advantage| self.met.has_unlike(&own.rates);
        estimate.advantage.filter(unlike).map_or(1.0, |advantage| advantage.reach())
    }

    fn move_to(&mut self, next: Estimate) {
        let sum = |ratio: &PerResource| Resource::ALL.iter().map(|&r| ratio[r]).sum::<f64>();
        let (before, shares) = (ratio(&self.current), ratio(&next));
        let (had, reach) = (self.reach(&self.current), self.reach(&next));
        let steady = (sum(&shares) - sum(&before)).abs() <= STEADY_CHANGE * sum(&shares).abs()
            && (reach - had).abs() <= STEADY_CHANGE;
        self.steady = if steady { self.steady.saturating_add(1) } else { 0 };
        self.current = next;
        self.averagings = self.averagings.saturating_add(1);
        let now = Settled { shares, mix: next.usage, reach };
        if self.is_steady() {
            self.settled = Some(now);
        } else if self.averagings >= if self.hasty { MATURE_AT_WORK } else { MATURE_AVERAGINGS } {
            // Where loads change all the time nothing is ever steady: then the last few count.
            self.settled = Some(self.settled.map_or(now, |before| before.towards(&now)));
        }
    }
}

impl Settled {
    /// A little of the way to what is newer.
    fn towards(&self, newer: &Self) -> Self {
        let mix = |before: f64, after: f64| before + TRACKING * (after - before);
        let share = |r: Resource| mix(self.shares[r], newer.shares[r]);
        Self {
            shares: PerResource {
                cpu: share(Resource::Cpu),
                memory: share(Resource::Memory),
                io: share(Resource::Io),
            },
            mix: self.mix + (newer.mix - self.mix).scaled(TRACKING),
            reach: mix(self.reach, newer.reach),
        }
    }
}

impl Estimate {
    /// The mean of this and another one.
    fn mean(&self, other: &Self) -> Self {
        let half = |a: Resources, b: Resources| (a + b).scaled(0.5);
        let both = self.advantage.zip(other.advantage);
        Self {
            epoch: self.epoch,
            usage: half(self.usage, other.usage),
            capacity: half(self.capacity, other.capacity),
            advantage: both.map_or(self.advantage, |(a, b)| {
                Some(Advantage {
                    rates: a.rates,
                    least: f64::midpoint(a.least, b.least),
                    fair: f64::midpoint(a.fair, b.fair),
                })
            }),
        }
    }

    /// This with what has changed from `before` to `after`.
    fn changed(&self, before: &Self, after: &Self) -> Self {
        let advantage = self.advantage.map(|own| match before.advantage.zip(after.advantage) {
            Some((before, after)) => Advantage {
                least: own.least + (after.least - before.least),
                fair: own.fair + (after.fair - before.fair),
                ..own
            },
            None => own,
        });
        Self {
            epoch: self.epoch,
            usage: self.usage + (after.usage - before.usage),
            capacity: self.capacity + (after.capacity - before.capacity),
            advantage,
        }
    }
}

/// Usage per capacity; nothing where there is no capacity.
fn ratio(estimate: &Estimate) -> PerResource {
    let of = |r: Resource| {
        let capacity = estimate.capacity[r];
        if capacity > 0.0 { estimate.usage[r] / capacity } else { 0.0 }
    };
    PerResource { cpu: of(Resource::Cpu), memory: of(Resource::Memory), io: of(Resource::Io) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cores: f64) -> Resources {
        Resources { cpu_cores: cores, ..Resources::ZERO }
    }

    fn stock(usage: Resources, capacity: Resources) -> Stock {
        let rates = cpu(1.0 / capacity.cpu_cores);
        Stock { usage, capacity, rates, machines: vec![usage] }
    }

    fn hosts(count: usize) -> Vec<Averaging> {
        let host = |index: usize| {
            let mut averaging = Averaging::default();
            averaging.follow(&stock(cpu((index % 7) as f64), cpu(10.0 + (index % 3) as f64 * 5.0)));
            averaging
        };
        (0..count).map(host).collect()
    }

    fn meet(hosts: &mut [Averaging], a: usize, b: usize) {
        let told = hosts[a].told();
        let answer = hosts[b].answer(told);
        hosts[a].learn(told, answer);
    }

    fn only_cpu() -> Weights {
        Weights::new(PerResource { cpu: 1.0, memory: 0.0, io: 0.0 }).unwrap()
    }

    #[test]
    fn everybody_learns_the_ratio_of_the_sums() {
        let mut all = hosts(64);
        let sum = |all: &[Averaging], of: fn(&Estimate) -> f64| -> f64 {
            all.iter().map(|h| of(&h.told())).sum()
        };
        let (usage, capacity) =
            (sum(&all, |e| e.usage.cpu_cores), sum(&all, |e| e.capacity.cpu_cores));
        assert_eq!(all[0].target(&only_cpu()), None, "not known before anybody was met");
        let mut step = 1;
        for round in 0..40 {
            for a in 0..64 {
                step = (step * 37 + round + 11) % 63;
                meet(&mut all, a, (a + 1 + step) % 64);
            }
        }
        for host in &all {
            assert!((host.target(&only_cpu()).unwrap() - usage / capacity).abs() < 1e-3);
        }
        assert!((sum(&all, |e| e.usage.cpu_cores) - usage).abs() < 1e-9, "nothing is lost");
    }

    #[test]
    fn a_machine_that_moves_disturbs_no_estimate() {
        let mut all = hosts(2);
        let before: Vec<_> = all.iter().map(Averaging::told).collect();
        let (usage, capacity) = (all[1].told().usage, all[1].told().capacity);
        all[1].left(&cpu(0.5));
        all[1].follow(&stock(usage - cpu(0.5), capacity));
        all[0].arrived(&cpu(0.5));
        assert_eq!(all.iter().map(Averaging::told).collect::<Vec<_>>(), before);
    }

    #[test]
    fn what_changes_between_question_and_answer_is_not_lost() {
        let mut all = hosts(3);
        let before: f64 = all.iter().map(|h| h.told().usage.cpu_cores).sum();
        let told = all[0].told();
        let answer = all[1].answer(told);
        meet(&mut all, 2, 0);
        all[0].learn(told, answer);
        let after: f64 = all.iter().map(|h| h.told().usage.cpu_cores).sum();
        assert!((before - after).abs() < 1e-12);
    }

    #[test]
    fn a_host_that_hears_of_a_new_epoch_joins_it_and_keeps_the_old_result_meanwhile() {
        let mut all = hosts(2);
        for _ in 0..5 {
            meet(&mut all, 0, 1);
        }
        let target = all[1].target(&only_cpu());
        assert!(target.is_some());
        all[0].begin(7);
        meet(&mut all, 0, 1);
        assert_eq!(all[1].told().epoch, 7);
        assert_eq!(all[1].target(&only_cpu()), target);
        assert!(!all[1].is_steady());
    }
}

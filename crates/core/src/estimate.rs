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
//! A lost answer leaves a little of the sum behind on one side, a host that goes takes its estimate
//! along. Therefore averaging starts over in *epochs*: hosts that hear of a higher one join it with
//! what they use themselves, and go by the result of the one before until the new one has settled.

use minicbor::{Decode, Encode};

use crate::model::{PerResource, Resource, Resources, Weights};

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
}

/// Changes of the target up to this fraction are none.
const STEADY_CHANGE: f64 = 0.006;
/// So many averagings in a row without a change make an estimate settled.
const STEADY_COUNT: u32 = 2;
/// Averagings after which an epoch counts even if it is not steady: enough for any cluster.
const MATURE_AVERAGINGS: u32 = 24;
/// Weight of the newest averaging in what is then believed.
const TRACKING: f64 = 0.25;
/// Own rounds after which averaging starts over.
const EPOCH_ROUNDS: u32 = 240;

/// One host's part in the averaging.
#[derive(Clone, Debug, Default)]
pub struct Averaging {
    own: Option<(Resources, Resources)>,
    current: Estimate,
    /// Averagings in a row that changed next to nothing.
    steady: u32,
    /// Own rounds in this epoch.
    rounds: u32,
    /// Averagings in this epoch.
    averagings: u32,
    /// Whether another host has averaged with this one since its last own round.
    met: bool,
    /// The last settled result, of this epoch or the one before.
    settled: Option<PerResource>,
}

impl Averaging {
    /// Takes in what this host itself has and uses now.
    pub fn follow(&mut self, usage: Resources, capacity: Resources) {
        match self.own {
            Some((before, had)) => {
                self.current.usage += usage - before;
                self.current.capacity += capacity - had;
            }
            None => (self.current.usage, self.current.capacity) = (usage, capacity),
        }
        self.own = Some((usage, capacity));
    }

    /// Usage has come here from another host, or gone there if negative. That is no news about the
    /// cluster: the estimates of both stay as level as they are.
    pub fn moved(&mut self, usage: Resources) {
        if let Some((before, _)) = &mut self.own {
            *before += usage;
        }
    }

    /// One of this host's own rounds has begun. Answers whether it should average with another one:
    /// not if others have just done so with it, and not if nothing changes any more.
    pub const fn tick(&mut self) -> bool {
        let wants = !self.met && !self.is_steady();
        self.met = false;
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
        if theirs.epoch > self.current.epoch {
            self.begin(theirs.epoch);
        }
        if theirs.epoch == self.current.epoch {
            let half = |a: Resources, b: Resources| (a + b).scaled(0.5);
            let mean = Estimate {
                epoch: theirs.epoch,
                usage: half(self.current.usage, theirs.usage),
                capacity: half(self.current.capacity, theirs.capacity),
            };
            self.move_to(mean);
            self.met = true;
        }
        self.current
    }

    /// Averages with the answer to what was told. It may have changed since: what is added is what
    /// the other host has given up, so that the sum over both stays the same.
    pub fn learn(&mut self, told: Estimate, answer: Estimate) {
        if answer.epoch > self.current.epoch {
            self.begin(answer.epoch);
        } else if told.epoch == answer.epoch && told.epoch == self.current.epoch {
            self.move_to(Estimate {
                epoch: told.epoch,
                usage: self.current.usage + (answer.usage - told.usage),
                capacity: self.current.capacity + (answer.capacity - told.capacity),
            });
        }
    }

    /// The fair share of a host with these weights; `None` until the estimate has settled once.
    #[must_use]
    pub fn target(&self, weights: &Weights) -> Option<f64> {
        let (shares, weights) = (self.settled?, weights.get());
        Some(Resource::ALL.iter().map(|&r| weights[r] * shares[r]).sum())
    }

    /// The share of a resource that is in use in the whole cluster; `None` until that has settled
    /// once.
    #[must_use]
    pub fn share(&self, resource: Resource) -> Option<f64> {
        Some(self.settled?[resource])
    }

    /// Whether the present epoch has settled.
    #[must_use]
    pub const fn is_steady(&self) -> bool {
        self.steady >= STEADY_COUNT
    }

    const fn begin(&mut self, epoch: u32) {
        self.current.epoch = epoch;
        if let Some((usage, capacity)) = self.own {
            (self.current.usage, self.current.capacity) = (usage, capacity);
        }
        (self.steady, self.rounds, self.averagings) = (0, 0, 0);
    }

    fn move_to(&mut self, next: Estimate) {
        let sum = |ratio: &PerResource| Resource::ALL.iter().map(|&r| ratio[r]).sum::<f64>();
        let (before, after) = (ratio(&self.current), ratio(&next));
        let steady = (sum(&after) - sum(&before)).abs() <= STEADY_CHANGE * sum(&after).abs();
        self.steady = if steady { self.steady.saturating_add(1) } else { 0 };
        self.current = next;
        self.averagings = self.averagings.saturating_add(1);
        if self.is_steady() {
            self.settled = Some(after);
        } else if self.averagings >= MATURE_AVERAGINGS {
            // Where loads change all the time nothing is ever steady: then the last few count.
            let before = self.settled.unwrap_or(after);
            let mix = |r: Resource| before[r] + TRACKING * (after[r] - before[r]);
            let (cpu, memory, io) = (mix(Resource::Cpu), mix(Resource::Memory), mix(Resource::Io));
            self.settled = Some(PerResource { cpu, memory, io });
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

    fn hosts(count: usize) -> Vec<Averaging> {
        let host = |index: usize| {
            let mut averaging = Averaging::default();
            averaging.follow(cpu((index % 7) as f64), cpu(10.0 + (index % 3) as f64 * 5.0));
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
        all[1].moved(cpu(-0.5));
        all[1].follow(usage - cpu(0.5), capacity);
        all[0].moved(cpu(0.5));
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

//! What no algorithm can beat.
//!
//! 1. **Final maximum**: the largest of the least maximum that machines could reach if they could be
//!    cut in pieces, the largest machine on its best host, and, for like hosts, the pigeonhole bound
//!    (of the `k·n + 1` largest machines, some `k + 1` share a host).
//! 2. **Moves** to reach a maximum of `T`: every host must shed its largest machines until its
//!    excess over `T` is covered.
//! 3. **Bytes**: the cheapest bytes per load until the excess is covered, fractionally.
//!
//! For unlike hosts the first is the optimum of a linear programme, min z over fractional placements
//! with a row for the load and one for the memory of every host. Hosts that are alike can be merged
//! (averaging an optimum over them keeps it one), and what remains is bounded by its dual: for any
//! prices λ of load (summing to 1 over hosts) and μ of memory,
//!
//! ```text
//! z ≥ Σ_v min_h (λ_h·load_vh + μ_h·memory_v) + Σ_h λ_h·fixed_h − Σ_h μ_h·memory_h
//! ```
//!
//! whatever the prices, so that a search that stops early still tells the truth. The right-hand side
//! is concave in the prices, and is climbed by projected subgradients with a falling step.

use evenkeel_core::model::HostProfile;

use crate::snapshot::{Snapshot, SnapshotHost};

/// Bounds for one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Bounds {
    /// The lowest maximum that any placement could reach.
    pub max: f64,
    /// The fewest moves that reach 1.02 of it.
    pub moves: u64,
    /// The fewest bytes of memory in use to move for that.
    pub bytes: f64,
}

/// A maximum counts as reached within this factor.
pub const REACHED: f64 = 1.02;

impl Bounds {
    /// Computes the bounds.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let cluster = Cluster::new(snapshot);
        let max = cluster.final_maximum();
        let (moves, bytes) = cluster.fewest(max * REACHED);
        Self { max, moves, bytes }
    }
}

/// Hosts that price every machine alike and have the same memory.
struct Class {
    profile: HostProfile,
    count: f64,
    /// Load that cannot move, together.
    fixed: f64,
    /// Memory that movable machines may take, together.
    memory: f64,
}

struct Vm {
    /// Load on each class.
    prices: Vec<f64>,
    memory: f64,
    used_memory: f64,
    host: usize,
}

struct Cluster {
    classes: Vec<Class>,
    class_of: Vec<usize>,
    fixed: Vec<f64>,
    vms: Vec<Vm>,
}

fn alike(a: &SnapshotHost, b: &HostProfile) -> bool {
    a.capacity == b.capacity
        && a.cpu_speed == b.cpu_speed
        && a.weights == b.weights
        && a.reserved_memory_bytes == b.reserved_memory_bytes
}

impl Cluster {
    fn new(snapshot: &Snapshot) -> Self {
        let mut classes: Vec<Class> = Vec::new();
        let mut class_of = Vec::with_capacity(snapshot.hosts.len());
        let mut fixed = Vec::with_capacity(snapshot.hosts.len());
        for host in &snapshot.hosts {
            let class = classes.iter().position(|c| alike(host, &c.profile)).unwrap_or_else(|| {
                let profile = host.profile();
                classes.push(Class { profile, count: 0.0, fixed: 0.0, memory: 0.0 });
                classes.len() - 1
            });
            let background = host.background.map_or(0.0, |b| classes[class].profile.price(&b));
            classes[class].count += 1.0;
            classes[class].fixed += background;
            classes[class].memory += classes[class].profile.usable_memory_bytes();
            class_of.push(class);
            fixed.push(background);
        }
        let index: std::collections::BTreeMap<_, _> =
            snapshot.hosts.iter().enumerate().map(|(i, h)| (&h.id, i)).collect();
        let mut vms = Vec::with_capacity(snapshot.vms.len());
        for vm in &snapshot.vms {
            let Some(&host) = index.get(&vm.host) else { continue };
            let class = class_of[host];
            let factors = vm.factors(&classes[class].profile);
            if !vm.movable || vm.rules.ignore {
                let price = classes[class].profile.price(&factors);
                fixed[host] += price;
                classes[class].fixed += price;
                classes[class].memory -= vm.promised_memory_bytes();
                continue;
            }
            vms.push(Vm {
                prices: classes.iter().map(|c| c.profile.price(&factors)).collect(),
                memory: vm.promised_memory_bytes(),
                used_memory: vm.usage.memory_bytes,
                host,
            });
        }
        Self { classes, class_of, fixed, vms }
    }

    fn final_maximum(&self) -> f64 {
        let largest = |vm: &Vm| vm.prices.iter().copied().fold(f64::INFINITY, f64::min);
        let single = self.vms.iter().map(largest).fold(0.0, f64::max);
        let stuck = self.fixed.iter().copied().fold(0.0, f64::max);
        self.fractional().max(single).max(stuck).max(self.pigeonhole())
    }

    /// For like hosts: k + 1 of the k·n + 1 largest machines share a host, at best the smallest.
    fn pigeonhole(&self) -> f64 {
        if self.classes.len() != 1 {
            return 0.0;
        }
        let mut loads: Vec<f64> = self.vms.iter().map(|vm| vm.prices[0]).collect();
        loads.sort_unstable_by(|a, b| b.total_cmp(a));
        let hosts = self.class_of.len();
        let mut best = 0.0f64;
        let mut k = 1;
        while k * hosts < loads.len() {
            best = best.max(loads[k * hosts - k..=k * hosts].iter().sum());
            k += 1;
        }
        best
    }

    /// The dual at `load_prices` (summing to 1 over hosts) and `memory_prices`, per class, and its
    /// slope: how much load and memory the best response puts on each class.
    fn dual(&self, load_prices: &[f64], memory_prices: &[f64]) -> (f64, Vec<f64>, Vec<f64>) {
        let mut value = 0.0;
        let mut load: Vec<f64> = self.classes.iter().map(|c| c.fixed / c.count).collect();
        let mut memory: Vec<f64> = self.classes.iter().map(|c| -c.memory / c.count).collect();
        for vm in &self.vms {
            let (mut class, mut least) = (0, f64::INFINITY);
            for (index, price) in vm.prices.iter().enumerate() {
                let cost = load_prices[index] * price + memory_prices[index] * vm.memory;
                if cost < least {
                    (class, least) = (index, cost);
                }
            }
            value += least;
            load[class] += vm.prices[class] / self.classes[class].count;
            memory[class] += vm.memory / self.classes[class].count;
        }
        for (index, class) in self.classes.iter().enumerate() {
            value += load_prices[index] * class.fixed - memory_prices[index] * class.memory;
        }
        (value, load, memory)
    }

    /// The least maximum of fractional placements, from below.
    fn fractional(&self) -> f64 {
        let hosts = self.class_of.len() as f64;
        let classes = self.classes.len();
        let mut load_prices = vec![1.0 / hosts; classes];
        let mut memory_prices = vec![0.0; classes];
        let (mut best, ..) = self.dual(&load_prices, &memory_prices);
        if classes == 1 {
            return best;
        }
        let total_memory: f64 = self.classes.iter().map(|c| c.memory).sum::<f64>().max(1.0);
        for step in 1..=STEPS {
            let (value, load, memory) = self.dual(&load_prices, &memory_prices);
            best = best.max(value);
            let size = 0.5 / (hosts * f64::from(step).sqrt());
            let mean = load.iter().sum::<f64>() / classes as f64;
            let spread = load.iter().map(|l| (l - mean).abs()).fold(f64::MIN_POSITIVE, f64::max);
            for class in 0..classes {
                load_prices[class] += size * (load[class] - mean) / spread;
                let scarcity = memory[class] * hosts / total_memory;
                memory_prices[class] += size * scarcity * best * hosts / total_memory;
                memory_prices[class] = memory_prices[class].max(0.0);
                load_prices[class] = load_prices[class].max(0.0);
            }
            let sum: f64 = load_prices.iter().zip(&self.classes).map(|(p, c)| p * c.count).sum();
            load_prices.iter_mut().for_each(|p| *p /= sum.max(f64::MIN_POSITIVE));
        }
        best
    }

    /// The fewest moves and bytes after which no host is above `limit`: what must leave hosts, and
    /// what hosts below must receive so that no other is above.
    fn fewest(&self, limit: f64) -> (u64, f64) {
        let mut on: Vec<Vec<&Vm>> = vec![Vec::new(); self.class_of.len()];
        for vm in &self.vms {
            on[vm.host].push(vm);
        }
        let (mut moves, mut bytes) = (0, 0.0);
        for (host, vms) in on.iter_mut().enumerate() {
            let price = |vm: &Vm| vm.prices[self.class_of[host]];
            let load: f64 = self.fixed[host] + vms.iter().map(|vm| price(vm)).sum::<f64>();
            let mut excess = load - limit;
            vms.sort_unstable_by(|a, b| price(b).total_cmp(&price(a)));
            for vm in vms.iter() {
                if excess <= 1e-12 {
                    break;
                }
                moves += 1;
                excess -= price(vm);
            }
            let mut excess = load - limit;
            let cost = |vm: &Vm| vm.used_memory / price(vm).max(f64::MIN_POSITIVE);
            vms.sort_unstable_by(|a, b| cost(a).total_cmp(&cost(b)));
            for vm in vms.iter() {
                if excess <= 1e-12 {
                    break;
                }
                let part = (excess / price(vm).max(f64::MIN_POSITIVE)).min(1.0);
                bytes += part * vm.used_memory;
                excess -= part * price(vm);
            }
        }
        (moves, bytes)
    }
}

/// Steps of the search for the best prices.
const STEPS: u32 = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Recipe, generate};

    #[test]
    fn the_maximum_of_like_hosts_is_no_less_than_their_mean() {
        let snapshot = generate(&Recipe::uniform(10, 100), 1).unwrap();
        let total: f64 =
            snapshot.vms.iter().map(|vm| snapshot.hosts[0].profile().price(&vm.usage)).sum();
        let bounds = Bounds::of(&snapshot);
        assert!((bounds.max - total / 10.0).abs() < 1e-12);
        assert!(bounds.moves > 0 && bounds.bytes > 0.0);
    }

    #[test]
    fn one_machine_larger_than_the_mean_is_the_bound() {
        let mut snapshot = generate(&Recipe::uniform(4, 8), 2).unwrap();
        snapshot.vms[0].usage.cpu_cores = 40.0;
        let largest = snapshot.hosts[0].profile().price(&snapshot.vms[0].usage);
        assert_eq!(Bounds::of(&snapshot).max, largest);
    }

    #[test]
    fn the_pigeonhole_counts_three_machines_for_two_hosts() {
        let mut snapshot = generate(&Recipe::uniform(2, 3), 3).unwrap();
        for vm in &mut snapshot.vms {
            vm.usage = snapshot.hosts[0].profile().share_as_usage(0.3);
        }
        assert!((Bounds::of(&snapshot).max - 0.6).abs() < 1e-12);
    }
}

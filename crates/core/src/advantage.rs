//! Comparative advantage: which kind of host a machine belongs on, and what there is to gain by it.
//!
//! Unlike hosts charge differently for the same machine, and most machines are cheapest on the
//! largest hosts, where they cannot all be. What counts is where a machine is cheap *compared with
//! the others*. A host's **par** is what the mean usage of all hosts would load it, and a machine's
//! **relative price** there is its price over the par: a machine that needs much CPU is relatively
//! cheap where there is much CPU for the memory and I/O.
//!
//! The source of this is linear programming. Let `p_vh` be the price of machine `v` on host `h`. The
//! least maximum `z` that machines cut in pieces could be levelled to is bounded by its dual: for
//! any `λ` with `Σ_h λ_h = 1`, `z ≥ Σ_v min_h λ_h·p_vh`, and where the two meet every machine is on
//! a host with the least `λ_h·p_vh`. With `λ_h` as the inverse of the par, which every host can tell
//! of every other, the bound is within a quarter of a percent of the optimum on clusters of two
//! kinds of hosts, so that nobody has to look for better `λ`.
//!
//! **How low the cluster could go.** A host knows its own machines, and the rates of some hosts that
//! it has met at random. It takes each machine at the lower quartile of its relative prices there:
//! where there are few kinds of hosts that is the least of all, but what is cheap on fewer than a
//! quarter of the hosts cannot all be there. Averaged over all hosts and put in proportion to their
//! fair shares this is the cluster's **reach**.

use std::collections::VecDeque;

use minicbor::{Decode, Encode};

use crate::model::{Resource, Resources};

/// Rates of so many hosts are remembered, the last to be met.
const MET_MAX: usize = 16;

/// What a host tells of the cluster's reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode)]
pub struct Advantage {
    /// What one unit of each resource loads the host that tells this.
    #[n(0)]
    pub rates: Resources,
    /// Running mean over hosts: relative prices of a host's machines where those are cheap.
    #[n(1)]
    pub least: f64,
    /// Running mean over hosts: a host's fair share over its par.
    #[n(2)]
    pub fair: f64,
}

impl Advantage {
    /// The part of its fair share that every host could be levelled to; at most 1.
    #[must_use]
    pub fn reach(&self) -> f64 {
        if self.fair > 0.0 { (self.least / self.fair).min(1.0) } else { 1.0 }
    }
}

/// What a host with these prices per unit charges.
#[must_use]
pub fn priced(usage: &Resources, rates: &Resources) -> f64 {
    Resource::ALL.iter().map(|&r| usage[r] * rates[r]).sum()
}

/// A price in pars; nothing where there is no par.
fn relative(usage: &Resources, rates: &Resources, mix: &Resources) -> f64 {
    let par = priced(mix, rates);
    if par > 0.0 { priced(usage, rates) / par } else { 0.0 }
}

/// The rates of hosts that were met at random.
#[derive(Clone, Debug, Default)]
pub struct Met {
    rates: VecDeque<Resources>,
}

impl Met {
    /// Remembers a host's rates.
    pub fn meet(&mut self, rates: Resources) {
        if self.rates.len() == MET_MAX {
            self.rates.pop_front();
        }
        self.rates.push_back(rates);
    }

    /// Whether any of them charges otherwise than a host with these rates.
    #[must_use]
    pub fn has_unlike(&self, own: &Resources) -> bool {
        self.rates.iter().any(|rates| rates != own)
    }

    /// The relative price, where they are cheap, of machines that use `machines` besides what must
    /// stay on the host with these rates. `mix` is the mean usage of a host.
    #[must_use]
    pub fn least(
        &self,
        own: &Resources,
        stays: &Resources,
        machines: &[Resources],
        mix: &Resources,
    ) -> f64 {
        if !self.has_unlike(own) {
            let usage = machines.iter().fold(*stays, |sum, usage| sum + *usage);
            return relative(&usage, own, mix);
        }
        let cheap = machines.iter().map(|usage| self.cheap(usage, mix)).sum::<f64>();
        relative(stays, own, mix) + cheap
    }

    /// The lower quartile of a machine's relative prices.
    fn cheap(&self, usage: &Resources, mix: &Resources) -> f64 {
        let mut prices = [f64::INFINITY; MET_MAX];
        for (price, rates) in prices.iter_mut().zip(&self.rates) {
            *price = relative(usage, rates, mix);
        }
        let quarter = (self.rates.len() - 1) / 4;
        *prices.select_nth_unstable_by(quarter, f64::total_cmp).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIX: Resources = Resources { cpu_cores: 4.0, memory_bytes: 16.0, io_bytes_per_s: 0.0 };

    fn rates(cpu: f64, memory: f64) -> Resources {
        Resources { cpu_cores: cpu, memory_bytes: memory, io_bytes_per_s: 0.0 }
    }

    fn usage(cpu: f64, memory: f64) -> Resources {
        Resources { cpu_cores: cpu, memory_bytes: memory, io_bytes_per_s: 0.0 }
    }

    fn met(hosts: &[(Resources, usize)]) -> Met {
        let mut met = Met::default();
        for (rates, count) in hosts {
            (0..*count).for_each(|_| met.meet(*rates));
        }
        met
    }

    #[test]
    fn among_like_hosts_there_is_nothing_to_gain() {
        let own = rates(0.1, 0.02);
        let machines = [usage(2.0, 1.0), usage(0.5, 8.0)];
        let here = relative(&usage(2.5, 9.0), &own, &MIX);
        assert_eq!(met(&[(own, 9)]).least(&own, &Resources::ZERO, &machines, &MIX), here);
    }

    #[test]
    fn among_few_kinds_every_machine_has_its_least_price() {
        let (cpu_rich, memory_rich) = (rates(0.02, 0.02), rates(0.08, 0.005));
        for usage in [usage(3.0, 1.0), usage(1.0, 3.0), usage(1.0, 8.0)] {
            let prices = [cpu_rich, memory_rich].map(|rates| relative(&usage, &rates, &MIX));
            let all = met(&[(cpu_rich, 9), (memory_rich, 7)]);
            let found = all.least(&cpu_rich, &Resources::ZERO, &[usage], &MIX);
            assert_eq!(found, prices[0].min(prices[1]));
        }
    }

    #[test]
    fn a_rare_kind_has_no_room_for_all_that_is_cheap_there() {
        let (common, rare) = (rates(0.08, 0.005), rates(0.02, 0.02));
        let machine = usage(3.0, 1.0);
        let [dear, cheap] = [common, rare].map(|rates| relative(&machine, &rates, &MIX));
        assert!(cheap < dear);
        let all = met(&[(rare, 2), (common, 14)]);
        assert_eq!(all.least(&common, &Resources::ZERO, &[machine], &MIX), dear);
    }
}

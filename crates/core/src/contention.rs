//! Contention: how much of what machines want of their host they do not get.
//!
//! A load says how much is used, not whether somebody goes without. What tells that is **lost time**,
//! measured, as shares from 0 to 1; what is not told stays unknown and is never taken for 0:
//!
//! | share | of a machine | of a host |
//! | --- | --- | --- |
//! | `cpu` | `waited / max(ran + waited, 0.1 cores)`: virtual CPUs that were ready and did not run | the same of the sums over its machines |
//! | `memory` | `some` of the memory pressure of its control group | `some` of the host's memory pressure |
//! | `io` | `full` of the I/O pressure of its control group | `full` of the host's I/O pressure |
//!
//! (`some` and `full` are the kernel's pressure stall information: the share of time in which at least
//! one task, or every task that was not idle, stood still for want of the resource. The floor of a
//! tenth of a core keeps a machine that wants next to nothing from crying out.)
//!
//! The **score** is for people, from 0 to 100, and comes to 50 where a tenth of the time is lost:
//!
//! ```text
//! score = 100 · (1 − (1 − cpu)^k · (1 − memory)^k · (1 − io)^(k/4)),   k = ln 0.5 / ln 0.9 ≈ 6.58
//! ```
//!
//! Shares multiply as what is left of independent losses does. It rises with each of them and
//! depends on nothing else: 1 % of CPU time lost is 6, 5 % is 29, 20 % is 77. Waiting for disks counts
//! a quarter, because a machine that does nothing but read always waits for them. Pressure that is
//! not known does not count; where it is not known who waits for a CPU there is no score. On a host on
//! which nothing runs nobody does.
//!
//! A machine **starves** from a score of 50 on, unless configured otherwise ([`STARVING`]). The score
//! of a cluster is the mean of its hosts' as far as they have been heard of: a host says its own with
//! its load, in one byte.

use crate::model::{Resource, Time};
use crate::port::{Counters, Pressure};

/// From which score on a machine starves.
pub const STARVING: u8 = 50;

/// `ln 0.5 / ln 0.9`: a tenth of the time lost scores one half.
const STEEPNESS: f64 = 6.578_813_478_960_585;
/// How much less waiting for disks counts.
const IO_WEIGHT: f64 = 0.25;
/// CPU that a machine is taken to want at least, in cores.
const WANTED_CORES_MIN: f64 = 0.1;
/// Figures that were not told again for so long are not known any more, in milliseconds.
const KNOWN_MS_MAX: u64 = 120_000;

/// Shares of time lost, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Contention {
    /// For want of a CPU.
    pub cpu: Option<f64>,
    /// For want of memory: swapping, reclaiming.
    pub memory: Option<f64>,
    /// For want of I/O.
    pub io: Option<f64>,
    /// What is swapped out, in bytes. It does not count by itself: what nobody asks for back may well
    /// be there.
    pub swapped_bytes: Option<f64>,
}

impl Contention {
    /// The score, from 0 to 100; `None` where it is not known who waits for a CPU.
    #[must_use]
    pub fn score(&self) -> Option<u8> {
        let left = |lost: Option<f64>, weight: f64| {
            (1.0 - lost.unwrap_or(0.0).clamp(0.0, 1.0)).powf(STEEPNESS * weight)
        };
        self.cpu?;
        let left = left(self.cpu, 1.0) * left(self.memory, 1.0) * left(self.io, IO_WEIGHT);
        // From 0 to 100, as `left` is from 0 to 1.
        Some((100.0 * (1.0 - left)).round() as u8)
    }

    /// Whether it scores `from` or more.
    #[must_use]
    pub fn starves(&self, from: u8) -> bool {
        self.score().is_some_and(|score| score >= from)
    }

    /// What is missing most, if anything is.
    #[must_use]
    pub fn worst(&self) -> Option<Resource> {
        let weighed = [
            (Resource::Cpu, self.cpu, 1.0),
            (Resource::Memory, self.memory, 1.0),
            (Resource::Io, self.io, IO_WEIGHT),
        ];
        let lost = weighed.into_iter().filter_map(|(r, share, weight)| Some((r, share? * weight)));
        let worst = lost.max_by(|a, b| a.1.total_cmp(&b.1));
        worst.filter(|(_, lost)| *lost > 0.0).map(|(resource, _)| resource)
    }
}

/// CPU that machines had and wanted, in cores, over the last time that both were told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    ran: f64,
    waited: f64,
}

impl Waiting {
    /// The share of time that a CPU was wanted and not had.
    #[must_use]
    pub fn share(&self) -> f64 {
        (self.waited / (self.ran + self.waited).max(WANTED_CORES_MIN)).clamp(0.0, 1.0)
    }
}

impl std::ops::Add for Waiting {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { ran: self.ran + other.ran, waited: self.waited + other.waited }
    }
}

/// From counters of lost time to shares, for a machine or a host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    /// When both were told last, and what: CPU time and waiting time, in nanoseconds.
    cpu: Option<(Time, u64, u64)>,
    waiting: Option<Waiting>,
    pressure: Option<(Time, Pressure)>,
    memory: Option<f64>,
    io: Option<f64>,
}

impl Meter {
    /// Takes in what a machine's counters say. Waiting is not told in every sample.
    pub(crate) fn observe(&mut self, at: Time, counters: &Counters) {
        let Counters { cpu_time_ns, cpu_delay_ns, pressure, .. } = *counters;
        if let Some(delay_ns) = cpu_delay_ns {
            let before = self.cpu.replace((at, cpu_time_ns, delay_ns));
            self.waiting = before.and_then(|(since, ran, waited)| {
                let per_second = |ns: u64| ns as f64 / 1e9 / at.since(since).as_secs_f64();
                // A counter that decreases has begun anew.
                let ran = per_second(cpu_time_ns.checked_sub(ran)?);
                let waited = per_second(delay_ns.checked_sub(waited)?);
                (ran.is_finite() && waited.is_finite()).then_some(Waiting { ran, waited })
            });
        } else if self.cpu.is_some_and(|(since, ..)| is_old(since, at)) {
            (self.cpu, self.waiting) = (None, None);
        }
        self.press(at, pressure);
    }

    /// Takes in pressure and swap alone.
    pub(crate) fn press(&mut self, at: Time, pressure: Pressure) {
        let before = self.pressure.replace((at, pressure));
        let share = |now: Option<u64>, of: fn(&Pressure) -> Option<u64>| {
            let (since, earlier) = before.as_ref()?;
            let lost = now?.checked_sub(of(earlier)?)? as f64 / 1e6;
            let share = lost / at.since(*since).as_secs_f64();
            share.is_finite().then(|| share.clamp(0.0, 1.0))
        };
        self.memory = share(pressure.memory_us, |p| p.memory_us);
        self.io = share(pressure.io_us, |p| p.io_us);
    }

    /// CPU had and wanted, where known.
    pub(crate) const fn waiting(&self) -> Option<Waiting> {
        self.waiting
    }

    /// What is known now, with `waiting` for CPU.
    pub(crate) fn contention(&self, waiting: Option<Waiting>) -> Contention {
        Contention {
            cpu: waiting.map(|waiting| waiting.share()),
            memory: self.memory,
            io: self.io,
            swapped_bytes: self.pressure.and_then(|(_, p)| p.swapped_bytes).map(|b| b as f64),
        }
    }
}

fn is_old(since: Time, now: Time) -> bool {
    now.since(since).as_millis() > u128::from(KNOWN_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lost(cpu: Option<f64>, memory: Option<f64>, io: Option<f64>) -> Contention {
        Contention { cpu, memory, io, swapped_bytes: None }
    }

    #[test]
    fn a_tenth_of_the_time_lost_scores_one_half_and_what_is_unknown_nothing() {
        for (contention, score) in [
            (lost(None, None, None), None),
            (lost(Some(0.0), None, None), Some(0)),
            (lost(Some(0.01), None, None), Some(6)),
            (lost(Some(0.05), None, None), Some(29)),
            (lost(Some(0.1), None, None), Some(50)),
            (lost(None, Some(0.1), None), None),
            (lost(Some(0.0), Some(0.1), None), Some(50)),
            (lost(Some(0.2), None, None), Some(77)),
            (lost(Some(0.1), Some(0.1), None), Some(75)),
            (lost(Some(0.0), None, Some(0.1)), Some(16)),
            (lost(Some(1.0), None, None), Some(100)),
        ] {
            assert_eq!(contention.score(), score, "{contention:?}");
        }
    }

    fn counters(ran_ms: u64, waited_ms: Option<u64>, memory_ms: Option<u64>) -> Counters {
        Counters {
            cpu_time_ns: ran_ms * 1_000_000,
            cpu_delay_ns: waited_ms.map(|ms| ms * 1_000_000),
            pressure: Pressure { memory_us: memory_ms.map(|ms| ms * 1000), ..Pressure::default() },
            ..Counters::default()
        }
    }

    /// The shares of CPU and memory lost after each of these samples, five seconds apart.
    fn metered(samples: &[(u64, Option<u64>, Option<u64>)]) -> Vec<(Option<f64>, Option<f64>)> {
        let mut meter = Meter::default();
        let mut at = Time::from_unix_ms(0);
        let step = |&(ran, waited, memory): &(u64, Option<u64>, Option<u64>)| {
            at = at + std::time::Duration::from_secs(5);
            meter.observe(at, &counters(ran, waited, memory));
            let known = meter.contention(meter.waiting());
            (known.cpu, known.memory)
        };
        samples.iter().map(step).collect()
    }

    #[test]
    fn shares_are_of_the_time_between_two_samples_that_tell() {
        let shares = metered(&[
            (0, Some(0), None),
            (4000, Some(1000), Some(0)),
            (6000, None, Some(500)),
            (8000, Some(5000), None),
            // It has begun anew on this host.
            (100, Some(0), None),
            // It wants a hundredth of a core and waits for half of that.
            (125, Some(25), None),
        ]);
        let expected = [None, Some(0.2), Some(0.2), Some(0.5), None, Some(0.005 / 0.1)].into_iter();
        for ((cpu, _), expected) in shares.iter().zip(expected) {
            let near = match (cpu, expected) {
                (Some(cpu), Some(expected)) => (cpu - expected).abs() < 1e-9,
                (cpu, expected) => *cpu == expected,
            };
            assert!(near, "{cpu:?} is not {expected:?}");
        }
        let memory: Vec<_> = shares.iter().map(|s| s.1).collect();
        assert_eq!(memory, [None, None, Some(0.1), None, None, None]);
    }

    #[test]
    fn what_is_not_told_any_more_is_forgotten() {
        let mut samples = vec![(0, Some(0), None), (1000, Some(1000), None)];
        samples.extend((2..40).map(|n| (n * 1000, None, None)));
        let shares = metered(&samples);
        assert_eq!(shares[20].0, Some(0.5));
        assert_eq!(shares[39].0, None);
    }

    proptest! {
        #[test]
        fn the_score_rises_with_every_share(
            shares in prop::array::uniform3(prop::option::of(0.0..=1.0f64)),
            more in 0.0..=1.0f64,
            which in 0usize..3,
        ) {
            let [cpu, memory, io] = shares;
            let cpu = cpu.or(Some(0.0));
            let before = lost(cpu, memory, io).score().unwrap();
            let mut shares = [cpu, memory, io];
            shares[which] = Some(shares[which].unwrap_or(0.0).max(more));
            let [cpu, memory, io] = shares;
            let after = lost(cpu, memory, io).score().unwrap();
            prop_assert!(before <= after && after <= 100);
        }
    }
}

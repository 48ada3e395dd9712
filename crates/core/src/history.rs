//! What machines and hosts used at times past, thinned with age.
//!
//! A move is judged by what it *would have levelled* ([`crate::select::levelling`]), and for that the
//! past of the machines that are on a host **now** has to be known, wherever they were then. A
//! [`Track`] therefore goes along with its machine. It keeps one mean a minute, of the latest minutes
//! all and of older ones ever fewer: which ones depends on nothing but their number, so that the
//! tracks of all machines on all hosts are of the same minutes and can be added up. What is kept are
//! samples and not means over ever longer spans, since those would hide noise.

use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::model::{Resource, Resources, Time};

/// Minutes of the past that are kept.
const AGE_MAX: u32 = 24 * 60;
/// The latest minutes are all kept, and then so many of every doubling of the age.
const PER_DOUBLING: u32 = 4;
/// Most samples of a track.
pub const SAMPLES_MAX: usize = 64;

/// The number of the minute that a time is in.
#[must_use]
pub fn minute(at: Time) -> u32 {
    u32::try_from(at.unix_ms() / 60_000).unwrap_or(u32::MAX)
}

/// Whether a minute is one of those kept at this age.
fn is_kept(minute: u32, age: u32) -> bool {
    let doublings = (age / PER_DOUBLING).max(1).ilog2();
    age <= AGE_MAX && minute.trailing_zeros() >= doublings
}

/// The mean of one minute.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Sample {
    /// Its number.
    #[n(0)]
    pub minute: u32,
    /// The mean.
    #[n(1)]
    pub value: f32,
}

/// One figure over time.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Track {
    /// Oldest first; at most [`SAMPLES_MAX`].
    #[n(0)]
    samples: Vec<Sample>,
    /// The minute that has not ended: its number, the sum and the count.
    #[cbor(skip)]
    #[serde(skip)]
    pending: Option<(u32, f64, u32)>,
}

impl Track {
    /// Takes in the newest figure.
    pub fn observe(&mut self, at: Time, value: f64) {
        let now = minute(at);
        let (mut sum, mut count) = (0.0, 0);
        if let Some((of, before, summed)) = self.pending {
            if of == now {
                (sum, count) = (before, summed);
            } else {
                let value = (before / f64::from(summed.max(1))) as f32;
                self.samples.push(Sample { minute: of, value });
                self.samples.retain(|s| is_kept(s.minute, now.saturating_sub(s.minute)));
            }
        }
        self.pending = Some((now, sum + value, count + 1));
    }

    /// The figure of a minute, or of the next one after it that is known; the oldest for what was
    /// before it. `None` where nothing is known.
    #[must_use]
    pub fn at(&self, minute: u32) -> Option<f64> {
        let next = self.samples.partition_point(|s| s.minute < minute);
        let pending = || self.pending.map(|(_, sum, count)| sum / f64::from(count.max(1)));
        match self.samples.get(next) {
            Some(sample) => Some(f64::from(sample.value)),
            None => pending().or(self.samples.last().map(|s| f64::from(s.value))),
        }
    }

    /// Adds to `sums` the figure of each of these minutes, the latest first, times `rate`; answers
    /// whether anything is known.
    fn add_to(&self, sums: &mut [f64], minutes: &[u32], rate: f64) -> bool {
        let newest = self.at(u32::MAX).unwrap_or_default();
        let mut next = self.samples.len();
        for (sum, &minute) in sums.iter_mut().zip(minutes) {
            while next > 0 && self.samples[next - 1].minute >= minute {
                next -= 1;
            }
            let value = self.samples.get(next).map_or(newest, |s| f64::from(s.value));
            *sum += value * rate;
        }
        !self.samples.is_empty() || self.pending.is_some()
    }

    /// The first minute that is known.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.samples.first().map(|s| s.minute).or(self.pending.map(|(minute, ..)| minute))
    }

    /// Its minutes, the latest first.
    #[must_use]
    pub fn minutes(&self) -> Vec<u32> {
        self.samples.iter().rev().map(|sample| sample.minute).collect()
    }

    /// Adds what came besides in each of its minutes, the latest first.
    pub fn add(&mut self, besides: &[f64]) {
        for (sample, besides) in self.samples.iter_mut().rev().zip(besides) {
            sample.value = (f64::from(sample.value) + besides) as f32;
        }
    }

    /// It without the minute that has not ended.
    #[must_use]
    pub fn told(&self) -> Self {
        Self { samples: self.samples.clone(), pending: None }
    }

    /// Whether it is one: in order, with figures that are numbers.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.samples.len() <= SAMPLES_MAX
            && self.samples.iter().all(|s| s.value.is_finite())
            && self.samples.is_sorted_by(|a, b| a.minute < b.minute)
    }

    /// A track of these figures, the oldest first, each of its minute.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = (u32, f64)>) -> Self {
        let sample = |(minute, value)| Sample { minute, value: value as f32 };
        Self { samples: figures.into_iter().map(sample).collect(), pending: None }
    }
}

/// What a machine used over time.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct History {
    /// Reference cores.
    #[n(0)]
    pub cpu: Track,
    /// Bytes.
    #[n(1)]
    pub memory: Track,
    /// Bytes per second.
    #[n(2)]
    pub io: Track,
}

impl History {
    /// Takes in what is used now.
    pub fn observe(&mut self, at: Time, usage: &Resources) {
        self.cpu.observe(at, usage.cpu_cores);
        self.memory.observe(at, usage.memory_bytes);
        self.io.observe(at, usage.io_bytes_per_s);
    }

    /// It as another host is told of it.
    #[must_use]
    pub fn told(&self) -> Self {
        let [cpu, memory, io] = [&self.cpu, &self.memory, &self.io].map(Track::told);
        Self { cpu, memory, io }
    }

    const fn track(&self, resource: Resource) -> &Track {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
            Resource::Io => &self.io,
        }
    }

    /// What was used in a minute, as far as it is known.
    #[must_use]
    pub fn at(&self, minute: u32) -> Option<Resources> {
        let of = |resource| self.track(resource).at(minute);
        Some(Resources {
            cpu_cores: of(Resource::Cpu)?,
            memory_bytes: of(Resource::Memory)?,
            io_bytes_per_s: of(Resource::Io)?,
        })
    }

    /// Adds to `sums` what was used in each of these minutes, the latest first, at such prices per
    /// unit; answers whether anything is known.
    pub fn add_priced(&self, sums: &mut [f64], minutes: &[u32], rates: &Resources) -> bool {
        let known = self.cpu.add_to(sums, minutes, rates.cpu_cores);
        self.memory.add_to(sums, minutes, rates.memory_bytes);
        self.io.add_to(sums, minutes, rates.io_bytes_per_s);
        known
    }

    /// The first minute that is known.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.cpu.first()
    }

    /// Whether each of its tracks is one.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        Resource::ALL.iter().all(|&r| self.track(r).is_sound())
    }
}

/// Times past, and how much each of them counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Ages {
    /// The minutes, the latest first; the first figure of a series is of now, and the others are of
    /// these.
    pub minutes: Vec<u32>,
    /// How much each figure counts for what a move would have levelled; they sum to 1.
    pub weights: Vec<f64>,
    /// How much each counts for how steady a difference is; they sum to 1.
    pub recent: Vec<f64>,
    /// How far back they go, in minutes.
    pub span: f64,
}

/// Age in minutes at which what was counts little more than a third of what is.
const KERNEL_MINUTES: f64 = 10.0;
/// Half-life of what counts for how steady a difference is, in minutes.
const STEADY_MINUTES: f64 = 120.0;

/// The weight of all that is older than this, in minutes: of `(1 + age / KERNEL_MINUTES)^-3/2`.
fn beyond(age: f64) -> f64 {
    (1.0 + age / KERNEL_MINUTES).powf(-0.5)
}

impl Ages {
    /// Those that are kept of the past since the minute `first`.
    #[must_use]
    pub fn since(first: u32, now: Time) -> Self {
        let current = minute(now);
        let ages = 1..=current.saturating_sub(first).min(AGE_MAX);
        let minutes: Vec<u32> =
            ages.filter(|&age| is_kept(current - age, age)).map(|age| current - age).collect();
        let mut bounds = vec![0.0];
        let mut last = 0.0;
        for &minute in &minutes {
            let age = f64::from(current - minute);
            bounds.push(f64::midpoint(last, age));
            last = age;
        }
        let span = last + (last - bounds[bounds.len() - 1]).max(0.5);
        bounds.push(span);
        let shares = |beyond: fn(f64) -> f64| {
            let of = |pair: &[f64]| beyond(pair[0]) - beyond(pair[1]);
            let parts: Vec<f64> = bounds.windows(2).map(of).collect();
            let sum: f64 = parts.iter().sum();
            parts.into_iter().map(|part| part / sum).collect()
        };
        let fading = |age: f64| (-age / STEADY_MINUTES).exp2();
        Self { weights: shares(beyond), recent: shares(fading), minutes, span }
    }

    /// The span of the past that a series of so many minutes goes back to at most.
    #[must_use]
    pub const fn longest() -> Duration {
        Duration::from_secs(AGE_MAX as u64 * 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Time {
        Time::from_unix_ms(minutes * 60_000)
    }

    #[test]
    fn tracks_that_began_at_different_times_are_of_the_same_minutes() {
        let (mut long, mut short) = (Track::default(), Track::default());
        for now in 1_000_000..1_003_000u64 {
            long.observe(at(now), now as f64);
            if now > 1_002_500 {
                short.observe(at(now), now as f64);
            }
        }
        assert!(long.samples.len() <= SAMPLES_MAX && long.samples.len() > 30, "{long:?}");
        let minutes = |track: &Track| track.samples.iter().map(|s| s.minute).collect::<Vec<_>>();
        let (of_long, of_short) = (minutes(&long), minutes(&short));
        assert_eq!(of_long[of_long.len() - of_short.len()..], of_short);
        let ages = Ages::since(0, at(1_002_999));
        let kept: Vec<_> = ages.minutes.iter().rev().copied().collect();
        assert_eq!(kept, of_long, "the grid is what is kept");
        assert!(long.is_sound());
    }

    #[test]
    fn a_minute_is_its_mean_and_what_was_before_all_is_as_the_oldest() {
        let mut track = Track::default();
        for (second, value) in [(0, 1.0), (30, 3.0), (60, 5.0), (120, 9.0)] {
            track.observe(Time::from_unix_ms(second * 1000), value);
        }
        assert_eq!([0, 1, 2, 7].map(|m| track.at(m)), [2.0, 5.0, 9.0, 9.0].map(Some));
        let late = Track::of([(5, 4.0), (7, 6.0)]);
        assert_eq!([0, 5, 6, 7, 8].map(|m| late.at(m)), [4.0, 4.0, 6.0, 6.0, 6.0].map(Some));
        assert_eq!(Track::default().at(3), None);
    }

    #[test]
    fn weights_sum_to_one_and_fall_with_age() {
        for first in [0, 90, 99, 100] {
            let ages = Ages::since(first, at(100));
            assert!((ages.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert!((ages.recent.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            assert_eq!(ages.weights.len(), ages.minutes.len() + 1);
        }
    }
}

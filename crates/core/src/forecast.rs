//! What a machine will use next: forecasts by exponential smoothing whose constant chooses itself.
//!
//! Which smoothing predicts best depends on the workload: for one that keeps to what it does the
//! last value, for one that flickers about a mean a long average. Every machine therefore keeps a
//! small bank of exponential averages of each resource, and goes by the one that has been least
//! wrong of late. Wrong about what matters here: not the next sample, but the **mean of the next
//! `lead`**, since a move is for minutes and not for seconds. At the beginning of every lead each
//! average is noted as a forecast; at its end all are compared with what came, and errors of the
//! past are discounted exponentially (Gardner, *Exponential smoothing: the state of the art, part
//! II*, 2006, section 4, on adaptive selection by recent error).
//!
//! The errors of the forecasts that were gone by are kept, and a high quantile of them tells how
//! much a machine may come to use: that is what has to fit. How well deviations from the long
//! average carry over from one lead to the next tells how long they last.

use std::time::Duration;

use crate::model::{Resource, Resources, Time};

/// How the averages are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Smoothing {
    /// The constant with the least recent error, for each machine and resource.
    Adaptive,
    /// Always this weight of the newest rate, above 0 and at most 1; 1 is no smoothing.
    Fixed(f64),
}

/// How to forecast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecasting {
    /// Which averages to choose from.
    pub smoothing: Smoothing,
    /// Over which time ahead forecasts are judged. As long as a move should pay at least.
    pub lead: Duration,
    /// Which quantile of the recent errors counts where the question is whether something fits,
    /// from 0 (none is kept) to 1 (the largest).
    pub quantile: f64,
    /// Samples that make a machine known which has just been started or has just arrived.
    pub warm_up: u32,
}

impl Default for Forecasting {
    fn default() -> Self {
        Self {
            smoothing: Smoothing::Adaptive,
            lead: Duration::from_secs(600),
            quantile: 0.95,
            warm_up: 3,
        }
    }
}

impl Forecasting {
    /// Believes every rate as it is, at once, and that nothing will be more than it is.
    pub const NONE: Self = Self {
        smoothing: Smoothing::Fixed(1.0),
        lead: Duration::from_secs(600),
        quantile: 0.0,
        warm_up: 1,
    };
}

/// Over how long the averages to choose from are taken, in leads, the longest first; the last is the
/// last value. As times, so that how often is sampled makes no difference.
const CONSTANTS: [f64; 6] = [4.0, 2.0, 1.0, 0.4, 0.12, 0.0];
/// The one that counts before any forecast has been judged.
const FIRST: usize = 4;

/// Weight of the newest of rates that are `span` apart in an average over `time`.
fn weight(span: Duration, time: f64) -> f64 {
    if time > 0.0 { -(-span.as_secs_f64() / time).exp_m1() } else { 1.0 }
}
/// What a lead leaves of the weight of the errors before it: half after about seven.
const DISCOUNT: f64 = 0.9;
/// Errors that quantiles are taken of.
const ERRORS_KEPT: usize = 32;

/// The forecast for one machine.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    seen: u32,
    level: Resources,
    /// None where neither a choice nor errors are wanted.
    banks: Option<Box<[Bank; 3]>>,
}

impl Forecast {
    /// A forecast that begins with what is believed of a machine.
    #[must_use]
    pub fn starting_at(usage: Resources) -> Self {
        Self { level: usage, ..Self::default() }
    }

    /// Takes in the newest rate.
    pub fn observe(&mut self, at: Time, newest: Resources, how: &Forecasting) {
        let believed = (self.seen == 0 && self.level != Resources::ZERO).then_some(self.level);
        self.seen = self.seen.saturating_add(1);
        match how.smoothing {
            Smoothing::Fixed(weight) if how.quantile <= 0.0 => {
                let before = if self.seen == 1 { newest } else { self.level };
                self.level = before.scaled(1.0 - weight) + newest.scaled(weight);
            }
            _ => {
                let banks = self.banks.get_or_insert_with(|| {
                    let start = believed.unwrap_or(newest);
                    Box::new(Resource::ALL.map(|r| Bank::new(at, start[r])))
                });
                for (bank, resource) in banks.iter_mut().zip(Resource::ALL) {
                    bank.observe(at, newest[resource], how);
                }
                self.level = each(banks, Bank::level);
            }
        }
    }

    /// How many rates it is made from.
    #[must_use]
    pub const fn seen(&self) -> u32 {
        self.seen
    }

    /// What the machine is expected to use.
    #[must_use]
    pub const fn level(&self) -> Resources {
        self.level
    }

    /// How much more it may come to use: the quantile of what forecasts were too low by.
    #[must_use]
    pub fn margin(&self) -> Resources {
        self.banks.as_ref().map_or(Resources::ZERO, |banks| each(banks, |bank| bank.margin))
    }

    /// How well what it does carries over from one lead to the next, of the resource of which it
    /// does least: 0 for pure noise, 1 for what never changes or is not known yet.
    #[must_use]
    pub fn persistence(&self) -> f64 {
        let Some(banks) = &self.banks else { return 1.0 };
        banks.iter().map(Bank::persistence).fold(1.0, f64::min)
    }
}

fn each(banks: &[Bank; 3], of: impl Fn(&Bank) -> f64) -> Resources {
    let [cpu, memory, io] = banks;
    Resources { cpu_cores: of(cpu), memory_bytes: of(memory), io_bytes_per_s: of(io) }
}

/// The averages of one resource of one machine.
#[derive(Clone, Debug)]
struct Bank {
    levels: [f64; CONSTANTS.len()],
    /// Discounted sums of the absolute errors of each.
    wrong: [f64; CONSTANTS.len()],
    chosen: usize,
    /// How often it was observed, as far as that matters.
    count: u32,
    /// When the last rate came.
    last: Time,
    /// What was forecast when the present lead began.
    forecast: [f64; CONSTANTS.len()],
    began: Time,
    sum: f64,
    summed: u32,
    /// The latest errors of the forecasts gone by; positive where they were too low.
    errors: Vec<f32>,
    next_error: usize,
    margin: f64,
    /// The deviation of the last lead from the long average, and discounted sums of products of
    /// one with the next and with itself.
    deviation: f64,
    carried: f64,
    squared: f64,
}

impl Bank {
    fn new(began: Time, start: f64) -> Self {
        Self {
            levels: [start; CONSTANTS.len()],
            wrong: [0.0; CONSTANTS.len()],
            chosen: FIRST,
            count: 0,
            last: began,
            forecast: [start; CONSTANTS.len()],
            began,
            sum: 0.0,
            summed: 0,
            errors: Vec::new(),
            next_error: 0,
            margin: 0.0,
            deviation: 0.0,
            carried: 0.0,
            squared: 0.0,
        }
    }

    const fn level(&self) -> f64 {
        self.levels[self.chosen]
    }

    fn observe(&mut self, at: Time, newest: f64, how: &Forecasting) {
        self.sum += newest;
        self.summed += 1;
        let span = at.since(self.last);
        self.last = at;
        let weight_of = |index: usize| match how.smoothing {
            Smoothing::Adaptive => weight(span, CONSTANTS[index] * how.lead.as_secs_f64()),
            Smoothing::Fixed(weight) => weight,
        };
        // At first a plain mean: a long average must not stick to the first rate.
        self.count = self.count.saturating_add(1);
        let first = 1.0 / f64::from(self.count);
        for (index, level) in self.levels.iter_mut().enumerate() {
            *level += (newest - *level) * weight_of(index).max(first);
        }
        if at.since(self.began) >= how.lead {
            self.judge(at, how);
        }
    }

    /// The lead is over: compares what was forecast with what came.
    fn judge(&mut self, at: Time, how: &Forecasting) {
        let came = self.sum / f64::from(self.summed.max(1));
        self.keep_error(came - self.forecast[self.chosen], how.quantile);
        for (wrong, forecast) in self.wrong.iter_mut().zip(&self.forecast) {
            *wrong = *wrong * DISCOUNT + (came - forecast).abs();
        }
        let least = |best: usize, index: usize| {
            if self.wrong[index] < self.wrong[best] { index } else { best }
        };
        // Of equally good ones the quickest.
        self.chosen = (0..CONSTANTS.len()).rev().reduce(least).unwrap_or(FIRST);
        let deviation = came - self.levels[0];
        self.carried = self.carried * DISCOUNT + self.deviation * deviation;
        self.squared = self.squared * DISCOUNT + self.deviation * self.deviation;
        self.deviation = deviation;
        (self.forecast, self.began, self.sum, self.summed) = (self.levels, at, 0.0, 0);
    }

    fn keep_error(&mut self, error: f64, quantile: f64) {
        if self.errors.len() < ERRORS_KEPT {
            self.errors.push(error as f32);
        } else {
            self.errors[self.next_error] = error as f32;
        }
        self.next_error = (self.next_error + 1) % ERRORS_KEPT;
        let mut sorted = [0.0f32; ERRORS_KEPT];
        let sorted = &mut sorted[..self.errors.len()];
        sorted.copy_from_slice(&self.errors);
        sorted.sort_unstable_by(f32::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        self.margin = rank.checked_sub(1).map_or(0.0, |index| f64::from(sorted[index])).max(0.0);
    }

    fn persistence(&self) -> f64 {
        if self.squared > 0.0 { (self.carried / self.squared).clamp(0.0, 1.0) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const SAMPLE: Duration = Duration::from_secs(60);

    fn how(smoothing: Smoothing) -> Forecasting {
        Forecasting { smoothing, lead: SAMPLE * 10, ..Forecasting::default() }
    }

    /// What is forecast of a series of CPU usage, and how far off it is on average of the mean of
    /// the next ten samples.
    fn follow(series: &[f64], how: &Forecasting) -> (Forecast, f64) {
        let mut forecast = Forecast::default();
        let (mut wrong, mut judged) = (0.0, 0.0);
        for (index, &cpu_cores) in series.iter().enumerate() {
            let at = Time::from_unix_ms(0) + SAMPLE * index as u32;
            forecast.observe(at, Resources { cpu_cores, ..Resources::ZERO }, how);
            if index > series.len() / 2
                && let Some(next) = series.get(index + 1..index + 11)
            {
                wrong += (next.iter().sum::<f64>() / 10.0 - forecast.level().cpu_cores).abs();
                judged += 1.0;
            }
        }
        (forecast, wrong / judged)
    }

    /// Noise about a mean, and a load that stays at what it is for an hour each time.
    fn noise_and_steps() -> [Vec<f64>; 2] {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let noise = (0..4000).map(|_| rng.random_range(0.0..1.0)).collect();
        let mut level = 0.5;
        let steps = (0..4000).map(|index| {
            if index % 60 == 0 {
                level = rng.random_range(0.0..1.0);
            }
            level
        });
        [noise, steps.collect()]
    }

    #[test]
    fn the_average_that_suits_the_workload_is_found_online() {
        for series in noise_and_steps() {
            let chosen = follow(&series, &how(Smoothing::Adaptive)).1;
            let fixed = [0.02, 0.1, 0.3, 1.0].map(|w| follow(&series, &how(Smoothing::Fixed(w))).1);
            let best = fixed.iter().copied().fold(f64::MAX, f64::min);
            let worst = fixed.iter().copied().fold(0.0, f64::max);
            assert!(chosen <= 1.1 * best, "{chosen} against {fixed:?}");
            assert!(worst > 1.3 * best, "the choice matters: {fixed:?}");
        }
    }

    #[test]
    fn a_high_quantile_of_the_errors_covers_most_of_what_comes() {
        let [noise, _] = noise_and_steps();
        let mut forecast = Forecast::default();
        let (mut over, mut judged) = (0.0, 0.0);
        for (index, &cpu_cores) in noise.iter().enumerate() {
            if index > 1000 && index + 10 < noise.len() {
                let came = noise[index..index + 10].iter().sum::<f64>() / 10.0;
                let high = forecast.level().cpu_cores + forecast.margin().cpu_cores;
                over += f64::from(u8::from(came > high));
                judged += 1.0;
            }
            let at = Time::from_unix_ms(0) + SAMPLE * index as u32;
            let newest = Resources { cpu_cores, ..Resources::ZERO };
            forecast.observe(at, newest, &how(Smoothing::Adaptive));
        }
        assert!((0.005..0.12).contains(&(over / judged)), "{}", over / judged);
    }

    #[test]
    fn what_persists_is_told_from_what_flickers() {
        let [noise, steps] = noise_and_steps().map(|s| follow(&s, &how(Smoothing::Adaptive)).0);
        assert!(noise.persistence() < 0.3, "{}", noise.persistence());
        assert!(steps.persistence() > 0.5, "{}", steps.persistence());
    }

    #[test]
    fn a_fixed_constant_weighs_the_newest_rate_by_it() {
        let plain = Forecasting { smoothing: Smoothing::Fixed(0.25), ..Forecasting::NONE };
        let (forecast, _) = follow(&[1.0, 0.0, 0.0], &plain);
        assert!((forecast.level().cpu_cores - 0.5625).abs() < 1e-12);
        let (forecast, _) = follow(&[1.0, 3.0], &Forecasting::NONE);
        assert!((forecast.level().cpu_cores - 3.0).abs() < 1e-12);
    }
}

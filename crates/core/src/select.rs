//! Which machine to move, given both prices of each.
//!
//! Let `d` be the load of the donor less that of the receiver and `l` the mean of a machine's two
//! prices. Moving it brings the pair's difference from `d` to `|d − 2l|`. The machine wanted is the
//! one with `l` nearest to `d / 2` (claims 5, 19, 28), under **strict improvement**: `0 < l < d`,
//! so that the pair always ends closer together than it began, and, where the prices differ, the
//! receiver must end below where the donor began. Without a guard the literal rule never comes to
//! rest: a pair with a small difference would pass a larger machine back and forth. With it every
//! move lowers the larger load of its pair, so that the loads of all hosts, largest first, fall in
//! lexicographic order with every move, whatever the prices: the rule always ends.

pub mod emptying;
pub mod levelling;
pub mod mean_aware;
pub mod mending;
pub mod relief;

use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// By which rule a host selects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// The machine whose load is nearest to half the difference of the two hosts.
    HalfDifference,
    /// Few machines that bring hosts to their fair share of the cluster's load.
    MeanAware(MeanAware),
}

impl Default for Policy {
    fn default() -> Self {
        Self::MeanAware(MeanAware::default())
    }
}

/// How [`Policy::MeanAware`] looks for a receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanAware {
    /// Hosts that an overloaded one asks in a survey, at least 1. More find better fits and cost
    /// two messages each.
    pub probes: usize,
    /// Surveys without success after which a worse move is accepted, at least 1.
    pub patience: u32,
    /// A host that has nothing to do asks one other only every so many rounds, at least 1.
    pub idle_rounds: u32,
}

impl Default for MeanAware {
    fn default() -> Self {
        Self { probes: 7, patience: 2, idle_rounds: 8 }
    }
}

impl MeanAware {
    /// For clusters at work, where a migration costs more than some messages and few hosts have to
    /// give at a time.
    #[must_use]
    pub fn at_work() -> Self {
        Self { probes: 12, ..Self::default() }
    }

    /// Surveys without success after which a host is content with what it has.
    #[must_use]
    pub const fn surveys_max(&self) -> u32 {
        self.patience.saturating_mul(4)
    }
}

/// When a difference is worth acting on. All figures are fractions of the mean load of the pair,
/// unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calm {
    /// Differences up to this are left alone.
    pub dead_band: f64,
    /// Differences up to this are left alone, however small the mean: a load, 1.0 being a whole
    /// host.
    pub difference_min: f64,
    /// A move must be worth more than this: by half-difference, what it narrows the difference by;
    /// where the mean is known and memory moves, what it levels (see [`relief`]).
    pub gain_min: f64,
}

impl Calm {
    /// Acts on every difference and every gain.
    pub const NONE: Self = Self { dead_band: 0.0, difference_min: 0.0, gain_min: 0.0 };
}

impl Default for Calm {
    fn default() -> Self {
        Self { dead_band: 0.2, difference_min: 0.02, gain_min: 0.25 }
    }
}

/// Below this a load is no load: it absorbs the rounding of sums over a thousand machines, so that
/// a rule which needs a strict improvement also comes to rest in floating point.
pub const LOAD_EPSILON: f64 = 1e-9;

/// A figure without the rounding of sums, so that what is equal compares equal.
#[must_use]
pub fn rounded(figure: f64) -> f64 {
    (figure / LOAD_EPSILON).round() * LOAD_EPSILON
}

/// The loads of two hosts, the more loaded one first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Load of the host that gives.
    pub donor: f64,
    /// Load of the host that takes.
    pub receiver: f64,
}

impl Pair {
    /// How far the two are apart; negative when the receiver is the more loaded.
    #[must_use]
    pub fn difference(&self) -> f64 {
        self.donor - self.receiver
    }

    /// The load that would bring them level: half the difference.
    #[must_use]
    pub fn wanted(&self) -> f64 {
        self.difference() / 2.0
    }

    /// How far the two are apart after a machine with these prices has moved.
    #[must_use]
    pub fn difference_after(&self, price: Price) -> f64 {
        (self.difference() - price.at_donor - price.at_receiver).abs()
    }

    /// Whether the difference is worth acting on.
    #[must_use]
    pub fn exceeds(&self, calm: &Calm) -> bool {
        let mean = f64::midpoint(self.donor, self.receiver).max(0.0);
        self.difference() > (calm.dead_band * mean).max(calm.difference_min).max(LOAD_EPSILON)
    }
}

/// What one machine loads each host of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// On the host that has it, by that host's capacity and weights.
    pub at_donor: f64,
    /// On the other, by that host's own.
    pub at_receiver: f64,
}

impl Price {
    /// The load that selection reckons with: the mean of both prices.
    #[must_use]
    pub fn mean(&self) -> f64 {
        f64::midpoint(self.at_donor, self.at_receiver)
    }
}

/// Judges one machine by itself: whether moving it would help the pair enough.
///
/// # Errors
/// The reason why not.
pub fn improves(pair: &Pair, price: Price, calm: &Calm) -> Result<(), Reason> {
    let (difference, load) = (pair.difference(), price.mean());
    let strictly = load > LOAD_EPSILON && load < difference - LOAD_EPSILON;
    let lowers = price.at_receiver < difference - LOAD_EPSILON;
    if !strictly || !lowers || price.at_donor < 0.0 || price.at_receiver < 0.0 {
        return Err(Reason::NoImprovement);
    }
    let mean = f64::midpoint(pair.donor, pair.receiver).max(0.0);
    let gain = difference - pair.difference_after(price);
    if gain <= calm.gain_min * mean {
        return Err(Reason::GainSmall);
    }
    Ok(())
}

/// Selects the machine whose load is nearest to half the difference.
///
/// `candidates` holds the prices of each machine, or why it is out of the question. The answer is a
/// verdict on each in the same order, at most one of them [`Reason::Chosen`]. Of equally near
/// machines the first is taken.
#[must_use]
pub fn half_difference(
    pair: &Pair,
    candidates: &[Result<Price, Reason>],
    calm: &Calm,
) -> Vec<Reason> {
    let mut verdicts = Vec::with_capacity(candidates.len());
    let mut nearest: Option<(usize, f64)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        let judged = candidate.and_then(|price| improves(pair, price, calm).map(|()| price));
        verdicts.push(match judged {
            Err(reason) => reason,
            Ok(price) => {
                let distance = (price.mean() - pair.wanted()).abs();
                if nearest.is_none_or(|(_, least)| distance < least - LOAD_EPSILON) {
                    nearest = Some((index, distance));
                }
                Reason::Farther
            }
        });
    }
    if let Some((index, _)) = nearest {
        verdicts[index] = Reason::Chosen;
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(load: f64) -> Result<Price, Reason> {
        Ok(Price { at_donor: load, at_receiver: load })
    }

    fn check(pair: (f64, f64), loads: &[f64], chosen: Option<usize>) {
        let pair = Pair { donor: pair.0, receiver: pair.1 };
        let candidates: Vec<_> = loads.iter().map(|&l| same(l)).collect();
        let verdicts = half_difference(&pair, &candidates, &Calm::NONE);
        assert_eq!(verdicts.iter().position(|&v| v == Reason::Chosen), chosen, "{verdicts:?}");
    }

    #[test]
    fn the_machine_nearest_to_half_the_difference_is_chosen() {
        check((0.9, 0.1), &[0.05, 0.38, 0.45, 0.7], Some(1));
        check((0.9, 0.1), &[0.44, 0.38], Some(1));
        check((1.0, 0.0), &[0.375, 0.625], Some(0));
    }

    #[test]
    fn no_machine_moves_that_would_not_bring_the_pair_closer() {
        check((0.5, 0.4), &[0.1, 0.3, 0.0], None);
        check((0.5, 0.4), &[0.1, 0.099], Some(1));
        check((0.4, 0.5), &[0.05], None);
    }

    #[test]
    fn a_difference_within_the_dead_band_is_left_alone() {
        let calm = Calm { dead_band: 0.2, difference_min: 0.02, gain_min: 0.1 };
        assert!(!Pair { donor: 0.54, receiver: 0.46 }.exceeds(&calm));
        assert!(Pair { donor: 0.56, receiver: 0.44 }.exceeds(&calm));
        assert!(!Pair { donor: 0.015, receiver: 0.0 }.exceeds(&calm), "an idle pair is calm");
    }

    #[test]
    fn both_prices_decide() {
        let pair = Pair { donor: 0.8, receiver: 0.2 };
        let dear = Ok(Price { at_donor: 0.3, at_receiver: 0.5 });
        let even = Ok(Price { at_donor: 0.35, at_receiver: 0.2 });
        let lifts = Ok(Price { at_donor: 0.0, at_receiver: 0.6 });
        let verdicts = half_difference(&pair, &[dear, even, lifts], &Calm::NONE);
        assert_eq!(verdicts, [Reason::Farther, Reason::Chosen, Reason::NoImprovement]);
    }

    proptest! {
        #[test]
        fn a_pair_never_ends_further_apart(
            donor in -1.0..3.0f64,
            receiver in -1.0..3.0f64,
            prices in prop::collection::vec((-0.5..2.0f64, -0.5..2.0f64), 0..20),
        ) {
            let pair = Pair { donor, receiver };
            let candidates: Vec<_> = prices
                .iter()
                .map(|&(at_donor, at_receiver)| Ok(Price { at_donor, at_receiver }))
                .collect();
            let verdicts = half_difference(&pair, &candidates, &Calm::NONE);
            if let Some(index) = verdicts.iter().position(|&v| v == Reason::Chosen) {
                let price = candidates[index].unwrap();
                prop_assert!(pair.difference_after(price) < pair.difference());
                prop_assert!(pair.receiver + price.at_receiver < pair.donor);
                let distance = |p: &Price| (p.mean() - pair.wanted()).abs();
                for other in candidates.iter().flatten() {
                    if improves(&pair, *other, &Calm::NONE).is_ok() {
                        prop_assert!(distance(&price) <= distance(other) + LOAD_EPSILON);
                    }
                }
            } else {
                let helps = |p: &Price| improves(&pair, *p, &Calm::NONE).is_ok();
                prop_assert!(!candidates.iter().flatten().any(helps));
            }
        }

        #[test]
        fn no_number_makes_it_panic(
            donor in any::<f64>(),
            receiver in any::<f64>(),
            at_donor in any::<f64>(),
            at_receiver in any::<f64>(),
        ) {
            let pair = Pair { donor, receiver };
            let price = Ok(Price { at_donor, at_receiver });
            let verdicts = half_difference(&pair, &[price], &Calm::default());
            prop_assert_eq!(verdicts.len(), 1);
            if !(donor - receiver).is_finite() || !(at_donor + at_receiver).is_finite() {
                prop_assert_ne!(verdicts[0], Reason::Chosen);
            }
        }
    }
}

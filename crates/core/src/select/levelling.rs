//! Which machine to move when both hosts know the mean and memory moves at once: a move is made when
//! it pays.
//!
//! **What is gained.** For a pair of hosts let `x` be how far the donor is above its fair share and
//! `y` how far the receiver is, at every time of the past that is kept, each reckoned with the machines
//! that are on the host *now* and what they used then. How unlevel the pair was is the norm
//! `|x, y| = √(2 Σ w (x² + y²))`, with weights `w` that fall with age and sum to 1. With a machine of
//! loads `a` and `b` on the two hosts on the other side it would have been `|x − a, y + b|`. The
//! difference of the two, in units of the mean load of a host, is what the move **would have
//! levelled**: twice the machine's load where the pair was still all the time, and next to nothing
//! where loads go up and down by more than that.
//!
//! **For how long.** A difference that was there all the time will be there for longer than one that
//! comes and goes. `ρ = (mean d)² / mean d²` of the pair's difference is 1 for the one and near 0 for
//! the other, and the gain is counted on for between an hour and three: `H = 1 h / (1 − ⅔ ρ)`. Only what
//! was all but the same for half a day and longer is counted on for more.
//!
//! **What it costs.** `c` in seconds: see [`effort`]. The move is made if `gain · H ≥ κ · c`, of all
//! moves the one that is worth most. `κ` is the one knob; see [`Levelling`].
//!
//! **It ends.** Under constant loads every move lowers `|x, y|` by at least
//! `D = κ · c · mean / 3 h`, therefore the sum of `(load − share)²` over all hosts by at least `D² / 2`,
//! which is above zero: there is no cycle and no run without end. Where it rests, no pair that meets
//! has a move left that is worth its price. `docs/decisions/0015` has the proof.

use super::mean_aware::{Choice, Piece, Score, Side, lowers};
use super::{LOAD_EPSILON, Pair, Price, rounded};
use crate::cost::Prediction;
use crate::history::Ages;

/// How much a move must be worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levelling {
    /// How many seconds of a whole mean load levelled a second of migration must be worth.
    pub kappa: f64,
}

impl Levelling {
    /// What suits most clusters.
    pub const KAPPA: f64 = 22.0;
}

impl Default for Levelling {
    fn default() -> Self {
        Self { kappa: Self::KAPPA }
    }
}

/// Every move disturbs: so many seconds of migration is that taken for, of a machine of
/// [`FULL_SHARE`] of the mean load of a host or more; less of a smaller one, in proportion.
const DISTURBANCE_S: f64 = 10.0;
/// See [`DISTURBANCE_S`]. What is smaller pays where a difference is steady, and nowhere else: were it
/// cheaper, machines that do next to nothing would move all the time where loads go up and down.
const FULL_SHARE: f64 = 1.0 / 60.0;
/// What a GiB costs on a link of [`LINK_GIB_S`]; on a slower one the root of so much more.
const GIB_S: f64 = 5.0;
/// Seconds that a GiB takes on a link of 10 Gbit/s.
const LINK_GIB_S: f64 = 0.859;
/// So many GiB cost half of what they would if each cost the same: what is large is not the less
/// worth levelling, and limits see to it that it does not take all of a link.
const MANY_GIB: f64 = 16.0;
/// A standstill costs so many times its length.
const STANDSTILL: f64 = 10.0;
const GIB: f64 = 1_073_741_824.0;
/// What a difference is counted on for at least, in seconds.
const HORIZON_S: f64 = 3600.0;
/// What a difference is counted on for that was there all the time, in seconds.
const STILL_S: f64 = 3.0 * HORIZON_S;
/// Half-life of what tells how steady a difference is, in seconds.
const STEADY_HALF_LIFE_S: f64 = 2.0 * 3600.0;
/// Of a pair that is so far apart, in mean loads, half of what is levelled counts, and ever less of one
/// that is nearer to level: the last little costs as many moves as all before it.
const NEAR: f64 = 0.05;
/// What has lasted for longer than this, in seconds, will last for as long again, and then some, if it
/// was steady all the time.
const LASTING_S: f64 = 12.0 * 3600.0;
/// From which `ρ` on a difference counts for that: real loads that go up and down seldom come near.
const STEADY_MIN: f64 = 0.9;
/// A pair whose mean load is below this is idle: what is levelled there is worth ever less.
const IDLE: f64 = 0.05;
/// Before anything is known of how loads vary, they are taken to vary by so much of the mean.
const DOUBT: f64 = 0.06;
/// After so many minutes that is halved.
const DOUBT_MINUTES: f64 = 4.0;

/// What moving a machine costs, in seconds, one of a load that is this `share` of a host's mean.
#[must_use]
pub fn effort(cost: &Prediction, share: f64) -> f64 {
    let bytes = (cost.bytes / GIB * cost.seconds / LINK_GIB_S).max(0.0).sqrt();
    DISTURBANCE_S * (share / FULL_SHARE).clamp(0.0, 1.0)
        + GIB_S * bytes / (1.0 + bytes / MANY_GIB)
        + STANDSTILL * cost.downtime_ms / 1e3
}

/// A pair of hosts over the past.
#[derive(Clone, Debug)]
pub struct Weighing<'a> {
    ages: &'a Ages,
    /// How far each was above its fair share; the first figure is of now.
    x: Vec<f64>,
    y: Vec<f64>,
    /// What gains are fractions of.
    scale: f64,
    doubt: f64,
    before: f64,
    /// How much of what is levelled counts: less where the pair is nearly level.
    counts: f64,
    /// What the gain is counted on for, in seconds.
    pub horizon_s: f64,
}

/// What a move is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Worth {
    /// What it would have levelled, in mean loads.
    pub gain: f64,
    /// For how long that is counted on, in seconds.
    pub horizon_s: f64,
    /// What it costs, `κ · c`, in seconds of a mean load levelled.
    pub price_s: f64,
}

impl Worth {
    /// What is left of the gain once it is paid for, in seconds of a mean load.
    #[must_use]
    pub fn net(&self) -> f64 {
        self.gain * self.horizon_s - self.price_s
    }

    /// After how many seconds it would pay if nothing changed any more, of a pair that is known for
    /// `span_s`; `None` if it never would. A rough figure: what the past has of noise fades, too.
    #[must_use]
    pub fn pays_in_s(&self, span_s: f64) -> Option<f64> {
        if self.net() >= 0.0 {
            return Some(0.0);
        }
        let needed = if self.gain > 0.0 { self.price_s / self.gain } else { f64::INFINITY };
        let steady = |horizon: f64| (1.5 * (1.0 - HORIZON_S / horizon)).clamp(0.0, 1.0);
        if needed < STILL_S {
            let left = (1.0 - steady(needed)) / (1.0 - steady(self.horizon_s)).max(1e-9);
            return Some((-STEADY_HALF_LIFE_S * left.min(1.0).log2()).max(60.0));
        }
        let after = LASTING_S + (needed - STILL_S) / 2.0;
        (after <= Ages::longest().as_secs_f64()).then(|| (after - span_s).max(60.0))
    }

    /// It in words, for a pair that is known for `span_s`.
    #[must_use]
    pub fn words(&self, span_s: f64) -> String {
        let hours = |seconds: f64| match seconds {
            ..5400.0 => format!("{:.0} min", (seconds / 60.0).ceil()),
            _ => format!("{:.1} h", seconds / 3600.0),
        };
        let when = self.pays_in_s(span_s).map_or_else(
            || "it would not pay however long nothing changes".to_owned(),
            |seconds| format!("if nothing changes it pays in about {}", hours(seconds)),
        );
        format!(
            "it would level {:.1} % of a host's mean load, which is counted on for {} and comes to {:.0} s \
             of a mean load; it costs {:.0} s; {when}",
            100.0 * self.gain,
            hours(self.horizon_s),
            (self.gain * self.horizon_s).max(0.0),
            self.price_s,
        )
    }
}

impl<'a> Weighing<'a> {
    /// Weighs a pair whose hosts were so far above their fair shares, of a mean of `mean`.
    #[must_use]
    pub fn of(ages: &'a Ages, x: Vec<f64>, y: Vec<f64>, mean: f64) -> Self {
        let scale = mean.max(IDLE);
        let doubt = DOUBT * scale;
        let doubt = doubt * doubt * DOUBT_MINUTES / (DOUBT_MINUTES + ages.span);
        let squares = |i: usize| x[i] * x[i] + y[i] * y[i];
        let sum: f64 = ages.weights.iter().enumerate().map(|(i, w)| w * squares(i)).sum();
        let (mut mean_d, mut mean_d2) = (0.0, 0.0);
        for (i, r) in ages.recent.iter().enumerate() {
            let d = x[i] - y[i];
            mean_d += r * d;
            mean_d2 += r * d * d;
        }
        let steady = if mean_d > 0.0 && mean_d2 > 0.0 { mean_d * mean_d / mean_d2 } else { 0.0 };
        let lasting = (60.0 * ages.span - LASTING_S).max(0.0);
        let still = ((steady - STEADY_MIN) / (1.0 - STEADY_MIN)).max(0.0);
        let horizon_s = HORIZON_S / (1.0 - 2.0 / 3.0 * steady) + 2.0 * lasting * still * still;
        let before = (2.0 * (sum + doubt)).sqrt();
        let apart: f64 = ages.weights.iter().enumerate().map(|(i, w)| w * (x[i] - y[i])).sum();
        let (apart, near) = (apart.max(0.0), NEAR * scale);
        let counts = apart * apart / (apart * apart + near * near);
        Self { ages, x, y, scale, doubt, before, counts, horizon_s }
    }

    /// How far the donor is above its fair share now.
    #[must_use]
    pub fn above_now(&self) -> f64 {
        self.x.first().copied().unwrap_or_default().max(0.0)
    }

    /// What a move would have levelled, of loads `a` on the one and `b` on the other host over time.
    #[must_use]
    pub fn gain(&self, a: &[f64], b: &[f64]) -> f64 {
        let square = |i: usize| (self.x[i] - a[i]).powi(2) + (self.y[i] + b[i]).powi(2);
        let sum: f64 = self.ages.weights.iter().enumerate().map(|(i, w)| w * square(i)).sum();
        self.counts * (self.before - (2.0 * (sum + self.doubt)).sqrt()) / self.scale
    }

    /// What a move that costs `effort` seconds is worth.
    #[must_use]
    pub fn worth(&self, a: &[f64], b: &[f64], effort: f64, kappa: f64) -> Worth {
        Worth { gain: self.gain(a, b), horizon_s: self.horizon_s, price_s: kappa * effort }
    }
}

/// More than any move is worth, in seconds of a mean load.
const STARVING_FIRST: f64 = 1e9;

/// What each machine of a donor loads the two hosts over time, in the order of its pieces.
pub type Tracks = Vec<(Vec<f64>, Vec<f64>)>;

/// The move, or the swap, that is worth most, if one is worth its price. `gain_min`, if an operator
/// has set one, is what it must level of the mean load of the pair besides.
#[must_use]
pub fn choose(
    weighing: &Weighing<'_>,
    (donor, receiver): (&Side, &Side),
    tracks: &Tracks,
    (kappa, gain_min): (f64, f64),
) -> Option<Choice> {
    if donor.load <= donor.limit + LOAD_EPSILON || receiver.load >= donor.load {
        return None;
    }
    let pair = Pair { donor: donor.load, receiver: receiver.load };
    let mut best: Option<Choice> = None;
    for (go, (piece, (a, b))) in donor.pieces.iter().zip(tracks).enumerate() {
        let open = piece.movable && !piece.withheld;
        let fits = open && piece.memory_bytes <= receiver.free_memory_bytes;
        if !fits || !levels(&pair, piece, None, gain_min) {
            continue;
        }
        let net = weighing.worth(a, b, piece.effort, kappa).net();
        if net < 0.0 {
            continue;
        }
        let first = if piece.starving { STARVING_FIRST } else { 0.0 };
        let score = Score::of(-rounded(net + first));
        if best.is_none_or(|b| score.rank() < b.score.rank()) {
            best = Some(Choice { go, back: None, score });
        }
    }
    best.or_else(|| swap(weighing, (donor, receiver), tracks, (kappa, gain_min)))
}

/// Whether both hosts end below what the donor had, and closer by what an operator wants at least.
fn levels(pair: &Pair, go: &Piece, back: Option<&Piece>, gain_min: f64) -> bool {
    let net = Price {
        at_donor: go.at_donor - back.map_or(0.0, |p| p.at_donor),
        at_receiver: go.at_receiver - back.map_or(0.0, |p| p.at_receiver),
    };
    let levelled = (net.mean() * (pair.difference() - net.mean())).max(0.0).sqrt();
    let mean = f64::midpoint(pair.donor, pair.receiver).max(0.0);
    lowers(pair, net, 0.0) && (gain_min <= 0.0 || levelled > gain_min * mean)
}

/// The swap that is worth most. What comes back is taken to use at all times what it uses now.
fn swap(
    weighing: &Weighing<'_>,
    (donor, receiver): (&Side, &Side),
    tracks: &Tracks,
    (kappa, gain_min): (f64, f64),
) -> Option<Choice> {
    let pair = Pair { donor: donor.load, receiver: receiver.load };
    let mut best: Option<Choice> = None;
    let (mut a2, mut b2) = (Vec::new(), Vec::new());
    for (go, (piece, (a, b))) in donor.pieces.iter().zip(tracks).enumerate() {
        if !piece.movable || piece.withheld || piece.memory_bytes > receiver.free_memory_bytes {
            continue;
        }
        let room = donor.free_memory_bytes + piece.memory_bytes;
        for (back, other) in receiver.pieces.iter().enumerate() {
            let fits = other.movable && other.memory_bytes <= room;
            // Never worth more than twice what it moves.
            let most = 2.0 * (piece.at_donor - other.at_donor) / weighing.scale;
            let price = kappa * (piece.effort + other.effort);
            let hopeless = most * weighing.horizon_s < price;
            if !fits || hopeless || !levels(&pair, piece, Some(other), gain_min) {
                continue;
            }
            a2.clear();
            a2.extend(a.iter().map(|load| load - other.at_donor));
            b2.clear();
            b2.extend(b.iter().map(|load| load - other.at_receiver));
            let net = weighing.gain(&a2, &b2) * weighing.horizon_s - price;
            let score = Score::of(-rounded(net));
            if net >= 0.0 && best.is_none_or(|b| score.rank() < b.score.rank()) {
                best = Some(Choice { go, back: Some(back), score });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    /// A pair that is known for so many minutes, the donor so far above its share and the receiver as
    /// far below, by turns more and less by `noise`.
    fn still(minutes: u32, above: f64, noise: f64) -> (Ages, Vec<f64>, Vec<f64>) {
        let ages = Ages::since(0, Time::from_unix_ms(u64::from(minutes) * 60_000));
        let sway = |i: usize| if i.is_multiple_of(2) { noise } else { -noise };
        let x: Vec<f64> = (0..ages.weights.len()).map(|i| above + sway(i)).collect();
        let y = x.iter().map(|x| -x).collect();
        (ages, x, y)
    }

    fn worth(minutes: u32, above: f64, noise: f64, load: f64, effort: f64) -> Worth {
        let (ages, x, y) = still(minutes, above, noise);
        let a = vec![load; x.len()];
        Weighing::of(&ages, x, y, 1.0).worth(&a, &a, effort, Levelling::KAPPA)
    }

    fn move_of(gib: f64, seconds: f64) -> Prediction {
        Prediction { bytes: gib * GIB, seconds, ..Prediction::default() }
    }

    #[test]
    fn a_still_difference_is_levelled_soon_and_one_of_noise_is_not() {
        let effort = effort(&move_of(4.0, 3.6), 0.08);
        assert!(worth(1, 0.4, 0.0, 0.08, effort).net() > 0.0);
        assert!(worth(600, 0.15, 0.0, 0.08, effort).net() > 0.0);
        assert!(worth(600, 0.1, 0.4, 0.08, effort).net() < 0.0);
        assert!(worth(600, 0.02, 0.0, 0.08, effort).net() < 0.0, "nearly level");
    }

    #[test]
    fn small_machines_have_no_cliff_and_large_ones_are_not_left() {
        // A hundred on a host, of half a GiB each; five hundred only after most of a day.
        let small = |share| effort(&move_of(0.5, 0.63), share);
        assert!(worth(1, 0.5, 0.0, 0.01, small(0.01)).net() > 0.0);
        assert!(worth(1200, 0.5, 0.0, 0.002, small(0.002)).net() > 0.0);
        // Where loads go up and down, the small ones stay as the large ones do.
        assert!(worth(1200, 0.1, 0.2, 0.002, small(0.002)).net() < 0.0);
        let large = effort(&move_of(64.0, 55.0), 0.13);
        assert!(worth(1, 1.5, 0.0, 0.13, large).net() > 0.0);
    }

    #[test]
    fn it_is_told_when_a_move_would_pay_and_that_it_does_then() {
        let effort = effort(&move_of(8.0, 7.0), 0.03);
        let now = worth(30, 0.05, 0.0, 0.03, effort);
        assert!(now.net() < 0.0);
        let seconds = now.pays_in_s(1800.0).unwrap();
        assert!(worth(30 + (seconds / 60.0).ceil() as u32, 0.05, 0.0, 0.03, effort).net() > 0.0);
        assert!(now.words(1800.0).contains("if nothing changes it pays in about"));
        let never = worth(30, 0.02, 0.0, 0.005, 100.0);
        assert_eq!(never.pays_in_s(1800.0), None);
    }

    #[test]
    fn no_price_is_no_number() {
        let free = worth(1, 0.4, 0.0, 0.0, 0.0);
        assert!(free.net().is_finite() && free.net() <= 0.0);
    }
}

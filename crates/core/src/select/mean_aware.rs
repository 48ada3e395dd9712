//! Which machine to move when both hosts know the mean.
//!
//! A host that knows its fair share of the cluster's load, its *target*, need not be levelled with
//! whoever it meets: it only acts when it is above its *limit* (the target and a band over it), and
//! it looks for few large moves that end that, instead of many that halve a difference.
//!
//! **The fewest further moves.** A host's largest machines, summed until they cover its excess, are
//! a lower bound of the moves that it still needs. A move is *sound* if it makes that bound smaller
//! by as much as it costs. Only sound moves are made while there are any, so that a host ends after
//! as many moves as its bound said in the beginning; which machine it is may then be chosen for how
//! well it fits the other host. The receiver may even rise above its own limit, where its own bound
//! says that this costs nothing more, though never as high as the donor was.
//!
//! **What a move costs.** One, if the machine's memory has to move because of it. While entries are
//! negotiated and no memory moves yet, a machine that is away from home already can be passed on for
//! nothing, and bringing it home gains one back.
//!
//! **What a move wastes.** Among unlike hosts a machine may go to where it is relatively dear, and the
//! cluster as a whole is more loaded than before: see [`crate::advantage`]. That is reckoned in moves,
//! as what somebody will have to move because of it; what makes machines cheaper saves moves.
//!
//! **One for one.** Where no machine fits, one of the receiver's may come back in return. Both
//! together are judged as if they were one machine of the difference of their loads.
//!
//! **Patience.** Where nothing is sound, others of the many hosts may still know better; only after
//! some surveys without success is a move accepted that costs one, and then two, more than it gains.
//!
//! **It ends.** Every move leaves both hosts of the pair below what the donor had. The loads of all
//! hosts, sorted, largest first, therefore fall in lexicographic order with every move.

use super::{LOAD_EPSILON, Pair, Price, rounded};

/// One machine, as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// What it loads the donor, whichever of the two has it.
    pub at_donor: f64,
    /// What it loads the receiver, whichever of the two has it.
    pub at_receiver: f64,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Whether its memory is on the host that has its entry.
    pub at_home: bool,
    /// Whether moving it to the other host of the pair would bring it home.
    pub homeward: bool,
    /// Whether it may move to the other host of the pair.
    pub movable: bool,
    /// Whether it is not on offer just now, though it may move some other time.
    pub withheld: bool,
    /// How long its migration is predicted to take.
    pub seconds: f64,
    /// What moving it costs in all, in seconds; see [`super::levelling::effort`].
    pub effort: f64,
    /// Higher is helped first and moved last.
    pub priority: i32,
    /// Whether it goes first, because it starves where it is.
    pub starving: bool,
}

impl Piece {
    /// Moves of memory that moving the entry adds: one, none, or minus one.
    const fn cost(&self) -> i32 {
        self.at_home as i32 - self.homeward as i32
    }

    const fn price(&self) -> Price {
        Price { at_donor: self.at_donor, at_receiver: self.at_receiver }
    }
}

/// One host of the pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// Its load.
    pub load: f64,
    /// Its fair share.
    pub target: f64,
    /// The load that it must not be above.
    pub limit: f64,
    /// What the mean usage of a host would load it; see [`crate::advantage`].
    pub par: f64,
    /// Memory that it could still promise, in bytes.
    pub free_memory_bytes: f64,
    /// Its machines.
    pub pieces: Vec<Piece>,
}

/// A move, or a swap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Which of the donor's pieces goes.
    pub go: usize,
    /// Which of the receiver's pieces comes back, if any.
    pub back: Option<usize>,
    /// How good it is.
    pub score: Score,
}

/// How good a move is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Moves that it costs less those that it saves, and those that what it wastes will cost.
    pub cost: f64,
    /// Whether the receiver has to pass something on afterwards.
    pub overfills: bool,
    /// Whether it takes two machines.
    pub swaps: bool,
    /// Distance of the hosts from their targets afterwards, of those that are done, in pars.
    pub distance: f64,
}

impl Score {
    /// What scores are compared by; the least is the best. Among moves of equal cost those are
    /// better that burden nobody else, take one machine and leave both hosts near their targets.
    #[must_use]
    pub fn rank(&self) -> f64 {
        let flag = |set: bool| f64::from(u8::from(set));
        self.cost + 0.3 * flag(self.overfills) + 0.1 * flag(self.swaps) + 0.05 * self.distance
    }
}

impl Score {
    /// The score of a move that is judged by one figure, the least of which is the best.
    #[must_use]
    pub const fn of(cost: f64) -> Self {
        Self { cost, overfills: false, swaps: false, distance: 0.0 }
    }
}

/// Moves that one par of load is worth: what is moved to where it is relatively dear must be moved
/// on by somebody, some day, and what becomes cheaper need not be. About as much as the large
/// machines of a host, of which it has some twenty.
const MOVES_PER_PAR: f64 = 22.0;
/// Whatever a move wastes less of than this many moves is no matter.
const WASTE_MAX: f64 = 0.5;

/// An excess up to this part of the target is not worth a move that would not have been made anyway.
const TRIFLE: f64 = 0.002;
/// A move that saves nothing must take at least this part of the donor's excess.
const PROGRESS_MIN: f64 = 0.1;

/// Loads of one host's machines, arranged to ask for the fewest further moves.
struct Stack {
    /// Of the machines at home, largest first.
    home: Vec<(f64, usize)>,
    /// Of those away from home, which cost nothing to pass on, together.
    away: f64,
}

impl Stack {
    fn new(pieces: &[Piece], load: impl Fn(&Piece) -> f64) -> Self {
        let movable = || pieces.iter().enumerate().filter(|(_, p)| p.movable);
        let mut home: Vec<_> =
            movable().filter(|(_, p)| p.at_home).map(|(i, p)| (load(p), i)).collect();
        home.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let away = movable().filter(|(_, p)| !p.at_home).map(|(_, p)| load(p)).sum();
        Self { home, away }
    }

    /// The fewest moves of memory that cover `excess` once `without` has gone and a machine of load
    /// `guest` has come, which would be away from home here.
    fn fewest(&self, excess: f64, without: Option<(usize, Piece, f64)>, guest: f64) -> i32 {
        if excess <= LOAD_EPSILON {
            return 0;
        }
        let gone = without.filter(|(_, piece, _)| !piece.at_home).map_or(0.0, |(_, _, load)| load);
        let mut covered = self.away - gone + guest;
        let mut moves = 0;
        for (load, index) in &self.home {
            if covered >= excess - LOAD_EPSILON {
                return moves;
            }
            if without.is_some_and(|(gone, ..)| gone == *index) {
                continue;
            }
            covered += load;
            moves += 1;
        }
        if covered >= excess - LOAD_EPSILON { moves } else { i32::MAX / 4 }
    }
}

/// The best move from `donor` to `receiver`, if one costs at most `value_max` moves more than it
/// saves and brings the two closer by more than `gain_min`.
#[must_use]
pub fn choose(donor: &Side, receiver: &Side, value_max: i32, gain_min: f64) -> Option<Choice> {
    if donor.load <= donor.limit + LOAD_EPSILON || receiver.load >= donor.load {
        return None;
    }
    let question = Question {
        donor,
        receiver,
        value_max,
        gain_min,
        donors: Stack::new(&donor.pieces, |p| p.at_donor),
        receivers: Stack::new(&receiver.pieces, |p| p.at_receiver),
    };
    let (mut best, saved) = (None, question.bounds(0.0, 0.0, None, None));
    let open = |p: &Piece| p.movable && !p.withheld;
    for (go, piece) in donor.pieces.iter().enumerate().filter(|(_, p)| open(p)) {
        if piece.memory_bytes > receiver.free_memory_bytes {
            continue;
        }
        question.consider((go, *piece), None, saved, &mut best);
        for (back, other) in receiver.pieces.iter().enumerate().filter(|(_, p)| p.movable) {
            question.consider((go, *piece), Some((back, *other)), saved, &mut best);
        }
    }
    best
}

struct Question<'a> {
    donor: &'a Side,
    receiver: &'a Side,
    value_max: i32,
    gain_min: f64,
    donors: Stack,
    receivers: Stack,
}

impl Question<'_> {
    /// The fewest further moves of both hosts, once `go` and `back` have changed places and the
    /// donor's load has fallen by `down` and the receiver's risen by `up`.
    fn bounds(
        &self,
        down: f64,
        up: f64,
        go: Option<(usize, Piece)>,
        back: Option<(usize, Piece)>,
    ) -> (i32, i32) {
        let passing = |p: &Piece| !p.homeward;
        let guest = back.map(|(_, p)| p).filter(passing).map_or(0.0, |p| p.at_donor);
        let gone = go.map(|(i, p)| (i, p, p.at_donor));
        let at_donor = self.donors.fewest(self.donor.load - down - self.donor.limit, gone, guest);
        let guest = go.map(|(_, p)| p).filter(passing).map_or(0.0, |p| p.at_receiver);
        let gone = back.map(|(i, p)| (i, p, p.at_receiver));
        let excess = self.receiver.load + up - self.receiver.limit;
        (at_donor, self.receivers.fewest(excess, gone, guest))
    }

    /// What it costs in moves, some day, that load goes from where it was to where it is relatively
    /// dearer; negative where it becomes cheaper.
    fn waste(&self, down: f64, up: f64) -> f64 {
        let (here, there) = (self.donor.par, self.receiver.par);
        if here > 0.0 && there > 0.0 { MOVES_PER_PAR * (up / there - down / here) } else { 0.0 }
    }

    fn consider(
        &self,
        go: (usize, Piece),
        back: Option<(usize, Piece)>,
        before: (i32, i32),
        best: &mut Option<Choice>,
    ) {
        let (donor, receiver) = (self.donor, self.receiver);
        let zero = Price { at_donor: 0.0, at_receiver: 0.0 };
        let returned = back.map_or(zero, |(_, p)| p.price());
        let down = go.1.at_donor - returned.at_donor;
        let up = go.1.at_receiver - returned.at_receiver;
        let pair = Pair { donor: donor.load, receiver: receiver.load };
        if !lowers(&pair, Price { at_donor: down, at_receiver: up }, self.gain_min) {
            return;
        }
        let room = donor.free_memory_bytes + go.1.memory_bytes;
        if back.is_some_and(|(_, p)| p.memory_bytes > room) {
            return;
        }
        let cost = go.1.cost() + back.map_or(0, |(_, p)| p.cost());
        let overfills = receiver.load + up > receiver.limit + LOAD_EPSILON;
        // Not worth the bounds if even a saving of one could not make it the best.
        let waste = self.waste(down, up);
        let least = f64::from(cost - before.0 - before.1) + waste;
        let cost_max = f64::from(self.value_max) + WASTE_MAX;
        if least > cost_max || best.as_ref().is_some_and(|b| least > b.score.rank()) {
            return;
        }
        let after = self.bounds(down, up, Some(go), back);
        let value = cost + (after.0 - before.0) + (after.1 - before.1);
        let excess = donor.load - donor.limit;
        let trifle = is_trifle(excess, donor.target);
        let stands_still = trifle || after.0 >= before.0 && down < PROGRESS_MIN * excess;
        let cost = rounded(f64::from(value) + waste);
        if cost > cost_max || (value > 0 && stands_still) {
            return;
        }
        let square = |load: f64, target: f64| (load - target).powi(2);
        let done = if after.0 == 0 { square(donor.load - down, donor.target) } else { 0.0 };
        let apart = (done + square(receiver.load + up, receiver.target)).sqrt();
        let par = f64::midpoint(donor.par, receiver.par);
        let distance = if par > 0.0 { rounded(apart / par) } else { 0.0 };
        let score = Score { cost, overfills, swaps: back.is_some(), distance };
        if best.as_ref().is_none_or(|b| score.rank() < b.score.rank()) {
            *best = Some(Choice { go: go.0, back: back.map(|(i, _)| i), score });
        }
    }
}

/// Whether a host that is so far above its limit may as well be left alone.
#[must_use]
pub fn is_trifle(excess: f64, target: f64) -> bool {
    excess <= TRIFLE * target
}

/// Whether a move, or a swap of this net price, leaves both hosts below what the donor had, and
/// closer together by more than `gain_min`.
#[must_use]
pub fn lowers(pair: &Pair, net: Price, gain_min: f64) -> bool {
    net.at_donor > LOAD_EPSILON
        && pair.receiver + net.at_receiver < pair.donor - LOAD_EPSILON
        && pair.difference() - pair.difference_after(net) > gain_min.max(LOAD_EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(load: f64) -> Piece {
        Piece {
            at_donor: load,
            at_receiver: load,
            memory_bytes: 1.0,
            at_home: true,
            homeward: false,
            movable: true,
            withheld: false,
            seconds: 0.0,
            effort: 0.0,
            priority: 0,
            starving: false,
        }
    }

    fn side(background: f64, pieces: &[Piece]) -> Side {
        let load = background + pieces.iter().map(|p| p.at_donor).sum::<f64>();
        let (target, limit, par, free_memory_bytes) = (1.0, 1.02, 1.0, 100.0);
        Side { load, target, limit, par, free_memory_bytes, pieces: pieces.to_vec() }
    }

    fn homes(loads: &[f64]) -> Vec<Piece> {
        loads.iter().map(|&load| piece(load)).collect()
    }

    /// Which loads go and come back.
    fn check(donor: &Side, receiver: &Side, value_max: i32, expected: Option<(f64, Option<f64>)>) {
        let choice = choose(donor, receiver, value_max, 0.0);
        let loads = choice.map(|c| {
            let back = c.back.map(|i| receiver.pieces[i].at_receiver);
            (donor.pieces[c.go].at_donor, back)
        });
        assert_eq!(loads, expected, "{choice:?}");
    }

    #[test]
    fn one_large_machine_is_shed_rather_than_two_small_ones() {
        let donor = side(0.7, &homes(&[0.1, 0.15, 0.2, 0.3]));
        check(&donor, &side(0.5, &[]), 0, Some((0.3, None)));
        // Too small to end it in two moves is no sound first one.
        let donor = side(0.4, &homes(&[0.05, 0.5, 0.6]));
        check(&donor, &side(0.3, &[]), 0, Some((0.6, None)));
    }

    #[test]
    fn of_sound_moves_the_one_that_leaves_both_nearest_to_their_targets_is_made() {
        let donor = side(0.9, &homes(&[0.2, 0.22, 0.25]));
        check(&donor, &side(0.5, &[]), 0, Some((0.25, None)));
        // Any of the three ends the donor's need of two moves by one; the least fits best.
        check(&side(0.88, &homes(&[0.2, 0.15])), &side(0.83, &[]), 0, Some((0.15, None)));
    }

    #[test]
    fn a_host_within_its_limit_gives_nothing() {
        check(&side(0.5, &homes(&[0.5])), &side(0.0, &[]), 9, None);
    }

    #[test]
    fn what_does_not_fit_alone_may_fit_in_return() {
        let guest = Piece { at_home: false, ..piece(0.2) };
        let donor = side(0.8, &homes(&[0.3]));
        let receiver = side(0.72, &[guest]);
        // 0.3 for 0.2 costs one and ends the donor's need of one.
        check(&donor, &receiver, 0, Some((0.3, Some(0.2))));
    }

    #[test]
    fn memory_bounds_the_choice_at_both_ends() {
        let big = Piece { memory_bytes: 101.0, ..piece(0.3) };
        check(&side(0.9, &[big]), &side(0.5, &[]), 2, None);
    }

    prop_compose! {
        fn any_piece()(
            at_donor in 0.0..0.5f64, at_receiver in 0.0..0.5f64, memory_bytes in 0.0..60.0f64,
            at_home in any::<bool>(), homeward in any::<bool>(), movable in any::<bool>(),
        ) -> Piece {
            Piece { at_donor, at_receiver, memory_bytes, at_home, homeward: homeward && !at_home, movable, withheld: false, seconds: 0.0, effort: 0.0, priority: 0, starving: false }
        }
    }

    proptest! {
        #[test]
        fn no_choice_lifts_the_maximum_of_its_pair_or_overfills_a_memory(
            background in 0.0..2.0f64,
            ours in prop::collection::vec(any_piece(), 0..12),
            theirs in prop::collection::vec(any_piece(), 0..12),
            value_max in 0..3i32,
        ) {
            let donor = side(background, &ours);
            let mut receiver = side(0.0, &theirs);
            receiver.load = theirs.iter().map(|p| p.at_receiver).sum();
            if let Some(choice) = choose(&donor, &receiver, value_max, 0.0) {
                let back = choice.back.map(|i| theirs[i]);
                let go = ours[choice.go];
                let down = go.at_donor - back.map_or(0.0, |p| p.at_donor);
                let up = go.at_receiver - back.map_or(0.0, |p| p.at_receiver);
                prop_assert!(go.movable && back.is_none_or(|p| p.movable));
                prop_assert!(donor.load - down < donor.load && receiver.load + up < donor.load);
                prop_assert!(go.memory_bytes <= receiver.free_memory_bytes);
                let room = donor.free_memory_bytes + go.memory_bytes;
                prop_assert!(back.is_none_or(|p| p.memory_bytes <= room));
                prop_assert!(choice.score.cost <= f64::from(value_max) + WASTE_MAX);
            }
        }

        #[test]
        fn no_number_makes_it_panic(
            load in any::<f64>(), target in any::<f64>(), limit in any::<f64>(),
            price in any::<f64>(), memory_bytes in any::<f64>(),
        ) {
            let odd = Piece { at_donor: price, memory_bytes, ..piece(price) };
            let pieces = vec![odd, piece(0.1)];
            let side = Side { load, target, limit, par: target, free_memory_bytes: 1e9, pieces };
            let other = Side { load: price, ..side.clone() };
            let _ = choose(&side, &other, 2, 0.0);
            let _ = choose(&other, &side, 2, 0.0);
        }
    }
}

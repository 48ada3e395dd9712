//! Which machine to move when both hosts know the mean and memory moves at once.
//!
//! A plan knows all loads and wants few moves until it ends. A cluster at work never ends: loads
//! change, and what counts is how much better it is balanced for each migration that it pays for.
//! With `d` the difference of the two hosts and `l` the load that goes from one to the other, the sum
//! of the squares of their loads falls by `2 l (d - l)`. Its square root is a load, and tells what a
//! move **levels**: as much as a machine of exactly that load that was exactly half the difference.
//! The move that levels most is made, if that is enough to be worth a migration; a swap takes two.
//!
//! Machines that level nearly the same are told apart by what they cost: the slowest migration
//! weighs no more than `COST_WEIGHT` of what it levels.
//!
//! Of the machines that are worth a migration those that starve where they are go first, alone rather
//! than in a swap.
//!
//! As by every rule, a move leaves both hosts of the pair below what the donor had.

use super::mean_aware::{Choice, Piece, Score, Side, lowers};
use super::{LOAD_EPSILON, Pair, Price, rounded};

/// How much of what it levels a migration without end would cost.
const COST_WEIGHT: f64 = 0.03;
/// More than any move levels, which is a load: at most a few hosts.
const STARVING_FIRST: f64 = 1000.0;
/// The time at which a migration costs half of that, in seconds.
const COST_SECONDS: f64 = 30.0;

/// The move, or the swap, that levels most, if that is more than `gain_min` for each migration.
#[must_use]
pub fn choose(donor: &Side, receiver: &Side, gain_min: f64) -> Option<Choice> {
    if donor.load <= donor.limit + LOAD_EPSILON || receiver.load >= donor.load {
        return None;
    }
    let pair = Pair { donor: donor.load, receiver: receiver.load };
    let mut best: Option<Choice> = None;
    for (go, piece) in donor.pieces.iter().enumerate().filter(|(_, p)| p.movable && !p.withheld) {
        if piece.memory_bytes > receiver.free_memory_bytes {
            continue;
        }
        let room = donor.free_memory_bytes + piece.memory_bytes;
        let returned = receiver.pieces.iter().enumerate();
        let returned = returned.filter(|(_, p)| p.movable && p.memory_bytes <= room);
        let alone = std::iter::once(None);
        for back in alone.chain(returned.map(Some)) {
            let Some(mut score) = judge(&pair, piece, back.map(|(_, p)| p), gain_min) else {
                continue;
            };
            if piece.starving && back.is_none() {
                score.cost -= STARVING_FIRST;
            }
            if best.is_none_or(|b| score.rank() < b.score.rank()) {
                best = Some(Choice { go, back: back.map(|(index, _)| index), score });
            }
        }
    }
    best
}

fn judge(pair: &Pair, go: &Piece, back: Option<&Piece>, gain_min: f64) -> Option<Score> {
    let net = Price {
        at_donor: go.at_donor - back.map_or(0.0, |p| p.at_donor),
        at_receiver: go.at_receiver - back.map_or(0.0, |p| p.at_receiver),
    };
    if !lowers(pair, net, 0.0) {
        return None;
    }
    let migrations = if back.is_some() { 2.0 } else { 1.0 };
    let levelled = (net.mean() * (pair.difference() - net.mean()) / migrations).max(0.0).sqrt();
    let seconds = go.seconds + back.map_or(0.0, |p| p.seconds);
    let cost = COST_WEIGHT * seconds / (seconds + COST_SECONDS);
    let worth = rounded(levelled * (1.0 - cost));
    (levelled > gain_min).then(|| Score::of(-worth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(load: f64) -> Piece {
        Piece {
            at_donor: load,
            at_receiver: load,
            memory_bytes: 1.0,
            at_home: true,
            homeward: false,
            movable: true,
            withheld: false,
            seconds: 1.0,
            effort: 0.0,
            priority: 0,
            starving: false,
        }
    }

    fn side(load: f64, pieces: &[Piece]) -> Side {
        let pieces = pieces.to_vec();
        Side { load, target: 0.5, limit: 0.55, par: 0.5, free_memory_bytes: 9.0, pieces }
    }

    fn check(
        donor: &Side,
        receiver: &Side,
        gain_min: f64,
        expected: Option<(usize, Option<usize>)>,
    ) {
        let choice = choose(donor, receiver, gain_min);
        assert_eq!(choice.map(|c| (c.go, c.back)), expected, "{choice:?}");
    }

    #[test]
    fn the_move_that_levels_most_is_made() {
        let donor = side(0.9, &[piece(0.05), piece(0.3), piece(0.45)]);
        check(&donor, &side(0.2, &[]), 0.0, Some((1, None)));
        check(&donor, &side(0.2, &[]), 0.35, None);
        check(&side(0.5, &donor.pieces), &side(0.0, &[]), 0.0, None);
    }

    #[test]
    fn of_machines_that_level_nearly_the_same_the_cheaper_one_goes() {
        let slow = |load, seconds| Piece { seconds, ..piece(load) };
        let donor = |pieces: &[Piece]| side(0.9, pieces);
        let receiver = side(0.3, &[]);
        check(&donor(&[slow(0.3, 90.0), slow(0.28, 1.0)]), &receiver, 0.0, Some((1, None)));
        check(&donor(&[slow(0.3, 90.0), slow(0.2, 1.0)]), &receiver, 0.0, Some((0, None)));
    }

    #[test]
    fn machines_that_starve_go_first_if_they_are_worth_it() {
        let starving = |load| Piece { starving: true, ..piece(load) };
        let donor = side(0.9, &[piece(0.3), starving(0.1), starving(0.2), starving(0.01)]);
        check(&donor, &side(0.2, &[]), 0.2, Some((2, None)));
        check(&donor, &side(0.2, &[]), 0.33, Some((0, None)));
    }

    #[test]
    fn a_swap_must_be_worth_two_migrations() {
        let donor = side(0.9, &[piece(0.55), piece(0.02)]);
        // 0.55 alone would lift the other host above this one; for 0.25 it is 0.3.
        check(&donor, &side(0.4, &[piece(0.25)]), 0.0, Some((0, Some(0))));
        // Alone 0.3 levels 0.24; a perfect swap 0.25 / √2.
        let donor = side(0.9, &[piece(0.3), piece(0.5)]);
        check(&donor, &side(0.4, &[piece(0.25)]), 0.0, Some((0, None)));
    }
}

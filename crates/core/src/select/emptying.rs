//! Which machine leaves next when its host is being emptied.
//!
//! Every machine shall go that may, even to a host that is more loaded: that of the pair the larger
//! load falls is no condition here. What counts is how well it fits: best where it brings the other
//! host near to its target and not above its limit. It ends because the host takes nothing.

use super::mean_aware::{Choice, Score, Side};
use super::{LOAD_EPSILON, Price, rounded};
use crate::message::Candidate;
use crate::reason::Reason;

/// The machine of `donor` that fits `receiver` best, if any finds room there.
#[must_use]
pub fn choose(donor: &Side, receiver: &Side) -> Option<Choice> {
    fits(donor, receiver).min_by(|a, b| a.score.rank().total_cmp(&b.score.rank()))
}

/// Every machine of `donor` that finds room with `receiver`, and how well it fits.
pub(super) fn fits<'a>(
    donor: &'a Side,
    receiver: &'a Side,
) -> impl Iterator<Item = Choice> + use<'a> {
    let pieces = donor.pieces.iter().enumerate();
    let fits = pieces.filter(|(_, p)| p.movable && p.memory_bytes <= receiver.free_memory_bytes);
    fits.map(|(go, piece)| {
        let load = receiver.load + piece.at_receiver;
        let apart = (load - receiver.target).abs();
        let distance = if receiver.par > 0.0 { rounded(apart / receiver.par) } else { 0.0 };
        let overfills = load > receiver.limit + LOAD_EPSILON;
        let score = Score { cost: 0.0, overfills, swaps: false, distance };
        Choice { go, back: None, score }
    })
}

/// The verdict on each candidate where memory moves: the largest that finds room goes, because what
/// is large is hardest to find room for later, and what takes longest is best begun first.
#[must_use]
pub fn largest(candidates: &[Candidate], prices: &[Result<Price, Reason>]) -> Vec<Reason> {
    let open = prices.iter().enumerate().filter(|(_, price)| price.is_ok()).map(|(index, _)| index);
    let size = |index: &usize| candidates.get(*index).map_or(0.0, |c| c.memory_bytes);
    // Of equal ones the first.
    let chosen = open.rev().max_by(|a, b| size(a).total_cmp(&size(b)));
    let verdict = |(index, price): (usize, &Result<Price, Reason>)| match price {
        Err(reason) => *reason,
        Ok(_) if chosen == Some(index) => Reason::Chosen,
        Ok(_) => Reason::Farther,
    };
    prices.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::model::MachineId;

    #[test]
    fn the_largest_machine_goes_that_finds_room() {
        let candidate = |memory_bytes: f64| Candidate {
            at_donor: 0.1,
            memory_bytes,
            ..Candidate::new(MachineId::new("m").unwrap(), "")
        };
        let room = Ok(Price { at_donor: 0.1, at_receiver: 0.1 });
        let candidates = [1e9, 8e9, 4e9, 4e9].map(candidate);
        for (prices, expected) in [
            ([room; 4], Some(1)),
            ([room, Err(Reason::NoMemory), room, room], Some(2)),
            ([Err(Reason::NoMemory); 4], None),
        ] {
            let verdicts = largest(&candidates, &prices);
            assert_eq!(verdicts.iter().position(|&v| v == Reason::Chosen), expected);
        }
    }
}

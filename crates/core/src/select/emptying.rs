//! Which machine leaves next when its host is being emptied.
//!
//! Every machine shall go that may, even to a host that is more loaded: that of the pair the larger
//! load falls is no condition here. What counts is how well it fits: best where it brings the other
//! host near to its target and not above its limit. It ends because the host takes nothing.

use super::mean_aware::{Choice, Score, Side};
use super::{LOAD_EPSILON, Price, rounded};
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
    let fits = pieces
        .filter(|(_, p)| p.movable && !p.withheld && p.memory_bytes <= receiver.free_memory_bytes);
    fits.map(|(go, piece)| {
        let load = receiver.load + piece.at_receiver;
        let apart = (load - receiver.target).abs();
        let distance = if receiver.par > 0.0 { rounded(apart / receiver.par) } else { 0.0 };
        let overfills = load > receiver.limit + LOAD_EPSILON;
        let score = Score { cost: 0.0, overfills, swaps: false, distance };
        Choice { go, back: None, score }
    })
}

/// The verdict on each machine, of which there are its memory in bytes and its price: the largest that
/// finds room goes, because what is large is hardest to find room for later, and what takes longest is
/// best begun first.
#[must_use]
pub fn largest(priced: &[(f64, Result<Price, Reason>)]) -> Vec<Reason> {
    let open = priced.iter().enumerate().filter(|(_, (_, price))| price.is_ok());
    // Of equal ones the first.
    let chosen = open.rev().max_by(|a, b| a.1.0.total_cmp(&b.1.0)).map(|(index, _)| index);
    let verdict = |(index, (_, price)): (usize, &(f64, Result<Price, Reason>))| match price {
        Err(reason) => *reason,
        Ok(_) if chosen == Some(index) => Reason::Chosen,
        Ok(_) => Reason::Farther,
    };
    priced.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_machine_goes_that_finds_room() {
        let room = Ok(Price { at_donor: 0.1, at_receiver: 0.1 });
        let full = Err(Reason::NoMemory);
        for (prices, expected) in
            [([room; 4], Some(1)), ([room, full, room, room], Some(2)), ([full; 4], None)]
        {
            let priced: Vec<_> = [1e9, 8e9, 4e9, 4e9].into_iter().zip(prices).collect();
            let verdicts = largest(&priced);
            assert_eq!(verdicts.iter().position(|&v| v == Reason::Chosen), expected);
        }
    }
}

//! Which machine leaves next when its host is being emptied.
//!
//! Every machine shall go that may, even to a host that is more loaded: that of the pair the larger
//! load falls is no condition here. What counts is how well it fits: best where it brings the other
//! host near to its target and not above its limit. It ends because the host takes nothing.

use super::mean_aware::{Choice, Score, Side};
use super::{LOAD_EPSILON, Pair, Price, rounded};
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

/// The verdict on each candidate where no mean is known: the nearest to half the difference goes,
/// which is the smallest once the other host is the more loaded one.
#[must_use]
pub fn nearest(pair: &Pair, candidates: &[Result<Price, Reason>]) -> Vec<Reason> {
    let distance = |price: &Price| rounded((price.mean() - pair.wanted()).abs());
    let open =
        candidates.iter().enumerate().filter_map(|(i, c)| Some((i, distance(c.as_ref().ok()?))));
    let chosen = open.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index);
    let verdict = |(index, candidate): (usize, &Result<Price, Reason>)| match candidate {
        Err(reason) => *reason,
        Ok(_) if chosen == Some(index) => Reason::Chosen,
        Ok(_) => Reason::Farther,
    };
    candidates.iter().enumerate().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_machine_goes_where_no_half_difference_is_left() {
        let price = |load: f64| Ok(Price { at_donor: load, at_receiver: load });
        let prices = [price(0.3), Err(Reason::NoMemory), price(0.1), price(0.2)];
        for (donor, receiver, expected) in [(0.6, 0.8, 2), (0.6, 0.0, 0), (0.6, 0.2, 3)] {
            let verdicts = nearest(&Pair { donor, receiver }, &prices);
            assert_eq!(verdicts.iter().position(|&v| v == Reason::Chosen), Some(expected));
        }
    }
}

//! Which machine goes first to where its rules hold, if they do not where it is.
//!
//! The loads of the two hosts are no condition, only how well the machine fits: as when a host is being
//! emptied, but the highest priority is helped first.

use super::emptying::{fits, nearest};
use super::mean_aware::{Choice, Side};
use super::{Pair, Price};
use crate::reason::Reason;

/// The machine of `donor` that goes to `receiver`, if any finds room there.
#[must_use]
pub fn choose(donor: &Side, receiver: &Side) -> Option<Choice> {
    let priority = |choice: &Choice| donor.pieces[choice.go].priority;
    fits(donor, receiver).min_by(|a, b| {
        priority(b).cmp(&priority(a)).then(a.score.rank().total_cmp(&b.score.rank()))
    })
}

/// The verdict on each candidate, with its priority, where no mean is known.
#[must_use]
pub fn first(pair: &Pair, candidates: &[(i32, Result<Price, Reason>)]) -> Vec<Reason> {
    let open = candidates.iter().filter(|(_, price)| price.is_ok());
    let highest = open.map(|(priority, _)| *priority).max();
    let foremost: Vec<_> = candidates
        .iter()
        .map(|(priority, price)| match price {
            Ok(_) if Some(*priority) != highest => Err(Reason::Farther),
            price => *price,
        })
        .collect();
    nearest(pair, &foremost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_is_helped_first_and_of_equals_what_fits_best() {
        let price = |load: f64| Ok(Price { at_donor: load, at_receiver: load });
        let pair = Pair { donor: 0.6, receiver: 0.0 };
        let candidates =
            [(0, price(0.3)), (5, price(0.1)), (9, Err(Reason::RulePinned)), (5, price(0.2))];
        let verdicts = first(&pair, &candidates);
        let expected = [Reason::Farther, Reason::Farther, Reason::RulePinned, Reason::Chosen];
        assert_eq!(verdicts, expected);
    }
}

//! Which machine goes first to where its rules hold, if they do not where it is.
//!
//! The loads of the two hosts are no condition, only how well the machine fits: as when a host is being
//! emptied, but the highest priority is helped first.

use super::Price;
use super::emptying::fits;
use super::mean_aware::{Choice, Side};
use crate::reason::Reason;

/// The machine of `donor` that goes to `receiver`, if any finds room there.
#[must_use]
pub fn choose(donor: &Side, receiver: &Side) -> Option<Choice> {
    let priority = |choice: &Choice| donor.pieces[choice.go].priority;
    fits(donor, receiver).min_by(|a, b| {
        priority(b).cmp(&priority(a)).then(a.score.rank().total_cmp(&b.score.rank()))
    })
}

/// The verdict on each candidate, with its priority, where no mean is known: of those with the highest
/// the first goes.
#[must_use]
pub fn first(candidates: &[(i32, Result<Price, Reason>)]) -> Vec<Reason> {
    let open = candidates.iter().enumerate().filter(|(_, (_, price))| price.is_ok());
    let chosen = open.rev().max_by_key(|(_, (priority, _))| *priority).map(|(index, _)| index);
    let verdict = |(index, (_, price)): (usize, &(i32, Result<Price, Reason>))| match price {
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
    fn the_highest_priority_is_helped_first_and_of_equals_the_first() {
        let price = |load: f64| Ok(Price { at_donor: load, at_receiver: load });
        let candidates =
            [(0, price(0.3)), (5, price(0.1)), (9, Err(Reason::RulePinned)), (5, price(0.2))];
        let verdicts = first(&candidates);
        let expected = [Reason::Farther, Reason::Chosen, Reason::RulePinned, Reason::Farther];
        assert_eq!(verdicts, expected);
    }
}

//! Verdicts on the machines of an exchange, as its record has them.

use crate::decision::{Judged, Reason};
use crate::message::Candidate;

/// One machine of the target that is to come back, as the records have it: prices are named after
/// the host that they are of, as for all others, so that at first it loads the target.
pub(super) fn judged(back: &Candidate, at_donor: Option<f64>, verdict: Reason) -> Judged {
    Judged {
        machine: back.machine.clone(),
        name: back.name.clone(),
        basis: Some(back.basis),
        factors: Some(back.factors),
        at_donor,
        at_receiver: Some(back.at_donor),
        verdict,
        detail: String::new(),
    }
}

/// Puts the source's verdicts on the candidates that it offered.
pub(super) fn apply(judged: &mut [Judged], verdicts: &[Reason]) {
    for (judged, verdict) in judged.iter_mut().zip(verdicts) {
        judged.verdict = *verdict;
    }
}

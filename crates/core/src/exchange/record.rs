//! What an exchange leaves behind: its record.

use super::{Exchange, Phase};
use crate::decision::{Decision, Judged, Reason, Role};
use crate::host::Host;
use crate::message::Candidate;
use crate::model::Time;

impl Exchange {
    /// The record of it as it is now, ended like this.
    pub(super) fn record(
        &self,
        host: &Host,
        ending: Reason,
        detail: String,
        now: Time,
    ) -> Decision {
        let (role, pair, candidates) = match &self.phase {
            Phase::Inquiring => (None, None, Vec::new()),
            Phase::Offering { judged, .. } => (Some(Role::Donor), None, judged.clone()),
            Phase::Quoted { pair, judged, .. } => {
                (Some(Role::Receiver), Some(*pair), judged.clone())
            }
        };
        Decision {
            initiator: self.initiator.clone(),
            peer: Some(self.peer.clone()),
            role,
            began: self.began,
            pair,
            candidates,
            detail,
            measure: self.measure,
            authority: self.authority,
            ..Decision::new(self.id, host.id().clone(), ending, now)
        }
    }
}

/// One machine of the receiver that is to come back, as the records have it: prices are named after
/// the host that they are of, as for all others, so that at first it loads the receiver.
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

/// Puts the donor's verdicts on the candidates that it offered.
pub(super) fn apply(judged: &mut [Judged], verdicts: &[Reason]) {
    for (judged, verdict) in judged.iter_mut().zip(verdicts) {
        judged.verdict = *verdict;
    }
}

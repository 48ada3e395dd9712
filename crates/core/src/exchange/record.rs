//! What an exchange leaves behind: its record.

use super::{Exchange, Phase};
use crate::decision::{Decision, Reason, Role};
use crate::host::Host;
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
            Phase::Offering(offering) => (Some(Role::Source), None, offering.judged.clone()),
            Phase::Quoted { pair, judged, .. } => (Some(Role::Target), Some(*pair), judged.clone()),
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

//! When to look for somebody who takes what breaks a rule here.
//!
//! It is looked for before anything else. Where nobody was right for it, the host pauses for twice as
//! many rounds each time, in which it balances as ever: rules may contradict each other, or hosts that
//! are right be full, and that must not stop the rest.

use super::Balancer;
use crate::decision::Reason;
use crate::effect::Effect;
use crate::model::{HostId, Time};
use crate::survey::Survey;

/// The pause doubles so often, to 31 rounds.
const DOUBLED_MAX: u32 = 5;
/// After so many searches no more is to be expected, unless something changes.
const VAIN_MAX: u32 = 4;

/// How often it was looked for in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mending {
    vain: u32,
    pause: u32,
}

impl Balancer {
    /// Whether this round is for mending a rule, and if so the hosts that are known to be right.
    /// It counts as in vain until something is agreed on.
    pub(super) fn mend(&mut self, now: Time) -> Option<Vec<HostId>> {
        if !self.host.mends(now) {
            self.mending = Mending::default();
            return None;
        }
        if self.mending.pause > 0 {
            self.mending.pause -= 1;
            return None;
        }
        let vain = self.mending.vain.saturating_add(1);
        self.mending = Mending { vain, pause: (1 << vain.min(DOUBLED_MAX)) - 1 };
        let misplaced = self.host.misplaced(now).into_values();
        let mut known: Vec<_> = misplaced.flat_map(|misplaced| misplaced.to).collect();
        known.sort_unstable();
        known.dedup();
        known.retain(|host| self.members.contains(host) && host != self.host.id());
        Some(known)
    }

    /// Nobody of those asked was right for what breaks a rule here.
    pub(super) fn mended_in_vain(&self, survey: &Survey, now: Time, out: &mut Vec<Effect>) {
        if survey.fruitful {
            return;
        }
        let misplaced = self.host.misplaced(now).into_iter().next();
        let Some((machine, misplaced)) = misplaced else { return };
        let known = self.host.view.machines().get(&machine);
        let name = known.map_or(machine.as_str(), |known| &known.facts.name);
        let detail = format!("`{name}` breaks {} here", misplaced.broken.reason);
        out.push(Effect::Record(self.lonely(survey.id(), Reason::RuleUnrepaired, detail, now)));
    }

    /// Whether a rule is broken here about which something may still be done.
    pub(super) fn may_mend(&self, now: Time) -> bool {
        self.mending.vain < VAIN_MAX && self.host.mends(now)
    }
}

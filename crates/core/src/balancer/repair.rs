//! When to look for somebody who takes what breaks a rule here.
//!
//! It is looked for before anything else. Where nobody was right for it, the host pauses for twice as
//! many rounds each time, in which it balances as ever: rules may contradict each other, or hosts that
//! are right be full, and that must not stop the rest.

use super::members::Members;
use crate::decision::Reason;
use crate::host::Host;
use crate::model::{HostId, Time};
use crate::survey::Survey;
use crate::turn::Turn;

/// The pause doubles so often, to 31 rounds.
const DOUBLED_MAX: u32 = 5;
/// After so many searches no more is to be expected, unless something changes.
const VAIN_MAX: u32 = 4;

/// How often it was looked for in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repair {
    vain: u32,
    pause: u32,
}

impl Repair {
    /// Whether this round is for mending a rule, and if so the hosts that are known to be right.
    /// It counts as in vain until something is agreed on.
    pub(super) fn seek(&mut self, members: &Members, turn: &Turn<'_>) -> Option<Vec<HostId>> {
        if !turn.host.mends(turn.now) {
            *self = Self::default();
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let vain = self.vain.saturating_add(1);
        *self = Self { vain, pause: (1 << vain.min(DOUBLED_MAX)) - 1 };
        let misplaced = turn.host.misplaced(turn.now).into_values();
        let mut known: Vec<_> = misplaced.flat_map(|misplaced| misplaced.to).collect();
        known.sort_unstable();
        known.dedup();
        known.retain(|host| members.has(host) && host != turn.host.id());
        Some(known)
    }

    /// Whether a rule is broken here about which something may still be done.
    pub(super) fn is_open(&self, host: &Host, now: Time) -> bool {
        self.vain < VAIN_MAX && host.mends(now)
    }
}

/// Nobody of those asked was right for what breaks a rule here.
pub(super) fn was_in_vain(survey: &Survey, turn: &mut Turn<'_>) {
    if survey.fruitful {
        return;
    }
    let misplaced = turn.host.misplaced(turn.now).into_iter().next();
    let Some((machine, misplaced)) = misplaced else { return };
    let known = turn.host.view.machines().get(&machine);
    let name = known.map_or(machine.as_str(), |known| &known.facts.name);
    let detail = format!("`{name}` breaks {} here", misplaced.broken.reason);
    turn.record(turn.lonely(survey.id(), Reason::RuleUnrepaired, detail));
}

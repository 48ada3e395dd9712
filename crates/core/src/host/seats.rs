//! What a host holds for rules across a label, and what it has been told of others.

use super::Host;
use crate::decision::{Reason, Role};
use crate::model::{Group, MachineId, Seat};
use crate::record::{Handoff, Phase};
use crate::witness::Here;

/// Whether any of these groups is one across a label.
fn is_across(groups: &[Group]) -> bool {
    groups.iter().any(|group| group.label().is_some())
}

impl Host {
    /// What it holds for rules across a label, with what is on its way here or not yet gone.
    pub(crate) fn here<'a>(&'a self, handoffs: impl Iterator<Item = &'a Handoff>) -> Here<'a> {
        let known = self
            .view
            .machines()
            .iter()
            .filter_map(|(id, machine)| Some((id, &machine.entry()?.rules.anti_affinity)));
        let landed = self.holds.landed.iter().map(|(id, landed)| (id, &landed.rules.anti_affinity));
        let held = |h: &&Handoff| h.role == Role::Target || h.phase != Phase::Released;
        let moving = handoffs.filter(held).map(|h| (&h.machine, &h.entry.rules.anti_affinity));
        let all = known.chain(landed).chain(moving).filter(|(_, groups)| is_across(groups));
        Here {
            is_measured: self.view.is_measured(),
            machines: all.map(|(id, groups)| (id, groups.as_slice())).collect(),
        }
    }

    /// Whether another host was told lately to have a seat that a machine would need here.
    ///
    /// # Errors
    /// If so.
    pub(super) fn seats_are_free(
        &self,
        machine: &MachineId,
        groups: &[Group],
    ) -> Result<(), Reason> {
        let taken = |seat: &Seat| self.holds.taken.get(seat).is_some_and(|t| t.by != *machine);
        if Seat::needed(groups, &self.profile.labels).iter().any(taken) {
            return Err(Reason::RuleAcross);
        }
        Ok(())
    }
}

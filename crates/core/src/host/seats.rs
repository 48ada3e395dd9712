//! What a host holds for rules across a label, and what it has been told of others.

use std::time::Duration;

use super::{Holds, Host};
use crate::decision::{Reason, Role};
use crate::handoff::{Handoff, Handoffs, Phase};
use crate::model::{Group, MachineId, Rules, Seat, Time};
use crate::witness::Here;

/// A machine that has arrived and that no sample has seen after so long is not here.
const UNSEEN: Duration = Duration::from_secs(60);
/// How long a seat that was taken is not claimed again.
const TAKEN: Duration = Duration::from_secs(120);

/// A machine that has arrived, until it has been measured.
#[derive(Clone, Debug)]
pub struct Landed {
    /// When.
    pub at: Time,
    /// Its rules.
    pub rules: Rules,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
}

/// A seat that another host has.
#[derive(Clone, Debug)]
pub struct Taken {
    /// For which machine.
    pub by: MachineId,
    /// When this was said.
    pub at: Time,
}

impl Holds {
    /// A machine has arrived: counted until a sample has seen it.
    pub(crate) fn land(&mut self, handoff: &Handoff, now: Time) {
        let rules = handoff.entry.rules.clone();
        let landed = Landed { at: now, rules, memory_bytes: handoff.memory_bytes };
        self.landed.insert(handoff.machine.clone(), landed);
    }

    /// A sample of this time has seen these machines.
    pub(super) fn seen<'a>(&mut self, at: Time, machines: impl Iterator<Item = &'a MachineId>) {
        for machine in machines {
            self.landed.remove(machine);
        }
        self.landed.retain(|_, landed| at.since(landed.at) < UNSEEN);
    }

    /// What was said of seats too long ago is not relied on.
    pub(crate) fn forget_taken(&mut self, now: Time) {
        self.taken.retain(|_, taken| now.since(taken.at) < TAKEN);
    }
}

/// Whether any of these groups is one across a label.
fn is_across(groups: &[Group]) -> bool {
    groups.iter().any(|group| group.label().is_some())
}

impl Host {
    /// What it holds for rules across a label, with what is on its way here or not yet gone.
    pub(crate) fn here<'a>(&'a self, handoffs: &'a Handoffs) -> Here<'a> {
        let known = self
            .view
            .machines()
            .iter()
            .filter_map(|(id, machine)| Some((id, &machine.entry()?.rules.anti_affinity)));
        let landed = self.holds.landed.iter().map(|(id, landed)| (id, &landed.rules.anti_affinity));
        let held = |h: &&Handoff| h.role == Role::Receiver || h.phase != Phase::Released;
        let moving =
            handoffs.iter().filter(held).map(|h| (&h.machine, &h.entry.rules.anti_affinity));
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

//! What is held of a host that no sample shows: by handoffs, by what has just arrived, by others' seats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decision::{Reason, Role};
use crate::model::{HandoffKey, MachineId, Resources, Rules, Seat, Time};
use crate::record::{Handoff, Phase};

/// What handoffs under way hold of a host.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// Room kept for machines on their way here.
    pub incoming: BTreeMap<HandoffKey, Incoming>,
    /// Machines on their way out.
    pub outgoing: BTreeSet<MachineId>,
    /// Machines that stay, which is not settled with the other host yet.
    pub settling: BTreeSet<MachineId>,
    /// Machines that were seen running on another host, too.
    pub doubled: BTreeSet<MachineId>,
    /// Machines that this host would move, and why it does not.
    pub recommended: BTreeMap<MachineId, Reason>,
    /// Machines that a job was under way on when they were to be moved, and when that was.
    pub busy: BTreeMap<MachineId, Time>,
    /// Machines that have arrived and were not measured since.
    pub landed: BTreeMap<MachineId, Landed>,
    /// Seats that other hosts have said to have.
    pub taken: BTreeMap<Seat, Taken>,
}

/// Room kept for a machine on its way here.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// CPUs of this host that it is to have for itself.
    pub dedicated_cpus: Vec<u32>,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// What it uses.
    pub usage: Resources,
    /// Its rules.
    pub rules: Rules,
}

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
    /// What a handoff holds of this host until it has ended.
    pub(crate) fn take_up(&mut self, handoff: &Handoff) {
        match (handoff.role, handoff.phase) {
            (Role::Source, Phase::Released) => {}
            (Role::Source, Phase::Cancelling) => {
                self.settling.insert(handoff.machine.clone());
            }
            (Role::Source, _) => {
                self.outgoing.insert(handoff.machine.clone());
            }
            (Role::Target, _) => {
                let incoming = Incoming {
                    machine: handoff.machine.clone(),
                    name: handoff.name.clone(),
                    dedicated_cpus: handoff.needs.dedicated_cpus.clone().unwrap_or_default(),
                    memory_bytes: handoff.memory_bytes,
                    usage: handoff.usage,
                    rules: handoff.entry.rules.clone(),
                };
                self.incoming.insert(handoff.key(), incoming);
            }
        }
    }

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

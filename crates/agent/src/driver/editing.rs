//! Changes of schedule entries: each is made upon what the entry reads at that moment, one after the
//! other, and answered once it was read back.

use std::collections::{BTreeMap, VecDeque};

use evenkeel_core::model::{Entry, MachineId};
use evenkeel_core::port::{Failure, FailureKind, Order};

use super::Driver;
use crate::request::{Change, Edit};

/// Most changes that wait for their turn.
const WAITING_MAX: usize = 256;
/// So often a change is tried again where somebody else writes the entry at the same time.
const TRIES_MAX: u32 = 5;

/// Changes that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// Being written.
    writing: BTreeMap<MachineId, Edit>,
    /// To be written after those, in their order.
    waiting: VecDeque<Edit>,
    /// To be made anew upon what the next sample shows.
    outdated: Vec<Edit>,
}

impl Driver {
    /// Has a machine's entry changed; the answer waits until it was read back.
    pub(super) fn edit(&mut self, edit: Edit) {
        if self.edits.writing.contains_key(&edit.machine) {
            if self.edits.waiting.len() < WAITING_MAX {
                return self.edits.waiting.push_back(edit);
            }
            let why = format!("{WAITING_MAX} changes of entries wait already: try again");
            return refuse(edit, why);
        }
        let ordered = match &edit.what {
            Change::Target(target) => self.balancer.program_target(&edit.machine, *target),
            Change::Rules(wish) => {
                self.balancer.set_rules(&edit.machine, wish.rules.clone(), wish.over.as_ref())
            }
        };
        match ordered {
            Ok(order) => self.write(edit, order),
            Err(why) => refuse(edit, why),
        }
    }

    fn write(&mut self, edit: Edit, order: Order) {
        self.edits.writing.insert(edit.machine.clone(), edit);
        self.hypervisor.submit(order);
    }

    /// An entry was written, or not. The core knows already.
    pub(super) fn entry_written(&mut self, machine: &MachineId, result: Result<Entry, Failure>) {
        // Entries are also written by the core's own wish.
        let Some(mut edit) = self.edits.writing.remove(machine) else { return };
        match result {
            // Whoever asked may have gone away.
            Ok(_) => drop(edit.answer.send(Ok(()))),
            Err(failure) if failure.kind == FailureKind::Changed && edit.tries < TRIES_MAX => {
                edit.tries += 1;
                self.edits.outdated.push(edit);
            }
            Err(failure) => refuse(edit, failure.detail),
        }
        let next = self.edits.waiting.iter().position(|next| next.machine == *machine);
        if let Some(next) = next.and_then(|index| self.edits.waiting.remove(index)) {
            self.edit(next);
        }
    }

    /// What entries read is known anew.
    pub(super) fn entries_sampled(&mut self) {
        for edit in std::mem::take(&mut self.edits.outdated) {
            self.edit(edit);
        }
    }
}

fn refuse(edit: Edit, why: String) {
    // Whoever asked may have gone away.
    let _ = edit.answer.send(Err(why));
}

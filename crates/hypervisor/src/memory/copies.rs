//! Orders that are for one copy of a machine and no other.

use std::sync::Arc;

use evenkeel_core::model::MachineId;
use evenkeel_core::port::{Event, Failure, FailureKind, Presence, Sight, Stamp};

use super::MemoryCloud;
use super::host::Machine;

impl MemoryCloud {
    pub(super) fn resume(
        &mut self,
        host: usize,
        machine: &MachineId,
        stamp: Stamp,
    ) -> Result<(), Failure> {
        self.present(host, machine)?;
        let sight = self.hosts[host].machines[machine].sight();
        match sight.presence {
            Presence::Running if sight.stamp == stamp => Ok(()),
            Presence::Held | Presence::Paused | Presence::Stranded if sight.stamp == stamp => {
                let now = self.now;
                self.hosts[host].settle(now);
                self.edit(host, machine, |m| m.presence = Presence::Running);
                self.tell(host, Event::ScheduleChanged(machine.clone()));
                Ok(())
            }
            _ => Err(self.other_copy(host, machine, &sight)),
        }
    }

    pub(super) fn start_copy(
        &mut self,
        host: usize,
        machine: &MachineId,
        stamp: Stamp,
    ) -> Result<(), Failure> {
        self.present(host, machine)?;
        let sight = self.hosts[host].machines[machine].sight();
        match sight.presence {
            Presence::Running if sight.stamp == stamp => Ok(()),
            Presence::Defined if sight.stamp == stamp => {
                let now = self.now;
                self.hosts[host].settle(now);
                self.edit(host, machine, |m| {
                    *m = Machine::new(Arc::clone(&m.facts), Presence::Running, m.workload);
                });
                self.tell(host, Event::ScheduleChanged(machine.clone()));
                Ok(())
            }
            _ => Err(self.other_copy(host, machine, &sight)),
        }
    }

    pub(super) fn discard(
        &mut self,
        host: usize,
        machine: &MachineId,
        stamp: Stamp,
    ) -> Result<(), Failure> {
        let Some(found) = self.hosts[host].machines.get(machine) else { return Ok(()) };
        let sight = found.sight();
        match sight.presence {
            Presence::Defined
            | Presence::Incoming
            | Presence::Held
            | Presence::Paused
            | Presence::Stranded
                if sight.stamp == stamp =>
            {
                self.break_off_arrival(host, machine);
                self.take(host, machine);
                self.tell(host, Event::ScheduleChanged(machine.clone()));
                Ok(())
            }
            _ => Err(self.other_copy(host, machine, &sight)),
        }
    }

    fn other_copy(&self, host: usize, machine: &MachineId, sight: &Sight) -> Failure {
        let host = &self.hosts[host].spec.id;
        let detail = format!("machine `{machine}` on host `{host}` is another copy: {sight:?}");
        Failure::new(FailureKind::Refused, detail)
    }

    pub(super) fn set_autostart(
        &mut self,
        host: usize,
        machine: &MachineId,
        wanted: bool,
    ) -> Result<(), Failure> {
        self.present(host, machine)?;
        let persistent = self.hosts[host].machines[machine].facts.persistent;
        if wanted && !persistent {
            let detail = format!("machine `{machine}` is transient and cannot start at boot");
            return Err(Failure::new(FailureKind::Refused, detail));
        }
        self.edit(host, machine, |m| Arc::make_mut(&mut m.facts).autostart = wanted);
        Ok(())
    }
}

//! What the world does to hosts and machines in memory besides running them, and what it sees of them
//! that no agent does.

use std::sync::Arc;

use evenkeel_core::model::{HostId, MachineFacts, MachineId, Resources};
use evenkeel_core::port::{Event, Presence};

use super::host::{Fault, Link, Machine};
use super::{CloudError, MemoryCloud};

impl MemoryCloud {
    /// Lets every migration of a machine go wrong from now on, or none any more.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn fail_migrations_of(
        &mut self,
        machine: &MachineId,
        fault: Option<Fault>,
    ) -> Result<(), CloudError> {
        let (home, _) = self.home(machine)?;
        self.edit(home, machine, |m| m.fault = fault);
        Ok(())
    }

    /// Lets every migration to a host go wrong from now on, or none any more.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn fail_arrivals_at(
        &mut self,
        host: &HostId,
        fault: Option<Fault>,
    ) -> Result<(), CloudError> {
        let index = self.index(host)?;
        self.hosts[index].arrivals = fault;
        Ok(())
    }

    /// Lets what runs a machine answer nothing from now on, as a QEMU does whose file server is gone, or
    /// answer again: nothing is told of what the machine uses.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn hang(&mut self, machine: &MachineId, hung: bool) -> Result<(), CloudError> {
        let (home, _) = self.home(machine)?;
        self.edit(home, machine, |m| m.hung = hung);
        Ok(())
    }

    /// Lets the counters of a machine be wrong by these factors, as counters of another unit are, for
    /// as long as it is on this host; `None` mends them.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn misread(
        &mut self,
        machine: &MachineId,
        factors: Option<Resources>,
    ) -> Result<(), CloudError> {
        let (home, _) = self.home(machine)?;
        self.edit(home, machine, |m| m.misread = factors);
        Ok(())
    }

    /// Changes what a machine is said to be, as somebody with an editor would.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn edit_facts(
        &mut self,
        machine: &MachineId,
        change: impl FnOnce(&mut MachineFacts),
    ) -> Result<(), CloudError> {
        let (home, _) = self.home(machine)?;
        let now = self.now;
        self.hosts[home].settle(now);
        self.edit(home, machine, |m| change(Arc::make_mut(&mut m.facts)));
        self.tell(home, Event::ScheduleChanged(machine.clone()));
        Ok(())
    }

    /// Moves a machine at once, as an operator or another program would and without a word to any
    /// agent: its entry goes along as it is. A migration of it under way fails.
    ///
    /// # Errors
    /// When there is no such machine or host, or that host is without power. A machine that is there
    /// already stays.
    pub fn relocate(&mut self, machine: &MachineId, to: &HostId) -> Result<(), CloudError> {
        let (from, found) = self.home(machine)?;
        let (presence, to) = (found.presence, self.index(to)?);
        if from == to {
            return Ok(());
        }
        if presence != Presence::Defined {
            self.powered(to, machine)?;
        }
        self.fail_job(from, machine);
        if let Some(left) = self.take(from, machine) {
            self.insert(to, Machine::new(left.facts, presence, left.workload));
            let runs = presence == Presence::Running;
            self.edit(to, machine, |m| (m.fault, m.arrived) = (left.fault, runs));
        }
        for host in [to, from] {
            self.tell(host, Event::ScheduleChanged(machine.clone()));
        }
        Ok(())
    }

    /// Destroys a host's disk while it is off: what was defined there is gone.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn wipe(&mut self, host: &HostId) -> Result<(), CloudError> {
        let index = self.index(host)?;
        if self.hosts[index].link == Link::Off {
            let defined: Vec<_> = self.hosts[index].machines.keys().cloned().collect();
            for machine in defined {
                self.take(index, &machine);
            }
        }
        Ok(())
    }

    /// Whether there is a host of this id and it has power.
    #[must_use]
    pub fn has_power(&self, host: &HostId) -> bool {
        self.by_id.get(host).is_some_and(|&index| self.hosts[index].link != Link::Off)
    }

    /// What is asked of a host: what its running machines want, in reference cores, bytes and bytes
    /// per second, and the CPU of migrations under way. Nothing if there is no such host.
    #[must_use]
    pub fn wanted_on(&self, host: &HostId) -> Resources {
        let Some(host) = self.by_id.get(host).map(|&index| &self.hosts[index]) else {
            return Resources::ZERO;
        };
        let mut wanted = host.spec.background.unwrap_or(Resources::ZERO);
        for machine in host.machines.values().filter(|m| m.is_live()) {
            wanted.cpu_cores += machine.workload.wants.cpu_cores;
            wanted.memory_bytes += machine.occupied_bytes();
            wanted.io_bytes_per_s += machine.workload.wants.io_bytes_per_s;
        }
        wanted.cpu_cores += host.migrating_cores() * host.spec.cpu_speed;
        wanted
    }
}

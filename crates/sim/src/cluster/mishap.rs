//! What befalls agents and hosts.

use std::time::Duration;

use evenkeel_core::appraisal::{Answer, WishId};
use evenkeel_core::effect::Input;
use evenkeel_core::handoff::{Handoff, Phase, Recovered};
use evenkeel_core::model::{Entry, HostId, HostState, MachineId};
use evenkeel_core::port::Presence;
use evenkeel_hypervisor::memory::CloudError;
use rand::Rng;

use super::Cluster;
use crate::log::What;

impl Cluster {
    /// Starts a host's agent, with what its store holds.
    pub fn restart(&mut self, host: &HostId) {
        if let Some(&index) = self.by_id.get(host)
            && self.agents[index].balancer.is_none()
        {
            self.start_agents(&[index]);
        }
    }

    pub(super) fn start_agents(&mut self, indices: &[usize]) {
        for &index in indices {
            let life = self.rng.next_u64();
            self.agents[index].start(life);
            self.note(index, || What::Started);
            let state = self.agents[index].spec.state;
            if state != HostState::Active {
                self.inputs.push_back((index, Input::SetState(state)));
            }
            self.inputs.push_back((index, Input::Start));
        }
        let clocks: Vec<_> = indices.iter().map(|&i| self.agents[i].clock(self.now)).collect();
        self.with_membership(|it, now, out| it.started(indices, &clocks, now, out));
        self.settle();
    }

    /// Kills a host's agent: what it held in memory is gone, its machines run on.
    pub fn kill(&mut self, host: &HostId) {
        let Some(&index) = self.by_id.get(host) else { return };
        if self.agents[index].die() {
            self.note(index, || What::Killed);
            self.with_membership(|it, now, out| it.ended(index, now, out));
        }
    }

    /// Kills a host: its agent and its hypervisor with all machines on it.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn power_off(&mut self, host: &HostId) -> Result<(), CloudError> {
        self.kill(host);
        let lost: Vec<_> = self.cloud.machines_on(host).map(|(m, p)| (m.id.clone(), p)).collect();
        for (machine, _) in &lost {
            self.checker.forget(machine);
        }
        if let Some(&index) = self.by_id.get(host) {
            let ran = lost.into_iter().filter(|(_, presence)| presence.is_resident());
            self.agents[index].ran = ran.map(|(machine, _)| machine).collect();
            self.note(index, || What::Befell("power off".to_owned()));
        }
        // Nobody hears of its migrations any more.
        self.ordered.retain(|_, moved| moved.from != *host);
        self.cloud.power_off(host)
    }

    /// Destroys the disk of a host without power: its store and the definitions of its machines.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn lose_disk(&mut self, host: &HostId) -> Result<(), CloudError> {
        self.lose_store(host);
        self.cloud.wipe(host)
    }

    /// Gives a host its power back: the machines that are started at boot are, whoever owns the others
    /// starts those that ran, and its agent is started.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn power_on(&mut self, host: &HostId) -> Result<(), CloudError> {
        self.cloud.reconnect(host)?;
        let Some(&index) = self.by_id.get(host) else { return Ok(()) };
        self.agents[index].boots += 1;
        self.note(index, || What::Befell("power on".to_owned()));
        for machine in std::mem::take(&mut self.agents[index].ran) {
            if self.checker.keeps_up(&machine) {
                if self.cloud.locate(&machine) == Some((host, Presence::Running)) {
                    self.checker.expect(machine);
                }
                continue;
            }
            // Unless its definition is gone, or somebody runs it elsewhere.
            if self.cloud.locate(&machine) == Some((host, Presence::Defined)) {
                self.cloud.start(&machine)?;
                self.checker.expect(machine);
            }
        }
        self.restart(host);
        Ok(())
    }

    /// What became of a wish that was told to a host's agent, once it is answered.
    #[must_use]
    pub fn answer(&self, host: &HostId, wish: WishId) -> Option<&Answer> {
        self.agents[*self.by_id.get(host)?].answers.get(&wish)
    }

    /// Whether a host's store can be written.
    pub fn set_store_fails(&mut self, host: &HostId, fails: bool) {
        if let Some(&index) = self.by_id.get(host) {
            let agent = &mut self.agents[index];
            agent.store_fails = fails;
            if !fails {
                let closed = std::mem::take(&mut agent.unclosed);
                closed.into_iter().for_each(|handoff| agent.store.keep(handoff));
            }
        }
    }

    /// How long each write to a host's store takes, for which its agent waits.
    pub fn set_store_takes(&mut self, host: &HostId, takes: Duration) {
        if let Some(&index) = self.by_id.get(host) {
            self.agents[index].store_takes = takes;
        }
    }

    /// Empties a host's store.
    pub fn lose_store(&mut self, host: &HostId) {
        if let Some(&index) = self.by_id.get(host) {
            // Nobody knows any more which of them were not to be started at boot.
            let moving = self.agents[index].store.handoffs.iter().map(|h| h.machine.clone());
            let here = self.cloud.machines_on(host).map(|(facts, _)| facts.id.clone());
            for machine in moving.chain(here).collect::<Vec<_>>() {
                self.checker.keep_up(&machine, false);
            }
            self.agents[index].store = Recovered::default();
            self.agents[index].lost_store = true;
        }
    }

    /// Whether a handoff waits for a person: its machine is held, and what its source had released is
    /// not known any more, or whether it ran on there.
    #[must_use]
    pub fn waits_for_a_person(&self, handoff: &Handoff) -> bool {
        let running = self.agents.iter().filter_map(|agent| agent.balancer.as_ref());
        let mut live = running.flat_map(evenkeel_core::balancer::Balancer::handoffs);
        if live.any(|live| live.id == handoff.id && live.waits_for_proof()) {
            return true;
        }
        let lost = |index: &usize| self.agents[*index].lost_store;
        handoff.phase == Phase::Holding && self.by_id.get(&handoff.peer).is_some_and(lost)
    }

    /// Sets a host's wall clock ahead by so many milliseconds, or behind if negative. Its agent
    /// follows when it is started next.
    pub fn set_wall_clock(&mut self, host: &HostId, ahead_ms: i64) {
        if let Some(&index) = self.by_id.get(host) {
            self.agents[index].wall_ms = ahead_ms;
        }
    }

    /// Ends a machine.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn stop(&mut self, machine: &MachineId) -> Result<(), CloudError> {
        self.checker.forget(machine);
        self.checker.keep_up(machine, false);
        self.cloud.stop(machine)
    }

    /// Whether the machines of a host leave room for one more.
    #[must_use]
    pub fn has_room(&self, host: &HostId, machine: &MachineId) -> bool {
        let Some(&index) = self.by_id.get(host) else { return false };
        let Some((home, _)) = self.cloud.locate(machine) else { return false };
        let its = self.cloud.machines_on(home).find(|(facts, _)| facts.id == *machine);
        let its = its.map_or(0.0, |(facts, _)| facts.memory_bytes);
        let taken: f64 = self.cloud.machines_on(host).map(|(facts, _)| facts.memory_bytes).sum();
        taken + its <= self.agents[index].spec.promisable().1
    }

    /// The schedule entry of a machine, if there is one that can be read.
    #[must_use]
    pub fn entry_of(&self, machine: &MachineId) -> Option<Entry> {
        let (home, _) = self.cloud.locate(machine)?;
        let (facts, _) = self.cloud.machines_on(home).find(|(facts, _)| facts.id == *machine)?;
        facts.entry.as_ref().ok().cloned()
    }

    /// Whether a host takes part, as an operator has said last.
    #[must_use]
    pub fn state_of(&self, host: &HostId) -> Option<HostState> {
        Some(self.agents[*self.by_id.get(host)?].spec.state)
    }

    /// How many virtual CPUs a machine is said to have.
    #[must_use]
    pub fn vcpus_of(&self, machine: &MachineId) -> Option<u32> {
        let (home, _) = self.cloud.locate(machine)?;
        let mut here = self.cloud.machines_on(home);
        here.find(|(facts, _)| facts.id == *machine).map(|(facts, _)| facts.vcpus)
    }

    /// Notes in the log that something was done to a host from outside.
    pub fn note_mishap(&mut self, host: &HostId, what: &str) {
        if let Some(&index) = self.by_id.get(host) {
            self.note(index, || What::Befell(what.to_owned()));
        }
    }
}

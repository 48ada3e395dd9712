//! Hosts in memory, in virtual time: the hypervisor of simulations and of tests of the core.
//!
//! A [`MemoryCloud`] holds any number of hosts. Nothing in it happens by itself: the driver asks
//! [`MemoryCloud::next_due`] when something would, advances the time to then, and takes what came of
//! it from [`MemoryCloud::next_event`]. Orders go to one host, through [`MemoryCloud::on`].
//!
//! ```
//! use evenkeel_core::model::{HostId, Resources, Time};
//! use evenkeel_core::port::{Event, Order};
//! use evenkeel_hypervisor::{Hypervisor, memory::{MemoryCloud, MemoryHost}};
//!
//! let mut cloud = MemoryCloud::new(Time::from_unix_ms(0));
//! let h1 = HostId::new("h1")?;
//! cloud.add_host(MemoryHost::new(h1.clone(), Resources::ZERO))?;
//! cloud.on(&h1)?.submit(Order::Sample);
//! assert!(matches!(cloud.next_event(), Some((host, Event::Sampled(Ok(_)))) if host == h1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What an event costs does not grow with the number of hosts, only with the machines of the host
//! concerned. The same calls in the same order give the same events.

mod copies;
mod examine;
mod host;
mod meddling;
mod migrate;
mod precopy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use evenkeel_core::model::{Entry, HostFacts, HostId, MachineFacts, MachineId, Time};
use evenkeel_core::port::{Event, Failure, FailureKind, Order, Presence, Rewrite, Sight, Unfit};

use crate::Hypervisor;
use host::{Host, Link, Machine};
use migrate::Underway;

pub use host::{Aftermath, Fault, MemoryHost, Workload};
pub use precopy::{DOWNTIME_MAX, PREPARATION};

/// Why a cloud in memory refuses what its driver wants of it. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// No host of that id was added.
    #[error("there is no host `{0}` in this cloud")]
    NoSuchHost(HostId),
    /// A host with this id or migration URI exists.
    #[error("host `{0}` or another one with its migration URI is already in this cloud")]
    HostExists(HostId),
    /// No machine of that id was placed, or it is gone.
    #[error("there is no machine `{0}` in this cloud")]
    NoSuchMachine(MachineId),
    /// A machine of that id was placed already.
    #[error("machine `{machine}` is already in this cloud, on host `{host}`")]
    MachineExists {
        /// The machine.
        machine: MachineId,
        /// Where it is.
        host: HostId,
    },
    /// A machine cannot run on a host whose power was cut.
    #[error("machine `{machine}` cannot run on host `{host}`, which is without power")]
    NoPower {
        /// The machine.
        machine: MachineId,
        /// Where it is.
        host: HostId,
    },
}

/// Hosts with machines, in virtual time.
pub struct MemoryCloud {
    now: Time,
    hosts: Vec<Host>,
    by_id: BTreeMap<HostId, usize>,
    by_uri: BTreeMap<String, usize>,
    /// Every host that has a copy of a machine.
    homes: BTreeMap<MachineId, Vec<usize>>,
    migrations: BTreeMap<u64, Underway>,
    /// Migrations by the time of their next step; one that is over stays until its time comes.
    due: BinaryHeap<Reverse<(Time, u64)>>,
    migrations_begun: u64,
    outbox: VecDeque<(HostId, Event)>,
}

/// The hypervisor of one host of a [`MemoryCloud`].
pub struct MemoryHypervisor<'a> {
    cloud: &'a mut MemoryCloud,
    host: usize,
}

impl Hypervisor for MemoryHypervisor<'_> {
    fn submit(&mut self, order: Order) {
        self.cloud.submit(self.host, order);
    }
}

impl MemoryCloud {
    /// A cloud without hosts.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            now,
            hosts: Vec::new(),
            by_id: BTreeMap::new(),
            by_uri: BTreeMap::new(),
            homes: BTreeMap::new(),
            migrations: BTreeMap::new(),
            due: BinaryHeap::new(),
            migrations_begun: 0,
            outbox: VecDeque::new(),
        }
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// When something happens next if no more orders come: now if events are waiting.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets time pass until `to`, and happen what happens meanwhile. Does nothing if `to` is past.
    pub fn advance_to(&mut self, to: Time) {
        while let Some(&Reverse((at, key))) = self.due.peek()
            && at <= to
        {
            self.due.pop();
            self.now = self.now.max(at);
            self.step(key);
        }
        self.now = self.now.max(to);
    }

    /// The oldest event that was not taken yet, and the host that it is for.
    pub fn next_event(&mut self) -> Option<(HostId, Event)> {
        self.outbox.pop_front()
    }

    /// The hypervisor of a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn on(&mut self, host: &HostId) -> Result<MemoryHypervisor<'_>, CloudError> {
        let host = self.index(host)?;
        Ok(MemoryHypervisor { cloud: self, host })
    }

    /// Adds a host.
    ///
    /// # Errors
    /// When there is one of this id or migration URI.
    pub fn add_host(&mut self, host: MemoryHost) -> Result<(), CloudError> {
        let uri = &host.facts.migration_uri;
        if self.by_id.contains_key(&host.id) || self.by_uri.contains_key(uri) {
            return Err(CloudError::HostExists(host.id));
        }
        self.by_id.insert(host.id.clone(), self.hosts.len());
        self.by_uri.insert(uri.clone(), self.hosts.len());
        self.hosts.push(Host::new(host, self.now));
        Ok(())
    }

    /// Changes what the hypervisor says of a host, except its migration URI, which stays.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn set_host_facts(&mut self, host: &HostId, facts: HostFacts) -> Result<(), CloudError> {
        let index = self.index(host)?;
        let now = self.now;
        let host = &mut self.hosts[index];
        host.settle(now);
        let migration_uri = host.facts.migration_uri.clone();
        host.facts = Arc::new(HostFacts { migration_uri, ..facts });
        Ok(())
    }

    /// Defines a machine on a host, and starts it if `running`.
    ///
    /// # Errors
    /// When there is no such host, the machine is in this cloud already, or it is to run on a host
    /// without power.
    pub fn place(
        &mut self,
        host: &HostId,
        facts: MachineFacts,
        workload: Workload,
        running: bool,
    ) -> Result<(), CloudError> {
        let index = self.index(host)?;
        if let Ok((home, _)) = self.home(&facts.id) {
            let host = self.hosts[home].spec.id.clone();
            return Err(CloudError::MachineExists { machine: facts.id, host });
        }
        let machine = facts.id.clone();
        if running {
            self.powered(index, &machine)?;
        }
        let presence = if running { Presence::Running } else { Presence::Defined };
        self.insert(index, Machine::new(Arc::new(facts), presence, workload));
        self.tell(index, Event::ScheduleChanged(machine));
        Ok(())
    }

    /// Starts a machine that is defined, or resumes it if it is paused.
    ///
    /// # Errors
    /// When there is no such machine, or its host is without power.
    pub fn start(&mut self, machine: &MachineId) -> Result<(), CloudError> {
        self.set_presence(machine, Presence::Running)
    }

    /// Pauses a machine; a migration of it fails.
    ///
    /// # Errors
    /// When there is no such machine, or its host is without power.
    pub fn pause(&mut self, machine: &MachineId) -> Result<(), CloudError> {
        self.set_presence(machine, Presence::Paused)
    }

    /// Stops a machine; a transient one is gone then, and a migration of it fails.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn stop(&mut self, machine: &MachineId) -> Result<(), CloudError> {
        let (home, live) = self.home(machine)?;
        if live.facts.persistent {
            return self.set_presence(machine, Presence::Defined);
        }
        self.fail_job(home, machine);
        self.hosts[home].settle(self.now);
        self.take(home, machine);
        self.tell(home, Event::ScheduleChanged(machine.clone()));
        Ok(())
    }

    /// Changes what a machine does.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn set_workload(
        &mut self,
        machine: &MachineId,
        workload: Workload,
    ) -> Result<(), CloudError> {
        let (home, found) = self.home(machine)?;
        let (now, job) = (self.now, found.job);
        self.hosts[home].settle(now);
        self.edit(home, machine, |m| m.workload = workload);
        if let Some(job) = job {
            self.redirty(job, workload.dirty_bytes_per_s);
        }
        Ok(())
    }

    /// Rewrites an entry as somebody with an editor would: also into nonsense.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn edit_entry(
        &mut self,
        machine: &MachineId,
        entry: Result<Entry, String>,
    ) -> Result<(), CloudError> {
        let (home, _) = self.home(machine)?;
        self.write_entry(home, machine, entry);
        Ok(())
    }

    /// The machines in the schedule of a host, by id, running or not; none if there is no such host.
    pub fn machines_on(&self, host: &HostId) -> impl Iterator<Item = (&MachineFacts, Presence)> {
        let found = self.by_id.get(host).map(|&index| &self.hosts[index].machines);
        found.into_iter().flat_map(|all| all.values().map(|m| (&*m.facts, m.seen())))
    }

    /// Where a machine is, and how: the copy that runs, or else the one that is nearest to it.
    #[must_use]
    pub fn locate(&self, machine: &MachineId) -> Option<(&HostId, Presence)> {
        let (home, found) = self.home(machine).ok()?;
        Some((&self.hosts[home].spec.id, found.seen()))
    }

    /// Every copy of a machine.
    pub fn copies(&self, machine: &MachineId) -> impl Iterator<Item = (&HostId, Sight)> {
        let homes = self.homes.get(machine).into_iter().flatten();
        homes.filter_map(|&home| {
            let host = &self.hosts[home];
            Some((&host.spec.id, host.machines.get(machine)?.sight()))
        })
    }

    /// Lets the next migration ordered from a host go wrong.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn fail_next_migration(&mut self, host: &HostId, fault: Fault) -> Result<(), CloudError> {
        let index = self.index(host)?;
        self.hosts[index].fault = Some(fault);
        Ok(())
    }

    /// Takes a host's hypervisor away: its machines run on, but nothing answers until
    /// [`Self::reconnect`]. Migrations from and to it fail.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn disconnect(&mut self, host: &HostId) -> Result<(), CloudError> {
        let index = self.index(host)?;
        if self.hosts[index].link == Link::Up {
            self.hosts[index].link = Link::Severed;
            self.fail_jobs_of(index);
            let gone = format!("the hypervisor of host `{host}` went away");
            self.tell(index, Event::Disconnected(gone));
        }
        Ok(())
    }

    /// Brings a host's hypervisor back, or switches the host on, which starts the machines that are
    /// to be started at boot.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn reconnect(&mut self, host: &HostId) -> Result<(), CloudError> {
        let index = self.index(host)?;
        if self.hosts[index].link == Link::Off {
            self.boot(index);
        }
        if self.hosts[index].link != Link::Up {
            self.hosts[index].link = Link::Up;
            self.tell(index, Event::Connected);
        }
        Ok(())
    }

    /// Cuts a host's power. Transient machines are gone, persistent ones are defined and stopped
    /// when it comes back with [`Self::reconnect`]. Nobody there hears of it, and orders that it
    /// had not answered never are.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn power_off(&mut self, host: &HostId) -> Result<(), CloudError> {
        let index = self.index(host)?;
        let now = self.now;
        self.hosts[index].settle(now);
        self.hosts[index].link = Link::Off;
        self.fail_jobs_of(index);
        let ids: Vec<MachineId> = self.hosts[index].machines.keys().cloned().collect();
        for id in ids {
            if let Some(machine) = self.take(index, &id)
                && machine.facts.persistent
                && machine.presence != Presence::Incoming
            {
                let off = Machine::new(machine.facts, Presence::Defined, machine.workload);
                self.insert(index, off);
            }
        }
        self.outbox.retain(|(to, _)| to != host);
        Ok(())
    }

    /// Starts what is to be started at boot.
    fn boot(&mut self, host: usize) {
        let now = self.now;
        self.hosts[host].settle(now);
        for machine in self.hosts[host].machines.values_mut().filter(|m| m.facts.autostart) {
            machine.presence = Presence::Running;
        }
    }

    fn submit(&mut self, host: usize, order: Order) {
        let up = self.hosts[host].link == Link::Up;
        let reachable = || -> Result<(), Failure> {
            if up { Ok(()) } else { Err(unreachable(&self.hosts[host].spec.id)) }
        };
        match order {
            Order::Sample => {
                let answer = reachable().map(|()| self.hosts[host].sample(self.now));
                self.tell(host, Event::Sampled(answer));
            }
            Order::Look(machine, look) => {
                let found = self.hosts[host].machines.get(&machine);
                let sight = found.map_or_else(Sight::default, Machine::sight);
                let answer = reachable().map(|()| sight);
                self.tell(host, Event::Looked(machine, look, answer));
            }
            Order::WriteEntry(machine, rewrite) => {
                let idle = reachable().and_then(|()| self.idle(host, &machine));
                let answer = idle.and_then(|()| self.rewrite(host, &machine, rewrite));
                self.tell(host, Event::EntryWritten(machine, answer));
            }
            Order::Abort(machine) => self.abort(host, &machine),
            Order::Resume(machine, stamp) => {
                let answer = reachable().and_then(|()| self.resume(host, &machine, stamp));
                self.tell(host, Event::Resumed(machine, answer));
            }
            Order::Discard(machine, stamp) => {
                let answer = reachable().and_then(|()| self.discard(host, &machine, stamp));
                self.tell(host, Event::Discarded(machine, answer));
            }
            Order::SetAutostart(machine, wanted) => {
                let answer = reachable().and_then(|()| self.set_autostart(host, &machine, wanted));
                self.tell(host, Event::AutostartSet(machine, wanted, answer));
            }
            Order::Start(machine, stamp) => {
                let answer = reachable().and_then(|()| self.start_copy(host, &machine, stamp));
                self.tell(host, Event::Started(machine, answer));
            }
            Order::Examine(examination) => {
                let answer = reachable().map_err(Unfit::NotTold);
                let answer = answer.and_then(|()| self.examine(host, &examination));
                self.tell(host, Event::Examined(examination.handoff, answer));
            }
            Order::Migrate(migration) => {
                let handoff = migration.handoff;
                if let Err(failure) = reachable().and_then(|()| self.begin(host, migration)) {
                    self.tell(host, Event::MigrationEnded(handoff, Err(failure)));
                }
            }
        }
    }

    fn index(&self, host: &HostId) -> Result<usize, CloudError> {
        let index = self.by_id.get(host).copied();
        index.ok_or_else(|| CloudError::NoSuchHost(host.clone()))
    }

    fn home(&self, machine: &MachineId) -> Result<(usize, &Machine), CloudError> {
        let homes = self.homes.get(machine).into_iter().flatten();
        let copies =
            homes.filter_map(|&home| Some((home, self.hosts[home].machines.get(machine)?)));
        let nearness = |copy: &(usize, &Machine)| match copy.1.presence {
            Presence::Running | Presence::Leaving => 4,
            Presence::Paused | Presence::Stranded => 3,
            Presence::Held => 2,
            Presence::Defined => 1,
            Presence::Incoming | Presence::Absent => 0,
        };
        copies.max_by_key(nearness).ok_or_else(|| CloudError::NoSuchMachine(machine.clone()))
    }

    fn present(&self, host: usize, machine: &MachineId) -> Result<(), Failure> {
        let host = &self.hosts[host];
        if host.machines.contains_key(machine) {
            return Ok(());
        }
        let detail = format!("machine `{machine}` is not on host `{}`", host.spec.id);
        Err(Failure::new(FailureKind::NoSuchMachine, detail))
    }

    /// Whether a machine is here and may be changed.
    fn idle(&self, host: usize, machine: &MachineId) -> Result<(), Failure> {
        self.present(host, machine)?;
        let host = &self.hosts[host];
        if host.machines.get(machine).is_none_or(|m| m.job.is_none()) {
            return Ok(());
        }
        let detail = format!("machine `{machine}` is being migrated from host `{}`", host.spec.id);
        Err(Failure::new(FailureKind::Busy, detail))
    }

    fn insert(&mut self, host: usize, machine: Machine) {
        self.hosts[host].settle(self.now);
        let homes = self.homes.entry(machine.facts.id.clone()).or_default();
        if !homes.contains(&host) {
            homes.push(host);
        }
        self.hosts[host].machines.insert(machine.facts.id.clone(), machine);
    }

    fn take(&mut self, host: usize, machine: &MachineId) -> Option<Machine> {
        self.hosts[host].settle(self.now);
        if let Some(homes) = self.homes.get_mut(machine) {
            homes.retain(|&home| home != host);
            if homes.is_empty() {
                self.homes.remove(machine);
            }
        }
        self.hosts[host].machines.remove(machine)
    }

    fn edit(&mut self, host: usize, machine: &MachineId, change: impl FnOnce(&mut Machine)) {
        if let Some(machine) = self.hosts[host].machines.get_mut(machine) {
            change(machine);
        }
    }

    fn powered(&self, host: usize, machine: &MachineId) -> Result<(), CloudError> {
        let host = &self.hosts[host];
        if host.link != Link::Off {
            return Ok(());
        }
        Err(CloudError::NoPower { machine: machine.clone(), host: host.spec.id.clone() })
    }

    fn set_presence(&mut self, machine: &MachineId, to: Presence) -> Result<(), CloudError> {
        let (home, found) = self.home(machine)?;
        let (was, now) = (found.presence, self.now);
        if was == to {
            return Ok(());
        }
        if to != Presence::Defined {
            self.powered(home, machine)?;
        }
        if to != Presence::Running {
            self.fail_job(home, machine);
        }
        self.hosts[home].settle(now);
        self.edit(home, machine, |m| {
            // What it consumed is counted since this host began to run it: from zero after a start.
            if was == Presence::Defined || to == Presence::Defined {
                *m = Machine::new(Arc::clone(&m.facts), to, m.workload);
            }
            m.presence = to;
        });
        self.tell(home, Event::ScheduleChanged(machine.clone()));
        Ok(())
    }

    /// Rewrites an entry, if it still is what was read of it.
    fn rewrite(
        &mut self,
        host: usize,
        machine: &MachineId,
        rewrite: Rewrite,
    ) -> Result<Entry, Failure> {
        let now = self.hosts[host].machines.get(machine).map(|m| m.facts.entry.clone());
        if let Some(over) = rewrite.over
            && now != Some(Ok(over))
        {
            let host = &self.hosts[host].spec.id;
            let detail =
                format!("the entry of machine `{machine}` on `{host}` was changed meanwhile");
            return Err(Failure::new(FailureKind::Changed, detail));
        }
        self.write_entry(host, machine, Ok(rewrite.entry.clone()));
        Ok(rewrite.entry)
    }

    fn write_entry(&mut self, host: usize, machine: &MachineId, entry: Result<Entry, String>) {
        self.edit(host, machine, |m| Arc::make_mut(&mut m.facts).entry = entry);
        self.tell(host, Event::ScheduleChanged(machine.clone()));
    }

    fn tell(&mut self, host: usize, event: Event) {
        let host = &self.hosts[host];
        let heard = match host.link {
            Link::Up => true,
            // Answers are given also when the hypervisor is gone; news is not.
            Link::Severed => !matches!(event, Event::ScheduleChanged(_)),
            Link::Off => false,
        };
        if heard {
            self.outbox.push_back((host.spec.id.clone(), event));
        }
    }

    /// Ends every migration from and to a host whose link is no longer up.
    fn fail_jobs_of(&mut self, host: usize) {
        let id = self.hosts[host].spec.id.clone();
        let outgoing: BTreeSet<u64> =
            self.hosts[host].machines.values().filter_map(|m| m.job).collect();
        for key in outgoing {
            self.end(key, Err(unreachable(&id)), Aftermath::Here);
        }
        self.fail_owed(host, &unreachable(&id));
        for key in std::mem::take(&mut self.hosts[host].incoming) {
            let detail = format!("the hypervisor of host `{id}` broke the migration off");
            self.end(key, Err(Failure::new(FailureKind::PeerRefused, detail)), Aftermath::Here);
        }
    }
}

fn unreachable(host: &HostId) -> Failure {
    let detail = format!("the hypervisor of host `{host}` does not answer");
    Failure::new(FailureKind::Unreachable, detail)
}

#[cfg(test)]
mod tests;

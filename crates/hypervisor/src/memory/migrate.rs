//! Migrations in memory, from order to end.
//!
//! While it is under way there is a copy on the other host that is [`Presence::Incoming`]. A machine
//! stays where it is until the last step, which takes it away here and makes it complete there at one
//! and the same moment, unless an injected fault leaves it otherwise. The answer may come later
//! ([`MemoryHost::reaping`](super::MemoryHost::reaping)), as libvirt's does.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{MachineFacts, MachineId, Time};
use evenkeel_core::port::{
    Commit, Event, Failure, FailureKind, Migration, MigrationStats, Presence, Progress,
};

use super::MemoryCloud;
use super::host::{Aftermath, Link, Machine};
use super::precopy::{PREPARATION, Transfer};

/// How often a migration says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A migration under way.
pub(super) struct Underway {
    order: Migration,
    from: usize,
    to: Result<usize, Failure>,
    began: Time,
    transfer: Transfer,
    /// How often it has told how far it is.
    told: u32,
    /// When its next step is planned; steps planned for other times are void.
    next: Time,
    /// How it will end before its course does, and when.
    fails: Option<(Time, Failure, Aftermath)>,
    /// What is still to be answered when it is over.
    owed: Option<Result<MigrationStats, Failure>>,
}

impl Underway {
    /// When its next step is due.
    fn due(&self) -> Time {
        let end = self.began + self.transfer.duration();
        let end = self.fails.as_ref().map_or(end, |(at, ..)| end.min(*at));
        end.min(self.tells_at())
    }

    fn tells_at(&self) -> Time {
        self.began + PROGRESS_EVERY * (self.told + 1)
    }
}

impl MemoryCloud {
    pub(super) fn begin(&mut self, from: usize, order: Migration) -> Result<(), Failure> {
        self.present(from, &order.machine)?;
        let host = &self.hosts[from];
        let machine = &host.machines[&order.machine];
        let named = format!("machine `{}` on host `{}`", order.machine, host.spec.id);
        if machine.presence != Presence::Running {
            let detail = format!("{named} does not run");
            return Err(Failure::new(FailureKind::NotRunning, detail));
        }
        if machine.job.is_some() {
            let detail = format!("{named} is being migrated already");
            return Err(Failure::new(FailureKind::Busy, detail));
        }
        if let Some(new) = machine.facts.needs.beyond(&order.needs) {
            let detail = format!("{named} has come to need what was not agreed on: {new}");
            return Err(Failure::new(FailureKind::NeedsChanged, detail));
        }
        let to = self.destination(from, &order, &machine.facts);
        let transfer =
            Transfer::new(machine.occupied_bytes() + copied_bytes(&order, machine), 0.0, 1.0);
        let (lasting, dirty_rate) = (machine.fault.clone(), machine.workload.dirty_bytes_per_s);
        let (now, key) = (self.now, self.migrations_begun);
        self.migrations_begun += 1;
        let mut underway = Underway {
            order,
            from,
            to,
            began: now,
            transfer,
            told: 0,
            next: now,
            fails: None,
            owed: None,
        };
        self.edit(from, &underway.order.machine, |m| m.job = Some(key));
        let Ok(to) = underway.to else {
            // Refused: not a byte is sent.
            let refused = underway.to.clone().err();
            underway.fails = refused.map(|refused| (now + PREPARATION, refused, Aftermath::Here));
            self.plan(key, underway);
            return Ok(());
        };
        self.hosts[to].incoming.insert(key);
        self.arrive(from, to, &underway.order);
        for host in [from, to] {
            self.hosts[host].settle(now);
            self.hosts[host].transfers.insert(key);
        }
        underway.transfer.set_bandwidth(self.share(&underway));
        underway.transfer.set_dirty_rate(dirty_rate);
        let arrivals = self.hosts[to].arrivals.clone();
        if let Some(fault) = self.hosts[from].fault.take().or(lasting).or(arrivals) {
            let after = underway.transfer.duration().mul_f64(fault.after.clamp(0.0, 1.0));
            underway.fails = Some((now + after, fault.failure, fault.leaves));
        }
        self.plan(key, underway);
        self.reshare([from, to]);
        Ok(())
    }

    /// A copy begins to arrive.
    fn arrive(&mut self, from: usize, to: usize, order: &Migration) {
        let machine = &self.hosts[from].machines[&order.machine];
        let mut facts = Arc::clone(&machine.facts);
        let changed = Arc::make_mut(&mut facts);
        changed.entry = Ok(order.entry.clone());
        // Not part of a definition, and so left behind.
        changed.autostart = false;
        let mut arriving = Machine::new(facts, Presence::Incoming, machine.workload);
        (arriving.fault, arriving.misread) = (machine.fault.clone(), machine.misread);
        self.insert(to, arriving);
        self.tell(to, Event::ScheduleChanged(order.machine.clone()));
    }

    fn plan(&mut self, key: u64, mut underway: Underway) {
        underway.next = underway.due();
        self.due.push(Reverse((underway.next, key)));
        self.migrations.insert(key, underway);
    }

    /// What a migration gets of the links at its two ends: each is divided evenly.
    fn share(&self, underway: &Underway) -> f64 {
        let limit =
            underway.order.bandwidth_bytes_per_s.map_or(f64::INFINITY, |limit| limit as f64);
        let ends = [Some(underway.from), underway.to.as_ref().ok().copied()];
        let share = |host: usize| {
            let host = &self.hosts[host];
            host.spec.link_bytes_per_s / host.transfers.len().max(1) as f64
        };
        ends.into_iter().flatten().map(share).fold(limit, f64::min)
    }

    /// Divides the links of these hosts anew, one migration more or less going through them.
    fn reshare(&mut self, hosts: [usize; 2]) {
        let keys: BTreeSet<u64> =
            hosts.iter().flat_map(|&host| self.hosts[host].transfers.iter().copied()).collect();
        for key in keys {
            let Some(mut underway) = self.migrations.remove(&key) else { continue };
            underway.transfer.advance(self.now.since(underway.began));
            if underway.transfer.set_bandwidth(self.share(&underway)) {
                self.plan(key, underway);
            } else {
                self.migrations.insert(key, underway);
            }
        }
    }

    /// The machine that a migration moves dirties its memory at another rate from now on.
    pub(super) fn redirty(&mut self, key: u64, bytes_per_s: f64) {
        if let Some(mut underway) = self.migrations.remove(&key) {
            underway.transfer.advance(self.now.since(underway.began));
            underway.transfer.set_dirty_rate(bytes_per_s);
            self.plan(key, underway);
        }
    }

    /// The host that the order leads to, or why none takes the machine.
    fn destination(
        &self,
        from: usize,
        order: &Migration,
        machine: &MachineFacts,
    ) -> Result<usize, Failure> {
        let refused = |detail: String| Failure::new(FailureKind::PeerRefused, detail);
        let found = self.by_uri.get(&order.uri).filter(|&&to| self.hosts[to].link == Link::Up);
        let Some(&to) = found else {
            return Err(refused(format!("nothing answers at `{}`", order.uri)));
        };
        let host = &self.hosts[to];
        if to == from {
            return Err(refused(format!("`{}` is the host that the machine is on", order.uri)));
        }
        if host.machines.get(&order.machine).is_some_and(Machine::is_live) {
            let (machine, host) = (&order.machine, &host.spec.id);
            return Err(refused(format!(
                "host `{host}` has a copy of machine `{machine}` already"
            )));
        }
        host.facts.provides.meets(&machine.needs).map_err(|missing| {
            let (machine, host) = (&order.machine, &host.spec.id);
            refused(format!("machine `{machine}` cannot run on host `{host}`: {missing}"))
        })?;
        let placed = |name: &String| order.disks.iter().any(|place| place.name == *name);
        let mut local = machine.needs.local_disks.iter().flatten();
        if let Some(disk) = local.find(|disk| !placed(&disk.name)) {
            let detail = format!("nothing was said of where the copy of disk `{}` goes", disk.name);
            return Err(refused(detail));
        }
        Ok(to)
    }

    /// Carries out what is due of a migration, unless it is over or was planned anew.
    pub(super) fn step(&mut self, key: u64) {
        let now = self.now;
        let Some(mut underway) = self.migrations.remove(&key) else {
            return;
        };
        if underway.next > now {
            self.migrations.insert(key, underway);
            return;
        }
        if let Some(owed) = underway.owed {
            return self.tell(underway.from, Event::MigrationEnded(underway.order.handoff, owed));
        }
        let elapsed = now.since(underway.began);
        underway.transfer.advance(elapsed);
        let finished = underway.transfer.is_finished();
        let failed = underway.fails.take_if(|(at, ..)| *at <= now || finished);
        if finished || failed.is_some() {
            let stats = MigrationStats {
                elapsed_ms: millis(elapsed),
                downtime_ms: millis(underway.transfer.downtime()),
                bytes: underway.transfer.progress().0,
            };
            self.migrations.insert(key, underway);
            return match failed {
                Some((_, failure, leaves)) => self.end(key, Err(failure), leaves),
                None => self.end(key, Ok(stats), Aftermath::Moved),
            };
        }
        let tells = underway.tells_at() <= now;
        underway.told += u32::from(tells);
        let (bytes_done, bytes_left) = underway.transfer.progress();
        let (from, handoff) = (underway.from, underway.order.handoff);
        self.plan(key, underway);
        if tells {
            let progress = Progress { elapsed_ms: millis(elapsed), bytes_done, bytes_left };
            self.tell(from, Event::Progress(handoff, progress));
        }
    }

    pub(super) fn abort(&mut self, host: usize, machine: &MachineId) {
        if self.hosts[host].link != Link::Up {
            return;
        }
        if let Some(key) = self.job(host, machine) {
            let detail = format!("the migration of machine `{machine}` was aborted by order");
            self.end(key, Err(Failure::new(FailureKind::Aborted, detail)), Aftermath::Here);
        }
    }

    /// Ends the migration of a machine that stopped running.
    pub(super) fn fail_job(&mut self, host: usize, machine: &MachineId) {
        if let Some(key) = self.job(host, machine) {
            let detail = format!("machine `{machine}` stopped running while it was migrated");
            self.end(key, Err(Failure::new(FailureKind::NotRunning, detail)), Aftermath::Here);
        }
    }

    /// Ends a migration to a host whose copy is about to be destroyed.
    pub(super) fn break_off_arrival(&mut self, to: usize, machine: &MachineId) {
        let arriving = |key: &&u64| {
            self.migrations.get(key).is_some_and(|underway| underway.order.machine == *machine)
        };
        if let Some(key) = self.hosts[to].incoming.iter().find(arriving).copied() {
            let detail = format!("the copy of machine `{machine}` that was arriving is gone");
            let failure = Failure::new(FailureKind::PeerRefused, detail);
            self.end(key, Err(failure), Aftermath::Here);
        }
    }

    fn job(&self, host: usize, machine: &MachineId) -> Option<u64> {
        self.hosts[host].machines.get(machine)?.job
    }

    /// Ends a migration and answers its order.
    pub(super) fn end(
        &mut self,
        key: u64,
        outcome: Result<MigrationStats, Failure>,
        leaves: Aftermath,
    ) {
        let Some(mut underway) = self.migrations.remove(&key) else {
            return;
        };
        let (from, handoff) = (underway.from, underway.order.handoff);
        self.edit(from, &underway.order.machine, |m| m.job = None);
        let mut reaping = Duration::ZERO;
        if let Ok(to) = underway.to {
            self.hosts[to].incoming.remove(&key);
            self.leave_behind(from, to, &underway.order, leaves);
            for host in [from, to] {
                self.hosts[host].transfers.remove(&key);
            }
            self.reshare([from, to]);
            if matches!(leaves, Aftermath::Moved | Aftermath::Ended) {
                self.tell(from, Event::EmulatorGone(handoff));
                reaping = self.hosts[from].spec.reaping;
            }
        }
        if reaping > Duration::ZERO {
            underway.next = self.now + reaping;
            underway.owed = Some(outcome);
            self.due.push(Reverse((underway.next, key)));
            self.migrations.insert(key, underway);
        } else {
            self.tell(from, Event::MigrationEnded(handoff, outcome));
        }
    }

    /// Answers at once, with a failure, what is still to be answered at a host.
    pub(super) fn fail_owed(&mut self, host: usize, failure: &Failure) {
        let owed = |(key, underway): (&u64, &Underway)| {
            (underway.from == host && underway.owed.is_some()).then_some(*key)
        };
        let keys: Vec<u64> = self.migrations.iter().filter_map(owed).collect();
        for underway in
            keys.iter().filter_map(|key| self.migrations.remove(key)).collect::<Vec<_>>()
        {
            let ended = Event::MigrationEnded(underway.order.handoff, Err(failure.clone()));
            self.tell(host, ended);
        }
    }

    fn leave_behind(&mut self, from: usize, to: usize, order: &Migration, leaves: Aftermath) {
        let machine = &order.machine;
        let locked = self.hosts[from]
            .machines
            .get(machine)
            .is_some_and(|m| m.facts.locks.hold() && order.commit == Commit::Fast);
        let now = self.now;
        self.hosts[from].settle(now);
        self.hosts[to].settle(now);
        match leaves {
            Aftermath::Here => drop(self.take(to, machine)),
            Aftermath::Moved => {
                self.take(from, machine);
                self.complete(to, order);
            }
            Aftermath::Both | Aftermath::Stranded => {
                if locked || leaves == Aftermath::Stranded {
                    self.edit(from, machine, |m| m.presence = Presence::Stranded);
                }
                self.complete(to, order);
            }
            Aftermath::StrandedAlone => {
                self.edit(from, machine, |m| m.presence = Presence::Stranded);
                self.take(to, machine);
            }
            Aftermath::Ended => {
                self.take(to, machine);
                if let Some(ended) = self.take(from, machine)
                    && ended.facts.persistent
                {
                    let off = Machine::new(ended.facts, Presence::Defined, ended.workload);
                    self.insert(from, off);
                }
            }
        }
        for host in [to, from] {
            self.tell(host, Event::ScheduleChanged(machine.clone()));
        }
    }

    /// The copy that was arriving is complete.
    fn complete(&mut self, to: usize, order: &Migration) {
        let presence = match order.commit {
            Commit::Fast => Presence::Running,
            Commit::Strict => Presence::Held,
        };
        self.edit(to, &order.machine, |m| m.presence = presence);
    }
}

/// What is sent of a machine's disks.
fn copied_bytes(order: &Migration, machine: &Machine) -> f64 {
    if order.disks.is_empty() { 0.0 } else { machine.facts.needs.copied_bytes() }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

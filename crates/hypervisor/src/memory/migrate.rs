//! Migrations in memory, from order to end.
//!
//! While it is under way there is a copy on the other host that is [`Presence::Incoming`]. A machine
//! stays where it is until the last step, which takes it away here and makes it complete there at one
//! and the same moment, unless an injected fault leaves it otherwise.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{MachineFacts, MachineId, Time};
use evenkeel_core::port::{
    Commit, Event, Failure, FailureKind, Migration, MigrationStats, Presence, Progress,
};

use super::MemoryCloud;
use super::host::{Aftermath, Link, Machine};
use super::precopy::{Course, PREPARATION};

/// How often a migration says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A migration under way.
pub(super) struct Underway {
    order: Migration,
    from: usize,
    to: Result<usize, Failure>,
    began: Time,
    course: Course,
    /// How often it has told how far it is.
    told: u32,
    /// How it will end before its course does, and when.
    fails: Option<(Time, Failure, Aftermath)>,
}

impl Underway {
    /// When its next step is due.
    fn due(&self) -> Time {
        let end = self.began + self.course.duration();
        let end = self.fails.as_ref().map_or(end, |(at, ..)| end.min(*at));
        end.min(self.began + PROGRESS_EVERY * (self.told + 1))
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
        let to = self.destination(from, &order, &machine.facts);
        let far_link =
            to.as_ref().map_or(f64::INFINITY, |&to| self.hosts[to].spec.link_bytes_per_s);
        let limit = order.bandwidth_bytes_per_s.map_or(f64::INFINITY, |limit| limit as f64);
        let bandwidth = host.spec.link_bytes_per_s.min(far_link).min(limit);
        let course =
            Course::new(machine.occupied_bytes(), machine.workload.dirty_bytes_per_s, bandwidth);
        let now = self.now;
        let fails = match (&to, self.hosts[from].fault.take()) {
            (Err(refused), _) => Some((now + PREPARATION, refused.clone(), Aftermath::Here)),
            (Ok(_), Some(fault)) => {
                let after: Duration = course.duration().mul_f64(fault.after.clamp(0.0, 1.0));
                Some((now + after, fault.failure, fault.leaves))
            }
            (Ok(_), None) => None,
        };
        let key = self.migrations_begun;
        self.migrations_begun += 1;
        if let Ok(to) = to {
            self.hosts[to].incoming.insert(key);
            let machine = &self.hosts[from].machines[&order.machine];
            let mut facts = Arc::clone(&machine.facts);
            let changed = Arc::make_mut(&mut facts);
            changed.entry = Ok(order.entry.clone());
            // Not part of a definition, and so left behind.
            changed.autostart = false;
            let arriving = Machine::new(facts, Presence::Incoming, machine.workload);
            self.insert(to, arriving);
            self.tell(to, Event::ScheduleChanged(order.machine.clone()));
        }
        self.edit(from, &order.machine, |m| m.job = Some(key));
        let underway = Underway { order, from, to, began: now, course, told: 0, fails };
        self.due.push(Reverse((underway.due(), key)));
        self.migrations.insert(key, underway);
        Ok(())
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
            refused(format!("host `{host}` lacks what machine `{machine}` needs: {missing:?}"))
        })?;
        Ok(to)
    }

    /// Carries out what is due of a migration, unless it is over.
    pub(super) fn step(&mut self, key: u64) {
        let now = self.now;
        let Some(underway) = self.migrations.get_mut(&key) else {
            return;
        };
        if let Some((at, failure, leaves)) = &underway.fails
            && *at <= now
        {
            let (failure, leaves) = (failure.clone(), *leaves);
            return self.end(key, Err(failure), leaves);
        }
        let elapsed = now.since(underway.began);
        let elapsed_ms = millis(elapsed);
        if elapsed >= underway.course.duration() {
            let downtime_ms = millis(underway.course.downtime);
            let bytes = underway.course.bytes();
            let stats = MigrationStats { elapsed_ms, downtime_ms, bytes };
            return self.end(key, Ok(stats), Aftermath::Moved);
        }
        let (bytes_done, bytes_left) = underway.course.at(elapsed);
        underway.told += 1;
        let (from, handoff) = (underway.from, underway.order.handoff);
        self.due.push(Reverse((underway.due(), key)));
        let progress = Progress { elapsed_ms, bytes_done, bytes_left };
        self.tell(from, Event::Progress(handoff, progress));
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
        let Some(underway) = self.migrations.remove(&key) else {
            return;
        };
        let Underway { order, from, to, .. } = underway;
        self.edit(from, &order.machine, |m| m.job = None);
        if let Ok(to) = to {
            self.hosts[to].incoming.remove(&key);
            self.leave_behind(from, to, &order, leaves);
        }
        self.tell(from, Event::MigrationEnded(order.handoff, outcome));
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

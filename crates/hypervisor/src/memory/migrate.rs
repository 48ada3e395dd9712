//! Migrations in memory, from order to end.
//!
//! A machine stays where it is until the last step, which takes it away here and inserts it there at
//! one and the same moment: there is never a time with two copies, or with none.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{MachineFacts, MachineId, Time};
use evenkeel_core::port::{
    Commit, Event, Failure, FailureKind, Migration, MigrationStats, Presence, Progress,
};

use super::MemoryCloud;
use super::host::{Link, Machine};
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
    fails: Option<(Time, Failure)>,
}

impl Underway {
    /// When its next step is due.
    fn due(&self) -> Time {
        let end = self.began + self.course.duration();
        let end = self.fails.as_ref().map_or(end, |(at, _)| end.min(*at));
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
            (Err(refused), _) => Some((now + PREPARATION, refused.clone())),
            (Ok(_), Some(fault)) => {
                let after: Duration = course.duration().mul_f64(fault.after.clamp(0.0, 1.0));
                Some((now + after, fault.failure))
            }
            (Ok(_), None) => None,
        };
        let key = self.migrations_begun;
        self.migrations_begun += 1;
        if let Ok(to) = to {
            self.hosts[to].incoming.insert(key);
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
        if let Some((at, failure)) = &underway.fails
            && *at <= now
        {
            let failure = failure.clone();
            return self.end(key, Err(failure));
        }
        let elapsed = now.since(underway.began);
        let elapsed_ms = millis(elapsed);
        if elapsed >= underway.course.duration() {
            let downtime_ms = millis(underway.course.downtime);
            let bytes = underway.course.bytes();
            return self.end(key, Ok(MigrationStats { elapsed_ms, downtime_ms, bytes }));
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
            self.end(key, Err(Failure::new(FailureKind::Aborted, detail)));
        }
    }

    /// Ends the migration of a machine that stopped running.
    pub(super) fn fail_job(&mut self, host: usize, machine: &MachineId) {
        if let Some(key) = self.job(host, machine) {
            let detail = format!("machine `{machine}` stopped running while it was migrated");
            self.end(key, Err(Failure::new(FailureKind::NotRunning, detail)));
        }
    }

    fn job(&self, host: usize, machine: &MachineId) -> Option<u64> {
        self.hosts[host].machines.get(machine)?.job
    }

    /// Ends a migration and answers its order.
    pub(super) fn end(&mut self, key: u64, outcome: Result<MigrationStats, Failure>) {
        let Some(underway) = self.migrations.remove(&key) else {
            return;
        };
        let Underway { order, from, to, .. } = underway;
        self.edit(from, &order.machine, |m| m.job = None);
        if let Ok(to) = to {
            self.hosts[to].incoming.remove(&key);
            if outcome.is_ok() {
                self.hand_over(from, to, &order);
            }
        }
        self.tell(from, Event::MigrationEnded(order.handoff, outcome));
    }

    fn hand_over(&mut self, from: usize, to: usize, order: &Migration) {
        let Some(left) = self.take(from, &order.machine) else {
            return;
        };
        let mut facts = left.facts;
        let changed = Arc::make_mut(&mut facts);
        changed.entry = Ok(order.entry.clone());
        // Not part of a definition, and so left behind.
        changed.autostart = false;
        let presence = match order.commit {
            Commit::Fast => Presence::Running,
            Commit::Strict => Presence::Held,
        };
        self.insert(to, Machine::new(facts, presence, left.workload));
        for host in [to, from] {
            self.tell(host, Event::ScheduleChanged(order.machine.clone()));
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

//! Migrations in memory, from order to end.
//!
//! A machine stays where it is until the last step, which takes it away here and inserts it there at
//! one and the same moment: there is never a time with two copies, or with none.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{MachineFacts, MachineId, Time};
use evenkeel_core::port::{
    Event, Failure, FailureKind, Migration, MigrationStats, Presence, Progress,
};

use super::MemoryCloud;
use super::host::{Link, Machine};
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
    fails: Option<(Time, Failure)>,
}

impl Underway {
    /// When its next step is due.
    fn due(&self) -> Time {
        let end = self.began + self.transfer.duration();
        let end = self.fails.as_ref().map_or(end, |(at, _)| end.min(*at));
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
        let to = self.destination(from, &order, &machine.facts);
        let transfer = Transfer::new(machine.occupied_bytes(), 0.0, 1.0);
        let (lasting, dirty_rate) = (machine.fault.clone(), machine.workload.dirty_bytes_per_s);
        let (now, key) = (self.now, self.migrations_begun);
        self.migrations_begun += 1;
        let mut underway =
            Underway { order, from, to, began: now, transfer, told: 0, next: now, fails: None };
        self.edit(from, &underway.order.machine, |m| m.job = Some(key));
        let Ok(to) = underway.to else {
            // Refused: not a byte is sent.
            let refused = underway.to.clone().err();
            underway.fails = refused.map(|refused| (now + PREPARATION, refused));
            self.plan(key, underway);
            return Ok(());
        };
        self.hosts[to].incoming.insert(key);
        for host in [from, to] {
            self.hosts[host].settle(now);
            self.hosts[host].transfers.insert(key);
        }
        underway.transfer.set_bandwidth(self.share(&underway));
        underway.transfer.set_dirty_rate(dirty_rate);
        if let Some(fault) = self.hosts[from].fault.take().or(lasting) {
            let after = underway.transfer.duration().mul_f64(fault.after.clamp(0.0, 1.0));
            underway.fails = Some((now + after, fault.failure));
        }
        self.plan(key, underway);
        self.reshare([from, to]);
        Ok(())
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
        host.facts.provides.meets(&machine.needs).map_err(|missing| {
            let (machine, host) = (&order.machine, &host.spec.id);
            refused(format!("host `{host}` lacks what machine `{machine}` needs: {missing:?}"))
        })?;
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
        let elapsed = now.since(underway.began);
        underway.transfer.advance(elapsed);
        let finished = underway.transfer.is_finished();
        let failed = underway.fails.take_if(|(at, _)| *at <= now || finished);
        if finished || failed.is_some() {
            let stats = MigrationStats {
                elapsed_ms: millis(elapsed),
                downtime_ms: millis(underway.transfer.downtime()),
                bytes: underway.transfer.progress().0,
            };
            self.migrations.insert(key, underway);
            return self.end(key, failed.map_or(Ok(stats), |(_, failure)| Err(failure)));
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
            for host in [from, to] {
                self.hosts[host].settle(self.now);
                self.hosts[host].transfers.remove(&key);
            }
            self.reshare([from, to]);
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
        Arc::make_mut(&mut facts).entry = Ok(order.entry.clone());
        self.insert(to, Machine::new(facts, Presence::Running, left.workload));
        self.edit(to, &order.machine, |m| m.fault = left.fault);
        for host in [to, from] {
            self.tell(host, Event::ScheduleChanged(order.machine.clone()));
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

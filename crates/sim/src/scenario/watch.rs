//! What is seen of a run from above, which no host sees.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::model::{HostId, MachineId, Time};
use evenkeel_core::port::Presence;

use super::report::{Report, Spread};
use crate::cluster::{Cluster, Moved, Tally};

/// A machine that gets less than this part of what it wants starves.
const GRANTED_MIN: f64 = 0.9;
/// A machine that is back where it left within this time has returned.
const RETURN: Duration = Duration::from_secs(3600);

/// Figures on the way.
#[derive(Default)]
pub(super) struct Watch {
    /// What had come of the run when scoring began.
    before: Tally,
    scoring: Option<Time>,
    cvs: Vec<f64>,
    /// When each of them was seen.
    seen: Vec<Time>,
    maxima: Vec<f64>,
    overloaded: Duration,
    overloaded_cpu: Duration,
    overloaded_last: Option<Time>,
    starved: Duration,
    /// When machines left which hosts last.
    left: BTreeMap<(MachineId, HostId), Time>,
    returns: u64,
    moves: BTreeMap<MachineId, u64>,
    first_move: Option<Time>,
    last_move: Option<Time>,
    endings: BTreeMap<Reason, u64>,
    verdicts: BTreeMap<Reason, u64>,
}

impl Watch {
    /// From now on it counts.
    pub(super) fn begin(&mut self, cluster: &Cluster) {
        self.before = cluster.tally().clone();
        self.scoring = Some(cluster.now());
    }

    /// Looks at the balance, which is taken to have been so for `span`.
    pub(super) fn look(&mut self, cluster: &Cluster, span: Duration) {
        let mut loads = Vec::new();
        for spec in cluster.specs() {
            let profile = &spec.profile;
            if !cluster.cloud().has_power(&profile.id) {
                continue;
            }
            let wanted = cluster.cloud().wanted_on(&profile.id);
            loads.push(profile.price(&wanted));
            let shares = profile.shares(&wanted);
            if self.scoring.is_some() {
                self.overloaded_cpu += if shares.cpu > 1.0 { span } else { Duration::ZERO };
                if GRANTED_MIN * shares.cpu > 1.0 {
                    let runs = |(_, presence): &(_, Presence)| presence.is_resident();
                    let count = cluster.cloud().machines_on(&profile.id).filter(runs).count();
                    self.starved += span * count as u32;
                }
                if shares.cpu > 1.0 || shares.io > 1.0 {
                    self.overloaded += span;
                    self.overloaded_last = Some(cluster.now());
                }
            }
        }
        let count = loads.len().max(1) as f64;
        let mean = loads.iter().sum::<f64>() / count;
        if self.scoring.is_some() && mean > 0.0 {
            let variance = loads.iter().map(|load| (load - mean).powi(2)).sum::<f64>() / count;
            self.cvs.push(variance.sqrt() / mean);
            self.seen.push(cluster.now());
            self.maxima.push(loads.into_iter().fold(0.0, f64::max) / mean);
        }
    }

    /// When 19 parts of 20 of what the deviation fell by were done for good.
    fn levelled(&self) -> Option<Time> {
        let (first, end) = (self.cvs.first()?, self.cvs.last()?);
        let most = end + (first - end).max(0.0) / 20.0;
        let above = self.cvs.iter().rposition(|cv| *cv > most + 1e-9);
        above.map_or(self.seen.first(), |index| self.seen.get(index + 1)).copied()
    }

    /// Sees machines that have come to another host.
    pub(super) fn moved(&mut self, moves: Vec<Moved>) {
        for Moved { at, machine, from, to } in moves {
            let left = self.left.get(&(machine.clone(), to));
            let returned = left.is_some_and(|&left| at.since(left) < RETURN);
            self.left.insert((machine.clone(), from), at);
            if self.scoring.is_some() {
                self.returns += u64::from(returned);
                *self.moves.entry(machine).or_default() += 1;
                self.first_move.get_or_insert(at);
                self.last_move = Some(at);
            }
        }
    }

    /// Counts what held moves back: how exchanges ended for those who began them, and what donors
    /// said of their machines.
    pub(super) fn heed(&mut self, records: &[Decision]) {
        if self.scoring.is_none() {
            return;
        }
        for record in records {
            if record.host == record.initiator {
                *self.endings.entry(record.ending).or_default() += 1;
            }
            if record.role == Some(Role::Source) {
                for judged in &record.candidates {
                    *self.verdicts.entry(judged.verdict).or_default() += 1;
                }
            }
        }
    }

    /// The figures until now.
    pub(super) fn figures(&self, cluster: &Cluster, began: Time, round: Duration) -> Report {
        let since = self.scoring.unwrap_or(began);
        let scored = cluster.now().since(since).as_secs_f64();
        let (now, before) = (cluster.tally(), &self.before);
        let hosts = cluster.hosts().count();
        let host_rounds = (hosts as f64 * scored / round.as_secs_f64()).max(f64::MIN_POSITIVE);
        let seconds = |at: Option<Time>| at.map(|at| at.since(began).as_secs_f64());
        let migrations = now.migrations - before.migrations;
        let (messages, bytes) =
            (now.messages - before.messages, now.message_bytes - before.message_bytes);
        Report {
            hosts,
            scored_s: scored,
            max_over_mean: Spread::of(&self.maxima),
            cv: Spread::of(&self.cvs),
            overloaded_host_s: self.overloaded.as_secs_f64(),
            overloaded_cpu_host_s: self.overloaded_cpu.as_secs_f64(),
            overloaded_last_s: seconds(self.overloaded_last),
            starved_machine_s: self.starved.as_secs_f64(),
            migrations,
            migrations_per_hour: migrations as f64 / scored.max(f64::MIN_POSITIVE) * 3600.0,
            migrations_failed: now.migrations_failed - before.migrations_failed,
            at_once_max: now.at_once_max,
            migrated_bytes: now.migrated_bytes - before.migrated_bytes,
            first_migration_s: seconds(self.first_move),
            last_migration_s: seconds(self.last_move),
            levelled_s: seconds(self.levelled()),
            returns: self.returns,
            most_moves_of_a_machine: self.moves.values().copied().max().unwrap_or(0),
            downtime_s: (now.downtime_ms - before.downtime_ms) as f64 / 1e3,
            downtime_max_ms: now.downtime_max_ms,
            messages,
            message_bytes: bytes,
            messages_per_host_round: messages as f64 / host_rounds,
            message_bytes_per_host_round: bytes as f64 / host_rounds,
            datagrams_per_host_round: (now.datagrams - before.datagrams) as f64 / host_rounds,
            datagram_bytes_per_host_round: (now.datagram_bytes - before.datagram_bytes) as f64
                / host_rounds,
            endings: self.endings.clone(),
            verdicts: self.verdicts.clone(),
            moves_of: self.moves.clone(),
            ..Report::default()
        }
    }
}

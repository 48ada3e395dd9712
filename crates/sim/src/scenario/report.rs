//! `evenkeel.simulation/v1`: what a run comes to.

use std::collections::BTreeMap;

use evenkeel_core::decision::Reason;
use evenkeel_core::model::MachineId;
use serde::Serialize;

use super::expect::Unmet;
use crate::check::{Invariant, Violation};

/// The value of `format`.
pub const FORMAT: &str = "evenkeel.simulation/v1";

/// `evenkeel.simulation/v1`. Figures are of the time from `warm_up` to `duration`, and of what
/// machines *want* on the hosts where they are, not of what anybody measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Always [`FORMAT`].
    pub format: &'static str,
    /// What the scenario shows.
    pub about: String,
    /// The seed that reproduces it.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// Machines at the beginning.
    pub machines: usize,
    /// Seconds that are scored.
    pub scored_s: f64,
    /// Largest load over the mean, over time. Hosts without power do not count.
    pub max_over_mean: Spread,
    /// Population standard deviation of loads over their mean, over time.
    pub cv: Spread,
    /// Seconds of hosts on which machines wanted more CPU or I/O than there is.
    pub overloaded_host_s: f64,
    /// The same of CPU alone.
    pub overloaded_cpu_host_s: f64,
    /// When a host was so the last time, since the beginning.
    pub overloaded_last_s: Option<f64>,
    /// Seconds of machines that got less than nine tenths of the CPU that they wanted.
    pub starved_machine_s: f64,
    /// Migrations that ended well.
    pub migrations: u64,
    /// The same an hour.
    pub migrations_per_hour: f64,
    /// Migrations that failed.
    pub migrations_failed: u64,
    /// Most migrations that were under way from and to one host at once.
    pub at_once_max: u64,
    /// Bytes that migrations sent.
    pub migrated_bytes: u64,
    /// When the first one ended, since the beginning.
    pub first_migration_s: Option<f64>,
    /// When the last one ended.
    pub last_migration_s: Option<f64>,
    /// When 19 parts of 20 of what the deviation of loads fell by in all were done for good, since the
    /// beginning.
    pub levelled_s: Option<f64>,
    /// Machines that came back within an hour to a host that they had left.
    pub returns: u64,
    /// How often one machine moved at most.
    pub most_moves_of_a_machine: u64,
    /// Moves by somebody else.
    pub outside_moves: u64,
    /// How long machines stood still in migrations, in all.
    pub downtime_s: f64,
    /// How long one stood still at most.
    pub downtime_max_ms: u64,
    /// Messages that agents said.
    pub messages: u64,
    /// Their size.
    pub message_bytes: u64,
    /// Messages that a host says in a round.
    pub messages_per_host_round: f64,
    /// Their size.
    pub message_bytes_per_host_round: f64,
    /// Datagrams of the membership that a host sends in a round.
    pub datagrams_per_host_round: f64,
    /// Their size.
    pub datagram_bytes_per_host_round: f64,
    /// How exchanges ended, as those recorded it who began them.
    pub endings: BTreeMap<Reason, u64>,
    /// What donors said of their machines.
    pub verdicts: BTreeMap<Reason, u64>,
    /// How often each machine moved that did.
    pub moves_of: BTreeMap<MachineId, u64>,
    /// What befell the cluster, how often.
    pub mishaps: BTreeMap<String, u64>,
    /// What must hold, and how often it did not.
    pub invariants: Vec<InvariantResult>,
    /// Expectations that were not met.
    pub unmet: Vec<Unmet>,
}

/// A figure over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Its mean.
    pub mean: f64,
    /// Exceeded in one look of a hundred.
    pub p99: f64,
    /// At the end.
    pub end: f64,
}

impl Spread {
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        Self {
            mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
            p99: at((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))),
            end: values.last().copied().unwrap_or(0.0),
        }
    }
}

/// Whether something held throughout.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InvariantResult {
    /// What must hold.
    pub invariant: &'static str,
    /// How often it was seen broken, up to a bound.
    pub violations: u64,
    /// The first time, in words.
    pub first: Option<String>,
}

impl InvariantResult {
    pub(super) fn all(violations: &[Violation]) -> Vec<Self> {
        let result = |invariant: &Invariant| {
            let mut broken = violations.iter().filter(|v| v.invariant == *invariant);
            let first = broken.clone().next().map(|v| format!("at {} s: {}", v.at, v.detail));
            let violations = broken.by_ref().count() as u64;
            Self { invariant: invariant.sentence(), violations, first }
        };
        Invariant::ALL.iter().map(result).collect()
    }
}

impl Report {
    /// Whether every invariant held and every expectation was met.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.unmet.is_empty() && self.invariants.iter().all(|result| result.violations == 0)
    }
}

//! Real hosts, real guests, real agents: how a cluster levels itself.

mod support;

use std::time::Duration;

use evenkeel_core::decision::{Reason, Role};
use evenkeel_core::select::Calm;
use evenkeel_lab::{GuestSpec, HostSpec, Weights};
use support::records::{assert_agreed, assert_nearest, moves};
use support::{Cluster, LIMIT, balance};

const ROUND: Duration = Duration::from_secs(1);
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.03, gain_min: 0.05 };
/// So many exchanges in a row without a move are rest.
const QUIET: usize = 5;

fn hosts(count: usize) -> Vec<HostSpec> {
    let weights = Some(Weights { cpu: 4.0, memory: 1.0, io: 1.0 });
    let mut hosts = support::alike(count, 0.8);
    hosts.iter_mut().for_each(|host| (host.weights, host.memory_mib) = (weights, 1024));
    hosts
}

/// Whether no host has moved anything in its newest exchanges, and none is at it.
fn is_quiet(cluster: &Cluster) -> bool {
    let idle = cluster.statuses().iter().all(|s| s.handoffs.is_empty());
    let calm = |host: &String| {
        let records = cluster.decisions_of(host);
        let newest = records.iter().rev().take(QUIET);
        records.len() >= QUIET && newest.clone().all(|d| d.handoff.is_none())
    };
    idle && cluster.hosts().iter().all(calm)
}

/// Whether every pair of hosts is as close together as dead band and smallest machine allow.
fn is_balanced(cluster: &Cluster) -> Option<()> {
    let statuses = cluster.statuses();
    let hosts: Option<Vec<_>> = statuses
        .iter()
        .map(|s| Some((s.load?, s.machines.iter().filter_map(|m| m.load).fold(f64::MAX, f64::min))))
        .collect();
    let hosts = hosts.filter(|hosts| hosts.len() == cluster.hosts().len())?;
    let close = |(high, smallest): &(f64, f64), low: f64| {
        let mean = f64::midpoint(*high, low);
        let band = (CALM.dead_band * mean).max(CALM.difference_min);
        high - low <= band.max(smallest + CALM.gain_min * mean / 2.0)
    };
    let all = hosts.iter().all(|high| hosts.iter().all(|low| close(high, low.0)));
    all.then_some(())
}

#[test]
fn guests_skewed_onto_one_host_end_balanced_by_machines_nearest_to_half_the_difference() {
    let burns = [110, 90, 70, 50, 40, 30];
    let names: Vec<_> = (1..=burns.len()).map(|n| format!("vm{n}")).collect();
    let guest = |(name, burn): (&String, u32)| GuestSpec::new(name, "h1", burn);
    let guests = names.iter().zip(burns).map(guest).collect();
    let cluster = Cluster::up(hosts(3), guests, &balance(ROUND, &CALM));

    cluster.until(LIMIT, "balance and rest", |c| is_balanced(c).filter(|()| is_quiet(c)));

    let decisions = cluster.decisions();
    let given = moves(&decisions, Role::Donor);
    let first = given[0];
    let skew = first.pair.expect("both loads are known");
    assert_eq!(first.host.as_str(), "h1", "only the first host had anything to give");
    assert!(skew.donor > 0.2 && skew.receiver < 0.02, "{skew:?} is no skew");
    for decision in &given {
        assert_nearest(decision, &CALM);
        assert_agreed(decision, &decisions);
    }
    let failed = decisions.iter().filter(|d| d.handoff.is_some() && d.ending != Reason::Moved);
    assert_eq!(failed.count(), 0);
    for host in cluster.hosts() {
        assert!(!cluster.domains(host).is_empty(), "nothing ended on {host}");
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    cluster.assert_unharmed(&names);
}

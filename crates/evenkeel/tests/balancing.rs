//! Real hosts, real guests, real agents: how a cluster levels itself.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_core::decision::{Reason, Role};
use evenkeel_core::select::Calm;
use evenkeel_lab::GuestSpec;
use support::records::{assert_agreed, assert_nearest, moves};
use support::{Cluster, LIMIT, balance, balance_by_default, cpu_hosts, idle};

const ROUND: Duration = Duration::from_secs(1);
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.03, gain_min: 0.05 };
/// So many exchanges in a row without a move are rest.
const QUIET: usize = 5;

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

/// Claims 1, 3, 5, 14, 16, 19, 23, 24, 26, 28.
#[test]
fn guests_skewed_onto_one_host_end_balanced_by_machines_nearest_to_half_the_difference() {
    let burns = [110, 90, 70, 50, 40, 30];
    let names: Vec<_> = (1..=burns.len()).map(|n| format!("vm{n}")).collect();
    let guest = |(name, burn): (&String, u32)| GuestSpec::new(name, "h1", burn);
    let guests = names.iter().zip(burns).map(guest).collect();
    let cluster = Cluster::up(cpu_hosts(3), guests, &balance(ROUND, &CALM));

    cluster.until(LIMIT, "balance and rest", |c| is_balanced(c).filter(|()| c.is_quiet(QUIET)));

    let decisions = cluster.decisions();
    let given = moves(&decisions, Role::Source);
    let skew = given[0].pair.expect("both loads are known");
    assert_eq!(given[0].host.as_str(), "h1", "only the first host had anything to give");
    assert!(skew.donor > 0.1 && skew.receiver < 0.02, "{skew:?} is no skew");
    for decision in &given {
        assert_nearest(decision, &CALM);
        assert_agreed(decision, &decisions);
    }
    // The other host is there before any machine is considered.
    assert!(
        decisions.iter().all(|d| d.candidates.is_empty() || d.peer.is_some() && d.pair.is_some())
    );
    assert!(decisions.iter().any(|d| d.peer.is_some() && d.candidates.is_empty()));
    let failed = decisions.iter().filter(|d| d.handoff.is_some() && d.ending != Reason::Moved);
    assert_eq!(failed.count(), 0);
    for host in cluster.hosts() {
        assert!(!cluster.domains(host).is_empty(), "nothing ended on {host}");
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    cluster.assert_unharmed(&names);
}

/// The two hosts are loaded in turn until the donor was once the host that had asked, and once the
/// one that was asked. Each is as likely: that one of them is still missing after so many turns has
/// a probability of 2⁻²³.
#[test]
fn either_side_of_a_pair_can_turn_out_to_be_the_donor() {
    const TURNS: usize = 24;
    let names = ["a", "b", "c"];
    let guests = names.iter().map(|name| idle(name, "h1")).collect();
    let cluster = Cluster::up(cpu_hosts(2), guests, &balance(ROUND, &CALM));

    let mut donors = BTreeSet::new();
    let mut sides = BTreeSet::new();
    for turn in 0..TURNS {
        let known = moves(&cluster.decisions(), Role::Source).len();
        let has = |host: &str| cluster.domains(host);
        let (busy, calm) = if has("h1").len() >= 2 { ("h1", "h2") } else { ("h2", "h1") };
        has(calm).iter().for_each(|guest| cluster.set_burn(guest, 0));
        has(busy).iter().for_each(|guest| cluster.set_burn(guest, 150));
        let what = format!("a move from {busy} in turn {turn}");
        cluster.until(LIMIT, &what, |c| {
            let decisions = c.decisions();
            let moves = moves(&decisions, Role::Source);
            moves[known..].iter().any(|d| d.host.as_str() == busy).then_some(())
        });
        let decisions = cluster.decisions();
        for decision in moves(&decisions, Role::Source) {
            assert_nearest(decision, &CALM);
            assert_agreed(decision, &decisions);
            donors.insert(decision.host.clone());
            sides.insert(decision.initiator == decision.host);
        }
        if donors.len() == 2 && sides.len() == 2 {
            break;
        }
    }
    assert_eq!((donors.len(), sides.len()), (2, 2), "donors {donors:?}, donor asked: {sides:?}");
    cluster.assert_unharmed(&names);
}

/// The default. The three largest of six machines are the fewest that have to go; on a machine that
/// is busy with other things two more may seem worth it, but none moves twice.
#[test]
fn hosts_that_know_the_mean_level_themselves_with_few_moves() {
    let calm = Calm { difference_min: 0.03, ..Calm::default() };
    let burns = [110, 90, 70, 50, 40, 30];
    let guest = |(n, burn): (usize, &u32)| GuestSpec::new(&format!("vm{n}"), "h1", *burn);
    let guests = burns.iter().enumerate().map(guest).collect();
    let cluster = Cluster::up(cpu_hosts(3), guests, &balance_by_default(ROUND, &calm));

    cluster.until(LIMIT, "moves and rest", |c| {
        let moved = !moves(&c.decisions(), Role::Source).is_empty();
        (moved && c.is_quiet(2)).then_some(())
    });

    let decisions = cluster.decisions();
    let given = moves(&decisions, Role::Source);
    let moved: BTreeSet<_> = given.iter().filter_map(|d| d.chosen()).map(|c| &c.machine).collect();
    assert!((2..=5).contains(&given.len()), "{} moves", given.len());
    assert_eq!(moved.len(), given.len(), "a machine moved twice");
    for decision in &given {
        assert_agreed(decision, &decisions);
        let predicted = decision.predicted.expect("a migration is predicted");
        assert!(predicted.bytes > 0.0 && decision.stats.is_some_and(|stats| stats.bytes > 0));
    }
    let loads: Option<Vec<_>> = cluster.statuses().iter().map(|s| s.load).collect();
    let loads = loads.expect("every load is known");
    let mean = loads.iter().sum::<f64>() / 3.0;
    assert!(loads.iter().all(|load| *load < 1.6 * mean), "{loads:?}");
}

//! The claims that the system answers to, in simulation. The numbers are those of `docs/claims.md`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeMap;

use common::*;
use evenkeel_core::balancer::Config;
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::load::Basis;
use evenkeel_core::message::{Message, Talk};
use evenkeel_core::model::{Entry, Epoch, HostId, PerResource, Weights};
use evenkeel_core::port::Presence;
use evenkeel_sim::{Cluster, HostSpec, What};

fn moved(cluster: &Cluster, role: Role) -> Vec<&Decision> {
    let moved = |d: &&Decision| d.ending == Reason::Moved && d.role == Some(role);
    cluster.records().iter().filter(moved).collect()
}

/// Claims 1, 14, 23, 24: every host detects by itself that it carries more than another one, and
/// migrates machines to it because of it.
#[test]
fn an_overloaded_host_sheds_its_load_by_itself() {
    let mut cluster = crowded(1, 3, &eager(), &[2.0, 1.5, 1.5, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]);
    cluster.run_until(at(5));
    let mean = loads(&cluster).iter().sum::<f64>() / 3.0;
    assert!(loads(&cluster)[0] > 2.0 * mean);
    cluster.run_until(at(600));
    let after = loads(&cluster);
    assert!(after.iter().all(|load| (load - mean).abs() < 0.15 * mean), "{after:?}");
    assert!(moved(&cluster, Role::Source).iter().all(|d| d.pair.unwrap().difference() > 0.0));
    assert_sound(&mut cluster);
}

/// Claims 2, 15, 25: a machine that was migrated runs on when its first host is lost.
#[test]
fn a_migrated_machine_outlives_the_host_it_came_from() {
    let mut cluster = crowded(2, 2, &eager(), &[2.0, 2.0]);
    cluster.run_while(at(600), |c| moved(c, Role::Target).is_empty());
    let machine = moved(&cluster, Role::Target)[0].chosen().unwrap().machine.clone();
    cluster.power_off(&host_id(0)).unwrap();
    let ran = |c: &mut Cluster| {
        let host = c.balancer(&host_id(1)).unwrap().host().view.machines()[&machine].measured();
        host.unwrap().cpu_cores
    };
    let end = cluster.now() + std::time::Duration::from_secs(60);
    cluster.run_until(end);
    let (host, presence) = cluster.cloud().locate(&machine).unwrap();
    assert_eq!((host, presence), (&host_id(1), Presence::Running));
    assert!((ran(&mut cluster) - 2.0).abs() < 0.01);
    assert_sound(&mut cluster);
}

/// Claims 3, 16, 26: the other host is selected first, the machine afterwards.
#[test]
fn the_host_is_chosen_before_the_machine() {
    let mut cluster = crowded(3, 4, &eager(), &[1.0; 12]);
    cluster.keep_log();
    cluster.run_until(at(300));
    let mut inquired = BTreeMap::new();
    let mut offers = 0;
    for line in cluster.log() {
        match &line.what {
            What::Said(to, Message::Exchange(id, Talk::Inquire(..))) => {
                inquired.insert(*id, (line.host.clone(), to.clone()));
            }
            What::Said(to, Message::Exchange(id, Talk::Offer { .. })) => {
                let (initiator, peer) = &inquired[id];
                let pair = [initiator, peer];
                assert!(pair.contains(&&line.host) && pair.contains(&to));
                offers += 1;
            }
            _ => {}
        }
    }
    assert!(offers > 5);
}

/// How often each host asked each other one.
fn inquiries(cluster: &Cluster) -> BTreeMap<(HostId, HostId), u64> {
    let mut counts = BTreeMap::new();
    for decision in cluster.records().iter().filter(|d| d.host == d.initiator) {
        if let Some(peer) = &decision.peer {
            *counts.entry((decision.host.clone(), peer.clone())).or_default() += 1;
        }
    }
    counts
}

/// Claims 4, 17, 27: the other host is drawn at random. A χ² test per host over the recorded
/// inquiries, and one that whom a host asks does not depend on whom it asked before.
#[test]
fn the_other_host_is_drawn_at_random() {
    let hosts = 6;
    let mut cluster = crowded(4, hosts, &eager(), &[]);
    cluster.run_until(at(20_000));
    let counts = inquiries(&cluster);
    // 99.9 % quantile of χ² with four degrees of freedom, for each of six hosts.
    let limit = 18.47;
    for host in 0..hosts {
        let of_host: Vec<u64> = (0..hosts)
            .filter(|&peer| peer != host)
            .map(|peer| counts.get(&(host_id(host), host_id(peer))).copied().unwrap_or(0))
            .collect();
        let total: u64 = of_host.iter().sum();
        assert!(total > 1000, "only {total} inquiries of host {host}");
        let expected = total as f64 / (hosts - 1) as f64;
        let chi2: f64 = of_host.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
        assert!(chi2 < limit, "χ² {chi2:.1} for host {host}: {of_host:?}");
    }
    let asked = cluster.records().iter().filter(|d| d.host == host_id(0) && d.initiator == d.host);
    let asked: Vec<_> = asked.filter_map(|d| d.peer.clone()).collect();
    let repeats = asked.windows(2).filter(|w| w[0] == w[1]).count() as f64;
    let (n, p) = ((asked.len() - 1) as f64, 1.0 / (hosts - 1) as f64);
    let sigmas = (repeats - n * p).abs() / (n * p * (1.0 - p)).sqrt();
    assert!(sigmas < 3.5, "{repeats} repeats of {n}");
}

/// Claim 18: every host compares periodically, each by its own timer.
#[test]
fn every_host_asks_in_its_own_time() {
    let config = eager();
    let mut cluster = crowded(5, 5, &config, &[]);
    cluster.run_until(at(2000));
    let mut phases = Vec::new();
    for host in 0..5 {
        let own = |d: &&Decision| d.host == host_id(host) && d.initiator == d.host;
        let began: Vec<_> = cluster.records().iter().filter(own).map(|d| d.began).collect();
        let (low, high) = (config.round.mul_f64(0.74), config.round.mul_f64(1.26));
        let gaps = began.windows(2).map(|w| w[1].since(w[0]));
        // A round passes without an inquiry where the host is being asked itself.
        let regular = gaps.clone().filter(|gap| (low..high).contains(gap)).count();
        assert!(
            regular * 10 > began.len() * 9 && began.len() > 180,
            "{} of host {host}",
            began.len()
        );
        phases.push(began[0]);
    }
    phases.dedup();
    assert_eq!(phases.len(), 5, "hosts act at the same time");
}

/// Claims 5, 19, 28: the machine migrated is the one whose load is nearest to half the difference.
#[test]
fn the_machine_moved_is_nearest_to_half_the_difference() {
    for seed in 0..10 {
        let cpus: Vec<f64> =
            (1..30).map(|i| 0.05 * f64::from((i * 7 + seed as i32) % 31)).collect();
        let mut cluster = crowded(seed, 5, &eager(), &cpus);
        cluster.run_until(at(900));
        let moves = moved(&cluster, Role::Source);
        assert!(moves.len() > 8, "only {} moves", moves.len());
        for decision in moves {
            let (pair, chosen) = (decision.pair.unwrap(), decision.chosen().unwrap());
            let load = |c: &evenkeel_core::decision::Judged| {
                Some(f64::midpoint(c.at_donor?, c.at_receiver?))
            };
            let distance = (load(chosen).unwrap() - pair.wanted()).abs();
            for other in decision.candidates.iter().filter(|c| c.verdict == Reason::Farther) {
                let farther = (load(other).unwrap() - pair.wanted()).abs();
                assert!(distance <= farther + 1e-12, "{decision:?}");
            }
        }
        assert_sound(&mut cluster);
    }
}

/// Claims 6, 29: a machine's load is what was measured on the host that runs it.
#[test]
fn an_actual_load_is_what_was_measured() {
    let mut cluster = crowded(6, 2, &eager(), &[2.0]);
    cluster.run_until(at(30));
    let measured = loads(&cluster)[0];
    let expected = (2.0 / 16.0 + 2.0 / 128.0 + 2e7 / 1e9) / 3.0;
    assert!((measured - expected).abs() < 1e-6, "{measured} is not {expected}");
}

/// Claims 7, 30: a machine's load is the target programmed for it, whatever it really uses.
#[test]
fn a_target_load_counts_instead_of_what_is_measured() {
    let mut cluster = cluster(7, 2, &eager());
    for (name, target) in [("idle-a", Some(0.3)), ("idle-b", Some(0.3)), ("busy", None)] {
        let mut facts = facts(name, 1.0);
        facts.entry = Ok(Entry { target_load: target, ..Entry::default() });
        let cpu = if target.is_some() { 0.0 } else { 0.4 };
        cluster.place(&host_id(0), facts, work(cpu, 1.0, 0.0)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster.run_until(at(300));
    let first = moved(&cluster, Role::Source)[0].chosen().unwrap().clone();
    assert!(first.name.starts_with("idle"), "{first:?}");
    assert_eq!(first.basis, Some(Basis::Target));
    assert!((first.at_donor.unwrap() - 0.3).abs() < 1e-9);
    assert_ne!(home(&cluster, "idle-a"), home(&cluster, "idle-b"));
    let moved_to = home(&cluster, &first.name);
    let host = cluster.balancer(&moved_to).unwrap().host();
    let entry = host.view.machines()[&first.machine].entry().unwrap();
    assert!((entry.target_load.unwrap() - 0.3).abs() < 1e-9, "the target load travels along");
}

/// Claims 8, 20, 31: unlike hosts weigh the same machine differently; both prices are exchanged, are
/// the same in both hosts' records, and the selection is made with both.
#[test]
fn unlike_hosts_select_with_both_prices() {
    let mut cluster = Cluster::new(8);
    for index in 0..2 {
        let mut profile = profile(index);
        if index == 1 {
            profile.capacity.cpu_cores *= 2.0;
            profile.weights = Weights::new(PerResource { cpu: 1.0, memory: 3.0, io: 0.0 }).unwrap();
        }
        cluster.add_host(HostSpec::new(profile, eager())).unwrap();
    }
    for index in 0..8 {
        let (cpu, memory) = (0.3 * f64::from(index + 1), f64::from(9 - index));
        let facts = facts(&format!("v{index}"), memory);
        cluster.place(&host_id(0), facts, work(cpu, memory, 0.0)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster.run_until(at(600));
    let given = moved(&cluster, Role::Source);
    let taken = moved(&cluster, Role::Target);
    assert!(!given.is_empty() && given.len() == taken.len());
    for (given, taken) in given.iter().zip(taken) {
        let theirs = cluster
            .records()
            .iter()
            .find(|d| d.exchange == given.exchange && d.role == Some(Role::Target));
        let (a, b) = (given.chosen().unwrap(), theirs.unwrap().chosen().unwrap());
        assert_eq!((a.at_donor, a.at_receiver), (b.at_donor, b.at_receiver));
        assert!((a.at_donor.unwrap() - a.at_receiver.unwrap()).abs() > 1e-4, "{a:?}");
        assert_eq!(given.pair.is_some(), taken.pair.is_some());
    }
    assert_sound(&mut cluster);
}

/// Claims 9–12, 21, 32: a load is the weighted sum of CPU time, memory occupied and I/O activity.
#[test]
fn a_load_is_a_weighted_combination_of_three_resources() {
    for (weights, expected) in [
        ((1.0, 0.0, 0.0), 4.0 / 16.0),
        ((0.0, 1.0, 0.0), 8.0 / 128.0),
        ((0.0, 0.0, 1.0), 0.2),
        ((2.0, 1.0, 1.0), 0.5 * 0.25 + 0.25 * 0.0625 + 0.25 * 0.2),
    ] {
        let mut cluster = Cluster::new(9);
        let mut profile = profile(0);
        let (cpu, memory, io) = weights;
        profile.weights = Weights::new(PerResource { cpu, memory, io }).unwrap();
        cluster.add_host(HostSpec::new(profile, eager())).unwrap();
        cluster.place(&host_id(0), facts("v", 8.0), work(4.0, 8.0, 2e8)).unwrap();
        cluster.start();
        cluster.run_until(at(60));
        let load = loads(&cluster)[0];
        assert!((load - expected).abs() < 1e-6, "{load} with {weights:?}");
    }
}

/// Claims 13, 22, 33: migrating deletes the entry from one schedule and inserts it into the other,
/// one epoch on.
#[test]
fn migrating_deletes_the_entry_here_and_inserts_it_there() {
    let mut cluster = crowded(10, 2, &eager(), &[1.0, 1.0]);
    cluster.run_until(at(5));
    let entry = |cluster: &Cluster, host: usize, machine: &str| -> Option<Entry> {
        let host = host_id(host);
        let mut all = cluster.cloud().machines_on(&host).map(|(facts, _)| facts);
        all.find(|m| m.id == machine_id(machine)).and_then(|m| m.entry.clone().ok())
    };
    assert_eq!(entry(&cluster, 0, "v000").unwrap().epoch, Epoch(0));
    cluster.run_until(at(300));
    let moved = moved(&cluster, Role::Source)[0].chosen().unwrap().name.clone();
    assert_eq!(entry(&cluster, 0, &moved), None);
    let inserted = entry(&cluster, 1, &moved).unwrap();
    assert_eq!(inserted.epoch, Epoch(1));
    assert_eq!(inserted.last_move.unwrap().from, host_id(0));
    assert_sound(&mut cluster);
}

/// Either host of a pair can turn out to be the one that gives, whoever asked.
#[test]
fn either_side_can_be_the_donor() {
    let (mut asked, mut was_asked) = (0, 0);
    for seed in 0..20 {
        let mut cluster = crowded(seed, 2, &eager(), &[1.0, 1.0]);
        cluster.run_until(at(100));
        for decision in moved(&cluster, Role::Source) {
            if decision.initiator == decision.host { asked += 1 } else { was_asked += 1 }
        }
        assert_sound(&mut cluster);
    }
    assert!(asked >= 4 && was_asked >= 4, "donor asked {asked}, was asked {was_asked}");
}

/// An idle cluster moves nothing, also with the calm that is the default.
#[test]
fn an_idle_cluster_moves_nothing() {
    for config in [eager(), Config::default()] {
        let mut cluster = cluster(11, 4, &config);
        for index in 0..8 {
            let facts = facts(&format!("v{index}"), 0.001);
            cluster.place(&host_id(index % 4), facts, work(0.0, 0.001, 0.0)).unwrap();
        }
        cluster.keep_records();
        cluster.start();
        cluster.run_until(at(3600));
        assert_eq!(cluster.tally().migrations, 0);
        assert!(cluster.records().len() > 50);
    }
}

//! One thing in a cluster is broken: everything else goes on. See `docs/field.md`.
//!
//! Each test runs a few seeds. `FIRST` and `SEEDS` in the environment run others: see `scripts/field`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use common::*;
use evenkeel_core::balancer::Config;
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::effect::{Input, MoveOrder};
use evenkeel_core::model::{HostId, HostState, MachineFacts, MoveId};
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_core::restraint::Restraint;
use evenkeel_hypervisor::memory::{Aftermath, Fault};
use evenkeel_sim::Cluster;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Which seeds to run.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
    };
    let first = number("FIRST", 0);
    first..first + number("SEEDS", 2)
}

fn fault(words: &str, after: f64) -> Fault {
    let failure = Failure::new(FailureKind::Other, words);
    Fault { failure, after, leaves: Aftermath::Here }
}

fn config() -> Config {
    Config { restraint: Restraint::default(), ..mean_aware() }
}

/// Eight hosts, all machines on the first three of them.
fn lopsided(seed: u64) -> (Cluster, ChaCha8Rng) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = cluster(seed, 8, &config());
    for index in 0..36 {
        let (cpu, gib) = (rng.random_range(0.2..1.5), rng.random_range(1.0..6.0));
        let facts = facts(&format!("v{index:03}"), gib);
        cluster.place(&host_id(index % 3), facts, work(cpu, gib * 0.8, 1e6)).unwrap();
    }
    cluster.keep_records();
    cluster.keep_log();
    cluster.start();
    (cluster, rng)
}

fn failed(cluster: &Cluster) -> Vec<&Decision> {
    let failed = |d: &&Decision| d.ending == Reason::MigrationFailed && d.role == Some(Role::Donor);
    cluster.records().iter().filter(failed).collect()
}

fn count(cluster: &Cluster, host: &HostId) -> usize {
    cluster.cloud().machines_on(host).count()
}

/// Loads of all hosts but these: how far the highest is above their mean.
fn excess(cluster: &Cluster, but: &[HostId]) -> f64 {
    let hosts = cluster.hosts().filter(|host| !but.contains(host));
    let load = |id| cluster.balancer(id).unwrap().host().load(cluster.now()).unwrap();
    let loads: Vec<f64> = hosts.map(load).collect();
    let mean = loads.iter().sum::<f64>() / loads.len() as f64;
    loads.iter().copied().fold(0.0, f64::max) - mean
}

/// Whether a machine is kept for its failures.
fn quarantined(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for host in cluster.hosts() {
        let balancer = cluster.balancer(host).unwrap();
        for (facts, _) in cluster.cloud().machines_on(host) {
            let explained = balancer.explain(&facts.id, cluster.now()).unwrap();
            if explained.reasons.iter().any(|why| why.code == Reason::Quarantined) {
                found.push(format!("{} on {host}", facts.id));
            }
        }
    }
    found
}

#[test]
fn a_host_that_refuses_everything_is_left_out_and_the_others_level() {
    for seed in seeds() {
        let (mut cluster, mut rng) = lopsided(seed);
        let bad = host_id(rng.random_range(3..8));
        let after = if seed % 2 == 0 { 0.0 } else { 0.9 };
        cluster.cloud_mut().fail_arrivals_at(&bad, Some(fault("the same UUID", after))).unwrap();
        cluster.run_until(at(3600));
        let context = format!("seed {seed}, bad is {bad}");
        assert_eq!(count(&cluster, &bad), 0, "{context}");
        // Hosts with something to give: two failures and one a pause each, were they alone. A host that
        // refuses itself ends it after the first few.
        let failures = failed(&cluster).len();
        assert!((2..=12).contains(&failures), "{context}: {failures} failures");
        assert_eq!(quarantined(&cluster), Vec::<String>::new(), "{context}");
        assert!(excess(&cluster, &[bad]) < 0.05, "{context}: {:?}", loads(&cluster));
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_host_that_was_left_out_is_filled_once_it_is_mended() {
    for seed in seeds() {
        let (mut cluster, mut rng) = lopsided(seed);
        let bad = host_id(rng.random_range(3..8));
        cluster.cloud_mut().fail_arrivals_at(&bad, Some(fault("full", 0.0))).unwrap();
        cluster.run_until(at(1800));
        assert_eq!(count(&cluster, &bad), 0, "seed {seed}");
        cluster.cloud_mut().fail_arrivals_at(&bad, None).unwrap();
        cluster.run_until(at(4 * 3600));
        assert!(count(&cluster, &bad) > 0, "seed {seed}: {bad} takes nothing");
        for host in cluster.hosts() {
            let balancer = cluster.balancer(host).unwrap().host();
            assert_eq!(balancer.left_out(cluster.now()).count(), 0, "seed {seed}: {host}");
        }
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_drain_past_a_host_that_refuses_everything_ends() {
    for seed in seeds() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut cluster = cluster(seed, 3, &config());
        for index in 0..8 {
            let facts = facts(&format!("v{index:03}"), rng.random_range(1.0..6.0));
            cluster.place(&host_id(0), facts, work(0.3, 1.0, 1e6)).unwrap();
        }
        cluster.keep_records();
        cluster.keep_log();
        cluster.start();
        cluster.cloud_mut().fail_arrivals_at(&host_id(2), Some(fault("full", 0.0))).unwrap();
        cluster.run_until(at(60));
        cluster.input(&host_id(0), Input::SetState(HostState::Draining));
        cluster.run_while(at(300), |c| count(c, &host_id(0)) > 0);
        assert_eq!(count(&cluster, &host_id(0)), 0, "seed {seed}");
        assert!(failed(&cluster).len() <= 3, "seed {seed}: {}", failed(&cluster).len());
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_machine_that_fails_everywhere_is_left_alone_and_no_host_is() {
    for seed in seeds() {
        let (mut cluster, _) = lopsided(seed);
        let bad = machine_id("v001");
        cluster.cloud_mut().fail_migrations_of(&bad, Some(fault("shared memory", 0.5))).unwrap();
        cluster.run_until(at(3600));
        let failures = failed(&cluster).len();
        assert!(failures <= 5, "seed {seed}: {failures}");
        for host in cluster.hosts() {
            let balancer = cluster.balancer(host).unwrap().host();
            assert_eq!(balancer.left_out(cluster.now()).count(), 0, "seed {seed}: {host}");
        }
        assert!(excess(&cluster, &[]) < 0.05, "seed {seed}: {:?}", loads(&cluster));
        assert_sound(&mut cluster);
    }
}

#[test]
fn an_order_to_any_host_goes_on_to_another_one_where_one_fails() {
    let mut cluster = crowded(1, 3, &config(), &[1.0]);
    // The roomiest fails.
    cluster.place(&host_id(1), staying("s"), work(2.0, 1.0, 1e6)).unwrap();
    cluster.cloud_mut().fail_arrivals_at(&host_id(2), Some(fault("full", 0.0))).unwrap();
    cluster.run_until(at(30));
    let order = MoveOrder { id: MoveId(1), machine: machine_id("v000"), to: None };
    cluster.input(&host_id(0), Input::Migrate(order));
    cluster.run_until(at(120));
    assert_eq!(home(&cluster, "v000"), host_id(1));
    let moves: Vec<_> = cluster.balancer(&host_id(0)).unwrap().directed().cloned().collect();
    assert_eq!(moves[0].refusals[0].0, host_id(2), "{moves:?}");
    assert_eq!(failed(&cluster).len(), 1);
    assert_sound(&mut cluster);
}

#[test]
fn an_order_to_any_host_ends_with_the_hypervisors_words_where_all_fail() {
    let mut cluster = crowded(1, 3, &config(), &[1.0]);
    for host in [1, 2] {
        cluster.cloud_mut().fail_arrivals_at(&host_id(host), Some(fault("full", 0.0))).unwrap();
    }
    cluster.run_until(at(30));
    let order = MoveOrder { id: MoveId(1), machine: machine_id("v000"), to: None };
    cluster.input(&host_id(0), Input::Migrate(order));
    cluster.run_until(at(120));
    let directed = cluster.balancer(&host_id(0)).unwrap().directed().next().unwrap();
    let evenkeel_core::balancer::Stage::Ended(outcome) = &directed.stage else { panic!() };
    assert_eq!(outcome.ending, Reason::MigrationFailed);
    assert!(outcome.detail.contains("full"), "{outcome:?}");
    assert_eq!(failed(&cluster).len(), 2);
}

/// A machine that nobody moves.
fn staying(name: &str) -> MachineFacts {
    with_rules(name, evenkeel_core::model::Rules { ignore: true, ..Default::default() })
}

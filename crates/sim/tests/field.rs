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
use evenkeel_core::port::{Failure, FailureKind, Presence};
use evenkeel_core::restraint::Restraint;
use evenkeel_hypervisor::memory::{Aftermath, Fault, Workload};
use evenkeel_sim::plan::{Options, plan};
use evenkeel_sim::snapshot::Snapshot;
use evenkeel_sim::{Cluster, Hindrance};
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
    furnished(cluster(seed, 8, &config()), seed)
}

fn furnished(mut cluster: Cluster, seed: u64) -> (Cluster, ChaCha8Rng) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
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
    let failed =
        |d: &&Decision| d.ending == Reason::MigrationFailed && d.role == Some(Role::Source);
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

#[test]
fn a_guest_that_hangs_stays_alone_and_its_host_is_levelled_and_drained() {
    for seed in seeds() {
        let (mut cluster, mut rng) = lopsided(seed);
        cluster.run_until(at(30));
        let hung = machine_id(&format!("v{:03}", 3 * rng.random_range(0..12)));
        cluster.cloud_mut().hang(&hung, true).unwrap();
        cluster.run_until(at(3600));
        let (host, _) = cluster.cloud().locate(&hung).unwrap();
        let host = host.clone();
        assert!(excess(&cluster, &[]) < 0.06, "seed {seed}: {:?}", loads(&cluster));
        cluster.input(&host, Input::SetState(HostState::Draining));
        cluster.run_while(at(4200), |c| count(c, &host) > 1);
        let left: Vec<_> = cluster.cloud().machines_on(&host).map(|(m, _)| m.id.clone()).collect();
        assert_eq!(left, std::slice::from_ref(&hung), "seed {seed}");
        let drain = cluster.balancer(&host).unwrap().drain(cluster.now()).unwrap();
        let said: Vec<_> = drain.staying.iter().map(|l| (&l.machine, l.reason)).collect();
        assert_eq!(said, [(&hung, Reason::UnknownLoad)], "seed {seed}");
        // It answers again, and goes as well.
        cluster.cloud_mut().hang(&hung, false).unwrap();
        cluster.run_while(at(4800), |c| count(c, &host) > 0);
        assert_eq!(count(&cluster, &host), 0, "seed {seed}");
        assert_sound(&mut cluster);
    }
}

#[test]
fn machines_on_a_file_server_that_is_gone_stay_and_all_others_are_levelled() {
    for seed in seeds() {
        let (mut cluster, mut rng) = lopsided(seed);
        cluster.run_until(at(30));
        let on_it: Vec<_> = (0..36)
            .filter(|_| rng.random_bool(0.25))
            .map(|index| machine_id(&format!("v{index:03}")))
            .collect();
        for machine in &on_it {
            cluster.cloud_mut().hang(machine, true).unwrap();
        }
        let before: Vec<_> =
            on_it.iter().map(|m| cluster.cloud().locate(m).unwrap().0.clone()).collect();
        cluster.run_until(at(3600));
        // Those that were on their way when it went may have arrived.
        let moved = on_it.iter().zip(&before);
        let moved = moved.filter(|(m, host)| cluster.cloud().locate(m).unwrap().0 != *host).count();
        assert!(moved <= 4, "seed {seed}: {moved} of {} moved", on_it.len());
        assert!(on_it.iter().all(|m| cluster.cloud().locate(m).unwrap().1 == Presence::Running));
        // What hangs stays where it is, and may be more than its host's share by itself.
        let mean = loads(&cluster).iter().sum::<f64>() / 8.0;
        for host in cluster.hosts().cloned().collect::<Vec<_>>() {
            let own = cluster.balancer(&host).unwrap().host();
            let machines = || own.view.machines().iter();
            let sound = machines().filter(|(id, _)| !on_it.contains(id));
            let sound = sound.filter_map(|(_, m)| Some(own.profile.price(&m.measured().ok()?)));
            let (load, sound) = (own.load(cluster.now()).unwrap(), sound.sum::<f64>());
            assert!(load < mean + 0.08 || sound < 0.06, "seed {seed}: {host} {load} {sound}");
        }
        assert_sound(&mut cluster);
    }
}

/// Two hosts, or three, and machines that take longer over the link than a migration may.
fn one_gigabit(small: usize) -> Cluster {
    let mut cluster = Cluster::new(1);
    for index in 0..4 {
        let mut profile = profile(index);
        profile.capacity.memory_bytes = 512.0 * GIB;
        let mut host = evenkeel_sim::HostSpec::new(profile, config());
        host.hypervisor.link_bytes_per_s = 117e6;
        cluster.add_host(host).unwrap();
    }
    for (host, number, cpu) in [(0, 5, 2.0), (1, 2, 1.0)] {
        for index in 0..number {
            let facts = facts(&format!("db{host}{index}"), 80.0);
            let work = Workload { dirty_bytes_per_s: 1e7, ..work(cpu, 80.0, 1e6) };
            cluster.place(&host_id(host), facts, work).unwrap();
        }
    }
    for index in 0..small {
        let facts = facts(&format!("small{index:02}"), 4.0);
        cluster.place(&host_id(0), facts, work(0.5, 4.0, 1e6)).unwrap();
    }
    cluster.keep_records();
    cluster.keep_log();
    cluster.start();
    cluster
}

fn too_long(cluster: &Cluster) -> usize {
    let aborted =
        |d: &&Decision| d.ending == Reason::MigrationTooLong && d.role == Some(Role::Source);
    cluster.records().iter().filter(aborted).count()
}

#[test]
fn two_aborts_teach_a_host_what_its_link_carries_and_the_machine_is_left_alone() {
    for small in [0, 12] {
        let mut cluster = one_gigabit(small);
        cluster.run_until(at(12 * 3600));
        // Each host that gives learns by its own migrations.
        assert!(too_long(&cluster) <= 4, "{small} small: {} aborts", too_long(&cluster));
        let explained =
            cluster.balancer(&host_id(0)).unwrap().explain(&machine_id("db00"), cluster.now());
        let why = &explained.unwrap().reasons[0];
        assert_eq!(why.code, Reason::NotConverging, "{small} small: {why:?}");
        assert!(why.detail.contains("117 MB/s"), "{why:?}");
        let gone = (0..small).filter(|i| home(&cluster, &format!("small{i:02}")) != host_id(0));
        assert!(gone.count() >= small / 3, "small machines go on moving");
        assert_sound(&mut cluster);
    }
}

#[test]
fn one_host_with_a_slow_link_does_not_stand_for_all() {
    for seed in seeds() {
        let slow = host_id(7);
        let mut hosts = cluster(seed, 7, &config());
        let mut spec = evenkeel_sim::HostSpec::new(profile(7), config());
        spec.hypervisor.link_bytes_per_s = 1.25e6;
        hosts.add_host(spec).unwrap();
        let (mut cluster, _) = furnished(hosts, seed);
        cluster.run_until(at(3 * 3600));
        assert!(
            excess(&cluster, std::slice::from_ref(&slow)) < 0.06,
            "seed {seed}: {:?}",
            loads(&cluster)
        );
        // Each of the seven others learns it by one try at most.
        assert!(too_long(&cluster) <= 7, "seed {seed}: {}", too_long(&cluster));
        assert_sound(&mut cluster);
    }
}

/// Two hosts of 64 GiB with seven and eight machines that were promised 8 GiB each and use 2.5.
fn overcommitted(ceiling: f64) -> Cluster {
    let mut config = config();
    config.ceilings.0.memory = ceiling;
    let mut cluster = Cluster::new(1);
    for index in 0..2 {
        let mut profile = profile(index);
        profile.capacity.memory_bytes = 64.0 * GIB;
        cluster.add_host(evenkeel_sim::HostSpec::new(profile, config.clone())).unwrap();
    }
    for (host, number, cpu) in [(0, 7, 1.5), (1, 8, 0.2)] {
        for index in 0..number {
            let facts = facts(&format!("v{host}{index}"), 8.0);
            cluster.place(&host_id(host), facts, work(cpu, 2.5, 0.0)).unwrap();
        }
    }
    cluster.keep_records();
    cluster.keep_log();
    cluster.start();
    cluster
}

#[test]
fn a_ceiling_of_memory_above_one_lets_more_be_promised_and_no_more_be_used() {
    for (ceiling, moves) in [(1.0, false), (1.5, true)] {
        let mut cluster = overcommitted(ceiling);
        cluster.run_until(at(3600));
        let moved = count(&cluster, &host_id(1)) > 8;
        assert_eq!(moved, moves, "ceiling {ceiling}");
        for host in cluster.hosts() {
            let used = cluster.cloud().wanted_on(host).memory_bytes;
            assert!(used <= 64.0 * GIB, "ceiling {ceiling}: {host} uses {used}");
        }
        assert_sound(&mut cluster);
    }
}

fn snapshot(hosts: &[(&str, &str)], vms: &[serde_json::Value]) -> Snapshot {
    let host = |(id, state): &(&str, &str)| {
        serde_json::json!({ "id": id, "state": state, "capacity":
            { "cpu_cores": 16.0, "memory_bytes": 64.0 * GIB, "io_bytes_per_s": 1.25e9 } })
    };
    let hosts: Vec<_> = hosts.iter().map(host).collect();
    let text = serde_json::json!({ "format": "evenkeel.snapshot/v1", "hosts": hosts, "vms": vms });
    Snapshot::parse(&text.to_string()).unwrap()
}

fn vm(
    id: &str,
    host: &str,
    gib: f64,
    promised: f64,
    rules: &serde_json::Value,
) -> serde_json::Value {
    serde_json::json!({ "id": id, "host": host, "vcpus": 4, "memory_bytes": promised * GIB,
        "usage": { "cpu_cores": 1.5, "memory_bytes": gib * GIB, "io_bytes_per_s": 0.0 },
        "rules": rules })
}

#[test]
fn a_plan_lists_what_stays_on_a_host_that_is_to_be_emptied_each_with_its_reason() {
    let apart = || serde_json::json!({ "anti_affinity": ["etcd"] });
    let together = || serde_json::json!({ "affinity": ["app"] });
    let none = || serde_json::json!({});
    let vms = [
        vm("etcd-1", "k1", 4.0, 4.0, &apart()),
        vm("etcd-2", "k2", 4.0, 4.0, &apart()),
        vm("etcd-3", "k3", 4.0, 4.0, &apart()),
        vm("db", "k1", 20.0, 20.0, &together()),
        vm("cache", "k1", 20.0, 20.0, &together()),
        vm("huge", "k1", 62.0, 62.0, &none()),
        vm("pinned", "k1", 1.0, 1.0, &serde_json::json!({ "pinned_to": ["k1"] })),
        vm("free", "k1", 4.0, 4.0, &none()),
    ];
    let hosts = [("k1", "draining"), ("k2", "active"), ("k3", "active")];
    let plan = plan(&snapshot(&hosts, &vms), &Options::default()).unwrap();
    let said: Vec<_> = plan.staying.iter().map(|s| (s.vm.as_str(), s.reason)).collect();
    assert_eq!(
        said,
        [
            ("cache", Reason::RuleAffinity),
            ("db", Reason::RuleAffinity),
            ("etcd-1", Reason::RuleAntiAffinity),
            ("huge", Reason::NoMemory),
            ("pinned", Reason::RulePinned),
        ]
    );
    assert!(plan.staying.iter().all(|s| s.host == host("k1")));
    assert_eq!(plan.staying[2].refusals, [(Reason::RuleAntiAffinity, 2)]);
    assert_eq!(plan.moves.len(), 1, "{:?}", plan.moves);
}

fn host(name: &str) -> HostId {
    HostId::new(name).unwrap()
}

#[test]
fn a_plan_that_moves_nothing_says_what_keeps_the_machines_of_the_most_loaded_host() {
    let mut vms = Vec::new();
    for (host, number) in [("k1", 10), ("k2", 10), ("k3", 10)] {
        for index in 0..number {
            let mut vm = vm(&format!("{host}-m{index}"), host, 2.5, 8.0, &serde_json::json!({}));
            vm["usage"]["cpu_cores"] = if host == "k1" { 1.5.into() } else { 0.2.into() };
            vms.push(vm);
        }
    }
    let hosts = [("k1", "active"), ("k2", "active"), ("k3", "active")];
    let plan = plan(&snapshot(&hosts, &vms), &Options::default()).unwrap();
    assert!(plan.moves.is_empty());
    assert_eq!(plan.hindrances, [Hindrance { reason: Reason::NoMemory, machines: 10 }]);
}

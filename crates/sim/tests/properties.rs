//! What holds for every cluster, every load and every order of events.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::decision::Reason;
use evenkeel_core::model::{Resources, Rules};
use evenkeel_sim::{Cluster, HostSpec, Network};
use proptest::prelude::*;

fn total(cluster: &Cluster) -> f64 {
    loads(cluster).iter().sum()
}

/// Largest gain that a single move between two hosts of the cluster could still bring: the pair
/// and the machine that strict improvement would still allow.
fn improvable(cluster: &Cluster) -> Option<String> {
    let loads = loads(cluster);
    let hosts: Vec<_> = cluster.hosts().cloned().collect();
    for (donor, host) in hosts.iter().enumerate() {
        let here = cluster.balancer(host).unwrap().host();
        for (receiver, other) in hosts.iter().enumerate() {
            let difference = loads[donor] - loads[receiver];
            let free = cluster.balancer(other).unwrap().host().free_memory_bytes();
            for (id, machine) in here.view.machines() {
                let load = here.profile.price(&machine.measured().unwrap());
                // The rounding of counters to nanoseconds and bytes must not decide.
                if load > 1e-6 && load < difference - 1e-6 && machine.facts.memory_bytes < free {
                    return Some(format!("`{id}` of {load:.4} could go from {host} to {other}"));
                }
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Load is conserved, and with constant load every exchange ends in silence: the rule comes to
    /// rest, and where it rests no pair could be brought closer by moving a machine.
    #[test]
    fn constant_load_ends_in_silence(
        seed in any::<u64>(),
        hosts in 2..7usize,
        cpus in prop::collection::vec(0.0..1.2f64, 1..25),
        delay_max_ms in 1..3000u64,
        loss in prop_oneof![Just(0.0), 0.0..0.3f64],
        duplication in prop_oneof![Just(0.0), 0.0..0.3f64],
        knows_the_mean in any::<bool>(),
    ) {
        let config = if knows_the_mean { mean_aware() } else { eager() };
        let mut cluster = crowded(seed, hosts, &config, &cpus);
        // What is lost or repeated shifts averages until they start over, and targets with them:
        // where no difference is too small to act on, that alone moves a machine now and then.
        let (loss, duplication) = if knows_the_mean { (0.0, 0.0) } else { (loss, duplication) };
        // Delays are drawn for each message: they arrive in any order.
        cluster.network = Network {
            delay_max: Duration::from_millis(delay_max_ms), loss, duplication, ..Network::default()
        };
        cluster.run_until(at(4));
        let before: f64 = cpus
            .iter()
            .map(|cpu| (cpu / 16.0 + 2.0 / 128.0 + cpu * 1e7 / 1e9) / 3.0)
            .sum();
        cluster.run_until(at(3000));
        let moved = cluster.tally().migrations;
        cluster.run_until(at(4000));
        prop_assert_eq!(cluster.tally().migrations, moved, "still moving");
        prop_assert!((total(&cluster) - before).abs() < 1e-6);
        if !knows_the_mean {
            prop_assert_eq!(improvable(&cluster), None);
        }
        prop_assert!(cluster.on_their_way().is_empty());
        assert_sound(&mut cluster);
    }

    /// Whatever is lost, delayed, repeated or killed: nothing is in two places or in none, and once
    /// the faults are over everything under way ends and the cluster levels itself.
    #[test]
    fn no_mix_of_faults_breaks_an_invariant(
        seed in any::<u64>(),
        hosts in 2..6usize,
        cpus in prop::collection::vec(0.1..1.2f64, 1..16),
        loss in 0.0..0.5f64,
        duplication in 0.0..0.5f64,
        delay_max_ms in 1..8000u64,
        kills in prop::collection::vec((1..60u64, 0..6usize, 1..40u64), 0..8),
        knows_the_mean in any::<bool>(),
    ) {
        let config = if knows_the_mean { mean_aware() } else { eager() };
        let mut cluster = crowded(seed, hosts, &config, &cpus);
        cluster.network = Network {
            delay_max: Duration::from_millis(delay_max_ms), loss, duplication, ..Network::default()
        };
        for (after, host, down) in kills {
            let host = host_id(host % hosts);
            let until = cluster.now() + Duration::from_secs(after);
            cluster.run_until(until);
            cluster.kill(&host);
            let until = cluster.now() + Duration::from_secs(down);
            cluster.run_until(until);
            cluster.restart(&host);
            assert_sound(&mut cluster);
        }
        cluster.network = Network::default();
        let until = cluster.now() + Duration::from_secs(4000);
        cluster.run_until(until);
        prop_assert!(cluster.on_their_way().is_empty(), "{:?}", cluster.on_their_way());
        if !knows_the_mean {
            prop_assert_eq!(improvable(&cluster), None);
        }
        assert_sound(&mut cluster);
    }

    /// Rules and memory hold at every step, whatever the loads want.
    #[test]
    fn no_move_breaks_a_rule_or_overfills_a_host(
        seed in any::<u64>(),
        machines in prop::collection::vec((0.0..2.0f64, 1..40u32, 0..8u32), 1..24),
    ) {
        let mut cluster = cluster(seed, 4, &eager());
        for (index, &(cpu, memory_gib, rule)) in machines.iter().enumerate() {
            let name = format!("v{index:03}");
            let group = |name: String| vec![name.parse().unwrap()];
            let rules = match rule {
                0 => Rules { pinned_to: vec![host_id(0).into(), host_id(2).into()], ..Rules::default() },
                1 => Rules { ignore: true, ..Rules::default() },
                2 => Rules { anti_affinity: group(format!("set{}", index / 4)), ..Rules::default() },
                3 => Rules { affinity: group(format!("g{index}")), ..Rules::default() },
                _ => Rules::default(),
            };
            let memory = f64::from(memory_gib).min(20.0);
            let mut facts = with_rules(&name, rules);
            facts.memory_bytes = memory * GIB;
            // Four to a host: an anti-affinity group of four begins with one member on each.
            cluster.place(&host_id(index % 4), facts, work(cpu, memory, 0.0)).unwrap();
        }
        let ignored: Vec<_> = machines.iter().enumerate().filter(|(_, m)| m.2 == 1).collect();
        cluster.start();
        cluster.run_until(at(1500));
        assert_sound(&mut cluster);
        for (index, _) in ignored {
            prop_assert_eq!(home(&cluster, &format!("v{index:03}")), host_id(index % 4));
        }
    }

    /// A seed reproduces a run, event by event.
    #[test]
    fn a_seed_reproduces_a_run(seed in any::<u64>(), loss in 0.0..0.3f64) {
        let run = || {
            let mut cluster = crowded(seed, 4, &eager(), &[0.7, 0.6, 0.5, 0.4, 0.3, 0.2]);
            cluster.network.loss = loss;
            cluster.keep_log();
            cluster.run_until(at(200));
            cluster.log().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let first = run();
        prop_assert!(first.len() > 100);
        prop_assert_eq!(first, run());
    }

    /// Scaling every capacity and every usage by a constant changes nothing.
    #[test]
    fn a_change_of_units_changes_nothing(seed in 0..50u64, exponent in 0..7i32) {
        let run = |scale: f64| {
            let mut cluster = Cluster::new(seed);
            for index in 0..4 {
                let mut profile = profile(index);
                profile.capacity = Resources {
                    cpu_cores: profile.capacity.cpu_cores,
                    memory_bytes: profile.capacity.memory_bytes,
                    io_bytes_per_s: profile.capacity.io_bytes_per_s * scale,
                };
                cluster.add_host(HostSpec::new(profile, eager())).unwrap();
            }
            for index in 0..12 {
                let io = (1.0e7 * f64::from(index + 1) + 3.7e5 * f64::from(index * index)) * scale;
                let facts = facts(&format!("v{index:02}"), 1.0);
                cluster.place(&host_id(0), facts, work(0.5, 1.0, io)).unwrap();
            }
            cluster.start();
            cluster.run_until(at(600));
            (0..12).map(|i| home(&cluster, &format!("v{i:02}"))).collect::<Vec<_>>()
        };
        // A power of two scales without rounding, except of whole bytes per sample, which only a
        // much smaller unit would bring near to what counts as a load.
        prop_assert_eq!(run(1.0), run(2f64.powi(exponent)));
    }
}

/// The pair never ends further apart, told from outside: by the loads before and after each move.
#[test]
fn every_move_brings_its_pair_closer() {
    let mut cluster = crowded(3, 2, &eager(), &[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]);
    cluster.run_until(at(4));
    let spread = |c: &Cluster| (loads(c)[0] - loads(c)[1]).abs();
    let (mut last, mut moves) = (spread(&cluster), 0);
    while cluster.now() < at(1000) {
        let before = cluster.tally().migrations;
        let until = cluster.now() + Duration::from_secs(1);
        cluster.run_until(until);
        if cluster.tally().migrations > before && cluster.on_their_way().is_empty() {
            moves += 1;
            let now = spread(&cluster);
            assert!(now < last, "{last} became {now}");
            last = now;
        }
    }
    assert!(moves >= 2);
    let ended = |d: &&evenkeel_core::decision::Decision| d.ending == Reason::NoCandidate;
    assert!(cluster.records().iter().any(|d| ended(&d)), "at rest for want of a candidate");
}

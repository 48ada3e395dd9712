//! Everyday situations: the default does what an operator expects. `docs/daily.md` shows them as a table.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::*;
use evenkeel_core::balancer::Config;
use evenkeel_sim::foresee::{Foresight, foresee};
use evenkeel_sim::scenario::{Observer, Report, Scenario, Simulation};
use evenkeel_sim::snapshot::Snapshot;
use evenkeel_sim::{HostSpec, Line};
use proptest::prelude::*;

struct Nobody;

impl Observer for Nobody {
    fn wants_lines(&self) -> bool {
        false
    }
    fn line(&mut self, _: &Line) {}
    fn progress(&mut self, _: f64) {}
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/daily")
}

fn run(scenario: Scenario) -> Report {
    let seed = scenario.seed;
    Simulation::new(scenario, &directory(), seed).unwrap().run(&mut Nobody).unwrap()
}

fn holds(name: &str) {
    let text = std::fs::read_to_string(directory().join(format!("{name}.toml"))).unwrap();
    let report = run(Scenario::parse(&text).unwrap());
    assert!(report.is_good(), "{name}: {:?} {:?}", report.unmet, report.invariants);
}

macro_rules! situations {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { holds($name); })*

        const ALL: &[&str] = &[$($name),*];
    };
}

situations! {
    a_new_host_among_twelve: "new-host",
    a_new_host_among_fifty: "new-host-of-fifty",
    a_host_comes_back: "host-comes-back",
    hosts_are_emptied_in_turn: "in-turn",
    many_small_machines_on_one_host: "many-small-machines",
    three_hundred_small_machines_on_two_hosts: "three-hundred-on-two",
    large_machines_take_their_time: "large-machines",
    a_host_with_work_of_its_own: "own-work",
    hosts_of_unlike_speeds: "unlike-speeds",
    half_of_the_hosts_are_twice_as_loaded: "half-and-half",
    one_host_is_a_third_more_loaded: "tilted",
    everything_on_one_of_two_hosts: "two-hosts",
    machines_that_pulse: "pulse",
    machines_that_pulse_slowly: "slow-pulse",
    loads_that_only_go_up_and_down: "noise",
    days_and_drift: "days",
    a_surge_on_a_quarter_of_the_hosts: "surge",
    a_cluster_that_is_short_as_a_whole: "short-as-a-whole",
    twelve_agents_begin: "cold-start",
    a_hundred_agents_begin: "cold-start-of-hundred",
}

#[test]
fn every_situation_is_run() {
    let files = std::fs::read_dir(directory()).unwrap().map(|file| file.unwrap().path());
    let found: BTreeSet<_> =
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(found, ALL.iter().map(|name| (*name).to_owned()).collect());
}

/// A snapshot of so many hosts, some machines of which are on each.
fn snapshot(hosts: &[&[f64]]) -> Snapshot {
    let mut text = String::from("duration = \"1s\"\n");
    for (host, machines) in hosts.iter().enumerate() {
        text += &format!("[[hosts]]\nid = \"h{host}\"\n");
        for (index, cores) in machines.iter().enumerate() {
            text += &format!(
                "[[machines]]\nid = \"h{host}-{index:02}\"\nhost = \"h{host}\"\n\
                 cpu_cores = {cores}\nmemory = \"3GiB\"\n"
            );
        }
    }
    Scenario::parse(&text).unwrap().written_out().unwrap()
}

/// The plan shows what agents do: it and a simulation of the same snapshot end alike.
#[test]
fn a_plan_ends_as_a_simulation_does() {
    let usual = [0.4, 0.5, 0.6, 0.8, 0.4, 0.5, 0.6, 0.8, 0.4, 0.5, 0.6, 0.8];
    let double = usual.map(|cores| 2.0 * cores);
    let shapes: [&[&[f64]]; 4] = [
        &[&usual, &usual, &usual, &usual, &usual, &[]],
        &[&double, &double, &usual, &usual],
        &[&double, &[]],
        &[&usual, &usual, &usual],
    ];
    for hosts in shapes {
        let snapshot = snapshot(hosts);
        let plan = foresee(&snapshot, &Foresight::default(), |_, _| {}).unwrap();
        let file = std::env::temp_dir().join(format!("evenkeel-daily-{}", std::process::id()));
        std::fs::write(&file, snapshot.to_json().unwrap()).unwrap();
        let text = format!("duration = \"3h\"\nsnapshot = \"{}\"", file.display());
        let report = run(Scenario::parse(&text).unwrap());
        std::fs::remove_file(&file).unwrap();
        let (foreseen, found) = (plan.after.max_over_mean, report.max_over_mean.end);
        assert!((foreseen - found).abs() <= 0.02, "{foreseen} and {found}: {:?}", plan.moves);
        assert_eq!(plan.moves.is_empty(), plan.before.max_over_mean < 1.05);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Under constant loads every run ends in silence, and where it rests no pair of hosts is further
    /// apart than by what two of the machines of the fuller one weigh, or a fifth of the mean.
    #[test]
    fn constant_loads_end_in_silence_and_nothing_large_is_left(
        seed in any::<u64>(),
        hosts in 2..7usize,
        cpus in prop::collection::vec((0.1..1.5f64, 0..7usize), 8..50),
    ) {
        let mut cluster = cluster(seed, hosts, &Config::default());
        for (index, &(cpu, host)) in cpus.iter().enumerate() {
            let name = format!("v{index:03}");
            let host = host_id(host % hosts);
            cluster.place(&host, facts(&name, 2.0), work(cpu, 2.0, 0.0)).unwrap();
        }
        cluster.start();
        // The longer a difference lasts, the longer it is counted on.
        cluster.run_until(at(6 * 3600));
        let moved = cluster.tally().migrations;
        cluster.run_until(at(9 * 3600));
        prop_assert_eq!(cluster.tally().migrations, moved, "still moving");
        let loads = loads(&cluster);
        let mean = loads.iter().sum::<f64>() / hosts as f64;
        let most = loads.iter().copied().fold(0.0, f64::max);
        let least = loads.iter().copied().fold(f64::MAX, f64::min);
        let fullest = loads.iter().position(|load| *load == most).unwrap();
        let here = cluster.balancer(&host_id(fullest)).unwrap().host();
        let smallest = here
            .view
            .machines()
            .values()
            .map(|machine| here.profile.price(&machine.measured().unwrap()))
            .fold(f64::MAX, f64::min);
        let left = (2.0 * smallest).max(0.25 * mean);
        prop_assert!(most - least <= left, "{most} and {least} of {mean}, {smallest}");
        assert_sound(&mut cluster);
    }
}

/// A host whose agent is started later than the others, and is empty, takes its share.
#[test]
fn a_host_that_boots_alone_is_given_its_share() {
    let mut cluster = cluster(7, 4, &Config::default());
    let late = HostSpec::new(profile(4), Config::default());
    cluster.add_host(late).unwrap();
    for index in 0..48 {
        let cpu = 0.4 + 0.1 * (index % 5) as f64;
        let name = format!("v{index:03}");
        cluster.place(&host_id(index % 4), facts(&name, 3.0), work(cpu, 3.0, 0.0)).unwrap();
    }
    cluster.start_those(|id| *id != host_id(4));
    cluster.run_until(at(1200));
    let before = cluster.tally().migrations;
    cluster.start();
    cluster.run_until(at(1200 + 1800));
    let loads = loads(&cluster);
    let mean = loads.iter().sum::<f64>() / 5.0;
    assert!(loads[4] > 0.75 * mean, "{loads:?}");
    assert!(cluster.tally().migrations - before <= 14);
}

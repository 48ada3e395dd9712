//! Every scenario of the repository holds what it expects: among them, one by one, what users of
//! systems like this one complain about.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use evenkeel_sim::Line;
use evenkeel_sim::scenario::{Observer, Report, Scenario, Simulation};

struct Nobody;

impl Observer for Nobody {
    fn wants_lines(&self) -> bool {
        false
    }
    fn line(&mut self, _: &Line) {}
    fn progress(&mut self, _: f64) {}
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

fn run(name: &str, seed: u64) -> Report {
    let text = std::fs::read_to_string(directory().join(format!("{name}.toml"))).unwrap();
    let simulation = Simulation::new(Scenario::parse(&text).unwrap(), &directory(), seed).unwrap();
    simulation.run(&mut Nobody).unwrap()
}

fn holds(name: &str) {
    let report = run(name, 1);
    assert!(report.is_good(), "{name}: {:?} {:?}", report.unmet, report.invariants);
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { holds($name); })*

        /// Scenarios that need no data of somebody else.
        const OWN: &[&str] = &[$($name),*];
    };
}

scenarios! {
    loads_that_only_flicker_move_next_to_nothing: "churn",
    a_host_that_sheds_does_not_end_empty: "overshoot",
    the_only_machine_of_a_host_stays: "only-machine",
    loads_that_swing_do_not_swing_machines: "cool-down",
    many_migrations_never_run_at_once: "storm",
    one_wrong_metric_moves_nothing: "wrong-metric",
    stale_news_breaks_no_anti_affinity: "anti-affinity",
    ignored_and_pinned_machines_stay: "ignored-and-pinned",
    nobody_fights_another_balancer_for_ever: "two-balancers",
    a_failed_move_is_not_believed_done_nor_repeated_for_ever: "failed-moves",
    when_nothing_happens_every_machine_has_a_reason: "no-reason",
    a_host_short_of_one_resource_sheds_that: "one-resource",
    machines_that_starve_are_helped_soon: "starving",
    an_overloaded_host_is_relieved_within_minutes: "hours-to-act",
    a_day_is_followed_calmly: "office-day",
    whatever_goes_wrong_nothing_is_lost_or_doubled: "faults",
    hosts_that_die_all_day_take_only_their_own_machines_along: "dying-hosts",
    machines_that_move_all_the_time_survive_whatever_goes_wrong: "soak",
}

/// Scenarios that run on a trace which is not in the repository.
const OTHERS: [&str; 2] = ["bitbrains", "planetlab"];

#[test]
fn every_scenario_of_the_repository_is_run_or_can_be_read() {
    let files = std::fs::read_dir(directory()).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let names = files.map(|path| path.file_stem().unwrap().to_owned());
    let found: BTreeSet<_> = names.map(|name| name.into_string().unwrap()).collect();
    let known: BTreeSet<_> = OWN.iter().chain(&OTHERS).map(|name| (*name).to_owned()).collect();
    assert_eq!(found, known);
    for name in OTHERS {
        let text = std::fs::read_to_string(directory().join(format!("{name}.toml"))).unwrap();
        assert!(Scenario::parse(&text).unwrap().trace.is_some());
    }
}

#[test]
fn another_seed_is_another_run_and_the_same_seed_the_same() {
    let [one, again, other] = [5, 5, 6].map(|seed| run("hours-to-act", seed));
    assert_eq!(one, again);
    assert_ne!(one.messages, other.messages);
}

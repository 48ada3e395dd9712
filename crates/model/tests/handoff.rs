//! The handoff in every course of events within bounds, and that what is wrong would be found.
//!
//! Run with optimisation (`cargo test --release -p evenkeel-model`): without, it takes many minutes,
//! and only what makes it fail is looked for.

#![allow(clippy::print_stdout, reason = "how much was explored is what a reader wants to know")]

use evenkeel_core::port::Commit;
use evenkeel_model::{Bounds, Sabotage, Setup, World};
use stateright::{Checker, HasDiscoveries, Model};

const ONE: Bounds = Bounds {
    handoffs: 1,
    kills: 0,
    store_failures: 0,
    faults: 0,
    power_cuts: 0,
    lost_stores: 0,
    fences: 0,
    lies: 0,
};

fn strict(hosts: usize, bounds: Bounds) -> Setup {
    let sabotage = Sabotage::None;
    Setup { hosts, commit: Commit::Strict, locks: false, carried: false, bounds, sabotage }
}

fn carried(bounds: Bounds) -> Setup {
    Setup { carried: true, ..strict(2, bounds) }
}

fn fast(hosts: usize, bounds: Bounds) -> Setup {
    Setup { commit: Commit::Fast, locks: true, ..strict(hosts, bounds) }
}

/// Explores everything. Returns the invariants that were found broken, and whether the machine ever
/// arrives.
fn explore(name: &str, setup: Setup) -> (Vec<&'static str>, bool) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = World(setup).checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (distinct, depth) = (checker.unique_state_count(), checker.max_depth());
    println!(
        "{name}: {distinct} distinct states, {} steps between them, depth {depth}",
        checker.state_count()
    );
    let mut broken = Vec::new();
    let mut arrived = false;
    for (property, path) in checker.discoveries() {
        if checker.discovery_classification(property).to_string() == "counterexample" {
            let steps = path.into_actions().into_iter().map(|action| format!("    {action:?}"));
            println!("  broken: {property}\n{}", steps.collect::<Vec<_>>().join("\n"));
            broken.push(property);
        } else {
            arrived = true;
        }
    }
    (broken, arrived)
}

fn assert_sound(name: &str, setup: Setup) {
    assert_eq!(explore(name, setup), (Vec::new(), true), "{name}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_killed_agent_and_no_outcome_of_a_migration_makes_two_or_none() {
    let bounds = Bounds { kills: 1, faults: 1, ..ONE };
    assert_sound("strict, a kill and a fault", strict(2, bounds));
    assert_sound("fast, a kill and a fault", fast(2, bounds));
    let bounds = Bounds { kills: 2, ..ONE };
    assert_sound("strict, two kills", strict(2, bounds));
    assert_sound("fast, two kills", fast(2, bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_record_that_cannot_be_written_makes_two_or_none() {
    let bounds = Bounds { store_failures: 1, faults: 1, ..ONE };
    assert_sound("strict, a full disk and a fault", strict(2, bounds));
    assert_sound("fast, a full disk and a fault", fast(2, bounds));
    let bounds = Bounds { store_failures: 1, kills: 1, ..ONE };
    assert_sound("strict, a full disk and a kill", strict(2, bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_power_cut_makes_two_or_loses_what_was_elsewhere() {
    let bounds = Bounds { power_cuts: 1, faults: 1, ..ONE };
    assert_sound("strict, a power cut and a fault", strict(2, bounds));
    assert_sound("fast, a power cut and a fault", fast(2, bounds));
    let bounds = Bounds { power_cuts: 1, kills: 1, fences: 1, ..ONE };
    assert_sound("strict, a power cut, a kill and an operator", strict(2, bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_gap_that_nobody_observed_lets_stale_memory_run() {
    let bounds = Bounds { power_cuts: 1, faults: 1, ..ONE };
    assert_sound("strict, carried, a power cut and a fault", carried(bounds));
    let bounds = Bounds { kills: 1, faults: 1, ..ONE };
    assert_sound("strict, carried, a kill and a fault", carried(bounds));
    let bounds = Bounds { store_failures: 1, faults: 1, ..ONE };
    assert_sound("strict, carried, a full disk and a fault", carried(bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_lie_of_another_member_makes_two_or_none() {
    let lie = Bounds { lies: 1, ..ONE };
    assert_sound("strict, two lies", strict(2, Bounds { lies: 2, ..lie }));
    assert_sound("fast, two lies", fast(2, Bounds { lies: 2, ..lie }));
    assert_sound("strict, a lie and a kill", strict(2, Bounds { kills: 1, ..lie }));
    assert_sound("strict, a lie and a fault", strict(2, Bounds { faults: 1, ..lie }));
    assert_sound("fast, a lie and a fault", fast(2, Bounds { faults: 1, ..lie }));
    assert_sound("strict, a lie and a power cut", strict(2, Bounds { power_cuts: 1, ..lie }));
    let bounds = Bounds { lost_stores: 1, kills: 1, ..lie };
    assert_sound("strict, a lie and a lost store", strict(2, bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_lost_store_makes_two_or_none() {
    let bounds = Bounds { lost_stores: 1, kills: 1, ..ONE };
    assert_sound("strict, a lost store", strict(2, bounds));
    assert_sound("fast, a lost store", fast(2, bounds));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_course_of_messages_among_three_hosts_makes_two_or_none() {
    assert_sound("strict, three hosts and a fault", strict(3, Bounds { faults: 1, ..ONE }));
    assert_sound("strict, two handoffs", strict(2, Bounds { handoffs: 2, ..ONE }));
    assert_sound("fast, two handoffs", fast(2, Bounds { handoffs: 2, ..ONE }));
}

const TWO: &str = "1: at most one host runs it";
const NONE: &str = "5: some host holds it";
const STALE: &str = "7: no stale memory is let run";
const CLAIMED: &str = "4: what was claimed is not destroyed";

/// What is found of one invariant: the search ends with the first that is broken otherwise.
fn finds(name: &str, setup: Setup, wanted: &'static str) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let until = HasDiscoveries::AllOf([wanted].into());
    let checker = World(setup).checker().threads(threads).finish_when(until).spawn_bfs().join();
    println!("{name}: found after {} distinct states", checker.unique_state_count());
    assert!(checker.discovery(wanted).is_some(), "{name}: `{wanted}` was not found broken");
}

#[test]
fn a_stranger_whose_word_counts_by_the_id_alone_is_found() {
    let bounds = Bounds { lies: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::ById, ..strict(2, bounds) };
    finds("strict, a lie, handoffs known by their id alone", setup, NONE);
}

#[test]
fn a_strangers_word_that_is_believed_without_a_record_is_found() {
    let bounds = Bounds { lies: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::Named, ..strict(2, bounds) };
    finds("strict, a lie, adopted from a stranger", setup, "2: released before it is let run");
}

#[test]
fn a_claimed_machine_that_is_destroyed_on_a_strangers_word_is_found() {
    let bounds = Bounds { lies: 1, kills: 1, lost_stores: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::Named, ..strict(2, bounds) };
    finds("strict, a lie and a lost store, destroyed for a stranger", setup, CLAIMED);
}

#[test]
fn a_release_without_a_proof_after_a_gap_is_found() {
    let bounds = Bounds { faults: 1, power_cuts: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::Unproved, ..strict(2, bounds) };
    finds("strict, a fault and a power cut, released without a proof", setup, STALE);
}

#[test]
fn a_record_written_after_what_depends_on_it_is_found() {
    let bounds = Bounds { kills: 1, faults: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::RecordLast, ..strict(2, bounds) };
    assert!(!explore("strict, records written last", setup).0.is_empty());
}

#[test]
fn the_hypervisors_commit_point_without_locks_is_found() {
    let bounds = Bounds { faults: 1, ..ONE };
    let setup = Setup { locks: false, ..fast(2, bounds) };
    assert_eq!(explore("fast, no locks", setup).0, [TWO]);
}

#[test]
fn a_machine_that_is_started_without_the_targets_word_is_found() {
    let bounds = Bounds { power_cuts: 1, faults: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::Unasked, ..fast(2, bounds) };
    assert_eq!(explore("fast, the target's word not waited for", setup).0, [TWO]);
}

#[test]
fn a_machine_that_both_hosts_start_at_boot_is_found() {
    let bounds = Bounds { power_cuts: 1, faults: 1, kills: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::Autostart, ..strict(2, bounds) };
    assert!(!explore("strict, autostart left alone", setup).0.is_empty());
}

#[test]
fn a_release_before_what_ran_the_machine_has_ended_is_found() {
    let bounds = Bounds { faults: 1, ..ONE };
    let setup = Setup { sabotage: Sabotage::GoneTooSoon, ..strict(2, bounds) };
    finds("strict, released on the target's word alone", setup, TWO);
}

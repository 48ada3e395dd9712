//! Rules across a label in every course of events within bounds, and that what is wrong would be
//! found.
//!
//! Run with optimisation (`cargo test --release -p evenkeel-model --test seats`).

#![allow(clippy::print_stdout, reason = "how much was explored is what a reader wants to know")]

use evenkeel_model::seats::{Bounds, Rack, Sabotage, Setup};
use stateright::{Checker, HasDiscoveries, Model};

const TWO_CLAIMS: Bounds =
    Bounds { claims: 2, kills: 0, store_failures: 0, given_up: 0, departures: 0 };

const RACK: Setup = Setup {
    hosts: 2,
    machines: 2,
    one_inside: false,
    joins: false,
    bounds: TWO_CLAIMS,
    sabotage: Sabotage::None,
};

/// Explores everything. Returns whether two machines were ever in the rack, and whether one ever
/// arrives.
fn explore(name: &str, setup: Setup) -> (bool, bool) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Rack(setup).checker().threads(threads);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (distinct, depth) = (checker.unique_state_count(), checker.max_depth());
    println!(
        "{name}: {distinct} distinct states, {} steps between them, depth {depth}",
        checker.state_count()
    );
    let (mut broken, mut arrived) = (false, false);
    for (property, path) in checker.discoveries() {
        if checker.discovery_classification(property).to_string() == "counterexample" {
            let steps = path.into_actions().into_iter().map(|action| format!("    {action:?}"));
            println!("  broken: {property}\n{}", steps.collect::<Vec<_>>().join("\n"));
            broken = true;
        } else {
            arrived = true;
        }
    }
    (broken, arrived)
}

fn assert_sound(name: &str, setup: Setup) {
    assert_eq!(explore(name, setup), (false, true), "{name}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn hosts_that_claim_at_the_same_time_never_share_a_seat() {
    assert_sound("2 hosts", RACK);
    assert_sound("3 hosts", Setup { hosts: 3, ..RACK });
    let three = Bounds { claims: 3, ..TWO_CLAIMS };
    assert_sound("3 machines", Setup { machines: 3, bounds: three, ..RACK });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn no_killed_agent_makes_two_share_a_seat() {
    let bounds = Bounds { kills: 1, ..TWO_CLAIMS };
    assert_sound("a kill", Setup { bounds, ..RACK });
    assert_sound("3 hosts, a kill", Setup { hosts: 3, bounds, ..RACK });
    let bounds = Bounds { kills: 2, ..TWO_CLAIMS };
    assert_sound("two kills", Setup { bounds, ..RACK });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn a_machine_within_the_rack_and_one_that_leaves_keep_their_seat_until_they_have_gone() {
    let bounds = Bounds { departures: 1, ..TWO_CLAIMS };
    assert_sound("one inside", Setup { one_inside: true, bounds, ..RACK });
    assert_sound("3 hosts, one inside", Setup { hosts: 3, one_inside: true, bounds, ..RACK });
    let bounds = Bounds { given_up: 1, claims: 3, ..TWO_CLAIMS };
    assert_sound("a source that gives up", Setup { one_inside: true, bounds, ..RACK });
}

#[test]
#[cfg_attr(debug_assertions, ignore = "needs optimisation: run it with --release")]
fn a_host_that_joins_meanwhile_is_no_way_around_it() {
    assert_sound("joining", Setup { joins: true, ..RACK });
    let bounds = Bounds { kills: 1, ..TWO_CLAIMS };
    assert_sound("joining, a kill", Setup { joins: true, bounds, ..RACK });
    let bounds = Bounds { store_failures: 1, kills: 1, ..TWO_CLAIMS };
    assert_sound("joining, a full disk and a kill", Setup { joins: true, bounds, ..RACK });
}

#[test]
fn whatever_is_left_out_of_it_is_found() {
    let kill = Bounds { kills: 1, ..TWO_CLAIMS };
    let give_up = Bounds { given_up: 1, ..TWO_CLAIMS };
    for (sabotage, setup) in [
        (Sabotage::FlagLast, RACK),
        (Sabotage::NoHosts, Setup { joins: true, ..RACK }),
        (Sabotage::ForgetRecords, Setup { bounds: kill, ..RACK }),
        (Sabotage::ForgetHosts, Setup { bounds: kill, ..RACK }),
        (Sabotage::Unmeasured, Setup { one_inside: true, bounds: kill, ..RACK }),
        (Sabotage::Expiry, Setup { bounds: give_up, ..RACK }),
        (Sabotage::SilenceIsConsent, RACK),
    ] {
        let (broken, _) = explore(&format!("{sabotage:?}"), Setup { sabotage, ..setup });
        assert!(broken, "{sabotage:?} was not found");
    }
}

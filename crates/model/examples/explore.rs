//! Explores the handoff within bounds given on the command line, and prints what it found.
//!
//! `cargo run --release -p evenkeel-model --example explore -- 2 strict 1 kills=2 faults=1`

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::time::Instant;

use evenkeel_core::port::Commit;
use evenkeel_model::{Bounds, Sabotage, Setup, World};
use stateright::{Checker, HasDiscoveries, Model};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |at: usize, or: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let bound = |name: &str| {
        let given = arguments.iter().find_map(|text| text.strip_prefix(&format!("{name}=")));
        given.and_then(|text| text.parse::<u8>().ok()).unwrap_or(0)
    };
    let fast = arguments.get(1).is_some_and(|text| text == "fast");
    let setup = Setup {
        hosts: number(0, 2),
        commit: if fast { Commit::Fast } else { Commit::Strict },
        locks: fast,
        carried: arguments.iter().any(|text| text == "carried"),
        bounds: Bounds {
            handoffs: u8::try_from(number(2, 1)).unwrap_or(1),
            kills: bound("kills"),
            store_failures: bound("store_failures"),
            faults: bound("faults"),
            power_cuts: bound("power_cuts"),
            lost_stores: bound("lost_stores"),
            fences: bound("fences"),
            lies: bound("lies"),
        },
        sabotage: Sabotage::None,
    };
    println!("{setup:?}");
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = World(setup)
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{} states visited, {} of them distinct, at most {} steps, in {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64(),
    );
    for (name, path) in checker.discoveries() {
        let is_broken = checker.discovery_classification(name).to_string() == "counterexample";
        println!("{}: {name}", if is_broken { "broken" } else { "seen" });
        for action in path.into_actions().into_iter().filter(|_| is_broken) {
            println!("    {action:?}");
        }
    }
}

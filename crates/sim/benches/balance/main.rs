//! How good, how fast, and how others do on the same inputs: `make bench`.
//!
//! Every result is judged alike, from the list of moves alone: each step is carried out on the
//! snapshot, has to find room, and the loads at the end are priced anew. The bounds are what no
//! algorithm can beat. A peer that is not installed is named as missing.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its results")]

mod convergence;
mod inputs;
mod judge;
mod own;
mod peers;
mod plot;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::select::Policy;

use inputs::Input;
use table::Row;

/// Failures of the benchmark itself.
type Failure = Box<dyn Error>;

/// What is measured, from the environment.
struct Settings {
    /// Seeds 1 to this many.
    seeds: u64,
    /// How long a peer may think about one input.
    peer_time: Duration,
}

/// `half-difference` moves one machine a pair: with more hosts it is only slow.
const HALF_HOSTS_MAX: usize = 100;

/// With more hosts a plan takes seconds, and differs little from one seed to the next.
const MANY_HOSTS: usize = 2000;
const SEEDS_OF_MANY: u64 = 3;

fn number(name: &str, otherwise: u64) -> Result<u64, Failure> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text} is no number").into()),
        Err(_) => Ok(otherwise),
    }
}

fn main() -> Result<(), Failure> {
    let settings = Settings {
        seeds: number("SEEDS", 20)?.max(1),
        peer_time: Duration::from_secs(number("PEER_SECONDS", 120)?),
    };
    let inputs = inputs::all(&std::env::args().skip(1).collect::<Vec<_>>())?;
    let mut rows = Vec::new();
    for input in &inputs {
        eprintln!("{}: {} hosts, {} machines", input.name, input.hosts(), input.machines());
        rows.extend(rows_of(input, &settings)?);
    }
    println!("{}", table::table(&rows, &settings));
    println!("Most memory used so far: {}.", own::peak_memory());
    let small = inputs.iter().filter(|input| input.hosts() <= convergence::HOSTS_MAX);
    let curves = small.map(convergence::of).collect::<Result<Vec<_>, _>>()?;
    if !curves.is_empty() {
        println!("{}", table::convergence(&curves));
    }
    let dir = directory();
    std::fs::create_dir_all(&dir)?;
    let sizes = own::against_size()?;
    for (name, svg) in
        [("convergence.svg", plot::convergence(&curves)), ("cost.svg", plot::cost(&sizes))]
    {
        let path = dir.join(name);
        std::fs::write(&path, svg)?;
        println!("plotted {}", path.display());
    }
    Ok(())
}

/// Beside whatever else cargo builds.
fn directory() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp).join("bench")
}

fn rows_of(input: &Input, settings: &Settings) -> Result<Vec<Row>, Failure> {
    let mut rows = vec![Row::start(input), Row::bound(input)];
    let seeds = if input.hosts() > MANY_HOSTS { SEEDS_OF_MANY } else { u64::MAX };
    let seeds = settings.seeds.min(seeds);
    rows.push(own::measure(input, Policy::default(), "evenkeel", seeds)?);
    if input.hosts() <= HALF_HOSTS_MAX {
        let name = "evenkeel, half-difference";
        rows.push(own::measure(input, Policy::HalfDifference, name, settings.seeds)?);
    }
    rows.push(peers::hbal::measure(input, settings.peer_time)?);
    rows.push(peers::solver::measure(input, settings.peer_time)?);
    Ok(rows)
}

//! Prints every event of planning a snapshot, one line each: `trace FILE [SEED]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use evenkeel_sim::plan::{Options, trace};
use evenkeel_sim::snapshot::Snapshot;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("which snapshot?")?;
    let seed = args.next().map_or(Ok(1), |text| text.parse())?;
    let snapshot = Snapshot::parse(&std::fs::read_to_string(file)?)?;
    for line in trace(&snapshot, &Options { seed, ..Options::default() })?.log {
        println!("{line}");
    }
    Ok(())
}

//! Runs clusters full of rules and says what came of it: `rules [SEEDS] [HOSTS] [MACHINES]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::time::Duration;

use evenkeel_core::select::{MeanAware, Policy};
use evenkeel_sim::ruled::{Ruled, Tally};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Result<Vec<usize>, _> = std::env::args().skip(1).map(|n| n.parse()).collect();
    let numbers = numbers?;
    let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
    let (seeds, hosts) = (number(0, 20), number(1, 200));
    let machines = number(2, 2 * hosts);
    let policies = [
        ("mean-aware", Policy::MeanAware(MeanAware::at_work())),
        ("half-difference", Policy::HalfDifference),
    ];
    for (name, policy) in policies {
        let span = Duration::from_secs(120);
        let ruled = Ruled { hosts, machines, disturbed: span, watched: span, policy, blind: None };
        let mut sum = Tally::default();
        for seed in 1..=seeds as u64 {
            let tally = ruled.run(seed)?;
            sum.moves += tally.moves;
            sum.meddled += tally.meddled;
            sum.excused += tally.excused;
            sum.broken_before += tally.broken_before;
            sum.broken_after += tally.broken_after;
            sum.violations
                .extend(tally.violations.into_iter().map(|v| format!("seed {seed}: {v}")));
        }
        println!("{name}, {seeds} seeds of {hosts} hosts and {machines} machines:");
        println!("  moves                      {}", sum.moves);
        println!("  moves by somebody else     {}", sum.meddled);
        println!("  arrivals disturbed by that {}", sum.excused);
        println!("  hard rules broken before   {}", sum.broken_before);
        println!("  hard rules broken after    {}", sum.broken_after);
        println!("  broken by the balancer     {}", sum.violations.len());
        sum.violations.iter().take(10).for_each(|violation| println!("    {violation}"));
        if !sum.violations.is_empty() {
            return Err("a hard rule was broken".into());
        }
    }
    Ok(())
}

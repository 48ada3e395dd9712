//! Plans a snapshot, or a generated cluster, with several seeds: `plan FILE|HOSTSxMACHINES [SEEDS]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use evenkeel_core::select::Policy;
use evenkeel_sim::generate::{Recipe, generate};
use evenkeel_sim::plan::{Options, plan};
use evenkeel_sim::snapshot::Snapshot;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let input = args.next().unwrap_or_else(|| "20x200".to_owned());
    let seeds: u64 = args.next().map_or(Ok(5), |text| text.parse())?;
    let mut lines = Vec::new();
    let half = args.next().is_some_and(|policy| policy == "half-difference");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    for seed in 1..=seeds {
        let snapshot = match input.split_once('x').map(|(a, b)| (a.parse(), b.parse())) {
            Some((Ok(hosts), Ok(machines))) => {
                let mixed = number("MIXED").is_some();
                let recipe = Recipe { mixed, ..Recipe::uniform(hosts, machines) };
                generate(&recipe, seed)?
            }
            _ => Snapshot::parse(&std::fs::read_to_string(&input)?)?,
        };
        let mut options = Options { seed, ..Options::default() };
        if let Policy::MeanAware(mean) = &mut options.policy {
            mean.probes = number("PROBES").map_or(mean.probes, |n| n as usize);
            mean.patience = number("PATIENCE").unwrap_or(mean.patience);
        }
        if half {
            options.policy = Policy::HalfDifference;
        }
        let plan = plan(&snapshot, &options)?;
        let hosts = snapshot.hosts.len() as f64;
        println!(
            "seed {seed}: {:.3} -> {:.4} × mean, {:.4} × bound, cv {:.4}, {} moves (bound {}, {:.3}), {} rounds, {:.1} messages a host, {:.0} bytes each, {:.1} ms, kept {}",
            plan.before.max_over_mean,
            plan.after.max_over_mean,
            plan.after.max / plan.bounds.max,
            plan.after.cv,
            plan.moves.len(),
            plan.bounds.moves,
            plan.moves.len() as f64 / plan.bounds.moves.max(1) as f64,
            plan.rounds,
            plan.messages as f64 / hosts,
            plan.message_bytes as f64 / plan.messages.max(1) as f64,
            plan.elapsed_ms,
            plan.kept.len(),
        );
        lines.push([
            plan.moves.len() as f64,
            plan.moves.len() as f64 / plan.bounds.moves.max(1) as f64,
            plan.after.max_over_mean,
            plan.after.max / plan.bounds.max,
            plan.after.cv,
            plan.rounds as f64,
            plan.messages as f64 / hosts,
            plan.elapsed_ms,
        ]);
    }
    let names = ["moves", "/bound", "max/mean", "max/bound", "cv", "rounds", "messages", "ms"];
    for (index, name) in names.iter().enumerate() {
        let mut values: Vec<f64> = lines.iter().map(|line| line[index]).collect();
        values.sort_by(f64::total_cmp);
        let (median, worst) = (values[values.len() / 2], values[values.len() - 1]);
        print!("{name} {median:.3} (worst {worst:.3})  ");
    }
    println!();
    Ok(())
}

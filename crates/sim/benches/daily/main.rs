//! Everyday situations by each policy and each degree of aggressiveness, as a table.
//!
//! `cargo bench -p evenkeel-sim --bench daily -- [PART OF A NAME]…`; `POLICIES`, `DEGREES` and `SEED`
//! in the environment choose others than all.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::error::Error;
use std::path::{Path, PathBuf};

use evenkeel_config::PolicyConfig;
use evenkeel_sim::Line;
use evenkeel_sim::scenario::{Observer, Report, Scenario, Simulation};

/// Prints every migration if `TRACE` is set.
struct Nobody;

impl Observer for Nobody {
    fn wants_lines(&self) -> bool {
        std::env::var_os("TRACE").is_some()
    }
    fn line(&mut self, line: &Line) {
        let text = line.to_string();
        if text.contains(" MOVED ") {
            println!("{text}");
        }
    }
    fn progress(&mut self, _: f64) {}
}

fn scenarios(wanted: &[String]) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/daily");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        files.push(entry?.path());
    }
    let is_wanted = |file: &Path| {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    };
    files.retain(|file| is_wanted(file));
    files.sort();
    Ok(files)
}

fn run(file: &Path, policy: PolicyConfig, degree: u8, seed: u64) -> Result<Report, Box<dyn Error>> {
    let mut scenario = Scenario::parse(&std::fs::read_to_string(file)?)?;
    scenario.balance.policy = policy;
    scenario.balance.aggressiveness = degree;
    let directory = file.parent().unwrap_or(Path::new("."));
    Ok(Simulation::new(scenario, directory, seed)?.run(&mut Nobody)?)
}

fn row(name: &str, label: &str, report: &Report, seconds: f64) {
    let time = |at: Option<f64>| at.map_or_else(|| "–".to_owned(), |at| format!("{at:.0} s"));
    let unmet: Vec<_> = report.unmet.iter().map(|unmet| unmet.key.as_str()).collect();
    println!(
        "| {name} | {label} | {} | {:.0} | {} | {} | {:.3} | {:.3} | {} | {} | {:.0} | {seconds:.1} | {} |",
        report.migrations,
        report.migrated_bytes as f64 / 1_073_741_824.0,
        time(report.first_migration_s),
        time(report.last_migration_s),
        report.cv.end,
        report.max_over_mean.end,
        report.returns,
        report.most_moves_of_a_machine,
        report.messages_per_host_round,
        unmet.join(", "),
    );
}

fn list(name: &str, otherwise: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    text.split_whitespace().map(str::to_owned).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let policies = list("POLICIES", "mean-aware half-difference");
    let degrees = list("DEGREES", "1 2 3 4 5");
    println!(
        "| situation | by | moves | GiB | first | last | cv | maximum / mean | returns | \
         of one machine | messages a host and round | seconds | unmet |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for file in scenarios(&wanted)? {
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        for policy in &policies {
            let kind = match policy.as_str() {
                "half-difference" => PolicyConfig::HalfDifference,
                _ => PolicyConfig::MeanAware,
            };
            for degree in &degrees {
                let began = std::time::Instant::now();
                let report = run(&file, kind, degree.parse()?, seed)?;
                let label = format!("{policy} {degree}");
                row(name, &label, &report, began.elapsed().as_secs_f64());
            }
        }
    }
    Ok(())
}

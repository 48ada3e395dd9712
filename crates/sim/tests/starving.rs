//! Machines that starve are helped first: they starve for less time than without that.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::Path;

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

fn run(starving: u8, seed: u64) -> Report {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/starving.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut table: toml::Table = text.parse().unwrap();
    let balance = table.entry("balance").or_insert_with(|| toml::Table::new().into());
    balance.as_table_mut().unwrap().insert("starving".to_owned(), i64::from(starving).into());
    let scenario = Scenario::parse(&table.to_string()).unwrap();
    Simulation::new(scenario, path.parent().unwrap(), seed).unwrap().run(&mut Nobody).unwrap()
}

#[test]
fn machines_starve_for_less_time_where_they_are_helped_first() {
    let of_all_seeds = |starving| {
        let reports: Vec<_> = (0..5).map(|seed| run(starving, seed)).collect();
        for report in &reports {
            assert!(report.invariants.iter().all(|i| i.violations == 0), "{report:?}");
        }
        let starved: f64 = reports.iter().map(|r| r.starved_machine_s).sum();
        let moves: u64 = reports.iter().map(|r| r.migrations).sum();
        (starved, moves)
    };
    let (without, with) = (of_all_seeds(0), of_all_seeds(50));
    eprintln!("machine-seconds starved, migrations: {without:?} without, {with:?} with");
    assert!(with.0 < 0.8 * without.0, "{with:?} is not much less than {without:?}");
}

//! `evenkeel simulate` as people use it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::Path;
use std::process::{Command, Output};

const SCENARIO: &str = r#"
about = "A crowded host, and an agent that dies."
duration = "20m"
[[hosts]]
id = "h"
count = 3
[[machines]]
id = "m"
count = 9
host = "h1"
cpu_cores = 1.0
[faults]
agent_crash = 10
message_burst = 10
"#;

fn simulate(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.current_dir(directory).arg("simulate").args(args).output().unwrap()
}

/// A directory with the scenario and something appended to it.
fn with(addition: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("s.toml"), format!("{SCENARIO}{addition}")).unwrap();
    directory
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_same_seed_makes_the_same_log_which_can_be_replayed_and_not_be_forged() {
    let directory = with("");
    let at = directory.path();
    for log in ["a.log", "b.log"] {
        let output = simulate(at, &["s.toml", "--seed", "5", "--log", log]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let read = |name: &str| std::fs::read_to_string(at.join(name)).unwrap();
    let log = read("a.log");
    assert_eq!(log, read("b.log"));
    assert!(log.lines().count() > 500 && log.contains("order migrate"), "{}", log.len());

    let replayed = simulate(at, &["--replay", "a.log"]);
    assert!(replayed.status.success(), "{}", stderr(&replayed));
    let events = log.lines().skip_while(|line| *line != "#").skip(1);
    assert!(String::from_utf8_lossy(&replayed.stdout).lines().eq(events));

    std::fs::write(at.join("a.log"), log.replacen("order migrate m", "order migrate x", 1))
        .unwrap();
    let forged = simulate(at, &["--replay", "a.log"]);
    assert_eq!(forged.status.code(), Some(1));
    assert!(stderr(&forged).contains("order migrate x"), "{}", stderr(&forged));
}

#[test]
fn a_report_holds_the_figures_and_every_invariant() {
    let directory = with("[expect]\nmigrations_min = 1\n");
    let output = simulate(directory.path(), &["s.toml", "--format", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["format"], "evenkeel.simulation/v1");
    assert!(report["max_over_mean"]["p99"].as_f64() > report["max_over_mean"]["end"].as_f64());
    let invariants = report["invariants"].as_array().unwrap();
    assert!(invariants.len() >= 7 && invariants.iter().all(|i| i["violations"] == 0));
    let table = simulate(directory.path(), &["s.toml"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("largest / mean load"));
}

#[test]
fn an_expectation_that_is_not_met_ends_with_status_1_and_says_what_was_found() {
    let directory = with("[expect]\nmigrations_max = 0\n");
    let output = simulate(directory.path(), &["s.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("NOT MET  migrations_max = 0"), "{table}");
}

#[test]
fn a_mistake_in_a_scenario_is_named() {
    for (addition, says) in [
        ("agent_crsh = 1\n", "did you mean `agent_crash`"),
        ("[balance]\ndead_bnad = 1\n", "did you mean `dead_band`"),
        ("[balance]\nround = '0s'\n", "balance.round"),
        ("[generate]\nhosts = 2\nmachines = 2\n", "hosts and machines come from"),
        ("[expect]\nmigration_max = 1\n", "did you mean `migrations`"),
        ("[[event]]\nat = '1m'\ndo.kill = { host = 'h9' }\n", "no host `h9`"),
        ("[[event]]\nat = '1m'\ndo.dance = { host = 'h1' }\n", "dance"),
    ] {
        let output = simulate(with(addition).path(), &["s.toml"]);
        assert_eq!(output.status.code(), Some(1), "{addition}");
        assert!(stderr(&output).contains(says), "{addition}: {}", stderr(&output));
    }
}

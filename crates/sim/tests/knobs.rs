//! A documented feature that does nothing: every key by which balancing is configured changes what
//! can be observed in some scenario, and no key is missing here.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use evenkeel_sim::Line;
use evenkeel_sim::scenario::{Observer, Scenario, Simulation};

/// Every line of a run.
#[derive(Default)]
struct Lines(String);

impl Observer for Lines {
    fn wants_lines(&self) -> bool {
        true
    }
    fn line(&mut self, line: &Line) {
        use std::fmt::Write as _;
        writeln!(self.0, "{line}").unwrap();
    }
    fn progress(&mut self, _: f64) {}
}

/// Busy, crowded, and with something failing now and then, so that every key has its occasion.
const BASE: &str = r#"
duration = "30m"
heal = "1s"
[generate]
kind = "mixed"
hosts = 5
machines = 30
[load]
every = "2m"
flicker = 0.8
[migration]
link = "200MB"
[membership]
kind = "oracle"
[faults]
lasts = "20s"
migration_failure = 20
store_full = 20
store_slow = 60
agent_crash = 6
hypervisor_restart = 10
message_burst = 10
"#;

/// Machines that move again and again.
const EAGER: &str = "balance.cool_down = '30s'\nbalance.aggressiveness = 5\nbalance.gain_min = 0.0\n\
                     balance.difference_min = 0.0\nbalance.hold = 1\nbalance.warm_up = 1\n\
                     balance.payback = '8h'";

/// The same on slow disks.
const SLOW: &str = "balance.policy = 'half-difference'\nbalance.round = '4s'\nbalance.cool_down = '30s'\nbalance.aggressiveness = 5\nbalance.gain_min = 0.0\n\
                    balance.difference_min = 0.0\nbalance.hold = 1\nbalance.warm_up = 1\n\
                    balance.payback = '8h'\nfaults.store_slow = 900\nfaults.store_full = 0";

/// Stores that are slow most of the time, for which agents and their samples wait.
const SLOWER: &str = "balance.cool_down = '30s'\nbalance.dead_band = 0.0\nbalance.gain_min = 0.0\n\
                      balance.difference_min = 0.0\nbalance.hold = 1\nbalance.warm_up = 1\n\
                      balance.payback = '8h'\nfaults.store_slow = 900\nfaults.store_full = 0\n\
                      faults.lasts = '5m'\nfaults.hypervisor_restart = 0";

/// The same below low ceilings.
const TIGHT: &str = "balance.cool_down = '30s'\nbalance.aggressiveness = 5\nbalance.gain_min = 0.0\n\
                     balance.difference_min = 0.0\nbalance.hold = 1\nbalance.payback = '8h'\n\
                     ceilings.cpu = 0.25";

/// Machines that want more than there is.
const CROWDED: &str = "generate.machines = 60";

/// Loads that change with every other sample, of which several must agree.
const RESTLESS: &str = "load.every = '10s'\nbalance.hold = 3\nbalance.smoothing = 1.0\n\
                        balance.dead_band = 0.05\nbalance.gain_min = 0.05";

/// A host that is emptied and comes back, among machines that move again and again.
const RETURNING: &str = "balance.policy = 'half-difference'\ngenerate.hosts = 3\nbalance.round = '5s'\nbalance.cool_down = '30s'\n\
                         balance.aggressiveness = 5\nbalance.hold = 1\n\
                         balance.difference_min = 0.0\nbalance.warm_up = 1\nbalance.payback = '8h'\n\
                         event = [{ at = '5m', do = { state = { host = 'n001', state = 'draining' } } },\n\
                         { at = '15m', do = { state = { host = 'n001', state = 'active' } } }]";

/// A key, another value than its default, and what makes its occasion.
const KEYS: &[(&str, &str, &str)] = &[
    ("balance.policy", "'half-difference'", ""),
    ("balance.aggressiveness", "5", ""),
    ("balance.moving_share_max", "0.0001", ""),
    ("balance.probes", "2", ""),
    ("balance.round", "'20s'", ""),
    ("balance.jitter", "0.1", ""),
    ("balance.sample", "'7s'", ""),
    ("balance.smoothing", "0.2", ""),
    ("balance.forecast_lead", "'1h'", ""),
    ("balance.forecast_quantile", "0.0", TIGHT),
    ("balance.warm_up", "20", ""),
    ("balance.stale_after", "'5100ms'", SLOWER),
    ("balance.dead_band", "0.3", ""),
    ("balance.difference_min", "0.3", ""),
    ("balance.gain_min", "0.9", ""),
    ("balance.hold", "1", RESTLESS),
    ("balance.hold_of", "30", RESTLESS),
    ("balance.cool_down", "'2h'", EAGER),
    ("balance.cool_down_max", "'30s'", SLOW),
    ("balance.quarantine", "'0s'", EAGER),
    ("balance.given_per_hour_max", "1", ""),
    ("balance.taken_per_hour_max", "1", ""),
    ("balance.return_time", "'0s'", RETURNING),
    ("balance.return_per_minute_max", "1000", RETURNING),
    ("balance.reply_time_max", "'100ms'", "network.delay_max = '200ms'"),
    ("balance.reservation_time", "'1s'", ""),
    ("balance.migration_time_max", "'5s'", ""),
    (
        "balance.migration_downtime_max",
        "'60s'",
        "balance.migration_link = '40MB'\nbalance.payback = '8h'",
    ),
    ("balance.migration_link", "'1MB'", ""),
    ("balance.migration_bandwidth", "'50MB'", ""),
    ("balance.payback", "'1s'", ""),
    ("balance.handoffs_max", "4", ""),
    ("balance.starving", "0", CROWDED),
    ("ceilings.cpu", "0.3", ""),
    ("ceilings.memory", "0.1", EAGER),
    ("ceilings.io", "0.05", ""),
    ("network.delay_min", "'2ms'", ""),
    ("network.delay_max", "'50ms'", ""),
    ("network.loss", "0.2", ""),
    ("network.duplication", "0.5", ""),
    ("migration.link", "'20MB'", ""),
    ("migration.cpu_cores", "8.0", ""),
    ("membership.kind", "'foca'", ""),
    ("membership.detection", "'30s'", ""),
];

fn run(changes: &[&str]) -> String {
    let mut text: toml::Table = BASE.parse().unwrap();
    for change in changes.iter().filter(|change| !change.is_empty()) {
        let change: toml::Table = change.parse().unwrap();
        for (table, keys) in change {
            // Events are a list.
            let Some(_) = keys.as_table() else {
                text.insert(table, keys);
                continue;
            };
            let table = text.entry(table).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().unwrap().extend(keys.as_table().unwrap().clone());
        }
    }
    let scenario = Scenario::parse(&text.to_string()).unwrap();
    let mut lines = Lines::default();
    Simulation::new(scenario, Path::new("."), 1).unwrap().run(&mut lines).unwrap();
    lines.0
}

/// The keys of a table, as the message names them that refuses one.
fn keys_of(table: &str) -> Vec<String> {
    let text = format!("{BASE}\n{table}.nonsense = 1");
    let text = text.replace(&format!("[{table}]\n"), &format!("[{table}]\nnonsense = 1\n"));
    let text = text.replace(&format!("\n{table}.nonsense = 1"), "");
    let text =
        if text.contains("nonsense") { text } else { format!("{text}[{table}]\nnonsense = 1") };
    let error = Scenario::parse(&text).unwrap_err().to_string();
    let (_, known) = error.split_once("expected ").unwrap();
    let known = known.lines().next().unwrap();
    known.split('`').skip(1).step_by(2).map(|key| format!("{table}.{key}")).collect()
}

#[test]
fn every_key_is_tried_here() {
    let tried: BTreeSet<_> = KEYS.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let tables = ["balance", "ceilings", "network", "membership"];
    let known: BTreeSet<_> = tables.iter().flat_map(|table| keys_of(table)).collect();
    let missing: Vec<_> = known.difference(&tried).collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
fn every_key_changes_what_happens() {
    let occasions: BTreeSet<_> = KEYS.iter().map(|(.., occasion)| *occasion).collect();
    let before: BTreeMap<_, _> = occasions.into_iter().map(|o| (o, run(&[o]))).collect();
    let idle: Vec<_> = KEYS
        .iter()
        .filter(|(key, value, occasion)| {
            let change = format!("{key} = {value}");
            before[occasion] == run(&[occasion, &change])
        })
        .map(|(key, ..)| key)
        .collect();
    assert!(idle.is_empty(), "these do nothing: {idle:?}");
}

//! A report for people.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use comfy_table::CellAlignment;
use evenkeel_sim::scenario::{Report, Spread};

use crate::output::table as empty;

pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    if !report.about.is_empty() {
        text += &format!("{}\n", report.about);
    }
    text += &format!(
        "{} hosts, {} machines, {} scored, seed {}\n",
        report.hosts,
        report.machines,
        span(report.scored_s),
        report.seed
    );
    text += &balance(report);
    text.push('\n');
    text += &figures(report);
    let titles = [
        ("mishaps", named(&report.mishaps)),
        ("how exchanges ended", named(&report.endings)),
        ("what donors said of machines", named(&report.verdicts)),
    ];
    for (title, entries) in titles {
        if !entries.is_empty() {
            text += &format!("\n{title}: {}", entries.join(", "));
        }
    }
    text.push('\n');
    for result in &report.invariants {
        text += &match &result.first {
            None => format!("\nheld     {}", result.invariant),
            Some(first) => {
                format!("\nBROKEN   {} ({} times; {first})", result.invariant, result.violations)
            }
        };
    }
    for unmet in &report.unmet {
        let found = unmet.found.map_or_else(|| "nothing".to_owned(), |found| format!("{found}"));
        text += &format!("\nNOT MET  {} = {}: it was {found}", unmet.key, unmet.bound);
    }
    text
}

fn named<K: ToString>(counts: &BTreeMap<K, u64>) -> Vec<String> {
    counts.iter().map(|(name, count)| format!("{} {count}", name.to_string())).collect()
}

fn balance(report: &Report) -> String {
    let mut table = empty(&["over time", "mean", "p99", "end"]);
    for (name, Spread { mean, p99, end }) in
        [("largest / mean load", report.max_over_mean), ("cv of loads", report.cv)]
    {
        let figure = |value: f64| format!("{value:.3}");
        table.add_row([name.to_owned(), figure(mean), figure(p99), figure(end)]);
    }
    for column in 1..=3 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

fn figures(report: &Report) -> String {
    let since = |at: Option<f64>| at.map_or_else(|| "never".to_owned(), span);
    let mut rows = vec![
        (
            "hosts overloaded",
            format!(
                "{} (CPU {}), last at {}",
                span(report.overloaded_host_s),
                span(report.overloaded_cpu_host_s),
                since(report.overloaded_last_s)
            ),
        ),
        (
            "migrations",
            format!(
                "{} ({:.1} an hour), {} failed, {} at once on a host, first at {}, last at {}",
                report.migrations,
                report.migrations_per_hour,
                report.migrations_failed,
                report.at_once_max,
                since(report.first_migration_s),
                since(report.last_migration_s)
            ),
        ),
        (
            "machines",
            format!(
                "{} came back within an hour, one moved {} times at most",
                report.returns, report.most_moves_of_a_machine
            ),
        ),
        (
            "they cost",
            format!(
                "{} sent, {:.1} s of standstill in all, {} ms at most",
                ByteSize(report.migrated_bytes),
                report.downtime_s,
                report.downtime_max_ms
            ),
        ),
        (
            "a host and round",
            format!(
                "{:.2} messages, {:.0} bytes; membership {:.1} datagrams, {:.0} bytes",
                report.messages_per_host_round,
                report.message_bytes_per_host_round,
                report.datagrams_per_host_round,
                report.datagram_bytes_per_host_round
            ),
        ),
    ];
    if report.outside_moves > 0 {
        rows.push(("moved by others", report.outside_moves.to_string()));
    }
    let line = |(name, text): (&str, String)| format!("{name:17} {text}\n");
    rows.into_iter().map(line).collect()
}

/// Seconds for people.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, 0) => format!("{m} min"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

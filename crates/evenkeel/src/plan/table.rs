//! A plan for people.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_sim::plan::Plan;
use evenkeel_sim::snapshot::Snapshot;
use evenkeel_sim::{Hindrance, Staying};

use crate::output::{align, percent, table as empty};

pub(super) fn table(snapshot: &Snapshot, plan: &Plan) -> String {
    let (hosts, machines) = (snapshot.hosts.len(), snapshot.vms.len());
    let mut text = format!("{hosts} hosts, {machines} machines, seed {}\n", plan.seed);
    text += &foreseen(plan);
    text += &summary(plan);
    if plan.moves.is_empty() {
        text += match plan.ends_s {
            None => "\nnothing would move: no move would level the hosts further",
            Some(_) => "\nnothing would move: no move would level enough to be worth its price",
        };
        text += &hindrances(plan);
    } else {
        text += &format!("\n{}", moves(snapshot, plan));
    }
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for machine in &plan.kept {
        *kept.entry(machine.reason.code()).or_default() += 1;
    }
    for (reason, count) in kept {
        text += &format!("\n{count} kept where they are: {reason}");
    }
    text += &staying(snapshot, plan);
    text += &format!(
        "\nagreed in {} rounds with {:.1} messages a host ({} in all), planned in {}",
        plan.rounds,
        plan.messages as f64 / hosts.max(1) as f64,
        ByteSize(plan.message_bytes),
        seconds(plan.elapsed_ms / 1e3),
    );
    text
}

/// What keeps the machines of the most loaded host, where nothing moves.
fn hindrances(plan: &Plan) -> String {
    let most = plan.before.hosts.iter().max_by(|a, b| a.load.total_cmp(&b.load));
    let Some(host) = most.filter(|_| !plan.hindrances.is_empty()) else { return String::new() };
    let mut text = format!("\nwhat keeps the machines of `{}`, the most loaded host:", host.id);
    for Hindrance { reason, machines } in &plan.hindrances {
        text += &format!("\n  {machines} by {reason}: {} {}", reason.meaning(), reason.remedy());
    }
    text
}

/// What is left on hosts that are to be emptied.
fn staying(snapshot: &Snapshot, plan: &Plan) -> String {
    let names: BTreeMap<_, _> = snapshot.vms.iter().map(|vm| (&vm.id, vm.name())).collect();
    let mut hosts: BTreeMap<_, Vec<&Staying>> = BTreeMap::new();
    for staying in &plan.staying {
        hosts.entry(&staying.host).or_default().push(staying);
    }
    let mut text = String::new();
    for (host, left) in hosts {
        let machines = if left.len() == 1 { "machine stays" } else { "machines stay" };
        text += &format!(
            "\nhost `{host}` is to be emptied and is NOT EMPTY: {} {machines}",
            left.len()
        );
        for Staying { vm, reason, detail, refusals, .. } in left {
            let name = names.get(vm).map_or_else(|| vm.as_str(), |name| *name);
            let counts: Vec<_> =
                refusals.iter().map(|(reason, hosts)| format!("{reason} by {hosts}")).collect();
            let detail = if detail.is_empty() { String::new() } else { format!(" [{detail}]") };
            let counts = counts.join(", ");
            text +=
                &format!("\n  `{name}` stays: {reason} ({counts}): {}{detail}", reason.meaning());
            text += &format!(" {}", reason.remedy());
        }
    }
    text
}

/// What it is a plan of, in a line.
fn foreseen(plan: &Plan) -> String {
    let moves = match plan.moves.len() {
        1 => "1 move".to_owned(),
        moves => format!("{moves} moves"),
    };
    match plan.ends_s {
        None => format!("what would be possible: {moves}\n"),
        Some(_) if plan.moves.is_empty() => {
            "what agents would do: nothing; `--ideal` shows what would be possible\n".to_owned()
        }
        Some(ends) => format!(
            "what agents would do: {moves} in about {}; `--ideal` shows what would be possible\n",
            about(ends)
        ),
    }
}

/// A time in words, not more exact than it can be foreseen.
fn about(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{:.0} seconds", (seconds / 10.0).ceil() * 10.0),
        ..5400.0 => format!("{:.0} minutes", (seconds / 60.0).ceil()),
        _ => format!("{:.1} hours", seconds / 3600.0),
    }
}

fn summary(plan: &Plan) -> String {
    let mut table = empty(&["", "before", "after", "bound"]);
    let (before, after, bounds) = (&plan.before, &plan.after, &plan.bounds);
    let ratio = |max: f64| if before.mean > 0.0 { max / before.mean } else { 1.0 };
    let bytes: f64 = plan.moves.iter().map(|m| m.bytes_predicted).sum();
    let rows = [
        ("largest load", percent(before.max), percent(after.max), percent(bounds.max)),
        ("mean load", percent(before.mean), percent(after.mean), String::new()),
        (
            "largest / mean",
            format!("{:.3}", before.max_over_mean),
            format!("{:.3}", after.max_over_mean),
            // On unlike hosts the mean is another one for every placement.
            if before.mean == after.mean || (before.mean - after.mean).abs() < 1e-9 {
                format!("{:.3}", ratio(bounds.max))
            } else {
                String::new()
            },
        ),
        ("cv", format!("{:.3}", before.cv), format!("{:.3}", after.cv), String::new()),
        ("moves", String::new(), plan.moves.len().to_string(), bounds.moves.to_string()),
        ("memory to send", String::new(), size(bytes), size(bounds.bytes)),
    ];
    for (what, before, after, bound) in rows {
        table.add_row([what.to_owned(), before, after, bound]);
    }
    align(&mut table, &[1, 2, 3]);
    table.to_string()
}

fn moves(snapshot: &Snapshot, plan: &Plan) -> String {
    let names: BTreeMap<_, _> = snapshot.vms.iter().map(|vm| (&vm.id, vm.name())).collect();
    let mut table = empty(&[
        "",
        "machine",
        "from",
        "to",
        "load there",
        "load then",
        "wanted",
        "to send",
        "takes",
        "done after",
        "reason",
    ]);
    for m in &plan.moves {
        table.add_row([
            m.seq.to_string(),
            names.get(&m.vm).map_or_else(|| m.vm.to_string(), |name| (*name).to_owned()),
            m.from.to_string(),
            m.to.to_string(),
            percent(m.load_at_source),
            percent(m.load_at_target),
            percent(m.wanted_load),
            size(m.bytes_predicted),
            seconds(m.seconds_predicted),
            m.ends_s.map(seconds).unwrap_or_default(),
            format!("{:?}", m.reason).trim_matches('"').to_owned(),
        ]);
    }
    align(&mut table, &[0, 4, 5, 6, 7, 8, 9]);
    table.to_string()
}

fn size(bytes: f64) -> String {
    // Saturates, and is a figure for people.
    ByteSize(bytes.max(0.0) as u64).to_string()
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 120.0 {
        return format!("{seconds:.1} s");
    }
    let whole = Duration::from_secs_f64(seconds.min(1e9)).as_secs();
    format!("{} min {} s", whole / 60, whole % 60)
}

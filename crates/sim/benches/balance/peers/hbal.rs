//! Ganeti's `hbal`, from the Debian package `ganeti-htools`: it sees the whole cluster.
//!
//! It gets the cluster as a text file and, as every instance's CPU utilisation, the very load that
//! Evenkeel levels, priced on the first host; everything else that it would level besides is made
//! alike everywhere, so that it has the same aim. That a machine loads another host differently is
//! beyond what it can be told.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use evenkeel_core::model::{HostId, MachineId};

use super::{judged, row, run};
use crate::Failure;
use crate::inputs::Input;
use crate::table::Row;

const WHO: &str = "hbal (ganeti-htools)";
const GROUP: &str = "7d2ae8b7-3f52-4f0c-9d0b-6c1d9d4f7a01";
const MIB: f64 = 1_048_576.0;
/// So much of everything that no ratio of it counts.
const PLENTY: u64 = 100_000_000;

pub(crate) fn measure(input: &Input, limit: Duration) -> Result<Row, Failure> {
    let Some(free) = attempt(input, false, limit)? else {
        return Ok(Row::remark(input, WHO, "missing: the program hbal is not installed"));
    };
    if free.note.contains("without room") {
        // It has to be told of memory then, and levels that besides.
        return Ok(attempt(input, true, limit)?.unwrap_or(free));
    }
    Ok(free)
}

fn attempt(input: &Input, with_memory: bool, limit: Duration) -> Result<Option<Row>, Failure> {
    let dir = std::env::temp_dir().join(format!("evenkeel-hbal-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (cluster, loads) = (dir.join("cluster.data"), dir.join("loads"));
    std::fs::write(&cluster, text(input, with_memory))?;
    std::fs::write(&loads, utilisation(input))?;
    let mut command = Command::new("hbal");
    // It would otherwise stop as soon as its score is tolerable.
    command.args(["--verbose", "--ignore-soft-errors", "--min-gain=0.0001", "--min-gain-limit=0"]);
    command.arg("--text-data").arg(&cluster).arg("--dynu-file").arg(&loads);
    let stay: Vec<_> = input
        .snapshot
        .vms
        .iter()
        .filter(|vm| !vm.movable || vm.rules.ignore)
        .map(|vm| vm.id.as_str())
        .collect();
    if !stay.is_empty() {
        command.arg(format!("--exclude-instances={}", stay.join(",")));
    }
    let ran = run(&mut command, "", limit);
    std::fs::remove_dir_all(&dir)?;
    let Some(ran) = ran? else { return Ok(None) };
    if ran.in_time && !ran.success {
        let why = ran.stderr.lines().last().unwrap_or("no reason given").to_owned();
        return Ok(Some(Row::remark(input, WHO, format!("failed: {why}"))));
    }
    let moves: Vec<_> = ran.stdout.lines().filter_map(step).collect();
    let mut notes = Vec::new();
    if !ran.in_time {
        notes.push(format!("stopped after {} s", limit.as_secs()));
    }
    if with_memory {
        notes.push("levels memory besides".to_owned());
    }
    if !ran.in_time && moves.is_empty() {
        return Ok(Some(Row::remark(input, WHO, format!("{}, no move printed", notes.join("; ")))));
    }
    Ok(Some(row(input, WHO, &judged(input, &moves), ran.seconds, notes)))
}

/// Groups, nodes, instances, tags: sections with an empty line between them.
fn text(input: &Input, with_memory: bool) -> String {
    let mut text = format!("all|{GROUP}|preferred|\n\n");
    let mib = |bytes: f64| (bytes / MIB).ceil() as u64;
    let memory = |vm: &evenkeel_sim::snapshot::SnapshotMachine| {
        if with_memory { mib(vm.promised_memory_bytes()) } else { 1 }
    };
    let mut used = std::collections::BTreeMap::new();
    for vm in &input.snapshot.vms {
        *used.entry(&vm.host).or_insert(0) += memory(vm);
    }
    for (index, host) in input.snapshot.hosts.iter().enumerate() {
        let total = if with_memory { mib(host.capacity.memory_bytes) } else { PLENTY };
        let own = if with_memory { mib(host.reserved_memory_bytes) } else { 0 };
        let free = total.saturating_sub(own + used.get(&host.id).copied().unwrap_or(0));
        let role = if index == 0 { 'M' } else { 'N' };
        let id = &host.id;
        // Writing into a text cannot fail.
        let _ = writeln!(
            text,
            "{id}|{total}|{own}|{free}|{PLENTY}|{PLENTY}|{PLENTY}|{role}|{GROUP}|{PLENTY}"
        );
    }
    text.push('\n');
    for vm in &input.snapshot.vms {
        // On storage that every node reaches: no secondary node, and nothing on disk to move.
        let _ = writeln!(text, "{}|{}|0|1|running|Y|{}||ext||0", vm.id, memory(vm), vm.host);
    }
    text.push_str("\n\n");
    text
}

fn utilisation(input: &Input) -> String {
    let reference = input.snapshot.hosts[0].profile();
    let hosts: std::collections::BTreeMap<_, _> =
        input.snapshot.hosts.iter().map(|h| (&h.id, h.profile())).collect();
    let mut text = String::new();
    for vm in &input.snapshot.vms {
        let load = reference.price(&vm.factors(&hosts[&vm.host]));
        let _ = writeln!(text, "{} {load:.9} 0.0000001 0.0000001 0.0000001", vm.id);
    }
    text
}

/// One line of the solution: `  12. v0104 n003 => n018 0.14806985 a=f:n018`.
fn step(line: &str) -> Option<(MachineId, HostId)> {
    let mut words = line.split_whitespace();
    words.next()?.strip_suffix('.')?.parse::<u32>().ok()?;
    let (machine, _from) = (words.next()?, words.next()?);
    (words.next()? == "=>").then_some(())?;
    Some((MachineId::new(machine).ok()?, HostId::new(words.next()?).ok()?))
}

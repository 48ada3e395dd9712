//! A constraint solver, OR-tools' CP-SAT (the Python package `ortools`): the proven optimum on small
//! inputs. It sees the whole cluster and finds the fewest moves to within 1.02 of the bound.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use evenkeel_core::model::{HostId, MachineId};
use evenkeel_sim::bounds::REACHED;
use evenkeel_sim::snapshot::{SnapshotHost, SnapshotMachine};
use serde::Deserialize;
use serde_json::json;

use super::{judged, row, run};
use crate::Failure;
use crate::inputs::Input;
use crate::table::Row;

const WHO: &str = "solver (OR-tools)";
const PROGRAM: &str = include_str!("solver.py");
/// To within these of the bound, the next one if there is nothing within the first.
const LIMITS: [f64; 2] = [REACHED, 1.05];
/// Hosts × machines that are small enough to be proven anything about.
const SIZE_MAX: usize = 10_000;
/// What Python and the solver take to start and to stop.
const OVERHEAD: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Answer {
    Missing,
    Unsolved { detail: String },
    Solved { limit: f64, proven: bool, at_least: f64, targets: Vec<usize> },
}

pub(crate) fn measure(input: &Input, limit: Duration) -> Result<Row, Failure> {
    if input.hosts() * input.machines() > SIZE_MAX {
        return Ok(Row::remark(input, WHO, "not asked: too large to prove"));
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(&python);
    command.args(["-c", PROGRAM]);
    let question = question(input, limit).to_string();
    let Some(ran) = run(&mut command, &question, limit + OVERHEAD)? else {
        return Ok(Row::remark(input, WHO, format!("missing: `{python}` is not installed")));
    };
    if !ran.in_time {
        return Ok(Row::remark(input, WHO, format!("stopped after {} s", limit.as_secs())));
    }
    let answer = serde_json::from_str(&ran.stdout).map_err(|_| {
        format!("the solver failed: {}", ran.stderr.lines().last().unwrap_or("no reason given"))
    })?;
    Ok(match answer {
        Answer::Missing => {
            Row::remark(input, WHO, "missing: the Python package ortools is not installed")
        }
        Answer::Unsolved { detail } => {
            Row::remark(input, WHO, format!("{detail} after {:.0} s", ran.seconds))
        }
        Answer::Solved { limit, proven, at_least, targets } => {
            let within = limit / input.bounds.max;
            let note = if proven {
                format!("proven fewest to within {within:.2} of the bound")
            } else {
                format!("to within {within:.2}; not proven, at least {at_least:.0}")
            };
            let verdict = judged(input, &moves(input, &targets));
            row(input, WHO, &verdict, ran.seconds, vec![note])
        }
    })
}

fn question(input: &Input, limit: Duration) -> serde_json::Value {
    let snapshot = &input.snapshot;
    let hosts: Vec<_> = snapshot.hosts.iter().map(SnapshotHost::profile).collect();
    let index: BTreeMap<_, _> =
        snapshot.hosts.iter().enumerate().map(|(i, h)| (&h.id, i)).collect();
    let background = |i: usize| hosts[i].price(&snapshot.hosts[i].background.unwrap_or_default());
    let machines: Vec<_> = snapshot
        .vms
        .iter()
        .map(|vm| {
            let factors = vm.factors(&hosts[index[&vm.host]]);
            json!({
                "home": index[&vm.host],
                "movable": vm.movable && !vm.rules.ignore,
                "memory": vm.promised_memory_bytes(),
                "loads": hosts.iter().map(|host| host.price(&factors)).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "seconds": limit.as_secs_f64(),
        "limits": LIMITS.map(|limit| limit * input.bounds.max),
        "hosts": (0..hosts.len()).map(|i| json!({
            "memory": hosts[i].usable_memory_bytes(), "load": background(i),
        })).collect::<Vec<_>>(),
        "machines": machines,
    })
}

/// Moves in an order in which room is found as far as possible.
fn moves(input: &Input, targets: &[usize]) -> Vec<(MachineId, HostId)> {
    let snapshot = &input.snapshot;
    let mut free: BTreeMap<&HostId, f64> =
        snapshot.hosts.iter().map(|h| (&h.id, h.profile().usable_memory_bytes())).collect();
    for vm in &snapshot.vms {
        free.entry(&vm.host).and_modify(|free| *free -= vm.promised_memory_bytes());
    }
    let displaced = snapshot.vms.iter().zip(targets).filter_map(|(vm, &to)| {
        let to = &snapshot.hosts.get(to)?.id;
        (*to != vm.host).then_some((vm, to))
    });
    let mut waiting: Vec<_> = displaced.collect();
    let mut moves = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let fits = |(vm, to): &(&SnapshotMachine, &HostId)| free[*to] >= vm.promised_memory_bytes();
        let next = waiting.iter().position(fits).unwrap_or(0);
        let (vm, to) = waiting.remove(next);
        free.entry(&vm.host).and_modify(|free| *free += vm.promised_memory_bytes());
        free.entry(to).and_modify(|free| *free -= vm.promised_memory_bytes());
        moves.push((vm.id.clone(), to.clone()));
    }
    moves
}

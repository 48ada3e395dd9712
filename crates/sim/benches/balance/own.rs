//! Evenkeel's own plans.

use std::time::Instant;

use evenkeel_core::select::Policy;
use evenkeel_sim::plan::{Options, Plan, plan};

use crate::Failure;
use crate::inputs::{self, Input};
use crate::judge::{Verdict, judge};
use crate::table::Row;

/// One plan and what it comes to.
struct Run {
    plan: Plan,
    verdict: Verdict,
    seconds: f64,
    cpu_seconds: Option<f64>,
}

fn run(input: &Input, policy: Policy, seed: u64) -> Result<Run, Failure> {
    let (began, before) = (Instant::now(), cpu_seconds());
    let plan = plan(&input.snapshot, &Options { seed, policy, ..Options::default() })?;
    let cpu = cpu_seconds().zip(before).map(|(after, before)| after - before);
    // The bounds are ours to know, and no part of planning.
    let whole = began.elapsed().as_secs_f64();
    let seconds = (plan.elapsed_ms / 1e3).min(whole);
    let cpu_seconds = cpu.map(|cpu| cpu * seconds / whole);
    let verdict = judge(&input.snapshot, plan.moves.iter().map(|m| (&m.vm, &m.to)));
    Ok(Run { plan, verdict, seconds, cpu_seconds })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// Medians over seeds from 1.
pub(crate) fn measure(
    input: &Input,
    policy: Policy,
    name: &str,
    seeds: u64,
) -> Result<Row, Failure> {
    let runs: Vec<Run> =
        (1..=seeds).map(|seed| run(input, policy, seed)).collect::<Result<_, _>>()?;
    let of = |pick: &dyn Fn(&Run) -> f64| median(runs.iter().map(pick).collect());
    let (max, mean) = (of(&|r| r.verdict.max), of(&|r| r.verdict.mean));
    let without_room = runs.iter().map(|r| r.verdict.without_room).sum::<usize>();
    let claimed = |r: &Run| (r.plan.after.max - r.verdict.max).abs() > 1e-9;
    let mut notes = Vec::new();
    if without_room > 0 {
        notes.push(format!("{without_room} moves without room"));
    }
    if runs.iter().any(claimed) {
        notes.push("the plan claims another maximum".to_owned());
    }
    Ok(Row {
        input: input.name.clone(),
        who: format!("{name}, median of {seeds}"),
        moves: Some(of(&|r| r.verdict.moves as f64)),
        moves_bound: input.bounds.moves,
        max_over_mean: Some(of(&|r| r.verdict.max / r.verdict.mean)),
        max_over_bound: Some(max / input.bounds.max),
        cv: Some(of(&|r| r.verdict.cv)),
        bytes_over_bound: Some(of(&|r| r.verdict.bytes) / input.bounds.bytes),
        messages_per_host: Some(of(&|r| r.plan.messages as f64) / input.hosts() as f64),
        rounds: Some(of(&|r| r.plan.rounds as f64)),
        seconds: Some(of(&|r| r.seconds)),
        cpu_seconds: runs[0].cpu_seconds.map(|_| of(&|r| r.cpu_seconds.unwrap_or(r.seconds))),
        note: if mean > 0.0 { notes.join("; ") } else { "nothing is loaded".to_owned() },
    })
}

/// Sizes at which cost is plotted: hosts, with ten machines each.
const SIZES: [usize; 6] = [10, 30, 100, 300, 1000, 2000];
const SIZE_SEEDS: u64 = 3;

/// What plans cost as clusters grow.
pub(crate) fn against_size() -> Result<Vec<(usize, Row)>, Failure> {
    let one = |hosts: usize| {
        let input = inputs::make(&format!("uniform-{hosts}x{}", 10 * hosts))?;
        Ok((hosts, measure(&input, Policy::default(), "evenkeel", SIZE_SEEDS)?))
    };
    SIZES.into_iter().map(one).collect()
}

/// Time that this thread was on a CPU, which a busy machine does not stretch; where it is told.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(stat.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// The most memory that this process had.
pub(crate) fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "not told by this system".to_owned(), |text| text.trim().to_owned())
}

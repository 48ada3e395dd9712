//! Waiting for a directed move to end, with its progress.

use std::time::Duration;

use evenkeel_agent::Client;
use evenkeel_agent::status::{MoveStage, MoveStatus};
use evenkeel_core::decision::Reason;

use crate::output::{Failure, to_do};
use crate::progress::Progress;

const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long an agent that is started again is waited for.
const RESTART_TIME_MAX: Duration = Duration::from_secs(120);

/// Waits until a move is over, or somebody interrupts, which leaves it going on.
pub(super) async fn for_end(
    client: &Client,
    mut status: MoveStatus,
) -> Result<MoveStatus, Failure> {
    let (mut progress, mut told) = (Progress::new(), None);
    while status.stage != MoveStage::Ended {
        progress.say(|| line(&status));
        if status.reason != told {
            told = status.reason;
            say_why_it_waits(&status);
        }
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => {
                progress.end();
                interrupt?;
                return Err(format!(
                    "interrupted: the move of machine `{}` from host `{}` goes on without this \
                     command; `evenkeel status --host {}` shows it",
                    status.name, status.from, status.from
                )
                .into());
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        status = match client.directed(status.id).await {
            Ok(newer) => newer,
            Err(error) => {
                progress.end();
                return Err(after_restart(client, &status, &error.to_string()).await);
            }
        };
    }
    progress.end();
    if status.reason == Some(Reason::Moved) { Ok(status) } else { Err(failed(&status).into()) }
}

/// Tells once for what a move waits, also where nobody draws lines.
fn say_why_it_waits(status: &MoveStatus) {
    if let (MoveStage::Waiting, Some(why)) = (status.stage, status.reason) {
        crate::output::tell!("machine `{}` waits: {why}: {}", status.name, why.meaning());
    }
}

/// The agent does not answer for a move any more: it was started again, most likely, and what was under
/// way goes on. Waits until it answers and nothing of the machine is under way, and tells where it is.
async fn after_restart(client: &Client, status: &MoveStatus, why: &str) -> Failure {
    let MoveStatus { name, machine, from, .. } = status;
    crate::output::tell!("the agent of host `{from}` has lost sight of the move: {why}");
    let end = tokio::time::Instant::now() + RESTART_TIME_MAX;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK_AGAIN).await;
        let Ok(now) = client.status().await else { continue };
        if now.unknown.is_some() || now.handoffs.iter().any(|handoff| handoff.machine == *machine) {
            continue;
        }
        let here = now.machines.iter().any(|m| m.id == *machine && m.presence.is_resident());
        let place = if here {
            format!("machine `{name}` is on host `{from}` as before")
        } else {
            format!("machine `{name}` has left host `{from}`")
        };
        return format!("the agent of host `{from}` was started again meanwhile: {place}").into();
    }
    format!(
        "the agent of host `{from}` does not answer; the move of machine `{name}` may go on: \
         `evenkeel status --host {from}` and `evenkeel history` tell when it does"
    )
    .into()
}

/// How far it is, on one line.
fn line(status: &MoveStatus) -> String {
    let to = status.to.as_ref().map_or_else(String::new, |to| format!(" → {to}"));
    let what = match (status.stage, &status.progress) {
        (MoveStage::Moving, Some(progress)) => {
            let mib = |bytes: u64| bytes as f64 / 1048576.0;
            let per_ms = progress.bytes_done as f64 / progress.elapsed_ms.max(1) as f64;
            let left = progress.bytes_left as f64 / per_ms.max(1.0) / 1000.0;
            let (sent, rest) = (mib(progress.bytes_done), mib(progress.bytes_left));
            format!("{sent:.0} MiB sent, {rest:.0} MiB left, about {left:.0} s")
        }
        (MoveStage::Moving, None) => "being handed over".to_owned(),
        (MoveStage::Waiting, _) => {
            let why = status.reason.map_or_else(String::new, |why| format!(" ({why})"));
            format!("waits for its turn{why}")
        }
        (MoveStage::Looking, _) => "looking for a host".to_owned(),
        (MoveStage::Asking | MoveStage::Ended, _) => "asking".to_owned(),
    };
    format!("{}: {}{to}  {what}", status.name, status.from)
}

/// What a move that has ended well comes to.
pub(super) fn done(status: &MoveStatus) -> String {
    let to = status.to.as_ref().map_or("another host", |to| to.as_str());
    let cost = status.stats.map_or_else(String::new, |stats| {
        format!(
            "; it moved in {} ms, sent {:.0} MiB and stood still {} ms",
            stats.elapsed_ms,
            stats.bytes as f64 / 1048576.0,
            stats.downtime_ms
        )
    });
    format!("machine `{}` runs on host `{to}`{cost}", status.name)
}

/// Why a move did not happen, and what is left.
fn failed(status: &MoveStatus) -> String {
    let MoveStatus { name, from, to, detail, .. } = status;
    let to = to.as_ref().map_or_else(String::new, |to| format!(" to host `{to}`"));
    let reason = status.reason.unwrap_or(Reason::Ended);
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let state = match reason {
        Reason::Ended => format!("`evenkeel status --host {from}` says where it is"),
        _ => format!("it is left as it was on host `{from}`"),
    };
    let hint = to_do(reason).map_or_else(String::new, |to_do| format!("\nhint: {to_do}"));
    format!(
        "machine `{name}` was not moved from host `{from}`{to}: {state}\n{reason}: {}{detail}{hint}",
        reason.meaning()
    )
}

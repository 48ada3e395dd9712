//! Waiting for a directed move to end, with its progress.

use std::time::Duration;

use evenkeel_agent::Client;
use evenkeel_agent::status::{MoveStage, MoveStatus};
use evenkeel_core::decision::Reason;

use crate::output::{Failure, to_do};
use crate::progress::Progress;

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Waits until a move is over, or somebody interrupts, which leaves it going on.
pub(super) async fn for_end(
    client: &Client,
    mut status: MoveStatus,
) -> Result<MoveStatus, Failure> {
    let mut progress = Progress::new();
    while status.stage != MoveStage::Ended {
        progress.say(|| line(&status));
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
        status = client.directed(status.id).await?;
    }
    progress.end();
    if status.reason == Some(Reason::Moved) { Ok(status) } else { Err(failed(&status).into()) }
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

//! `evenkeel top`: every host of the cluster at a glance, again and again.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use evenkeel_agent::{Client, Status};
use evenkeel_core::decision::Role;
use evenkeel_core::model::HostId;

use super::everybody::{everybody, side_by_side};
use super::report::score;
use crate::output::{Failure, align, percent, table};

/// A host that takes longer to answer is shown as one that does not.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);
const UNKNOWN: &str = "?";
/// Clears a terminal and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = super::AGENT_SOCKET)]
    socket: std::path::PathBuf,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look so many times, then end; without end otherwise, or once where there is no terminal
    #[arg(long)]
    times: Option<u64>,
}

pub(super) async fn run(args: TopArgs) -> Result<(), Failure> {
    let is_terminal = std::io::stdout().is_terminal();
    let mut left = args.times.or((!is_terminal).then_some(1));
    loop {
        let statuses = look(everybody(Client::new(&args.socket).for_people()).await?).await?;
        let clear = if is_terminal { CLEAR } else { "" };
        crate::output::say!("{clear}{}", render(&statuses))?;
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(args.every)).await;
    }
}

type Seen = (HostId, Option<Status>);

/// Asks every host.
async fn look(hosts: Vec<(HostId, Client)>) -> Result<Vec<Seen>, Failure> {
    let ask = |(host, client): (HostId, Client)| async move {
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, client.status()).await;
        (host, answer.ok().and_then(Result::ok))
    };
    let mut seen = side_by_side(hosts, ask).await?;
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(seen)
}

fn render(seen: &[Seen]) -> String {
    let header =
        ["host", "state", "load", "cpu", "memory", "io", "contention", "machines", "worst machine"];
    let mut hosts = table(&header);
    let (mut moves, mut alarms) = (Vec::new(), Vec::new());
    for (host, status) in seen {
        let Some(status) = status else {
            hosts.add_row([host.as_str(), "no answer"]);
            continue;
        };
        let left_out =
            status.left_out.iter().map(|left_out| super::report::left_out(status, left_out));
        alarms.extend(left_out.map(|words| format!("ALARM: {host}: {words}\n")));
        let share = |pick: fn(&evenkeel_core::model::PerResource) -> f64| {
            status.shares.as_ref().map_or_else(|| UNKNOWN.to_owned(), |s| percent(pick(s)))
        };
        let worst = status.machines.iter().max_by_key(|m| m.contention_score);
        let worst = worst.filter(|m| m.contention_score.is_some_and(|score| score > 0));
        hosts.add_row([
            host.to_string(),
            format!("{:?}", status.state).to_lowercase(),
            status.load.map_or_else(|| UNKNOWN.to_owned(), percent),
            share(|s| s.cpu),
            share(|s| s.memory),
            share(|s| s.io),
            score(status.contention_score),
            status.machines.len().to_string(),
            worst.map_or_else(String::new, |m| format!("{} {}", m.name, score(m.contention_score))),
        ]);
        alarms.extend(
            status
                .alarms
                .iter()
                .map(|alarm| format!("ALARM of {host}: {}\n", super::report::alarm(alarm))),
        );
        moves.extend(status.handoffs.iter().filter(|h| h.role == Role::Source).map(|handoff| {
            let since = status.at.since(handoff.since).as_secs();
            let sent = handoff.progress.map_or(0, |p| p.bytes_done / 1_048_576);
            let phase = format!("{:?}", handoff.phase).to_lowercase();
            format!(
                "{}: {host} → {}, {phase} for {since} s, {sent} MiB sent",
                handoff.name, handoff.peer
            )
        }));
    }
    align(&mut hosts, &[2, 3, 4, 5, 6, 7]);
    let scores = seen.iter().filter_map(|(_, status)| status.as_ref()?.contention_score);
    let scores: Vec<_> = scores.map(f64::from).collect();
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    let cluster = if scores.is_empty() { UNKNOWN.to_owned() } else { format!("{mean:.0}") };
    let under_way = if moves.is_empty() { "nothing moves".to_owned() } else { moves.join("\n") };
    let alarms = alarms.concat();
    format!("{} hosts, contention {cluster}\n{alarms}{hosts}\n{under_way}", seen.len())
}

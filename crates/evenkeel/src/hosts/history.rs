//! `evenkeel history`: decisions over days, from each host's own store, merged.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use evenkeel_agent::{Client, Wanted};
use evenkeel_core::decision::Decision;
use evenkeel_core::model::{HostId, MachineId, Time};
use evenkeel_desk::history::{History, merged};

use super::everybody::{everybody, side_by_side};
use super::{AskArgs, report};
use crate::output::{self, Failure};

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// How far back, such as `2d`, `12h` or `30m`
    #[arg(long, value_name = "TIME", value_parser = span)]
    since: Option<Duration>,
    /// Only what concerned this machine: its name or UUID
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Also exchanges in which no machine was chosen
    #[arg(long)]
    all: bool,
    /// Most records of each host
    #[arg(long, default_value_t = 1000)]
    limit: u32,
    #[command(flatten)]
    ask: AskArgs,
}

/// A span of time, also in days.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = |_| "write `2d`, `12h` or `30m`".to_owned();
    if let Some(days) = text.strip_suffix('d') {
        let days: u32 = days.parse().map_err(|_| wrong(()))?;
        return Ok(Duration::from_secs(86_400) * days);
    }
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong(()))?;
    Duration::try_from(span).map_err(|_| wrong(()))
}

pub(super) async fn run(args: HistoryArgs) -> Result<(), Failure> {
    let HistoryArgs { since, vm, all, limit, ask } = args;
    let hosts = match &ask.host {
        Some(host) => vec![(host.clone(), ask.client())],
        None => everybody(ask.client_here()).await?,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.map(|since| now.saturating_sub(since).as_millis() as u64);
    let machine = vm.as_deref().and_then(|vm| MachineId::new(vm).ok()).filter(|_| is_uuid(&vm));
    let wanted = Wanted {
        since: since.map(Time::from_unix_ms),
        moves: !all,
        machine,
        ..Wanted::newest(limit)
    };
    let (mut records, mut missing) = (Vec::new(), BTreeMap::new());
    let records_of = |(host, client): (HostId, Client)| {
        let wanted = wanted.clone();
        async move { (host, client.records(&wanted).await) }
    };
    for (host, answer) in side_by_side(hosts, records_of).await? {
        match answer {
            Ok(found) => records.extend(found),
            Err(why) => drop(missing.insert(host, why.to_string())),
        }
    }
    if let Some(vm) = &vm {
        records.retain(|record| concerns(record, vm, all));
    }
    let history = History { decisions: merged(records), missing };
    output::print(ask.format, &history, || {
        let missing =
            history.missing.iter().map(|(host, why)| format!("\nhost {host} is missing: {why}"));
        report::history(&history.decisions) + &missing.collect::<String>()
    })
}

fn is_uuid(vm: &Option<String>) -> bool {
    let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
    vm.as_ref().is_some_and(|vm| vm.len() == 36 && vm.chars().all(hex))
}

/// Whether a record is about a machine, by name or id: it was chosen, or with `all` judged at all.
fn concerns(record: &Decision, vm: &str, all: bool) -> bool {
    let chosen = record.chosen().into_iter();
    let judged = record.candidates.iter().filter(|_| all);
    chosen.chain(judged).any(|judged| judged.name == vm || judged.machine.as_str() == vm)
}

//! `evenkeel history`: decisions over days, from each host's own store, merged.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use evenkeel_agent::{Client, Wanted};
use evenkeel_core::decision::{Decision, Role};
use evenkeel_core::model::{ExchangeId, HandoffId, HostId, MachineId, Time};
use serde::Serialize;

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

/// One decision, with the records of both hosts where both were to be had.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Entry {
    /// The donor's record, or the only one.
    pub(crate) record: Decision,
    /// The other host's record of the same handoff.
    pub(crate) other: Option<Decision>,
}

/// What was decided in the cluster.
#[derive(Debug, Serialize)]
struct History {
    /// Newest first.
    decisions: Vec<Entry>,
    /// Hosts whose stores could not be asked, and why.
    missing: BTreeMap<HostId, String>,
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

/// What two records of the same have in common.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Handoff(HandoffId),
    /// The exchange, and the two hosts in the order of their names.
    Exchange(ExchangeId, HostId, HostId),
}

fn key(record: &Decision) -> Option<Key> {
    if let Some(handoff) = record.handoff {
        return Some(Key::Handoff(handoff));
    }
    let peer = record.peer.clone().filter(|_| record.role.is_some())?;
    let (first, second) = (record.host.clone().min(peer.clone()), record.host.clone().max(peer));
    Some(Key::Exchange(record.exchange, first, second))
}

/// Newest first, each handoff and each recommendation once: with the donor's record first and the receiver's beside it.
fn merged(mut records: Vec<Decision>) -> Vec<Entry> {
    records.sort_by(|a, b| b.ended.cmp(&a.ended).then_with(|| a.host.cmp(&b.host)));
    let mut entries: Vec<Entry> = Vec::new();
    let mut known = BTreeMap::new();
    for record in records {
        // What is only recommended has no handoff, and is known by the exchange of the two hosts.
        let Some(key) = key(&record) else {
            entries.push(Entry { record, other: None });
            continue;
        };
        match known.get(&key) {
            None => {
                known.insert(key, entries.len());
                entries.push(Entry { record, other: None });
            }
            Some(&at) => {
                let entry: &mut Entry = &mut entries[at];
                if entry.other.is_some() || entry.record.host == record.host {
                    continue;
                }
                let first = if record.role == Some(Role::Donor) {
                    std::mem::replace(&mut entry.record, record)
                } else {
                    record
                };
                entry.other = Some(first);
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_core::decision::Reason;

    fn record(host: &str, role: Role, at: u64, handoff: Option<u64>) -> Decision {
        let host = HostId::new(host).unwrap();
        Decision {
            role: Some(role),
            handoff: handoff.map(HandoffId),
            ..Decision::new(ExchangeId(at), host, Reason::Moved, Time::from_unix_ms(at))
        }
    }

    #[test]
    fn each_migration_appears_once_with_both_records_and_all_by_time() {
        let records = vec![
            record("a", Role::Donor, 10, Some(1)),
            record("a", Role::Receiver, 40, Some(2)),
            record("a", Role::Donor, 30, None),
            record("b", Role::Receiver, 12, Some(1)),
            record("b", Role::Donor, 30, None),
            record("c", Role::Donor, 39, Some(2)),
            record("c", Role::Donor, 5, Some(3)),
        ];
        let merged = merged(records);
        let seen: Vec<_> = merged
            .iter()
            .map(|e| (e.record.host.as_str(), e.other.as_ref().map(|o| o.host.as_str())))
            .collect();
        let recommended = |host: &str, peer: &str, role| Decision {
            peer: Some(HostId::new(peer).unwrap()),
            ending: Reason::Observing,
            ..record(host, role, 50, None)
        };
        let twice = vec![
            recommended("b", "a", Role::Receiver),
            recommended("a", "b", Role::Donor),
            recommended("c", "d", Role::Donor),
        ];
        let once = super::merged(twice);
        let donors: Vec<_> = once.iter().map(|e| e.record.host.as_str()).collect();
        assert_eq!(donors, ["a", "c"], "a recommendation that both hosts have recorded");
        let expected = [("c", Some("a")), ("a", None), ("b", None), ("a", Some("b")), ("c", None)];
        assert_eq!(seen, expected);
    }
}

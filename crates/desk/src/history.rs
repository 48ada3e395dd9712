//! Decisions of all hosts, each migration once.

use std::collections::BTreeMap;

use evenkeel_core::decision::{Decision, Role};
use evenkeel_core::model::{ExchangeId, HandoffId, HostId};
use serde::{Deserialize, Serialize};

/// One decision, with the records of both hosts where both were to be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The donor's record, or the only one.
    pub record: Decision,
    /// The other host's record of the same handoff.
    pub other: Option<Decision>,
}

impl Entry {
    /// Whether both hosts' records say how it ended and they do not say the same.
    #[must_use]
    pub fn disagrees(&self) -> bool {
        self.other.as_ref().is_some_and(|other| other.ending != self.record.ending)
    }
}

/// What was decided in the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// Newest first.
    pub decisions: Vec<Entry>,
    /// Hosts whose stores could not be asked, and why.
    pub missing: BTreeMap<HostId, String>,
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

/// Newest first, each handoff and each recommendation once: the source's record first, the target's beside it.
#[must_use]
pub fn merged(mut records: Vec<Decision>) -> Vec<Entry> {
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
                let first = if record.role == Some(Role::Source) {
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
    use evenkeel_core::decision::Reason;
    use evenkeel_core::model::Time;

    use super::*;

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
            record("a", Role::Source, 10, Some(1)),
            record("a", Role::Target, 40, Some(2)),
            record("a", Role::Source, 30, None),
            record("b", Role::Target, 12, Some(1)),
            record("b", Role::Source, 30, None),
            record("c", Role::Source, 39, Some(2)),
            record("c", Role::Source, 5, Some(3)),
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
            recommended("b", "a", Role::Target),
            recommended("a", "b", Role::Source),
            recommended("c", "d", Role::Source),
        ];
        let once = super::merged(twice);
        let donors: Vec<_> = once.iter().map(|e| e.record.host.as_str()).collect();
        assert_eq!(donors, ["a", "c"], "a recommendation that both hosts have recorded");
        let expected = [("c", Some("a")), ("a", None), ("b", None), ("a", Some("b")), ("c", None)];
        assert_eq!(seen, expected);
    }
}

//! Decisions of all hosts, each migration once.

use std::collections::BTreeMap;

use evenkeel_core::decision::{Decision, Role};
use evenkeel_core::model::HostId;
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

/// Newest first, each handoff once: with the donor's record first and the receiver's beside it.
#[must_use]
pub fn merged(mut records: Vec<Decision>) -> Vec<Entry> {
    records.sort_by(|a, b| b.ended.cmp(&a.ended).then_with(|| a.host.cmp(&b.host)));
    let mut entries: Vec<Entry> = Vec::new();
    let mut known = BTreeMap::new();
    for record in records {
        let Some(handoff) = record.handoff else {
            entries.push(Entry { record, other: None });
            continue;
        };
        match known.get(&handoff) {
            None => {
                known.insert(handoff, entries.len());
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
    use evenkeel_core::decision::Reason;
    use evenkeel_core::model::{ExchangeId, HandoffId, Time};

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
        let expected = [("c", Some("a")), ("a", None), ("b", None), ("a", Some("b")), ("c", None)];
        assert_eq!(seen, expected);
    }
}

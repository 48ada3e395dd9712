//! Members that have asked for, or answered, what no member needs: told in the log, in the status and in
//! the metrics, for an operator to look at that host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_core::model::HostId;
use serde::{Deserialize, Serialize};
use tracing::error;

/// Most members that are remembered; a cluster has fewer.
const MEMBERS_MAX: usize = 256;
/// How often the log tells of one member.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A member that has said what it must not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accused {
    /// The member.
    pub host: HostId,
    /// How often, since this agent was started.
    pub times: u64,
    /// What it said last, in words.
    pub last: String,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accusations(Arc<Mutex<BTreeMap<HostId, (Accused, Instant)>>>);

impl Accusations {
    /// A member has said what it must not.
    pub(crate) fn add(&self, host: &HostId, last: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((accused, told)) = all.get_mut(host) {
            accused.times = accused.times.saturating_add(1);
            accused.last = last;
            if now.duration_since(*told) < TELL_EVERY {
                return;
            }
            *told = now;
            let Accused { times, last, .. } = accused;
            error!(%host, times, last, "ALARM: a member says what it must not: look at that host");
            return;
        }
        error!(%host, last, "ALARM: a member says what it must not: look at that host");
        if all.len() < MEMBERS_MAX {
            all.insert(host.clone(), (Accused { host: host.clone(), times: 1, last }, now));
        }
    }

    /// Each of them.
    pub(crate) fn all(&self) -> Vec<Accused> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|(accused, _)| accused.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_counted_and_its_last_word_kept() {
        let accusations = Accusations::default();
        let host = HostId::new("h9").unwrap();
        accusations.add(&host, "first".to_owned());
        accusations.add(&host, "second".to_owned());
        let expected = Accused { host, times: 2, last: "second".to_owned() };
        assert_eq!(accusations.all(), [expected]);
        for number in 0..2 * MEMBERS_MAX {
            accusations.add(&HostId::new(&format!("x{number}")).unwrap(), String::new());
        }
        assert_eq!(accusations.all().len(), MEMBERS_MAX);
    }
}

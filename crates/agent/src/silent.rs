//! Members that do not answer: who, and since when.
//!
//! A member is one until it leaves or is removed, whether it answers or not.

use std::collections::BTreeMap;

use evenkeel_core::model::{HostId, Time};
use serde::{Deserialize, Serialize};

/// A member that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentMember {
    /// Its name.
    pub host: HostId,
    /// Since when; since this agent was started, if it has not heard of it since.
    pub since: Time,
}

/// Since when members are silent that have answered before.
#[derive(Debug)]
pub(crate) struct Silences {
    started: Time,
    since: BTreeMap<HostId, Time>,
}

impl Silences {
    pub(crate) const fn new(started: Time) -> Self {
        Self { started, since: BTreeMap::new() }
    }

    /// A member answers no more.
    pub(crate) fn begin(&mut self, host: &HostId, now: Time) {
        self.since.insert(host.clone(), now);
    }

    /// It answers.
    pub(crate) fn end(&mut self, host: &HostId) {
        self.since.remove(host);
    }

    /// Of these hosts, which do not answer, each since when.
    pub(crate) fn of<'a>(&self, hosts: impl Iterator<Item = &'a HostId>) -> Vec<SilentMember> {
        let since = |host: &HostId| self.since.get(host).copied().unwrap_or(self.started);
        hosts.map(|host| SilentMember { host: host.clone(), since: since(host) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_silent_since_it_was_last_alive_or_since_the_agent_was_started() {
        let at = Time::from_unix_ms;
        let hosts = ["a", "b"].map(|name| HostId::new(name).unwrap());
        let mut silences = Silences::new(at(5));
        silences.begin(&hosts[0], at(9));
        let since = |silences: &Silences| silences.of(hosts.iter()).into_iter().map(|s| s.since);
        assert_eq!(since(&silences).collect::<Vec<_>>(), [at(9), at(5)]);
        silences.end(&hosts[0]);
        silences.begin(&hosts[0], at(12));
        assert_eq!(since(&silences).next(), Some(at(12)));
    }
}

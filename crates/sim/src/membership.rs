//! Who knows of whom in a simulated cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_core::model::{HostId, Time};

/// Tells hosts who else is alive.
pub trait Membership {
    /// A host's agent was started, or has died, at `now`. Answers who is to be told, when, and which
    /// members are alive as far as it will know then.
    fn changed(&mut self, host: &HostId, alive: bool, now: Time) -> Vec<News>;
}

/// What a host gets to know of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Who.
    pub host: HostId,
    /// When.
    pub at: Time,
    /// The live members.
    pub members: Vec<HostId>,
}

/// Knows everything and tells it after a fixed time. Costs nothing per host and second, so that it
/// serves for any number of hosts.
#[derive(Clone, Debug)]
pub struct Oracle {
    alive: BTreeSet<HostId>,
    detection: Duration,
}

impl Oracle {
    /// An oracle that tells of every change after `detection`.
    #[must_use]
    pub const fn new(detection: Duration) -> Self {
        Self { alive: BTreeSet::new(), detection }
    }
}

impl Membership for Oracle {
    fn changed(&mut self, host: &HostId, alive: bool, now: Time) -> Vec<News> {
        let news = if alive { self.alive.insert(host.clone()) } else { self.alive.remove(host) };
        if !news {
            return Vec::new();
        }
        let members: Vec<_> = self.alive.iter().cloned().collect();
        let at = now + self.detection;
        self.alive
            .iter()
            .map(|host| News { host: host.clone(), at, members: members.clone() })
            .collect()
    }
}

//! Who knows of whom in a simulated cluster.

mod swim;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{HostId, Time};

pub use swim::Swim;

/// Tells hosts who else is alive. Hosts are numbered in the order in which they are added.
pub trait Membership {
    /// There is a further host, whose agent does not run yet.
    fn add(&mut self, host: &HostId);

    /// The agents of these hosts were started at `now`; their own clocks show `clocks`.
    fn started(&mut self, hosts: &[usize], clocks: &[Time], now: Time, out: &mut Vec<Outcome>);

    /// A host's agent has died.
    fn ended(&mut self, host: usize, now: Time, out: &mut Vec<Outcome>);

    /// A datagram has arrived at a host whose agent runs.
    fn heard(&mut self, at: usize, from: usize, bytes: &[u8], now: Time, out: &mut Vec<Outcome>);

    /// An alarm is due.
    fn woke(&mut self, alarm: u64, now: Time, out: &mut Vec<Outcome>);
}

/// What membership wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carry a datagram from one host to another, as the network does: it may get lost.
    Send {
        /// Whose.
        from: usize,
        /// To whom.
        to: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// Give this alarm back at that time.
    Wake(u64, Time),
    /// A host gets to know who is alive.
    Tell {
        /// Which host.
        host: usize,
        /// When.
        at: Time,
        /// All live members as far as it knows, sorted, itself among them.
        members: Arc<[HostId]>,
    },
}

/// Knows everything and tells it after a fixed time, partitions notwithstanding. Costs nothing per
/// host and second, so that it serves for any number of hosts.
#[derive(Clone, Debug)]
pub struct Oracle {
    names: Vec<HostId>,
    alive: BTreeSet<usize>,
    detection: Duration,
}

impl Oracle {
    /// An oracle that tells of every change after `detection`.
    #[must_use]
    pub const fn new(detection: Duration) -> Self {
        Self { names: Vec::new(), alive: BTreeSet::new(), detection }
    }

    fn tell(&self, now: Time, out: &mut Vec<Outcome>) {
        let mut members: Vec<_> = self.alive.iter().map(|&host| self.names[host].clone()).collect();
        members.sort_unstable();
        let members: Arc<[HostId]> = members.into();
        let at = now + self.detection;
        let tell = |&host: &usize| Outcome::Tell { host, at, members: Arc::clone(&members) };
        out.extend(self.alive.iter().map(tell));
    }
}

impl Membership for Oracle {
    fn add(&mut self, host: &HostId) {
        self.names.push(host.clone());
    }

    fn started(&mut self, hosts: &[usize], _: &[Time], now: Time, out: &mut Vec<Outcome>) {
        self.alive.extend(hosts);
        self.tell(now, out);
    }

    fn ended(&mut self, host: usize, now: Time, out: &mut Vec<Outcome>) {
        if self.alive.remove(&host) {
            self.tell(now, out);
        }
    }

    fn heard(&mut self, _: usize, _: usize, _: &[u8], _: Time, _: &mut Vec<Outcome>) {}

    fn woke(&mut self, _: u64, _: Time, _: &mut Vec<Outcome>) {}
}

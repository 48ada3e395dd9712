//! A network between simulated hosts: delay, loss, duplication and cut links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_core::message::Message;
use evenkeel_core::model::HostId;
use rand::{Rng, RngExt};

/// How messages travel. Order is not kept: a later message may overtake an earlier one.
#[derive(Clone, Debug)]
pub struct Network {
    /// Least time that a message takes.
    pub delay_min: Duration,
    /// Most time that a message takes; at least `delay_min`.
    pub delay_max: Duration,
    /// Share of messages that vanish silently, from 0 to 1.
    pub loss: f64,
    /// Share of messages that arrive twice, from 0 to 1.
    pub duplication: f64,
    /// Loses every message that this says yes to.
    pub loses: Option<fn(&Message) -> bool>,
    /// Changes what is said before it is heard: to show what comes of a lie.
    pub forges: Option<fn(&mut Message)>,
    /// Hosts that nothing reaches and that reach nobody.
    pub cut_off: BTreeSet<HostId>,
    /// Partitions, under numbers of their maker's choice.
    pub partitions: BTreeMap<u64, Partition>,
}

/// A cut between some hosts and all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// The hosts on the one side.
    pub inside: BTreeSet<HostId>,
    /// Whether those inside are still heard outside.
    pub heard_outside: bool,
}

impl Partition {
    fn cuts(&self, from: &HostId, to: &HostId) -> bool {
        match (self.inside.contains(from), self.inside.contains(to)) {
            (false, true) => true,
            (true, false) => !self.heard_outside,
            _ => false,
        }
    }
}

impl Default for Network {
    /// A local network without faults.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(2),
            loss: 0.0,
            duplication: 0.0,
            loses: None,
            forges: None,
            cut_off: BTreeSet::new(),
            partitions: BTreeMap::new(),
        }
    }
}

impl Network {
    /// After how long each copy of something from one host to another arrives; empty if it is lost.
    /// A datagram of the membership is no `message` of an agent.
    pub(crate) fn carry<R: Rng>(
        &self,
        from: &HostId,
        to: &HostId,
        message: Option<&Message>,
        rng: &mut R,
    ) -> impl Iterator<Item = Duration> + use<R> {
        let cut = self.cut_off.contains(from)
            || self.cut_off.contains(to)
            || self.partitions.values().any(|partition| partition.cuts(from, to));
        let chosen = message.zip(self.loses).is_some_and(|(message, loses)| loses(message));
        let lost = cut || chosen || rng.random_bool(self.loss.clamp(0.0, 1.0));
        let twice = rng.random_bool(self.duplication.clamp(0.0, 1.0));
        let copies = if lost { 0 } else { 1 + usize::from(twice) };
        let mut delays = [Duration::ZERO; 2];
        for delay in delays.iter_mut().take(copies) {
            *delay = rng.random_range(self.delay_min..=self.delay_max.max(self.delay_min));
        }
        delays.into_iter().take(copies)
    }
}

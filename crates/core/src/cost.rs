//! What a migration will cost: bytes, time, standstill and CPU, predicted before and learnt after.
//!
//! The model is that of iterative pre-copy (Clark et al., *Live migration of virtual machines*,
//! NSDI 2005; as a predictor: Liu, Jin, Xu and Liao, *Performance and energy modeling for live
//! migration of virtual machines*, HPDC 2011). All memory is sent in the first round, and in every
//! further one what was dirtied during the round before, `min(dirty rate × its time, working set)`:
//! a page dirtied twice is sent once. It converges where what is left can be sent within the
//! standstill that is allowed. A machine that would only arrive by being slowed down is not moved
//! to level loads.
//!
//! **What is assumed.** A dirty rate that no hypervisor tells is taken to grow with the CPU that the
//! machine uses, [`DIRTIED_PER_CORE_S`]. The working set is at most what the machine occupies. One
//! core sends or takes [`BYTES_PER_CORE_S`], as one migration thread does. The link is as configured
//! until migrations have shown what it really carries, each host's link by those to and from that host. A
//! migration that took a few seconds shows what a link carries at least; one that was aborted shows what
//! it carries as well. A machine whose migrations were aborted twice is left alone until it or the link
//! is another one. Where the model is wrong about a machine, it
//! tends to be wrong again in the same direction: the ratio of what it sent to what was predicted
//! corrects the next prediction, and goes along in its schedule entry. A disk that is copied along
//! counts with what it holds.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::model::{HostId, MachineId, Time};
use crate::port::{MigrationStats, Progress};

/// Within which bounds migrations are worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costing {
    /// What the link is taken to carry at first, in bytes per second; above zero.
    pub link_bytes_per_s: f64,
    /// Longest standstill at the end that a migration may aim for.
    pub downtime_max: Duration,
    /// Longest that a migration may be predicted to take.
    pub time_max: Duration,
    /// A load counts as lasting for at most so long, when what is gained by levelling it is weighed
    /// against what its migration costs.
    pub payback: Duration,
}

impl Default for Costing {
    fn default() -> Self {
        Self {
            link_bytes_per_s: 1.25e9,
            downtime_max: Duration::from_millis(300),
            time_max: Duration::from_secs(600),
            payback: Duration::from_secs(1800),
        }
    }
}

/// Assumed where no dirty rate is told: bytes that a busy core dirties per second.
pub const DIRTIED_PER_CORE_S: f64 = 20e6;
/// Bytes that one core sends or takes in a second.
pub const BYTES_PER_CORE_S: f64 = 1.25e9;
/// What connecting and preparing takes, in seconds.
const PREPARATION_S: f64 = 0.2;
/// Rounds after which a migration counts as one that does not converge.
const ROUNDS_MAX: u32 = 30;
/// A standstill hurts so many times as much as the same load on a busy host.
const DOWNTIME_WEIGHT: f64 = 10.0;

/// What a migration is predicted to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Prediction {
    /// Bytes sent.
    #[n(0)]
    pub bytes: f64,
    /// From the order to the end, in seconds.
    #[n(1)]
    pub seconds: f64,
    /// How long the machine stands still, in milliseconds.
    #[n(2)]
    pub downtime_ms: f64,
    /// CPU that it takes on each of the two hosts, in seconds of a reference core.
    #[n(3)]
    pub cpu_core_s: f64,
}

/// What is known of a machine before it is migrated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// Memory that it occupies, in bytes.
    pub memory_bytes: f64,
    /// CPU that it uses, in reference cores.
    pub cpu_cores: f64,
    /// Memory that it dirties, in bytes per second, where told.
    pub dirty_bytes_per_s: Option<f64>,
    /// What is in use of its disks that are copied along, in bytes.
    pub disk_bytes: f64,
    /// By how much predictions for it were too low, as a factor.
    pub correction: f64,
}

impl Weight {
    /// Memory that it dirties, in bytes per second, as told or else as assumed.
    #[must_use]
    pub fn dirty_bytes_per_s(&self) -> f64 {
        let assumed = self.cpu_cores.max(0.0) * DIRTIED_PER_CORE_S;
        self.dirty_bytes_per_s.unwrap_or(assumed).max(0.0)
    }
}

impl Prediction {
    /// Predicts the migration of a machine over a link; `None` if it would not converge.
    #[must_use]
    pub fn of(weight: &Weight, link_bytes_per_s: f64, downtime_max: Duration) -> Option<Self> {
        let link = link_bytes_per_s.max(1.0);
        let memory = weight.memory_bytes.max(0.0);
        let dirty_rate = weight.dirty_bytes_per_s();
        // Disks are copied before memory; what is written to them meanwhile is sent at once.
        let (mut left, mut sent) = (memory, weight.disk_bytes.max(0.0));
        for round in 0..ROUNDS_MAX {
            let seconds = left / link;
            if round > 0 && seconds <= downtime_max.as_secs_f64() {
                let bytes = (sent + left) * weight.correction;
                return Some(Self {
                    bytes,
                    seconds: PREPARATION_S + bytes / link,
                    downtime_ms: seconds * 1e3,
                    cpu_core_s: bytes / BYTES_PER_CORE_S,
                });
            }
            sent += left;
            left = (dirty_rate * seconds).min(memory);
        }
        None
    }

    /// What it costs in load × seconds: a core-second loads each host by `core_load`, and the machine
    /// itself, of load `load`, does nothing while it stands still.
    #[must_use]
    pub fn load_seconds(&self, core_load: f64, load: f64) -> f64 {
        2.0 * self.cpu_core_s * core_load + DOWNTIME_WEIGHT * load * self.downtime_ms / 1e3
    }
}

/// What a host has learnt of what migrations cost.
#[derive(Clone, Debug)]
pub struct Experience {
    configured: f64,
    /// The link to each host that machines went to or came from.
    links: BTreeMap<HostId, Link>,
    corrections: BTreeMap<MachineId, f64>,
    aborts: BTreeMap<MachineId, Aborts>,
}

/// What is known of the link to one host.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Discounted sums of what was sent in which time.
    bytes: f64,
    seconds: f64,
    /// When something was learnt of it last.
    at: Time,
}

/// Migrations of one machine that were aborted because they lasted too long.
#[derive(Clone, Copy, Debug)]
struct Aborts {
    times: u32,
    last: Time,
    /// The fastest link of those that it was tried over, in bytes per second.
    link: f64,
    /// What it occupied and dirtied then, in bytes and bytes per second.
    memory_bytes: f64,
    dirty_bytes_per_s: f64,
}

/// What a migration leaves of the weight of those before it.
const DISCOUNT: f64 = 0.8;
/// The link is taken to be as configured until about so many bytes have been sent.
const CONFIGURED_BYTES: f64 = 1e9;
/// What is done besides sending, and not told apart from it, takes at most so long, in seconds. A
/// migration that took less says only how fast the link is at least.
const BESIDES_S: f64 = 5.0;
/// What was learnt of a link is believed for so long: what is too slow is tried again after that.
const LINK_FOR: Duration = Duration::from_secs(24 * 3600);
/// A machine is left alone after so many aborts, until something has changed.
const ABORTS_MAX: u32 = 2;
/// What counts as a change: a link that is so many times as fast, a machine that occupies or dirties so
/// many times less.
const CHANGE: f64 = 2.0;
/// How far one outcome moves the correction of a machine: half of the way, as a power.
const LEARNING: f64 = 0.5;
/// Corrections beyond this are errors of measuring.
const CORRECTION_MAX: f64 = 10.0;

impl Experience {
    /// None yet.
    #[must_use]
    pub fn new(costing: &Costing) -> Self {
        Self {
            configured: costing.link_bytes_per_s.max(1.0),
            links: BTreeMap::new(),
            corrections: BTreeMap::new(),
            aborts: BTreeMap::new(),
        }
    }

    /// What the link to a host carries, in bytes per second: as migrations have shown, and to a host of
    /// which nothing is known, as to most others.
    #[must_use]
    pub fn link_to(&self, peer: &HostId, now: Time) -> f64 {
        let known = self.links.get(peer).filter(|link| link.is_believed(now));
        known.map_or_else(|| self.link_bytes_per_s(now), Link::bytes_per_s)
    }

    /// What the link to any host carries, in bytes per second: the median of those known and the one
    /// configured, the faster of two in the middle. One slow host does not stand for all.
    #[must_use]
    pub fn link_bytes_per_s(&self, now: Time) -> f64 {
        let known = self.links.values().filter(|link| link.is_believed(now));
        let mut speeds: Vec<f64> = known.map(Link::bytes_per_s).collect();
        speeds.push(self.configured);
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    }

    /// By how much predictions for a machine were too low, as a factor; `told` is what its entry
    /// says.
    #[must_use]
    pub fn correction(&self, machine: &MachineId, told: Option<f64>) -> f64 {
        let known = self.corrections.get(machine).copied().or(told).unwrap_or(1.0);
        if known > 0.0 { known.clamp(1.0 / CORRECTION_MAX, CORRECTION_MAX) } else { 1.0 }
    }

    /// A migration has ended. `told` is the correction that its prediction was made with.
    pub fn learn(
        &mut self,
        (machine, peer): (&MachineId, &HostId),
        told: Option<f64>,
        predicted: &Prediction,
        stats: &MigrationStats,
        now: Time,
    ) {
        self.aborts.remove(machine);
        let bytes = stats.bytes as f64;
        if bytes <= 0.0 || predicted.bytes <= 0.0 {
            return;
        }
        let wrong = (bytes / predicted.bytes).powf(LEARNING);
        let correction = self.correction(machine, told) * wrong;
        self.corrections.insert(machine.clone(), correction);
        self.sent(peer, bytes, stats.elapsed_ms as f64 / 1e3 - PREPARATION_S, now);
    }

    /// So many bytes went over the link to a host in that time, what was done besides included.
    fn sent(&mut self, peer: &HostId, bytes: f64, seconds: f64, now: Time) {
        let speed = self.link_to(peer, now);
        // What took hardly any time says that the link is faster, and never that it is slower.
        let at_least = bytes / seconds.max(0.05);
        if seconds < BESIDES_S && at_least <= speed {
            return;
        }
        let link = self.links.get(peer).filter(|link| link.is_believed(now)).copied();
        let link = link.unwrap_or(Link {
            bytes: CONFIGURED_BYTES,
            seconds: CONFIGURED_BYTES / speed.max(1.0),
            at: now,
        });
        let link = Link {
            bytes: link.bytes * DISCOUNT + bytes,
            seconds: link.seconds * DISCOUNT + seconds.max(0.05),
            at: now,
        };
        self.links.insert(peer.clone(), link);
    }

    /// A migration was aborted because it lasted too long: what it had sent tells of the link, and that
    /// it was not over, that the machine needs more than what was left.
    pub fn aborted(
        &mut self,
        (machine, peer): (&MachineId, &HostId),
        weight: &Weight,
        sent: Option<&Progress>,
        now: Time,
    ) {
        if let Some(sent) = sent.filter(|sent| sent.bytes_done > 0) {
            let seconds = (sent.elapsed_ms as f64 / 1e3 - PREPARATION_S).max(0.05);
            // Longer than any that has ended, and the newest: what was known before counts no more.
            let link = Link { bytes: sent.bytes_done as f64, seconds, at: now };
            self.links.insert(peer.clone(), link);
            let (link, downtime) = (self.link_to(peer, now), Duration::from_secs(1));
            let least = (sent.bytes_done + sent.bytes_left) as f64;
            let plain = Weight { correction: 1.0, ..*weight };
            if let Some(predicted) = Prediction::of(&plain, link, downtime)
                && least > predicted.bytes * weight.correction
            {
                self.corrections.insert(machine.clone(), least / predicted.bytes);
            }
        }
        let link = self.link_to(peer, now);
        let (memory_bytes, dirty_bytes_per_s) = (weight.memory_bytes, weight.dirty_bytes_per_s());
        let before = self.aborts.get(machine).filter(|before| before.holds(weight, link, now));
        let (times, fastest) = before.map_or((0, 0.0), |before| (before.times, before.link));
        let link = link.max(fastest);
        let aborts = Aborts { times: times + 1, last: now, link, memory_bytes, dirty_bytes_per_s };
        self.aborts.insert(machine.clone(), aborts);
    }

    /// How often in a row migrations of a machine were aborted, if that is often enough to leave it
    /// alone: as long as it is as it was, and the link is no faster.
    #[must_use]
    pub fn gives_up(
        &self,
        machine: &MachineId,
        weight: &Weight,
        link: f64,
        now: Time,
    ) -> Option<u32> {
        let aborts = self.aborts.get(machine)?;
        (aborts.times >= ABORTS_MAX && aborts.holds(weight, link, now)).then_some(aborts.times)
    }

    /// Forgets machines that are not here any more.
    pub fn retain(&mut self, is_here: impl Fn(&MachineId) -> bool) {
        self.corrections.retain(|machine, _| is_here(machine));
        self.aborts.retain(|machine, _| is_here(machine));
    }
}

impl Link {
    fn bytes_per_s(&self) -> f64 {
        self.bytes / self.seconds.max(1e-9)
    }

    fn is_believed(&self, now: Time) -> bool {
        now.since(self.at) < LINK_FOR
    }
}

impl Aborts {
    /// Whether nothing has changed that would let it arrive.
    fn holds(&self, weight: &Weight, link: f64, now: Time) -> bool {
        // Tried again in the end, ever more seldom.
        let doublings = self.times.saturating_sub(ABORTS_MAX).min(10);
        now.since(self.last) < LINK_FOR.saturating_mul(1 << doublings)
            && link < CHANGE * self.link
            && weight.memory_bytes * CHANGE > self.memory_bytes
            && weight.dirty_bytes_per_s() * CHANGE >= self.dirty_bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWNTIME: Duration = Duration::from_millis(300);

    fn predict(memory: f64, dirty: f64, link: f64) -> Option<Prediction> {
        let weight = Weight {
            memory_bytes: memory,
            cpu_cores: 0.0,
            dirty_bytes_per_s: Some(dirty),
            disk_bytes: 0.0,
            correction: 1.0,
        };
        Prediction::of(&weight, link, DOWNTIME)
    }

    #[test]
    fn disks_that_are_copied_cost_their_bytes_and_no_standstill() {
        let weight = Weight {
            memory_bytes: 1e9,
            dirty_bytes_per_s: Some(2e7),
            disk_bytes: 5e9,
            correction: 1.0,
            ..Weight::default()
        };
        let cost = Prediction::of(&weight, 1e8, DOWNTIME).unwrap();
        let without = predict(1e9, 2e7, 1e8).unwrap();
        assert!((cost.bytes - without.bytes - 5e9).abs() < 1.0, "{cost:?}");
        assert!((cost.seconds - without.seconds - 50.0).abs() < 1e-6, "{cost:?}");
        assert_eq!(cost.downtime_ms, without.downtime_ms);
    }

    #[test]
    fn an_idle_machine_costs_what_its_memory_costs() {
        let cost = predict(1e9, 0.0, 1e8).unwrap();
        assert!((cost.bytes - 1e9).abs() < 1.0 && (cost.seconds - 10.2).abs() < 1e-6);
        assert_eq!(cost.downtime_ms, 0.0);
    }

    #[test]
    fn what_is_dirtied_is_sent_again_until_the_rest_is_short() {
        // 1e9 in 10 s, then 2e8 in 2 s, 4e7 in 0.4 s, and 8e6 in 0.08 s standing still.
        let cost = predict(1e9, 2e7, 1e8).unwrap();
        assert!((cost.bytes - 1.248e9).abs() < 1.0, "{cost:?}");
        assert!((cost.downtime_ms - 80.0).abs() < 1e-6, "{cost:?}");
    }

    #[test]
    fn what_dirties_faster_than_the_link_never_ends_unless_it_is_small() {
        assert_eq!(predict(1e9, 1e8, 1e8), None);
        assert_eq!(predict(1e9, f64::INFINITY, 1e8), None);
        // All that it has fits into the standstill.
        assert!(predict(2e7, 1e9, 1e8).is_some());
    }

    #[test]
    fn outcomes_correct_the_prediction_of_a_machine_and_of_the_link() {
        let costing = Costing { link_bytes_per_s: 1e9, ..Costing::default() };
        let (mut past, id) = (Experience::new(&costing), MachineId::new("m").unwrap());
        let (peer, now) = (HostId::new("b").unwrap(), Time::from_unix_ms(0));
        let truth = MigrationStats { elapsed_ms: 20_200, downtime_ms: 0, bytes: 2_000_000_000 };
        let mut errors = Vec::new();
        for _ in 0..12 {
            let weight = Weight {
                memory_bytes: 1e9,
                correction: past.correction(&id, None),
                ..Weight::default()
            };
            let link = past.link_to(&peer, now);
            let predicted = Prediction::of(&weight, link, DOWNTIME).unwrap();
            errors.push((predicted.seconds / 20.2 - 1.0).abs());
            past.learn((&id, &peer), None, &predicted, &truth, now);
        }
        assert!(errors[0] > 0.9 && errors[11] < 0.02, "{errors:?}");
        assert_eq!(past.correction(&MachineId::new("other").unwrap(), Some(1.5)), 1.5);
    }

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn at(hours: u64) -> Time {
        Time::from_unix_ms(hours * 3_600_000)
    }

    fn weight(gib: f64) -> Weight {
        Weight {
            memory_bytes: gib * 1e9,
            dirty_bytes_per_s: Some(1e7),
            correction: 1.0,
            ..Weight::default()
        }
    }

    fn abort(past: &mut Experience, id: &MachineId, peer: &str, gib: f64, hours: u64) {
        // 600 s over a link of 117 MB/s, and a tenth is left.
        let sent =
            Progress { elapsed_ms: 600_200, bytes_done: 70_200_000_000, bytes_left: 7_000_000_000 };
        past.aborted((id, &host(peer)), &weight(gib), Some(&sent), at(hours));
    }

    #[test]
    fn a_small_machine_never_makes_a_link_slow_and_may_make_it_fast() {
        let (mut past, id) = (Experience::new(&Costing::default()), MachineId::new("m").unwrap());
        let predicted = Prediction { bytes: 4e6, ..Prediction::default() };
        let mut moved = |elapsed_ms, bytes| {
            let stats = MigrationStats { elapsed_ms, downtime_ms: 0, bytes };
            past.learn((&id, &host("b")), None, &predicted, &stats, at(0));
            past.link_to(&host("b"), at(0))
        };
        assert_eq!(moved(3_000, 4_000_000), 1.25e9, "three seconds of what is not sending");
        assert!(moved(1_200, 9_000_000_000) > 2e9, "so much in a second is a fast link");
        assert!(moved(60_200, 7_000_000_000) < 1.2e9, "a minute says what a link carries");
    }

    #[test]
    fn an_abort_says_what_the_link_carries_and_what_the_machine_needs_at_least() {
        let (mut past, id) = (Experience::new(&Costing::default()), MachineId::new("m").unwrap());
        abort(&mut past, &id, "b", 70.0, 0);
        let link = past.link_to(&host("b"), at(0));
        assert!((link / 117e6 - 1.0).abs() < 1e-6, "{link}");
        let weight = Weight { correction: past.correction(&id, None), ..weight(70.0) };
        let predicted = Prediction::of(&weight, link, DOWNTIME).unwrap();
        assert!(predicted.seconds > 600.0, "{predicted:?}");
        // One abort says nothing of the links to others; a second one at another host does.
        assert_eq!(past.link_to(&host("c"), at(0)), 1.25e9);
        assert_eq!(past.gives_up(&id, &weight, 117e6, at(0)), None);
        abort(&mut past, &id, "c", 70.0, 1);
        assert!((past.link_to(&host("d"), at(1)) / 117e6 - 1.0).abs() < 1e-6);
        assert_eq!(past.gives_up(&id, &weight, 117e6, at(1)), Some(2));
    }

    #[test]
    fn a_machine_that_was_given_up_is_tried_again_when_something_has_changed() {
        let (mut past, id) = (Experience::new(&Costing::default()), MachineId::new("m").unwrap());
        abort(&mut past, &id, "b", 70.0, 0);
        abort(&mut past, &id, "b", 70.0, 1);
        let known = weight(70.0);
        let calm = Weight { dirty_bytes_per_s: Some(1e6), ..known };
        let small = Weight { memory_bytes: 3e10, ..known };
        for (weight, link, hours, given_up) in [
            (&known, 117e6, 2, true),
            (&known, 200e6, 2, true),
            (&known, 1.17e9, 2, false),
            (&calm, 117e6, 2, false),
            (&small, 117e6, 2, false),
            (&known, 117e6, 24, true),
            (&known, 117e6, 25, false),
        ] {
            let found = past.gives_up(&id, weight, link, at(hours)).is_some();
            assert_eq!(found, given_up, "{link} after {hours} h");
        }
        // Once a day, then every other day, and so on.
        abort(&mut past, &id, "b", 70.0, 24);
        assert_eq!(past.gives_up(&id, &known, 117e6, at(71)), Some(3));
        let predicted = Prediction { bytes: 1e9, ..Prediction::default() };
        let stats = MigrationStats { elapsed_ms: 10_000, downtime_ms: 0, bytes: 1_000_000_000 };
        past.learn((&id, &host("b")), None, &predicted, &stats, at(72));
        assert_eq!(past.gives_up(&id, &known, 117e6, at(72)), None, "it has moved");
    }
}

//! The figures of one domain in one sample, and what is known of it between samples.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::model::{MachineFacts, MachineId};
use evenkeel_core::port::{Counters, MachineSample, Presence, Pressure};
use virt_sys as sys;

use crate::copies::presence_of;
use crate::ffi::{State, Value};
use crate::xml::domain::Description;

/// What is measured of every domain in every sample.
pub(crate) const ALWAYS: u32 =
    sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_CPU_TOTAL | sys::VIR_DOMAIN_STATS_BALLOON;

/// What costs libvirt as much as all of that, and is asked in one sample of [`DELAY_EVERY`]: how
/// long virtual CPUs waited for a real one.
pub(crate) const DELAY: u32 = sys::VIR_DOMAIN_STATS_VCPU;
pub(crate) const DELAY_EVERY: u32 = 4;

/// What is asked where a machine has such devices. libvirt asks every QEMU for its disks, also those
/// that have none.
/// A QEMU that has not answered for so long is not busy any more, but hangs.
const BUSY_TIME_MAX: Duration = Duration::from_secs(20);

pub(crate) const INTERFACES: u32 = sys::VIR_DOMAIN_STATS_INTERFACE;
pub(crate) const DISKS: u32 = sys::VIR_DOMAIN_STATS_BLOCK;

/// A machine as its description said last.
pub(crate) struct Known {
    pub(crate) facts: Arc<MachineFacts>,
    /// Whether it waits to be claimed, if it is paused.
    pub(crate) held: bool,
    /// What has to be asked of it: of [`INTERFACES`] and [`DISKS`].
    pub(crate) devices: u32,
    huge_bytes: u64,
    pub(crate) running_id: Option<u32>,
    pub(crate) size: Size,
    /// What was told of it before, which must not be missing later.
    pub(crate) rss_bytes: Option<u64>,
    disks_told: bool,
    /// Since when its QEMU has not answered, if so.
    unanswered: Option<Instant>,
    /// How it was when it was measured last.
    presence: Presence,
    /// When its description was read.
    pub(crate) read: Option<Instant>,
}

impl Known {
    pub(crate) fn new(described: Description, running_id: Option<u32>, size: Size) -> Self {
        let Description { facts, has_disks, has_interfaces, held, .. } = described;
        // Of huge pages its memory takes what it was defined with, and no resident set counts them.
        let huge = facts.needs.huge_pages.iter().flatten().map(|pages| pages.bytes).sum::<u64>();
        let huge_bytes = huge.min(facts.memory_bytes as u64);
        let group = |there: bool, group: u32| if there { group } else { 0 };
        let devices = group(has_disks, DISKS) | group(has_interfaces, INTERFACES);
        let facts = Arc::new(facts);
        Self {
            facts,
            held,
            devices,
            huge_bytes,
            running_id,
            size,
            rss_bytes: None,
            disks_told: false,
            unanswered: None,
            presence: Presence::Defined,
            read: Some(Instant::now()),
        }
    }

    /// Takes in whether its host starts it at boot, of which no event tells.
    pub(crate) fn starts_at_boot(&mut self, autostart: bool) {
        if self.facts.autostart != autostart {
            Arc::make_mut(&mut self.facts).autostart = autostart;
        }
    }

    /// What surrounds it is not what it was: it is to be read again.
    pub(crate) fn outdate(&mut self) {
        self.read = None;
    }

    /// Takes over from an earlier reading what descriptions do not say.
    pub(crate) fn follow(&mut self, earlier: &Self) {
        self.rss_bytes = earlier.rss_bytes;
        self.disks_told = earlier.disks_told && self.devices & DISKS != 0;
        (self.unanswered, self.presence) = (earlier.unanswered, earlier.presence);
    }

    /// It has not answered in this sample: it is as it was, and nothing was counted.
    pub(crate) fn silent(&self) -> MachineSample {
        let facts = Arc::clone(&self.facts);
        MachineSample { facts, presence: self.presence, arrived: false, counters: None }
    }
}

/// What tells from outside that virtual CPUs or memory were plugged in: there is no event for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: Option<u64>,
    pub(crate) memory_kib: Option<u64>,
}

impl Size {
    /// Takes in a newer size, of which a part may not have been asked. Returns whether it is
    /// another one.
    pub(crate) fn update(&mut self, newer: Self) -> bool {
        let update = |known: &mut Option<u64>, newer: Option<u64>| {
            let before = *known;
            *known = newer.or(before);
            before.is_some() && *known != before
        };
        update(&mut self.vcpus, newer.vcpus) | update(&mut self.memory_kib, newer.memory_kib)
    }
}

/// The figures of one domain in one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    state: u64,
    reason: u64,
    pub(crate) size: Size,
    cpu_time_ns: Option<u64>,
    cpu_delay_ns: Option<u64>,
    rss_kib: Option<u64>,
    balloon_kib: Option<u64>,
    io_bytes: u64,
    pub(crate) disks_told: bool,
}

impl Figures {
    pub(crate) fn read<'a>(params: impl Iterator<Item = (&'a str, Value)>) -> Self {
        let mut figures = Self::default();
        for (name, value) in params {
            if let Value::Number(number) = value {
                figures.add(name, number);
            }
        }
        figures
    }

    pub(crate) fn state(&self) -> State {
        State::from_raw(self.state, self.reason)
    }

    fn add(&mut self, name: &str, number: u64) {
        match name {
            "state.state" => self.state = number,
            "state.reason" => self.reason = number,
            "cpu.time" => self.cpu_time_ns = Some(number),
            "vcpu.current" => self.size.vcpus = Some(number),
            "balloon.maximum" => self.size.memory_kib = Some(number),
            "balloon.current" => self.balloon_kib = Some(number),
            "balloon.rss" => self.rss_kib = Some(number),
            _ => self.add_of_device(name, number),
        }
    }

    /// `vcpu.N.delay`, `net.N.rx.bytes`, `net.N.tx.bytes`, `block.N.rd.bytes`, `block.N.wr.bytes`.
    fn add_of_device(&mut self, name: &str, number: u64) {
        let mut parts = name.splitn(3, '.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("vcpu"), Some(_), Some("delay")) => {
                self.cpu_delay_ns = Some(self.cpu_delay_ns.unwrap_or(0).saturating_add(number));
            }
            (Some("net"), Some(_), Some("rx.bytes" | "tx.bytes")) => {
                self.io_bytes = self.io_bytes.saturating_add(number);
            }
            (Some("block"), Some(_), Some("rd.bytes" | "wr.bytes")) => {
                self.io_bytes = self.io_bytes.saturating_add(number);
                self.disks_told = true;
            }
            _ => {}
        }
    }

    pub(crate) fn machine(
        &self,
        asked: u32,
        known: &mut Known,
        leaving: impl Fn(&MachineId) -> bool,
    ) -> MachineSample {
        let presence = match self.state() {
            State::Running | State::Paused(_) if leaving(&known.facts.id) => Presence::Leaving,
            state => presence_of(state, known.held),
        };
        let counters = self.counters(asked, known);
        known.presence = presence;
        let arrived = presence == Presence::Running && self.has_arrived();
        MachineSample { facts: Arc::clone(&known.facts), presence, arrived, counters }
    }

    /// Whether it runs here since a migration, as libvirt says, and nobody has paused it since.
    fn has_arrived(&self) -> bool {
        const MIGRATED: u64 = sys::VIR_DOMAIN_RUNNING_MIGRATED as u64;
        const POSTCOPY: u64 = sys::VIR_DOMAIN_RUNNING_POSTCOPY as u64;
        self.state == u64::from(sys::VIR_DOMAIN_RUNNING)
            && matches!(self.reason, MIGRATED | POSTCOPY)
    }

    /// What these figures count; `None` if one of them is missing that would make the others
    /// misleading.
    fn counters(&self, asked: u32, known: &mut Known) -> Option<Counters> {
        // A new machine may be the first with such devices; a busy QEMU is not asked.
        let not_asked = known.devices & !asked != 0;
        let not_told = known.disks_told && !self.disks_told;
        if self.state() == State::Off || not_asked || not_told {
            return None;
        }
        // Its QEMU is asked for this; one that is busy answers soon, and one that hangs does not.
        if self.rss_kib.is_some() {
            known.unanswered = None;
        } else if known.unanswered.get_or_insert_with(Instant::now).elapsed() >= BUSY_TIME_MAX {
            return None;
        }
        known.disks_told = self.disks_told;
        // Left out while QEMU is busy; then what it was last is nearer than what it may become.
        let rss_bytes = self.rss_kib.map(|kib| kib.saturating_mul(1024));
        known.rss_bytes = rss_bytes.or(known.rss_bytes);
        let balloon_bytes = || self.balloon_kib.map(|kib| kib.saturating_mul(1024));
        Some(Counters {
            cpu_time_ns: self.cpu_time_ns?,
            cpu_delay_ns: self.cpu_delay_ns,
            io_bytes: self.io_bytes,
            memory_bytes: known.rss_bytes.or_else(balloon_bytes)?.saturating_add(known.huge_bytes),
            dirty_bytes_per_s: None,
            pressure: Pressure::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Storage;
    use crate::xml::domain::describe;

    fn figures(named: &[(&'static str, u64)]) -> Figures {
        Figures::read(named.iter().map(|(name, number)| (*name, Value::Number(*number))))
    }

    fn known(devices: &str) -> Known {
        let xml = format!(
            "<domain><uuid>u</uuid><name>n</name><memory>1</memory><vcpu>1</vcpu>\
             <devices>{devices}</devices></domain>"
        );
        let described = describe(&xml, true, &Storage::default(), "").unwrap();
        Known::new(described, None, Size::default())
    }

    const DISK: &str = "<disk><source file='/a'/></disk>";
    const ALL: u32 = ALWAYS | DELAY | INTERFACES | DISKS;

    const RUNNING: (&str, u64) = ("state.state", 1);

    #[test]
    fn figures_add_up_over_devices() {
        let figures = figures(&[
            RUNNING,
            ("cpu.time", 5),
            ("vcpu.current", 2),
            ("vcpu.0.delay", 10),
            ("vcpu.1.delay", 1),
            ("vcpu.1.time", 999),
            ("balloon.rss", 3),
            ("net.count", 999),
            ("net.0.rx.bytes", 100),
            ("net.10.tx.bytes", 200),
            ("net.0.rx.pkts", 999),
            ("block.0.rd.bytes", 1000),
            ("block.0.wr.bytes", 2000),
            ("block.0.rd.reqs", 999),
        ]);
        let counters = figures.counters(ALL, &mut known(DISK)).unwrap();
        let expected = Counters {
            cpu_time_ns: 5,
            cpu_delay_ns: Some(11),
            io_bytes: 3300,
            memory_bytes: 3072,
            dirty_bytes_per_s: None,
            pressure: Pressure::default(),
        };
        assert_eq!(counters, expected);
    }

    #[test]
    fn what_is_not_told_is_not_taken_for_nothing() {
        let busy = [RUNNING, ("cpu.time", 5), ("balloon.current", 7)];
        assert_eq!(figures(&busy[..1]).counters(ALL, &mut known("")), None, "its CPU is missing");
        let mut machine = known("");
        let memory = |machine: &mut Known, named: &[(&'static str, u64)]| {
            figures(named).counters(ALL, machine).map(|counters| counters.memory_bytes)
        };
        assert_eq!(memory(&mut machine, &busy), Some(7 * 1024), "only its balloon is known");
        let told = [RUNNING, ("cpu.time", 5), ("balloon.rss", 3)];
        assert_eq!(memory(&mut machine, &told), Some(3 * 1024));
        assert_eq!(memory(&mut machine, &busy), Some(3 * 1024), "what it was last");
        assert_eq!(figures(&[("state.state", 5)]).counters(ALL, &mut known("")), None);
    }

    #[test]
    fn counters_without_the_disks_that_they_had_are_none() {
        let mut machine = known(DISK);
        let told = [RUNNING, ("cpu.time", 5), ("balloon.rss", 3), ("block.0.rd.bytes", 1)];
        assert_eq!(figures(&told).counters(ALWAYS, &mut machine), None, "they were not asked for");
        assert!(figures(&told[..3]).counters(ALL, &mut machine).is_some(), "some never tell");
        assert!(figures(&told).counters(ALL, &mut machine).is_some());
        assert_eq!(figures(&told[..3]).counters(ALL, &mut machine), None, "they told before");
    }

    #[test]
    fn memory_in_huge_pages_counts() {
        let xml = "<domain><uuid>u</uuid><name>n</name><memory>4096</memory><vcpu>1</vcpu>\
                   <memoryBacking><hugepages/></memoryBacking></domain>";
        let described = describe(xml, true, &Storage::default(), "").unwrap();
        let mut machine = Known::new(described, None, Size::default());
        let told = [RUNNING, ("cpu.time", 5), ("balloon.rss", 3)];
        let counted = figures(&told).counters(ALL, &mut machine).unwrap().memory_bytes;
        assert_eq!(counted, (4096 + 3) * 1024);
    }

    #[test]
    fn a_machine_that_came_by_a_migration_is_told_from_one_that_was_started() {
        let mut machine = known("");
        for (state, reason, arrived) in [(1, 2, true), (1, 10, true), (1, 1, false), (3, 1, false)]
        {
            let figures = figures(&[("state.state", state), ("state.reason", reason)]);
            let sample = figures.machine(ALL, &mut machine, |_| false);
            assert_eq!(sample.arrived, arrived, "{state} {reason}");
        }
        // What does not answer is as it was.
        assert_eq!(
            (machine.silent().presence, machine.silent().counters),
            (Presence::Paused, None)
        );
    }

    #[test]
    fn a_size_that_is_not_asked_has_not_changed() {
        let size = |vcpus, memory_kib| Size { vcpus, memory_kib };
        let mut known = size(None, Some(10));
        assert!(!known.update(size(Some(2), Some(10))), "told for the first time");
        assert!(!known.update(size(None, Some(10))));
        assert!(known.update(size(Some(3), Some(10))));
        assert!(known.update(size(None, Some(11))));
    }
}

//! Measuring: from libvirt's figures and descriptions to a sample.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::model::{HostFacts, MachineFacts, MachineId, Provides, Resources, Time};
use evenkeel_core::port::{Counters, HostSample, MachineSample, Presence, Pressure};
use virt_sys as sys;

use crate::LibvirtConfig;
use crate::carried::is_carried;
use crate::copies::presence_of;
use crate::ffi::{CallError, Connection, Params, State, Value};
use crate::pressure::{self, Kernel};
use crate::storage::Storage;
use crate::surroundings::Surroundings;
use crate::xml::domain::{Description, describe};
use crate::xml::host::{HostDescription, usable_cpu_models};

/// I/O capacity of a host whose configuration declares none, in bytes per second: a link of
/// 10 Gbit/s. libvirt does not know.
const NOMINAL_IO_BYTES_PER_S: f64 = 1.25e9;

/// How long what is known of storage and networks counts; they come and go without our asking.
const AROUND_AGE_MAX: Duration = Duration::from_secs(60);

/// What is measured of every domain in every sample.
const ALWAYS: u32 =
    sys::VIR_DOMAIN_STATS_STATE | sys::VIR_DOMAIN_STATS_CPU_TOTAL | sys::VIR_DOMAIN_STATS_BALLOON;

/// What costs libvirt as much as all of that, and is asked in one sample of [`DELAY_EVERY`]: how
/// long virtual CPUs waited for a real one.
const DELAY: u32 = sys::VIR_DOMAIN_STATS_VCPU;
const DELAY_EVERY: u32 = 4;

/// What is asked where a machine has such devices. libvirt asks every QEMU for its disks, also those
/// that have none.
const INTERFACES: u32 = sys::VIR_DOMAIN_STATS_INTERFACE;
const DISKS: u32 = sys::VIR_DOMAIN_STATS_BLOCK;

/// What is known of a host and its machines between samples.
pub(crate) struct Knowledge {
    host: HostDescription,
    cpu_models: BTreeSet<String>,
    capacity: Resources,
    around: Surroundings,
    looked_around: Instant,
    facts: Arc<HostFacts>,
    machines: BTreeMap<String, Known>,
    /// The kernel that the machines run on, if it is this host's.
    kernel: Option<Kernel>,
    samples: u32,
}

/// A machine as its description said last.
struct Known {
    facts: Arc<MachineFacts>,
    /// Whether it waits to be claimed, if it is paused.
    held: bool,
    /// What has to be asked of it: of [`INTERFACES`] and [`DISKS`].
    devices: u32,
    running_id: Option<u32>,
    size: Size,
    /// What was told of it before, which must not be missing later.
    rss_bytes: Option<u64>,
    disks_told: bool,
}

impl Known {
    fn new(described: Description, running_id: Option<u32>, size: Size) -> Self {
        let Description { facts, has_disks, has_interfaces, held, .. } = described;
        let group = |there: bool, group: u32| if there { group } else { 0 };
        let devices = group(has_disks, DISKS) | group(has_interfaces, INTERFACES);
        let facts = Arc::new(facts);
        Self { facts, held, devices, running_id, size, rss_bytes: None, disks_told: false }
    }
}

impl Known {
    /// Takes in whether its host starts it at boot, of which no event tells.
    fn starts_at_boot(&mut self, autostart: bool) {
        if self.facts.autostart != autostart {
            Arc::make_mut(&mut self.facts).autostart = autostart;
        }
    }
}

/// What tells from outside that virtual CPUs or memory were plugged in: there is no event for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    vcpus: Option<u64>,
    memory_kib: Option<u64>,
}

impl Size {
    /// Takes in a newer size, of which a part may not have been asked. Returns whether it is
    /// another one.
    fn update(&mut self, newer: Self) -> bool {
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
struct Figures {
    state: u64,
    reason: u64,
    size: Size,
    cpu_time_ns: Option<u64>,
    cpu_delay_ns: Option<u64>,
    rss_kib: Option<u64>,
    balloon_kib: Option<u64>,
    io_bytes: u64,
    disks_told: bool,
}

impl Figures {
    fn read<'a>(params: impl Iterator<Item = (&'a str, Value)>) -> Self {
        let mut figures = Self::default();
        for (name, value) in params {
            if let Value::Number(number) = value {
                figures.add(name, number);
            }
        }
        figures
    }

    fn state(&self) -> State {
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

    fn machine(
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
        MachineSample { facts: Arc::clone(&known.facts), presence, counters }
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
        known.disks_told = self.disks_told;
        // Left out while QEMU is busy; then what it was last is nearer than what it may become.
        let rss_bytes = self.rss_kib.map(|kib| kib.saturating_mul(1024));
        known.rss_bytes = rss_bytes.or(known.rss_bytes);
        let balloon_bytes = || self.balloon_kib.map(|kib| kib.saturating_mul(1024));
        Some(Counters {
            cpu_time_ns: self.cpu_time_ns?,
            cpu_delay_ns: self.cpu_delay_ns,
            io_bytes: self.io_bytes,
            memory_bytes: known.rss_bytes.or_else(balloon_bytes)?,
            dirty_bytes_per_s: None,
            pressure: Pressure::default(),
        })
    }
}

impl Knowledge {
    /// Finds out what the host is.
    pub(crate) fn gather(
        connection: &Connection,
        config: &LibvirtConfig,
    ) -> Result<Self, CallError> {
        let node = connection.node_info()?;
        let host = HostDescription::read(&connection.capabilities()?).unwrap_or_else(|error| {
            tracing::warn!("libvirt's capabilities of this host are {error}");
            HostDescription::default()
        });
        let mut cpu_models = BTreeSet::new();
        // A read-only connection is not told: then the models stay unknown.
        let asked = |kind: &&String| !config.read_only && matches!(kind.as_str(), "kvm" | "qemu");
        for kind in host.domain_types.iter().filter(asked) {
            let described = connection.domain_capabilities(kind)?;
            cpu_models.extend(usable_cpu_models(&described).unwrap_or_default());
        }
        let capacity = Resources {
            cpu_cores: f64::from(node.cpus),
            memory_bytes: node.memory_kib as f64 * 1024.0,
            io_bytes_per_s: NOMINAL_IO_BYTES_PER_S,
        };
        let mut knowledge = Self {
            host,
            cpu_models,
            capacity,
            around: Surroundings::look(connection, config),
            looked_around: Instant::now(),
            facts: Arc::default(),
            machines: BTreeMap::new(),
            kernel: Kernel::of(&config.uri),
            samples: 0,
        };
        knowledge.facts = Arc::new(knowledge.host_facts(config));
        Ok(knowledge)
    }

    fn host_facts(&self, config: &LibvirtConfig) -> HostFacts {
        HostFacts {
            capacity: self.capacity,
            provides: Provides {
                arch: self.host.arch.clone(),
                cpu_models: self.cpu_models.clone(),
                cpu_signature: self.host.cpu_signature.clone(),
                storage: self.around.storage.ids(),
                virt_types: self.host.domain_types.clone(),
                machine_types: self.host.machine_types.clone(),
                networks: Some(self.around.networks.clone()),
                pools: self.around.storage.own_pools(),
                huge_pages: self.around.huge_pages.clone(),
                numa_nodes: self.host.numa_nodes.clone(),
                host_cpus: self.host.cpus.clone(),
                admits: is_carried(&config.migration_uri).then(|| config.admission.keys.clone()),
            },
            migration_uri: config.migration_uri.clone(),
        }
    }

    /// What machines may need of the host.
    pub(crate) fn provides(&self) -> &Provides {
        &self.facts.provides
    }

    /// What is shared with other hosts, and what is not.
    pub(crate) const fn storage(&self) -> &Storage {
        &self.around.storage
    }

    /// Looks at storage, networks and huge pages anew.
    pub(crate) fn look_around(&mut self, connection: &Connection, config: &LibvirtConfig) {
        self.looked_around = Instant::now();
        let around = Surroundings::look(connection, config);
        if around == self.around {
            return;
        }
        if around.storage != self.around.storage {
            self.machines.clear();
        }
        self.around = around;
        self.facts = Arc::new(self.host_facts(config));
    }

    /// Measures the host. `changed` are the domains whose descriptions may have changed; those that
    /// could not be read again stay in it. `leaving` tells of machines on their way to other hosts.
    pub(crate) fn sample(
        &mut self,
        connection: &Connection,
        config: &LibvirtConfig,
        now: impl FnOnce() -> Time,
        changed: &mut BTreeSet<String>,
        leaving: impl Fn(&MachineId) -> bool,
    ) -> Result<HostSample, CallError> {
        if self.looked_around.elapsed() >= AROUND_AGE_MAX {
            self.look_around(connection, config);
        }
        let asked = self.groups();
        let mut measured = Vec::new();
        connection.domain_stats(asked, |uuid, running_id, params: Params<'_>| {
            measured.push((uuid, running_id, Figures::read(params.iter())));
        })?;
        let autostarted = connection.autostarted()?;
        let at = now();
        let groups = self.kernel.as_ref().map(Kernel::machines).unwrap_or_default();
        let mut before = std::mem::take(&mut self.machines);
        let mut machines = Vec::with_capacity(measured.len());
        for (uuid, running_id, figures) in measured {
            let mut known = before.remove(&uuid);
            let unchanged = known.as_mut().is_some_and(|known| {
                !known.size.update(figures.size)
                    && known.running_id == running_id
                    && !changed.contains(&uuid)
            });
            if !unchanged {
                known = self.describe(connection, &uuid, running_id, figures.size)?;
            }
            // Gone meanwhile, or not to be made sense of.
            let Some(mut known) = known else { continue };
            changed.remove(&uuid);
            known.starts_at_boot(autostarted.contains(&uuid));
            let mut machine = figures.machine(asked, &mut known, &leaving);
            if let Some(counters) = &mut machine.counters
                && let Some(group) = running_id.and_then(|id| groups.get(&id))
            {
                counters.pressure = pressure::of_machine(group);
            }
            machines.push(machine);
            self.machines.insert(uuid, known);
        }
        machines.sort_unstable_by(|a, b| a.facts.id.cmp(&b.facts.id));
        let pressure = self.kernel.as_ref().map(Kernel::host).unwrap_or_default();
        let facts = Arc::clone(&self.facts);
        Ok(HostSample { at, facts, background: None, pressure, machines })
    }

    /// What is to be asked in the next sample.
    fn groups(&mut self) -> u32 {
        let devices = if self.machines.is_empty() {
            // Nothing is known yet.
            INTERFACES | DISKS
        } else {
            self.machines.values().fold(0, |all, known| all | known.devices)
        };
        let delay = if self.samples.is_multiple_of(DELAY_EVERY) { DELAY } else { 0 };
        self.samples = self.samples.wrapping_add(1);
        ALWAYS | devices | delay
    }

    /// Reads a domain's description; `None` if it is gone meanwhile, or cannot be made sense of.
    fn describe(
        &self,
        connection: &Connection,
        uuid: &str,
        running_id: Option<u32>,
        size: Size,
    ) -> Result<Option<Known>, CallError> {
        let read = || {
            let domain = connection.domain(uuid)?;
            Ok((domain.xml()?, domain.is_persistent()?))
        };
        let (xml, persistent) = match read() {
            Ok(read) => read,
            Err(CallError { code: sys::VIR_ERR_NO_DOMAIN, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match describe(&xml, persistent, &self.around.storage, &self.host.cpu_signature) {
            Ok(mut described) => {
                weigh_disks(connection, uuid, &mut described);
                Ok(Some(Known::new(described, running_id, size)))
            }
            Err(error) => {
                tracing::warn!("the description of domain `{uuid}` makes no sense: {error}");
                Ok(None)
            }
        }
    }
}

/// Finds out how large the disks are that only this host reaches.
fn weigh_disks(connection: &Connection, uuid: &str, described: &mut Description) {
    let disks = described.facts.needs.local_disks.iter_mut().flatten();
    for disk in disks.filter(|disk| disk.obstacle.is_none()) {
        match connection.domain(uuid).and_then(|domain| domain.disk_size(&disk.name)) {
            Ok((bytes, used_bytes)) => (disk.bytes, disk.used_bytes) = (bytes, used_bytes),
            Err(error) => disk.obstacle = Some(format!("libvirt does not tell its size: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_size_that_is_not_asked_has_not_changed() {
        let size = |vcpus, memory_kib| Size { vcpus, memory_kib };
        let mut known = size(None, Some(10));
        assert!(!known.update(size(Some(2), Some(10))), "told for the first time");
        assert!(!known.update(size(None, Some(10))));
        assert!(known.update(size(Some(3), Some(10))));
        assert!(known.update(size(None, Some(11))));
    }
}

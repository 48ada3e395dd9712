//! Measuring: from libvirt's figures and descriptions to a sample.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::model::{HostFacts, MachineFacts, MachineId, Provides, Resources, Time};
use evenkeel_core::port::{Counters, HostSample, MachineSample, Presence};
use virt_sys as sys;

use crate::LibvirtConfig;
use crate::ffi::{CallError, Connection, Params, State, Value};
use crate::storage::Storage;
use crate::xml::domain::{Description, describe};
use crate::xml::host::{HostDescription, usable_cpu_models};

/// I/O capacity of a host whose configuration declares none, in bytes per second: a link of
/// 10 Gbit/s. libvirt does not know.
const NOMINAL_IO_BYTES_PER_S: f64 = 1.25e9;

/// How long what is known of the storage counts; libvirt's pools come and go without our asking.
const STORAGE_AGE_MAX: Duration = Duration::from_secs(60);

/// What is measured of every domain.
const GROUPS: u32 = sys::VIR_DOMAIN_STATS_STATE
    | sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | sys::VIR_DOMAIN_STATS_BALLOON
    | sys::VIR_DOMAIN_STATS_VCPU
    | sys::VIR_DOMAIN_STATS_INTERFACE
    | sys::VIR_DOMAIN_STATS_BLOCK;

/// What is known of a host and its machines between samples.
pub(crate) struct Knowledge {
    host: HostDescription,
    cpu_models: BTreeSet<String>,
    capacity: Resources,
    storage: Storage,
    storage_since: Instant,
    facts: Arc<HostFacts>,
    machines: BTreeMap<String, Known>,
}

/// A machine as its description said last.
struct Known {
    facts: Arc<MachineFacts>,
    has_disks: bool,
    running_id: Option<u32>,
    size: Size,
    rss_bytes: Option<u64>,
}

/// What tells from outside that virtual CPUs or memory were plugged in: there is no event for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    vcpus: Option<u64>,
    memory_kib: Option<u64>,
}

/// The figures of one domain in one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    state: u64,
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

    fn add(&mut self, name: &str, number: u64) {
        match name {
            "state.state" => self.state = number,
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

    fn machine(&self, known: &mut Known, leaving: impl Fn(&MachineId) -> bool) -> MachineSample {
        let presence = match State::from_raw(self.state) {
            State::Off => Presence::Defined,
            _ if leaving(&known.facts.id) => Presence::Leaving,
            State::Running => Presence::Running,
            State::Paused => Presence::Paused,
        };
        let counters = self.counters(known);
        MachineSample { facts: Arc::clone(&known.facts), presence, counters }
    }

    /// What these figures count; `None` if one of them is missing that would make the others
    /// misleading.
    fn counters(&self, known: &mut Known) -> Option<Counters> {
        if State::from_raw(self.state) == State::Off || (known.has_disks && !self.disks_told) {
            return None;
        }
        // Left out while QEMU is busy; then what it was last is nearer than what it may become.
        let rss_bytes = self.rss_kib.map(|kib| kib.saturating_mul(1024));
        known.rss_bytes = rss_bytes.or(known.rss_bytes);
        let balloon_bytes = || self.balloon_kib.map(|kib| kib.saturating_mul(1024));
        Some(Counters {
            cpu_time_ns: self.cpu_time_ns?,
            cpu_delay_ns: self.cpu_delay_ns,
            io_bytes: self.io_bytes,
            memory_bytes: known.rss_bytes.or_else(balloon_bytes)?,
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
        for kind in host.domain_types.iter().filter(|kind| matches!(kind.as_str(), "kvm" | "qemu"))
        {
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
            storage: look_for_storage(connection, config),
            storage_since: Instant::now(),
            facts: Arc::default(),
            machines: BTreeMap::new(),
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
                storage: self.storage.ids(),
            },
            migration_uri: config.migration_uri.clone(),
        }
    }

    fn refresh_storage(&mut self, connection: &Connection, config: &LibvirtConfig) {
        if self.storage_since.elapsed() < STORAGE_AGE_MAX {
            return;
        }
        self.storage_since = Instant::now();
        let storage = look_for_storage(connection, config);
        if storage != self.storage {
            self.storage = storage;
            self.facts = Arc::new(self.host_facts(config));
            self.machines.clear();
        }
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
        self.refresh_storage(connection, config);
        let mut measured = Vec::new();
        connection.domain_stats(GROUPS, |uuid, running_id, params: Params<'_>| {
            measured.push((uuid, running_id, Figures::read(params.iter())));
        })?;
        let at = now();
        let mut before = std::mem::take(&mut self.machines);
        let mut machines = Vec::with_capacity(measured.len());
        for (uuid, running_id, figures) in measured {
            let unchanged = before.remove(&uuid).filter(|known| {
                known.running_id == running_id
                    && known.size == figures.size
                    && !changed.contains(&uuid)
            });
            let known = match unchanged {
                Some(known) => Some(known),
                None => self.describe(connection, &uuid, running_id, figures.size)?,
            };
            // Gone meanwhile, or not to be made sense of.
            let Some(mut known) = known else { continue };
            changed.remove(&uuid);
            machines.push(figures.machine(&mut known, &leaving));
            self.machines.insert(uuid, known);
        }
        machines.sort_unstable_by(|a, b| a.facts.id.cmp(&b.facts.id));
        Ok(HostSample { at, facts: Arc::clone(&self.facts), background: None, machines })
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
        match describe(&xml, persistent, &self.storage, &self.host.cpu_signature) {
            Ok(Description { facts, has_disks, .. }) => {
                let facts = Arc::new(facts);
                Ok(Some(Known { facts, has_disks, running_id, size, rss_bytes: None }))
            }
            Err(error) => {
                tracing::warn!("the description of domain `{uuid}` makes no sense: {error}");
                Ok(None)
            }
        }
    }
}

fn look_for_storage(connection: &Connection, config: &LibvirtConfig) -> Storage {
    // A daemon without its storage driver has no pools.
    let pools = connection.active_storage_pools().unwrap_or_default();
    Storage::new(&config.storage, &pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(named: &[(&'static str, u64)]) -> Figures {
        Figures::read(named.iter().map(|(name, number)| (*name, Value::Number(*number))))
    }

    fn known(has_disks: bool) -> Known {
        let xml = "<domain><uuid>u</uuid><name>n</name><memory>1</memory><vcpu>1</vcpu></domain>";
        let facts = describe(xml, true, &Storage::default(), "").unwrap().facts;
        let facts = Arc::new(facts);
        Known { facts, has_disks, running_id: None, size: Size::default(), rss_bytes: None }
    }

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
        let counters = figures.counters(&mut known(true)).unwrap();
        let expected =
            Counters { cpu_time_ns: 5, cpu_delay_ns: Some(11), io_bytes: 3300, memory_bytes: 3072 };
        assert_eq!(counters, expected);
    }

    #[test]
    fn what_is_not_told_is_not_taken_for_nothing() {
        let busy = [RUNNING, ("cpu.time", 5), ("balloon.current", 7)];
        assert_eq!(figures(&busy).counters(&mut known(true)), None, "its disks are not told");
        assert_eq!(figures(&busy[..1]).counters(&mut known(false)), None, "nor is its CPU");
        let mut machine = known(false);
        let memory = |machine: &mut Known, named: &[(&'static str, u64)]| {
            figures(named).counters(machine).map(|counters| counters.memory_bytes)
        };
        assert_eq!(memory(&mut machine, &busy), Some(7 * 1024), "only its balloon is known");
        let told = [RUNNING, ("cpu.time", 5), ("balloon.rss", 3)];
        assert_eq!(memory(&mut machine, &told), Some(3 * 1024));
        assert_eq!(memory(&mut machine, &busy), Some(3 * 1024), "what it was last");
        assert_eq!(figures(&[("state.state", 5)]).counters(&mut known(false)), None);
    }
}

//! What a host is, as its libvirt describes it: it does not change while libvirt runs.

use std::collections::BTreeSet;

use evenkeel_core::model::{HostFacts, Provides, Resources};

use crate::LibvirtConfig;
use crate::carried::is_carried;
use crate::ffi::{CallError, Connection};
use crate::surroundings::Surroundings;
use crate::xml::host::{HostDescription, emulates_tpm, usable_cpu_models};

/// I/O capacity of a host whose configuration declares none, in bytes per second: a link of
/// 10 Gbit/s. libvirt does not know.
const NOMINAL_IO_BYTES_PER_S: f64 = 1.25e9;

/// What a host is.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    /// Its capabilities.
    pub(crate) host: HostDescription,
    cpu_models: BTreeSet<String>,
    emulated_tpm: Option<bool>,
    capacity: Resources,
}

impl Basis {
    /// Finds it out.
    pub(crate) fn gather(
        connection: &Connection,
        config: &LibvirtConfig,
    ) -> Result<Self, CallError> {
        let node = connection.node_info()?;
        let host = HostDescription::read(&connection.capabilities()?).unwrap_or_else(|error| {
            tracing::warn!("libvirt's capabilities of this host are {error}");
            HostDescription::default()
        });
        let (mut cpu_models, mut emulated_tpm) = (BTreeSet::new(), None);
        // A read-only connection is not told: then the models stay unknown.
        let asked = |kind: &&String| !config.read_only && matches!(kind.as_str(), "kvm" | "qemu");
        for kind in host.domain_types.iter().filter(asked) {
            let described = connection.domain_capabilities(kind)?;
            cpu_models.extend(usable_cpu_models(&described).unwrap_or_default());
            emulated_tpm = emulates_tpm(&described).or(emulated_tpm);
        }
        let memory_bytes = memory_bytes(&config.uri, node.memory_kib.saturating_mul(1024));
        let capacity = Resources {
            cpu_cores: f64::from(node.cpus),
            memory_bytes: memory_bytes as f64,
            io_bytes_per_s: NOMINAL_IO_BYTES_PER_S,
        };
        Ok(Self { host, cpu_models, emulated_tpm, capacity })
    }

    /// The same with what is around machines now.
    pub(crate) fn facts(&self, around: &Surroundings, config: &LibvirtConfig) -> HostFacts {
        HostFacts {
            capacity: self.capacity,
            provides: self.provides(around, config),
            migration_uri: config.migration_uri.clone(),
        }
    }

    /// What machines may need of it.
    pub(crate) fn provides(&self, around: &Surroundings, config: &LibvirtConfig) -> Provides {
        Provides {
            arch: self.host.arch.clone(),
            cpu_models: self.cpu_models.clone(),
            cpu_signature: self.host.cpu_signature.clone(),
            storage: around.storage.ids(),
            virt_types: self.host.domain_types.clone(),
            machine_types: self.host.machine_types.clone(),
            networks: Some(around.networks.clone()),
            pools: around.storage.own_pools(),
            huge_pages: around.huge_pages.clone(),
            numa_nodes: self.host.numa_nodes.clone(),
            host_cpus: self.host.cpus.clone(),
            links: around.links.clone(),
            host_uuid: self.host.uuid.clone(),
            emulated_tpm: self.emulated_tpm,
            admits: is_carried(&config.migration_uri).then(|| config.admission.keys.clone()),
        }
    }
}

/// Memory of the host behind `uri`, of which libvirt tells so much: no more than its kernel has, where
/// that is this one. In a container libvirt may go by less than there is, and the kernel by more.
pub fn memory_bytes(uri: &str, told: u64) -> u64 {
    let here = uri.contains(":///");
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok().filter(|_| here);
    let total = meminfo.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    total.map_or(told, |kib| told.min(kib.saturating_mul(1024)))
}

//! What is around machines on their host and may change at any time: storage, networks, huge pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_core::model::{LINUX_BRIDGE, Link, NO_BRIDGE, Network, NetworkFacts};

use crate::LibvirtConfig;
use crate::ffi::Connection;
use crate::locks::Mounts;
use crate::probe::{self, Found};
use crate::storage::Storage;
use crate::xml::network::{described, key};

/// Where the kernel lists network interfaces, huge pages and memory.
const INTERFACES: &str = "/sys/class/net";
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
const MEMORY: &str = "/proc/meminfo";
/// Where resource agents of a cluster manager keep what they run.
const AGENTS: &str = "/run/resource-agents";

/// What is around machines on their host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// What is shared with other hosts, and what is not.
    pub(crate) storage: Storage,
    /// What network interfaces can be connected to.
    pub(crate) networks: BTreeSet<Network>,
    /// How they are, by [`key`].
    pub(crate) links: BTreeMap<String, NetworkFacts>,
    /// Machines that resource agents of a cluster manager run here, as far as those tell.
    pub(crate) agents: BTreeSet<String>,
    /// Free memory in huge pages by their size in KiB, in bytes; 0 is the default size.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
}

impl Surroundings {
    /// As they are now. What cannot be found out is not there.
    pub(crate) fn look(connection: &Connection, config: &LibvirtConfig) -> Self {
        // A daemon without the driver for it has no networks.
        let virtual_ones = connection.active_networks().unwrap_or_default();
        let interfaces = interfaces(Path::new(INTERFACES));
        let links = links(&virtual_ones, interfaces, &config.segments);
        let default = fs::read_to_string(MEMORY).unwrap_or_default();
        Self {
            storage: storage(connection, config),
            networks: links.keys().cloned().collect(),
            links: links.iter().map(|(network, facts)| (key(network), facts.clone())).collect(),
            agents: agents(Path::new(AGENTS)),
            huge_pages: huge_pages(Path::new(HUGE_PAGES), default_page_kib(&default)),
        }
    }
}

impl Surroundings {
    /// The cluster manager whose resource agent runs a machine here, if one says that it does.
    pub(crate) fn agent_of(&self, machine: &str) -> Option<String> {
        self.agents.contains(machine).then(|| PACEMAKER.to_owned())
    }
}

/// Whose resource agents leave files in [`AGENTS`].
pub(crate) const PACEMAKER: &str = "Pacemaker";

/// What the resource agent `VirtualDomain` says that it runs: its files are named by the resource, and
/// older ones hold the name of the machine.
fn agents(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let resource = name.to_str().and_then(|name| {
            let resource = name.strip_prefix("VirtualDomain-")?.strip_suffix(".state")?;
            Some(resource.strip_suffix("-emu").unwrap_or(resource))
        });
        let Some(resource) = resource else { continue };
        found.insert(resource.to_owned());
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        found.extend(text.lines().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()));
    }
    found
}

/// What is shared with other hosts, and what is not, as it is now.
pub(crate) fn storage(connection: &Connection, config: &LibvirtConfig) -> Storage {
    // A daemon without its storage driver has no pools.
    let pools = connection.active_storage_pools().unwrap_or_default();
    let libvirt = connection.library_version().unwrap_or(0);
    Storage::new(&config.storage, &pools)
        .with_locks(Mounts::read(), config.lock_manager.clone())
        .with_absent(absent(config), libvirt)
}

/// Whether there is anything in a directory, or at least it may not be looked at.
pub(crate) fn is_there(path: &Path) -> bool {
    !matches!(probe::look(path), Found::Empty | Found::Nothing | Found::Silent)
}

/// What a directory that is declared as shared is on, as the doctor asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// A file system that libvirt takes for shared.
    Shared,
    /// One that it does not.
    Local,
    /// It is not known which of the two.
    Unknown,
    /// Nothing is there: an empty directory, or none.
    Nothing,
    /// What is there does not answer.
    Silent,
}

/// What a directory is on. Comes back, whatever is mounted there.
#[must_use]
pub fn sharing(path: &Path) -> Sharing {
    let mounts = Mounts::read();
    match probe::look(path) {
        Found::Silent => Sharing::Silent,
        Found::Nothing => Sharing::Nothing,
        found => match (mounts.unshared(path), found) {
            (Some(_), Found::Empty) => Sharing::Nothing,
            (Some(_), _) => Sharing::Local,
            (None, _) if mounts.is_shared(path) => Sharing::Shared,
            (None, _) => Sharing::Unknown,
        },
    }
}

/// Directories that are declared as shared and on which nothing is: a disk that is there on another host
/// cannot be there. What may not be looked at counts as being there.
fn absent(config: &LibvirtConfig) -> BTreeSet<PathBuf> {
    // A prefix of device names is no directory.
    let directories = config.storage.iter().filter(|shared| !shared.path.starts_with("/dev"));
    let gone = directories.filter(|shared| !is_there(&shared.path));
    gone.map(|shared| shared.path.clone()).collect()
}

/// How all networks are: the virtual ones of libvirt, and interfaces of the host.
fn links(
    virtual_ones: &[String],
    interfaces: BTreeMap<String, Link>,
    segments: &BTreeMap<String, String>,
) -> BTreeMap<Network, NetworkFacts> {
    let described = virtual_ones.iter().filter_map(|network| described(network, &interfaces));
    let mut all: BTreeMap<Network, NetworkFacts> =
        described.map(|(name, facts)| (Network::Virtual(name), facts)).collect();
    all.extend(interfaces.into_iter().map(|(name, link)| {
        (Network::Interface(name), NetworkFacts { link, ..NetworkFacts::default() })
    }));
    for (network, facts) in &mut all {
        facts.link.segment = segments.get(network.name()).cloned();
    }
    all
}

/// Network interfaces, without those that a hypervisor makes for one machine (TUN and TAP).
fn interfaces(directory: &Path) -> BTreeMap<String, Link> {
    let is_of_machine = |name: &Path| directory.join(name).join("tun_flags").exists();
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| PathBuf::from(entry.file_name())).collect::<Vec<_>>()
    };
    let lasting = names(directory).into_iter().filter(|name| !is_of_machine(name));
    let linked = lasting.filter_map(|name| {
        let at = directory.join(&name);
        let bridge = at.join("bridge").exists();
        // A bridge that only machines are connected to leads nowhere.
        let island = bridge && names(&at.join("brif")).iter().all(|port| is_of_machine(port));
        let switch = if bridge { LINUX_BRIDGE } else { NO_BRIDGE }.to_owned();
        let link = Link { switch: Some(switch), island, segment: None };
        Some((name.into_os_string().into_string().ok()?, link))
    });
    linked.collect()
}

/// Directories such as `hugepages-2048kB`, each with a file `free_hugepages`.
fn huge_pages(directory: &Path, default_kib: Option<u64>) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let kib = name.to_str().and_then(|name| {
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()
        });
        let free = fs::read_to_string(entry.path().join("free_hugepages"));
        let free = free.ok().and_then(|free| free.trim().parse::<u64>().ok());
        if let (Some(kib), Some(free)) = (kib, free) {
            let bytes = free.saturating_mul(kib).saturating_mul(1024);
            found.insert(kib, bytes);
            if default_kib == Some(kib) {
                found.insert(0, bytes);
            }
        }
    }
    found
}

/// The line `Hugepagesize:    2048 kB`.
fn default_page_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists_is_read() {
        let root = std::env::temp_dir().join(format!("evenkeel-sys-{}", std::process::id()));
        let net = root.join("net");
        for name in ["br0/bridge", "br0/brif/eth0", "br9/bridge", "br9/brif/vnet3", "eth0", "vnet3"]
        {
            fs::create_dir_all(net.join(name)).unwrap();
        }
        fs::write(net.join("vnet3/tun_flags"), "0x1002").unwrap();
        for (name, free) in
            [("hugepages-2048kB", "8\n"), ("hugepages-1048576kB", "0\n"), ("x", "1")]
        {
            fs::create_dir_all(root.join("pages").join(name)).unwrap();
            fs::write(root.join("pages").join(name).join("free_hugepages"), free).unwrap();
        }
        let default = default_page_kib("MemTotal: 1 kB\nHugepagesize:       2048 kB\n");
        let (found, pages) = (interfaces(&net), huge_pages(&root.join("pages"), default));
        fs::remove_dir_all(&root).unwrap();
        let link =
            |switch: &str, island| Link { switch: Some(switch.to_owned()), island, segment: None };
        let expected = [
            ("br0", link(LINUX_BRIDGE, false)),
            ("br9", link(LINUX_BRIDGE, true)),
            ("eth0", link(NO_BRIDGE, false)),
        ];
        let expected = expected.map(|(name, link)| (name.to_owned(), link));
        assert_eq!(found, expected.clone().into());
        let nat = "<network><name>default</name><forward mode='nat'/></network>".to_owned();
        let segments = BTreeMap::from([("default".to_owned(), "office".to_owned())]);
        let all = links(&[nat], found, &segments);
        let office = &all[&Network::Virtual("default".to_owned())].link;
        assert_eq!((office.island, office.segment.as_deref()), (true, Some("office")));
        assert_eq!(all.len(), 4);
        assert_eq!(pages, BTreeMap::from([(0, 16 << 20), (2048, 16 << 20), (1 << 20, 0)]));
        assert!(interfaces(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn what_resource_agents_run_is_known_by_their_files() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("VirtualDomain-vm_web-emu.state", "/usr/bin/qemu-system-x86_64\n"),
            ("VirtualDomain-vm_db.state", "db-1\n"),
            ("Filesystem-x.state", "other\n"),
        ] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let around = Surroundings { agents: agents(root.path()), ..Surroundings::default() };
        for (machine, manager) in
            [("vm_web", true), ("vm_db", true), ("db-1", true), ("other", false)]
        {
            assert_eq!(around.agent_of(machine).is_some(), manager, "{machine}");
        }
    }
}

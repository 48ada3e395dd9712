//! What is around machines on their host and may change at any time: storage, networks, huge pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use evenkeel_core::model::Network;

use crate::LibvirtConfig;
use crate::ffi::Connection;
use crate::locks::Mounts;
use crate::storage::Storage;

/// Where the kernel lists network interfaces, huge pages and memory.
const INTERFACES: &str = "/sys/class/net";
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
const MEMORY: &str = "/proc/meminfo";

/// What is around machines on their host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// What is shared with other hosts, and what is not.
    pub(crate) storage: Storage,
    /// What network interfaces can be connected to.
    pub(crate) networks: BTreeSet<Network>,
    /// Free memory in huge pages by their size in KiB, in bytes; 0 is the default size.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
}

impl Surroundings {
    /// As they are now. What cannot be found out is not there.
    pub(crate) fn look(connection: &Connection, config: &LibvirtConfig) -> Self {
        // A daemon without the driver for it has no networks.
        let virtual_ones = connection.active_networks().unwrap_or_default();
        let virtual_ones = virtual_ones.into_iter().map(Network::Virtual);
        let interfaces = interfaces(Path::new(INTERFACES)).into_iter().map(Network::Interface);
        let default = fs::read_to_string(MEMORY).unwrap_or_default();
        Self {
            storage: storage(connection, config),
            networks: virtual_ones.chain(interfaces).collect(),
            huge_pages: huge_pages(Path::new(HUGE_PAGES), default_page_kib(&default)),
        }
    }
}

/// What is shared with other hosts, and what is not, as it is now.
pub(crate) fn storage(connection: &Connection, config: &LibvirtConfig) -> Storage {
    // A daemon without its storage driver has no pools.
    let pools = connection.active_storage_pools().unwrap_or_default();
    Storage::new(&config.storage, &pools).with_locks(Mounts::read(), config.lock_manager.clone())
}

/// Network interfaces, without those that a hypervisor makes for one machine (TUN and TAP).
fn interfaces(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let lasting = entries.filter(|entry| !entry.path().join("tun_flags").exists());
    lasting.filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
        for name in ["br0", "eth0", "vnet3"] {
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
        assert_eq!(found, ["br0", "eth0"].map(str::to_owned).into());
        assert_eq!(pages, BTreeMap::from([(0, 16 << 20), (2048, 16 << 20), (1 << 20, 0)]));
        assert!(interfaces(Path::new("/nonexistent")).is_empty());
    }
}

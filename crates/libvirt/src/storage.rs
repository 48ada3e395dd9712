//! Which storage other hosts reach too.
//!
//! A disk is where a machine can follow it to if one of these holds, in this order:
//!
//! 1. it is a network disk (`rbd`, `iscsi`, `nbd`, …): QEMU opens it by itself from anywhere;
//! 2. its path lies below a directory that the configuration calls shared ([`SharedStorage`]);
//! 3. its path lies below, or its pool is, an active libvirt pool of a shared kind.
//!
//! Everything else is local: a machine with such a disk stays where it is. So does one with a file
//! system or a device of its host passed through. Disks without a medium, such as an empty CD drive,
//! need nothing.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use evenkeel_core::model::Locks;

use crate::locks::{self, Mounts};
use crate::xml::Element;

/// A directory, or a prefix of device names, that is the same storage on every host with this id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStorage {
    /// What it is called on all hosts.
    pub id: String,
    /// Where it is on this one: an absolute path.
    pub path: PathBuf,
}

/// Everything shared that a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    /// The longest path first, so that the most particular one counts.
    paths: Vec<SharedStorage>,
    /// Pools by name.
    pools: Vec<(String, String)>,
    /// What file systems there are, for the locks on them.
    mounts: Mounts,
    /// Who leases disks besides, if anybody.
    lock_manager: Option<String>,
}

/// What the disks of a machine need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskNeeds {
    pub(crate) shared: BTreeSet<String>,
    pub(crate) local: bool,
}

impl Storage {
    /// From the configuration and libvirt's descriptions of its active pools. Those that cannot be
    /// read are passed over.
    pub(crate) fn new(configured: &[SharedStorage], pools: &[String]) -> Self {
        let mut storage = Self { paths: configured.to_vec(), ..Self::default() };
        for pool in pools.iter().filter_map(|text| Element::parse(text).ok()) {
            let Some(id) = shared_pool_id(&pool) else { continue };
            storage.pools.push((pool.text_of("name").to_owned(), id.clone()));
            let path = PathBuf::from(pool.text_of("target/path"));
            // Below `/dev` a pool's volumes are named in ways that its path does not tell apart.
            if path.is_absolute() && !path.starts_with("/dev") {
                storage.paths.push(SharedStorage { id, path });
            }
        }
        storage.paths.sort_by_key(|shared| std::cmp::Reverse(shared.path.components().count()));
        storage
    }

    /// The same with what is to be known for locks.
    pub(crate) fn with_locks(self, mounts: Mounts, lock_manager: Option<String>) -> Self {
        Self { mounts, lock_manager, ..self }
    }

    /// What would keep two copies of a domain apart.
    pub(crate) fn locks(&self, domain: &Element) -> Locks {
        locks::of_domain(domain, &self.mounts, self.lock_manager.as_deref())
    }

    /// The ids of all of it.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        let paths = self.paths.iter().map(|shared| shared.id.clone());
        paths.chain(self.pools.iter().map(|(_, id)| id.clone())).collect()
    }

    /// What a domain's disks need, its backing files and copies under way included.
    pub(crate) fn needs(&self, domain: &Element) -> DiskNeeds {
        let mut needs = DiskNeeds::default();
        let Some(devices) = domain.find("devices") else { return needs };
        needs.local = devices.all("filesystem").chain(devices.all("hostdev")).next().is_some();
        for disk in devices.all("disk") {
            self.add(&mut needs, disk.attribute("type").unwrap_or("file"), disk);
            disk.walk(&mut |inner| {
                if matches!(inner.name.as_str(), "backingStore" | "mirror") {
                    self.add(&mut needs, inner.attribute("type").unwrap_or("file"), inner);
                }
            });
        }
        needs
    }

    fn add(&self, needs: &mut DiskNeeds, kind: &str, disk: &Element) {
        let Some(source) = disk.find("source") else { return };
        let of_pool = |name: &str| self.pools.iter().find(|(pool, _)| pool == name);
        let path = ["file", "dev", "dir"].iter().find_map(|key| source.attribute(key));
        let found = match (kind, path) {
            ("network", _) => return,
            ("volume", _) => source.attribute("pool").and_then(of_pool).map(|(_, id)| id),
            (_, Some(path)) => self.of_path(Path::new(path)),
            (_, None) => None,
        };
        match found {
            Some(id) => {
                needs.shared.insert(id.clone());
            }
            None => needs.local = true,
        }
    }

    fn of_path(&self, path: &Path) -> Option<&String> {
        // `/shared/../etc` is not below `/shared`.
        let climbs = path.components().any(|part| part == Component::ParentDir);
        let found = self.paths.iter().find(|shared| !climbs && path.starts_with(&shared.path));
        found.map(|shared| &shared.id)
    }
}

/// The id of a pool that other hosts reach too: its kind and what it is made from, which is the same
/// text wherever the same pool is defined.
fn shared_pool_id(pool: &Element) -> Option<String> {
    let kind = pool.attribute("type")?;
    let source = pool.find("source")?;
    let attribute = |path: &str, name: &str| {
        source.find(path).and_then(|element| element.attribute(name)).unwrap_or("")
    };
    let (host, name) = (attribute("host", "name"), source.text_of("name"));
    let place = match kind {
        "netfs" => format!("{host}:{}", attribute("dir", "path")),
        "iscsi" => format!("{host}:{}", attribute("device", "path")),
        "iscsi-direct" => format!("{host}:{}", attribute("device", "path")),
        "gluster" => format!("{host}:{name}{}", attribute("dir", "path")),
        "rbd" | "sheepdog" | "vstorage" => format!("{host}:{name}"),
        _ => return None,
    };
    Some(format!("{kind}:{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage() -> Storage {
        let nfs = "<pool type='netfs'><name>nfs</name><source><host name='nas'/>\
                   <dir path='/export'/></source><target><path>/mnt/nfs</path></target></pool>";
        let local = "<pool type='dir'><name>images</name><source/>\
                     <target><path>/var/lib/libvirt/images</path></target></pool>";
        let rbd = "<pool type='rbd'><name>ceph</name><source><host name='mon'/><name>vms</name>\
                   </source></pool>";
        let configured = [
            SharedStorage { id: "gfs".to_owned(), path: "/srv/shared".into() },
            SharedStorage { id: "fast".to_owned(), path: "/srv/shared/fast".into() },
        ];
        Storage::new(&configured, &[nfs, local, rbd, "<broken"].map(str::to_owned))
    }

    fn needs(devices: &str) -> (Vec<String>, bool) {
        let text = format!("<domain><devices>{devices}</devices></domain>");
        let needs = storage().needs(&Element::parse(&text).unwrap());
        (needs.shared.into_iter().collect(), needs.local)
    }

    #[test]
    fn a_host_provides_what_is_configured_and_its_shared_pools() {
        let ids: Vec<String> = storage().ids().into_iter().collect();
        assert_eq!(ids, ["fast", "gfs", "netfs:nas:/export", "rbd:mon:vms"]);
    }

    #[test]
    fn a_disk_needs_the_storage_that_it_is_on() {
        for (devices, shared, local) in [
            ("", vec![], false),
            (
                "<disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>",
                vec![],
                false,
            ),
            ("<disk type='file'><source file='/srv/shared/a.qcow2'/></disk>", vec!["gfs"], false),
            ("<disk type='file'><source file='/srv/shared/fast/a'/></disk>", vec!["fast"], false),
            ("<disk type='file'><source file='/srv/sharedness/a'/></disk>", vec![], true),
            ("<disk type='file'><source file='/srv/shared/../a'/></disk>", vec![], true),
            ("<disk type='file'><source file='/var/lib/libvirt/images/a'/></disk>", vec![], true),
            ("<disk type='block'><source dev='/dev/vg/a'/></disk>", vec![], true),
            (
                "<disk type='file'><source file='/mnt/nfs/a'/></disk>",
                vec!["netfs:nas:/export"],
                false,
            ),
            (
                "<disk type='volume'><source pool='ceph' volume='a'/></disk>",
                vec!["rbd:mon:vms"],
                false,
            ),
            ("<disk type='volume'><source pool='images' volume='a'/></disk>", vec![], true),
            ("<disk type='network'><source protocol='rbd' name='p/a'/></disk>", vec![], false),
            ("<disk type='nvme'><source namespace='1'/></disk>", vec![], true),
            ("<filesystem type='mount'><source dir='/home'/></filesystem>", vec![], true),
            ("<hostdev mode='subsystem' type='pci'/>", vec![], true),
            (
                "<disk type='file'><source file='/srv/shared/a'/><backingStore type='file'>\
                 <source file='/base'/><backingStore/></backingStore></disk>",
                vec!["gfs"],
                true,
            ),
        ] {
            let shared: Vec<String> = shared.into_iter().map(str::to_owned).collect();
            assert_eq!(needs(devices), (shared, local), "{devices}");
        }
    }
}

//! Which storage other hosts reach too.
//!
//! A disk is where a machine can follow it to if one of these holds, in this order:
//!
//! 1. it is a network disk (`rbd`, `iscsi`, `nbd`, …): QEMU opens it by itself from anywhere;
//! 2. its path lies below a directory that the configuration calls shared ([`SharedStorage`]);
//! 3. its path lies below, or its pool is, an active libvirt pool of a shared kind.
//!
//! Everything else is local: a machine with such a disk stays where it is, unless the operator lets
//! the disk be copied, which libvirt can do with a file in one of its pools. Disks without a medium,
//! such as an empty CD drive, need nothing.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use evenkeel_core::model::{FileUse, HostFile, LocalDisk, Locks, Missing};

use crate::locks::{self, Mounts, names_something};
use crate::xml::Element;
use crate::xml::needs::target;

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
    /// Shared pools by name.
    pools: Vec<(String, String)>,
    /// Directories that are pools of this host, by the pools' names.
    own: Vec<(String, PathBuf)>,
    /// What file systems there are, for the locks on them.
    mounts: Mounts,
    /// Who leases disks besides, if anybody.
    lock_manager: Option<String>,
    /// Directories that are configured as shared and on which nothing is here: nothing is mounted, or
    /// what is does not answer.
    absent: BTreeSet<PathBuf>,
    /// Whether libvirt may have been told that more is shared than it finds out by itself.
    told_more: bool,
}

/// What the disks of a machine need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskNeeds {
    pub(crate) shared: BTreeSet<String>,
    pub(crate) local: Vec<LocalDisk>,
    /// Files of those on shared storage.
    pub(crate) files: Vec<HostFile>,
    /// What keeps it here, whatever other hosts reach.
    pub(crate) keeps: Vec<Missing>,
}

impl Storage {
    /// From the configuration and libvirt's descriptions of its active pools. Those that cannot be
    /// read are passed over.
    pub(crate) fn new(configured: &[SharedStorage], pools: &[String]) -> Self {
        let mut storage = Self { paths: configured.to_vec(), ..Self::default() };
        for pool in pools.iter().filter_map(|text| Element::parse(text).ok()) {
            let Some(id) = shared_pool_id(&pool) else {
                storage.own.extend(own_pool(&pool));
                continue;
            };
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

    /// The same without directories on which nothing is, on a libvirt of this version.
    pub(crate) fn with_absent(self, absent: BTreeSet<PathBuf>, libvirt: u64) -> Self {
        Self { absent, told_more: libvirt >= SHARED_FILESYSTEMS_SINCE, ..self }
    }

    /// Whether anything is now where nothing was.
    pub(crate) fn has_come(&self, is_there: impl Fn(&Path) -> bool) -> bool {
        self.absent.iter().any(|path| is_there(path))
    }

    /// What would keep two copies of a domain apart.
    pub(crate) fn locks(&self, domain: &Element) -> Locks {
        locks::of_domain(domain, &self.mounts, self.lock_manager.as_deref())
    }

    /// The ids of all of it.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        let there = self.paths.iter().filter(|shared| !self.absent.contains(&shared.path));
        let paths = there.map(|shared| shared.id.clone());
        paths.chain(self.pools.iter().map(|(_, id)| id.clone())).collect()
    }

    /// The names of the pools that copies of disks can go into.
    pub(crate) fn own_pools(&self) -> BTreeSet<String> {
        self.own.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The directory that a pool of this host is.
    pub(crate) fn directory_of(&self, pool: &str) -> Option<&Path> {
        self.own.iter().find(|(name, _)| name == pool).map(|(_, path)| path.as_path())
    }

    /// The file that a volume of a pool is, where the pool is a directory.
    pub(crate) fn volume(&self, pool: &str, volume: &str) -> Option<PathBuf> {
        let plain = !volume.is_empty() && !volume.contains('/') && !matches!(volume, "." | "..");
        let shared = || {
            let (_, id) = self.pools.iter().find(|(name, _)| name == pool)?;
            self.paths.iter().find(|shared| shared.id == *id).map(|shared| shared.path.as_path())
        };
        let directory = self.directory_of(pool).or_else(shared)?;
        plain.then(|| directory.join(volume))
    }

    /// What a domain's disks need, its backing files and copies under way included.
    pub(crate) fn needs(&self, domain: &Element) -> DiskNeeds {
        let mut needs = DiskNeeds::default();
        let Some(devices) = domain.find("devices") else { return needs };
        for disk in devices.all("disk") {
            let is_local = !self.reaches(&mut needs.shared, disk);
            let mut leans_on_local = false;
            disk.walk(&mut |inner| {
                if matches!(inner.name.as_str(), "backingStore" | "mirror") {
                    leans_on_local |= !self.reaches(&mut needs.shared, inner);
                }
            });
            if is_local || leans_on_local {
                needs.local.push(self.local_disk(disk));
            } else {
                self.look_at_files(disk, &mut needs);
            }
        }
        needs
    }

    /// The files of a disk that other hosts reach, and whether libvirt believes that they do.
    fn look_at_files(&self, disk: &Element, needs: &mut DiskNeeds) {
        let name = target(disk);
        disk.walk(&mut |part| {
            let source =
                matches!(part.name.as_str(), "disk" | "backingStore").then(|| part.find("source"));
            let path = source.flatten().and_then(|s| s.attribute("file").or(s.attribute("dev")));
            let Some(path) = path.filter(|path| path.starts_with('/')) else { return };
            if needs.files.len() < FILES_MAX {
                let (path, what) = (path.to_owned(), name.to_owned());
                needs.files.push(HostFile { path, what, usage: FileUse::Disk, bytes: None });
            }
        });
        let source = disk.find("source").and_then(|source| source.attribute("file"));
        let exempt = disk.find("readonly").is_some() || disk.find("shareable").is_some();
        if let Some(path) = source.filter(|_| !exempt && !self.told_more)
            && let Some(kind) = self.mounts.unshared(Path::new(path))
        {
            let (disk, path) = (name.to_owned(), path.to_owned());
            needs.keeps.push(Missing::UnsafeStorage { disk, path, kind });
        }
    }

    /// A disk that only this host reaches, and what keeps it from being copied, if anything does.
    fn local_disk(&self, disk: &Element) -> LocalDisk {
        let kind = disk.attribute("type").unwrap_or("file");
        let path = disk.find("source").and_then(|source| source.attribute("file")).unwrap_or("");
        let pool = self.own.iter().find(|(_, at)| Path::new(path).parent() == Some(at));
        let leans =
            ["backingStore", "mirror"].iter().any(|name| disk.find(name).is_some_and(has_source));
        let obstacle = if kind == "network" {
            Some("it is served on its present host itself".to_owned())
        } else if kind != "file" || path.is_empty() {
            Some(format!("it is of type `{kind}`, and only files are copied"))
        } else if path.len() > COPIED_PATH_BYTES_MAX {
            Some("its path is too long".to_owned())
        } else if disk.find("readonly").is_some() || disk.attribute("device") == Some("cdrom") {
            Some("libvirt copies nothing that is read-only; eject it or take it out".to_owned())
        } else if disk.find("shareable").is_some() {
            Some("it is shared with other machines".to_owned())
        } else if leans {
            Some("it has a backing file or a mirror".to_owned())
        } else if pool.is_none() {
            Some(format!("`{path}` is not in the directory of an active storage pool"))
        } else {
            None
        };
        LocalDisk {
            name: target(disk).to_owned(),
            path: if path.len() > COPIED_PATH_BYTES_MAX { String::new() } else { path.to_owned() },
            pool: pool.map(|(name, _)| name.clone()).unwrap_or_default(),
            obstacle,
            ..LocalDisk::default()
        }
    }

    /// Whether other hosts reach what is behind this, with the id of the storage that it is on.
    fn reaches(&self, shared: &mut BTreeSet<String>, disk: &Element) -> bool {
        let Some(source) = disk.find("source").filter(|s| names_something(s)) else { return true };
        let kind = disk.attribute("type").unwrap_or("file");
        let of_pool = |name: &str| self.pools.iter().find(|(pool, _)| pool == name);
        let path = ["file", "dev", "dir"].iter().find_map(|key| source.attribute(key));
        let found = match (kind, path) {
            ("network", _) => return !is_served_here(source),
            ("volume", _) => source.attribute("pool").and_then(of_pool).map(|(_, id)| id),
            (_, Some(path)) => self.of_path(Path::new(path)),
            (_, None) => None,
        };
        shared.extend(found.cloned());
        found.is_some()
    }

    fn of_path(&self, path: &Path) -> Option<&String> {
        self.shared_at(path).map(|shared| &shared.id)
    }

    /// The shared storage that a path is on.
    pub(crate) fn shared_at(&self, path: &Path) -> Option<&SharedStorage> {
        // `/shared/../etc` is not below `/shared`.
        let climbs = path.components().any(|part| part == Component::ParentDir);
        self.paths.iter().find(|shared| !climbs && path.starts_with(&shared.path))
    }
}

/// The first libvirt whose `qemu.conf` has `shared_filesystems`.
const SHARED_FILESYSTEMS_SINCE: u64 = 10_008_000;

/// Most files of disks that another host is asked for.
const FILES_MAX: usize = 32;

/// Whether a network disk is served by its own host, by its address there or by a socket.
fn is_served_here(source: &Element) -> bool {
    let here = |host: &Element| {
        let name = host.attribute("name").unwrap_or("");
        let address = name.parse::<std::net::IpAddr>();
        host.attribute("transport") == Some("unix")
            || matches!(name, "localhost" | "localhost.localdomain")
            || address.is_ok_and(|address| address.is_loopback())
    };
    let hosts: Vec<&Element> = source.all("host").collect();
    !hosts.is_empty() && hosts.into_iter().all(here)
}

/// Longest path of a disk that is copied, in bytes: it goes along in messages.
const COPIED_PATH_BYTES_MAX: usize = 512;

fn has_source(element: &Element) -> bool {
    element.find("source").is_some_and(names_something)
}

/// The name and directory of a pool of files that only this host has.
fn own_pool(pool: &Element) -> Option<(String, PathBuf)> {
    let path = PathBuf::from(pool.text_of("target/path"));
    let of_files = matches!(pool.attribute("type"), Some("dir" | "fs"));
    (of_files && path.is_absolute()).then(|| (pool.text_of("name").to_owned(), path))
}

/// What is mounted at a path or above it, and its file system; nothing where the kernel does not tell.
#[must_use]
pub fn mounted_at(path: &Path) -> Option<(String, String)> {
    Mounts::read().at(path)
}

/// The id of a pool that other hosts reach too: its kind and what it is made from, which is the same
/// text wherever the same pool is defined.
pub(crate) fn shared_pool_id(pool: &Element) -> Option<String> {
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
        (needs.shared.into_iter().collect(), !needs.local.is_empty())
    }

    #[test]
    fn a_local_disk_says_what_keeps_it_from_being_copied() {
        let images = "/var/lib/libvirt/images";
        let file = |path: &str, more: &str| {
            format!("<disk type='file'><source file='{path}'/><target dev='vda'/>{more}</disk>")
        };
        for (disk, obstacle) in [
            (file(&format!("{images}/a"), ""), None),
            (file(&format!("{images}/a"), "<backingStore/>"), None),
            (file(&format!("{images}/deep/a"), ""), Some("storage pool")),
            (file("/a", ""), Some("storage pool")),
            (file(&format!("{images}/a"), "<readonly/>"), Some("read-only")),
            (file(&format!("{images}/a"), "<shareable/>"), Some("shared with")),
            (
                file(&format!("{images}/a"), "<backingStore><source file='/b'/></backingStore>"),
                Some("backing file"),
            ),
            (file(&format!("{images}/{}", "x".repeat(600)), ""), Some("too long")),
            (
                "<disk type='block'><source dev='/dev/vg/a'/><target dev='vda'/></disk>".to_owned(),
                Some("`block`"),
            ),
        ] {
            let text = format!("<domain><devices>{disk}</devices></domain>");
            let local = storage().needs(&Element::parse(&text).unwrap()).local;
            let [found] = &local[..] else { panic!("{disk}: {local:?}") };
            assert_eq!(found.name, "vda");
            match obstacle {
                None => assert_eq!((found.pool.as_str(), &found.obstacle), ("images", &None)),
                Some(words) => {
                    let said = found.obstacle.as_ref().expect("it has one");
                    assert!(said.contains(words), "{said}");
                }
            }
        }
    }

    #[test]
    fn a_disk_on_storage_that_libvirt_takes_for_local_keeps_its_machine_and_says_so() {
        let mounts = Mounts::parse(
            "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /srv/shared/fast rw - nfs4 n:/a rw",
        );
        let storage = |libvirt| {
            storage().with_locks(mounts.clone(), None).with_absent(BTreeSet::new(), libvirt)
        };
        let disk = |path: &str, more: &str| {
            let disk = format!("<disk><source file='{path}'/><target dev='vda'/>{more}</disk>");
            Element::parse(&format!("<domain><devices>{disk}</devices></domain>")).unwrap()
        };
        for (path, more, libvirt, kept) in [
            ("/srv/shared/a", "", 9_000_000, true),
            ("/srv/shared/fast/a", "", 9_000_000, false),
            ("/srv/shared/a", "<readonly/>", 9_000_000, false),
            ("/srv/shared/a", "<shareable/>", 9_000_000, false),
            // It may have been told so.
            ("/srv/shared/a", "", 11_000_000, false),
        ] {
            let needs = storage(libvirt).needs(&disk(path, more));
            assert_eq!(!needs.keeps.is_empty(), kept, "{path} {more} {libvirt}");
            assert_eq!((needs.files[0].path.as_str(), needs.files[0].what.as_str()), (path, "vda"));
        }
        let absent = BTreeSet::from([PathBuf::from("/srv/shared/fast")]);
        let ids = storage(9_000_000).with_absent(absent, 9_000_000).ids();
        assert!(!ids.contains("fast") && ids.contains("gfs"), "{ids:?}");
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
            // An ejected medium, as libvirt leaves it.
            (
                "<disk type='file' device='cdrom'><source index='3'/><target dev='hdc'/><readonly/></disk>",
                vec![],
                false,
            ),
            (
                "<disk type='network'><source protocol='nbd' name='a'><host name='localhost' port='1'/></source></disk>",
                vec![],
                true,
            ),
            (
                "<disk type='network'><source protocol='nbd'><host transport='unix' socket='/x'/></source></disk>",
                vec![],
                true,
            ),
            (
                "<disk type='network'><source protocol='nbd'><host name='::1'/></source></disk>",
                vec![],
                true,
            ),
            (
                "<disk type='network'><source protocol='nbd'><host name='san' port='1'/></source></disk>",
                vec![],
                false,
            ),
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

//! What would keep two copies of a machine apart: the locks on its disks.
//!
//! QEMU locks the image files that it opens. That keeps a second QEMU on another host from writing
//! only where the file system carries locks between hosts, and where there is a file: a block device
//! that several hosts share has none. Whatever is not known to hold counts as not holding.

use std::path::{Path, PathBuf};

use evenkeel_core::model::Locks;

use crate::xml::Element;

/// Where the kernel tells what is mounted.
const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems whose POSIX locks hold on every host that mounts them. NFS below version 4 keeps
/// them in a side protocol that a restart of either side may lose, and many others keep them on one
/// host unless told otherwise.
const CARRYING: [&str; 7] =
    ["nfs4", "ceph", "fuse.ceph", "fuse.ceph-fuse", "gfs2", "ocfs2", "gpfs"];

/// Mount options that keep locks on one host all the same.
const KEEPING: [&str; 4] = ["nolock", "local_lock=all", "local_lock=posix", "localflocks"];

/// Symbolic links that are followed, as the kernel does.
const LINKS_MAX: u32 = 40;

/// Names in a path, the last one first.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let mut parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_owned()),
            std::path::Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect();
    parts.reverse();
    parts
}

/// Whether files of such a file system are elsewhere, so that looking at them may take for ever.
pub(crate) fn is_remote(kind: &str) -> bool {
    matches!(
        kind,
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "afs" | "glusterfs" | "lustre"
    ) || kind.starts_with("fuse.")
        || kind == "beegfs"
}

/// Whether libvirt refuses to migrate machines with disks on such a file system. Of those that are not
/// named here it is not known.
fn is_unshared(kind: &str) -> bool {
    const LOCAL: [&str; 17] = [
        "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs",
        "overlay", "tmpfs", "ramfs", "vfat", "exfat", "ntfs3", "fuseblk",
    ];
    let fuse = kind.strip_prefix("fuse.");
    LOCAL.contains(&kind) || fuse.is_some_and(|kind| !matches!(kind, "glusterfs" | "quobyte"))
}

/// What is mounted on this host, the innermost last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounts(Vec<Mount>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Which directory of its file system is there.
    root: String,
    point: PathBuf,
    kind: String,
    source: String,
    options: Vec<String>,
}

impl Mounts {
    /// As the kernel tells; nothing if it does not.
    pub(crate) fn read() -> Self {
        Self::parse(&std::fs::read_to_string(MOUNTS).unwrap_or_default())
    }

    /// Lines such as `36 35 0:30 / /srv/vm rw shared:1 - nfs4 nas:/vm rw,vers=4.2`.
    pub(crate) fn parse(text: &str) -> Self {
        let mounts = text.lines().filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ');
            let root = unescaped(head.nth(3)?);
            let point = unescaped(head.next()?);
            let mut tail = tail.split(' ');
            let (kind, source) = (tail.next()?.to_owned(), tail.next().unwrap_or(""));
            let options = [head.next(), tail.next()].into_iter().flatten();
            let options = options.flat_map(|all| all.split(',')).map(str::to_owned).collect();
            Some(Mount { root, point: point.into(), kind, source: unescaped(source), options })
        });
        Self(mounts.collect())
    }

    /// A path through symbolic links, as far as it is on file systems of this host: a server that does
    /// not answer holds up whoever looks at what is behind it.
    pub(crate) fn resolved(&self, path: &Path) -> PathBuf {
        let mut left: Vec<std::ffi::OsString> = parts(path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let away = self.above(&next).is_some_and(|mount| is_remote(&mount.kind));
            let link =
                if away || links > LINKS_MAX { None } else { std::fs::read_link(&next).ok() };
            match link {
                Some(target) => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(parts(&target));
                }
                None => at = next,
            }
        }
        at
    }

    /// Whether this process sees something of its own at a path, such as a private `/tmp`, so that what
    /// it finds there says nothing of its host.
    pub(crate) fn is_private(&self, path: &Path) -> bool {
        self.above(path).is_some_and(|mount| {
            mount.root.contains("systemd-private-") || mount.root.contains("/systemd/inaccessible")
        })
    }

    /// The file system that a path is on, if libvirt takes it for one of a single host.
    pub(crate) fn unshared(&self, path: &Path) -> Option<String> {
        let mount = self.above(&self.resolved(path))?;
        is_unshared(&mount.kind).then(|| mount.kind.clone())
    }

    /// Whether libvirt takes what a path is on for shared.
    pub(crate) fn is_shared(&self, path: &Path) -> bool {
        const SHARED: [&str; 13] = [
            "nfs",
            "nfs4",
            "gfs2",
            "ocfs2",
            "afs",
            "smb3",
            "cifs",
            "ceph",
            "gpfs",
            "acfs",
            "quobyte",
            "fuse.glusterfs",
            "fuse.quobyte",
        ];
        let mount = self.above(&self.resolved(path));
        mount.is_some_and(|mount| SHARED.contains(&mount.kind.as_str()))
    }

    /// Where file systems of these kinds are mounted, from what, and which kind.
    pub(crate) fn of_kinds<'a>(
        &'a self,
        kinds: &'a [&str],
    ) -> impl Iterator<Item = (&'a Path, &'a str, &'a str)> {
        let found = self.0.iter().filter(|mount| kinds.contains(&mount.kind.as_str()));
        found.map(|mount| (mount.point.as_path(), mount.source.as_str(), mount.kind.as_str()))
    }

    /// What is mounted at a path or above it, and its file system.
    pub(crate) fn at(&self, path: &Path) -> Option<(String, String)> {
        let path = self.resolved(path);
        self.above(&path).map(|mount| (mount.source.clone(), mount.kind.clone()))
    }

    /// Of several at the same place the last one is on top.
    fn above(&self, path: &Path) -> Option<&Mount> {
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.components().count())
    }

    /// Why locks of this file hold on this host only, if so.
    fn fault_of(&self, path: &Path) -> Option<String> {
        let Some(Mount { kind, options, .. }) = self.above(path) else {
            return Some("what it is on is not known".to_owned());
        };
        if !CARRYING.contains(&kind.as_str()) {
            return Some(format!("locks on {kind} are not known to hold on other hosts"));
        }
        let keeping = options.iter().find(|option| KEEPING.contains(&option.as_str()))?;
        Some(format!("it is mounted with `{keeping}`, so that locks hold on this host only"))
    }
}

/// The kernel writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

/// What would keep two copies of a domain apart. `manager` is the name of a lock manager that leases
/// every disk, if this host has one.
pub(crate) fn of_domain(domain: &Element, mounts: &Mounts, manager: Option<&str>) -> Locks {
    let disks = domain.find("devices").into_iter().flat_map(|devices| devices.all("disk"));
    let written = disks.filter(|disk| is_written(disk));
    let mut faults = Vec::new();
    let mut any = false;
    for disk in written {
        any = true;
        if let Some(why) = fault_of(disk, mounts) {
            let name = disk.find("target").and_then(|target| target.attribute("dev"));
            faults.push(format!("disk `{}`: {why}", name.unwrap_or("?")));
        }
    }
    match (any, faults.is_empty(), manager) {
        (false, ..) => Locks::NoWritableDisk,
        (true, true, _) => Locks::Shared,
        (true, false, Some(_)) => Locks::Manager,
        (true, false, None) => Locks::None(faults.join("; ")),
    }
}

fn is_written(disk: &Element) -> bool {
    let of_optical = disk.attribute("device") == Some("cdrom");
    disk.find("source").is_some_and(names_something)
        && disk.find("readonly").is_none()
        && !of_optical
}

/// Whether a disk's source names anything. What libvirt leaves of an ejected medium does not.
pub(crate) fn names_something(source: &Element) -> bool {
    const NAMES: [&str; 9] =
        ["file", "dev", "dir", "pool", "volume", "protocol", "name", "path", "namespace"];
    let by_child =
        ["host", "address", "nvram", "vhost"].iter().any(|one| source.find(one).is_some());
    by_child || NAMES.iter().any(|name| source.attribute(name).is_some_and(|text| !text.is_empty()))
}

fn fault_of(disk: &Element, mounts: &Mounts) -> Option<String> {
    if disk.find("shareable").is_some() {
        return Some("it is shareable, so that nobody locks it".to_owned());
    }
    let source = disk.find("source")?;
    match disk.attribute("type").unwrap_or("file") {
        "file" => {
            let Some(file) = source.attribute("file") else {
                return Some("its file is not known".to_owned());
            };
            // Through symbolic links, to where it is.
            mounts.fault_of(&mounts.resolved(Path::new(file)))
        }
        "block" => Some("a block device has no lock that other hosts respect".to_owned()),
        // Two clients of an RBD image hand its lock to and fro unless told otherwise.
        kind => Some(format!("whether a {kind} disk is locked on all hosts is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTED: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
36 22 0:30 / /srv/vm rw shared:1 - nfs4 nas:/vm rw,vers=4.2,local_lock=none
37 22 0:31 / /srv/old rw - nfs nas:/vm rw,vers=3
38 22 0:32 / /srv/own rw - nfs4 nas:/own rw,local_lock=all
39 36 0:33 / /srv/vm/scratch rw - xfs /dev/vdb rw
40 22 0:34 / /srv/with\\040blank rw - gfs2 /dev/vdc rw
41 22 0:35 / /srv/flock rw,localflocks - gfs2 /dev/vdd rw,localflocks
";

    fn locks(disks: &str, manager: Option<&str>) -> Locks {
        let text = format!("<domain><devices>{disks}</devices></domain>");
        of_domain(&Element::parse(&text).unwrap(), &Mounts::parse(MOUNTED), manager)
    }

    fn file(path: &str, more: &str) -> String {
        format!("<disk><source file='{path}'/><target dev='vda'/>{more}</disk>")
    }

    #[test]
    fn locks_hold_where_the_file_system_carries_them() {
        for path in ["/srv/vm/a.qcow2", "/srv/vm/deep/er/a", "/srv/with blank/a"] {
            assert_eq!(locks(&file(path, ""), None), Locks::Shared, "{path}");
        }
        for (path, why) in [
            ("/var/lib/a.qcow2", "ext4"),
            ("/srv/old/a", "locks on nfs "),
            ("/srv/own/a", "local_lock=all"),
            ("/srv/vm/scratch/a", "xfs"),
            ("/srv/vmware/a", "ext4"),
            ("/srv/flock/a", "localflocks"),
        ] {
            let Locks::None(said) = locks(&file(path, ""), None) else { panic!("{path}") };
            assert!(said.contains(why) && said.contains("`vda`"), "{path}: {said}");
        }
    }

    #[test]
    fn links_are_followed_up_to_what_may_not_answer() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("real")).unwrap();
        std::os::unix::fs::symlink("real/../real", at("link")).unwrap();
        std::os::unix::fs::symlink(at("link"), at("again")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let base = std::fs::canonicalize(root.path()).unwrap();
        let none = Mounts::default();
        assert_eq!(none.resolved(&at("again/a")), base.join("real/a"));
        assert!(none.resolved(&at("loop")).ends_with("loop"));
        // What is on a server is not looked at.
        let line = format!("1 0 0:1 / {} rw - nfs4 nas:/x rw", base.join("link").display());
        let mounted = Mounts::parse(&line);
        assert_eq!(mounted.resolved(&at("again/a")), base.join("link/a"));
        assert_eq!(mounted.at(&at("again")), Some(("nas:/x".to_owned(), "nfs4".to_owned())));
    }

    #[test]
    fn file_systems_are_told_apart_as_libvirt_does() {
        for (kind, unshared) in [
            ("ext4", true),
            ("overlay", true),
            ("fuse.sshfs", true),
            ("fuse.glusterfs", false),
            ("nfs4", false),
            ("gfs2", false),
            ("beegfs", false),
        ] {
            let mounts = Mounts::parse(&format!("1 0 0:1 / /srv rw - {kind} x rw"));
            assert_eq!(mounts.unshared(Path::new("/srv/a")).is_some(), unshared, "{kind}");
        }
        let private = "1 0 8:1 /systemd-private-1-evenkeel.service-x/tmp /tmp rw - ext4 x rw";
        assert!(Mounts::parse(private).is_private(Path::new("/tmp/a")));
        assert!(!Mounts::parse(MOUNTED).is_private(Path::new("/tmp/a")));
    }

    #[test]
    fn one_disk_without_locks_is_enough_unless_a_manager_leases_all() {
        let good = file("/srv/vm/a", "");
        let block = "<disk type='block'><source dev='/dev/vg/a'/><target dev='vdb'/></disk>";
        let rbd = "<disk type='network'><source protocol='rbd' name='p/a'/></disk>";
        let volume = "<disk type='volume'><source pool='p' volume='a'/></disk>";
        for bad in [block, rbd, volume, &file("/srv/vm/b", "<shareable/>")] {
            let both = format!("{good}{bad}");
            assert!(!locks(&both, None).hold(), "{bad}");
            assert_eq!(locks(&both, Some("sanlock")), Locks::Manager, "{bad}");
        }
    }

    #[test]
    fn what_nobody_writes_to_needs_no_lock() {
        for disks in [
            String::new(),
            file("/var/lib/a", "<readonly/>"),
            "<disk device='cdrom'><target dev='sda'/></disk>".to_owned(),
            "<disk device='cdrom'><source file='/a.iso'/></disk>".to_owned(),
        ] {
            assert_eq!(locks(&disks, None), Locks::NoWritableDisk, "{disks}");
        }
        // An empty drive, as libvirt leaves it when a medium was ejected.
        assert!(locks("<disk><source index='3'/></disk>", None).hold());
    }
}

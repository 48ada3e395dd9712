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

/// What is mounted on this host, the innermost last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounts(Vec<Mount>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
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
            let point = unescaped(head.nth(4)?);
            let mut tail = tail.split(' ');
            let (kind, source) = (tail.next()?.to_owned(), tail.next().unwrap_or(""));
            let options = [head.next(), tail.next()].into_iter().flatten();
            let options = options.flat_map(|all| all.split(',')).map(str::to_owned).collect();
            Some(Mount { point: point.into(), kind, source: unescaped(source), options })
        });
        Self(mounts.collect())
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
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
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
    disk.find("source").is_some() && disk.find("readonly").is_none() && !of_optical
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
            let path = std::fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
            mounts.fault_of(&path)
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
        assert!(!locks("<disk><source/></disk>", None).hold());
    }
}

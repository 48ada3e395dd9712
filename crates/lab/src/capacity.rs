//! A capacity of its own for each host of one machine: a CPU quota on a control group.
//!
//! Everything that libvirt reports of a node describes the whole machine, so a host's capacity is
//! declared; where the user may make control groups it is enforced as well, and the host has a
//! pressure figure of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Short periods: a daemon that shares the quota with its guests is held up this long at most.
const PERIOD_US: f64 = 20_000.0;
/// The kernel accepts no less.
const QUOTA_US_MIN: f64 = 1_000.0;

/// Whether a host's CPU capacity is more than a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capacity {
    /// The host's guests and libvirt together get no more CPU time than declared.
    Enforced {
        /// The host's control groups.
        groups: Vec<PathBuf>,
        /// The file with the host's own CPU pressure, where there is one.
        pressure: Option<PathBuf>,
    },
    /// Nothing holds the host to it.
    Declared {
        /// Why it is not enforced.
        reason: String,
    },
}

/// Where control groups can be made.
struct Hierarchies {
    /// The version 1 hierarchy with the CPU controller.
    v1_cpu: Option<PathBuf>,
    /// The version 2 hierarchy, and whether it has the CPU controller.
    v2: Option<(PathBuf, bool)>,
}

impl Hierarchies {
    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let v1_cpu = mounts.lines().find_map(|line| mount_point(line, "cgroup", Some("cpu")));
        let v2 = mounts.lines().find_map(|line| mount_point(line, "cgroup2", None)).map(|mount| {
            let controllers =
                fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            (mount, controllers.split_ascii_whitespace().any(|name| name == "cpu"))
        });
        let may_use_root = rustix::process::geteuid().is_root();
        Self {
            v1_cpu: v1_cpu.map(|mount| base(&mount, may_use_root, &own, is_v1_cpu)),
            v2: v2.map(|(mount, cpu)| {
                (base(&mount, may_use_root, &own, |line| line.starts_with("0::")), cpu)
            }),
        }
    }
}

/// The mount point in a line of mountinfo, if the file system is of this type and has the option.
fn mount_point(line: &str, kind: &str, option: Option<&str>) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let is_kind = filesystem.next() == Some(kind);
    let options = filesystem.nth(1).unwrap_or_default();
    let has_option = option.is_none_or(|wanted| options.split(',').any(|given| given == wanted));
    (is_kind && has_option).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

/// Whether this line of /proc/self/cgroup is about the version 1 hierarchy with the CPU controller.
fn is_v1_cpu(line: &str) -> bool {
    line.split(':')
        .nth(1)
        .is_some_and(|controllers| controllers.split(',').any(|name| name == "cpu"))
}

/// Root makes groups at the top, others below the group they are in.
fn base(mount: &Path, may_use_root: bool, own: &str, is_line: impl Fn(&str) -> bool) -> PathBuf {
    let path = own.lines().find(|line| is_line(line)).and_then(|line| line.splitn(3, ':').nth(2));
    match path {
        Some(path) if !may_use_root => mount.join(path.trim_start_matches('/')),
        _ => mount.to_owned(),
    }
}

impl Capacity {
    /// Holds a host to its capacity, if possible. The lab's name keeps labs apart.
    pub(crate) fn establish(lab: &str, host: &str, cpu_cores: f64) -> Self {
        let hierarchies = Hierarchies::find();
        let quota_us = (cpu_cores * PERIOD_US).max(QUOTA_US_MIN);
        let mut groups = Vec::new();
        let established = limit_cpu(&hierarchies, lab, host, quota_us, &mut groups);
        if let Err(error) = established {
            remove(&groups);
            return Self::Declared { reason: format!("cannot make a control group: {error}") };
        }
        let pressure = measure_pressure(&hierarchies, lab, host, &mut groups);
        Self::Enforced { groups, pressure }
    }

    /// Puts a process, and whatever it starts from then on, under the host's quota.
    pub(crate) fn admit(&self, pid: i32) -> io::Result<()> {
        let Self::Enforced { groups, .. } = self else { return Ok(()) };
        groups
            .iter()
            .filter(|group| is_host_group(group))
            .try_for_each(|group| fs::write(group.join("cgroup.procs"), pid.to_string()))
    }

    /// Gives the control groups up; every process in them has ended.
    pub(crate) fn release(&self) {
        if let Self::Enforced { groups, .. } = self {
            remove(groups);
        }
    }
}

/// The lab's own group is the parent of its hosts' and holds no process.
fn is_host_group(group: &Path) -> bool {
    group
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|name| name.to_string_lossy().starts_with(LAB_PREFIX))
}

const LAB_PREFIX: &str = "evenkeel-lab-";

/// Children first. Another host's group keeps the lab's alive, which goes with the last of them.
fn remove(groups: &[PathBuf]) {
    for group in groups.iter().rev() {
        let _ = fs::remove_dir(group);
    }
}

fn make(
    parent: &Path,
    lab: &str,
    host: &str,
    groups: &mut Vec<PathBuf>,
) -> io::Result<[PathBuf; 2]> {
    let lab_group = parent.join(format!("{LAB_PREFIX}{lab}"));
    let host_group = lab_group.join(host);
    fs::create_dir_all(&lab_group)?;
    groups.push(lab_group.clone());
    fs::create_dir_all(&host_group)?;
    groups.push(host_group.clone());
    Ok([lab_group, host_group])
}

fn limit_cpu(
    hierarchies: &Hierarchies,
    lab: &str,
    host: &str,
    quota_us: f64,
    groups: &mut Vec<PathBuf>,
) -> io::Result<()> {
    if let Some(parent) = &hierarchies.v1_cpu {
        let [_, group] = make(parent, lab, host, groups)?;
        fs::write(group.join("cpu.cfs_period_us"), format!("{PERIOD_US:.0}"))?;
        return fs::write(group.join("cpu.cfs_quota_us"), format!("{quota_us:.0}"));
    }
    if let Some((parent, true)) = &hierarchies.v2 {
        fs::write(parent.join("cgroup.subtree_control"), "+cpu")?;
        let [lab_group, group] = make(parent, lab, host, groups)?;
        fs::write(lab_group.join("cgroup.subtree_control"), "+cpu")?;
        return fs::write(group.join("cpu.max"), format!("{quota_us:.0} {PERIOD_US:.0}"));
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no CPU controller is mounted"))
}

fn measure_pressure(
    hierarchies: &Hierarchies,
    lab: &str,
    host: &str,
    groups: &mut Vec<PathBuf>,
) -> Option<PathBuf> {
    let (parent, _) = hierarchies.v2.as_ref()?;
    let [_, group] = make(parent, lab, host, groups).ok()?;
    let file = group.join("cpu.pressure");
    file.exists().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_controller_is_found_however_it_is_mounted() {
        let v1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let set = "36 32 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset";
        let v2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            mount_point(v1, "cgroup", Some("cpu")),
            Some("/sys/fs/cgroup/cpu,cpuacct".into())
        );
        assert_eq!(mount_point(set, "cgroup", Some("cpu")), None);
        assert_eq!(mount_point(v2, "cgroup2", None), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_point(v2, "cgroup", Some("cpu")), None);
    }
}

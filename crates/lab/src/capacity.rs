//! A capacity of its own for each host of one machine: a CPU quota on a control group.
//!
//! Everything that libvirt reports of a node describes the whole machine, so a host's capacity is
//! declared; where the user may make control groups it is enforced as well, and the host has a
//! pressure figure of its own.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Short periods, because what runs out of quota waits for the next one.
const PERIOD_US: f64 = 10_000.0;
/// The kernel accepts no less.
const QUOTA_US_MIN: f64 = 1_000.0;
const LAB_PREFIX: &str = "evenkeel-lab-";

/// Whether a host's CPU capacity is more than a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capacity {
    /// The host's guests together get no more CPU time than declared.
    Enforced {
        /// The control group of the host's libvirt, without a quota: on a machine of its own it
        /// would not have to wait for all guests to have used theirs up.
        daemon: PathBuf,
        /// The control groups of its guests. The first one has the quota.
        guests: Vec<PathBuf>,
        /// The file with the guests' CPU pressure, where there is one.
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
        let group = |parent: &Path, part| parent.join(format!("{LAB_PREFIX}{lab}/{host}.{part}"));
        let established = match (&hierarchies.v1_cpu, &hierarchies.v2) {
            (Some(v1), _) => limit_v1(&group(v1, "guests"), quota_us).map(|()| v1),
            (None, Some((v2, true))) => limit_v2(v2, &group(v2, "guests"), quota_us).map(|()| v2),
            _ => Err(io::Error::new(io::ErrorKind::NotFound, "no CPU controller is mounted")),
        };
        let made = established.and_then(|parent| {
            let daemon = group(parent, "daemon");
            fs::create_dir_all(&daemon).map(|()| (daemon, group(parent, "guests")))
        });
        match made {
            Ok((daemon, guests)) => {
                let measured =
                    hierarchies.v2.and_then(|(v2, _)| measure_pressure(&group(&v2, "guests")));
                let pressure = measured.as_ref().map(|group| group.join("cpu.pressure"));
                let guests = std::iter::once(guests.clone())
                    .chain(measured.filter(|group| *group != guests))
                    .collect();
                Self::Enforced { daemon, guests, pressure }
            }
            Err(error) => {
                for parent in
                    hierarchies.v1_cpu.iter().chain(hierarchies.v2.iter().map(|(v2, _)| v2))
                {
                    remove(&[group(parent, "daemon"), group(parent, "guests")]);
                }
                Self::Declared { reason: format!("cannot make a control group: {error}") }
            }
        }
    }

    /// Puts the host's daemon where the guests that it starts can be found.
    pub(crate) fn admit(&self, daemon_pid: i32) -> io::Result<()> {
        let Self::Enforced { daemon, .. } = self else { return Ok(()) };
        fs::write(daemon.join("cgroup.procs"), daemon_pid.to_string())
    }

    /// Puts the guests that the daemon has started since the last call under the quota.
    pub(crate) fn contain_guests(&self) {
        let Self::Enforced { daemon, guests, .. } = self else { return };
        let started = fs::read_to_string(daemon.join("cgroup.procs")).unwrap_or_default();
        for pid in started.lines() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("qemu-system") {
                for group in guests {
                    // It may have ended in between.
                    let _ = fs::write(group.join("cgroup.procs"), pid);
                }
            }
        }
    }

    /// Gives the control groups up; false if there is still a process in one of them.
    pub(crate) fn release(&self) -> bool {
        let Self::Enforced { daemon, guests, .. } = self else { return true };
        remove(std::slice::from_ref(daemon));
        remove(guests);
        !daemon.exists() && !guests.iter().any(|group| group.exists())
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enforced { .. } => f.write_str("capacity enforced"),
            Self::Declared { reason } => write!(f, "capacity declared only, {reason}"),
        }
    }
}

/// Removes groups, and the lab's group with the last of them.
fn remove(groups: &[PathBuf]) {
    for group in groups {
        let _ = fs::remove_dir(group);
        // Refused while another host has groups in it.
        let _ = group.parent().map(fs::remove_dir);
    }
}

fn limit_v1(group: &Path, quota_us: f64) -> io::Result<()> {
    fs::create_dir_all(group)?;
    fs::write(group.join("cpu.cfs_period_us"), format!("{PERIOD_US:.0}"))?;
    fs::write(group.join("cpu.cfs_quota_us"), format!("{quota_us:.0}"))
}

fn limit_v2(top: &Path, group: &Path, quota_us: f64) -> io::Result<()> {
    fs::write(top.join("cgroup.subtree_control"), "+cpu")?;
    fs::create_dir_all(group)?;
    if let Some(lab) = group.parent() {
        fs::write(lab.join("cgroup.subtree_control"), "+cpu")?;
    }
    fs::write(group.join("cpu.max"), format!("{quota_us:.0} {PERIOD_US:.0}"))
}

/// The group, which may exist already, if the kernel measures pressure.
fn measure_pressure(group: &Path) -> Option<PathBuf> {
    fs::create_dir_all(group).ok()?;
    group.join("cpu.pressure").exists().then(|| group.to_owned())
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

//! Who goes without on this host, as its kernel tells: pressure stall information and swap, of the
//! host and of each machine's control group.
//!
//! What the kernel or this host's arrangement of control groups does not tell stays unknown. libvirt
//! gives a machine a control group only where it may, which for a session daemon it mostly may not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evenkeel_core::port::Pressure;

/// Where the kernel of this host tells.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    proc: PathBuf,
    cgroups: PathBuf,
}

impl Kernel {
    /// The kernel of this host, if the libvirt at `uri` is here: what is remote has another one.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        let here = || Self { proc: "/proc".into(), cgroups: "/sys/fs/cgroup".into() };
        uri.contains(":///").then(here)
    }

    /// Of the whole host.
    pub(crate) fn host(&self) -> Pressure {
        Pressure {
            memory_us: stalled(&self.proc.join("pressure/memory"), "some"),
            io_us: stalled(&self.proc.join("pressure/io"), "full"),
            swapped_bytes: read(&self.proc.join("meminfo")).and_then(|text| swapped(&text)),
        }
    }

    /// The control groups of machines that run, by libvirt's number for each.
    pub(crate) fn machines(&self) -> BTreeMap<u32, PathBuf> {
        // As systemd keeps them, and as libvirt does by itself.
        let parents = ["machine.slice", "machine"].map(|parent| self.cgroups.join(parent));
        let listed = parents.iter().filter_map(|parent| parent.read_dir().ok()).flatten();
        let groups = listed.filter_map(|entry| {
            let entry = entry.ok()?;
            Some((number_of(entry.file_name().to_str()?)?, entry.path()))
        });
        groups.collect()
    }
}

/// Of one machine, whose control group this is.
pub(crate) fn of_machine(group: &Path) -> Pressure {
    let swapped = read(&group.join("memory.swap.current"));
    Pressure {
        memory_us: stalled(&group.join("memory.pressure"), "some"),
        io_us: stalled(&group.join("io.pressure"), "full"),
        swapped_bytes: swapped.and_then(|text| text.trim().parse().ok()),
    }
}

/// `machine-qemu\x2d7\x2dweb.scope` is 7, and so is `qemu-7-web.libvirt-qemu`.
fn number_of(name: &str) -> Option<u32> {
    let (rest, dash) = match name.strip_prefix(r"machine-qemu\x2d") {
        Some(rest) => (rest, r"\x2d"),
        None => (name.strip_prefix("qemu-")?, "-"),
    };
    rest.split(dash).next()?.parse().ok()
}

/// The `total` of the line that begins with `kind`, in microseconds.
fn stalled(path: &Path, kind: &str) -> Option<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    line.split(' ').find_map(|field| field.strip_prefix("total="))?.parse().ok()
}

/// What is swapped out of a host, from its `meminfo`.
fn swapped(meminfo: &str) -> Option<u64> {
    let kib = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    kib("SwapTotal:")?.checked_sub(kib("SwapFree:")?)?.checked_mul(1024)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    const LINES: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=17\n\
                         full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";

    #[test]
    fn pressure_and_swap_are_read_where_the_kernel_tells_them() {
        let root = tempfile::tempdir().unwrap();
        let (proc, cgroups) = (root.path().join("proc"), root.path().join("cgroup"));
        let kernel = Kernel { proc: proc.clone(), cgroups: cgroups.clone() };
        assert_eq!(kernel.host(), Pressure::default(), "an old kernel tells nothing");
        assert!(kernel.machines().is_empty());
        write(&proc.join("pressure/memory"), LINES);
        write(&proc.join("pressure/io"), LINES);
        write(&proc.join("meminfo"), "MemTotal: 9 kB\nSwapTotal:  100 kB\nSwapFree:    60 kB\n");
        let told = Pressure { memory_us: Some(17), io_us: Some(5), swapped_bytes: Some(40 * 1024) };
        assert_eq!(kernel.host(), told);
        let group = cgroups.join(r"machine.slice/machine-qemu\x2d12\x2dweb\x2d1.scope");
        write(&group.join("memory.pressure"), LINES);
        write(&group.join("memory.swap.current"), "4096\n");
        write(&cgroups.join("machine.slice/machine-lxc\\x2d3\\x2dx.scope/io.pressure"), LINES);
        write(&cgroups.join("machine/qemu-7-a-b.libvirt-qemu/io.pressure"), LINES);
        let machines = kernel.machines();
        assert_eq!(machines.keys().copied().collect::<Vec<_>>(), [7, 12]);
        let told = Pressure { memory_us: Some(17), io_us: None, swapped_bytes: Some(4096) };
        assert_eq!(of_machine(&machines[&12]), told);
        assert_eq!(of_machine(&machines[&7]).io_us, Some(5));
    }

    #[test]
    fn a_remote_libvirt_is_not_on_this_kernel() {
        for (uri, here) in [
            ("qemu:///system", true),
            ("qemu+unix:///session?socket=/run/x", true),
            ("qemu+ssh://kvm1/system", false),
            ("qemu+tls://kvm1:16514/system", false),
        ] {
            assert_eq!(Kernel::of(uri).is_some(), here, "{uri}");
        }
    }
}

//! What a host does besides its machines: the load that its kernel counts, without theirs.
//!
//! Storage daemons, backups and whatever else runs beside machines take of what machines could have.
//! The kernel counts CPU time, memory and transfer of all of it; what libvirt counts of machines is taken
//! off. Both are counted by different clocks, so that a small rest is no more than an error.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use evenkeel_core::model::Resources;
use evenkeel_core::port::Counters;

/// Units of `/proc/stat` per second: the same on every architecture that Linux tells them to users on.
const TICKS_PER_S: f64 = 100.0;
/// Shortest span that a rate is taken over, in seconds.
const SPAN_MIN_S: f64 = 0.5;
/// How much the newest rate counts beside those before it.
const NEWEST_COUNTS: f64 = 0.3;
/// Bytes of a page, where `/proc` counts in pages; more on some ARM hosts, which are no lab.
const PAGE_BYTES: u64 = 4096;
/// Bytes of a sector of `/proc/diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// What a host has done since it was booted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    cpu_s: f64,
    io_bytes: u64,
}

/// What all its machines have done, as libvirt counts it, and the memory that they occupy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OfMachines {
    pub(crate) cpu_s: f64,
    pub(crate) io_bytes: u64,
    pub(crate) memory_bytes: u64,
}

impl OfMachines {
    /// The same with another machine.
    pub(crate) fn with(self, counters: &Counters) -> Self {
        Self {
            cpu_s: self.cpu_s + counters.cpu_time_ns as f64 / 1e9,
            io_bytes: self.io_bytes.saturating_add(counters.io_bytes),
            memory_bytes: self.memory_bytes.saturating_add(counters.memory_bytes),
        }
    }
}

/// Measures what a host does besides its machines.
#[derive(Clone, Debug)]
pub(crate) struct Background {
    proc: PathBuf,
    sys: PathBuf,
    /// Whether machines of other libvirts on this kernel are machines too, as in a lab.
    shares_kernel: bool,
    before: Option<(Instant, Counted, OfMachines)>,
    known: Option<Resources>,
    /// Processes of machines, where the kernel is shared.
    running: BTreeSet<u32>,
}

impl Background {
    /// Of the host of the libvirt at `uri`, if that is this one.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        let here = || Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            shares_kernel: uri.contains("session"),
            before: None,
            known: None,
            running: BTreeSet::new(),
        };
        uri.contains(":///").then(here)
    }

    /// What it does now, averaged over some samples; nothing where that was never known. `machines` is
    /// what its machines have done, each since it was started: `None` if one of them is not known.
    pub(crate) fn observe(
        &mut self,
        at: Instant,
        machines: Option<OfMachines>,
    ) -> Option<Resources> {
        if let Some(newest) = self.measure(at, machines) {
            let before = self.known.unwrap_or(newest);
            self.known = Some(before.scaled(1.0 - NEWEST_COUNTS) + newest.scaled(NEWEST_COUNTS));
        }
        self.known
    }

    /// What it did since it was measured last.
    fn measure(&mut self, at: Instant, machines: Option<OfMachines>) -> Option<Resources> {
        let counted = self.counted()?;
        let mut machines = machines?;
        if self.shares_kernel {
            // What they transfer their processes do not tell: of that it is theirs here.
            let (running, all) = self.all_machines();
            machines = OfMachines { io_bytes: machines.io_bytes, ..all };
            if running != self.running {
                self.running = running;
                self.begin_anew();
            }
        }
        let (was_at, was, were) = self.before.replace((at, counted, machines))?;
        let span = at.saturating_duration_since(was_at).as_secs_f64();
        if span < SPAN_MIN_S {
            return None;
        }
        let rest = |host: f64, machines: f64| ((host - machines) / span).max(0.0);
        let io = |now: u64, before: u64| now.saturating_sub(before) as f64;
        Some(Resources {
            cpu_cores: rest(counted.cpu_s - was.cpu_s, machines.cpu_s - were.cpu_s),
            memory_bytes: self.memory_bytes()?.saturating_sub(machines.memory_bytes) as f64,
            io_bytes_per_s: rest(
                io(counted.io_bytes, was.io_bytes),
                io(machines.io_bytes, were.io_bytes),
            ),
        })
    }

    /// The next rate is taken from now on: machines came, went or did not answer.
    pub(crate) fn begin_anew(&mut self) {
        self.before = None;
    }

    fn counted(&self) -> Option<Counted> {
        let stat = read(&self.proc.join("stat"))?;
        Some(Counted { cpu_s: busy_s(&stat)?, io_bytes: self.io_bytes() })
    }

    /// Bytes of disks and links of the host, each where it leaves it: not of what lies over others.
    fn io_bytes(&self) -> u64 {
        let disks = read(&self.proc.join("diskstats")).unwrap_or_default();
        let of_disks = disks.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (name, read, written) = (fields.get(2)?, fields.get(5)?, fields.get(9)?);
            // Partitions are in the disk that they are of, and mapped devices in those below.
            let whole = self.sys.join("block").join(name).join("device").exists();
            let sectors = read.parse::<u64>().ok()?.saturating_add(written.parse().ok()?);
            whole.then(|| sectors.saturating_mul(SECTOR_BYTES))
        });
        let links = read(&self.proc.join("net/dev")).unwrap_or_default();
        let of_links = links.lines().filter_map(|line| {
            let (name, figures) = line.split_once(':')?;
            let fields: Vec<&str> = figures.split_whitespace().collect();
            let device = self.sys.join("class/net").join(name.trim()).join("device").exists();
            let bytes = |at: usize| fields.get(at)?.parse::<u64>().ok();
            device.then(|| Some(bytes(0)?.saturating_add(bytes(8)?))).flatten()
        });
        of_disks.chain(of_links).fold(0, u64::saturating_add)
    }

    /// Memory that is not available to a machine that is started now, in bytes: what the kernel can
    /// give back at once is, and huge pages that nobody uses are not.
    fn memory_bytes(&self) -> Option<u64> {
        let text = read(&self.proc.join("meminfo"))?;
        let kib = |key: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().trim_end_matches("kB").trim().parse().ok()
        };
        Some(kib("MemTotal:")?.checked_sub(kib("MemAvailable:")?)?.saturating_mul(1024))
    }

    /// Every machine of a libvirt on this kernel, and what they have done together.
    fn all_machines(&self) -> (BTreeSet<u32>, OfMachines) {
        let mut found = (BTreeSet::new(), OfMachines::default());
        for process in self.proc.read_dir().into_iter().flatten().filter_map(Result::ok) {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let told = |name: &str| read(&process.path().join(name)).unwrap_or_default();
            if !told("cmdline").contains("\0guest=") {
                continue;
            }
            if let Some((cpu_s, memory_bytes)) = of_process(&told("stat")) {
                found.0.insert(pid);
                found.1.cpu_s += cpu_s;
                found.1.memory_bytes += memory_bytes;
            }
        }
        found
    }
}

/// The line `cpu  user nice system idle iowait irq softirq steal guest guest_nice`: what is not idle.
/// Time of guests is in that of users already, and stolen time is another host's.
fn busy_s(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|part| part.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    (ticks.len() >= 4).then(|| (at(0) + at(1) + at(2) + at(5) + at(6)) as f64 / TICKS_PER_S)
}

/// User and system time of a process, and the memory that it occupies, in its `stat`.
fn of_process(stat: &str) -> Option<(f64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let pages = number(21)?;
    Some(((number(11)? + number(12)?) as f64 / TICKS_PER_S, pages.saturating_mul(PAGE_BYTES)))
}

fn read(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host() -> (tempfile::TempDir, Background) {
        let root = tempfile::tempdir().unwrap();
        let (proc, sys) = (root.path().join("proc"), root.path().join("sys"));
        std::fs::create_dir_all(proc.join("net")).unwrap();
        for device in ["block/vda/device", "class/net/eth0/device", "class/net/br0"] {
            std::fs::create_dir_all(sys.join(device)).unwrap();
        }
        let background = Background {
            proc,
            sys,
            shares_kernel: false,
            before: None,
            known: None,
            running: BTreeSet::new(),
        };
        (root, background)
    }

    /// A kernel that has been busy for so many seconds, with so many MiB occupied and sectors read.
    fn tell(host: &Background, busy_s: u64, occupied_mib: u64, sectors: u64) {
        let put = |name: &str, text: String| std::fs::write(host.proc.join(name), text).unwrap();
        put("stat", format!("cpu  {} 0 0 999999 50 0 0 77 12 0\ncpu0 1 2 3 4\n", busy_s * 100));
        let available = (1000 - occupied_mib) * 1024;
        put("meminfo", format!("MemTotal: 1024000 kB\nMemAvailable: {available} kB\n"));
        put(
            "diskstats",
            format!("254 0 vda 9 0 {sectors} 0 9 0 0 0\n254 1 vda1 9 0 {sectors} 0 9 0 0 0\n"),
        );
        put(
            "net/dev",
            "Inter-|\n face |\n eth0: 100 1 0 0 0 0 0 0 200 1\n br0: 9999 1 0 0 0 0 0 0 9999 1\n"
                .to_owned(),
        );
    }

    #[test]
    fn what_machines_do_not_use_of_what_the_kernel_counts_is_the_hosts_own() {
        let (_root, mut host) = host();
        let at = |s: u64| Instant::now() + Duration::from_secs(s);
        let (start, end) = (at(0), at(10));
        let of = |cpu_s: f64| {
            Some(OfMachines { cpu_s, io_bytes: 5120 * cpu_s as u64, memory_bytes: 100 << 20 })
        };
        tell(&host, 100, 300, 0);
        assert_eq!(host.measure(start, of(1.0)), None, "a rate needs two samples");
        // 25 s of CPU in 10 s, of which machines had 5; 200 KiB read, of which they had 20.
        tell(&host, 125, 300, 400);
        let own = host.measure(end, of(6.0)).unwrap();
        let span = end.duration_since(start).as_secs_f64();
        assert!((own.cpu_cores - 20.0 / span).abs() < 1e-9, "{own:?}");
        assert!((own.memory_bytes - f64::from(200 << 20)).abs() < 1.0, "{own:?}");
        assert!((own.io_bytes_per_s - (400.0 * 512.0 - 25_600.0) / span).abs() < 1e-6, "{own:?}");
        // Clocks differ: it is never negative.
        tell(&host, 126, 50, 400);
        let own = host.measure(at(20), of(60.0)).unwrap();
        assert_eq!((own.cpu_cores, own.memory_bytes, own.io_bytes_per_s), (0.0, 0.0, 0.0));
        // A machine that is not known makes the rest unknown, and not the host's.
        assert_eq!(host.measure(at(30), None), None);
        // What is told is an average, and stays while nothing newer is known.
        host.before = None;
        assert_eq!(host.observe(at(40), of(0.0)), None);
        tell(&host, 136, 300, 400);
        let first = host.observe(at(50), of(0.0)).unwrap();
        assert!(first.cpu_cores > 0.5, "{first:?}");
        assert_eq!(host.observe(at(60), None), Some(first));
    }

    #[test]
    fn on_a_kernel_that_hosts_share_the_machines_of_all_are_machines() {
        let (_root, mut host) = host();
        host.shares_kernel = true;
        let process = |pid: u32, name: &str, cpu_s: u64| {
            let at = host.proc.join(pid.to_string());
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join("cmdline"), format!("qemu\0-name\0{name}")).unwrap();
            let ticks = cpu_s * 100;
            let rest = format!("S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5 9 256 0");
            std::fs::write(at.join("stat"), format!("{pid} (a (b) c) {rest}")).unwrap();
        };
        process(7, "guest=a,debug-threads=on", 3);
        process(8, "guest=of-another-host", 4);
        process(9, "no machine", 100);
        let (running, all) = host.all_machines();
        assert_eq!(running, BTreeSet::from([7, 8]));
        assert!((all.cpu_s - 7.0).abs() < 1e-9 && all.memory_bytes == 2 << 20, "{all:?}");
    }

    #[test]
    fn a_kernel_that_tells_nothing_has_no_background() {
        let (_root, mut host) = host();
        assert_eq!(host.measure(Instant::now(), Some(OfMachines::default())), None);
        assert!(Background::of("qemu+tls://h1/system").is_none());
    }
}

//! A rig as a whole: what it needs, up, down, and what is left of one that was killed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::domain::Domain;
use crate::error::{Attempt, RigError};
use crate::guest::Guest;
use crate::host::{Host, kill_cgroup, remove_cgroup};
use crate::initramfs;
use crate::network::Network;

/// Where rigs have their directories.
const RIGS: &str = "/run/evenkeel-rig";
/// Where `scripts/setup` puts the guests' kernel.
const KERNEL: &str = "/var/cache/evenkeel-rig/kernel";
/// What a rig runs, and the package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("/lib/systemd/systemd", "systemd"),
    ("/usr/bin/dbus-daemon", "dbus"),
    ("/lib/systemd/system/libvirtd.service", "libvirt-daemon-system"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/bin/qemu-img", "qemu-utils"),
    ("/bin/busybox", "busybox-static"),
    ("/sbin/depmod", "kmod"),
    ("/usr/bin/cpio", "cpio"),
    ("/sbin/mke2fs", "e2fsprogs"),
    ("/sbin/ip", "iproute2"),
];

/// What to bring up.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name, which all that it makes bears; letters, digits and dashes, at most 20.
    pub name: String,
    /// How many hosts, 1 to 9.
    pub hosts: u8,
}

impl Default for Spec {
    fn default() -> Self {
        Self { name: "evenkeel-rig".to_owned(), hosts: 3 }
    }
}

/// A rig that is up. Dropping it leaves it up: see [`Rig::down`].
#[derive(Debug)]
pub struct Rig {
    dir: PathBuf,
    network: Network,
    hosts: Vec<Host>,
}

impl Rig {
    /// Says why this machine cannot carry a rig, if it cannot.
    pub fn fitness() -> Result<(), RigError> {
        let unfit = |reason: String, hint: &str| RigError::Unfit { reason, hint: hint.to_owned() };
        if !rustix::process::geteuid().is_root() {
            return Err(unfit(
                "only root may make namespaces and bridges".into(),
                "run it as root",
            ));
        }
        cgroup_root()?;
        for (path, package) in PROGRAMS {
            if !Path::new(path).exists() {
                let reason = format!("`{path}` of the package {package} is missing");
                return Err(unfit(reason, "run scripts/setup"));
            }
        }
        if !Path::new(KERNEL).join("boot").exists() {
            let reason = format!("there is no kernel for guests in {KERNEL}");
            return Err(unfit(reason, "run scripts/setup"));
        }
        Ok(())
    }

    /// Brings a rig up: hosts have booted, libvirt answers, and no agent or guest runs.
    ///
    /// What fails on the way is taken down again.
    pub fn up(spec: &Spec) -> Result<Self, RigError> {
        Self::fitness()?;
        let dir = Path::new(RIGS).join(&spec.name);
        if dir.exists() {
            return Err(RigError::AlreadyUp(spec.name.clone()));
        }
        let brought_up = Self::bring_up(spec);
        if brought_up.is_err() {
            // The first error says more than one of cleaning up would.
            let _ = Self::sweep(&spec.name);
        }
        brought_up
    }

    fn bring_up(spec: &Spec) -> Result<Self, RigError> {
        let rig = Self::describe(&spec.name, spec.hosts)?;
        fs::create_dir_all(&rig.dir).attempt("make", &rig.dir)?;
        // Not below the root that hosts overlay: that would be a loop.
        let dir = rig.dir.display().to_string();
        run(&["mount", "-t", "tmpfs", "-o", "mode=755", "evenkeel-rig", &dir])?;
        let shared = rig.shared();
        for part in ["guest", "images", "bin"] {
            fs::create_dir_all(shared.join(part)).attempt("make", shared.join(part))?;
        }
        rig.network.make_switch()?;
        for (host, number) in rig.hosts.iter().zip(1..) {
            rig.network.make_host(number)?;
            host.install(spec.hosts)?;
            host.start()?;
        }
        // While the hosts boot.
        initramfs::build(Path::new(KERNEL), &shared.join("guest"))?;
        for host in &rig.hosts {
            host.await_boot()?;
            host.must(&["systemctl", "start", "libvirtd.socket", "virtlogd.socket"])?;
            host.virsh(&["version"])?;
        }
        Ok(rig)
    }

    fn describe(name: &str, hosts: u8) -> Result<Self, RigError> {
        let dir = Path::new(RIGS).join(name);
        let network = Network { name: name.to_owned() };
        let cgroups = cgroup_root()?;
        let host = |n| Host::new(&dir, &network, cgroups.join(network.of_host(n)), n);
        let hosts = (1..=hosts).map(host).collect();
        Ok(Self { dir, network, hosts })
    }

    /// A rig that is up already, such as one of another process.
    pub fn open(name: &str) -> Result<Self, RigError> {
        let dir = Path::new(RIGS).join(name);
        let hosts = (1..=9).take_while(|n| dir.join(format!("h{n}")).exists()).count();
        Self::describe(name, u8::try_from(hosts).unwrap_or(0))
    }

    /// The names of all rigs that are up, or were not taken down.
    pub fn names() -> Vec<String> {
        let Ok(entries) = fs::read_dir(RIGS) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().into_string());
        names.filter_map(Result::ok).collect()
    }

    /// Host number 1 and so on.
    ///
    /// # Panics
    /// If the rig has no such host.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// All hosts, in the order of their numbers.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The directory that all hosts see as `/srv/rig`.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// Puts a program where all hosts find it, as `/usr/bin/NAME`.
    pub fn install_program(&self, program: &Path, name: &str) -> Result<(), RigError> {
        let bin = self.shared().join("bin").join(name);
        fs::copy(program, &bin).attempt("copy", program)?;
        for host in &self.hosts {
            let link = format!("/usr/bin/{name}");
            host.must(&["ln", "-sfn", &format!("/srv/rig/bin/{name}"), &link])?;
        }
        Ok(())
    }

    /// Defines a guest on a host, starts it, and waits until it answers.
    pub fn start_guest(&self, host: usize, domain: &Domain) -> Result<Guest, RigError> {
        let file = format!("/root/{}.xml", domain.name);
        self.host(host).write(&file, &domain.to_xml())?;
        self.host(host).virsh(&["define", &file])?;
        self.host(host).virsh(&["start", &domain.name])?;
        let guest = Guest::new(&domain.name, domain.number, self.network.clone());
        guest.await_ready()?;
        Ok(guest)
    }

    /// Makes a disk image with an empty ext4 file system in the shared directory; returns its path
    /// as hosts see it.
    pub fn make_disk(&self, name: &str, format: &str, mib: u32) -> Result<String, RigError> {
        let raw = self.dir.join(format!("{name}.tmp"));
        let image = self.shared().join("images").join(name);
        let (raw, image) = (raw.display().to_string(), image.display().to_string());
        run(&["truncate", "-s", &format!("{mib}M"), &raw])?;
        run(&["mke2fs", "-q", "-F", "-t", "ext4", &raw])?;
        run(&["qemu-img", "convert", "-f", "raw", "-O", format, &raw, &image])?;
        run(&["rm", &raw])?;
        Ok(format!("/srv/rig/images/{name}"))
    }

    /// Runs something in the network of the switch, where guests can be reached.
    pub fn on_switch<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, RigError> + Send,
    ) -> Result<T, RigError> {
        self.network.on_switch(work)
    }

    /// Takes the rig down: nothing of it is left.
    pub fn down(self) -> Result<(), RigError> {
        for host in &self.hosts {
            host.cut_power()?;
        }
        Self::sweep(&self.network.name)
    }

    /// Removes all that bears the name of a rig, whatever became of the process that made it.
    pub fn sweep(name: &str) -> Result<(), RigError> {
        for cgroup in cgroups_of(name)? {
            kill_cgroup(&cgroup)?;
            remove_cgroup(&cgroup)?;
        }
        let network = Network { name: name.to_owned() };
        for namespace in network.all()? {
            run(&["ip", "netns", "del", &namespace])?;
        }
        let dir = Path::new(RIGS).join(name);
        if dir.exists() {
            let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let dir_text = dir.display().to_string();
            if mounted.lines().any(|line| line.split(' ').nth(1) == Some(&dir_text)) {
                run(&["umount", &dir_text])?;
            }
            fs::remove_dir(&dir).attempt("remove", &dir)?;
        }
        Ok(())
    }

    /// What there is that bears the name of a rig; empty after it went down.
    pub fn remains(name: &str) -> Result<Vec<String>, RigError> {
        let mut remains = Network { name: name.to_owned() }.all()?;
        remains.extend(cgroups_of(name)?.iter().map(|cgroup| cgroup.display().to_string()));
        let dir = Path::new(RIGS).join(name);
        if dir.exists() {
            remains.push(dir.display().to_string());
        }
        Ok(remains)
    }
}

fn cgroups_of(name: &str) -> Result<Vec<PathBuf>, RigError> {
    let root = cgroup_root()?;
    let prefix = format!("{name}-h");
    let entries = fs::read_dir(&root).attempt("read", &root)?;
    let paths = entries.flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with(&prefix))
    };
    Ok(paths.filter(ours).collect())
}

/// Where the hierarchy of cgroups version 2 is, which systemd needs.
fn cgroup_root() -> Result<PathBuf, RigError> {
    let mounts = fs::read_to_string("/proc/self/mounts").attempt("read", "/proc/self/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    root.ok_or_else(|| RigError::Unfit {
        reason: "no cgroup file system of version 2 is mounted".to_owned(),
        hint: "mount -t cgroup2 cgroup2 DIRECTORY".to_owned(),
    })
}

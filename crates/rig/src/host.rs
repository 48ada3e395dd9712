//! One host: its root file system, its namespaces, and commands in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::command::{COMMAND_LIMIT, output, run, said, until};
use crate::error::{Attempt, RigError};
use crate::network::{Network, enter};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
const END_LIMIT: Duration = Duration::from_secs(30);

/// Units that have nothing to do in a namespace, or would do it to this machine.
const MASKED: &[&str] = &[
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "systemd-logind.service",
    "systemd-firstboot.service",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount",
    "console-getty.service",
    "getty.target",
    "libvirt-guests.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// What a command that ran on a host printed, and whether it succeeded.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether its exit status was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A host of a rig.
#[derive(Debug)]
pub struct Host {
    number: u8,
    dir: PathBuf,
    shared: PathBuf,
    lower: PathBuf,
    network: Network,
    cgroup: PathBuf,
    /// Ours to reap, where this process booted the host.
    child: Mutex<Option<Child>>,
}

impl Host {
    pub(crate) fn new(rig: &Path, network: &Network, cgroup: PathBuf, number: u8) -> Self {
        Self {
            number,
            dir: rig.join(format!("h{number}")),
            shared: rig.join("shared"),
            lower: PathBuf::from("/"),
            network: network.clone(),
            cgroup,
            child: Mutex::new(None),
        }
    }

    /// Its name, `kvm1` and so on.
    pub fn name(&self) -> String {
        format!("kvm{}", self.number)
    }

    /// Its address on the bridge.
    pub fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Lays out what is on the host's disk before it boots for the first time.
    pub(crate) fn install(&self, hosts: u8) -> Result<(), RigError> {
        for part in ["upper", "work", "root"] {
            let dir = self.dir.join(part);
            fs::create_dir_all(&dir).attempt("make", &dir)?;
        }
        let units = self.dir.join("upper/etc/systemd/system");
        fs::create_dir_all(&units).attempt("make", &units)?;
        // What this machine has enabled is its own affair: the host sees none of it.
        rustix::fs::setxattr(
            &units,
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .attempt("hide what lies under", &units)?;
        for unit in MASKED {
            let link = units.join(unit);
            std::os::unix::fs::symlink("/dev/null", &link).attempt("make", &link)?;
        }
        self.write(
            "etc/machine-id",
            &format!("{:032x}\n", 0xe0ee_0000_u64 + u64::from(self.number)),
        )?;
        self.write("etc/hostname", &format!("{}\n", self.name()))?;
        let mut names = "127.0.0.1 localhost\n".to_owned();
        for n in 1..=hosts {
            names += &format!("10.77.0.{n} kvm{n}\n");
        }
        self.write("etc/hosts", &names)?;
        // Off real firmware libvirt makes up a host UUID at each start. The socket is for its group.
        let number = self.number;
        let settings = format!(
            "host_uuid = \"7e57e57e-0000-4000-8000-{number:012}\"\nauth_unix_rw = \"none\"\n"
        );
        self.write("etc/libvirt/libvirtd.conf", &settings)?;
        self.write(
            "etc/systemd/system/libvirtd.socket.d/rig.conf",
            "[Socket]\nSocketMode=0660\nSocketGroup=libvirt\n",
        )?;
        // The unit's sandbox has a /proc of its own, with the boot id of the real kernel.
        self.write(
            "etc/systemd/system/evenkeel.service.d/rig.conf",
            "[Service]\nBindReadOnlyPaths=/run/rig-boot-id:/proc/sys/kernel/random/boot_id\n",
        )
    }

    /// Writes a file on the host's disk, whether it is on or off.
    pub fn write(&self, path: &str, content: &str) -> Result<(), RigError> {
        let root = match self.pid1() {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/root")),
            None => self.dir.join("upper"),
        };
        let path = root.join(path.trim_start_matches('/'));
        let parent = path.parent().unwrap_or(&root);
        fs::create_dir_all(parent).attempt("make", parent)?;
        fs::write(&path, content).attempt("write", &path)
    }

    /// Where a path of a host that is on is found from outside.
    pub fn seen_from_outside(&self, path: &str) -> Result<PathBuf, RigError> {
        let pid = self.pid1().ok_or_else(|| RigError::Off(self.name()))?;
        Ok(PathBuf::from(format!("/proc/{pid}/root")).join(path.trim_start_matches('/')))
    }

    /// Where from outside is what the host has written to its disk, and nothing else.
    pub fn written(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// What moves the thread that calls it into the host's network, for good: what the thread opens
    /// from then on comes from this host's address.
    pub fn network_entrance(&self) -> impl Fn() -> Result<(), RigError> + Send + Sync + use<> {
        let namespace = self.network.of_host(self.number);
        move || enter(&namespace)
    }

    /// Reads a file of a host that is on.
    pub fn read(&self, path: &str) -> Result<String, RigError> {
        let path = self.seen_from_outside(path)?;
        fs::read(&path).attempt("read", &path).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Starts the host and returns at once; [`Self::await_boot`] waits for it.
    pub(crate) fn start(&self) -> Result<(), RigError> {
        let boot_id = fs::read("/proc/sys/kernel/random/uuid").attempt("read", "a new boot id")?;
        let file = self.dir.join("boot_id");
        fs::write(&file, boot_id).attempt("write", &file)?;
        fs::create_dir_all(&self.cgroup).attempt("make", &self.cgroup)?;
        let console = self.dir.join("console");
        let log = fs::File::create(&console).attempt("make", &console)?;
        // The shell joins the cgroup before the namespace makes it the root of all that follow.
        let enter = format!(
            "echo $$ >{}/cgroup.procs && exec setsid nsenter --net=/run/netns/{} unshare --mount \
             --uts --ipc --pid --cgroup --fork --kill-child --propagation private bash \"$@\"",
            self.cgroup.display(),
            self.network.of_host(self.number)
        );
        let script = self.dir.join("init.sh");
        fs::write(&script, include_str!("init.sh")).attempt("write", &script)?;
        let mut command = Command::new("bash");
        command.args(["-c", &enter, "rig"]).arg(&script).arg(&self.lower).arg(&self.dir);
        command.arg(self.name()).arg(&self.shared).stdin(Stdio::null());
        command.stdout(log.try_clone().attempt("open", &console)?).stderr(log);
        let child = command.spawn().attempt("run", "bash")?;
        let unshare = child.id();
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let pid = until("PID 1 of a host", BOOT_LIMIT, || {
            let pid = fs::read_to_string(&children).unwrap_or_default();
            match pid.trim() {
                "" => Err(fs::read_to_string(&console).unwrap_or_default()),
                pid => Ok(pid.to_owned()),
            }
        })?;
        fs::write(self.dir.join("pid1"), pid).attempt("write", self.dir.join("pid1"))
    }

    /// Waits until systemd has started all that it is to start.
    pub(crate) fn await_boot(&self) -> Result<(), RigError> {
        until("the boot of a host", BOOT_LIMIT, || {
            let state = self.run(&["systemctl", "is-system-running"]);
            let state = state.map_err(|error| error.to_string())?;
            match state.stdout.trim() {
                "running" | "degraded" => Ok(()),
                _ => Err(format!("{state:?} {}", self.console())),
            }
        })
    }

    /// Starts a host that is off, and waits until it is up.
    pub fn boot(&self) -> Result<(), RigError> {
        self.start()?;
        self.await_boot()
    }

    /// Pulls the plug: every process of the host ends at once. What is on its disk stays.
    pub fn cut_power(&self) -> Result<(), RigError> {
        kill_cgroup(&self.cgroup)?;
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.wait().attempt("wait for", "unshare")?;
        }
        let _ = fs::remove_file(self.dir.join("pid1"));
        self.clear_network()
    }

    /// Shuts the host down as an operator does, and starts it again.
    pub fn reboot(&self) -> Result<(), RigError> {
        let pid = self.pid1().ok_or_else(|| RigError::Off(self.name()))?;
        self.run(&["systemctl", "poweroff", "--no-block"])?;
        let entry = format!("/proc/{pid}/root");
        until("the end of a host", BOOT_LIMIT, || match fs::read_link(&entry) {
            Ok(_) => Err(format!("process {pid} is there")),
            Err(_) => Ok(()),
        })?;
        self.cut_power()?;
        self.boot()
    }

    /// The network's namespace outlives the host: takes away what the host has made in it.
    fn clear_network(&self) -> Result<(), RigError> {
        let namespace = self.network.of_host(self.number);
        if !self.network.all()?.contains(&namespace) {
            return Ok(());
        }
        let links = run(&["ip", "-n", &namespace, "-brief", "link"])?;
        for link in links.lines().filter_map(|line| line.split(['@', ' ']).next()) {
            if !["lo", "eth0", "br0"].contains(&link) {
                // A tap may go by itself meanwhile.
                let _ = run(&["ip", "-n", &namespace, "link", "del", link]);
            }
        }
        Ok(())
    }

    fn pid1(&self) -> Option<String> {
        let pid = fs::read_to_string(self.dir.join("pid1")).ok()?;
        // Another process may have the number by now, but not in this cgroup.
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let name = self.cgroup.file_name()?.to_str()?;
        cgroup.lines().any(|line| line.contains(&format!("/{name}"))).then_some(pid)
    }

    /// What was printed before systemd took over.
    fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// A command that runs on this host, as root.
    pub fn command(&self, words: &[&str]) -> Result<Command, RigError> {
        let pid = self.pid1().ok_or_else(|| RigError::Off(self.name()))?;
        let root = format!("/proc/{pid}/root");
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &COMMAND_LIMIT.as_secs().to_string(), "nsenter", "-t", &pid]);
        command.args(["-m", "-n", "-u", "-i", "-p", "-C"]);
        command.arg(format!("--root={root}")).arg(format!("--wd={root}/root"));
        command.args(["env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(words);
        Ok(command)
    }

    /// Runs a command on this host to its end, whether it succeeds or not.
    pub fn run(&self, words: &[&str]) -> Result<Output, RigError> {
        let output = output(self.command(words)?)?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command on this host, which must succeed. Returns what it printed.
    pub fn must(&self, words: &[&str]) -> Result<String, RigError> {
        let output = output(self.command(words)?)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let command = words.join(" ");
        Err(RigError::Command { host: self.name(), command, message: said(&output) })
    }

    /// `virsh` on this host, which must succeed.
    pub fn virsh(&self, words: &[&str]) -> Result<String, RigError> {
        self.must(&[&["virsh", "--quiet", "--connect", "qemu:///system"], words].concat())
    }

    /// Plugs the host's cable to the bridge in, or pulls it.
    pub fn set_cable(&self, up: bool) -> Result<(), RigError> {
        self.network.set_cable(self.number, up)
    }
}

/// Kills whatever runs in a cgroup and those below it, and waits until it has ended.
pub(crate) fn kill_cgroup(dir: &Path) -> Result<(), RigError> {
    if !dir.exists() {
        return Ok(());
    }
    let kill = dir.join("cgroup.kill");
    fs::write(&kill, "1").attempt("write", &kill)?;
    until("the end of a host's processes", END_LIMIT, || {
        let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
        if events.contains("populated 1") { Err(events) } else { Ok(()) }
    })
}

/// Removes a cgroup and those below it, which can only be done from the leaves up.
pub(crate) fn remove_cgroup(dir: &Path) -> Result<(), RigError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path())?;
    }
    until("the end of a cgroup", END_LIMIT, || fs::remove_dir(dir).map_err(|e| e.to_string()))
}

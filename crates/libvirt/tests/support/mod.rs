//! Two real libvirts with real guests as the conformance suite sees them.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::{HostId, MachineId, Time};
use evenkeel_core::port::{Event, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_hypervisor::conformance::{Guest, Rig};
use evenkeel_lab::{Dirty, GuestSpec, HostSpec, Lab, LabSpec, Launcher};
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor};
use rustix::process::{Pid, Signal, kill_process};

/// The test that a lab's supervisor is started as: these tests are the program of their own lab.
const SUPERVISOR: &str = "the_supervisor_of_the_labs_of_these_tests";

/// Longest wait for what a lab does at once.
const SOON: Duration = Duration::from_secs(20);

/// Runs the supervisor of the lab in the directory that is the last argument, if there is one.
pub(crate) fn supervise() {
    let last = std::env::args_os().next_back().map(PathBuf::from);
    if let Some(dir) = last.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        evenkeel_lab::supervise(&dir).expect("the lab is supervised");
    }
}

/// A lab of two hosts that ends with this value.
pub(crate) fn lab() -> Lab {
    static LABS: AtomicU32 = AtomicU32::new(0);
    let number = LABS.fetch_add(1, Ordering::SeqCst);
    let spec = LabSpec {
        dir: PathBuf::from(format!("/tmp/ek-hv-{}-{number}", std::process::id())),
        hosts: vec![HostSpec::new("h1", 2.0), HostSpec::new("h2", 2.0)],
        guests: Vec::new(),
        agents: None,
    };
    let launcher = Launcher {
        program: std::env::current_exe().expect("a test is a program"),
        arguments: [SUPERVISOR, "--exact", "--ignored", "--nocapture"].map(str::to_owned).to_vec(),
        tied: true,
    };
    Lab::up(&spec, &launcher, &mut |_| {}).unwrap_or_else(|error| panic!("no lab: {error}"))
}

/// A clock that starts at the wall clock and never goes back.
pub(crate) fn clock() -> impl Fn() -> Time + Send + 'static {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let (start, began) = (Time::from_unix_ms(0) + wall, Instant::now());
    move || start + began.elapsed()
}

/// How a lab's host is reached.
pub(crate) fn config(lab: &Lab, host: &str) -> LibvirtConfig {
    let uri = lab.uri(host).expect("the lab has this host");
    LibvirtConfig {
        migrate_uri: Some("tcp://127.0.0.1".to_owned()),
        listen_address: Some("127.0.0.1".to_owned()),
        ..LibvirtConfig::new(uri.clone(), uri)
    }
}

pub(crate) fn virsh(uri: &str, arguments: &[&str]) -> String {
    let output = Command::new("virsh").args(["--quiet", "--connect", uri]).args(arguments).output();
    let output = output.expect("virsh can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "virsh {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

struct Host {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
    uri: String,
}

pub(crate) struct LibvirtRig {
    // Before the lab, so that nobody complains that it is gone.
    hosts: BTreeMap<HostId, Host>,
    lab: Lab,
    names: BTreeMap<MachineId, &'static str>,
}

impl LibvirtRig {
    pub(crate) fn boxed() -> Box<dyn Rig> {
        let lab = lab();
        let hosts = ["h1", "h2"].map(|name| {
            let (sink, events) = mpsc::channel();
            let sink = move |event| drop(sink.send(event));
            let hypervisor = LibvirtHypervisor::new(config(&lab, name), sink, clock());
            let hypervisor = hypervisor.expect("there are threads");
            let uri = lab.uri(name).expect("the lab has this host");
            (HostId::new(name).expect("a name"), Host { hypervisor, events, uri })
        });
        Box::new(Self { hosts: BTreeMap::from(hosts), lab, names: BTreeMap::new() })
    }

    fn virsh(&self, host: &HostId, arguments: &[&str]) -> String {
        virsh(&self.hosts[host].uri, arguments)
    }
}

impl Rig for LibvirtRig {
    fn hosts(&self) -> Vec<HostId> {
        self.hosts.keys().cloned().collect()
    }

    fn submit(&mut self, host: &HostId, order: Order) {
        let host = self.hosts.get_mut(host).expect("one of the hosts");
        host.hypervisor.submit(order);
    }

    fn next_event(&mut self, host: &HostId, limit: Duration) -> Option<Event> {
        self.hosts[host].events.recv_timeout(limit).ok()
    }

    fn pass(&mut self, span: Duration) {
        std::thread::sleep(span);
    }

    fn boot(&mut self, host: &HostId, guest: &Guest) -> MachineId {
        let mib = |bytes: u64| u32::try_from(bytes >> 20).expect("a small guest");
        let dirties = mib(guest.dirties_bytes);
        let spec = GuestSpec {
            memory_mib: mib(guest.memory_bytes),
            dirty: Dirty { mib: dirties, mib_per_s: dirties },
            persistent: guest.persistent,
            ..GuestSpec::new(guest.name, host.as_str(), (guest.burn * 1000.0) as u32)
        };
        self.lab.add_guest(&spec).unwrap_or_else(|error| panic!("{error}"));
        // It executes, rather than the BIOS before it.
        self.lab.await_report(guest.name, SOON).unwrap_or_else(|error| panic!("{error}"));
        let id = MachineId::new(&self.virsh(host, &["domuuid", guest.name])).expect("a UUID");
        self.names.insert(id.clone(), guest.name);
        id
    }

    fn stop(&mut self, host: &HostId, machine: &MachineId) {
        self.virsh(host, &["destroy", machine.as_str()]);
    }

    fn start(&mut self, host: &HostId, machine: &MachineId) {
        // libvirt looks for names first, and a UUID is none.
        self.virsh(host, &["start", self.names[machine]]);
    }

    fn spoil_entry(&mut self, host: &HostId, machine: &MachineId) {
        let (uri, key) = ("https://evenkeel.dev/schedule/1", "evenkeel");
        let nonsense = "<entry epoch='abc'/>";
        let domain = machine.as_str();
        let arguments = ["--uri", uri, "--key", key, "--set", nonsense, "--live", "--config"];
        self.virsh(host, &[&["metadata", domain], &arguments[..]].concat());
    }

    fn sever(&mut self, host: &HostId) {
        let pid_file = self.lab.dir().join(host.as_str()).join("run/libvirt/libvirtd.pid");
        let pid = read_pid(&pid_file);
        kill_process(pid, Signal::KILL).expect("the daemon is killed");
    }

    fn restore(&mut self, host: &HostId) {
        let end = Instant::now() + SOON;
        while self.lab.status().is_ok_and(|status| status.hosts[0].alive) {
            assert!(Instant::now() < end, "the lab did not notice the death of a daemon");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.lab.start_host(host.as_str()).unwrap_or_else(|error| panic!("{error}"));
    }
}

pub(crate) fn read_pid(path: &Path) -> Pid {
    let text = std::fs::read_to_string(path).expect("a running daemon has a file with its number");
    text.trim().parse().ok().and_then(Pid::from_raw).expect("a process number")
}

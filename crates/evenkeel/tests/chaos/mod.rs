//! Faults at chosen moments: what libvirt tells while a machine moves, and the processes and links
//! that can be taken away then.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

pub mod links;
pub mod wire;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_lab::Lab;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How long anything may take to be told. Only a test that fails waits for so long.
const LIMIT: Duration = Duration::from_secs(60);

/// A domain that never runs, by which it is seen that events are heard.
const BEACON: &str = "<domain type='qemu'><name>beacon</name><memory>1024</memory>\
                      <uuid>bea00000-0000-4000-8000-000000000000</uuid>\
                      <os><type>hvm</type></os></domain>";

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// What a host's libvirt tells of its domains, from when this is made.
pub struct Events {
    child: Child,
    heard: Arc<Heard>,
}

impl Events {
    /// Listens to a lab's host; returns when it is heard.
    pub fn of(lab: &Lab, host: &str) -> Self {
        let uri = lab.uri(host).expect("a host of the lab");
        let mut child = Command::new("stdbuf")
            .args(["-oL", "virsh", "--quiet", "--connect", &uri])
            .args(["event", "--all", "--loop", "--timestamp"])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("virsh starts");
        let heard = Arc::<Heard>::default();
        let (stdout, sink) = (child.stdout.take().expect("piped"), Arc::clone(&heard));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lines.lock().expect("no panic").push(line);
                sink.more.notify_all();
            }
        });
        let events = Self { child, heard };
        let beacon = lab.dir().join(host).join("beacon.xml");
        std::fs::write(&beacon, BEACON).expect("written");
        let beacon = beacon.to_str().expect("a path of ours");
        let end = Instant::now() + LIMIT;
        while !events.knows("'beacon'") {
            assert!(Instant::now() < end, "host {host} tells nothing");
            virsh(&uri, &["define", beacon]).expect("defined");
            events.pause(Duration::from_millis(50));
        }
        virsh(&uri, &["undefine", "beacon"]).expect("undefined");
        events
    }

    /// How many lines were heard so far.
    pub fn count(&self) -> usize {
        self.heard.lines.lock().expect("no panic").len()
    }

    fn knows(&self, part: &str) -> bool {
        self.heard.lines.lock().expect("no panic").iter().any(|line| line.contains(part))
    }

    /// Waits for another line, at most so long.
    fn pause(&self, limit: Duration) {
        let lines = self.heard.lines.lock().expect("no panic");
        drop(self.heard.more.wait_timeout(lines, limit).expect("no panic"));
    }

    /// Waits for a line from the `since`th on that is about a guest and says this, and returns it.
    pub fn wait(&self, since: usize, guest: &str, says: &str) -> String {
        let found = self.wait_for(since, guest, says, LIMIT);
        found.unwrap_or_else(|lines| panic!("nothing says `{says}` of {guest}:\n{lines}"))
    }

    /// The same within a limit.
    ///
    /// # Errors
    /// What was told instead.
    pub fn wait_for(
        &self,
        since: usize,
        guest: &str,
        says: &str,
        limit: Duration,
    ) -> Result<String, String> {
        let (name, end) = (format!("'{guest}'"), Instant::now() + limit);
        let mut lines = self.heard.lines.lock().expect("no panic");
        loop {
            let mut newer = lines.iter().skip(since);
            if let Some(line) = newer.find(|line| line.contains(&name) && line.contains(says)) {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(lines.join("\n"));
            }
            lines = self.heard.more.wait_timeout(lines, left).expect("no panic").0;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs virsh.
///
/// # Errors
/// What it says when it fails.
pub fn virsh(uri: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("virsh");
    command.args(["--quiet", "--connect", uri]).args(arguments).env("LC_ALL", "C");
    let output = command.output().map_err(|error| format!("virsh: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The number of a host's libvirt daemon.
pub fn libvirtd(lab: &Lab, host: &str) -> Option<Pid> {
    pid_in(lab.dir().join(host).join("run/libvirt/libvirtd.pid"))
}

/// The number of the QEMU of a guest on a host, if it has one there.
pub fn qemu(lab: &Lab, host: &str, guest: &str) -> Option<Pid> {
    pid_in(lab.dir().join(host).join(format!("run/libvirt/qemu/run/{guest}.pid")))
}

fn pid_in(file: PathBuf) -> Option<Pid> {
    let pid = Pid::from_raw(std::fs::read_to_string(file).ok()?.trim().parse().ok()?)?;
    test_kill_process(pid).ok().map(|()| pid)
}

/// Sends a signal to a process of ours; false if it has gone.
pub fn signal(pid: Pid, signal: Signal) -> bool {
    kill_process(pid, signal).is_ok()
}

/// Starts a host's libvirt again if it was killed.
pub fn revive_libvirt(lab: &Lab, host: &str) {
    let end = Instant::now() + LIMIT;
    let uri = lab.uri(host).expect("a host of the lab");
    loop {
        // The supervisor has to notice its end first.
        if is_known_to_be_gone(lab, host) {
            lab.start_host(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        }
        if virsh(&uri, &["list", "--name"]).is_ok() {
            return;
        }
        assert!(Instant::now() < end, "{host}'s libvirt is not back");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_known_to_be_gone(lab: &Lab, host: &str) -> bool {
    let state = std::fs::read(lab.dir().join("lab.json")).expect("a lab");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    let hosts = state["hosts"].as_array().expect("its hosts");
    hosts.iter().any(|known| known["id"] == host && known["libvirtd"].is_null())
}

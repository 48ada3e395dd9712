//! Agents as processes, without a libvirt: for whatever needs no guest.
//!
//! Nothing is awaited by time alone: readiness comes as the service manager would hear it, the log
//! as it is written, and a status is asked for until it says what it is to say.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

pub mod read_only;

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_core::model::HostId;
use evenkeel_lab::Lab;
use evenkeel_net::{ClusterCa, Identity};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

/// How long anything may take to come about. Only a test that fails waits for so long.
pub const LIMIT: Duration = Duration::from_secs(60);
/// An agent that is asked gives no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The program under test.
pub const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

/// What `evenkeel` did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }
}

/// Runs `evenkeel` to its end.
pub fn evenkeel<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Ran {
    Command::new(EVENKEEL).args(arguments).output().expect("it starts").into()
}

impl Ran {
    /// Asserts that it failed with this code and said all of this, on standard error alone.
    #[track_caller]
    pub fn refused(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "data of a command that failed");
        for part in says {
            assert!(self.stderr.contains(part), "`{}` does not say `{part}`", self.stderr);
        }
    }

    /// Asserts that it succeeded, and returns what it printed.
    #[track_caller]
    pub fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout.trim_end()
    }
}

/// A directory with a cluster in it, short enough for sockets.
pub struct Site {
    dir: tempfile::TempDir,
    pub ca: ClusterCa,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ek").tempdir_in("/tmp").expect("a directory");
        let ca = ClusterCa::init(&dir.path().join("ca")).expect("a cluster");
        // The user of a lab is to find its files in here.
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(dir.path(), open).expect("it is ours");
        Self { dir, ca }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A place for a host of the cluster, with an identity.
    pub fn host(&self, name: &str) -> Place {
        let place = self.stranger(name);
        self.identity(name).save(&place.dir.join("identity")).expect("saved");
        place
    }

    pub fn identity(&self, name: &str) -> Identity {
        self.ca.issue(&HostId::new(name).expect("an id")).expect("a certificate")
    }

    /// A place for a host that has no identity yet.
    pub fn stranger(&self, name: &str) -> Place {
        let dir = self.dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        let libvirt = format!("qemu+unix:///session?socket={}/libvirt.sock", dir.display());
        Place {
            name: name.to_owned(),
            program: EVENKEEL.into(),
            earlier: false,
            lab: None,
            namespace: None,
            libvirt_socket: None,
            boot_id: None,
            socket: dir.join("agent.sock"),
            dir,
            listen: free_address(),
            advertise: None,
            libvirt,
            reached: None,
            peers: Vec::new(),
            migrate_address: "tcp://127.0.0.1".to_owned(),
            stop_grace: "5s".to_owned(),
            more: String::new(),
            tables: String::new(),
        }
    }
}

/// Where a host's agent has its files, and how it is configured.
#[derive(Clone)]
pub struct Place {
    pub name: String,
    /// The agent's program.
    pub program: PathBuf,
    /// Whether that is of an earlier version, which knows nothing of modes.
    pub earlier: bool,
    /// The host of a lab as which its agent runs, by the lab's directory and its name: then machines
    /// come through the agent.
    pub lab: Option<(PathBuf, String)>,
    /// The network namespace in which its agent runs, if not in that of the test.
    pub namespace: Option<String>,
    /// Where its agent connects other hosts' libvirt to, if not to its libvirt itself.
    pub libvirt_socket: Option<PathBuf>,
    pub dir: PathBuf,
    /// What its agent reads as the id of the host's boot, if not what the system tells.
    pub boot_id: Option<PathBuf>,
    /// The local API.
    pub socket: PathBuf,
    pub listen: SocketAddr,
    /// Where the others reach it, if not there.
    pub advertise: Option<SocketAddr>,
    /// The connection to libvirt: to nobody, unless it is changed.
    pub libvirt: String,
    /// The same as the others reach it, if not in that way.
    pub reached: Option<String>,
    /// By which URI it reaches the other hosts that are reached directly.
    pub peers: Vec<(String, String)>,
    /// Where machines that leave are sent to.
    pub migrate_address: String,
    pub stop_grace: String,
    /// Further keys of its configuration.
    pub more: String,
    /// Further tables of its configuration.
    pub tables: String,
}

impl Place {
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Where the others reach its agent.
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    /// The lines that every agent has here, with these seeds.
    pub fn base(&self, seeds: &[SocketAddr]) -> String {
        let seeds: Vec<_> = seeds.iter().map(|addr| format!("'{addr}'")).collect();
        format!(
            "host = '{}'\nlisten = '{}'\nadvertise = '{}'\nseeds = [{}]\n\
             state_dir = '{dir}/state'\nidentity_dir = '{dir}/identity'\napi_socket = '{socket}'\n\
             stop_grace = '{grace}'\n",
            self.name,
            self.listen,
            self.address(),
            seeds.join(", "),
            dir = self.dir.display(),
            socket = self.socket.display(),
            grace = self.stop_grace,
        )
    }

    /// Writes a configuration of a host that declares all of its capacity.
    pub fn configure(&self, seeds: &[SocketAddr]) {
        let told = self.earlier || self.tables.contains("[operation]");
        let operation = if told { "" } else { "[operation]\nmode = 'automatic'\n" };
        // Hosts of a lab are one machine: what each does besides its guests is the same of all.
        let alone = if self.earlier { "" } else { "background = false\n" };
        let declared =
            format!("[capacity]\ncpu_cores = 2.0\nmemory = '4GiB'\nio_per_s = '100MB'\n{alone}");
        self.write(&format!(
            "{}{}[libvirt]\nuri = '{uri}'\n{way}{declared}{operation}{}",
            self.base(seeds),
            self.more,
            self.tables,
            uri = self.libvirt,
            way = self.way() + &self.peers(),
        ));
    }

    /// How machines come to it.
    fn way(&self) -> String {
        let Some((lab, _)) = &self.lab else {
            return format!(
                "migration_uri = '{reached}'\nmigrate_address = '{sent}'\n\
                 listen_address = '127.0.0.1'\n",
                reached = self.reached.as_ref().unwrap_or(&self.libvirt),
                sent = self.migrate_address,
            );
        };
        let handoffs = lab_in(lab).handoffs().expect("its state").expect("a view of its own");
        let socket = self.libvirt_socket.as_ref().map_or_else(String::new, |socket| {
            format!("libvirt_socket = '{}'\n", socket.display())
        });
        // A guest's kernel and console are files of the lab's, whose hosts have no bridges.
        let admitted = if self.earlier {
            String::new()
        } else {
            format!("files = ['{}']\nadmit = ['user-networks']\n", lab.display())
        };
        format!("[migration]\nsocket_dir = '{}'\n{admitted}{socket}", handoffs.display())
    }

    /// An agent of an earlier version opens what it is told.
    fn peers(&self) -> String {
        if self.earlier || self.peers.is_empty() {
            return String::new();
        }
        let lines = self.peers.iter().map(|(host, uri)| format!("{host} = '{uri}'\n"));
        format!("[migration.peers]\n{}", lines.collect::<String>())
    }

    /// Puts it onto a host of a lab, which machines come to directly.
    pub fn put_apart_on(&mut self, lab: &Lab, host: &str) {
        self.socket = lab.agent_socket(host);
        self.libvirt = lab.uri(host).expect("a host of the lab");
        let hosts = lab.status().expect("its state").hosts;
        let uri = |host: String| (host.clone(), lab.uri(&host).expect("a host of the lab"));
        self.peers = hosts.into_iter().map(|host| uri(host.id)).collect();
    }

    /// Puts it onto a host of a lab. Machines come through its agent, if that can be had here and
    /// `EVENKEEL_CARRIER` is not `direct`.
    pub fn put_on(&mut self, lab: &Lab, host: &str) {
        self.put_apart_on(lab, host);
        let direct = std::env::var("EVENKEEL_CARRIER").is_ok_and(|carrier| carrier == "direct");
        if direct || lab.handoffs().expect("its state").is_none() {
            return;
        }
        self.program = lab.within_reach(&self.program).expect("it can be copied");
        self.lab = Some((lab.dir().to_owned(), host.to_owned()));
    }

    /// Gives all of its files to the lab's user that this one has made.
    fn give(&self, lab: &Path) {
        let reference = format!("--reference={}", lab.display());
        // What is the user's already may be immutable.
        let ours = format!("--from={}", rustix::process::geteuid().as_raw());
        let given = Command::new("chown").args(["-R", &ours, &reference]).arg(&self.dir).status();
        assert!(given.expect("chown starts").success());
    }

    pub fn write(&self, config: &str) {
        std::fs::write(self.config(), config).expect("written");
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&self, seeds: &[SocketAddr]) -> Daemon {
        self.configure(seeds);
        self.start_as_configured(&[])
    }

    pub fn start_as_configured(&self, arguments: &[&str]) -> Daemon {
        let daemon = Daemon::spawn(self, arguments);
        daemon.await_notice("READY=1");
        daemon
    }

    /// Runs the agent, which is to end by itself.
    pub fn refusal(&self) -> Ran {
        let config = self.config();
        evenkeel(&["agent", "--config", config.to_str().expect("text")])
    }

    /// Runs the agent, which is to end by itself, where this path is mounted read-only.
    pub fn refusal_beside(&self, path: &Path) -> Ran {
        let config = self.config();
        let mut command = read_only::mounted(path).expect("it was tried before");
        command.arg(EVENKEEL).args(["agent", "--config"]).arg(config);
        command.output().expect("it starts").into()
    }

    /// What the agent says of itself.
    pub fn ask(&self) -> Ran {
        let socket = self.socket.to_str().expect("text");
        evenkeel(&["status", "--format", "json", "--socket", socket])
    }

    /// The same as people read it.
    pub fn ask_in_words(&self) -> String {
        let socket = self.socket.to_str().expect("text");
        evenkeel(&["status", "--socket", socket]).done().to_owned()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(self.ask().done()).expect("JSON")
    }

    /// Asks until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ran = self.ask();
            let status = serde_json::from_str(&ran.stdout).unwrap_or_default();
            if ran.code == Some(0) && wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{}: {what}: not in time: {ran:?}", self.name);
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Waits until exactly these are alive besides this host.
    pub fn until_members(&self, members: &[&str]) {
        self.until(&format!("members {members:?}"), |status| {
            status["members"] == serde_json::json!(members)
        });
    }
}

/// One that is free for UDP and TCP, and that no connection is given by chance before it is used.
pub fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 10_000..20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id().wrapping_mul(101) as u16;
    loop {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u16;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + number));
        if UdpSocket::bind(addr).is_ok() && TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// A command in a network namespace.
fn within(namespace: &str, inner: &Command) -> Command {
    let mut outer = Command::new("nsenter");
    outer.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    joined(outer, inner)
}

/// A command where the system tells of this boot. Only root and who is root in a namespace of its own
/// can have it so.
fn with_boot_id(file: &Path, inner: &Command) -> Command {
    const BIND: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
    let root = rustix::process::geteuid().is_root();
    let namespaces = if root { "--mount" } else { "--user --map-root-user --mount" };
    let mut outer = Command::new("unshare");
    outer.args(namespaces.split(' ')).args(["--propagation", "private", "--"]);
    outer.args(["sh", "-c", BIND]).arg(file);
    joined(outer, inner)
}

/// A command that runs another one.
fn joined(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

fn lab_in(dir: &Path) -> Lab {
    Lab::open(dir).unwrap_or_else(|error| panic!("{error}"))
}

#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Heard {
    fn push(&self, line: String) {
        self.lines.lock().expect("no panic").push(line);
        self.more.notify_all();
    }

    /// Waits until the lines are as they are wanted.
    #[track_caller]
    fn wait_until(&self, what: &str, done: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.lines.lock().expect("no panic");
        while !done(&lines) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not {what}:\n{}", lines.join("\n"));
            lines = self.more.wait_timeout(lines, left).expect("no panic").0;
        }
    }

    /// Waits for a line with all of these in it.
    #[track_caller]
    fn wait(&self, says: &[&str]) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut lines = self.lines.lock().expect("no panic");
        loop {
            let found = lines.iter().find(|line| says.iter().all(|part| line.contains(part)));
            if let Some(found) = found {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing says {says:?}:\n{}", lines.join("\n"));
            lines = self.more.wait_timeout(lines, left).expect("no panic").0;
        }
    }
}

/// A running agent. Killed when it is dropped.
pub struct Daemon {
    child: Child,
    lab: Option<(PathBuf, String)>,
    log: Arc<Heard>,
    notices: Arc<Heard>,
}

impl Daemon {
    pub fn spawn(place: &Place, arguments: &[&str]) -> Self {
        let notify = place.dir.join("notify.sock");
        let _ = std::fs::remove_file(&notify);
        let manager = UnixDatagram::bind(&notify).expect("a socket");
        // Beyond its limit of size a file is to fail to be written, as on a full disk, and not to
        // end the agent.
        let mut command = match &place.lab {
            None => Command::new("sh"),
            Some((lab, host)) => {
                place.give(lab);
                lab_in(lab).command_on(host, Path::new("sh")).expect("a host of the lab")
            }
        };
        if let Some(boot_id) = &place.boot_id {
            command = with_boot_id(boot_id, &command);
        }
        if let Some(namespace) = &place.namespace {
            command = within(namespace, &command);
        }
        let mut child = command
            .args(["-c", "trap '' XFSZ && exec \"$0\" \"$@\""])
            .arg(&place.program)
            .args(["agent", "--config"])
            .arg(place.config())
            .args(arguments)
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", "400000")
            .env("NO_COLOR", "1")
            .env_remove("EVENKEEL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (log, notices) = (Arc::<Heard>::default(), Arc::<Heard>::default());
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let sink = Arc::clone(&log);
        thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|l| sink.push(l)));
        let sink = Arc::clone(&notices);
        thread::spawn(move || {
            let mut bytes = [0; 256];
            while let Ok(length) = manager.recv(&mut bytes) {
                sink.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        });
        Self { child, lab: place.lab.clone(), log, notices }
    }

    /// Waits until the service manager has heard this.
    #[track_caller]
    pub fn await_notice(&self, notice: &str) {
        self.notices.wait(&[notice]);
    }

    /// Waits until the service manager has heard this so many times.
    #[track_caller]
    pub fn await_notices(&self, notice: &str, times: usize) {
        self.notices.wait_until(&format!("{times} times {notice}"), |lines| {
            lines.iter().filter(|line| line.contains(notice)).count() >= times
        });
    }

    /// Waits for a line of the log with all of these in it.
    #[track_caller]
    pub fn await_log(&self, says: &[&str]) -> String {
        self.log.wait(says)
    }

    /// The lines of the log so far that contain this.
    pub fn log_lines(&self, part: &str) -> usize {
        let lines = self.log.lines.lock().expect("no panic");
        lines.iter().filter(|line| line.contains(part)).count()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there, and ours");
    }

    /// Asks it to stop. Returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for its end. Returns its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status.code();
            }
            let log = || self.log.lines.lock().expect("no panic").join("\n");
            assert!(Instant::now() < deadline, "the agent does not end:\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets no file that it writes grow beyond this many bytes, or any.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let Some((lab, host)) = &self.lab else {
            let maximum = getrlimit(Resource::Fsize).maximum;
            let limit = Rlimit { current: bytes.or(maximum), maximum };
            prlimit(Some(self.pid()), Resource::Fsize, limit).expect("it is there, and ours");
            return;
        };
        // It is the lab's user's.
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let mut command = lab_in(lab).command_on(host, Path::new("prlimit")).expect("a host");
        command.arg(format!("--pid={}", self.pid())).arg(format!("--fsize={limit}:"));
        assert!(command.status().expect("prlimit starts").success());
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a number")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let (true, Ok(lines)) = (thread::panicking(), self.log.lines.lock()) {
            eprintln!(
                "an agent's log ends:\n  {}",
                lines[lines.len().saturating_sub(20)..].join("\n  ")
            );
        }
    }
}

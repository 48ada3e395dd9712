//! `evenkeel init` and `evenkeel leave`, on hosts of a lab and under bad circumstances.

mod daemon;
mod skips;
mod support;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use daemon::{EVENKEEL, Ran, evenkeel, free_address};
use evenkeel_net::ClusterCa;
use serde_json::Value;
use support::{Cluster, LIMIT, alike};

/// A host that is set up below a directory of its own.
struct Home {
    dir: PathBuf,
    libvirt: String,
    address: SocketAddr,
}

impl Home {
    fn new(site: &Path, name: &str, libvirt: &str) -> Self {
        let libvirt = libvirt.to_owned();
        Self { dir: site.join(name), libvirt, address: free_address() }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    fn places(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let places = [
            ["--config".to_owned(), path("agent.toml")],
            ["--state-dir".to_owned(), path("state")],
            ["--socket".to_owned(), path("agent.sock")],
            ["--libvirt".to_owned(), self.libvirt.clone()],
        ];
        places.concat()
    }

    fn arguments(&self, command: &str, words: &[&str]) -> Vec<String> {
        let words = words.iter().map(|word| (*word).to_owned());
        [command.to_owned()].into_iter().chain(self.places()).chain(words).collect()
    }

    fn init(&self, words: &[&str]) -> Ran {
        let address = self.address.to_string();
        evenkeel(&self.arguments("init", &[&["--address", &address, "--yes"], words].concat()))
    }

    fn leave(&self, words: &[&str]) -> Ran {
        evenkeel(&self.arguments("leave", words))
    }

    /// Its files, as far as there are any.
    fn files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Starts the agent, as the command says whose host has no service of systemd's.
    fn start(&self) -> Agent {
        // Hosts of a lab are one machine: its one directory for sockets is not for several agents.
        let sockets = self.dir.join("handoffs");
        let text = fs::read_to_string(self.config()).expect("it was written");
        if !text.contains("socket_dir") {
            let more = format!("\n[migration]\nsocket_dir = '{}'\n", sockets.display());
            fs::write(self.config(), text + &more).expect("written");
        }
        let mut command = Command::new(EVENKEEL);
        command.args(["agent", "--config"]).arg(self.config()).stderr(Stdio::null());
        let agent = Agent(command.spawn().expect("it starts"));
        self.until("an answer", |_| true);
        agent
    }

    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let socket = self.dir.join("agent.sock").display().to_string();
        let deadline = Instant::now() + LIMIT;
        loop {
            let ran = evenkeel(&["status", "--format", "json", "--socket", &socket]);
            let status = serde_json::from_str::<Value>(&ran.stdout).unwrap_or_default();
            if ran.code == Some(0) && wanted(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} did not come: {ran:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn until_members(&self, members: &[&str]) {
        let wanted = serde_json::json!(members);
        self.until(&format!("members {members:?}"), |status| status["members"] == wanted);
    }
}

/// An agent, which ends with its test.
struct Agent(Child);

impl Agent {
    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("ours").is_some()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn site() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ek").tempdir_in("/tmp").expect("a directory")
}

/// The last line that `init` prints: what to type on the next host.
fn next_line(ran: &Ran) -> Vec<String> {
    let line = ran.done().lines().last().expect("it says something").to_owned();
    let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
    assert_eq!(words[..3], ["evenkeel", "init", "--join"], "{line}");
    words[2..].to_vec()
}

#[test]
fn hosts_are_set_up_by_one_line_each_and_leave_by_one() {
    let lab = Cluster::try_up(alike(2, 1.0), Vec::new(), None).unwrap_or_else(|e| panic!("{e}"));
    let site = site();
    let home = |name: &str, host: &str| {
        Home::new(site.path(), name, &lab.lab().uri(host).expect("a host of the lab"))
    };
    let (first, second) = (home("kvm1", "h1"), home("kvm2", "h2"));

    // The first host. Asked again, it says so and changes nothing.
    let ran = first.init(&["--first", "--name", "kvm1"]);
    let line = next_line(&ran);
    let written = fs::read(first.config()).expect("written");
    assert!(ran.stdout.contains("evenkeel agent --config"), "no service here: {ran:?}");
    let mode = fs::metadata(first.dir.join("ca/ca.key")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = first.init(&["--first"]);
    assert!(again.done().contains("nothing was changed"), "{again:?}");
    assert_eq!(fs::read(first.config()).expect("written"), written);
    first.init(&["--name", "other"]).refused(1, &["called `kvm1`", "`other`"]);
    let _first = first.start();

    // The next one by the line that was printed. It hears of the first without another word.
    let line: Vec<_> = line.iter().map(String::as_str).collect();
    let ran = second.init(&[&line[..], &["--name", "kvm2"]].concat());
    assert!(ran.done().contains("evenkeel cluster join-token"), "{ran:?}");
    let mut agent = second.start();
    first.until_members(&["kvm2"]);
    second.until_members(&["kvm1"]);

    // The token is used up, and names are taken: nothing is left of who tries.
    let third = home("kvm3", "h2");
    third.init(&[&line[..], &["--name", "kvm3"]].concat()).refused(1, &["used already"]);
    assert_eq!(third.files(), Vec::<String>::new());
    let config = first.config().display().to_string();
    let token = || evenkeel(&["cluster", "join-token", "--config", &config]).done().to_owned();
    let token_text = token();
    for name in ["kvm1", "kvm2"] {
        let says = [&*format!("the name `{name}` is taken"), "another name"];
        third.init(&["--join", &token_text, "--name", name]).refused(1, &says);
        assert_eq!(third.files(), Vec::<String>::new());
    }
    second.init(&["--join", &foreign_token(site.path())]).refused(1, &["evenkeel leave", "kvm2"]);

    // The authority's key stays; another host leaves, and its name is free again.
    first.leave(&[]).refused(1, &["authority", "nothing was changed", "--force"]);
    first.until_members(&["kvm2"]);
    let left = second.leave(&[]);
    assert!(left.done().contains("`kvm1` has taken it off"), "{left:?}");
    assert!(agent.has_ended(), "the agent goes on");
    assert!(!second.dir.join("identity").exists() && !second.config().exists());
    first.until_members(&[]);
    second.leave(&[]).refused(1, &["in no cluster"]);
    second.init(&["--join", &token(), "--name", "kvm2"]).done();
    let _second = second.start();
    first.until_members(&["kvm2"]);
}

/// A token of another cluster.
fn foreign_token(site: &Path) -> String {
    let ca = ClusterCa::init(&site.join("foreign")).expect("a cluster");
    let token = ca.mint_token(vec![free_address()], Duration::from_secs(600)).expect("a token");
    token.to_text()
}

#[test]
fn what_stands_in_the_way_is_named_and_nothing_is_left_behind() {
    let lab = Cluster::try_up(alike(1, 1.0), Vec::new(), None).unwrap_or_else(|e| panic!("{e}"));
    let uri = lab.lab().uri("h1").expect("a host of the lab");
    let site = site();
    let home = Home::new(site.path(), "kvm1", &uri);
    let clean = |home: &Home| assert_eq!(home.files(), Vec::<String>::new());

    let silent = Home::new(site.path(), "silent", "qemu+unix:///session?socket=/nonexistent/sock");
    silent
        .init(&["--first"])
        .refused(1, &["libvirt at", "/nonexistent/sock", "hint: start libvirt"]);
    clean(&silent);

    let taken = UdpSocket::bind(home.address).expect("free");
    home.init(&["--first"]).refused(1, &["UDP port", "is taken", "ss -lnptu"]);
    clean(&home);
    drop(taken);

    home.init(&["--first", "--storage", "/nonexistent/vm=nfs1"])
        .refused(1, &["/nonexistent/vm", "no such directory", "mount it"]);
    home.init(&["--first", "--storage", "vm=nfs1"]).refused(2, &["DIRECTORY=NAME"]);
    home.init(&["--first", "--name", "a b"]).refused(2, &["a b"]);
    clean(&home);

    // A token that is too old, one that nobody answers for, and none at all.
    let ca = ClusterCa::init(&site.path().join("ca")).expect("a cluster");
    let token = |span| ca.mint_token(vec![free_address()], span).expect("a token").to_text();
    let old = token(Duration::ZERO);
    home.init(&["--join", &old]).refused(1, &["has expired", "timedatectl", "join-token"]);
    let unheard = token(Duration::from_secs(600));
    home.init(&["--join", &unheard, "--name", "kvm1"]).refused(1, &["could be asked"]);
    home.init(&["--join", "nonsense"]).refused(1, &["not a join token"]);
    clean(&home);

    // Nobody answers, or what was answered is no answer.
    let mut command = Command::new(EVENKEEL);
    command.args(home.arguments("init", &[])).stdin(Stdio::null());
    let asked: Ran = command.output().expect("it starts").into();
    asked.refused(1, &["nobody answers", "--yes"]);
    clean(&home);
}

#[test]
fn questions_are_answered_on_standard_input_and_asked_again_where_they_must_be() {
    let lab = Cluster::try_up(alike(1, 1.0), Vec::new(), None).unwrap_or_else(|e| panic!("{e}"));
    let site = site();
    let home = Home::new(site.path(), "kvm1", &lab.lab().uri("h1").expect("a host of the lab"));
    let answers = site.path().join("answers");
    let shared = site.path().display();
    let address = home.address;
    // No token, a name that is none and one that is, an address, a directory, and what is proposed.
    fs::write(&answers, format!("\na b\nkvm1\n{address}\n{shared}=images\n\n")).expect("written");
    let mut command = Command::new(EVENKEEL);
    command.args(home.arguments("init", &[])).stdin(fs::File::open(&answers).expect("there"));
    let ran: Ran = command.output().expect("it starts").into();
    next_line(&ran);
    assert!(ran.stderr.contains("a b"), "{ran:?}");
    let written = fs::read_to_string(home.config()).expect("written");
    for line in ["host = \"kvm1\"", "mode = \"observe\"", "members = \"read\"", "= \"images\""] {
        assert!(written.contains(line), "{written}");
    }
}

#[test]
fn whoever_may_not_speak_to_libvirt_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        return skips::skip("only root can become somebody who may do less");
    }
    let site = site();
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let socket = site.path().join("libvirt-sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).expect("ours");
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    let home = Home::new(site.path(), "kvm1", &uri);
    let program = site.path().join("evenkeel");
    fs::copy(EVENKEEL, &program).expect("copied");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.args(home.arguments("init", &["--first", "--yes"])).env("HOME", "/nonexistent");
    let ran: Ran = command.output().expect("it starts").into();
    ran.refused(1, &["Permission denied", "hint: run this as root"]);
    assert_eq!(home.files(), Vec::<String>::new());
}

#[test]
fn a_full_disk_leaves_nothing_half_done() {
    let lab = Cluster::try_up(alike(1, 1.0), Vec::new(), None).unwrap_or_else(|e| panic!("{e}"));
    let site = site();
    let home = Home::new(&site.path().join("disk"), "kvm1", &lab.lab().uri("h1").expect("a host"));
    // A file system that has room for the directories and for none or one of the files in them.
    for blocks in [4, 6] {
        let run = format!(
            "mkdir -p {disk} && mount -t tmpfs -o size={blocks}k,nr_inodes={blocks} none {disk} && \
             \"$0\" \"$@\"; code=$?; ls -A {disk} >&2; exit $code",
            disk = site.path().join("disk").display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &run, EVENKEEL]);
        let address = home.address.to_string();
        command.args(home.arguments("init", &["--first", "--yes", "--address", &address]));
        let ran: Ran = command.output().expect("it starts").into();
        if ran.stderr.contains("mount:") {
            return skips::skip("nobody may mount here");
        }
        ran.refused(1, &["No space left"]);
        assert!(!ran.stderr.trim_end().ends_with("kvm1"), "something is left: {ran:?}");
    }
}

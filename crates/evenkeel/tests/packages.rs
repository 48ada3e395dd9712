//! From packages: `docs/start.md` is typed as it stands, on three hosts with systemd and libvirt.

mod blocks;
mod hosts;
mod skips;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use blocks::Block;
use evenkeel_rig::Domain;
use hosts::Hosts;

const PAGE: &str = "docs/start.md";
const CONFIG: &str = "/etc/evenkeel/agent.toml";
/// Guests of the rig have their kernel in a directory of their own. Rounds are shorter than a cluster's,
/// and what machines use is known sooner: nothing else of the page's configuration is changed.
const TABLES: &str = "\n[migration]\nfiles = ['/srv/rig/guest', '/var/log/libvirt/qemu']\n\
    [balance]\nround = '2s'\nsample = '1s'\nsmoothing = 0.5\nhold = 1\nhold_of = 1\nwarm_up = 1\n\
    stale_after = '20s'\ncool_down = '5s'\nforecast_quantile = 0.0\n\
    [ceilings]\ncpu = 10.0\nio = 10.0\n";

/// Packs the program under test; returns the package.
fn package(dir: &Path, version: &str) -> PathBuf {
    let packed = Command::new("bash")
        .arg(blocks::root().join("scripts/package"))
        .args([
            "--program",
            env!("CARGO_BIN_EXE_evenkeel"),
            "--fast",
            "--version",
            version,
            "--out",
        ])
        .arg(dir)
        .output()
        .expect("bash is there");
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    dir.join(format!("evenkeel_{version}_amd64.deb"))
}

/// A page that is typed: it knows the token that was printed last.
struct Typist<'h> {
    hosts: &'h Hosts,
    token: Option<String>,
}

impl Typist<'_> {
    /// Types a block where it says; each command must succeed. Returns what was printed.
    fn type_block(&mut self, block: &Block) -> String {
        let place = block.info.strip_prefix("sh run on ").expect("it says where");
        let numbers: Vec<usize> = match place {
            "every host" => vec![1, 2, 3],
            name => vec![name.strip_prefix("kvm").and_then(|n| n.parse().ok()).expect("a host")],
        };
        let text = match &self.token {
            Some(token) => block.text.replace("ek1.…", token),
            None => block.text.clone(),
        };
        // Hosts are typed on side by side, as somebody with several windows does.
        let printed: String = thread::scope(|scope| {
            let threads = numbers.into_iter().map(|number| {
                let (hosts, text) = (self.hosts, &text);
                scope.spawn(move || -> String {
                    text.lines().map(|line| typed(hosts, number, line)).collect()
                })
            });
            let all: Vec<_> = threads.collect();
            all.into_iter().map(|one| one.join().expect("typed")).collect::<Vec<String>>().concat()
        });
        let token = printed.split_whitespace().rfind(|word| word.starts_with("ek1."));
        self.token = token.map(str::to_owned).or(self.token.take());
        printed
    }
}

/// Types a line on a host, where it must succeed.
fn typed(hosts: &Hosts, number: usize, line: &str) -> String {
    let began = Instant::now();
    let noninteractive = format!("cd /root && DEBIAN_FRONTEND=noninteractive {line}");
    let output = hosts.host(number).run(&["bash", "-c", &noninteractive]);
    let output = output.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("kvm{number}# {line:.80}   ({:.1} s)", began.elapsed().as_secs_f64());
    let done = output.success || line.starts_with("evenkeel doctor") && is_well(&output.stdout);
    assert!(done, "{line}: {output:?}\n{}", hosts.journal(number));
    output.stdout
}

/// Whether the doctor has found nothing wrong but what is: hosts of the rig share a directory in memory,
/// which libvirt rightly takes for storage of one host.
fn is_well(said: &str) -> bool {
    let mut errors = said.lines().filter(|line| line.starts_with("│ error ")).peekable();
    errors.peek().is_some()
        && errors.all(|line| line.contains("is on `tmpfs`, which libvirt takes"))
}

/// The page, typed from its first block to its last.
struct Page<'h> {
    hosts: &'h Hosts,
    typist: Typist<'h>,
    left: VecDeque<Block>,
}

impl<'h> Page<'h> {
    fn new(hosts: &'h Hosts) -> Self {
        let blocks = blocks::of_page(PAGE).into_iter().filter(|b| b.info.starts_with("sh run"));
        Self { hosts, typist: Typist { hosts, token: None }, left: blocks.collect() }
    }

    /// Types on until the block that begins so has been typed. Returns what was printed.
    fn upto(&mut self, beginning: &str) -> String {
        let mut printed = String::new();
        while let Some(block) = self.left.pop_front() {
            printed += &self.typist.type_block(&block);
            if block.text.starts_with(beginning) {
                return printed;
            }
        }
        panic!("{PAGE} has no block more that begins `{beginning}`");
    }

    /// Installs, sets up, looks; the hosts decide and move nothing.
    fn set_up(&mut self) {
        let hosts = self.hosts;
        for number in 1..=3 {
            let mut domain = Domain::new(&format!("web-{number}"), number);
            domain.memory_mib = 96;
            hosts.start(1, &domain);
        }
        self.upto("apt-get install");
        for number in 1..=3 {
            let state = hosts.host(number).run(&["systemctl", "is-active", "evenkeel"]);
            assert!(!state.expect("it runs").success, "installing has started the agent");
        }
        let said = self.upto("evenkeel init --yes");
        assert!(said.contains("the agent runs"), "{said}");
        let seen = self.upto("evenkeel status");
        for name in ["kvm1", "kvm2", "kvm3", "mode: observe"] {
            assert!(seen.contains(name), "{name} is not in {seen}");
        }
        for number in 1..=3 {
            let text = hosts.host(number).read(CONFIG).expect("written") + TABLES;
            hosts.host(number).write(CONFIG, &text).expect("written");
            hosts.must(number, &["systemctl", "restart", "evenkeel"]);
        }
        // Hosts of the rig are one machine: what each measures of itself besides its guests is the load of
        // all of it. So the guests' loads are told.
        for number in 1..=3 {
            let machine = format!("web-{number}");
            hosts.until("a machine that its agent knows", || {
                let told = hosts.evenkeel(1, &["target", &machine, "0.25"]);
                if told.success { Ok(()) } else { Err(told.stderr) }
            });
        }
        hosts.until("a decision that would move a machine", || {
            let said = hosts.evenkeel(1, &["history", "--format", "json"]).stdout;
            let why = || hosts.evenkeel(1, &["explain", "host"]).stdout + &hosts.journal(1);
            if said.contains("OBSERVING") { Ok(()) } else { Err(why()) }
        });
        self.upto("evenkeel history");
        assert_eq!(running(hosts, 1).len(), 3, "it has only observed");
    }

    /// Acts, and is upgraded meanwhile, agent by agent.
    fn act(&mut self, upgrade: &Path) {
        let hosts = self.hosts;
        self.upto("sed -i");
        hosts.until("a machine on another host", || {
            if running(hosts, 1).len() < 3 { Ok(()) } else { Err(hosts.journal(1)) }
        });
        for number in 1..=3 {
            copy(hosts, number, upgrade);
            hosts.must(number, &["dpkg", "-i", "/root/evenkeel_0.1.1_amd64.deb"]);
            let state = hosts.must(number, &["systemctl", "is-active", "evenkeel"]);
            assert_eq!(state.trim(), "active", "an upgrade starts what it has stopped");
        }
        everything_runs_once(hosts);
        self.upto("evenkeel drain");
        everything_runs_once(hosts);
    }

    /// Takes a host out, and the package off the others: machines run on.
    fn end(mut self) {
        let hosts = self.hosts;
        self.upto("evenkeel leave");
        assert!(self.left.is_empty(), "blocks that nothing has typed: {:?}", self.left);
        everything_runs_once(hosts);
        let there = running(hosts, 3);
        for deed in ["--remove", "--purge"] {
            hosts.must(1, &["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", deed, "evenkeel"]);
        }
        hosts.must(1, &["test", "-e", "/etc/evenkeel/ca/ca.key"]);
        let told = "echo evenkeel evenkeel/remove_state boolean true | debconf-set-selections && \
                    DEBIAN_FRONTEND=noninteractive dpkg --purge evenkeel && \
                    ! ls -d /etc/evenkeel /var/lib/evenkeel";
        hosts.must(2, &["bash", "-c", told]);
        everything_runs_once(hosts);
        assert_eq!(running(hosts, 3), there, "nobody is left who would move them");
    }
}

#[test]
fn the_page_of_the_first_ten_minutes_does_as_it_stands_what_it_says() {
    let Some(hosts) = Hosts::bare() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (old, new) = (package(dir.path(), "0.1.0"), package(dir.path(), "0.1.1"));
    // A directory that is empty counts as not mounted.
    hosts.rig().make_disk("web.raw", "raw", 1).expect("a disk");
    for number in 1..=3 {
        // What the page takes for granted: the package at hand, and a directory that all hosts share.
        copy(&hosts, number, &old);
        hosts.must(number, &["mkdir", "-p", "/srv/vm"]);
        hosts.must(number, &["mount", "--bind", "/srv/rig/images", "/srv/vm"]);
    }
    let mut page = Page::new(&hosts);
    page.set_up();
    page.act(&new);
    page.end();
}

fn copy(hosts: &Hosts, number: usize, package: &Path) {
    let name = package.file_name().and_then(|name| name.to_str()).expect("text");
    let shared = hosts.rig().shared().join(name);
    fs::copy(package, shared).expect("copied");
    let from = format!("/srv/rig/{name}");
    hosts.must(number, &["cp", &from, "/root/"]);
}

/// What runs there; not what is on its way there, which its source runs.
fn running(hosts: &Hosts, number: usize) -> Vec<String> {
    let names = hosts.virsh(number, &["list", "--name", "--state-running"]);
    names.split_whitespace().map(str::to_owned).collect()
}

/// Hosts are asked one after the other: a machine that moves meanwhile may be seen twice, or not at all.
fn everything_runs_once(hosts: &Hosts) {
    hosts.until("each machine seen to run once", || {
        let mut all: Vec<_> = (1..=3).flat_map(|number| running(hosts, number)).collect();
        all.sort();
        if all == ["web-1", "web-2", "web-3"] { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

#[test]
fn the_packages_are_as_their_distributions_want_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let deb = package(dir.path(), "0.1.0");
    let lintian = Command::new("lintian").args(["--fail-on", "error,warning"]).arg(&deb).output();
    match lintian {
        Ok(ran) => assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout)),
        Err(_) => skips::skip("`lintian` is not installed"),
    }
    let list = |words: &[&str]| {
        let ran = Command::new(words[0]).args(&words[1..]).output().expect("it is there");
        String::from_utf8(ran.stdout).expect("text")
    };
    let files = list(&["dpkg-deb", "--contents", &deb.display().to_string()]);
    let mut packages = vec![files];
    let rpm = dir.path().join("evenkeel-0.1.0-1.x86_64.rpm");
    if rpm.exists() {
        packages.push(list(&["rpm", "-qlp", &rpm.display().to_string()]));
    } else {
        skips::skip("`rpmbuild` is not installed");
    }
    for files in packages {
        for file in [
            "/usr/bin/evenkeel",
            "/usr/lib/systemd/system/evenkeel.service",
            "/usr/lib/sysusers.d/evenkeel.conf",
            "/usr/share/man/man1/evenkeel-init.1.gz",
            "/usr/share/bash-completion/completions/evenkeel",
            "/usr/share/doc/evenkeel/docs/start.md",
        ] {
            assert!(files.contains(file), "{file} is not in {files}");
        }
        assert!(!files.contains("agent.toml\n/etc") && !files.contains("/etc/evenkeel"), "{files}");
    }
    let mut sums = Command::new("sha256sum");
    sums.args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dir.path());
    assert!(sums.status().expect("it is there").success());
}

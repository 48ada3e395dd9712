//! Agents on hosts with systemd and system-mode libvirt: see the crate `evenkeel-rig`.
//!
//! The agents run as the user `evenkeel` under the unit that is shipped. Nothing here asserts how
//! long something takes: a limit is only exceeded by a test that fails.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_rig::{Domain, Figures, Guest, Host, Output, Rig, Spec};

use crate::skips;

/// How long anything may take to come about.
pub const LIMIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const UNIT: &str = include_str!("../../../../dist/evenkeel.service");
const SYSUSERS: &str = include_str!("../../../../dist/evenkeel.sysusers");
/// Where the configuration and identity of an agent are.
const ETC: &str = "/etc/evenkeel";
/// The guest's console says every fifth tick.
const TICKS_PER_LINE: u64 = 5;
const PREFIX: &str = "ektest-";
/// Three hosts with guests are as much as two cores carry.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Three hosts with agents in one cluster. They end when this is dropped.
pub struct Hosts {
    rig: Option<Rig>,
    _turn: MutexGuard<'static, ()>,
}

impl Hosts {
    /// Brings them up with agents, or says that they cannot be had here.
    pub fn up(tables: &str) -> Option<Self> {
        let files = "[migration]\nfiles = ['/srv/rig/guest', '/var/log/libvirt/qemu']\n";
        Self::with_program(Path::new(env!("CARGO_BIN_EXE_evenkeel")), &format!("{files}{tables}"))
    }

    /// The same with agents that are another program, and nothing that this one alone understands.
    pub fn with_program(program: &Path, tables: &str) -> Option<Self> {
        let hosts = Self::bare()?;
        hosts.start_agents(program, tables);
        Some(hosts)
    }

    /// The same without agents.
    pub fn bare() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = Rig::fitness() {
            skips::skip(&error.to_string());
            return None;
        }
        sweep_dead();
        let rig = Rig::up(&Spec { name: fresh_name(), hosts: 3 });
        let rig = rig.unwrap_or_else(|error| panic!("{error}"));
        Some(Self { rig: Some(rig), _turn: turn })
    }

    /// The rig below.
    pub fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("there until it is dropped")
    }

    /// Host 1, 2 or 3.
    pub fn host(&self, number: usize) -> &Host {
        self.rig().host(number)
    }

    /// Runs a command on a host, which must succeed.
    pub fn must(&self, host: usize, words: &[&str]) -> String {
        self.host(host).must(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `virsh` on a host, which must succeed.
    pub fn virsh(&self, host: usize, words: &[&str]) -> String {
        self.host(host).virsh(words).unwrap_or_else(|error| panic!("{error}"))
    }

    fn start_agents(&self, program: &Path, tables: &str) {
        self.rig().install_program(program, "evenkeel").unwrap_or_else(|error| panic!("{error}"));
        for number in 1..=3 {
            self.prepare(number, tables);
        }
        let as_agent = ["runuser", "-u", "evenkeel", "--", "evenkeel", "cluster"];
        self.must(1, &[&as_agent[..], &["init", "--host", "kvm1"]].concat());
        self.must(1, &["systemctl", "enable", "--now", "evenkeel"]);
        for number in [2, 3] {
            let ask = ["join-token", "--seed", "10.77.0.1:7946"];
            let text = self.must(1, &[&as_agent[..], &ask].concat());
            let token = text.split_whitespace().find(|word| word.starts_with("ek1."));
            self.join(number, token.unwrap_or_else(|| panic!("no token in {text}")));
            self.must(number, &["systemctl", "enable", "--now", "evenkeel"]);
        }
        for number in 1..=3 {
            self.until("an agent that knows the others", || {
                let status = self.evenkeel(number, &["status"]);
                let known = ["kvm1", "kvm2", "kvm3"].iter().all(|name| {
                    let status = self.evenkeel(number, &["status", "--host", name]);
                    status.success
                });
                if known { Ok(()) } else { Err(format!("{status:?}")) }
            });
        }
    }

    /// The user, the unit and the configuration of a host's agent.
    fn prepare(&self, number: usize, tables: &str) {
        let host = self.host(number);
        let write = |path: &str, content: &str| {
            host.write(path, content).unwrap_or_else(|error| panic!("{error}"));
        };
        write("/etc/systemd/system/evenkeel.service", UNIT);
        // For agents of an earlier version, which do not look where `cluster init` has put it.
        let authority = if number == 1 { "ca_dir = '/etc/evenkeel/ca'\n" } else { "" };
        let config = format!(
            "host = 'kvm{number}'\nlisten = '{}:7946'\n{authority}\
             seeds = ['10.77.0.1:7946', '10.77.0.2:7946', '10.77.0.3:7946']\n\
             [api]\nmembers = 'operate'\n\
             [storage]\n'/srv/rig/images' = 'images'\n{tables}",
            host.address()
        );
        write(&format!("{ETC}/agent.toml"), &config);
        write("/usr/lib/sysusers.d/evenkeel.conf", SYSUSERS);
        self.must(number, &["systemd-sysusers", "evenkeel.conf"]);
        self.must(number, &["chown", "-R", "evenkeel:", ETC]);
        self.must(number, &["systemctl", "daemon-reload"]);
    }

    /// Has a host join by token. The agent that does it stays in the foreground: it is ended.
    fn join(&self, number: usize, token: &str) {
        let unit =
            ["systemd-run", "--unit=join", "--uid=evenkeel", "--property=StateDirectory=evenkeel"];
        let agent = ["--property=RuntimeDirectory=evenkeel", "evenkeel", "agent", "--config"];
        let config = format!("{ETC}/agent.toml");
        self.must(number, &[&unit[..], &agent, &[&config, "--join", token]].concat());
        self.until("a certificate", || {
            let status = self.evenkeel(number, &["status"]);
            if status.success { Ok(()) } else { Err(self.journal(number)) }
        });
        self.must(number, &["systemctl", "stop", "join"]);
    }

    /// Runs `evenkeel` on a host as root, whether it succeeds or not.
    pub fn evenkeel(&self, number: usize, words: &[&str]) -> Output {
        let output = self.host(number).run(&[&["evenkeel"], words].concat());
        output.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a guest.
    pub fn start(&self, host: usize, domain: &Domain) -> Guest {
        let guest = self.rig().start_guest(host, domain);
        guest.unwrap_or_else(|error| panic!("{error}\n{}", self.journal(host)))
    }

    /// Has a machine moved, whether it succeeds or not.
    pub fn try_migrate(&self, machine: &str, from: usize, to: usize) -> Output {
        let target = format!("kvm{to}");
        // A machine is not given before its host knows it; `migrate` says so and changes nothing.
        self.until("a machine that its agent knows", || {
            let moved = self.evenkeel(from, &["migrate", machine, &target]);
            // Nor where a host is too busy to answer: nothing has begun then.
            let early =
                ["has no machine", "UNKNOWN", "only a running", "no other host has answered"];
            let unknown = !moved.success && early.iter().any(|words| moved.stderr.contains(words));
            if unknown { Err(format!("{moved:?}")) } else { Ok(moved) }
        })
    }

    /// Moves a machine, which must succeed: afterwards it runs there and nowhere else, and each
    /// host has as many definitions of it as it should.
    pub fn migrate(&self, machine: &str, from: usize, to: usize) {
        let moved = self.try_migrate(machine, from, to);
        assert!(
            moved.success,
            "{machine} from kvm{from} to kvm{to}: {moved:?}\n{}\n{}",
            self.journal(from),
            self.journal(to)
        );
        self.runs_only_on(machine, to);
    }

    /// The machine runs on this host, and no other host has as much as a definition of it.
    pub fn runs_only_on(&self, machine: &str, host: usize) {
        for number in 1..=3 {
            let all = self.virsh(number, &["list", "--all", "--name"]);
            let there = all.lines().any(|line| line.trim() == machine);
            assert_eq!(there, number == host, "{machine} on kvm{number}: {all}");
        }
        let state = self.virsh(host, &["domstate", machine]);
        assert_eq!(state.trim(), "running", "{machine} on kvm{host}");
        let kept = self.virsh(host, &["list", "--name", "--persistent"]);
        assert!(kept.lines().any(|line| line.trim() == machine), "a definition that stays: {kept}");
    }

    /// The console of a machine that was on these hosts, in the order of its stays, must tick
    /// without a gap from one host's to the next.
    pub fn ticks_continue(&self, machine: &str, stays: &[usize]) {
        let file = format!("/var/log/libvirt/qemu/{machine}-console.log");
        let read = |host: &usize| self.host(*host).read(&file).map_err(|error| error.to_string());
        let last = stays.last().expect("it was somewhere");
        self.until("two ticks on the last host", || {
            let text = read(last)?;
            if ticks(&text).len() >= 2 { Ok(()) } else { Err(text) }
        });
        // One line may have begun on one host and ended on the next.
        let text: Result<String, String> = stays.iter().map(read).collect();
        let text = text.unwrap_or_else(|error| panic!("{error}"));
        for pair in ticks(&text).windows(2) {
            assert_eq!(
                pair[1],
                pair[0] + TICKS_PER_LINE,
                "{machine} lost or repeated ticks: {text}"
            );
        }
    }

    /// What an agent and systemd have said.
    pub fn journal(&self, number: usize) -> String {
        let words = ["journalctl", "-b", "--no-pager", "-n", "40", "-u", "evenkeel", "-u", "join"];
        match self.host(number).run(&words) {
            Ok(output) => format!("-- kvm{number}\n{}", output.stdout),
            Err(error) => error.to_string(),
        }
    }

    /// Polls until there is a value.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            match look() {
                Ok(value) => return value,
                Err(last) => assert!(Instant::now() < deadline, "{what} did not come: {last}"),
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let Some(rig) = self.rig.take() else { return };
        if let Err(error) = rig.down() {
            // A second panic would hide the first.
            assert!(thread::panicking(), "{error}");
            eprintln!("{error}");
        }
    }
}

/// Figures of a guest that came through whole.
pub fn is_whole(figures: &Figures) -> bool {
    (figures.pages_bad, figures.records_bad, figures.write_errors) == (0, 0, 0)
}

/// The numbers of the ticks on a console. The last line may not have ended yet.
fn ticks(console: &str) -> Vec<u64> {
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| line.trim().strip_prefix("tick ")?.split(' ').next()?.parse().ok();
    whole.lines().filter_map(number).collect()
}

fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

/// Takes down the rigs of tests that were killed.
fn sweep_dead() {
    for name in Rig::names() {
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            Rig::sweep(&name).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

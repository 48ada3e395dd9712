//! Clusters of real hosts, guests and agents for tests.
//!
//! Nothing here asserts how long something takes: a condition is polled until it holds, within a
//! limit that is generous enough for a small and busy machine, and a limit that is exceeded says
//! what the cluster looked like.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

pub mod records;

use std::collections::BTreeMap;
use std::fmt::Write as FmtWrite;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_agent::status::MachineStatus;
use evenkeel_agent::{Client, Status};
use evenkeel_core::decision::{Decision, Role};
use evenkeel_core::model::MachineId;
use evenkeel_core::select::Calm;
use evenkeel_lab::{
    AgentsSpec, Dirty, GuestSpec, HostSpec, Lab, LabError, LabSpec, Launcher, Verdict, Weights,
};
use tokio::runtime::Runtime;

use records::moves;

/// How long anything may take to come about. Only a test that fails waits for so long.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Agents and virsh are asked; they give no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// More records than an agent of a test ever writes.
const RECORDS_MAX: u32 = 10_000;
/// Lines of each log that a failure shows.
const LOG_LINES: usize = 12;

/// The program under test.
pub const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

/// A lab with an agent on every host, in a directory of its own. Ends when it is dropped.
pub struct Cluster {
    lab: Option<Lab>,
    runtime: Runtime,
    hosts: Vec<String>,
}

impl Cluster {
    /// Brings up hosts, guests and agents; the agents' configuration ends with `extra`, such as a
    /// `[balance]` section.
    pub fn up(hosts: Vec<HostSpec>, guests: Vec<GuestSpec>, extra: &str) -> Self {
        let agents = AgentsSpec {
            program: EVENKEEL.into(),
            extra_config: extra.to_owned(),
            background: false,
        };
        Self::try_up(hosts, guests, Some(agents)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Self::up`], with agents that may be missing or another program, and may fail to start.
    pub fn try_up(
        hosts: Vec<HostSpec>,
        guests: Vec<GuestSpec>,
        agents: Option<AgentsSpec>,
    ) -> Result<Self, LabError> {
        let names = hosts.iter().map(|host| host.id.clone()).collect();
        let spec = LabSpec { dir: fresh_dir(), hosts, guests, agents };
        let lab = Lab::up(&spec, &launcher(), &mut |_| {})?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { lab: Some(lab), runtime: runtime.expect("a runtime"), hosts: names })
    }

    /// The lab below it.
    pub fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("there until it is dropped")
    }

    /// The names of its hosts.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// A client of a host's agent.
    pub fn client(&self, host: &str) -> Client {
        Client::new(&self.lab().agent_socket(host))
    }

    /// Runs what a client does to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// What a host's agent says to a monitoring system.
    pub fn metrics(&self, host: &str) -> String {
        let mut stream = UnixStream::connect(self.lab().agent_socket(host)).expect("an agent");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// What the agents say of themselves, those that answer.
    pub fn statuses(&self) -> Vec<Status> {
        self.hosts.iter().filter_map(|host| self.status(host)).collect()
    }

    /// What a host's agent says of itself, if it answers.
    pub fn status(&self, host: &str) -> Option<Status> {
        self.block_on(self.client(host).status()).ok()
    }

    /// The loads of all hosts in their order, once all of them are known.
    pub fn loads(&self) -> Option<Vec<f64>> {
        self.hosts.iter().map(|host| self.status(host)?.load).collect()
    }

    /// The decision records of all agents that answer, in the order in which they ended.
    pub fn decisions(&self) -> Vec<Decision> {
        let of_host = |host: &String| self.decisions_of(host);
        let mut all: Vec<_> = self.hosts.iter().flat_map(of_host).collect();
        all.sort_by_key(|decision| decision.ended);
        all
    }

    /// The decision records of one host, oldest first; none if its agent does not answer.
    pub fn decisions_of(&self, host: &str) -> Vec<Decision> {
        let newest = self.block_on(self.client(host).decisions(RECORDS_MAX));
        newest.unwrap_or_default().into_iter().rev().collect()
    }

    /// The id of a guest, from the schedule of whichever host has it.
    pub fn machine(&self, guest: &str) -> MachineId {
        self.until(LIMIT, &format!("`{guest}` in a schedule"), |cluster| {
            let mut machines = cluster.statuses().into_iter().flat_map(|status| status.machines);
            machines.find(|machine| machine.name == guest).map(|machine| machine.id)
        })
    }

    /// The host whose agent has the guest in its schedule and nobody else's has, if so.
    pub fn scheduled_on(&self, guest: &str) -> Option<String> {
        let has = |s: &Status| s.machines.iter().any(|machine| machine.name == guest);
        let mut hosts = self.statuses().into_iter().filter(has).map(|s| s.host.to_string());
        hosts.next().filter(|_| hosts.next().is_none())
    }

    /// Programs target loads of guests.
    pub fn set_targets(&self, targets: &[(&str, f64)]) {
        for (guest, target) in targets {
            self.set_target(guest, Some(*target));
        }
    }

    /// Programs the target load of one guest, or removes it. One that is on its way is refused: the
    /// host that has it is asked again.
    pub fn set_target(&self, guest: &str, target: Option<f64>) {
        self.until(LIMIT, &format!("`{guest}` with a target load of {target:?}"), |cluster| {
            let host = cluster.scheduled_on(guest)?;
            let id = cluster.machine_on(&host, guest)?.id;
            cluster.block_on(cluster.client(&host).set_target(&id, target)).ok()
        });
    }

    /// What a host's agent says of one machine, if it is in its schedule.
    pub fn machine_on(&self, host: &str, guest: &str) -> Option<MachineStatus> {
        self.status(host)?.machines.into_iter().find(|machine| machine.name == guest)
    }

    /// Has a guest burn this share of a CPU. One that is on its way does not answer: it is asked
    /// again.
    pub fn set_burn(&self, guest: &str, permille: u32) {
        self.until(LIMIT, &format!("`{guest}` burning {permille} ‰"), |cluster| {
            cluster.lab().set_burn(guest, permille).ok()
        });
    }

    /// Polls until the condition yields something.
    pub fn until<T>(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            if Instant::now() >= deadline {
                panic!("{what}: not within {} s\n{}", limit.as_secs(), self.picture());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether no host is at a handoff, and none had one in this many of its newest exchanges.
    pub fn is_quiet(&self, exchanges: usize) -> bool {
        let calm = |host: &String| {
            let records = self.decisions_of(host);
            let newest = records.iter().rev().take(exchanges);
            records.len() >= exchanges && newest.clone().all(|d| d.handoff.is_none())
        };
        self.statuses().iter().all(|s| s.handoffs.is_empty()) && self.hosts.iter().all(calm)
    }

    /// Waits until a donor's record says that it moved a machine which `is_wanted`, and returns it.
    pub fn await_move(&self, what: &str, is_wanted: impl Fn(&Decision) -> bool) -> Decision {
        self.until(LIMIT, what, |cluster| {
            let decisions = cluster.decisions();
            moves(&decisions, Role::Source).into_iter().find(|d| is_wanted(d)).cloned()
        })
    }

    /// What virsh says on a host.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn virsh(&self, host: &str, arguments: &[&str]) -> Result<String, String> {
        let uri = self.lab().uri(host).map_err(|error| error.to_string())?;
        let mut command = Command::new("virsh");
        command.args(["--quiet", "--connect", &uri]).args(arguments).env("LC_ALL", "C");
        let output = command.output().map_err(|error| format!("virsh: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The definitions that libvirt has on a host, running or not, by name.
    pub fn domains(&self, host: &str) -> Vec<String> {
        let names = self.virsh(host, &["list", "--all", "--name"]).expect("libvirt answers");
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// The XML of a domain on a host: as it runs, or as it is defined.
    ///
    /// # Errors
    /// When it is not there.
    pub fn dumpxml(&self, host: &str, guest: &str, inactive: bool) -> Result<String, String> {
        let of_definition = if inactive { &["--inactive"][..] } else { &[] };
        self.virsh(host, &[&["dumpxml", guest], of_definition].concat())
    }

    /// Has guests report once more, wherever they are, and asserts that each of them lived through
    /// everything: no report is missing, repeated or torn, and every page of the memory that it goes
    /// through is good.
    pub fn assert_unharmed(&self, guests: &[&str]) -> BTreeMap<String, Verdict> {
        let verdict = |guest: &&str| {
            let verdict =
                self.until(LIMIT, &format!("`{guest}` verifying its memory"), |cluster| {
                    let console = cluster.lab().await_report(guest, LIMIT);
                    let verdict =
                        console.unwrap_or_else(|error| panic!("{guest}: {error}")).verify();
                    assert!(verdict.is_unharmed(), "{guest}: {verdict}");
                    (verdict.pages_checked > 0).then_some(verdict)
                });
            ((*guest).to_owned(), verdict)
        };
        guests.iter().map(verdict).collect()
    }

    /// The cluster in words, for whoever has to find out why a test failed.
    pub fn picture(&self) -> String {
        let mut out = String::new();
        for host in &self.hosts {
            let status = self.block_on(self.client(host).status());
            let _ = match status {
                Ok(s) => writeln!(out, "{host}: {:?} {:?} {:#?}", s.load, s.unknown, s.machines),
                Err(error) => writeln!(out, "{host}: {error}"),
            };
            for decision in self.decisions_of(host).iter().rev().take(5) {
                let _ = writeln!(out, "  {decision:?}");
            }
            let log = std::fs::read_to_string(self.lab().agent_log(host)).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
            let _ = writeln!(out, "  {}", lines.into_iter().rev().collect::<Vec<_>>().join("\n  "));
        }
        out
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = self.lab.take().map(Lab::down);
        // A test that has failed already says why by itself.
        if let Some(Err(error)) = ended
            && !thread::panicking()
        {
            panic!("the lab was not taken down: {error}");
        }
    }
}

/// How tests have labs supervised: by the program under test, for as long as the test lives.
pub fn launcher() -> Launcher {
    let arguments = vec!["lab".to_owned(), "supervise".to_owned()];
    Launcher { program: EVENKEEL.into(), arguments, tied: true }
}

/// A directory that no other lab has. Short, because socket paths are.
pub fn fresh_dir() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/tmp/ek-{}-{count}", std::process::id()))
}

/// Hosts `h1`, `h2`, … that are alike, of this many cores.
pub fn alike(count: usize, cores: f64) -> Vec<HostSpec> {
    (1..=count).map(|index| HostSpec::new(&format!("h{index}"), cores)).collect()
}

/// Hosts that are alike, of 0.8 cores and 1 GiB, which weigh CPU time heavily.
pub fn cpu_hosts(count: usize) -> Vec<HostSpec> {
    let weights = Some(Weights { cpu: 4.0, memory: 1.0, io: 1.0 });
    let heavy = |host| HostSpec { weights, memory_mib: 1024, ..host };
    alike(count, 0.8).into_iter().map(heavy).collect()
}

/// A guest that burns nothing, and only writes and verifies a little memory.
pub fn idle(name: &str, host: &str) -> GuestSpec {
    GuestSpec { dirty: Dirty { mib: 1, mib_per_s: 1 }, ..GuestSpec::new(name, host, 0) }
}

/// Tables for a cluster that lives for seconds and balances by the rule as claimed, and by nothing
/// else: no ceilings, no waiting to know a machine better, no restraint and no cost.
pub fn balance(round: Duration, calm: &Calm) -> String {
    let ceilings = "[ceilings]\ncpu = 10.0\nio = 10.0\n";
    let rule = "policy = 'half-difference'\nwarm_up = 1\ncool_down = '2s'\nquarantine = '0s'\n\
                hold = 1\nhold_of = 1\ngiven_per_hour_max = 1000\ntaken_per_hour_max = 1000\n\
                payback = '8760h'\nmigration_downtime_max = '1h'\n";
    format!("{ceilings}{}{rule}", balance_by_default(round, calm))
}

/// A `[balance]` table for a cluster that lives for seconds: it samples and asks far more often than
/// one in earnest, and is as restrained as one otherwise.
pub fn balance_by_default(round: Duration, calm: &Calm) -> String {
    let Calm { dead_band, difference_min, gain_min } = calm;
    format!(
        "[balance]\nround = '{}ms'\nsample = '400ms'\nstale_after = '30s'\n\
         smoothing = 0.4\nreply_time_max = '20s'\n\
         dead_band = {dead_band:?}\ndifference_min = {difference_min:?}\ngain_min = {gain_min:?}\n",
        round.as_millis()
    )
}

//! What an agent costs on a real lab: CPU time and memory with idle guests, and the time that a
//! migration takes beyond the hypervisor's own.
//!
//! `cargo bench -p evenkeel --bench agent`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::fs;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_agent::Client;
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_lab::{AgentsSpec, Dirty, GuestSpec, HostSpec, Lab, LabSpec, Launcher};

type Failure = Box<dyn std::error::Error>;

/// How long an idle agent is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// Migrations to be measured, and how long they may take together.
const MIGRATIONS: usize = 20;
const MIGRATIONS_TIME_MAX: Duration = Duration::from_secs(180);

fn main() -> Result<(), Failure> {
    idle(50)?;
    migrations()
}

/// CPU and memory of an agent with `guests` idle guests, at the default intervals.
fn idle(guests: usize) -> Result<(), Failure> {
    let host = HostSpec { memory_mib: 16_384, ..HostSpec::new("h1", 2.0) };
    let guest = |index: usize| GuestSpec {
        dirty: Dirty { mib: 0, mib_per_s: 0 },
        report_ms: 10_000,
        ..GuestSpec::new(&format!("idle{index}"), "h1", 0)
    };
    let lab = up("idle", vec![host], (1..=guests).map(guest).collect(), "")?;
    let pid = agent_pid(&lab, "h1")?;
    // The first samples fill caches and parse every domain's definition.
    thread::sleep(Duration::from_secs(15));
    let (cpu, began) = (cpu_time(pid)?, Instant::now());
    thread::sleep(WATCHED);
    let share = (cpu_time(pid)? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("agent with {guests} idle guests, default intervals, over {} s:", WATCHED.as_secs());
    println!("  CPU        {:.3} % of a core", share * 100.0);
    println!(
        "  resident   {:.1} MB, of which {:.1} MB are its own",
        memory(pid, "VmRSS")?,
        memory(pid, "RssAnon")?
    );
    Ok(lab.down()?)
}

/// What a migration takes beyond the hypervisor's own time: from the inquiry to the other host's
/// word that it has the machine, less the time from the order to the hypervisor's answer.
fn migrations() -> Result<(), Failure> {
    let hosts = ["h1", "h2"].map(|id| HostSpec::new(id, 1.0)).to_vec();
    let guests: Vec<_> = (1..=6).map(|i| GuestSpec::new(&format!("g{i}"), "h1", 80)).collect();
    let balance = "[balance]\nround = '500ms'\nsample = '500ms'\nstale_after = '5s'\n\
                   cool_down = '0s'\ndead_band = 0.1\ngain_min = 0.02\n";
    let lab = up("moves", hosts, guests, balance)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Instant::now() + MIGRATIONS_TIME_MAX;
    let mut heavy = "h1";
    let mut beyond: Vec<u64> = Vec::new();
    let mut own: Vec<u64> = Vec::new();
    while beyond.len() < MIGRATIONS && Instant::now() < deadline {
        // Whatever is on one host burns, and what is on the other does not: then the other way.
        for host in lab.status()?.hosts {
            for guest in host.guests {
                // A guest that is just migrating does not answer; the next time it does.
                let _ = lab.set_burn(&guest, if host.id == heavy { 120 } else { 10 });
            }
        }
        thread::sleep(Duration::from_secs(6));
        heavy = if heavy == "h1" { "h2" } else { "h1" };
        (beyond, own) = (Vec::new(), Vec::new());
        for host in ["h1", "h2"] {
            let client = Client::new(&lab.agent_socket(host));
            for decision in runtime.block_on(client.decisions(1000))? {
                if let Some((rest, hypervisor)) = spent(&decision) {
                    beyond.push(rest);
                    own.push(hypervisor);
                }
            }
        }
    }
    println!("\n{} migrations of 32 MiB guests, milliseconds:", beyond.len());
    println!("                    median    p99");
    for (what, times) in [("hypervisor's own", &mut own), ("beyond that", &mut beyond)] {
        times.sort_unstable();
        let Some(last) = times.len().checked_sub(1) else { return Err("none happened".into()) };
        println!("  {what:<16} {:>7}  {:>6}", times[last / 2], times[last * 99 / 100]);
    }
    Ok(lab.down()?)
}

fn spent(decision: &Decision) -> Option<(u64, u64)> {
    let moved = decision.ending == Reason::Moved && decision.role == Some(Role::Source);
    let hypervisor = decision.stats.filter(|_| moved)?.elapsed_ms;
    let all = decision.ended.since(decision.began).as_millis();
    Some((u64::try_from(all).ok()?.saturating_sub(hypervisor), hypervisor))
}

fn up(
    name: &str,
    hosts: Vec<HostSpec>,
    guests: Vec<GuestSpec>,
    balance: &str,
) -> Result<Lab, Failure> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_evenkeel"));
    let launcher = Launcher {
        program: program.clone(),
        arguments: vec!["lab".to_owned(), "supervise".to_owned()],
        tied: true,
    };
    let dir = std::env::temp_dir().join(format!("ek-{name}-{}", process::id()));
    let agents = Some(AgentsSpec { program, extra_config: balance.to_owned(), background: false });
    Ok(Lab::up(&LabSpec { dir, hosts, guests, agents }, &launcher, &mut |_| {})?)
}

/// The process that was started with this host's configuration.
fn agent_pid(lab: &Lab, host: &str) -> Result<u32, Failure> {
    let config = lab.agent_config(host).display().to_string();
    let is_agent = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|w| *w == config) && words.iter().any(|w| w == "agent")
    };
    let pids =
        fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.into_iter().find(is_agent).ok_or_else(|| "the agent does not run".into())
}

/// CPU time of all its threads.
fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat"))?;
        sum += text.split_whitespace().next().ok_or("no figures")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// A figure of a process, in MB.
fn memory(pid: u32, which: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with(which)).ok_or("no such figure")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no figure")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

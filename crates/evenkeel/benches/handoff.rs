//! What a handoff takes beside libvirt alone, on a real lab: plain `virsh migrate`, Evenkeel's fast
//! commit point and its strict one, in turns of ten in one run.
//!
//! ```sh
//! cargo bench -p evenkeel --bench handoff              # a guest of 16 MB, 30 times each
//! GUEST_MIB=2048 TIMES=30 cargo bench -p evenkeel --bench handoff
//! EVENKEEL_BEFORE=$(scripts/previous COMMIT release) cargo bench -p evenkeel --bench handoff
//! ```
//!
//! With `EVENKEEL_BEFORE` agents of that program take their turns as well, by the fast commit point.
//!
//! All times come from what the two libvirts tell, on the one clock of this machine. The whole: from
//! the order (the start of `virsh`; the source's record that the migration begins) until the guest
//! runs on the other host and is gone from this one. The downtime: from when it is suspended here
//! until it runs there.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

#[path = "../tests/chaos/mod.rs"]
mod chaos;
#[path = "../tests/daemon/mod.rs"]
mod daemon;
mod rig;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../tests/swing/mod.rs"]
mod swing;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_core::handoff::Phase;
use rig::{GUEST, LIMIT, NAMES, number};
use swing::Swing;

/// By what a machine is moved: `virsh`, agents in a mode, or such agents of another program.
#[derive(Clone, Debug)]
enum Way {
    Virsh,
    Agents(&'static str),
    Before(PathBuf),
}

/// The ways take turns, since a machine is not as fast at any time.
const ROUNDS: usize = 3;
/// How often the source is asked when it has begun.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One migration, in milliseconds.
#[derive(Clone, Copy)]
struct Times {
    whole: f64,
    downtime: f64,
}

fn main() {
    let memory_mib = number("GUEST_MIB", 16);
    let times = number("TIMES", 30) as usize;
    let mut ways = vec![("virsh", Way::Virsh)];
    let before = std::env::var_os("EVENKEEL_BEFORE").map(PathBuf::from);
    ways.extend(before.map(|program| ("before", Way::Before(program))));
    ways.extend([("fast", Way::Agents("fast")), ("strict", Way::Agents("strict"))]);
    let mut all = vec![Vec::new(); ways.len()];
    for round in 0..ROUNDS {
        let share = times * (round + 1) / ROUNDS - times * round / ROUNDS;
        for ((_, way), all) in ways.iter().zip(&mut all) {
            all.extend(migrations(share, memory_mib, way));
        }
    }
    println!("{times} migrations each of a guest of {memory_mib} MiB, milliseconds:\n");
    println!(
        "{:<8} {:>12} {:>9} {:>15} {:>9}",
        "", "whole, median", "p99", "downtime, median", "p99"
    );
    let rows: Vec<_> = ways.iter().zip(&all).map(|((name, _), all)| row(name, all)).collect();
    let virsh = rows[0];
    for ((name, _), row) in ways.iter().zip(&rows).skip(1) {
        println!(
            "{name}: {:+.1} % of virsh's whole, {:+.0} ms; {:+.0} ms of downtime",
            (row.whole / virsh.whole - 1.0) * 100.0,
            row.whole - virsh.whole,
            row.downtime - virsh.downtime,
        );
    }
}

/// Migrates to and fro.
fn migrations(times: usize, memory_mib: u32, way: &Way) -> Vec<Times> {
    let handoff = |mode: &str| format!("[handoff]\nmode = '{mode}'\n");
    let automatic = "[operation]\nmode = 'automatic'\n";
    let mut swing = match way {
        Way::Virsh => rig::up(memory_mib, 2, None),
        Way::Agents(mode) => rig::up(memory_mib, 2, Some(&handoff(mode))),
        Way::Before(program) => {
            rig::up_before(memory_mib, 2, &format!("{}{automatic}", handoff("fast")), program)
        }
    };
    let one = if matches!(way, Way::Virsh) { by_virsh } else { by_agents };
    let all = (0..times)
        .map(|turn| {
            let (from, to) = (NAMES[turn % 2], NAMES[(turn + 1) % 2]);
            one(&mut swing, from, to)
        })
        .collect();
    swing.assert_unharmed();
    all
}

/// Prints a row. Returns the medians.
fn row(name: &str, all: &[Times]) -> Times {
    let median_and_p99 = |of: fn(&Times) -> f64| {
        let mut sorted: Vec<f64> = all.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        (sorted[last / 2], sorted[(last as f64 * 0.99).ceil() as usize])
    };
    let (whole, downtime) = (median_and_p99(|t| t.whole), median_and_p99(|t| t.downtime));
    println!(
        "{name:<8} {:>12.0} {:>9.0} {:>15.0} {:>9.0}",
        whole.0, whole.1, downtime.0, downtime.1
    );
    Times { whole: whole.0, downtime: downtime.0 }
}

fn by_virsh(swing: &mut Swing, from: &str, to: &str) -> Times {
    let since = swing.events.values().map(chaos::Events::count).collect::<Vec<_>>();
    let uri = |host| swing.cluster.lab().uri(host).expect("a host of the lab");
    let began = now_ms();
    let migrated = Command::new("virsh")
        .args(["--quiet", "--connect", &uri(from), "migrate", "--live", "--p2p"])
        .args(["--auto-converge", "--migrateuri", "tcp://127.0.0.1"])
        .args(["--listen-address", "127.0.0.1", "--persistent", "--undefinesource"])
        .args([GUEST, &uri(to)])
        .stdin(Stdio::null())
        .status()
        .expect("virsh starts");
    assert!(migrated.success());
    ended(swing, from, to, &since, began)
}

fn by_agents(swing: &mut Swing, from: &str, to: &str) -> Times {
    let since = swing.events.values().map(chaos::Events::count).collect::<Vec<_>>();
    swing.tip(&[from]);
    let deadline = Instant::now() + LIMIT;
    let began = loop {
        let handoffs = swing.cluster.status(from).map(|status| status.handoffs);
        let transferring =
            |h: &evenkeel_agent::status::HandoffStatus| h.phase == Phase::Transferring;
        if let Some(handoff) = handoffs.and_then(|all| all.into_iter().find(transferring)) {
            break handoff.since.unix_ms() as f64;
        }
        assert!(Instant::now() < deadline, "no migration began");
        thread::sleep(LOOK_AGAIN);
    };
    let times = ended(swing, from, to, &since, began);
    swing.settle("a migration", LIMIT);
    times
}

/// When libvirt says that it is over.
fn ended(swing: &Swing, from: &str, to: &str, since: &[usize], began: f64) -> Times {
    let at = |host: &str, says: &str| {
        let since = since[usize::from(host != NAMES[0])];
        let line = swing.events[host].wait_for(since, GUEST, says, LIMIT);
        stamp_ms(&line.unwrap_or_else(|lines| panic!("no `{says}`:\n{lines}")))
    };
    let suspended = at(from, "Suspended Migrated");
    let resumed = at(to, "Resumed ");
    let gone = at(from, "Stopped Migrated");
    Times { whole: resumed.max(gone) - began, downtime: resumed - suspended }
}

fn now_ms() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    now.as_secs_f64() * 1000.0
}

/// The time in front of what virsh prints: `2026-11-23 04:58:55.985+0000: event …`.
fn stamp_ms(line: &str) -> f64 {
    let stamp = line.split(": event").next().unwrap_or_default().replacen(' ', "T", 1);
    let stamp: jiff::Timestamp = stamp.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    stamp.as_millisecond() as f64
}

//! What carrying a machine's memory over the agents' own link takes beside plain TCP between two
//! QEMUs and libvirt's own tunnel, in turns in one run: the same guest, which dirties memory
//! meanwhile, goes to and fro between two hosts of a lab.
//!
//! ```sh
//! cargo bench -p evenkeel --bench carrier              # 2 GiB, 20 MiB/s dirtied, 5 turns
//! GUEST_MIB=512 DIRTY_MIB_PER_S=5 TIMES=10 cargo bench -p evenkeel --bench carrier
//! LINK_MIB_PER_S=119 cargo bench -p evenkeel --bench carrier      # no faster than 1 Gbit/s
//! ```
//!
//! Over loopback everything is as fast as the processors let it. With `LINK_MIB_PER_S` libvirt is told
//! to send no faster than that, each way.
//!
//! All figures are those that libvirt keeps of a completed migration, on the host where it arrived.
//! With agents the machine goes by their fast commit point, which is libvirt's own.
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

use std::env;

use rig::{GUEST, LIMIT, NAMES, number};
use swing::Swing;

const MIB: f64 = (1 << 20) as f64;

/// By which way a machine's memory goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Tcp,
    Tunnelled,
    Carried,
}

const WAYS: [(Way, &str); 3] = [
    (Way::Tcp, "TCP between the QEMUs"),
    (Way::Tunnelled, "libvirt's tunnel"),
    (Way::Carried, "carried by agents, TLS"),
];

/// One migration.
#[derive(Clone, Copy)]
struct Cost {
    whole_ms: f64,
    downtime_ms: f64,
    mib_per_s: f64,
}

fn main() {
    let (memory_mib, dirty) = (number("GUEST_MIB", 2048), number("DIRTY_MIB_PER_S", 20));
    let times = number("TIMES", 5);
    let link = env::var_os("LINK_MIB_PER_S").map(|_| number("LINK_MIB_PER_S", 0));
    let bound = link.map(|mib| format!("migration_bandwidth = '{mib}MiB'\n")).unwrap_or_default();
    let config = format!("{bound}[handoff]\nmode = 'fast'\n");
    let mut swing = rig::up(memory_mib, dirty, Some(&config));
    assert!(swing.places["h1"].lab.is_some(), "hosts have no views of their own here");
    println!(
        "{times} migrations each of a guest of {memory_mib} MiB that dirties {dirty} MiB/s{}:\n",
        link.map_or_else(String::new, |mib| format!(", at most {mib} MiB/s of it sent"))
    );
    let mut costs: Vec<(Way, Cost)> = Vec::new();
    let mut at = 0;
    for _ in 0..times {
        for (way, _) in WAYS {
            let (from, to) = (NAMES[at], NAMES[1 - at]);
            match way {
                Way::Carried => by_agents(&mut swing, from, to),
                _ => by_virsh(&swing, way, link, from, to),
            }
            costs.push((way, cost(&swing, to)));
            at = 1 - at;
        }
    }
    swing.assert_unharmed();
    print(&costs);
}

fn by_virsh(swing: &Swing, way: Way, link: Option<u32>, from: &str, to: &str) {
    let uri = |host| swing.cluster.lab().uri(host).expect("a host of the lab");
    let destination = uri(to);
    let mut arguments = vec!["migrate", "--live", "--p2p", "--auto-converge", "--persistent"];
    arguments.push("--undefinesource");
    match way {
        Way::Tunnelled => arguments.push("--tunnelled"),
        _ => {
            arguments.extend(["--migrateuri", "tcp://127.0.0.1", "--listen-address", "127.0.0.1"]);
        }
    }
    let link = link.map(|mib| mib.to_string());
    arguments.extend(link.iter().flat_map(|mib| ["--bandwidth", mib]));
    arguments.extend([GUEST, destination.as_str()]);
    chaos::virsh(&uri(from), &arguments).unwrap_or_else(|error| panic!("{way:?}: {error}"));
}

fn by_agents(swing: &mut Swing, from: &str, to: &str) {
    swing.tip(&[from]);
    swing.cluster.until(LIMIT, "the guest on the other host", |_| {
        (swing.state(to, GUEST) == "running" && swing.state(from, GUEST) == "absent").then_some(())
    });
    swing.tip(&[]);
    swing.settle("a migration", LIMIT);
}

/// What libvirt says that the migration to this host has cost.
fn cost(swing: &Swing, host: &str) -> Cost {
    let asked = swing.cluster.virsh(host, &["domjobinfo", GUEST, "--completed", "--rawstats"]);
    let stats = asked.unwrap_or_else(|error| panic!("{error}"));
    let field = |name: &str| {
        let line = stats.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|value| value.trim().parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in:\n{stats}"))
    };
    let whole_ms = field("time_elapsed");
    Cost {
        whole_ms,
        downtime_ms: field("downtime"),
        mib_per_s: field("memory_processed") / MIB / (whole_ms / 1000.0),
    }
}

fn print(costs: &[(Way, Cost)]) {
    println!(
        "{:<24} {:>10} {:>9} {:>11} {:>14} {:>9}",
        "median (worst)", "whole, ms", "", "MiB/s", "downtime, ms", ""
    );
    let mut plain = 0.0;
    for (way, name) in WAYS {
        let of = |pick: fn(&Cost) -> f64| {
            let mut all: Vec<f64> =
                costs.iter().filter(|(w, _)| *w == way).map(|(_, cost)| pick(cost)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (whole, downtime) = (of(|cost| cost.whole_ms), of(|cost| cost.downtime_ms));
        let speed = of(|cost| cost.mib_per_s);
        let middle = whole.len() / 2;
        if way == Way::Tcp {
            plain = speed[middle];
        }
        println!(
            "{name:<24} {:>10.0} {:>9} {:>5.0} {:>5} {:>14.0} {:>9}",
            whole[middle],
            format!("({:.0})", whole[whole.len() - 1]),
            speed[middle],
            format!("{:.0} %", speed[middle] / plain * 100.0),
            downtime[middle],
            format!("({:.0})", downtime[downtime.len() - 1]),
        );
    }
}

//! Many handoffs under random faults: four hosts hand their guests to and fro, while agents,
//! libvirts and QEMUs are killed and stopped, links cut and disks filled at random moments. Every
//! guest must come through it: on exactly one host, its numbers without a gap or a repetition, its
//! memory verified.
//!
//! ```sh
//! HANDOFFS=3000 SEED=7 cargo test -p evenkeel --test handoff_soak -- --nocapture
//! ```

mod chaos;
mod daemon;
mod support;
mod swing;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_core::decision::{Decision, Role};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rustix::process::Signal;
use swing::{Fault, Process, Swing, swinger};

/// Handoffs that are to have ended, unless the environment says otherwise.
const HANDOFFS: usize = 300;
const HOSTS: usize = 4;
const GUESTS: usize = 12;
const STRICT: &str = "[handoff]\nmode = 'strict'\n";
/// Faults between two checks that everything is well.
const FAULTS_PER_CHECK: usize = 25;
/// Without faults everything is at rest within this.
const BOUND: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    AgentKilled,
    AgentStopped,
    LibvirtKilled,
    LibvirtStopped,
    QemuStopped,
    AgentsCutOff,
    LibvirtsCutOff,
    LibvirtsReset,
    MemoryCutOff,
    MemoryReset,
    DiskFull,
}

const KINDS: [Kind; 11] = [
    Kind::AgentKilled,
    Kind::AgentStopped,
    Kind::LibvirtKilled,
    Kind::LibvirtStopped,
    Kind::QemuStopped,
    Kind::AgentsCutOff,
    Kind::LibvirtsCutOff,
    Kind::LibvirtsReset,
    Kind::MemoryCutOff,
    Kind::MemoryReset,
    Kind::DiskFull,
];

/// Lets a fault of this kind befall a random host for a random time.
fn befall(swing: &mut Swing, kind: Kind, rng: &mut ChaCha12Rng) {
    let host = swing.hosts().choose(rng).expect("there are hosts").clone();
    let guest = swing.guests.choose(rng).expect("there are guests").clone();
    let span = Duration::from_millis(rng.random_range(100..2000));
    let links = swing.links.clone();
    let process = match kind {
        Kind::AgentKilled | Kind::AgentStopped => Process::Agent,
        Kind::LibvirtKilled | Kind::LibvirtStopped => Process::Libvirt,
        _ => Process::Qemu,
    };
    match kind {
        Kind::AgentKilled | Kind::LibvirtKilled => {
            let pid = swing.pid(&host, process, &guest);
            swing.strike(&host, process, &guest, Fault::Kill);
            thread::sleep(span / 4);
            swing.heal(&host, process, pid, Fault::Kill);
        }
        Kind::AgentStopped | Kind::LibvirtStopped | Kind::QemuStopped => {
            let Some(pid) = swing.pid(&host, process, &guest) else { return };
            chaos::signal(pid, Signal::STOP);
            thread::sleep(span);
            chaos::signal(pid, Signal::CONT);
        }
        Kind::AgentsCutOff | Kind::LibvirtsCutOff | Kind::MemoryCutOff => {
            let link = match kind {
                Kind::AgentsCutOff => links.agents,
                Kind::LibvirtsCutOff => links.libvirts,
                _ => links.memory,
            };
            link.cut();
            thread::sleep(span);
            link.mend();
        }
        Kind::LibvirtsReset => links.libvirts.reset(),
        Kind::MemoryReset => links.memory.reset(),
        Kind::DiskFull => {
            swing.daemon(&host).limit_files(Some(4096));
            thread::sleep(span);
            swing.daemon(&host).limit_files(None);
        }
    }
}

/// The handoffs that have ended, by how the source's record says.
fn endings(swing: &Swing) -> BTreeMap<&'static str, usize> {
    let all: Vec<Decision> = swing.cluster.decisions();
    let mut endings = BTreeMap::new();
    for decision in all.iter().filter(|d| d.handoff.is_some() && d.role == Some(Role::Source)) {
        *endings.entry(decision.ending.code()).or_default() += 1;
    }
    endings
}

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn guests_come_through_many_handoffs_under_random_faults() {
    let wanted = number("HANDOFFS", HANDOFFS as u64) as usize;
    let seed = number("SEED", u64::from(std::process::id()));
    eprintln!("HANDOFFS={wanted} SEED={seed}");
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let guests = (1..=GUESTS).map(|n| swinger(&format!("guest{n}"), "h1", 2)).collect();
    let mut swing = Swing::up(HOSTS, guests, STRICT);
    let began = Instant::now();
    let mut faults: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    loop {
        for _ in 0..FAULTS_PER_CHECK {
            // Half of the hosts drive their guests away, now these and now those.
            let hosts = swing.hosts();
            let heavy: Vec<&str> = hosts.sample(&mut rng, HOSTS / 2).map(String::as_str).collect();
            swing.tip(&heavy);
            thread::sleep(Duration::from_millis(rng.random_range(0..2000)));
            let kind = *KINDS.choose(&mut rng).expect("there are kinds");
            *faults.entry(kind).or_default() += 1;
            befall(&mut swing, kind, &mut rng);
        }
        swing.tip(&[]);
        slowest = slowest.max(swing.settle("random faults", BOUND));
        swing.assert_unharmed();
        let endings = endings(&swing);
        let ended: usize = endings.values().sum();
        eprintln!("{:4.0} s: {ended} handoffs: {endings:?}", began.elapsed().as_secs_f64());
        if ended >= wanted {
            break;
        }
    }
    eprintln!("faults: {faults:?}");
    eprintln!("slowest to come to rest: {:.1} s", slowest.as_secs_f64());
    eprintln!("{GUESTS} guests and {HOSTS} anchors on {HOSTS} hosts, all unharmed");
}

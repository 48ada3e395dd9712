//! The cable between two hosts pulled, cut in silence, and cut in one direction, at every phase of a
//! strict handoff. Everything that two hosts say to each other is on it: membership, the exchange, the
//! handoff, libvirt's control connection and the machine's memory. As root only, who may make network
//! namespaces.

mod chaos;
mod daemon;
mod skips;
mod support;
mod swing;

use std::thread;
use std::time::{Duration, Instant};

use chaos::wire::{Fault, Wire};
use swing::{Swing, swinger};

const GUEST: &str = "mover";
const STRICT: &str = "migration_bandwidth = '16MB'\n[handoff]\nmode = 'strict'\n";
/// After a fault everything is at rest again within this.
const BOUND: Duration = Duration::from_secs(90);
/// Longer than an exchange waits for an answer.
const SHORT: Duration = Duration::from_secs(4);
/// Longer than anything that carries a machine outlasts: TCP gives up after 30 s.
const LONG: Duration = Duration::from_secs(40);

/// Moments of a handoff, by which end's libvirt tells them: 0 the source's, 1 the target's.
const MOMENTS: [(&str, usize, &str); 4] = [
    ("the memory is on its way", 0, "migration-iteration"),
    ("the source is suspended", 0, "Suspended Migrated"),
    ("the target holds it", 1, "Suspended Paused"),
    ("the source has let go", 0, "Stopped Migrated"),
];

/// Waits for the moment in a handoff that begins now, cuts the wire for so long, and waits until
/// everything is at rest.
fn befall(swing: &Swing, wire: &Wire, moment: (&str, usize, &str), fault: Fault, lasts: Duration) {
    let (name, end, says) = moment;
    let what = format!("{fault:?} for {} s when {name}", lasts.as_secs());
    let from = swing.home(GUEST).expect("it is at rest");
    let to = if from == "h1" { "h2" } else { "h1" };
    let heard = &swing.events[[from.as_str(), to][end]];
    let since = heard.count();
    swing.tip(&[&from]);
    heard.wait(since, GUEST, says);
    wire.cut(fault);
    let mends = Instant::now() + lasts;
    while Instant::now() < mends {
        let runs = ["h1", "h2"].iter().filter(|host| swing.state(host, GUEST) == "running");
        assert!(runs.count() <= 1, "it runs twice: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    wire.mend();
    swing.tip(&[]);
    let took = swing.settle(&what, BOUND);
    let home = swing.home(GUEST).expect("it is at rest");
    swing.assert_unharmed();
    assert_eq!(swing.autostarted_on(GUEST), std::slice::from_ref(&home), "after {what}");
    eprintln!("{what}: at rest on {home} after {:.1} s", took.as_secs_f64());
}

/// Cuts the wire in each of these ways at each of these moments.
fn befall_all(moments: &[(&str, usize, &str)], faults: &[Fault], lasts: Duration) {
    let wire = match Wire::lay() {
        Ok(wire) => wire,
        Err(why) => {
            return skips::skip(&format!("no network namespaces can be made here: {why}"));
        }
    };
    let swing = Swing::on_wire(vec![swinger(GUEST, "h1", 12)], STRICT, &wire);
    swing.cluster.virsh("h1", &["autostart", GUEST]).expect("it is there");
    for moment in moments {
        for &fault in faults {
            befall(&swing, &wire, *moment, fault, lasts);
        }
    }
}

#[test]
fn a_handoff_survives_a_cable_that_is_pulled_or_falls_silent_at_every_phase() {
    befall_all(&MOMENTS, &[Fault::Pulled, Fault::Silent], SHORT);
}

#[test]
fn a_handoff_survives_a_cable_that_carries_one_way_only_at_every_phase() {
    befall_all(&MOMENTS, &[Fault::OneWay(0), Fault::OneWay(1)], SHORT);
}

#[test]
fn a_handoff_survives_a_silence_that_outlasts_every_connection() {
    befall_all(&MOMENTS[1..3], &[Fault::Silent], LONG);
}

//! Agents, libvirts and QEMUs killed and stopped at every phase of a strict handoff, on both sides.
//! After each: the guest runs on exactly one host, its numbers without a gap or a repetition, its
//! memory verified, and is started at boot there and nowhere else.

mod chaos;
mod daemon;
mod support;
mod swing;

use std::time::Duration;

use evenkeel_agent::Status;
use support::LIMIT;
use swing::{Fault, Process, Swing, swinger};

const GUEST: &str = "mover";
const STRICT: &str = "migration_bandwidth = '16MB'\n[handoff]\nmode = 'strict'\n";
/// After a fault everything is at rest again within this.
const BOUND: Duration = Duration::from_secs(60);

/// A side of the handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

/// A moment of a handoff, as the libvirt of one side tells it.
#[derive(Clone, Copy, Debug)]
struct Moment {
    name: &'static str,
    side: Side,
    says: &'static str,
}

const MOMENTS: [Moment; 6] = [
    Moment { name: "the target is prepared", side: Side::Target, says: "Started Migrated" },
    Moment { name: "the memory is on its way", side: Side::Source, says: "migration-iteration" },
    Moment { name: "the source is suspended", side: Side::Source, says: "Suspended Migrated" },
    Moment { name: "the target holds it", side: Side::Target, says: "Suspended Paused" },
    Moment { name: "the source has let go", side: Side::Source, says: "Stopped Migrated" },
    Moment { name: "the target lets it run", side: Side::Target, says: "Resumed Unpaused" },
];

/// How often a fault may come too late before its test fails.
const ATTEMPTS: usize = 5;

/// Whether the process still exists at this moment of [`MOMENTS`]: the source's QEMU ends when the source
/// lets go.
fn exists(process: Process, side: Side, moment: usize) -> bool {
    !matches!((process, side), (Process::Qemu, Side::Source)) || moment < 4
}

/// Strikes at this moment of a handoff. A process can end between the moment and the strike; the next
/// handoff is another attempt.
fn befall(swing: &mut Swing, moment: Moment, side: Side, process: Process, fault: Fault) {
    let hit = (0..ATTEMPTS).any(|_| attempt(swing, moment, side, process, fault));
    let name = moment.name;
    assert!(hit, "{fault:?} missed {process:?} of the {side:?} {ATTEMPTS} times when {name}");
}

/// Waits for the moment in a handoff that begins now, lets the fault befall the process, undoes it,
/// and waits until everything is at rest. Says whether the process was hit.
fn attempt(swing: &mut Swing, moment: Moment, side: Side, process: Process, fault: Fault) -> bool {
    let what = format!("{process:?} of the {side:?} was hit by {fault:?} when {}", moment.name);
    let from = swing.home(GUEST).expect("it is at rest");
    let to = if from == "h1" { "h2" } else { "h1" };
    let of = |side| if side == Side::Source { from.as_str() } else { to };
    let heard = &swing.events[of(moment.side)];
    let since = heard.count();
    swing.tip(&[&from]);
    heard.wait(since, GUEST, moment.says);
    let victim = of(side).to_owned();
    let pid = swing.pid(&victim, process, GUEST);
    let hit = swing.strike(&victim, process, GUEST, fault);
    swing.heal(&victim, process, pid, fault);
    swing.tip(&[]);
    let took = swing.settle(&what, BOUND);
    let home = swing.home(GUEST).expect("it is at rest");
    swing.assert_unharmed();
    assert_eq!(swing.autostarted_on(GUEST), std::slice::from_ref(&home), "after {what}");
    let said = if hit { "" } else { " (it had gone already)" };
    eprintln!("{what}{said}: at rest on {home} after {:.1} s", took.as_secs_f64());
    hit
}

/// Goes through every moment for these processes.
fn befall_all(fault: Fault, processes: &[Process]) {
    let mut swing = Swing::up(2, vec![swinger(GUEST, "h1", 12)], STRICT);
    swing.cluster.virsh("h1", &["autostart", GUEST]).expect("it is there");
    for (index, moment) in MOMENTS.into_iter().enumerate() {
        for side in [Side::Source, Side::Target] {
            for &process in processes.iter().filter(|process| exists(**process, side, index)) {
                befall(&mut swing, moment, side, process, fault);
            }
        }
    }
}

#[test]
fn a_handoff_survives_the_death_of_an_agent_at_every_phase() {
    befall_all(Fault::Kill, &[Process::Agent]);
}

#[test]
fn a_handoff_survives_the_death_of_a_libvirt_at_every_phase() {
    befall_all(Fault::Kill, &[Process::Libvirt]);
}

#[test]
fn a_handoff_survives_agents_that_stand_still_at_every_phase() {
    befall_all(Fault::Stop, &[Process::Agent]);
}

#[test]
fn a_handoff_survives_libvirts_and_qemus_that_stand_still_at_every_phase() {
    befall_all(Fault::Stop, &[Process::Libvirt, Process::Qemu]);
}

#[test]
fn a_guest_that_is_started_at_boot_runs_again_whichever_host_loses_power_at_any_phase() {
    let mut swing = Swing::up(2, vec![swinger(GUEST, "h1", 12)], STRICT);
    for (host, guest) in [("h1", GUEST), ("h1", "anchor1"), ("h2", "anchor2")] {
        swing.cluster.virsh(host, &["autostart", guest]).expect("it is there");
    }
    for moment in MOMENTS {
        for side in [Side::Source, Side::Target] {
            let what = format!("the {side:?} lost its power when {}", moment.name);
            let from = swing.home(GUEST).expect("it is at rest");
            let to = if from == "h1" { "h2" } else { "h1" };
            let of = |side| if side == Side::Source { from.as_str() } else { to };
            let heard = &swing.events[of(moment.side)];
            let since = heard.count();
            swing.tip(&[&from]);
            heard.wait(since, GUEST, moment.says);
            let victim = of(side).to_owned();
            swing.power_cycle(&victim);
            swing.tip(&[]);
            // With its agent goes what a source has seen of the last moments.
            let took = swing.settle_with_an_operator(&what, BOUND);
            let home = swing.home(GUEST).expect("it is at rest");
            assert_eq!(swing.autostarted_on(GUEST), std::slice::from_ref(&home), "after {what}");
            eprintln!("{what}: runs on {home} after {:.1} s", took.as_secs_f64());
        }
    }
}

/// The memory of a guest is in its QEMU: one that is killed takes with it what it holds. What may
/// never follow is a second copy, or a copy of which nobody knows.
#[test]
fn a_qemu_that_is_killed_ends_at_most_the_copy_in_it() {
    for (index, moment) in MOMENTS.into_iter().enumerate() {
        for side in [Side::Source, Side::Target] {
            if !exists(Process::Qemu, side, index) {
                continue;
            }
            let hit = (0..ATTEMPTS).any(|_| a_qemu_is_killed(index, moment, side));
            assert!(hit, "QEMU of the {side:?} was gone {ATTEMPTS} times when {}", moment.name);
        }
    }
}

/// Says whether QEMU was still there to be killed.
fn a_qemu_is_killed(index: usize, moment: Moment, side: Side) -> bool {
    let mut swing = Swing::up(2, vec![swinger(GUEST, "h1", 12)], STRICT);
    let heard = if moment.side == Side::Source { "h1" } else { "h2" };
    let since = swing.events[heard].count();
    swing.tip(&["h1"]);
    swing.events[heard].wait(since, GUEST, moment.says);
    let victim = if side == Side::Source { "h1" } else { "h2" };
    let hit = swing.strike(victim, Process::Qemu, GUEST, Fault::Kill);
    let what = format!("QEMU of the {side:?} was killed when {}", moment.name);
    swing.tip(&[]);
    // A handoff that began after that one is to end, too.
    swing.cluster.until(LIMIT, &format!("an end of it after {what}"), |cluster| {
        let statuses = cluster.statuses();
        let idle = |s: &Status| s.handoffs.is_empty() && s.talking_to.is_none();
        let there = ["h1", "h2"].iter().filter(|host| swing.state(host, GUEST) != "absent");
        (statuses.len() == 2 && statuses.iter().all(idle) && there.count() == 1).then_some(())
    });
    let states = ["h1", "h2"].map(|host| swing.state(host, GUEST));
    let running = states.iter().filter(|state| *state == "running").count();
    let defined = states.iter().filter(|state| *state != "absent").count();
    // The copy that was not hit runs on: the source's until it is suspended, the target's
    // once it is complete. In between the kill may have met either.
    let survives = side == Side::Target && index < 2;
    assert!(defined == 1 && running <= 1, "after {what}: {states:?}");
    assert!(running == 1 || !survives, "after {what}: {states:?}");
    if running == 1 {
        swing.assert_unharmed();
    }
    eprintln!("{what}{}: {states:?}", if hit { "" } else { " (it had gone already)" });
    hit
}

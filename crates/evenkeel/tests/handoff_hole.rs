//! The hole that libvirt documents in its own migration: when the answer to its last step is lost,
//! the source runs the guest on while the destination runs it too. Here without Evenkeel, by
//! libvirt alone; and how it is closed.

mod chaos;
mod support;

use std::process::Command;

use chaos::Events;
use chaos::links::{self, Link};
use rustix::process::Signal;
use support::{Cluster, LIMIT, alike, idle};

const GUEST: &str = "guest";

/// Migrates the guest from `h1` to `h2`, and kills the libvirt of `h2` when that has said `moment`,
/// with its answer to the last step on the way. Starts it again, and returns how the guest is on both
/// hosts.
fn finish_and_die(cluster: &Cluster, moment: &str, flags: &[&str]) -> [String; 2] {
    let lab = cluster.lab();
    let (source, target) = (Events::of(lab, "h1"), Events::of(lab, "h2"));
    let link = Link::default();
    let proxy = lab.dir().join("h2/proxy.sock");
    links::unix(&proxy, lab.dir().join("h2/run/libvirt/libvirt-sock"), &link);
    let mut migrate = Command::new("virsh")
        .args(["--quiet", "--connect", &lab.uri("h1").expect("a host of the lab")])
        .args(["migrate", "--live", "--p2p", "--persistent", "--undefinesource"])
        .args(["--migrateuri", "tcp://127.0.0.1", "--listen-address", "127.0.0.1"])
        .args(["--bandwidth", "4"])
        .args(flags)
        .args([GUEST, &format!("qemu+unix:///session?socket={}", proxy.display())])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("virsh starts");
    source.wait(0, GUEST, "migration-iteration");
    // The next answer is the one to the last step.
    link.hold_answers();
    target.wait(0, GUEST, moment);
    let daemon = chaos::libvirtd(lab, "h2").expect("it runs");
    assert!(chaos::signal(daemon, Signal::KILL));
    link.reset();
    let migrated = migrate.wait().expect("it ends");
    assert!(!migrated.success(), "the answer was not lost");
    chaos::revive_libvirt(lab, "h2");
    ["h1", "h2"].map(|host| {
        let state = cluster.virsh(host, &["domstate", GUEST]);
        state.map_or_else(|_| "absent".to_owned(), |state| state.trim().to_owned())
    })
}

fn cluster() -> Cluster {
    let cluster = Cluster::try_up(alike(2, 1.0), vec![idle(GUEST, "h1")], None);
    let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    cluster.lab().await_report(GUEST, LIMIT).expect("it runs");
    cluster
}

#[test]
fn libvirt_alone_runs_a_guest_twice_when_the_answer_to_its_last_step_is_lost() {
    let cluster = cluster();
    let states = finish_and_die(&cluster, "Resumed Migrated", &[]);
    assert_eq!(states, ["running", "running"]);
    // Both go on with the same numbers.
    cluster.until(LIMIT, "a report that came twice", |cluster| {
        let console = cluster.lab().console(GUEST).expect("it has a console");
        let verdict = console.verify();
        (verdict.repeated + verdict.torn_lines > 0).then_some(())
    });
}

#[test]
fn a_copy_that_arrives_paused_is_harmless_when_the_answer_is_lost() {
    let cluster = cluster();
    let states = finish_and_die(&cluster, "Suspended Paused", &["--suspend"]);
    // The source runs on; libvirt itself ends the copy of which nobody has heard.
    assert_eq!(states, ["running", "shut off"]);
    cluster.assert_unharmed(&[GUEST]);
}

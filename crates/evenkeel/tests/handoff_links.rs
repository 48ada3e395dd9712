//! Links cut and disks full in the middle of a strict handoff: between the agents, between the
//! libvirts, between the QEMUs, and under a store. The guest never runs twice, is never lost, and
//! where nobody can know it waits, with an alarm.

mod chaos;
mod daemon;
mod skips;
mod support;
mod swing;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use daemon::Daemon;
use daemon::read_only::ReadOnlyStore;
use evenkeel_core::handoff::Phase;
use support::LIMIT;
use swing::{Fault, Process, Swing, swinger};

const GUEST: &str = "mover";
const STRICT: &str = "migration_bandwidth = '16MB'\n[handoff]\nmode = 'strict'\n";
const FAST: &str = "migration_bandwidth = '16MB'\n[handoff]\nmode = 'fast'\n";
const BOUND: Duration = Duration::from_secs(90);
/// How long a state is watched that must last.
const LASTING: Duration = Duration::from_secs(5);

/// Two hosts and a guest on the first that begins to move to the second; returns at this moment.
fn under_way(mode: &str, host: &str, says: &str) -> Swing {
    let swing = Swing::up(2, vec![swinger(GUEST, "h1", 12)], mode);
    swing.cluster.virsh("h1", &["autostart", GUEST]).expect("it is there");
    swing
        .cluster
        .until(LIMIT, "an agent that knows", |cluster| cluster.machine_on("h1", GUEST).map(drop));
    let since = swing.events[host].count();
    swing.tip(&["h1"]);
    swing.events[host].wait(since, GUEST, says);
    swing
}

fn states(swing: &Swing) -> [String; 2] {
    ["h1", "h2"].map(|host| swing.state(host, GUEST))
}

/// Waits until libvirt has cleared up after a migration.
fn clears_up(swing: &Swing, states_wanted: [&str; 2]) {
    swing.cluster.until(LIMIT, "libvirt to have cleared up", |_| {
        (states(swing) == states_wanted).then_some(())
    });
}

/// Watches that the guest stays as it is then.
fn lasts(swing: &Swing, states_wanted: [&str; 2]) {
    clears_up(swing, states_wanted);
    let end = std::time::Instant::now() + LASTING;
    while std::time::Instant::now() < end {
        assert_eq!(states(swing), states_wanted);
        thread::sleep(Duration::from_millis(200));
    }
}

fn comes_to_rest(swing: &Swing, what: &str) -> String {
    swing.tip(&[]);
    swing.settle(what, BOUND);
    swing.assert_unharmed();
    let home = swing.home(GUEST).expect("it is at rest");
    assert_eq!(swing.autostarted_on(GUEST), std::slice::from_ref(&home), "after {what}");
    home
}

#[test]
fn a_copy_that_is_held_waits_as_long_as_its_source_cannot_be_heard() {
    let swing = under_way(STRICT, "h1", "Suspended Migrated");
    swing.links.agents.cut();
    swing.cluster.until(LIMIT, "a copy that waits", |cluster| {
        let held = cluster.status("h2")?.handoffs.first()?.phase == Phase::Holding;
        (held && swing.state("h1", GUEST) == "absent").then_some(())
    });
    lasts(&swing, ["absent", "paused"]);
    swing.links.agents.mend();
    assert_eq!(comes_to_rest(&swing, "the agents' link was cut"), "h2");
}

#[test]
fn the_lost_answer_that_makes_libvirt_run_a_guest_twice_is_harmless() {
    let swing = under_way(STRICT, "h2", "Suspended Paused");
    // The answer to the last step is on its way.
    swing.links.libvirts.reset();
    let home = comes_to_rest(&swing, "the answer to the last step was lost");
    eprintln!("at rest on {home}");
}

#[test]
fn a_guest_that_libvirt_runs_twice_raises_an_alarm_and_is_not_killed() {
    let mut swing = under_way(FAST, "h1", "migration-iteration");
    // The next answer is the one to the last step.
    swing.links.libvirts.hold_answers();
    swing.events["h2"].wait(0, GUEST, "Resumed Migrated");
    assert!(swing.strike("h2", Process::Libvirt, GUEST, Fault::Kill));
    swing.links.libvirts.reset();
    swing.links.libvirts.mend();
    swing.heal("h2", Process::Libvirt, None, Fault::Kill);
    assert_eq!(states(&swing), ["running", "running"], "libvirt alone did not do so");
    swing.cluster.until(LIMIT, "an alarm on a host", |cluster| {
        let alarm = |status: &evenkeel_agent::Status| status.handoffs.iter().any(|h| h.alarm);
        cluster.statuses().iter().any(alarm).then_some(())
    });
    lasts(&swing, ["running", "running"]);
}

#[test]
fn a_libvirt_link_that_is_cut_costs_a_migration_at_most() {
    for says in ["migration-iteration", "Suspended Migrated"] {
        let swing = under_way(STRICT, "h1", says);
        swing.links.libvirts.cut();
        thread::sleep(LASTING);
        swing.links.libvirts.mend();
        comes_to_rest(&swing, &format!("libvirt's link was cut at `{says}`"));
    }
}

#[test]
fn a_memory_stream_that_is_cut_or_broken_costs_a_migration_at_most() {
    let swing = under_way(STRICT, "h1", "migration-iteration");
    swing.links.memory.cut();
    thread::sleep(LASTING);
    swing.links.memory.mend();
    comes_to_rest(&swing, "the stream of memory stood still");
    let swing = under_way(STRICT, "h1", "migration-iteration");
    swing.links.memory.reset();
    comes_to_rest(&swing, "the stream of memory was broken");
}

#[test]
fn without_room_for_a_record_nobody_lets_go_and_nobody_takes() {
    // The source cannot write that it has released the guest: it says nothing, and the copy waits.
    let swing = under_way(STRICT, "h1", "Suspended Migrated");
    swing.daemon("h1").limit_files(Some(4096));
    swing.daemon("h1").await_log(&["not made durable"]);
    lasts(&swing, ["absent", "paused"]);
    swing.daemon("h1").limit_files(None);
    assert_eq!(comes_to_rest(&swing, "the source's disk was full"), "h2");
    // The target cannot write that it has taken it: it does not let it run.
    let swing = under_way(STRICT, "h1", "Suspended Migrated");
    swing.daemon("h2").limit_files(Some(4096));
    swing.daemon("h2").await_log(&["not made durable"]);
    lasts(&swing, ["absent", "paused"]);
    swing.daemon("h2").limit_files(None);
    assert_eq!(comes_to_rest(&swing, "the target's disk was full"), "h2");
}

#[test]
fn with_a_store_that_is_read_only_nobody_lets_go_and_nobody_takes() {
    // The one cannot write that it has released the guest, the other that it has taken it.
    for host in ["h1", "h2"] {
        let swing = under_way(STRICT, "h1", "Suspended Migrated");
        let Some(read_only) = ReadOnlyStore::of(&swing.places[host]) else {
            skips::skip("no file of this user can be made immutable here");
            return;
        };
        swing.daemon(host).await_log(&["not made durable"]);
        lasts(&swing, ["absent", "paused"]);
        drop(read_only);
        assert_eq!(comes_to_rest(&swing, &format!("the store of {host} was read-only")), "h2");
    }
}

#[test]
fn a_copy_waits_while_its_agent_is_refused_for_a_store_that_is_read_only() {
    let mut swing = under_way(STRICT, "h1", "Suspended Migrated");
    let Some(read_only) = ReadOnlyStore::of(&swing.places["h2"]) else {
        skips::skip("no file of this user can be made immutable here");
        return;
    };
    swing.daemon("h2").await_log(&["not made durable"]);
    // Before that its end would be that of the migration.
    clears_up(&swing, ["absent", "paused"]);
    assert!(swing.strike("h2", Process::Agent, GUEST, Fault::Kill));
    let mut refused = Daemon::spawn(&swing.places["h2"], &[]);
    assert_eq!(refused.ended(), Some(1));
    refused.await_log(&["h2/state", "handoffs under way wait", "mounted read-write"]);
    lasts(&swing, ["absent", "paused"]);
    drop(read_only);
    swing.start("h2");
    assert_eq!(comes_to_rest(&swing, "an agent was refused for its store"), "h2");
}

/// What a monitoring system reads.
fn metrics(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("an agent");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_copy_whose_source_is_lost_runs_when_an_operator_has_fenced_that_host() {
    let mut swing = under_way(STRICT, "h2", "Suspended Paused");
    // The source is lost before it can say that it has let go.
    assert!(swing.strike("h1", Process::Agent, GUEST, Fault::Kill));
    swing.cluster.lab().kill_host("h1").expect("it is there");
    let socket = swing.cluster.lab().agent_socket("h2");
    let claim = |fenced: &str| {
        let mut command = Command::new(support::EVENKEEL);
        command.args(["claim", GUEST, "--i-have-fenced", fenced, "--socket"]).arg(&socket);
        command.output().expect("it starts")
    };
    swing.cluster.until(LIMIT, "a copy that waits", |cluster| {
        let status = cluster.status("h2")?;
        (status.handoffs.first()?.phase == Phase::Holding).then_some(())
    });
    let held = |swing: &Swing| assert_eq!(swing.state("h2", GUEST), "paused");
    held(&swing);
    // Somebody has to know: from the status, and from what a monitoring system reads.
    swing.cluster.until(LIMIT, "an alarm", |cluster| {
        cluster.status("h2")?.handoffs.first()?.alarm.then_some(())
    });
    let says = swing.places["h2"].ask_in_words();
    assert!(says.contains("ALARM") && says.contains("claim mover --i-have-fenced h1"), "{says}");
    let metrics = metrics(&socket);
    assert!(metrics.contains("evenkeel_handoff_alarms 1\n"), "{metrics}");
    assert!(metrics.contains("phase=\"holding\"} 1\n"), "{metrics}");
    swing.daemon("h2").await_log(&["handoff unresolved", "mover"]);
    held(&swing);
    assert!(!claim("h2").status.success(), "the wrong host was believed to be fenced");
    held(&swing);
    let claimed = claim("h1");
    assert!(claimed.status.success(), "{claimed:?}");
    swing.cluster.until(LIMIT, "the guest running", |cluster| {
        let status = cluster.status("h2")?;
        (status.handoffs.is_empty() && swing.state("h2", GUEST) == "running").then_some(())
    });
    swing.cluster.assert_unharmed(&[GUEST]);
    let list = ["list", "--all", "--name", "--autostart"];
    let autostarted = swing.cluster.virsh("h2", &list).expect("libvirt answers");
    assert!(autostarted.contains(GUEST), "it was started at boot before");
}

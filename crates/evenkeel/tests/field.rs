//! The worst states are told wherever people look, on real hosts: a machine that runs twice, and a
//! definition that is left where it would start a second copy.

mod daemon;
mod support;

use std::time::Duration;

use daemon::evenkeel;
use evenkeel_agent::status::{AlarmCode, Status};
use evenkeel_lab::GuestSpec;
use support::{Cluster, LIMIT, alike};

const OBSERVE: &str = "[operation]\nmode = 'observe'\n";

fn alarms(cluster: &Cluster, host: &str, code: AlarmCode) -> Option<Status> {
    let status = cluster.status(host)?;
    status.alarms.iter().any(|alarm| alarm.code == code).then_some(status)
}

#[test]
fn a_second_copy_and_a_leftover_are_told_wherever_people_look() {
    let guests = vec![GuestSpec::new("m", "h1", 100)];
    let cluster = Cluster::up(alike(2, 1.0), guests, OBSERVE);
    cluster.until(LIMIT, "both hosts known to each other", |cluster| {
        let knows = |host| cluster.status(host).is_some_and(|s| s.members.len() == 1);
        (knows("h1") && knows("h2") && cluster.loads().is_some()).then_some(())
    });
    // Another manager finds the machine gone from its node and starts it there, to start at boot.
    let xml = cluster.virsh("h1", &["dumpxml", "--inactive", "m"]).expect("it is there");
    let file = cluster.lab().dir().join("m.xml");
    std::fs::write(&file, xml).expect("written");
    let file = file.to_str().expect("text");
    for arguments in [&["define", file][..], &["autostart", "m"], &["start", "m"]] {
        cluster.virsh("h2", arguments).expect("libvirt takes it");
    }
    let socket = cluster.lab().agent_socket("h2");
    let socket = socket.to_str().expect("text");
    cluster.until(LIMIT, "both hosts knowing that it runs twice", |cluster| {
        alarms(cluster, "h1", AlarmCode::RunsTwice)?;
        alarms(cluster, "h2", AlarmCode::RunsTwice)
    });
    let metrics = cluster.metrics("h2");
    assert!(metrics.contains("evenkeel_alarms{code=\"RUNS_TWICE\"} 1\n"), "{metrics}");
    for arguments in [&["status"][..], &["top"], &["doctor", "--cluster"]] {
        let ran = evenkeel(&[arguments, &["--socket", socket]].concat());
        assert!(ran.stdout.contains("machine `m` runs on host"), "{arguments:?}: {ran:?}");
        assert!(ran.stdout.contains("virsh destroy m"), "{arguments:?}: {ran:?}");
        assert_eq!(ran.code, Some(i32::from(arguments[0] == "doctor")), "{ran:?}");
    }
    // The wrong copy is stopped. What is left would start it again when that host boots.
    cluster.virsh("h2", &["destroy", "m"]).expect("it runs");
    let status = cluster.until(LIMIT + Duration::from_secs(60), "a leftover", |cluster| {
        // What was seen to run twice is believed for a while.
        alarms(cluster, "h2", AlarmCode::Leftover).filter(|status| status.alarms.len() == 1)
    });
    let [alarm] = &status.alarms[..] else { panic!("{:?}", status.alarms) };
    assert!(alarm.what.contains("starts a second copy when this host boots"), "{alarm:?}");
    let (_, command) = alarm.remedy.split_once("`virsh ").expect("a command");
    let command: Vec<&str> = command.trim_end_matches('`').split(' ').collect();
    cluster.virsh("h2", &command).expect("the command is right");
    cluster.until(LIMIT, "no alarm any more", |cluster| {
        cluster.status("h2")?.alarms.is_empty().then_some(())
    });
}

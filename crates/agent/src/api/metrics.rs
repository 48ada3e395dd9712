//! What an agent says of itself to Prometheus, in its text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::status::{AlarmCode, HandoffStatus, Status};

/// The type of an answer.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// A status as gauges.
pub(crate) fn render(status: &Status) -> String {
    let mut out = String::new();
    let known = status.load.map(|load| (String::new(), load));
    gauge(&mut out, "load", "Load of this host; 1 is all of it. Missing while unknown.", known);
    let members = status.members.len() as f64;
    gauge(&mut out, "members", "Other hosts that are alive.", [(String::new(), members)]);
    let machines = status.machines.len() as f64;
    gauge(&mut out, "machines", "Machines in this host's schedule.", [(String::new(), machines)]);
    contention(&mut out, status);
    let mut phases: BTreeMap<String, f64> = BTreeMap::new();
    for handoff in &status.handoffs {
        let (role, phase) = (format!("{:?}", handoff.role), format!("{:?}", handoff.phase));
        let labels = format!("{{role=\"{role}\",phase=\"{phase}\"}}").to_lowercase();
        *phases.entry(labels).or_default() += 1.0;
    }
    gauge(&mut out, "handoffs", "Handoffs under way.", phases);
    let alarms = status.handoffs.iter().filter(|handoff| handoff.alarm).count() as f64;
    let help = "Handoffs that wait longer than they should; alert above 0.";
    gauge(&mut out, "handoff_alarms", help, [(String::new(), alarms)]);
    let age = |handoff: &HandoffStatus| status.at.since(handoff.since).as_secs_f64();
    let ages = status.handoffs.iter().filter(|h| h.alarm).map(|handoff| {
        let machine = escaped(&handoff.name);
        (format!("{{machine=\"{machine}\",peer=\"{}\"}}", handoff.peer), age(handoff))
    });
    let help = "How long an alarming handoff has been in its phase, in seconds.";
    gauge(&mut out, "handoff_alarm_age_seconds", help, ages);
    let codes = AlarmCode::ALL.iter().map(|code| {
        let count = status.alarms.iter().filter(|alarm| alarm.code == *code).count();
        (format!("{{code=\"{}\"}}", code.code()), count as f64)
    });
    gauge(&mut out, "alarms", "What somebody has to look at; alert above 0.", codes);
    let own = status.background.iter().flat_map(|own| {
        [
            ("cpu_cores", own.cpu_cores),
            ("memory_bytes", own.memory_bytes),
            ("io_bytes_per_second", own.io_bytes_per_s),
        ]
    });
    let own = own.map(|(name, used)| (format!("{{resource=\"{name}\"}}"), used));
    let help = "What this host uses besides its machines. Missing while unknown.";
    gauge(&mut out, "background", help, own);
    let accused = status.accused.iter();
    let accused = accused.map(|a| (format!("{{peer=\"{}\"}}", a.host), a.times as f64));
    let help = "How often a member has said what it must not; alert above 0.";
    gauge(&mut out, "member_accusations", help, accused);
    let left_out = status.left_out.iter();
    let left_out = left_out.map(|l| {
        let seconds = status.at.since(l.since).as_secs_f64();
        (format!("{{peer=\"{}\"}}", l.host), seconds)
    });
    let help = "For how long a host has been left out because migrations to it fail, in seconds; \
                alert on any.";
    gauge(&mut out, "left_out_seconds", help, left_out);
    out
}

/// Scores of contention, and the shares of time that they are made of.
fn contention(out: &mut String, status: &Status) {
    let alone = |score: Option<u8>| score.map(|score| (String::new(), f64::from(score)));
    let help = "Contention on this host, from 0 to 100. Missing while unknown.";
    gauge(out, "contention", help, alone(status.contention_score));
    let cluster = status.cluster_contention.as_ref().map(|cluster| cluster.score);
    let help = "Mean contention of the hosts heard of, from 0 to 100. Missing while unknown.";
    gauge(out, "cluster_contention", help, alone(cluster));
    let own = &status.contention;
    let lost = [("cpu", own.cpu), ("memory", own.memory), ("io", own.io)];
    let lost = lost
        .into_iter()
        .filter_map(|(name, share)| Some((format!("{{resource=\"{name}\"}}"), share?)));
    let help = "Share of time lost on this host for want of a resource. Missing while unknown.";
    gauge(out, "contention_lost", help, lost);
    let swapped = own.swapped_bytes.map(|bytes| (String::new(), bytes));
    gauge(out, "swapped_bytes", "Memory of this host that is swapped out, in bytes.", swapped);
    let machines = status.machines.iter().filter_map(|machine| {
        let name = escaped(&machine.name);
        Some((format!("{{machine=\"{name}\"}}"), f64::from(machine.contention_score?)))
    });
    let help = "Contention of a machine, from 0 to 100. Missing while unknown.";
    gauge(out, "machine_contention", help, machines);
}

/// A name as a label. Names hold what their users like.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn gauge(
    out: &mut String,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (String, f64)>,
) {
    // Writing to a text does not fail.
    let _ = writeln!(out, "# HELP evenkeel_{name} {help}\n# TYPE evenkeel_{name} gauge");
    for (labels, value) in values {
        let _ = writeln!(out, "evenkeel_{name}{labels} {value}");
    }
}

//! What an agent says of itself to Prometheus, in its text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::status::{HandoffStatus, Status};

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
        // Names hold what their users like.
        let machine = handoff.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        (format!("{{machine=\"{machine}\",peer=\"{}\"}}", handoff.peer), age(handoff))
    });
    let help = "How long an alarming handoff has been in its phase, in seconds.";
    gauge(&mut out, "handoff_alarm_age_seconds", help, ages);
    out
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

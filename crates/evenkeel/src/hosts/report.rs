//! Tables for people.

use evenkeel_agent::Status;
use evenkeel_agent::status::{Alarm, AlarmCode, OperationStatus};
use evenkeel_core::control::Autonomy;
use evenkeel_core::decision::{Decision, Role};
use evenkeel_core::failures::LeftOut;
use evenkeel_core::load::Basis;
use evenkeel_core::model::{HostId, Time};

use crate::output::{align, percent, table};
use evenkeel_desk::history::Entry;

const UNKNOWN: &str = "?";

pub(super) fn status(status: &Status) -> String {
    let load = status.load.map_or_else(|| UNKNOWN.to_owned(), percent);
    let mut text = format!("host {} ({:?})  load {load}", status.host, status.state).to_lowercase();
    if let Some(shares) = status.shares {
        let (cpu, memory, io) = (percent(shares.cpu), percent(shares.memory), percent(shares.io));
        text += &format!("  cpu {cpu}  memory {memory}  io {io}");
    }
    text += &contention(status);
    if let Some(why) = &status.unknown {
        text += &format!("\nload unknown: {why}");
    }
    let names: Vec<_> = status.members.iter().map(HostId::as_str).collect();
    text += &match names.as_slice() {
        [] => "\nno other member is alive".to_owned(),
        names => format!("\nmembers: {}", names.join(", ")),
    };
    if let Some(own) = &status.background {
        let (cores, mib) = (own.cpu_cores, own.memory_bytes / 1048576.0);
        let io = own.io_bytes_per_s / 1e6;
        text += &format!(
            "\nthe host itself: {cores:.2} cores, {mib:.0} MiB, {io:.1} MB/s besides its machines"
        );
    }
    for alarm in status.alarms.iter().filter(|alarm| alarm.code != AlarmCode::Unresolved) {
        text += &format!("\nALARM {}", self::alarm(alarm));
    }
    for silent in &status.silent {
        text += &format!("\nSILENT: {} since {}", silent.host, clock_time(silent.since));
    }
    text += &operation(&status.operation);
    if let Some(drain) = &status.drain {
        text += &format!("\n{}", super::drain::how_far(drain));
        let staying = drain.staying.iter();
        text.extend(staying.map(|lacking| format!("\n  {}", super::drain::why(lacking))));
    }
    for accused in &status.accused {
        text += &format!(
            "\nALARM: host `{}` has said what no member may, {} times; look at it: {}",
            accused.host, accused.times, accused.last
        );
    }
    for left_out in &status.left_out {
        text += &format!("\nALARM: {}", self::left_out(status, left_out));
    }
    for handoff in &status.handoffs {
        let arrow = match handoff.role {
            Role::Source => "to",
            Role::Target => "from",
        };
        let done = handoff.progress.map_or(0, |p| p.bytes_done);
        text += &format!(
            "\nhandoff: {} {arrow} {}, {:?} for {} s, {done} bytes sent",
            handoff.name,
            handoff.peer,
            handoff.phase,
            status.at.since(handoff.since).as_secs(),
        );
        if handoff.alarm {
            text += &format!("\n  ALARM: it waits for {}", handoff.waits_for);
        }
        if handoff.alarm && !handoff.last_error.is_empty() {
            text += &format!("\n  last error: {}", handoff.last_error);
        }
    }
    let header =
        ["machine", "presence", "load", "basis", "cpu cores", "memory", "epoch", "contention"];
    let mut table = table(&header);
    let mut machines: Vec<_> = status.machines.iter().collect();
    machines.sort_by_key(|m| &m.name);
    for m in machines {
        let usage = |pick: fn(&evenkeel_core::model::Resources) -> String| {
            m.usage.as_ref().map_or_else(|| UNKNOWN.to_owned(), pick)
        };
        let remark = m.entry_error.as_ref().or(m.unknown.as_ref()).or(m.kept.as_ref());
        table.add_row([
            remark.map_or_else(|| m.name.clone(), |why| format!("{}\n  {why}", m.name)),
            format!("{:?}", m.presence).to_lowercase(),
            m.load.map_or_else(|| UNKNOWN.to_owned(), percent),
            m.basis.map_or(UNKNOWN, basis).to_owned(),
            usage(|u| format!("{:.2}", u.cpu_cores)),
            usage(|u| format!("{:.0} MiB", u.memory_bytes / 1048576.0)),
            m.epoch.to_string(),
            score(m.contention_score),
        ]);
    }
    align(&mut table, &[2, 4, 5, 6, 7]);
    format!("{text}\n{table}")
}

/// An alarm, and what to do.
pub(super) fn alarm(alarm: &Alarm) -> String {
    format!("{}: {}\n  → {}", alarm.code.code(), alarm.what, alarm.remedy)
}

/// A host that is left out because migrations to it fail.
pub(super) fn left_out(status: &Status, left_out: &LeftOut) -> String {
    let LeftOut { host, until, machines, detail, .. } = left_out;
    let (until, machines) = (clock_time(*until), status.names(machines));
    let what = if *host == status.host {
        format!("host `{host}` takes nothing until {until}, because migrations to it have failed")
    } else {
        format!(
            "nothing is given to host `{host}` until {until}, because migrations to it have failed"
        )
    };
    let said = if detail.is_empty() { String::new() } else { format!("; last: {detail}") };
    format!("{what} ({machines}){said}")
}

/// How much it does by itself, and what it was told.
fn operation(operation: &OperationStatus) -> String {
    let mut text = match operation.mode {
        Autonomy::Automatic => String::new(),
        Autonomy::Observe => {
            "\nmode: observe; it says in its history what it would move".to_owned()
        }
        Autonomy::Approve => "\nmode: approve; it asks before it moves anything".to_owned(),
    };
    if let Some(pause) = &operation.pause {
        let why = if pause.reason.is_empty() { "" } else { ": " };
        let (until, by, reason) = (clock_time(pause.until), &pause.by, &pause.reason);
        text += &format!("\nPAUSED until {until} by {by}{why}{reason}");
    }
    if operation.outside_hours {
        let until = operation.hours_change.map(|at| format!(" until {}", clock_time(at)));
        text += &format!("\noutside its hours{}", until.unwrap_or_default());
    }
    if operation.recommendations > 0 {
        let count = operation.recommendations;
        text += &format!("\nrecommended moves: {count}; `evenkeel recommendations` lists them");
    }
    for ordered in &operation.moves {
        let to = ordered.to.as_ref().map_or("wherever it fits", HostId::as_str);
        let stage = format!("{:?}", ordered.stage).to_lowercase();
        let why = ordered.reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        text += &format!("\nordered: {} to {to}, {stage}{why}", ordered.name);
    }
    text
}

/// What goes without, on this host and in the cluster.
fn contention(status: &Status) -> String {
    let lost = &status.contention;
    let share = |share: Option<f64>| share.map_or_else(|| UNKNOWN.to_owned(), percent);
    let mut text = format!(
        "\ncontention {}  lost for want of cpu {}  memory {}  io {}",
        score(status.contention_score),
        share(lost.cpu),
        share(lost.memory),
        share(lost.io),
    );
    if let Some(cluster) = &status.cluster_contention {
        text += &format!(
            "\ncluster contention {} of {} hosts, worst {} on {}",
            cluster.score, cluster.hosts, cluster.worst_score, cluster.worst
        );
    }
    text
}

/// A score of contention, from 0 to 100.
pub(super) fn score(score: Option<u8>) -> String {
    score.map_or_else(|| UNKNOWN.to_owned(), |score| score.to_string())
}

pub(super) fn history(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing was decided in that time; --all also shows what came to nothing"
            .to_owned();
    }
    let mut table = table(&["when", "from", "to", "loads", "half", "machine", "prices", "ending"]);
    for Entry { record, other } in entries {
        let peer = record.peer.as_ref().map_or("-", HostId::as_str);
        let host = record.host.as_str();
        let (from, to) = match record.role {
            Some(Role::Source) => (host, peer),
            Some(Role::Target) => (peer, host),
            None => (host, "-"),
        };
        let (loads, half) = record.pair.map_or_else(Default::default, |pair| {
            (
                format!("{} → {}", percent(pair.donor), percent(pair.receiver)),
                percent(pair.wanted()),
            )
        });
        let chosen = record.chosen();
        let prices = chosen
            .and_then(|c| c.at_donor.zip(c.at_receiver))
            .map_or_else(String::new, |(donor, receiver)| {
                format!("{} / {}", percent(donor), percent(receiver))
            });
        table.add_row([
            clock_time(record.ended),
            from.to_owned(),
            to.to_owned(),
            loads,
            half,
            chosen.map_or_else(String::new, |c| c.name.clone()),
            prices,
            ending(record, other.as_ref()),
        ]);
    }
    align(&mut table, &[4]);
    table.to_string()
}

/// How it ended, and what the other host says if that differs.
fn ending(record: &Decision, other: Option<&Decision>) -> String {
    let mut ending = record.ending.to_string();
    if let Some(other) = other.filter(|other| other.ending != record.ending) {
        ending += &format!(", and by {} {}", other.host, other.ending);
    }
    if !record.detail.is_empty() {
        ending += &format!("\n{}", record.detail);
    }
    ending
}

/// Local time with the name of its zone, as far as the system knows where it is.
pub(super) fn clock_time(time: Time) -> String {
    let ms = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| time.to_string(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T %Z").to_string(),
    )
}

const fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Actual => "actual",
        Basis::Target => "target",
    }
}

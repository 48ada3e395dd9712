//! Hostile input for every decoder: what comes from peers, from libvirt and from files.
//!
//! Each target takes any bytes, must not panic, and checks what holds of whatever it accepts: mostly
//! that it reads back as it is written. `tests/targets.rs` runs all of them on the corpus and on
//! what chance makes of it, with every build; `scripts/fuzz TARGET RUNS` has libFuzzer look for more.

use std::path::Path;

use evenkeel_core::handoff::Handoff;
use evenkeel_core::model::{HostId, Time};
use evenkeel_membership::{Config, Input, Member, Membership};
use evenkeel_sim::scenario::Scenario;
use evenkeel_sim::snapshot::Snapshot;
use evenkeel_sim::traces::parse_csv;

/// Something that takes bytes that others have made.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of the directory with its corpus.
    pub name: &'static str,
    /// What is done with the bytes. Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: frame },
    Target { name: "datagram", run: datagram },
    Target { name: "certificate", run: evenkeel_net::fuzzing::certificate },
    Target { name: "name", run: |bytes| text(bytes, evenkeel_net::fuzzing::name) },
    Target { name: "revocations", run: evenkeel_net::fuzzing::revocations },
    Target { name: "enrolment", run: evenkeel_net::fuzzing::enrolment },
    Target { name: "token", run: |bytes| text(bytes, evenkeel_net::fuzzing::token) },
    Target { name: "domain", run: |bytes| text(bytes, evenkeel_libvirt::fuzzing::domain) },
    Target { name: "host", run: |bytes| text(bytes, evenkeel_libvirt::fuzzing::host) },
    Target { name: "control", run: evenkeel_libvirt::fuzzing::control },
    Target {
        name: "description",
        run: |bytes| text(bytes, evenkeel_libvirt::fuzzing::description),
    },
    Target { name: "configuration", run: |bytes| text(bytes, configuration) },
    Target { name: "snapshot", run: |bytes| text(bytes, snapshot) },
    Target { name: "scenario", run: |bytes| text(bytes, scenario) },
    Target { name: "trace", run: |bytes| text(bytes, trace) },
    Target { name: "record", run: |bytes| text(bytes, record) },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

fn text(bytes: &[u8], run: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        run(text);
    }
}

/// A frame from another agent.
fn frame(bytes: &[u8]) {
    if let Ok(message) = evenkeel_wire::decode(bytes) {
        let again = evenkeel_wire::decode(&evenkeel_wire::encode(&message));
        assert_eq!(again.ok(), Some(message));
    }
}

/// A datagram of the membership protocol, from a host whose certificate says that it is `b`.
fn datagram(bytes: &[u8]) {
    let host = |name: &str| HostId::new(name).ok();
    let (Some(here), Some(from)) = (host("a"), host("b")) else { return };
    let addr = ([127, 0, 0, 1], 1).into();
    let me = Member { host: here, addr, generation: 1 };
    let mut membership = Membership::new(me, Config::default(), 1);
    let now = Time::from_unix_ms(1);
    let _ = membership.handle(Input::Join { host: from.clone(), addr }, now);
    let _ = membership.handle(Input::Datagram { from, bytes }, now);
    assert!(membership.members().all(|member| member.host.as_str() != "a"));
}

/// An agent's configuration.
fn configuration(text: &str) {
    let _ = evenkeel_agent::Config::from_text(text, Path::new("agent.toml"));
}

/// A snapshot of a cluster.
fn snapshot(text: &str) {
    if let Ok(snapshot) = Snapshot::parse(text) {
        let written = snapshot.to_json();
        let again = written.as_deref().ok().and_then(|json| Snapshot::parse(json).ok());
        assert_eq!(again, Some(snapshot));
    }
}

/// A scenario for the simulator.
fn scenario(text: &str) {
    let _ = Scenario::parse(text);
}

/// A trace of what machines used, in our own form. Far fewer usages than a file may hold, or nearly
/// all of the time would be spent on filling memory.
fn trace(text: &str) {
    const USAGES_MAX: u64 = 10_000;
    if let Ok(trace) = parse_csv(text, USAGES_MAX) {
        assert!(trace.machines.len() as u64 * trace.ticks() as u64 <= USAGES_MAX);
        assert!(trace.machines.iter().all(|machine| machine.len() == trace.ticks()));
    }
}

/// A record of a handoff in a store that somebody has edited.
fn record(text: &str) {
    if let Ok(handoff) = serde_json::from_str::<Handoff>(text) {
        let written = serde_json::to_string(&handoff);
        let again = written.ok().and_then(|json| serde_json::from_str::<Handoff>(&json).ok());
        assert_eq!(again, Some(handoff));
    }
}

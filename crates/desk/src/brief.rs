//! A host in brief: what a picture of the cluster needs to know of it, and no more.
//!
//! Shares are in per mille of the host. What is not known is `null`, never 0.

use std::collections::BTreeMap;

use evenkeel_core::balancer::{Balancer, Drain, Stage};
use evenkeel_core::control::{Autonomy, Pause};
use evenkeel_core::decision::Role;
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::load::Machine;
use evenkeel_core::model::{HostId, HostProfile, HostState, Time};
use evenkeel_core::port::{HandoffId, Presence, Progress};
use serde::{Deserialize, Serialize};

/// A machine leaves its host.
pub const LEAVING: u8 = 1;
/// A machine is defined or paused, and does not run.
pub const STILL: u8 = 2;
/// A machine's schedule entry cannot be read.
pub const UNREADABLE: u8 = 4;

/// Changes of a share that are smaller than this are not worth telling, in per mille.
const NOTABLE: u32 = 5;

/// One host in brief.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// The host.
    pub host: HostId,
    /// When this was said, by its clock.
    pub at: Time,
    /// Version of its agent.
    pub version: String,
    /// Whether it takes part.
    pub state: HostState,
    /// How much it does by itself.
    pub mode: Autonomy,
    /// Its load, in per mille of the host.
    pub load: Option<u32>,
    /// How much of its CPU, memory and I/O is in use, in per mille.
    pub used: [Option<u32>; 3],
    /// Why its load is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Its fair share of the cluster's load, in per mille.
    pub share: Option<u32>,
    /// The load above which it gives, in per mille.
    pub limit: Option<u32>,
    /// How much of what its machines want it cannot give, from 0 to 100.
    pub waiting: Option<u8>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its machines, by name.
    pub machines: Vec<Row>,
    /// Machines that leave it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Moving>,
    /// Moves that wait for an operator.
    #[serde(default)]
    pub recommendations: usize,
    /// The pause that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Whether this is outside the hours in which it moves machines by itself.
    #[serde(default)]
    pub outside_hours: bool,
    /// How far it is, if it is being emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Handoffs that wait longer than they should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// What it lets other hosts ask of it.
    #[serde(default)]
    pub grants: Grants,
}

/// What a host lets other hosts ask of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grants {
    /// Nothing.
    None,
    /// What it knows.
    #[default]
    Read,
    /// To act.
    Operate,
}

/// A machine in brief, written as an array: name, load, CPU, memory, I/O (each in per mille of its
/// host), waiting (from 0 to 100), flags ([`LEAVING`], [`STILL`], [`UNREADABLE`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row(
    /// Its name.
    pub String,
    /// Its load.
    pub Option<u32>,
    /// CPU in use.
    pub Option<u32>,
    /// Memory in use.
    pub Option<u32>,
    /// I/O in use.
    pub Option<u32>,
    /// How much of what it wants it does not get.
    pub Option<u8>,
    /// What else is to be said of it.
    pub u8,
);

/// A machine on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Its name.
    pub name: String,
    /// Where to.
    pub to: HostId,
    /// Since when.
    pub since: Time,
    /// How far the handoff is.
    pub phase: Phase,
    /// How far the hypervisor is, in per mille, where it says.
    pub done: Option<u32>,
    /// Bytes sent so far, where known.
    pub bytes: Option<u64>,
    /// The operator's order that it is part of, by which it can be cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// A handoff that waits longer than it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The machine's name.
    pub machine: String,
    /// The other host.
    pub peer: HostId,
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: Time,
    /// What it waits for, in words.
    pub waits_for: String,
}

impl Brief {
    /// A host as its balancer knows it.
    #[must_use]
    pub fn of(
        balancer: &Balancer,
        progress: &BTreeMap<HandoffId, Progress>,
        grants: Grants,
        version: &str,
        now: Time,
    ) -> Self {
        let host = balancer.host();
        let profile = &host.profile;
        let load = host.load(now);
        let used = host.view.usage(profile, now).ok().map(|usage| profile.shares(&usage));
        let used = used.map(|shares| [shares.cpu, shares.memory, shares.io].map(per_mille));
        let row = |(id, machine): (&_, &Machine)| {
            let leaves = |h: &Handoff| h.role == Role::Source && h.machine == *id;
            row(machine, profile, balancer.handoffs().any(leaves))
        };
        let mut machines: Vec<Row> = host.view.machines().iter().map(row).collect();
        machines.sort_by(|a, b| a.0.cmp(&b.0));
        let leaving =
            balancer.handoffs().filter(|h| h.role == Role::Source && !h.phase.has_ended());
        let alarming = balancer.handoffs().filter(|h| h.is_alarming(now));
        Self {
            host: profile.id.clone(),
            at: now,
            version: version.to_owned(),
            state: host.state,
            mode: host.control.mode,
            load: load.as_ref().ok().copied().and_then(per_mille),
            used: used.unwrap_or_default(),
            unknown: load.err().map(|why| why.to_string()),
            share: host.target(None).and_then(per_mille),
            limit: host.limit(None).and_then(per_mille),
            waiting: host.view.contention().score(),
            labels: profile.labels.clone(),
            machines,
            moves: leaving.map(|handoff| moving(handoff, balancer, progress)).collect(),
            recommendations: balancer.recommendations().count(),
            pause: host.control.pause_at(now).cloned(),
            outside_hours: host.control.closed,
            drain: balancer.drain(now),
            alarms: alarming.map(alarm).collect(),
            grants,
        }
    }

    /// Whether this says anything that is worth telling to somebody who knows `before`.
    #[must_use]
    pub fn differs(&self, before: &Self) -> bool {
        let bare = |brief: &Self| Self {
            at: Time::from_unix_ms(0),
            load: None,
            used: [None; 3],
            share: None,
            limit: None,
            waiting: None,
            machines: Vec::new(),
            drain: None,
            ..brief.clone()
        };
        let used = || self.used.iter().zip(&before.used).any(|(now, then)| apart(*now, *then));
        let rows =
            || self.machines.iter().zip(&before.machines).any(|(now, then)| now.differs(then));
        apart(self.load, before.load)
            || apart(self.share, before.share)
            || apart(self.limit, before.limit)
            || self.waiting != before.waiting
            || self.drain != before.drain
            || self.machines.len() != before.machines.len()
            || used()
            || rows()
            || bare(self) != bare(before)
    }
}

impl Row {
    fn differs(&self, before: &Self) -> bool {
        (self.0 != before.0 || self.5 != before.5 || self.6 != before.6)
            || apart(self.1, before.1)
            || apart(self.2, before.2)
            || apart(self.3, before.3)
            || apart(self.4, before.4)
    }
}

/// Whether two shares differ by what is worth telling.
fn apart(a: Option<u32>, b: Option<u32>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) >= NOTABLE,
        (a, b) => a.is_some() != b.is_some(),
    }
}

/// A share in per mille; nothing where it is no share.
fn per_mille(share: f64) -> Option<u32> {
    (share.is_finite() && share >= 0.0).then(|| (share * 1000.0).round().min(1e9) as u32)
}

fn row(machine: &Machine, profile: &HostProfile, leaving: bool) -> Row {
    let load = machine.factors(profile).ok().map(|(_, factors)| profile.price(&factors));
    let shares = machine.measured().ok().map(|usage| profile.shares(&usage));
    let share = |pick: fn(&evenkeel_core::model::PerResource) -> f64| {
        shares.as_ref().map(pick).and_then(per_mille)
    };
    let still = matches!(machine.presence, Presence::Defined | Presence::Paused | Presence::Held);
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    let flags = flag(leaving, LEAVING)
        | flag(still, STILL)
        | flag(machine.facts.entry.is_err(), UNREADABLE);
    Row(
        machine.facts.name.to_string(),
        load.and_then(per_mille),
        share(|s| s.cpu),
        share(|s| s.memory),
        share(|s| s.io),
        machine.contention.score(),
        flags,
    )
}

fn moving(
    handoff: &Handoff,
    balancer: &Balancer,
    progress: &BTreeMap<HandoffId, Progress>,
) -> Moving {
    let progress = progress.get(&handoff.id);
    let done = progress.and_then(|p| {
        let whole = p.bytes_done + p.bytes_left;
        (whole > 0).then(|| (p.bytes_done as f64 / whole as f64 * 1000.0) as u32)
    });
    let of_it =
        |stage: &Stage| matches!(stage, Stage::Moving { handoff: id, .. } if *id == handoff.id);
    let order = balancer.directed().find(|directed| of_it(&directed.stage));
    Moving {
        name: handoff.name.clone(),
        to: handoff.peer.clone(),
        since: handoff.since,
        phase: handoff.phase,
        done,
        bytes: progress.map(|p| p.bytes_done),
        order: order.map(|directed| directed.id.to_string()),
    }
}

fn alarm(handoff: &Handoff) -> Alarm {
    Alarm {
        machine: handoff.name.clone(),
        peer: handoff.peer.clone(),
        phase: handoff.phase,
        since: handoff.since,
        waits_for: handoff.waits_for(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host with machines of these loads, in per mille.
    pub(crate) fn brief(host: &str, loads: &[u32]) -> Brief {
        let row = |(i, load): (usize, &u32)| {
            Row(format!("{host}-{i}"), Some(*load), Some(*load), Some(0), Some(0), Some(0), 0)
        };
        let load = Some(loads.iter().sum());
        Brief {
            host: HostId::new(host).unwrap(),
            at: Time::from_unix_ms(1000),
            version: "0.1.0".to_owned(),
            state: HostState::Active,
            mode: Autonomy::Automatic,
            load,
            used: [load, Some(0), Some(0)],
            unknown: None,
            share: None,
            limit: None,
            waiting: Some(0),
            labels: BTreeMap::new(),
            machines: loads.iter().enumerate().map(row).collect(),
            moves: Vec::new(),
            recommendations: 0,
            pause: None,
            outside_hours: false,
            drain: None,
            alarms: Vec::new(),
            grants: Grants::Read,
        }
    }

    #[test]
    fn a_brief_of_twenty_machines_is_below_forty_bytes_a_machine() {
        let loads: Vec<u32> = (1..=20).map(|i| i * 7).collect();
        let few = serde_json::to_vec(&brief("kvm1", &[])).unwrap().len();
        let many = serde_json::to_vec(&brief("kvm1", &loads)).unwrap().len();
        assert!(many - few <= 40 * 20, "{} bytes for 20 machines", many - few);
    }

    #[test]
    fn what_is_not_known_is_written_as_null_and_read_again() {
        let mut unknown = brief("kvm1", &[100]);
        (unknown.load, unknown.machines[0].1, unknown.waiting) = (None, None, None);
        let text = serde_json::to_string(&unknown).unwrap();
        assert!(text.contains("\"load\":null"), "{text}");
        assert!(text.contains("[\"kvm1-0\",null,100,0,0,0,0]"), "{text}");
        assert_eq!(serde_json::from_str::<Brief>(&text).unwrap(), unknown);
    }

    #[test]
    fn small_changes_are_not_worth_telling_and_all_others_are() {
        let before = brief("kvm1", &[100, 200]);
        let later = Brief { at: Time::from_unix_ms(9000), ..before.clone() };
        assert!(!later.differs(&before));
        assert!(!brief("kvm1", &[102, 199]).differs(&before));
        assert!(brief("kvm1", &[105, 200]).differs(&before));
        assert!(brief("kvm1", &[100]).differs(&before));
        let changes: [fn(&mut Brief); 6] = [
            |b| b.load = None,
            |b| b.machines[0].6 = LEAVING,
            |b| b.state = HostState::Cordoned,
            |b| b.recommendations = 1,
            |b| b.machines[1].0 = "other".to_owned(),
            |b| b.waiting = None,
        ];
        for change in changes {
            let mut changed = before.clone();
            change(&mut changed);
            assert!(changed.differs(&before), "{changed:?}");
        }
    }
}

//! What an agent says of itself over its local API: `evenkeel.status/v1`.

mod operation;

pub use crate::accusations::Accused;
pub use crate::alarms::{Alarm, AlarmCode};
pub use crate::silent::SilentMember;
use std::collections::BTreeMap;

use evenkeel_core::balancer::{Balancer, ClusterContention, Drain};
use evenkeel_core::contention::Contention;
use evenkeel_core::decision::Role;
use evenkeel_core::failures::LeftOut;
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::load::{Basis, Machine};
use evenkeel_core::model::{
    Epoch, HostId, HostProfile, HostState, MachineId, PerResource, Resources, Rules, Time,
};
use evenkeel_core::port::{Commit, HandoffId, Presence, Progress};
use serde::{Deserialize, Serialize};

pub use operation::{MoveStage, MoveStatus, OperationStatus, RecommendationStatus};

/// One host as its agent sees it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `evenkeel.status/v1`.
    pub format: String,
    /// The host.
    pub host: HostId,
    /// Version of the agent.
    pub version: String,
    /// When this was said.
    pub at: Time,
    /// Whether the host takes part.
    pub state: HostState,
    /// How far it is, if it is being emptied.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// Its load; 1.0 is the whole host. Missing while it is not known.
    pub load: Option<f64>,
    /// Why the load is not known.
    pub unknown: Option<String>,
    /// The share of each resource in use, where known.
    pub shares: Option<PerResource>,
    /// How much of what is wanted of it it cannot give, where known.
    #[serde(default)]
    pub contention: Contention,
    /// The same as a score, from 0 to 100.
    #[serde(default)]
    pub contention_score: Option<u8>,
    /// The score of the cluster, as far as this host has heard of the others.
    #[serde(default)]
    pub cluster_contention: Option<ClusterContention>,
    /// What the host has.
    pub capacity: Resources,
    /// Speed of a core relative to the reference core.
    pub cpu_speed: f64,
    /// How much each resource counts, summing to 1.
    pub weights: PerResource,
    /// Memory that no machine may take, in bytes.
    #[serde(default)]
    pub reserved_memory_bytes: f64,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The other live members.
    pub members: Vec<HostId>,
    /// Members that do not answer.
    #[serde(default)]
    pub silent: Vec<SilentMember>,
    /// The host that this one is in an exchange with.
    pub talking_to: Option<HostId>,
    /// The schedule: every machine that this host is to execute.
    pub machines: Vec<MachineStatus>,
    /// Handoffs under way.
    pub handoffs: Vec<HandoffStatus>,
    /// How much it does by itself, and what it was told.
    #[serde(default)]
    pub operation: OperationStatus,
    /// What this host does besides its machines, where that is measured: in reference cores, bytes and
    /// bytes per second.
    #[serde(default)]
    pub background: Option<Resources>,
    /// Whether it was told of other hosts, whether they are alive or not.
    #[serde(default)]
    pub knows_others: bool,
    /// What somebody has to look at now.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Members that have said what they must not.
    #[serde(default)]
    pub accused: Vec<Accused>,
    /// Hosts to which this one gives nothing for a while, because migrations to them have failed; this
    /// host itself where it takes nothing because of that.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// One entry of a host's schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The machine.
    pub id: MachineId,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub presence: Presence,
    /// Virtual CPUs.
    #[serde(default)]
    pub vcpus: u32,
    /// Memory that it may come to occupy, in bytes.
    #[serde(default)]
    pub memory_bytes: f64,
    /// What may happen to it.
    #[serde(default)]
    pub rules: Rules,
    /// Its load on this host, where known.
    pub load: Option<f64>,
    /// Where that comes from.
    pub basis: Option<Basis>,
    /// What was measured of it, where known.
    pub usage: Option<Resources>,
    /// Why its load is not known.
    pub unknown: Option<String>,
    /// How much of what it wants it does not get, where known.
    #[serde(default)]
    pub contention: Contention,
    /// The same as a score, from 0 to 100.
    #[serde(default)]
    pub contention_score: Option<u8>,
    /// How often it has changed hosts.
    pub epoch: Epoch,
    /// Its target load, where programmed.
    pub target_load: Option<f64>,
    /// What is wrong with its schedule entry.
    pub entry_error: Option<String>,
    /// What keeps it on its host whatever other hosts have, in words, if anything does.
    #[serde(default)]
    pub kept: Option<String>,
}

/// One handoff under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandoffStatus {
    /// Its id.
    pub id: HandoffId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Whether this host gives or takes.
    pub role: Role,
    /// The other host.
    pub peer: HostId,
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: Time,
    /// How far the hypervisor is, where it says.
    pub progress: Option<Progress>,
    /// By which commit point.
    #[serde(default)]
    pub commit: Commit,
    /// What it waits for, in words.
    #[serde(default)]
    pub waits_for: String,
    /// What went wrong last; empty if nothing has.
    #[serde(default)]
    pub last_error: String,
    /// Whether it waits longer than it should, so that somebody has to look.
    #[serde(default)]
    pub alarm: bool,
}

impl Status {
    pub(crate) fn of(
        balancer: &Balancer,
        progress: &BTreeMap<HandoffId, Progress>,
        hours_change: Option<Time>,
        accused: Vec<Accused>,
        now: Time,
    ) -> Self {
        let host = balancer.host();
        let profile = &host.profile;
        let (load, unknown) = match host.load(now) {
            Ok(load) => (Some(load), None),
            Err(unknown) => (None, Some(unknown.to_string())),
        };
        let machine = |(id, m): (&MachineId, &Machine)| MachineStatus::of(id, m, profile);
        let handoff = |h: &Handoff| HandoffStatus {
            id: h.id,
            machine: h.machine.clone(),
            name: h.name.clone(),
            role: h.role,
            peer: h.peer.clone(),
            phase: h.phase,
            since: h.since,
            progress: progress.get(&h.id).copied(),
            commit: h.commit,
            waits_for: h.waits_for(),
            last_error: h.last_error.clone(),
            alarm: h.is_alarming(now),
        };
        Self {
            format: "evenkeel.status/v1".to_owned(),
            host: profile.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now,
            state: host.state,
            drain: balancer.drain(now),
            load,
            unknown,
            shares: host.view.usage(profile, now).ok().map(|usage| profile.shares(&usage)),
            contention: *host.view.contention(),
            contention_score: host.view.contention().score(),
            cluster_contention: balancer.cluster_contention(now),
            capacity: profile.capacity,
            cpu_speed: profile.cpu_speed,
            weights: profile.weights.get(),
            reserved_memory_bytes: profile.reserved_memory_bytes,
            labels: profile.labels.clone(),
            members: balancer.members().to_vec(),
            // The core knows those that are alive.
            silent: Vec::new(),
            talking_to: balancer.talking_to().cloned(),
            machines: host.view.machines().iter().map(machine).collect(),
            handoffs: balancer.handoffs().map(handoff).collect(),
            background: Some(*host.view.background()).filter(|own| *own != Resources::ZERO),
            knows_others: false,
            alarms: crate::alarms::of(balancer, now),
            operation: OperationStatus::of(balancer, progress, hours_change, now),
            accused,
            left_out: host.left_out(now).collect(),
        }
    }

    /// The names of machines, and of those that are not here any more their ids.
    #[must_use]
    pub fn names(&self, machines: &[MachineId]) -> String {
        let name = |id: &MachineId| {
            let known = self.machines.iter().find(|machine| machine.id == *id);
            known.map_or_else(|| id.to_string(), |machine| machine.name.clone())
        };
        machines.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl MachineStatus {
    fn of(id: &MachineId, machine: &Machine, profile: &HostProfile) -> Self {
        let (priced, unknown) = match machine.factors(profile) {
            Ok((basis, factors)) => (Some((basis, profile.price(&factors))), None),
            Err(why) => (None, Some(why.to_string())),
        };
        let entry = machine.entry();
        Self {
            id: id.clone(),
            name: machine.facts.name.to_string(),
            presence: machine.presence,
            vcpus: machine.facts.vcpus,
            memory_bytes: machine.facts.memory_bytes,
            rules: entry.map(|e| e.rules.clone()).unwrap_or_default(),
            load: priced.map(|(_, load)| load),
            basis: priced.map(|(basis, _)| basis),
            usage: machine.measured().ok(),
            unknown,
            contention: machine.contention,
            contention_score: machine.contention.score(),
            epoch: entry.map_or(Epoch::default(), |e| e.epoch),
            target_load: entry.and_then(|e| e.target_load),
            entry_error: machine.facts.entry.as_ref().err().cloned(),
            kept: machine
                .facts
                .needs
                .keeps
                .first()
                .map(|missing| format!("{}: {missing}", missing.reason())),
        }
    }
}

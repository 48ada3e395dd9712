//! Plans: the real exchange protocol over a snapshot, until it is quiet.
//!
//! Every host of the snapshot gets a balancer, as it would have on the real cluster, and they talk
//! over a network without faults. Nothing is measured and no memory moves: loads are what the
//! snapshot says, and moves pass schedule entries on *tentatively*. What is printed is what memory
//! would have to move in the end, each displaced machine once, in an order in which every step fits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use evenkeel_core::balancer::Config;
use evenkeel_core::ceiling::Ceilings;
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::model::{
    Group, HostId, HostProfile, HostState, MachineFacts, MachineId, Resources, Time,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::{Calm, MeanAware, Policy};
use evenkeel_hypervisor::memory::{CloudError, Workload};
use serde::Serialize;

use crate::bounds::Bounds;
use crate::check::Violation;
use crate::cluster::{Cluster, HostSpec};
use crate::log::Line;
use crate::order;
use crate::rest;
use crate::snapshot::{Snapshot, SnapshotMachine};
use crate::staying::{Hindrance, Settled, Staying};

/// The value of `format`.
pub const FORMAT: &str = "evenkeel.plan/v1";

/// How to plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What reproduces the plan exactly.
    pub seed: u64,
    /// By which rule hosts select.
    pub policy: Policy,
    /// How far a host may be above its fair share, as a fraction of it.
    pub band: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, policy: Policy::default(), band: 0.016 }
    }
}

/// `evenkeel.plan/v1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Always [`FORMAT`].
    pub format: &'static str,
    /// The seed that reproduces it.
    pub seed: u64,
    /// When the last move has ended, in seconds, where this is what agents would do; `None` where it is
    /// how well the cluster could be levelled.
    pub ends_s: Option<f64>,
    /// The cluster as it is.
    pub before: Balance,
    /// The cluster after all moves.
    pub after: Balance,
    /// What would be executed, in order.
    pub moves: Vec<Move>,
    /// Machines that nothing may move, and why.
    pub kept: Vec<Kept>,
    /// Machines that stay on hosts that are to be emptied, and why: these hosts are not empty.
    pub staying: Vec<Staying>,
    /// What keeps the machines of the most loaded host, where nothing moves and loads differ.
    pub hindrances: Vec<Hindrance>,
    /// Rounds until the last entry moved.
    pub rounds: u64,
    /// Messages said in all.
    pub messages: u64,
    /// Their size in bytes.
    pub message_bytes: u64,
    /// What no plan could beat.
    pub bounds: Bounds,
    /// What planning took, without computing the bounds.
    pub elapsed_ms: f64,
}

/// How loads are spread.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// Mean load of a host.
    pub mean: f64,
    /// Largest load of a host.
    pub max: f64,
    /// The largest over the mean; 1 where nothing is loaded.
    pub max_over_mean: f64,
    /// Population standard deviation over the mean; 0 where nothing is loaded.
    pub cv: f64,
    /// Every host.
    pub hosts: Vec<HostLoad>,
}

/// The load of one host, and how much of each resource is used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostLoad {
    /// Which.
    pub id: HostId,
    /// Its load.
    pub load: f64,
    /// Share of its CPU in use.
    pub cpu: f64,
    /// Share of its memory in use.
    pub memory: f64,
    /// Share of its I/O in use.
    pub io: f64,
}

/// One migration that would be executed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Move {
    /// Place in the order, from 1.
    pub seq: u64,
    /// The machine.
    pub vm: MachineId,
    /// Where it is.
    pub from: HostId,
    /// Where it goes.
    pub to: HostId,
    /// What it loads the one.
    pub load_at_source: f64,
    /// What it will load the other.
    pub load_at_target: f64,
    /// What would have fitted best at that point: the lesser of the one's excess and the other's
    /// deficit, or half their difference.
    pub wanted_load: f64,
    /// Bytes that it will send.
    pub bytes_predicted: f64,
    /// How long it will take.
    pub seconds_predicted: f64,
    /// When it has ended, in seconds, where that is foreseen.
    pub ends_s: Option<f64>,
    /// Why: always `LOAD` so far.
    pub reason: &'static str,
}

/// A step of a plan.
pub(crate) struct Step {
    /// Which of the snapshot's machines.
    pub(crate) vm: usize,
    /// From where.
    pub(crate) from: HostId,
    /// Where to.
    pub(crate) to: HostId,
    /// When it has ended, where that is foreseen.
    pub(crate) ends_s: Option<f64>,
}

/// A machine that stays, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The machine.
    pub vm: MachineId,
    /// Why.
    pub reason: Reason,
}

/// Between two rounds, in virtual time; all other waits follow from it.
pub const ROUND: Duration = Duration::from_secs(10);
/// Most rounds until a plan must be quiet.
const ROUNDS_MAX: u64 = 600;

/// Plans.
///
/// # Errors
/// When the snapshot names a host or machine twice or a host that is not there, which
/// [`Snapshot::check`] refuses.
pub fn plan(snapshot: &Snapshot, options: &Options) -> Result<Plan, CloudError> {
    plan_watched(snapshot, options, |_, _| {})
}

/// Plans, and tells `watch` now and then the rounds so far and how often entries have been passed on.
///
/// # Errors
/// As [`plan`].
pub fn plan_watched(
    snapshot: &Snapshot,
    options: &Options,
    watch: impl FnMut(u64, u64),
) -> Result<Plan, CloudError> {
    let began = Instant::now();
    let snapshot = &sorted(snapshot);
    let mut cluster = furnish(snapshot, options)?;
    let rounds = settle(&mut cluster, &options.policy, watch);
    let place = |vm: &SnapshotMachine| {
        cluster.cloud().locate(&vm.id).map_or_else(|| vm.host.clone(), |(host, _)| host.clone())
    };
    let targets: Vec<HostId> = snapshot.vms.iter().map(place).collect();
    let homes: Vec<HostId> = snapshot.vms.iter().map(|vm| vm.host.clone()).collect();
    let ordered = order::order(snapshot, &targets, options.seed);
    let (tally, elapsed_ms) = (cluster.tally(), began.elapsed().as_secs_f64() * 1e3);
    let mut ends = homes.clone();
    for &step in &ordered.steps {
        ends[step].clone_from(&targets[step]);
    }
    let staying = staying(&cluster, snapshot, &ends);
    let before = balance(snapshot, &homes);
    let hindrances = if ordered.steps.is_empty() {
        hindrances(&cluster, snapshot, &before, options.band)
    } else {
        Vec::new()
    };
    let step = |&vm: &usize| {
        let (from, to) = (homes[vm].clone(), targets[vm].clone());
        Step { vm, from, to, ends_s: None }
    };
    let steps: Vec<_> = ordered.steps.iter().map(step).collect();
    let mut kept = kept(snapshot);
    let stays =
        |&vm: &usize| Kept { vm: snapshot.vms[vm].id.clone(), reason: Reason::NoImprovement };
    kept.extend(ordered.blocked.iter().map(stays));
    Ok(Plan {
        format: FORMAT,
        seed: options.seed,
        ends_s: None,
        before,
        after: balance(snapshot, &ends),
        moves: moves(snapshot, &steps, options.policy == Policy::HalfDifference),
        kept,
        staying,
        hindrances,
        rounds,
        messages: tally.messages,
        message_bytes: tally.message_bytes,
        bounds: Bounds::of(snapshot),
        elapsed_ms,
    })
}

/// Plans, and answers every event on the way instead of the plan.
///
/// # Errors
/// As [`plan`].
pub fn trace(snapshot: &Snapshot, options: &Options) -> Result<Trace, CloudError> {
    let mut cluster = furnish(&sorted(snapshot), options)?;
    cluster.keep_log();
    settle(&mut cluster, &options.policy, |_, _| {});
    cluster.check_all();
    Ok(Trace { log: cluster.log().to_vec(), violations: cluster.violations().to_vec() })
}

/// How a plan came about.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Every event on the way.
    pub log: Vec<Line>,
    /// What was broken on the way: nothing, if all is well.
    pub violations: Vec<Violation>,
}

/// The snapshot by ids: that its order in the file changes nothing holds to the last bit of a sum.
pub(crate) fn sorted(snapshot: &Snapshot) -> Snapshot {
    let mut snapshot = snapshot.clone();
    snapshot.hosts.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot.vms.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot
}

/// The snapshot as a cluster in virtual time, its agents started.
fn furnish(snapshot: &Snapshot, options: &Options) -> Result<Cluster, CloudError> {
    let dead_band = 2.0 * options.band;
    let config = Config {
        round: ROUND,
        // Two samples before the second round, then one a round.
        sample: ROUND,
        metering: evenkeel_core::load::Metering {
            stale_after: ROUND * 4,
            cpu_slack_cores: f64::INFINITY,
            ..evenkeel_core::load::Metering::plain()
        },
        calm: match options.policy {
            Policy::HalfDifference => Calm::NONE,
            Policy::MeanAware(_) => Calm { dead_band, ..Calm::NONE },
        },
        restraint: Restraint::NONE,
        // What was measured is there to be used to the last.
        ceilings: Ceilings::FULL,
        policy: unhurried(options.policy),
        tentative: true,
        ..Config::default()
    };
    let mut cluster = Cluster::new(options.seed);
    for host in &snapshot.hosts {
        let mut spec = HostSpec::new(host.profile(), config.clone());
        // Without a capacity nothing is throttled: usage is what the snapshot says.
        spec.hypervisor.facts.capacity = Resources::ZERO;
        spec.hypervisor.link_bytes_per_s = f64::INFINITY;
        spec.hypervisor.background = host.background;
        cluster.add_host(spec)?;
    }
    for vm in &snapshot.vms {
        let facts = MachineFacts { vcpus: u32::MAX, ..vm.facts() };
        cluster.place(&vm.host, facts, Workload { wants: vm.usage, dirty_bytes_per_s: 0.0 })?;
    }
    cluster.start_acquainted();
    for host in snapshot.hosts.iter().filter(|h| h.state != HostState::Active) {
        cluster.input(&host.id, Input::SetState(host.state));
    }
    Ok(cluster)
}

/// The policy for loads that do not change meanwhile: a host that has nothing to do has little reason
/// to ask.
fn unhurried(policy: Policy) -> Policy {
    match policy {
        Policy::MeanAware(policy) => {
            let idle_rounds = policy.idle_rounds.max(IDLE_ROUNDS);
            Policy::MeanAware(MeanAware { idle_rounds, ..policy })
        }
        Policy::HalfDifference => policy,
    }
}

/// Rounds until such a host asks at last.
const IDLE_ROUNDS: u32 = 20;

/// Runs until every host is content. Answers the rounds until the last move.
fn settle(cluster: &mut Cluster, policy: &Policy, mut watch: impl FnMut(u64, u64)) -> u64 {
    let (mut last_move, mut moved) = (Time::default(), 0);
    let started = cluster.now();
    for half in 2..2 * ROUNDS_MAX {
        cluster.run_until(started + ROUND * u32::try_from(half).unwrap_or(u32::MAX) / 2);
        watch(half / 2, cluster.tally().migrations);
        if cluster.tally().migrations > moved {
            moved = cluster.tally().migrations;
            last_move = cluster.now();
        }
        // A host that asks at random has had its say after a few rounds without a move.
        let silent = cluster.now().since(last_move) >= ROUND * SILENT_ROUNDS;
        let quiet = match policy {
            Policy::MeanAware(_) => cluster.is_content(),
            // Whom a host has not met yet, it cannot know.
            Policy::HalfDifference => cluster.is_content() && !rest::is_improvable(cluster),
        };
        if half > 4 && silent && quiet {
            break;
        }
    }
    let rounds = last_move.since(started).as_secs_f64() / ROUND.as_secs_f64();
    rounds.ceil() as u64
}

/// Rounds without a move before a plan counts as quiet.
const SILENT_ROUNDS: u32 = 2;

fn profiles(snapshot: &Snapshot) -> BTreeMap<&HostId, (HostProfile, Resources)> {
    let of = |h: &crate::snapshot::SnapshotHost| (h.profile(), h.background.unwrap_or_default());
    snapshot.hosts.iter().map(|h| (&h.id, of(h))).collect()
}

/// What a machine loads a host, wherever it is now: a target load is what it is at home.
fn price(vm: &SnapshotMachine, home: &HostProfile, there: &HostProfile) -> f64 {
    there.price(&vm.factors(home))
}

pub(crate) fn balance(snapshot: &Snapshot, places: &[HostId]) -> Balance {
    let profiles = profiles(snapshot);
    let mut used: BTreeMap<&HostId, Resources> =
        profiles.iter().map(|(id, (_, background))| (*id, *background)).collect();
    for (vm, place) in snapshot.vms.iter().zip(places) {
        if let (Some(used), Some((home, _))) = (used.get_mut(place), profiles.get(&vm.host)) {
            *used += vm.factors(home);
        }
    }
    let hosts: Vec<HostLoad> = snapshot
        .hosts
        .iter()
        .map(|host| {
            let (profile, _) = &profiles[&host.id];
            let shares = profile.shares(&used[&host.id]);
            HostLoad {
                id: host.id.clone(),
                load: profile.price(&used[&host.id]),
                cpu: shares.cpu,
                memory: shares.memory,
                io: shares.io,
            }
        })
        .collect();
    let count = hosts.len() as f64;
    let mean = hosts.iter().map(|h| h.load).sum::<f64>() / count;
    let max = hosts.iter().map(|h| h.load).fold(0.0, f64::max);
    let variance = hosts.iter().map(|h| (h.load - mean).powi(2)).sum::<f64>() / count;
    let (max_over_mean, cv) =
        if mean > 0.0 { (max / mean, variance.sqrt() / mean) } else { (1.0, 0.0) };
    Balance { mean, max, max_over_mean, cv, hosts }
}

pub(crate) fn moves(snapshot: &Snapshot, steps: &[Step], by_half: bool) -> Vec<Move> {
    let profiles = profiles(snapshot);
    let homes: Vec<_> = snapshot.vms.iter().map(|vm| vm.host.clone()).collect();
    let before = balance(snapshot, &homes).hosts;
    let mut loads: BTreeMap<HostId, f64> = before.into_iter().map(|h| (h.id, h.load)).collect();
    let emptied = |host: &HostId| {
        snapshot.hosts.iter().any(|h| h.id == *host && h.state == HostState::Draining)
    };
    let stays = profiles.iter().filter(|(id, _)| !emptied(id));
    let capacity =
        stays.map(|(_, (p, _))| p.share_as_usage(1.0)).fold(Resources::ZERO, |a, b| a + b);
    let background = profiles.values().map(|(_, b)| *b).fold(Resources::ZERO, |a, b| a + b);
    let usage = snapshot.vms.iter().fold(background, |sum, vm| {
        sum + profiles.get(&vm.host).map_or(vm.usage, |(home, _)| vm.factors(home))
    });
    let fair = |host: &HostProfile| {
        let weights = host.weights.get();
        evenkeel_core::model::Resource::ALL
            .iter()
            .map(|&r| if capacity[r] > 0.0 { weights[r] * usage[r] / capacity[r] } else { 0.0 })
            .sum::<f64>()
    };
    let mut moves = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let (vm, from, to) = (&snapshot.vms[step.vm], &step.from, &step.to);
        let (home, source, target) = (&profiles[&vm.host].0, &profiles[from].0, &profiles[to].0);
        let (at_source, at_target) = (price(vm, home, source), price(vm, home, target));
        let (from_load, to_load) = (loads[from], loads[to]);
        let wanted_load = if by_half {
            (from_load - to_load) / 2.0
        } else if emptied(from) {
            fair(target) - to_load
        } else {
            (from_load - fair(source)).min(fair(target) - to_load)
        };
        let cost = order::predict(vm);
        moves.push(Move {
            seq: index as u64 + 1,
            vm: vm.id.clone(),
            from: from.clone(),
            to: to.clone(),
            load_at_source: at_source,
            load_at_target: at_target,
            wanted_load,
            bytes_predicted: cost.bytes,
            seconds_predicted: cost.seconds,
            ends_s: step.ends_s,
            reason: "LOAD",
        });
        loads.entry(from.clone()).and_modify(|load| *load -= at_source);
        loads.entry(to.clone()).and_modify(|load| *load += at_target);
    }
    moves
}

/// Machines that are left, in the end, on hosts that are to be emptied.
pub(crate) fn staying(cluster: &Cluster, snapshot: &Snapshot, ends: &[HostId]) -> Vec<Staying> {
    let emptied = |host: &HostId| {
        snapshot.hosts.iter().any(|h| h.id == *host && h.state == HostState::Draining)
    };
    let left = snapshot.vms.iter().zip(ends).filter(|(_, end)| emptied(end));
    left.map(|(vm, end)| Settled(cluster).staying(end, &vm.id)).collect()
}

/// What keeps the machines of the most loaded host, if it is further above the mean than it may be.
pub(crate) fn hindrances(
    cluster: &Cluster,
    snapshot: &Snapshot,
    before: &Balance,
    band: f64,
) -> Vec<Hindrance> {
    let stays = |host: &&HostLoad| {
        snapshot.hosts.iter().any(|h| h.id == host.id && h.state != HostState::Draining)
    };
    let most = before.hosts.iter().filter(stays).max_by(|a, b| a.load.total_cmp(&b.load));
    let above = most.filter(|host| host.load > before.mean * (1.0 + band));
    above.map_or_else(Vec::new, |host| Settled(cluster).hindrances(&host.id))
}

/// Machines that rules keep where they are.
pub(crate) fn kept(snapshot: &Snapshot) -> Vec<Kept> {
    let mut groups: BTreeMap<(&HostId, &Group), u32> = BTreeMap::new();
    for vm in &snapshot.vms {
        for group in BTreeSet::from_iter(&vm.rules.affinity) {
            *groups.entry((&vm.host, group)).or_default() += 1;
        }
    }
    let reason = |vm: &SnapshotMachine| {
        let rules = &vm.rules;
        let mate = |group: &Group| groups.get(&(&vm.host, group)).is_some_and(|&n| n > 1);
        if rules.ignore || !vm.movable {
            Some(Reason::RuleIgnored)
        } else if rules.never_live {
            Some(Reason::RuleNeverLive)
        } else if rules.pinned_to == [vm.host.clone().into()] {
            Some(Reason::RulePinned)
        } else {
            rules.affinity.iter().any(mate).then_some(Reason::RuleAffinity)
        }
    };
    let kept =
        snapshot.vms.iter().filter_map(|vm| Some(Kept { vm: vm.id.clone(), reason: reason(vm)? }));
    kept.collect()
}

//! Situations in which a machine stays because of itself, its host or the hosts it could go to.

use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::ceiling::Ceilings;
use evenkeel_core::control::{Autonomy, Pause};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::handoff::Mode;
use evenkeel_core::message::{Message, Talk, Watch};
use evenkeel_core::model::{
    Entry, HostState, LastMove, Locks, PerResource, Resources, Rules, Weights,
};
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_hypervisor::memory::{Aftermath, Fault, Workload};
use evenkeel_sim::{Cluster, HostSpec};

use crate::common::*;
use crate::stage::{Stage, after, once, staying};
use crate::{Situation, Told};

pub(crate) const SITUATIONS: &[Situation] = &[
    (Reason::Chosen, chosen, Told::Among),
    (Reason::Farther, farther, Told::First),
    (Reason::NoImprovement, no_improvement, Told::First),
    (Reason::NotYet, not_yet, Told::First),
    (Reason::GainSmall, gain_small, Told::First),
    (Reason::NoMemory, no_memory, Told::First),
    (Reason::NotRunning, not_running, Told::First),
    (Reason::EntryInvalid, entry_invalid, Told::First),
    (Reason::UnderWay, under_way, Told::First),
    (Reason::CoolDown, cool_down, Told::First),
    (Reason::WarmingUp, warming_up, Told::First),
    (Reason::Quarantined, quarantined, Told::First),
    (Reason::FailedThere, failed_there, Told::First),
    (Reason::TargetFails, target_fails, Told::First),
    (Reason::CpuCeiling, cpu_ceiling, Told::First),
    (Reason::IoCeiling, io_ceiling, Told::First),
    (Reason::NotConverging, not_converging, Told::First),
    (Reason::CostHigh, cost_high, Told::First),
    (Reason::NoLocks, no_locks, Told::First),
    (Reason::RunsTwice, runs_twice, Told::First),
    (Reason::Returned, returned, Told::Verdict),
    (Reason::NotOffered, not_offered, Told::First),
    (Reason::UnknownLoad, unknown_load, Told::First),
    (Reason::NoPeer, no_peer, Told::First),
    (Reason::Learning, learning, Told::First),
    (Reason::WithinDeadBand, within_dead_band, Told::First),
    (Reason::Held, held, Told::First),
    (Reason::MoveLimit, move_limit, Told::First),
    (Reason::Cordoned, cordoned, Told::First),
    (Reason::Draining, draining, Told::First),
    (Reason::Paused, paused, Told::First),
    (Reason::OutsideHours, outside_hours, Told::First),
    (Reason::Observing, observing, Told::First),
    (Reason::AwaitsApproval, awaits_approval, Told::First),
    (Reason::OtherMover, other_mover, Told::First),
];

fn paused() -> Cluster {
    let mut cluster = Stage::new().start();
    let pause = Pause { until: at(3600), by: "eve".to_owned(), reason: String::new() };
    cluster.input(&host_id(1), Input::Pause(Some(pause)));
    after(cluster, 60)
}

fn outside_hours() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.input(&host_id(0), Input::Closed(true));
    after(cluster, 60)
}

fn with_mode(mode: Autonomy) -> Cluster {
    Stage::new().ruled(Rules { mode: Some(mode), ..Rules::default() }).minute()
}

fn observing() -> Cluster {
    with_mode(Autonomy::Observe)
}

fn awaits_approval() -> Cluster {
    with_mode(Autonomy::Approve)
}

fn other_mover() -> Cluster {
    moved_lately(Some(true))
}

fn is_offer(message: &Message) -> bool {
    matches!(message, Message::Exchange(_, Talk::Offer { .. }))
}

fn chosen() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.network.loses = Some(is_offer);
    after(cluster, 60)
}

fn farther() -> Cluster {
    // Of 3.9 and 0.5 cores the former is nearer to half of the difference; together with what stays.
    let stage = Stage::new().edit(|s| {
        s.cpu = 0.5;
        s.others.push((0, 3.9, facts("fits", 2.0)));
    });
    once(stage.start(), |c| home(c, "fits") == host_id(1) && c.on_their_way().is_empty())
}

fn no_improvement() -> Cluster {
    Stage::new().edit(|s| s.others.clear()).minute()
}

fn not_yet() -> Cluster {
    Stage::mean_aware().configured(|c| c.levelling.kappa = 1e4).minute()
}

fn gain_small() -> Cluster {
    Stage::new().configured(|c| c.calm.gain_min = 0.9).edit(|s| s.cpu = 0.2).minute()
}

fn no_memory() -> Cluster {
    Stage::new().edit(|s| s.there.profile.reserved_memory_bytes = 127.0 * GIB).minute()
}

fn not_running() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.cloud_mut().pause(&machine_id("m")).unwrap();
    after(cluster, 60)
}

fn entry_invalid() -> Cluster {
    Stage::new().edit(|s| s.m.entry = Err("no number: `x`".to_owned())).minute()
}

fn under_way() -> Cluster {
    once(Stage::new().start(), |c| !c.on_their_way().is_empty())
}

fn cool_down() -> Cluster {
    moved_lately(None)
}

fn moved_lately(others: Option<bool>) -> Cluster {
    let last = LastMove { at: at(0), from: host_id(1), moves: None, cost_percent: None, others };
    Stage::new()
        .configured(|c| c.restraint.cool_down = Duration::from_secs(1800))
        .edit(|s| s.m.entry = Ok(Entry { last_move: Some(last), ..Entry::default() }))
        .minute()
}

fn warming_up() -> Cluster {
    Stage::new().configured(|c| c.metering.forecasting.warm_up = 1000).minute()
}

pub(crate) fn refused() -> Fault {
    let failure = Failure::new(FailureKind::PeerRefused, "no such network");
    Fault { failure, after: 0.5, leaves: Aftermath::Here }
}

/// The first host does not forget soon.
fn resentful() -> Stage {
    Stage::new().configured(|c| c.restraint.quarantine = Duration::from_secs(3600))
}

fn quarantined() -> Cluster {
    let mut cluster = resentful().start();
    cluster.add_host(HostSpec::new(profile(2), eager())).unwrap();
    cluster.start();
    cluster.cloud_mut().fail_migrations_of(&machine_id("m"), Some(refused())).unwrap();
    after(cluster, 300)
}

fn failed_there() -> Cluster {
    let mut cluster = resentful().start();
    cluster.cloud_mut().fail_next_migration(&host_id(0), refused()).unwrap();
    after(cluster, 120)
}

fn target_fails() -> Cluster {
    let stage = resentful().edit(|s| s.others.push((0, 2.0, facts("n", 2.0))));
    let mut cluster = stage.start();
    cluster.cloud_mut().fail_arrivals_at(&host_id(1), Some(refused())).unwrap();
    after(cluster, 300)
}

fn ceilings(cpu: f64, io: f64) -> Cluster {
    let ceilings = PerResource { cpu, memory: 1.0, io };
    Stage::new().edit(|s| s.there.config.ceilings.0 = ceilings).minute()
}

fn cpu_ceiling() -> Cluster {
    ceilings(0.01, 1.0)
}

fn io_ceiling() -> Cluster {
    ceilings(1.0, 1e-6)
}

fn not_converging() -> Cluster {
    let mut cluster = Stage::new().start();
    let wild = Workload { dirty_bytes_per_s: 1e13, ..work(3.0, 2.0, 1e6) };
    cluster.cloud_mut().set_workload(&machine_id("m"), wild).unwrap();
    after(cluster, 60)
}

fn cost_high() -> Cluster {
    Stage::new().configured(|c| c.costing.payback = Duration::ZERO).minute()
}

fn no_locks() -> Cluster {
    Stage::new()
        .configured(|c| c.commit = Mode::Fast)
        .edit(|s| s.m.locks = Locks::None("a raw device".to_owned()))
        .minute()
}

fn runs_twice() -> Cluster {
    let mut cluster = after(Stage::new().ruled(Rules::default()).start(), 3);
    let runs = Message::Watch(Watch::Runs(machine_id("m")));
    cluster.input(&host_id(0), Input::Message(host_id(1), runs));
    after(cluster, 5)
}

fn returned() -> Cluster {
    let cpu = Weights::new(PerResource { cpu: 1.0, memory: 0.0, io: 0.0 }).unwrap();
    let large = |name: &str| {
        let mut facts = facts(name, 1.0);
        facts.vcpus = 16;
        facts
    };
    let stage = Stage::mean_aware().edit(|s| {
        (s.here.profile.weights, s.there.profile.weights) = (cpu, cpu);
        // Both are there for a moment.
        let high = Ceilings(PerResource { cpu: 2.0, memory: 1.0, io: 1.0 });
        (s.here.config.ceilings, s.there.config.ceilings) = (high, high);
        // Alone it would lift the other host above this one; against 4 cores it does not.
        (s.m, s.cpu) = (large("m"), 8.8);
        s.others = vec![
            (0, 5.6, staying("stays")),
            (1, 4.0, large("goes-back")),
            (1, 2.4, staying("stays-too")),
        ];
    });
    after(stage.start(), 300)
}

fn not_offered() -> Cluster {
    let stage = Stage::new().edit(|s| {
        (s.m.memory_bytes, s.cpu) = (GIB, 0.001);
        let more = (0..70).map(|i| (0, 0.1, facts(&format!("v{i}"), 1.0)));
        s.others = more.collect();
    });
    let judged = |c: &Cluster| {
        let mut verdicts = c.records().iter().flat_map(|d| &d.candidates).map(|c| c.verdict);
        verdicts.any(|verdict| verdict == Reason::NotOffered)
    };
    once(stage.start(), judged)
}

fn unknown_load() -> Cluster {
    let stage = Stage::new().edit(|s| s.there.state = HostState::Cordoned);
    let mut cluster = after(stage.start(), 20);
    let wrong = Resources { cpu_cores: 1e3, memory_bytes: 1.0, io_bytes_per_s: 1.0 };
    cluster.cloud_mut().misread(&machine_id("m"), Some(wrong)).unwrap();
    after(cluster, 60)
}

fn no_peer() -> Cluster {
    let mut cluster = cluster(1, 1, &eager());
    cluster.place(&host_id(0), facts("m", 1.0), work(1.0, 1.0, 1e6)).unwrap();
    cluster.keep_records();
    cluster.start();
    after(cluster, 60)
}

fn learning() -> Cluster {
    // The other host takes nothing, and what was known of the cluster is forgotten.
    let stage = Stage::mean_aware().edit(|s| s.there.state = HostState::Cordoned);
    let mut cluster = stage.minute();
    cluster.input(&host_id(0), Input::ForgetMean);
    after(cluster, 0)
}

fn within_dead_band() -> Cluster {
    let stage = Stage::mean_aware().configured(|c| c.floor.dead_band = 0.5);
    stage.edit(|s| s.others.push((1, 7.0, staying("there")))).minute()
}

fn held() -> Cluster {
    let hold = |c: &mut Config| (c.restraint.hold, c.restraint.hold_of) = (32, 32);
    Stage::mean_aware().configured(hold).minute()
}

fn move_limit() -> Cluster {
    Stage::mean_aware().configured(|c| c.restraint.given_per_hour_max = 0).minute()
}

fn cordoned() -> Cluster {
    Stage::new().edit(|s| s.there.state = HostState::Cordoned).minute()
}

fn draining() -> Cluster {
    Stage::new().edit(|s| s.there.state = HostState::Draining).minute()
}

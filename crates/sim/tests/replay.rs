//! Balancing loads that never stand still: better than doing nothing, and calm about it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::Resources;
use evenkeel_core::select::{Calm, MeanAware, Policy};
use evenkeel_sim::replay::{Replay, Score, Trace};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TICK: Duration = Duration::from_secs(300);

/// Machines that are busy by day, each with its own day, and that flicker.
fn days(machines: usize, ticks: usize, flicker: f64) -> Trace {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let machine = |_| {
        let (height, phase) =
            (rng.random_range(0.1..5.0f64), rng.random_range(0.0..std::f64::consts::TAU));
        (0..ticks)
            .map(|tick| {
                let day = (tick as f64 / 288.0 * std::f64::consts::TAU + phase).sin() + 1.2;
                let cpu_cores = height * day * (1.0 + flicker * rng.random_range(-1.0..1.0));
                Resources { cpu_cores, memory_bytes: 2e9, io_bytes_per_s: cpu_cores * 1e6 }
            })
            .collect()
    };
    Trace { tick: TICK, machines: (0..machines).map(machine).collect() }
}

fn replay(trace: &Trace, config: Option<Config>) -> Score {
    let capacity = Resources { cpu_cores: 32.0, memory_bytes: 2.56e11, io_bytes_per_s: 4e8 };
    let replay = Replay {
        hosts: 8,
        capacity,
        config,
        seed: 1,
        ticks: 400,
        score_from: 100,
        dirty_share_per_s: 0.005,
    };
    replay.run(trace).unwrap()
}

fn calm() -> Config {
    Config {
        round: TICK,
        sample: TICK / 5,
        calm: Calm { dead_band: 0.2, difference_min: 0.02, gain_min: 0.3 },
        metering: evenkeel_core::load::Metering { stale_after: TICK, ..Default::default() },
        policy: Policy::MeanAware(MeanAware::default()),
        ..Config::default()
    }
}

#[test]
fn balancing_follows_loads_that_change_and_brings_nothing_straight_back() {
    let trace = days(48, 400, 0.1);
    let (without, with) = (replay(&trace, None), replay(&trace, Some(calm())));
    assert!(with.cv < 0.6 * without.cv, "{with:?} against {without:?}");
    assert!(with.overloaded_host_ticks * 5 <= without.overloaded_host_ticks, "{with:?}");
    assert!(with.migrations_per_hour < 6.0, "{with:?}");
    assert_eq!((with.returns, with.violations), (0, 0));
}

/// Churn without benefit: loads that only flicker about equal means are no reason to move anything.
#[test]
fn flickering_loads_move_next_to_nothing() {
    let mut trace = days(160, 400, 0.0);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for usage in trace.machines.iter_mut().flatten() {
        usage.cpu_cores = 0.8 * rng.random_range(0.5..1.5);
        usage.io_bytes_per_s = 0.0;
    }
    let score = replay(&trace, Some(calm()));
    assert!(score.migrations_per_hour < 1.0, "{score:?}");
}

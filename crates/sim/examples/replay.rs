//! Replays real traces, with and without balancing: `replay bitbrains DIR` with the decompressed
//! files of a month in DIR, or `replay planetlab FILE` with a day as `DATE.NxT.u8`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::ceiling::Ceilings;
use evenkeel_core::forecast::{Forecasting, Smoothing};
use evenkeel_core::model::{PerResource, Resources};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::{Calm, MeanAware, Policy};
use evenkeel_sim::replay::{Replay, Trace};

type Failure = Box<dyn std::error::Error>;

const TICK: Duration = Duration::from_secs(300);
const DAYS: usize = 7;
const TICKS_A_DAY: usize = 288;

fn matrix(dir: &Path, name: &str, wide: bool) -> Result<Vec<f64>, Failure> {
    let kind = if wide { "uint32" } else { "uint16" };
    let bytes = std::fs::read(dir.join(format!("2013-8.{name}.{kind}.le")))?;
    let (mut last, mut values) = (0.0, Vec::new());
    for chunk in bytes.chunks_exact(if wide { 4 } else { 2 }) {
        let raw = chunk.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let missing = if wide { u64::from(u32::MAX) } else { u64::from(u16::MAX) };
        if raw != missing {
            last = raw as f64;
        }
        values.push(last);
    }
    Ok(values)
}

fn bitbrains(dir: &Path) -> Result<Trace, Failure> {
    let (cpu, cap) = (matrix(dir, "cpu_permille", false)?, matrix(dir, "cpu_cap_mhz", true)?);
    let (memory, disk) = (matrix(dir, "mem_mib", true)?, matrix(dir, "disk_kbps", true)?);
    let net = matrix(dir, "net_kbps", true)?;
    let ticks = 8640;
    let usage = |at: usize| Resources {
        cpu_cores: cpu[at] / 1000.0 * cap[at] / 2600.0,
        memory_bytes: memory[at] * 1_048_576.0,
        io_bytes_per_s: (disk[at] + net[at]) * 1000.0,
    };
    let machine = |vm: usize| (0..DAYS * TICKS_A_DAY).map(|t| usage(vm * ticks + t)).collect();
    Ok(Trace { tick: TICK, machines: (0..cpu.len() / ticks).map(machine).collect() })
}

fn planetlab(file: &Path) -> Result<Trace, Failure> {
    let bytes = std::fs::read(file)?;
    let usage = |&percent: &u8| Resources {
        cpu_cores: f64::from(percent) / 100.0,
        memory_bytes: 1e9,
        io_bytes_per_s: 0.0,
    };
    let machines = bytes.chunks_exact(TICKS_A_DAY).map(|day| day.iter().map(usage).collect());
    Ok(Trace { tick: TICK, machines: machines.collect() })
}

fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (kind, path) = (args.next().ok_or("which trace?")?, args.next().ok_or("which file?")?);
    let lab = kind == "planetlab";
    let trace = if lab { planetlab(path.as_ref())? } else { bitbrains(path.as_ref())? };
    let probes = number("PROBES", 12.0) as usize;
    let config = Config {
        round: TICK,
        sample: TICK / 10,
        calm: Calm {
            dead_band: number("BAND", 0.2),
            difference_min: 0.0,
            gain_min: number("GAIN", 0.25),
        },
        metering: evenkeel_core::load::Metering {
            stale_after: TICK,
            forecasting: Forecasting {
                smoothing: match number("SMOOTHING", 0.0) {
                    0.0 => Smoothing::Adaptive,
                    fixed => Smoothing::Fixed(fixed),
                },
                lead: Duration::from_secs(number("LEAD", 600.0) as u64),
                quantile: number("QUANTILE", 0.95),
                warm_up: number("WARMUP", 3.0) as u32,
            },
            ..Default::default()
        },
        restraint: Restraint {
            cool_down: Duration::from_secs(number("COOLDOWN", 1800.0) as u64),
            hold: number("HOLD", 2.0) as u32,
            hold_of: number("HOLDOF", 3.0) as u32,
            ..Restraint::default()
        },
        policy: Policy::MeanAware(MeanAware {
            probes,
            patience: number("PATIENCE", 2.0) as u32,
            idle_rounds: number("IDLE", 8.0) as u32,
        }),
        ceilings: {
            let ceiling = number("CEILING", 0.9);
            Ceilings(PerResource { cpu: ceiling, memory: 1.0, io: ceiling })
        },
        ..Config::default()
    };
    for seed in 1..=3 {
        for balanced in [false, true] {
            let replay = Replay {
                hosts: if lab { 100 } else { 12 },
                capacity: Resources {
                    cpu_cores: if lab { 4.0 } else { 32.0 },
                    memory_bytes: 256.0 * 1_073_741_824.0,
                    io_bytes_per_s: 4e8,
                },
                config: balanced.then(|| config.clone()),
                seed,
                ticks: if lab { TICKS_A_DAY } else { DAYS * TICKS_A_DAY },
                score_from: if lab { 12 } else { TICKS_A_DAY },
                dirty_share_per_s: 0.005,
            };
            println!("seed {seed} balanced {balanced}: {:?}", replay.run(&trace)?);
        }
    }
    Ok(())
}

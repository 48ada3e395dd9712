//! `[balance]` and `[ceilings]`: how a host balances.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_core::balancer;
use evenkeel_core::ceiling::Ceilings;
use evenkeel_core::cost::Costing;
use evenkeel_core::forecast::{Forecasting, Smoothing};
use evenkeel_core::handoff::Limits;
use evenkeel_core::load::Metering;
use evenkeel_core::model::PerResource;
use evenkeel_core::restraint::{MOVES_KEPT_MAX, Restraint};
use evenkeel_core::select::levelling::Levelling;
use evenkeel_core::select::{Calm, MeanAware, Policy};
use serde::{Deserialize, Deserializer};

use crate::{SPAN_MAX, SPAN_MIN, ValueError, check, duration, size, some_size};

/// `balance.policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyConfig {
    /// Few machines that bring hosts to their fair share of the cluster's load.
    #[default]
    MeanAware,
    /// The machine whose load is nearest to half the difference of two hosts.
    HalfDifference,
}

/// `balance.smoothing`: `"adaptive"`, or a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum SmoothingConfig {
    /// Each machine's own, chosen by how wrong it has been.
    #[default]
    Adaptive,
    /// This weight of the newest rate.
    Fixed(f64),
}

impl<'de> Deserialize<'de> for SmoothingConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = SmoothingConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`\"adaptive\"` or a number above 0 and at most 1")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let unknown = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                (text == "adaptive").then_some(SmoothingConfig::Adaptive).ok_or_else(unknown)
            }
            fn visit_f64<E>(self, weight: f64) -> Result<Self::Value, E> {
                Ok(SmoothingConfig::Fixed(weight))
            }
            fn visit_i64<E>(self, weight: i64) -> Result<Self::Value, E> {
                Ok(SmoothingConfig::Fixed(weight as f64))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Largest ceiling.
const CEILING_MAX: f64 = 10.0;

/// `[ceilings]`: how much of each resource of this host may be in use, as fractions.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CeilingsConfig {
    /// Of CPU time.
    pub cpu: f64,
    /// Of memory, as promised to machines.
    pub memory: f64,
    /// Of disk and network transfer.
    pub io: f64,
}

impl Default for CeilingsConfig {
    fn default() -> Self {
        let PerResource { cpu, memory, io } = Ceilings::default().0;
        Self { cpu, memory, io }
    }
}

impl CeilingsConfig {
    /// Whether every ceiling makes sense.
    ///
    /// # Errors
    /// The first that does not, and what it must be.
    pub fn check(&self) -> Result<(), ValueError> {
        let Self { cpu, memory, io } = *self;
        let of = [("ceilings.cpu", cpu), ("ceilings.memory", memory), ("ceilings.io", io)];
        of.into_iter().try_for_each(|(key, value)| {
            // More than all of it is promised where machines rarely want it at once. 90 is no fraction.
            let in_range = value > 0.0 && value <= CEILING_MAX;
            check(
                in_range,
                key,
                &value,
                "a fraction of the capacity, above 0 and at most 10: write 0.9 for 90 %",
            )
        })
    }

    /// As the core knows them.
    #[must_use]
    pub const fn ceilings(&self) -> Ceilings {
        Ceilings(PerResource { cpu: self.cpu, memory: self.memory, io: self.io })
    }
}

/// `[balance]`. `docs/configuration.md` says what each key does, and how to choose it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalanceConfig {
    /// By which rule to select.
    pub policy: PolicyConfig,
    /// How much is moved for how little, from 1 to 5.
    pub aggressiveness: u8,
    /// Hosts that one with something to give asks at once.
    pub probes: usize,
    /// Mean time between two rounds.
    #[serde(deserialize_with = "duration")]
    pub round: Duration,
    /// How far a round may come early or late, as a fraction of `round`.
    pub jitter: f64,
    /// Time between two samples.
    #[serde(deserialize_with = "duration")]
    pub sample: Duration,
    /// How rates become what a machine is expected to use.
    pub smoothing: SmoothingConfig,
    /// Over which time ahead forecasts are judged.
    #[serde(deserialize_with = "duration")]
    pub forecast_lead: Duration,
    /// Which quantile of the forecasts' errors must fit.
    pub forecast_quantile: f64,
    /// Samples after which a machine just started or just arrived is known.
    pub warm_up: u32,
    /// Age at which a sample says nothing any more.
    #[serde(deserialize_with = "duration")]
    pub stale_after: Duration,
    /// Differences up to this fraction of the pair's mean load are left alone; the default depends on
    /// the policy.
    pub dead_band: Option<f64>,
    /// Differences up to this load are left alone; the default depends on the policy.
    pub difference_min: Option<f64>,
    /// What a move must gain, as a fraction of the pair's mean load; the default depends on the
    /// policy.
    pub gain_min: Option<f64>,
    /// In how many of the latest samples a host must be above its limit before it gives.
    pub hold: u32,
    /// Of how many.
    pub hold_of: u32,
    /// How long a machine that has moved stays where it is.
    #[serde(deserialize_with = "duration")]
    pub cool_down: Duration,
    /// The most that this grows to for one that moves again and again.
    #[serde(deserialize_with = "duration")]
    pub cool_down_max: Duration,
    /// How long a machine is left alone after a failed migration.
    #[serde(deserialize_with = "duration")]
    pub quarantine: Duration,
    /// Most of an hour spent on giving machines, and on taking some, as a share.
    pub moving_share_max: f64,
    /// Most machines given within an hour.
    pub given_per_hour_max: usize,
    /// Most machines taken within an hour.
    pub taken_per_hour_max: usize,
    /// For how long a host that has come back is filled gently.
    #[serde(deserialize_with = "duration")]
    pub return_time: Duration,
    /// Most machines that it takes within a minute meanwhile.
    pub return_per_minute_max: usize,
    /// How long another host may take to answer.
    #[serde(deserialize_with = "duration")]
    pub reply_time_max: Duration,
    /// How long room is kept for a machine.
    #[serde(deserialize_with = "duration")]
    pub reservation_time: Duration,
    /// How long a migration may last.
    #[serde(deserialize_with = "duration")]
    pub migration_time_max: Duration,
    /// How long a machine may stand still at the end of its migration, as predicted.
    #[serde(deserialize_with = "duration")]
    pub migration_downtime_max: Duration,
    /// What the link is taken to carry per second until migrations have shown it.
    #[serde(deserialize_with = "size")]
    pub migration_link: ByteSize,
    /// Most that a migration may send per second.
    #[serde(deserialize_with = "some_size")]
    pub migration_bandwidth: Option<ByteSize>,
    /// How long a load counts as lasting at most, against what its migration costs.
    #[serde(deserialize_with = "duration")]
    pub payback: Duration,
    /// Most handoffs at once, given and taken together.
    pub handoffs_max: usize,
    /// From which score of contention on a machine is helped first; 0 helps none first.
    pub starving: u8,
}

/// `aggressiveness` unless given.
const AGGRESSIVENESS: u8 = 3;
/// More than anything is worth.
const NEVER: f64 = 1e12;

/// What a move must be worth at a degree of aggressiveness; at the least nothing moves to level loads.
const fn levelling(aggressiveness: u8) -> Levelling {
    let kappa = match aggressiveness {
        ..=1 => NEVER,
        2 => 2.0 * Levelling::KAPPA,
        3 => Levelling::KAPPA,
        4 => Levelling::KAPPA / 3.0,
        _ => Levelling::KAPPA / 27.0,
    };
    Levelling { kappa }
}

/// The same for the thresholds of half-difference, as a factor.
const fn half(aggressiveness: u8) -> f64 {
    match aggressiveness {
        ..=1 => NEVER,
        2 => 2.0,
        3 => 1.0,
        4 => 0.5,
        _ => 0.0,
    }
}

/// What a move must gain by half-difference.
const HALF_DIFFERENCE_GAIN_MIN: f64 = 0.1;

impl Default for BalanceConfig {
    fn default() -> Self {
        let core = balancer::Config::default();
        let (forecasting, restraint) = (core.metering.forecasting, core.restraint);
        Self {
            policy: PolicyConfig::default(),
            aggressiveness: AGGRESSIVENESS,
            probes: MeanAware::at_work().probes,
            round: core.round,
            jitter: core.jitter,
            sample: core.sample,
            smoothing: SmoothingConfig::default(),
            forecast_lead: forecasting.lead,
            forecast_quantile: forecasting.quantile,
            warm_up: forecasting.warm_up,
            stale_after: core.metering.stale_after,
            dead_band: None,
            difference_min: None,
            gain_min: None,
            hold: restraint.hold,
            hold_of: restraint.hold_of,
            cool_down: restraint.cool_down,
            cool_down_max: restraint.cool_down_max,
            quarantine: restraint.quarantine,
            moving_share_max: restraint.moving_share_max,
            given_per_hour_max: restraint.given_per_hour_max,
            taken_per_hour_max: restraint.taken_per_hour_max,
            return_time: restraint.return_time,
            return_per_minute_max: restraint.return_per_minute_max,
            reply_time_max: core.limits.reply_time_max,
            reservation_time: core.limits.reservation_time,
            migration_time_max: core.limits.migration_time_max,
            migration_downtime_max: core.costing.downtime_max,
            migration_link: ByteSize::b(core.costing.link_bytes_per_s as u64),
            migration_bandwidth: None,
            payback: core.costing.payback,
            handoffs_max: core.handoffs_max,
            starving: core.starving.unwrap_or(0),
        }
    }
}

impl BalanceConfig {
    /// Whether every value makes sense.
    ///
    /// # Errors
    /// The first key that does not, and what it must be.
    pub fn check(&self) -> Result<(), ValueError> {
        self.check_fractions()?;
        self.check_spans()?;
        self.check_counts()
    }

    fn check_fractions(&self) -> Result<(), ValueError> {
        let fraction = |value: f64| value.is_finite() && (0.0..=10.0).contains(&value);
        let fractions = [
            ("balance.dead_band", self.dead_band.unwrap_or_default()),
            ("balance.difference_min", self.difference_min.unwrap_or_default()),
            ("balance.gain_min", self.gain_min.unwrap_or_default()),
        ];
        for (key, value) in fractions {
            check(fraction(value), key, &value, "a fraction, from 0 to 10")?;
        }
        let share = self.moving_share_max;
        let in_range = share > 0.0 && share <= 1.0;
        check(in_range, "balance.moving_share_max", &share, "above 0 and at most 1")?;
        let jitter = self.jitter;
        check((0.0..1.0).contains(&jitter), "balance.jitter", &jitter, "at least 0 and below 1")?;
        if let SmoothingConfig::Fixed(weight) = self.smoothing {
            let in_range = weight > 0.0 && weight <= 1.0;
            check(in_range, "balance.smoothing", &weight, "above 0 and at most 1")?;
        }
        let quantile = self.forecast_quantile;
        let in_range = (0.0..=1.0).contains(&quantile);
        check(in_range, "balance.forecast_quantile", &quantile, "from 0 to 1")
    }

    fn check_spans(&self) -> Result<(), ValueError> {
        let spans = [
            ("balance.round", self.round),
            ("balance.sample", self.sample),
            ("balance.forecast_lead", self.forecast_lead),
            ("balance.stale_after", self.stale_after),
            ("balance.reply_time_max", self.reply_time_max),
            ("balance.reservation_time", self.reservation_time),
            ("balance.migration_time_max", self.migration_time_max),
        ];
        for (key, span) in spans {
            let in_range = (SPAN_MIN..=SPAN_MAX).contains(&span);
            check(in_range, key, &format!("{span:?}"), "at least 100ms and at most 8760h")?;
        }
        let waits = [
            ("balance.cool_down", self.cool_down),
            ("balance.cool_down_max", self.cool_down_max),
            ("balance.quarantine", self.quarantine),
            ("balance.return_time", self.return_time),
            ("balance.migration_downtime_max", self.migration_downtime_max),
            ("balance.payback", self.payback),
        ];
        for (key, span) in waits {
            check(span <= SPAN_MAX, key, &format!("{span:?}"), "at most 8760h")?;
        }
        let fresh = self.stale_after > self.sample;
        let stale = format!("{:?}", self.stale_after);
        check(fresh, "balance.stale_after", &stale, "longer than balance.sample")
    }

    fn check_counts(&self) -> Result<(), ValueError> {
        let counts = [
            ("balance.aggressiveness", self.aggressiveness.into(), 1, 5, "from 1 to 5"),
            ("balance.handoffs_max", self.handoffs_max, 1, 64, "from 1 to 64"),
            ("balance.probes", self.probes, 1, 64, "from 1 to 64"),
            ("balance.starving", self.starving.into(), 0, 100, "from 0 to 100"),
            ("balance.warm_up", self.warm_up as usize, 1, 1000, "from 1 to 1000"),
            ("balance.hold_of", self.hold_of as usize, 1, 32, "from 1 to 32"),
            (
                "balance.given_per_hour_max",
                self.given_per_hour_max,
                1,
                MOVES_KEPT_MAX,
                "from 1 to 1000",
            ),
            (
                "balance.taken_per_hour_max",
                self.taken_per_hour_max,
                1,
                MOVES_KEPT_MAX,
                "from 1 to 1000",
            ),
            (
                "balance.return_per_minute_max",
                self.return_per_minute_max,
                1,
                MOVES_KEPT_MAX,
                "from 1 to 1000",
            ),
        ];
        for (key, count, least, most, want) in counts {
            check((least..=most).contains(&count), key, &count, want)?;
        }
        let possible = self.hold <= self.hold_of;
        check(possible, "balance.hold", &self.hold, "at most balance.hold_of")?;
        let link = self.migration_link.as_u64();
        check(link > 0, "balance.migration_link", &self.migration_link, "above 0")
    }

    /// When a pair of hosts acts by half the difference, and over a ceiling.
    fn calm(&self) -> Calm {
        let default = Calm::default();
        let (by_half, gain_min) = match self.policy {
            PolicyConfig::HalfDifference => (half(self.aggressiveness), HALF_DIFFERENCE_GAIN_MIN),
            PolicyConfig::MeanAware => (1.0, default.gain_min),
        };
        Calm {
            dead_band: self.dead_band.unwrap_or(by_half * default.dead_band),
            difference_min: self.difference_min.unwrap_or(by_half * default.difference_min),
            gain_min: self.gain_min.unwrap_or(by_half * gain_min),
        }
    }

    /// How the core shall balance, with the ceilings that are its default.
    #[must_use]
    pub fn balancer(&self) -> balancer::Config {
        let default = balancer::Config::default();
        let policy = match self.policy {
            PolicyConfig::HalfDifference => Policy::HalfDifference,
            PolicyConfig::MeanAware => {
                Policy::MeanAware(MeanAware { probes: self.probes, ..MeanAware::at_work() })
            }
        };
        let bandwidth_bytes_per_s = self.migration_bandwidth.map(|size| size.as_u64());
        let link = self.migration_link.as_u64().min(bandwidth_bytes_per_s.unwrap_or(u64::MAX));
        balancer::Config {
            round: self.round,
            jitter: self.jitter,
            sample: self.sample,
            metering: Metering {
                stale_after: self.stale_after,
                forecasting: Forecasting {
                    smoothing: match self.smoothing {
                        SmoothingConfig::Adaptive => Smoothing::Adaptive,
                        SmoothingConfig::Fixed(weight) => Smoothing::Fixed(weight),
                    },
                    lead: self.forecast_lead,
                    quantile: self.forecast_quantile,
                    warm_up: self.warm_up,
                },
                ..default.metering
            },
            calm: self.calm(),
            levelling: levelling(self.aggressiveness),
            floor: Calm {
                dead_band: self.dead_band.unwrap_or_default(),
                difference_min: self.difference_min.unwrap_or_default(),
                gain_min: self.gain_min.unwrap_or_default(),
            },
            restraint: Restraint {
                hold: self.hold,
                hold_of: self.hold_of,
                cool_down: self.cool_down,
                cool_down_max: self.cool_down_max,
                quarantine: self.quarantine,
                moving_share_max: self.moving_share_max,
                given_per_hour_max: self.given_per_hour_max,
                taken_per_hour_max: self.taken_per_hour_max,
                return_time: self.return_time,
                return_per_minute_max: self.return_per_minute_max,
            },
            costing: Costing {
                link_bytes_per_s: link as f64,
                downtime_max: self.migration_downtime_max,
                time_max: self.migration_time_max,
                payback: self.payback,
            },
            limits: Limits {
                reply_time_max: self.reply_time_max,
                reservation_time: self.reservation_time,
                migration_time_max: self.migration_time_max,
                bandwidth_bytes_per_s,
                ..default.limits
            },
            handoffs_max: self.handoffs_max,
            starving: (self.starving > 0).then_some(self.starving),
            policy,
            ..default
        }
    }
}

//! `[balance]`: how a host balances.

use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_core::balancer;
use evenkeel_core::handoff::Limits;
use evenkeel_core::load::Metering;
use evenkeel_core::select::{Calm, Policy};
use serde::Deserialize;

use crate::{SPAN_MAX, SPAN_MIN, ValueError, check, duration};

/// `[balance]`; `docs/configuration.md` describes each key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Balance {
    /// By which rule machines are selected.
    pub policy: PolicyName,
    /// Mean time between two rounds.
    #[serde(deserialize_with = "duration")]
    pub round: Duration,
    /// How far a round may come early or late, as a fraction of `round`.
    pub jitter: f64,
    /// Time between two samples.
    #[serde(deserialize_with = "duration")]
    pub sample: Duration,
    /// Weight of the newest rate in the running mean.
    pub smoothing: f64,
    /// Age at which a sample says nothing any more.
    #[serde(deserialize_with = "duration")]
    pub stale_after: Duration,
    /// Differences up to this fraction of the pair's mean load are left alone.
    pub dead_band: f64,
    /// Differences up to this load are left alone.
    pub difference_min: f64,
    /// A move must narrow the difference by more than this fraction of the pair's mean load.
    pub gain_min: f64,
    /// How long a machine that has moved stays where it is.
    #[serde(deserialize_with = "duration")]
    pub cool_down: Duration,
    /// How long another host may take to answer.
    #[serde(deserialize_with = "duration")]
    pub reply_time_max: Duration,
    /// How long room is kept for a machine.
    #[serde(deserialize_with = "duration")]
    pub reservation_time: Duration,
    /// How long a migration may last.
    #[serde(deserialize_with = "duration")]
    pub migration_time_max: Duration,
    /// Most that a migration may send per second.
    pub migration_bandwidth: Option<ByteSize>,
    /// Most handoffs at once, given and taken together.
    pub handoffs_max: usize,
}

/// The rules by which hosts select.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// The machine whose load is nearest to half the difference of two hosts.
    #[default]
    HalfDifference,
    /// Few machines that bring hosts to their fair share of the cluster's load.
    MeanAware,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::MeanAware => Self::default(),
            PolicyName::HalfDifference => Self::HalfDifference,
        }
    }
}

impl Default for Balance {
    fn default() -> Self {
        let core = balancer::Config::default();
        Self {
            policy: PolicyName::default(),
            round: core.round,
            jitter: core.jitter,
            sample: core.sample,
            smoothing: core.metering.smoothing,
            stale_after: core.metering.stale_after,
            dead_band: core.calm.dead_band,
            difference_min: core.calm.difference_min,
            gain_min: core.calm.gain_min,
            cool_down: core.cool_down,
            reply_time_max: core.limits.reply_time_max,
            reservation_time: core.limits.reservation_time,
            migration_time_max: core.limits.migration_time_max,
            migration_bandwidth: None,
            handoffs_max: core.handoffs_max,
        }
    }
}

impl Balance {
    /// Whether every value makes sense.
    ///
    /// # Errors
    /// The first key that does not, and what it must be.
    pub fn check(&self) -> Result<(), ValueError> {
        let fraction = |value: f64| value.is_finite() && (0.0..=10.0).contains(&value);
        let fractions = [
            ("balance.dead_band", self.dead_band),
            ("balance.difference_min", self.difference_min),
            ("balance.gain_min", self.gain_min),
        ];
        for (key, value) in fractions {
            check(fraction(value), key, &value, "a fraction, from 0 to 10")?;
        }
        let (jitter, smoothing) = (self.jitter, self.smoothing);
        check((0.0..1.0).contains(&jitter), "balance.jitter", &jitter, "at least 0 and below 1")?;
        let in_range = smoothing > 0.0 && smoothing <= 1.0;
        check(in_range, "balance.smoothing", &smoothing, "above 0 and at most 1")?;
        let spans = [
            ("balance.round", self.round),
            ("balance.sample", self.sample),
            ("balance.stale_after", self.stale_after),
            ("balance.reply_time_max", self.reply_time_max),
            ("balance.reservation_time", self.reservation_time),
            ("balance.migration_time_max", self.migration_time_max),
        ];
        for (key, span) in spans {
            let in_range = (SPAN_MIN..=SPAN_MAX).contains(&span);
            check(in_range, key, &format!("{span:?}"), "at least 100ms and at most 8760h")?;
        }
        let cool_down = format!("{:?}", self.cool_down);
        check(self.cool_down <= SPAN_MAX, "balance.cool_down", &cool_down, "at most 8760h")?;
        let fresh = self.stale_after > self.sample;
        let stale = format!("{:?}", self.stale_after);
        check(fresh, "balance.stale_after", &stale, "longer than balance.sample")?;
        let handoffs = self.handoffs_max;
        check((1..=64).contains(&handoffs), "balance.handoffs_max", &handoffs, "from 1 to 64")
    }

    /// How the core shall balance.
    #[must_use]
    pub fn balancer(&self) -> balancer::Config {
        balancer::Config {
            round: self.round,
            jitter: self.jitter,
            sample: self.sample,
            metering: Metering {
                stale_after: self.stale_after,
                smoothing: self.smoothing,
                ..Metering::default()
            },
            calm: Calm {
                dead_band: self.dead_band,
                difference_min: self.difference_min,
                gain_min: self.gain_min,
            },
            cool_down: self.cool_down,
            limits: Limits {
                reply_time_max: self.reply_time_max,
                reservation_time: self.reservation_time,
                migration_time_max: self.migration_time_max,
                bandwidth_bytes_per_s: self.migration_bandwidth.map(|size| size.as_u64()),
            },
            handoffs_max: self.handoffs_max,
            policy: self.policy.into(),
            tentative: false,
        }
    }
}

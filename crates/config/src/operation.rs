//! `[operation]`: how much a host does by itself, and when.

use std::time::Duration;

use evenkeel_core::balancer;
use evenkeel_core::control::Autonomy;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::hours::{Blackout, Hours, Weekly, spans};
use crate::{SPAN_MAX, SPAN_MIN, ValueError, check, duration};

/// `[operation]`. `docs/operating.md` says how to use it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperationConfig {
    /// How much this host does by itself.
    pub mode: Autonomy,
    /// The zone of the times below; that of the host otherwise.
    pub time_zone: Option<String>,
    /// When it may move machines by its own decision; always if there are none.
    #[serde(deserialize_with = "spans")]
    pub windows: Vec<Weekly>,
    /// When it may not.
    #[serde(deserialize_with = "spans")]
    pub blackouts: Vec<Blackout>,
    /// How long a recommendation waits for an operator.
    #[serde(deserialize_with = "duration")]
    pub recommendation_time: Duration,
}

impl Default for OperationConfig {
    /// A host that has just been set up moves nothing before somebody has seen what it would move.
    fn default() -> Self {
        Self {
            mode: Autonomy::Observe,
            time_zone: None,
            windows: Vec::new(),
            blackouts: Vec::new(),
            recommendation_time: balancer::Config::default().recommendation_time,
        }
    }
}

impl OperationConfig {
    /// Whether every value makes sense.
    ///
    /// # Errors
    /// The first key that does not, and what it must be.
    pub fn check(&self) -> Result<(), ValueError> {
        let time = self.recommendation_time;
        let in_range = (SPAN_MIN..=SPAN_MAX).contains(&time);
        let want = "at least 100ms and at most 8760h";
        check(in_range, "operation.recommendation_time", &format!("{time:?}"), want)?;
        let zone = self.time_zone.as_deref().unwrap_or_default();
        let want = "a time zone that this system knows, such as `Europe/Berlin` or `UTC`";
        check(self.zone().is_some(), "operation.time_zone", &zone, want)
    }

    fn zone(&self) -> Option<TimeZone> {
        let named = self.time_zone.as_deref();
        named.map_or_else(|| Some(TimeZone::system()), |name| TimeZone::get(name).ok())
    }

    /// When it may act.
    #[must_use]
    pub fn hours(&self) -> Hours {
        let zone = self.zone().unwrap_or(TimeZone::UTC);
        Hours::new(zone, self.windows.clone(), self.blackouts.clone())
    }
}

//! Points in time, as the driver tells them.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch, never going backwards.
///
/// A driver anchors it once to the wall clock and advances it by a monotonic clock, so that
/// deadlines survive a step of the wall clock and records still say when something happened. In a
/// simulation it is virtual.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
)]
#[cbor(transparent)]
#[serde(transparent)]
pub struct Time(#[n(0)] u64);

/// How far the clock of another host may be ahead of this one's: what it says of later times cannot be.
/// A host whose clock is further ahead than that is not believed until its clock is set.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

impl Time {
    /// Whether another host can have read this on its clock by `now`.
    #[must_use]
    pub fn can_be(self, now: Self) -> bool {
        self <= now + CLOCK_AHEAD_MAX
    }

    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at the end of time, and at a resolution of one millisecond.
    fn add(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

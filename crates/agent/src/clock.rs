//! Real time as the core wants it: anchored once to the wall clock, advanced by a monotonic one.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::Time;

/// A clock that never goes backwards and does not follow steps of the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    anchor: Time,
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Self { anchor: Time::from_unix_ms(ms), started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        self.anchor + self.started.elapsed()
    }

    /// The moment at which this clock will show `time`; at once if it has passed.
    pub(crate) fn instant_of(&self, time: Time) -> Instant {
        self.started + time.since(self.anchor)
    }
}

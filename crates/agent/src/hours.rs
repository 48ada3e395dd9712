//! Whether this is within the hours in which this host may move machines by its own decision.

use evenkeel_config::Hours;
use evenkeel_core::model::Time;
use jiff::Timestamp;

/// The configured hours, by the wall clock.
#[derive(Debug)]
pub(crate) struct OpenHours {
    hours: Hours,
    closed: bool,
    /// Until when what is known holds.
    until: Option<Timestamp>,
    /// When that changes next, as far as it is known.
    pub(crate) change: Option<Time>,
}

/// How often the clock is looked at, in seconds: it may be set.
const LOOK_AGAIN_S: i64 = 60;

impl OpenHours {
    pub(crate) const fn new(hours: Hours) -> Self {
        Self { hours, closed: false, until: None, change: None }
    }

    /// Whether it is outside the hours, if that has changed.
    pub(crate) fn look(&mut self, now: Timestamp) -> Option<bool> {
        let seconds = |until: Timestamp| until.as_second() - now.as_second();
        if self.until.is_some_and(|until| (1..=LOOK_AGAIN_S).contains(&seconds(until))) {
            return None;
        }
        let closed = !self.hours.are_open(now);
        let next = self.hours.next_change(now);
        self.change =
            next.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(Time::from_unix_ms);
        let later = Timestamp::from_second(now.as_second() + LOOK_AGAIN_S).unwrap_or(now);
        self.until = Some(next.map_or(later, |next| next.min(later)));
        let changed = closed != self.closed;
        self.closed = closed;
        changed.then_some(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    #[test]
    fn a_change_is_told_once_and_at_its_minute() {
        let nights = Hours::new(TimeZone::UTC, vec!["22:00-06:00".parse().unwrap()], Vec::new());
        let mut hours = OpenHours::new(nights);
        for (at, told) in [
            ("2026-11-23T21:59:00Z", Some(true)),
            ("2026-11-23T21:59:30Z", None),
            ("2026-11-23T21:59:59Z", None),
            ("2026-11-23T22:00:00Z", Some(false)),
            ("2026-11-23T22:00:05Z", None),
            ("2026-11-24T05:59:59Z", None),
            ("2026-11-24T06:00:01Z", Some(true)),
            // The clock is set back.
            ("2026-11-24T05:00:00Z", Some(false)),
        ] {
            assert_eq!(hours.look(at.parse().unwrap()), told, "{at}");
        }
        assert_eq!(hours.change.map(Time::unix_ms), Some(1_795_500_000_000));
    }
}

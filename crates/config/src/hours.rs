//! The hours in which a host may move machines by its own decision, as people write them.
//!
//! | written | means |
//! | --- | --- |
//! | `22:00-06:00` | every night; the days of a span are those on which it begins |
//! | `mon-fri 22:00-06:00`, `sat,sun` | certain nights, whole days |
//! | `2026-12-24 18:00 / 2026-12-27 06:00` | once, of a blackout |
//!
//! All of them are local times of the configured zone: an hour that a change of clocks repeats is
//! there twice.

use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Deserializer, de};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_PER_DAY: i32 = 24 * 60;
/// How far ahead [`Hours::next_change`] looks, in minutes: a week and a day.
const AHEAD_MINUTES: i64 = 8 * 24 * 60;

/// A span of time that comes back every week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weekly {
    /// On which days it begins, Monday first.
    days: [bool; 7],
    /// Minutes after midnight. It ends on the next day if the end is not after the beginning.
    from: i32,
    to: i32,
}

impl Weekly {
    fn contains(&self, at: DateTime) -> bool {
        let day = at.weekday().to_monday_zero_offset() as usize;
        let minute = i32::from(at.hour()) * 60 + i32::from(at.minute());
        let over_midnight = self.to <= self.from;
        let today = self.days[day] && minute >= self.from && (over_midnight || minute < self.to);
        today || over_midnight && self.days[(day + 6) % 7] && minute < self.to
    }
}

impl FromStr for Weekly {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no span of a week: write `mon-fri 22:00-06:00` or `sat,sun`");
        let mut parts = text.split_whitespace();
        let (first, second) = (parts.next().ok_or_else(wrong)?, parts.next());
        let (days, times) = match (first.starts_with(|c: char| c.is_ascii_digit()), second) {
            (true, None) => (Some([true; 7]), Some(first)),
            (false, times) => (days(first), times),
            (true, Some(_)) => (None, None),
        };
        let (from, to) = match times {
            None => (0, MINUTES_PER_DAY),
            Some(times) => {
                let (from, to) = times.split_once('-').ok_or_else(wrong)?;
                (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?)
            }
        };
        let whole = parts.next().is_none() && from < MINUTES_PER_DAY && from != to;
        days.filter(|_| whole).map(|days| Self { days, from, to }).ok_or_else(wrong)
    }
}

/// `mon`, `mon-fri`, `sat,sun`, and mixtures of them.
fn days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|known| *known == name.to_ascii_lowercase());
    let mut days = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (mut at, to) = (day(from)?, day(to)?);
        days[at] = true;
        while at != to {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Some(days)
}

/// `22:00` in minutes after midnight; `24:00` is the end of the day.
fn minute(text: &str) -> Option<i32> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (i32, i32) = (hour.parse().ok()?, minute.parse().ok()?);
    let minutes = hour * 60 + minute;
    let valid = (0..=24).contains(&hour) && (0..60).contains(&minute);
    (valid && minutes <= MINUTES_PER_DAY).then_some(minutes)
}

/// A span of time in which nothing is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blackout {
    /// Every week.
    Weekly(Weekly),
    /// Once, from the first to before the second.
    Once(DateTime, DateTime),
}

impl Blackout {
    fn contains(&self, at: DateTime) -> bool {
        match self {
            Self::Weekly(weekly) => weekly.contains(at),
            Self::Once(from, to) => *from <= at && at < *to,
        }
    }
}

impl FromStr for Blackout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((from, to)) = text.split_once('/') else {
            return text.parse().map(Self::Weekly);
        };
        let wrong = || format!("`{text}` is no span: write `2026-12-24 18:00 / 2026-12-27 06:00`");
        let civil = |text: &str| text.trim().parse::<DateTime>().map_err(|_| wrong());
        let (from, to) = (civil(from)?, civil(to)?);
        if from < to { Ok(Self::Once(from, to)) } else { Err(wrong()) }
    }
}

/// From text, as it is written.
pub(crate) fn spans<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err = String>,
    D: Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

/// When a host may move machines by its own decision.
#[derive(Clone, Debug)]
pub struct Hours {
    zone: TimeZone,
    windows: Vec<Weekly>,
    blackouts: Vec<Blackout>,
}

impl Hours {
    /// Within any of the windows, or always if there are none, and outside all blackouts.
    #[must_use]
    pub const fn new(zone: TimeZone, windows: Vec<Weekly>, blackouts: Vec<Blackout>) -> Self {
        Self { zone, windows, blackouts }
    }

    /// Whether it may at this moment.
    #[must_use]
    pub fn are_open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone()).datetime();
        let within = self.windows.is_empty() || self.windows.iter().any(|w| w.contains(local));
        within && !self.blackouts.iter().any(|blackout| blackout.contains(local))
    }

    /// When that changes next, to the minute; `None` if not within eight days.
    #[must_use]
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        if self.windows.is_empty() && self.blackouts.is_empty() {
            return None;
        }
        let now = self.are_open(at);
        let minute = Timestamp::from_second(at.as_second().div_euclid(60) * 60).ok()?;
        (1..=AHEAD_MINUTES)
            .filter_map(|count| minute.checked_add(count.minutes()).ok())
            .find(|then| self.are_open(*then) != now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(zone: &str, windows: &[&str], blackouts: &[&str]) -> Hours {
        Hours::new(
            TimeZone::get(zone).unwrap(),
            windows.iter().map(|text| text.parse().unwrap()).collect(),
            blackouts.iter().map(|text| text.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn a_host_may_act_within_its_windows_and_outside_its_blackouts() {
        let nights = ["mon-fri 22:00-06:00"];
        let fridays = ["fri 16:00-24:00"];
        let holidays = ["2026-12-24 18:00 / 2026-12-27 06:00"];
        // 2026-11-23 is a Monday.
        for (windows, blackouts, at, open) in [
            (&[][..], &[][..], "2026-11-23T12:00:00Z", true),
            (&nights, &[], "2026-11-23T21:59:59Z", false),
            (&nights, &[], "2026-11-23T22:00:00Z", true),
            (&nights, &[], "2026-11-24T05:59:59Z", true),
            (&nights, &[], "2026-11-24T06:00:00Z", false),
            (&nights, &[], "2026-11-28T05:00:00Z", true),
            (&nights, &[], "2026-11-28T23:00:00Z", false),
            (&nights, &[], "2026-11-23T05:00:00Z", false),
            (&["sat,sun"], &[], "2026-11-29T23:59:00Z", true),
            (&["sat,sun"], &[], "2026-11-30T00:00:00Z", false),
            (&["sun-tue 10:00-11:00"], &[], "2026-11-23T10:30:00Z", true),
            (&["sun-tue 10:00-11:00"], &[], "2026-11-25T10:30:00Z", false),
            (&["10:00-11:00", "13:00-14:00"], &[], "2026-11-25T13:30:00Z", true),
            (&nights, &fridays, "2026-11-27T23:00:00Z", false),
            (&nights, &fridays, "2026-11-28T00:00:00Z", true),
            (&[], &holidays, "2026-12-24T17:59:00Z", true),
            (&[], &holidays, "2026-12-25T12:00:00Z", false),
            (&[], &holidays, "2026-12-27T06:00:00Z", true),
        ] {
            let hours = hours("UTC", windows, blackouts);
            assert_eq!(hours.are_open(at.parse().unwrap()), open, "{windows:?} {blackouts:?} {at}");
        }
    }

    #[test]
    fn hours_are_local_times_also_where_clocks_change() {
        let nights = hours("Europe/Berlin", &["02:00-03:00"], &[]);
        // An hour in winter, another in summer, twice in the night when clocks go back, and not at
        // all when they go forward.
        for (at, open) in [
            ("2026-01-10T01:30:00Z", true),
            ("2026-07-10T01:30:00Z", false),
            ("2026-07-10T00:30:00Z", true),
            ("2026-10-25T00:30:00Z", true),
            ("2026-10-25T01:30:00Z", true),
            ("2026-03-29T00:59:00Z", false),
            ("2026-03-29T01:01:00Z", false),
        ] {
            assert_eq!(nights.are_open(at.parse().unwrap()), open, "{at}");
        }
    }

    #[test]
    fn it_says_when_it_changes_next() {
        let nights = hours("UTC", &["mon-fri 22:00-06:00"], &[]);
        for (at, next) in [
            ("2026-11-23T12:00:30Z", Some("2026-11-23T22:00:00Z")),
            ("2026-11-23T22:00:00Z", Some("2026-11-24T06:00:00Z")),
            ("2026-11-28T06:00:00Z", Some("2026-11-30T22:00:00Z")),
        ] {
            let next = next.map(|text: &str| text.parse::<Timestamp>().unwrap());
            assert_eq!(nights.next_change(at.parse().unwrap()), next, "{at}");
        }
        assert_eq!(hours("UTC", &[], &[]).next_change(Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn what_is_no_span_is_refused_with_an_example() {
        for text in [
            "",
            "monday",
            "mon-fry",
            "22:00",
            "22:00-25:00",
            "22:00-22:00",
            "24:00-01:00",
            "mon 10:00-11:00 utc",
            "10:00-11:00 mon",
            "mon-fri 9-17",
        ] {
            let said = text.parse::<Weekly>().unwrap_err();
            assert!(said.contains("mon-fri 22:00-06:00"), "{text}: {said}");
        }
        for text in ["2026-12-24 / x", "2026-12-27 / 2026-12-24"] {
            assert!(text.parse::<Blackout>().is_err(), "{text}");
        }
    }
}

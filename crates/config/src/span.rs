//! Durations as people write them.

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// Shortest time between two things that happen again and again.
pub const SPAN_MIN: Duration = Duration::from_millis(100);
/// Longest time between two things that happen again and again: a year is for ever.
pub const SPAN_MAX: Duration = Duration::from_secs(8760 * 3600);

/// Durations are written as people write them: `30s`, `5m`, `1h 30m`, `500ms`.
///
/// # Errors
/// When the text is none, or a negative one, or there is a number without a unit.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Span;
    impl Visitor<'_> for Span {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"30s\"")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            let span: jiff::SignedDuration = text.parse().map_err(|_| {
                E::custom(format!(
                    "`{text}` is no duration: write \"30s\", \"5m\" or \"500ms\", not {text:?}"
                ))
            })?;
            Duration::try_from(span)
                .map_err(|_| E::custom(format!("write \"30s\", not {text:?}: it is negative")))
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
            Err(E::custom(format!("write \"{number}s\", not {number}: a duration has a unit")))
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
            Err(E::custom(format!("write \"{number}s\", not {number}: a duration has a unit")))
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<Duration, E> {
            Err(E::custom(format!("write \"{number}s\", not {number}: a duration has a unit")))
        }
    }
    deserializer.deserialize_any(Span)
}

/// The same where there need not be one.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

//! Durations as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Shortest time between two things that happen again and again.
pub const SPAN_MIN: Duration = Duration::from_millis(100);
/// Longest time between two things that happen again and again: a year is for ever.
pub const SPAN_MAX: Duration = Duration::from_secs(8760 * 3600);

/// Durations are written as people write them: `30s`, `5m`, `1h 30m`, `500ms`.
///
/// # Errors
/// When the text is none, or a negative one.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span: jiff::SignedDuration = text.parse().map_err(|_| {
        serde::de::Error::custom(format!("`{text}` is no duration: write `30s`, `5m` or `500ms`"))
    })?;
    Duration::try_from(span)
        .map_err(|_| serde::de::Error::custom(format!("`{text}` is a negative duration")))
}

/// The same where there need not be one.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    duration(d).map(Some)
}

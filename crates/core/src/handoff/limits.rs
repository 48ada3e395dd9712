//! Limits of time and of attempts, which both sides of a handoff keep.

use std::time::Duration;

/// Limits of time for handoffs.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a peer may take to answer.
    pub reply_time_max: Duration,
    /// How long room is kept before the target looks whether anything arrives.
    pub reservation_time: Duration,
    /// How long a migration may last before it is aborted.
    pub migration_time_max: Duration,
    /// How long a machine that a migration left paused on its source waits for the target's answer,
    /// where the target cannot let it run without the source's word.
    pub doubt_time_max: Duration,
    /// Most that a migration may send, in bytes per second.
    pub bandwidth_bytes_per_s: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reply_time_max: Duration::from_secs(5),
            reservation_time: Duration::from_secs(30),
            migration_time_max: Duration::from_secs(600),
            doubt_time_max: Duration::from_secs(60),
            bandwidth_bytes_per_s: None,
        }
    }
}

/// First wait before a message is repeated or a look taken again; doubled up to [`RETRY_MAX`].
pub(super) const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest wait between two attempts.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);
/// A handoff that has been looked after so often in one phase holds nothing else up.
pub(super) const ENGAGED_ATTEMPTS_MAX: u32 = 8;

/// How long a store that could not be written is left alone.
pub(super) const STORE_RETRY: Duration = Duration::from_secs(5);
/// So often it is tried to have a machine started at boot again.
pub(super) const AUTOSTARTS_MAX: u32 = 8;

/// How long to wait before the next attempt, after so many.
pub(super) fn backoff(attempts: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << attempts.min(10)).min(RETRY_MAX)
}

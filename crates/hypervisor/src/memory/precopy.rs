//! How long a live migration takes: the arithmetic of pre-copy.
//!
//! All memory is sent while the machine runs on; what it dirtied meanwhile is sent in the next
//! round, and so on, until the rest can be sent within the downtime that is allowed. A machine that
//! dirties memory faster than it is sent is throttled, as QEMU's `auto-converge` does.

use std::time::Duration;

/// Longest standstill that a migration aims for; QEMU's own default.
pub const DOWNTIME_MAX: Duration = Duration::from_millis(300);

/// What connecting and preparing the other host takes, before the first byte is sent.
pub const PREPARATION: Duration = Duration::from_millis(200);

/// A round that leaves more than this share of the round before is followed by a stronger throttle.
const PROGRESS_MIN: f64 = 0.5;

/// What the throttle leaves of the dirty rate each time that it is tightened.
const THROTTLE: f64 = 0.7;

/// Shorter than what rounding makes of a time, in seconds.
const INSTANT: f64 = 1e-9;

/// The memory of one machine on its way. The speed of the link may change while it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transfer {
    memory: f64,
    dirty_rate: f64,
    /// What the throttle leaves of the dirty rate.
    throttle: f64,
    bandwidth: f64,
    /// Until when it is reckoned, in seconds since the order.
    at: f64,
    /// Bytes that this round began with, and that are left of it.
    size: f64,
    left: f64,
    /// Bytes dirtied in this round.
    dirtied: f64,
    done: f64,
    /// Since when the machine stands still for the last round.
    stopped: Option<f64>,
    finished: bool,
}

impl Transfer {
    /// Sending `memory_bytes` at `bandwidth` bytes per second while the machine dirties `dirty_rate`
    /// bytes per second.
    pub(crate) fn new(memory_bytes: f64, dirty_rate: f64, bandwidth: f64) -> Self {
        let memory = memory_bytes.clamp(1.0, 1e18);
        let mut transfer = Self {
            memory,
            dirty_rate: 0.0,
            throttle: 1.0,
            bandwidth: bandwidth.max(1.0),
            at: 0.0,
            size: memory,
            left: memory,
            dirtied: 0.0,
            done: 0.0,
            stopped: None,
            finished: false,
        };
        transfer.set_dirty_rate(dirty_rate);
        transfer
    }

    /// From now on the machine dirties so much.
    pub(crate) fn set_dirty_rate(&mut self, bytes_per_s: f64) {
        // Clamped so that it ends for every input: the throttle wins within 50 rounds.
        self.dirty_rate = bytes_per_s.max(0.0).min(self.bandwidth * 1e6);
    }

    /// From now on the link gives so much. Answers whether that is a change.
    pub(crate) fn set_bandwidth(&mut self, bytes_per_s: f64) -> bool {
        let before = std::mem::replace(&mut self.bandwidth, bytes_per_s.max(1.0));
        before.to_bits() != self.bandwidth.to_bits()
    }

    /// Lets time pass until `elapsed` after the order.
    pub(crate) fn advance(&mut self, elapsed: Duration) {
        self.advance_to(elapsed.as_secs_f64());
    }

    fn advance_to(&mut self, until: f64) {
        if self.at < PREPARATION.as_secs_f64() {
            self.at = until.min(PREPARATION.as_secs_f64());
        }
        while !self.finished && self.at < until + INSTANT {
            let (finish, available) = (self.left / self.bandwidth, (until - self.at).max(0.0));
            if finish <= available + INSTANT {
                self.send(finish);
                self.end_round();
            } else {
                return self.send(available);
            }
        }
    }

    fn send(&mut self, seconds: f64) {
        let sent = (self.bandwidth * seconds).min(self.left);
        self.left -= sent;
        self.done += sent;
        self.at += seconds;
        if self.stopped.is_none() {
            self.dirtied += self.dirty_rate * self.throttle * seconds;
        }
    }

    fn end_round(&mut self) {
        self.done += std::mem::take(&mut self.left);
        if self.stopped.is_some() {
            self.finished = true;
            return;
        }
        let dirtied = std::mem::take(&mut self.dirtied).min(self.memory);
        if dirtied > self.size * PROGRESS_MIN {
            self.throttle *= THROTTLE;
        }
        (self.size, self.left) = (dirtied, dirtied);
        if dirtied / self.bandwidth <= DOWNTIME_MAX.as_secs_f64() {
            self.stopped = Some(self.at);
        }
    }

    pub(crate) const fn is_finished(&self) -> bool {
        self.finished
    }

    /// How long it takes in all if the link stays as it is.
    pub(crate) fn duration(&self) -> Duration {
        let mut rest = self.clone();
        rest.advance_to(f64::INFINITY);
        span(rest.at)
    }

    /// Bytes sent, and bytes still to be sent as known now.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.done as u64, self.left as u64)
    }

    /// How long the machine has stood still.
    pub(crate) fn downtime(&self) -> Duration {
        self.stopped.map_or(Duration::ZERO, |since| span(self.at - since))
    }
}

/// Seconds as whole milliseconds, which is how finely time passes here, and at most a century.
fn span(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1e3 - 1e-6).ceil().clamp(0.0, 3.2e12) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn finished(memory: f64, dirty_rate: f64, bandwidth: f64) -> Transfer {
        let mut transfer = Transfer::new(memory, dirty_rate, bandwidth);
        transfer.advance(transfer.duration());
        assert!(transfer.is_finished());
        transfer
    }

    #[test]
    fn an_idle_machine_takes_as_long_as_its_memory_takes() {
        let transfer = finished(1000.0 * MIB, 0.0, 100.0 * MIB);
        assert_eq!(transfer.duration(), PREPARATION + Duration::from_secs(10));
        assert_eq!(transfer.progress(), ((1000.0 * MIB) as u64, 0));
        assert_eq!(transfer.downtime(), Duration::ZERO);
    }

    #[test]
    fn what_is_dirtied_is_sent_again_and_the_standstill_stays_short() {
        let idle = finished(1000.0 * MIB, 0.0, 100.0 * MIB);
        let mut busy = Transfer::new(1000.0 * MIB, 20.0 * MIB, 100.0 * MIB);
        assert!(busy.duration() > idle.duration());
        let sent: Vec<u64> = (0..=busy.duration().as_secs() + 1)
            .map(|second| {
                busy.advance(Duration::from_secs(second));
                busy.progress().0
            })
            .collect();
        assert!(sent.is_sorted() && sent[0] == 0 && sent[sent.len() - 1] > idle.progress().0);
        assert!(busy.downtime() <= DOWNTIME_MAX && busy.downtime() > Duration::ZERO);
    }

    #[test]
    fn half_the_link_for_half_the_time_takes_half_as_long_again() {
        let mut transfer = Transfer::new(1000.0 * MIB, 0.0, 50.0 * MIB);
        transfer.advance(PREPARATION + Duration::from_secs(10));
        assert!(transfer.set_bandwidth(100.0 * MIB) && !transfer.set_bandwidth(100.0 * MIB));
        assert_eq!(transfer.duration(), PREPARATION + Duration::from_secs(15));
    }

    #[test]
    fn a_machine_that_dirties_faster_than_it_is_sent_still_arrives() {
        for rate in [100.0 * MIB, 1e6 * MIB, f64::INFINITY, f64::NAN] {
            let transfer = finished(1000.0 * MIB, rate, 100.0 * MIB);
            assert!(transfer.downtime() <= DOWNTIME_MAX, "at {rate}");
            assert!(transfer.duration() < Duration::from_secs(3600), "at {rate}");
        }
    }
}

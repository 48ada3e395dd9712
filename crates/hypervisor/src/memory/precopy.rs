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

/// The end of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    /// Since the migration was ordered.
    ends: Duration,
    /// Sent until then, in bytes.
    bytes_done: u64,
}

/// The course of one migration, known when it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Course {
    /// At least two.
    rounds: Vec<Round>,
    /// How long the machine stands still at the end.
    pub(crate) downtime: Duration,
}

impl Course {
    /// The course of sending `memory_bytes` at `bandwidth` bytes per second while the machine
    /// dirties `dirty_rate` bytes per second.
    pub(crate) fn new(memory_bytes: f64, dirty_rate: f64, bandwidth: f64) -> Self {
        // Clamped so that the loop ends for every input: the throttle wins within 50 rounds.
        let (memory, bandwidth) = (memory_bytes.clamp(1.0, 1e18), bandwidth.max(1.0));
        let mut dirty_rate = dirty_rate.max(0.0).min(bandwidth * 1e6);
        let mut course = Self { rounds: Vec::new(), downtime: Duration::ZERO };
        let (mut ends, mut done, mut left) = (PREPARATION.as_secs_f64(), 0.0, memory);
        loop {
            let seconds = left / bandwidth;
            ends += seconds;
            done += left;
            if !course.rounds.is_empty() && seconds <= DOWNTIME_MAX.as_secs_f64() {
                course.downtime = span(seconds);
                course.push(ends, done);
                return course;
            }
            let dirtied = (dirty_rate * seconds).min(memory);
            if dirtied > left * PROGRESS_MIN {
                dirty_rate *= THROTTLE;
            }
            course.push(ends, done);
            left = dirtied;
        }
    }

    fn push(&mut self, ends: f64, done: f64) {
        self.rounds.push(Round { ends: span(ends), bytes_done: done as u64 });
    }

    /// Bytes sent, and bytes still to be sent, `elapsed` after the order.
    pub(crate) fn at(&self, elapsed: Duration) -> (u64, u64) {
        let mut before = Round { ends: PREPARATION, bytes_done: 0 };
        for round in &self.rounds {
            let in_round = round.bytes_done - before.bytes_done;
            if elapsed < round.ends {
                let span = round.ends.saturating_sub(before.ends).as_secs_f64();
                let share = elapsed.saturating_sub(before.ends).as_secs_f64() / span;
                let sent = (in_round as f64 * share) as u64;
                return (before.bytes_done + sent, in_round.saturating_sub(sent));
            }
            before = *round;
        }
        (before.bytes_done, 0)
    }

    /// How long it takes in all.
    pub(crate) fn duration(&self) -> Duration {
        self.rounds.last().map_or(PREPARATION, |round| round.ends)
    }

    /// What it sends in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.rounds.last().map_or(0, |round| round.bytes_done)
    }
}

/// Seconds as whole milliseconds, which is how finely time passes here, and at most a century.
fn span(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1e3).ceil().min(3.2e12) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    #[test]
    fn an_idle_machine_takes_as_long_as_its_memory_takes() {
        let course = Course::new(1000.0 * MIB, 0.0, 100.0 * MIB);
        assert_eq!(course.duration(), PREPARATION + Duration::from_secs(10));
        assert_eq!((course.bytes(), course.downtime), ((1000.0 * MIB) as u64, Duration::ZERO));
    }

    #[test]
    fn what_is_dirtied_is_sent_again_and_the_standstill_stays_short() {
        let idle = Course::new(1000.0 * MIB, 0.0, 100.0 * MIB);
        let busy = Course::new(1000.0 * MIB, 20.0 * MIB, 100.0 * MIB);
        assert!(busy.duration() > idle.duration() && busy.bytes() > idle.bytes());
        assert!(busy.downtime <= DOWNTIME_MAX && busy.downtime > Duration::ZERO);
        let seconds = 0..=busy.duration().as_secs() + 1;
        let sent: Vec<u64> = seconds.map(|s| busy.at(Duration::from_secs(s)).0).collect();
        assert!(sent.is_sorted() && sent[0] == 0 && sent[sent.len() - 1] == busy.bytes());
    }

    #[test]
    fn a_machine_that_dirties_faster_than_it_is_sent_still_arrives() {
        for rate in [100.0 * MIB, 1e6 * MIB, f64::INFINITY, f64::NAN] {
            let course = Course::new(1000.0 * MIB, rate, 100.0 * MIB);
            assert!(course.downtime <= DOWNTIME_MAX, "at {rate}");
            assert!(course.rounds.len() < 200, "{} rounds at {rate}", course.rounds.len());
        }
    }
}

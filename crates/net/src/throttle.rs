//! What others can cause, at a rate that they cannot choose: lines in the log, and work.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets so many lines through per window, and counts the rest.
pub(crate) struct Throttle {
    per_window: u32,
    window: Duration,
    state: Mutex<State>,
}

struct State {
    began: Instant,
    passed: u32,
    held_back: u64,
}

impl Throttle {
    pub(crate) fn new(per_window: u32, window: Duration) -> Self {
        let state = State { began: Instant::now(), passed: 0, held_back: 0 };
        Self { per_window, window, state: Mutex::new(state) }
    }

    /// Whether a line may pass now; if so, how many were held back since the last that did.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.began) >= self.window {
            state.began = now;
            state.passed = 0;
        }
        if state.passed == self.per_window {
            state.held_back += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

/// Lets so many things a second happen on average, and a second's worth at once: a token bucket.
pub(crate) struct Bucket {
    per_s: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(per_s: u32, now: Instant) -> Self {
        let per_s = f64::from(per_s.max(1));
        Self { per_s, tokens: per_s, at: now }
    }

    /// Takes a token if there is one. If not, how long until there is.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_s;
        self.tokens = (self.tokens + gained).min(self.per_s);
        self.at = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_s));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_passes_at_the_limit_and_is_counted() {
        let throttle = Throttle::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let passed = (0..100).filter(|_| throttle.pass(start).is_some()).count();
        assert_eq!(passed, 2);
        assert_eq!(throttle.pass(start + Duration::from_secs(10)), Some(98));
        assert_eq!(throttle.pass(start + Duration::from_secs(10)), Some(0));
    }

    #[test]
    fn a_bucket_gives_a_second_s_worth_at_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!((0..20).filter(|_| bucket.take(start).is_ok()).count(), 10);
        let wait = bucket.take(at(50)).unwrap_err();
        assert!(wait > Duration::from_millis(49) && wait < Duration::from_millis(51), "{wait:?}");
        assert_eq!((51..=1050).filter(|ms| bucket.take(at(*ms)).is_ok()).count(), 10);
        assert_eq!((0..20).filter(|_| bucket.take(at(60_000)).is_ok()).count(), 10, "no more");
    }
}

//! Lines in the log that strangers can cause, at a rate that strangers cannot choose.

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
}

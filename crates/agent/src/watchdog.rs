//! systemd's watchdog: the loop says that it lives, and is started again if it does not.
//!
//! It is said by the loop itself, so that a loop that is stuck is found out although other threads run.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::driver::notify;

/// When to say it next; never where no service manager wants to hear it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    every: Option<Duration>,
    next: Instant,
}

impl Watchdog {
    /// As the service manager has it: it is told twice within its limit, and first at once.
    pub(crate) fn start() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self { every, next: Instant::now() }
    }

    /// When the loop is to turn again at the latest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }

    /// The loop turns.
    pub(crate) fn turn(&mut self, now: Instant) {
        if let Some(every) = self.every.filter(|_| now >= self.next) {
            notify(NotifyState::Watchdog);
            self.next = now + every;
        }
    }
}

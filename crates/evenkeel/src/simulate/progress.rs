//! How far a simulation is, where a person waits for it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What takes no longer than this needs no bar, and between two drawings some time passes.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);
const CELLS: usize = 40;

/// A bar on standard error, if that is a terminal.
pub(super) struct Progress {
    /// When it may be drawn next; never if `None`.
    next: Option<Instant>,
    drawn: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let next = std::io::stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self { next, drawn: false }
    }

    /// Draws the bar, if it is time.
    pub(super) fn show(&mut self, share: f64) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + REDRAW);
        self.drawn = true;
        let full = ((share.clamp(0.0, 1.0) * CELLS as f64) as usize).min(CELLS);
        let (done, left) = ("█".repeat(full), "·".repeat(CELLS - full));
        let mut to = std::io::stderr().lock();
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(to, "\r{done}{left} {:3.0} %", share * 100.0);
        let _ = to.flush();
    }

    /// Takes the bar away.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr().lock(), "\r{}\r", " ".repeat(CELLS + 6));
        }
    }
}

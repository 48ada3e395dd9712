//! How far something is, where a person waits for it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// What takes no longer than this needs no bar, and between two drawings some time passes.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);
const CELLS: usize = 40;

/// A line on standard error that is drawn over, if that is a terminal.
pub(crate) struct Progress {
    /// When it may be drawn next; never if `None`.
    next: Option<Instant>,
    /// Characters of what is drawn now.
    drawn: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let next = std::io::stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self { next, drawn: 0 }
    }

    /// Draws a bar, if it is time.
    pub(crate) fn show(&mut self, share: f64) {
        self.draw(|| {
            let full = ((share.clamp(0.0, 1.0) * CELLS as f64) as usize).min(CELLS);
            let (done, left) = ("█".repeat(full), "·".repeat(CELLS - full));
            format!("{done}{left} {:3.0} %", share * 100.0)
        });
    }

    /// Draws a text, if it is time: where nobody knows how much is left.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        self.draw(text);
    }

    fn draw(&mut self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.next.is_none_or(|next| now < next) {
            return;
        }
        self.next = Some(now + REDRAW);
        let text = text();
        let blank = " ".repeat(self.drawn.saturating_sub(text.chars().count()));
        self.drawn = text.chars().count();
        let mut to = std::io::stderr().lock();
        // What cannot be drawn is no reason to stop.
        let _ = write!(to, "\r{text}{blank}");
        let _ = to.flush();
    }

    /// Takes away what is drawn.
    pub(crate) fn end(&mut self) {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn > 0 {
            let _ = write!(std::io::stderr().lock(), "\r{}\r", " ".repeat(drawn));
        }
    }
}

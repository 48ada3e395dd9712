//! The bars of the hosts, redrawn in place on a terminal, and lines above that stay.

use std::io::{IsTerminal, Write};

use super::frame::Frame;
use crate::output::say;

/// The terminal, or whatever stands in for it.
pub(super) struct Screen {
    /// Lines of the last frame, which the next one goes over. Without a terminal there is none.
    drawn: usize,
    is_terminal: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { drawn: 0, is_terminal: std::io::stdout().is_terminal() }
    }

    /// Prints a line that stays, above the bars.
    pub(super) fn say(&mut self, line: &str) {
        self.rub_out();
        // A terminal that is gone is noticed where the demo ends.
        drop(say!("  {line}"));
    }

    /// Draws the bars, over those before.
    pub(super) fn draw(&mut self, frame: &Frame) {
        if !self.is_terminal {
            return;
        }
        self.rub_out();
        let lines = frame.lines();
        for line in &lines {
            drop(say!("{line}"));
        }
        self.drawn = lines.len();
    }

    /// Leaves the bars where they are no more.
    pub(super) fn end(&mut self) {
        self.rub_out();
    }

    fn rub_out(&mut self) {
        if self.drawn > 0 {
            let mut out = anstream::stdout().lock();
            let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

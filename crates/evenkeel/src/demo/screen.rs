//! A bar for each host, redrawn in place on a terminal, and lines above that stay.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};

use crate::report::percent;

/// A bar of this many characters is a whole host.
const BAR_CHARS: usize = 50;
const BAR: Style = AnsiColor::Green.on_default();
const FULL: Style = AnsiColor::Red.on_default();

/// The hosts at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) hosts: Vec<HostBar>,
}

/// One host at one moment.
#[derive(Clone, Debug)]
pub(crate) struct HostBar {
    pub(crate) host: String,
    pub(crate) load: Option<f64>,
    pub(crate) machines: Vec<String>,
}

impl Frame {
    /// Whether the loads of all `hosts` are known.
    pub(crate) fn is_known(&self, hosts: usize) -> bool {
        self.hosts.len() == hosts && self.hosts.iter().all(|h| h.load.is_some())
    }

    /// How far the most and the least loaded host are apart.
    pub(crate) fn spread(&self) -> f64 {
        let loads = || self.hosts.iter().filter_map(|h| h.load);
        loads().fold(0.0, f64::max) - loads().fold(f64::INFINITY, f64::min)
    }

    fn lines(&self) -> Vec<String> {
        let longest = |width: usize, h: &HostBar| width.max(h.host.len());
        let width = self.hosts.iter().fold(0, longest);
        self.hosts.iter().map(|h| h.line(width)).collect()
    }
}

impl HostBar {
    fn line(&self, width: usize) -> String {
        let load = self.load.unwrap_or(0.0);
        let filled = (load * BAR_CHARS as f64).round() as usize;
        let style = if load > 0.8 { FULL } else { BAR };
        let bar = "█".repeat(filled.min(BAR_CHARS));
        let rest = "·".repeat(BAR_CHARS.saturating_sub(filled));
        let shown = self.load.map_or_else(|| "measuring".to_owned(), percent);
        format!(
            "{:<width$} {style}{bar}{style:#}{rest} {shown:>9}  {}",
            self.host,
            self.machines.join(" ")
        )
    }
}

/// The terminal, or whatever stands in for it.
pub(crate) struct Screen {
    /// Lines of the last frame, which the next one goes over. Without a terminal there is none.
    drawn: usize,
    is_terminal: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { drawn: 0, is_terminal: std::io::stdout().is_terminal() }
    }

    /// Prints a line that stays, above the bars.
    pub(crate) fn say(&mut self, line: &str) {
        self.rub_out();
        anstream::println!("  {line}");
    }

    /// Draws the bars, over those before.
    pub(crate) fn draw(&mut self, frame: &Frame) {
        if !self.is_terminal {
            return;
        }
        self.rub_out();
        let lines = frame.lines();
        for line in &lines {
            anstream::println!("{line}");
        }
        self.drawn = lines.len();
        // A terminal that is gone is noticed by the next print.
        let _ = std::io::stdout().flush();
    }

    /// Leaves the bars where they are no more.
    pub(crate) fn end(&mut self) {
        self.rub_out();
    }

    fn rub_out(&mut self) {
        if self.drawn > 0 {
            anstream::print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

/// Before and after, one above the other.
pub(crate) fn compare(before: &Frame, after: &Frame) -> String {
    format!(
        "\nbefore\n{}\nafter\n{}\n\nmost and least loaded host were {} apart and are {}\n",
        before.lines().join("\n"),
        after.lines().join("\n"),
        percent(before.spread()),
        percent(after.spread())
    )
}

//! The hosts at one moment: a bar for each.

use anstyle::{AnsiColor, Style};

use crate::output::percent;

/// A bar of this many characters is a whole host.
const BAR_CHARS: usize = 50;
const BAR: Style = AnsiColor::Green.on_default();
const FULL: Style = AnsiColor::Red.on_default();

/// The hosts at one moment.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) hosts: Vec<HostBar>,
}

/// One host at one moment.
#[derive(Clone, Debug)]
pub(super) struct HostBar {
    pub(super) host: String,
    pub(super) load: Option<f64>,
    pub(super) machines: Vec<String>,
}

impl Frame {
    /// Whether the loads of all `hosts` are known.
    pub(super) fn is_known(&self, hosts: usize) -> bool {
        self.hosts.len() == hosts && self.hosts.iter().all(|h| h.load.is_some())
    }

    /// How far the most and the least loaded host are apart.
    pub(super) fn spread(&self) -> f64 {
        let loads = || self.hosts.iter().filter_map(|h| h.load);
        loads().fold(0.0, f64::max) - loads().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn lines(&self) -> Vec<String> {
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

/// Before and after, one above the other.
pub(super) fn compare(before: &Frame, after: &Frame) -> String {
    format!(
        "\nbefore\n{}\nafter\n{}\n\nmost and least loaded host were {} apart and are {}\n",
        before.lines().join("\n"),
        after.lines().join("\n"),
        percent(before.spread()),
        percent(after.spread())
    )
}

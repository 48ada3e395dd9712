//! Printing: data to standard output, as a table for people or JSON for programs.

use std::error::Error;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use evenkeel_core::printable::stands_alone;
use serde::Serialize;

/// Whatever ends a command early; printed behind `error:`.
pub(crate) type Failure = Box<dyn Error>;

pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();

/// How to print data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Prints `data` as JSON, or what `table` makes of it.
pub(crate) fn print<T: Serialize>(
    format: Format,
    data: &T,
    table: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let text = match format {
        // Texts in it that another agent has given are printable already; a name from a file may not be.
        Format::Table => printable_lines(&table()),
        Format::Json => serde_json::to_string_pretty(data)?,
    };
    anstream::println!("{}", text.trim_end());
    Ok(())
}

/// Text of several lines, without what a terminal would do more than show.
pub(crate) fn printable_lines(text: &str) -> String {
    let one = |c: char| match c {
        '\n' => c.to_string(),
        c if stands_alone(c) => c.to_string(),
        c => c.escape_default().to_string(),
    };
    text.chars().map(one).collect()
}

/// A load as people read it: 1.0 is `100.0 %`.
pub(crate) fn percent(load: f64) -> String {
    format!("{:.1} %", load * 100.0)
}

/// An empty table with this header.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(header.iter().copied());
    table
}

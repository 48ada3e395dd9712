//! Printing: data to standard output, as a table for people or JSON for programs.

use std::error::Error;
use std::fmt::{self, Arguments};
use std::io::{ErrorKind, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::presets::{ASCII_BORDERS_ONLY_CONDENSED, UTF8_BORDERS_ONLY};
use comfy_table::{CellAlignment, ContentArrangement, Table};
use evenkeel_core::decision::Reason;
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
    say_line(format_args!("{}", text.trim_end()))
}

/// Prints a line to standard output. It must arrive: what is behind a pipe may act by it.
pub(crate) fn say_line(line: Arguments<'_>) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::from(Unheard),
        _ => format!("cannot write to standard output: {error}").into(),
    })
}

/// Prints a line to standard error, if that takes it.
pub(crate) fn tell_line(line: Arguments<'_>) {
    drop(writeln!(anstream::stderr().lock(), "{line}"));
}

/// Nobody reads standard output any more, such as `head` that has seen enough.
#[derive(Debug)]
pub(crate) struct Unheard;

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl Error for Unheard {}

/// Says a line on standard output; the error is that it was not taken.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::say_line(format_args!($($text)*)) };
}

/// Says a line on standard error.
macro_rules! tell {
    ($($text:tt)*) => { $crate::output::tell_line(format_args!($($text)*)) };
}

pub(crate) use {say, tell};

/// Text of several lines, without what a terminal would do more than show.
pub(crate) fn printable_lines(text: &str) -> String {
    let one = |c: char| match c {
        '\n' => c.to_string(),
        c if stands_alone(c) => c.to_string(),
        c => c.escape_default().to_string(),
    };
    text.chars().map(one).collect()
}

/// What to do about a reason, if there is anything to do.
pub(crate) fn to_do(reason: Reason) -> Option<&'static str> {
    Some(reason.remedy()).filter(|remedy| *remedy != "Nothing.")
}

/// A load as people read it: 1.0 is `100.0 %`.
pub(crate) fn percent(load: f64) -> String {
    format!("{:.1} %", load * 100.0)
}

/// An empty table with this header. It is as wide as the terminal at most, or as `COLUMNS` says, and is
/// drawn with letters alone where the locale has no others.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(if speaks_utf8() { UTF8_BORDERS_ONLY } else { ASCII_BORDERS_ONLY_CONDENSED });
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    if let Some(width) = told.filter(|width| *width >= WIDTH_MIN) {
        table.set_width(width);
    }
    table.set_header(header.iter().copied());
    table
}

/// Numbers of these columns stand below each other.
pub(crate) fn align(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Narrower tables would have columns of single letters.
const WIDTH_MIN: u16 = 40;

/// Whether the locale's characters are more than ASCII: the first of the three variables that is set says so.
fn speaks_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
    locale.is_none_or(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

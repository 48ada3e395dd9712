//! The table.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::Settings;
use crate::convergence::Curve;
use crate::inputs::Input;
use crate::judge::judge;

/// What somebody reached on an input.
pub(crate) struct Row {
    pub(crate) input: String,
    pub(crate) who: String,
    pub(crate) moves: Option<f64>,
    pub(crate) moves_bound: u64,
    pub(crate) max_over_mean: Option<f64>,
    pub(crate) max_over_bound: Option<f64>,
    pub(crate) cv: Option<f64>,
    /// Memory in use of the machines moved, over the bound.
    pub(crate) bytes_over_bound: Option<f64>,
    pub(crate) messages_per_host: Option<f64>,
    pub(crate) rounds: Option<f64>,
    pub(crate) seconds: Option<f64>,
    /// Time on a CPU, of one thread.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) note: String,
}

impl Row {
    /// A row that only says why there are no figures.
    pub(crate) fn remark(input: &Input, who: &str, note: impl Into<String>) -> Self {
        Self {
            input: input.name.clone(),
            who: who.to_owned(),
            moves: None,
            moves_bound: input.bounds.moves,
            max_over_mean: None,
            max_over_bound: None,
            cv: None,
            bytes_over_bound: None,
            messages_per_host: None,
            rounds: None,
            seconds: None,
            cpu_seconds: None,
            note: note.into(),
        }
    }

    /// The cluster as it is.
    pub(crate) fn start(input: &Input) -> Self {
        let verdict = judge(&input.snapshot, []);
        Self {
            max_over_mean: Some(verdict.max / verdict.mean),
            max_over_bound: Some(verdict.max / input.bounds.max),
            cv: Some(verdict.cv),
            ..Self::remark(input, "(before)", "")
        }
    }

    /// What no algorithm can beat.
    pub(crate) fn bound(input: &Input) -> Self {
        Self {
            moves: Some(input.bounds.moves as f64),
            max_over_bound: Some(1.0),
            bytes_over_bound: Some(1.0),
            ..Self::remark(input, "(bound)", format!("largest load {:.4}", input.bounds.max))
        }
    }
}

pub(crate) fn table(rows: &[Row], settings: &Settings) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header([
        "input",
        "who",
        "moves",
        "/ bound",
        "max / mean",
        "max / bound",
        "cv",
        "bytes / bound",
        "msgs / host",
        "rounds",
        "seconds",
        "CPU s",
        "",
    ]);
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    let mut last = "";
    for row in rows {
        let input = if row.input == last { "" } else { &row.input };
        last = &row.input;
        table.add_row([
            input.to_owned(),
            row.who.clone(),
            shown(row.moves, usize::from(row.moves.is_some_and(|m| m.fract() > 0.0))),
            shown(row.moves.map(|moves| moves / row.moves_bound.max(1) as f64), 3),
            shown(row.max_over_mean, 4),
            shown(row.max_over_bound, 4),
            shown(row.cv, 4),
            shown(row.bytes_over_bound, 2),
            shown(row.messages_per_host, 1),
            shown(row.rounds, 0),
            shown(row.seconds, 3),
            shown(row.cpu_seconds, 3),
            row.note.clone(),
        ]);
    }
    right(&mut table, 2..=11);
    format!(
        "{table}\nBounds: the lowest maximum of any placement; the fewest moves and bytes that reach \
         1.02 of it. Peers had {} s each.",
        settings.peer_time.as_secs()
    )
}

pub(crate) fn convergence(curves: &[Curve]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header([
        "convergence, seed 1",
        "hosts",
        "log2",
        "rounds to within 5 % of the end",
        "to within 1 %",
    ]);
    for curve in curves {
        table.add_row([
            curve.name.clone(),
            curve.hosts.to_string(),
            format!("{:.1}", (curve.hosts as f64).log2()),
            curve.rounds_to_within(0.05).to_string(),
            curve.rounds_to_within(0.01).to_string(),
        ]);
    }
    right(&mut table, 1..=4);
    table.to_string()
}

fn right(table: &mut Table, columns: std::ops::RangeInclusive<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

//! `evenkeel plan`: what would move in a cluster as a snapshot shows it.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use evenkeel_core::select::{MeanAware, Policy};
use evenkeel_sim::plan::{Options, Plan, plan};
use evenkeel_sim::snapshot::Snapshot;

use crate::output::{self, Failure, Format};

/// Arguments of `evenkeel plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The snapshot, as `evenkeel.snapshot/v1`; `-` reads standard input
    snapshot: PathBuf,
    /// Reproduces a plan exactly
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// By which rule hosts select machines
    #[arg(long, value_enum, default_value_t)]
    policy: PolicyArg,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PolicyArg {
    /// Few large moves towards every host's fair share
    #[default]
    MeanAware,
    /// The machine nearest to half the difference of two hosts
    HalfDifference,
}

pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let text = read(&args.snapshot)?;
    let snapshot =
        Snapshot::parse(&text).map_err(|why| format!("`{}`: {why}", args.snapshot.display()))?;
    let policy = match args.policy {
        PolicyArg::MeanAware => Policy::MeanAware(MeanAware::default()),
        PolicyArg::HalfDifference => Policy::HalfDifference,
    };
    let plan = plan(&snapshot, &Options { seed: args.seed, policy, ..Options::default() })?;
    output::print(args.format, &plan, || table(&plan))
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |why: std::io::Error| format!("cannot read `{}`: {why}", path.display());
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?)
}

fn table(plan: &Plan) -> String {
    let mut moves = Table::new();
    moves.load_style(presets::NOTHING);
    moves.set_header(["", "MACHINE", "FROM", "TO", "LOAD", "THERE", "WANTED", "GIB", "SECONDS"]);
    for step in &plan.moves {
        moves.add_row([
            step.seq.to_string(),
            step.vm.to_string(),
            step.from.to_string(),
            step.to.to_string(),
            output::percent(step.load_at_source),
            output::percent(step.load_at_target),
            output::percent(step.wanted_load),
            format!("{:.1}", step.bytes_predicted / 1_073_741_824.0),
            format!("{:.1}", step.seconds_predicted),
        ]);
    }
    for column in [0, 4, 5, 6, 7, 8] {
        if let Some(column) = moves.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let (before, after) = (&plan.before, &plan.after);
    let spread = |name: &str, balance: &evenkeel_sim::plan::Balance| {
        format!(
            "{name:<7} mean {}   largest {} ({:.3} × mean)   spread {:.3}\n",
            output::percent(balance.mean),
            output::percent(balance.max),
            balance.max_over_mean,
            balance.cv,
        )
    };
    let bounds = &plan.bounds;
    let nothing = "Nothing to move.".to_owned();
    let moves = if plan.moves.is_empty() { nothing } else { moves.to_string() };
    format!(
        "{moves}\n\n{}{}bound   largest {}   moves {}   {:.1} GiB\n\
         {} moves, {} kept by rules; {} messages in {} rounds; planned in {:.1} ms\n",
        spread("before", before),
        spread("after", after),
        output::percent(bounds.max),
        bounds.moves,
        bounds.bytes / 1_073_741_824.0,
        plan.moves.len(),
        plan.kept.len(),
        plan.messages,
        plan.rounds,
        plan.elapsed_ms,
    )
}

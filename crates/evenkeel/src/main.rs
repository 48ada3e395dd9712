//! The command line: arguments in, data on standard output, messages on standard error.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

mod assets;
mod demo;
mod help;
mod hosts;
mod output;
mod plan;
mod progress;
mod scene;
mod simulate;

use std::process::ExitCode;
use std::time::Duration;

use clap::{FromArgMatches, Parser, Subcommand};

use crate::output::{Failure, tell};

/// Keeps a cluster of virtual-machine hosts balanced without a centre.
///
/// Every host runs the same agent. Periodically and at random it picks another host, the two
/// compare loads, and the more loaded one live-migrates the machine whose load is nearest to half
/// the difference.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Hosts(hosts::HostCommand),
    /// Say what would move in a cluster, and change nothing
    #[command(after_help = plan::EXAMPLES)]
    Plan(plan::PlanArgs),
    /// Run a scenario in virtual time: loads, faults, what is expected
    #[command(after_help = simulate::EXAMPLES)]
    Simulate(simulate::SimulateArgs),
    /// Watch three hosts level themselves: real machines where this computer can run them
    #[command(after_help = "Examples:\n  evenkeel demo\n  evenkeel demo --keep")]
    Demo(demo::DemoArgs),
    /// Write manual pages and completions, for packages
    #[command(name = "__assets", hide = true)]
    Assets {
        /// Where to
        dir: std::path::PathBuf,
    },
}

/// How long libvirt may take to answer the last calls of this process.
const CLOSING_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let matches = help::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    hosts::log_to_stderr();
    let ended = run(cli.command);
    if !evenkeel_libvirt::all_closed(CLOSING_MAX) {
        tracing::warn!("a call of libvirt hangs, and the end of this process cuts it off");
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is::<output::Unheard>() => ExitCode::SUCCESS,
        Err(failure) => {
            let text = output::printable_lines(&failure.to_string());
            tell!("{}error:{:#} {text}", output::ERROR, output::ERROR);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Hosts(command) => hosts::run(command),
        Command::Plan(args) => plan::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Assets { dir } => Ok(assets::write(&dir)?),
    }
}

//! `evenkeel simulate`: a scenario in virtual time.

mod log;
mod record;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use evenkeel_core::decision::Decision;
use evenkeel_sim::scenario::{Observer, Report, Scenario, Simulation};
use evenkeel_sim::{Cluster, Line};

use self::log::{Recorder, Recording, Replayed};
use self::record::Filming;
use crate::output::{self, Failure, Format};
use crate::progress::Progress;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
     evenkeel simulate scenarios/faults.toml\n  \
     evenkeel simulate scenarios/faults.toml --seed 7 --format json | jq .cv\n  \
     evenkeel simulate scenarios/faults.toml --log events.log\n  \
     evenkeel simulate --replay events.log\n  \
     evenkeel simulate scenarios/faults.toml --record faults.rec && evenkeel ui --replay faults.rec\n\n\
     docs/simulation.md describes scenarios and reports. Exit code 1: an invariant was broken, or\n\
     something that `[expect]` wants was not so.";

#[derive(Debug, Args)]
#[command(
    override_usage = "evenkeel simulate [OPTIONS] <SCENARIO>\n       evenkeel simulate --replay <LOG>"
)]
pub(crate) struct SimulateArgs {
    /// A scenario in TOML
    #[arg(required_unless_present = "replay", conflicts_with = "replay")]
    scenario: Option<PathBuf>,
    /// What reproduces the run exactly, instead of the scenario's own
    #[arg(long, value_name = "N", conflicts_with = "replay")]
    seed: Option<u64>,
    /// How much is moved for how little, from 1 to 5, instead of what the scenario says
    #[arg(long, value_name = "N", conflicts_with = "replay",
        value_parser = clap::value_parser!(u8).range(1..=5))]
    aggressiveness: Option<u8>,
    /// The trace to run, instead of the one that the scenario names
    #[arg(long, value_name = "PATH", conflicts_with = "replay")]
    trace: Option<PathBuf>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write every event as a line to this file; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    log: Option<PathBuf>,
    /// Write what hosts look like over time to this file, for `evenkeel ui --replay`
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// How often it is written what hosts look like, such as `10s`
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = record::span)]
    record_every: Duration,
    /// Print a log, running it again to see that every event is the same
    #[arg(long, value_name = "LOG")]
    replay: Option<PathBuf>,
}

pub(crate) fn run(args: &SimulateArgs) -> Result<(), Failure> {
    if let Some(file) = &args.replay {
        return replay(file);
    }
    let file = args.scenario.as_deref().unwrap_or(Path::new("-"));
    let recording =
        Recording::of_scenario(file, (args.seed, args.aggressiveness), args.trace.as_deref())?;
    let simulation = recording.simulation()?;
    let mut recorder =
        args.log.as_deref().map(|log| Recorder::create(log, &recording)).transpose()?;
    let about = simulation.about().to_owned();
    let filming = args.record.as_deref().map(|to| Filming::begin(to, &about, args.record_every));
    let mut filming = filming.transpose()?;
    let mut watching = Watching {
        recorder: recorder.as_mut(),
        filming: filming.as_mut(),
        progress: Progress::new(),
    };
    let report = simulation.run(&mut watching);
    watching.progress.end();
    let report = report.map_err(|why| format!("the scenario `{}`: {why}", file.display()))?;
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    if let Some(filming) = filming {
        filming.finish()?;
    }
    output::print(args.format, &report, || table::table(&report))?;
    judge(&report)
}

fn judge(report: &Report) -> Result<(), Failure> {
    if report.is_good() {
        return Ok(());
    }
    let broken = report.invariants.iter().filter(|result| result.violations > 0).count();
    let unmet = report.unmet.len();
    Err(format!("{broken} invariants were broken and {unmet} expectations were not met").into())
}

/// What is done while a simulation runs.
struct Watching<'a> {
    recorder: Option<&'a mut Recorder>,
    filming: Option<&'a mut Filming>,
    progress: Progress,
}

impl Observer for Watching<'_> {
    fn wants_lines(&self) -> bool {
        self.recorder.is_some()
    }

    fn line(&mut self, line: &Line) {
        if let Some(recorder) = &mut self.recorder {
            recorder.line(line);
        }
    }

    fn progress(&mut self, share: f64) {
        self.progress.show(share);
    }

    fn looks_every(&self) -> Option<Duration> {
        self.filming.as_ref().map(|filming| filming.every())
    }

    fn look(&mut self, cluster: &Cluster, decided: &[Decision]) {
        if let Some(filming) = &mut self.filming {
            filming.look(cluster, decided);
        }
    }
}

fn replay(file: &Path) -> Result<(), Failure> {
    let (recording, lines) = Recording::read(file)?;
    let mut replayed = Replayed::against(lines);
    recording.simulation()?.run(&mut replayed)?;
    replayed.verdict()
}

impl Recording {
    fn simulation(&self) -> Result<Simulation, Failure> {
        let refused = |why: &dyn std::fmt::Display| format!("the scenario cannot be used: {why}");
        let mut scenario = Scenario::parse(&self.scenario).map_err(|why| refused(&why))?;
        if let Some(path) = &self.trace {
            let trace = scenario.trace.as_mut().ok_or("the scenario has no `trace` to replace")?;
            trace.path.clone_from(path);
        }
        if let Some(degree) = self.aggressiveness {
            scenario.balance.aggressiveness = degree;
        }
        let seed = self.seed.unwrap_or(scenario.seed);
        Ok(Simulation::new(scenario, &self.directory, seed).map_err(|why| refused(&why))?)
    }
}

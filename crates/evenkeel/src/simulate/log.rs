//! Logs of simulations: a head that says what was run, and a line an event.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use evenkeel_sim::Line;
use evenkeel_sim::scenario::Observer;

use crate::output::Failure;

/// The first line of a log.
const FORMAT: &str = "# evenkeel.log/v1";
/// Largest scenario taken, in bytes.
const SCENARIO_MAX: u64 = 16 << 20;

/// What is run, as the head of a log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recording {
    /// The scenario's own text.
    pub(super) scenario: String,
    /// Where it was: files that it names are relative to this.
    pub(super) directory: PathBuf,
    /// `None` is the scenario's own.
    pub(super) seed: Option<u64>,
    /// Instead of the trace that the scenario names.
    pub(super) trace: Option<PathBuf>,
    /// Instead of the scenario's own.
    pub(super) aggressiveness: Option<u8>,
}

impl Recording {
    /// A scenario in a file.
    pub(super) fn of_scenario(
        file: &Path,
        (seed, aggressiveness): (Option<u64>, Option<u8>),
        trace: Option<&Path>,
    ) -> Result<Self, Failure> {
        let named = file.display();
        let failed = |e: io::Error| format!("cannot read the scenario `{named}`: {e}");
        let mut scenario = String::new();
        let opened = File::open(file).map_err(failed)?;
        io::Read::read_to_string(&mut io::Read::take(opened, SCENARIO_MAX), &mut scenario)
            .map_err(failed)?;
        let path = file.canonicalize().map_err(failed)?;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let found = |path: &Path| {
            let named = path.display();
            path.canonicalize().map_err(|e| format!("cannot read the trace `{named}`: {e}"))
        };
        let trace = trace.map(found).transpose()?;
        Ok(Self { scenario, directory, seed, trace, aggressiveness })
    }

    /// What the head of a log says, and the rest of it.
    pub(super) fn read(
        file: &Path,
    ) -> Result<(Self, impl Iterator<Item = io::Result<String>>), Failure> {
        let named = file.display();
        let opened = File::open(file).map_err(|e| format!("cannot read the log `{named}`: {e}"))?;
        let mut lines = BufReader::new(opened).lines();
        let mut recording = Self {
            scenario: String::new(),
            directory: PathBuf::new(),
            seed: None,
            trace: None,
            aggressiveness: None,
        };
        if lines.next().transpose()?.as_deref() != Some(FORMAT) {
            return Err(format!("`{named}` is no log: its first line is not `{FORMAT}`").into());
        }
        for line in lines.by_ref() {
            let line = line?;
            if let Some(text) = line.strip_prefix("#|") {
                recording.scenario += text;
                recording.scenario.push('\n');
            } else if let Some(directory) = line.strip_prefix("# directory ") {
                recording.directory = PathBuf::from(directory);
            } else if let Some(seed) = line.strip_prefix("# seed ") {
                recording.seed = Some(seed.parse().map_err(|_| format!("`{seed}` is no seed"))?);
            } else if let Some(degree) = line.strip_prefix("# aggressiveness ") {
                let degree = degree.parse().map_err(|_| format!("`{degree}` is no aggressiveness"));
                recording.aggressiveness = Some(degree?);
            } else if let Some(trace) = line.strip_prefix("# trace ") {
                recording.trace = Some(PathBuf::from(trace));
            } else if line == "#" {
                break;
            } else {
                return Err(format!("the head of the log `{named}` has a line `{line}`").into());
            }
        }
        Ok((recording, lines))
    }

    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{FORMAT}\n# directory {}", self.directory.display())?;
        if let Some(seed) = self.seed {
            writeln!(to, "# seed {seed}")?;
        }
        if let Some(degree) = self.aggressiveness {
            writeln!(to, "# aggressiveness {degree}")?;
        }
        if let Some(trace) = &self.trace {
            writeln!(to, "# trace {}", trace.display())?;
        }
        for line in self.scenario.lines() {
            writeln!(to, "#|{line}")?;
        }
        writeln!(to, "#")
    }
}

/// A log that is being written.
pub(super) struct Recorder {
    to: Box<dyn Write>,
    name: String,
    /// The first failure; nothing is written after it.
    failed: Option<io::Error>,
}

impl Recorder {
    /// Begins a log with its head; `-` is standard output.
    pub(super) fn create(file: &Path, recording: &Recording) -> Result<Self, Failure> {
        let name = file.display().to_string();
        let to: Box<dyn Write> = if name == "-" {
            Box::new(BufWriter::new(io::stdout()))
        } else {
            let created = File::create(file);
            let created = created.map_err(|e| format!("cannot write the log `{name}`: {e}"))?;
            Box::new(BufWriter::new(created))
        };
        let mut recorder = Self { to, name, failed: None };
        recorder.failed = recording.write(&mut recorder.to).err();
        Ok(recorder)
    }

    pub(super) fn line(&mut self, line: &Line) {
        if self.failed.is_none() {
            self.failed = writeln!(self.to, "{line}").err();
        }
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.to.flush();
        match self.failed.map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("cannot write the log `{}`: {error}", self.name).into()),
        }
    }
}

/// A run that is compared with a log, which it prints.
pub(super) struct Replayed<I> {
    expected: I,
    to: BufWriter<io::Stdout>,
    events: u64,
    /// What was not the same first.
    differs: Option<String>,
}

impl<I: Iterator<Item = io::Result<String>>> Replayed<I> {
    pub(super) fn against(expected: I) -> Self {
        Self { expected, to: BufWriter::new(io::stdout()), events: 0, differs: None }
    }

    pub(super) fn verdict(mut self) -> Result<(), Failure> {
        self.to.flush()?;
        if self.differs.is_none()
            && let Some(left) = self.expected.next()
        {
            self.differs = Some(format!("the log goes on with `{}`", left?));
        }
        match self.differs {
            Some(how) => Err(format!("after {} events the run differs: {how}", self.events).into()),
            None => {
                crate::output::tell!("{} events, all the same", self.events);
                Ok(())
            }
        }
    }
}

impl<I: Iterator<Item = io::Result<String>>> Observer for Replayed<I> {
    fn wants_lines(&self) -> bool {
        true
    }

    fn line(&mut self, line: &Line) {
        if self.differs.is_some() {
            return;
        }
        let line = line.to_string();
        match self.expected.next() {
            Some(Ok(logged)) if logged == line => {
                self.events += 1;
                // Who has read enough closes the pipe; the comparison goes on.
                let _ = writeln!(self.to, "{line}");
            }
            Some(Ok(logged)) => {
                self.differs = Some(format!("logged `{logged}`, now `{line}`"));
            }
            Some(Err(error)) => self.differs = Some(format!("the log cannot be read: {error}")),
            None => self.differs = Some(format!("the log ends, now `{line}`")),
        }
    }

    fn progress(&mut self, _: f64) {}
}

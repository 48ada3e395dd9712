//! Recordings of clusters, which can be looked at like a live one: `evenkeel.recording/v1`.
//!
//! A recording is a text of JSON lines. The first says what it is; each other is a moment of the
//! cluster (hosts that have changed, in [brief](crate::Brief), and hosts that are down), a decision, or
//! at the end an explanation of a host or machine.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use evenkeel_core::decision::Decision;
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{HostId, Time};
use serde::{Deserialize, Serialize};

use crate::brief::Brief;

/// The value of `format` in the first line.
pub const FORMAT: &str = "evenkeel.recording/v1";

/// A line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The first.
    Recording(Head),
    /// A moment.
    Moment(Moment),
    /// What a host decided.
    Decision(Box<Decision>),
    /// Why a host gives nothing, at the end.
    Host(Box<HostExplained>),
    /// Why a machine is where it is, at the end.
    Machine(Box<MachineExplained>),
}

/// What a recording is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Always [`FORMAT`].
    pub format: String,
    /// What it shows, in a sentence.
    pub about: String,
}

/// A moment of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    pub at: Time,
    /// Hosts that have changed since the moment before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Arc<Brief>>,
    /// Hosts that are down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub down: Vec<HostId>,
}

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// A line of it is not what it should be.
    #[error("line {line}: {why}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Writes a recording line by line.
#[derive(Debug)]
pub struct Recorder<W> {
    to: W,
    /// What was written last of each host.
    last: std::collections::BTreeMap<HostId, Arc<Brief>>,
}

impl<W: Write> Recorder<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(to: W, about: &str) -> io::Result<Self> {
        let mut recorder = Self { to, last: std::collections::BTreeMap::new() };
        let head = Head { format: FORMAT.to_owned(), about: about.to_owned() };
        recorder.write(&Line::Recording(head))?;
        Ok(recorder)
    }

    /// Records the hosts that are up and those that are down at a moment.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn moment(&mut self, at: Time, up: Vec<Brief>, down: Vec<HostId>) -> io::Result<()> {
        let mut hosts = Vec::new();
        for brief in up {
            if self.last.get(&brief.host).is_none_or(|before| brief.differs(before)) {
                let brief = Arc::new(brief);
                self.last.insert(brief.host.clone(), Arc::clone(&brief));
                hosts.push(brief);
            }
        }
        // One that comes up again is told anew.
        down.iter().for_each(|host| drop(self.last.remove(host)));
        self.write(&Line::Moment(Moment { at, hosts, down }))
    }

    /// Records anything else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, line)?;
        self.to.write_all(b"\n")
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads a recording. The first line is its head.
///
/// # Errors
/// When it cannot be read, or is no recording.
pub fn read(from: impl BufRead) -> Result<(Head, Vec<Line>), RecordingError> {
    let mut head = None;
    let mut lines = Vec::new();
    for (number, text) in from.lines().enumerate() {
        let wrong = |why: String| RecordingError::Line { line: number + 1, why };
        let line: Line = serde_json::from_str(&text?).map_err(|e| wrong(e.to_string()))?;
        match (line, &head) {
            (Line::Recording(first), None) if first.format == FORMAT => head = Some(first),
            (Line::Recording(_), _) => {
                return Err(wrong(format!("`{FORMAT}` is wanted, once and first")));
            }
            (_, None) => return Err(wrong(format!("the first line says `{FORMAT}`"))),
            (line, Some(_)) => lines.push(line),
        }
    }
    let empty = || RecordingError::Line { line: 1, why: "there is none".to_owned() };
    Ok((head.ok_or_else(empty)?, lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brief::tests::brief;

    #[test]
    fn what_was_recorded_is_read_again_and_what_has_not_changed_is_written_once() {
        let at = |ms| Time::from_unix_ms(ms);
        let mut bytes = Vec::new();
        let mut recorder = Recorder::begin(&mut bytes, "two hosts").unwrap();
        let both = |load| vec![brief("a", &[100]), brief("b", &[load])];
        recorder.moment(at(1), both(100), vec![]).unwrap();
        recorder.moment(at(2), both(200), vec![]).unwrap();
        let b = HostId::new("b").unwrap();
        recorder.moment(at(3), vec![brief("a", &[100])], vec![b]).unwrap();
        recorder.moment(at(4), both(200), vec![]).unwrap();
        recorder.finish().unwrap();
        let (head, lines) = read(&bytes[..]).unwrap();
        assert_eq!(head.about, "two hosts");
        let told = |line: &Line| match line {
            Line::Moment(moment) => moment.hosts.iter().map(|b| b.host.to_string()).collect(),
            _ => vec![],
        };
        let told: Vec<Vec<String>> = lines.iter().map(told).collect();
        assert_eq!(told, [vec!["a", "b"], vec!["b"], vec![], vec!["b"]]);
    }

    #[test]
    fn a_file_that_is_no_recording_is_refused_with_the_line() {
        let head = format!("{{\"recording\":{{\"format\":\"{FORMAT}\",\"about\":\"\"}}}}\n");
        let later = head.replace("/v1", "/v9");
        let moment = "{\"moment\":{\"at\":1}}\n";
        let cases = [
            (String::new(), "line 1"),
            ("{}\n".to_owned(), "line 1"),
            (moment.to_owned(), "line 1"),
            (later, "line 1"),
            (format!("{head}{moment}nonsense\n"), "line 3"),
            (format!("{head}{head}"), "line 2"),
        ];
        for (text, wrong) in cases {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(wrong), "{error}");
        }
    }
}

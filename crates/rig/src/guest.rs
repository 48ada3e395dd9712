//! What a guest says of itself.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::command::until;
use crate::error::{Attempt, RigError};
use crate::network::Network;

const COMMAND_PORT: u16 = 7001;
const READY_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A guest that was started, wherever it runs.
#[derive(Debug, Clone)]
pub struct Guest {
    name: String,
    address: [u8; 4],
    network: Network,
}

/// A guest's own figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Ticks of 200 ms since it booted.
    pub ticks: u64,
    /// The longest time between two ticks, in milliseconds.
    pub gap_ms_max: u64,
    /// Pages of memory that were verified.
    pub pages_checked: u64,
    /// Pages that did not hold what had been written.
    pub pages_bad: u64,
    /// Records written to the disk.
    pub records: u64,
    /// Records that did not hold what had been written.
    pub records_bad: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Memory of the guest's kernel, in KiB.
    pub total_kib: u64,
    /// What of it is available to programs, in KiB.
    pub available_kib: u64,
}

impl Guest {
    pub(crate) fn new(name: &str, number: u8, network: Network) -> Self {
        Self { name: name.to_owned(), address: [10, 77, 0, 100 + number], network }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it can be reached from the switch.
    pub fn address(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Waits until it answers.
    pub fn await_ready(&self) -> Result<(), RigError> {
        let what = format!("an answer of guest `{}`", self.name);
        until(&what, READY_LIMIT, || self.ask("stat").map(drop).map_err(|e| e.to_string()))
    }

    /// Its figures.
    pub fn figures(&self) -> Result<Figures, RigError> {
        self.ask("stat")
    }

    /// Has it burn a part of its processor's time.
    pub fn burn(&self, percent: u32) -> Result<Figures, RigError> {
        self.ask(&format!("burn {percent}"))
    }

    /// Has it write and verify memory over and over.
    pub fn dirty(&self, mib: u32, mib_per_s: u32) -> Result<Figures, RigError> {
        self.ask(&format!("dirty {mib} {mib_per_s}"))
    }

    /// Has it write records to its disk.
    pub fn write(&self, kib_per_s: u32) -> Result<Figures, RigError> {
        self.ask(&format!("write {kib_per_s}"))
    }

    /// Has it read back from its disk what it wrote.
    pub fn verify(&self) -> Result<Figures, RigError> {
        self.ask("verify")
    }

    fn ask(&self, command: &str) -> Result<Figures, RigError> {
        let address = self.address(COMMAND_PORT);
        let answer = self.network.on_switch(|| {
            let who = address.to_string();
            let mut stream =
                TcpStream::connect_timeout(&address, CONNECT_LIMIT).attempt("reach", &who)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT)).attempt("set up", &who)?;
            stream.write_all(format!("{command}\n").as_bytes()).attempt("write to", &who)?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).attempt("read from", &who)?;
            Ok(answer)
        })?;
        let wrong = || RigError::Answer { guest: self.name.clone(), answer: answer.clone() };
        parse(&answer).ok_or_else(wrong)
    }
}

fn parse(answer: &str) -> Option<Figures> {
    let figure = |key: &str| {
        let word = answer.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        word.strip_prefix('=')?.parse().ok()
    };
    Some(Figures {
        ticks: figure("ticks")?,
        gap_ms_max: figure("gap_ms_max")?,
        pages_checked: figure("pages_checked")?,
        pages_bad: figure("pages_bad")?,
        records: figure("records")?,
        records_bad: figure("records_bad")?,
        write_errors: figure("write_errors")?,
        total_kib: figure("total_kib")?,
        available_kib: figure("available_kib")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_lacks_a_figure_is_none() {
        let whole = "ticks=7 gap_ms_max=201 pages_checked=3 pages_bad=0 records=5 records_bad=2 \
                     write_errors=1 total_kib=9 available_kib=8\n";
        let figures = parse(whole).expect("all are there");
        assert_eq!((figures.records, figures.records_bad, figures.write_errors), (5, 2, 1));
        assert_eq!(parse(&whole.replace("records_bad=2 ", "")), None);
        assert_eq!(parse(""), None);
    }
}

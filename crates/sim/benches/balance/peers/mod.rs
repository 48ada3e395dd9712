//! Others that balance clusters, where they are installed.

pub(crate) mod hbal;
pub(crate) mod solver;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_core::model::{HostId, MachineId};

use crate::inputs::Input;
use crate::judge::{Verdict, judge};
use crate::table::Row;

/// How often a peer is asked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a peer printed, and whether it ended by itself in time.
struct Ran {
    stdout: String,
    stderr: String,
    seconds: f64,
    in_time: bool,
    success: bool,
}

/// Runs a peer for at most `limit`; `None` if it is not installed.
fn run(command: &mut Command, input: &str, limit: Duration) -> std::io::Result<Option<Ran>> {
    let began = Instant::now();
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match piped.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (stdin, text) = (child.stdin.take(), input.to_owned());
    // It may end without reading all of it.
    let writer =
        thread::spawn(move || stdin.map(|mut stdin| drop(stdin.write_all(text.as_bytes()))));
    let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let (in_time, success) = wait(&mut child, began + limit)?;
    let seconds = began.elapsed().as_secs_f64();
    drop(writer.join());
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Some(Ran { stdout: text(stdout), stderr: text(stderr), seconds, in_time, success }))
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is what there is.
            drop(pipe.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn wait(child: &mut Child, end: Instant) -> std::io::Result<(bool, bool)> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((true, status.success()));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok((false, false));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// A peer's moves, judged.
fn judged(input: &Input, moves: &[(MachineId, HostId)]) -> Verdict {
    judge(&input.snapshot, moves.iter().map(|(machine, to)| (machine, to)))
}

fn row(input: &Input, who: &str, verdict: &Verdict, seconds: f64, mut notes: Vec<String>) -> Row {
    if verdict.without_room > 0 {
        notes.push(format!("{} moves without room", verdict.without_room));
    }
    Row {
        moves: Some(verdict.moves as f64),
        max_over_mean: Some(verdict.max / verdict.mean),
        max_over_bound: Some(verdict.max / input.bounds.max),
        cv: Some(verdict.cv),
        bytes_over_bound: Some(verdict.bytes / input.bounds.bytes),
        seconds: Some(seconds),
        ..Row::remark(input, who, notes.join("; "))
    }
}

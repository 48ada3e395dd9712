//! Commands that end within a limit, and conditions that come about within one.

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Attempt, RigError};

/// How long a command may take. Only one that hangs takes so long.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// Nothing that is polled gives notice.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Runs a command to its end; `timeout` kills it when it takes too long.
pub(crate) fn output(mut command: Command) -> Result<Output, RigError> {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).output().attempt("run", program)
}

/// Runs a command of this machine, which must succeed. Returns what it printed.
pub(crate) fn run(words: &[&str]) -> Result<String, RigError> {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &COMMAND_LIMIT.as_secs().to_string()]).args(words);
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(RigError::Command {
        host: "this machine".to_owned(),
        command: words.join(" "),
        message: said(&output),
    })
}

/// What a command that failed said, or how it ended.
pub(crate) fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    match text.trim() {
        "" => format!("{} {}", output.status, String::from_utf8_lossy(&output.stdout).trim()),
        text => text.to_owned(),
    }
}

/// Polls until there is a value; the other side of the result is what was seen last.
pub(crate) fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, RigError> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() > deadline => {
                return Err(RigError::TimedOut { what: what.to_owned(), limit, last });
            }
            Err(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}

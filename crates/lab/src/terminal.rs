//! Talking to a guest through the terminal behind its serial port.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::OFlags;

use crate::console::{Line, Report, parse_line};
use crate::error::{Attempt, LabError};
use crate::process::wait_readable;

/// Types a command and waits for a report that shows it was obeyed.
///
/// The terminal stays open until then: QEMU looks only once a second whether somebody has opened
/// it, and what was typed before is lost if it is closed again.
pub(crate) fn command(
    terminal: &str,
    command: &str,
    limit: Duration,
    is_obeyed: impl Fn(&Report) -> bool,
) -> Result<Report, LabError> {
    let action = || format!("type `{command}` into the guest's terminal `{terminal}`");
    let deadline = Instant::now() + limit;
    let mut file = open(terminal).attempt(action)?;
    file.write_all(format!("{command}\n").as_bytes()).attempt(action)?;
    let readable: OwnedFd = file.try_clone().attempt(action)?.into();
    let mut text = Vec::new();
    while wait_readable(&readable, deadline.saturating_duration_since(Instant::now())) {
        let mut bytes = [0; 4096];
        let length = match file.read(&mut bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).attempt(action),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            result => result.attempt(action)?,
        };
        text.extend_from_slice(&bytes[..length]);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            match parse_line(&String::from_utf8_lossy(&line)) {
                Some(Line::Report(report)) if is_obeyed(&report) => return Ok(report),
                Some(Line::Complaint(text)) => {
                    return Err(io::Error::other(text.to_owned())).attempt(action);
                }
                _ => {}
            }
        }
    }
    Err(LabError::timed_out(format!("the guest's answer to `{command}`"), limit))
}

fn open(terminal: &str) -> io::Result<File> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(terminal)
}

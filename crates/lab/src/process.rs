//! Processes of a lab: named so that a recycled number cannot be mistaken, waited for, signalled.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError};

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRef {
    /// Its number.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since the machine booted.
    pub(crate) start_ticks: u64,
}

impl ProcessRef {
    /// The process that has this number now, unless it has ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in the second field may hold anything, spaces and parentheses included.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, start_ticks })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A handle that stays with this process; none if it has ended.
    fn handle(self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked up after opening: if this is the process now, the handle is for no other.
        self.is_alive().then_some(handle)
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub(crate) fn signal(self, signal: Signal) {
        if let Some(handle) = self.handle() {
            // It may end in between, which is as good.
            let _ = pidfd_send_signal(handle, signal);
        }
    }

    /// Waits until it has ended; false if it did not within the limit.
    pub(crate) fn wait_gone(self, limit: Duration) -> bool {
        self.handle().is_none_or(|handle| wait_readable(&handle, limit))
    }
}

/// Waits until a descriptor can be read; false if that did not happen within the limit.
pub(crate) fn wait_readable(fd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Ends processes: asks all, waits for them until the limit, then kills what is left.
/// Returns those that even then have not gone.
pub(crate) fn end_all(processes: &[ProcessRef], limit: Duration) -> Vec<ProcessRef> {
    const KILL_LIMIT: Duration = Duration::from_secs(5);
    for process in processes {
        process.signal(Signal::TERM);
    }
    let deadline = Instant::now() + limit;
    for process in processes {
        if !process.wait_gone(deadline.saturating_duration_since(Instant::now())) {
            process.signal(Signal::KILL);
        }
    }
    processes.iter().copied().filter(|process| !process.wait_gone(KILL_LIMIT)).collect()
}

/// Every QEMU whose command line names a path within this directory, as those of a lab do.
pub(crate) fn qemus_within(dir: &Path) -> Vec<ProcessRef> {
    let prefix = format!("{}/", dir.display());
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            let process = ProcessRef::of(pid)?;
            let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            is_qemu_of(&String::from_utf8_lossy(&command_line), &prefix).then_some(process)
        })
        .collect()
}

fn is_qemu_of(command_line: &str, prefix: &str) -> bool {
    let program = command_line.split('\0').next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    name.starts_with("qemu-system-") && command_line.contains(prefix)
}

/// What a command that ended printed, and whether it succeeded.
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, and kills it if it takes longer than the limit.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Finished, LabError> {
    let what = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .attempt(|| format!("run `{what}`"))?;
    let stdout = child.stdout.take().map(read_aside);
    let stderr = child.stderr.take().map(read_aside);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let in_time = handle.is_none_or(|handle| wait_readable(&handle, limit));
    if !in_time {
        // Fails only if it has just ended.
        let _ = child.kill();
    }
    let status = child.wait().attempt(|| format!("wait for `{what}`"))?;
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let finished =
        Finished { success: status.success(), stdout: text(stdout), stderr: text(stderr) };
    if in_time {
        Ok(finished)
    } else {
        Err(LabError::timed_out(format!("the end of `{what}`"), limit))
    }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    const OUTPUT_BYTES_MAX: u64 = 1 << 20;
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read is all that is wanted.
        let _ = (&mut pipe).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_not_taken_for_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep is there");
        let process = ProcessRef::of(child.id() as i32).expect("it has just started");
        assert!(process.is_alive());
        let impostor = ProcessRef { start_ticks: process.start_ticks + 1, ..process };
        assert!(!impostor.is_alive());
        impostor.signal(Signal::KILL);
        assert!(process.is_alive(), "a signal for an earlier process of this number hit it");
        process.signal(Signal::KILL);
        assert!(process.wait_gone(Duration::from_secs(5)));
        assert!(!process.is_alive(), "it has ended, though nobody has reaped it");
        child.wait().expect("it is our child");
    }

    #[test]
    fn only_a_qemu_of_this_directory_counts_as_one_of_the_lab() {
        let ours = "/usr/bin/qemu-system-x86_64\0-object\0secret,file=/tmp/lab/h1/etc/key";
        assert!(is_qemu_of(ours, "/tmp/lab/"));
        assert!(!is_qemu_of(ours, "/tmp/la/"));
        assert!(!is_qemu_of("vi\0/tmp/lab/qemu-system-x86_64", "/tmp/lab/"));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let started = Instant::now();
        let result = run(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(matches!(result, Err(LabError::TimedOut { .. })));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

//! The process that runs a machine here, and its end, which libvirt is slow to tell.
//!
//! At the end of a migration libvirt asks QEMU to end, looks only every 200 ms whether it has, and
//! answers after that. A handle on the process tells at once. It is found by the machine's UUID among
//! the arguments that libvirt gives every QEMU and that everybody may read, before the migration begins:
//! the copy on the other host, whose process may be seen here too, is not there yet.
//!
//! What is said is relied on, and nothing is said in doubt: not where other users' processes are
//! hidden, not where several processes fit, and not before libvirt has said of this machine, while
//! that process lived, that it is paused for the last of its memory.

use std::fs;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;

use evenkeel_core::model::MachineId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::answer::lock;
use crate::xml::Element;

/// Waits for the end of the process of a machine that is migrated away.
pub(crate) struct Vigil {
    process: OwnedFd,
    stage: Mutex<Stage>,
    /// Shut down, it ends the thread that waits.
    alarm: UnixStream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// For all that is known it runs.
    Running,
    /// libvirt has paused it.
    Paused,
    /// Its end is of no interest any more.
    Over,
}

impl Vigil {
    /// Calls `tell` once the machine was paused and its process has ended, unless that is over before.
    /// Nothing if the process cannot be found for certain. `xml` describes the machine as it runs.
    pub(crate) fn keep(
        machine: &MachineId,
        xml: &str,
        tell: impl FnOnce() + Send + 'static,
    ) -> Option<Arc<Self>> {
        let process = find(machine.as_str(), Owner::of(xml)?)?;
        let (alarm, woken) = UnixStream::pair().ok()?;
        let vigil = Arc::new(Self { process, stage: Mutex::new(Stage::Running), alarm });
        let kept = Arc::clone(&vigil);
        let wait = move || {
            if kept.wait(&woken) {
                // Held while it is told, so that nothing is told when it is over.
                let mut stage = lock(&kept.stage);
                if std::mem::replace(&mut *stage, Stage::Over) == Stage::Paused {
                    tell();
                }
            }
        };
        thread::Builder::new().name("emulator".to_owned()).spawn(wait).ok()?;
        Some(vigil)
    }

    /// libvirt has paused the machine. What it pauses is run by the process that it runs by now: by
    /// this one, if that lives.
    pub(crate) fn paused(&self) {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Running && !has_ended(&self.process) {
            *stage = Stage::Paused;
        }
    }

    /// libvirt lets it run on.
    pub(crate) fn resumed(&self) {
        let mut stage = lock(&self.stage);
        if *stage == Stage::Paused {
            *stage = Stage::Running;
        }
    }

    /// Tells nothing from now on.
    pub(crate) fn end(&self) {
        *lock(&self.stage) = Stage::Over;
        // One that is shut down already has done its work.
        let _ = self.alarm.shutdown(Shutdown::Both);
    }

    /// Whether the process has ended, and not the vigil before.
    fn wait(&self, woken: &UnixStream) -> bool {
        loop {
            let of_process = PollFd::new(&self.process, PollFlags::IN);
            let mut fds = [of_process, PollFd::new(woken, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) => return fds[0].revents().contains(PollFlags::IN),
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!("the end of a machine's process is not waited for: {error}");
                    return false;
                }
            }
        }
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // In doubt it has.
    !matches!(poll(&mut fds, Some(&at_once)), Ok(0))
}

/// As which user libvirt runs a machine.
#[derive(Clone, Copy)]
enum Owner {
    User(u32),
    /// It does not say: it runs them all as the user that it runs as itself.
    Untold,
}

impl Owner {
    /// By the label of a domain that runs, such as `+64055:+64055`; nothing if it cannot be read.
    fn of(xml: &str) -> Option<Self> {
        let domain = Element::parse(xml).ok()?;
        let by_user = |label: &&Element| label.attribute("model") == Some("dac");
        let label = domain.all("seclabel").find(by_user).map_or("", |label| label.text_of("label"));
        if label.is_empty() {
            return Some(Self::Untold);
        }
        let user = label.split(':').next()?;
        user.trim_start_matches('+').parse().ok().map(Self::User)
    }

    fn owns(self, pid: i32) -> bool {
        let Self::User(wanted) = self else { return true };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let effective = users.and_then(|users| users.split_ascii_whitespace().nth(1));
        effective.and_then(|user| user.parse().ok()) == Some(wanted)
    }
}

/// A handle on the one process that runs this machine.
fn find(uuid: &str, owner: Owner) -> Option<OwnedFd> {
    // Where those of others are hidden, one that is seen need not be the one that runs it.
    fs::read("/proc/1/cmdline").ok().filter(|line| !line.is_empty())?;
    let pids = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut found = pids.filter(|pid| runs(*pid, uuid));
    let (pid, None) = (found.next()?, found.next()) else { return None };
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Looked at again: if the number is its own, and not free for another one since, so is the handle.
    (runs(pid, uuid) && owner.owns(pid) && !has_ended(&handle)).then_some(handle)
}

/// Whether libvirt has started this process to run this machine. One that has ended has no arguments.
fn runs(pid: i32, uuid: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0);
    arguments.any(|argument| argument == b"-uuid") && arguments.next() == Some(uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc::{self, Receiver};
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A process with the arguments of a QEMU that runs this machine.
    fn qemu(uuid: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", "echo; read wait", "sh", "-name", "guest=x", "-uuid", uuid])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has its arguments once it does something.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        child
    }

    /// An id that no other test has.
    fn machine(number: u32) -> MachineId {
        MachineId::new(&format!("{:08x}-{number:04}-4000-8000-000000000000", std::process::id()))
            .unwrap()
    }

    fn vigil(machine: &MachineId, xml: &str) -> Option<(Arc<Vigil>, Receiver<()>)> {
        let (sender, told) = mpsc::channel();
        let tell = move || sender.send(()).unwrap();
        Vigil::keep(machine, xml, tell).map(|vigil| (vigil, told))
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_end_of_a_paused_machines_process_is_told() {
        let machine = machine(1);
        let child = qemu(machine.as_str());
        let (vigil, told) = vigil(&machine, "<domain/>").unwrap();
        vigil.paused();
        end(child);
        assert_eq!(told.recv_timeout(LONG), Ok(()));
    }

    #[test]
    fn the_end_of_a_machine_that_was_not_paused_or_runs_again_or_is_over_is_not_told() {
        let acts: [fn(&Vigil); 3] = [
            |_| {},
            |vigil| {
                vigil.paused();
                vigil.resumed();
            },
            |vigil| {
                vigil.paused();
                vigil.end();
            },
        ];
        for (number, act) in (10..).zip(acts) {
            let machine = machine(number);
            let child = qemu(machine.as_str());
            let (vigil, told) = vigil(&machine, "<domain/>").unwrap();
            act(&vigil);
            end(child);
            // The thread is gone, and what it would have told with.
            assert_eq!(told.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
            vigil.paused();
            vigil.end();
        }
    }

    #[test]
    fn what_is_not_certain_to_be_the_machines_process_is_not_waited_for() {
        let (alone, twice, none) = (machine(20), machine(21), machine(22));
        let child = qemu(alone.as_str());
        let children = [qemu(twice.as_str()), qemu(twice.as_str())];
        let labelled = |user: u32| {
            format!(
                "<domain><seclabel type='dynamic' model='selinux'><label>x</label></seclabel>\
                 <seclabel type='dynamic' model='dac'><label>+{user}:+7</label></seclabel></domain>"
            )
        };
        let me = rustix::process::geteuid().as_raw();
        assert!(vigil(&alone, &labelled(me)).is_some());
        assert!(vigil(&alone, &labelled(me + 1)).is_none(), "another user's process");
        assert!(vigil(&alone, "<domain").is_none(), "not described");
        assert!(vigil(&twice, "<domain/>").is_none(), "two processes");
        assert!(vigil(&none, "<domain/>").is_none(), "no process");
        children.into_iter().chain([child]).for_each(end);
    }
}

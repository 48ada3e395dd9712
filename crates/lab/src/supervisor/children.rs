//! Starting children and reaping them, orphans of daemons included.
//!
//! libvirt detaches the QEMUs it starts and looks for their end by itself. Where the first process
//! of the machine reaps orphans slowly, every migration and every stop waits for it for seconds.
//! The supervisor is the *subreaper* of everything below it and reaps at once.

use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper, wait, waitid,
};

use crate::process::ProcessRef;

/// The children of this process.
pub(super) struct Children {
    started: Arc<Started>,
}

/// How many children were started, and a signal when there is one more.
#[derive(Default)]
struct Started {
    count: Mutex<u64>,
    more: Condvar,
}

impl Started {
    fn lock(&self) -> MutexGuard<'_, u64> {
        // A number is never half changed.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children {
    /// Makes this process the subreaper of all its descendants and starts reaping them. Each one
    /// that was reaped is told to `on_exit`, by its number.
    pub(super) fn adopt(on_exit: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        let started = Arc::new(Started::default());
        let seen = Arc::clone(&started);
        thread::Builder::new().name("reaper".to_owned()).spawn(move || reap(&seen, &on_exit))?;
        Ok(Self { started })
    }

    /// Starts a child, which must not be waited for: the reaper does.
    ///
    /// Holds the reaper back meanwhile, because the standard library itself waits for a child
    /// whose program cannot be executed.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<ProcessRef> {
        let mut count = self.started.lock();
        let child: Child = command.spawn()?;
        *count += 1;
        self.started.more.notify_all();
        // Not reaped while the lock is held, so that the number still means this child.
        let pid = child.id().cast_signed();
        ProcessRef::of(pid).ok_or_else(|| io::Error::other("the program ended at once"))
    }
}

fn reap(started: &Started, on_exit: &impl Fn(i32)) {
    let mut seen = 0;
    loop {
        // Waits for an ending without consuming it.
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => {
                let guard = started.lock();
                let ended: Vec<Pid> = std::iter::from_fn(|| {
                    wait(WaitOptions::NOHANG).ok().flatten().map(|(pid, _)| pid)
                })
                .collect();
                drop(guard);
                ended.iter().for_each(|pid| on_exit(pid.as_raw_nonzero().get()));
            }
            Err(Errno::CHILD) => {
                // No child at all: nothing can end before the next one is started.
                let mut count = started.lock();
                while *count == seen {
                    count = started.more.wait(count).unwrap_or_else(PoisonError::into_inner);
                }
                seen = *count;
            }
            Err(_) => {}
        }
    }
}

//! A connection that is given up when a call on it hangs.
//!
//! libvirt's calls have no time-out: one that waits for a QEMU that is stopped, or for a file server that
//! is gone, may never return, and a thread that is in it cannot be ended. So each question is asked on a
//! thread with a connection of its own. If the answer does not come in time both are left behind, to end
//! whenever the call does, and the next question is asked on new ones. So many may be left behind and no
//! more: each also holds a thread of libvirt's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::LibvirtConfig;
use crate::ffi::{CallError, Connection};
use crate::worker::connect;

/// Calls that may hang at once.
const HUNG_MAX: usize = 6;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The call failed.
    Failed(CallError),
    /// It has not returned in time.
    Hung,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Hung => f.write_str("libvirt did not answer in time"),
        }
    }
}

impl From<CallError> for Silence {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// A connection, and a thread that asks on it.
pub(crate) struct Line {
    config: LibvirtConfig,
    jobs: Option<Sender<Job>>,
    hung: Arc<AtomicUsize>,
}

impl Line {
    pub(crate) fn new(config: LibvirtConfig) -> Self {
        Self { config, jobs: None, hung: Arc::default() }
    }

    /// Whether another call may hang.
    pub(crate) fn has_room(&self) -> bool {
        self.hung.load(Ordering::SeqCst) < HUNG_MAX
    }

    /// Asks, and waits so long for the answer.
    pub(crate) fn ask<T: Send + 'static>(
        &mut self,
        limit: Duration,
        ask: impl FnOnce(&Connection) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, Silence> {
        if !self.has_room() {
            return Err(Silence::Hung);
        }
        let (sender, answer) = mpsc::sync_channel(1);
        let job: Job = Box::new(move |connection| drop(sender.send(ask(connection))));
        self.give(job);
        match answer.recv_timeout(limit) {
            Ok(answer) => answer.map_err(Silence::Failed),
            Err(RecvTimeoutError::Timeout) => {
                self.jobs = None;
                // It counts until its call returns, which drops the other end.
                let hung = Arc::clone(&self.hung);
                hung.fetch_add(1, Ordering::SeqCst);
                let until = move || {
                    let _ = answer.recv();
                    hung.fetch_sub(1, Ordering::SeqCst);
                };
                if std::thread::Builder::new().name("libvirt-hung".into()).spawn(until).is_err() {
                    self.hung.fetch_sub(1, Ordering::SeqCst);
                }
                Err(Silence::Hung)
            }
            // Its connection could not be made, or was lost.
            Err(RecvTimeoutError::Disconnected) => {
                self.jobs = None;
                let message = format!("libvirt at `{}` is not connected to", self.config.uri);
                Err(Silence::Failed(CallError::lost(message)))
            }
        }
    }

    /// Gives a job to the thread, or to a new one.
    fn give(&mut self, job: Job) {
        let job = match &self.jobs {
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
            None => job,
        };
        let (jobs, waiting) = mpsc::channel::<Job>();
        let config = self.config.clone();
        let run = move || {
            let connection = match connect(&config) {
                Ok(connection) => connection,
                Err(error) => return tracing::debug!("no connection to ask on: {error}"),
            };
            while let Ok(job) = waiting.recv() {
                job(&connection);
                if !connection.is_open() {
                    return;
                }
            }
        };
        let spawned = std::thread::Builder::new().name("libvirt-line".to_owned()).spawn(run);
        // What is not sent is dropped, and with it the question ends.
        self.jobs = spawned.is_ok().then(|| {
            let _ = jobs.send(job);
            jobs
        });
    }
}

//! What can go wrong in a lab. Unless a variant says otherwise, nothing was changed.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a lab, or something in it, could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine cannot run the lab's guests at all. No other attempt will succeed here.
    #[error("no hypervisor can be had here: {reason}\n  hint: {hint}")]
    NoHypervisor {
        /// What is missing or unfit.
        reason: String,
        /// What to install or change.
        hint: String,
    },
    /// The specification asks for something that cannot be built.
    #[error("the lab's specification is not usable: {0}")]
    Specification(String),
    /// The directory is taken by a lab that is running, or was not taken down.
    #[error(
        "there is a lab in `{dir}` already ({phase})\n  hint: take it down first: evenkeel lab down"
    )]
    AlreadyThere {
        /// The lab's directory.
        dir: PathBuf,
        /// What the lab that is there is doing.
        phase: String,
    },
    /// The directory holds no lab.
    #[error("there is no lab in `{0}`\n  hint: bring one up first: evenkeel lab up")]
    NotThere(PathBuf),
    /// The supervisor of this lab is gone. Its hosts and guests may still run; `down` ends them.
    #[error(
        "the lab in `{0}` has lost its supervisor\n  hint: clean up what is left: evenkeel lab down"
    )]
    Stale(PathBuf),
    /// The lab has no host of this name.
    #[error("the lab has no host `{0}`")]
    UnknownHost(String),
    /// No live host of the lab has a guest of this name.
    #[error("no live host of the lab has a guest `{0}`")]
    UnknownGuest(String),
    /// The supervisor refused or failed; the message says what state it left.
    #[error("{0}")]
    Supervisor(String),
    /// A command failed; what it was asked to do may be done in part.
    #[error("`{command}` failed on host `{host}`: {message}")]
    Command {
        /// The host that the command was for.
        host: String,
        /// The command and its arguments.
        command: String,
        /// What it printed, or how it ended.
        message: String,
    },
    /// Something did not happen in time; it may still happen.
    #[error("{what} did not happen within {} ms", limit.as_millis())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The operating system refused something.
    #[error("cannot {action}: {error}")]
    System {
        /// What was attempted, with its object.
        action: String,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
}

impl LabError {
    pub(crate) fn timed_out(what: impl Into<String>, limit: Duration) -> Self {
        Self::TimedOut { what: what.into(), limit }
    }
}

/// Says what was attempted when the operating system refuses it.
pub(crate) trait Attempt<T> {
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, action: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|error| LabError::System { action: action(), error: error.into() })
    }
}

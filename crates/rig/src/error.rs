//! What can go wrong with a rig.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a rig, or something in it, could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// This machine cannot carry a rig at all. Nothing was changed.
    #[error("this machine cannot carry a rig: {reason}\n  hint: {hint}")]
    Unfit {
        /// What is missing.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A rig of this name is up. Nothing was changed.
    #[error("the rig `{0}` is up\n  hint: take it down first: evenkeel-rig down")]
    AlreadyUp(String),
    /// A host is off, or the rig has none of this number.
    #[error("host `{0}` is off\n  hint: boot it, or bring the rig up")]
    Off(String),
    /// A command failed. What it was asked to do may be done in part.
    #[error("`{command}` failed on `{host}`: {message}")]
    Command {
        /// The host, or `this machine`.
        host: String,
        /// The command and its arguments.
        command: String,
        /// What it printed, or how it ended.
        message: String,
    },
    /// Something did not come about in time. It may still do.
    #[error("{what} did not come about within {} s: {last}", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen last.
        last: String,
    },
    /// A guest's answer is not one.
    #[error("guest `{guest}` answered `{answer}`")]
    Answer {
        /// The guest.
        guest: String,
        /// What it said.
        answer: String,
    },
    /// The operating system refused something.
    #[error("cannot {action} `{}`: {error}", path.display())]
    System {
        /// What was attempted.
        action: &'static str,
        /// The file or directory that it was about.
        path: PathBuf,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
}

/// Says what was attempted when the operating system refuses it.
pub(crate) trait Attempt<T> {
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, RigError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, RigError> {
        self.map_err(|error| RigError::System { action, path: path.into(), error: error.into() })
    }
}

//! Which commit point a machine is moved by, and why.

use serde::{Deserialize, Serialize};

use crate::decision::Choice;
use crate::model::Locks;
use crate::port::Commit;

/// By which commit point machines are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// [`Commit::Fast`] where locks keep two copies apart, and [`Commit::Strict`] elsewhere.
    #[default]
    Auto,
    /// [`Commit::Strict`] always.
    Strict,
    /// [`Commit::Fast`] where locks keep two copies apart; no other machine is moved.
    Fast,
}

impl Mode {
    /// Which commit point this machine is moved by, and why; `None` if it is not to be moved.
    #[must_use]
    pub fn choose(self, locks: &Locks) -> Option<Choice> {
        let choice = |commit, because: &str| Some(Choice { commit, because: because.to_owned() });
        match (self, locks) {
            (Self::Strict, _) => choice(Commit::Strict, "strict is configured"),
            (_, Locks::NoWritableDisk) => choice(Commit::Fast, "it has no writable disk"),
            (_, Locks::Shared) => {
                choice(Commit::Fast, "the locks of its storage hold on all hosts")
            }
            (_, Locks::Manager) => choice(Commit::Fast, "a lock manager leases its disks"),
            (Self::Fast, Locks::None(_)) => None,
            (Self::Auto, Locks::None(why)) => choice(Commit::Strict, why),
        }
    }
}

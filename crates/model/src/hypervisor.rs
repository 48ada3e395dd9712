//! What libvirt does on a host, as far as the handoff can tell.

use evenkeel_core::model::HandoffId;
use evenkeel_core::port::{Commit, Presence, Sight, Stamp};

/// A copy of the machine on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// How it is, whatever migration is under way.
    pub presence: Presence,
    /// Which one it is.
    pub stamp: Stamp,
    /// Whether its host starts it at boot.
    pub autostart: bool,
}

impl Copy {
    /// Whether its virtual CPUs run.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.presence, Presence::Running | Presence::Leaving)
    }

    /// Whether it holds the machine's memory, all of it.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.presence.is_resident() && !matches!(self.presence, Presence::Incoming)
    }

    pub(crate) const fn sight(&self) -> Sight {
        Sight { presence: self.presence, stamp: self.stamp }
    }
}

/// A migration under way, at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// The handoff that ordered it.
    pub handoff: HandoffId,
    /// The host that it goes to.
    pub to: usize,
    /// Whether what arrives runs at once.
    pub commit: Commit,
    /// The start of the agent that ordered it: a later one is not answered.
    pub start: u32,
}

/// How a migration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Well.
    Moved,
    /// It failed, and the machine runs on at the source.
    Failed,
    /// It moved, and the answer was lost.
    ReplyLost,
    /// The source could not learn how it ended and lets the machine run on, while the copy that has
    /// arrived is complete.
    Both,
    /// The source does not know how it ended and leaves it paused; the copy there is complete.
    Stranded,
    /// The same, and nothing has arrived.
    StrandedAlone,
    /// The guest ended on the way.
    GuestEnded,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Moved,
        Self::Failed,
        Self::ReplyLost,
        Self::Both,
        Self::Stranded,
        Self::StrandedAlone,
        Self::GuestEnded,
    ];
}

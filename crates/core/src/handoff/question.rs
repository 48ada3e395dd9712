//! Questions about handoffs that are not under way, while they wait for a look at the hypervisor.

use std::collections::BTreeMap;

use crate::model::{HandoffKey, MachineId};
use crate::port::{LookId, MigrationStats};

/// Whoever waits for a look, by handoff.
pub(super) type Strangers = BTreeMap<HandoffKey, Stranger>;

/// Somebody who asks, and what.
#[derive(Clone, Debug)]
pub(super) struct Stranger {
    pub(super) machine: MachineId,
    /// The look that answers it.
    pub(super) look: LookId,
    pub(super) question: Question,
}

/// What a stranger wants.
#[derive(Clone, Debug, Hash)]
pub(super) enum Question {
    /// The source: "It is yours."
    Released { stats: MigrationStats, autostart: bool },
    /// The source: "It stays; destroy what has arrived."
    Cancelled,
    /// The same, and it has been ordered.
    Discarding,
    /// The source: "What do you hold of it?"
    Where,
    /// The target: "It is here, complete and paused. Is it released?"
    Holding,
    /// The target: "I keep room for it. Is it coming?"
    Reserved,
}

//! What tells two states of a host's handoffs apart, for model checking: all that their behaviour
//! depends on, except times and numbers of attempts and looks, and nothing that is only for the record.

use std::hash::{Hash, Hasher};

use super::{Handoff, Handoffs, Recovered};
use crate::port::LookId;

impl Hash for Handoff {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.id, self.role, &self.peer, &self.machine, self.phase).hash(state);
        (self.to(), self.from, self.commit, self.autostart, self.ticket).hash(state);
        (&self.boot, &self.rearmed, self.missed).hash(state);
        (self.leftover, self.cancelled_for, self.seen, self.before, self.steps).hash(state);
        (self.persistent, self.finished, self.left, self.examined).hash(state);
    }
}

impl Hash for Handoffs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.live, &self.marks, &self.lives).hash(state);
        (self.ticket, self.aborting).hash(state);
        for (key, stranger) in &self.strangers {
            (key, &stranger.machine, &stranger.question).hash(state);
        }
    }
}

impl Handoffs {
    /// For each that may wait for a look, whether the answer to this one is awaited or comes too
    /// late.
    #[must_use]
    pub fn await_look(&self, look: LookId) -> Vec<bool> {
        let live = self.live.values().map(|h| h.look);
        live.chain(self.strangers.values().map(|s| s.look)).map(|from| from <= look).collect()
    }
}

impl Hash for Recovered {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.handoffs, &self.marks, &self.lives, self.life).hash(state);
    }
}

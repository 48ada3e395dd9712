//! What two libvirts say to each other, from the point of view of one of the two agents.

use evenkeel_core::port::HandoffId;
use evenkeel_libvirt::{Control, FinishWatch, Refused};
use evenkeel_net::{Cut, Translate};
use tokio::sync::mpsc;
use tracing::warn;

/// Of which host this agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The machine goes away from here: the other host answers.
    Source,
    /// It comes to here: the other host asks.
    Target,
}

/// Who is told when the answer to the last step has reached libvirt here, and of which handoff.
type Told = (HandoffId, mpsc::Sender<HandoffId>);

pub(super) struct Conversation {
    control: Control,
    side: Side,
    finish: FinishWatch,
    told: Option<Told>,
}

impl Conversation {
    /// At the source, whose libvirt hears the target's.
    pub(super) fn of_source(control: Control, told: Option<Told>) -> Self {
        Self { control, side: Side::Source, finish: FinishWatch::default(), told }
    }

    /// At the target, whose libvirt hears the source's.
    pub(super) fn of_target(control: Control) -> Self {
        Self { control, side: Side::Target, finish: FinishWatch::default(), told: None }
    }

    fn hear(&mut self, from_source: bool, bytes: &[u8]) -> Result<Vec<u8>, Cut> {
        let passed = if from_source {
            self.control.from_source(bytes)
        } else {
            self.control.from_target(bytes)
        };
        let passed = passed.map_err(|Refused { why, answer }| Cut { why, answer })?;
        if !from_source && let Some((handoff, told)) = &self.told
            // One that is not told is proved by something else, or by an operator.
            && self.finish.has_passed(&passed) && told.try_send(*handoff).is_err()
        {
            warn!(%handoff, "the end of a migration is not noted");
        }
        Ok(passed)
    }
}

impl Translate for Conversation {
    fn hear_peer(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Cut> {
        self.hear(self.side == Side::Target, bytes)
    }

    fn hear_own(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Cut> {
        self.hear(self.side == Side::Source, bytes)
    }
}

//! What every part of a balancer stands on.

use super::config::Config;
use super::members::Members;
use crate::exchange::Step;
use crate::handoff::Handoffs;
use crate::host::Host;
use crate::model::{ExchangeId, HostId, HostState};
use crate::turn::Turn;

/// What every part of a balancer stands on, and none of them owns.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) config: Config,
    pub(super) members: Members,
    /// The handoffs under way.
    pub(super) handoffs: Handoffs,
    /// Whether an operator wants the agent to stop.
    pub(super) stopping: bool,
}

impl Scene {
    /// Up to `count` other hosts, at random.
    pub(super) fn draw(&self, count: usize, turn: &mut Turn<'_>) -> Vec<HostId> {
        self.members.draw(count, turn.host.id(), turn.rng)
    }

    /// Whether a host empties itself: while only entries move, the policy does that in its rounds.
    pub(super) fn drains(&self, host: &Host) -> bool {
        host.state == HostState::Draining && !self.config.tentative
    }
}

/// An exchange that a part begins.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) id: ExchangeId,
    pub(super) peer: HostId,
    /// How it begins, unless it is over at once.
    pub(super) step: Step,
}

//! What swaps promise to others, and what others owe to this host.

use super::scene::Scene;
use crate::agreement::Agreement;
use crate::decision::Reason;
use crate::effect::Timer;
use crate::handoff::Handoffs;
use crate::model::{ExchangeId, HostId, MachineId};
use crate::port::HandoffId;
use crate::swap::{Owed, Promise};
use crate::turn::Turn;

/// The second halves of swaps that are to come.
#[derive(Clone, Debug, Default)]
pub(super) struct Swaps {
    promise: Option<Promise>,
    owed: Option<Owed>,
}

impl Swaps {
    /// Whether something is to come from another host.
    pub(super) const fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    /// This host gives a machine as agreed on.
    pub(super) fn gives(&mut self, agreement: &Agreement, handoff: HandoffId) {
        self.owed = Owed::of(agreement, handoff);
    }

    /// This host takes a machine as agreed on.
    pub(super) fn takes(&mut self, agreement: &Agreement, handoff: HandoffId) {
        if let Some(promise) = Promise::of(agreement, handoff) {
            self.promise = Some(promise);
        }
    }

    /// Takes out what is owed, if it is this.
    pub(super) fn pay(
        &mut self,
        exchange: ExchangeId,
        from: &HostId,
        machine: &MachineId,
    ) -> Option<Owed> {
        self.owed.take_if(|owed| owed.is(exchange, from, machine))
    }

    /// What to hand over now, because it was promised.
    pub(super) fn due(&mut self, scene: &Scene, turn: &Turn<'_>) -> Option<Agreement> {
        let promise = self.promise.take_if(|promise| !scene.handoffs.is_live(promise.after))?;
        if !scene.handoffs.has_just_moved(promise.after) || scene.stopping {
            return None;
        }
        promise.keep(turn.host, turn.now)
    }

    /// Begins to wait for what is owed, once the machine given has arrived.
    pub(super) fn wait(&mut self, scene: &Scene, turn: &mut Turn<'_>) {
        if let Some(owed) = &mut self.owed
            && !owed.overdue
            && !scene.handoffs.is_live(owed.after)
        {
            owed.overdue = true;
            let limit = turn.now + scene.config.limits.reply_time_max;
            turn.set_timer(Timer::Exchange(owed.exchange), limit);
        }
    }

    /// The timer of an exchange is due: what is owed by it is not waited for any longer.
    pub(super) fn timer(&mut self, id: ExchangeId, handoffs: &Handoffs, turn: &mut Turn<'_>) {
        if let Some(owed) = self.owed.take_if(|owed| owed.exchange == id && owed.overdue)
            && handoffs.has_just_moved(owed.after)
        {
            let detail = "what was to come back in return has not come";
            turn.record(owed.unpaid(turn.host, Reason::TimedOut, detail, turn.now));
        }
    }
}

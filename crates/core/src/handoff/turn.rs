//! What a handoff does with its turn.

use std::time::Duration;

use crate::decision::{Reason, Role};
use crate::effect::{Effect, Timer};
use crate::message::{Message, Pass};
use crate::model::HostId;
use crate::port::{HandoffId, Order, Stamp};
use crate::record::{Handoff, Phase, Steps};
use crate::turn::Turn;

impl Turn<'_> {
    /// Enters a phase and makes it durable: to be called before whatever depends on it. The wake-up
    /// comes first, since nothing behind a record that cannot be written is done.
    pub(super) fn enter(&mut self, handoff: &mut Handoff, phase: Phase, wake_after: Duration) {
        handoff.before = Some(handoff.phase);
        handoff.go_on(phase, self.now);
        handoff.attempts = 0;
        handoff.seen = None;
        handoff.steps = Steps::default();
        self.wake(handoff.id, wake_after);
        self.persist(handoff);
    }

    pub(super) fn persist(&mut self, handoff: &Handoff) {
        self.out.push(Effect::Persist(handoff.clone()));
    }

    pub(super) fn say(&mut self, to: &HostId, id: HandoffId, pass: Pass) {
        self.tell(to, Message::Handoff(id, pass));
    }

    pub(super) fn send(&mut self, handoff: &Handoff, pass: Pass) {
        self.say(&handoff.peer, handoff.id, pass);
    }

    /// Looks where the machine is. Only this look counts from now on: what an earlier one saw may
    /// not be so any more.
    pub(super) fn look(&mut self, handoff: &mut Handoff) {
        handoff.look = self.look_for(&handoff.machine);
    }

    pub(super) fn abort(&mut self, handoff: &Handoff) {
        self.order(Order::Abort(handoff.machine.clone()));
    }

    pub(super) fn resume(&mut self, handoff: &Handoff, stamp: Stamp) {
        self.order(Order::Resume(handoff.machine.clone(), stamp));
    }

    pub(super) fn discard(&mut self, handoff: &Handoff, stamp: Stamp) {
        let claimed = stamp.handoff.is_some() && stamp.handoff == self.spared;
        if claimed && handoff.role == Role::Target {
            return;
        }
        self.order(Order::Discard(handoff.machine.clone(), stamp));
    }

    pub(super) fn set_autostart(&mut self, handoff: &Handoff, wanted: bool) {
        self.order(Order::SetAutostart(handoff.machine.clone(), wanted));
    }

    pub(super) fn start(&mut self, handoff: &Handoff, stamp: Stamp) {
        self.order(Order::Start(handoff.machine.clone(), stamp));
    }

    pub(super) fn wake(&mut self, id: HandoffId, after: Duration) {
        self.set_timer(Timer::Handoff(id), self.now + after);
    }
}

/// What comes of an input for the handoff that it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Stay,
    /// It is over: the machine is the target's.
    Done(Reason),
    /// It is over: the machine is the source's.
    Cancelled(Reason),
}

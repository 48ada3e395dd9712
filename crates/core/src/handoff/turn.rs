//! What a handoff acts on, for the length of one input.

use std::time::Duration;

use crate::decision::{Reason, Role};
use crate::effect::{Effect, Timer};
use crate::host::Host;
use crate::message::{Message, Pass};
use crate::model::{HostId, MachineId, Time};
use crate::port::{HandoffId, LookId, Order, Stamp};
use crate::record::{Handoff, Phase, Steps};

/// What a handoff acts on, for the length of one input.
pub struct Turn<'a> {
    /// This host.
    pub host: &'a mut Host,
    /// The time.
    pub now: Time,
    /// Where effects go, in order.
    pub out: &'a mut Vec<Effect>,
    /// The look that was ordered last.
    pub(super) looks: LookId,
    /// The handoff by which this host has claimed the machine that is acted on: what it brought is
    /// never destroyed on a source's word.
    pub(super) spared: Option<HandoffId>,
}

impl<'a> Turn<'a> {
    /// A turn of this host at this time, whose effects go to `out`.
    pub const fn new(host: &'a mut Host, now: Time, out: &'a mut Vec<Effect>) -> Self {
        Self { host, now, out, looks: LookId(0), spared: None }
    }
}

impl Turn<'_> {
    /// Enters a phase and makes it durable: to be called before whatever depends on it. The wake-up
    /// comes first, since nothing behind a record that cannot be written is done.
    pub(super) fn enter(&mut self, handoff: &mut Handoff, phase: Phase, wake_after: Duration) {
        handoff.before = Some(handoff.phase);
        handoff.phase = phase;
        handoff.since = self.now;
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
        self.out.push(Effect::Send(to.clone(), Message::Handoff(id, pass)));
    }

    pub(super) fn send(&mut self, handoff: &Handoff, pass: Pass) {
        self.say(&handoff.peer, handoff.id, pass);
    }

    pub(super) fn order(&mut self, order: Order) {
        self.out.push(Effect::Order(order));
    }

    /// Looks where the machine is. Only this look counts from now on: what an earlier one saw may
    /// not be so any more.
    pub(super) fn look(&mut self, handoff: &mut Handoff) {
        handoff.look = self.look_for(&handoff.machine);
    }

    pub(super) fn look_for(&mut self, machine: &MachineId) -> LookId {
        self.looks = LookId(self.looks.0 + 1);
        self.order(Order::Look(machine.clone(), self.looks));
        self.looks
    }

    pub(super) fn abort(&mut self, handoff: &Handoff) {
        self.order(Order::Abort(handoff.machine.clone()));
    }

    pub(super) fn resume(&mut self, handoff: &Handoff, stamp: Stamp) {
        self.order(Order::Resume(handoff.machine.clone(), stamp));
    }

    pub(super) fn discard(&mut self, handoff: &Handoff, stamp: Stamp) {
        let claimed = stamp.handoff.is_some() && stamp.handoff == self.spared;
        if claimed && handoff.role == Role::Receiver {
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
        self.out.push(Effect::SetTimer(Timer::Handoff(id), self.now + after));
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

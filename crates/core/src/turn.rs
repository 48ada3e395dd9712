//! What the rooms of the core act on for the length of one input.

use rand::Rng;

use crate::decision::{Decision, Reason};
use crate::effect::{Effect, Timer};
use crate::host::Host;
use crate::message::{Message, Talk};
use crate::model::{ExchangeId, HostId, MachineId, Time};
use crate::port::{HandoffId, LookId, Order};

/// What the rooms of the core act on for the length of one input.
pub struct Turn<'a> {
    /// This host.
    pub host: &'a mut Host,
    /// The look that was ordered last.
    pub looks: &'a mut LookId,
    /// The time.
    pub now: Time,
    /// Where chance comes from.
    pub rng: &'a mut dyn Rng,
    /// Where effects go, in order.
    pub out: &'a mut Vec<Effect>,
    /// The handoff by which this host has claimed the machine that is acted on: what it brought is
    /// never destroyed on a source's word.
    pub(crate) spared: Option<HandoffId>,
}

impl<'a> Turn<'a> {
    /// A turn of this host at this time, whose effects go to `out`.
    pub fn new(
        host: &'a mut Host,
        looks: &'a mut LookId,
        now: Time,
        rng: &'a mut dyn Rng,
        out: &'a mut Vec<Effect>,
    ) -> Self {
        Self { host, looks, now, rng, out, spared: None }
    }

    /// Has the hypervisor do something.
    pub fn order(&mut self, order: Order) {
        self.out.push(Effect::Order(order));
    }

    /// Looks where a machine is.
    pub fn look_for(&mut self, machine: &MachineId) -> LookId {
        *self.looks = LookId(self.looks.0 + 1);
        self.order(Order::Look(machine.clone(), *self.looks));
        *self.looks
    }

    /// Keeps the record of a decision.
    pub fn record(&mut self, decision: Decision) {
        self.out.push(Effect::Record(decision));
    }

    /// The record of an exchange in which nobody else took part.
    #[must_use]
    pub fn lonely(&self, exchange: ExchangeId, ending: Reason, detail: String) -> Decision {
        Decision {
            detail,
            authority: self.host.authority(),
            ..Decision::new(exchange, self.host.id().clone(), ending, self.now)
        }
    }

    /// Says something to another host.
    pub fn tell(&mut self, to: &HostId, message: Message) {
        self.out.push(Effect::Send(to.clone(), message));
    }

    /// Says something to another host in an exchange.
    pub fn talk(&mut self, to: &HostId, id: ExchangeId, talk: Talk) {
        self.tell(to, Message::Exchange(id, talk));
    }

    /// Wakes the core at this time.
    pub fn set_timer(&mut self, timer: Timer, at: Time) {
        self.out.push(Effect::SetTimer(timer, at));
    }
}

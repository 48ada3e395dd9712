//! The one place where an effect becomes something that happens in the simulated world.

use std::time::Duration;

use evenkeel_core::decision::Role;
use evenkeel_core::effect::{Effect, Input};
use evenkeel_core::handoff::Handoff;
use evenkeel_core::message::Message;
use evenkeel_core::model::{HostId, Time};
use evenkeel_core::port::Order;
use evenkeel_hypervisor::Hypervisor;

use super::{Cluster, Moved, Planned, encoded_bytes};
use crate::log::What;
use crate::membership::{Membership, Outcome};

impl Cluster {
    /// Carries out effects in order; those behind a slow write wait for it.
    pub(super) fn carry_out_all(
        &mut self,
        index: usize,
        mut effects: impl Iterator<Item = Effect>,
    ) {
        while let Some(effect) = effects.next() {
            let agent = &mut self.agents[index];
            let slow = agent.store_takes > Duration::ZERO && !agent.written;
            if slow && matches!(effect, Effect::Persist(_)) {
                agent.held = [effect].into_iter().chain(effects).collect();
                let (life, at) = (agent.life, self.now + agent.store_takes);
                return self.planned.push(at, Planned::Resume { agent: index, life });
            }
            if !self.carry_out(index, effect) {
                return;
            }
        }
    }

    /// Carries out one effect. Answers whether the ones behind it may be carried out.
    pub(super) fn carry_out(&mut self, index: usize, effect: Effect) -> bool {
        match effect {
            Effect::Persist(handoff) => return self.persist(index, handoff),
            Effect::Acquaint(acquaintance) => {
                let agent = &mut self.agents[index];
                if agent.store_fails {
                    self.inputs.push_front((index, Input::NotKept(acquaintance.host)));
                    return false;
                }
                agent.store.acquaintances.keep(acquaintance);
            }
            Effect::Send(to, message) => self.send(index, &to, message),
            Effect::SetTimer(timer, at) => {
                let agent = &mut self.agents[index];
                let at = self.now + at.since(agent.clock(self.now));
                agent.timers.insert(timer, at);
                self.planned.push(at, Planned::Wake { agent: index, timer });
            }
            Effect::Order(order) => self.order(index, order),
            Effect::Record(decision) => {
                let donor = match decision.role {
                    Some(Role::Target) => decision.peer.as_ref(),
                    _ => Some(&decision.host),
                };
                let donor = donor.and_then(|donor| self.by_id.get(donor));
                // What was agreed on while a host was being emptied may end after that.
                let emptied = |&index: &usize| self.agents[index].was_emptied_since(decision.began);
                let is_emptied = donor.is_some_and(emptied);
                self.checker.check_record(self.now, &decision, is_emptied);
                self.note(index, || What::Recorded(decision.clone()));
                if let Some(records) = &mut self.records {
                    records.push(decision);
                }
            }
            Effect::Keep(register) if !self.agents[index].store_fails => {
                self.agents[index].store.pause = Some(register);
            }
            Effect::Keep(_) => {}
            Effect::Answer(wish, answer) => self.agents[index].answered(wish, answer),
            Effect::Stopped => self.kill(&self.agents[index].id.clone()),
        }
        true
    }

    pub(super) fn persist(&mut self, index: usize, handoff: Handoff) -> bool {
        let agent = &mut self.agents[index];
        agent.written = false;
        if agent.store_fails {
            let failed = Input::StoreFailed(handoff.key(), "no space left on device".to_owned());
            // Nothing depends on it: written once there is room, as the daemon does.
            if handoff.phase.has_ended() {
                agent.unclosed.push(handoff);
            }
            self.inputs.push_front((index, failed));
            return false;
        }
        if let Some(mark) = handoff.mark() {
            self.checker.wrote(&mark);
        }
        agent.store.keep(handoff);
        true
    }

    pub(super) fn send(&mut self, from: usize, to: &HostId, message: Message) {
        self.tally.messages += 1;
        self.tally.message_bytes += encoded_bytes(&message);
        self.tally.witness_messages += u64::from(matches!(message, Message::Witness(..)));
        let sender = &self.agents[from].id;
        let Some(&to_index) = self.by_id.get(to) else {
            let why = format!("no host `{to}`");
            return self.inputs.push_back((from, Input::Undelivered(to.clone(), why)));
        };
        let mut arrived = false;
        for delay in self.network.carry(sender, to, Some(&message), &mut self.rng) {
            arrived = true;
            let mut message = Box::new(message.clone());
            if let Some(forge) = self.network.forges {
                forge(&mut message);
            }
            let deliver = Planned::Deliver { to: to_index, from, message };
            self.planned.push(self.now + delay, deliver);
        }
        self.note(from, || match arrived {
            true => What::Said(to.clone(), message),
            false => What::Lost(to.clone(), message),
        });
    }

    pub(super) fn order(&mut self, index: usize, order: Order) {
        self.note(index, || What::Ordered(order.clone()));
        if let Order::Migrate(migration) = &order {
            let from = self.agents[index].id.clone();
            let (machine, to) = (migration.machine.clone(), migration.to.clone());
            let ends = |host: &HostId| {
                self.ordered.values().filter(|m| m.from == *host || m.to == *host).count() as u64
            };
            let at_once = 1 + ends(&from).max(ends(&to));
            self.tally.at_once_max = self.tally.at_once_max.max(at_once);
            self.ordered.insert(migration.handoff, Moved { at: self.now, machine, from, to });
        }
        let host = &self.agents[index].id;
        let acts = matches!(
            order,
            Order::Migrate(_) | Order::Resume(..) | Order::Start(..) | Order::Discard(..)
        );
        if acts {
            self.checker.check_order(self.now, host, &order, &self.agents[index].store);
        }
        if let Ok(mut hypervisor) = self.cloud.on(host) {
            hypervisor.submit(order);
        }
    }

    /// Lets membership act, and carries out what it wants.
    pub(super) fn with_membership(
        &mut self,
        act: impl FnOnce(&mut dyn Membership, Time, &mut Vec<Outcome>),
    ) {
        let mut outcomes = Vec::new();
        act(&mut *self.membership, self.now, &mut outcomes);
        for outcome in outcomes {
            match outcome {
                Outcome::Wake(alarm, at) => self.planned.push(at, Planned::Alarm(alarm)),
                Outcome::Tell { host, at, members } => {
                    self.planned.push(at, Planned::Tell { agent: host, members });
                }
                Outcome::Send { from, to, bytes } => self.send_datagram(from, to, &bytes),
            }
        }
    }

    pub(super) fn send_datagram(&mut self, from: usize, to: usize, bytes: &[u8]) {
        self.tally.datagrams += 1;
        self.tally.datagram_bytes += bytes.len() as u64;
        let Some(addressee) = self.agents.get(to) else { return };
        let sender = &self.agents[from].id;
        for delay in self.network.carry(sender, &addressee.id, None, &mut self.rng) {
            let datagram = Planned::Datagram { to, from, bytes: bytes.to_vec() };
            self.planned.push(self.now + delay, datagram);
        }
    }
}

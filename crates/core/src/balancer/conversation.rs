//! What is said in exchanges, up to what is agreed on and the handoff that follows from it.

use super::dealings::Dealings;
use super::pauses;
use super::questions;
use super::recommendations;
use super::scene::Opening;
use super::seats::Admitted;
use crate::agreement::Agreement;
use crate::decision::{Choice, Reason};
use crate::effect::Timer;
use crate::exchange::{Answer, Exchange, Offered, Step};
use crate::handoff::{Offer, Terms};
use crate::message::{Message, Pass, Probe, Standing, Talk};
use crate::model::{Entry, ExchangeId, HostId, MachineId, Time};
use crate::port::{Commit, HandoffId, HandoffKey, Stamp};
use crate::turn::Turn;

/// Leaves an estimate out that cannot be.
fn doubt(talk: &mut Talk, now: Time) {
    let (Talk::Probe(Probe { estimate, .. }) | Talk::Standing(Standing { estimate, .. })) = talk
    else {
        return;
    };
    *estimate = estimate.take().filter(|estimate| estimate.can_be(now));
}

fn refusal(reason: Reason) -> Talk {
    Talk::Decline { reason, detail: String::new(), report: None }
}

/// Says to a source that no room is kept.
fn refuse(key: &HandoffKey, reason: Reason, detail: &str, turn: &mut Turn<'_>) {
    let detail = (!detail.is_empty()).then(|| detail.to_owned());
    turn.tell(&key.peer, Message::Handoff(key.id, Pass::Refused { reason, detail }));
}

impl Dealings {
    /// Another host says something in an exchange.
    pub(super) fn talk(
        &mut self,
        id: ExchangeId,
        from: &HostId,
        mut talk: Talk,
        turn: &mut Turn<'_>,
    ) {
        doubt(&mut talk, turn.now);
        // Plans have no use for it, and too many hosts.
        if !self.scene.config.tentative {
            self.others.hear(from, &talk, self.rounds.measure_of(id), turn.now);
        }
        if let Some(exchange) = self.exchange.take_if(|e| e.id() == id && e.peer() == from) {
            if exchange.has_answered(&talk) {
                self.exchange = Some(exchange);
                return;
            }
            let step = exchange.hear(talk, turn.host, turn.now);
            return self.open(Opening { id, peer: from.clone(), step }, turn);
        }
        let Some(talk) = self.rounds.hear(id, from, talk, turn) else { return };
        if let Some(asked) = self.questions.of(id) {
            match talk {
                Talk::Appraisal(said) => asked.hear(from, said),
                _ => asked.miss(from),
            }
            return;
        }
        if self.orders.hear(id, from, &talk, turn) {
            return;
        }
        pauses::remind(from, &talk, turn);
        self.answer(id, from, talk, turn);
    }

    /// Answers what another host begins.
    fn answer(&mut self, id: ExchangeId, from: &HostId, talk: Talk, turn: &mut Turn<'_>) {
        match talk {
            Talk::Inquire(..) | Talk::Offer { .. } | Talk::Probe(_) | Talk::Appraise(_)
                if self.scene.stopping =>
            {
                turn.talk(from, id, refusal(Reason::Stopping));
            }
            Talk::Inquire(..) | Talk::Offer { .. } if self.is_busy() => {
                turn.talk(from, id, refusal(Reason::Busy));
            }
            Talk::Inquire(theirs, room) => {
                let room = room.map(|room| *room);
                match Exchange::answer(id, from, (theirs, room), turn.host, turn.now) {
                    Answer::Say(talk) => turn.talk(from, id, talk),
                    Answer::Engage(exchange, talk) => self.say(exchange, talk, turn),
                    Answer::Decline(talk, record) => {
                        turn.talk(from, id, talk);
                        turn.record(record);
                    }
                }
            }
            Talk::Offer { report, candidates, measure, gauge, authority } => {
                let offered = Offered { report, candidates, measure, gauge, authority };
                let step = Exchange::take_offer(id, from, offered, turn.host, turn.now);
                self.open(Opening { id, peer: from.clone(), step }, turn);
            }
            Talk::Probe(probe) => {
                let standing = self.rounds.stand(from, probe, self.is_busy(), turn);
                turn.talk(from, id, standing);
            }
            Talk::Appraise(asked) => {
                turn.talk(from, id, questions::appraise(&asked, self.is_busy(), turn));
            }
            // Late: that conversation is over, and both sides have their limits of time.
            Talk::Accept(_)
            | Talk::Decline { .. }
            | Talk::Quotes { .. }
            | Talk::Close { .. }
            | Talk::Standing(_)
            | Talk::Appraisal(_) => {}
        }
    }

    /// Goes on with an exchange, or ends it.
    pub(super) fn open(&mut self, opening: Opening, turn: &mut Turn<'_>) {
        let Opening { id, peer, step } = opening;
        match step {
            Step::Say(exchange, talk) => self.say(exchange, talk, turn),
            Step::End(talk, record) => {
                if let Some(talk) = talk {
                    turn.talk(&peer, id, talk);
                }
                turn.record(record);
            }
            Step::Agree(agreement) => self.agreed(*agreement, turn),
        }
    }

    fn say(&mut self, exchange: Exchange, talk: Talk, turn: &mut Turn<'_>) {
        let id = exchange.id();
        turn.talk(exchange.peer(), id, talk);
        let limit = turn.now + self.scene.config.limits.reply_time_max;
        turn.set_timer(Timer::Exchange(id), limit);
        self.exchange = Some(exchange);
    }

    /// Source: hands over what was agreed on, if that may happen by itself.
    fn agreed(&mut self, agreement: Agreement, turn: &mut Turn<'_>) {
        if let Some(reason) = recommendations::withheld(&agreement, turn) {
            self.rounds.bear_fruit();
            let holds_for = self.scene.config.recommendation_time;
            return self.recommendations.withhold(agreement, reason, holds_for, turn);
        }
        let handoff = self.draw_handoff(turn);
        self.orders.agreed(agreement.exchange, handoff);
        self.rounds.agreed(&agreement, turn);
        self.swaps.gives(&agreement, handoff);
        self.give(handoff, agreement, turn);
    }

    /// Keeps a promise once it is due, and stops waiting for what is owed once it is overdue.
    pub(super) fn swap(&mut self, turn: &mut Turn<'_>) {
        if let Some(agreement) = self.swaps.due(&self.scene, turn) {
            let id = self.draw_handoff(turn);
            self.give(id, agreement, turn);
        }
        self.swaps.wait(&self.scene, turn);
    }

    /// A new id for a handoff, which stands for nothing here yet.
    fn draw_handoff(&self, turn: &mut Turn<'_>) -> HandoffId {
        loop {
            let id = HandoffId(turn.rng.next_u64());
            if !self.scene.handoffs.has_known(id) && !self.seats.has_known(id) {
                return id;
            }
        }
    }

    /// Source: hands a machine over as agreed.
    fn give(&mut self, id: HandoffId, agreement: Agreement, turn: &mut Turn<'_>) {
        let machine = &agreement.candidate.machine;
        let known = turn.host.view.machines().get(machine);
        // Agreed on in this very turn, or promised and looked up just now.
        let Some(known) = known.filter(|_| !self.scene.handoffs.moves(machine)) else { return };
        let strict = || Choice { commit: Commit::Strict, because: String::new() };
        let terms = Terms {
            choice: self.scene.config.commit.choose(&known.facts.locks).unwrap_or_else(strict),
            from: known.entry().map(Stamp::of).unwrap_or_default(),
            autostart: known.facts.autostart,
            persistent: known.facts.persistent,
        };
        self.scene.handoffs.give(id, agreement, terms, turn);
    }

    /// The other host of a handoff says something.
    pub(super) fn pass(&mut self, id: HandoffId, from: &HostId, pass: Pass, turn: &mut Turn<'_>) {
        match pass {
            Pass::Reserve { .. } => self.reserve(HandoffKey::new(id, from), pass, turn),
            pass => {
                if matches!(pass, Pass::Cancel { .. }) {
                    self.seats.withdraw(&HandoffKey::new(id, from), turn);
                }
                self.scene.handoffs.hear(id, from, pass, turn);
            }
        }
    }

    /// Target: the source asks to keep room for what was agreed on.
    fn reserve(&mut self, key: HandoffKey, pass: Pass, turn: &mut Turn<'_>) {
        let Pass::Reserve {
            exchange,
            machine,
            entry,
            verdicts,
            in_return,
            commit,
            autostart,
            ticket,
            cpu,
            past,
        } = pass
        else {
            return;
        };
        // The same again: it was answered, and the answer to it stands.
        if self.scene.handoffs.knows(&key) || self.seats.waits(&key) {
            return;
        }
        if let Some((reason, detail)) = self.keeps_no_room(key.id, &machine, &entry, turn) {
            return refuse(&key, reason, &detail, turn);
        }
        let offer = move |mut agreement: Agreement| {
            agreement.candidate.needs.cpu_definition = cpu.map(Into::into);
            Offer {
                agreement,
                commit: commit.unwrap_or(Commit::Fast),
                autostart: autostart.unwrap_or(false),
                ticket,
                past,
            }
        };
        if let Some(owed) = self.swaps.pay(exchange, &key.peer, &machine) {
            match owed.clone().take(entry, turn.host, turn.now) {
                Ok(agreement) => self.admit(key, offer(agreement), false, turn),
                Err(reason) => {
                    refuse(&key, reason, "", turn);
                    turn.record(owed.unpaid(turn.host, reason, "", turn.now));
                }
            }
            return;
        }
        let quoted = self.exchange.take_if(|e| e.id() == exchange && *e.peer() == key.peer);
        let Some(quoted) = quoted else {
            return refuse(&key, Reason::TimedOut, "", turn);
        };
        let (pressing, host, now) = (quoted.is_pressing(), &*turn.host, turn.now);
        match quoted.reserve(&machine, entry, verdicts, in_return.as_ref(), host, now) {
            Ok(agreement) => {
                self.rounds.is_fed();
                self.admit(key, offer(*agreement), pressing, turn);
            }
            Err(record) => {
                refuse(&key, record.ending, &record.detail, turn);
                turn.record(*record);
            }
        }
    }

    /// Why no room is kept for a machine by a handoff of this id, by what is known here of either: one
    /// at a time, since what became of the other is not settled yet, and none by an id that stands for
    /// something else here. What the hypervisor knows of the machine a look tells.
    fn keeps_no_room(
        &self,
        id: HandoffId,
        machine: &MachineId,
        entry: &Entry,
        turn: &Turn<'_>,
    ) -> Option<(Reason, String)> {
        if self.seats.takes(machine) {
            return Some((Reason::UnderWay, String::new()));
        }
        if let Some(refusal) = self.scene.handoffs.refusal(id, machine) {
            return Some(refusal);
        }
        let brought = |entry: &Entry| entry.handoff == Some(id);
        let mut here = turn.host.view.machines().values().filter_map(|m| m.entry());
        if here.any(brought) || self.seats.has_known(id) {
            return Some((Reason::AlreadyHere, format!("handoff {id} is known here already")));
        }
        let too_high =
            || format!("its epoch {} is more than all moves there can have been", entry.epoch);
        (!entry.epoch.can_be(turn.now)).then(|| (Reason::EntryInvalid, too_high()))
    }

    /// Target: takes what was agreed on, once all witnesses of its seats are clear.
    fn admit(&mut self, key: HandoffKey, offer: Offer, pressing: bool, turn: &mut Turn<'_>) {
        if let Some(admitted) = self.seats.admit(key, offer, pressing, &self.scene, turn) {
            self.accept(admitted, turn);
        }
    }

    /// Target: keeps room for what is admitted.
    pub(super) fn accept(&mut self, admitted: Admitted, turn: &mut Turn<'_>) {
        let Admitted { key, offer } = admitted;
        self.swaps.takes(&offer.agreement, key.id);
        let uri = self.migration_uri.clone();
        self.scene.handoffs.take(key.id, offer, uri, turn);
    }
}

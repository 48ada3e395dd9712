//! What is said in a handoff: where one begins, on either side.

use rand::Rng;

use super::Balancer;
use crate::decision::Choice;
use crate::decision::Reason;
use crate::effect::Effect;
use crate::exchange::Agreement;
use crate::handoff::{Offer, Terms};
use crate::message::{Message, Pass};
use crate::model::{HostId, Time};
use crate::port::{Commit, HandoffId, Stamp};

impl Balancer {
    pub(super) fn pass(
        &mut self,
        id: HandoffId,
        from: &HostId,
        pass: Pass,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
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
        } = pass
        else {
            if matches!(pass, Pass::Cancel { .. }) {
                self.withdraw(id, from, now, out);
            }
            return self.hand(now, out, |handoffs, turn| handoffs.hear(id, from, pass, turn));
        };
        // The same again: it was answered, and the answer to it stands.
        if self.handoffs.knows(id, from) || self.reserving.contains_key(&id) {
            return;
        }
        let refused_for = |reason, detail: &str| {
            let detail = (!detail.is_empty()).then(|| detail.to_owned());
            Effect::Send(from.clone(), Message::Handoff(id, Pass::Refused { reason, detail }))
        };
        let refused = |reason| refused_for(reason, "");
        // One at a time: what became of the other is not settled yet.
        if self.handoffs.moves(&machine) || self.witnesses.takes(&machine) {
            return out.push(refused(Reason::UnderWay));
        }
        let offer = |mut agreement: Agreement| {
            agreement.candidate.needs.cpu_definition = cpu.map(Into::into);
            Offer {
                agreement,
                commit: commit.unwrap_or(Commit::Fast),
                autostart: autostart.unwrap_or(false),
                ticket,
            }
        };
        if let Some(owed) = self.owed.take_if(|owed| owed.is(exchange, from, &machine)) {
            match owed.clone().take(entry, &self.host, now) {
                Ok(agreement) => self.admit(id, offer(agreement), false, now, rng, out),
                Err(reason) => {
                    out.push(refused(reason));
                    out.push(Effect::Record(owed.unpaid(&self.host, reason, "", now)));
                }
            }
            return;
        }
        let Some(quoted) = self.exchange.take_if(|e| e.id() == exchange && e.peer() == from) else {
            out.push(refused(Reason::TimedOut));
            return;
        };
        let pressing = quoted.is_pressing();
        match quoted.reserve(&machine, entry, verdicts, in_return.as_ref(), &self.host, now) {
            Ok(agreement) => self.admit(id, offer(*agreement), pressing, now, rng, out),
            Err(record) => {
                out.push(refused_for(record.ending, &record.detail));
                out.push(Effect::Record(*record));
            }
        }
    }

    /// Hands a machine over as agreed.
    pub(super) fn give(
        &mut self,
        id: HandoffId,
        agreement: Agreement,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let machine = &agreement.candidate.machine;
        let known = self.host.view.machines().get(machine);
        // Agreed on in this very turn, or promised and looked up just now.
        let Some(known) = known.filter(|_| !self.handoffs.moves(machine)) else { return };
        let strict = || Choice { commit: Commit::Strict, because: String::new() };
        let terms = Terms {
            choice: self.config.commit.choose(&known.facts.locks).unwrap_or_else(strict),
            from: known.entry().map(Stamp::of).unwrap_or_default(),
            autostart: known.facts.autostart,
        };
        self.hand(now, out, |handoffs, turn| handoffs.give(id, agreement, terms, turn));
    }
}

//! What is said in a handoff: where one begins, on either side.

use rand::Rng;

use super::Balancer;
use crate::agreement::Agreement;
use crate::decision::Choice;
use crate::decision::Reason;
use crate::effect::Effect;
use crate::handoff::{Offer, Terms};
use crate::message::{Message, Pass};
use crate::model::{Entry, HostId, MachineId, Time};
use crate::port::{Commit, HandoffId, HandoffKey, Stamp};

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
                self.withdraw(&HandoffKey::new(id, from), now, out);
            }
            return self.hand(now, out, |handoffs, turn| handoffs.hear(id, from, pass, turn));
        };
        // The same again: it was answered, and the answer to it stands.
        let key = HandoffKey::new(id, from);
        if self.handoffs.knows(&key) || self.reserving.contains_key(&key) {
            return;
        }
        let refused_for = |reason, detail: &str| {
            let detail = (!detail.is_empty()).then(|| detail.to_owned());
            Effect::Send(from.clone(), Message::Handoff(id, Pass::Refused { reason, detail }))
        };
        let refused = |reason| refused_for(reason, "");
        if let Some((reason, detail)) = self.knows_already(id, &machine) {
            return out.push(refused_for(reason, &detail));
        }
        if !entry.epoch.can_be(now) {
            let detail =
                format!("its epoch {} is more than all moves there can have been", entry.epoch);
            return out.push(refused_for(Reason::EntryInvalid, &detail));
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
                Ok(agreement) => self.admit(key, offer(agreement), false, now, rng, out),
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
            Ok(agreement) => self.admit(key, offer(*agreement), pressing, now, rng, out),
            Err(record) => {
                out.push(refused_for(record.ending, &record.detail));
                out.push(Effect::Record(*record));
            }
        }
    }

    /// Why no room is kept for a machine by a handoff of this id, by what is known here of either: one
    /// at a time, since what became of the other is not settled yet, and none by an id that stands for
    /// something else here. What the hypervisor knows of the machine a look tells.
    fn knows_already(&self, id: HandoffId, machine: &MachineId) -> Option<(Reason, String)> {
        if self.witnesses.takes(machine) {
            return Some((Reason::UnderWay, String::new()));
        }
        let brought = |entry: &Entry| entry.handoff == Some(id);
        let mut here = self.host.view.machines().values().filter_map(|m| m.entry());
        let taken = here.any(brought) || self.reserving.keys().any(|key| key.id == id);
        let taken =
            taken.then(|| (Reason::AlreadyHere, format!("handoff {id} is known here already")));
        self.handoffs.refusal(id, machine).or(taken)
    }

    /// A new id for a handoff, which stands for nothing here yet.
    pub(super) fn draw_handoff(&self, rng: &mut impl Rng) -> HandoffId {
        loop {
            let id = HandoffId(rng.next_u64());
            if !self.handoffs.has_known(id) && !self.reserving.keys().any(|key| key.id == id) {
                return id;
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
            persistent: known.facts.persistent,
        };
        self.hand(now, out, |handoffs, turn| handoffs.give(id, agreement, terms, turn));
    }
}

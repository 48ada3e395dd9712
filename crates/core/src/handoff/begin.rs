//! How handoffs begin: by an agreement, or by what the store holds.

use super::{Handoffs, source, starting, target};
use crate::agreement::Agreement;
use crate::decision::Role;
use crate::history::History;
use crate::message::Pass;
use crate::model::Ticket;
use crate::port::{Commit, HandoffId};
use crate::record::{Handoff, Phase, Recovered, Terms};
use crate::turn::Turn;

/// What a target was asked to keep room for.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What was agreed on.
    pub agreement: Agreement,
    /// The commit point that the source has chosen.
    pub commit: Commit,
    /// Whether the source starts the machine at boot.
    pub autostart: bool,
    /// The source's number for it; `None` from a source of an earlier version.
    pub ticket: Option<Ticket>,
    /// What the machine used in the past.
    pub past: Option<Box<History>>,
}

impl Handoffs {
    /// Takes up the handoffs that were under way when the agent ended.
    pub fn recover(&mut self, recovered: Recovered, turn: &mut Turn<'_>) {
        self.ticket = Ticket { life: recovered.life, number: 0 };
        self.lives.extend(recovered.lives.iter().map(|t| (t.life, t.number)));
        self.boot = recovered.boot;
        for mark in recovered.marks {
            self.remember(mark);
        }
        for mut handoff in recovered.handoffs {
            if handoff.phase.has_ended() || handoff.phase == Phase::Offered {
                continue;
            }
            handoff.attempts = 0;
            // Times on record are of another life's clock, which may have been wrong. What waits for a
            // length of time waits for it anew; nothing lies ahead of now.
            handoff.since = match handoff.phase {
                Phase::Reserved => turn.now,
                _ => handoff.since.min(turn.now),
            };
            (handoff.look, handoff.steps) = Default::default();
            handoff.missed = starting::has_missed_boot(&handoff, &self.boot);
            match handoff.role {
                Role::Source => source::recover(&mut handoff, turn),
                Role::Target => {
                    // It is on record only since it was promised.
                    handoff.examined = true;
                    target::recover(&handoff, turn);
                }
            }
            turn.host.holds.take_up(&handoff);
            self.live.insert(handoff.key(), handoff);
        }
    }

    /// Source: asks the target to keep room for what was agreed on.
    pub fn give(&mut self, id: HandoffId, agreement: Agreement, terms: Terms, turn: &mut Turn<'_>) {
        let exchange = agreement.exchange;
        let verdicts = agreement.verdicts.clone();
        let in_return = agreement.in_return.as_ref().map(|c| c.machine.clone());
        let mut handoff = Handoff::begin(id, Role::Source, agreement, turn.now);
        self.ticket.number += 1;
        handoff.from = terms.from;
        handoff.commit = terms.choice.commit;
        handoff.decision.commit = Some(terms.choice);
        handoff.autostart = terms.autostart;
        handoff.persistent = terms.persistent;
        handoff.ticket = Some(self.ticket);
        handoff.boot.clone_from(&self.boot);
        turn.host.holds.take_up(&handoff);
        turn.host.begins(Role::Source, &handoff.peer, turn.now);
        let pass = Pass::Reserve {
            exchange,
            machine: handoff.machine.clone(),
            entry: handoff.entry.clone(),
            verdicts,
            in_return,
            commit: Some(handoff.commit),
            autostart: Some(handoff.autostart),
            ticket: handoff.ticket,
            cpu: handoff.needs.cpu_definition.as_deref().map(str::to_owned),
            past: turn.host.history_of(&handoff.machine),
        };
        turn.send(&handoff, pass);
        // Where witnesses are asked, the target has as long for them.
        let waits = if handoff.needs_seat() { 2 } else { 1 };
        turn.wake(id, self.limits.reply_time_max * waits);
        self.live.insert(handoff.key(), handoff);
    }

    /// Target: keeps room for what was agreed on, and promises it once the hypervisor has said that
    /// nothing of the machine is here and that it can run here. [`Self::refusal`] says whether this
    /// host may be asked to. `uri` is where this host's hypervisor is reached.
    pub fn take(&mut self, id: HandoffId, offer: Offer, uri: String, turn: &mut Turn<'_>) {
        let mut handoff = Handoff::begin(id, Role::Target, offer.agreement, turn.now);
        handoff.commit = offer.commit;
        handoff.autostart = offer.autostart;
        handoff.ticket = offer.ticket;
        handoff.past = offer.past;
        handoff.boot.clone_from(&self.boot);
        handoff.uri = uri;
        turn.host.holds.take_up(&handoff);
        turn.host.begins(Role::Target, &handoff.peer, turn.now);
        turn.wake(id, self.limits.reservation_time);
        if turn.host.settings.tentative {
            // A plan passes entries on and starts nothing: there is nothing to look for.
            target::nothing_is_here(&mut handoff, turn);
        } else {
            turn.look(&mut handoff);
        }
        self.live.insert(handoff.key(), handoff);
    }
}

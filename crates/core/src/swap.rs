//! The second half of a swap: one machine comes back once the other has arrived.
//!
//! ```text
//!   source                                       target
//!     │ ── Reserve(machine, in return) ────────────▶ │  promises
//!     │ ════════════ machine ══════════════════════▶ │
//!   is owed                                          │  keeps the promise:
//!     │ ◀───────────────────── Reserve(in return) ── │
//!     │ ◀═══════════════════════════ in return ═════ │
//! ```
//!
//! A promise is no more than that. If it is not kept (an agent dies, room is gone), every machine is
//! still on exactly one host, and the pair is a pair like any other.

use crate::agreement::Agreement;
use crate::control::Authority;
use crate::decision::{Decision, Judged, Reason, Role};
use crate::exchange::entry_there;
use crate::host::{Giver, Host};
use crate::message::Candidate;
use crate::model::{Entry, ExchangeId, HostId, MachineId, Time};
use crate::port::HandoffId;

/// Target: what is to be given back once a machine has arrived.
#[derive(Clone, Debug)]
pub struct Promise {
    /// The handoff of the machine that arrives first.
    pub after: HandoffId,
    exchange: ExchangeId,
    to: HostId,
    candidate: Candidate,
}

impl Promise {
    /// The promise in an agreement, if there is one.
    #[must_use]
    pub fn of(agreement: &Agreement, after: HandoffId) -> Option<Self> {
        let candidate = agreement.in_return.clone()?;
        Some(Self { after, exchange: agreement.exchange, to: agreement.peer.clone(), candidate })
    }

    /// What to hand over to keep it; `None` if the machine is not here any more, or the one that has
    /// come wants it to stay.
    #[must_use]
    pub fn keep(self, host: &Host, now: Time) -> Option<Agreement> {
        if !host.still_lets_go(&self.candidate.machine, &self.to, now) {
            return None;
        }
        let price = self.candidate.at_donor;
        let entry = entry_there(host, &self.to, &self.candidate, price, now)?;
        let decision = record(self.exchange, host, &self.to, Role::Source, &self.candidate, now);
        Some(Agreement {
            exchange: self.exchange,
            peer: self.to,
            at_receiver: price,
            entry,
            verdicts: Vec::new(),
            decision,
            candidate: self.candidate,
            in_return: None,
        })
    }
}

/// Source: what is to come back once the machine given has arrived.
#[derive(Clone, Debug)]
pub struct Owed {
    /// The handoff of the machine that was given.
    pub after: HandoffId,
    /// The exchange in which it was agreed on.
    pub exchange: ExchangeId,
    from: HostId,
    candidate: Candidate,
    /// Whether the time to wait for it has begun.
    pub overdue: bool,
}

impl Owed {
    /// What is owed by an agreement, if anything.
    #[must_use]
    pub fn of(agreement: &Agreement, after: HandoffId) -> Option<Self> {
        let candidate = agreement.in_return.clone()?;
        let (exchange, from) = (agreement.exchange, agreement.peer.clone());
        Some(Self { after, exchange, from, candidate, overdue: false })
    }

    /// Whether this is it.
    #[must_use]
    pub fn is(&self, exchange: ExchangeId, from: &HostId, machine: &MachineId) -> bool {
        self.exchange == exchange && self.from == *from && self.candidate.machine == *machine
    }

    /// The record of what did not come.
    #[must_use]
    pub fn unpaid(&self, host: &Host, ending: Reason, detail: &str, now: Time) -> Decision {
        let record = record(self.exchange, host, &self.from, Role::Target, &self.candidate, now);
        Decision { ending, detail: detail.to_owned(), ..record }
    }

    /// Takes it, if there still is room.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub fn take(self, entry: Entry, host: &Host, now: Time) -> Result<Agreement, Reason> {
        // What will be here is what its entry says; whether soft rules yield was judged before.
        let candidate = Candidate { rules: Some(entry.rules.clone()), ..self.candidate.clone() };
        let giver = Giver { gauge: None, pressing: true, authority: Authority::Ordered };
        let quote = host.quote(None, &candidate, giver, now);
        if let Some(reason) = quote.refusal {
            return Err(reason);
        }
        let decision = record(self.exchange, host, &self.from, Role::Target, &self.candidate, now);
        Ok(Agreement {
            exchange: self.exchange,
            peer: self.from,
            at_receiver: quote.at_receiver,
            entry,
            verdicts: Vec::new(),
            decision,
            candidate: self.candidate,
            in_return: None,
        })
    }
}

/// The record of the second half. Loads are in the record of the first, which it belongs to.
fn record(
    exchange: ExchangeId,
    host: &Host,
    peer: &HostId,
    role: Role,
    candidate: &Candidate,
    now: Time,
) -> Decision {
    let returned = Judged {
        machine: candidate.machine.clone(),
        name: candidate.name.clone(),
        basis: Some(candidate.basis),
        factors: Some(candidate.factors),
        at_donor: Some(candidate.at_donor),
        at_receiver: None,
        verdict: Reason::Chosen,
        detail: String::new(),
    };
    Decision {
        initiator: match role {
            Role::Source => peer.clone(),
            Role::Target => host.id().clone(),
        },
        peer: Some(peer.clone()),
        role: Some(role),
        candidates: vec![returned],
        predicted: candidate.cost,
        ..Decision::new(exchange, host.id().clone(), Reason::Protocol, now)
    }
}

//! What a host says of machines that could come, and which of its own have to go.

use super::{Giver, Host};
use crate::control::Authority;
use crate::decision::{Reason, Refusal};
use crate::load::{Machine, Unknown};
use crate::message::{Appraisal, Appraise, Candidate, Quote};
use crate::model::{HostId, HostState, MachineId, Time};
use crate::port::Presence;

impl Host {
    /// What another host's machines would load this one, and what room it has.
    ///
    /// # Errors
    /// When its load is not known.
    pub fn appraise(&self, asked: &Appraise, busy: bool, now: Time) -> Result<Appraisal, Unknown> {
        let report = self.report(None, now)?;
        let willing =
            self.past.failures.may_take(now).and_then(|()| self.may_take(asked.giver, now));
        let limit = willing.err();
        let quote = |candidate: &Candidate| {
            let emptied = asked.giver == HostState::Draining;
            let (gauge, authority) = (asked.gauge.as_ref(), Authority::Automatic);
            let giver = Giver { gauge, pressing: emptied, authority };
            let quote = self.quote(None, candidate, giver, now);
            // Words, if there are any, are about the first of both.
            Quote { refusal: quote.refusal.or(limit), ..quote }
        };
        let coming: f64 = self.holds.incoming.values().map(|i| i.memory_bytes).sum();
        Ok(Appraisal {
            report,
            quotes: asked.candidates.iter().map(quote).collect(),
            free_memory_bytes: self.free_memory_bytes(),
            promised_memory_bytes: self.view.committed_memory_bytes() + coming,
            gauge: self.gauge(now),
            busy,
        })
    }

    /// The machines that keep it from being empty: all but those that are not running, or are not
    /// quite here yet.
    pub fn occupants(&self) -> impl Iterator<Item = (&MachineId, &Machine)> {
        self.view.machines().iter().filter(|(_, machine)| {
            !matches!(machine.presence, Presence::Absent | Presence::Defined | Presence::Incoming)
        })
    }

    /// What it could give to any of `peers` now if it were being emptied, largest first, and what it
    /// could give to none of them, each with the reason. What is under way already is in neither.
    #[must_use]
    pub fn to_give(
        &self,
        peers: &[HostId],
        now: Time,
    ) -> (Vec<Candidate>, Vec<(&MachineId, &Machine, Refusal)>) {
        debug_assert!(self.state == HostState::Draining);
        let (mut go, mut stay) = (Vec::new(), Vec::new());
        for (id, machine) in self.occupants() {
            let mut refused = None;
            let offered = peers.iter().find_map(|peer| {
                let judged = self.candidate_for(id, machine, peer, now);
                judged.map_err(|refusal| refused.get_or_insert(refusal).reason).ok()
            });
            match offered {
                Some(candidate) => go.push(candidate),
                None => stay.push((id, machine, refused.unwrap_or(Reason::NoPeer.into()))),
            }
        }
        stay.retain(|(.., refusal)| refusal.reason != Reason::UnderWay);
        go.sort_by(|a, b| b.memory_bytes.total_cmp(&a.memory_bytes));
        (go, stay)
    }
}

//! How a host sees to rules across a label: as the target of a handoff, and as a witness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::scene::Scene;
use crate::acquaintance::Acquaintances;
use crate::decision::Reason;
use crate::effect::Timer;
use crate::handoff::{Handoffs, Offer};
use crate::host::{Incoming, Taken};
use crate::message::{Answer, Ask, Message, Pass, Witness};
use crate::model::{ClaimId, HostId, MachineId, Time};
use crate::port::{HandoffId, HandoffKey};
use crate::rules::Labels;
use crate::turn::Turn;
use crate::witness::{Claim, Outcome, Refusal, Seat, Witnesses};

/// Another host's labels are written down anew at most so often.
const RELABELLED_EVERY: Duration = Duration::from_secs(10);

/// What a host knows of seats, and what waits for its witnesses.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    witnesses: Witnesses,
    /// When other hosts changed what they say of their labels last.
    relabelled: BTreeMap<HostId, Time>,
    /// What waits for its witnesses.
    reserving: BTreeMap<HandoffKey, Offer>,
}

/// A handoff that all witnesses of its seats are clear about, or that needs none.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) key: HandoffKey,
    pub(super) offer: Offer,
}

impl Seats {
    /// Of this host, which has these labels and has heard of others.
    pub(super) fn new(me: HostId, labels: Labels, known: Acquaintances) -> Self {
        let witnesses = Witnesses::new(me, labels, known);
        Self { witnesses, relabelled: BTreeMap::new(), reserving: BTreeMap::new() }
    }

    /// How many handoffs wait for their witnesses.
    pub(super) fn waiting(&self) -> usize {
        self.reserving.len()
    }

    /// Whether this handoff waits for its witnesses.
    pub(super) fn waits(&self, key: &HandoffKey) -> bool {
        self.reserving.contains_key(key)
    }

    /// Whether a handoff of this id waits for its witnesses.
    pub(super) fn has_known(&self, id: HandoffId) -> bool {
        self.reserving.keys().any(|key| key.id == id)
    }

    /// Whether a machine is about to come here.
    pub(super) fn takes(&self, machine: &MachineId) -> bool {
        self.witnesses.takes(machine)
    }

    /// Every other host that this one has heard of and that was not removed.
    pub(super) fn known_hosts(&self) -> impl Iterator<Item = &HostId> {
        self.witnesses.known_hosts()
    }

    /// These are members now.
    pub(super) fn meet(&mut self, members: &Arc<[HostId]>, turn: &mut Turn<'_>) {
        self.witnesses.meet(members, turn.out);
    }

    /// What was known of a host could not be made durable.
    pub(super) fn not_kept(&mut self) {
        self.witnesses.not_kept();
    }

    /// Target: takes what was agreed on at once where it needs no seat, and asks its witnesses
    /// otherwise.
    pub(super) fn admit(
        &mut self,
        key: HandoffKey,
        offer: Offer,
        pressing: bool,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) -> Option<Admitted> {
        let agreement = &offer.agreement;
        let seats = Seat::needed(&agreement.entry.rules.anti_affinity, self.witnesses.labels());
        if seats.is_empty() {
            return Some(Admitted { key, offer });
        }
        let pressing = pressing || agreement.candidate.mends == Some(true);
        let machine = agreement.candidate.machine.clone();
        let incoming = Incoming {
            machine: machine.clone(),
            name: agreement.candidate.name.clone(),
            dedicated_cpus: agreement.candidate.needs.dedicated_cpus.clone().unwrap_or_default(),
            memory_bytes: agreement.candidate.memory_bytes,
            usage: agreement.candidate.factors,
            rules: agreement.entry.rules.clone(),
        };
        turn.host.holds.incoming.insert(key.clone(), incoming);
        self.reserving.insert(key.clone(), offer);
        let claim = ClaimId(turn.rng.next_u64());
        turn.set_timer(Timer::Witness(claim), turn.now + scene.config.limits.reply_time_max);
        let here = turn.host.here(scene.handoffs.iter());
        let wanted = Claim { handoff: key, machine, seats, pressing };
        let outcome = self.witnesses.claim(claim, wanted, &here, turn.out);
        self.conclude(outcome?, turn)
    }

    /// Tells of this host those that do not know it yet.
    pub(super) fn introduce(&mut self, scene: &Scene, turn: &mut Turn<'_>) {
        let claim = ClaimId(turn.rng.next_u64());
        let here = turn.host.here(scene.handoffs.iter());
        if self.witnesses.introduce(claim, &here, turn.out) {
            turn.set_timer(Timer::Witness(claim), turn.now + scene.config.limits.reply_time_max);
        }
    }

    /// Another host says something about seats.
    pub(super) fn hear(
        &mut self,
        id: ClaimId,
        from: &HostId,
        said: Witness,
        handoffs: &Handoffs,
        turn: &mut Turn<'_>,
    ) -> Option<Admitted> {
        match said {
            Witness::Ask(Ask { labels, .. }) | Witness::Answer(Answer { labels, .. })
                if !self.may_relabel(from, &labels, turn.now) =>
            {
                None
            }
            Witness::Ask(ask) => {
                let here = turn.host.here(handoffs.iter());
                self.witnesses.asked(from, id, ask, &here, turn.out);
                None
            }
            Witness::Answer(answer) => {
                let here = turn.host.here(handoffs.iter());
                let outcome = self.witnesses.answered(from, id, answer, &here, turn.out);
                self.conclude(outcome?, turn)
            }
            // Only the authority removes hosts, and its list says whom: see `Input::Revoked`.
            Witness::Removed(_) => None,
        }
    }

    /// Witnesses of a claim have been silent too long.
    pub(super) fn timer(&mut self, id: ClaimId, turn: &mut Turn<'_>) -> Option<Admitted> {
        let outcome = self.witnesses.expire(id)?;
        self.conclude(outcome, turn)
    }

    /// Whether another host's word that these are its labels is taken in, which is to be written down.
    /// One that changes them again and again is not heard: then nothing is granted to it.
    fn may_relabel(&mut self, from: &HostId, labels: &Labels, now: Time) -> bool {
        if self.witnesses.labels_of(from).is_none_or(|known| known == labels) {
            return true;
        }
        let last = self.relabelled.get(from);
        let may = last.is_none_or(|at| now.since(*at) >= RELABELLED_EVERY);
        if may {
            self.relabelled.retain(|_, at| now.since(*at) < RELABELLED_EVERY);
            self.relabelled.insert(from.clone(), now);
        }
        may
    }

    /// There is no such host. What comes of the claims that have waited for it is to be concluded.
    pub(super) fn forget(&mut self, host: &HostId) -> Vec<Outcome> {
        self.witnesses.forget(host);
        self.witnesses.undelivered(host, "an operator says that there is no such host")
    }

    /// A host was removed, if that is news. What comes of the claims that have waited for it is to be
    /// concluded.
    pub(super) fn remove(&mut self, host: &HostId, turn: &mut Turn<'_>) -> Option<Vec<Outcome>> {
        let news = self.witnesses.remove(host, turn.out);
        news.then(|| self.witnesses.undelivered(host, "it was removed"))
    }

    /// A host cannot be reached. What comes of the claims that have waited for it is to be concluded.
    pub(super) fn undelivered(&mut self, to: &HostId, why: &str) -> Vec<Outcome> {
        self.witnesses.undelivered(to, why)
    }

    /// A claim has ended: what is admitted by that. What is not is refused.
    pub(super) fn conclude(&mut self, outcome: Outcome, turn: &mut Turn<'_>) -> Option<Admitted> {
        let Outcome { handoff: key, result } = outcome;
        let offer = self.reserving.remove(&key)?;
        match result {
            Ok(()) => Some(Admitted { key, offer }),
            Err(refusal) => {
                self.refuse(&key, offer, refusal, turn);
                None
            }
        }
    }

    fn refuse(&self, key: &HandoffKey, offer: Offer, refusal: Refusal, turn: &mut Turn<'_>) {
        let Refusal { reason, detail, taken_by } = refusal;
        turn.host.holds.incoming.remove(key);
        let agreement = offer.agreement;
        if let Some(by) = taken_by {
            let groups = &agreement.entry.rules.anti_affinity;
            for seat in Seat::needed(groups, self.witnesses.labels()) {
                turn.host.holds.taken.insert(seat, Taken { by: by.clone(), at: turn.now });
            }
        }
        let told = Some(detail.clone()).filter(|words| !words.is_empty());
        let refused = Message::Handoff(key.id, Pass::Refused { reason, detail: told });
        turn.tell(&agreement.peer, refused);
        let mut record = agreement.decision;
        (record.ending, record.detail, record.ended) = (reason, detail, turn.now);
        turn.record(record);
    }

    /// The source has given up a handoff that waits for its witnesses.
    pub(super) fn withdraw(&mut self, key: &HandoffKey, turn: &mut Turn<'_>) {
        let Some(offer) = self.reserving.remove(key) else { return };
        self.witnesses.withdraw(key);
        let detail = format!("`{}` did not wait any longer", key.peer);
        self.refuse(key, offer, Refusal::of(Reason::TimedOut, detail), turn);
    }

    /// Refuses whatever waits for its witnesses.
    pub(super) fn refuse_all(&mut self, reason: Reason, turn: &mut Turn<'_>) {
        for (key, offer) in std::mem::take(&mut self.reserving) {
            self.witnesses.withdraw(&key);
            self.refuse(&key, offer, Refusal::of(reason, String::new()), turn);
        }
    }
}

//! How a host sees to rules across a label: as the target of a handoff, and as a witness.

use std::time::Duration;

use rand::Rng;

use super::Balancer;
use crate::decision::Reason;
use crate::effect::{Effect, Timer};
use crate::handoff::Offer;
use crate::host::{Incoming, Taken};
use crate::message::{Answer, Ask, Message, Pass, Witness};
use crate::model::{ClaimId, HostId, Time};
use crate::port::HandoffKey;
use crate::rules::Labels;
use crate::swap::Promise;
use crate::witness::{Claim, Outcome, Refusal, Seat};

/// Another host's labels are written down anew at most so often.
const RELABELLED_EVERY: Duration = Duration::from_secs(10);

impl Balancer {
    /// These are members now.
    pub(super) fn meet(&mut self, members: std::sync::Arc<[HostId]>, out: &mut Vec<Effect>) {
        self.witnesses.meet(&members, out);
        let before = std::mem::replace(&mut self.members, members);
        self.tell_newcomers(&before, out);
    }

    /// Target: takes what was agreed on, once all witnesses of its seats are clear.
    pub(super) fn admit(
        &mut self,
        key: HandoffKey,
        offer: Offer,
        pressing: bool,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        let agreement = &offer.agreement;
        let seats = Seat::needed(&agreement.entry.rules.anti_affinity, self.witnesses.labels());
        if seats.is_empty() {
            return self.accept(&key, offer, now, out);
        }
        let pressing = pressing || agreement.candidate.mends == Some(true);
        let machine = agreement.candidate.machine.clone();
        let incoming = Incoming {
            machine: machine.clone(),
            memory_bytes: agreement.candidate.memory_bytes,
            usage: agreement.candidate.factors,
            rules: agreement.entry.rules.clone(),
        };
        self.host.holds.incoming.insert(key.clone(), incoming);
        self.reserving.insert(key.clone(), offer);
        let claim = ClaimId(rng.next_u64());
        let limit = now + self.config.limits.reply_time_max;
        out.push(Effect::SetTimer(Timer::Witness(claim), limit));
        let here = self.host.here(self.handoffs.iter());
        let wanted = Claim { handoff: key, machine, seats, pressing };
        let outcome = self.witnesses.claim(claim, wanted, &here, out);
        self.concluded(outcome, now, out);
    }

    /// Tells of this host those that do not know it yet.
    pub(super) fn introduce(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        let claim = ClaimId(rng.next_u64());
        let here = self.host.here(self.handoffs.iter());
        if self.witnesses.introduce(claim, &here, out) {
            let limit = now + self.config.limits.reply_time_max;
            out.push(Effect::SetTimer(Timer::Witness(claim), limit));
        }
    }

    fn accept(&mut self, key: &HandoffKey, offer: Offer, now: Time, out: &mut Vec<Effect>) {
        if let Some(promise) = Promise::of(&offer.agreement, key.id) {
            self.promise = Some(promise);
        }
        let uri = self.migration_uri.clone();
        self.hand(now, out, |handoffs, turn| handoffs.take(key.id, offer, uri, turn));
    }

    /// Another host says something about seats.
    pub(super) fn witness(
        &mut self,
        id: ClaimId,
        from: &HostId,
        said: Witness,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        match said {
            Witness::Ask(Ask { labels, .. }) | Witness::Answer(Answer { labels, .. })
                if !self.may_relabel(from, &labels, now) => {}
            Witness::Ask(ask) => {
                let here = self.host.here(self.handoffs.iter());
                self.witnesses.asked(from, id, ask, &here, out);
            }
            Witness::Answer(answer) => {
                let here = self.host.here(self.handoffs.iter());
                let outcome = self.witnesses.answered(from, id, answer, &here, out);
                self.concluded(outcome, now, out);
            }
            // Only the authority removes hosts, and its list says whom: see `Input::Revoked`.
            Witness::Removed(_) => {}
        }
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

    /// Every other host that this one has heard of and that was not removed.
    pub fn known_hosts(&self) -> impl Iterator<Item = &HostId> {
        self.witnesses.known_hosts()
    }

    /// An operator says that there is no such host.
    pub(super) fn forget(&mut self, host: &HostId, now: Time, out: &mut Vec<Effect>) {
        if self.members.binary_search(host).is_ok() {
            return;
        }
        self.witnesses.forget(host);
        for outcome in
            self.witnesses.undelivered(host, "an operator says that there is no such host")
        {
            self.concluded(Some(outcome), now, out);
        }
    }

    /// A claim has ended, if there is an outcome.
    pub(super) fn concluded(&mut self, outcome: Option<Outcome>, now: Time, out: &mut Vec<Effect>) {
        let Some(Outcome { handoff, result }) = outcome else { return };
        let Some(offer) = self.reserving.remove(&handoff) else { return };
        match result {
            Ok(()) => self.accept(&handoff, offer, now, out),
            Err(refusal) => self.refuse(&handoff, offer, refusal, now, out),
        }
    }

    fn refuse(
        &mut self,
        key: &HandoffKey,
        offer: Offer,
        refusal: Refusal,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let Refusal { reason, detail, taken_by } = refusal;
        self.host.holds.incoming.remove(key);
        let agreement = offer.agreement;
        if let Some(by) = taken_by {
            let groups = &agreement.entry.rules.anti_affinity;
            for seat in Seat::needed(groups, self.witnesses.labels()) {
                self.host.holds.taken.insert(seat, Taken { by: by.clone(), at: now });
            }
        }
        let told = Some(detail.clone()).filter(|words| !words.is_empty());
        let refused = Message::Handoff(key.id, Pass::Refused { reason, detail: told });
        out.push(Effect::Send(agreement.peer, refused));
        let mut record = agreement.decision;
        (record.ending, record.detail, record.ended) = (reason, detail, now);
        out.push(Effect::Record(record));
    }

    /// The source has given up a handoff that waits for its witnesses.
    pub(super) fn withdraw(&mut self, key: &HandoffKey, now: Time, out: &mut Vec<Effect>) {
        let Some(offer) = self.reserving.remove(key) else { return };
        self.witnesses.withdraw(key);
        let detail = format!("`{}` did not wait any longer", key.peer);
        self.refuse(key, offer, Refusal::of(Reason::TimedOut, detail), now, out);
    }

    /// Refuses whatever waits for its witnesses.
    pub(super) fn refuse_all(&mut self, reason: Reason, now: Time, out: &mut Vec<Effect>) {
        for (key, offer) in std::mem::take(&mut self.reserving) {
            self.witnesses.withdraw(&key);
            self.refuse(&key, offer, Refusal::of(reason, String::new()), now, out);
        }
    }

    /// An operator has removed a host. Others learn it from the list; earlier versions believe it.
    pub(super) fn remove(&mut self, host: &HostId, now: Time, out: &mut Vec<Effect>) {
        let others = self.members.iter().filter(|m| *m != host && *m != self.host.id());
        let removed = Message::Witness(ClaimId(0), Witness::Removed(host.clone()));
        out.extend(others.map(|other| Effect::Send(other.clone(), removed.clone())));
        self.removed(host, now, out);
    }

    /// A host was removed: it is no witness any more, and nothing comes from it.
    pub(super) fn removed(&mut self, host: &HostId, now: Time, out: &mut Vec<Effect>) {
        if !self.witnesses.remove(host, out) {
            return;
        }
        for outcome in self.witnesses.undelivered(host, "it was removed") {
            self.concluded(Some(outcome), now, out);
        }
        self.hand(now, out, |handoffs, turn| handoffs.removed(host, turn));
    }
}

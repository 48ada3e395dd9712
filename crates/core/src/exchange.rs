//! The conversation of two hosts, from a random choice to an agreement or a reason.
//!
//! ```text
//!            initiator                                 peer
//!     Inquiring ── Inquire ─────────────────────────────▶  its load is lower:  Accept, and forget
//!         │                                                its load is higher: Offer → Offering
//!         ├─ Accept ──▶ Offer → Offering                   otherwise:          Decline, and forget
//!         ├─ Offer  ──▶ Quotes → Quoted
//!         └─ Decline, time-out ──▶ ended
//!
//!     Offering (source)    ── Quotes ──▶ agreed (→ handoff), or Close and ended
//!     Quoted   (target) ── Reserve ─▶ agreed (→ handoff), Close ──▶ ended
//! ```
//!
//! An answer to an inquiry is a statement, not a promise: only an offer engages its target. Every
//! phase has the same limit of time, and every way out of it ends in a [`Decision`].

mod choosing;
mod order;
mod ordered;
mod record;
mod surveyed;
mod verdicts;

pub use ordered::Ordered;
use surveyed::Surveyed;
use verdicts::{apply, judged};

pub use crate::agreement::Agreement;
use crate::ceiling::{Gauge, Measure};
use crate::control::{Authority, Autonomy};
use crate::decision::{Decision, Judged, Reason, Role};
use crate::host::{Giver, Host, Taker, Toward};
use crate::load::{Basis, Unknown};
use crate::message::{Candidate, Quote, Report, Room, Talk};
use crate::model::{Entry, ExchangeId, HostId, HostState, LastMove, MachineId, Time};
use crate::restraint::unwilling;
use crate::select::{Calm, Pair, Price, improves};

/// One conversation with one other host.
#[derive(Clone, Debug)]
pub struct Exchange {
    id: ExchangeId,
    peer: HostId,
    initiator: HostId,
    began: Time,
    phase: Phase,
    /// What loads and prices are of.
    measure: Measure,
    /// On whose word the source gives.
    authority: Authority,
    /// Source, mean-aware: what room the target said it has.
    survey: Option<Box<Surveyed>>,
    /// Source: the machine that an operator has ordered to be moved.
    ordered: Option<Box<Ordered>>,
    /// Source: whether it gives what breaks a rule, whatever the loads.
    mending: bool,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Asked, waits for the answer.
    Inquiring,
    /// Source: offered, waits for quotes.
    Offering(Offering),
    /// Target: quoted, waits for the source's choice.
    Quoted { pair: Pair, judged: Vec<Judged>, offered: Offered, quotes: Vec<Quote> },
}

/// What a source has offered, and what it said of itself.
#[derive(Clone, Debug)]
struct Offering {
    own: Report,
    judged: Vec<Judged>,
    candidates: Vec<Candidate>,
}

/// What a source offers.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Of the source.
    pub report: Report,
    /// What it could give.
    pub candidates: Vec<Candidate>,
    /// What loads and prices are of.
    pub measure: Measure,
    /// How full the source is.
    pub gauge: Option<Gauge>,
    /// On whose word they are to move, where that is not plain from the report.
    pub authority: Option<Authority>,
}

impl Offered {
    /// On whose word they are to move.
    fn authority(&self) -> Authority {
        self.authority.unwrap_or_else(|| self.report.authority())
    }

    /// What counts of the host that gives.
    fn giver(&self) -> Giver<'_> {
        let pressing = self.report.state == HostState::Draining;
        Giver { gauge: self.gauge.as_ref(), pressing, authority: self.authority() }
    }
}

/// What comes of something heard.
#[derive(Debug)]
pub enum Step {
    /// Say this to the peer and go on waiting.
    Say(Exchange, Talk),
    /// It is over. Say this to the peer, if anything.
    End(Option<Talk>, Decision),
    /// Source: ask the target to keep room for the machine.
    Agree(Box<Agreement>),
}

/// Why a host takes no machine on such a word, as far as the other can tell from its report.
fn refusing(receiver: &Report, authority: Authority) -> Option<Reason> {
    let observes = receiver.mode == Some(Autonomy::Observe) && !authority.is_operators();
    let observing = observes && authority > Authority::Observe;
    unwilling(receiver.state).or(observing.then_some(Reason::Observing))
}

impl Exchange {
    /// A conversation in which nothing has been said.
    fn begin(id: ExchangeId, peer: HostId, initiator: HostId, now: Time) -> Self {
        Self {
            id,
            peer,
            initiator,
            began: now,
            phase: Phase::Inquiring,
            measure: None,
            authority: Authority::default(),
            survey: None,
            ordered: None,
            mending: false,
        }
    }

    /// Opens a conversation with `peer`; if `own` says so, because a rule is to be mended here.
    #[must_use]
    pub fn open(id: ExchangeId, peer: HostId, host: &Host, own: Report, now: Time) -> (Self, Talk) {
        let mending = own.mends == Some(true);
        let exchange = Self { mending, ..Self::begin(id, peer, host.id().clone(), now) };
        (exchange, Talk::Inquire(own, None))
    }

    /// Opens a conversation with `peer`, from whom this host would take something because it is below
    /// its fair share.
    #[must_use]
    pub fn ask(
        id: ExchangeId,
        peer: HostId,
        host: &Host,
        (own, room): (Report, Room),
        now: Time,
    ) -> (Self, Talk) {
        let exchange = Self::begin(id, peer, host.id().clone(), now);
        (exchange, Talk::Inquire(own, Some(Box::new(room))))
    }

    /// Opens a conversation with the host that a survey found best: with an offer, since it is known
    /// to have room.
    #[must_use]
    pub fn propose(
        id: ExchangeId,
        to: Taker,
        (measure, mending): (Measure, bool),
        value_max: i32,
        host: &Host,
        now: Time,
    ) -> Step {
        let Taker { peer, report, room } = to;
        let survey = Some(Box::new(Surveyed { room, value_max }));
        let authority = host.authority();
        let begun = Self::begin(id, peer, host.id().clone(), now);
        let exchange = Self { measure, survey, authority, mending, ..begun };
        match host.report(measure, now) {
            Ok(own) => exchange.offer(host, own, report, now),
            Err(unknown) => exchange.unknown(&unknown, host, now),
        }
    }

    /// Opens a conversation with a host that is known to have room for something of this one, which
    /// is being emptied: with an offer.
    #[must_use]
    pub fn give(id: ExchangeId, peer: HostId, theirs: Report, host: &Host, now: Time) -> Step {
        let begun = Self::begin(id, peer, host.id().clone(), now);
        let exchange = Self { authority: host.authority(), ..begun };
        match host.report(None, now) {
            Ok(own) => exchange.offer(host, own, theirs, now),
            Err(unknown) => exchange.unknown(&unknown, host, now),
        }
    }

    /// Answers the inquiry of `from`: with an offer if this host is the more loaded one.
    #[must_use]
    pub fn answer(
        id: ExchangeId,
        from: &HostId,
        (theirs, room): (Report, Option<Room>),
        host: &Host,
        now: Time,
    ) -> Answer {
        let mut exchange = Self::begin(id, from.clone(), from.clone(), now);
        let own = match host.report(None, now) {
            Ok(own) => own,
            Err(unknown) => {
                return exchange.decline(
                    host,
                    Reason::UnknownLoad,
                    unknown.to_string(),
                    None,
                    None,
                    now,
                );
            }
        };
        let emptied = [&own, &theirs]
            .map(|report| report.state == HostState::Draining || report.mends == Some(true));
        let gives = if emptied[0] == emptied[1] { own.load > theirs.load } else { emptied[0] };
        let (pair, role, receiver) = if gives {
            (Pair { donor: own.load, receiver: theirs.load }, Role::Source, theirs)
        } else {
            (Pair { donor: theirs.load, receiver: own.load }, Role::Target, own)
        };
        let known = Some((pair, role));
        let by_loads = emptied == [false, false];
        let lacking = room.filter(|_| gives && by_loads && host.levelling(None).is_some());
        if lacking.is_none() && !pair.exceeds(&host.settings.calm) && by_loads {
            let reason = Reason::WithinDeadBand;
            return exchange.decline(host, reason, String::new(), known, Some(own), now);
        }
        exchange.authority = if gives { own.authority() } else { theirs.authority() };
        let limit = || match lacking {
            Some(_) => host.may_give(now).err(),
            None => host.may(role, exchange.authority, now).err(),
        };
        if let Some(reason) = refusing(&receiver, exchange.authority).or_else(limit) {
            return exchange.decline(host, reason, String::new(), known, Some(own), now);
        }
        if role == Role::Target {
            return Answer::Say(Talk::Accept(own));
        }
        if let Some(room) = lacking {
            let lacking = Taker { peer: from.clone(), report: receiver, room };
            if !host.has_something_for(&lacking, now) {
                let reason = Reason::NotYet;
                return exchange.decline(host, reason, String::new(), known, Some(own), now);
            }
            exchange.survey = Some(Box::new(Surveyed { room: lacking.room, value_max: 0 }));
        }
        match exchange.offer(host, own, receiver, now) {
            Step::Say(exchange, talk) => Answer::Engage(exchange, talk),
            Step::End(_, decision) => {
                let talk = Talk::Decline {
                    reason: decision.ending,
                    detail: String::new(),
                    report: Some(own),
                };
                Answer::Decline(talk, decision)
            }
            Step::Agree(_) => unreachable!("an offer is not an agreement"),
        }
    }

    /// Takes an offer that was not asked for by an inquiry still open here: the answer to an
    /// [`Talk::Accept`] of ours.
    #[must_use]
    pub fn take_offer(
        id: ExchangeId,
        from: &HostId,
        offered: Offered,
        host: &Host,
        now: Time,
    ) -> Step {
        let exchange = Self::begin(id, from.clone(), from.clone(), now);
        exchange.price(offered, host, now)
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> ExchangeId {
        self.id
    }

    /// The other host.
    #[must_use]
    pub const fn peer(&self) -> &HostId {
        &self.peer
    }

    /// Whether this was answered before: a link that breaks at the wrong moment delivers a message
    /// twice.
    #[must_use]
    pub const fn has_answered(&self, talk: &Talk) -> bool {
        matches!(
            (&self.phase, talk),
            (Phase::Offering(_), Talk::Inquire(..) | Talk::Accept(_))
                | (Phase::Quoted { .. }, Talk::Inquire(..) | Talk::Offer { .. })
        )
    }

    /// Goes on with what the peer said.
    #[must_use]
    pub fn hear(self, talk: Talk, host: &Host, now: Time) -> Step {
        match (self.phase.clone(), talk) {
            (Phase::Inquiring, Talk::Accept(theirs)) => self.accepted(theirs, host, now),
            (Phase::Inquiring, Talk::Offer { report, candidates, measure, gauge, authority }) => {
                let offered = Offered { report, candidates, measure, gauge, authority };
                self.price(offered, host, now)
            }
            (Phase::Offering(offering), Talk::Quotes { report, quotes })
                if quotes.len() == offering.candidates.len() =>
            {
                self.choose(offering, &report, &quotes, host, now)
            }
            (Phase::Quoted { .. }, Talk::Close { reason, verdicts }) => {
                let mut decision = self.record(host, reason, String::new(), now);
                apply(&mut decision.candidates, &verdicts);
                Step::End(None, decision)
            }
            (_, Talk::Decline { reason, detail, report }) => {
                let mut decision = self.record(host, reason, detail, now);
                if let (Some(theirs), Ok(own), None) = (report, host.load(now), decision.pair) {
                    let (pair, role) = ordered(own, theirs.load);
                    decision.pair = Some(pair);
                    decision.role = Some(role);
                }
                Step::End(None, decision)
            }
            (_, said) => {
                let detail = format!("`{}` said {} out of turn", self.peer, name_of(&said));
                let close = Talk::Close { reason: Reason::Protocol, verdicts: Vec::new() };
                Step::End(Some(close), self.record(host, Reason::Protocol, detail, now))
            }
        }
    }

    /// Target: whether soft rules yield to what makes the source give.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        let Phase::Quoted { offered, .. } = &self.phase else { return false };
        offered.giver().pressing || self.measure.is_some() || self.authority == Authority::Told
    }

    /// Target: the source has chosen. Checks the choice and agrees, or refuses.
    ///
    /// # Errors
    /// The record of the exchange, ended with the reason for refusing.
    pub fn reserve(
        self,
        machine: &MachineId,
        entry: Entry,
        verdicts: Vec<Reason>,
        in_return: Option<&MachineId>,
        host: &Host,
        now: Time,
    ) -> Result<Box<Agreement>, Box<Decision>> {
        let mut decision = self.record(host, Reason::Protocol, String::new(), now);
        let Phase::Quoted { pair, offered, quotes, .. } = self.phase else {
            decision.detail = format!("`{}` reserved without an offer", self.peer);
            return Err(Box::new(decision));
        };
        apply(&mut decision.candidates, &verdicts);
        let (candidates, measure) = (&offered.candidates, self.measure);
        let Some(index) = candidates.iter().position(|c| c.machine == *machine) else {
            decision.detail =
                format!("`{}` reserved for `{machine}`, which it did not offer", self.peer);
            return Err(Box::new(decision));
        };
        let candidate = &candidates[index];
        // What will be here is what its entry says.
        let candidate = &Candidate { rules: Some(entry.rules.clone()), ..candidate.clone() };
        let authority = self.authority;
        let quote = host.quote(measure, candidate, offered.giver(), now);
        let price = Price { at_donor: candidate.at_donor, at_receiver: quotes[index].at_receiver };
        let (peer, protocol) = (&self.peer, offered.report.protocol);
        let toward = Toward { peer, protocol, labels: None, mending: false, authority };
        let returned = in_return.and_then(|id| host.candidate(measure, id, &toward, now));
        let willing = host.takes(authority, now).err();
        let emptied = offered.report.state == HostState::Draining;
        let kept = match &returned {
            // Loads do not matter.
            None if authority == Authority::Told => None,
            // A host that is being emptied gives whatever there is room for, and a rule weighs more
            // than loads.
            None if in_return.is_none() && (emptied || candidate.mends.is_some()) => None,
            // What the other loads the source only the source knows; this side must end below it.
            Some(back) if pair.receiver + price.at_receiver - back.at_donor < pair.donor => None,
            None if in_return.is_none() => improves(&pair, price, &Calm::NONE).err(),
            _ => Some(Reason::NoImprovement),
        };
        if let Some(back) = &returned {
            decision.candidates.push(judged(back, None, Reason::Returned));
        }
        // The source's own calm may be another; that the pair ends closer together must hold for both.
        if let Some(reason) = quote.refusal.or(kept).or(willing) {
            decision.ending = reason;
            decision.detail = quote.detail.unwrap_or_default();
            return Err(Box::new(decision));
        }
        decision.predicted = candidate.cost;
        Ok(Box::new(Agreement {
            exchange: self.id,
            peer: self.peer,
            candidate: candidate.clone(),
            at_receiver: host.price(None, &candidate.factors),
            entry,
            verdicts,
            decision,
            in_return: returned,
        }))
    }

    /// Ends it from outside: the peer is silent or cannot be reached, or this host stops.
    #[must_use]
    pub fn abandon(self, host: &Host, reason: Reason, detail: String, now: Time) -> Decision {
        self.record(host, reason, detail, now)
    }

    /// Ends it, because this host does not know its load.
    fn unknown(&self, unknown: &Unknown, host: &Host, now: Time) -> Step {
        let detail = unknown.to_string();
        Step::End(None, self.record(host, Reason::UnknownLoad, detail, now))
    }

    fn accepted(self, theirs: Report, host: &Host, now: Time) -> Step {
        let own = match host.report(None, now) {
            Ok(own) => own,
            Err(unknown) => return self.unknown(&unknown, host, now),
        };
        let pair = Pair { donor: own.load, receiver: theirs.load };
        let urgent = own.state == HostState::Draining || self.mending;
        let is_calm = !pair.exceeds(&host.settings.calm) && !urgent;
        let calm = is_calm.then_some(Reason::WithinDeadBand);
        let authority = host.authority();
        let limit = || host.may(Role::Source, authority, now).err();
        if let Some(reason) = calm.or_else(|| refusing(&theirs, authority)).or_else(limit) {
            let mut record = self.record(host, reason, String::new(), now);
            (record.pair, record.role) = (Some(pair), Some(Role::Source));
            return Step::End(None, record);
        }
        Self { authority, ..self }.offer(host, own, theirs, now)
    }

    /// Source: offers what could go, if anything.
    fn offer(mut self, host: &Host, own: Report, theirs: Report, now: Time) -> Step {
        let pair = Pair { donor: own.load, receiver: theirs.load };
        let measure = self.measure;
        let toward = self.toward(&theirs);
        let (judged, candidates) = host.candidates(measure, &toward, &pair, now);
        let nothing = candidates.is_empty();
        let gauge = host.gauge(now);
        let authority = Some(self.authority).filter(|word| *word != own.authority());
        let candidates_said = candidates.clone();
        let talk =
            Talk::Offer { report: own, candidates: candidates_said, measure, gauge, authority };
        self.phase = Phase::Offering(Offering { own, judged, candidates });
        if nothing {
            let mut record = self.record(host, Reason::NoCandidate, String::new(), now);
            record.pair = Some(pair);
            return Step::End(None, record);
        }
        Step::Say(self, talk)
    }

    /// Target: prices what is offered by its own capacity and weights (claims 8, 20, 31).
    fn price(mut self, offered: Offered, host: &Host, now: Time) -> Step {
        (self.measure, self.authority) = (offered.measure, offered.authority());
        let refuse = |exchange: Self, reason: Reason, detail: String, report: Option<Report>| {
            let talk = Talk::Decline { reason, detail: detail.clone(), report };
            Step::End(Some(talk), exchange.record(host, reason, detail, now))
        };
        let own = match host.report(self.measure, now) {
            Ok(own) => own,
            Err(unknown) => return refuse(self, Reason::UnknownLoad, unknown.to_string(), None),
        };
        if let Err(reason) = host.takes(self.authority, now) {
            return refuse(self, reason, String::new(), Some(own));
        }
        let (candidates, giver) = (&offered.candidates, offered.giver());
        let quote = |c: &Candidate| host.quote(self.measure, c, giver, now);
        let quotes: Vec<_> = candidates.iter().map(quote).collect();
        let judged = candidates.iter().zip(&quotes).map(|(candidate, quote)| Judged {
            machine: candidate.machine.clone(),
            name: candidate.name.clone(),
            basis: Some(candidate.basis),
            factors: Some(candidate.factors),
            at_donor: Some(candidate.at_donor),
            at_receiver: Some(quote.at_receiver),
            verdict: quote.refusal.unwrap_or(Reason::Farther),
            detail: quote.detail.clone().unwrap_or_default(),
        });
        let judged = judged.collect();
        let pair = Pair { donor: offered.report.load, receiver: own.load };
        let talk = Talk::Quotes { report: own, quotes: quotes.clone() };
        self.phase = Phase::Quoted { pair, judged, offered, quotes };
        Step::Say(self, talk)
    }

    /// Whom the machines of this host would go to.
    const fn toward(&self, theirs: &Report) -> Toward<'_> {
        let Self { peer, mending, authority, .. } = self;
        Toward {
            peer,
            protocol: theirs.protocol,
            labels: None,
            mending: *mending,
            authority: *authority,
        }
    }

    fn decline(
        self,
        host: &Host,
        reason: Reason,
        detail: String,
        known: Option<(Pair, Role)>,
        report: Option<Report>,
        now: Time,
    ) -> Answer {
        let talk = Talk::Decline { reason: reason.told(), detail: detail.clone(), report };
        let mut decision = self.record(host, reason, detail, now);
        if let Some((pair, role)) = known {
            (decision.pair, decision.role) = (Some(pair), Some(role));
        }
        Answer::Decline(talk, decision)
    }
}

/// How a host answers an inquiry.
#[derive(Debug)]
pub enum Answer {
    /// Say this and forget.
    Say(Talk),
    /// Say this and wait.
    Engage(Exchange, Talk),
    /// Say no, and keep the record.
    Decline(Talk, Decision),
}

/// The schedule entry of a machine of this host, as it will read on the target: a target load is
/// restated as the share that it is there. Where only entries move, it remembers where its memory
/// is, until it is back there.
pub(crate) fn entry_there(
    host: &Host,
    peer: &HostId,
    candidate: &Candidate,
    at_receiver: f64,
    now: Time,
) -> Option<Entry> {
    let entry = host.view.machines().get(&candidate.machine)?.entry()?;
    let from = host.origin(entry).unwrap_or(host.id());
    let home = host.settings.tentative && from == peer;
    Some(Entry {
        epoch: entry.epoch.next(),
        target_load: (candidate.basis == Basis::Target).then_some(at_receiver),
        rules: entry.rules.clone(),
        last_move: (!home).then(|| LastMove {
            at: now,
            from: from.clone(),
            moves: Some(host.moves_with(entry.last_move.as_ref(), now)),
            cost_percent: percent(host.correction(&candidate.machine, entry)),
            others: None,
        }),
        handoff: None,
    })
}

/// A correction as it is written to an entry; nothing where there is none.
fn percent(correction: f64) -> Option<u32> {
    let percent = (correction * 100.0).round() as u32;
    (percent != 100).then_some(percent)
}

fn ordered(own: f64, theirs: f64) -> (Pair, Role) {
    if own > theirs {
        (Pair { donor: own, receiver: theirs }, Role::Source)
    } else {
        (Pair { donor: theirs, receiver: own }, Role::Target)
    }
}

const fn name_of(talk: &Talk) -> &'static str {
    match talk {
        Talk::Inquire(..) => "Inquire",
        Talk::Accept(_) => "Accept",
        Talk::Decline { .. } => "Decline",
        Talk::Offer { .. } => "Offer",
        Talk::Quotes { .. } => "Quotes",
        Talk::Close { .. } => "Close",
        Talk::Probe(_) => "Probe",
        Talk::Standing(_) => "Standing",
        Talk::Appraise(_) => "Appraise",
        Talk::Appraisal(_) => "Appraisal",
    }
}

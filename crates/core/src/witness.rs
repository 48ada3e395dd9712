//! Rules across a label: at most one machine of a group among all hosts that have the same value of
//! it, however many pairs act at once, and without anybody in the middle.
//!
//! A machine whose rules name `web@rack` needs a [`Seat`]: `web` in the rack of the host that is to
//! take it. That host, and nobody else, sees to it:
//!
//! ```text
//!  claimant                                   every witness
//!     │ raises its own flag for the seat
//!     │ ── Ask(machine, seats, own labels) ────▶ │  writes down that it knows the claimant
//!     │ ◀──────── Answer(verdict, own labels) ── │  clear, unless it holds the seat or has its
//!     │                                          │  own flag raised, or has not been measured
//!     │ all are clear: the handoff is written down, and holds the seat until it is over
//!     │ otherwise, or if one is silent: refuses, and lowers its flag
//! ```
//!
//! **Witnesses** are all hosts that this one has ever known of and that have, or may have, the same
//! value of the label. Who was known once is never forgotten, unless an operator removes it, and
//! neither is what it said its labels are. Before a host claims anything, it has moreover told its
//! labels to *every* host that it knows, and been answered by each with the hosts that *that* one
//! knows (as soon as rules across a label are in use at all). Both are done once and written down, so that later only the witnesses are asked: two messages
//! to and from each.
//!
//! # Why no two machines ever share a seat
//!
//! A host *occupies* a seat for a machine from when it raises its flag until the machine is not there
//! any more or its handoff is over: first by the flag, then by the durable record of the handoff, then
//! by the machine. Three things make that interval one without gaps:
//!
//! - A flag that is lost in a crash was for nothing: the claim has a number drawn at random, answers
//!   to a forgotten one count for nothing, and nothing was promised.
//! - The record is durable before the source is answered, and is taken up before anything is heard;
//!   it ends by the source's word, or once the machine is counted here, never by time alone.
//! - A host that has not been measured since its agent was started, or since its schedule changed,
//!   does not know what it holds and says that it is not clear.
//!
//! Assume that two hosts occupy one seat for different machines at some moment, both having been
//! granted it. Of the two let the *later* be the one that raised its flag last. It asked after that.
//! If it asked the *earlier*, that one occupied the seat from before the question until the moment
//! assumed, and was not clear. So the later did not know the earlier while it claimed. But:
//!
//! - The earlier, before it was granted its seat, told the later of itself, or else did not know it.
//!   If it told after the later's flag was raised, the question that came with it was answered *not
//!   clear*; if before, the later knew it. Hence neither knew the other.
//! - Both have told some third host of themselves (that two halves of a cluster have never heard of
//!   each other is what a cluster is not). Whichever told it last was answered with the other's name
//!   and had to ask it, too, before it was granted anything. ∎
//!
//! Messages may be lost, repeated, late and in any order: a lost one refuses, a repeated one says the
//! same of a later moment, and what is late counts only for the claim that it belongs to. A host that
//! is cut off or dead is silent, and so it refuses: nothing here ever takes silence for consent. A
//! machine that goes from one host of the rack to another is the same machine on both.
//!
//! **Progress.** Two claimants that see each other's flags both refuse. Their donors try again at
//! rounds that are drawn at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use crate::acquaintance::{Acquaintance, Acquaintances};

use crate::decision::Reason;
use crate::effect::Effect;
use crate::message::{Answer, Ask, Message, Verdict, Witness};
pub use crate::model::Seat;
use crate::model::{ClaimId, Group, HandoffKey, HostId, MachineId};
use crate::rules::Labels;

use crate::acquaintance::Known;

/// What a host holds at the moment, as far as it counts.
#[derive(Clone, Debug)]
pub struct Here<'a> {
    /// Whether it knows what runs on it.
    pub is_measured: bool,
    /// Machines on it, on their way to it or not yet gone, with the groups that they keep apart.
    pub machines: Vec<(&'a MachineId, &'a [Group])>,
}

/// A claim to seats: while it is open, a flag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The handoff that it is for.
    pub handoff: HandoffKey,
    /// The machine.
    pub machine: MachineId,
    /// The seats that it needs here.
    pub seats: Vec<Seat>,
    /// Whether wishes yield to what makes the machine move.
    pub pressing: bool,
}

/// A question that is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    /// The claim that it is for; without one this host only tells others of itself.
    claim: Option<Claim>,
    /// Who has been asked and not answered.
    silent: BTreeSet<HostId>,
    answered: BTreeSet<HostId>,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The handoff that it was for.
    pub handoff: HandoffKey,
    /// The seat is this host's, or why not.
    pub result: Result<(), Refusal>,
}

/// Why a claim was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Who, in words.
    pub detail: String,
    /// The machine that has the seat already, if one has.
    pub taken_by: Option<MachineId>,
}

/// A host's flags, and what it knows of its witnesses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Witnesses {
    known: Known,
    claims: BTreeMap<ClaimId, Open>,
    /// Whether any host of the cluster was seen to have use for it.
    in_use: bool,
}

impl Witnesses {
    /// A host with these labels, with what it has written down.
    #[must_use]
    pub fn new(me: HostId, labels: Labels, recovered: Acquaintances) -> Self {
        Self { known: Known::new(me, labels, recovered), claims: BTreeMap::new(), in_use: false }
    }

    /// The labels of this host.
    #[must_use]
    pub const fn labels(&self) -> &Labels {
        &self.known.labels
    }

    /// These are members now. Whoever was one stays known.
    pub fn meet(&mut self, members: &Arc<[HostId]>, out: &mut Vec<Effect>) {
        out.extend(self.known.meet(members).into_iter().map(Effect::Acquaint));
    }

    /// An operator has removed a host from the cluster. Answers whether that is news.
    pub fn remove(&mut self, host: &HostId, out: &mut Vec<Effect>) -> bool {
        let removed = self.known.remove(host);
        let is_news = removed.is_some();
        out.extend(removed.map(Effect::Acquaint));
        is_news
    }

    /// Forgets a name, of which an operator says that no host has it.
    pub fn forget(&mut self, host: &HostId) {
        self.known.forget(host);
    }

    /// Every other host that this one knows.
    pub fn known_hosts(&self) -> impl Iterator<Item = &HostId> {
        self.known.hosts().filter(|host| **host != self.known.me)
    }

    /// The labels that another host has told, as they are written down.
    #[must_use]
    pub fn labels_of(&self, host: &HostId) -> Option<&Labels> {
        self.known.labels_of(host)
    }

    /// What was to be written down about a host could not be, nor what was to be done after that.
    pub fn not_kept(&mut self) {
        self.known.not_kept();
    }

    /// Whether a claim is open by which a machine would come here.
    #[must_use]
    pub fn takes(&self, machine: &MachineId) -> bool {
        self.flags().any(|claim| claim.machine == *machine)
    }

    /// Begins a claim: raises the flag and asks. Answers what came of it, if that is known at once.
    pub fn claim(
        &mut self,
        id: ClaimId,
        claim: Claim,
        here: &Here<'_>,
        out: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        self.open(id, Some(claim), here, out)
    }

    /// Tells those of this host that do not know it yet, if rules across a label are in use: then a
    /// claim need not wait for all of them. Answers whether there are any.
    pub fn introduce(&mut self, id: ClaimId, here: &Here<'_>, out: &mut Vec<Effect>) -> bool {
        let is_other = |host: &&HostId| **host != self.known.me && self.known.is_stranger(host);
        let needed = self.in_use && self.known.hosts().any(|host| is_other(&host));
        if needed {
            self.open(id, None, here, out);
        }
        needed
    }

    fn open(
        &mut self,
        id: ClaimId,
        claim: Option<Claim>,
        here: &Here<'_>,
        out: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let (silent, answered) = (BTreeSet::new(), BTreeSet::new());
        self.in_use = true;
        self.claims.insert(id, Open { claim, silent, answered });
        self.advance(id, here, out)
    }

    /// The flags that are raised here.
    fn flags(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values().filter_map(|open| open.claim.as_ref())
    }

    /// Asks whoever is still to be asked; ends the claim if nobody is.
    fn advance(&mut self, id: ClaimId, here: &Here<'_>, out: &mut Vec<Effect>) -> Option<Outcome> {
        let Open { claim, answered, .. } =
            self.claims.get(&id).filter(|open| open.silent.is_empty())?;
        let (machine, seats) = match claim {
            Some(claim) => (Some(&claim.machine), claim.seats.as_slice()),
            None => (None, [].as_slice()),
        };
        let own = self.verdict(machine, seats, here);
        if let Some(refusal) = claim.as_ref().and_then(|c| c.refusal(&own, &self.known.me)) {
            return self.end(id, Err(refusal));
        }
        let is_asked = |host: &&HostId| {
            **host != self.known.me
                && !answered.contains(*host)
                && (self.known.is_stranger(host)
                    || claim.is_some() && self.known.may_be_at(host, seats))
        };
        let silent: BTreeSet<HostId> = self.known.hosts().filter(is_asked).cloned().collect();
        let ask = Ask {
            machine: machine.cloned(),
            seats: seats.to_vec(),
            labels: self.known.labels.clone(),
            known: self.known.digest(),
        };
        let unkept = self.known.retry();
        if !unkept.is_empty() {
            out.extend(unkept.into_iter().map(Effect::Acquaint));
            let detail = "this host could not write down whom it knows".to_owned();
            return self.end(id, Err(Refusal::of(Reason::StoreFailed, detail)));
        }
        if silent.is_empty() {
            return self.end(id, Ok(()));
        }
        let message = Message::Witness(id, Witness::Ask(ask));
        out.extend(silent.iter().map(|host| Effect::Send(host.clone(), message.clone())));
        self.claims.get_mut(&id)?.silent = silent;
        None
    }

    fn end(&mut self, id: ClaimId, result: Result<(), Refusal>) -> Option<Outcome> {
        let claim = self.claims.remove(&id)?.claim?;
        Some(Outcome { handoff: claim.handoff, result })
    }

    /// What this host says of seats that another machine than this one has, or may have.
    fn verdict(&self, machine: Option<&MachineId>, seats: &[Seat], here: &Here<'_>) -> Verdict {
        let seats: Vec<_> = seats.iter().filter(|s| s.is_on(&self.known.labels)).collect();
        if seats.is_empty() {
            return Verdict::Clear;
        }
        let clash = |groups: &[Group]| {
            let pairs = seats.iter().flat_map(|s| groups.iter().map(move |g| (&s.group, g)));
            let hard = pairs.filter(|(a, b)| a.is(b)).map(|(a, b)| !a.is_soft() || !b.is_soft());
            hard.max()
        };
        let others = here.machines.iter().filter(|(id, _)| Some(*id) != machine);
        let taken = others.filter_map(|(id, groups)| {
            Some(Verdict::Taken { by: (*id).clone(), hard: clash(groups)? })
        });
        let flags = self.flags().filter(|claim| Some(&claim.machine) != machine);
        let claimed = flags.filter_map(|c| {
            let groups: Vec<_> = c.seats.iter().map(|s| s.group.clone()).collect();
            Some(Verdict::Claimed { by: c.machine.clone(), hard: clash(&groups)? })
        });
        let unsure = (!here.is_measured).then_some(Verdict::Unsure);
        let worst = taken.chain(claimed).chain(unsure).max_by_key(Verdict::weight);
        worst.unwrap_or(Verdict::Clear)
    }

    /// Another host asks.
    pub fn asked(
        &mut self,
        from: &HostId,
        id: ClaimId,
        ask: Ask,
        here: &Here<'_>,
        out: &mut Vec<Effect>,
    ) {
        if self.known.is_removed(from) {
            return;
        }
        // Before the answer, by which the other host takes itself for known here.
        out.extend(self.known.heard(from, ask.labels, false).map(Effect::Acquaint));
        let (hosts, removed) = if ask.known == self.known.digest() {
            (Vec::new(), Vec::new())
        } else {
            (self.known.hosts().cloned().collect(), self.known.removed())
        };
        let verdict = self.verdict(ask.machine.as_ref(), &ask.seats, here);
        self.in_use = true;
        let labels = self.known.labels.clone();
        let answer = Answer { verdict, labels, hosts, removed };
        out.push(Effect::Send(from.clone(), Message::Witness(id, Witness::Answer(answer))));
    }

    /// A witness has answered. Answers what came of the claim, if that is known now.
    pub fn answered(
        &mut self,
        from: &HostId,
        id: ClaimId,
        answer: Answer,
        here: &Here<'_>,
        out: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let open = self.claims.get_mut(&id)?;
        if !open.silent.remove(from) {
            return None;
        }
        open.answered.insert(from.clone());
        let refusal = open.claim.as_ref().and_then(|claim| claim.refusal(&answer.verdict, from));
        // Whom it knows comes before that it was asked: who is not asked again must not be missed.
        // Whom it says to be removed, it may name to have a witness left out: only the authority's list
        // counts, and that is the driver's to read.
        let told_of = self.known.told_of(answer.hosts);
        let heard = self.known.heard(from, answer.labels, true);
        out.extend(told_of.into_iter().chain(heard).map(Effect::Acquaint));
        match refusal {
            Some(refusal) => self.end(id, Err(refusal)),
            None => self.advance(id, here, out),
        }
    }

    /// A claim has waited for as long as it may.
    pub fn expire(&mut self, id: ClaimId) -> Option<Outcome> {
        let silent = &self.claims.get(&id)?.silent;
        let first = silent.first().map(ToString::to_string).unwrap_or_default();
        let more = silent.len().saturating_sub(1);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let detail = format!("`{first}`{more} did not answer");
        self.end(id, Err(Refusal::of(Reason::WitnessSilent, detail)))
    }

    /// A host could not be reached. Answers what claims that ends.
    pub fn undelivered(&mut self, to: &HostId, why: &str) -> Vec<Outcome> {
        let waits = |(id, open): (&ClaimId, &Open)| open.silent.contains(to).then_some(*id);
        let ids: Vec<_> = self.claims.iter().filter_map(waits).collect();
        let detail = format!("`{to}` is not reached: {why}");
        let refusal = Refusal::of(Reason::WitnessSilent, detail);
        ids.into_iter().filter_map(|id| self.end(id, Err(refusal.clone()))).collect()
    }

    /// Lowers the flag of a handoff that is not to be.
    pub fn withdraw(&mut self, handoff: &HandoffKey) {
        let other = |open: &Open| open.claim.as_ref().is_none_or(|c| c.handoff != *handoff);
        self.claims.retain(|_, open| other(open));
    }
}

impl Claim {
    /// Why the verdict of `from` ends it, if it does.
    fn refusal(&self, verdict: &Verdict, from: &HostId) -> Option<Refusal> {
        let (reason, why) = match verdict {
            Verdict::Clear => return None,
            Verdict::Taken { hard, .. } | Verdict::Claimed { hard, .. }
                if !hard && self.pressing =>
            {
                return None;
            }
            Verdict::Taken { by, .. } => {
                (Reason::RuleAcross, format!("`{from}` has `{by}` of the same group"))
            }
            Verdict::Claimed { by, .. } => {
                (Reason::RuleAcross, format!("`{from}` is about to take `{by}` of the same group"))
            }
            Verdict::Unsure => {
                (Reason::WitnessUnsure, format!("`{from}` does not know yet what it runs"))
            }
        };
        let taken_by = match verdict {
            Verdict::Taken { by, .. } => Some(by.clone()),
            _ => None,
        };
        Some(Refusal { reason, detail: why, taken_by })
    }
}

impl Refusal {
    pub(crate) const fn of(reason: Reason, detail: String) -> Self {
        Self { reason, detail, taken_by: None }
    }
}

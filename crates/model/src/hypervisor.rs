//! What libvirt does on a host, as far as the handoff can tell.

use evenkeel_core::handoff::Handoffs;
use evenkeel_core::model::HandoffId;
use evenkeel_core::port::{Commit, FailureKind, Migration, Order, Presence, Sight, Stamp};

use crate::node::Node;
use crate::node::{Answer, host, index};
use crate::world::{Broken, Sabotage, State, World};

/// A copy of the machine on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Copy {
    /// How it is, whatever migration is under way.
    pub presence: Presence,
    /// Which one it is.
    pub stamp: Stamp,
    /// Whether its host starts it at boot.
    pub autostart: bool,
    /// The host that it came from.
    pub from: Option<usize>,
    /// How often a copy had been let run beside another one when this memory was taken.
    pub age: u8,
}

impl Copy {
    /// Whether its virtual CPUs run.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.presence, Presence::Running | Presence::Leaving)
    }

    /// Whether it holds the machine's memory, all of it.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.presence.is_resident() && !matches!(self.presence, Presence::Incoming)
    }

    const fn sight(&self) -> Sight {
        Sight::new(self.presence, self.stamp)
    }
}

/// A migration under way, at its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// The handoff that ordered it.
    pub handoff: HandoffId,
    /// The host that it goes to.
    pub to: usize,
    /// Whether what arrives runs at once.
    pub commit: Commit,
    /// The start of the agent that ordered it: a later one is not answered.
    pub start: u32,
    /// How far it is.
    pub stage: Stage,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The machine runs at the source.
    Sending,
    /// It is paused at the source, and the copy at the target is complete.
    Complete,
    /// The same, and the source's hypervisor has been told so: it does not let it run on any more.
    Told,
    /// What ran it at the source has ended, and how the migration will have.
    Gone(Outcome),
}

/// How a migration ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Well.
    Moved,
    /// It failed, and the machine runs on at the source.
    Failed,
    /// It moved, and the answer was lost.
    ReplyLost,
    /// The source could not learn how it ended and lets the machine run on, while the copy that has
    /// arrived is complete.
    Both,
    /// The source does not know how it ended and leaves it paused; the copy there is complete.
    Stranded,
    /// The same, and nothing has arrived.
    StrandedAlone,
    /// What ran it at the source ended by itself when the copy was complete, or libvirt died before it
    /// had cleared up: the definition is left.
    DefinitionLeft,
    /// The guest ended on the way.
    GuestEnded,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Moved,
        Self::Failed,
        Self::ReplyLost,
        Self::Both,
        Self::Stranded,
        Self::StrandedAlone,
        Self::DefinitionLeft,
        Self::GuestEnded,
    ];

    /// Whether it ends what ran the machine at the source.
    const fn is_the_end(self) -> bool {
        matches!(self, Self::Moved | Self::ReplyLost | Self::DefinitionLeft | Self::GuestEnded)
    }

    /// Whether a migration that is so far can still end so.
    const fn can_follow(self, stage: Stage) -> bool {
        match (stage, self) {
            (Stage::Gone(outcome), _) => outcome as u8 == self as u8,
            (Stage::Sending, Self::Failed | Self::StrandedAlone | Self::GuestEnded) => true,
            (Stage::Complete, Self::Failed | Self::StrandedAlone | Self::GuestEnded) => false,
            (Stage::Told, outcome) => {
                matches!(
                    outcome,
                    Self::Moved | Self::ReplyLost | Self::Stranded | Self::DefinitionLeft
                )
            }
            (Stage::Sending, _) => false,
            (Stage::Complete, _) => true,
        }
    }
}

impl Job {
    /// What can come next of it.
    pub(crate) fn next(&self, faults_left: bool, carried: bool) -> impl Iterator<Item = Step> {
        let stage = self.stage;
        let may = move |o: &Outcome| {
            o.can_follow(stage) && (*o == Outcome::Moved || stage == Stage::Gone(*o) || faults_left)
        };
        let ends = Outcome::ALL.into_iter().filter(may).map(move |outcome| {
            if outcome.is_the_end() && stage != Stage::Gone(outcome) {
                Step::EmulatorEnds(outcome)
            } else {
                Step::Over(outcome)
            }
        });
        let told = carried && stage == Stage::Complete;
        ends.chain((stage == Stage::Sending).then_some(Step::Completes))
            .chain(told.then_some(Step::FinishPasses))
    }
}

/// What happens in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The machine is paused here, and complete there.
    Completes,
    /// That it is complete there has been told here, through the agent.
    FinishPasses,
    /// What ran it here ends.
    EmulatorEnds(Outcome),
    /// libvirt answers.
    Over(Outcome),
}

impl World {
    /// What the hypervisor does with an order.
    pub(crate) fn order(&self, state: &mut State, me: usize, order: Order) {
        let found = state.nodes[me].copy;
        let answer = match order {
            Order::Migrate(migration) => match self.begin_job(state, me, &migration) {
                Some(()) => return,
                None => Answer::Migrated(migration.handoff, false),
            },
            Order::Abort(_) => {
                if state.nodes[me].job.is_some_and(|job| job.stage == Stage::Sending) {
                    self.settle_job(state, me, Outcome::Failed);
                }
                return;
            }
            Order::Look(_, look) => {
                let seen = found.map(|copy| self.seen(&state.nodes[me], &copy));
                Answer::Looked(look, seen.unwrap_or_default())
            }
            Order::Resume(_, stamp) => Answer::Resumed(resume(state, me, stamp)),
            Order::Discard(_, stamp) => Answer::Discarded(self.discard(state, me, stamp)),
            Order::Start(_, stamp) => Answer::Started(start(state, me, stamp)),
            Order::SetAutostart(_, wanted) => Answer::AutostartSet(
                wanted,
                match found {
                    None => Err(FailureKind::NoSuchMachine),
                    Some(_) if self.0.sabotage == Sabotage::Autostart => Ok(()),
                    Some(copy) => {
                        state.nodes[me].copy = Some(Copy { autostart: wanted, ..copy });
                        Ok(())
                    }
                },
            ),
            // The machine of this model needs nothing that could be examined.
            Order::Sample | Order::WriteEntry(..) | Order::Examine(_) => return,
        };
        state.nodes[me].tell(answer);
    }

    /// What a look tells of a copy on this host.
    fn seen(&self, node: &Node, copy: &Copy) -> Sight {
        let mut peers = node.agent.iter().flat_map(Handoffs::iter).map(|h| index(&h.peer));
        let on_record = peers.any(|peer| Some(peer) == copy.from);
        let named = self.0.sabotage == Sabotage::Named && !on_record;
        let from = if named { Some(self.liar()) } else { copy.from };
        let left = self.0.sabotage == Sabotage::Unproved && copy.presence == Presence::Defined;
        Sight { from: from.map(host), left, ..copy.sight() }
    }

    fn begin_job(&self, state: &mut State, me: usize, migration: &Migration) -> Option<()> {
        let to = index(&migration.to);
        let copy = state.nodes[me].copy.filter(|c| c.presence == Presence::Running)?;
        let resident = state.nodes[to].copy.is_some_and(|c| c.presence.is_resident());
        if resident || !state.nodes[to].powered {
            return None;
        }
        let stamp = Stamp::of(&migration.entry);
        let (from, age) = (Some(me), copy.age);
        let arriving = Copy { presence: Presence::Incoming, stamp, autostart: false, from, age };
        state.nodes[to].copy = Some(arriving);
        let (handoff, commit) = (migration.handoff, migration.commit);
        let start = state.nodes[me].starts;
        let stage = Stage::Sending;
        state.nodes[me].job = Some(Job { handoff, to, commit, start, stage });
        state.nodes[me].copy = Some(Copy { presence: Presence::Leaving, ..copy });
        if self.0.sabotage == Sabotage::GoneTooSoon {
            state.nodes[me].tell(Answer::EmulatorGone(handoff));
        }
        Some(())
    }

    pub(crate) fn advance_job(&self, state: &mut State, at: usize, step: Step) -> Option<()> {
        let job = state.nodes[at].job?;
        let stage = match step {
            Step::Completes => {
                let presence = match job.commit {
                    Commit::Fast => Presence::Running,
                    Commit::Strict => Presence::Held,
                };
                let there = &mut state.nodes[job.to].copy;
                *there = there.map(|copy| Copy { presence, ..copy });
                Stage::Complete
            }
            Step::FinishPasses => {
                if job.start == state.nodes[at].starts {
                    state.nodes[at].tell(Answer::FinishPassed(job.handoff));
                }
                Stage::Told
            }
            Step::EmulatorEnds(outcome) => {
                state.left.faults -= u8::from(outcome != Outcome::Moved);
                let alone =
                    !state.nodes.iter().enumerate().any(|(n, node)| n != at && node.holds());
                let ended = outcome == Outcome::DefinitionLeft && alone;
                state.excuse.guest_ended |= outcome == Outcome::GuestEnded || ended;
                if job.start == state.nodes[at].starts {
                    state.nodes[at].tell(Answer::EmulatorGone(job.handoff));
                }
                Stage::Gone(outcome)
            }
            Step::Over(outcome) => {
                state.left.faults -= u8::from(job.stage != Stage::Gone(outcome));
                self.settle_job(state, at, outcome);
                return Some(());
            }
        };
        state.nodes[at].job = Some(Job { stage, ..job });
        Some(())
    }

    /// Ends a migration, and answers the agent that has ordered it if it still runs.
    fn settle_job(&self, state: &mut State, at: usize, outcome: Outcome) {
        let node = &mut state.nodes[at];
        let (Some(job), Some(here)) = (node.job.take(), node.copy) else { return };
        let apart = self.0.locks && job.commit == Commit::Fast;
        let stay = |presence| Some(Copy { presence, ..here });
        node.copy = match outcome {
            Outcome::Moved | Outcome::ReplyLost => None,
            Outcome::Failed => stay(Presence::Running),
            Outcome::Both if !apart => {
                state.newest = state.newest.max(here.age + 1);
                Some(Copy { presence: Presence::Running, age: here.age + 1, ..here })
            }
            Outcome::Both | Outcome::Stranded | Outcome::StrandedAlone => stay(Presence::Stranded),
            Outcome::DefinitionLeft | Outcome::GuestEnded => stay(Presence::Defined),
        };
        if job.start == node.starts {
            node.tell(Answer::Migrated(job.handoff, outcome == Outcome::Moved));
        }
        if matches!(outcome, Outcome::Failed | Outcome::StrandedAlone | Outcome::GuestEnded) {
            state.nodes[job.to].copy = None;
        }
    }

    fn discard(&self, state: &mut State, me: usize, stamp: Stamp) -> Result<(), FailureKind> {
        let Some(copy) = state.nodes[me].copy else { return Ok(()) };
        if copy.runs() || copy.stamp != stamp {
            return Err(FailureKind::Refused);
        }
        if copy.presence == Presence::Incoming {
            let from = state.nodes.iter().position(|n| n.job.is_some_and(|job| job.to == me));
            if let Some(from) = from {
                self.settle_job(state, from, Outcome::Failed);
            }
        }
        let claimed = stamp.handoff.and_then(|handoff| state.claimed.get(&handoff));
        if claimed == Some(&me) && !is_buried(state, me, stamp) {
            state.broken = Some(Broken::DestroyedWhatWasClaimed);
        }
        state.nodes[me].copy = None;
        Ok(())
    }
}

fn resume(state: &mut State, me: usize, stamp: Stamp) -> Result<(), FailureKind> {
    let copy = state.nodes[me].copy.ok_or(FailureKind::NoSuchMachine)?;
    if copy.stamp != stamp {
        return Err(FailureKind::Refused);
    }
    match copy.presence {
        Presence::Running => return Ok(()),
        Presence::Held | Presence::Stranded | Presence::Paused => {}
        _ => return Err(FailureKind::Refused),
    }
    let_run(state, me, copy);
    Ok(())
}

fn start(state: &mut State, me: usize, stamp: Stamp) -> Result<(), FailureKind> {
    let copy = state.nodes[me].copy.ok_or(FailureKind::NoSuchMachine)?;
    match copy.presence {
        Presence::Running if copy.stamp == stamp => Ok(()),
        Presence::Defined if copy.stamp == stamp => {
            let_run(state, me, copy);
            Ok(())
        }
        _ => Err(FailureKind::Refused),
    }
}

fn let_run(state: &mut State, me: usize, mut copy: Copy) {
    let others = |(at, node): (usize, &Node)| at != me && node.holds();
    let beside = state.nodes.iter().enumerate().any(others);
    let fenced = state.nodes.iter().any(|node| node.fenced);
    // What is started anew has read its disks anew; and an operator who fences is asked to know.
    if copy.presence.is_resident() && copy.age < state.newest && !fenced {
        state.broken = Some(Broken::StaleMemory);
    }
    if beside {
        copy.age = state.newest + 1;
    }
    state.newest = state.newest.max(copy.age);
    if is_buried(state, me, copy.stamp) {
        state.broken = Some(Broken::RanAfterRelease);
    }
    let came = copy.stamp.handoff.filter(|handoff| !state.released.contains_key(handoff));
    let off = matches!(copy.presence, Presence::Held | Presence::Defined);
    if off && !fenced && came.is_some() {
        state.broken = Some(Broken::ResumedBeforeRelease);
    }
    state.nodes[me].copy = Some(Copy { presence: Presence::Running, ..copy });
}

/// Whether this host has released the machine after the copy with this stamp.
fn is_buried(state: &State, at: usize, stamp: Stamp) -> bool {
    state.released.values().any(|&(by, epoch)| by == at && epoch > stamp.epoch)
}

pub(crate) fn power_cut(state: &mut State, at: usize) {
    state.left.power_cuts -= 1;
    let alone = state.nodes.iter().filter(|node| node.holds()).count() == 1;
    let came = state.nodes[at].copy.filter(Copy::is_complete).and_then(|copy| copy.stamp.handoff);
    let unclaimed = came.is_some_and(|handoff| !state.claimed.contains_key(&handoff));
    state.excuse.died_unclaimed |= alone && unclaimed;
    let node = &mut state.nodes[at];
    node.powered = false;
    node.kill();
    state.excuse.host_died |= node.holds();
    let job = node.job.take();
    node.copy = node.copy.filter(|copy| copy.presence != Presence::Incoming);
    node.copy = node.copy.map(|copy| Copy { presence: Presence::Defined, ..copy });
    if let Some(job) = job.filter(|job| job.stage == Stage::Sending) {
        state.nodes[job.to].copy = None;
    }
    // A migration to here fails.
    let sent = |job: Job| job.to == at && job.stage == Stage::Sending;
    for node in state.nodes.iter_mut().filter(|node| node.job.is_some_and(sent)) {
        let Some(job) = node.job.take() else { continue };
        node.copy = node.copy.map(|copy| Copy { presence: Presence::Running, ..copy });
        if job.start == node.starts {
            node.tell(Answer::Migrated(job.handoff, false));
        }
    }
}

pub(crate) fn boot(state: &mut State, at: usize) {
    state.nodes[at].powered = true;
    state.nodes[at].boots += 1;
    let Some(copy) = state.nodes[at].copy.filter(|copy| copy.autostart) else { return };
    if is_buried(state, at, copy.stamp) {
        state.broken = Some(Broken::RanAfterRelease);
    }
    state.nodes[at].copy = Some(Copy { presence: Presence::Running, ..copy });
}

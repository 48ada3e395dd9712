//! What libvirt does on a host, as far as the handoff can tell.

use evenkeel_core::model::HandoffId;
use evenkeel_core::port::{Commit, FailureKind, Migration, Order, Presence, Sight, Stamp};

use crate::node::{Answer, index};
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

    pub(crate) const fn sight(&self) -> Sight {
        Sight { presence: self.presence, stamp: self.stamp }
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
    /// The guest ended on the way.
    GuestEnded,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Moved,
        Self::Failed,
        Self::ReplyLost,
        Self::Both,
        Self::Stranded,
        Self::StrandedAlone,
        Self::GuestEnded,
    ];
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
                if state.nodes[me].job.is_some() {
                    self.settle_job(state, me, Outcome::Failed);
                }
                return;
            }
            Order::Look(_, look) => {
                Answer::Looked(look, found.map_or_else(Sight::default, |c| c.sight()))
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

    fn begin_job(&self, state: &mut State, me: usize, migration: &Migration) -> Option<()> {
        let to = index(&migration.to);
        let copy = state.nodes[me].copy.filter(|c| c.presence == Presence::Running)?;
        let resident = state.nodes[to].copy.is_some_and(|c| c.presence.is_resident());
        if resident || !state.nodes[to].powered {
            return None;
        }
        let stamp = Stamp::of(&migration.entry);
        let arriving = Copy { presence: Presence::Incoming, stamp, autostart: false };
        state.nodes[to].copy = Some(arriving);
        let (handoff, commit) = (migration.handoff, migration.commit);
        let start = state.nodes[me].starts;
        state.nodes[me].job = Some(Job { handoff, to, commit, start });
        state.nodes[me].copy = Some(Copy { presence: Presence::Leaving, ..copy });
        Some(())
    }

    pub(crate) fn end_job(&self, state: &mut State, at: usize, outcome: Outcome) -> Option<()> {
        if outcome != Outcome::Moved {
            state.left.faults -= 1;
        }
        state.nodes[at].job?;
        self.settle_job(state, at, outcome);
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
            Outcome::Both if !apart => stay(Presence::Running),
            Outcome::Both | Outcome::Stranded | Outcome::StrandedAlone => stay(Presence::Stranded),
            Outcome::GuestEnded => stay(Presence::Defined),
        };
        if job.start == node.starts {
            node.tell(Answer::Migrated(job.handoff, outcome == Outcome::Moved));
        }
        state.excuse.guest_ended |= outcome == Outcome::GuestEnded;
        let complete = match job.commit {
            Commit::Fast => Presence::Running,
            Commit::Strict => Presence::Held,
        };
        let there = &mut state.nodes[job.to].copy;
        *there = match outcome {
            Outcome::Failed | Outcome::StrandedAlone | Outcome::GuestEnded => None,
            _ => there.map(|copy| Copy { presence: complete, ..copy }),
        };
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

fn let_run(state: &mut State, me: usize, copy: Copy) {
    if is_buried(state, me, copy.stamp) {
        state.broken = Some(Broken::RanAfterRelease);
    }
    let fenced = state.nodes.iter().any(|node| node.fenced);
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
    let node = &mut state.nodes[at];
    node.powered = false;
    node.kill();
    let job = node.job.take();
    state.excuse.host_died |= node.copy.is_some_and(|copy| copy.is_complete());
    node.copy = node.copy.filter(|copy| copy.presence != Presence::Incoming);
    node.copy = node.copy.map(|copy| Copy { presence: Presence::Defined, ..copy });
    if let Some(job) = job {
        state.nodes[job.to].copy = None;
    }
    // A migration to here fails.
    for node in state.nodes.iter_mut().filter(|node| node.job.is_some_and(|job| job.to == at)) {
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

//! What is kept of a handoff, durably: enough to go on after anything.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::acquaintance::Acquaintances;
use crate::agreement::Agreement;
use crate::control::PauseRegister;
use crate::decision::{Choice, Decision, Reason, Role};
use crate::history::History;
use crate::model::{
    DiskPlace, Entry, Epoch, Group, HostId, MachineId, Requirements, Resources, Ticket, Time,
};
use crate::port::{Commit, FailureKind, HandoffId, HandoffKey, LookId, Presence, Progress, Stamp};

/// How far a handoff is. Every phase but [`Phase::Offered`] is durable before anything is said or
/// ordered that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Source: waits for the target to keep room. Not durable: a source that forgets it has begun
    /// nothing.
    Offered,
    /// Source: this host is about to stop starting the machine at boot.
    Armed,
    /// Source: the hypervisor migrates.
    Transferring,
    /// Source: the migration ended in a way that does not tell where the machine is.
    Doubt,
    /// Source: **the commit point.** The machine is the target's; this host never lets it run again
    /// at this epoch. Repeated to the target until it answers.
    Released,
    /// Source: the machine stays; what has arrived at the target is to be discarded.
    Cancelling,
    /// Target: room is kept, or the machine is arriving.
    #[serde(alias = "claiming")]
    Reserved,
    /// Target: the machine is here, complete and paused, and waits for the source's word.
    Holding,
    /// Target: the machine is this host's, and is let run.
    Claimed,
    /// Target: the machine stays at the source; what has arrived of it is being destroyed.
    Discarding,
    /// The machine runs on the target and its entry is there.
    Done,
    /// The machine is where it was.
    Cancelled,
}

impl Phase {
    /// Whether nothing is left to be done.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }

    /// Whether a handoff may go from this phase to the next one: all steps that there are. A record that
    /// cannot be written is not one of them: it takes a handoff back to where it was.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use Phase::{
            Armed, Cancelled, Cancelling, Claimed, Discarding, Done, Doubt, Holding, Offered,
            Released, Reserved, Transferring,
        };
        match self {
            Offered => matches!(next, Armed | Transferring | Cancelled),
            Armed => matches!(next, Transferring | Cancelling | Cancelled),
            Transferring => matches!(next, Doubt | Released | Cancelled),
            Doubt => matches!(next, Doubt | Released | Cancelling),
            Released => matches!(next, Done),
            Cancelling => matches!(next, Released | Cancelled),
            Reserved => matches!(next, Holding | Claimed | Discarding | Done | Cancelled),
            Holding => matches!(next, Claimed | Discarding | Done | Cancelled),
            Claimed => matches!(next, Done),
            Discarding => matches!(next, Claimed | Cancelled),
            Done | Cancelled => false,
        }
    }

    /// Whether it ends by itself soon unless something fails, and its host begins nothing else
    /// until then.
    #[must_use]
    pub const fn is_brisk(self) -> bool {
        matches!(
            self,
            Self::Offered
                | Self::Armed
                | Self::Transferring
                | Self::Doubt
                | Self::Reserved
                | Self::Holding
                | Self::Claimed
        )
    }
}

/// What a source knows of the machine before it hands it over.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The commit point, and why.
    pub choice: Choice,
    /// Which copy of the machine is here.
    pub from: Stamp,
    /// Whether this host starts it at boot.
    pub autostart: bool,
    /// Whether its definition outlives its running here.
    pub persistent: bool,
}

/// One handoff, as one of its two hosts sees it. This is also the durable record of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handoff {
    /// Its id, the same on both hosts.
    pub id: HandoffId,
    /// Whether this host gives or takes.
    pub role: Role,
    /// The other host.
    pub peer: HostId,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// Its schedule entry as it reads on the target. Its stamp names the copy there.
    pub entry: Entry,
    /// The stamp of the copy on the source; the source's record alone has it.
    #[serde(default)]
    pub from: Stamp,
    /// What it uses, for the target to believe until it has measured it.
    pub usage: Resources,
    /// What it used before, for the target to go by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<Box<History>>,
    /// What it will load the target.
    pub load: f64,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Its anti-affinity groups, for an agent of an earlier version; the entry holds all rules.
    pub anti_affinity: Vec<Group>,
    /// The commit point.
    #[serde(default = "fast")]
    pub commit: Commit,
    /// Whether the source started it at boot, and the target is to.
    #[serde(default)]
    pub autostart: bool,
    /// The source's number for it.
    #[serde(default)]
    pub ticket: Option<Ticket>,
    /// Which boot of this host it was begun in; empty where the driver does not tell.
    #[serde(default)]
    pub boot: String,
    /// The boot of this host in which it was told to start the machine at boot again, by a source
    /// whose machine stays. A boot after that one has started it.
    #[serde(default)]
    pub rearmed: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Time,
    /// How often it has been looked after in this phase.
    pub attempts: u32,
    /// Source: whether a copy may have been left here, to be destroyed before the target is told.
    #[serde(default)]
    pub leftover: bool,
    /// Source: whether the machine's definition outlives its running. If so, that the definition is
    /// gone tells that the migration has succeeded.
    #[serde(default = "yes")]
    pub persistent: bool,
    /// Source: the target's answer to the last step of the migration has reached the hypervisor here,
    /// which therefore does not let the machine run on. Without it, and after a gap in which nobody
    /// looked, the machine **may have run on here**.
    #[serde(default)]
    pub finished: bool,
    /// What went wrong last; empty if nothing has.
    #[serde(default)]
    pub last_error: String,
    /// Why it is being cancelled, where that is known before the hypervisor has answered.
    pub cancelled_for: Option<Reason>,
    /// The record of the exchange that led to it.
    pub decision: Decision,
    /// Where the target's hypervisor is reached.
    #[serde(default)]
    pub(crate) uri: String,
    /// What the machine needs, as agreed: what arrives is compared with it, also after a restart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) needs: Requirements,
    /// Where the copies of its local disks go, as the target has said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) disks: Vec<DiskPlace>,
    /// Target: whether room is kept, and not promised before the hypervisor has examined the machine.
    #[serde(skip)]
    pub(crate) examined: bool,
    /// The look whose answer counts.
    #[serde(skip)]
    pub(crate) look: LookId,
    /// What it saw of it here last, in this phase.
    #[serde(skip)]
    pub(crate) seen: Option<Presence>,
    /// Source: how far the hypervisor said last that the migration is.
    #[serde(skip)]
    pub(crate) sent: Option<Progress>,
    /// Source: what kind of failure the hypervisor has answered the migration with.
    #[serde(skip)]
    pub(crate) failed: Option<FailureKind>,
    /// Source: whether the hypervisor itself says that it is off because it was migrated away.
    #[serde(skip)]
    pub(crate) left: bool,
    /// The phase that is known to be durable, until the present one is.
    #[serde(skip)]
    pub(crate) before: Option<Phase>,
    /// Whether this host has booted without it, because of this handoff: as it was when the agent
    /// was started.
    #[serde(skip)]
    pub(crate) missed: bool,
    /// What else is done in this phase.
    #[serde(skip)]
    pub(crate) steps: Steps,
}

/// What of a phase is done already. Not durable: to do it again does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Steps {
    /// The machine is let run, started or destroyed; or it was seen that it need not be.
    pub(crate) settled: bool,
    /// Whether the host starts it at boot is as it should be.
    pub(crate) autostart: bool,
    /// Source: the target knows that the machine stays, and has nothing of it.
    pub(crate) acknowledged: bool,
    /// Source: the target says that it runs there, although it was cancelled.
    pub(crate) runs_there: bool,
    /// Target: the source says that it has released the machine.
    pub(crate) released: bool,
    /// It was seen to run on both hosts.
    pub(crate) twice: bool,
    /// Source: the target says that it holds it, complete and paused.
    pub(crate) held: bool,
    /// Source: the process that ran it here has ended.
    pub(crate) gone: bool,
    /// Released before the source's hypervisor has answered the migration, which it has not done yet.
    pub(crate) unanswered: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Handoff {
    /// The record of a handoff that begins: strict, and without a number, until it is said otherwise.
    #[must_use]
    pub fn begin(id: HandoffId, role: Role, agreement: Agreement, now: Time) -> Self {
        let Agreement { peer, candidate, at_receiver, mut entry, mut decision, .. } = agreement;
        decision.handoff = Some(id);
        entry.handoff = Some(id);
        Self {
            id,
            role,
            peer,
            machine: candidate.machine,
            name: candidate.name,
            entry,
            from: Stamp::default(),
            usage: candidate.factors,
            past: None,
            load: at_receiver,
            memory_bytes: candidate.memory_bytes,
            anti_affinity: candidate.anti_affinity,
            commit: Commit::Strict,
            autostart: false,
            ticket: None,
            boot: String::new(),
            rearmed: None,
            phase: match role {
                Role::Source => Phase::Offered,
                Role::Target => Phase::Reserved,
            },
            since: now,
            attempts: 0,
            leftover: false,
            persistent: true,
            finished: false,
            last_error: String::new(),
            cancelled_for: None,
            decision,
            uri: String::new(),
            needs: candidate.needs,
            disks: Vec::new(),
            examined: false,
            look: LookId(0),
            seen: None,
            sent: None,
            failed: None,
            left: false,
            before: None,
            missed: false,
            steps: Steps::default(),
        }
    }

    /// Goes on to another phase.
    ///
    /// # Panics
    /// In builds with debug assertions, where it may not.
    pub(crate) fn go_on(&mut self, next: Phase, now: Time) {
        debug_assert!(
            self.phase.may_become(next),
            "a handoff goes from {:?} to {next:?}: {self:?}",
            self.phase
        );
        self.phase = next;
        self.since = now;
    }

    /// Goes back to the phase that is durable: the record of the present one could not be written.
    pub(crate) const fn go_back(&mut self, before: Phase) {
        self.phase = before;
    }

    /// What tells it from all others.
    #[must_use]
    pub fn key(&self) -> HandoffKey {
        HandoffKey::new(self.id, &self.peer)
    }

    /// Whether others are kept away by it also from other hosts, so that it must not end by time
    /// alone: nothing of it may arrive after that.
    #[must_use]
    pub fn needs_seat(&self) -> bool {
        self.entry.rules.anti_affinity.iter().any(|group| group.label().is_some())
    }

    /// What the machine needs, as the two hosts have agreed; nothing in a record of an earlier version.
    #[must_use]
    pub const fn needs(&self) -> &Requirements {
        &self.needs
    }

    /// Where the copies of its local disks go; nothing in a record of an earlier version.
    #[must_use]
    pub fn places(&self) -> &[DiskPlace] {
        &self.disks
    }

    /// The stamp of the copy on the target.
    #[must_use]
    pub const fn to(&self) -> Stamp {
        Stamp::of(&self.entry)
    }

    /// What this record lays down about the machine for good: on the source that it was released,
    /// on the target that it was claimed. To be kept when the record itself is cleared.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        let kind = match (self.role, self.phase) {
            (Role::Source, Phase::Released) => MarkKind::Released,
            (Role::Target, Phase::Claimed) => MarkKind::Claimed,
            _ => return None,
        };
        let (machine, peer) = (self.machine.clone(), self.peer.clone());
        Some(Mark { kind, machine, epoch: self.entry.epoch, handoff: self.id, peer })
    }

    /// Whether it ends by itself soon unless something fails.
    pub(crate) const fn is_brisk(&self) -> bool {
        self.phase.is_brisk() || self.steps.unanswered
    }

    /// What it waits for, in words for an operator.
    #[must_use]
    pub fn waits_for(&self) -> String {
        let (peer, steps) = (&self.peer, &self.steps);
        if steps.twice {
            return format!(
                "an operator: the machine was seen running here and on `{peer}`; stop the copy that \
                 is wrong, and only after that look at its disks"
            );
        }
        match self.phase {
            Phase::Offered => format!("`{peer}` to keep room"),
            Phase::Armed => "this host to stop starting it at boot".to_owned(),
            Phase::Transferring => "the hypervisor to migrate it".to_owned(),
            Phase::Doubt => match self.seen {
                None => "the hypervisor to say where it is".to_owned(),
                Some(Presence::Leaving) => "a migration that is still under way".to_owned(),
                Some(_) if self.waits_for_proof() => format!(
                    "an operator: `{peer}` holds its memory, and nothing tells whether it ran on here \
                     after that. If it did, or in doubt, run `evenkeel claim {} --i-have-fenced {peer}` \
                     here: it stays here, off, and what `{peer}` holds is discarded. Only if it surely \
                     did not, run `evenkeel claim {} --i-have-fenced` with this host's name on `{peer}`",
                    self.name, self.name
                ),
                Some(_) => format!("`{peer}` to say whether it has it"),
            },
            Phase::Released if steps.unanswered => {
                "the hypervisor to say that it is over".to_owned()
            }
            Phase::Released if self.leftover => "a copy here to be destroyed".to_owned(),
            Phase::Released => format!("`{peer}` to say that it runs"),
            Phase::Cancelling if self.waits_to_start() => format!(
                "`{peer}` to say that it has nothing, so that it can be started here; if that host \
                 is lost for good, fence it and run `evenkeel claim {} --i-have-fenced {peer}`",
                self.name
            ),
            Phase::Cancelling => format!("`{peer}` to discard what has arrived"),
            Phase::Reserved => format!("it to arrive from `{peer}`"),
            Phase::Holding => format!(
                "`{peer}` to say that it is released; if that host is lost for good, fence it and, \
                 unless the machine may have run on there, run `evenkeel claim {} --i-have-fenced \
                 {peer}`",
                self.name
            ),
            Phase::Claimed => "the hypervisor to let it run".to_owned(),
            Phase::Discarding => "the hypervisor to destroy what has arrived".to_owned(),
            Phase::Done | Phase::Cancelled => "nothing".to_owned(),
        }
    }

    /// Whether a source whose machine stays may not start it before the target has said that it has
    /// nothing.
    pub(crate) fn waits_to_start(&self) -> bool {
        let waits = self.role == Role::Source && self.phase == Phase::Cancelling;
        waits && self.missed && !self.steps.settled && !self.steps.acknowledged
    }

    /// Source: whether the target holds the machine's memory, the machine is off here, and nothing tells
    /// whether it ran on here after that: an operator has to say which of the two is the newer.
    #[must_use]
    pub fn waits_for_proof(&self) -> bool {
        self.role == Role::Source && self.phase == Phase::Doubt && self.steps.held
    }

    /// Whether an operator should hear of it: it is not over, and takes longer than it should.
    #[must_use]
    pub fn is_alarming(&self, now: Time) -> bool {
        let patience = match self.phase {
            _ if self.steps.twice => Duration::ZERO,
            // They have limits of time of their own.
            Phase::Offered | Phase::Transferring | Phase::Done | Phase::Cancelled => return false,
            Phase::Reserved => RESERVED_ALARM,
            _ => ALARM,
        };
        now.since(self.since) >= patience
    }
}

/// What records of version 1 mean, which do not say.
const fn fast() -> Commit {
    Commit::Fast
}

/// What records of a version mean that did not tell transient machines apart.
const fn yes() -> bool {
    true
}

/// A handoff that stays in a phase which should be over in a moment is an alarm after this.
const ALARM: Duration = Duration::from_secs(30);
/// A machine may be a long time arriving.
const RESERVED_ALARM: Duration = Duration::from_secs(3600);

/// What is known of a machine for good, longer than the record of the handoff is kept: a *tombstone*
/// on the host that it left, and the proof of ownership on the host that it came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// Which of the two.
    pub kind: MarkKind,
    /// The machine.
    pub machine: MachineId,
    /// The epoch that began with it: the source never lets a copy of a lower one run.
    pub epoch: Epoch,
    /// The handoff.
    pub handoff: HandoffId,
    /// The other host.
    pub peer: HostId,
}

impl Mark {
    /// Whether it was left by this handoff.
    #[must_use]
    pub fn is_of(&self, key: &HandoffKey) -> bool {
        self.handoff == key.id && self.peer == key.peer
    }
}

/// What a [`Mark`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkKind {
    /// The machine was released to another host.
    Released,
    /// The machine was claimed from another host.
    Claimed,
}

/// What a driver finds in the store when it opens it, and what it knows of this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// The handoffs that are not over.
    pub handoffs: Vec<Handoff>,
    /// The newest mark of each kind of every machine.
    pub marks: Vec<Mark>,
    /// Every life of this store before this one, with the highest number of a durable handoff in it.
    pub lives: Vec<Ticket>,
    /// The life that begins now: drawn at random, and durable.
    pub life: u64,
    /// Which boot of the host this is.
    pub boot: String,
    /// What was known of pauses.
    pub pause: Option<PauseRegister>,
    /// Whom it knows.
    pub acquaintances: Acquaintances,
}

impl Recovered {
    /// What a store does with a record that it is to keep: the record as long as it is open, its
    /// mark, and for a source its ticket, all or nothing. For drivers whose store is in memory.
    pub fn keep(&mut self, handoff: Handoff) {
        if let Some(mark) = handoff.mark() {
            let newer = |old: &Mark| {
                (old.kind, &old.machine) != (mark.kind, &mark.machine) || old.epoch > mark.epoch
            };
            self.marks.retain(newer);
            self.marks.push(mark);
        }
        if let Some(ticket) = handoff.ticket.filter(|_| handoff.role == Role::Source) {
            match self.lives.iter_mut().find(|life| life.life == ticket.life) {
                Some(life) => life.number = life.number.max(ticket.number),
                None => self.lives.push(ticket),
            }
        }
        self.handoffs.retain(|old| old.key() != handoff.key());
        if !handoff.phase.has_ended() {
            self.handoffs.push(handoff);
        }
    }

    /// Begins another life of the store.
    pub fn reopen(&mut self, life: u64) {
        self.life = life;
        self.lives.push(Ticket { life, number: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::Phase::{
        Armed, Cancelled, Cancelling, Claimed, Discarding, Done, Doubt, Holding, Offered, Released,
        Reserved, Transferring,
    };
    use super::*;

    const SOURCE: [Phase; 6] = [Offered, Armed, Transferring, Doubt, Released, Cancelling];
    const TARGET: [Phase; 4] = [Reserved, Holding, Claimed, Discarding];

    #[test]
    fn no_host_changes_sides_and_nothing_follows_the_end() {
        for here in SOURCE {
            assert!(TARGET.iter().all(|there| !here.may_become(*there)), "{here:?}");
        }
        for here in TARGET {
            assert!(SOURCE.iter().all(|there| !here.may_become(*there)), "{here:?}");
        }
        for phase in SOURCE.iter().chain(&TARGET).chain(&[Done, Cancelled]) {
            assert!(!Done.may_become(*phase) && !Cancelled.may_become(*phase));
        }
    }

    #[test]
    fn what_is_released_or_claimed_is_never_cancelled() {
        for decided in [Released, Claimed] {
            let next: Vec<_> = SOURCE.iter().chain(&TARGET).chain(&[Done, Cancelled]).collect();
            let next: Vec<_> = next.into_iter().filter(|next| decided.may_become(**next)).collect();
            assert_eq!(next, [&Done], "after {decided:?}");
        }
    }
}

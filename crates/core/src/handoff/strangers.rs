//! Questions about handoffs of which no live record tells: it has ended and is cleared, or its record
//! is lost. They are answered by what the marks and a look at the hypervisor say, and by nothing else.
//!
//! Every member can read the ids of handoffs. So what a stranger says is acted on only if it is the host
//! that the copy here came from, by the copy's own entry, and nothing that this host has claimed is
//! destroyed on anybody's word.

use super::Handoffs;
use super::limits::RETRY_MIN;
use super::question::{Question, Stranger};
use crate::agreement::Agreement;
use crate::decision::{Decision, Reason, Role};
use crate::message::{Candidate, Pass};
use crate::model::{Entry, ExchangeId, HandoffKey, HostId, MachineId, Ticket, Time};
use crate::port::{Commit, Failure, LookId, MigrationStats, Order, Presence, Sight};
use crate::record::{Handoff, MarkKind, Phase};
use crate::turn::Turn;

/// Most questions that wait for a look; whoever asked a further one asks again.
const STRANGERS_MAX: usize = 64;

impl Handoffs {
    /// The other host speaks of a handoff that is not under way here.
    pub(super) fn hear_of_unknown(&mut self, key: HandoffKey, pass: Pass, turn: &mut Turn<'_>) {
        let (machine, question) = match pass {
            Pass::Released { machine, stats, autostart, .. } => {
                let autostart = autostart.unwrap_or(false);
                (machine, Question::Released { stats, autostart })
            }
            Pass::Cancel { machine: Some(machine), .. } => (machine, Question::Cancelled),
            Pass::Holding { machine, ticket } => match self.was_released(&key, &machine, ticket) {
                Some(pass) => return turn.say(&key.peer, key.id, pass),
                None => (machine, Question::Holding),
            },
            // Too late: nothing will come, and room need not be kept until it expires. Unless it was
            // released, for all that a store knows which has lost something.
            Pass::Reserved { ticket, machine, .. } => {
                let released = self.marks.values().any(|mark| mark.is_of(&key));
                let remembers = ticket.is_some_and(|ticket| self.remembers(ticket));
                match machine {
                    _ if released => return,
                    _ if remembers => {
                        let cancel = Pass::Cancel { reason: Reason::TimedOut, machine: None };
                        return turn.say(&key.peer, key.id, cancel);
                    }
                    Some(machine) => (machine, Question::Reserved),
                    None => return,
                }
            }
            _ => return,
        };
        self.admit(key, machine, question, turn);
    }

    /// The source asks what this host holds of a machine.
    pub(super) fn asked_where(&mut self, key: HandoffKey, machine: MachineId, turn: &mut Turn<'_>) {
        self.admit(key, machine, Question::Where, turn);
    }

    fn admit(
        &mut self,
        key: HandoffKey,
        machine: MachineId,
        question: Question,
        turn: &mut Turn<'_>,
    ) {
        if self.strangers.len() < STRANGERS_MAX || self.strangers.contains_key(&key) {
            // What the last sample saw may be older than the machine's arrival.
            let look = turn.look_for(&machine);
            self.strangers.insert(key, Stranger { machine, look, question });
        }
    }

    /// What this host as the source says to a target that holds a machine; `None` if its records do
    /// not tell.
    fn was_released(
        &self,
        key: &HandoffKey,
        machine: &MachineId,
        ticket: Option<Ticket>,
    ) -> Option<Pass> {
        let released = self.marks.get(&(MarkKind::Released, machine.clone()));
        if released.is_some_and(|mark| mark.is_of(key)) {
            let (machine, stats) = (machine.clone(), MigrationStats::default());
            return Some(Pass::Released { machine, stats, autostart: None, unanswered: None });
        }
        // Released is durable before it is said. If nothing of that life is lost, it was not, and is
        // not going to be.
        ticket.filter(|ticket| self.remembers(*ticket)).map(|_| cancelled(machine))
    }

    /// Whether nothing is lost of what this host, as a source, has written about a handoff of this
    /// number. One that was offered and no more was never written.
    fn remembers(&self, ticket: Ticket) -> bool {
        let known = if ticket.life == self.ticket.life {
            Some(self.ticket.number)
        } else {
            self.lives.get(&ticket.life).copied()
        };
        known.is_some_and(|known| ticket.number <= known)
    }

    /// Answers those who asked about a machine, and carries out what they want of it.
    pub(super) fn answer_strangers(
        &mut self,
        machine: &MachineId,
        look: LookId,
        sight: Option<&Sight>,
        turn: &mut Turn<'_>,
    ) {
        let answers = |s: &Stranger| s.machine == *machine && s.look <= look;
        let keys = self.strangers.iter().filter(|(_, s)| answers(s)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            let Some(stranger) = self.strangers.remove(&key) else { continue };
            // Whoever asked will ask again.
            let Some(sight) = sight else { continue };
            self.answer(key, stranger, sight, turn);
        }
    }

    fn answer(&mut self, key: HandoffKey, stranger: Stranger, sight: &Sight, turn: &mut Turn<'_>) {
        let Stranger { machine, look, question } = stranger;
        match reply(&machine, &question, sight, &self.known(&key, &machine, sight)) {
            Reply::Say(pass) => turn.say(&key.peer, key.id, pass),
            Reply::Adopt(stats, autostart) => {
                self.adopt(&key, &machine, sight, (stats, autostart), turn);
            }
            Reply::Discard => {
                turn.order(Order::Discard(machine.clone(), sight.stamp));
                let question = Question::Discarding;
                self.strangers.insert(key, Stranger { machine, look, question });
            }
            Reply::Wait => {}
        }
    }

    /// What is known here of a machine that was looked for because of this handoff.
    fn known(&self, key: &HandoffKey, machine: &MachineId, sight: &Sight) -> Known {
        let live = self.live.get(key);
        let mark = self.marks.get(&(MarkKind::Claimed, machine.clone()));
        let claimed = live.is_some_and(|h| h.phase == Phase::Claimed)
            || mark.is_some_and(|mark| mark.handoff == key.id);
        let is_it = sight.stamp.handoff == Some(key.id);
        let is_from = is_it && !claimed && sight.from.as_ref() == Some(&key.peer);
        let held = matches!(sight.presence, Presence::Held | Presence::Paused);
        Known {
            live: live.map(|h| h.commit),
            claimed,
            is_it,
            decides: is_from && !self.moves(machine) && !self.is_live(key.id),
            held: is_it && !claimed && held,
        }
    }

    /// Tells those who wanted it that what had arrived is destroyed.
    pub(super) fn discarded_for_strangers(
        &mut self,
        machine: &MachineId,
        result: &Result<(), Failure>,
        turn: &mut Turn<'_>,
    ) {
        let wanted =
            |s: &Stranger| s.machine == *machine && matches!(s.question, Question::Discarding);
        let keys = self.strangers.iter().filter(|(_, s)| wanted(s)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            self.strangers.remove(&key);
            if result.is_ok() {
                turn.say(&key.peer, key.id, Pass::Discarded);
            }
        }
    }

    /// Claims a machine that its source has released to this host, whose record of it is lost or was
    /// closed because nothing had arrived in time.
    fn adopt(
        &mut self,
        key: &HandoffKey,
        machine: &MachineId,
        sight: &Sight,
        (stats, autostart): (MigrationStats, bool),
        turn: &mut Turn<'_>,
    ) {
        let from = key.peer.clone();
        let agreement = unknown_agreement(turn.host.id(), from, machine, sight, turn.now);
        let mut handoff = Handoff::begin(key.id, Role::Target, agreement, turn.now);
        handoff.decision.stats = Some(stats);
        handoff.autostart = autostart;
        handoff.boot.clone_from(&self.boot);
        turn.host.holds.take_up(&handoff);
        turn.enter(&mut handoff, Phase::Claimed, RETRY_MIN);
        turn.resume(&handoff, sight.stamp);
        self.live.insert(handoff.key(), handoff);
    }
}

/// What is known here of a machine that a stranger asks about.
struct Known {
    /// The commit point of the handoff, if it is under way here.
    live: Option<Commit>,
    /// Whether the machine is this host's by this handoff.
    claimed: bool,
    /// Whether what was seen is the copy that this handoff brought.
    is_it: bool,
    /// Without a record only the host that the copy came from decides over it, and never over what
    /// this host has claimed or another host is handing over.
    decides: bool,
    /// Whether what was seen is that copy, complete and paused.
    held: bool,
}

/// What comes of a stranger's question.
enum Reply {
    Say(Pass),
    /// The machine is this host's: claim it, with what its migration cost and whether it is started at
    /// boot.
    Adopt(MigrationStats, bool),
    /// Destroy what has arrived.
    Discard,
    /// Nothing: whoever has asked asks again.
    Wait,
}

fn reply(machine: &MachineId, question: &Question, sight: &Sight, known: &Known) -> Reply {
    use Presence::{Absent, Defined, Held, Incoming, Leaving, Paused, Running, Stranded};
    let Known { live, claimed, is_it, decides, held } = *known;
    let seen = sight.presence;
    match *question {
        // Of what no record tells, what is seen does: whether it is on its way.
        Question::Reserved => match seen {
            Running | Paused | Defined | Absent => {
                Reply::Say(Pass::Refused { reason: Reason::TimedOut, detail: None })
            }
            Leaving | Stranded | Incoming | Held => Reply::Wait,
        },
        Question::Holding if seen == Running => Reply::Say(cancelled(machine)),
        // One that is leaving may have its end behind it. Nobody here knows whether it was
        // released: only an operator can say.
        Question::Holding | Question::Discarding => Reply::Wait,
        // It is to be started at boot here, too.
        Question::Released { stats, autostart: true }
            if decides && matches!(seen, Running | Leaving | Defined) =>
        {
            Reply::Adopt(stats, true)
        }
        _ if claimed || matches!(seen, Running | Leaving) => Reply::Say(Pass::Claimed),
        // It was complete, and by the hypervisor's commit point ran as soon as it was: what its
        // source has of it is older, although this host has lost its power before it could claim.
        Question::Where if is_it && seen == Defined && live == Some(Commit::Fast) => {
            Reply::Say(Pass::Claimed)
        }
        Question::Where if held => {
            Reply::Say(Pass::Holding { machine: machine.clone(), ticket: None })
        }
        // What nobody knows to be complete is not called missing either.
        Question::Where if is_it && matches!(seen, Incoming | Stranded) => {
            Reply::Say(Pass::Arriving)
        }
        Question::Where => Reply::Say(Pass::Missing),
        // It was taken up meanwhile.
        _ if live.is_some() => Reply::Wait,
        Question::Released { stats, autostart } if held && decides => {
            Reply::Adopt(stats, autostart)
        }
        // It is for another host to say.
        Question::Released { .. } if held => Reply::Wait,
        // Still arriving, or paused by somebody: told again.
        Question::Released { .. } if seen == Incoming && is_it => Reply::Wait,
        Question::Released { .. } if seen == Paused => Reply::Say(Pass::Claimed),
        Question::Released { .. } => Reply::Say(Pass::Missing),
        // One that is paused otherwise may have been let run here, by a record that is lost.
        Question::Cancelled if decides && matches!(seen, Held | Incoming) => Reply::Discard,
        Question::Cancelled if is_it && seen.is_resident() => Reply::Wait,
        Question::Cancelled => Reply::Say(Pass::Discarded),
    }
}

fn cancelled(machine: &MachineId) -> Pass {
    Pass::Cancel { reason: Reason::MigrationFailed, machine: Some(machine.clone()) }
}

/// What is left of an agreement where only the machine is.
fn unknown_agreement(
    host: &HostId,
    peer: HostId,
    machine: &MachineId,
    sight: &Sight,
    now: Time,
) -> Agreement {
    let exchange = ExchangeId(0);
    Agreement {
        exchange,
        peer: peer.clone(),
        candidate: Candidate::new(machine.clone(), machine.as_str()),
        at_receiver: 0.0,
        entry: Entry { epoch: sight.stamp.epoch, ..Entry::default() },
        verdicts: Vec::new(),
        decision: Decision {
            initiator: peer.clone(),
            peer: Some(peer),
            role: Some(Role::Target),
            detail: "it was released to this host, which had no record of it".to_owned(),
            ..Decision::new(exchange, host.clone(), Reason::Moved, now)
        },
        in_return: None,
    }
}

//! Hosts compare what they run: a machine that runs on two of them is nobody's to move.
//!
//! ```text
//!   any host                       another, at random
//!     │ ── Running(what I run) ────▶ │   it runs one of them, too:
//!     │ ◀──────────── Runs(that) ─── │
//!   looks: it runs here
//!     │ ── Runs(that) ─────────────▶ │   looks as well; now both know
//! ```
//!
//! One that runs on one of them and is only defined on the other is a leftover there: were it started, it
//! would run twice. Told is the operator.
//!
//! Also what somebody else has moved here is noticed: its entry gets a new epoch, and it stays where
//! it is for the cool-down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt};

use super::Balancer;
use crate::effect::{Effect, Timer};
use crate::message::{FLOCKS_MAX, Message, RUNNING_MAX, Watch};
use crate::model::{Entry, HostId, LastMove, MachineId, Time};
use crate::port::{HostSample, LookId, Order, Presence, Rewrite, Sight};

/// How often a host tells another one what it runs.
pub(super) const WATCH_EVERY: Duration = Duration::from_secs(60);
/// How many hosts are told each time what runs here: all of them in clusters of up to nine hosts, where
/// what runs twice is then known within [`WATCH_EVERY`].
const TOLD: usize = 8;
/// A machine that was not seen on the other host for so long runs there no more.
const TWIN_TIME_MAX: Duration = Duration::from_secs(200);
/// Most machines of one message that are looked into.
const RUNS_MAX: usize = 16;

/// A machine of this host that was seen running on another one, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// The other host.
    pub peer: HostId,
    /// Since when it is known.
    pub since: Time,
    /// When it was seen on both last.
    pub seen: Time,
}

/// A definition of a machine on this host, where it does not run, while it runs on another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The host that runs it.
    pub peer: HostId,
    /// Since when it is known.
    pub since: Time,
    /// When it was seen so last.
    pub seen: Time,
}

/// What a host knows of machines that run twice or came by themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Watching {
    twins: BTreeMap<MachineId, Twin>,
    leftovers: BTreeMap<MachineId, Leftover>,
    /// Machines that another host says it runs, until this one has looked.
    asked: BTreeMap<MachineId, (HostId, LookId)>,
    /// What ran here, or was paused here, when it was measured last.
    known: Option<BTreeSet<MachineId>>,
}

/// FNV-1a: any function would do that all hosts share.
fn digest(machine: &MachineId) -> u64 {
    let bytes = machine.as_str().bytes();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Balancer {
    /// Machines of this host that were seen running on another one, too.
    pub fn twins(&self) -> impl Iterator<Item = (&MachineId, &Twin)> {
        self.watching.twins.iter()
    }

    /// Machines that are defined here and do not run, and were seen running on another host.
    pub fn leftovers(&self) -> impl Iterator<Item = (&MachineId, &Leftover)> {
        self.watching.leftovers.iter()
    }

    /// What is defined here and does not run, and no handoff is about to change.
    fn defined(&self) -> impl Iterator<Item = &MachineId> {
        let machines = self.host.view.machines().iter();
        let off = machines.filter(|(_, m)| m.presence == Presence::Defined);
        off.map(|(id, _)| id).filter(|id| !self.handoffs.moves(id))
    }

    /// What this host runs, and no handoff is about to change.
    fn running(&self) -> impl Iterator<Item = &MachineId> {
        let machines = self.host.view.machines().iter();
        let runs = machines.filter(|(_, m)| m.presence == Presence::Running);
        runs.map(|(id, _)| id).filter(|id| !self.handoffs.moves(id))
    }

    pub(super) fn watch_timer(&mut self, now: Time, rng: &mut impl Rng, out: &mut Vec<Effect>) {
        out.push(Effect::SetTimer(Timer::Watch, now + WATCH_EVERY));
        self.introduce(now, rng, out);
        let here: BTreeSet<MachineId> = self.running().cloned().collect();
        let twins = &mut self.watching.twins;
        // What does not run here any more is not said to.
        twins.retain(|id, twin| here.contains(id) && now.since(twin.seen) < TWIN_TIME_MAX);
        self.host.holds.doubled = twins.keys().cloned().collect();
        let off: BTreeSet<MachineId> = self.defined().cloned().collect();
        let leftovers = &mut self.watching.leftovers;
        leftovers.retain(|id, left| off.contains(id) && now.since(left.seen) < TWIN_TIME_MAX);
        let twins = &self.watching.twins;
        let runs = |machine: &MachineId| Message::Watch(Watch::Runs(machine.clone()));
        out.extend(twins.iter().map(|(id, twin)| Effect::Send(twin.peer.clone(), runs(id))));
        let running: Vec<u64> = here.iter().map(digest).take(RUNNING_MAX).collect();
        let mut flocks = self.host.flocks_here();
        // All of them in turn, where they are too many.
        if flocks.len() > FLOCKS_MAX {
            let first = rng.random_range(0..flocks.len());
            flocks.rotate_left(first);
            flocks.truncate(FLOCKS_MAX);
        }
        let told = Some(flocks).filter(|flocks| !flocks.is_empty());
        let mut peers = self.draw(TOLD, rng);
        if let Some(peer) = peers.first() {
            self.tell_of_pause(peer, out);
        }
        if running.is_empty() {
            peers.clear();
        }
        for peer in peers {
            let watch = Watch::Running(running.clone(), told.clone());
            out.push(Effect::Send(peer, Message::Watch(watch)));
        }
    }

    /// Another host says what it runs.
    pub(super) fn watch(
        &mut self,
        from: &HostId,
        watch: Watch,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        match watch {
            Watch::Pause(register) => self.hear_of_pause(from, register, now, rng, out),
            Watch::Running(theirs, told) => {
                let own = told.map(|told| self.host.hear_flocks(from, &told, now));
                if let Some(mut own) = own.filter(|own| !own.is_empty()) {
                    own.truncate(FLOCKS_MAX);
                    let watch = Watch::Running(Vec::new(), Some(own));
                    out.push(Effect::Send(from.clone(), Message::Watch(watch)));
                }
                let theirs: BTreeSet<u64> = theirs.into_iter().collect();
                let both = self.running().filter(|id| theirs.contains(&digest(id)));
                let runs = both.take(RUNS_MAX).map(|id| Message::Watch(Watch::Runs(id.clone())));
                out.extend(runs.map(|message| Effect::Send(from.clone(), message)));
                let off = self.defined().filter(|id| theirs.contains(&digest(id)));
                for machine in off.take(RUNS_MAX).cloned().collect::<Vec<_>>() {
                    self.look_into(machine, from, now, out);
                }
            }
            Watch::Runs(machine) => self.look_into(machine, from, now, out),
        }
    }

    /// Looks at a machine here that another host says it runs.
    fn look_into(&mut self, machine: MachineId, from: &HostId, now: Time, out: &mut Vec<Effect>) {
        if self.watching.asked.len() < RUNS_MAX && !self.handoffs.moves(&machine) {
            let mut look = LookId(0);
            self.hand(now, out, |handoffs, turn| look = handoffs.look(&machine, turn));
            self.watching.asked.insert(machine, (from.clone(), look));
        }
    }

    /// A look tells whether a machine runs here that another host says it runs.
    pub(super) fn watched(
        &mut self,
        machine: &MachineId,
        look: LookId,
        sight: Option<&Sight>,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let asked = &mut self.watching.asked;
        if asked.get(machine).is_none_or(|(_, from)| look < *from) {
            return;
        }
        let Some((peer, _)) = asked.remove(machine) else { return };
        let presence = sight.map_or(Presence::Absent, |sight| sight.presence);
        if self.handoffs.moves(machine) {
            return;
        }
        if presence == Presence::Defined {
            let left = Leftover { peer: peer.clone(), since: now, seen: now };
            let known = self.watching.leftovers.entry(machine.clone()).or_insert(left);
            (known.peer, known.seen) = (peer, now);
            return;
        }
        if presence != Presence::Running {
            return;
        }
        self.host.holds.doubled.insert(machine.clone());
        let twin = Twin { peer: peer.clone(), since: now, seen: now };
        match self.watching.twins.get_mut(machine) {
            Some(known) => known.seen = now,
            None => {
                self.watching.twins.insert(machine.clone(), twin);
                out.push(Effect::Send(peer, Message::Watch(Watch::Runs(machine.clone()))));
            }
        }
    }

    /// Gives a new epoch to what somebody else has moved here, and leaves it alone for a while.
    pub(super) fn notice(&mut self, sample: &HostSample, now: Time, out: &mut Vec<Effect>) {
        // A definition says nothing of where it ran, and what still arrives has not come yet.
        let was = |presence| !matches!(presence, Presence::Defined | Presence::Incoming);
        let here = sample.machines.iter().filter(|m| was(m.presence));
        let here = here.map(|m| m.facts.id.clone()).collect();
        let Some(before) = self.watching.known.replace(here) else { return };
        for machine in sample.machines.iter().filter(|m| m.presence == Presence::Running) {
            let facts = &machine.facts;
            let Ok(entry) = &facts.entry else { continue };
            // One that was never moved by a host may just have been started: then its hypervisor has
            // to say that it came by a migration.
            let moved = match entry.handoff {
                Some(handoff) => !self.handoffs.explains(handoff),
                None => machine.arrived,
            };
            if before.contains(&facts.id) || self.handoffs.moves(&facts.id) || !moved {
                continue;
            }
            let last = entry.last_move.as_ref();
            let moves = Some(self.host.restraint.moves_with(last, now));
            let cost_percent = last.and_then(|last| last.cost_percent);
            let from = self.host.id().clone();
            let entry = Entry {
                epoch: entry.epoch.next(),
                handoff: None,
                last_move: Some(LastMove {
                    at: now,
                    from,
                    moves,
                    cost_percent,
                    others: Some(true),
                }),
                ..entry.clone()
            };
            let over = facts.entry.as_ref().ok().cloned();
            let rewrite = Rewrite { over, entry };
            out.push(Effect::Order(Order::WriteEntry(facts.id.clone(), rewrite)));
        }
    }
}

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

use rand::RngExt;

use super::pauses;
use super::scene::Scene;
use crate::effect::Effect;
use crate::flocks::Flock;
use crate::host::Host;
use crate::message::{FLOCKS_MAX, Message, RUNNING_MAX, Watch};
use crate::model::{Entry, HostId, LastMove, MachineId, Time};
use crate::port::{HostSample, LookId, Order, Presence, Rewrite, Sight};
use crate::turn::Turn;

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
pub(super) struct Twins {
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

/// What a host runs, and no handoff is about to change.
fn running<'h>(host: &'h Host, scene: &'h Scene) -> impl Iterator<Item = &'h MachineId> {
    here(host, scene, Presence::Running)
}

/// What is defined on a host and does not run, and no handoff is about to change.
fn defined<'h>(host: &'h Host, scene: &'h Scene) -> impl Iterator<Item = &'h MachineId> {
    here(host, scene, Presence::Defined)
}

fn here<'h>(
    host: &'h Host,
    scene: &'h Scene,
    presence: Presence,
) -> impl Iterator<Item = &'h MachineId> {
    let machines = host.view.machines().iter().filter(move |(_, m)| m.presence == presence);
    machines.map(|(id, _)| id).filter(|id| !scene.handoffs.moves(id))
}

fn runs(machine: &MachineId) -> Message {
    Message::Watch(Watch::Runs(machine.clone()))
}

impl Twins {
    /// Machines of this host that were seen running on another one, too.
    pub(super) fn twins(&self) -> impl Iterator<Item = (&MachineId, &Twin)> {
        self.twins.iter()
    }

    /// Machines that are defined here and do not run, and were seen running on another host.
    pub(super) fn leftovers(&self) -> impl Iterator<Item = (&MachineId, &Leftover)> {
        self.leftovers.iter()
    }

    /// Tells others what runs here.
    pub(super) fn timer(&mut self, scene: &Scene, turn: &mut Turn<'_>) {
        let here: BTreeSet<MachineId> = running(turn.host, scene).cloned().collect();
        // What does not run here any more is not said to.
        let fresh = |seen: Time| turn.now.since(seen) < TWIN_TIME_MAX;
        self.twins.retain(|id, twin| here.contains(id) && fresh(twin.seen));
        let off: BTreeSet<MachineId> = defined(turn.host, scene).cloned().collect();
        self.leftovers.retain(|id, left| off.contains(id) && fresh(left.seen));
        turn.host.holds.doubled = self.twins.keys().cloned().collect();
        self.twins.iter().for_each(|(id, twin)| turn.tell(&twin.peer, runs(id)));
        let running: Vec<u64> = here.iter().map(digest).take(RUNNING_MAX).collect();
        let mut flocks = turn.host.flocks_here();
        // All of them in turn, where they are too many.
        if flocks.len() > FLOCKS_MAX {
            let first = turn.rng.random_range(0..flocks.len());
            flocks.rotate_left(first);
            flocks.truncate(FLOCKS_MAX);
        }
        let told = Some(flocks).filter(|flocks| !flocks.is_empty());
        let mut peers = scene.draw(TOLD, turn);
        if let Some(peer) = peers.first() {
            pauses::tell(peer, turn);
        }
        if running.is_empty() {
            peers.clear();
        }
        for peer in &peers {
            turn.tell(peer, Message::Watch(Watch::Running(running.clone(), told.clone())));
        }
    }

    /// Another host says what it runs, as digests.
    pub(super) fn compare(
        &mut self,
        from: &HostId,
        theirs: Vec<u64>,
        told: Option<Vec<Flock>>,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) {
        let own = told.map(|told| turn.host.hear_flocks(from, &told, turn.now));
        if let Some(mut own) = own.filter(|own| !own.is_empty()) {
            own.truncate(FLOCKS_MAX);
            turn.tell(from, Message::Watch(Watch::Running(Vec::new(), Some(own))));
        }
        let theirs: BTreeSet<u64> = theirs.into_iter().collect();
        let both = running(turn.host, scene).filter(|id| theirs.contains(&digest(id)));
        let both = both.take(RUNS_MAX).map(|id| Effect::Send(from.clone(), runs(id)));
        turn.out.extend(both);
        let off = defined(turn.host, scene).filter(|id| theirs.contains(&digest(id)));
        for machine in off.take(RUNS_MAX).cloned().collect::<Vec<_>>() {
            self.look_into(machine, from, scene, turn);
        }
    }

    /// Looks at a machine here that another host says it runs.
    pub(super) fn look_into(
        &mut self,
        machine: MachineId,
        from: &HostId,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) {
        if self.asked.len() < RUNS_MAX && !scene.handoffs.moves(&machine) {
            let look = turn.look_for(&machine);
            self.asked.insert(machine, (from.clone(), look));
        }
    }

    /// A look tells whether a machine runs here that another host says it runs.
    pub(super) fn looked(
        &mut self,
        machine: &MachineId,
        look: LookId,
        sight: Option<&Sight>,
        scene: &Scene,
        turn: &mut Turn<'_>,
    ) {
        if self.asked.get(machine).is_none_or(|(_, from)| look < *from) {
            return;
        }
        let Some((peer, _)) = self.asked.remove(machine) else { return };
        let presence = sight.map_or(Presence::Absent, |sight| sight.presence);
        if scene.handoffs.moves(machine) {
            return;
        }
        let now = turn.now;
        if presence == Presence::Defined {
            let left = Leftover { peer: peer.clone(), since: now, seen: now };
            let known = self.leftovers.entry(machine.clone()).or_insert(left);
            (known.peer, known.seen) = (peer, now);
            return;
        }
        if presence != Presence::Running {
            return;
        }
        turn.host.holds.doubled.insert(machine.clone());
        match self.twins.get_mut(machine) {
            Some(known) => known.seen = now,
            None => {
                turn.tell(&peer, runs(machine));
                self.twins.insert(machine.clone(), Twin { peer, since: now, seen: now });
            }
        }
    }

    /// Gives a new epoch to what somebody else has moved here, and leaves it alone for a while.
    pub(super) fn notice(&mut self, sample: &HostSample, scene: &Scene, turn: &mut Turn<'_>) {
        // A definition says nothing of where it ran, and what still arrives has not come yet.
        let was = |presence| !matches!(presence, Presence::Defined | Presence::Incoming);
        let here = sample.machines.iter().filter(|m| was(m.presence));
        let here = here.map(|m| m.facts.id.clone()).collect();
        let Some(before) = self.known.replace(here) else { return };
        for machine in sample.machines.iter().filter(|m| m.presence == Presence::Running) {
            let facts = &machine.facts;
            let Ok(entry) = &facts.entry else { continue };
            // One that was never moved by a host may just have been started: then its hypervisor has
            // to say that it came by a migration.
            let moved = match entry.handoff {
                Some(handoff) => !scene.handoffs.explains(handoff),
                None => machine.arrived,
            };
            if before.contains(&facts.id) || scene.handoffs.moves(&facts.id) || !moved {
                continue;
            }
            let rewrite = Rewrite { over: Some(entry.clone()), entry: come_by_itself(entry, turn) };
            turn.order(Order::WriteEntry(facts.id.clone(), rewrite));
        }
    }
}

/// The entry of a machine that somebody else has moved here.
fn come_by_itself(entry: &Entry, turn: &Turn<'_>) -> Entry {
    let last = entry.last_move.as_ref();
    let last_move = LastMove {
        at: turn.now,
        from: turn.host.id().clone(),
        moves: Some(turn.host.settings.restraint.moves_with(last, turn.now)),
        cost_percent: last.and_then(|last| last.cost_percent),
        others: Some(true),
    };
    Entry { epoch: entry.epoch.next(), handoff: None, last_move: Some(last_move), ..entry.clone() }
}

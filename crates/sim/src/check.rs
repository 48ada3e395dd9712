//! What must hold at every moment of every run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use evenkeel_core::control::Authority;
use evenkeel_core::decision::{Decision, Judged, Reason};
use evenkeel_core::handoff::{Mark, MarkKind, Recovered};
use evenkeel_core::model::{Entry, Epoch, HostId, HostProfile, MachineId, Place, Time};
use evenkeel_core::port::{HandoffId, Order, Presence, Sight, Stamp};
use evenkeel_core::select::Price;
use evenkeel_core::witness::Seat;
use evenkeel_hypervisor::memory::MemoryCloud;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// When it was seen.
    pub at: Time,
    /// What was broken.
    pub invariant: Invariant,
    /// Where and how, in words.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.at, self.invariant.sentence(), self.detail)
    }
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Every machine runs on exactly one host, or is held on one by a handoff under way.
    RunsOnce,
    /// No machine ever runs on two hosts.
    NeverTwo,
    /// A copy that has arrived is let run only after its release is durable on the source.
    ReleasedFirst,
    /// A host never lets a copy run that it has released.
    TombstoneHolds,
    /// A copy is destroyed only if this host has not claimed it, or has released it since.
    ClaimedStays,
    /// Memory is let run only if the machine has not run since it was taken.
    MemoryFresh,
    /// Some host always holds the state of every machine, unless the host that held it died.
    NeverNone,
    /// Every machine's entry is in exactly one schedule, and can be read.
    EntryOnce,
    /// The machines of a host fit into its memory.
    MemoryFits,
    /// No two machines of an anti-affinity group share a host, none is where it must not be.
    RulesHold,
    /// No two machines of a group that keep apart across a label are at hosts with one value of it:
    /// none was brought there while another was.
    SeatsHold,
    /// A move brings its pair closer together.
    PairCloser,
    /// A move does not lift the maximum of its pair.
    MaximumNotLifted,
    /// Once nothing goes wrong any more, every handoff ends, and a machine runs again whose host has
    /// come back and starts it at boot.
    HandoffsEnd,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::RunsOnce,
        Self::NeverTwo,
        Self::ReleasedFirst,
        Self::TombstoneHolds,
        Self::ClaimedStays,
        Self::MemoryFresh,
        Self::NeverNone,
        Self::EntryOnce,
        Self::MemoryFits,
        Self::RulesHold,
        Self::SeatsHold,
        Self::PairCloser,
        Self::MaximumNotLifted,
        Self::HandoffsEnd,
    ];

    /// The invariant as a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::RunsOnce => "every machine runs on exactly one host",
            Self::NeverTwo => "no machine runs on two hosts",
            Self::ReleasedFirst => "what arrives is let run only after it was released",
            Self::TombstoneHolds => "what was released is not let run",
            Self::ClaimedStays => "what was claimed is not destroyed",
            Self::MemoryFresh => "no stale memory is let run",
            Self::NeverNone => "some host holds every machine",
            Self::EntryOnce => "every entry is in exactly one schedule",
            Self::MemoryFits => "the machines of a host fit into its memory",
            Self::RulesHold => "no rule is broken",
            Self::SeatsHold => "no rule across a label is broken",
            Self::PairCloser => "a move brings its pair closer together",
            Self::MaximumNotLifted => "a move does not lift the maximum of its pair",
            Self::HandoffsEnd => "every handoff ends, and what is started at boot runs",
        }
    }
}

/// Looks for broken invariants and remembers what it found, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    expected: BTreeSet<MachineId>,
    /// Machines that their hosts start at boot, and that nobody has stopped.
    kept_up: BTreeSet<MachineId>,
    /// Machines that an operator has claimed, for which nothing need be released.
    claimed: BTreeSet<MachineId>,
    /// Copies that stood still while another copy of the machine ran, each until it is gone.
    outdated: BTreeMap<(MachineId, HostId), Stamp>,
    /// The highest epoch of each machine that was ever written to be released: a store may be lost
    /// after that.
    released: BTreeMap<MachineId, Epoch>,
    /// Machines that keep apart across a label: since when each is on a host, counted, and whether a
    /// handoff brought it there.
    seated: BTreeMap<(MachineId, HostId), (u64, bool)>,
    /// Where each handoff was to bring its machine.
    sent: BTreeMap<HandoffId, HostId>,
    violations: Vec<Violation>,
}

/// One is too many; more than this tell nothing new.
const VIOLATIONS_MAX: usize = 100;

impl Checker {
    pub(crate) fn expect(&mut self, machine: MachineId) {
        self.expected.insert(machine);
    }

    /// Its host starts this machine at boot, or not any more.
    pub(crate) fn keep_up(&mut self, machine: &MachineId, kept: bool) {
        if kept {
            self.kept_up.insert(machine.clone());
        } else {
            self.kept_up.remove(machine);
        }
    }

    pub(crate) fn keeps_up(&self, machine: &MachineId) -> bool {
        self.kept_up.contains(machine)
    }

    /// Whether what is started at boot runs, once nothing goes wrong any more.
    pub(crate) fn check_kept_up(&mut self, at: Time, cloud: &MemoryCloud) {
        for machine in self.kept_up.clone() {
            let copies: Vec<_> = cloud.copies(&machine).collect();
            // One that is held may wait for a person.
            let up = |p| !matches!(p, Presence::Incoming | Presence::Defined | Presence::Absent);
            if !copies.iter().any(|(_, sight)| up(sight.presence)) {
                self.found(at, Invariant::HandoffsEnd, format!("`{machine}` is off: {copies:?}"));
            }
        }
    }

    pub(crate) fn forget(&mut self, machine: &MachineId) {
        self.expected.remove(machine);
    }

    /// A mark has become durable.
    pub(crate) fn wrote(&mut self, mark: &Mark) {
        if mark.kind == MarkKind::Released {
            let epoch = self.released.entry(mark.machine.clone()).or_insert(mark.epoch);
            *epoch = mark.epoch.max(*epoch);
        }
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn found(&mut self, at: Time, invariant: Invariant, detail: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { at, invariant, detail });
        }
    }

    /// Where every machine is, and every host.
    pub(crate) fn check_all<'a>(
        &mut self,
        at: Time,
        hosts: impl Iterator<Item = (&'a HostProfile, f64)>,
        cloud: &MemoryCloud,
    ) {
        let mut runs: BTreeMap<MachineId, u32> = BTreeMap::new();
        let mut entries: BTreeMap<MachineId, u32> = BTreeMap::new();
        let mut held: BTreeSet<MachineId> = BTreeSet::new();
        for (host, promisable) in hosts {
            for (facts, presence) in cloud.machines_on(&host.id) {
                match presence {
                    Presence::Incoming => continue,
                    Presence::Held | Presence::Stranded => {
                        held.insert(facts.id.clone());
                        continue;
                    }
                    _ => {}
                }
                *runs.entry(facts.id.clone()).or_default() += u32::from(presence.is_resident());
                *entries.entry(facts.id.clone()).or_default() += u32::from(facts.entry.is_ok());
            }
            self.check_host(at, (host, promisable), cloud);
        }
        for machine in self.expected.clone() {
            for (count, invariant) in
                [(&runs, Invariant::RunsOnce), (&entries, Invariant::EntryOnce)]
            {
                let count = count.get(&machine).copied().unwrap_or(0);
                if count != 1 && !(count == 0 && held.contains(&machine)) {
                    self.found(at, invariant, format!("`{machine}` on {count} hosts"));
                }
            }
            self.check_machine(at, &machine, cloud);
        }
    }

    pub(crate) fn note_claim(&mut self, machine: MachineId) {
        self.claimed.insert(machine);
    }

    /// Every copy of a machine, after one of them has changed.
    pub(crate) fn check_machine(&mut self, at: Time, machine: &MachineId, cloud: &MemoryCloud) {
        let copies: Vec<_> = cloud.copies(machine).collect();
        let runs = |p| matches!(p, Presence::Running | Presence::Leaving);
        let detail = || format!("`{machine}`: {copies:?}");
        let here = |host: &HostId| copies.iter().find(|(at, _)| *at == host).map(|(_, s)| s.stamp);
        self.outdated.retain(|(of, host), stamp| of != machine || here(host) == Some(*stamp));
        for (host, sight) in &copies {
            let stands = sight.presence.is_resident() && !runs(sight.presence);
            let elsewhere =
                |(at, other): &(&HostId, Sight)| at != host && other.presence == Presence::Running;
            if stands && copies.iter().any(elsewhere) {
                self.outdated.insert((machine.clone(), (*host).clone()), sight.stamp);
            }
        }
        if copies.iter().filter(|(_, sight)| runs(sight.presence)).count() > 1 {
            self.found(at, Invariant::NeverTwo, detail());
        }
        let holds = |p| !matches!(p, Presence::Incoming | Presence::Absent);
        if self.expected.contains(machine) && !copies.iter().any(|(_, s)| holds(s.presence)) {
            self.found(at, Invariant::NeverNone, detail());
        }
    }

    /// An order that a host gives, by what is durable on all of them before it is carried out.
    pub(crate) fn check_order(&mut self, at: Time, host: &HostId, order: &Order, own: &Recovered) {
        if let Order::Migrate(migration) = order {
            self.sent.insert(migration.handoff, migration.to.clone());
        }
        let (Order::Resume(machine, stamp)
        | Order::Start(machine, stamp)
        | Order::Discard(machine, stamp)) = order
        else {
            return;
        };
        let stale = self.outdated.get(&(machine.clone(), host.clone())) == Some(stamp);
        if stale && matches!(order, Order::Resume(..)) && !self.claimed.contains(machine) {
            self.found(at, Invariant::MemoryFresh, format!("`{host}`: {order:?}"));
        }
        let of = |store: &Recovered, kind| -> Option<Mark> {
            let mut marks = store.marks.iter();
            marks.find(|mark| mark.kind == kind && mark.machine == *machine).cloned()
        };
        let tombstone = of(own, MarkKind::Released);
        let buried = tombstone.as_ref().is_some_and(|mark| mark.epoch > stamp.epoch);
        let claimed = of(own, MarkKind::Claimed);
        let is_own = claimed.is_some_and(|mark| Some(mark.handoff) == stamp.handoff);
        let detail = || format!("`{host}`: {order:?}, {tombstone:?}");
        let broken = match order {
            Order::Resume(..) | Order::Start(..) if buried => Invariant::TombstoneHolds,
            Order::Discard(..) if is_own && !buried => Invariant::ClaimedStays,
            Order::Resume(..) | Order::Start(..) if is_own && !self.claimed.contains(machine) => {
                if self.released.get(machine).is_some_and(|epoch| *epoch >= stamp.epoch) {
                    return;
                }
                Invariant::ReleasedFirst
            }
            _ => return,
        };
        let detail = detail();
        self.found(at, broken, detail);
    }

    /// One host, of which so many bytes of memory may be promised, after its schedule has changed.
    pub(crate) fn check_host(
        &mut self,
        at: Time,
        (host, promisable): (&HostProfile, f64),
        cloud: &MemoryCloud,
    ) {
        let id = &host.id;
        let mut committed = 0.0;
        let mut groups: BTreeMap<_, (&MachineId, bool)> = BTreeMap::new();
        let mut broken = Vec::new();
        for (facts, presence) in cloud.machines_on(id) {
            if !presence.is_resident() {
                continue;
            }
            committed += facts.memory_bytes;
            if let Ok(entry) = &facts.entry {
                if is_misplaced(entry, host) {
                    broken.push(format!("`{}` is pinned elsewhere than `{id}`", facts.id));
                }
                for group in &entry.rules.anti_affinity {
                    let (key, soft) = ((group.name(), group.label()), group.is_soft());
                    if let Some((other, yields)) = groups.insert(key, (&facts.id, soft))
                        && !(soft && yields)
                    {
                        broken.push(format!("`{}` and `{other}` share `{id}`", facts.id));
                    }
                }
            }
        }
        for detail in broken {
            self.found(at, Invariant::RulesHold, detail);
        }
        // The sum of a thousand machines is not exact to the byte.
        if committed > promisable * (1.0 + 1e-12) {
            let detail = format!("{committed:.0} bytes of {promisable:.0} on `{id}`");
            self.found(at, Invariant::MemoryFits, detail);
        }
    }

    /// A machine on one host, after it has changed there: whether it shares its seat with another one
    /// elsewhere, and a handoff brought the later of the two.
    pub(crate) fn check_seats<'a>(
        &mut self,
        at: Time,
        host: &HostProfile,
        machine: &MachineId,
        hosts: impl Iterator<Item = &'a HostProfile>,
        cloud: &MemoryCloud,
    ) {
        let key = |machine: &MachineId, host: &HostId| (machine.clone(), host.clone());
        let mut here = cloud.machines_on(&host.id).filter(|(_, p)| p.is_resident());
        let found = here.find(|(facts, _)| facts.id == *machine);
        let entry = found.and_then(|(facts, _)| facts.entry.as_ref().ok());
        let seats = entry.map(|e| Seat::needed(&e.rules.anti_affinity, &host.labels));
        let Some((entry, seats)) = entry.zip(seats).filter(|(_, seats)| !seats.is_empty()) else {
            self.seated.remove(&key(machine, &host.id));
            return;
        };
        let next = 1 + self.seated.values().map(|(since, _)| *since).max().unwrap_or(0);
        let sent = entry.handoff.and_then(|handoff| self.sent.get(&handoff));
        let own = (next, sent == Some(&host.id));
        let own = *self.seated.entry(key(machine, &host.id)).or_insert(own);
        for other in hosts {
            if !seats.iter().any(|seat| seat.is_on(&other.labels)) {
                continue;
            }
            for (facts, presence) in cloud.machines_on(&other.id) {
                let Ok(theirs) = &facts.entry else { continue };
                let groups = &theirs.rules.anti_affinity;
                let clash = |a: &Seat, b: &Seat| {
                    let hard = !a.group.is_soft() || !b.group.is_soft();
                    hard && a.group.is(&b.group) && a.value == b.value
                };
                let clash = presence.is_resident()
                    && facts.id != *machine
                    && Seat::needed(groups, &other.labels)
                        .iter()
                        .any(|b| seats.iter().any(|a| clash(a, b)));
                let theirs = self.seated.get(&key(&facts.id, &other.id)).copied();
                if clash && own.max(theirs.unwrap_or_default()).1 {
                    let detail = format!(
                        "`{machine}` on `{}` and `{}` ({presence:?}) on `{}`",
                        host.id, facts.id, other.id
                    );
                    self.found(at, Invariant::SeatsHold, detail);
                }
            }
        }
    }

    /// A record of a decision, by its own figures. A host that is being emptied gives to more loaded
    /// ones, too, so does one where a rule is broken, and who was told to go goes.
    pub(crate) fn check_record(&mut self, at: Time, decision: &Decision, is_emptied: bool) {
        let repaired = |of: &Judged| of.verdict == Reason::RuleRepaired;
        let told = decision.authority == Authority::Told;
        if told || is_emptied || decision.candidates.iter().any(repaired) {
            return;
        }
        let (Reason::Moved, Some(pair), Some(chosen)) =
            (decision.ending, decision.pair, decision.chosen())
        else {
            return;
        };
        let (Some(at_donor), Some(at_receiver)) = (chosen.at_donor, chosen.at_receiver) else {
            return;
        };
        let returned = decision.candidates.iter().find(|c| c.verdict == Reason::Returned);
        let (back_there, back_here) = match returned.map(|r| (r.at_donor, r.at_receiver)) {
            None => (0.0, 0.0),
            Some((Some(at_donor), Some(at_receiver))) => (at_donor, at_receiver),
            // What it loads the donor, only the donor's record says.
            Some(_) => return,
        };
        let price = Price { at_donor: at_donor - back_there, at_receiver: at_receiver - back_here };
        let detail = || {
            let (exchange, machine) = (decision.exchange, &chosen.machine);
            format!("exchange {exchange}, machine `{machine}`, {pair:?}, {price:?}")
        };
        if pair.difference_after(price) >= pair.difference() {
            self.found(at, Invariant::PairCloser, detail());
        }
        if pair.receiver + price.at_receiver >= pair.donor {
            self.found(at, Invariant::MaximumNotLifted, detail());
        }
    }
}

fn is_misplaced(entry: &Entry, host: &HostProfile) -> bool {
    // A machine may have been started where it is not pinned to; balancing must not bring it there.
    let hard = || entry.rules.pinned_to.iter().filter(|place| !place.is_soft());
    let named = |place: &&Place| place.names(&host.id, &host.labels);
    let mut wanted = hard().filter(|place| !place.is_not()).peekable();
    let right = wanted.peek().is_none() || wanted.any(|place| named(&place));
    let avoided = hard().filter(|place| place.is_not()).any(|place| named(&place));
    entry.last_move.is_some() && (!right || avoided)
}

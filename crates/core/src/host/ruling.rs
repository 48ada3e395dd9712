//! What rules say of a host's machines: of those that are here, that may leave and that could come.
//!
//! **Repair.** What breaks a rule where it is did not come there by the balancer: somebody moved or
//! started it there, or changed a rule or a label. Such a machine is *misplaced*, and given to
//! whoever is right for it, whatever the loads. Of machines that must not be together all but one
//! are: the one that cannot move stays, else that of the highest priority, else the first by id. It
//! ends: a machine goes only to where all its hard rules hold, and those of the machines there, so that
//! the number of machines whose hard rules are broken falls with every such move, but for those that
//! gather, which end by themselves (see [`crate::rules`]); soft rules are mended only where no hard one
//! breaks by it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Host, ToGive};
use crate::ceiling::Measure;
use crate::control::Authority;
use crate::flocks::Flock;
use crate::load::Machine;
use crate::message::{Candidate, PROTOCOL};
use crate::model::{Group, HostId, HostState, Hosts, MachineId, Rules, Time};
use crate::reason::Reason;
use crate::rules::{
    Broken, Labels, Tie, clash, graver, of_apart, of_places, of_share, of_together,
};

/// Whether what has these rules stays together with a group.
fn stays_with(rules: &Rules, group: &Group) -> bool {
    rules.affinity.iter().any(|other| other.is(group))
}

/// The first version of the protocol that judges all rules.
const JUDGES_RULES: u16 = 3;

/// Whom a machine may be given to.
#[derive(Clone, Copy, Debug)]
pub struct Toward<'a> {
    /// The host.
    pub peer: &'a HostId,
    /// The protocol that it understands, if it says so.
    pub protocol: Option<u16>,
    /// Its labels, where they are known already.
    pub labels: Option<&'a Labels>,
    /// Whether only what is misplaced is given.
    pub mending: bool,
    /// On whose word.
    pub authority: Authority,
}

impl<'a> Toward<'a> {
    /// To a host that understands this version, as far as is known: what is offered to it in the end
    /// is judged by what it says.
    #[must_use]
    pub const fn of(peer: &'a HostId) -> Self {
        Self {
            peer,
            protocol: Some(PROTOCOL),
            labels: None,
            mending: false,
            authority: Authority::Automatic,
        }
    }
}

/// A machine that breaks a rule where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The rule.
    pub broken: Broken,
    /// Hosts that are known to be worth asking.
    pub to: Vec<HostId>,
}

impl Host {
    /// Its machines that break a rule where they are and may be given away, if it mends rules.
    #[must_use]
    pub fn misplaced(&self, now: Time) -> BTreeMap<MachineId, Misplaced> {
        let mut found = BTreeMap::new();
        if !self.settings.repair {
            return found;
        }
        for (id, machine, rules) in self.staying() {
            if is_fixed(machine) {
                continue;
            }
            let placed = of_places(rules, self.id(), Some(&self.profile.labels));
            let apart = self.yields_to(id, machine, rules);
            let rival = rules.anti_affinity.iter().find(|g| self.flocks.has_rival(g, now));
            let rival =
                rival.map(|g| Broken { reason: Reason::RuleAntiAffinity, soft: g.is_soft() });
            let wanted = rules.pinned_to.iter().filter(|place| !place.is_not());
            let named = wanted.filter_map(|place| match place.hosts() {
                Hosts::One(host) => Some(host.clone()),
                Hosts::Labelled { .. } => None,
            });
            let worst = graver(graver(placed, apart), rival);
            let mut worst = worst.map(|broken| (broken, named.collect()));
            for group in &rules.affinity {
                let own = 1 + self.mates(id, group, true);
                let Some(leader) = self.flocks.leader(group, own, now) else { continue };
                let broken = Broken { reason: Reason::RuleAffinity, soft: group.is_soft() };
                if worst.as_ref().is_none_or(|(b, _)| b.soft && !broken.soft) {
                    worst = Some((broken, vec![leader.clone()]));
                }
            }
            if let Some((broken, to)) = worst {
                found.insert(id.clone(), Misplaced { broken, to });
            }
        }
        found
    }

    /// Whether something is to be given because of a rule: a hard one at any time, a soft one while
    /// nothing presses. What is being emptied gives all.
    #[must_use]
    pub fn mends(&self, now: Time) -> bool {
        if self.state == HostState::Draining {
            return false;
        }
        let misplaced = self.misplaced(now);
        misplaced.values().any(|m| !m.broken.soft)
            || !misplaced.is_empty() && self.wants_to_give(now) == ToGive::Nothing
    }

    /// What is to be mended now: what breaks a hard rule, or if nothing does, what breaks a soft one.
    pub(super) fn mended(&self, now: Time) -> BTreeMap<MachineId, Misplaced> {
        let mut misplaced = self.misplaced(now);
        let hard = is_hard(&misplaced);
        misplaced.retain(|_, m| m.broken.soft != hard);
        misplaced
    }

    /// What is here and not about to leave, with its rules.
    fn staying(&self) -> impl Iterator<Item = (&MachineId, &Machine, &Rules)> {
        let machines = self.view.machines().iter();
        let stays = machines
            .filter(|(id, m)| m.presence.is_resident() && !self.holds.outgoing.contains(*id));
        stays.filter_map(|(id, m)| Some((id, m, &m.entry()?.rules)))
    }

    /// Whether a machine has to make way for another of this host.
    fn yields_to(&self, id: &MachineId, machine: &Machine, rules: &Rules) -> Option<Broken> {
        if rules.anti_affinity.is_empty() {
            return None;
        }
        let rank = |id, m, rules: &Rules| (!is_fixed(m), -rules.priority, id);
        let own = rank(id, machine, rules);
        let others = self.staying().filter(|(other, ..)| *other != id);
        let before = others.filter(|(other, m, theirs)| rank(*other, m, theirs) < own);
        before.fold(None, |found, (_, _, theirs)| graver(found, clash(rules, theirs)))
    }

    /// How many others of a group that stays together are here; machines on their way here are, or
    /// are not, as is safer. That this is still so when a machine arrives, [`Self::lets_go`] and
    /// [`Self::lets_come`] see to: of one group no host gives while it takes, or takes while it gives. What has to leave itself holds nobody back.
    fn mates(&self, id: &MachineId, group: &Group, with_incoming: bool) -> u32 {
        let leaves = |rules: &Rules| {
            let found = of_places(rules, self.id(), Some(&self.profile.labels));
            found.is_some_and(|broken| !broken.soft)
        };
        let here = self.staying().filter(|(other, m, rules)| {
            *other != id && stays_with(rules, group) && (is_fixed(m) || !leaves(rules))
        });
        let incoming = self
            .holds
            .incoming
            .values()
            .filter(|i| i.machine != *id && stays_with(&i.rules, group));
        let landed = self.holds.landed.iter();
        let landed = landed.filter(|(other, l)| *other != id && stays_with(&l.rules, group));
        let count =
            here.count() + landed.count() + if with_incoming { incoming.count() } else { 0 };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What the target is told of a machine's groups that stay together.
    pub(super) fn ties(&self, id: &MachineId, rules: &Rules) -> Vec<Tie> {
        let tie = |group: &Group| Tie {
            mates: if group.label().is_none() { self.mates(id, group, true) } else { 0 },
            value: group.label().and_then(|label| self.profile.labels.get(label).cloned()),
        };
        rules.affinity.iter().map(tie).collect()
    }

    /// Whether rules let a machine of this host go to another, as far as this side can judge.
    pub(super) fn lets_go(
        &self,
        id: &MachineId,
        rules: &Rules,
        toward: &Toward<'_>,
        pressing: bool,
        now: Time,
    ) -> Result<(), Reason> {
        // An operator has named this very machine.
        let told = toward.authority == Authority::Told;
        if rules.ignore && !told {
            return Err(Reason::RuleIgnored);
        }
        if rules.never_live && !told {
            return Err(Reason::RuleNeverLive);
        }
        let mut found = of_places(rules, toward.peer, toward.labels);
        for group in rules.affinity.iter().filter(|group| group.label().is_none()) {
            let mates = self.mates(id, group, true);
            let leader = self.flocks.leader(group, mates + 1, now);
            let kept = leader.map_or(mates == 0, |leader| leader == toward.peer)
                && !self.holds.incoming.values().any(|i| stays_with(&i.rules, group));
            if !kept {
                let broken = Broken { reason: Reason::RuleAffinity, soft: group.is_soft() };
                found = graver(found, Some(broken));
            }
        }
        if let Some(reason) = found.and_then(|broken| broken.refusal(pressing)) {
            return Err(reason);
        }
        if judges_rules(toward.protocol) || rules.are_of_the_first_version() {
            Ok(())
        } else {
            Err(Reason::Version)
        }
    }

    /// Whether rules still let a machine go that was promised.
    pub(crate) fn still_lets_go(&self, id: &MachineId, peer: &HostId, now: Time) -> bool {
        let entry = self.view.machines().get(id).and_then(Machine::entry);
        let toward = Toward::of(peer);
        entry.is_some_and(|e| self.lets_go(id, &e.rules, &toward, true, now).is_ok())
    }

    /// Whether rules let a machine of another host come here.
    ///
    /// # Errors
    /// Which kind of rule does not.
    pub(super) fn lets_come(&self, candidate: &Candidate, pressing: bool) -> Result<(), Reason> {
        let first;
        let rules = match &candidate.rules {
            Some(rules) => rules,
            None => {
                let anti_affinity = candidate.anti_affinity.clone();
                first = Rules { anti_affinity, ..Rules::default() };
                &first
            }
        };
        let labels = &self.profile.labels;
        let here = self.view.machines().iter().filter(|(id, _)| **id != candidate.machine);
        let here = here.filter_map(|(_, m)| Some(&m.entry()?.rules));
        let incoming = self.holds.incoming.values().map(|incoming| &incoming.rules);
        let landed = self.holds.landed.iter().filter(|(id, _)| **id != candidate.machine);
        let incoming = incoming.chain(landed.map(|(_, landed)| &landed.rules));
        let mates = |group: &Group| self.mates(&candidate.machine, group, false);
        // It would come to where a mate has counted on leaving nobody behind.
        let leaving = |group: &&Group| {
            let leaving = self.holds.outgoing.iter().filter(|id| **id != candidate.machine);
            let mut rules = leaving.filter_map(|id| self.view.machines().get(id)?.entry());
            group.label().is_none() && rules.any(|entry| stays_with(&entry.rules, group))
        };
        let crossed = rules.affinity.iter().find(leaving);
        let crossed = crossed.map(|g| Broken { reason: Reason::RuleAffinity, soft: g.is_soft() });
        let ties = candidate.ties.as_deref().unwrap_or_default();
        let found = [
            of_places(rules, self.id(), Some(labels)),
            of_apart(rules, labels, here.chain(incoming)),
            of_together(rules, labels, ties, mates),
            of_share(rules, self.profile.price(&candidate.factors)),
            crossed,
        ];
        let found = found.into_iter().fold(None, graver);
        found.and_then(|broken| broken.refusal(pressing)).map_or(Ok(()), Err)
    }

    /// What it tells others of the groups that it has members of.
    #[must_use]
    pub fn flocks_here(&self) -> Vec<Flock> {
        let mut told = BTreeMap::new();
        for (_, _, rules) in self.staying() {
            let together = rules.affinity.iter().filter(|group| group.label().is_none());
            let apart = rules.anti_affinity.iter().filter_map(|group| {
                Some((group, Some(self.profile.labels.get(group.label()?)?.clone())))
            });
            let each: BTreeSet<_> = together.map(|group| (group, None)).chain(apart).collect();
            for (group, value) in each {
                *told.entry((group.hardened(), value)).or_default() += 1;
            }
        }
        let flock = |((group, value), members)| Flock { group, members, value };
        told.into_iter().map(flock).collect()
    }

    /// Another host has told of its groups. Answers what it should hear of in return.
    pub fn hear_flocks(&mut self, from: &HostId, told: &[Flock], now: Time) -> Vec<Flock> {
        let mut own = self.flocks_here();
        own.retain(|flock| {
            let same = |t: &&Flock| t.group.is(&flock.group) && t.value == flock.value;
            told.iter().find(same).is_some_and(|told| {
                self.flocks.hear(&self.profile.id, flock.members, from, told, now)
            })
        });
        own
    }

    /// Whether a move is about something that soft rules yield to.
    pub(super) fn is_pressing(&self, measure: Measure, mends: Option<bool>) -> bool {
        self.state == HostState::Draining || measure.is_some() || mends == Some(true)
    }
}

/// Whether an agent that understands this protocol judges all rules.
pub(super) fn judges_rules(protocol: Option<u16>) -> bool {
    protocol >= Some(JUDGES_RULES)
}

/// Whether what is to be mended breaks hard rules.
pub(super) fn is_hard(mended: &BTreeMap<MachineId, Misplaced>) -> bool {
    mended.values().any(|m| !m.broken.soft)
}

/// Whether the balancer does not move a machine, wherever it is.
fn is_fixed(machine: &Machine) -> bool {
    machine.entry().is_none_or(|entry| entry.rules.ignore || entry.rules.never_live)
}

//! Failed migrations: what they say of a machine, of a host, and of a pair of both.
//!
//! A migration takes three parties: a machine, the host that gives it and the host that takes it. One
//! failure does not tell whose it is. What is certain is that **the pair** failed, so the machine is not
//! tried at that host again soon, and any other host is tried at once. More failures tell more:
//!
//! - A host at which **different machines** fail is *left out*: nothing is offered to it for a while. A
//!   circuit breaker, in other words. When the time is over, one machine is tried there. Its success
//!   ends it; its failure leaves the host out for twice as long.
//! - A machine that fails at **different hosts** is *quarantined*: it is left alone for a time that
//!   doubles with every further failure. A failure at a host that is left out is held against that host.
//!   Against the machine it counts only with the third such host, for then the machine is what these
//!   failures have in common.
//!
//! Every host judges the others by its own failures. A host also judges **itself**: if migrations to it
//! fail from different hosts, it takes nothing for a while. So a broken host stops the attempts of a
//! large cluster after a few of them, and no single other host, broken or lying, can stop it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{HostId, MachineId, Time};
use crate::reason::Reason;

/// So many different machines must fail at a host before it is left out, and at so many different
/// hosts a machine before it is quarantined.
const DIFFERENT: usize = 2;
/// At so many hosts a machine must fail before it counts that they are left out.
const DIFFERENT_LEFT_OUT: usize = 3;
/// A failure is evidence against a host for so many times the quarantine.
const EVIDENCE_FACTOR: u32 = 6;
/// A host is left out for at most so many times the quarantine: it may have been mended meanwhile.
const LEFT_OUT_FACTOR_MAX: u32 = 16;
/// Most words that are kept of a failure, in characters.
const WORDS_MAX: usize = 400;

/// A host to which no machine is given for a while, because migrations to it have failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The host; of the host that says so itself if it takes nothing.
    pub host: HostId,
    /// Since when.
    pub since: Time,
    /// When one machine is tried again.
    pub until: Time,
    /// The machines that failed.
    pub machines: Vec<MachineId>,
    /// What the hypervisor said of the last of them.
    pub detail: String,
}

/// How often something failed, and when last.
#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    last: Time,
}

impl Failed {
    /// For how long nothing is tried after that.
    fn is_over(&self, quarantine: Duration, now: Time) -> bool {
        let doublings = self.times.saturating_sub(1).min(30);
        now.since(self.last) >= quarantine.saturating_mul(1 << doublings)
    }
}

/// What is held against one host.
#[derive(Clone, Debug, Default)]
struct Breaker {
    /// What failed there since something succeeded: whose machine, and when.
    evidence: BTreeMap<MachineId, (HostId, Time)>,
    /// What was said last.
    words: String,
    /// Since when it is left out, and until when.
    open: Option<(Time, Time)>,
    /// How often in a row that was so.
    trips: u32,
    /// Whether one machine is being tried.
    trying: bool,
}

impl Breaker {
    fn is_left_out(&self, now: Time) -> bool {
        self.open.is_some_and(|(_, until)| now < until)
    }

    fn trip(&mut self, quarantine: Duration, now: Time) {
        let factor = LEFT_OUT_FACTOR_MAX.min(1 << self.trips.min(30));
        let since = self.open.map_or(now, |(since, _)| since);
        self.open = Some((since, now + quarantine.saturating_mul(factor)));
        self.trips = self.trips.saturating_add(1);
        self.trying = false;
    }

    fn add(&mut self, machine: &MachineId, from: &HostId, words: &str, now: Time) {
        self.words = words.chars().take(WORDS_MAX).collect();
        self.evidence.insert(machine.clone(), (from.clone(), now));
    }

    fn age(&mut self, quarantine: Duration, now: Time) {
        let lasts = quarantine.saturating_mul(EVIDENCE_FACTOR);
        self.evidence.retain(|_, (_, at)| now.since(*at) < lasts);
    }

    fn said(&self, host: &HostId, now: Time) -> Option<LeftOut> {
        let (since, until) = self.open.filter(|_| self.is_left_out(now))?;
        Some(LeftOut {
            host: host.clone(),
            since,
            until,
            machines: self.evidence.keys().cloned().collect(),
            detail: self.words.clone(),
        })
    }
}

/// What a host remembers of migrations that failed.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    pairs: BTreeMap<MachineId, BTreeMap<HostId, Failed>>,
    /// Machines that failed whatever the other host is.
    machines: BTreeMap<MachineId, Failed>,
    hosts: BTreeMap<HostId, Breaker>,
    /// Migrations to this host itself.
    own: Breaker,
}

impl Failures {
    /// A machine of this host could not be migrated to `peer`; what was said of it.
    pub fn gave_in_vain(
        &mut self,
        (machine, peer): (&MachineId, &HostId),
        own: &HostId,
        words: &str,
        quarantine: Duration,
        now: Time,
    ) {
        self.pair_failed(machine, peer, now);
        let breaker = self.hosts.entry(peer.clone()).or_default();
        breaker.age(quarantine, now);
        breaker.add(machine, own, words, now);
        let again = breaker.open.is_some() && (breaker.trying || !breaker.is_left_out(now));
        let guilty = self.judge_machine(machine, now);
        let evidence = self.hosts.get(peer).map(|b| b.evidence.keys().cloned());
        let evidence: Vec<_> = evidence.into_iter().flatten().collect();
        let innocent = evidence.iter().filter(|m| !self.machines.contains_key(*m)).count();
        if guilty {
            self.acquit();
        }
        let Some(breaker) = self.hosts.get_mut(peer) else { return };
        let newly = breaker.open.is_none() && innocent >= DIFFERENT;
        if newly || again && !guilty {
            breaker.trip(quarantine, now);
        } else if guilty {
            undecided(breaker, now);
        }
    }

    /// A machine of this host cannot go to `peer` for now, for a reason that the two have together.
    pub fn pair_failed(&mut self, machine: &MachineId, peer: &HostId, now: Time) {
        let pair = self.pairs.entry(machine.clone()).or_default();
        let pair = pair.entry(peer.clone()).or_insert(Failed { times: 0, last: now });
        (pair.times, pair.last) = (pair.times.saturating_add(1), now);
    }

    /// Whether it is the machine that fails: at different hosts. It is left alone then.
    fn judge_machine(&mut self, machine: &MachineId, now: Time) -> bool {
        let failed = self.pairs.get(machine).into_iter().flatten();
        let is_open = |host: &HostId| self.hosts.get(host).is_some_and(|b| b.open.is_some());
        let (left_out, fine): (Vec<_>, Vec<_>) = failed.partition(|(host, _)| is_open(host));
        let known = self.machines.get(machine).map_or(0, |failed| failed.times);
        let guilty = fine.len() >= DIFFERENT
            || fine.len() + left_out.len() >= DIFFERENT_LEFT_OUT
            || known > 0;
        if guilty {
            self.machines
                .insert(machine.clone(), Failed { times: known.saturating_add(1), last: now });
        }
        guilty
    }

    /// Hosts at which nothing failed but machines that fail everywhere are not what is to blame.
    fn acquit(&mut self) {
        let guilty: BTreeSet<_> = self.machines.keys().cloned().collect();
        self.hosts.retain(|_, breaker| {
            breaker.open.is_none() || breaker.evidence.keys().any(|m| !guilty.contains(m))
        });
    }

    /// A migration of a machine of this host is about to begin. One is enough to try a host that was
    /// left out.
    pub fn begins(&mut self, peer: &HostId, quarantine: Duration, now: Time) {
        if let Some(breaker) = self.hosts.get_mut(peer) {
            begin(breaker, quarantine, now);
        }
    }

    /// It came to nothing, and that says nothing of either.
    pub fn undecided(&mut self, peer: &HostId, now: Time) {
        if let Some(breaker) = self.hosts.get_mut(peer) {
            undecided(breaker, now);
        }
    }

    /// A machine of this host has moved to `peer`.
    pub fn gave(&mut self, machine: &MachineId, peer: &HostId) {
        self.forget(machine);
        // What else failed there failed because of that host.
        let was_left_out = self.hosts.remove(peer).is_some_and(|breaker| breaker.open.is_some());
        if was_left_out {
            self.forget_pairs(peer);
        }
    }

    /// A machine of `peer` could not be migrated to this host.
    pub fn took_in_vain(
        &mut self,
        (machine, peer): (&MachineId, &HostId),
        words: &str,
        quarantine: Duration,
        now: Time,
    ) {
        self.own.age(quarantine, now);
        self.own.add(machine, peer, words, now);
        let givers: BTreeSet<_> = self.own.evidence.values().map(|(host, _)| host).collect();
        let different = self.own.evidence.len() >= DIFFERENT && givers.len() >= DIFFERENT;
        let again = self.own.open.is_some() && (self.own.trying || !self.own.is_left_out(now));
        if again || self.own.open.is_none() && different {
            self.own.trip(quarantine, now);
        }
    }

    /// A migration to this host is about to begin.
    pub fn arrives(&mut self, quarantine: Duration, now: Time) {
        begin(&mut self.own, quarantine, now);
    }

    /// It came to nothing, and that says nothing of this host.
    pub fn arrived_undecided(&mut self, now: Time) {
        undecided(&mut self.own, now);
    }

    /// A machine has moved to this host.
    pub fn took(&mut self, machine: &MachineId) {
        self.forget(machine);
        self.own = Breaker::default();
    }

    /// Evidence against hosts stays: what has moved is sound itself.
    fn forget(&mut self, machine: &MachineId) {
        self.machines.remove(machine);
        self.pairs.remove(machine);
    }

    /// Forgets machines that are not here any more.
    pub fn retain(&mut self, is_here: impl Fn(&MachineId) -> bool) {
        self.machines.retain(|machine, _| is_here(machine));
        self.pairs.retain(|machine, _| is_here(machine));
    }

    /// A host is not of the cluster any more.
    pub fn removed(&mut self, host: &HostId) {
        self.hosts.remove(host);
        self.forget_pairs(host);
    }

    fn forget_pairs(&mut self, host: &HostId) {
        for hosts in self.pairs.values_mut() {
            hosts.remove(host);
        }
    }

    /// Whether a machine may be tried at a host.
    ///
    /// # Errors
    /// [`Reason::Quarantined`], [`Reason::TargetFails`] or [`Reason::FailedThere`], if not.
    pub fn may_try(
        &self,
        machine: &MachineId,
        peer: &HostId,
        quarantine: Duration,
        now: Time,
    ) -> Result<(), Reason> {
        if self.machines.get(machine).is_some_and(|failed| !failed.is_over(quarantine, now)) {
            return Err(Reason::Quarantined);
        }
        let breaker = self.hosts.get(peer);
        if breaker.is_some_and(|breaker| breaker.is_left_out(now)) {
            return Err(Reason::TargetFails);
        }
        // A host that was left out is tried with another machine first.
        let factor = if breaker.is_some_and(|breaker| breaker.open.is_some()) { 2 } else { 1 };
        let pair = self.pairs.get(machine).and_then(|hosts| hosts.get(peer));
        if pair.is_some_and(|failed| !failed.is_over(quarantine.saturating_mul(factor), now)) {
            return Err(Reason::FailedThere);
        }
        Ok(())
    }

    /// Whether this host may take anything.
    ///
    /// # Errors
    /// [`Reason::TargetFails`], if migrations to it fail.
    pub fn may_take(&self, now: Time) -> Result<(), Reason> {
        if self.own.is_left_out(now) { Err(Reason::TargetFails) } else { Ok(()) }
    }

    /// The hosts that are left out now, this one itself first if it takes nothing.
    pub fn left_out<'a>(
        &'a self,
        own: &'a HostId,
        now: Time,
    ) -> impl Iterator<Item = LeftOut> + 'a {
        let others = self.hosts.iter().filter_map(move |(host, breaker)| breaker.said(host, now));
        self.own.said(own, now).into_iter().chain(others)
    }
}

fn begin(breaker: &mut Breaker, quarantine: Duration, now: Time) {
    if let Some((_, until)) = &mut breaker.open
        && now >= *until
    {
        *until = now + quarantine;
        breaker.trying = true;
    }
}

fn undecided(breaker: &mut Breaker, now: Time) {
    if let Some((_, until)) = &mut breaker.open
        && std::mem::take(&mut breaker.trying)
    {
        *until = now;
    }
}

#[cfg(test)]
mod tests;

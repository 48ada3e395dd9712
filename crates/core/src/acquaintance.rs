//! Whom a host knows, and what they have told it of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{HostId, Seat};
use crate::rules::Labels;

/// Another host that this one has heard of. Durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Acquaintance {
    /// Which.
    pub host: HostId,
    /// Its labels, as it said itself; `None` until it has.
    pub labels: Option<Labels>,
    /// A digest of this host's labels as the other has written them down; `None` until it has.
    pub told: Option<u64>,
    /// Whether an operator has removed it from the cluster.
    pub removed: bool,
}

/// What a host has written down of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Acquaintances {
    /// Every host that was ever a member, sorted; the driver writes that down before it tells the
    /// core of a member.
    pub members: Arc<[HostId]>,
    /// Every host of which there is more to say, or that was heard of from others. Shared where many
    /// hosts of a simulation know the same.
    pub met: Arc<BTreeMap<HostId, Acquaintance>>,
}

impl Acquaintances {
    /// Adds members. For drivers whose store is in memory.
    pub fn meet(&mut self, members: &Arc<[HostId]>) {
        union(&mut self.members, members);
    }

    /// Keeps what is known of a host. For drivers whose store is in memory.
    pub fn keep(&mut self, acquaintance: Acquaintance) {
        Arc::make_mut(&mut self.met).insert(acquaintance.host.clone(), acquaintance);
    }

    /// What a host with these labels of its own knows, once all of these have told each other.
    #[must_use]
    pub fn introduced<'a>(
        own: &Labels,
        hosts: impl Iterator<Item = (&'a HostId, &'a Labels)>,
    ) -> Self {
        let met = hosts.map(|(host, labels)| {
            let (labels, told) = (Some(labels.clone()), Some(digest(own)));
            (host.clone(), Acquaintance { labels, told, ..stranger(host.clone()) })
        });
        Self { members: Arc::default(), met: Arc::new(met.collect()) }
    }
}

/// Adds to a sorted list, without a copy of its own where others have the same.
fn union(all: &mut Arc<[HostId]>, more: &Arc<[HostId]>) {
    let has = |host: &HostId| all.binary_search(host).is_ok();
    if Arc::ptr_eq(all, more) || all == more || more.iter().all(has) {
        return;
    }
    if all.iter().all(|host| more.binary_search(host).is_ok()) {
        *all = Arc::clone(more);
        return;
    }
    let both: BTreeSet<_> = all.iter().chain(more.iter()).cloned().collect();
    *all = both.into_iter().collect();
}

/// Whom a host knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) me: HostId,
    pub(crate) labels: Labels,
    durable: Acquaintances,
    /// Members as they were told last.
    live: Arc<[HostId]>,
    /// Of these, what is known could not be written down.
    unkept: BTreeSet<HostId>,
}

impl Known {
    pub(crate) fn new(me: HostId, labels: Labels, durable: Acquaintances) -> Self {
        Self { me, labels, durable, live: Arc::default(), unkept: BTreeSet::new() }
    }

    /// All hosts that were ever heard of and not removed, this one among them.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &HostId> {
        let Acquaintances { members, met } = &self.durable;
        let is_member = |host: &HostId| members.binary_search(host).is_ok();
        let own = !is_member(&self.me) && !met.contains_key(&self.me);
        let others = met.keys().filter(move |host| !is_member(host));
        let others = members.iter().chain(others).filter(|host| !self.is_removed(host));
        others.chain(own.then_some(&self.me))
    }

    /// The same for whoever has the same set.
    pub(crate) fn digest(&self) -> u64 {
        self.hosts().fold(0, |sum, host| sum.wrapping_add(hash(host.as_str())))
    }

    /// Whether an operator has removed it, and it is gone.
    pub(crate) fn is_removed(&self, host: &HostId) -> bool {
        let removed = self.durable.met.get(host).is_some_and(|a| a.removed);
        removed && self.live.binary_search(host).is_err()
    }

    pub(crate) fn removed(&self) -> Vec<HostId> {
        let removed = self.durable.met.values().filter(|a| a.removed);
        removed.map(|a| a.host.clone()).collect()
    }

    /// Whether it has not told this host that it knows it with its labels.
    pub(crate) fn is_stranger(&self, host: &HostId) -> bool {
        let told = self.durable.met.get(host).and_then(|a| a.told);
        told != Some(digest(&self.labels))
    }

    /// Whether it has the same value of a label as one of these seats, or may have.
    pub(crate) fn may_be_at(&self, host: &HostId, seats: &[Seat]) -> bool {
        let labels = self.durable.met.get(host).and_then(|a| a.labels.as_ref());
        labels.is_none_or(|labels| seats.iter().any(|seat| seat.is_on(labels)))
    }

    /// Members are these now. One that was removed and is back is known again.
    pub(crate) fn meet(&mut self, members: &Arc<[HostId]>) -> Vec<Acquaintance> {
        self.durable.meet(members);
        let before = std::mem::replace(&mut self.live, Arc::clone(members));
        let gone = self.durable.met.values().filter(|a| a.removed).map(|a| a.host.clone());
        let gone: Vec<_> = gone.collect();
        let is_back = |host: &HostId| {
            members.binary_search(host).is_ok() && before.binary_search(host).is_err()
        };
        gone.into_iter()
            .filter(is_back)
            .map(|host| self.keep(Acquaintance { removed: false, ..stranger(host) }))
            .collect()
    }

    /// A host has told its labels, and perhaps that it knows this one's. Answers what there is to be
    /// written down.
    pub(crate) fn heard(
        &mut self,
        from: &HostId,
        labels: Labels,
        knows_this: bool,
    ) -> Option<Acquaintance> {
        let known = self.durable.met.get(from);
        let told = if knows_this { Some(digest(&self.labels)) } else { known.and_then(|a| a.told) };
        let removed = known.is_some_and(|a| a.removed);
        let now = Acquaintance { host: from.clone(), labels: Some(labels), told, removed };
        let is_news = known != Some(&now) || self.unkept.contains(from);
        is_news.then(|| self.keep(now))
    }

    /// Another host has told whom it knows. Answers what there is to be written down.
    pub(crate) fn told_of(&mut self, hosts: Vec<HostId>) -> Vec<Acquaintance> {
        let mut news = Vec::new();
        for host in hosts {
            let known = self.durable.members.binary_search(&host).is_ok()
                || self.durable.met.contains_key(&host);
            if !known && host != self.me {
                news.push(self.keep(stranger(host)));
            }
        }
        news
    }

    /// Forgets a host once it is no member, until it is one anew.
    pub(crate) fn remove(&mut self, host: &HostId) -> Option<Acquaintance> {
        let known = self.durable.met.get(host);
        if *host == self.me || known.is_some_and(|a| a.removed) {
            return None;
        }
        Some(self.keep(Acquaintance { removed: true, ..stranger(host.clone()) }))
    }

    /// Knows nothing of a name any more.
    pub(crate) fn forget(&mut self, host: &HostId) {
        if self.durable.met.contains_key(host) {
            Arc::make_mut(&mut self.durable.met).remove(host);
        }
        if self.durable.members.binary_search(host).is_ok() {
            let others = self.durable.members.iter().filter(|member| *member != host);
            self.durable.members = others.cloned().collect();
        }
        self.unkept.remove(host);
    }

    /// The labels that a host has told.
    pub(crate) fn labels_of(&self, host: &HostId) -> Option<&Labels> {
        self.durable.met.get(host)?.labels.as_ref()
    }

    fn keep(&mut self, acquaintance: Acquaintance) -> Acquaintance {
        self.unkept.remove(&acquaintance.host);
        self.durable.keep(acquaintance.clone());
        acquaintance
    }

    /// Something could not be written down, and with it whatever was to be after that.
    pub(crate) fn not_kept(&mut self) {
        self.unkept = self.durable.met.keys().cloned().collect();
    }

    /// What is to be written down again.
    pub(crate) fn retry(&mut self) -> Vec<Acquaintance> {
        let unkept = std::mem::take(&mut self.unkept);
        unkept.iter().filter_map(|host| self.durable.met.get(host).cloned()).collect()
    }
}

fn digest(labels: &Labels) -> u64 {
    let one = |(label, value): (&String, &String)| hash(&format!("{label}={value}"));
    labels.iter().map(one).fold(1, |sum, one| sum.wrapping_mul(31).wrapping_add(one))
}

/// Somebody of whom nothing is known but the name.
const fn stranger(host: HostId) -> Acquaintance {
    Acquaintance { host, labels: None, told: None, removed: false }
}

/// FNV-1a with its bits mixed, so that sums of it tell sets apart.
fn hash(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

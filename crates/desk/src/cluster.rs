//! What was heard of the hosts, and what of it is new since a revision.
//!
//! Every host carries the revision at which it changed last, so that whoever knows revision *n* is told
//! just the hosts that are newer: no log of changes is kept, and however long somebody was away, they
//! can go on. A revision counts within one life of the desk, which has a random number.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_core::contention::STARVING;
use evenkeel_core::model::{HostId, Time};
use serde::{Deserialize, Serialize};

use crate::brief::Brief;
use crate::summary::Summary;

/// The value of `format` in an [`Update`].
pub const FORMAT: &str = "evenkeel.cluster/v1";

/// What is known of the hosts of a cluster.
#[derive(Debug)]
pub struct Cache {
    here: HostId,
    life: u32,
    rev: u64,
    hosts: BTreeMap<HostId, Known>,
    gone: BTreeMap<HostId, u64>,
}

/// What is known of one host.
#[derive(Debug, Default)]
pub struct Known {
    /// What it said last.
    pub brief: Option<Arc<Brief>>,
    /// When, by the clock of the host that asked.
    pub heard: Option<Time>,
    /// Since when it does not answer, and why.
    pub silent: Option<Silence>,
    /// Machines that starve, and since when, as far as somebody has looked.
    pub starving: BTreeMap<String, Time>,
    /// When what it says last changed by what is worth telling.
    rev: u64,
    /// When it was heard of last.
    seen: u64,
}

/// A host that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Since when.
    pub since: Time,
    /// Why, in words.
    pub why: String,
}

/// Which revision somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    life: u32,
    rev: u64,
}

/// What is new since a revision: `evenkeel.cluster/v1`. A whole cluster is what is new to somebody who
/// knows nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Always [`FORMAT`].
    pub format: String,
    /// Up to which revision this goes.
    pub rev: String,
    /// Whether this is all, and what was known before is to be forgotten.
    pub whole: bool,
    /// The host that was looked at.
    pub by: HostId,
    /// When, by its clock.
    pub at: Time,
    /// What there is to say in short.
    pub summary: Summary,
    /// Hosts that have changed.
    pub hosts: Vec<Arc<Brief>>,
    /// When hosts were heard that have been heard since, by the clock of `by`.
    pub heard: BTreeMap<HostId, Time>,
    /// All hosts that do not answer.
    pub silent: BTreeMap<HostId, Silence>,
    /// Hosts that are no part of the cluster any more.
    pub gone: Vec<HostId>,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}-{}", self.life, self.rev)
    }
}

impl Mark {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (life, rev) = text.split_once('-')?;
        Some(Self { life: u32::from_str_radix(life, 16).ok()?, rev: rev.parse().ok()? })
    }
}

impl Cache {
    /// A cache of the desk of a host, in a life of this number.
    #[must_use]
    pub fn new(here: HostId, life: u32) -> Self {
        Self { here, life, rev: 0, hosts: BTreeMap::new(), gone: BTreeMap::new() }
    }

    /// The newest revision.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark { life: self.life, rev: self.rev }
    }

    /// Every host, with what is known of it.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, &Known)> {
        self.hosts.iter()
    }

    /// What is known of a host.
    #[must_use]
    pub fn host(&self, host: &HostId) -> Option<&Known> {
        self.hosts.get(host)
    }

    /// These are the hosts of the cluster; all others are forgotten.
    pub fn are(&mut self, hosts: &[HostId]) {
        let before: Vec<HostId> = self.hosts.keys().cloned().collect();
        for host in before.into_iter().filter(|host| !hosts.contains(host)) {
            self.rev += 1;
            self.hosts.remove(&host);
            self.gone.insert(host, self.rev);
        }
        for host in hosts {
            self.gone.remove(host);
            self.hosts.entry(host.clone()).or_default();
        }
    }

    /// A host has answered.
    pub fn hear(&mut self, brief: Brief, now: Time) {
        self.rev += 1;
        let rev = self.rev;
        let known = self.hosts.entry(brief.host.clone()).or_default();
        let changed = known.brief.as_ref().is_none_or(|before| brief.differs(before));
        known.starving = starving(&brief, &known.starving, now);
        (known.heard, known.seen, known.silent) = (Some(now), rev, None);
        if changed {
            known.rev = rev;
            known.brief = Some(Arc::new(brief));
        }
    }

    /// A host has not answered.
    pub fn miss(&mut self, host: &HostId, why: String, now: Time) {
        self.rev += 1;
        let known = self.hosts.entry(host.clone()).or_default();
        let since = known.silent.as_ref().map(|silence| silence.since);
        let since = since.or(known.heard).unwrap_or(now);
        known.silent = Some(Silence { since, why });
    }

    /// What is new to somebody who knows `mark`, or all where that is of another life.
    #[must_use]
    pub fn since(&self, mark: Option<Mark>, now: Time) -> Update {
        let mark = mark.filter(|mark| mark.life == self.life && mark.rev <= self.rev);
        let rev = mark.map_or(0, |mark| mark.rev);
        let known = || self.hosts.iter();
        let changed = known().filter(|(_, known)| known.rev > rev);
        let heard = known().filter(|(_, known)| known.seen > rev);
        let silent =
            known().filter_map(|(host, known)| Some((host.clone(), known.silent.clone()?)));
        let gone = self.gone.iter().filter(|(_, at)| mark.is_some() && **at > rev);
        Update {
            format: FORMAT.to_owned(),
            rev: self.mark().to_string(),
            whole: mark.is_none(),
            by: self.here.clone(),
            at: now,
            summary: Summary::of(self, now),
            hosts: changed.filter_map(|(_, known)| known.brief.clone()).collect(),
            heard: heard.filter_map(|(host, known)| Some((host.clone(), known.heard?))).collect(),
            silent: silent.collect(),
            gone: gone.map(|(host, _)| host.clone()).collect(),
        }
    }
}

/// Machines that starve now, each with since when.
fn starving(brief: &Brief, before: &BTreeMap<String, Time>, now: Time) -> BTreeMap<String, Time> {
    let starve = brief.machines.iter().filter(|row| row.5.is_some_and(|score| score >= STARVING));
    starve.map(|row| (row.0.clone(), before.get(&row.0).copied().unwrap_or(now))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brief::tests::brief;

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time::from_unix_ms(seconds * 1000)
    }

    fn cache(hosts: &[&str]) -> Cache {
        let mut cache = Cache::new(host("a"), 7);
        for name in hosts {
            cache.hear(brief(name, &[100]), at(1));
        }
        cache
    }

    fn names(update: &Update) -> Vec<&str> {
        update.hosts.iter().map(|brief| brief.host.as_str()).collect()
    }

    #[test]
    fn who_knows_nothing_is_told_all_and_who_knows_a_revision_just_what_is_new() {
        let mut cache = cache(&["a", "b", "c"]);
        let all = cache.since(None, at(2));
        assert!(all.whole);
        assert_eq!(names(&all), ["a", "b", "c"]);
        let mark = Mark::parse(&all.rev);
        cache.hear(brief("b", &[300]), at(3));
        cache.hear(brief("c", &[101]), at(3));
        let new = cache.since(mark, at(3));
        assert!(!new.whole);
        assert_eq!(names(&new), ["b"]);
        assert_eq!(new.heard.keys().map(HostId::as_str).collect::<Vec<_>>(), ["b", "c"]);
        assert!(cache.since(Mark::parse(&new.rev), at(4)).hosts.is_empty());
    }

    #[test]
    fn a_revision_of_another_life_or_of_the_future_is_worth_nothing() {
        let cache = cache(&["a"]);
        for foreign in ["00000008-1", "00000007-99", "nonsense", "7-"] {
            assert!(cache.since(Mark::parse(foreign), at(2)).whole, "{foreign}");
        }
    }

    #[test]
    fn a_host_that_falls_silent_keeps_its_last_figures_and_since_when() {
        let mut cache = cache(&["a", "b"]);
        let mark = Some(cache.mark());
        cache.miss(&host("b"), "refused".to_owned(), at(9));
        cache.miss(&host("b"), "refused again".to_owned(), at(12));
        let update = cache.since(mark, at(12));
        let silence = &update.silent[&host("b")];
        assert_eq!((silence.since, silence.why.as_str()), (at(1), "refused again"));
        assert!(cache.since(None, at(12)).hosts.iter().any(|brief| brief.host == host("b")));
        cache.hear(brief("b", &[100]), at(13));
        assert!(cache.since(mark, at(13)).silent.is_empty());
    }

    #[test]
    fn hosts_that_are_removed_are_told_to_be_gone_and_may_come_back() {
        let mut cache = cache(&["a", "b"]);
        let mark = Some(cache.mark());
        cache.are(&[host("a"), host("c")]);
        let update = cache.since(mark, at(2));
        assert_eq!(update.gone, [host("b")]);
        assert!(cache.since(None, at(2)).gone.is_empty());
        cache.are(&[host("a"), host("b")]);
        assert_eq!(cache.since(mark, at(2)).gone, [host("c")]);
    }
}

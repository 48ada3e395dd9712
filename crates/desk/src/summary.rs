//! What there is to say of a cluster in short: one sentence, what needs somebody, and the level.
//!
//! The sentence says the worst thing first, in this order: an unresolved handoff, a machine that
//! starves, silent hosts, a pause, a drain, hosts above their share, machines on their way, level. The
//! page and `evenkeel status` say the same sentence, because both take it from here.

use std::collections::BTreeMap;

use evenkeel_core::contention::STARVING;
use evenkeel_core::control::{Autonomy, Pause};
use evenkeel_core::model::{HostId, HostState, Time};
use serde::{Deserialize, Serialize};

use crate::brief::Brief;
use crate::cluster::{Cache, Known};

/// How long a machine starves before it needs somebody, in milliseconds.
const STARVES_MS: u64 = 120_000;
/// Things of one kind that need somebody which are told.
const OF_EACH_MAX: usize = 20;

/// A cluster in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How it is, in one sentence.
    pub sentence: String,
    /// Hosts of the cluster.
    pub hosts: usize,
    /// Hosts that answer.
    pub heard: usize,
    /// Machines on the hosts that answer.
    pub machines: usize,
    /// Mean load of the hosts that answer, in per mille: the level.
    pub mean: Option<u32>,
    /// The fullest host that answers, and its load in per mille.
    pub fullest: Option<(HostId, u32)>,
    /// The emptiest host that answers, and its load in per mille.
    pub emptiest: Option<(HostId, u32)>,
    /// Mean of how much machines wait, from 0 to 100.
    pub waiting: Option<u8>,
    /// The machine that waits most, its host and how much.
    pub worst: Option<(String, HostId, u8)>,
    /// Machines on their way.
    pub moving: usize,
    /// Moves that wait for an operator.
    pub recommendations: usize,
    /// The pause that holds, if one does.
    pub pause: Option<Pause>,
    /// How many hosts have which mode.
    pub modes: BTreeMap<Autonomy, usize>,
    /// How many agents are of which version.
    pub versions: BTreeMap<String, usize>,
    /// What needs somebody, worst first; of each kind at most a few.
    pub attention: Vec<Attention>,
    /// How many more of these there are.
    #[serde(default)]
    pub attention_more: usize,
}

/// Something that needs somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// What kind of thing it is.
    pub kind: Kind,
    /// What is the matter, in a sentence.
    pub text: String,
    /// Since when, where known.
    pub since: Option<Time>,
    /// The host that it is about.
    pub host: Option<HostId>,
    /// The machine that it is about.
    pub machine: Option<String>,
    /// What to do, in words or as a command.
    pub remedy: String,
}

/// What needs somebody, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A handoff that waits longer than it should.
    Handoff,
    /// A host that does not answer.
    Silent,
    /// A machine that does not get what it wants.
    Starving,
    /// A host that is being emptied and cannot be.
    Drain,
    /// A host whose load is not known.
    Unknown,
    /// Moves that wait for an operator.
    Recommended,
}

impl Summary {
    /// What there is to say of what is known now.
    #[must_use]
    pub fn of(cache: &Cache, now: Time) -> Self {
        let live = || cache.hosts().filter(|(_, known)| known.silent.is_none());
        let briefs: Vec<&Brief> = live().filter_map(|(_, known)| known.brief.as_deref()).collect();
        let loads: Vec<(&HostId, u32)> =
            briefs.iter().filter_map(|brief| Some((&brief.host, brief.load?))).collect();
        let sum: u64 = loads.iter().map(|(_, load)| u64::from(*load)).sum();
        let mean = (sum + loads.len() as u64 / 2).checked_div(loads.len() as u64);
        let owned = |(host, load): (&HostId, u32)| (host.clone(), load);
        let waits: Vec<u32> = briefs.iter().filter_map(|b| b.waiting).map(u32::from).collect();
        let mut summary = Self {
            sentence: String::new(),
            hosts: cache.hosts().count(),
            heard: briefs.len(),
            machines: briefs.iter().map(|brief| brief.machines.len()).sum(),
            mean: mean.map(|mean| mean as u32),
            fullest: loads.iter().copied().max_by_key(|(_, load)| *load).map(owned),
            emptiest: loads.iter().copied().min_by_key(|(_, load)| *load).map(owned),
            waiting: waits.iter().sum::<u32>().checked_div(waits.len() as u32).map(|w| w as u8),
            worst: worst(&briefs),
            moving: briefs.iter().map(|brief| brief.moves.len()).sum(),
            recommendations: briefs.iter().map(|brief| brief.recommendations).sum(),
            pause: briefs.iter().find_map(|brief| brief.pause.clone()),
            modes: counted(briefs.iter().map(|brief| brief.mode)),
            versions: counted(briefs.iter().map(|brief| brief.version.clone())),
            attention: attention(cache, now),
            attention_more: 0,
        };
        let all = summary.attention.len();
        summary.attention = few_of_each(std::mem::take(&mut summary.attention));
        summary.attention_more = all - summary.attention.len();
        summary.sentence = sentence(&summary, &briefs, cache);
        summary
    }

    /// Whether anything needs somebody.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        !self.attention.is_empty()
    }
}

/// The first few of each kind: thousands tell nobody more, and are sent to everybody who looks.
fn few_of_each(all: Vec<Attention>) -> Vec<Attention> {
    let mut told: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut is_told = |item: &Attention| {
        let count = told.entry(item.kind).or_default();
        *count += 1;
        *count <= OF_EACH_MAX
    };
    all.into_iter().filter(|item| is_told(item)).collect()
}

fn counted<K: Ord>(all: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

fn worst(briefs: &[&Brief]) -> Option<(String, HostId, u8)> {
    let rows = briefs.iter().flat_map(|brief| brief.machines.iter().map(move |row| (brief, row)));
    let scored = rows.filter_map(|(brief, row)| Some((row.5.filter(|s| *s > 0)?, brief, row)));
    let (score, brief, row) = scored.max_by_key(|(score, ..)| *score)?;
    Some((row.0.clone(), brief.host.clone(), score))
}

/// What needs somebody, worst first.
fn attention(cache: &Cache, now: Time) -> Vec<Attention> {
    let of_host = |(host, known): (&HostId, &Known)| of_host(host, known, now);
    let mut all: Vec<Attention> = cache.hosts().flat_map(of_host).collect();
    let waiting: Vec<_> = cache
        .hosts()
        .filter_map(|(host, known)| Some((host, known.brief.as_deref()?.recommendations)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let count: usize = waiting.iter().map(|(_, count)| count).sum();
    if count > 0 {
        let verb = if count == 1 { "move waits" } else { "moves wait" };
        all.push(Attention {
            kind: Kind::Recommended,
            text: format!("{count} {verb} for you"),
            since: None,
            host: None,
            machine: None,
            remedy: "evenkeel recommendations".to_owned(),
        });
    }
    all.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.since.cmp(&b.since)));
    all
}

fn of_host(host: &HostId, known: &Known, now: Time) -> Vec<Attention> {
    let item = |kind, text: String, since, machine: Option<&str>, remedy: String| Attention {
        kind,
        text,
        since,
        host: Some(host.clone()),
        machine: machine.map(str::to_owned),
        remedy,
    };
    if let Some(silence) = &known.silent {
        let text = format!("{host} does not answer: {}", silence.why);
        let remedy = format!("see that the agent of {host} runs: systemctl status evenkeel");
        return vec![item(Kind::Silent, text, Some(silence.since), None, remedy)];
    }
    let Some(brief) = known.brief.as_deref() else { return Vec::new() };
    let mut all: Vec<Attention> = brief
        .alarms
        .iter()
        .map(|alarm| {
            let (machine, peer) = (&alarm.machine, &alarm.peer);
            let text = format!(
                "The handoff of {machine} between {host} and {peer} waits for {}",
                alarm.waits_for
            );
            let remedy = format!("evenkeel status --host {host}");
            item(Kind::Handoff, text, Some(alarm.since), Some(machine), remedy)
        })
        .collect();
    let starving = known
        .starving
        .iter()
        .filter(|(_, since)| now.since(**since).as_millis() >= u128::from(STARVES_MS));
    all.extend(starving.map(|(name, since)| {
        let text = format!("{name} on {host} does not get what it wants");
        let remedy = format!("evenkeel explain vm {name} --host {host}");
        item(Kind::Starving, text, Some(*since), Some(name), remedy)
    }));
    if let Some(stays) = brief.drain.as_ref().and_then(|drain| drain.staying.first()) {
        let text = format!("{host} cannot be emptied: {} stays ({})", stays.name, stays.reason);
        let remedy = stays.reason.remedy().to_owned();
        all.push(item(Kind::Drain, text, None, Some(&stays.name), remedy));
    }
    if let Some(why) = &brief.unknown {
        let text = format!("The load of {host} is not known: {why}");
        let remedy = format!("evenkeel doctor --host {host}");
        all.push(item(Kind::Unknown, text, None, None, remedy));
    }
    all
}

/// How a cluster is, in one sentence: the worst thing first.
fn sentence(summary: &Summary, briefs: &[&Brief], cache: &Cache) -> String {
    let of = |kind| summary.attention.iter().filter(move |item| item.kind == kind);
    if briefs.is_empty() {
        return "No host has answered yet.".to_owned();
    }
    if let Some(item) = of(Kind::Handoff).next() {
        let (machine, host) = (item.machine.as_deref().unwrap_or("a machine"), named(item));
        return match of(Kind::Handoff).count() {
            1 => format!("The handoff of {machine} on {host} needs you."),
            more => format!("{more} handoffs need you, the longest of {machine} on {host}."),
        };
    }
    let silent = cache.hosts().filter(|(_, known)| known.silent.is_some());
    let silent: Vec<&str> = silent.map(|(host, _)| host.as_str()).collect();
    if silent.len() > briefs.len() {
        let (heard, all) = (briefs.len(), summary.hosts);
        let by = if heard == 1 {
            "This host hears only itself".to_owned()
        } else {
            format!("This host hears {heard} of {all}")
        };
        return format!("{by}: it may be the one that is cut off.");
    }
    let starving = briefs.iter().flat_map(|b| b.machines.iter().map(move |row| (b, row)));
    let mut starving = starving.filter(|(_, row)| row.5.is_some_and(|score| score >= STARVING));
    if let Some((brief, row)) = starving.next() {
        return match starving.count() {
            0 => format!("{} on {} starves.", row.0, brief.host),
            more => {
                format!("{} machines starve, {} on {} among them.", more + 1, row.0, brief.host)
            }
        };
    }
    if let [first, more @ ..] = &silent[..] {
        return match more.len() {
            0 => format!("{first} does not answer; the rest is {}.", evenness(summary, briefs)),
            more => format!("{first} and {more} more hosts do not answer."),
        };
    }
    told(summary, briefs).unwrap_or_else(|| balance(summary, briefs))
}

fn named(item: &Attention) -> &str {
    item.host.as_ref().map_or("a host", HostId::as_str)
}

/// What operators have said that holds now, if anything does.
fn told(summary: &Summary, briefs: &[&Brief]) -> Option<String> {
    if let Some(pause) = &summary.pause {
        let by = &pause.by;
        return Some(format!("Paused by {by}; otherwise {}.", evenness(summary, briefs)));
    }
    let draining = briefs.iter().find(|brief| brief.state == HostState::Draining)?;
    let (host, left) = (&draining.host, draining.machines.len());
    Some(match (&draining.drain, left) {
        (_, 0) => format!("{host} is empty and may be switched off."),
        (Some(drain), _) if drain.machines > 0 => {
            let gone = drain.machines.saturating_sub(drain.machines_left);
            format!("Emptying {host}: {gone} of {} machines have gone.", drain.machines)
        }
        _ => format!("Emptying {host}: {left} machines are left."),
    })
}

/// How even loads are.
fn balance(summary: &Summary, briefs: &[&Brief]) -> String {
    let above = above(briefs);
    let way = match summary.moving {
        0 => String::new(),
        1 => "; one machine is on its way".to_owned(),
        more => format!("; {more} machines are on their way"),
    };
    match above[..] {
        [] if summary.hosts == 1 => {
            format!("{} is alone: there is nobody to balance with yet.", briefs[0].host)
        }
        [] => {
            let even = evenness(summary, briefs);
            format!("{}{}{way}.", even[..1].to_uppercase(), &even[1..])
        }
        [one] => format!("{} is fuller than its share{way}.", one.host),
        _ => format!("{} of {} hosts are fuller than their share{way}.", above.len(), briefs.len()),
    }
}

/// Hosts that are above what they act on.
fn above<'b>(briefs: &[&'b Brief]) -> Vec<&'b Brief> {
    let is_above = |b: &&Brief| b.load.zip(b.limit).is_some_and(|(load, limit)| load > limit);
    briefs.iter().copied().filter(is_above).collect()
}

/// How even loads are, as the end of a sentence.
fn evenness(summary: &Summary, briefs: &[&Brief]) -> String {
    let known = briefs.iter().filter(|brief| brief.load.is_some()).count();
    if known < briefs.len() {
        return format!(
            "the load of {} of {} hosts is not known",
            briefs.len() - known,
            briefs.len()
        );
    }
    match (above(briefs).len(), &summary.fullest, summary.mean) {
        (0, Some((host, load)), Some(mean)) if mean > 0 => {
            let times = f64::from(*load) / f64::from(mean);
            if times < 1.2 {
                "level".to_owned()
            } else {
                format!("as level as its machines allow: {host} carries {times:.2} × the mean")
            }
        }
        (0, ..) => "level".to_owned(),
        (1, ..) => "one host is above its share".to_owned(),
        (more, ..) => format!("{more} hosts are above their share"),
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::brief::tests::brief;
    use crate::brief::{Alarm, Moving, Row};
    use evenkeel_core::handoff::Phase;

    const MINUTE: u64 = 60_000;

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn at(ms: u64) -> Time {
        Time::from_unix_ms(ms)
    }

    /// The summary of a cluster of which these were heard, and these were not.
    fn of(heard: Vec<Brief>, missed: &[&str]) -> Summary {
        let mut cache = Cache::new(host("a"), 1);
        for brief in heard {
            cache.hear(brief.clone(), at(MINUTE));
            cache.hear(brief, at(10 * MINUTE));
        }
        for name in missed {
            cache.miss(&host(name), "connection refused".to_owned(), at(10 * MINUTE));
        }
        Summary::of(&cache, at(10 * MINUTE))
    }

    /// Hosts `a`, `b` and `c`, each 300 ‰ full and content, after a change to `a`.
    fn three(change: impl Fn(&mut Brief)) -> Vec<Brief> {
        let mut all: Vec<Brief> = ["a", "b", "c"].map(|name| brief(name, &[300])).into();
        all.iter_mut().for_each(|brief| brief.limit = Some(400));
        change(&mut all[0]);
        all
    }

    fn pause(brief: &mut Brief) {
        brief.pause = Some(Pause { until: at(99), by: "anna".into(), reason: String::new() });
    }

    fn move_one(brief: &mut Brief) {
        brief.moves = vec![Moving {
            name: "m".into(),
            to: host("b"),
            since: at(1),
            phase: Phase::Transferring,
            done: None,
            bytes: None,
            order: None,
        }];
    }

    fn alarm(brief: &mut Brief) {
        brief.alarms = vec![Alarm {
            machine: "db-4".into(),
            peer: host("b"),
            phase: Phase::Holding,
            since: at(1),
            waits_for: "`b` to let go".into(),
        }];
    }

    #[test]
    fn the_sentence_says_the_worst_thing_first() {
        let starve = |brief: &mut Brief| brief.machines[0].5 = Some(62);
        let full = |brief: &mut Brief| (brief.load, brief.limit) = (Some(900), Some(500));
        let drain = |brief: &mut Brief| brief.state = HostState::Draining;
        let cases: [(&str, Vec<Brief>, &[&str]); 12] = [
            ("No host has answered yet.", vec![], &[]),
            ("The handoff of db-4 on a needs you.", three(|b| (alarm(b), starve(b)).1), &["d"]),
            ("a-0 on a starves.", three(|b| (starve(b), full(b)).1), &["d"]),
            ("d does not answer; the rest is level.", three(pause), &["d"]),
            ("d and 1 more hosts do not answer.", three(|_| ()), &["d", "e"]),
            (
                "Paused by anna; otherwise one host is above its share.",
                three(|b| (pause(b), full(b)).1),
                &[],
            ),
            ("Emptying a: 1 machines are left.", three(drain), &[]),
            (
                "a is empty and may be switched off.",
                three(|b| (drain(b), b.machines.clear()).1),
                &[],
            ),
            (
                "a is fuller than its share; one machine is on its way.",
                three(|b| (full(b), move_one(b)).1),
                &[],
            ),
            ("Level; one machine is on its way.", three(move_one), &[]),
            ("Level.", three(|_| ()), &[]),
            ("The load of 1 of 3 hosts is not known.", three(|b| b.load = None), &[]),
        ];
        for (sentence, heard, missed) in cases {
            assert_eq!(of(heard, missed).sentence, sentence);
        }
        let alone = of(vec![brief("a", &[100])], &[]);
        assert_eq!(alone.sentence, "a is alone: there is nobody to balance with yet.");
        let cut_off = of(vec![brief("a", &[100])], &["b", "c"]);
        assert_eq!(
            cut_off.sentence,
            "This host hears only itself: it may be the one that is cut off."
        );
    }

    #[test]
    fn figures_are_of_hosts_that_answer_and_nothing_unknown_counts_as_zero() {
        let mut heard = vec![brief("a", &[600]), brief("b", &[200]), brief("c", &[100])];
        heard[2].load = None;
        heard[2].waiting = None;
        heard[0].waiting = Some(30);
        let summary = of(heard, &["b"]);
        assert_eq!((summary.hosts, summary.heard), (3, 2));
        assert_eq!(summary.mean, Some(600));
        assert_eq!(summary.fullest, Some((host("a"), 600)));
        assert_eq!(summary.waiting, Some(30));
        assert_eq!(of(vec![], &["b"]).mean, None);
    }

    #[test]
    fn what_needs_somebody_is_listed_worst_first_and_goes_with_its_cause() {
        let mut heard = three(|brief| {
            alarm(brief);
            brief.machines[0].5 = Some(62);
            brief.recommendations = 2;
        });
        let kinds: Vec<Kind> = of(heard.clone(), &["d"]).attention.iter().map(|a| a.kind).collect();
        assert_eq!(kinds, [Kind::Handoff, Kind::Silent, Kind::Starving, Kind::Recommended]);
        heard[0] = brief("a", &[300]);
        assert!(!of(heard, &[]).needs_somebody());
    }

    #[test]
    fn a_machine_needs_somebody_once_it_has_starved_for_two_minutes() {
        let mut starving = brief("a", &[300]);
        starving.machines[0] = Row("db".into(), Some(300), None, None, None, Some(70), 0);
        let mut cache = Cache::new(host("a"), 1);
        cache.hear(starving.clone(), at(0));
        let is_told = |cache: &Cache, ms| Summary::of(cache, at(ms)).needs_somebody();
        assert!(!is_told(&cache, STARVES_MS - 1));
        cache.hear(starving.clone(), at(STARVES_MS));
        assert!(is_told(&cache, STARVES_MS));
        let mut content = starving;
        content.machines[0].5 = Some(10);
        cache.hear(content, at(STARVES_MS + 1));
        assert!(!is_told(&cache, 10 * STARVES_MS));
    }

    #[test]
    fn of_a_thousand_machines_that_starve_a_few_are_told_and_the_rest_is_counted() {
        let mut full = brief("a", &[1; 1000]);
        full.machines.iter_mut().for_each(|row| row.5 = Some(90));
        let summary = of(vec![full], &["b"]);
        assert_eq!(summary.attention.len(), 1 + OF_EACH_MAX);
        assert_eq!(summary.attention_more, 1000 - OF_EACH_MAX);
    }
}

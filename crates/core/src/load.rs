//! Loads: from counters to rates, and what a host knows of itself.
//!
//! A [`View`] is one host's knowledge of its own schedule and of what every machine in it uses.
//! Knowledge can be missing: a machine seen once has no rates yet, a sample can be stale or make no
//! sense. What is missing is [`Unknown`], and nothing is decided on the unknown.
//!
//! Counters restart at zero on the host that a machine moves to. A counter that decreases therefore
//! begins a new series; until that has a rate, what the former host sent along is believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::contention::{Contention, Meter, Waiting};
use crate::forecast::{Forecast, Forecasting};
use crate::history::History;
use crate::model::{
    Entry, HostProfile, MachineFacts, MachineId, Provides, Resource, Resources, Time,
};
use crate::port::{Counters, HostSample, MachineSample, Presence};

/// How samples become rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metering {
    /// A sample older than this says nothing any more.
    pub stale_after: Duration,
    /// How rates become what a machine is expected to use.
    pub forecasting: Forecasting,
    /// CPU that a machine may be measured to use beyond its virtual CPUs, in cores of its host: the
    /// emulator's own threads, and the error of measuring.
    pub cpu_slack_cores: f64,
    /// Whether it is kept what was used in the past.
    pub keeps_history: bool,
}

impl Default for Metering {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_secs(30),
            forecasting: Forecasting::default(),
            cpu_slack_cores: 1.0,
            keeps_history: true,
        }
    }
}

impl Metering {
    /// Believes every rate as it is measured, and keeps nothing of it.
    #[must_use]
    pub fn plain() -> Self {
        Self { forecasting: Forecasting::NONE, keeps_history: false, ..Self::default() }
    }
}

/// Shortest span that a rate is taken over: below it, the error of the clock counts too much.
const RATE_SPAN_MIN: Duration = Duration::from_millis(100);

/// Why a load is not known.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// The host has not been measured yet, or not since its schedule changed.
    #[error("not measured yet")]
    NotMeasured,
    /// The last sample is too old.
    #[error("last measured {} s ago", .age.as_secs())]
    Stale {
        /// How old it is.
        age: Duration,
    },
    /// Measuring failed.
    #[error("measuring failed: {0}")]
    Failed(String),
    /// A machine's load is not known, therefore its host's is not.
    #[error("machine `{name}`: {why}")]
    Machine {
        /// Its name.
        name: Arc<str>,
        /// Why its load is not known.
        why: Implausible,
    },
}

/// Why what was measured of a machine is no load.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Implausible {
    /// It was seen once: a rate needs two samples.
    #[error("seen once so far, a rate needs two samples")]
    SeenOnce,
    /// The hypervisor told nothing of it.
    #[error("the hypervisor told no statistics of it")]
    NoCounters,
    /// It has no virtual CPUs.
    #[error("it claims to have 0 virtual CPUs")]
    NoCpus,
    /// It used more CPU than it has.
    #[error("it is said to have used {cores:.2} cores with {vcpus} virtual CPUs")]
    TooMuchCpu {
        /// Cores used.
        cores: f64,
        /// Virtual CPUs it has.
        vcpus: u32,
    },
}

/// Where a machine's load comes from.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    minicbor::Encode,
    minicbor::Decode,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Basis {
    /// Measured on the host that runs it (claims 6, 29).
    #[n(0)]
    Actual,
    /// Programmed for it on that host (claims 7, 30).
    #[n(1)]
    Target,
}

/// The series of one machine's counters on this host.
#[derive(Clone, Debug, Default)]
struct Series {
    last: Option<(Time, Counters)>,
    forecast: Forecast,
    /// What came along with the machine when it arrived, if it did.
    believed: Option<Resources>,
    fault: Option<Implausible>,
    /// Since when the hypervisor has told nothing of it, in how many samples, and what it used before
    /// that, where it was known.
    silent: Option<(Time, u32)>,
    held: Option<Resources>,
    /// What it lost to others.
    meter: Meter,
    /// What it used, wherever it was.
    history: Arc<History>,
}

impl Series {
    /// Takes the next sample. `speed` converts this host's cores into reference cores.
    fn observe(&mut self, at: Time, sample: &MachineSample, speed: f64, metering: &Metering) {
        let vcpus = sample.facts.vcpus;
        let Some(counters) = sample.counters else {
            return self.fall_silent(at, &metering.forecasting);
        };
        self.silent = None;
        if vcpus == 0 {
            return self.begin_anew(Implausible::NoCpus);
        }
        self.meter.observe(at, &counters);
        let Some((before, earlier)) = self.last else {
            self.last = Some((at, counters));
            return;
        };
        let span = at.since(before);
        if span < RATE_SPAN_MIN {
            return;
        }
        self.last = Some((at, counters));
        let restarted =
            counters.cpu_time_ns < earlier.cpu_time_ns || counters.io_bytes < earlier.io_bytes;
        if restarted {
            return;
        }
        let seconds = span.as_secs_f64();
        let cores = (counters.cpu_time_ns - earlier.cpu_time_ns) as f64 / 1e9 / seconds;
        if cores > f64::from(vcpus) + metering.cpu_slack_cores {
            self.begin_anew(Implausible::TooMuchCpu { cores, vcpus });
            self.last = Some((at, counters));
            return;
        }
        let newest = Resources {
            cpu_cores: cores * speed,
            memory_bytes: counters.memory_bytes as f64,
            io_bytes_per_s: (counters.io_bytes - earlier.io_bytes) as f64 / seconds,
        };
        if metering.keeps_history {
            Arc::make_mut(&mut self.history).observe(at, &newest);
        }
        if self.fault.take().is_some() {
            // What it used before it fell silent is nearer than its first figure after that.
            self.believed = self.held.take().or(self.believed);
        }
        self.forecast.observe(at, newest, &metering.forecasting);
    }

    /// The hypervisor tells nothing of it: it is busy with it, or it hangs.
    fn fall_silent(&mut self, at: Time, how: &Forecasting) {
        let held = self.usage(how).ok().or(self.held);
        let (since, samples) = self.silent.unwrap_or((at, 0));
        self.begin_anew(Implausible::NoCounters);
        self.silent = Some((since, samples.saturating_add(1)));
        self.held = held;
    }

    /// What it counts for in the load of its host while it is silent: what it used before, or at least
    /// the memory that it may occupy. One machine that hangs must not make its whole host unknown.
    fn stand_in(&self, memory_bytes: f64) -> Option<Resources> {
        if self.fault != Some(Implausible::NoCounters) {
            return None;
        }
        let claimed = Resources { memory_bytes, ..Resources::ZERO };
        // One sample without figures may be of a machine that begins or ends.
        let lasts = self.silent.is_none_or(|(_, samples)| samples > 1);
        self.held.or(lasts.then_some(claimed))
    }

    fn begin_anew(&mut self, fault: Implausible) {
        let (meter, history) = (std::mem::take(&mut self.meter), std::mem::take(&mut self.history));
        let believed = self.believed;
        *self = Self { fault: Some(fault), believed, meter, history, ..Self::default() };
    }

    /// Whether it has been seen for long enough to be believed.
    const fn is_warm(&self, how: &Forecasting) -> bool {
        self.forecast.seen() >= how.warm_up
    }

    /// What the machine uses, as far as known: until it is warm, what came along.
    fn usage(&self, how: &Forecasting) -> Result<Resources, Implausible> {
        match (&self.fault, self.believed) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Some(believed)) if !self.is_warm(how) => Ok(believed),
            (None, _) if self.forecast.seen() > 0 => Ok(self.forecast.level()),
            (None, _) => Err(Implausible::SeenOnce),
        }
    }
}

/// A machine in the schedule of this host, and what is known of it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What changes rarely.
    pub facts: Arc<MachineFacts>,
    /// Whether it runs.
    pub presence: Presence,
    /// How much more it may come to use than it is expected to.
    pub margin: Resources,
    /// How well what it does carries over from one lead of forecasts to the next, from 0 to 1.
    pub persistence: f64,
    /// How long such a lead is.
    pub lead: Duration,
    /// Whether it was started so recently that nothing is done on its account yet. One that has
    /// arrived brings along what is known of it.
    pub is_new: bool,
    /// Memory that it dirties, in bytes per second, where that is measured.
    pub dirty_bytes_per_s: Option<f64>,
    /// How much of what it wants it does not get.
    pub contention: Contention,
    /// Since when the hypervisor has told nothing of it, if so.
    pub silent_since: Option<Time>,
    /// What it used in the past, wherever it was then.
    pub history: Arc<History>,
    usage: Result<Resources, Implausible>,
    stand_in: Option<Resources>,
}

impl Machine {
    /// How long it may be expected to go on as it does, at most `most`: as long as the correlation
    /// of one lead of forecasts with the next lasts.
    #[must_use]
    pub fn lasting(&self, most: Duration) -> Duration {
        let leads = 1.0 / (1.0 - self.persistence).max(1e-6);
        self.lead.mul_f64(leads.min(1e6)).min(most)
    }

    /// Its schedule entry; `None` if the text of it could not be read.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.facts.entry.as_ref().ok()
    }

    /// What it uses as measured: nothing while it does not run.
    ///
    /// # Errors
    /// When it runs and that is not known.
    pub fn measured(&self) -> Result<Resources, Implausible> {
        if self.presence.is_resident() { self.usage.clone() } else { Ok(Resources::ZERO) }
    }

    /// Its load factors on `host`: what it uses, or, where a target load is programmed, the usage
    /// that takes that share of the host.
    ///
    /// # Errors
    /// When no target is programmed and its usage is not known.
    pub fn factors(&self, host: &HostProfile) -> Result<(Basis, Resources), Implausible> {
        match self.entry().and_then(|e| e.target_load) {
            Some(share) if self.presence.is_resident() => {
                Ok((Basis::Target, host.share_as_usage(share)))
            }
            _ => self.measured().map(|usage| (Basis::Actual, usage)),
        }
    }
}

/// What a host knows of itself.
#[derive(Clone, Debug)]
pub struct View {
    metering: Metering,
    provides: Provides,
    background: Resources,
    /// What the host itself used in the past.
    background_past: History,
    machines: BTreeMap<MachineId, Machine>,
    series: BTreeMap<MachineId, Series>,
    meter: Meter,
    contention: Contention,
    measured: Measured,
    /// Entries that were written, for samples that were begun before that: so many more.
    rewritten: BTreeMap<MachineId, (Entry, u32)>,
}

/// Samples that may still show an entry as it was before it was written.
const OLD_SAMPLES: u32 = 2;

#[derive(Clone, Debug)]
enum Measured {
    Never,
    At(Time),
    Failed(String),
}

impl View {
    /// A host that has not been measured yet.
    #[must_use]
    pub fn new(metering: Metering) -> Self {
        Self {
            metering,
            provides: Provides::default(),
            background: Resources::ZERO,
            background_past: History::default(),
            machines: BTreeMap::new(),
            series: BTreeMap::new(),
            meter: Meter::default(),
            contention: Contention::default(),
            measured: Measured::Never,
            rewritten: BTreeMap::new(),
        }
    }

    /// The entry of a machine was written: known from now on, and not only with the next sample.
    pub fn rewritten(&mut self, id: &MachineId, entry: Entry) {
        if let Some(machine) = self.machines.get_mut(id) {
            Arc::make_mut(&mut machine.facts).entry = Ok(entry.clone());
            self.rewritten.insert(id.clone(), (entry, OLD_SAMPLES));
        }
    }

    /// What was written counts for a machine whose sample may be older than that.
    fn bring_up_to_date(&mut self, sample: &mut MachineSample) {
        let id = &sample.facts.id;
        let Some((entry, left)) = self.rewritten.get_mut(id) else { return };
        *left -= 1;
        if sample.facts.entry.as_ref() != Ok(entry) && *left > 0 {
            let entry = entry.clone();
            Arc::make_mut(&mut sample.facts).entry = Ok(entry);
        } else {
            self.rewritten.remove(&id.clone());
        }
    }

    /// Takes in a sample of the whole host. `host` tells the speed of its cores.
    pub fn observe(&mut self, sample: HostSample, host: &HostProfile) {
        if self.provides != sample.facts.provides {
            self.provides.clone_from(&sample.facts.provides);
        }
        self.background = sample.background.unwrap_or(Resources::ZERO);
        if self.metering.keeps_history {
            self.background_past.observe(sample.at, &self.background);
        }
        self.meter.press(sample.at, sample.pressure);
        let runs = sample.machines.iter().any(|machine| machine.presence.is_resident());
        // Where nothing runs nobody waits.
        let mut waiting = (!runs).then(Waiting::default);
        let mut before = std::mem::take(&mut self.series);
        self.machines.clear();
        for mut machine in sample.machines {
            self.bring_up_to_date(&mut machine);
            let id = machine.facts.id.clone();
            let mut series = before.remove(&id).unwrap_or_default();
            if machine.presence.is_resident() {
                series.observe(sample.at, &machine, host.cpu_speed, &self.metering);
            } else {
                // What came along with a machine counts until it has run here.
                let believed = series.believed.filter(|_| series.last.is_none());
                let history = std::mem::take(&mut series.history);
                series = Series { believed, history, ..Series::default() };
            }
            if let Some(own) = series.meter.waiting() {
                waiting = Some(waiting.unwrap_or_default() + own);
            }
            let known = self.known(machine, &series);
            self.series.insert(id.clone(), series);
            self.machines.insert(id, known);
        }
        // The sample may be from before a machine arrived.
        before.retain(|_, series| series.believed.is_some() && series.last.is_none());
        self.series.append(&mut before);
        let machines = &self.machines;
        self.rewritten.retain(|id, _| machines.contains_key(id));
        self.contention = self.meter.contention(waiting);
        self.measured = Measured::At(sample.at);
    }

    fn known(&self, sample: MachineSample, series: &Series) -> Machine {
        let how = &self.metering.forecasting;
        let is_warm = series.is_warm(how);
        Machine {
            presence: sample.presence,
            margin: series.forecast.margin(),
            persistence: series.forecast.persistence(),
            lead: how.lead,
            is_new: series.believed.is_none() && !is_warm,
            dirty_bytes_per_s: sample.counters.and_then(|c| c.dirty_bytes_per_s).map(|d| d as f64),
            contention: series.meter.contention(series.meter.waiting()),
            silent_since: series.silent.map(|(since, _)| since),
            history: Arc::clone(&series.history),
            usage: series.usage(how),
            stand_in: series.stand_in(sample.facts.memory_bytes),
            facts: sample.facts,
        }
    }

    /// Measuring failed: nothing is known until it succeeds again.
    pub fn fail(&mut self, why: String) {
        self.measured = Measured::Failed(why);
    }

    /// The schedule changed: nothing is known until the next sample.
    pub fn outdate(&mut self) {
        if matches!(self.measured, Measured::At(_)) {
            self.measured = Measured::Never;
        }
    }

    /// Believes that an arriving machine uses `usage` until it has been measured here for some time,
    /// and that this is what it used before.
    pub fn believe(&mut self, machine: MachineId, usage: Resources, past: Option<History>) {
        let forecast = Forecast::starting_at(usage);
        let history = Arc::new(past.unwrap_or_default());
        let series = Series { forecast, believed: Some(usage), history, ..Series::default() };
        self.series.insert(machine, series);
    }

    /// Adds to `sums` what the host itself used in these minutes, the latest first, at such prices.
    pub fn add_background(&self, sums: &mut [f64], minutes: &[u32], rates: &Resources) {
        self.background_past.add_priced(sums, minutes, rates);
    }

    /// Whether what it knows is of now: it has been measured, and since the schedule changed last.
    #[must_use]
    pub const fn is_measured(&self) -> bool {
        matches!(self.measured, Measured::At(_))
    }

    /// Every machine in this host's schedule.
    #[must_use]
    pub const fn machines(&self) -> &BTreeMap<MachineId, Machine> {
        &self.machines
    }

    /// What this host does besides its machines, in reference cores, bytes and bytes per second.
    #[must_use]
    pub const fn background(&self) -> &Resources {
        &self.background
    }

    /// What machines may need of this host.
    #[must_use]
    pub const fn provides(&self) -> &Provides {
        &self.provides
    }

    /// What machines here use as load factors, summed, with the host's own background.
    ///
    /// # Errors
    /// When the host or one of its machines is not known.
    pub fn usage(&self, host: &HostProfile, now: Time) -> Result<Resources, Unknown> {
        match &self.measured {
            Measured::Never => return Err(Unknown::NotMeasured),
            Measured::Failed(why) => return Err(Unknown::Failed(why.clone())),
            Measured::At(at) => {
                let age = now.since(*at);
                if age > self.metering.stale_after {
                    return Err(Unknown::Stale { age });
                }
            }
        }
        let mut sum = self.background;
        for machine in self.machines.values() {
            let unknown = |why| Unknown::Machine { name: machine.facts.name.clone(), why };
            sum += match machine.factors(host) {
                Ok((_, factors)) => factors,
                Err(why) => machine.stand_in.ok_or_else(|| unknown(why))?,
            };
        }
        Ok(sum)
    }

    /// How much more its machines may come to use together than they are expected to: errors of
    /// different machines are taken to be independent, so that their squares add up.
    #[must_use]
    pub fn margin(&self) -> Resources {
        let resident = || self.machines.values().filter(|m| m.presence.is_resident());
        let joint = |r: Resource| resident().map(|m| m.margin[r].powi(2)).sum::<f64>().sqrt();
        Resources {
            cpu_cores: joint(Resource::Cpu),
            memory_bytes: joint(Resource::Memory),
            io_bytes_per_s: joint(Resource::Io),
        }
    }

    /// How much of what is wanted of this host it cannot give.
    #[must_use]
    pub const fn contention(&self) -> &Contention {
        &self.contention
    }

    /// Memory that machines here may come to occupy, in bytes: of those that run, what they were
    /// defined with.
    #[must_use]
    pub fn committed_memory_bytes(&self) -> f64 {
        self.machines
            .values()
            .filter(|m| m.presence.is_resident())
            .map(|m| m.facts.memory_bytes)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HostFacts, HostId, Requirements};
    use crate::port::Pressure;

    fn host() -> HostProfile {
        let capacity = Resources { cpu_cores: 4.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
        HostProfile::new(HostId::new("h").unwrap(), capacity)
    }

    fn sample(at_ms: u64, machines: &[(&str, u32, Option<Counters>)]) -> HostSample {
        let machines = machines.iter().map(|(name, vcpus, counters)| MachineSample {
            facts: Arc::new(MachineFacts {
                id: MachineId::new(name).unwrap(),
                name: Arc::from(*name),
                vcpus: *vcpus,
                memory_bytes: 1e8,
                needs: Requirements::default(),
                persistent: true,
                autostart: false,
                locks: crate::model::Locks::default(),
                entry: Ok(Entry::default()),
            }),
            presence: Presence::Running,
            arrived: false,
            counters: *counters,
        });
        HostSample {
            at: Time::from_unix_ms(at_ms),
            facts: Arc::new(HostFacts::default()),
            background: None,
            pressure: Pressure::default(),
            machines: machines.collect(),
        }
    }

    fn used(cpu_ms: u64, io_bytes: u64) -> Option<Counters> {
        Some(Counters {
            cpu_time_ns: cpu_ms * 1_000_000,
            cpu_delay_ns: None,
            pressure: Pressure::default(),
            io_bytes,
            memory_bytes: 50_000_000,
            dirty_bytes_per_s: None,
        })
    }

    fn view_after(samples: Vec<HostSample>) -> View {
        let mut view = View::new(Metering::plain());
        for s in samples {
            view.observe(s, &host());
        }
        view
    }

    fn usage(view: &View, now_ms: u64) -> Result<Resources, Unknown> {
        view.usage(&host(), Time::from_unix_ms(now_ms))
    }

    #[test]
    fn two_samples_make_a_rate_and_one_makes_none() {
        let once = view_after(vec![sample(0, &[("a", 1, used(0, 0))])]);
        assert!(matches!(
            usage(&once, 0),
            Err(Unknown::Machine { why: Implausible::SeenOnce, .. })
        ));
        let twice = view_after(vec![
            sample(0, &[("a", 1, used(100, 0))]),
            sample(2000, &[("a", 1, used(1100, 4000))]),
        ]);
        let rates = usage(&twice, 2000).unwrap();
        assert!((rates.cpu_cores - 0.5).abs() < 1e-9);
        assert!((rates.io_bytes_per_s - 2000.0).abs() < 1e-9);
        assert!((rates.memory_bytes - 5e7).abs() < 1e-9);
    }

    #[test]
    fn counters_that_restart_begin_a_new_series_and_keep_the_last_rate() {
        let mut view = view_after(vec![
            sample(0, &[("a", 1, used(5000, 0))]),
            sample(1000, &[("a", 1, used(5500, 0))]),
            sample(2000, &[("a", 1, used(10, 0))]),
        ]);
        assert!((usage(&view, 2000).unwrap().cpu_cores - 0.5).abs() < 1e-9);
        view.observe(sample(3000, &[("a", 1, used(110, 0))]), &host());
        assert!((usage(&view, 3000).unwrap().cpu_cores - 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_machine_that_falls_silent_is_unknown_alone_and_counts_as_it_did() {
        let told = |at, ms| sample(at, &[("a", 1, used(ms, 0)), ("b", 1, used(ms / 2, 0))]);
        let silent = |at, ms| sample(at, &[("a", 1, used(ms, 0)), ("b", 1, None)]);
        let mut view = view_after(vec![told(0, 0), told(1000, 400), silent(2000, 800)]);
        let id = |name| MachineId::new(name).unwrap();
        let cores = |view: &View, now| usage(view, now).unwrap().cpu_cores;
        assert!((cores(&view, 2000) - 0.6).abs() < 1e-9, "0.4 of `a`, and 0.2 as before of `b`");
        assert!(view.machines()[&id("b")].measured().is_err(), "it alone is unknown");
        assert_eq!(view.machines()[&id("b")].silent_since, Some(Time::from_unix_ms(2000)));
        assert_eq!(view.machines()[&id("a")].silent_since, None);
        view.observe(silent(3000, 1200), &host());
        assert_eq!(view.machines()[&id("b")].silent_since, Some(Time::from_unix_ms(2000)));
        // It answers again.
        view.observe(told(4000, 1600), &host());
        assert!((cores(&view, 4000) - 0.6).abs() < 1e-9);
        assert_eq!(view.machines()[&id("b")].silent_since, None);
        // One that was silent from the beginning counts with the memory that it may occupy.
        let mut view = view_after(vec![silent(0, 0), silent(1000, 400)]);
        assert!((usage(&view, 1000).unwrap().memory_bytes - 1.5e8).abs() < 1.0);
        view.observe(silent(2000, 800), &host());
        assert!((cores(&view, 2000) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn what_came_along_is_believed_until_it_is_measured() {
        let mut view = view_after(vec![]);
        let id = MachineId::new("a").unwrap();
        view.believe(id, Resources { cpu_cores: 0.7, ..Resources::ZERO }, None);
        view.observe(sample(0, &[("a", 1, used(0, 0))]), &host());
        assert!((usage(&view, 0).unwrap().cpu_cores - 0.7).abs() < 1e-9);
        view.observe(sample(1000, &[("a", 1, used(200, 0))]), &host());
        assert!((usage(&view, 1000).unwrap().cpu_cores - 0.2).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_known_of_what_makes_no_sense() {
        let cases: [(&str, Vec<HostSample>); 4] = [
            ("0 virtual CPUs", vec![sample(0, &[("a", 0, used(0, 0))])]),
            ("no statistics", vec![sample(0, &[("a", 1, None)])]),
            (
                "3.00 cores with 1 virtual",
                vec![sample(0, &[("a", 1, used(0, 0))]), sample(1000, &[("a", 1, used(3000, 0))])],
            ),
            ("not measured", vec![]),
        ];
        for (text, samples) in cases {
            let unknown = usage(&view_after(samples), 1000).unwrap_err().to_string();
            assert!(unknown.contains(text), "`{unknown}` does not say `{text}`");
        }
        let stale = view_after(vec![sample(0, &[])]);
        assert!(matches!(usage(&stale, 31_000), Err(Unknown::Stale { .. })));
        assert!(usage(&stale, 30_000).is_ok(), "an empty host is known to use nothing");
    }
}

//! Running a scenario.

mod deeds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::Decision;
use evenkeel_core::model::{MachineFacts, Time};
use evenkeel_core::port::HandoffId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::happening::Kind;
use super::report::{FORMAT, InvariantResult, Report};
use super::source::{Demand, Source};
use super::watch::Watch;
use super::{MembershipKind, Names, Scenario, ScenarioError, expect, unknown};
use crate::check::Invariant;
use crate::cluster::{Cluster, HostSpec};
use crate::log::Line;
use crate::membership::{Membership, Oracle, Swim};
use crate::network::Network;
use crate::queue::Queue;
use crate::snapshot::Snapshot;

/// When every simulation begins: late enough for clocks that are behind.
const BEGINNING: Time = Time::from_unix_ms(1_000_000_000_000);
/// More hosts than this get an oracle unless told otherwise.
const SWIM_HOSTS_MAX: usize = 1000;

/// Watches a run from outside.
pub trait Observer {
    /// Whether it wants to hear of events.
    fn wants_lines(&self) -> bool;
    /// Something happened.
    fn line(&mut self, line: &Line);
    /// This share of the run is done, from 0 to 1.
    fn progress(&mut self, share: f64);
    /// How often it wants to see the whole cluster, if it does.
    fn looks_every(&self) -> Option<Duration> {
        None
    }
    /// The cluster at a moment, and what was decided since the one before.
    fn look(&mut self, _cluster: &Cluster, _decided: &[Decision]) {}
}

/// What is planned besides what the cluster does by itself.
#[derive(Clone, Copy)]
enum Item {
    Measure,
    Look,
    WarmedUp,
    Tick(usize),
    Event(usize),
    Strike(Kind),
    Undo(u64),
}

/// A run of a scenario.
pub struct Simulation {
    scenario: Scenario,
    seed: u64,
    cluster: Cluster,
    demand: Demand,
    names: Names,
    agenda: Queue<Item>,
    rng: ChaCha8Rng,
    undos: BTreeMap<u64, deeds::Undo>,
    deeds_done: u64,
    watch: Watch,
    mishaps: BTreeMap<String, u64>,
    outside_moves: u64,
    machines: usize,
    /// What was decided since the cluster was looked at last, where somebody looks.
    decided: Vec<Decision>,
}

impl Simulation {
    /// Sets up a scenario that is in `directory`, to which the files that it names are relative.
    ///
    /// # Errors
    /// When a file cannot be read or used, or an event is about something that is not there.
    pub fn new(scenario: Scenario, directory: &Path, seed: u64) -> Result<Self, ScenarioError> {
        let source = Source::of(&scenario, directory, seed)?;
        let membership = membership(&scenario, source.snapshot.hosts.len(), seed);
        let mut cluster = Cluster::beginning(BEGINNING, seed, membership);
        cluster.keep_records();
        cluster.network = Network {
            delay_min: scenario.network.delay_min,
            delay_max: scenario.network.delay_max,
            loss: scenario.network.loss,
            duplication: scenario.network.duplication,
            ..Network::default()
        };
        let names = furnish(&scenario, &source, &mut cluster)?;
        for happening in &scenario.event {
            for host in happening.deed.hosts() {
                if !names.0.contains(host) {
                    return Err(unknown(happening.at, "host", host));
                }
            }
            if let Some(machine) = happening.deed.machine().filter(|m| !names.1.contains(m)) {
                return Err(unknown(happening.at, "machine", machine));
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(2);
        let mut simulation = Self {
            machines: names.1.len(),
            seed,
            cluster,
            demand: source.demand,
            names,
            agenda: Queue::new(),
            rng,
            undos: BTreeMap::new(),
            deeds_done: 0,
            watch: Watch::default(),
            mishaps: BTreeMap::new(),
            outside_moves: 0,
            decided: Vec::new(),
            scenario,
        };
        simulation.plan();
        Ok(simulation)
    }

    /// What the scenario shows, in a sentence.
    #[must_use]
    pub fn about(&self) -> &str {
        &self.scenario.about
    }

    /// The cluster as it is.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn plan(&mut self) {
        let scenario = &self.scenario;
        self.agenda.push(BEGINNING + scenario.warm_up, Item::WarmedUp);
        if self.demand.tick().is_some() {
            self.agenda.push(BEGINNING, Item::Tick(0));
        }
        for (index, happening) in scenario.event.iter().enumerate() {
            self.agenda.push(BEGINNING + happening.at, Item::Event(index));
        }
        self.agenda.push(BEGINNING + scenario.measure, Item::Measure);
        for (kind, rate) in scenario.faults.rates() {
            self.plan_strike(kind, rate);
        }
    }

    fn plan_strike(&mut self, kind: Kind, per_hour: f64) {
        if per_hour > 0.0 {
            let wait = self.spread(Duration::from_secs_f64(3600.0 / per_hour));
            self.agenda.push(self.cluster.now() + wait, Item::Strike(kind));
        }
    }

    /// A random time with this mean, exponentially distributed.
    fn spread(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-self.rng.random_range(f64::MIN_POSITIVE..1.0f64).ln())
    }

    /// Runs it.
    ///
    /// # Errors
    /// When something is wanted of a host or machine that it cannot do.
    pub fn run(mut self, observer: &mut dyn Observer) -> Result<Report, ScenarioError> {
        if observer.wants_lines() {
            self.cluster.keep_log();
        }
        if self.scenario.agents {
            self.cluster.start();
        }
        let end = BEGINNING + self.scenario.duration;
        let looks = observer.looks_every().map(|every| every.max(Duration::from_secs(1)));
        if looks.is_some() {
            self.agenda.push(BEGINNING, Item::Look);
        }
        while let Some(at) = self.agenda.next_at().filter(|&at| at < end) {
            self.go(at, observer);
            match (self.agenda.pop(), looks) {
                (Some(Item::Look), Some(every)) => {
                    observer.look(&self.cluster, &std::mem::take(&mut self.decided));
                    self.agenda.push(at + every, Item::Look);
                }
                (Some(item), _) => self.take(item)?,
                (None, _) => {}
            }
        }
        self.go(end, observer);
        if looks.is_some() {
            observer.look(&self.cluster, &std::mem::take(&mut self.decided));
        }
        self.watch.look(&self.cluster, Duration::ZERO);
        let round = self.scenario.balance.round;
        let figures = self.watch.figures(&self.cluster, BEGINNING, round);
        self.heal(observer)?;
        let mut report = Report {
            format: FORMAT,
            about: self.scenario.about.clone(),
            seed: self.seed,
            machines: self.machines,
            outside_moves: self.outside_moves,
            mishaps: self.mishaps,
            invariants: InvariantResult::all(self.cluster.violations()),
            ..figures
        };
        report.unmet = expect::unmet(&self.scenario.expect, &report)?;
        Ok(report)
    }

    /// Lets the cluster run until `at`, and sees what happens.
    fn go(&mut self, at: Time, observer: &mut dyn Observer) {
        self.cluster.run_until(at);
        for line in self.cluster.take_log() {
            observer.line(&line);
        }
        let records = self.cluster.take_records();
        self.watch.heed(&records);
        if observer.looks_every().is_some() {
            self.decided.extend(records);
        }
        self.watch.moved(self.cluster.take_moves());
        let whole = (self.scenario.duration + self.scenario.heal).as_secs_f64();
        observer.progress(at.since(BEGINNING).as_secs_f64() / whole);
    }

    fn take(&mut self, item: Item) -> Result<(), ScenarioError> {
        let now = self.cluster.now();
        match item {
            Item::WarmedUp => {
                self.watch.begin(&self.cluster);
                self.watch.look(&self.cluster, Duration::ZERO);
            }
            Item::Look => {}
            Item::Measure => {
                self.watch.look(&self.cluster, self.scenario.measure);
                self.cluster.check_all();
                self.agenda.push(now + self.scenario.measure, Item::Measure);
            }
            Item::Tick(tick) => {
                let wanted = self.demand.at(tick);
                for (machine, workload) in self.names.1.iter().zip(wanted) {
                    // One that a lost disk took along wants nothing any more.
                    if self.cluster.cloud().locate(machine).is_some() {
                        self.cluster.cloud_mut().set_workload(machine, workload)?;
                    }
                }
                if let Some(span) = self.demand.tick() {
                    self.agenda.push(now + span, Item::Tick(tick + 1));
                }
            }
            Item::Event(index) => {
                let happening = self.scenario.event[index].clone();
                if let Some(every) = happening.every {
                    self.agenda.push(now + every.max(Duration::from_secs(1)), Item::Event(index));
                }
                self.befall(&happening.deed, happening.lasts)?;
            }
            Item::Strike(kind) => {
                self.strike(kind)?;
                let rate = self.scenario.faults.rates().into_iter().find(|(k, _)| *k == kind);
                self.plan_strike(kind, rate.map_or(0.0, |(_, rate)| rate));
            }
            Item::Undo(key) => {
                if let Some(undo) = self.undos.remove(&key) {
                    self.undo(undo)?;
                }
            }
        }
        Ok(())
    }

    /// Ends what goes wrong, and sees that every handoff ends that is under way then.
    fn heal(&mut self, observer: &mut dyn Observer) -> Result<(), ScenarioError> {
        for undo in std::mem::take(&mut self.undos).into_values() {
            self.undo(undo)?;
        }
        let open = self.open();
        self.go(self.cluster.now() + self.scenario.heal, observer);
        self.cluster.check_all();
        self.cluster.check_at_rest();
        for (host, handoff) in self.open().intersection(&open) {
            let detail = format!("handoff {handoff} of `{}` is still open", self.names.0[*host]);
            self.cluster.broken(Invariant::HandoffsEnd, detail);
        }
        Ok(())
    }

    /// Handoffs that are under way or in a store and can end by themselves, and on which host.
    fn open(&self) -> BTreeSet<(usize, HandoffId)> {
        let mut open = BTreeSet::new();
        for (index, host) in self.names.0.iter().enumerate() {
            let running = self.cluster.balancer(host);
            let running = running.into_iter().flat_map(Balancer::handoffs);
            let open_here = self.cluster.stored(host).chain(running);
            let by_itself = open_here.filter(|h| !self.cluster.waits_for_a_person(h));
            open.extend(by_itself.map(|h| (index, h.id)));
        }
        open
    }
}

fn membership(scenario: &Scenario, hosts: usize, seed: u64) -> Box<dyn Membership> {
    let table = &scenario.membership;
    let by_size =
        if hosts <= SWIM_HOSTS_MAX { MembershipKind::Foca } else { MembershipKind::Oracle };
    match table.kind.unwrap_or(by_size) {
        MembershipKind::Foca => Box::new(Swim::new(evenkeel_membership::Config::default(), seed)),
        MembershipKind::Oracle => Box::new(Oracle::new(table.detection)),
    }
}

/// Hosts and machines.
fn furnish(
    scenario: &Scenario,
    source: &Source,
    cluster: &mut Cluster,
) -> Result<Names, ScenarioError> {
    let Snapshot { hosts, vms, .. } = &source.snapshot;
    let ceilings = scenario.ceilings.ceilings();
    let config = Config { ceilings, ..scenario.balance.balancer() };
    for host in hosts {
        let mut spec = HostSpec::new(host.profile(), config.clone());
        spec.state = host.state;
        spec.hypervisor.link_bytes_per_s = scenario.migration.link.as_u64() as f64;
        spec.hypervisor.migration_cores = scenario.migration.cpu_cores;
        spec.hypervisor.background = host.background;
        cluster.add_host(spec)?;
    }
    for (index, vm) in vms.iter().enumerate() {
        // Some machines are, some are not.
        let facts = MachineFacts { autostart: index % 2 == 0, ..vm.facts() };
        cluster.place(&vm.host, facts, source.demand.base(index))?;
    }
    let hosts = hosts.iter().map(|host| host.id.clone()).collect();
    Ok((hosts, vms.iter().map(|vm| vm.id.clone()).collect()))
}

//! The driver of the core over virtual time.
//!
//! A [`Cluster`] is any number of hosts, each with an agent (the same [`Balancer`] that the daemon
//! runs), a hypervisor in memory and a store that outlives its agent. Nothing happens but through
//! [`Cluster::step`], and the same seed makes the same run.

mod agent;
mod effects;
mod mishap;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::balancer::Balancer;
use evenkeel_core::decision::Decision;
use evenkeel_core::effect::{Input, Timer};
use evenkeel_core::handoff::Handoff;
use evenkeel_core::host::Host;
use evenkeel_core::message::Message;
use evenkeel_core::model::{HostId, MachineFacts, MachineId, Time};
use evenkeel_core::port::{Event, HandoffId};
use evenkeel_core::rules::Labels;
use evenkeel_core::witness::Acquaintances;
use evenkeel_hypervisor::memory::{CloudError, MemoryCloud, Workload};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::{Checker, Invariant, Violation};
use crate::log::{Line, What};
use crate::membership::{Membership, Oracle};
use crate::network::Network;
use crate::queue::Queue;
use agent::Agent;
pub use agent::HostSpec;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that agents said.
    pub messages: u64,
    /// Their size in bytes, as encoded.
    pub message_bytes: u64,
    /// Migrations that ended well.
    pub migrations: u64,
    /// Bytes that those sent.
    pub migrated_bytes: u64,
    /// For how long machines stood still in them, in milliseconds.
    pub downtime_ms: u64,
    /// For how long one stood still at most, in milliseconds.
    pub downtime_max_ms: u64,
    /// Migrations that failed.
    pub migrations_failed: u64,
    /// Most migrations that were under way from and to one host at once.
    pub at_once_max: u64,
    /// Those of the messages that were about rules across a label.
    pub witness_messages: u64,
    /// Datagrams of the membership.
    pub datagrams: u64,
    /// Their size in bytes.
    pub datagram_bytes: u64,
}

enum Planned {
    Deliver { to: usize, from: usize, message: Box<Message> },
    Wake { agent: usize, timer: Timer },
    Resume { agent: usize, life: u64 },
    Datagram { to: usize, from: usize, bytes: Vec<u8> },
    Alarm(u64),
    Tell { agent: usize, members: Arc<[HostId]> },
}

/// A machine that has come to another host, by a handoff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub at: Time,
    /// Which.
    pub machine: MachineId,
    /// From where.
    pub from: HostId,
    /// Where to.
    pub to: HostId,
}

/// A cluster in virtual time.
pub struct Cluster {
    began: Time,
    now: Time,
    planned: Queue<Planned>,
    inputs: VecDeque<(usize, Input)>,
    agents: Vec<Agent>,
    by_id: BTreeMap<HostId, usize>,
    cloud: MemoryCloud,
    membership: Box<dyn Membership>,
    rng: ChaCha8Rng,
    checker: Checker,
    log: Option<Vec<Line>>,
    records: Option<Vec<Decision>>,
    tally: Tally,
    /// Migrations ordered and not ended.
    ordered: BTreeMap<HandoffId, Moved>,
    moves: Vec<Moved>,
    /// How messages travel; may be changed at any time.
    pub network: Network,
}

impl Cluster {
    /// An empty cluster, at time zero, with an [`Oracle`] that needs a second to notice.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let oracle = Box::new(Oracle::new(Duration::from_secs(1)));
        Self::beginning(Time::from_unix_ms(0), seed, oracle)
    }

    /// An empty cluster at a time of its own, with this membership. Its log counts from then on.
    #[must_use]
    pub fn beginning(now: Time, seed: u64, membership: Box<dyn Membership>) -> Self {
        Self {
            began: now,
            now,
            planned: Queue::new(),
            inputs: VecDeque::new(),
            agents: Vec::new(),
            by_id: BTreeMap::new(),
            cloud: MemoryCloud::new(now),
            membership,
            rng: ChaCha8Rng::seed_from_u64(seed),
            checker: Checker::default(),
            log: None,
            records: None,
            tally: Tally::default(),
            ordered: BTreeMap::new(),
            moves: Vec::new(),
            network: Network::default(),
        }
    }

    /// Keeps a log from now on; see [`Self::log`].
    pub fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    /// Keeps every decision record from now on; see [`Self::records`].
    pub fn keep_records(&mut self) {
        self.records.get_or_insert_default();
    }

    /// Adds a host, whose agent is not started yet.
    ///
    /// # Errors
    /// When there is one of this id.
    pub fn add_host(&mut self, spec: HostSpec) -> Result<(), CloudError> {
        self.cloud.add_host(spec.hypervisor.clone())?;
        let id = spec.profile.id.clone();
        self.by_id.insert(id.clone(), self.agents.len());
        self.membership.add(&id);
        self.agents.push(Agent::new(id, spec));
        Ok(())
    }

    /// Places a running machine on a host.
    ///
    /// # Errors
    /// When there is no such host or the machine exists.
    pub fn place(
        &mut self,
        host: &HostId,
        facts: MachineFacts,
        workload: Workload,
    ) -> Result<(), CloudError> {
        let machine = facts.id.clone();
        self.checker.keep_up(&machine, facts.autostart);
        self.cloud.place(host, facts, workload, true)?;
        self.checker.expect(machine);
        Ok(())
    }

    /// Starts the agents of all hosts that have none running.
    pub fn start(&mut self) {
        self.start_those(|_| true);
    }

    /// Starts the agents of those of these hosts that have none running.
    pub fn start_those(&mut self, which: impl Fn(&HostId) -> bool) {
        let idle = |&index: &usize| {
            let agent = &self.agents[index];
            agent.balancer.is_none() && which(&agent.id)
        };
        let idle: Vec<usize> = (0..self.agents.len()).filter(idle).collect();
        self.start_agents(&idle);
    }

    /// Starts the agents of all hosts at once, each of which knows all others from the beginning.
    /// Costs little also for ten thousand hosts, whose membership does not change.
    pub fn start_acquainted(&mut self) {
        let mut all: Vec<_> = self.agents.iter().map(|agent| agent.id.clone()).collect();
        all.sort_unstable();
        let all: Arc<[HostId]> = all.into();
        if self.keeps_apart_across() {
            self.introduce(|_| true);
        }
        for index in 0..self.agents.len() {
            let life = self.rng.next_u64();
            self.agents[index].start(life);
            self.note(index, || What::Started);
            self.agents[index].store.acquaintances.meet(&all);
            self.inputs.push_back((index, Input::Acquaint(Arc::clone(&all))));
            self.inputs.push_back((index, Input::Start));
        }
        self.settle();
    }

    /// Whether any machine keeps away from others across a label.
    fn keeps_apart_across(&self) -> bool {
        let machines = self.agents.iter().flat_map(|agent| self.cloud.machines_on(&agent.id));
        let mut entries = machines.filter_map(|(facts, _)| facts.entry.as_ref().ok());
        entries.any(|e| e.rules.anti_affinity.iter().any(|group| group.label().is_some()))
    }

    /// Lets these hosts have told each other their labels, as they have after a while. To be done
    /// before they are started.
    pub fn introduce(&mut self, which: impl Fn(&HostId) -> bool) {
        let agents = || self.agents.iter().filter(|agent| which(&agent.id));
        let profiles: Vec<_> = agents().map(|agent| agent.spec.profile.clone()).collect();
        let mut known: BTreeMap<&Labels, Acquaintances> = BTreeMap::new();
        let agents = self.agents.iter_mut().filter(|agent| which(&agent.id));
        for (agent, profile) in agents.zip(&profiles) {
            let met = known.entry(&profile.labels).or_insert_with(|| {
                let hosts = profiles.iter().map(|other| (&other.id, &other.labels));
                Acquaintances::introduced(&profile.labels, hosts)
            });
            agent.store.acquaintances = met.clone();
        }
    }

    /// Every host whose agent runs, as it knows itself.
    pub fn live_hosts(&self) -> impl Iterator<Item = &Host> {
        self.agents.iter().filter_map(|agent| Some(agent.balancer.as_ref()?.host()))
    }

    /// Whether no host has anything to do, as far as each of them knows.
    #[must_use]
    pub fn is_content(&self) -> bool {
        self.agents.iter().filter_map(|a| a.balancer.as_ref()).all(|b| b.is_content(self.now))
    }

    /// Lets something happen to a host's agent, such as an operator's wish.
    pub fn input(&mut self, host: &HostId, input: Input) {
        if let Some(&index) = self.by_id.get(host) {
            match &input {
                Input::Claim { machine, .. } => self.checker.note_claim(machine.clone()),
                Input::SetState(state) => self.agents[index].set_state(*state, self.now),
                _ => {}
            }
            self.inputs.push_back((index, input));
            self.settle();
        }
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Every host, in the order in which they were added.
    pub fn hosts(&self) -> impl Iterator<Item = &HostId> {
        self.agents.iter().map(|agent| &agent.id)
    }

    /// The balancer of a host, if its agent runs.
    #[must_use]
    pub fn balancer(&self, host: &HostId) -> Option<&Balancer> {
        self.agents[*self.by_id.get(host)?].balancer.as_ref()
    }

    /// The hypervisors.
    #[must_use]
    pub const fn cloud(&self) -> &MemoryCloud {
        &self.cloud
    }

    /// The hypervisors, to change what machines do or to let something fail.
    pub const fn cloud_mut(&mut self) -> &mut MemoryCloud {
        &mut self.cloud
    }

    /// What came of the run so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The log so far; empty if none is kept.
    #[must_use]
    pub fn log(&self) -> &[Line] {
        self.log.as_deref().unwrap_or_default()
    }

    /// Takes away which machines have come to other hosts since it was asked last.
    pub fn take_moves(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moves)
    }

    /// Every host as it was added, in that order.
    pub fn specs(&self) -> impl Iterator<Item = &HostSpec> {
        self.agents.iter().map(|agent| &agent.spec)
    }

    /// Something that must hold was seen broken.
    pub(crate) fn broken(&mut self, invariant: Invariant, detail: String) {
        self.checker.found(self.now, invariant, detail);
    }

    /// Takes the log so far away, which is then empty.
    pub fn take_log(&mut self) -> Vec<Line> {
        self.log.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Takes the decision records so far away, of which there are none then.
    pub fn take_records(&mut self) -> Vec<Decision> {
        self.records.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// The decision records so far; empty if none are kept.
    #[must_use]
    pub fn records(&self) -> &[Decision] {
        self.records.as_deref().unwrap_or_default()
    }

    /// What was broken so far: nothing, if all is well.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        self.checker.violations()
    }

    /// The durable records of handoffs that a host has.
    pub fn stored(&self, host: &HostId) -> impl Iterator<Item = &Handoff> {
        let agent = self.by_id.get(host).map(|&index| &self.agents[index]);
        agent.into_iter().flat_map(|agent| &agent.store.handoffs)
    }

    /// Checks every invariant of the whole cluster now.
    pub fn check_all(&mut self) {
        let hosts = self.agents.iter().map(|agent| agent.spec.promisable());
        self.checker.check_all(self.now, hosts, &self.cloud);
    }

    /// Checks what must hold once nothing has gone wrong for a while: what is started at boot runs.
    pub fn check_at_rest(&mut self) {
        self.checker.check_kept_up(self.now, &self.cloud);
    }

    /// Lets the next thing happen. Answers whether there was one.
    pub fn step(&mut self) -> bool {
        let due = [self.planned.next_at(), self.cloud.next_due()];
        let Some(at) = due.into_iter().flatten().min() else {
            return false;
        };
        self.now = self.now.max(at);
        self.cloud.advance_to(self.now);
        if self.planned.next_at().is_some_and(|at| at <= self.now)
            && let Some(planned) = self.planned.pop()
        {
            self.happen(planned);
        }
        self.settle();
        true
    }

    /// Lets everything happen until `end`.
    pub fn run_until(&mut self, end: Time) {
        self.run_while(end, |_| true);
    }

    /// Lets things happen until `end`, or until `go_on` says no, which it is asked before each of
    /// them. Answers whether it said no.
    pub fn run_while(&mut self, end: Time, mut go_on: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if !go_on(self) {
                return true;
            }
            let due = [self.planned.next_at(), self.cloud.next_due()];
            match due.into_iter().flatten().min() {
                Some(at) if at <= end => self.step(),
                _ => {
                    self.now = self.now.max(end);
                    self.cloud.advance_to(self.now);
                    return false;
                }
            };
        }
    }

    fn happen(&mut self, planned: Planned) {
        match planned {
            Planned::Deliver { to, from, message } => {
                if self.agents[to].balancer.is_some() {
                    let from = self.agents[from].id.clone();
                    self.note(to, || What::Heard(from.clone(), (*message).clone()));
                    self.inputs.push_back((to, Input::Message(from, *message)));
                }
            }
            Planned::Wake { agent, timer } => {
                if self.agents[agent].take_due(timer, self.now) {
                    self.note(agent, || What::Woke(timer));
                    self.inputs.push_back((agent, Input::Timer(timer)));
                }
            }
            Planned::Resume { agent, life } => self.resume(agent, life),
            Planned::Datagram { to, from, bytes } => {
                if self.agents[to].balancer.is_some() {
                    self.with_membership(|it, now, out| it.heard(to, from, &bytes, now, out));
                }
            }
            Planned::Alarm(alarm) => self.with_membership(|it, now, out| it.woke(alarm, now, out)),
            Planned::Tell { agent, members } => {
                if self.agents[agent].balancer.is_some() {
                    self.note(agent, || What::Members(members.len()));
                    self.agents[agent].store.acquaintances.meet(&members);
                    self.inputs.push_back((agent, Input::Acquaint(members)));
                }
            }
        }
    }

    /// Feeds the balancers with what is waiting for them until nothing is.
    fn settle(&mut self) {
        let mut effects = Vec::new();
        loop {
            while let Some((host, event)) = self.cloud.next_event() {
                self.hypervisor_says(&host, event);
            }
            let Some((index, input)) = self.inputs.pop_front() else { return };
            let agent = &mut self.agents[index];
            if agent.is_stalled() {
                agent.waiting.push_back(input);
                continue;
            }
            let now = agent.clock(self.now);
            let Some(balancer) = &mut agent.balancer else { continue };
            balancer.handle(input, now, &mut self.rng, &mut effects);
            self.carry_out_all(index, effects.drain(..));
        }
    }

    /// A slow write has ended: what waited for it goes on.
    fn resume(&mut self, index: usize, life: u64) {
        let agent = &mut self.agents[index];
        if agent.life != life || !agent.is_stalled() {
            return;
        }
        let held = std::mem::take(&mut agent.held);
        agent.written = true;
        self.carry_out_all(index, held.into_iter());
        let waiting = std::mem::take(&mut self.agents[index].waiting);
        self.inputs.extend(waiting.into_iter().map(|input| (index, input)));
    }

    fn hypervisor_says(&mut self, host: &HostId, mut event: Event) {
        let Some(&index) = self.by_id.get(host) else { return };
        match &mut event {
            Event::MigrationEnded(handoff, Ok(stats)) => {
                if let Some(moved) = self.ordered.remove(handoff) {
                    self.moves.push(Moved { at: self.now, ..moved });
                }
                self.tally.migrations += 1;
                self.tally.migrated_bytes += stats.bytes;
                self.tally.downtime_ms += stats.downtime_ms;
                self.tally.downtime_max_ms = self.tally.downtime_max_ms.max(stats.downtime_ms);
            }
            Event::MigrationEnded(handoff, Err(_)) => {
                self.ordered.remove(handoff);
                self.tally.migrations_failed += 1;
            }
            Event::Sampled(Ok(sample)) => sample.at = self.agents[index].clock(sample.at),
            _ => {}
        }
        if let Event::ScheduleChanged(machine) = &event {
            let profile = &self.agents[index].spec.profile;
            let promisable = self.agents[index].spec.promisable();
            self.checker.check_host(self.now, promisable, &self.cloud);
            self.checker.check_machine(self.now, machine, &self.cloud);
            let hosts = self.agents.iter().map(|agent| &agent.spec.profile);
            self.checker.check_seats(self.now, profile, machine, hosts, &self.cloud);
        }
        self.note(index, || What::Noticed(event.clone()));
        self.inputs.push_back((index, Input::Hypervisor(event)));
    }

    fn note(&mut self, index: usize, what: impl FnOnce() -> What) {
        if let Some(log) = &mut self.log {
            let at = Time::from_unix_ms(0) + self.now.since(self.began);
            log.push(Line { at, host: self.agents[index].id.clone(), what: what() });
        }
    }

    /// Machines that any running agent holds a handoff of.
    #[must_use]
    pub fn on_their_way(&self) -> BTreeSet<MachineId> {
        let balancers = self.agents.iter().filter_map(|agent| agent.balancer.as_ref());
        balancers.flat_map(|b| b.handoffs().map(|h| h.machine.clone())).collect()
    }
}

/// The size of a message as it goes over the wire, without the frame around it.
fn encoded_bytes(message: &Message) -> u64 {
    struct Count(u64);
    impl minicbor::encode::Write for Count {
        type Error = std::convert::Infallible;
        fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
            self.0 += bytes.len() as u64;
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail, and a message always has an encoding.
    let _ = minicbor::encode(message, &mut count);
    count.0
}

//! The driver of the core over virtual time.
//!
//! A [`Cluster`] is any number of hosts, each with an agent (the same [`Balancer`] that the daemon
//! runs), a hypervisor in memory and a store that outlives its agent. Nothing happens but through
//! [`Cluster::step`], and the same seed makes the same run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::Decision;
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::{Handoff, Recovered};
use evenkeel_core::host::Host;
use evenkeel_core::message::Message;
use evenkeel_core::model::{HostId, HostProfile, MachineFacts, MachineId, Time};
use evenkeel_core::port::{Event, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_hypervisor::memory::{CloudError, MemoryCloud, MemoryHost, Workload};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::{Checker, Violation};
use crate::log::{Line, What};
use crate::membership::{Membership, News, Oracle};
use crate::network::Network;
use crate::queue::Queue;

/// A host to be simulated.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// What its agent is configured with.
    pub profile: HostProfile,
    /// What its hypervisor has. The same id as in the profile.
    pub hypervisor: MemoryHost,
    /// How it balances.
    pub config: Config,
}

impl HostSpec {
    /// A host whose hypervisor has what its profile says.
    #[must_use]
    pub fn new(profile: HostProfile, config: Config) -> Self {
        let mut hypervisor = MemoryHost::new(profile.id.clone(), profile.capacity);
        hypervisor.cpu_speed = profile.cpu_speed;
        Self { profile, hypervisor, config }
    }
}

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
}

struct Agent {
    id: HostId,
    spec: HostSpec,
    /// `None` while it is dead.
    balancer: Option<Balancer>,
    timers: BTreeMap<Timer, Time>,
    /// Survives the agent.
    store: Recovered,
    store_fails: bool,
}

impl Agent {
    /// Starts it, with what its store holds.
    fn boot(&mut self, life: u64) {
        self.store.reopen(life);
        let (config, profile) = (self.spec.config.clone(), self.spec.profile.clone());
        self.balancer = Some(Balancer::new(config, profile, self.store.clone()));
    }
}

enum Planned {
    Deliver { to: usize, from: usize, message: Box<Message> },
    Wake { agent: usize, timer: Timer },
    News(News),
}

/// A cluster in virtual time.
pub struct Cluster {
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
    /// How messages travel; may be changed at any time.
    pub network: Network,
}

impl Cluster {
    /// An empty cluster, at time zero, with an [`Oracle`] that needs a second to notice.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::from_unix_ms(0),
            planned: Queue::new(),
            inputs: VecDeque::new(),
            agents: Vec::new(),
            by_id: BTreeMap::new(),
            cloud: MemoryCloud::new(Time::from_unix_ms(0)),
            membership: Box::new(Oracle::new(Duration::from_secs(1))),
            rng: ChaCha8Rng::seed_from_u64(seed),
            checker: Checker::default(),
            log: None,
            records: None,
            tally: Tally::default(),
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
        self.agents.push(Agent {
            id,
            spec,
            balancer: None,
            timers: BTreeMap::new(),
            store: Recovered::default(),
            store_fails: false,
        });
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
        self.cloud.place(host, facts, workload, true)?;
        self.checker.expect(machine);
        Ok(())
    }

    /// Starts the agents of all hosts that have none running.
    pub fn start(&mut self) {
        for index in 0..self.agents.len() {
            if self.agents[index].balancer.is_none() {
                self.start_agent(index);
            }
        }
    }

    /// Starts the agents of all hosts at once, each of which knows all others from the beginning.
    /// Costs little also for ten thousand hosts, whose membership does not change.
    pub fn start_acquainted(&mut self) {
        let mut all: Vec<_> = self.agents.iter().map(|agent| agent.id.clone()).collect();
        all.sort_unstable();
        let all: Arc<[HostId]> = all.into();
        for index in 0..self.agents.len() {
            let life = self.rng.next_u64();
            self.agents[index].boot(life);
            self.note(index, || What::Started);
            self.inputs.push_back((index, Input::Acquaint(Arc::clone(&all))));
            self.inputs.push_back((index, Input::Start));
        }
        self.settle();
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

    /// Starts a host's agent, with what its store holds.
    pub fn restart(&mut self, host: &HostId) {
        if let Some(&index) = self.by_id.get(host)
            && self.agents[index].balancer.is_none()
        {
            self.start_agent(index);
        }
    }

    fn start_agent(&mut self, index: usize) {
        let life = self.rng.next_u64();
        self.agents[index].boot(life);
        let id = self.agents[index].id.clone();
        self.note(index, || What::Started);
        self.inputs.push_back((index, Input::Start));
        self.tell_membership(&id, true);
        self.settle();
    }

    /// Kills a host's agent: what it held in memory is gone, its machines run on.
    pub fn kill(&mut self, host: &HostId) {
        let Some(&index) = self.by_id.get(host) else { return };
        let agent = &mut self.agents[index];
        if agent.balancer.take().is_none() {
            return;
        }
        agent.timers.clear();
        self.note(index, || What::Killed);
        self.tell_membership(host, false);
    }

    /// Kills a host: its agent and its hypervisor with all machines on it.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn power_off(&mut self, host: &HostId) -> Result<(), CloudError> {
        self.kill(host);
        let lost: Vec<_> = self.cloud.machines_on(host).map(|(m, _)| m.id.clone()).collect();
        for machine in &lost {
            self.checker.forget(machine);
        }
        self.cloud.power_off(host)
    }

    /// Whether a host's store can be written.
    pub fn set_store_fails(&mut self, host: &HostId, fails: bool) {
        if let Some(&index) = self.by_id.get(host) {
            self.agents[index].store_fails = fails;
        }
    }

    /// Lets something happen to a host's agent, such as an operator's wish.
    pub fn input(&mut self, host: &HostId, input: Input) {
        if let Some(&index) = self.by_id.get(host) {
            if let Input::Claim { machine, .. } = &input {
                self.checker.note_claim(machine.clone());
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
        let profiles = self.agents.iter().map(|agent| &agent.spec.profile);
        self.checker.check_all(self.now, profiles, &self.cloud);
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
                let due = self.agents[agent].timers.get(&timer).is_some_and(|&at| at <= self.now);
                if due {
                    self.agents[agent].timers.remove(&timer);
                    self.note(agent, || What::Woke(timer));
                    self.inputs.push_back((agent, Input::Timer(timer)));
                }
            }
            Planned::News(News { host, members, .. }) => {
                if let Some(&index) = self.by_id.get(&host) {
                    self.note(index, || What::Members(members.len()));
                    self.inputs.push_back((index, Input::Members(members)));
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
            let Some(balancer) = &mut self.agents[index].balancer else { continue };
            balancer.handle(input, self.now, &mut self.rng, &mut effects);
            for effect in effects.drain(..) {
                if !self.carry_out(index, effect) {
                    break;
                }
            }
        }
    }

    fn hypervisor_says(&mut self, host: &HostId, event: Event) {
        let Some(&index) = self.by_id.get(host) else { return };
        if let Event::MigrationEnded(_, Ok(stats)) = &event {
            self.tally.migrations += 1;
            self.tally.migrated_bytes += stats.bytes;
        }
        if let Event::ScheduleChanged(machine) = &event {
            let profile = &self.agents[index].spec.profile;
            self.checker.check_host(self.now, profile, &self.cloud);
            self.checker.check_machine(self.now, machine, &self.cloud);
        }
        self.note(index, || What::Noticed(event.clone()));
        self.inputs.push_back((index, Input::Hypervisor(event)));
    }

    /// Carries out one effect. Answers whether the ones behind it may be carried out.
    fn carry_out(&mut self, index: usize, effect: Effect) -> bool {
        match effect {
            Effect::Persist(handoff) => return self.persist(index, handoff),
            Effect::Send(to, message) => self.send(index, &to, message),
            Effect::SetTimer(timer, at) => {
                self.agents[index].timers.insert(timer, at);
                self.planned.push(at, Planned::Wake { agent: index, timer });
            }
            Effect::Order(order) => self.order(index, order),
            Effect::Record(decision) => {
                self.checker.check_record(self.now, &decision);
                self.note(index, || What::Recorded(decision.clone()));
                if let Some(records) = &mut self.records {
                    records.push(decision);
                }
            }
            Effect::Stopped => self.kill(&self.agents[index].id.clone()),
        }
        true
    }

    fn persist(&mut self, index: usize, handoff: Handoff) -> bool {
        let agent = &mut self.agents[index];
        if agent.store_fails {
            let failed = Input::StoreFailed(handoff.id, "no space left on device".to_owned());
            self.inputs.push_front((index, failed));
            return false;
        }
        agent.store.keep(handoff);
        true
    }

    fn send(&mut self, from: usize, to: &HostId, message: Message) {
        self.tally.messages += 1;
        self.tally.message_bytes += encoded_bytes(&message);
        let sender = &self.agents[from].id;
        let Some(&to_index) = self.by_id.get(to) else {
            let why = format!("no host `{to}`");
            return self.inputs.push_back((from, Input::Undelivered(to.clone(), why)));
        };
        let mut arrived = false;
        for delay in self.network.carry(sender, to, &message, &mut self.rng) {
            arrived = true;
            let message = Box::new(message.clone());
            let deliver = Planned::Deliver { to: to_index, from, message };
            self.planned.push(self.now + delay, deliver);
        }
        self.note(from, || match arrived {
            true => What::Said(to.clone(), message),
            false => What::Lost(to.clone(), message),
        });
    }

    fn order(&mut self, index: usize, order: Order) {
        self.note(index, || What::Ordered(order.clone()));
        let host = &self.agents[index].id;
        if matches!(order, Order::Resume(..) | Order::Discard(..)) {
            let all: Vec<_> = self.agents.iter().map(|agent| &agent.store).collect();
            self.checker.check_order(self.now, host, &order, &self.agents[index].store, &all);
        }
        if let Ok(mut hypervisor) = self.cloud.on(host) {
            hypervisor.submit(order);
        }
    }

    fn tell_membership(&mut self, host: &HostId, alive: bool) {
        for news in self.membership.changed(host, alive, self.now) {
            self.planned.push(news.at, Planned::News(news));
        }
    }

    fn note(&mut self, index: usize, what: impl FnOnce() -> What) {
        if let Some(log) = &mut self.log {
            log.push(Line { at: self.now, host: self.agents[index].id.clone(), what: what() });
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

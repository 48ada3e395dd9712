//! One host's agent as the simulation holds it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use evenkeel_core::appraisal::{Answer, WishId};
use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::{Handoff, Recovered};
use evenkeel_core::model::{HostId, HostProfile, HostState, MachineId, Time};
use evenkeel_hypervisor::memory::MemoryHost;

/// A host to be simulated.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// What its agent is configured with.
    pub profile: HostProfile,
    /// What its hypervisor has. The same id as in the profile.
    pub hypervisor: MemoryHost,
    /// How it balances.
    pub config: Config,
    /// Whether it takes part when its agent is started.
    pub state: HostState,
}

impl HostSpec {
    /// A host whose hypervisor has what its profile says.
    #[must_use]
    pub fn new(profile: HostProfile, config: Config) -> Self {
        let mut hypervisor = MemoryHost::new(profile.id.clone(), profile.capacity);
        hypervisor.cpu_speed = profile.cpu_speed;
        Self { profile, hypervisor, config, state: HostState::Active }
    }

    /// Its profile, and how much memory it may promise to machines, in bytes.
    pub(crate) fn promisable(&self) -> (&HostProfile, f64) {
        (&self.profile, self.config.ceilings.promisable_bytes(&self.profile))
    }
}

pub(super) struct Agent {
    pub(super) id: HostId,
    pub(super) spec: HostSpec,
    /// `None` while it is dead.
    pub(super) balancer: Option<Balancer>,
    /// Counts the times that its host was booted.
    pub(super) boots: u64,
    /// Counts its starts.
    pub(super) life: u64,
    pub(super) timers: BTreeMap<Timer, Time>,
    /// Survives the agent.
    pub(super) store: Recovered,
    pub(super) store_fails: bool,
    /// Whether its store was ever lost: only a person can then say what it had released.
    pub(super) lost_store: bool,
    /// Records of handoffs that ended while the store could not be written.
    pub(super) unclosed: Vec<Handoff>,
    /// How long a write takes.
    pub(super) store_takes: Duration,
    /// Effects that wait for a slow write, which is the first of them.
    pub(super) held: VecDeque<Effect>,
    /// Whether the first of those has been written.
    pub(super) written: bool,
    /// What happened meanwhile.
    pub(super) waiting: VecDeque<Input>,
    /// By how much the wall clock of its host is ahead, in milliseconds.
    pub(super) wall_ms: i64,
    /// The same when the agent was started: it does not follow steps of the wall clock.
    clock_ms: i64,
    /// Machines that ran when the power was cut.
    pub(super) ran: Vec<MachineId>,
    /// Until when the host was being emptied last, if it is not any more.
    drained_until: Option<Time>,
    /// What became of wishes.
    pub(super) answers: BTreeMap<WishId, Answer>,
}

impl Agent {
    pub(super) fn new(id: HostId, spec: HostSpec) -> Self {
        Self {
            id,
            spec,
            balancer: None,
            boots: 1,
            life: 0,
            timers: BTreeMap::new(),
            store: Recovered::default(),
            store_fails: false,
            lost_store: false,
            unclosed: Vec::new(),
            store_takes: Duration::ZERO,
            held: VecDeque::new(),
            written: false,
            waiting: VecDeque::new(),
            wall_ms: 0,
            clock_ms: 0,
            ran: Vec::new(),
            drained_until: None,
            answers: BTreeMap::new(),
        }
    }

    /// An operator says whether the host takes part, which outlasts its agent.
    pub(super) fn set_state(&mut self, state: HostState, now: Time) {
        if self.spec.state == HostState::Draining && state != HostState::Draining {
            self.drained_until = Some(now);
        }
        self.spec.state = state;
    }

    /// Whether the host was being emptied at any time since.
    pub(super) fn was_emptied_since(&self, time: Time) -> bool {
        self.spec.state == HostState::Draining || self.drained_until.is_some_and(|at| at >= time)
    }

    /// An operator is answered. That a host is being emptied outlasts its agent.
    pub(super) fn answered(&mut self, wish: WishId, answer: Answer) {
        if matches!(&answer, Answer::Drain(fit) if fit.begins) {
            self.spec.state = HostState::Draining;
        }
        self.answers.insert(wish, answer);
    }

    /// Starts with what the store holds, for which another life begins.
    pub(super) fn start(&mut self, life: u64) {
        self.store.reopen(life);
        self.store.boot = self.boots.to_string();
        let (config, profile) = (self.spec.config.clone(), self.spec.profile.clone());
        self.balancer = Some(Balancer::new(config, profile, self.store.clone()));
        self.life += 1;
        self.clock_ms = self.wall_ms;
    }

    /// Everything that was only in memory is gone. Answers whether it ran.
    pub(super) fn die(&mut self) -> bool {
        self.timers.clear();
        self.held.clear();
        self.unclosed.clear();
        self.waiting.clear();
        self.written = false;
        self.balancer.take().is_some()
    }

    /// Whether it waits for its store.
    pub(super) fn is_stalled(&self) -> bool {
        !self.held.is_empty()
    }

    /// What its own clock shows at `time`.
    pub(super) fn clock(&self, time: Time) -> Time {
        Time::from_unix_ms(time.unix_ms().saturating_add_signed(self.clock_ms))
    }

    /// Whether a timer is due, which it is only once.
    pub(super) fn take_due(&mut self, timer: Timer, now: Time) -> bool {
        let due = self.timers.get(&timer).is_some_and(|&at| at <= now);
        if due {
            self.timers.remove(&timer);
        }
        due
    }
}

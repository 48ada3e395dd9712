//! One host: an agent that runs the real code, its store, its hypervisor.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use evenkeel_core::effect::Effect;
use evenkeel_core::handoff::{Handoffs, Limits, Recovered, Turn};
use evenkeel_core::host::{Host, Settings};
use evenkeel_core::message::Pass;
use evenkeel_core::model::{
    HandoffId, HandoffKey, HostId, HostProfile, MachineId, Resources, Time,
};
use evenkeel_core::port::{Failure, FailureKind, LookId, MigrationStats, Sight};
use rand::TryRng;

use crate::hypervisor::{Copy, Job, Stage};

/// Longer than every limit of time.
const LONG: Duration = Duration::from_secs(1_000_000);
/// Repeated so often, a timer's handler has made all the attempts that it ever makes.
const ATTEMPTS: u32 = 16;

/// Something that was said: it can be delivered from now on, at any time.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// By whom.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// Of which handoff.
    pub handoff: HandoffId,
    /// What.
    pub pass: Pass,
}

/// What a hypervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The target's answer to the last step of a migration has passed the agent that carries it.
    FinishPassed(HandoffId),
    /// What ran the machine of a migration has ended.
    EmulatorGone(HandoffId),
    /// A migration is over, well or not.
    Migrated(HandoffId, bool),
    /// What a look saw.
    Looked(LookId, Sight),
    /// Whether the machine was let run.
    Resumed(Result<(), FailureKind>),
    /// Whether a copy was destroyed.
    Discarded(Result<(), FailureKind>),
    /// Whether the machine was started.
    Started(Result<(), FailureKind>),
    /// Whether starting at boot was changed.
    AutostartSet(bool, Result<(), FailureKind>),
}

/// What an agent takes in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    Hear(usize, HandoffId, Pass),
    Told(Answer),
    /// The same, to a handoff that has been waiting for longer than any limit of time.
    ToldLate(Answer),
    Timer(HandoffId),
    /// The timer of a handoff that has been waiting for longer than any limit of time.
    Late(HandoffId),
    Claim(usize),
    StoreFailed(HandoffKey),
    Recover,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its agent, if it runs.
    pub agent: Option<Handoffs>,
    /// The look that its agent ordered last.
    pub looks: LookId,
    /// What is durable.
    pub disk: Recovered,
    /// The copy of the machine here, if there is one.
    pub copy: Option<Copy>,
    /// The migration under way from here, if any.
    pub job: Option<Job>,
    /// What the hypervisor has answered and the agent has not taken in.
    pub answers: VecDeque<Answer>,
    /// Whether it has power.
    pub powered: bool,
    /// Whether an operator has fenced it: it is off for good.
    pub fenced: bool,
    /// How often it was booted.
    pub boots: u32,
    /// How often its agent was started.
    pub starts: u32,
}

pub(crate) fn host(index: usize) -> HostId {
    HostId::new(&format!("h{index}")).unwrap_or_else(|error| unreachable!("{error}"))
}

pub(crate) fn index(host: &HostId) -> usize {
    host.as_str()[1..].parse().unwrap_or_else(|error| unreachable!("{error}"))
}

pub(crate) fn machine() -> MachineId {
    MachineId::new("m").unwrap_or_else(|error| unreachable!("{error}"))
}

/// A host as the handoffs see it. They read nothing of it but its name.
pub(crate) fn facade(me: usize) -> Host {
    let capacity = Resources { cpu_cores: 1.0, memory_bytes: 1e9, io_bytes_per_s: 1e8 };
    let profile = HostProfile::new(host(me), capacity);
    Host::new(profile, Settings::default())
}

/// Handoffs leave nothing to chance. What did would have courses that are not checked here.
pub(crate) struct NoChance;

impl TryRng for NoChance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("a handoff has left something to chance")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("a handoff has left something to chance")
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
        unreachable!("a handoff has left something to chance")
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.agent, &self.disk, self.copy, self.job).hash(state);
        (self.powered, self.fenced, self.boots, self.starts).hash(state);
        for answer in &self.answers {
            match (answer, &self.agent) {
                // Which number it has makes no difference, only who waits for it.
                (Answer::Looked(look, sight), Some(agent)) => {
                    (sight, agent.await_look(*look)).hash(state);
                }
                _ => answer.hash(state),
            }
        }
    }
}

impl Node {
    /// Whether its copy's virtual CPUs run. They are stopped for the last of the memory.
    #[must_use]
    pub fn runs(&self) -> bool {
        let sending = self.job.is_none_or(|job| job.stage == Stage::Sending);
        sending && self.copy.is_some_and(|copy| copy.runs())
    }

    /// Whether it holds the machine's memory, all of it.
    #[must_use]
    pub fn holds(&self) -> bool {
        let gone = self.job.is_some_and(|job| matches!(job.stage, Stage::Gone(_)));
        !gone && self.copy.is_some_and(|copy| copy.is_complete())
    }

    pub(crate) fn new(me: usize, copy: Option<Copy>) -> Self {
        let mut node = Self {
            agent: None,
            looks: LookId::default(),
            disk: Recovered::default(),
            copy,
            job: None,
            answers: VecDeque::new(),
            powered: true,
            fenced: false,
            boots: 1,
            starts: 0,
        };
        node.start();
        node.take_in(me, Input::Recover);
        node
    }

    /// Starts an agent that knows nothing yet.
    pub(crate) fn start(&mut self) {
        self.starts += 1;
        self.disk.reopen(u64::from(self.starts));
        self.disk.boot = self.boots.to_string();
        self.agent = Some(Handoffs::new(Limits::default()));
        self.looks = LookId::default();
    }

    /// Ends the agent, and with it all that was not durable.
    pub(crate) fn kill(&mut self) {
        self.agent = None;
        self.answers.clear();
    }

    /// What the hypervisor answers, unless nobody listens.
    pub(crate) fn tell(&mut self, answer: Answer) {
        if self.agent.is_some() && !self.answers.contains(&answer) {
            self.answers.push_back(answer);
        }
        self.forget_what_comes_too_late();
    }

    /// Looks that nobody waits for any more are as good as never taken.
    pub(crate) fn forget_what_comes_too_late(&mut self) {
        let Some(agent) = &self.agent else { return };
        let mut answered: Vec<bool> = Vec::new();
        self.answers.retain(|answer| {
            let Answer::Looked(look, _) = answer else { return true };
            let awaited = agent.await_look(*look);
            answered.resize(awaited.len(), false);
            // Of several answers to one who waits, the first counts.
            let news = awaited.iter().zip(&answered).any(|(awaited, had)| *awaited && !had);
            answered.iter_mut().zip(awaited).for_each(|(had, awaited)| *had |= awaited);
            news
        });
    }

    /// Lets the agent take something in, and returns what it wants to be done.
    pub(crate) fn take_in(&mut self, me: usize, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        let durable = self.disk.clone();
        let Some(agent) = &mut self.agent else { return out };
        let live = agent.iter().map(|h| (h.id, h.since)).collect::<Vec<_>>();
        let since = |id| live.iter().find(|(other, _)| *other == id).map(|(_, since)| *since);
        // All that counts is how long a handoff has been in its phase: no time, or too long.
        let now = match &input {
            Input::Hear(_, id, _) | Input::Timer(id) => since(*id),
            Input::StoreFailed(key) => since(key.id),
            Input::Late(id) => since(*id).map(|since| since + LONG),
            Input::ToldLate(_) => live.iter().map(|(_, since)| *since + LONG).max(),
            _ => live.iter().map(|(_, since)| *since).max(),
        };
        let mut facade = facade(me);
        let now = now.unwrap_or(Time::from_unix_ms(0));
        let (looks, mut chance) = (&mut self.looks, NoChance);
        let mut turn = Turn::new(&mut facade, looks, now, &mut chance, &mut out);
        let turn = &mut turn;
        match input {
            Input::Hear(from, id, pass) => agent.hear(id, &host(from), pass, turn),
            Input::Told(answer) | Input::ToldLate(answer) => told(agent, answer, turn),
            Input::Timer(id) => agent.timer(id, turn),
            Input::Late(id) => {
                for _ in 0..ATTEMPTS {
                    agent.timer(id, turn);
                }
            }
            Input::Claim(fenced) => agent.claim(&machine(), &host(fenced), turn),
            Input::StoreFailed(key) => agent.store_failed(&key, "disk full".to_owned(), turn),
            Input::Recover => agent.recover(durable, turn),
        }
        self.forget_what_comes_too_late();
        out
    }
}

fn told(agent: &mut Handoffs, answer: Answer, turn: &mut Turn<'_>) {
    let machine = machine();
    let failed = |kind| Failure::new(kind, "failed");
    match answer {
        Answer::FinishPassed(id) => agent.finish_passed(id, turn),
        Answer::EmulatorGone(id) => agent.emulator_gone(id, turn),
        Answer::Migrated(id, well) => {
            let well = if well { Ok(MigrationStats::default()) } else { Err(FailureKind::Other) };
            agent.migrated(id, well.map_err(failed), turn);
        }
        Answer::Looked(look, sight) => agent.looked(&machine, look, &Ok(sight), turn),
        Answer::Resumed(done) => agent.resumed(&machine, &done.map_err(failed), turn),
        Answer::Discarded(done) => agent.discarded(&machine, &done.map_err(failed), turn),
        Answer::Started(done) => agent.started(&machine, &done.map_err(failed), turn),
        Answer::AutostartSet(wanted, done) => {
            agent.autostart_set(&machine, wanted, &done.map_err(failed), turn);
        }
    }
}

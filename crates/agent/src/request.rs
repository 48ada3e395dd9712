//! What an agent can be asked, and in which words it is answered.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use evenkeel_core::appraisal::{Berth, Fit, Wish};
use evenkeel_core::control::{PAUSE_WORDS_BYTES_MAX, Pause};
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{HostId, HostState, MachineId, MoveId, Rules, Time};
use evenkeel_desk::{Brief, Listed};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::status::{MoveStatus, RecommendationStatus, Status};

pub use evenkeel_core::control::PAUSE_MAX;

/// What the API asks the driver.
#[derive(Debug)]
pub(crate) enum Request {
    Status(Reply<Status>),
    /// The same as pictures of the cluster need it.
    Brief(Reply<Brief>),
    /// Every host that is known here, and whether it is alive.
    Hosts(Reply<Vec<Listed>>),
    /// Why things are as they are.
    Insight(Question),
    /// A change of a machine's schedule entry.
    Edit(Edit),
    RemoveHost(HostId, Reply<()>),
    /// There is no host of this name.
    Forget(HostId, Reply<()>),
    Reset(Reset, Reply<()>),
    SetState(HostState, Reply<()>),
    Wish(Box<Wish>, Waiter),
    RenewCertificate(Reply<SystemTime>),
    /// Where the agent of another host is reached.
    Address(HostId, Reply<SocketAddr>),
    /// What operators say about moving machines.
    Operate(Operation),
    /// The machine, and the host that was fenced.
    Claim(MachineId, HostId, Reply<()>),
}

/// Where an answer goes; an error is why not, in words.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, String>>;

impl Request {
    /// Answers with `why` there is no other answer. Whoever asked may have gone away.
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Self::Status(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Brief(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Hosts(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Insight(question) => question.refuse(why),
            Self::Edit(Edit { answer: reply, .. })
            | Self::Claim(_, _, reply)
            | Self::SetState(_, reply)
            | Self::Forget(_, reply)
            | Self::Reset(_, reply)
            | Self::RemoveHost(_, reply) => drop(reply.send(Err(why.to_owned()))),
            Self::RenewCertificate(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Wish(_, waiter) => waiter.refuse(why.to_owned()),
            Self::Address(_, reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Operate(operation) => operation.refuse(why),
        }
    }
}

/// A change of a machine's schedule entry.
#[derive(Debug)]
pub(crate) struct Edit {
    pub(crate) machine: MachineId,
    pub(crate) what: Change,
    /// How often it was tried in vain because the entry had been changed meanwhile.
    pub(crate) tries: u32,
    pub(crate) answer: Reply<()>,
}

/// What is to be changed in an entry.
#[derive(Debug)]
pub(crate) enum Change {
    Target(Option<f64>),
    Rules(Box<RulesWish>),
}

/// The rules that a machine is to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulesWish {
    /// All of them.
    #[serde(flatten)]
    pub rules: Rules,
    /// What was read before: nothing is changed if they are others by now. Whatever they are if
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Rules>,
}

/// What a host has learned from others that an operator has it forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reset {
    /// Whether the cluster is paused.
    Pause,
    /// The mean load of the cluster.
    Mean,
}

impl Reset {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Mean => "mean",
        }
    }
}

/// What operators ask of the driver.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Moves a machine, to a host or anywhere.
    Migrate(MachineId, Option<HostId>, Reply<MoveStatus>),
    /// How far a directed move is.
    Move(MoveId, Reply<MoveStatus>),
    Recommendations(Reply<Vec<RecommendationStatus>>),
    Approve(MoveId, Reply<MoveStatus>),
    Skip(MoveId, Reply<()>),
    /// Pauses the cluster, or with `None` ends the pause.
    Pause(Option<PauseWish>, Reply<()>),
}

impl Operation {
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Self::Migrate(_, _, reply) | Self::Move(_, reply) | Self::Approve(_, reply) => {
                drop(reply.send(Err(why.to_owned())));
            }
            Self::Recommendations(reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Skip(_, reply) | Self::Pause(_, reply) => drop(reply.send(Err(why.to_owned()))),
        }
    }
}

/// A question about why.
#[derive(Debug)]
pub(crate) enum Question {
    /// A machine's name or id.
    Machine(String, Reply<MachineExplained>),
    Host(Reply<HostExplained>),
}

impl Question {
    /// Answers with `why` there is no other answer. Whoever asked may have gone away.
    pub(crate) fn refuse(self, why: &str) {
        match self {
            Self::Machine(_, reply) => drop(reply.send(Err(why.to_owned()))),
            Self::Host(reply) => drop(reply.send(Err(why.to_owned()))),
        }
    }
}

/// Who waits for what becomes of a wish.
#[derive(Debug)]
pub(crate) enum Waiter {
    Drain(DrainRequest, Reply<Fit>),
    Place(Reply<Placement>),
}

impl Waiter {
    pub(crate) fn refuse(self, why: String) {
        match self {
            Self::Drain(_, reply) => drop(reply.send(Err(why))),
            Self::Place(reply) => drop(reply.send(Err(why))),
        }
    }
}

/// Asks for a host to be emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// Whatever the rest of the cluster can hold.
    #[serde(default)]
    pub force: bool,
    /// Until the host boots again, rather than until an operator says otherwise.
    #[serde(default)]
    pub until_boot: bool,
}

/// Asks where a new machine fits best.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// Cores that it will use.
    #[serde(default)]
    pub cpu_cores: f64,
    /// Disk and network transfer that it will cause, in bytes per second.
    #[serde(default)]
    pub io_bytes_per_s: f64,
    /// Its rules.
    #[serde(default)]
    pub rules: Rules,
}

/// Where a new machine fits: `evenkeel.place/v1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// `evenkeel.place/v1`.
    pub format: String,
    /// Hosts that were asked; in a large cluster some of all, at random.
    pub asked: usize,
    /// Those that have answered, the best first.
    pub hosts: Vec<Berth>,
}

/// How an operator wants the cluster to be paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseWish {
    /// For how long, in seconds.
    pub seconds: u64,
    /// Who wants it.
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl PauseWish {
    pub(crate) fn pause(self, now: Time) -> Result<Pause, String> {
        let Self { seconds, by, reason } = self;
        let span = Duration::from_secs(seconds);
        if span.is_zero() || span > PAUSE_MAX {
            let days = PAUSE_MAX.as_secs() / 86_400;
            return Err(format!("a pause is of 1 second to {days} days, and not of {seconds} s"));
        }
        if by.len().max(reason.len()) > PAUSE_WORDS_BYTES_MAX {
            let most = PAUSE_WORDS_BYTES_MAX;
            return Err(format!("name and reason of a pause have at most {most} bytes"));
        }
        Ok(Pause { until: now + span, by, reason })
    }
}

/// What is wrong, as the API says it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// In words.
    pub error: String,
}

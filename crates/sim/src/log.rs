//! What happened in a simulation, one line an event.

use std::fmt;

use evenkeel_core::decision::Decision;
use evenkeel_core::effect::Timer;
use evenkeel_core::message::{Message, Pass, Talk, Watch, Witness};
use evenkeel_core::model::{HostId, Time};
use evenkeel_core::port::{Event, Order};

/// One event of a run. Two runs of the same cluster with the same seed have equal logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// When, in virtual time.
    pub at: Time,
    /// The host that it happened at.
    pub host: HostId,
    /// What happened.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It said something, and the network took it.
    Said(HostId, Message),
    /// It said something that got lost.
    Lost(HostId, Message),
    /// It heard something.
    Heard(HostId, Message),
    /// One of its timers was due.
    Woke(Timer),
    /// It ordered something from its hypervisor.
    Ordered(Order),
    /// Its hypervisor said something.
    Noticed(Event),
    /// It kept a record of a decision.
    Recorded(Decision),
    /// Other live members became known to it: how many.
    Members(usize),
    /// Its agent was killed.
    Killed,
    /// Its agent was started.
    Started,
    /// Something was done to it from outside.
    Befell(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.at, self.host)?;
        match &self.what {
            What::Said(to, message) => write!(f, "-> {to} {}", Brief(message)),
            What::Lost(to, message) => write!(f, "-x {to} {}", Brief(message)),
            What::Heard(from, message) => write!(f, "<- {from} {}", Brief(message)),
            What::Woke(timer) => write!(f, "timer {timer:?}"),
            What::Ordered(Order::Migrate(m)) => {
                write!(f, "order migrate {} to {}", m.machine, m.to)
            }
            What::Ordered(order) => write!(f, "order {order:?}"),
            What::Noticed(Event::Sampled(Ok(s))) => write!(f, "sampled {}", s.machines.len()),
            What::Noticed(event) => write!(f, "event {event:?}"),
            What::Recorded(decision) => record(decision, f),
            What::Members(count) => write!(f, "members {count}"),
            What::Killed => f.write_str("killed"),
            What::Started => f.write_str("started"),
            What::Befell(what) => write!(f, "! {what}"),
        }
    }
}

fn record(decision: &Decision, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "record {} {}", decision.exchange, decision.ending)?;
    if let (Some(peer), Some(pair)) = (&decision.peer, decision.pair) {
        write!(f, " peer {peer} donor {:.4} receiver {:.4}", pair.donor, pair.receiver)?;
    }
    match decision.chosen() {
        Some(chosen) => write!(f, " chose {}", chosen.machine),
        None => Ok(()),
    }
}

/// A message in a few words.
struct Brief<'a>(&'a Message);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Message::Exchange(id, talk) => match talk {
                Talk::Inquire(report, _) => write!(f, "{id} inquire {:.4}", report.load),
                Talk::Accept(report) => write!(f, "{id} accept {:.4}", report.load),
                Talk::Decline { reason, .. } => write!(f, "{id} decline {reason}"),
                Talk::Offer { candidates, .. } => write!(f, "{id} offer {}", candidates.len()),
                Talk::Quotes { quotes, .. } => write!(f, "{id} quotes {}", quotes.len()),
                Talk::Close { reason, .. } => write!(f, "{id} close {reason}"),
                Talk::Probe(probe) => write!(f, "{id} probe giving {}", probe.giving),
                Talk::Appraise(asked) => write!(f, "{id} appraise {}", asked.candidates.len()),
                Talk::Appraisal(said) => {
                    write!(f, "{id} appraisal {:.4} busy {}", said.report.load, said.busy)
                }
                Talk::Standing(s) => {
                    write!(f, "{id} standing {:.4} room {}", s.report.load, s.room.is_some())
                }
            },
            Message::Watch(Watch::Running(machines, _)) => write!(f, "running {}", machines.len()),
            Message::Watch(Watch::Runs(machine)) => write!(f, "runs {machine}"),
            Message::Watch(Watch::Pause(register)) => {
                write!(f, "pause {}", if register.pause.is_some() { "on" } else { "off" })
            }
            Message::Witness(id, Witness::Ask(ask)) => match &ask.machine {
                Some(machine) => write!(f, "{id} ask for {machine}"),
                None => write!(f, "{id} introduce"),
            },
            Message::Witness(id, Witness::Answer(answer)) => {
                write!(f, "{id} answer {:?}", answer.verdict)
            }
            Message::Witness(_, Witness::Removed(host)) => write!(f, "removed {host}"),
            Message::Handoff(id, pass) => match pass {
                Pass::Reserve { machine, in_return: None, .. } => {
                    write!(f, "{id} reserve {machine}")
                }
                Pass::Reserve { machine, in_return: Some(back), .. } => {
                    write!(f, "{id} reserve {machine} for {back}")
                }
                Pass::Reserved { .. } => write!(f, "{id} reserved"),
                Pass::Refused { reason, .. } => write!(f, "{id} refused {reason}"),
                Pass::Released { machine, .. } => write!(f, "{id} released {machine}"),
                Pass::Claimed => write!(f, "{id} claimed"),
                Pass::Missing => write!(f, "{id} missing"),
                Pass::Cancel { reason, .. } => write!(f, "{id} cancel {reason}"),
                Pass::Discarded => write!(f, "{id} discarded"),
                Pass::Where { machine } => write!(f, "{id} where {machine}"),
                Pass::Holding { machine, .. } => write!(f, "{id} holding {machine}"),
                Pass::Arriving => write!(f, "{id} arriving"),
            },
        }
    }
}

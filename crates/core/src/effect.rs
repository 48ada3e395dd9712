//! What goes into the core and what comes out of it.

use std::sync::Arc;

use crate::acquaintance::Acquaintance;
use crate::appraisal::{Answer, Wish, WishId};
use crate::control::{Pause, PauseRegister};
use crate::decision::Decision;
use crate::message::Message;
use crate::model::{ClaimId, ExchangeId, HostId, HostState, MachineId, MoveId, Time};
use crate::port::{Event, HandoffId, HandoffKey, Order};
use crate::record::Handoff;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The driver is ready. The first input, once.
    Start,
    /// The live members of the cluster besides this host have changed to these.
    Members(Vec<HostId>),
    /// The same for a driver with many balancers, which share one sorted list of all hosts, this one
    /// among them.
    Acquaint(Arc<[HostId]>),
    /// Another host said something.
    Message(HostId, Message),
    /// A message to another host could not be delivered.
    Undelivered(HostId, String),
    /// A timer set by [`Effect::SetTimer`] is due.
    Timer(Timer),
    /// The hypervisor of this host said something.
    Hypervisor(Event),
    /// A record could not be made durable. The effects behind it were dropped.
    StoreFailed(HandoffKey, String),
    /// The target's answer to the last step of this handoff's migration has reached the hypervisor of
    /// this host, which from now on does not let the machine run on here. Only a driver that carries
    /// what the two hypervisors say to each other knows; nothing depends on it but what is certain
    /// after a gap in which nobody looked.
    FinishPassed(HandoffId),
    /// What was known of a host could not be made durable. The effects behind it were dropped.
    NotKept(HostId),
    /// An operator has removed this host from the cluster, by a command given here. Others are told.
    Removed(HostId),
    /// The authority has removed this host from the cluster: the driver has seen that in the list which
    /// the authority signs. What another host says of it counts for nothing.
    Revoked(HostId),
    /// An operator says that there is no such host, and has this one forget the name.
    Forget(HostId),
    /// An operator has this host forget what it knows of pauses.
    ForgetPause,
    /// An operator has this host begin anew to learn the cluster's mean.
    ForgetMean,
    /// An operator has fenced a host: it runs nothing, and never will without being told to. What is
    /// here of this machine is all that there is. [`Balancer::can_claim`] says whether that settles
    /// anything.
    ///
    /// [`Balancer::can_claim`]: crate::balancer::Balancer::can_claim
    Claim {
        /// The machine.
        machine: MachineId,
        /// The host that was fenced.
        fenced: HostId,
    },
    /// An operator wants this host to take part, or not.
    SetState(HostState),
    /// An operator wants nothing to be moved by any balancer's decision, anywhere, or with `None`
    /// wants that to end.
    Pause(Option<Pause>),
    /// An operator orders one machine to be moved, whatever the loads. See
    /// [`Balancer::can_migrate`](crate::balancer::Balancer::can_migrate).
    Migrate(MoveOrder),
    /// An operator approves of a recommendation of this host, or of one that is no more.
    Approve(MoveId),
    /// An operator does not want a recommendation to be followed.
    Skip(MoveId),
    /// Whether it is now outside the hours in which this host may move machines by its own decision.
    Closed(bool),
    /// An operator wishes something about which others have to be asked first. Answered by one
    /// [`Effect::Answer`].
    Wish(WishId, Wish),
    /// An operator wants the agent to stop: finish or hand back what is under way.
    Stop,
    /// The same, now: abort what is under way.
    StopNow,
}

/// What an operator orders.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveOrder {
    /// Its id, drawn by the driver.
    pub id: MoveId,
    /// The machine.
    pub machine: MachineId,
    /// Where to; to wherever it fits best if `None`.
    pub to: Option<HostId>,
}

/// A timer. Setting one that is set moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Measure.
    Sample,
    /// Draw another host and compare loads.
    Round,
    /// The peer of this exchange has been silent too long.
    Exchange(ExchangeId),
    /// Look after this handoff. No two that are under way have the same id.
    Handoff(HandoffId),
    /// Tell another host what this one runs.
    Watch,
    /// Try again what operators have ordered.
    Directed,
    /// Witnesses of this claim have been silent too long.
    Witness(ClaimId),
    /// Look for somebody to give to, while this host is being emptied.
    Empty,
}

/// Something to be done, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this handoff durable before anything behind it is done, and with it its
    /// [mark](Handoff::mark) and, for a source, its [ticket](Handoff::ticket). If that fails, drop the
    /// rest of this list and say so by [`Input::StoreFailed`], before any other input.
    Persist(Handoff),
    /// Make what is known of another host durable before anything behind it is done. If that fails,
    /// drop the rest of this list and say so by [`Input::NotKept`], before any other input.
    Acquaint(Acquaintance),
    /// Say this to another host.
    Send(HostId, Message),
    /// Wake the core at this time.
    SetTimer(Timer, Time),
    /// Order this from the hypervisor.
    Order(Order),
    /// Keep this record of a decision. May fail without harm.
    Record(Decision),
    /// Keep what is known of pauses, in place of what was kept before. If that fails, it is learnt
    /// again from others after a restart.
    Keep(PauseRegister),
    /// This becomes of a wish. If it is that the host is being emptied now, that is to outlast the
    /// agent.
    Answer(WishId, Answer),
    /// Nothing is under way any more; the driver may end.
    Stopped,
}

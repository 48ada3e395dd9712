//! Answers: to every order one, whatever happens.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_core::model::MachineId;
use evenkeel_core::port::{Event, Failure, FailureKind, HandoffId, LookId, ORDER_TIME_MAX, Unfit};

/// Locks also what a panic left behind: nothing guarded here is ever left half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where events go: a queue, which a thread of its own empties into the sink.
///
/// Whoever tells is never held up, so that no lock is held while the sink blocks: neither the driver,
/// which is told of an order that was refused on the spot while it is the one to empty the sink, nor
/// libvirt's event thread, which has to answer keepalives. The queue is bounded by what there is to
/// tell: one answer for an order, and one line for each machine that has changed and for each
/// migration under way, however often that happens while the sink is full.
pub(crate) struct Outlet(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    events: Mutex<Events>,
    told: Condvar,
}

#[derive(Default)]
struct Events {
    queue: VecDeque<Event>,
    /// Whether nobody is left who could tell anything.
    closed: bool,
}

impl Outlet {
    /// An outlet, and its thread. The thread ends once the outlet is dropped and everything is told.
    pub(crate) fn start(sink: impl Fn(Event) + Send + 'static) -> std::io::Result<Arc<Self>> {
        let waiting = Arc::new(Waiting::default());
        let source = Arc::clone(&waiting);
        let run = move || {
            while let Some(event) = source.next() {
                sink(event);
            }
        };
        std::thread::Builder::new().name("libvirt-outlet".to_owned()).spawn(run)?;
        Ok(Arc::new(Self(waiting)))
    }

    /// Tells without ever waiting for the sink.
    pub(crate) fn tell(&self, event: Event) {
        let queue = &mut lock(&self.0.events).queue;
        let same = |queued: &&mut Event| match (&**queued, &event) {
            (Event::ScheduleChanged(a), Event::ScheduleChanged(b)) => a == b,
            (Event::Progress(a, _), Event::Progress(b, _)) => a == b,
            _ => false,
        };
        match queue.iter_mut().find(same) {
            Some(queued) => *queued = event,
            None => queue.push_back(event),
        }
        self.0.told.notify_one();
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        lock(&self.0.events).closed = true;
        self.0.told.notify_one();
    }
}

impl Waiting {
    /// What is to be told next; nothing once nothing can come any more.
    fn next(&self) -> Option<Event> {
        let idle = |events: &mut Events| events.queue.is_empty() && !events.closed;
        let events = self.told.wait_while(lock(&self.events), idle);
        events.unwrap_or_else(PoisonError::into_inner).queue.pop_front()
    }
}

/// What an order wants to know.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Sample,
    Look(MachineId, LookId),
    WriteEntry(MachineId),
    Migrate(HandoffId),
    Resume(MachineId),
    Discard(MachineId),
    SetAutostart(MachineId, bool),
    Start(MachineId),
    Examine(HandoffId),
}

impl Question {
    fn failed(self, failure: Failure) -> Event {
        match self {
            Self::Sample => Event::Sampled(Err(failure)),
            Self::Look(machine, look) => Event::Looked(machine, look, Err(failure)),
            Self::WriteEntry(machine) => Event::EntryWritten(machine, Err(failure)),
            Self::Migrate(handoff) => Event::MigrationEnded(handoff, Err(failure)),
            Self::Resume(machine) => Event::Resumed(machine, Err(failure)),
            Self::Discard(machine) => Event::Discarded(machine, Err(failure)),
            Self::SetAutostart(machine, wanted) => {
                Event::AutostartSet(machine, wanted, Err(failure))
            }
            Self::Start(machine) => Event::Started(machine, Err(failure)),
            Self::Examine(handoff) => Event::Examined(handoff, Err(Unfit::NotTold(failure))),
        }
    }
}

/// The duty to answer an order. Dropped without an answer, it answers with a failure.
pub(crate) struct Answer(Arc<Slot>);

/// Holds the question until it is answered.
pub(crate) struct Slot {
    question: Mutex<Option<Question>>,
    answered: Condvar,
    outlet: Arc<Outlet>,
}

impl Answer {
    pub(crate) fn new(question: Question, outlet: &Arc<Outlet>) -> Self {
        let question = Mutex::new(Some(question));
        let outlet = Arc::clone(outlet);
        Self(Arc::new(Slot { question, answered: Condvar::new(), outlet }))
    }

    /// One that nobody waits for: it wakes whoever is given it.
    pub(crate) fn nobody(outlet: &Arc<Outlet>) -> Self {
        let outlet = Arc::clone(outlet);
        Self(Arc::new(Slot { question: Mutex::new(None), answered: Condvar::new(), outlet }))
    }

    pub(crate) fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.0)
    }

    /// Answers, unless that was done already because it took too long.
    pub(crate) fn give(self, event: Event) {
        if self.0.take().is_some() {
            self.0.outlet.tell(event);
        }
    }

    pub(crate) fn fail(self, failure: Failure) {
        self.0.fail(failure);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let detail = "given up: the connection to libvirt is being shut down";
        self.0.fail(Failure::new(FailureKind::Unreachable, detail));
    }
}

impl Slot {
    fn take(&self) -> Option<Question> {
        let taken = lock(&self.question).take();
        self.answered.notify_all();
        taken
    }

    fn fail(&self, failure: Failure) {
        if let Some(question) = self.take() {
            self.outlet.tell(question.failed(failure));
        }
    }

    /// Waits until it is answered, at most until `deadline`.
    fn wait(&self, deadline: Instant) {
        let mut question = lock(&self.question);
        while question.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            let waited = self.answered.wait_timeout(question, left);
            question = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Answers what libvirt does not answer within [`ORDER_TIME_MAX`], until no more orders can come.
/// Every order has the same limit, so they run out in the order in which they came.
pub(crate) fn watch(orders: &Receiver<(Instant, Arc<Slot>)>) {
    for (given, slot) in orders {
        slot.wait(given + ORDER_TIME_MAX);
        let detail = format!("libvirt did not answer within {ORDER_TIME_MAX:?}");
        slot.fail(Failure::new(FailureKind::Unreachable, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn outlet() -> (Arc<Outlet>, Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Outlet::start(move |event| drop(sender.send(event))).unwrap(), receiver)
    }

    /// Everything that was told, once the outlet is gone.
    fn all(outlet: Arc<Outlet>, events: &Receiver<Event>) -> Vec<Event> {
        drop(outlet);
        events.iter().collect()
    }

    #[test]
    fn nobody_who_tells_waits_for_a_driver_that_does_not_listen() {
        // A driver that is given events one at a time, and is not yet ready for the first.
        let (sender, events) = mpsc::sync_channel(0);
        let outlet = Outlet::start(move |event| drop(sender.send(event))).unwrap();
        let machine = |n| MachineId::new(&format!("m{n}")).unwrap();
        // libvirt's thread tells more than the driver's queue of 1,024 holds, some of it again.
        for n in 0..2_000 {
            outlet.tell(Event::ScheduleChanged(machine(n % 1_500)));
        }
        // Meanwhile the driver orders something that is refused on the spot. This is its own thread:
        // were it to wait here, nobody would ever empty the queue.
        Answer::new(Question::Sample, &outlet).fail(Failure::new(FailureKind::Busy, "full"));
        let told = all(outlet, &events);
        let changes = told.iter().filter(|e| matches!(e, Event::ScheduleChanged(_))).count();
        // The first may be on its way already when it changes once more.
        assert!((1_500..=1_501).contains(&changes), "{changes} lines about 1,500 machines");
        assert!(matches!(told.last(), Some(Event::Sampled(Err(_)))), "in their order");
    }

    #[test]
    fn an_order_is_answered_once() {
        let (outlet, events) = outlet();
        let answer = Answer::new(Question::Sample, &outlet);
        let slot = answer.slot();
        answer.fail(Failure::new(FailureKind::Other, "first"));
        slot.fail(Failure::new(FailureKind::Other, "second"));
        drop(slot);
        let told = all(outlet, &events);
        assert!(matches!(&told[..], [Event::Sampled(Err(f))] if f.detail == "first"), "{told:?}");
    }

    #[test]
    fn an_order_that_nobody_carries_out_is_answered_all_the_same() {
        let (outlet, events) = outlet();
        drop(Answer::new(Question::Migrate(HandoffId(3)), &outlet));
        let told = all(outlet, &events);
        assert!(matches!(&told[..], [Event::MigrationEnded(HandoffId(3), Err(_))]), "{told:?}");
    }

    #[test]
    fn an_order_that_takes_too_long_is_answered_with_a_failure() {
        let (outlet, events) = outlet();
        let answer = Answer::new(Question::Sample, &outlet);
        let (sender, receiver) = mpsc::channel();
        let long_ago = Instant::now().checked_sub(ORDER_TIME_MAX);
        let given = long_ago.unwrap_or_else(Instant::now);
        sender.send((given, answer.slot())).unwrap();
        drop(sender);
        watch(&receiver);
        drop(receiver);
        answer.fail(Failure::new(FailureKind::Other, "too late"));
        let told = all(outlet, &events);
        assert!(
            matches!(&told[..], [Event::Sampled(Err(f))] if f.kind == FailureKind::Unreachable),
            "{told:?}"
        );
    }
}

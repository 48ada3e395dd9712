//! The threads that keep a connection to libvirt, and measure.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_core::model::{MachineId, Time};
use evenkeel_core::port::{Event, Failure, FailureKind, ORDER_TIME_MAX};

use crate::answer::{Answer, lock};
use crate::basis::Basis;
use crate::ffi::{CallError, Connection, News, Subscription};
use crate::process::Vigil;
use crate::sample::Knowledge;
use crate::{LibvirtConfig, Shared};

/// libvirt is probed this often, in seconds, and taken for dead after [`KEEPALIVE_COUNT`] probes
/// without an answer: in 20 s, so that what it owes is answered within the limit of an order.
const KEEPALIVE_INTERVAL_S: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

/// The first attempt to connect again comes after this, each one after that takes twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Domains whose descriptions may have changed since they were read.
pub(crate) type Changed = BTreeSet<String>;

/// Opens a connection that notices when libvirt is gone.
pub(crate) fn connect(config: &LibvirtConfig) -> Result<Connection, CallError> {
    crate::ffi::run_event_loop()?;
    let connection = Connection::open(&config.uri, config.read_only)?;
    connection.set_keepalive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)?;
    Ok(connection)
}

/// Whether libvirt is reached, for all threads.
#[derive(Default)]
pub(crate) struct LinkState {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether a first attempt to connect has ended.
    known: bool,
    /// Why libvirt is not reached, if so.
    down: Option<String>,
    /// Why the connection is gone, if that was just told.
    closed: Option<&'static str>,
    stopping: bool,
}

impl LinkState {
    /// Why libvirt is not reached, if that is known.
    pub(crate) fn down(&self) -> Option<String> {
        lock(&self.state).down.clone()
    }

    /// Has whoever waits look whether to end.
    pub(crate) fn wake(&self) {
        lock(&self.state).stopping = true;
        self.told.notify_all();
    }

    fn close(&self, reason: &'static str) {
        lock(&self.state).closed = Some(reason);
        self.told.notify_all();
    }

    fn set(&self, down: Option<String>) {
        let mut state = lock(&self.state);
        (state.known, state.down) = (true, down);
        self.told.notify_all();
    }

    /// Waits until it is known whether libvirt is reached.
    fn await_known(&self) {
        let unknown = |state: &mut State| !state.known && !state.stopping;
        let waited = self.told.wait_timeout_while(lock(&self.state), ORDER_TIME_MAX, unknown);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until the connection is gone, and returns why; nothing if the thread is to end.
    fn await_closing(&self) -> Option<&'static str> {
        let open = |state: &mut State| state.closed.is_none() && !state.stopping;
        let waited = self.told.wait_while(lock(&self.state), open);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        state.closed.filter(|_| !state.stopping)
    }

    /// Waits for so long. Returns whether the thread is to end.
    fn rest(&self, span: Duration) -> bool {
        let end = Instant::now() + span;
        let mut state = lock(&self.state);
        while !state.stopping {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.told.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Keeps a connection, by which libvirt tells what happens, until told to stop.
pub(crate) fn keep_link(shared: &Arc<Shared>) {
    let mut told_gone = false;
    let mut backoff = BACKOFF_MIN;
    loop {
        let reason = match open(shared) {
            Ok(_subscription) => {
                backoff = BACKOFF_MIN;
                shared.link.set(None);
                if std::mem::take(&mut told_gone) {
                    shared.outlet.tell(Event::Connected);
                }
                match shared.link.await_closing() {
                    Some(reason) => reason.to_owned(),
                    None => return,
                }
            }
            Err(error) => error.to_string(),
        };
        let uri = &shared.config.uri;
        let reason = format!("libvirt at `{uri}` does not answer: {reason}");
        shared.link.set(Some(reason.clone()));
        if !told_gone {
            told_gone = true;
            shared.outlet.tell(Event::Disconnected(reason));
        }
        if shared.link.rest(backoff) {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Connects, and finds out what the host is.
fn open(shared: &Arc<Shared>) -> Result<Subscription, CallError> {
    lock(&shared.link.state).closed = None;
    let connection = Arc::new(connect(&shared.config)?);
    let listener = Arc::clone(shared);
    let news = Subscription::new(Arc::clone(&connection), move |news| listener.hear(news))?;
    let basis = Basis::gather(&connection, &shared.config)?;
    *lock(&shared.basis) = Some(Arc::new(basis));
    Ok(news)
}

/// Measures whenever it is asked to, until told to stop, or until nobody is left who could ask.
pub(crate) fn run(shared: &Arc<Shared>, samples: &Receiver<Answer>, clock: &dyn Fn() -> Time) {
    let mut knowledge: Option<Knowledge> = None;
    while let Ok(answer) = samples.recv() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        shared.link.await_known();
        if let Some(reason) = shared.link.down() {
            answer.fail(Failure::new(FailureKind::Unreachable, reason));
            continue;
        }
        let Some(basis) = lock(&shared.basis).clone() else {
            let what = format!("libvirt at `{}` has not answered yet", shared.config.uri);
            answer.fail(Failure::new(FailureKind::Unreachable, what));
            continue;
        };
        // A libvirt that was started again may be another one.
        let known = knowledge.take().filter(|known| known.is_of(&basis));
        let mut known = known.unwrap_or_else(|| Knowledge::new(&shared.config, basis));
        let sampled = known.sample(shared, clock);
        knowledge = Some(known);
        answer.give(Event::Sampled(sampled));
    }
}

impl Shared {
    /// Takes in what libvirt tells, on libvirt's thread.
    fn hear(&self, news: News) {
        match news {
            News::DomainPaused(uuid) => {
                self.migrations.watched(&uuid, Vigil::paused);
                self.changed(uuid);
            }
            News::DomainResumed(uuid) => {
                self.migrations.watched(&uuid, Vigil::resumed);
                self.changed(uuid);
            }
            News::DomainChanged(uuid) => self.changed(uuid),
            News::AroundChanged => self.around_changed.store(true, Ordering::SeqCst),
            News::JobCompleted(uuid, job) => self.migrations.completed(uuid, job),
            News::Closed(reason) => {
                // What libvirt, started again, does with a machine that is paused is not told here.
                self.migrations.unwatched();
                self.link.close(reason);
            }
        }
    }

    fn changed(&self, uuid: String) {
        let machine = MachineId::new(&uuid);
        lock(&self.changed).insert(uuid);
        if let Ok(machine) = machine {
            self.outlet.tell(Event::ScheduleChanged(machine));
        }
    }
}

//! The thread of the connection: it measures, looks, writes entries, and connects again when
//! libvirt went away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use evenkeel_core::model::{Entry, MachineId, Time};
use evenkeel_core::port::{Event, Examination, Failure, FailureKind, LookId, Rewrite, Stamp};

use crate::answer::{Answer, lock};
use crate::copies;
use crate::examine::examine;
use crate::failure::{classify, of_machine};
use crate::ffi::{CallError, Connection, Domain, News, Subscription};
use crate::process::Vigil;
use crate::sample::Knowledge;
use crate::xml::{Element, entry};
use crate::{LibvirtConfig, Shared};

/// libvirt is probed this often, in seconds, and taken for dead after [`KEEPALIVE_COUNT`] probes
/// without an answer: in 20 s, so that what it owes is answered within the limit of an order.
const KEEPALIVE_INTERVAL_S: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

/// The first attempt to connect again comes after this, each one after that takes twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Something for the thread to do.
pub(crate) enum Task {
    Sample(Answer),
    Look(MachineId, LookId, Answer),
    WriteEntry(MachineId, Rewrite, Answer),
    Resume(MachineId, Stamp, Answer),
    Discard(MachineId, Stamp, Answer),
    SetAutostart(MachineId, bool, Answer),
    Start(MachineId, Stamp, Answer),
    Examine(Examination, Answer),
    /// Abort a migration that another process has ordered.
    Abort(MachineId),
    /// See whether the connection is gone, or whether to stop.
    Wake,
}

/// How serving a connection ended.
enum Ended {
    Lost(String),
    Stopped,
}

/// Opens a connection that notices when libvirt is gone.
pub(crate) fn connect(config: &LibvirtConfig) -> Result<Connection, CallError> {
    crate::ffi::run_event_loop()?;
    let connection = Connection::open(&config.uri, config.read_only)?;
    connection.set_keepalive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)?;
    Ok(connection)
}

/// Runs until told to stop, or until nobody is left who could.
pub(crate) fn run(shared: &Arc<Shared>, tasks: &Receiver<Task>, clock: &dyn Fn() -> Time) {
    let mut told_gone = false;
    let mut backoff = BACKOFF_MIN;
    loop {
        let reason = match Link::new(shared) {
            Ok(mut link) => {
                backoff = BACKOFF_MIN;
                if std::mem::take(&mut told_gone) {
                    shared.outlet.tell(Event::Connected);
                }
                match link.serve(tasks, clock) {
                    Ended::Stopped => return,
                    Ended::Lost(reason) => reason,
                }
            }
            Err(error) => error.to_string(),
        };
        let uri = &shared.config.uri;
        let reason = format!("libvirt at `{uri}` does not answer: {reason}");
        if !told_gone {
            told_gone = true;
            shared.outlet.tell(Event::Disconnected(reason.clone()));
        }
        refuse(tasks, &reason, Instant::now() + backoff);
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Answers every task with a failure until `end`.
fn refuse(tasks: &Receiver<Task>, reason: &str, end: Instant) {
    while let Ok(task) = tasks.recv_timeout(end.saturating_duration_since(Instant::now())) {
        refuse_one(task, Failure::new(FailureKind::Unreachable, reason));
    }
}

/// A connection that works.
struct Link<'a> {
    shared: &'a Arc<Shared>,
    // Before the connection, since it is to be dropped before.
    _news: Subscription,
    connection: Arc<Connection>,
    knowledge: Knowledge,
}

impl<'a> Link<'a> {
    fn new(shared: &'a Arc<Shared>) -> Result<Self, CallError> {
        lock(&shared.closed).take();
        let connection = Arc::new(connect(&shared.config)?);
        let listener = Arc::clone(shared);
        let news = Subscription::new(Arc::clone(&connection), move |news| listener.hear(news))?;
        let knowledge = Knowledge::gather(&connection, &shared.config)?;
        Ok(Self { shared, _news: news, connection, knowledge })
    }

    fn serve(&mut self, tasks: &Receiver<Task>, clock: &dyn Fn() -> Time) -> Ended {
        loop {
            let Ok(task) = tasks.recv() else { return Ended::Stopped };
            if self.shared.stopping.load(Ordering::SeqCst) {
                return Ended::Stopped;
            }
            if let Some(reason) = lock(&self.shared.closed).take() {
                refuse_one(task, Failure::new(FailureKind::Unreachable, reason.clone()));
                return Ended::Lost(reason);
            }
            match task {
                Task::Sample(answer) => self.sample(answer, clock),
                Task::Look(machine, look, answer) => {
                    let looked = copies::look(&self.connection, &machine);
                    answer.give(Event::Looked(machine, look, looked));
                }
                Task::Resume(machine, stamp, answer) => {
                    let resumed = copies::resume(&self.connection, &machine, stamp);
                    answer.give(Event::Resumed(machine, resumed));
                }
                Task::Discard(machine, stamp, answer) => {
                    let discarded = copies::discard(&self.connection, &machine, stamp);
                    answer.give(Event::Discarded(machine, discarded));
                }
                Task::SetAutostart(machine, wanted, answer) => {
                    let set = copies::set_autostart(&self.connection, &machine, wanted);
                    answer.give(Event::AutostartSet(machine, wanted, set));
                }
                Task::Start(machine, stamp, answer) => {
                    let started = copies::start(&self.connection, &machine, stamp);
                    answer.give(Event::Started(machine, started));
                }
                Task::WriteEntry(machine, rewrite, answer) => {
                    let written = self.write_entry(&machine, &rewrite);
                    answer.give(Event::EntryWritten(machine, written));
                }
                Task::Examine(examination, answer) => {
                    let (config, knowledge) = (&self.shared.config, &mut self.knowledge);
                    let verdict = examine(&self.connection, config, knowledge, &examination);
                    answer.give(Event::Examined(examination.handoff, verdict));
                }
                Task::Abort(machine) => self.abort(&machine),
                Task::Wake => {}
            }
        }
    }

    fn blame(&self, machine: &MachineId, error: &CallError) -> Failure {
        of_machine(classify(error, &self.connection, false), machine, &error.message)
    }

    fn sample(&mut self, answer: Answer, clock: &dyn Fn() -> Time) {
        // What changes from here on is looked at next time, also if it is seen now already.
        let mut changed = std::mem::take(&mut *lock(&self.shared.changed));
        let leaving = |machine: &MachineId| self.shared.migrations.is_leaving(machine);
        let sampled = self.knowledge.sample(
            &self.connection,
            &self.shared.config,
            clock,
            &mut changed,
            leaving,
        );
        let sampled = sampled.map_err(|error| {
            // It may have been read in part; what was to be read again still is.
            lock(&self.shared.changed).append(&mut changed);
            let kind = classify(&error, &self.connection, false);
            Failure::new(kind, format!("the machines could not be measured: {error}"))
        });
        answer.give(Event::Sampled(sampled));
    }

    fn write_entry(&self, machine: &MachineId, rewrite: &Rewrite) -> Result<Entry, Failure> {
        let blame = |error: CallError| self.blame(machine, &error);
        let element = entry::as_metadata(&rewrite.entry).map_err(|error| {
            let what = format!("its entry cannot be written: {error}");
            of_machine(FailureKind::Other, machine, &what)
        })?;
        let domain = self.connection.domain(machine.as_str()).map_err(blame)?;
        let (active, persistent) =
            (domain.is_active().map_err(blame)?, domain.is_persistent().map_err(blame)?);
        // libvirt would wait for the end of the job, and everything behind this would too.
        if active && domain.job().map_err(blame)?.active {
            let what = "its entry cannot be written while a job is under way on it";
            return Err(of_machine(FailureKind::Busy, machine, what));
        }
        // libvirt has no "write if it still is": the two calls follow each other at once.
        if let Some(over) = &rewrite.over
            && entry_of(&domain).map_err(blame)?.as_ref() != Ok(over)
        {
            let what = "its entry was changed by somebody else since it was read";
            return Err(of_machine(FailureKind::Changed, machine, what));
        }
        let (prefix, namespace) = (entry::PREFIX, entry::NAMESPACE);
        let written = domain.set_metadata(&element, prefix, namespace, active, persistent);
        lock(&self.shared.changed).insert(machine.as_str().to_owned());
        written.map_err(blame)?;
        match entry_of(&domain).map_err(blame)? {
            Ok(read) if read == rewrite.entry => Ok(read),
            _ => {
                let what =
                    "its entry was written and reads otherwise: somebody else writes it, too";
                Err(of_machine(FailureKind::Changed, machine, what))
            }
        }
    }

    fn abort(&self, machine: &MachineId) {
        let abort = || {
            let domain = self.connection.domain(machine.as_str())?;
            let job = domain.job()?;
            if job.active && job.migration_out { domain.abort_job() } else { Ok(()) }
        };
        if let Err(error) = abort() {
            tracing::info!("no migration of machine `{machine}` was aborted: {error}");
        }
    }
}

/// The entry of a domain as libvirt has it now.
fn entry_of(domain: &Domain) -> Result<Result<Entry, String>, CallError> {
    let described = domain.xml()?;
    Ok(Element::parse(&described)
        .map_err(|error| error.to_string())
        .and_then(|domain| entry::of_domain(&domain)))
}

/// Answers a task with a failure.
pub(crate) fn refuse_one(task: Task, failure: Failure) {
    match task {
        Task::Sample(answer)
        | Task::Look(_, _, answer)
        | Task::WriteEntry(_, _, answer)
        | Task::Resume(_, _, answer)
        | Task::Discard(_, _, answer)
        | Task::SetAutostart(_, _, answer)
        | Task::Start(_, _, answer)
        | Task::Examine(_, answer) => answer.fail(failure),
        Task::Abort(_) | Task::Wake => {}
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
            News::JobCompleted(uuid, job) => self.migrations.completed(uuid, job),
            News::Closed(reason) => {
                *lock(&self.closed) = Some(reason.to_owned());
                // What libvirt, started again, does with a machine that is paused is not told here.
                self.migrations.unwatched();
                // If the queue is full the thread wakes up anyway.
                let _ = self.tasks.try_send(Task::Wake);
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

/// Domains whose descriptions may have changed since they were read.
pub(crate) type Changed = BTreeSet<String>;

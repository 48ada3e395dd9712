//! Orders, on threads of their own: those about one machine one after the other, those about different
//! machines side by side, so that one whose QEMU hangs holds up nobody else.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use evenkeel_core::model::{Entry, MachineId};
use evenkeel_core::port::{Event, Examination, Failure, FailureKind, LookId, Rewrite, Stamp};

use crate::answer::{Answer, lock};
use crate::copies;
use crate::examine::examine;
use crate::failure::{classify, of_machine};
use crate::ffi::{CallError, Connection, Domain};
use crate::worker::connect;
use crate::xml::{Element, entry};
use crate::{Shared, TASKS_MAX};

/// Threads that carry out orders: so many machines may hang without others noticing.
const THREADS_MAX: usize = 8;
/// A thread without work ends after this.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Something to do.
pub(crate) enum Task {
    Look(MachineId, LookId, Answer),
    WriteEntry(MachineId, Rewrite, Answer),
    Resume(MachineId, Stamp, Answer),
    Discard(MachineId, Stamp, Answer),
    SetAutostart(MachineId, bool, Answer),
    Start(MachineId, Stamp, Answer),
    Examine(Examination, Answer),
    /// Abort a migration that another process has ordered.
    Abort(MachineId),
}

impl Task {
    /// The machine of which one thing is done after the other. To abort and to examine changes nothing
    /// here, and waits for nothing.
    const fn machine(&self) -> Option<&MachineId> {
        match self {
            Self::Look(machine, ..)
            | Self::WriteEntry(machine, ..)
            | Self::Resume(machine, ..)
            | Self::Discard(machine, ..)
            | Self::SetAutostart(machine, ..)
            | Self::Start(machine, ..) => Some(machine),
            Self::Examine(..) | Self::Abort(_) => None,
        }
    }

    /// Answers with a failure.
    pub(crate) fn refuse(self, failure: Failure) {
        match self {
            Self::Look(_, _, answer)
            | Self::WriteEntry(_, _, answer)
            | Self::Resume(_, _, answer)
            | Self::Discard(_, _, answer)
            | Self::SetAutostart(_, _, answer)
            | Self::Start(_, _, answer)
            | Self::Examine(_, answer) => answer.fail(failure),
            Self::Abort(_) => {}
        }
    }
}

/// What waits, and who works.
#[derive(Default)]
pub(crate) struct Orders {
    waiting: Mutex<Waiting>,
    told: Condvar,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Task>,
    /// Machines that something is being done with.
    busy: BTreeSet<MachineId>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Waiting {
    /// The first of what waits whose machine is free.
    fn take(&mut self) -> Option<Task> {
        let free = |task: &Task| task.machine().is_none_or(|machine| !self.busy.contains(machine));
        let at = self.queue.iter().position(free)?;
        let task = self.queue.remove(at)?;
        self.busy.extend(task.machine().cloned());
        Some(task)
    }
}

impl Orders {
    /// Has every thread end. What waits is answered.
    pub(crate) fn close(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.queue.clear();
        self.told.notify_all();
    }

    /// The next thing to do; nothing if the thread is to end.
    fn next(&self, done: Option<MachineId>) -> Option<Task> {
        let mut waiting = lock(&self.waiting);
        if let Some(machine) = done {
            waiting.busy.remove(&machine);
            // Something that waited for this machine may be free now.
            self.told.notify_one();
        }
        loop {
            if waiting.closed {
                waiting.threads -= 1;
                return None;
            }
            if let Some(task) = waiting.take() {
                return Some(task);
            }
            waiting.idle += 1;
            let waited = self.told.wait_timeout(waiting, IDLE_MAX);
            let (guard, late) = waited.unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
            waiting.idle -= 1;
            if late.timed_out() && waiting.queue.is_empty() {
                waiting.threads -= 1;
                return None;
            }
        }
    }
}

/// Has something done, or gives it back where too much waits.
#[expect(
    clippy::result_large_err,
    reason = "what is given back is what came, and is not boxed for the rare case"
)]
pub(crate) fn push(shared: &Arc<Shared>, task: Task) -> Result<(), Task> {
    let mut waiting = lock(&shared.orders.waiting);
    if waiting.queue.len() >= TASKS_MAX {
        return Err(task);
    }
    if waiting.closed {
        drop(waiting);
        task.refuse(Failure::new(FailureKind::Unreachable, "the connection to libvirt has ended"));
        return Ok(());
    }
    waiting.queue.push_back(task);
    if waiting.idle < waiting.queue.len() && waiting.threads < THREADS_MAX {
        let of_thread = Arc::clone(shared);
        let run = move || work(&of_thread);
        match std::thread::Builder::new().name("libvirt-order".to_owned()).spawn(run) {
            Ok(_) => waiting.threads += 1,
            Err(error) => tracing::error!("no thread for an order: {error}"),
        }
    }
    shared.orders.told.notify_one();
    Ok(())
}

/// Does one thing after the other.
fn work(shared: &Arc<Shared>) {
    let mut connection: Option<Connection> = None;
    let mut done = None;
    while let Some(task) = shared.orders.next(done.take()) {
        done = task.machine().cloned();
        // Without a connection the other thread finds out why, and tells.
        if let Some(reason) = shared.link.down() {
            connection = None;
            task.refuse(Failure::new(FailureKind::Unreachable, reason));
            continue;
        }
        let open = connection.take().filter(Connection::is_open);
        let opened = open.map_or_else(|| connect(&shared.config), Ok);
        match opened {
            Ok(opened) => {
                carry_out(shared, &opened, task);
                connection = Some(opened);
            }
            Err(error) => {
                let uri = &shared.config.uri;
                let what = format!("libvirt at `{uri}` does not answer: {error}");
                task.refuse(Failure::new(FailureKind::Unreachable, what));
            }
        }
    }
}

fn carry_out(shared: &Arc<Shared>, connection: &Connection, task: Task) {
    match task {
        Task::Look(machine, look, answer) => {
            let looked = copies::look(connection, &machine);
            answer.give(Event::Looked(machine, look, looked));
        }
        Task::Resume(machine, stamp, answer) => {
            let resumed = copies::resume(connection, &machine, stamp);
            if resumed.is_ok() {
                // Its disks are its own now.
                shared.promises.keep(&machine);
            }
            answer.give(Event::Resumed(machine, resumed));
        }
        Task::Discard(machine, stamp, answer) => {
            let discarded = copies::discard(connection, &machine, stamp);
            shared.promises.clear_leftovers(connection);
            answer.give(Event::Discarded(machine, discarded));
        }
        Task::SetAutostart(machine, wanted, answer) => {
            let set = copies::set_autostart(connection, &machine, wanted);
            answer.give(Event::AutostartSet(machine, wanted, set));
        }
        Task::Start(machine, stamp, answer) => {
            let started = copies::start(connection, &machine, stamp);
            answer.give(Event::Started(machine, started));
        }
        Task::WriteEntry(machine, rewrite, answer) => {
            let written = write_entry(shared, connection, &machine, &rewrite);
            answer.give(Event::EntryWritten(machine, written));
        }
        Task::Examine(examination, answer) => {
            let verdict = examine(connection, shared, &examination);
            answer.give(Event::Examined(examination.handoff, verdict));
        }
        Task::Abort(machine) => abort(connection, &machine),
    }
}

fn write_entry(
    shared: &Shared,
    connection: &Connection,
    machine: &MachineId,
    rewrite: &Rewrite,
) -> Result<Entry, Failure> {
    let blame =
        |error: CallError| of_machine(classify(&error, connection, false), machine, &error.message);
    let element = entry::as_metadata(&rewrite.entry).map_err(|error| {
        let what = format!("its entry cannot be written: {error}");
        of_machine(FailureKind::Other, machine, &what)
    })?;
    let domain = connection.domain(machine.as_str()).map_err(blame)?;
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
    lock(&shared.changed).insert(machine.as_str().to_owned());
    written.map_err(blame)?;
    match entry_of(&domain).map_err(blame)? {
        Ok(read) if read == rewrite.entry => Ok(read),
        _ => {
            let what = "its entry was written and reads otherwise: somebody else writes it, too";
            Err(of_machine(FailureKind::Changed, machine, what))
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

fn abort(connection: &Connection, machine: &MachineId) {
    let abort = || {
        let domain = connection.domain(machine.as_str())?;
        let job = domain.job()?;
        if job.active && job.migration_out { domain.abort_job() } else { Ok(()) }
    };
    if let Err(error) = abort() {
        tracing::info!("no migration of machine `{machine}` was aborted: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(machine: &str) -> Task {
        let outlet = crate::answer::Outlet::start(|_| {}).unwrap();
        Task::Look(MachineId::new(machine).unwrap(), LookId(0), Answer::nobody(&outlet))
    }

    fn of(task: Option<Task>) -> Option<String> {
        task.and_then(|task| task.machine().map(ToString::to_string))
    }

    #[test]
    fn orders_about_one_machine_wait_for_each_other_and_for_no_other() {
        let mut waiting = Waiting::default();
        for machine in ["hangs", "hangs", "a", "hangs", "b"] {
            waiting.queue.push_back(look(machine));
        }
        assert_eq!(of(waiting.take()).as_deref(), Some("hangs"));
        assert_eq!(of(waiting.take()).as_deref(), Some("a"));
        assert_eq!(of(waiting.take()).as_deref(), Some("b"));
        assert_eq!(of(waiting.take()), None, "the first about it is not done");
        waiting.busy.remove(&MachineId::new("hangs").unwrap());
        assert_eq!(of(waiting.take()).as_deref(), Some("hangs"));
        assert_eq!(of(waiting.take()), None);
    }
}

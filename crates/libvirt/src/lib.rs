//! The hypervisor trait over libvirt: the only unsafe code and the only LGPL dependency.
//!
//! [`LibvirtHypervisor`] takes orders and never blocks. Behind it are a few threads:
//!
//! ```text
//! submit ──▶ queue ──▶ worker: samples, on connections that it gives up when they hang
//!    │                  link: keeps a connection, and connects again
//!    │                        ▲ domain changed, connection closed
//!    │                 libvirt-events: libvirt's event loop, one per process
//!    ├─────▶ order × n: orders about different machines, side by side
//!    ├─────▶ migration × 2 for each one under way, with a connection of its own; emulator for each
//!    │                        that is strict, until the process that runs the machine ends
//!    ├─────▶ watchdog: answers what libvirt does not answer in time
//!    └─────▶ outlet: hands events to the driver, and is the only one that waits for it
//! ```
//!
//! The schedule entry of a machine is an element of its domain's metadata; on a migration the other
//! host gets the domain with the new entry, and the one here stays as it is until the domain is
//! gone. What a sample reads from descriptions is kept until libvirt tells that it changed, so that
//! a sample is one call, however many domains there are.

mod answer;
mod background;
mod basis;
mod carried;
mod copies;
mod emulator;
mod examine;
mod failure;
mod ffi;
mod figures;
mod finish;
mod found;
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod line;
mod locks;
mod log;
mod migrate;
mod orders;
mod pressure;
mod probe;
mod process;
mod promises;
mod sample;
mod storage;
mod surroundings;
mod worker;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use evenkeel_core::model::Time;
use evenkeel_core::port::{Event, Failure, FailureKind, Order};
use evenkeel_hypervisor::Hypervisor;

use answer::{Answer, Outlet, Question, Slot};
use basis::Basis;
use migrate::Migrations;
use orders::{Orders, Task};
use promises::Promises;
use worker::{Changed, LinkState};

pub use basis::memory_bytes;
pub use carried::{
    Admission, Agreed, Control, Here, Refused, Sockets, carried_uri, is_carried, socket_of,
};
pub use emulator::{Emulator, EmulatorError, QemuVersion, check_emulator};
pub use ffi::all_closed;
pub use finish::FinishWatch;
pub use found::{Found, FoundStorage, find_storage};
pub use inspect::{Inspection, baseline_cpu, inspect, reaches};
pub use storage::{SharedStorage, mounted_at};
pub use surroundings::{Sharing, sharing};
pub use xml::fixtures::managers;

/// Most migrations that a host sends at once.
pub const MIGRATIONS_MAX: usize = 8;

/// Most orders that wait. An agent has two or three.
pub(crate) const TASKS_MAX: usize = 256;

/// How to reach libvirt, and how others do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibvirtConfig {
    /// libvirt on this host, such as `qemu:///system`.
    pub uri: String,
    /// libvirt on this host as other hosts reach it, such as `qemu+tls://h1/system`. Announced to
    /// them as [`evenkeel_core::model::HostFacts::migration_uri`].
    pub migration_uri: String,
    /// Where QEMU sends a machine's memory to, such as `tcp://127.0.0.1`, if libvirt shall not find
    /// it out from the name of the other host.
    pub migrate_uri: Option<String>,
    /// The address at which QEMU on the other host listens, if not at all of them.
    pub listen_address: Option<String>,
    /// Where the sockets are of migrations to hosts that are reached through a carrier
    /// ([`carried_uri`]): absolute, and the same on every host.
    pub carried: PathBuf,
    /// What machines that come through a carrier may have besides what every machine may have.
    pub admission: Admission,
    /// Storage that is the same on every host that lists the id.
    pub storage: Vec<SharedStorage>,
    /// The lock manager that leases every disk of a machine, on storage that all hosts reach, if
    /// libvirt is configured with one: `sanlock`, or `lockd` with its lockspace on such storage.
    pub lock_manager: Option<String>,
    /// What the operator calls segments of the network, by the name of a virtual network or of an
    /// interface: what is the same segment by these names is the same network.
    pub segments: BTreeMap<String, String>,
    /// Other managers whose machines are moved all the same, by their names in [`managers`].
    pub move_managed: BTreeSet<String>,
    /// Whether machines are moved that libvirt keeps checkpoints of, which are lost then.
    pub lose_checkpoints: bool,
    /// Whether what the host does besides its machines is measured.
    pub background: bool,
    /// Whether a machine that dirties memory faster than it can be sent is slowed down. Without it
    /// such a migration lasts until it is aborted.
    pub auto_converge: bool,
    /// Most migrations at once from this host, from 1 to [`MIGRATIONS_MAX`]; more orders than that
    /// are answered as busy.
    pub migrations_max: usize,
    /// Only look: libvirt itself then refuses whatever would change something, and lets users in
    /// who may not change anything. It does not tell CPU models, which then count as not known.
    pub read_only: bool,
}

impl LibvirtConfig {
    /// The defaults for a libvirt at `uri`, which others reach at `migration_uri`.
    #[must_use]
    pub fn new(uri: impl Into<String>, migration_uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            migration_uri: migration_uri.into(),
            migrate_uri: None,
            listen_address: None,
            carried: PathBuf::from("/run/evenkeel/handoffs"),
            admission: Admission::default(),
            storage: Vec::new(),
            lock_manager: None,
            segments: BTreeMap::new(),
            move_managed: BTreeSet::new(),
            lose_checkpoints: false,
            background: true,
            auto_converge: true,
            migrations_max: MIGRATIONS_MAX,
            read_only: false,
        }
    }
}

/// What the threads share.
struct Shared {
    config: LibvirtConfig,
    outlet: Arc<Outlet>,
    /// Orders to measure, for the worker.
    samples: SyncSender<Answer>,
    orders: Orders,
    migrations: Migrations,
    changed: Mutex<Changed>,
    link: LinkState,
    /// What this host is, once its libvirt has said so.
    basis: Mutex<Option<Arc<Basis>>>,
    /// Whether something around machines may have changed.
    around_changed: AtomicBool,
    /// Room that other hosts were promised for copies of disks.
    promises: Promises,
    /// Whether all threads are to end.
    stopping: AtomicBool,
}

/// libvirt on one host.
///
/// Counts as connected from the start: the first event is [`Event::Disconnected`] if libvirt does
/// not answer, and orders wait until that is known. Dropped, it answers every order that is open
/// with a failure; migrations under way are carried on by libvirt.
pub struct LibvirtHypervisor {
    shared: Arc<Shared>,
    watchdog: mpsc::Sender<(Instant, Arc<Slot>)>,
}

impl LibvirtHypervisor {
    /// Starts the threads and begins to connect.
    ///
    /// `sink` gets the events, on a thread of its own: while it blocks, events wait, and nothing else
    /// does. `clock` tells the time of samples.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn new(
        mut config: LibvirtConfig,
        sink: impl Fn(Event) + Send + 'static,
        clock: impl Fn() -> Time + Send + 'static,
    ) -> std::io::Result<Self> {
        config.migrations_max = config.migrations_max.clamp(1, MIGRATIONS_MAX);
        let (samples, waiting) = mpsc::sync_channel(TASKS_MAX);
        let (watchdog, watched) = mpsc::channel();
        let shared = Arc::new(Shared {
            config,
            outlet: Outlet::start(sink)?,
            samples,
            orders: Orders::default(),
            migrations: Migrations::default(),
            changed: Mutex::default(),
            link: LinkState::default(),
            basis: Mutex::default(),
            around_changed: AtomicBool::new(false),
            promises: Promises::default(),
            stopping: AtomicBool::new(false),
        });
        let of_worker = Arc::clone(&shared);
        thread::Builder::new()
            .name("libvirt-worker".to_owned())
            .spawn(move || worker::run(&of_worker, &waiting, &clock))?;
        let of_link = Arc::clone(&shared);
        thread::Builder::new()
            .name("libvirt-link".to_owned())
            .spawn(move || worker::keep_link(&of_link))?;
        thread::Builder::new()
            .name("libvirt-watchdog".to_owned())
            .spawn(move || answer::watch(&watched))?;
        Ok(Self { shared, watchdog })
    }

    /// An answer that is given in time, whether libvirt answers or not.
    fn in_time(&self, question: Question) -> Answer {
        let answer = Answer::new(question, &self.shared.outlet);
        // Without a watchdog, which only a panic ends, libvirt has to answer by itself.
        let _ = self.watchdog.send((Instant::now(), answer.slot()));
        answer
    }

    fn enqueue(&self, task: Task) {
        if let Err(refused) = orders::push(&self.shared, task) {
            let detail = format!("{TASKS_MAX} orders are waiting for libvirt");
            refused.refuse(Failure::new(FailureKind::Busy, detail));
        }
    }

    fn sample(&self, answer: Answer) {
        let (answer, kind, detail) = match self.shared.samples.try_send(answer) {
            Ok(()) => return,
            Err(TrySendError::Full(answer)) => {
                (answer, FailureKind::Busy, format!("{TASKS_MAX} samples are waiting"))
            }
            Err(TrySendError::Disconnected(answer)) => {
                (answer, FailureKind::Unreachable, "the connection to libvirt has ended".to_owned())
            }
        };
        answer.fail(Failure::new(kind, detail));
    }
}

impl Hypervisor for LibvirtHypervisor {
    fn submit(&mut self, order: Order) {
        match order {
            Order::Sample => self.sample(self.in_time(Question::Sample)),
            Order::Look(machine, look) => {
                let answer = self.in_time(Question::Look(machine.clone(), look));
                self.enqueue(Task::Look(machine, look, answer));
            }
            Order::WriteEntry(machine, rewrite) => {
                let answer = self.in_time(Question::WriteEntry(machine.clone()));
                self.enqueue(Task::WriteEntry(machine, rewrite, answer));
            }
            Order::Resume(machine, stamp) => {
                let answer = self.in_time(Question::Resume(machine.clone()));
                self.enqueue(Task::Resume(machine, stamp, answer));
            }
            Order::Discard(machine, stamp) => {
                let answer = self.in_time(Question::Discard(machine.clone()));
                self.enqueue(Task::Discard(machine, stamp, answer));
            }
            Order::SetAutostart(machine, wanted) => {
                let answer = self.in_time(Question::SetAutostart(machine.clone(), wanted));
                self.enqueue(Task::SetAutostart(machine, wanted, answer));
            }
            Order::Start(machine, stamp) => {
                let answer = self.in_time(Question::Start(machine.clone()));
                self.enqueue(Task::Start(machine, stamp, answer));
            }
            Order::Examine(examination) => {
                let answer = self.in_time(Question::Examine(examination.handoff));
                self.enqueue(Task::Examine(examination, answer));
            }
            Order::Abort(machine) => {
                if !self.shared.migrations.abort(&machine) {
                    self.enqueue(Task::Abort(machine));
                }
            }
            Order::Migrate(migration) => {
                let question = Question::Migrate(migration.handoff);
                let answer = Answer::new(question, &self.shared.outlet);
                migrate::begin(&self.shared, migration, answer);
            }
        }
    }
}

impl Drop for LibvirtHypervisor {
    fn drop(&mut self) {
        self.shared.migrations.abandon_all();
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.orders.close();
        self.shared.link.wake();
        // The worker ends with the next answer; if none can be sent, one is there already.
        let _ = self.shared.samples.try_send(Answer::nobody(&self.shared.outlet));
    }
}

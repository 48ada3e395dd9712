//! Migrations: two threads each, so that none blocks anything.
//!
//! The *carrier* connects, prepares and makes libvirt's one call that returns when the migration is
//! over. The *keeper* waits for it, asks meanwhile how far it is, aborts it when told to, and
//! answers the order. Each migration has a connection of its own: libvirt handles only a few calls
//! of a connection at once, and these last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_core::model::{MachineId, Missing};
use evenkeel_core::port::{
    Commit, Event, Failure, FailureKind, Migration, MigrationStats, ORDER_TIME_MAX, Progress,
};

use crate::Shared;
use crate::answer::{Answer, lock};
use crate::carried::{Sockets, is_carried};
use crate::emulator::QemuVersion;
use crate::failure::{classify, of_machine};
use crate::ffi::{CallError, Connection, Domain, Job, MigrateCall, State};
use crate::process::Vigil;
use crate::storage::Storage;
use crate::surroundings;
use crate::worker::connect;
use crate::xml::{disks::placed, domain::describe, entry};

/// How often it is asked how far a migration is.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// How long a migration that succeeded waits for libvirt to tell what it cost: the event and the
/// answer come by different ways.
const STATISTICS_WAIT_MAX: Duration = Duration::from_secs(1);

/// The first libvirt that leaves blocks of zeros out of the copies of disks.
const DETECT_ZEROES_SINCE: u64 = 10_009_000;

/// The phases of a migration up to its one call.
const PREPARING: u8 = 0;
const BEGUN: u8 = 1;
const CANCELLED: u8 = 2;

/// What a keeper hears.
enum Note {
    /// The carrier is about to make the call.
    Begun(Box<Domain>),
    /// It is over.
    Over(Result<(), Failure>),
    /// It is to be aborted.
    Abort,
    /// Whoever ordered it is going away.
    Abandon,
}

/// The migrations under way.
#[derive(Default)]
pub(crate) struct Migrations {
    keepers: Mutex<BTreeMap<MachineId, Sender<Note>>>,
    /// What completed jobs have cost, by machine, as far as a keeper waits for it.
    costs: Mutex<BTreeMap<String, Job>>,
    told: Condvar,
    /// Who waits for the end of a machine's process, by machine.
    vigils: Mutex<BTreeMap<String, Arc<Vigil>>>,
}

impl Migrations {
    pub(crate) fn is_leaving(&self, machine: &MachineId) -> bool {
        lock(&self.keepers).contains_key(machine)
    }

    /// Aborts a migration of this process. Returns whether there is one.
    pub(crate) fn abort(&self, machine: &MachineId) -> bool {
        let keepers = lock(&self.keepers);
        keepers.get(machine).is_some_and(|keeper| keeper.send(Note::Abort).is_ok())
    }

    /// Has every migration answered at once. libvirt carries them on.
    pub(crate) fn abandon_all(&self) {
        for keeper in lock(&self.keepers).values() {
            let _ = keeper.send(Note::Abandon);
        }
    }

    pub(crate) fn completed(&self, uuid: String, job: Job) {
        let waited_for = MachineId::new(&uuid).is_ok_and(|machine| self.is_leaving(&machine));
        if waited_for {
            lock(&self.costs).insert(uuid, job);
            self.told.notify_all();
        }
    }

    /// Has whoever waits for the end of this machine's process hear something.
    pub(crate) fn watched(&self, uuid: &str, hear: impl FnOnce(&Vigil)) {
        let found = lock(&self.vigils).get(uuid).cloned();
        if let Some(vigil) = found {
            hear(&vigil);
        }
    }

    /// Nothing is told of any machine from now on, not even that one runs again.
    pub(crate) fn unwatched(&self) {
        for vigil in lock(&self.vigils).values() {
            vigil.resumed();
        }
    }

    fn end_vigil(&self, machine: &MachineId) {
        let ended = lock(&self.vigils).remove(machine.as_str());
        if let Some(vigil) = ended {
            vigil.end();
        }
    }

    /// What a migration has cost, once it is told.
    fn cost(&self, machine: &MachineId) -> Job {
        let end = Instant::now() + STATISTICS_WAIT_MAX;
        let mut costs = lock(&self.costs);
        loop {
            if let Some(job) = costs.remove(machine.as_str()) {
                return job;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Job::default();
            }
            costs = self.told.wait_timeout(costs, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Begins a migration, or answers at once why not.
pub(crate) fn begin(shared: &Arc<Shared>, order: Migration, answer: Answer) {
    let (keeper, notes) = mpsc::channel();
    {
        let mut keepers = lock(&shared.migrations.keepers);
        let busy = |what: &str| of_machine(FailureKind::Busy, &order.machine, what);
        if keepers.contains_key(&order.machine) {
            drop(keepers);
            return answer.fail(busy("a migration of it is under way already"));
        }
        if keepers.len() >= shared.config.migrations_max {
            let most = keepers.len();
            drop(keepers);
            return answer.fail(busy(&format!("{most} others are being migrated, which is most")));
        }
        keepers.insert(order.machine.clone(), keeper.clone());
        lock(&shared.migrations.costs).remove(order.machine.as_str());
    }
    let keep = Keeper {
        shared: Arc::clone(shared),
        order: order.clone(),
        began: Instant::now(),
        phase: Arc::new(AtomicU8::new(PREPARING)),
        domain: None,
        abort_wanted: false,
    };
    let carrier =
        Carrier { shared: Arc::clone(shared), order, phase: Arc::clone(&keep.phase), keeper };
    let machine = keep.order.machine.clone();
    let spawn = |what: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name("migration".to_owned()).spawn(what).map(drop)
    };
    // A thread that cannot be had drops what it was to own, and with it the order is answered.
    if let Err(error) = spawn(Box::new(move || keep.run(&notes, answer))) {
        tracing::error!("no thread to migrate machine `{machine}`: {error}");
        lock(&shared.migrations.keepers).remove(&machine);
    } else if let Err(error) = spawn(Box::new(move || carrier.run())) {
        tracing::error!("no thread to migrate machine `{machine}`: {error}");
    }
}

struct Keeper {
    shared: Arc<Shared>,
    order: Migration,
    began: Instant,
    phase: Arc<AtomicU8>,
    domain: Option<Box<Domain>>,
    abort_wanted: bool,
}

impl Keeper {
    fn run(mut self, notes: &Receiver<Note>, answer: Answer) {
        let outcome = self.keep(notes);
        self.shared.migrations.end_vigil(&self.order.machine);
        let elapsed_ms = millis(self.began.elapsed());
        let outcome = outcome.map(|()| {
            let cost = self.shared.migrations.cost(&self.order.machine);
            MigrationStats { elapsed_ms, downtime_ms: cost.downtime_ms, bytes: cost.bytes_done }
        });
        // Before the answer, after which the machine may be ordered to move again.
        lock(&self.shared.migrations.keepers).remove(&self.order.machine);
        answer.give(Event::MigrationEnded(self.order.handoff, outcome));
    }

    /// Waits for the end.
    fn keep(&mut self, notes: &Receiver<Note>) -> Result<(), Failure> {
        let machine = self.order.machine.clone();
        loop {
            match notes.recv_timeout(PROGRESS_EVERY) {
                Ok(Note::Begun(domain)) => self.domain = Some(domain),
                Ok(Note::Over(outcome)) => return outcome,
                Ok(Note::Abort) => {
                    self.abort_wanted = true;
                    if self.cancel() {
                        let what = "its migration was aborted before it began";
                        return Err(of_machine(FailureKind::Aborted, &machine, what));
                    }
                    self.abort();
                }
                Ok(Note::Abandon) => {
                    self.cancel();
                    let what = "shutting down while libvirt migrates it; look where it is";
                    return Err(of_machine(FailureKind::Unreachable, &machine, what));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if self.began.elapsed() > ORDER_TIME_MAX && self.cancel() {
                        let what = "libvirt does not answer, its migration was not begun";
                        return Err(of_machine(FailureKind::Unreachable, &machine, what));
                    }
                    self.poll();
                }
                Err(RecvTimeoutError::Disconnected) => return Err(broke_off(&machine)),
            }
        }
    }

    /// Keeps the carrier from beginning. Returns whether it had not.
    fn cancel(&self) -> bool {
        self.phase
            .compare_exchange(PREPARING, CANCELLED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn poll(&self) {
        if self.abort_wanted {
            self.abort();
        }
        let Some(Ok(job)) = self.domain.as_ref().map(|domain| domain.job()) else { return };
        if job.active && job.migration_out {
            let progress = Progress {
                elapsed_ms: millis(self.began.elapsed()),
                bytes_done: job.bytes_done,
                bytes_left: job.bytes_left,
            };
            self.shared.outlet.tell(Event::Progress(self.order.handoff, progress));
        }
    }

    /// Aborts the job. It fails before there is one and when it is nearly over; the next poll tries
    /// again.
    fn abort(&self) {
        let Some(domain) = &self.domain else { return };
        if let Err(error) = domain.abort_job() {
            tracing::debug!("migration of `{}` not aborted: {error}", self.order.machine);
        }
    }
}

struct Carrier {
    shared: Arc<Shared>,
    order: Migration,
    phase: Arc<AtomicU8>,
    keeper: Sender<Note>,
}

impl Drop for Carrier {
    /// Says so also when it could not be run or panics; after its own word nobody hears this one.
    fn drop(&mut self) {
        let _ = self.keeper.send(Note::Over(Err(broke_off(&self.order.machine))));
    }
}

fn broke_off(machine: &MachineId) -> Failure {
    let what = "its migration broke off without a word; look where it is";
    of_machine(FailureKind::Other, machine, what)
}

impl Carrier {
    fn run(self) {
        let outcome = self.carry();
        // The keeper is gone if it did not want to wait.
        let _ = self.keeper.send(Note::Over(outcome));
    }

    fn carry(&self) -> Result<(), Failure> {
        let machine = &self.order.machine;
        let connection = connect(&self.shared.config).map_err(|error| {
            let what = format!("libvirt does not answer: {error}");
            of_machine(FailureKind::Unreachable, machine, &what)
        })?;
        let (domain, call) = self.prepare(&connection)?;
        // A second handle, since both threads use it and either may be done first.
        let handle = self.local(&connection, connection.domain(machine.as_str()))?;
        let begun =
            self.phase.compare_exchange(PREPARING, BEGUN, Ordering::SeqCst, Ordering::SeqCst);
        if begun.is_err() {
            return Err(of_machine(FailureKind::Aborted, machine, "aborted before it began"));
        }
        let _ = self.keeper.send(Note::Begun(Box::new(handle)));
        self.keep_vigil(&domain);
        let migrated = domain.migrate(&call);
        self.shared.migrations.end_vigil(machine);
        migrated.map_err(|error| {
            let kind = classify(&error, &connection, true);
            let what = format!("its migration to host `{}` failed: {error}", self.order.to);
            of_machine(kind, machine, &what)
        })
    }

    /// Where nothing may run there before this host has said so, that is not to wait until libvirt has
    /// cleared up here.
    fn keep_vigil(&self, domain: &Domain) {
        let order = &self.order;
        if order.commit != Commit::Strict {
            return;
        }
        let (outlet, handoff) = (Arc::clone(&self.shared.outlet), order.handoff);
        let tell = move || outlet.tell(Event::EmulatorGone(handoff));
        let vigil = domain.xml().ok().and_then(|xml| Vigil::keep(&order.machine, &xml, tell));
        match vigil {
            Some(vigil) => {
                let uuid = order.machine.as_str().to_owned();
                lock(&self.shared.migrations.vigils).insert(uuid, vigil);
            }
            None => {
                let machine = &order.machine;
                tracing::debug!("process of `{machine}` not found: libvirt is to tell its end");
            }
        }
    }

    /// The domain, and what to call; or why it is not to be migrated.
    fn prepare(&self, connection: &Connection) -> Result<(Domain, MigrateCall), Failure> {
        let (machine, config) = (&self.order.machine, &self.shared.config);
        let domain = self.local(connection, connection.domain(machine.as_str()))?;
        if self.local(connection, domain.state())? != State::Running {
            let what = "it does not run, so there is nothing to migrate live";
            return Err(of_machine(FailureKind::NotRunning, machine, what));
        }
        if self.local(connection, domain.job())?.active {
            let what = "another job is under way on it";
            return Err(of_machine(FailureKind::Busy, machine, what));
        }
        self.refuse_if_needs_have_changed(connection, &domain)?;
        let xml = self.local(connection, domain.live_xml_for_migration())?;
        self.refuse_if_memory_would_suffer(connection, &xml)?;
        let paused = self.order.commit == Commit::Strict;
        let edited = |xml: &str| {
            let edited = entry::replaced_in(xml, &self.order.entry, paused);
            edited.and_then(|xml| placed(&xml, &self.order.disks)).map_err(|error| {
                let what = format!("its description for the other host cannot be made: {error}");
                of_machine(FailureKind::Other, machine, &what)
            })
        };
        let persistent_xml = if self.local(connection, domain.is_persistent())? {
            Some(edited(&self.local(connection, domain.definition_for_migration())?)?)
        } else {
            None
        };
        let call = MigrateCall {
            live_xml: edited(&xml)?,
            persistent_xml,
            // libvirt counts in MiB per second, and takes 0 for no limit.
            bandwidth_mib_per_s: self.order.bandwidth_bytes_per_s.map(|b| (b >> 20).max(1)),
            auto_converge: config.auto_converge,
            paused,
            disks: self.order.disks.iter().map(|place| place.name.clone()).collect(),
            detect_zeroes: self.local(connection, connection.library_version())?
                >= DETECT_ZEROES_SINCE,
            ..self.way()
        };
        Ok((domain, call))
    }

    /// Looks once more at what the machine needs: the other host has agreed to what it needed then.
    fn refuse_if_needs_have_changed(
        &self,
        connection: &Connection,
        domain: &Domain,
    ) -> Result<(), Failure> {
        let machine = &self.order.machine;
        let xml = self.local(connection, domain.xml())?;
        let storage = surroundings::storage(connection, &self.shared.config);
        let described = describe(&xml, false, &storage, "").map_err(|error| {
            of_machine(FailureKind::Other, machine, &format!("its description: {error}"))
        })?;
        let now = &described.facts.needs;
        let kept = described.facts.needs.keeps.first().map(ToString::to_string);
        let kept = match kept {
            None => self.kept_by_libvirt(connection, domain)?,
            kept => kept,
        };
        if let Some(why) = kept {
            lock(&self.shared.changed).insert(machine.as_str().to_owned());
            return Err(of_machine(FailureKind::NeedsChanged, machine, &why));
        }
        if let Some(new) = now.beyond(&self.order.needs) {
            // What it is judged by is read anew, or the same would be agreed on again.
            lock(&self.shared.changed).insert(machine.as_str().to_owned());
            let what = format!("it has come to need what was not agreed on: {new}");
            return Err(of_machine(FailureKind::NeedsChanged, machine, &what));
        }
        let placed = |name: &String| self.order.disks.iter().any(|place| place.name == *name);
        match now.local_disks.iter().flatten().find(|disk| !placed(&disk.name)) {
            None => Ok(()),
            Some(disk) => {
                let what = format!(
                    "host `{}` did not say where the copy of disk `{}` is to go",
                    self.order.to, disk.name
                );
                Err(of_machine(FailureKind::PeerRefused, machine, &what))
            }
        }
    }

    /// What libvirt keeps of it that keeps it here: of that no event tells.
    fn kept_by_libvirt(
        &self,
        connection: &Connection,
        domain: &Domain,
    ) -> Result<Option<String>, Failure> {
        let snapshots = self.local(connection, domain.snapshots())?;
        if snapshots > 0 {
            return Ok(Some(Missing::Snapshots(snapshots).to_string()));
        }
        let checkpoints = self.local(connection, domain.checkpoints())?;
        if checkpoints == 0 {
            return Ok(None);
        }
        if self.shared.config.lose_checkpoints {
            let machine = &self.order.machine;
            tracing::warn!(%machine, checkpoints, "its checkpoints are lost with its migration");
            return Ok(None);
        }
        Ok(Some(Missing::Checkpoints(checkpoints).to_string()))
    }

    /// By which ways the other host's libvirt and QEMU are reached.
    fn way(&self) -> MigrateCall {
        let (order, config) = (&self.order, &self.shared.config);
        if !is_carried(&order.uri) {
            return MigrateCall {
                destination: order.uri.clone(),
                migrate_uri: config.migrate_uri.clone(),
                listen_address: config.listen_address.clone(),
                ..MigrateCall::default()
            };
        }
        let sockets = Sockets::of(&config.carried, order.handoff);
        MigrateCall {
            destination: sockets.destination(&order.uri),
            migrate_uri: Some(sockets.migrate_uri()),
            disks_uri: (!order.disks.is_empty()).then(|| sockets.disks_uri()),
            ..MigrateCall::default()
        }
    }

    fn refuse_if_memory_would_suffer(
        &self,
        connection: &Connection,
        xml: &str,
    ) -> Result<(), Failure> {
        let emulated = describe(xml, false, &Storage::default(), "").is_ok_and(|d| d.emulated);
        let qemu = self.local(connection, connection.hypervisor_version())?;
        let qemu = QemuVersion::from_libvirt(qemu);
        if !emulated || qemu.migrates_emulated_machines() {
            return Ok(());
        }
        let what = format!(
            "it is emulated without KVM, and QEMU {qemu} corrupts the memory of such a machine \
             when it is migrated: install QEMU 9 or later"
        );
        Err(of_machine(FailureKind::Other, &self.order.machine, &what))
    }

    /// Explains the failure of a call in which the other host had no part.
    fn local<T>(
        &self,
        connection: &Connection,
        called: Result<T, CallError>,
    ) -> Result<T, Failure> {
        called.map_err(|error| {
            let kind = classify(&error, connection, false);
            of_machine(kind, &self.order.machine, &error.message)
        })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

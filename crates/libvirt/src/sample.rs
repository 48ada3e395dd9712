//! Measuring: from libvirt's figures and descriptions to a sample.
//!
//! One call tells the figures of all domains. Where a QEMU hangs, that call does, once; the next one
//! passes over it. Where that does not help, because something else of libvirt's waits for it, domains
//! are asked one by one, each with a limit of its own, and those that hang are unknown alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use evenkeel_core::model::{FileUse, HostFacts, MachineId, Missing, Time};
use evenkeel_core::port::{Failure, FailureKind, HostSample, MachineSample};
use virt_sys as sys;

use crate::answer::lock;
use crate::background::{Background, OfMachines};
use crate::basis::Basis;
use crate::failure::kind_of_code;
use crate::ffi::{CallError, Connection, State};
use crate::figures::{ALWAYS, DELAY, DELAY_EVERY, DISKS, Figures, INTERFACES, Known};
use crate::line::{Line, Silence};
use crate::pressure::{self, Kernel};
use crate::surroundings::Surroundings;
use crate::xml::domain::{Description, describe};
use crate::{LibvirtConfig, Shared};

/// How long what is known of storage, networks and descriptions counts: of most changes libvirt tells,
/// and not of all.
const AROUND_AGE_MAX: Duration = Duration::from_secs(60);
/// Most descriptions that are read again for their age in one sample.
const AGED_MAX: usize = 16;

/// How long calls may take: for all domains, for one, for a description, and for what is around. Together
/// they stay below the limit of an order.
const BULK_TIME_MAX: Duration = Duration::from_secs(4);
const SINGLE_TIME_MAX: Duration = Duration::from_secs(1);
const SHORT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long domains are asked one by one before all of them are asked at once again.
const SINGLY_FOR: Duration = Duration::from_secs(300);
/// How long a domain that hung is not asked alone.
const SHUNNED_FOR: Duration = Duration::from_secs(60);

/// The figures of one domain: its UUID, the id of its running, and what was told.
type Measured = (String, Option<u32>, Figures);

/// What is known of a host and its machines between samples.
pub(crate) struct Knowledge {
    config: LibvirtConfig,
    basis: Arc<Basis>,
    line: Line,
    around: Surroundings,
    looked_around: Option<Instant>,
    facts: Arc<HostFacts>,
    machines: BTreeMap<String, Known>,
    autostarted: BTreeSet<String>,
    /// The kernel that the machines run on, if it is this host's.
    kernel: Option<Kernel>,
    background: Option<Background>,
    /// Which machines ran when the background was measured last.
    ran: BTreeSet<(String, Option<u32>)>,
    samples: u32,
    /// Until when domains are asked one by one, and when each was last found to hang.
    singly: Option<Instant>,
    hung: BTreeMap<String, Instant>,
}

impl Knowledge {
    /// Nothing is known yet but what the host is.
    pub(crate) fn new(config: &LibvirtConfig, basis: Arc<Basis>) -> Self {
        Self {
            config: config.clone(),
            basis,
            line: Line::new(config.clone()),
            around: Surroundings::default(),
            looked_around: None,
            facts: Arc::default(),
            machines: BTreeMap::new(),
            autostarted: BTreeSet::new(),
            kernel: Kernel::of(&config.uri),
            background: Background::of(&config.uri).filter(|_| config.background),
            ran: BTreeSet::new(),
            samples: 0,
            singly: None,
            hung: BTreeMap::new(),
        }
    }

    /// Whether it is of this host as it is described now.
    pub(crate) fn is_of(&self, basis: &Arc<Basis>) -> bool {
        Arc::ptr_eq(&self.basis, basis)
    }

    /// Looks at storage, networks and huge pages anew. Where that hangs, it stays as it was.
    fn look_around(&mut self) {
        let config = self.config.clone();
        let looked = self
            .line
            .ask(BULK_TIME_MAX, move |connection| Ok(Surroundings::look(connection, &config)));
        self.looked_around = Some(Instant::now());
        let around = match looked {
            Ok(around) => around,
            Err(why) => return tracing::warn!(?why, "storage and networks were not looked at"),
        };
        if around == self.around {
            return;
        }
        if around.storage != self.around.storage || around.links != self.around.links {
            // Descriptions mean something else now.
            for known in self.machines.values_mut() {
                known.outdate();
            }
        }
        self.around = around;
        self.facts = Arc::new(self.basis.facts(&self.around, &self.config));
    }

    /// Measures the host.
    pub(crate) fn sample(
        &mut self,
        shared: &Shared,
        clock: impl FnOnce() -> Time,
    ) -> Result<HostSample, Failure> {
        let told = shared.around_changed.swap(false, Ordering::SeqCst);
        let age = self.looked_around.map(|at| at.elapsed());
        let aged = age.is_none_or(|age| age >= AROUND_AGE_MAX);
        if told || aged || self.around.storage.has_come(crate::surroundings::is_there) {
            self.look_around();
        }
        let asked = self.groups();
        let (measured, silent) = self.measure(asked)?;
        if let Ok(autostarted) = self.line.ask(SHORT_TIME_MAX, Connection::autostarted) {
            self.autostarted = autostarted;
        }
        // What changes from here on is looked at next time, also if it is seen now already.
        let mut changed = std::mem::take(&mut *lock(&shared.changed));
        let (at, now) = (clock(), Instant::now());
        let (machines, of_machines) =
            self.machines_of(measured, &silent, asked, &mut changed, |machine| {
                shared.migrations.is_leaving(machine)
            });
        // What could not be read again still is to be.
        lock(&shared.changed).append(&mut changed);
        let background = self.background.as_mut().and_then(|own| own.observe(now, of_machines));
        let pressure = self.kernel.as_ref().map(Kernel::host).unwrap_or_default();
        let facts = Arc::clone(&self.facts);
        Ok(HostSample { at, facts, background, pressure, machines })
    }

    /// Every machine, by id, and what they have done together, if that is known of all.
    fn machines_of(
        &mut self,
        measured: Vec<Measured>,
        silent: &BTreeSet<String>,
        asked: u32,
        changed: &mut BTreeSet<String>,
        leaving: impl Fn(&MachineId) -> bool,
    ) -> (Vec<MachineSample>, Option<OfMachines>) {
        let groups = self.kernel.as_ref().map(Kernel::machines).unwrap_or_default();
        let mut before = std::mem::take(&mut self.machines);
        let mut machines = Vec::with_capacity(measured.len());
        let (mut aged, mut done) = (0, Some(OfMachines::default()));
        let mut ran = BTreeSet::new();
        for (uuid, running_id, figures) in measured {
            let mut known = before.remove(&uuid);
            let unchanged = known.as_mut().is_some_and(|known| {
                let same = !known.size.update(figures.size) && known.running_id == running_id;
                let fresh = known.read.is_some_and(|at| at.elapsed() < AROUND_AGE_MAX);
                aged += usize::from(same && !fresh);
                let keeps = fresh || known.read.is_some() && aged > AGED_MAX;
                same && keeps && !changed.contains(&uuid)
            });
            if !unchanged {
                known = match self.describe(&uuid, running_id, &figures) {
                    Ok(described) => {
                        changed.remove(&uuid);
                        let follow = |mut new: Known| {
                            if let Some(known) = &known {
                                new.follow(known);
                            }
                            new
                        };
                        described.map(follow)
                    }
                    // It is as it was, and is read again next time.
                    Err(why) => {
                        tracing::warn!(?why, "domain `{uuid}` was not described");
                        changed.insert(uuid.clone());
                        known
                    }
                };
            }
            // Gone meanwhile, or not to be made sense of.
            let Some(mut known) = known else { continue };
            known.starts_at_boot(self.autostarted.contains(&uuid));
            let mut machine = figures.machine(asked, &mut known, &leaving);
            if let Some(counters) = &mut machine.counters
                && let Some(group) = running_id.and_then(|id| groups.get(&id))
            {
                counters.pressure = pressure::of_machine(group);
            }
            if machine.presence.is_resident() {
                ran.insert((uuid.clone(), running_id));
                done =
                    done.zip(machine.counters.as_ref()).map(|(sum, counters)| sum.with(counters));
            }
            machines.push(machine);
            self.machines.insert(uuid, known);
        }
        for (uuid, known) in before.into_iter().filter(|(uuid, _)| silent.contains(uuid)) {
            let machine = known.silent();
            done = done.filter(|_| !machine.presence.is_resident());
            machines.push(machine);
            self.machines.insert(uuid, known);
        }
        if ran != self.ran {
            self.ran = ran;
            if let Some(own) = &mut self.background {
                own.begin_anew();
            }
        }
        machines.sort_unstable_by(|a, b| a.facts.id.cmp(&b.facts.id));
        (machines, done)
    }

    /// What is to be asked in the next sample.
    fn groups(&mut self) -> u32 {
        let devices = if self.machines.is_empty() {
            // Nothing is known yet.
            INTERFACES | DISKS
        } else {
            self.machines.values().fold(0, |all, known| all | known.devices)
        };
        let delay = if self.samples.is_multiple_of(DELAY_EVERY) { DELAY } else { 0 };
        self.samples = self.samples.wrapping_add(1);
        ALWAYS | devices | delay
    }

    /// The figures of all domains that answer, and those that do not.
    fn measure(&mut self, groups: u32) -> Result<(Vec<Measured>, BTreeSet<String>), Failure> {
        if self.singly.is_some_and(|until| Instant::now() < until) {
            return self.measure_singly(groups);
        }
        // The first call that meets a QEMU which hangs does so too; the second finds it busy.
        for _ in 0..2 {
            match self.line.ask(BULK_TIME_MAX, move |connection| all_figures(connection, groups)) {
                Ok(measured) => {
                    self.singly = None;
                    return Ok((measured, BTreeSet::new()));
                }
                Err(Silence::Failed(error)) => return Err(self.failed(&error)),
                Err(Silence::Hung) => {}
            }
        }
        if self.line.ask(SHORT_TIME_MAX, Connection::library_version).is_err() {
            let what = "libvirt does not answer at all";
            return Err(Failure::new(FailureKind::Unreachable, what));
        }
        self.singly = Some(Instant::now() + SINGLY_FOR);
        tracing::warn!(
            "libvirt does not tell the figures of all machines: they are asked one by one"
        );
        self.measure_singly(groups)
    }

    fn measure_singly(
        &mut self,
        groups: u32,
    ) -> Result<(Vec<Measured>, BTreeSet<String>), Failure> {
        let mut uuids: BTreeSet<String> = self.machines.keys().cloned().collect();
        // New ones, if the list can be had.
        uuids.extend(self.line.ask(SHORT_TIME_MAX, Connection::all).unwrap_or_default());
        self.hung.retain(|_, at| at.elapsed() < SHUNNED_FOR);
        let (mut measured, mut silent) = (Vec::new(), BTreeSet::new());
        for uuid in uuids {
            if self.hung.contains_key(&uuid) {
                silent.insert(uuid);
                continue;
            }
            let of = uuid.clone();
            let asked = self
                .line
                .ask(SINGLE_TIME_MAX, move |connection| figures_of(connection, &of, groups));
            match asked {
                Ok(found) => measured.extend(found),
                Err(Silence::Failed(error)) if error.code == sys::VIR_ERR_NO_DOMAIN => {}
                Err(Silence::Failed(error)) => return Err(self.failed(&error)),
                Err(Silence::Hung) => {
                    self.hung.insert(uuid.clone(), Instant::now());
                    silent.insert(uuid);
                }
            }
        }
        Ok((measured, silent))
    }

    fn failed(&mut self, error: &CallError) -> Failure {
        // A broken connection reads like any other failure; so ask.
        let answers = self.line.ask(SHORT_TIME_MAX, Connection::library_version).is_ok();
        let other = if answers { FailureKind::Other } else { FailureKind::Unreachable };
        let kind = kind_of_code(error.code).unwrap_or(other);
        Failure::new(kind, format!("the machines could not be measured: {error}"))
    }

    /// Reads a domain's description; `None` if it is gone meanwhile, or cannot be made sense of.
    fn describe(
        &mut self,
        uuid: &str,
        running_id: Option<u32>,
        figures: &Figures,
    ) -> Result<Option<Known>, Silence> {
        let of = uuid.to_owned();
        let read = self.line.ask(SHORT_TIME_MAX, move |connection| Read::of(connection, &of));
        let read = match read {
            Err(Silence::Failed(error)) if error.code == sys::VIR_ERR_NO_DOMAIN => return Ok(None),
            read => read?,
        };
        let (storage, signature) = (&self.around.storage, &self.basis.host.cpu_signature);
        let mut described = match describe(&read.xml, read.persistent, storage, signature) {
            Ok(described) => described,
            Err(error) => {
                tracing::warn!("the description of domain `{uuid}` makes no sense: {error}");
                return Ok(None);
            }
        };
        self.settle(&mut described, &read);
        // A QEMU that hangs would not tell.
        if figures.disks_told || figures.state() == State::Off {
            self.weigh_disks(uuid, &mut described);
        }
        Ok(Some(Known::new(described, running_id, figures.size)))
    }

    /// Fills in what a description does not say of what its machine needs.
    fn settle(&self, described: &mut Description, read: &Read) {
        let manager = described.manager.map(str::to_owned);
        let manager = manager.or_else(|| self.around.agent_of(&described.facts.name));
        let needs = &mut described.facts.needs;
        needs.host_uuid = Some(self.basis.host.uuid.clone()).filter(|uuid| !uuid.is_empty());
        for attachment in needs.attachments.iter_mut().flatten() {
            if let Some(facts) = self.around.links.get(&attachment.network.to_string()) {
                let named = attachment.link.switch.take();
                attachment.link.clone_from(&facts.link);
                attachment.link.switch = named.or(attachment.link.switch.take());
            }
        }
        for file in needs.files.iter_mut().flatten().filter(|file| file.usage == FileUse::Made) {
            file.bytes = std::fs::metadata(&file.path).ok().map(|found| found.len());
        }
        let mut keeps = std::mem::take(&mut needs.keeps);
        let manager = manager.filter(|name| !self.config.move_managed.contains(name));
        keeps.extend(manager.map(Missing::Managed));
        keeps.extend((read.snapshots > 0).then_some(Missing::Snapshots(read.snapshots)));
        let lost = read.checkpoints > 0 && !self.config.lose_checkpoints;
        keeps.extend(lost.then_some(Missing::Checkpoints(read.checkpoints)));
        keeps.extend(
            needs.attachments.iter().flatten().filter_map(evenkeel_core::model::Attachment::keeps),
        );
        needs.keeps = keeps;
    }

    /// Finds out how large the disks are that only this host reaches.
    fn weigh_disks(&mut self, uuid: &str, described: &mut Description) {
        let disks = described.facts.needs.local_disks.iter_mut().flatten();
        for disk in disks.filter(|disk| disk.obstacle.is_none()) {
            let (of, name) = (uuid.to_owned(), disk.name.clone());
            let told = self.line.ask(SHORT_TIME_MAX, move |connection| {
                connection.domain(&of).and_then(|domain| domain.disk_size(&name))
            });
            match told {
                Ok((bytes, used_bytes)) => (disk.bytes, disk.used_bytes) = (bytes, used_bytes),
                Err(why) => disk.obstacle = Some(format!("libvirt does not tell its size: {why}")),
            }
        }
    }
}

/// A domain as it is read.
struct Read {
    xml: String,
    persistent: bool,
    snapshots: u32,
    checkpoints: u32,
}

impl Read {
    fn of(connection: &Connection, uuid: &str) -> Result<Self, CallError> {
        let domain = connection.domain(uuid)?;
        Ok(Self {
            xml: domain.xml()?,
            persistent: domain.is_persistent()?,
            snapshots: domain.snapshots()?,
            checkpoints: domain.checkpoints()?,
        })
    }
}

fn all_figures(connection: &Connection, groups: u32) -> Result<Vec<Measured>, CallError> {
    let mut measured = Vec::new();
    connection.domain_stats(groups, |uuid, running_id, params| {
        measured.push((uuid, running_id, Figures::read(params.iter())));
    })?;
    Ok(measured)
}

fn figures_of(
    connection: &Connection,
    uuid: &str,
    groups: u32,
) -> Result<Vec<Measured>, CallError> {
    let mut measured = Vec::new();
    let domain = connection.domain(uuid)?;
    connection.stats_of(&domain, groups, |uuid, running_id, params| {
        measured.push((uuid, running_id, Figures::read(params.iter())));
    })?;
    Ok(measured)
}

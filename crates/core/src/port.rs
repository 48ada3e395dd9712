//! The port to a hypervisor: what the core asks of it and what it hears back.
//!
//! Orders never block and every order with an answer is answered exactly once, by an event. The
//! trait that carries them, its conformance suite and its implementations live in the crates
//! `evenkeel-hypervisor` and `evenkeel-libvirt`; the core only knows this data.

use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::model::{
    DiskPlace, Entry, Epoch, HostFacts, HostId, MachineFacts, MachineId, Missing, Requirements,
    Resources, Time,
};
pub use crate::model::{HandoffId, HandoffKey};

/// What the core asks of the hypervisor of its own host.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Measure the host and every machine on it, once. Answered by [`Event::Sampled`].
    Sample,
    /// Migrate a running machine away, live. Answered by [`Event::MigrationEnded`], after any
    /// number of [`Event::Progress`].
    Migrate(Migration),
    /// Give up whatever migration of this machine is under way, if it still can be, also one begun
    /// before this process was started. The machine then runs on here. A migration ordered from
    /// this process is answered as usual, by [`Event::MigrationEnded`]; nothing else answers.
    Abort(MachineId),
    /// Rewrite the schedule entry of a machine of this host, if it still is what was read. Answered by
    /// [`Event::EntryWritten`].
    WriteEntry(MachineId, Rewrite),
    /// Say whether a machine is on this host, and which copy of it. Answered by [`Event::Looked`] with
    /// the same number.
    Look(MachineId, LookId),
    /// Let a machine that is here, paused, run: a copy that arrived by [`Commit::Strict`], or one
    /// that a migration left paused on its source. Only the copy that carries this stamp; one that
    /// runs already is a success. Answered by [`Event::Resumed`].
    Resume(MachineId, Stamp),
    /// Destroy a copy and its definition: only one that does not run (it is paused, still arriving,
    /// or nothing but a definition) and carries this stamp. Everything else is left alone and
    /// refused with [`FailureKind::Refused`], above all what runs. That there is none is a success.
    /// Answered by [`Event::Discarded`].
    Discard(MachineId, Stamp),
    /// Have this host start the machine when it boots, or not. A transient machine has no such
    /// flag: to clear it is a success. Answered by [`Event::AutostartSet`].
    SetAutostart(MachineId, bool),
    /// Start a machine that is defined here and off, as its host does at boot. Only the copy that
    /// carries this stamp; one that runs already is a success, and any other presence is refused with
    /// [`FailureKind::Refused`]. Answered by [`Event::Started`].
    Start(MachineId, Stamp),
    /// Look whether this host can run a machine of another one as it is now, without changing
    /// anything. Answered by [`Event::Examined`].
    Examine(Examination),
}

/// A schedule entry as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// What was read of it. Where it reads otherwise by now, nothing is written:
    /// [`FailureKind::Changed`]. Written in any case if `None`.
    pub over: Option<Entry>,
    /// As it is to be.
    pub entry: Entry,
}

impl From<Entry> for Rewrite {
    fn from(entry: Entry) -> Self {
        Self { over: None, entry }
    }
}

/// A machine of another host, to be examined before this one promises to take it.
#[derive(Clone, Debug, PartialEq)]
pub struct Examination {
    /// The handoff that it would come by.
    pub handoff: HandoffId,
    /// The machine.
    pub machine: MachineId,
    /// Its name, which no other machine may have where it comes to, if it is known.
    pub name: Option<String>,
    /// What it needs, its CPU as its own hypervisor describes it included.
    pub needs: Requirements,
}

/// Why a host cannot take a machine that was examined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It lacks something.
    #[error(transparent)]
    Lacks(#[from] Missing),
    /// The hypervisor did not say.
    #[error("{}", .0.detail)]
    NotTold(Failure),
}

/// Tells one look from another. What was seen before a question was asked is no answer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookId(pub u64);

/// Which copy of a machine: what its metadata, on the host that it is looked for, say of the move
/// that brought it there. A migration gives the copy that arrives the stamp of [`Migration::entry`]
/// and leaves the one on the source as it is, so that the two never carry the same.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct Stamp {
    /// [`Entry::epoch`].
    #[n(0)]
    pub epoch: Epoch,
    /// [`Entry::handoff`].
    #[n(1)]
    pub handoff: Option<HandoffId>,
}

impl Stamp {
    /// The stamp in an entry.
    #[must_use]
    pub const fn of(entry: &Entry) -> Self {
        Self { epoch: entry.epoch, handoff: entry.handoff }
    }
}

/// Who decides that a machine has moved.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Commit {
    /// The hypervisor: the copy that has arrived runs at once.
    #[n(0)]
    Fast,
    /// The two hosts' records: the copy arrives paused (`VIR_MIGRATE_PAUSED`) and stays so until it
    /// is ordered to run by [`Order::Resume`].
    #[default]
    #[n(1)]
    Strict,
}

/// A migration to be carried out by the hypervisor of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Migration {
    /// The handoff that it belongs to.
    pub handoff: HandoffId,
    /// The machine to move.
    pub machine: MachineId,
    /// The host that has reserved room for it.
    pub to: HostId,
    /// Where that host's hypervisor is reached, as it said itself: [`HostFacts::migration_uri`].
    pub uri: String,
    /// The schedule entry as it shall read on the other host. The entry here stays as it is until
    /// the machine has left, so that a migration that fails changes nothing.
    pub entry: Entry,
    /// Whether the copy runs as soon as it has arrived.
    pub commit: Commit,
    /// Most that it may send, in bytes per second; unlimited if `None`.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// What the other host has agreed to provide. If the machine needs more by now, the migration is
    /// not begun: [`FailureKind::NeedsChanged`].
    pub needs: Requirements,
    /// Disks that are copied, and to where. All others must be within reach of both hosts.
    pub disks: Vec<DiskPlace>,
}

/// What the core hears from the hypervisor of its own host.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The answer to [`Order::Sample`].
    Sampled(Result<HostSample, Failure>),
    /// How far a migration is.
    Progress(HandoffId, Progress),
    /// The process that ran this migration's machine here has ended, so that nothing here can let that
    /// copy run any more; whether another one is complete it does not tell. At most once, between the
    /// order and its answer, and only where it is certain: it may be left out.
    EmulatorGone(HandoffId),
    /// A migration is over. On success the machine is complete on the other host, running or
    /// ([`Commit::Strict`]) [`Presence::Held`], and its definition and entry are gone here. A failure
    /// tells nothing of where it is: mostly here as before, but an answer can be lost and a daemon
    /// die at any moment, so that it may be there, or paused on both hosts. A look tells.
    MigrationEnded(HandoffId, Result<MigrationStats, Failure>),
    /// The answer to [`Order::WriteEntry`], with the entry as it was read back.
    EntryWritten(MachineId, Result<Entry, Failure>),
    /// The answer to [`Order::Look`].
    Looked(MachineId, LookId, Result<Sight, Failure>),
    /// The answer to [`Order::Resume`]. A failure does not tell whether it runs: look.
    Resumed(MachineId, Result<(), Failure>),
    /// The answer to [`Order::Discard`]. A failure does not tell whether it is gone: look.
    Discarded(MachineId, Result<(), Failure>),
    /// The answer to [`Order::SetAutostart`], with what was wanted.
    AutostartSet(MachineId, bool, Result<(), Failure>),
    /// The answer to [`Order::Start`]. A failure does not tell whether it runs: look.
    Started(MachineId, Result<(), Failure>),
    /// The answer to [`Order::Examine`]: the machine fits, and the copies of its local disks would go
    /// there.
    Examined(HandoffId, Result<Vec<DiskPlace>, Unfit>),
    /// Something happened to a machine that may have changed the schedule: it was defined, started,
    /// stopped, edited, it arrived or left. A new sample tells what.
    ScheduleChanged(MachineId),
    /// The hypervisor went away; everything under way with it is answered with a failure.
    Disconnected(String),
    /// The hypervisor is back.
    Connected,
}

/// What a look tells of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sight {
    /// Whether it is here, and how.
    pub presence: Presence,
    /// Which copy: of the live machine if it is [resident](Presence::is_resident), else of its
    /// definition. The default where it is absent or its entry cannot be read.
    pub stamp: Stamp,
    /// The host that this copy came from by its last move, as its entry says; `None` if it was never
    /// moved, or by somebody else than Evenkeel.
    #[serde(default)]
    pub from: Option<HostId>,
    /// Whether it is off because it was migrated away, as the hypervisor itself says. It then has not
    /// run here since its memory left.
    #[serde(default)]
    pub left: bool,
}

impl Sight {
    /// A copy of which nothing else is known.
    #[must_use]
    pub const fn new(presence: Presence, stamp: Stamp) -> Self {
        Self { presence, stamp, from: None, left: false }
    }
}

/// Whether a machine is on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Not even its definition.
    #[default]
    Absent,
    /// Defined, not running.
    Defined,
    /// Still arriving: the migration to here is not complete, and without its source it never will
    /// be.
    Incoming,
    /// Here, complete, and paused since it arrived by [`Commit::Strict`].
    Held,
    /// Here, its virtual CPUs stopped by somebody's wish. A hypervisor that cannot tell such a
    /// machine from one that is held says this.
    Paused,
    /// Paused by a migration away from here whose outcome this hypervisor does not know
    /// (`VIR_DOMAIN_PAUSED_MIGRATION` or `POSTMIGRATION` without a job): the copy there may be
    /// complete.
    Stranded,
    /// Running here, or paused for its last moments, with a migration away from here under way.
    Leaving,
    /// Running.
    Running,
}

impl Presence {
    /// Whether the machine takes up memory here.
    #[must_use]
    pub const fn is_resident(self) -> bool {
        !matches!(self, Self::Absent | Self::Defined)
    }
}

/// Everything measured on a host at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSample {
    /// When.
    pub at: Time,
    /// The host itself.
    pub facts: Arc<HostFacts>,
    /// What the host does besides its machines, where that can be told apart.
    pub background: Option<Resources>,
    /// What the host as a whole lacks.
    pub pressure: Pressure,
    /// Every machine with an entry in the schedule of this host, running or not, by id.
    pub machines: Vec<MachineSample>,
}

/// One machine at the moment of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineSample {
    /// What changes rarely; shared between samples until it does.
    pub facts: Arc<MachineFacts>,
    /// Whether it runs.
    pub presence: Presence,
    /// Whether it came to run here by a live migration, as its hypervisor says; whose, it does not tell.
    pub arrived: bool,
    /// What it has consumed since this host began to run it; `None` when it does not run or could
    /// not be measured.
    pub counters: Option<Counters>,
}

/// What a machine has consumed since its present host began to run it. Restarts at zero there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Time executed on CPUs, in nanoseconds, over all virtual CPUs and the emulator.
    pub cpu_time_ns: u64,
    /// Time that virtual CPUs were ready and did not run, in nanoseconds, where told.
    pub cpu_delay_ns: Option<u64>,
    /// Bytes read, written, received and sent.
    pub io_bytes: u64,
    /// Memory occupied on the host now, in bytes. (A gauge.)
    pub memory_bytes: u64,
    /// Memory that it dirties, in bytes per second, where told. (A gauge.)
    pub dirty_bytes_per_s: Option<u64>,
    /// What it lacks on the host.
    pub pressure: Pressure,
}

/// For how long tasks have stood still for want of something, in microseconds since they began, as the
/// kernel's pressure stall information counts it; `None` where it is not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// `some` of memory: at least one task stood still.
    pub memory_us: Option<u64>,
    /// `full` of I/O: every task stood still that was not idle.
    pub io_us: Option<u64>,
    /// What is swapped out, in bytes. (A gauge.)
    pub swapped_bytes: Option<u64>,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Since it began.
    pub elapsed_ms: u64,
    /// Bytes sent.
    pub bytes_done: u64,
    /// Bytes still to send, as known now; pages dirtied meanwhile count again.
    pub bytes_left: u64,
}

/// What a finished migration cost.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct MigrationStats {
    /// From the order to the hypervisor's answer, in milliseconds.
    #[n(0)]
    pub elapsed_ms: u64,
    /// How long the machine stood still, in milliseconds; 0 where it was not told.
    #[n(1)]
    pub downtime_ms: u64,
    /// Bytes sent; 0 where it was not told.
    #[n(2)]
    pub bytes: u64,
}

/// Why an order could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The hypervisor's own words, naming the machine or host.
    pub detail: String,
}

impl Failure {
    /// A failure of `kind`, in the hypervisor's words.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// Kinds of failure that differ in what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The machine is not on this host.
    NoSuchMachine,
    /// It is here but does not run, so there is nothing to migrate live.
    NotRunning,
    /// Another job is under way on it.
    Busy,
    /// The migration was aborted by order.
    Aborted,
    /// The hypervisor of this host does not answer.
    Unreachable,
    /// The other host's hypervisor could not be reached or refused the machine.
    PeerRefused,
    /// What is here is not what the order names, or not in the state for it; nothing was done.
    Refused,
    /// The machine needs more than was agreed on; nothing was begun.
    NeedsChanged,
    /// Anything else; the detail says what.
    Other,
    /// What was to be changed has been changed by somebody else meanwhile; nothing was done.
    Changed,
}

/// How long an order may take before the hypervisor answers it with a failure of its own: a
/// migration has no such limit, since the core aborts it when it lasts too long.
pub const ORDER_TIME_MAX: Duration = Duration::from_secs(30);

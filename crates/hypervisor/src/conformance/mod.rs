//! What every implementation of [`crate::Hypervisor`] has to do, as claims that can be run.
//!
//! An implementation provides a [`Rig`]: a few of its hosts, and what an operator could do with
//! them. Every claim takes a fresh or cleaned rig and panics where the implementation breaks it.
//! [`conformance_tests!`](crate::conformance_tests) makes a test of each:
//!
//! ```no_run
//! # fn rig() -> Box<dyn evenkeel_hypervisor::conformance::Rig> { unimplemented!() }
//! evenkeel_hypervisor::conformance_tests!(rig);
//! ```

mod examining;
mod holding;
mod migrating;
mod watch;
mod watching;

use std::time::Duration;

use evenkeel_core::model::{HostId, MachineId};
use evenkeel_core::port::{Event, Order};

pub use examining::*;
pub use holding::*;
pub use migrating::*;
pub use watching::*;

/// A machine that a rig is asked to boot. One virtual CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// Its name, which is unique within a claim.
    pub name: &'static str,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// The share of one core that it burns, from 0 to 1.
    pub burn: f64,
    /// Memory that it rewrites over and over as fast as it can, in bytes.
    pub dirties_bytes: u64,
    /// Whether its definition outlives its running.
    pub persistent: bool,
}

impl Guest {
    /// A persistent guest of 32 MiB that burns a fifth of a core.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, memory_bytes: 32 << 20, burn: 0.2, dirties_bytes: 0, persistent: true }
    }

    /// The same guest without a definition that outlives its running.
    #[must_use]
    pub const fn transient(mut self) -> Self {
        self.persistent = false;
        self
    }

    /// A guest that cannot be migrated within [`SLOW_SPAN`] at [`SLOW_BYTES_PER_S`].
    #[must_use]
    pub const fn slow_to_move(mut self) -> Self {
        self.dirties_bytes = 16 << 20;
        self
    }
}

/// A bandwidth that makes a migration last, in bytes per second.
pub const SLOW_BYTES_PER_S: u64 = 1 << 20;

/// How long a migration of a guest that is [`Guest::slow_to_move`] lasts at least.
pub const SLOW_SPAN: Duration = Duration::from_secs(12);

/// Longest wait for an answer that should come at once.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest wait for the end of a migration at full speed.
pub const MIGRATION_MAX: Duration = Duration::from_secs(60);

/// Hosts on which the suite can do what an operator could.
///
/// Methods panic where the rig itself fails: then nothing is known about the implementation.
pub trait Rig {
    /// The hosts: at least two, each able to take a machine from each other.
    fn hosts(&self) -> Vec<HostId>;

    /// Gives an order to the hypervisor of a host.
    fn submit(&mut self, host: &HostId, order: Order);

    /// The next event of a host's hypervisor: waits for it, at most `limit`.
    fn next_event(&mut self, host: &HostId, limit: Duration) -> Option<Event>;

    /// Lets time pass.
    fn pass(&mut self, span: Duration);

    /// Defines and starts a machine with an empty schedule entry, and returns its id once it runs.
    fn boot(&mut self, host: &HostId, guest: &Guest) -> MachineId;

    /// Switches a running machine off.
    fn stop(&mut self, host: &HostId, machine: &MachineId);

    /// Starts a machine that is defined.
    fn start(&mut self, host: &HostId, machine: &MachineId);

    /// Makes nonsense of a machine's schedule entry: an `epoch` of `abc`.
    fn spoil_entry(&mut self, host: &HostId, machine: &MachineId);

    /// Takes a host's hypervisor away, the way in which a crash of it does; machines may run on.
    fn sever(&mut self, host: &HostId);

    /// Brings it back.
    fn restore(&mut self, host: &HostId);
}

/// Makes a test of every claim of the suite; takes an expression that makes a `Box<dyn Rig>` when
/// it is called.
#[macro_export]
macro_rules! conformance_tests {
    ($rig:expr) => {
        $crate::conformance_tests! { $rig =>
            a_sample_lists_every_machine_with_counters_that_grow
            a_sample_says_what_host_and_machine_are
            a_look_tells_what_is_here
            an_entry_reads_back_as_it_was_written
            an_entry_outlives_a_stop_and_a_start
            an_entry_that_is_nonsense_is_reported_and_can_be_rewritten
            what_happens_to_a_machine_is_told
            a_migration_moves_machine_definition_and_entry
            a_transient_machine_stays_transient
            counters_restart_on_the_other_host
            a_machine_moves_there_and_back_again
            a_migration_that_fails_changes_nothing
            an_aborted_migration_leaves_the_machine_running
            a_machine_under_migration_is_busy
            a_migration_reports_progress
            only_what_runs_here_can_be_migrated
            migrations_of_several_machines_run_side_by_side
            a_look_tells_which_copy_is_here
            a_machine_that_arrives_strictly_is_held_until_it_is_let_run
            the_end_of_what_ran_a_machine_is_told_before_its_migration_is_answered
            a_held_copy_can_be_discarded
            what_runs_is_never_discarded
            a_copy_that_is_arriving_can_be_discarded
            what_is_defined_and_off_can_be_started
            what_is_held_or_arriving_cannot_be_started
            starting_at_boot_can_be_changed_and_does_not_travel
            what_a_host_lacks_for_a_machine_is_told_by_name
            every_order_is_answered_when_the_hypervisor_dies
        }
    };
    ($rig:expr => $($claim:ident)+) => {
        $(
            #[test]
            fn $claim() {
                $crate::conformance::$claim(&mut *($rig)());
            }
        )+
    };
}

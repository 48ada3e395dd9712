//! The hypervisor as the rest of Evenkeel sees it.
//!
//! [`Hypervisor`] is the whole surface: an order goes in, events come out. Every implementation
//! passes the suite in [`conformance`]: the in-memory one in [`memory`], which simulations use, and
//! libvirt in the crate `evenkeel-libvirt`.

pub mod conformance;
pub mod memory;

pub use evenkeel_core::port::{
    Commit, Counters, Event, Failure, FailureKind, HandoffId, HostSample, LookId, MachineSample,
    Migration, MigrationStats, Order, Presence, Progress, Sight, Stamp,
};

/// A hypervisor of one host.
///
/// Events are delivered to the sink that the implementation was made with, in the order in which
/// they happened.
pub trait Hypervisor {
    /// Takes an order. Never blocks and never fails: every order that has an answer is answered by
    /// exactly one event, also when the hypervisor is gone or shutting down.
    fn submit(&mut self, order: Order);
}

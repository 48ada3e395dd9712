//! Clusters in virtual time.
//!
//! A [`Cluster`] drives the very same core that the daemon runs: every host has its own balancer,
//! they talk through a simulated [`Network`] with delay, loss and duplication, and their hypervisors
//! are in memory. The same seed makes the same run, event by event, and what must always hold is
//! checked while it runs.

pub mod bounds;
pub mod foresee;
pub mod generate;
pub mod plan;
pub mod ruled;
pub mod scenario;
pub mod snapshot;
pub mod traces;

mod check;
mod cluster;
mod log;
mod membership;
mod network;
mod order;
mod queue;
mod rest;
mod staying;

pub use check::{Invariant, Violation};
pub use cluster::{Cluster, HostSpec, Moved, Tally};
pub use log::{Line, What};
pub use membership::{Membership, Oracle, Outcome, Swim};
pub use network::{Network, Partition};
pub use staying::{Hindrance, Staying};

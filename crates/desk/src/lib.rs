//! The operator's desk: what a cluster looks like, in one place, for whoever looks at it.
//!
//! ```text
//!  agents ──brief──▶ gatherer ──▶ cache ──▶ summary ──▶ page, command line
//!                       ▲                      │
//!                       └── asks only while somebody looks
//! ```
//!
//! Every agent says of its host what a page needs in a [`Brief`]. The agent that is looked at asks all
//! others for theirs, by pull and only while somebody looks ([`Desk`]); nothing is gossiped, and no
//! host is special. What is heard goes into a [cache](cluster::Cache), of which a
//! [summary](summary::Summary) is made: one sentence, what needs somebody, and the level.
//!
//! The desk reaches hosts through one trait, [`Ask`]. The agent implements it over its links to other
//! agents; a [`Player`](replay::Player) implements it over a [recording], so that a
//! simulated cluster is shown by the same code.

pub mod assets;
pub mod brief;
pub mod cluster;
pub mod door;
mod gather;
pub mod history;
pub mod recording;
pub mod replay;
pub mod serve;
pub mod summary;

use std::future::Future;

use axum::body::Bytes;
use evenkeel_core::model::{HostId, Time};

pub use brief::Brief;
pub use gather::{Desk, Pace};

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub host: HostId,
    /// Whether it is alive, as far as the host that is asked knows.
    pub alive: bool,
}

/// How the desk reaches the hosts of a cluster.
pub trait Ask: Clone + Send + Sync + 'static {
    /// The host that is looked at.
    fn here(&self) -> HostId;

    /// The time, by the clock of that host.
    fn now(&self) -> Time;

    /// Every host of the cluster that this one knows, this one among them.
    fn hosts(&self) -> impl Future<Output = Result<Vec<Listed>, String>> + Send;

    /// What the agent of a host answers to `GET path`, or in words why it does not.
    fn get(&self, host: HostId, path: String)
    -> impl Future<Output = Result<Bytes, String>> + Send;
}

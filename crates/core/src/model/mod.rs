//! What a cluster consists of: identities, units, hosts, machines and schedules.

mod host;
mod ids;
mod resources;
mod schedule;
mod time;

pub use host::{HostFacts, HostProfile, HostState, Missing, ProfileError, Provides};
pub use ids::{Epoch, ExchangeId, HandoffId, HostId, ID_BYTES_MAX, IdError, MachineId, MoveId};
pub use resources::{PerResource, Resource, Resources, Weights, WeightsError};
pub use schedule::{
    CpuNeed, Entry, LastMove, Locks, MachineFacts, Requirements, Rules, TARGET_LOAD_MAX,
};
pub use time::Time;

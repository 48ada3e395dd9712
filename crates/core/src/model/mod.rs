//! What a cluster consists of: identities, units, hosts, machines and schedules.

mod host;
mod ids;
mod needs;
mod resources;
mod rules;
mod schedule;
mod time;

pub use host::{HostFacts, HostProfile, HostState, ProfileError};
pub use ids::{
    ClaimId, Epoch, ExchangeId, HandoffId, HostId, ID_BYTES_MAX, IdError, MachineId, MoveId,
};
pub use needs::{
    CpuNeed, DiskPlace, HugePages, LocalDisk, Missing, Network, Provides, Requirements,
};
pub use resources::{PerResource, Resource, Resources, Weights, WeightsError};
pub use rules::{Group, Hosts, NAMES_MAX, PRIORITY_MAX, Place, RuleError, Rules, check_label};
pub use schedule::{Entry, LastMove, Locks, MachineFacts, TARGET_LOAD_MAX};
pub use time::Time;

//! What a cluster consists of: identities, units, hosts, machines and schedules.

mod autonomy;
mod host;
mod ids;
mod missing;
mod needs;
mod network;
mod resources;
mod role;
mod rules;
mod schedule;
mod seat;
mod secret;
mod time;

pub use autonomy::{Autonomy, NoMode};
pub use host::{HostFacts, HostProfile, HostState, ProfileError};
pub use ids::{
    ClaimId, Epoch, ExchangeId, HandoffId, HandoffKey, HostId, ID_BYTES_MAX, IdError, MachineId,
    MoveId, Ticket,
};
pub use missing::Missing;
pub use needs::{
    CpuNeed, DiskPlace, FileUse, HostFile, HugePages, LocalDisk, Provides, Requirements,
};
pub use network::{Attachment, LINUX_BRIDGE, Link, NO_BRIDGE, Network, NetworkFacts};
pub use resources::{PerResource, Resource, Resources, Weights, WeightsError};
pub use role::Role;
pub use rules::{Group, Hosts, NAMES_MAX, PRIORITY_MAX, Place, RuleError, Rules, check_label};
pub use schedule::{Entry, LastMove, Locks, MachineFacts, TARGET_LOAD_MAX};
pub use seat::{Labels, Seat};
pub use secret::Secret;
pub use time::{CLOCK_AHEAD_MAX, Time};

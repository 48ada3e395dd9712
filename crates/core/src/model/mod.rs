//! What a cluster consists of: identities, units, hosts, machines and schedules.

mod host;
mod ids;
mod resources;
mod rules;
mod schedule;
mod time;

pub use host::{HostFacts, HostProfile, HostState, Missing, ProfileError, Provides};
pub use ids::{Epoch, ExchangeId, HandoffId, HostId, ID_BYTES_MAX, IdError, MachineId, MoveId};
pub use resources::{PerResource, Resource, Resources, Weights, WeightsError};
pub use rules::{Group, Hosts, NAMES_MAX, PRIORITY_MAX, Place, RuleError, Rules, check_label};
pub use schedule::{CpuNeed, Entry, LastMove, Locks, MachineFacts, Requirements, TARGET_LOAD_MAX};
pub use time::Time;

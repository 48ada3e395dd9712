//! Hosts: what they have, what they provide, and what a machine would load them.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{HostId, PerResource, Provides, Resource, Resources, Weights};

/// Whether a host takes part in balancing.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Encode,
    Decode,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum HostState {
    /// Gives and takes machines.
    #[default]
    #[n(0)]
    Active,
    /// Takes nothing; still gives what would relieve it.
    #[n(1)]
    Cordoned,
    /// Is being emptied: takes nothing, and gives everything that may move, even to hosts that are
    /// more loaded.
    #[n(2)]
    Draining,
}

/// What the hypervisor says of the host itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Cores, memory and I/O as found; the configuration may declare others.
    pub capacity: Resources,
    /// What machines may need of it.
    pub provides: Provides,
    /// Where peers reach this hypervisor for a migration, in libvirt's URI syntax.
    pub migration_uri: String,
}

/// A host as the arithmetic sees it: capacity, speed, weights and what it keeps for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HostProfile {
    /// Its id.
    pub id: HostId,
    /// What it has: own cores, bytes of memory, bytes per second. Each above zero, except a
    /// resource whose weight is zero.
    pub capacity: Resources,
    /// Speed of one of its cores relative to the reference core; above zero.
    pub cpu_speed: f64,
    /// How much each resource counts here.
    pub weights: Weights,
    /// Memory that no machine may take, in bytes.
    pub reserved_memory_bytes: f64,
    /// Free-form labels, such as `rack`.
    pub labels: BTreeMap<String, String>,
}

/// Why a host cannot be reckoned with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProfileError {
    /// A resource that counts has no capacity.
    #[error(
        "host `{host}` has a capacity of {value} for {}, which counts with weight {weight}: \
         declare its capacity or set that weight to 0", .resource.name()
    )]
    NoCapacity {
        /// The host.
        host: HostId,
        /// The resource.
        resource: Resource,
        /// Its capacity as given.
        value: f64,
        /// Its weight.
        weight: f64,
    },
    /// The speed of a core is not a positive number.
    #[error(
        "host `{host}` has a cpu_speed of {value}: it must be above 0 (1.0 is the reference core)"
    )]
    Speed {
        /// The host.
        host: HostId,
        /// The speed as given.
        value: f64,
    },
}

impl HostProfile {
    /// A profile with default speed, weights and reservation.
    #[must_use]
    pub fn new(id: HostId, capacity: Resources) -> Self {
        Self {
            id,
            capacity,
            cpu_speed: 1.0,
            weights: Weights::default(),
            reserved_memory_bytes: 0.0,
            labels: BTreeMap::new(),
        }
    }

    /// Checks that loads on this host are numbers.
    ///
    /// # Errors
    /// When a resource that counts has no capacity, or the speed is not above zero.
    pub fn check(&self) -> Result<(), ProfileError> {
        if !(self.cpu_speed.is_finite() && self.cpu_speed > 0.0) {
            return Err(ProfileError::Speed { host: self.id.clone(), value: self.cpu_speed });
        }
        for resource in Resource::ALL {
            let (value, weight) = (self.capacity[resource], self.weights.get()[resource]);
            if weight > 0.0 && !(value.is_finite() && value > 0.0) {
                return Err(ProfileError::NoCapacity {
                    host: self.id.clone(),
                    resource,
                    value,
                    weight,
                });
            }
        }
        Ok(())
    }

    /// The share of this host's capacity that `usage` takes, per resource: 1.0 is all of it.
    /// A resource without capacity has a share of 0; [`Self::check`] refuses it where it counts.
    #[must_use]
    pub fn shares(&self, usage: &Resources) -> PerResource {
        let share = |used: f64, has: f64| if has > 0.0 { used / has } else { 0.0 };
        PerResource {
            cpu: share(usage.cpu_cores, self.capacity.cpu_cores * self.cpu_speed),
            memory: share(usage.memory_bytes, self.capacity.memory_bytes),
            io: share(usage.io_bytes_per_s, self.capacity.io_bytes_per_s),
        }
    }

    /// The load that `usage` puts on this host: `Σ weight × usage / capacity` over the resources,
    /// weights summing to 1, so that 1.0 is the whole host (claims 9–12).
    #[must_use]
    pub fn price(&self, usage: &Resources) -> f64 {
        let (shares, weights) = (self.shares(usage), self.weights.get());
        Resource::ALL.iter().map(|&r| weights[r] * shares[r]).sum()
    }

    /// The usage that takes `share` of this host in every resource; its price here is `share`.
    #[must_use]
    pub fn share_as_usage(&self, share: f64) -> Resources {
        let mut whole = self.capacity;
        whole.cpu_cores *= self.cpu_speed;
        whole.scaled(share)
    }

    /// Memory that machines may take, in bytes.
    #[must_use]
    pub fn usable_memory_bytes(&self) -> f64 {
        (self.capacity.memory_bytes - self.reserved_memory_bytes).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cores: f64, speed: f64) -> HostProfile {
        let capacity = Resources { cpu_cores: cores, memory_bytes: 100.0, io_bytes_per_s: 10.0 };
        let mut host = HostProfile::new(HostId::new("h").unwrap(), capacity);
        host.cpu_speed = speed;
        host
    }

    #[test]
    fn a_load_is_the_weighted_share_of_each_resource() {
        let mut h = host(4.0, 0.5);
        h.weights = Weights::new(PerResource { cpu: 2.0, memory: 1.0, io: 1.0 }).unwrap();
        let usage = Resources { cpu_cores: 1.0, memory_bytes: 50.0, io_bytes_per_s: 1.0 };
        // 0.5 × 1/(4 × 0.5) + 0.25 × 50/100 + 0.25 × 1/10
        assert!((h.price(&usage) - (0.25 + 0.125 + 0.025)).abs() < 1e-12);
    }

    #[test]
    fn a_share_of_the_host_is_priced_as_that_share() {
        let h = host(8.0, 1.3);
        assert!((h.price(&h.share_as_usage(0.37)) - 0.37).abs() < 1e-12);
    }

    #[test]
    fn a_host_without_capacity_is_refused_by_name() {
        let text = host(0.0, 1.0).check().unwrap_err().to_string();
        assert!(text.contains("`h`") && text.contains("cpu"), "{text}");
        assert!(host(1.0, 0.0).check().is_err());
        assert!(host(1.0, 1.0).check().is_ok());
    }
}

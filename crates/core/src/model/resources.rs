//! The three resources a machine uses, and how a host weighs them.

use std::ops::{Add, AddAssign, Index, Sub};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A resource that machines use and hosts have.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Resource {
    /// Time executing on a CPU.
    #[n(0)]
    Cpu,
    /// Memory occupied.
    #[n(1)]
    Memory,
    /// Input/output activity: disk and network together.
    #[n(2)]
    Io,
}

impl Resource {
    /// All of them, in the order in which they are written everywhere.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// `cpu`, `memory` or `io`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// Amounts of the three resources: what a machine uses (its *load factors*) or what a host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Resources {
    /// CPU, in reference cores: 1.0 is one core of speed 1 busy all the time. A host's capacity
    /// counts its own cores; [`super::HostProfile::cpu_speed`] converts.
    #[n(0)]
    pub cpu_cores: f64,
    /// Memory, in bytes.
    #[n(1)]
    pub memory_bytes: f64,
    /// Disk and network transfer, in bytes per second.
    #[n(2)]
    pub io_bytes_per_s: f64,
}

impl Resources {
    /// Nothing.
    pub const ZERO: Self = Self { cpu_cores: 0.0, memory_bytes: 0.0, io_bytes_per_s: 0.0 };

    /// The same amounts times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            cpu_cores: self.cpu_cores * factor,
            memory_bytes: self.memory_bytes * factor,
            io_bytes_per_s: self.io_bytes_per_s * factor,
        }
    }

    /// Whether every amount is a finite number not below zero.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        Resource::ALL.iter().all(|&r| self[r].is_finite() && self[r] >= 0.0)
    }
}

impl Index<Resource> for Resources {
    type Output = f64;
    fn index(&self, resource: Resource) -> &f64 {
        match resource {
            Resource::Cpu => &self.cpu_cores,
            Resource::Memory => &self.memory_bytes,
            Resource::Io => &self.io_bytes_per_s,
        }
    }
}

impl Add for Resources {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cpu_cores: self.cpu_cores + other.cpu_cores,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            io_bytes_per_s: self.io_bytes_per_s + other.io_bytes_per_s,
        }
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Resources {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other.scaled(-1.0)
    }
}

/// One figure per resource without a unit: shares of a host, or weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct PerResource {
    /// CPU.
    #[n(0)]
    pub cpu: f64,
    /// Memory.
    #[n(1)]
    pub memory: f64,
    /// Disk and network.
    #[n(2)]
    pub io: f64,
}

impl Index<Resource> for PerResource {
    type Output = f64;
    fn index(&self, resource: Resource) -> &f64 {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
            Resource::Io => &self.io,
        }
    }
}

/// Why weights cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// A weight is negative or not a finite number.
    #[error("the weight of {} is {value}: weights are finite and not negative", .resource.name())]
    Implausible {
        /// Which weight.
        resource: Resource,
        /// What it was.
        value: f64,
    },
    /// All of them are zero.
    #[error("all weights are zero: at least one resource must count")]
    AllZero,
}

/// How much each resource counts on a host. Always sums to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "PerResource", into = "PerResource")]
pub struct Weights(PerResource);

impl Weights {
    /// Normalises the given weights to sum 1.
    ///
    /// # Errors
    /// When one is negative or not finite, or all are zero.
    pub fn new(raw: PerResource) -> Result<Self, WeightsError> {
        for resource in Resource::ALL {
            let value = raw[resource];
            if !value.is_finite() || value < 0.0 {
                return Err(WeightsError::Implausible { resource, value });
            }
        }
        let sum = raw.cpu + raw.memory + raw.io;
        if sum <= 0.0 || !sum.is_finite() {
            return Err(WeightsError::AllZero);
        }
        // Weights that were normalised before stay as they are, to the last digit: what is written
        // and read again is the same.
        if (sum - 1.0).abs() <= 4.0 * f64::EPSILON {
            return Ok(Self(raw));
        }
        Ok(Self(PerResource { cpu: raw.cpu / sum, memory: raw.memory / sum, io: raw.io / sum }))
    }

    /// The normalised weight of each resource.
    #[must_use]
    pub const fn get(&self) -> PerResource {
        self.0
    }
}

impl Default for Weights {
    /// Every resource counts the same.
    fn default() -> Self {
        let third = 1.0 / 3.0;
        Self(PerResource { cpu: third, memory: third, io: third })
    }
}

impl TryFrom<PerResource> for Weights {
    type Error = WeightsError;
    fn try_from(raw: PerResource) -> Result<Self, WeightsError> {
        Self::new(raw)
    }
}

impl From<Weights> for PerResource {
    fn from(weights: Weights) -> Self {
        weights.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_always_sum_to_one() {
        let w = Weights::new(PerResource { cpu: 2.0, memory: 1.0, io: 1.0 }).unwrap();
        assert_eq!(w.get(), PerResource { cpu: 0.5, memory: 0.25, io: 0.25 });
        assert_eq!(Weights::new(PerResource::default()).unwrap_err(), WeightsError::AllZero,);
        assert!(Weights::new(PerResource { cpu: -1.0, memory: 1.0, io: 1.0 }).is_err());
        assert!(Weights::new(PerResource { cpu: f64::NAN, memory: 1.0, io: 1.0 }).is_err());
    }
}

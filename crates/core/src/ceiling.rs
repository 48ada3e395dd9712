//! Ceilings: how much of each single resource of a host may be in use, whatever its weighted load.
//!
//! A weighted load can be low on a host that has no CPU left. Therefore no move may push a resource
//! of its receiver over that host's ceiling. The ceiling of memory is hard. Those of CPU and I/O
//! are soft: machines share them, and where the donor is over its own ceiling and the receiver would
//! end with less than the donor had, the worst of the two is improved all the same.
//!
//! A host that is over a ceiling sheds that resource first: it looks for a receiver as it would
//! otherwise, but with that resource as its only [`Measure`] on both sides, and the ceiling as its
//! limit. What holds for every move then holds in that measure: the pair ends closer together and
//! its maximum lower. Moves by weighted load push nothing over a ceiling, and shedding takes
//! something away above one, so that the two cannot chase each other for ever.

use minicbor::{Decode, Encode};

use crate::model::{HostProfile, PerResource, Resource, Resources};
use crate::reason::Reason;

/// What two hosts compare: their weighted loads, or if given the share of one resource in use.
pub type Measure = Option<Resource>;

/// How much of each resource of a host may be in use, as fractions of its capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings(pub PerResource);

impl Ceilings {
    /// All that there is may be used.
    pub const FULL: Self = Self(PerResource { cpu: 1.0, memory: 1.0, io: 1.0 });
}

impl Ceilings {
    /// Memory of a host that may be promised to machines, in bytes. A ceiling above 1 promises more than
    /// there is, for machines that use less than they were promised (balloons, same-page merging).
    #[must_use]
    pub fn promisable_bytes(&self, host: &HostProfile) -> f64 {
        let (usable, ceiling) = (host.usable_memory_bytes(), self.0.memory);
        if ceiling > 1.0 {
            usable * ceiling
        } else {
            usable.min(host.capacity.memory_bytes * ceiling)
        }
    }
}

impl Default for Ceilings {
    fn default() -> Self {
        Self(PerResource { cpu: 0.9, memory: 1.0, io: 0.9 })
    }
}

/// How full a host is, for others to reckon with.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Gauge {
    /// Of each resource, CPU in reference cores.
    #[n(0)]
    pub capacity: Resources,
    /// What is in use.
    #[n(1)]
    pub used: Resources,
    /// How much more may come to be used by what is there: not simply added to what others may come
    /// to use, since not all do at once.
    #[n(2)]
    pub margin: Resources,
    /// How much may be used, as fractions.
    #[n(3)]
    pub ceilings: PerResource,
}

/// The resources with soft ceilings. Memory is promised as a whole and never beyond its ceiling.
const SOFT: [(Resource, Reason); 2] =
    [(Resource::Cpu, Reason::CpuCeiling), (Resource::Io, Reason::IoCeiling)];

impl Gauge {
    /// Share of a resource in use once `usage` has come, at its high quantile.
    fn share_with(&self, resource: Resource, usage: &Resources, margin: &Resources) -> f64 {
        let capacity = self.capacity[resource];
        if capacity <= 0.0 {
            return 0.0;
        }
        let margin = self.margin[resource].hypot(margin[resource]);
        (self.used[resource] + usage[resource] + margin) / capacity
    }

    /// Whether a machine that uses this, and may come to use `margin` more, can be added. `donor` is
    /// how full the host is that has it.
    ///
    /// # Errors
    /// The ceiling that it would break.
    pub fn admits(
        &self,
        usage: &Resources,
        margin: &Resources,
        donor: Option<&Self>,
    ) -> Result<(), Reason> {
        for (resource, reason) in SOFT {
            // What a machine does not use it cannot push up.
            if usage[resource] <= 0.0 {
                continue;
            }
            let after = self.share_with(resource, usage, margin);
            let relieves = donor.is_some_and(|donor| {
                let before = donor.share_with(resource, &Resources::ZERO, &Resources::ZERO);
                before > donor.ceilings[resource] && after < before
            });
            if after > self.ceilings[resource] && !relieves {
                return Err(reason);
            }
        }
        Ok(())
    }

    /// The resource that is furthest over its ceiling as it is used now, if any is.
    #[must_use]
    pub fn strained(&self) -> Option<Resource> {
        let over = |resource: Resource| {
            let capacity = self.capacity[resource];
            let share = if capacity > 0.0 { self.used[resource] / capacity } else { 0.0 };
            share - self.ceilings[resource]
        };
        let soft = SOFT.iter().map(|(resource, _)| *resource);
        soft.filter(|&r| over(r) > 0.0).max_by(|&a, &b| over(a).total_cmp(&over(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cores: f64) -> Resources {
        Resources { cpu_cores: cores, ..Resources::ZERO }
    }

    fn gauge(used: f64, margin: f64) -> Gauge {
        Gauge {
            capacity: Resources { cpu_cores: 10.0, memory_bytes: 1.0, io_bytes_per_s: 0.0 },
            used: cpu(used),
            margin: cpu(margin),
            ceilings: Ceilings::default().0,
        }
    }

    #[test]
    fn a_machine_fits_below_the_ceiling_with_what_it_may_come_to_use() {
        for (used, margin, usage, more, fits) in [
            (5.0, 0.0, 4.0, 0.0, true),
            (5.0, 0.0, 4.1, 0.0, false),
            (5.0, 0.0, 3.9, 0.2, false),
            // 3 and 4 more are 5 more together.
            (2.0, 3.0, 2.0, 4.0, true),
            (2.1, 3.0, 2.0, 4.0, false),
            (9.9, 0.0, 0.0, 0.0, true),
        ] {
            let admitted = gauge(used, margin).admits(&cpu(usage), &cpu(more), None);
            assert_eq!(admitted.is_ok(), fits, "{used} {margin} {usage} {more}");
        }
    }

    #[test]
    fn a_ceiling_of_memory_above_one_promises_more_than_there_is() {
        let capacity = Resources { memory_bytes: 100.0, ..Resources::ZERO };
        let id = crate::model::HostId::new("h").unwrap();
        let host = HostProfile { reserved_memory_bytes: 20.0, ..HostProfile::new(id, capacity) };
        for (ceiling, bytes) in [(0.5, 50.0), (0.9, 80.0), (1.0, 80.0), (1.5, 120.0)] {
            let ceilings = Ceilings(PerResource { memory: ceiling, ..Ceilings::FULL.0 });
            assert_eq!(ceilings.promisable_bytes(&host), bytes, "{ceiling}");
        }
    }

    #[test]
    fn a_soft_ceiling_gives_way_where_the_worst_of_the_two_is_improved() {
        let full = gauge(9.8, 0.0);
        assert!(gauge(8.0, 0.0).admits(&cpu(1.5), &cpu(0.0), Some(&full)).is_ok());
        assert!(gauge(8.0, 0.0).admits(&cpu(1.9), &cpu(0.0), Some(&full)).is_err());
        let below = gauge(8.9, 0.0);
        assert!(gauge(8.0, 0.0).admits(&cpu(1.5), &cpu(0.0), Some(&below)).is_err());
    }

    #[test]
    fn the_resource_furthest_over_its_ceiling_is_told() {
        let mut host = gauge(9.1, 0.0);
        assert_eq!(host.strained(), Some(Resource::Cpu));
        host.capacity.io_bytes_per_s = 100.0;
        host.used.io_bytes_per_s = 99.0;
        assert_eq!(host.strained(), Some(Resource::Io));
        assert_eq!(gauge(9.0, 2.0).strained(), None, "what may come is not there yet");
    }
}

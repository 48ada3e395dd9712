//! What this host's hypervisor has said that it cannot run.
//!
//! Names are judged at once, in a quote. What only the hypervisor can tell (features of a CPU, room
//! for a copy of a disk) is found out when a machine was chosen, and remembered, so that the next
//! quote refuses it and the donor chooses another.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{MachineId, Missing, Requirements, Time};

/// How long a verdict on a machine counts: disks fill up and are cleared.
const OF_MACHINE_FOR: Duration = Duration::from_secs(300);
/// How long a verdict on a CPU counts. It changes with the hypervisor or its host, which empties this.
const OF_CPU_FOR: Duration = Duration::from_secs(86_400);
/// Most verdicts that are kept. Beyond, the oldest is forgotten and may be found out again.
const VERDICTS_MAX: usize = 512;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Cpu(u64),
    Machine(MachineId),
}

/// Verdicts of the hypervisor.
#[derive(Clone, Debug, Default)]
pub struct Unfit(BTreeMap<Of, (Time, Missing)>);

impl Unfit {
    /// The hypervisor has said that something is missing.
    pub fn learn(
        &mut self,
        machine: &MachineId,
        needs: &Requirements,
        missing: Missing,
        now: Time,
    ) {
        let of = match (&missing, needs.cpu_digest) {
            (Missing::CpuFeatures(_), Some(digest)) => Of::Cpu(digest),
            _ => Of::Machine(machine.clone()),
        };
        if self.0.len() >= VERDICTS_MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (at, _))| *at)
        {
            let oldest = oldest.0.clone();
            self.0.remove(&oldest);
        }
        self.0.insert(of, (now, missing));
    }

    /// Whether nothing is known that is missing.
    ///
    /// # Errors
    /// What was missing when the hypervisor was asked last.
    pub fn recall(
        &self,
        machine: &MachineId,
        needs: &Requirements,
        now: Time,
    ) -> Result<(), Missing> {
        if self.0.is_empty() {
            return Ok(());
        }
        let known = |of: Of, lasts: Duration| {
            self.0.get(&of).filter(|(at, _)| now.since(*at) < lasts).map(|(_, m)| m.clone())
        };
        let of_cpu = needs.cpu_digest.and_then(|digest| known(Of::Cpu(digest), OF_CPU_FOR));
        let found = of_cpu.or_else(|| known(Of::Machine(machine.clone()), OF_MACHINE_FOR));
        found.map_or(Ok(()), Err)
    }

    /// The hypervisor or what it has is another one now.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_for_the_cpu_or_the_machine_and_not_for_ever() {
        let at = |s: u64| Time::from_unix_ms(s * 1000);
        let (a, b) = (MachineId::new("a").unwrap(), MachineId::new("b").unwrap());
        let needs = |cpu_digest| Requirements { cpu_digest, ..Requirements::default() };
        let mut unfit = Unfit::default();
        unfit.learn(&a, &needs(Some(1)), Missing::CpuFeatures("avx".to_owned()), at(0));
        unfit.learn(&a, &needs(Some(2)), Missing::DiskRoom("full".to_owned()), at(0));
        for (machine, digest, now, known) in [
            (&a, Some(1), 1, true),
            (&b, Some(1), 1, true),
            (&b, Some(2), 1, false),
            (&a, Some(2), 1, true),
            (&a, None, 299, true),
            (&a, None, 300, false),
            (&b, Some(1), 86_399, true),
            (&b, Some(1), 86_400, false),
        ] {
            let recalled = unfit.recall(machine, &needs(digest), at(now));
            assert_eq!(recalled.is_err(), known, "{machine} {digest:?} {now}");
        }
        for n in 10..2000 {
            unfit.learn(&a, &needs(Some(n)), Missing::CpuFeatures(String::new()), at(n));
        }
        assert_eq!(unfit.0.len(), VERDICTS_MAX);
        unfit.clear();
        assert!(unfit.recall(&a, &needs(Some(1)), at(1)).is_ok());
    }
}

//! What machines of one host must not have in common: their names, and CPUs that each has for itself.

use super::Host;
use crate::message::Candidate;
use crate::model::Missing;

impl Host {
    /// Whether a machine of another host could be here beside those that are here or on their way.
    ///
    /// # Errors
    /// What it has in common with another one.
    pub(super) fn neighbours_mind(&self, candidate: &Candidate) -> Result<(), Missing> {
        let wanted = candidate.needs.dedicated_cpus.as_deref().unwrap_or_default();
        let shared = |cpus: &[u32]| wanted.iter().find(|cpu| cpus.contains(cpu)).copied();
        let judge = |name: &str, other: &str, cpus: &[u32]| {
            if name == candidate.name && !name.is_empty() {
                return Err(Missing::NameTaken { name: name.to_owned(), other: other.to_owned() });
            }
            let pinned = |cpu| Missing::CpuPinned { cpu, machine: name.to_owned() };
            shared(cpus).map_or(Ok(()), |cpu| Err(pinned(cpu)))
        };
        for (id, machine) in self.view.machines() {
            if *id == candidate.machine {
                continue;
            }
            // One that is off has its name, and no CPU.
            let cpus = machine.facts.needs.dedicated_cpus.as_deref();
            let cpus = cpus.filter(|_| machine.presence.is_resident()).unwrap_or_default();
            judge(&machine.facts.name, id.as_str(), cpus)?;
        }
        let coming = self.holds.incoming.values().filter(|i| i.machine != candidate.machine);
        coming
            .map(|i| judge(&i.name, i.machine.as_str(), &i.dedicated_cpus))
            .find(Result::is_err)
            .unwrap_or(Ok(()))
    }
}

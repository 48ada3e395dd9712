//! Whether a host in memory can run a machine of another one.

use std::sync::Arc;

use evenkeel_core::model::{DiskPlace, Missing};
use evenkeel_core::port::{Examination, Unfit};

use super::MemoryCloud;

impl MemoryCloud {
    /// By what the host provides and the features of its CPU.
    pub(super) fn examine(
        &self,
        host: usize,
        examination: &Examination,
    ) -> Result<Vec<DiskPlace>, Unfit> {
        let (host, needs) = (&self.hosts[host], &examination.needs);
        let provides = &Arc::as_ref(&host.facts).provides;
        provides.meets(needs)?;
        if let (Some(has), Some(wanted)) = (&host.spec.cpu_features, &needs.cpu_definition) {
            let lacks: Vec<&str> = wanted.split(' ').filter(|one| !has.contains(*one)).collect();
            if !lacks.is_empty() {
                let words = format!("the host's CPU does not have {}", lacks.join(", "));
                return Err(Missing::CpuFeatures(words).into());
            }
        }
        let place = |name: &String, pool: &String| DiskPlace {
            name: name.clone(),
            path: format!("/{pool}/{}-{name}", examination.machine),
        };
        let disks = needs.local_disks.iter().flatten();
        Ok(disks.map(|disk| place(&disk.name, &disk.pool)).collect())
    }
}

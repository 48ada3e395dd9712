//! Whether a machine of another host can run here, as libvirt sees it now.
//!
//! What has a name is looked up anew. The CPU is compared by libvirt, feature by feature, as the
//! machine's own libvirt describes it while it runs: `virConnectCompareHypervisorCPU`.

use std::path::Path;

use evenkeel_core::model::{DiskPlace, LocalDisk, Missing, Requirements};
use evenkeel_core::port::{Examination, Failure, Unfit};
use virt_sys as sys;

use crate::LibvirtConfig;
use crate::failure::classify;
use crate::ffi::{CallError, Connection};
use crate::sample::Knowledge;

/// Whether it can, and where the copies of its local disks would go.
pub(crate) fn examine(
    connection: &Connection,
    config: &LibvirtConfig,
    knowledge: &mut Knowledge,
    examination: &Examination,
) -> Result<Vec<DiskPlace>, Unfit> {
    knowledge.look_around(connection, config);
    let needs = &examination.needs;
    knowledge.provides().meets(needs)?;
    let not_told = |error: &CallError| {
        let kind = classify(error, connection, false);
        let words = format!("machine `{}` could not be examined: {error}", examination.machine);
        Unfit::NotTold(Failure::new(kind, words))
    };
    if let Some(cpu) = &needs.cpu_definition {
        // Another host's words, and libvirt reads them as root.
        let cpu = crate::carried::cpu(cpu)
            .map_err(|why| Missing::CpuFeatures(format!("its CPU cannot be read: {why}")))?;
        let compared = compare(connection, needs, &cpu);
        compared
            .map_err(|error| not_told(&error))?
            .map_or(Ok(()), |words| Err(Missing::CpuFeatures(words)))?;
    }
    let mut places = Vec::new();
    for disk in needs.local_disks.iter().flatten() {
        places.push(place(connection, knowledge, disk).map_err(|error| match error {
            Refused::Missing(missing) => missing.into(),
            Refused::Failed(error) => not_told(&error),
        })?);
    }
    Ok(places)
}

/// What the host's CPU lacks for this one, in libvirt's words, if anything.
fn compare(
    connection: &Connection,
    needs: &Requirements,
    cpu: &str,
) -> Result<Option<String>, CallError> {
    let of = |name: &Option<String>| name.clone().unwrap_or_default();
    match connection.compare_cpu(cpu, &of(&needs.virt_type), &of(&needs.machine_type)) {
        Ok(()) => Ok(None),
        Err(error) if error.code == sys::VIR_ERR_CPU_INCOMPATIBLE => Ok(Some(error.message)),
        // Not for every architecture. Models were compared by name, and QEMU looks for itself.
        Err(CallError {
            code: sys::VIR_ERR_CONFIG_UNSUPPORTED | sys::VIR_ERR_NO_SUPPORT, ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

enum Refused {
    Missing(Missing),
    Failed(CallError),
}

/// Where the copy of a disk goes: a new file in the pool of the same name.
fn place(
    connection: &Connection,
    knowledge: &Knowledge,
    disk: &LocalDisk,
) -> Result<DiskPlace, Refused> {
    let LocalDisk { name, path, pool, bytes, .. } = disk;
    let lacks = |words: String| Refused::Missing(Missing::DiskRoom(words));
    let directory = knowledge.storage().directory_of(pool);
    let file = Path::new(path).file_name().and_then(|file| file.to_str());
    let (Some(directory), Some(file)) = (directory, file) else {
        return Err(lacks(format!("there is no place for a copy of disk `{name}` (`{path}`)")));
    };
    let (free, taken) = connection.pool_room(pool, file).map_err(Refused::Failed)?;
    let there = directory.join(file);
    if taken || there.symlink_metadata().is_ok() {
        return Err(lacks(format!(
            "`{}` exists on the host, where the copy of disk `{name}` would go",
            there.display()
        )));
    }
    if free < *bytes {
        let mib = |bytes: u64| bytes >> 20;
        return Err(lacks(format!(
            "storage pool `{pool}` has {} MiB free on the host, and disk `{name}` may take {} MiB",
            mib(free),
            mib(*bytes)
        )));
    }
    Ok(DiskPlace { name: name.clone(), path: there.display().to_string() })
}

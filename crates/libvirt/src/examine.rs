//! Whether a machine of another host can run here, as libvirt sees it now.
//!
//! What has a name is looked up anew. The CPU is compared by libvirt, feature by feature, as the
//! machine's own libvirt describes it while it runs: `virConnectCompareHypervisorCPU`. Where libvirt
//! compares none, the name of its model decides.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evenkeel_core::model::{
    DiskPlace, FileUse, HostFile, LocalDisk, MachineId, Missing, Requirements, Secret,
};
use evenkeel_core::port::{Examination, Failure, Unfit};
use virt_sys as sys;

use crate::Shared;
use crate::answer::lock;
use crate::basis::Basis;
use crate::failure::classify;
use crate::ffi::{CallError, Connection};
use crate::locks::Mounts;
use crate::promises::{Place, device_of, free_bytes, is_there};
use crate::surroundings::Surroundings;

/// Most files that are looked at for one machine.
const FILES_MAX: usize = 64;

/// Whether it can, and where the copies of its local disks would go.
pub(crate) fn examine(
    connection: &Connection,
    shared: &Shared,
    examination: &Examination,
) -> Result<Vec<DiskPlace>, Unfit> {
    let (needs, machine) = (&examination.needs, &examination.machine);
    let failed = |error: CallError| {
        let kind = classify(&error, connection, false);
        let words = format!("machine `{machine}` could not be examined: {error}");
        Unfit::NotTold(Failure::new(kind, words))
    };
    // Somebody may ask before the connection that keeps it has found it out.
    let known = lock(&shared.basis).clone();
    let gathered = || Basis::gather(connection, &shared.config).map(Arc::new);
    let basis = known.map_or_else(gathered, Ok).map_err(failed)?;
    let around = Surroundings::look(connection, &shared.config);
    // The next sample tells of it, if it has changed.
    shared.around_changed.store(true, Ordering::SeqCst);
    let provides = basis.provides(&around, &shared.config);
    provides.meets(needs)?;
    let refused = |refused: Refused| match refused {
        Refused::Missing(missing) => missing.into(),
        Refused::Failed(error) => failed(error),
    };
    compare(connection, needs, || provides.names_cpu(needs)).map_err(refused)?;
    if let Some(name) = &examination.name {
        name_is_free(connection, machine, name).map_err(refused)?;
    }
    needs.files.iter().flatten().take(FILES_MAX).try_for_each(|file| has(file, &Mounts::read()))?;
    needs.addresses.iter().flatten().try_for_each(|address| is_own(address))?;
    for secret in needs.secrets.iter().flatten() {
        knows(connection, secret).map_err(refused)?;
    }
    let places = places(connection, shared, &around, examination).map_err(refused)?;
    let found = places.iter().zip(needs.local_disks.iter().flatten());
    let told = found.map(|(place, disk)| DiskPlace {
        name: disk.name.clone(),
        path: place.path.display().to_string(),
    });
    let told = told.collect();
    shared.promises.make(machine, places);
    Ok(told)
}

enum Refused {
    Missing(Missing),
    Failed(CallError),
}

impl From<Missing> for Refused {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// Whether the host's CPU has what this one needs, in libvirt's words or, where it compares none, by name.
fn compare(
    connection: &Connection,
    needs: &Requirements,
    by_name: impl FnOnce() -> Result<(), Missing>,
) -> Result<(), Refused> {
    let Some(cpu) = &needs.cpu_definition else { return Ok(by_name()?) };
    // Another host's words, and libvirt reads them as root.
    let cpu = crate::carried::cpu(cpu)
        .map_err(|why| Missing::CpuFeatures(format!("its CPU cannot be read: {why}")))?;
    let of = |name: &Option<String>| name.clone().unwrap_or_default();
    match connection.compare_cpu(&cpu, &of(&needs.virt_type), &of(&needs.machine_type)) {
        Ok(()) => Ok(()),
        Err(error) if error.code == sys::VIR_ERR_CPU_INCOMPATIBLE => {
            Err(Missing::CpuFeatures(error.message).into())
        }
        // Not for every architecture.
        Err(CallError {
            code: sys::VIR_ERR_CONFIG_UNSUPPORTED | sys::VIR_ERR_NO_SUPPORT, ..
        }) => Ok(by_name()?),
        Err(error) => Err(error.into()),
    }
}

/// Whether no other machine has its name here.
fn name_is_free(connection: &Connection, machine: &MachineId, name: &str) -> Result<(), Refused> {
    match connection.named(name)? {
        Some(other) if other != machine.as_str() => {
            Err(Missing::NameTaken { name: name.to_owned(), other }.into())
        }
        _ => Ok(()),
    }
}

/// Whether a file is here, as far as this process may see that.
fn has(file: &HostFile, mounts: &Mounts) -> Result<(), Missing> {
    let HostFile { path, what, usage, bytes } = file;
    let at = Path::new(path);
    if !at.is_absolute() || mounts.is_private(at) {
        return Ok(());
    }
    let lacks = || Missing::File { path: path.clone(), what: what.clone() };
    match (at.metadata(), usage) {
        (Ok(found), FileUse::Made) => match bytes {
            Some(needs) if found.is_file() && found.len() != *needs => Err(Missing::FileSize {
                path: path.clone(),
                what: what.clone(),
                needs: *needs,
                has: found.len(),
            }),
            _ => Ok(()),
        },
        (Err(error), FileUse::Made) if error.kind() == ErrorKind::NotFound => {
            let directory = at.parent().map(Path::metadata);
            match directory {
                Some(Err(error)) if error.kind() == ErrorKind::NotFound => Err(lacks()),
                _ => Ok(()),
            }
        }
        (Err(error), FileUse::Disk) if error.kind() == ErrorKind::NotFound => {
            Err(Missing::DiskFile { path: path.clone(), disk: what.clone() })
        }
        (Err(error), FileUse::Read) if error.kind() == ErrorKind::NotFound => Err(lacks()),
        // What may not be seen is for libvirt to say.
        _ => Ok(()),
    }
}

/// Whether an address is one of this host: only at those can be listened.
fn is_own(address: &str) -> Result<(), Missing> {
    let Ok(parsed) = address.parse::<IpAddr>() else { return Ok(()) };
    match TcpListener::bind((parsed, 0)) {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Err(Missing::Address(address.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Whether libvirt knows a secret here.
fn knows(connection: &Connection, secret: &Secret) -> Result<(), Refused> {
    let known = match secret {
        Secret::Uuid(uuid) => connection.has_secret(uuid),
        Secret::Usage(kind, name) => {
            let kind = match kind.as_str() {
                "volume" => sys::VIR_SECRET_USAGE_TYPE_VOLUME,
                "ceph" => sys::VIR_SECRET_USAGE_TYPE_CEPH,
                "iscsi" => sys::VIR_SECRET_USAGE_TYPE_ISCSI,
                "tls" => sys::VIR_SECRET_USAGE_TYPE_TLS,
                "vtpm" => sys::VIR_SECRET_USAGE_TYPE_VTPM,
                // Of what is not known here libvirt says itself.
                _ => return Ok(()),
            };
            connection.has_secret_for(kind, name)
        }
    };
    match known {
        Ok(true) => Ok(()),
        Ok(false) => Err(Missing::Secret(secret.clone()).into()),
        // A daemon without the driver of secrets, or a connection that may not ask.
        Err(CallError { code: sys::VIR_ERR_NO_SUPPORT, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where the copies of its disks go: new files in the pools of the same names, for which all of them
/// together have room, beside what others were promised.
fn places(
    connection: &Connection,
    shared: &Shared,
    around: &Surroundings,
    examination: &Examination,
) -> Result<Vec<Place>, Refused> {
    let disks: Vec<&LocalDisk> = examination.needs.local_disks.iter().flatten().collect();
    if disks.is_empty() {
        return Ok(Vec::new());
    }
    shared.promises.clear_leftovers(connection);
    let mut places: Vec<Place> = Vec::new();
    let mut free: BTreeMap<Option<u64>, u64> = BTreeMap::new();
    for disk in disks {
        let LocalDisk { name, path, pool, bytes, .. } = disk;
        let lacks = |words: String| Refused::Missing(Missing::DiskRoom(words));
        let directory = around.storage.directory_of(pool);
        let file = Path::new(path).file_name().and_then(|file| file.to_str());
        let (Some(directory), Some(file)) = (directory, file) else {
            return Err(lacks(format!("there is no place for a copy of disk `{name}` (`{path}`)")));
        };
        let (available, taken) = connection.pool_room(pool, file)?;
        let there = directory.join(file);
        if taken || is_there(&there) || places.iter().any(|place| place.path == there) {
            return Err(lacks(format!(
                "`{}` exists on the host, where the copy of disk `{name}` would go",
                there.display()
            )));
        }
        let device = device_of(directory);
        let left = free.entry(device).or_insert_with(|| {
            // libvirt counts what file systems keep back for root, too.
            let available = available.min(free_bytes(directory));
            available.saturating_sub(shared.promises.outstanding(device, &examination.machine))
        });
        let Some(rest) = left.checked_sub(*bytes) else {
            let mib = |bytes: u64| bytes >> 20;
            let beside = if places.is_empty() { "" } else { " beside its other disks" };
            return Err(lacks(format!(
                "storage pool `{pool}` has {} MiB free on the host that nobody was promised, and disk \
                 `{name}` may take {} MiB{beside}",
                mib(*left),
                mib(*bytes)
            )));
        };
        *left = rest;
        places.push(Place { pool: pool.clone(), path: there, device, bytes: *bytes });
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_for_as_they_are_used() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name).display().to_string();
        std::fs::write(at("four"), "1234").unwrap();
        let file = |path: String, usage, bytes| HostFile { path, what: "x".into(), usage, bytes };
        let none = Mounts::default();
        for (file, fits) in [
            (file(at("four"), FileUse::Read, None), true),
            (file(at("none"), FileUse::Read, None), false),
            (file(at("none"), FileUse::Disk, None), false),
            (file(at("none"), FileUse::Made, Some(4)), true),
            (file(at("none/deep"), FileUse::Made, Some(4)), false),
            (file(at("four"), FileUse::Made, Some(4)), true),
            (file(at("four"), FileUse::Made, Some(5)), false),
            (file("relative".to_owned(), FileUse::Read, None), true),
        ] {
            assert_eq!(has(&file, &none).is_ok(), fits, "{file:?}");
        }
    }

    #[test]
    fn an_address_is_this_hosts_if_it_can_be_listened_at() {
        assert_eq!(is_own("127.0.0.1"), Ok(()));
        // Of the block for documentation: nobody has it.
        let missing = is_own("192.0.2.77").unwrap_err();
        assert!(missing.to_string().contains("192.0.2.77"), "{missing}");
        assert_eq!(is_own("a name"), Ok(()), "of names libvirt says itself");
    }
}

//! Room that other hosts were promised here for copies of disks, and what is left of copies that failed.
//!
//! A copy takes its room bit by bit, so that what is free says nothing of what is promised. And libvirt
//! leaves what it has written of a copy that fails. What was not here when its place was promised, and is
//! here when its machine is not, is such a rest: it is removed before the place is promised again.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use evenkeel_core::model::MachineId;
use virt_sys as sys;

use crate::answer::lock;
use crate::ffi::{CallError, Connection};

/// A promise of which nothing came is not counted any more.
const UNUSED_FOR: Duration = Duration::from_secs(900);
/// Most machines that promises are kept for.
const PROMISES_MAX: usize = 256;

/// A place for the copy of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The pool, and the file in it.
    pub(crate) pool: String,
    pub(crate) path: PathBuf,
    /// The file system that it is on.
    pub(crate) device: Option<u64>,
    /// What the copy may come to take.
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug)]
struct Promise {
    at: Instant,
    places: Vec<Place>,
}

/// What is promised.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<BTreeMap<MachineId, Promise>>);

/// The file system that a directory is on.
pub(crate) fn device_of(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().map(|found| found.dev())
}

/// What whoever is not root may still write there, in bytes; no limit where that is not told.
pub(crate) fn free_bytes(directory: &Path) -> u64 {
    let told = rustix::fs::statvfs(directory);
    told.map_or(u64::MAX, |told| told.f_bavail.saturating_mul(told.f_frsize))
}

/// What a file takes of its file system.
fn taken(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.blocks().saturating_mul(512))
}

impl Promises {
    /// Promises places for a machine, in place of what it was promised before.
    pub(crate) fn make(&self, machine: &MachineId, places: Vec<Place>) {
        let mut promises = lock(&self.0);
        promises.remove(machine);
        if !places.is_empty() && promises.len() < PROMISES_MAX {
            promises.insert(machine.clone(), Promise { at: Instant::now(), places });
        }
    }

    /// The machine is here, and its disks are its own.
    pub(crate) fn keep(&self, machine: &MachineId) {
        lock(&self.0).remove(machine);
    }

    /// What other machines have still to come of what they were promised on a file system, in bytes.
    pub(crate) fn outstanding(&self, device: Option<u64>, except: &MachineId) -> u64 {
        let promises = lock(&self.0);
        let others = promises.iter().filter(|(machine, _)| *machine != except);
        let fresh = others.filter(|(_, promise)| {
            promise.at.elapsed() < UNUSED_FOR || promise.places.iter().any(|p| p.path.exists())
        });
        let places = fresh.flat_map(|(_, promise)| &promise.places).filter(|p| p.device == device);
        places.map(|place| place.bytes.saturating_sub(taken(&place.path))).sum()
    }

    /// Removes what is left of copies whose machines are not here.
    pub(crate) fn clear_leftovers(&self, connection: &Connection) {
        let all: Vec<(MachineId, Vec<Place>)> = {
            let promises = lock(&self.0);
            promises.iter().map(|(id, promise)| (id.clone(), promise.places.clone())).collect()
        };
        for (machine, places) in all {
            // In this order: a copy that begins in between has its machine here first.
            let left: Vec<&Place> = places.iter().filter(|p| is_there(&p.path)).collect();
            match connection.domain(machine.as_str()) {
                Err(CallError { code: sys::VIR_ERR_NO_DOMAIN, .. }) => {}
                // It came, or still does.
                Ok(domain) => {
                    let arrived =
                        domain.state().is_ok_and(|state| state == crate::ffi::State::Running);
                    if arrived {
                        self.keep(&machine);
                    }
                    continue;
                }
                Err(_) => continue,
            }
            for place in &left {
                let Some(file) = place.path.file_name().and_then(|file| file.to_str()) else {
                    continue;
                };
                let path = place.path.display();
                match connection.delete_volume(&place.pool, file) {
                    Ok(()) => tracing::info!(%machine, %path, "the rest of a copy was removed"),
                    Err(error) => tracing::warn!(%machine, %path, "a copy was left: {error}"),
                }
            }
            if !left.is_empty() {
                lock(&self.0).remove(&machine);
            }
        }
    }
}

/// Whether there is a file, or anything else of that name.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_and_not_yet_taken_is_not_free() {
        let root = tempfile::tempdir().unwrap();
        let device = device_of(root.path());
        let place = |name: &str, bytes| Place {
            pool: "images".to_owned(),
            path: root.path().join(name),
            device,
            bytes,
        };
        let id = |name: &str| MachineId::new(name).unwrap();
        let promises = Promises::default();
        promises.make(&id("a"), vec![place("a1", 1 << 20), place("a2", 1 << 20)]);
        promises.make(&id("b"), vec![place("b", 1 << 20)]);
        assert_eq!(promises.outstanding(device, &id("a")), 1 << 20, "its own does not count");
        assert_eq!(promises.outstanding(device, &id("c")), 3 << 20);
        assert_eq!(promises.outstanding(None, &id("c")), 0, "another file system");
        // What is written is taken already.
        std::fs::write(root.path().join("b"), vec![7; 512 << 10]).unwrap();
        let left = promises.outstanding(device, &id("a"));
        assert!(left <= 512 << 10 && left > 400 << 10, "{left}");
        promises.keep(&id("a"));
        assert_eq!(promises.outstanding(device, &id("b")), 0);
    }
}

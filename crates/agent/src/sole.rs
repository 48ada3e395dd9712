//! One agent for one libvirt.
//!
//! Two agents with state directories of their own would each take the other's handoffs for somebody
//! else's doing. What they have in common is libvirt: each holds a lock on the directory of its sockets
//! as long as it runs, which takes no right but to read it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::AgentError;

/// The lock, and the directory that it is on.
#[derive(Debug)]
pub(crate) struct Sole {
    dir: Option<PathBuf>,
    held: Option<File>,
}

impl Sole {
    /// Takes the lock if libvirt's directory is there. One that is not there yet has no libvirt in it:
    /// [`Self::ensure`] takes the lock once libvirt answers.
    ///
    /// # Errors
    /// When another agent holds it, or it cannot be had.
    pub(crate) fn of(dir: Option<PathBuf>) -> Result<Self, AgentError> {
        let mut sole = Self { dir, held: None };
        sole.ensure()?;
        Ok(sole)
    }

    /// Takes the lock if it is not held yet, or is on a directory that has been replaced.
    ///
    /// # Errors
    /// When another agent holds it, or it cannot be had.
    pub(crate) fn ensure(&mut self) -> Result<(), AgentError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        if self.held.as_ref().is_some_and(|held| is_at(held, dir)) {
            return Ok(());
        }
        let failed = |source| AgentError::Libvirt { path: dir.clone(), source };
        let file = match File::open(dir) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.held = Some(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(AgentError::LibvirtInUse(dir.clone()));
            }
            Err(error) => return Err(failed(error.into())),
        }
        Ok(())
    }
}

/// Whether a directory that is open is the one at this path.
fn is_at(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (Ok(open), Ok(there)) = (open.metadata(), path.metadata()) else { return false };
    id(open) == id(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_one_libvirt_is_refused_and_comes_once_the_first_has_ended() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("libvirt");
        // Its libvirt is not there yet.
        let mut first = Sole::of(Some(dir.clone())).unwrap();
        let mut second = Sole::of(Some(dir.clone())).unwrap();
        std::fs::create_dir(&dir).unwrap();
        first.ensure().unwrap();
        let refused = second.ensure().unwrap_err();
        assert!(matches!(refused, AgentError::LibvirtInUse(_)));
        assert!(refused.to_string().contains(&*dir.to_string_lossy()));
        assert!(Sole::of(Some(dir.clone())).is_err());
        first.ensure().unwrap();
        drop(first);
        second.ensure().unwrap();
        // Made anew, it is another directory, and the one that is held means nothing.
        std::fs::remove_dir(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        second.ensure().unwrap();
        assert!(Sole::of(Some(dir)).is_err());
    }
}

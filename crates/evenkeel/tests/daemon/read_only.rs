//! State of an agent that cannot be written.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::Place;

/// What runs the program that its arguments name with this path mounted read-only for it; none where
/// nobody may mount.
pub fn mounted(path: &Path) -> Option<Command> {
    const MOUNT: &str = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let command = |become_root: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(become_root).args(["--mount", "--propagation", "private", "--"]);
        command.args(["sh", "-c", MOUNT]).arg(path);
        command
    };
    let works = |become_root: &&[&str]| {
        let tried = command(become_root).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let ways: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    ways.iter().find(|way| works(way)).map(|way| command(way))
}

/// Holds the store of an agent read-only, also for one that has it open, until it is dropped.
///
/// A file system that something has open to write cannot be remounted read-only, and one that went so
/// by itself does not come back. So its files are made immutable: every write to them fails. All but
/// SQLite's index of the log, which is mapped and holds nothing durable.
pub struct ReadOnlyStore(Vec<PathBuf>);

impl ReadOnlyStore {
    /// None where that cannot be had: only root may, and not on every file system.
    pub fn of(place: &Place) -> Option<Self> {
        let files =
            ["state.sqlite", "state.sqlite-wal"].map(|file| place.dir.join("state").join(file));
        let store = Self(files.to_vec());
        store.mark("+i").then_some(store)
    }

    fn mark(&self, mark: &str) -> bool {
        let ended = Command::new("chattr").arg(mark).args(&self.0).output();
        ended.is_ok_and(|output| output.status.success())
    }
}

impl Drop for ReadOnlyStore {
    fn drop(&mut self) {
        assert!(self.mark("-i") || thread::panicking(), "{:?} stay immutable", self.0);
    }
}

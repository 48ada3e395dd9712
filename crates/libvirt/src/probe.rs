//! Looks at what may never answer, such as a directory on a server that is gone: on threads of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a look at a directory may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(1);

/// Looks that have not come back: at most one for each path.
static PENDING: Mutex<BTreeMap<PathBuf, Receiver<Found>>> = Mutex::new(BTreeMap::new());

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Something.
    Something,
    /// A directory with nothing in it.
    Empty,
    /// Nothing.
    Nothing,
    /// It may not be looked at.
    Unknown,
    /// It does not answer.
    Silent,
}

/// What is at a path, if that is told in time.
pub(crate) fn look(path: &Path) -> Found {
    look_by(path, LOOK_TIME_MAX, look_now)
}

fn look_by(path: &Path, limit: Duration, look: fn(&Path) -> Found) -> Found {
    let pending = || PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let earlier = pending().remove(path);
    let (answer, waits) = match earlier {
        // It may have come back since.
        Some(answer) => (answer, Duration::ZERO),
        None => {
            let (sender, answer) = mpsc::sync_channel(1);
            let of = path.to_owned();
            // Nobody may wait any more.
            let run = move || sender.send(look(&of)).unwrap_or(());
            if std::thread::Builder::new().name("probe".to_owned()).spawn(run).is_err() {
                return Found::Unknown;
            }
            (answer, limit)
        }
    };
    match answer.recv_timeout(waits) {
        Ok(found) => found,
        Err(mpsc::RecvTimeoutError::Disconnected) => Found::Unknown,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            pending().insert(path.to_owned(), answer);
            Found::Silent
        }
    }
}

fn look_now(path: &Path) -> Found {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match path.read_dir() {
        Ok(mut entries) => {
            if entries.next().is_some() {
                Found::Something
            } else {
                Found::Empty
            }
        }
        Err(error) if error.kind() == NotFound => Found::Nothing,
        Err(error) if error.kind() == NotADirectory => Found::Something,
        Err(_) => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_told_apart_by_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(look(root.path()), Found::Empty);
        std::fs::write(root.path().join("a"), "").unwrap();
        assert_eq!(look(root.path()), Found::Something);
        assert_eq!(look(&root.path().join("a")), Found::Something);
        assert_eq!(look(&root.path().join("b")), Found::Nothing);
    }

    #[test]
    fn what_does_not_answer_holds_one_thread_and_nobody_else_up() {
        static GO: Mutex<()> = Mutex::new(());
        let held = GO.lock().unwrap();
        let path = Path::new("/a/server/that/is/gone");
        let hang = |_: &Path| {
            drop(GO.lock());
            Found::Something
        };
        for _ in 0..100 {
            assert_eq!(look_by(path, Duration::from_millis(1), hang), Found::Silent);
        }
        drop(held);
        // The one look that was begun comes back, and the next one finds it.
        while look_by(path, Duration::from_secs(20), hang) == Found::Silent {
            std::thread::yield_now();
        }
    }
}

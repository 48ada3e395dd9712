//! Takes back what was done, unless all of it has succeeded.

use std::fs;
use std::path::{Path, PathBuf};

/// What was made so far. Dropping it removes that again, the newest first.
#[derive(Debug, Default)]
pub struct Undo {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    File(PathBuf),
    /// With what is in it, since it was not there before.
    Dir(PathBuf),
    Act(fn()),
    Restore(PathBuf, Vec<u8>),
}

impl Undo {
    /// Nothing has been done yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file is going to be made.
    pub fn file(&mut self, path: &Path) {
        if !path.exists() {
            self.steps.push(Step::File(path.to_owned()));
        }
    }

    /// A directory is going to be made, and those above it that are missing.
    pub fn dir(&mut self, path: &Path) {
        let missing = path.ancestors().take_while(|dir| !dir.exists());
        if let Some(first) = missing.last().filter(|dir| !dir.as_os_str().is_empty()) {
            self.steps.push(Step::Dir(first.to_owned()));
        }
    }

    /// A directory was made, with what is in it.
    pub fn dir_with_contents(&mut self, path: &Path) {
        self.steps.push(Step::Dir(path.to_owned()));
    }

    /// A file is going to be changed that is there already.
    pub fn restore(&mut self, path: &Path) {
        if let Ok(before) = fs::read(path) {
            self.steps.push(Step::Restore(path.to_owned(), before));
        }
    }

    /// Something is going to be done that this takes back.
    pub fn act(&mut self, back: fn()) {
        self.steps.push(Step::Act(back));
    }

    /// All of it has succeeded: it stays.
    pub fn keep(mut self) {
        self.steps.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for step in self.steps.drain(..).rev() {
            // What cannot be removed was not made, or is nothing that can be mended here.
            match step {
                Step::File(path) => drop(fs::remove_file(path)),
                Step::Dir(path) => drop(fs::remove_dir_all(path)),
                Step::Act(back) => back(),
                Step::Restore(path, before) => drop(fs::write(path, before)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_before_goes_again_unless_all_has_succeeded() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let make = |keep: bool| {
            let mut undo = Undo::new();
            undo.dir(&at("a/b/c"));
            fs::create_dir_all(at("a/b/c")).unwrap();
            undo.dir(&at("there"));
            undo.restore(&at("there/old"));
            for file in ["a/b/new", "there/new", "there/old"] {
                undo.file(&at(file));
                fs::write(at(file), file).unwrap();
            }
            if keep {
                undo.keep();
            }
        };
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/old"), "before").unwrap();
        make(false);
        assert!(!at("a").exists() && !at("there/new").exists());
        assert_eq!(fs::read_to_string(at("there/old")).unwrap(), "before");
        make(true);
        assert!(at("a/b/c").exists() && at("a/b/new").exists() && at("there/new").exists());
    }
}

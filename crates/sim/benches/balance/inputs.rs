//! What is balanced: snapshots that are shipped, made up, or given.

use std::path::{Path, PathBuf};

use evenkeel_sim::bounds::Bounds;
use evenkeel_sim::generate::{Recipe, generate};
use evenkeel_sim::snapshot::Snapshot;

use crate::Failure;

/// A cluster and what can be reached on it.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) snapshot: Snapshot,
    pub(crate) bounds: Bounds,
}

impl Input {
    pub(crate) fn new(name: &str, snapshot: Snapshot) -> Self {
        let bounds = Bounds::of(&snapshot);
        Self { name: name.to_owned(), snapshot, bounds }
    }

    pub(crate) fn hosts(&self) -> usize {
        self.snapshot.hosts.len()
    }

    pub(crate) fn machines(&self) -> usize {
        self.snapshot.vms.len()
    }
}

/// Paths count from the top of the repository, wherever cargo starts this.
const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SHIPPED: &str = "data";
const GENERATED: [&str; 4] =
    ["uniform-100x1000", "mixed-100x1000", "uniform-1000x10000", "uniform-10000x100000"];

/// The inputs named on the command line, or the usual ones; those of `SNAPSHOTS` besides, a file or
/// a directory of files.
pub(crate) fn all(named: &[String]) -> Result<Vec<Input>, Failure> {
    // `cargo bench` adds a flag of its own.
    let named: Vec<_> = named.iter().filter(|name| !name.starts_with("--")).collect();
    let mut inputs = Vec::new();
    if named.is_empty() {
        inputs.extend(files(&Path::new(TOP).join(SHIPPED))?);
        for name in GENERATED {
            inputs.push(make(name)?);
        }
    }
    for name in named {
        match Path::new(TOP).join(name) {
            path if path.exists() => inputs.extend(files(&path)?),
            _ => inputs.push(make(name)?),
        }
    }
    if let Some(path) = std::env::var_os("SNAPSHOTS").filter(|path| !path.is_empty()) {
        inputs.extend(files(&Path::new(TOP).join(path))?);
    }
    Ok(inputs)
}

/// `uniform-20x200` or `mixed-20x200`, of any size, from seed 1.
pub(crate) fn make(name: &str) -> Result<Input, Failure> {
    let parse = || {
        let (kind, size) = name.split_once('-')?;
        let (hosts, machines) = size.split_once('x')?;
        let (hosts, machines) = (hosts.parse().ok()?, machines.parse().ok()?);
        match kind {
            "uniform" => Some(Recipe::uniform(hosts, machines)),
            "mixed" => Some(Recipe::mixed(hosts, machines)),
            _ => None,
        }
    };
    let recipe = parse()
        .filter(|recipe| recipe.hosts > 0)
        .ok_or_else(|| format!("`{name}` is neither a file nor such as `uniform-100x1000`"))?;
    Ok(Input::new(&format!("{name} (generated)"), generate(&recipe, 1)?))
}

fn files(path: &Path) -> Result<Vec<Input>, Failure> {
    let mut paths: Vec<PathBuf> = if path.is_dir() {
        std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_, std::io::Error>>()?
    } else {
        vec![path.to_owned()]
    };
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    let read = |path: &PathBuf| -> Result<Input, Failure> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
        let snapshot = Snapshot::parse(&text).map_err(|e| format!("`{}`: {e}", path.display()))?;
        // Files of the same name are told apart by where they are.
        let dir = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        Ok(Input::new(&format!("{dir}/{name}"), snapshot))
    };
    paths.iter().map(read).collect()
}

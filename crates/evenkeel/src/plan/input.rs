//! Reading a snapshot that somebody may have written by hand.

use std::io::Read;
use std::path::Path;

use evenkeel_sim::snapshot::{FORMAT, Snapshot, SnapshotError};

use crate::output::Failure;

/// Largest snapshot taken, in bytes: hundreds of thousands of machines.
const BYTES_MAX: u64 = 1 << 30;

/// Reads and checks the snapshot in `file`; `-` is standard input.
pub(super) fn read(file: &Path) -> Result<Snapshot, Failure> {
    let name = if file.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        format!("`{}`", file.display())
    };
    let text = text(file).map_err(|e| format!("cannot read the snapshot {name}: {e}"))?;
    let (snapshot, unread) =
        parse(&text).map_err(|why| format!("the snapshot {name} cannot be used: {why}"))?;
    if let Some(path) = unread {
        crate::output::tell!("warning: in the snapshot {name}: {}", unread_field(&path));
    }
    Ok(snapshot)
}

fn text(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(BYTES_MAX).read_to_string(&mut text)?
    } else {
        std::fs::File::open(file)?.take(BYTES_MAX).read_to_string(&mut text)?
    };
    if read as u64 == BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 GiB"));
    }
    Ok(text)
}

/// The snapshot, and the first field of it that was not read: a later version of the format may
/// have added it, or it is mistyped.
fn parse(text: &str) -> Result<(Snapshot, Option<String>), String> {
    let mut unknown = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let snapshot: Snapshot = serde_ignored::deserialize(&mut json, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    })
    .and_then(|snapshot| json.end().map(|()| snapshot))
    .map_err(|error| form(text, &error))?;
    snapshot.check().map_err(|error| explain(&error))?;
    Ok((snapshot, unknown))
}

/// What is wrong with the form, and what is wanted.
fn form(text: &str, error: &serde_json::Error) -> String {
    let hint = if text.trim().is_empty() {
        "it is empty".to_owned()
    } else if error.is_data() {
        format!("`{FORMAT}` is described in docs/planning.md")
    } else {
        "JSON is wanted, as `evenkeel snapshot` writes it; figures are plain decimal numbers"
            .to_owned()
    };
    format!("{error}\nhint: {hint}")
}

fn explain(error: &SnapshotError) -> String {
    let hint = match error {
        SnapshotError::Format(_) => "write it again with `evenkeel snapshot`",
        SnapshotError::NoHosts => "`hosts` needs at least one host",
        SnapshotError::Twice { .. } => "ids are unique: name each one once",
        SnapshotError::NoSuchHost { .. } => "list that host under `hosts`, or correct `host`",
        SnapshotError::Figure { .. } => {
            "figures are finite and not below 0; bytes, bytes per second, cores"
        }
        _ => return error.to_string(),
    };
    format!("{error}\nhint: {hint}")
}

/// Amounts of the resources.
const AMOUNTS: &[&str] = &["cpu_cores", "memory_bytes", "io_bytes_per_s"];

/// Fields by where they are.
const FIELDS: [(&str, &[&str]); 3] = [
    (
        "hosts.",
        &[
            "id",
            "capacity",
            "cpu_speed",
            "weights",
            "reserved_memory_bytes",
            "state",
            "labels",
            "background",
        ],
    ),
    (
        "vms.",
        &[
            "id",
            "name",
            "host",
            "vcpus",
            "memory_bytes",
            "usage",
            "target_load",
            "dirty_bytes_per_s",
            "movable",
            "rules",
        ],
    ),
    ("", &["format", "taken_at", "hosts", "vms"]),
];

fn unread_field(path: &str) -> String {
    let amounts = [".usage.", ".capacity.", ".background."].iter().any(|part| path.contains(part));
    let known = match FIELDS.iter().find(|(place, _)| path.starts_with(place)) {
        _ if amounts => AMOUNTS,
        Some((_, fields)) => fields,
        None => &[],
    };
    format!("the field `{path}` is not read: this version knows {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_sim::generate::{Recipe, generate};

    /// The list above is for people; this keeps it to what is read.
    #[test]
    fn the_fields_that_a_hint_names_are_those_of_the_format() {
        let mut snapshot = generate(&Recipe::uniform(1, 1), 1).expect("ids");
        snapshot.taken_at = Some(String::new());
        snapshot.hosts[0].background = Some(snapshot.hosts[0].capacity);
        let json: serde_json::Value =
            serde_json::from_str(&snapshot.to_json().expect("JSON")).expect("JSON");
        for (place, fields) in FIELDS {
            let object = match place {
                "" => &json,
                place => &json[place.trim_end_matches('.')][0],
            };
            let mut written: Vec<_> =
                object.as_object().expect("an object").keys().map(String::as_str).collect();
            let mut named = fields.to_vec();
            written.sort_unstable();
            named.sort_unstable();
            assert_eq!(written, named);
        }
    }
}

//! How people configure balancing: the keys that agents and simulations share, and what to say of a
//! mistake.
//!
//! Files are TOML. An unknown key is an error that names the nearest known one; a value that makes no
//! sense is named with what it must be.

mod balance;
mod hours;
mod operation;
mod size;
mod span;

use std::fmt;

use serde::de::DeserializeOwned;

pub use balance::{BalanceConfig, CeilingsConfig, PolicyConfig, SmoothingConfig};
pub use hours::{Blackout, Hours, Weekly};
pub use operation::OperationConfig;
pub use size::{address, addresses, size, some_address, some_size, to_size};
pub use span::{SPAN_MAX, SPAN_MIN, duration, duration_or_none};

/// A value that is of the right kind and makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}: {want}")]
pub struct ValueError {
    /// The key, with its table.
    pub key: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub want: &'static str,
}

/// Refuses `value` of `key` unless it `holds` what is wanted.
///
/// # Errors
/// When it does not hold.
pub fn check(
    holds: bool,
    key: &'static str,
    value: &impl fmt::Display,
    want: &'static str,
) -> Result<(), ValueError> {
    if holds { Ok(()) } else { Err(ValueError { key, value: shortened(value.to_string()), want }) }
}

/// A number may have 300 digits, and a text be longer still.
fn shortened(text: String) -> String {
    const CHARS_MAX: usize = 60;
    if text.chars().count() <= CHARS_MAX {
        return text;
    }
    text.chars().take(CHARS_MAX).chain(['…']).collect()
}

/// Reads TOML.
///
/// # Errors
/// Where it cannot be read and why, in words, with the nearest known key if one is not known.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|e| {
        let said = match e.span().and_then(|span| key_at(text, span.start)) {
            // In one form of sentence, with where it stands behind it.
            Some(key) if e.message().starts_with("write ") => {
                format!("`{key}`: {}\n{e}", e.message())
            }
            _ => e.to_string(),
        };
        let hint = nearest_key(e.message()).map(|key| format!("\nhint: did you mean `{key}`?"));
        said.trim_end().to_owned() + hint.as_deref().unwrap_or_default()
    })
}

/// The key whose value stands at an offset of the text, with its table.
fn key_at(text: &str, at: usize) -> Option<String> {
    let before = text.get(..at)?;
    let line = before.rsplit('\n').next()?;
    let key = line.split_once('=').map(|(key, _)| key.trim())?;
    let table = before.lines().rev().find_map(|line| {
        line.trim().strip_prefix('[')?.split_once(']').map(|(table, _)| table.trim().to_owned())
    });
    Some(table.map_or_else(|| key.to_owned(), |table| format!("{table}.{key}")))
}

/// The known key nearest to the unknown one that a message speaks of: serde puts the unknown one
/// first between backticks, and all the known ones behind it.
fn nearest_key(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next())??;
    nearest(unknown, quoted).map(str::to_owned)
}

/// Which of the `known` names somebody meant by `unknown`, if one is near enough.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name| (strsim::damerau_levenshtein(unknown, name), name);
    let near = known.into_iter().map(distance).min()?;
    (near.0 <= unknown.len().div_ceil(2)).then_some(near.1)
}

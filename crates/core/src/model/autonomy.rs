//! Modes: how much is done without an operator.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How much a host does by itself: its mode.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Encode,
    Decode,
    Serialize,
    Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Autonomy {
    /// It decides and says what it would do, and does nothing.
    #[n(0)]
    Observe,
    /// It decides, and an operator approves.
    #[n(1)]
    Approve,
    /// It decides and does.
    #[default]
    #[n(2)]
    Automatic,
}

impl Autonomy {
    /// All of them, from the least to the most.
    pub const ALL: [Self; 3] = [Self::Observe, Self::Approve, Self::Automatic];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Approve => "approve",
            Self::Automatic => "automatic",
        }
    }
}

impl fmt::Display for Autonomy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode: write `observe`, `approve` or `automatic`")]
pub struct NoMode(String);

impl FromStr for Autonomy {
    type Err = NoMode;

    fn from_str(text: &str) -> Result<Self, NoMode> {
        let is = |mode: &Self| mode.as_str() == text;
        Self::ALL.into_iter().find(is).ok_or_else(|| NoMode(text.chars().take(40).collect()))
    }
}

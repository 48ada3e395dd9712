//! Secrets that a machine's disks are opened with.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A secret, as its hypervisor knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// By its UUID.
    #[n(0)]
    Uuid(#[n(0)] String),
    /// By what it is for: a type such as `ceph`, and a name.
    #[n(1)]
    Usage(#[n(0)] String, #[n(1)] String),
}

impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "with the UUID `{uuid}`"),
            Self::Usage(kind, name) => write!(f, "`{name}` for `{kind}`"),
        }
    }
}

//! The two sides of an exchange.

use serde::{Deserialize, Serialize};

/// What a host is in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The more loaded one, which gives.
    Donor,
    /// The other, which takes.
    Receiver,
}

//! The two sides of an exchange.

use serde::{Deserialize, Serialize};

/// What a host is in an exchange and in the handoff that follows. Records call the two as they were
/// called at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The more loaded one, which gives.
    #[serde(rename = "donor")]
    Source,
    /// The other, which takes.
    #[serde(rename = "receiver")]
    Target,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_written_as_ever() {
        for (role, word) in [(Role::Source, "\"donor\""), (Role::Target, "\"receiver\"")] {
            assert_eq!(serde_json::to_string(&role).unwrap(), word);
            assert_eq!(serde_json::from_str::<Role>(word).unwrap(), role);
        }
    }
}

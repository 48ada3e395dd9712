//! Names that cannot be swapped by accident.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Serialize};

use super::time::Time;

/// Longest host or machine id in bytes: long enough for a UUID and for a DNS label.
pub const ID_BYTES_MAX: usize = 63;

/// Why a text is no host or machine id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty.
    #[error("an id must not be empty")]
    Empty,
    /// Longer than [`ID_BYTES_MAX`].
    #[error("the id `{0}…` is longer than {ID_BYTES_MAX} characters")]
    Long(String),
    /// Holds a character that ids do not have.
    #[error(
        "the id `{id}` holds `{found}`: ids are letters, digits, `-`, `_` and `.`, the first a letter or digit"
    )]
    Character {
        /// The text refused.
        id: String,
        /// Its first offending character.
        found: char,
    },
}

fn checked(text: &str) -> Result<Arc<str>, IdError> {
    let Some(first) = text.chars().next() else {
        return Err(IdError::Empty);
    };
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::Long(text.chars().take(16).collect()));
    }
    let bad = if first.is_ascii_alphanumeric() {
        text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
    } else {
        Some(first)
    };
    match bad {
        Some(found) => Err(IdError::Character { id: text.to_owned(), found }),
        None => Ok(Arc::from(text)),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id.
            ///
            /// # Errors
            /// When the text is empty, too long or holds other characters than ids have.
            pub fn new(text: &str) -> Result<Self, IdError> {
                checked(text).map(Self)
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::new(d.str()?)
                    .map_err(|_| minicbor::decode::Error::message("not an id").at(at))
            }
        }
    };
}

name_type! {
    /// A host of the cluster: the name in its certificate.
    HostId
}

name_type! {
    /// A virtual machine: its libvirt UUID, or whatever a snapshot calls it.
    MachineId
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// As text, and in JSON, it is 16 hexadecimal digits: JSON's own numbers end at 53 bits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[derive(Serialize, Deserialize)]
        #[cbor(transparent)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(#[n(0)] pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = std::num::ParseIntError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                u64::from_str_radix(&text, 16).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

number_type! {
    /// One conversation between two hosts. Drawn at random by the host that opens it.
    ExchangeId
}

number_type! {
    /// One claim to a seat. Drawn at random by the host that claims.
    ClaimId
}

number_type! {
    /// One handoff of one machine from one host to another. Drawn at random by the source.
    HandoffId
}

number_type! {
    /// A move that an operator has ordered, or is asked to approve. Drawn at random.
    MoveId
}

/// Epochs that a machine may be ahead of the seconds since the beginning of time, which is not long
/// ago in a simulation.
const EPOCH_SLACK: u64 = 10_000;

/// How often a machine's schedule entry has changed hosts. Grows by one with every move, travels
/// with the machine, and tells a stale copy from the live one.
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
#[cbor(transparent)]
#[serde(transparent)]
pub struct Epoch(#[n(0)] pub u64);

impl Epoch {
    /// The epoch after this one; saturates, which no machine lives to see.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether a machine can have come to it by `now`: no machine is moved more than once a second. One
    /// that were told to be far ahead would end at the last epoch there is, and its stale copies could
    /// be told from it no longer.
    #[must_use]
    pub const fn can_be(self, now: Time) -> bool {
        self.0 <= now.unix_ms() / 1000 + EPOCH_SLACK
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The source's number for a handoff: by it a source knows whether its store has lost records that
/// somebody asks about. A life begins each time that a store is opened; its handoffs are numbered
/// from 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct Ticket {
    /// Drawn at random when the source opened its store.
    #[n(0)]
    pub life: u64,
    /// Counts the handoffs that were offered in that life.
    #[n(1)]
    pub number: u64,
}

/// A handoff as a host tells it from all others. Its source draws the id, and every member can read
/// ids: one counts only together with the other host of the handoff.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandoffKey {
    /// The id, the same on both hosts.
    pub id: HandoffId,
    /// The other host.
    pub peer: HostId,
}

impl HandoffKey {
    /// The handoff of this id with this host.
    #[must_use]
    pub fn new(id: HandoffId, peer: &HostId) -> Self {
        Self { id, peer: peer.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_be_mistaken_for_something_else() {
        for bad in ["", "a b", "../etc", "-rf", "ä", "a/b", "a\n", &"x".repeat(64)] {
            assert!(HostId::new(bad).is_err(), "`{bad}` was taken");
        }
        for good in ["n000", "kvm-1.example.com", "11111111-2222-4333-8444-000000000001"] {
            assert_eq!(HostId::new(good).unwrap().as_str(), good);
        }
    }
}

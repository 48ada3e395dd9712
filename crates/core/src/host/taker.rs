//! Another host that could take a machine or give one, by what it has said of itself.

use super::ruling::Toward;
use crate::ceiling::Gauge;
use crate::control::Authority;
use crate::message::{Report, Room};
use crate::model::HostId;

/// What counts of a host that offers something, for one that could take it.
#[derive(Clone, Copy, Debug)]
pub struct Giver<'a> {
    /// How full it is, where it has said so.
    pub gauge: Option<&'a Gauge>,
    /// Whether soft rules yield to what makes it give.
    pub pressing: bool,
    /// On whose word it gives.
    pub authority: Authority,
}

/// A host that could take something.
#[derive(Clone, Debug, PartialEq)]
pub struct Taker {
    /// Who.
    pub peer: HostId,
    /// Its load and state.
    pub report: Report,
    /// What it could take.
    pub room: Room,
}

impl Taker {
    /// It, as one whom a machine may be given to on such a word.
    #[must_use]
    pub const fn toward(&self, authority: Authority) -> Toward<'_> {
        Toward {
            peer: &self.peer,
            protocol: self.report.protocol,
            labels: self.room.labels.as_ref(),
            mending: false,
            authority,
        }
    }
}

//! What a member is called, and which of two claims to the same name counts.

use std::fmt;
use std::net::SocketAddr;

use evenkeel_core::model::HostId;

/// A host as a member: its name, where its agent listens, and which life of that agent it is.
///
/// There is one member per host id. Of two claims the one with the higher generation counts, so a
/// restarted agent replaces the one before it, also at another address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The host, as its certificate names it.
    pub host: HostId,
    /// Where its agent is reached. Neither port 0 nor an unspecified address.
    pub addr: SocketAddr,
    /// Grows with every start of the agent and with every time that it was taken for dead. The
    /// milliseconds of the start since the Unix epoch will do.
    pub generation: u64,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.host, self.addr, self.generation)
    }
}

impl foca::Identity for Member {
    type Addr = HostId;

    /// The next generation: a host that was wrongly declared dead comes back at once.
    fn renew(&self) -> Option<Self> {
        let generation = self.generation.checked_add(1)?;
        Some(Self { generation, ..self.clone() })
    }

    fn addr(&self) -> HostId {
        self.host.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        // The address only breaks a tie, so that everybody breaks it alike.
        (self.generation, self.addr) > (adversary.generation, adversary.addr)
    }
}

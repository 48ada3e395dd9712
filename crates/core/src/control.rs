//! What operators say about how much hosts do by themselves: modes, pauses, hours.
//!
//! | who says it | what | holds for |
//! | --- | --- | --- |
//! | configuration | a mode | what the host gives and takes by its own decision |
//! | a machine's entry | a mode | that machine |
//! | configuration | hours | the host |
//! | `evenkeel pause` | a pause | all hosts |
//!
//! None of this stops what an operator orders, such as a drain or a directed move.

use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

pub use crate::model::{Autonomy, NoMode};
use crate::model::{HostId, HostState, Role, Time};
use crate::reason::Reason;

/// On whose word a machine is to move, from the least to the most.
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
pub enum Authority {
    /// A balancer's that only observes: nothing will move.
    #[n(0)]
    Observe,
    /// A balancer's that asks an operator first: nothing will move yet.
    #[n(1)]
    Approve,
    /// A balancer's own.
    #[default]
    #[n(2)]
    Automatic,
    /// An operator's who has approved of it, or is emptying the host. Loads are judged as ever.
    #[n(3)]
    Ordered,
    /// An operator's who has said which machine: loads do not matter.
    #[n(4)]
    Told,
}

impl Authority {
    /// Whether an operator stands behind it, so that neither modes nor pauses, hours and limits per
    /// hour hold it up.
    #[must_use]
    pub fn is_operators(self) -> bool {
        self >= Self::Ordered
    }

    /// What is left of it where a host or machine has this mode.
    #[must_use]
    pub fn within(self, mode: Autonomy) -> Self {
        if self.is_operators() { self } else { self.min(mode.into()) }
    }

    /// Why nothing moves on this authority by itself, if so.
    #[must_use]
    pub const fn withheld(self) -> Option<Reason> {
        match self {
            Self::Observe => Some(Reason::Observing),
            Self::Approve => Some(Reason::AwaitsApproval),
            Self::Automatic | Self::Ordered | Self::Told => None,
        }
    }
}

impl From<Autonomy> for Authority {
    fn from(mode: Autonomy) -> Self {
        match mode {
            Autonomy::Observe => Self::Observe,
            Autonomy::Approve => Self::Approve,
            Autonomy::Automatic => Self::Automatic,
        }
    }
}

/// An operator's wish that nothing be moved by any balancer's decision for a while.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Pause {
    /// When it ends by itself.
    #[n(0)]
    pub until: Time,
    /// Who wants it, as they call themselves.
    #[n(1)]
    pub by: String,
    /// Why; empty if that was not said.
    #[n(2)]
    pub reason: String,
}

/// Whether the cluster is paused: a register that every host keeps a copy of. The last write wins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct PauseRegister {
    /// When it was written, by the clock of the host it was written on, and in any case later than
    /// what that host knew before.
    #[n(0)]
    pub at: Time,
    /// The host that it was written on; of two writes at the same time one must win everywhere.
    #[n(1)]
    pub on: HostId,
    /// The pause, or none if the last write ended one.
    #[n(2)]
    pub pause: Option<Pause>,
}

/// Longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest name and longest reason of who pauses, in bytes.
pub const PAUSE_WORDS_BYTES_MAX: usize = 512;

impl PauseRegister {
    /// Whether a host can have written this by `now`. What was written later than can be would win
    /// over whatever operators say until then, and what ends later would hold for ever.
    #[must_use]
    pub fn can_be(&self, now: Time) -> bool {
        let until = self.pause.as_ref().map_or(self.at, |pause| pause.until);
        self.at.can_be(now) && until.can_be(now + PAUSE_MAX)
    }

    /// Whether this wins over another.
    #[must_use]
    pub fn is_newer_than(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| (self.at, &self.on) > (other.at, &other.on))
    }
}

/// What operators have said to a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Its mode.
    pub mode: Autonomy,
    /// Whether this is outside the hours in which it may move machines.
    pub closed: bool,
    /// What it knows of pauses.
    pub pause: Option<PauseRegister>,
}

impl Control {
    /// The pause that holds at `now`, if one does.
    #[must_use]
    pub fn pause_at(&self, now: Time) -> Option<&Pause> {
        self.pause.as_ref()?.pause.as_ref().filter(|pause| now < pause.until)
    }

    /// On whose word this host gives machines.
    #[must_use]
    pub fn authority(&self, state: HostState) -> Authority {
        match state {
            HostState::Draining => Authority::Ordered,
            HostState::Active | HostState::Cordoned => self.mode.into(),
        }
    }

    /// Whether this host takes part in moves on such a word now.
    ///
    /// # Errors
    /// Why not.
    pub fn permits(&self, role: Role, authority: Authority, now: Time) -> Result<(), Reason> {
        if authority.is_operators() {
            return Ok(());
        }
        if self.pause_at(now).is_some() {
            return Err(Reason::Paused);
        }
        if self.closed {
            return Err(Reason::OutsideHours);
        }
        // Two that observe tell each other what they would do.
        let observes = role == Role::Target && self.mode == Autonomy::Observe;
        if observes && authority > Authority::Observe {
            return Err(Reason::Observing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_unix_ms(seconds * 1000)
    }

    fn register(seconds: u64, on: &str, until: Option<u64>) -> PauseRegister {
        let pause = until.map(|until| Pause {
            until: at(until),
            by: "eve".to_owned(),
            reason: String::new(),
        });
        PauseRegister { at: at(seconds), on: HostId::new(on).unwrap(), pause }
    }

    #[test]
    fn of_two_writes_the_same_one_wins_everywhere() {
        let writes = [register(5, "a", Some(9)), register(5, "b", None), register(4, "c", Some(7))];
        for (first, second, wins) in [(0, 1, 1), (1, 2, 1), (0, 2, 0)] {
            for (known, heard) in [(first, second), (second, first)] {
                let taken = writes[heard].is_newer_than(Some(&writes[known]));
                assert_eq!(if taken { heard } else { known }, wins);
            }
        }
        assert!(!writes[0].is_newer_than(Some(&writes[0])) && writes[0].is_newer_than(None));
    }

    #[test]
    fn only_an_operators_word_moves_machines_during_a_pause_and_outside_the_hours() {
        use Authority::{Approve, Automatic, Observe, Ordered, Told};
        let open = Control::default();
        let paused = Control { pause: Some(register(0, "a", Some(60))), ..Control::default() };
        let resumed = Control { pause: Some(register(1, "a", None)), ..Control::default() };
        let closed = Control { closed: true, ..Control::default() };
        let observes = Control { mode: Autonomy::Observe, ..Control::default() };
        let (paused_is, closed_is) = (Err(Reason::Paused), Err(Reason::OutsideHours));
        for (control, seconds, balancers) in [
            (&open, 59, Ok(())),
            (&paused, 59, paused_is),
            (&paused, 60, Ok(())),
            (&resumed, 59, Ok(())),
            (&closed, 59, closed_is),
        ] {
            for role in [Role::Source, Role::Target] {
                for authority in [Observe, Approve, Automatic] {
                    assert_eq!(control.permits(role, authority, at(seconds)), balancers);
                }
                for authority in [Ordered, Told] {
                    assert_eq!(control.permits(role, authority, at(seconds)), Ok(()));
                }
            }
        }
        for (authority, takes) in [
            (Observe, Ok(())),
            (Approve, Err(Reason::Observing)),
            (Automatic, Err(Reason::Observing)),
            (Ordered, Ok(())),
            (Told, Ok(())),
        ] {
            assert_eq!(observes.permits(Role::Target, authority, at(0)), takes, "{authority:?}");
        }
    }

    #[test]
    fn a_mode_narrows_a_balancers_word_and_not_an_operators() {
        use Authority::{Approve, Automatic, Observe, Ordered, Told};
        for (authority, mode, left) in [
            (Automatic, Autonomy::Automatic, Automatic),
            (Automatic, Autonomy::Approve, Approve),
            (Approve, Autonomy::Automatic, Approve),
            (Approve, Autonomy::Observe, Observe),
            (Ordered, Autonomy::Observe, Ordered),
            (Told, Autonomy::Approve, Told),
        ] {
            assert_eq!(authority.within(mode), left);
        }
    }
}

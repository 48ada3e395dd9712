//! Where the rest of a group is, as far as hosts have told each other.
//!
//! A host sees only its own machines. Now and then it tells some others which groups it has (with
//! what it says it runs), and whoever learns that more of a group are elsewhere knows that its own
//! members belong there. Of two hosts with equally many, the one whose name comes later yields; of
//! two that have members of a group which stay apart across a label, and the same value of it, too.
//! What was heard is forgotten after a while: it is a hint, and the other host judges anew.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::model::{Group, HostId, Time};

/// For how long something heard counts: the time in which it is told three times.
const HEARD_TIME_MAX: Duration = Duration::from_secs(200);
/// Most groups about which something is remembered.
const HEARD_MAX: usize = 256;

/// What a host tells of one group that it has members of.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Flock {
    /// The group.
    #[n(0)]
    pub group: Group,
    /// How many members are here.
    #[n(1)]
    pub members: u32,
    /// If they stay apart across a label, this host's value of it; otherwise they stay together on
    /// one host.
    #[n(2)]
    pub value: Option<String>,
}

/// What was heard of groups that this host has members of, and that are to go.
#[derive(Clone, Debug, Default)]
pub struct Flocks {
    together: BTreeMap<String, Heard>,
    apart: BTreeMap<(String, String), Heard>,
}

#[derive(Clone, Debug)]
struct Heard {
    from: HostId,
    members: u32,
    at: Time,
}

impl Flocks {
    /// `from` has told of a group of which this host, `here`, has `own` members. Answers whether the
    /// other should rather hear of those.
    pub fn hear(
        &mut self,
        here: &HostId,
        own: u32,
        from: &HostId,
        told: &Flock,
        now: Time,
    ) -> bool {
        let yields = match told.value {
            None => (own, from) < (told.members, here),
            Some(_) => from < here,
        };
        if !yields {
            return true;
        }
        let heard = Heard { from: from.clone(), members: told.members, at: now };
        let name = told.group.name().to_owned();
        self.forget(now);
        if self.together.len() + self.apart.len() >= HEARD_MAX {
            return false;
        }
        if let Some(label) = told.group.label() {
            self.apart.insert((name, label.to_owned()), heard);
        } else if self
            .together
            .get(&name)
            .is_none_or(|h| h.from == *from || h.members < told.members)
        {
            self.together.insert(name, heard);
        }
        false
    }

    fn forget(&mut self, now: Time) {
        let counts = |heard: &Heard| now.since(heard.at) < HEARD_TIME_MAX;
        self.together.retain(|_, heard| counts(heard));
        self.apart.retain(|_, heard| counts(heard));
    }

    /// The host that has more of a group than this one with `own`, if one is known.
    #[must_use]
    pub fn leader(&self, group: &Group, own: u32, now: Time) -> Option<&HostId> {
        let heard = self.together.get(group.name()).filter(|_| group.label().is_none())?;
        let counts = now.since(heard.at) < HEARD_TIME_MAX && heard.members >= own;
        counts.then_some(&heard.from)
    }

    /// Whether a member on another host with the same value of the label comes first.
    #[must_use]
    pub fn has_rival(&self, group: &Group, now: Time) -> bool {
        let key = group.label().map(|label| (group.name().to_owned(), label.to_owned()));
        let heard = key.and_then(|key| self.apart.get(&key));
        heard.is_some_and(|heard| now.since(heard.at) < HEARD_TIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_hosts_with_a_group_exactly_one_yields() {
        let (a, b) = (HostId::new("a").unwrap(), HostId::new("b").unwrap());
        let group: Group = "web".parse().unwrap();
        let now = Time::from_unix_ms(1_000);
        let flock = |members, value: Option<&str>| Flock {
            group: group.clone(),
            members,
            value: value.map(str::to_owned),
        };
        for (at_a, at_b) in [(1, 1), (1, 2), (2, 1), (3, 3)] {
            let (mut of_a, mut of_b) = (Flocks::default(), Flocks::default());
            let a_stays = of_a.hear(&a, at_a, &b, &flock(at_b, None), now);
            let b_stays = of_b.hear(&b, at_b, &a, &flock(at_a, None), now);
            assert_ne!(a_stays, b_stays, "{at_a} {at_b}");
            assert_eq!(of_a.leader(&group, at_a, now), (!a_stays).then_some(&b));
            assert_eq!(of_b.leader(&group, at_b, now), (!b_stays).then_some(&a));
            let later = now + HEARD_TIME_MAX;
            assert_eq!(of_b.leader(&group, at_b, later), None, "it is forgotten");
        }
    }

    #[test]
    fn of_two_hosts_with_members_that_stay_apart_one_yields() {
        let (a, b) = (HostId::new("a").unwrap(), HostId::new("b").unwrap());
        let group: Group = "web@rack".parse().unwrap();
        let told = Flock { group: group.clone(), members: 1, value: Some("r7".to_owned()) };
        let now = Time::from_unix_ms(1_000);
        let mut of_b = Flocks::default();
        assert!(Flocks::default().hear(&a, 1, &b, &told, now));
        assert!(!of_b.hear(&b, 1, &a, &told, now));
        assert!(of_b.has_rival(&group, now) && !of_b.has_rival(&"web".parse().unwrap(), now));
    }
}

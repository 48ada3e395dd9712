//! What may run where: the judge of rules, which knows no loads and no clock.
//!
//! **Hard** rules hold at every instant as far as the balancer acts: the host that a machine is to come
//! to judges them by everything that is there, that has room promised there, and that is about to
//! leave. **Soft** rules refuse a move as well, unless something presses: a host is being emptied,
//! a resource is over its ceiling, or a hard rule is being mended.
//!
//! | rule | is right on a host, if |
//! | --- | --- |
//! | place | any positive place names it, if there are any, and no negative one does |
//! | anti-affinity | no other member is there; across a label, the host has a value of it (who else has that value is asked, not judged here) |
//! | affinity | of every group at least as many others are there as where it comes from; across a label, both hosts have the same value |
//! | largest share | its load there is not above that |
//!
//! A group is one whatever its members say; between two members, a rule is hard if it is for either.
//!
//! **Gathering ends.** A machine of an affinity group goes only to where at least as many of its
//! group are as it leaves behind, and by itself, without need of balance, only to where there are
//! more. The sum over all groups and hosts of the square of how many members are there never falls
//! by such a move, and grows by every one of the second kind. It is a whole number and bounded by the
//! square of the number of machines, so that gathering comes to rest, and with every group
//! that nothing else holds apart on one host.

use minicbor::{Decode, Encode};

pub use crate::model::Labels;
use crate::model::{Group, HostId, Place, Rules};
use crate::reason::Reason;

/// What the host that a machine leaves tells of one of its affinity groups, in the order of its
/// rules.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tie {
    /// Other members that stay behind.
    #[n(0)]
    pub mates: u32,
    /// That host's value of the label that the group is across, if it is and there is one.
    #[n(1)]
    pub value: Option<String>,
}

/// A rule that a host does not keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which kind.
    pub reason: Reason,
    /// Whether it yields to what presses.
    pub soft: bool,
}

impl Broken {
    /// Why a machine may not go there, if so.
    #[must_use]
    pub const fn refusal(self, pressing: bool) -> Option<Reason> {
        match self.soft {
            false => Some(self.reason),
            true if pressing => None,
            true => Some(Reason::RuleSoft),
        }
    }
}

/// Of two findings the graver, and of equally grave ones the first.
#[must_use]
pub fn graver(a: Option<Broken>, b: Option<Broken>) -> Option<Broken> {
    match (a, b) {
        (Some(a), Some(b)) if a.soft && !b.soft => Some(b),
        (None, b) => b,
        (a, _) => a,
    }
}

/// Whether a machine may run on a host by its places. Of a host whose labels are not known nothing
/// is found that could be wrong.
#[must_use]
pub fn of_places(rules: &Rules, host: &HostId, labels: Option<&Labels>) -> Option<Broken> {
    let names = |place: &Place| match labels {
        Some(labels) => Some(place.names(host, labels)),
        None if place.label().is_none() => Some(place.names(host, &Labels::new())),
        None => None,
    };
    let found = |soft: bool| {
        let places = || rules.pinned_to.iter().filter(|place| place.is_soft() == soft);
        let avoided = places().any(|p| p.is_not() && names(p) == Some(true));
        let wanted = || places().filter(|p| !p.is_not());
        let missed = wanted().next().is_some() && wanted().all(|p| names(p) == Some(false));
        (avoided || missed).then_some(Broken { reason: Reason::RulePinned, soft })
    };
    found(false).or_else(|| found(true))
}

/// Whether a machine may run on a host beside `others`, by the groups that stay apart.
#[must_use]
pub fn of_apart<'a>(
    rules: &Rules,
    labels: &Labels,
    others: impl Iterator<Item = &'a Rules>,
) -> Option<Broken> {
    let mut found = None;
    for group in &rules.anti_affinity {
        if group.label().is_some_and(|label| !labels.contains_key(label)) {
            let broken = Broken { reason: Reason::RuleNoLabel, soft: group.is_soft() };
            found = graver(found, Some(broken));
        }
    }
    if rules.anti_affinity.is_empty() {
        return None;
    }
    others.fold(found, |found, other| graver(found, clash(rules, other)))
}

/// Whether two machines must not share a host.
#[must_use]
pub fn clash(a: &Rules, b: &Rules) -> Option<Broken> {
    let pairs = a.anti_affinity.iter().flat_map(|x| b.anti_affinity.iter().map(move |y| (x, y)));
    let shared = pairs.filter(|(x, y)| x.is(y)).map(|(x, y)| x.is_soft() && y.is_soft());
    shared.min().map(|soft| Broken { reason: Reason::RuleAntiAffinity, soft })
}

/// Whether a machine may go to a host where `mates` tells how many others of a group are, by the
/// groups that stay together. Without `ties` it leaves nobody behind.
#[must_use]
pub fn of_together(
    rules: &Rules,
    labels: &Labels,
    ties: &[Tie],
    mates: impl Fn(&Group) -> u32,
) -> Option<Broken> {
    let mut found = None;
    for (index, group) in rules.affinity.iter().enumerate() {
        let tie = ties.get(index);
        let kept = match group.label() {
            None => tie.is_none_or(|tie| mates(group) >= tie.mates),
            Some(label) => {
                tie.is_none_or(|tie| tie.value.is_some() && labels.get(label) == tie.value.as_ref())
            }
        };
        if !kept {
            let broken = Broken { reason: Reason::RuleAffinity, soft: group.is_soft() };
            found = graver(found, Some(broken));
        }
    }
    found
}

/// Whether a machine would take too large a share of a host by loading it so much.
#[must_use]
pub fn of_share(rules: &Rules, load: f64) -> Option<Broken> {
    let above = rules.max_share.is_some_and(|most| load > most);
    above.then_some(Broken { reason: Reason::RuleMaxShare, soft: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(pinned_to: &[&str], affinity: &[&str], anti_affinity: &[&str]) -> Rules {
        let groups = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        Rules {
            pinned_to: pinned_to.iter().map(|place| place.parse().unwrap()).collect(),
            affinity: groups(affinity),
            anti_affinity: groups(anti_affinity),
            ..Rules::default()
        }
    }

    fn labels() -> Labels {
        Labels::from([("rack".to_owned(), "r7".to_owned())])
    }

    /// `+` is right, `?` breaks a soft rule, `!` a hard one.
    fn sign(found: Option<Broken>) -> char {
        found.map_or('+', |broken| if broken.soft { '?' } else { '!' })
    }

    #[test]
    fn places_name_where_a_machine_may_run_and_where_not() {
        let host = HostId::new("h1").unwrap();
        for (places, here, unknown) in [
            (&[][..], '+', '+'),
            (&["h1"], '+', '+'),
            (&["h2"], '!', '!'),
            (&["h2", "h1"], '+', '+'),
            (&["h2", "rack=r7"], '+', '+'),
            (&["h2", "rack=r8"], '!', '+'),
            (&["!h1"], '!', '!'),
            (&["!h2"], '+', '+'),
            (&["rack=r7", "!h1"], '!', '!'),
            (&["rack=r7", "!rack=r7?"], '?', '+'),
            (&["h2?"], '?', '?'),
            (&["h1", "h2?"], '?', '?'),
            (&["!rack=r7"], '!', '+'),
            (&["!room=1", "room=2?"], '?', '+'),
        ] {
            let rules = rules(places, &[], &[]);
            assert_eq!(sign(of_places(&rules, &host, Some(&labels()))), here, "{places:?}");
            assert_eq!(sign(of_places(&rules, &host, None)), unknown, "{places:?}");
        }
    }

    #[test]
    fn members_stay_apart_and_either_may_insist() {
        for (mine, theirs, expected) in [
            (&["a"][..], &["b"][..], '+'),
            (&["a"], &["a"], '!'),
            (&["a?"], &["a"], '!'),
            (&["a", "b"], &["b?"], '!'),
            (&["a?", "b?"], &["b?"], '?'),
            (&["a?"], &["a@rack?"], '+'),
            (&["a@rack"], &["a@rack"], '!'),
            (&["a@rack"], &["a"], '+'),
            (&["a@room"], &[], '!'),
            (&["a@room?"], &[], '?'),
            (&["a@room?", "b"], &["b"], '!'),
        ] {
            let (mine, theirs) = (rules(&[], &[], mine), rules(&[], &[], theirs));
            let found = of_apart(&mine, &labels(), [&theirs].into_iter());
            assert_eq!(sign(found), expected, "{mine:?} {theirs:?}");
        }
    }

    #[test]
    fn a_machine_leaves_no_more_of_its_group_than_it_joins() {
        let tie = |mates, value: Option<&str>| Tie { mates, value: value.map(str::to_owned) };
        for (groups, ties, there, expected) in [
            (&["a"][..], vec![tie(0, None)], 0, '+'),
            (&["a"], vec![tie(1, None)], 0, '!'),
            (&["a"], vec![tie(1, None)], 1, '+'),
            (&["a?"], vec![tie(2, None)], 1, '?'),
            (&["a?", "b"], vec![tie(2, None), tie(2, None)], 1, '!'),
            (&["a@rack"], vec![tie(0, Some("r7"))], 0, '+'),
            (&["a@rack"], vec![tie(0, Some("r8"))], 9, '!'),
            (&["a@rack"], vec![tie(0, None)], 9, '!'),
            (&["a"], vec![], 0, '+'),
        ] {
            let rules = rules(&[], groups, &[]);
            let found = of_together(&rules, &labels(), &ties, |_| there);
            assert_eq!(sign(found), expected, "{groups:?} {ties:?}");
        }
    }

    #[test]
    fn what_is_soft_yields_only_where_something_presses() {
        let broken = |soft| Broken { reason: Reason::RulePinned, soft };
        assert_eq!(broken(false).refusal(true), Some(Reason::RulePinned));
        assert_eq!(broken(true).refusal(false), Some(Reason::RuleSoft));
        assert_eq!(broken(true).refusal(true), None);
        let half = Rules { max_share: Some(0.5), ..Rules::default() };
        assert_eq!((sign(of_share(&half, 0.5)), sign(of_share(&half, 0.51))), ('+', '!'));
    }
}

//! Seats: what a rule across a label leaves room for.

use std::collections::BTreeMap;

use super::Group;

/// Labels of a host.
pub type Labels = BTreeMap<String, String>;

/// What at most one machine may have: to be of this group on a host with this value of this label.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode,
)]
pub struct Seat {
    /// The group, with its label, as the machine names it.
    #[n(0)]
    pub group: Group,
    /// The value of the label.
    #[n(1)]
    pub value: String,
}

impl Seat {
    /// The seats that a machine of these groups needs on a host with these labels: none for a label
    /// that the host does not have.
    #[must_use]
    pub fn needed(groups: &[Group], labels: &Labels) -> Vec<Self> {
        let seat = |group: &Group| {
            let value = labels.get(group.label()?)?.clone();
            Some(Self { group: group.clone(), value })
        };
        groups.iter().filter_map(seat).collect()
    }

    /// Whether it is on a host with these labels.
    #[must_use]
    pub fn is_on(&self, labels: &Labels) -> bool {
        self.group.label().is_some_and(|label| labels.get(label) == Some(&self.value))
    }
}

//! Rules that name what is not there: a host, a label, a value of one.
//!
//! Such a rule is not wrong by itself: the host may be down or not in the cluster yet. Mostly it is a
//! slip of the pen, and keeps the machine where it is without a word. Who writes rules, and who looks
//! for trouble, is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Group, HostId, Hosts, Rules};
use crate::rules::Labels;

/// What there is to be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Hosts.
    pub hosts: BTreeSet<HostId>,
    /// Labels, each with all values that hosts have of it.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Something that a rule names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Missing {
    /// A host.
    #[error("no host that is alive is called `{0}`")]
    Host(HostId),
    /// A label.
    #[error("no host that is alive has the label `{0}`")]
    Label(String),
    /// A value of a label.
    #[error("no host that is alive has `{label}={value}`")]
    Value {
        /// The label, which hosts have.
        label: String,
        /// The value, which none of them has.
        value: String,
    },
}

impl Missing {
    /// What was named.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host(host) => host.as_str(),
            Self::Label(label) => label,
            Self::Value { value, .. } => value,
        }
    }
}

impl Named {
    /// There is this host, with these labels.
    pub fn add(&mut self, host: &HostId, labels: &Labels) {
        self.hosts.insert(host.clone());
        for (label, value) in labels {
            self.labels.entry(label.clone()).or_default().insert(value.clone());
        }
    }

    /// What of what rules name is not there.
    #[must_use]
    pub fn missing(&self, rules: &Rules) -> BTreeSet<Missing> {
        let mut missing = BTreeSet::new();
        for place in &rules.pinned_to {
            match place.hosts() {
                Hosts::One(host) if !self.hosts.contains(host) => {
                    missing.insert(Missing::Host(host.clone()));
                }
                Hosts::One(_) => {}
                Hosts::Labelled { label, value } => match self.labels.get(label) {
                    None => {
                        missing.insert(Missing::Label(label.clone()));
                    }
                    Some(values) if !values.contains(value) => {
                        let (label, value) = (label.clone(), value.clone());
                        missing.insert(Missing::Value { label, value });
                    }
                    Some(_) => {}
                },
            }
        }
        let labels = rules.affinity.iter().chain(&rules.anti_affinity).filter_map(Group::label);
        let unknown = labels.filter(|label| !self.labels.contains_key(*label));
        missing.extend(unknown.map(|label| Missing::Label(label.to_owned())));
        missing
    }

    /// What of the same kind there is: what may have been meant.
    pub fn known(&self, missing: &Missing) -> Vec<&str> {
        match missing {
            Missing::Host(_) => self.hosts.iter().map(HostId::as_str).collect(),
            Missing::Label(_) => self.labels.keys().map(String::as_str).collect(),
            Missing::Value { label, .. } => {
                self.labels.get(label).into_iter().flatten().map(String::as_str).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_and_not_there_is_found() {
        let mut named = Named::default();
        for (host, rack) in [("kvm1", "r1"), ("kvm2", "r2")] {
            let labels = Labels::from([("rack".to_owned(), rack.to_owned())]);
            named.add(&HostId::new(host).unwrap(), &labels);
        }
        let places = ["kvm1", "!kvm-typo", "rack=r2", "rack=nowhere?", "rakc=r1"];
        let groups = ["web@rack", "web@rakc", "db"];
        let rules = Rules {
            pinned_to: places.map(|place| place.parse().unwrap()).to_vec(),
            anti_affinity: groups.map(|group| group.parse().unwrap()).to_vec(),
            affinity: vec!["app@room".parse().unwrap()],
            ..Rules::default()
        };
        let missing = named.missing(&rules);
        let said: Vec<_> = missing.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "no host that is alive is called `kvm-typo`",
                "no host that is alive has the label `rakc`",
                "no host that is alive has the label `room`",
                "no host that is alive has `rack=nowhere`",
            ]
        );
        let value = missing.iter().last().unwrap();
        assert_eq!((value.name(), named.known(value)), ("nowhere", vec!["r1", "r2"]));
        assert!(Named::default().missing(&Rules::default()).is_empty());
    }
}

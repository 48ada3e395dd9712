//! Rules of a machine: what may happen to it, and where it may run, alone and with others.
//!
//! On the wire, in JSON and in scenarios groups and places are short texts:
//!
//! ```text
//! web            the group `web`, on one host               kvm-1        the host `kvm-1`
//! web@rack       the group `web`, in one rack                rack=r7      hosts whose label `rack` is `r7`
//! web@rack?      the same as a wish                          !rack=r7?    not on these, if it can be
//! ```
//!
//! What `?` ends is *soft*: it yields to whatever is pressing. All else is *hard*. Softness belongs to
//! the member that says it; the group is one, whatever its members say.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Serialize};

use super::Autonomy;
use super::{HostId, ID_BYTES_MAX, IdError};

/// Most groups and places that one machine names.
pub const NAMES_MAX: usize = 64;
/// Most bytes of them together: what one machine's rules hold must not keep its host from offering
/// the others to another host.
const NAMES_BYTES_MAX: usize = 3072;
/// Longest name of a group, and longest value of a label, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Priorities are from the negative of this to this.
pub const PRIORITY_MAX: i32 = 1000;

/// What may happen to a machine.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Where it may run: on a host that any of the positive ones means, if there are any, and that
    /// none of the negative ones means.
    #[n(0)]
    pub pinned_to: Vec<Place>,
    /// Groups whose members stay together.
    #[n(1)]
    pub affinity: Vec<Group>,
    /// Groups whose members stay apart.
    #[n(2)]
    pub anti_affinity: Vec<Group>,
    /// Left alone: moved neither to balance, nor to mend a rule, nor to empty its host.
    #[n(3)]
    pub ignore: bool,
    /// Never migrated live, unless an operator says so of this very machine.
    #[n(4)]
    #[cbor(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub never_live: bool,
    /// Of machines that are equal otherwise, the one with the higher priority is helped first and
    /// moved last; from minus to plus [`PRIORITY_MAX`].
    #[n(5)]
    #[cbor(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Largest share of a host that it may come to load, above 0 and up to 1: hosts that are too
    /// small for that do not take it.
    #[n(6)]
    #[serde(skip_serializing_if = "is_default")]
    pub max_share: Option<f64>,
    /// How much may be done with it without an operator; everything if it does not say.
    #[n(7)]
    #[serde(skip_serializing_if = "is_default")]
    pub mode: Option<Autonomy>,
    /// Whether its disks that are on its host alone may be copied when it moves, also where that is
    /// not configured for all machines.
    #[n(9)]
    #[cbor(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub copy_storage: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rules {
    /// Checks what no single group or place can tell: that they are not too many, and the figures.
    ///
    /// # Errors
    /// What is out of range.
    pub fn check(&self) -> Result<(), RuleError> {
        let groups = || self.affinity.iter().chain(&self.anti_affinity);
        let bytes = groups().map(Group::bytes).chain(self.pinned_to.iter().map(Place::bytes));
        let names = groups().count() + self.pinned_to.len();
        if names > NAMES_MAX || bytes.sum::<usize>() > NAMES_BYTES_MAX {
            return Err(RuleError::Many);
        }
        if let Some(share) = self.max_share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return Err(RuleError::MaxShare(share));
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            return Err(RuleError::Priority(self.priority));
        }
        Ok(())
    }

    /// Whether an agent that knows no more than the rules of the first version would keep these:
    /// it reads groups of a host as hard, knows places that are hosts, and nothing else.
    #[must_use]
    pub fn are_of_the_first_version(&self) -> bool {
        let known = |group: &Group| group.label.is_none() && !group.soft;
        self.affinity.is_empty()
            && self.anti_affinity.iter().all(known)
            && self.pinned_to.iter().all(Place::is_plain_host)
            && self.max_share.is_none()
            && !self.never_live
    }
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A group without a name, or with one that cannot be written everywhere.
    #[error(
        "the group {0:?} has no name of 1 to {NAME_BYTES_MAX} bytes without `@`, `?` and control \
         characters: write NAME, or NAME@LABEL for hosts with the same value of a label"
    )]
    Group(String),
    /// A label's name is none.
    #[error("the label {0:?} has no name of letters, digits, `-`, `_`, `.` and `/`")]
    Label(String),
    /// A label's value is none.
    #[error(
        "the value {0:?} of a label is blank, longer than {NAME_BYTES_MAX} bytes, or holds `?` or a \
         control character"
    )]
    Value(String),
    /// A place is neither a host nor a label with its value.
    #[error("the place {text:?} is neither HOST nor LABEL=VALUE: {source}")]
    Place {
        /// As written.
        text: String,
        /// Why it is no host.
        source: IdError,
    },
    /// Too many of them.
    #[error(
        "it names more than {NAMES_MAX} groups and places, or such in more than {NAMES_BYTES_MAX} \
         bytes"
    )]
    Many,
    /// A largest share that is none.
    #[error("the largest share {0} is not above 0 and up to 1, such as 0.5 for half a host")]
    MaxShare(f64),
    /// A priority out of range.
    #[error("the priority {0} is not between -{PRIORITY_MAX} and {PRIORITY_MAX}")]
    Priority(i32),
}

/// Checks one label of a host.
///
/// # Errors
/// When rules could not name it.
pub fn check_label(label: &str, value: &str) -> Result<(), RuleError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if label.is_empty() || label.len() > ID_BYTES_MAX || !label.chars().all(known) {
        return Err(RuleError::Label(shown(label)));
    }
    if is_name(value) { Ok(()) } else { Err(RuleError::Value(shown(value))) }
}

/// A text that may be a group's name or a label's value: one that XML and `?` leave as it is.
fn is_name(text: &str) -> bool {
    let odd = |c: char| c == '?' || c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(odd)
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A group of machines that stay together, or apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group {
    name: String,
    label: Option<String>,
    soft: bool,
}

impl Group {
    /// The group `name`, on one host or, with a label, on hosts that have the same value of it.
    ///
    /// # Errors
    /// When the name or the label is none.
    pub fn new(name: &str, label: Option<&str>, soft: bool) -> Result<Self, RuleError> {
        if !is_name(name) || name.contains('@') {
            return Err(RuleError::Group(shown(name)));
        }
        label.map_or(Ok(()), |label| check_label(label, "any"))?;
        Ok(Self { name: name.to_owned(), label: label.map(str::to_owned), soft })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The label across which it is meant; `None` is a single host.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether it yields to what is pressing.
    #[must_use]
    pub const fn is_soft(&self) -> bool {
        self.soft
    }

    /// The same group, hard.
    #[must_use]
    pub fn hardened(&self) -> Self {
        Self { soft: false, ..self.clone() }
    }

    /// Whether both are the same group, however much their members insist.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.label == other.label
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.label.as_ref().map_or(0, String::len)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(label) = &self.label {
            write!(f, "@{label}")?;
        }
        f.write_str(if self.soft { "?" } else { "" })
    }
}

impl FromStr for Group {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (hard, soft) = match text.strip_suffix('?') {
            Some(hard) => (hard, true),
            None => (text, false),
        };
        match hard.split_once('@') {
            Some((name, label)) => Self::new(name, Some(label), soft),
            None => Self::new(hard, None, soft),
        }
    }
}

/// Hosts that a machine may run on, or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    hosts: Hosts,
    not: bool,
    soft: bool,
}

/// Which hosts a [`Place`] means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hosts {
    /// This one.
    One(HostId),
    /// All that have this value of a label.
    Labelled {
        /// The label.
        label: String,
        /// Its value.
        value: String,
    },
}

impl Place {
    /// These hosts: not them where `not`, and as a wish where `soft`.
    ///
    /// # Errors
    /// When a label or its value is none.
    pub fn new(hosts: Hosts, not: bool, soft: bool) -> Result<Self, RuleError> {
        if let Hosts::Labelled { label, value } = &hosts {
            check_label(label, value)?;
        }
        Ok(Self { hosts, not, soft })
    }

    /// The hosts that it names.
    #[must_use]
    pub const fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whether the machine is to stay off them.
    #[must_use]
    pub const fn is_not(&self) -> bool {
        self.not
    }

    /// Whether it yields to what is pressing.
    #[must_use]
    pub const fn is_soft(&self) -> bool {
        self.soft
    }

    /// Whether a host is among those that it names.
    #[must_use]
    pub fn names(&self, host: &HostId, labels: &BTreeMap<String, String>) -> bool {
        match &self.hosts {
            Hosts::One(one) => one == host,
            Hosts::Labelled { label, value } => labels.get(label) == Some(value),
        }
    }

    /// The label that it names hosts by, if it does.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match &self.hosts {
            Hosts::One(_) => None,
            Hosts::Labelled { label, .. } => Some(label),
        }
    }

    const fn is_plain_host(&self) -> bool {
        matches!(self.hosts, Hosts::One(_)) && !self.not && !self.soft
    }

    fn bytes(&self) -> usize {
        match &self.hosts {
            Hosts::One(host) => host.as_str().len(),
            Hosts::Labelled { label, value } => label.len() + value.len(),
        }
    }
}

impl From<HostId> for Place {
    fn from(host: HostId) -> Self {
        Self { hosts: Hosts::One(host), not: false, soft: false }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.not { "!" } else { "" })?;
        match &self.hosts {
            Hosts::One(host) => write!(f, "{host}")?,
            Hosts::Labelled { label, value } => write!(f, "{label}={value}")?,
        }
        f.write_str(if self.soft { "?" } else { "" })
    }
}

impl FromStr for Place {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (rest, not) = match text.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (rest, soft) = match rest.strip_suffix('?') {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let hosts = match rest.split_once('=') {
            Some((label, value)) => {
                Hosts::Labelled { label: label.to_owned(), value: value.to_owned() }
            }
            None => Hosts::One(
                HostId::new(rest)
                    .map_err(|source| RuleError::Place { text: shown(text), source })?,
            ),
        };
        Self::new(hosts, not, soft)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = RuleError;
            fn try_from(text: String) -> Result<Self, RuleError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(&self.to_string())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                d.str()?.parse().map_err(|_| minicbor::decode::Error::message("not a rule").at(at))
            }
        }
    };
}

as_text!(Group);
as_text!(Place);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_perhaps_across_a_label_and_perhaps_soft() {
        for (text, name, label, soft) in [
            ("web", "web", None, false),
            ("web?", "web", None, true),
            ("web@rack", "web", Some("rack"), false),
            ("web@rack?", "web", Some("rack"), true),
            ("\"quorum\" 'ü'", "\"quorum\" 'ü'", None, false),
        ] {
            let group: Group = text.parse().unwrap();
            assert_eq!((group.name(), group.label(), group.is_soft()), (name, label, soft));
            assert_eq!(group.to_string(), text);
        }
        for bad in ["", " ", "?", "@rack", "web@", "web@ra ck", "web??", "a?b", "a\nb", "a@b@c"] {
            assert!(bad.parse::<Group>().is_err(), "{bad:?} was taken");
        }
        assert!("g".repeat(NAME_BYTES_MAX + 1).parse::<Group>().is_err());
    }

    #[test]
    fn a_place_is_a_host_or_a_label_with_its_value_wanted_or_not() {
        let labels = BTreeMap::from([("rack".to_owned(), "r 7".to_owned())]);
        let host = HostId::new("h1").unwrap();
        for (text, here, not, soft) in [
            ("h1", true, false, false),
            ("h2", false, false, false),
            ("!h1", true, true, false),
            ("rack=r 7", true, false, false),
            ("rack=r8?", false, false, true),
            ("!rack=r 7?", true, true, true),
            ("room=r 7", false, false, false),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.names(&host, &labels), here, "{text}");
            assert_eq!((place.is_not(), place.is_soft()), (not, soft), "{text}");
            assert_eq!(place.to_string(), text);
        }
        for bad in ["", "!", "?", "a b", "=x", "rack=", "rack= ", "ra ck=x", "!!h1", "rack=a?b"] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?} was taken");
        }
    }

    /// The rules that agents spoke of before there were others.
    #[derive(Encode, Decode)]
    struct First {
        #[n(0)]
        pinned_to: Vec<HostId>,
        #[n(1)]
        affinity: Vec<String>,
        #[n(2)]
        anti_affinity: Vec<String>,
        #[n(3)]
        ignore: bool,
    }

    #[test]
    fn rules_of_the_first_version_are_read_and_written_as_they_were() {
        let host = HostId::new("h1").unwrap();
        let first = First {
            pinned_to: vec![host.clone()],
            affinity: vec!["web".to_owned()],
            anti_affinity: vec!["db".to_owned()],
            ignore: true,
        };
        let rules: Rules = minicbor::decode(&minicbor::to_vec(&first).unwrap()).unwrap();
        assert_eq!(rules.pinned_to, [Place::from(host)]);
        assert!(rules.ignore && !rules.never_live && rules.priority == 0);
        let back: First = minicbor::decode(&minicbor::to_vec(&rules).unwrap()).unwrap();
        assert_eq!(back.anti_affinity, ["db"]);
        let json =
            r#"{"pinned_to":["h1"],"affinity":["web"],"anti_affinity":["db"],"ignore":true}"#;
        assert_eq!(serde_json::from_str::<Rules>(json).unwrap(), rules);
        assert_eq!(serde_json::to_string(&rules).unwrap(), json);
    }

    #[test]
    fn figures_and_lists_have_limits() {
        let group: Group = "g".repeat(NAME_BYTES_MAX).parse().unwrap();
        let good = Rules { max_share: Some(1.0), priority: PRIORITY_MAX, ..Rules::default() };
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Rules { max_share: Some(0.0), ..Rules::default() },
            Rules { max_share: Some(f64::NAN), ..Rules::default() },
            Rules { priority: -PRIORITY_MAX - 1, ..Rules::default() },
            Rules { anti_affinity: vec![group; 13], ..Rules::default() },
            Rules { affinity: vec!["g".parse().unwrap(); NAMES_MAX + 1], ..Rules::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}

//! What network interfaces are connected to, and whether that is the same on two hosts.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What a network interface is connected to on its host.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A virtual network of the hypervisor, by its name.
    #[n(0)]
    Virtual(#[n(0)] String),
    /// A bridge or another interface of the host, by its name.
    #[n(1)]
    Interface(#[n(0)] String),
}

impl Network {
    /// Its name on its host.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Virtual(name) | Self::Interface(name) => name,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Virtual(name) => write!(f, "virtual network `{name}` that is active"),
            Self::Interface(name) => write!(f, "bridge or interface `{name}`"),
        }
    }
}

/// What an interface needs of a network besides its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    #[n(0)]
    pub network: Network,
    /// How it is on the machine's present host.
    #[n(1)]
    pub link: Link,
    /// The group of ports of a virtual network that the interface belongs to.
    #[n(2)]
    pub portgroup: Option<String>,
}

/// How a network is on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// What switches it, such as [`LINUX_BRIDGE`], `openvswitch` or [`NO_BRIDGE`]; `None` if that is not
    /// known or does not matter.
    #[n(0)]
    pub switch: Option<String>,
    /// Whether it reaches only what is on its host: it is isolated, routed or translated (NAT), or a
    /// bridge without a way out.
    #[n(1)]
    pub island: bool,
    /// The segment that the operator says it is: the same on every host that says so.
    #[n(2)]
    pub segment: Option<String>,
}

/// [`Link::switch`] of a bridge of the kernel.
pub const LINUX_BRIDGE: &str = "linux-bridge";
/// [`Link::switch`] of an interface of a host that is no bridge of the kernel.
pub const NO_BRIDGE: &str = "no-bridge";

/// How a network is on a host that machines may come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFacts {
    /// How it is connected.
    pub link: Link,
    /// The groups of ports that it has.
    pub portgroups: BTreeSet<String>,
}

impl Link {
    /// Whether a machine keeps what it talks to when it moves from a host where the network is so to
    /// one where it is as `there`.
    pub(super) fn leads_to(&self, there: &Self) -> Result<(), String> {
        match (&self.segment, &there.segment) {
            (Some(here), Some(there)) if here == there => return Ok(()),
            (Some(here), Some(there)) => {
                return Err(format!("is segment `{here}` here and `{there}` there"));
            }
            (Some(here), None) => return Err(format!("is segment `{here}` here and none there")),
            (None, Some(there)) => return Err(format!("is no segment here and `{there}` there")),
            (None, None) => {}
        }
        let reaches = "reaches only what is on its host";
        match (self.island, there.island) {
            (true, _) => Err(reaches.to_owned()),
            (false, true) => Err(format!("{reaches} there")),
            (false, false) => Ok(()),
        }
    }

    /// Whether an interface that is connected by this switch can be connected by the other one.
    pub(super) fn connects_to(&self, there: &Self) -> Result<(), String> {
        let (Some(here), Some(there)) = (&self.switch, &there.switch) else { return Ok(()) };
        let plain = |switch: &str| matches!(switch, LINUX_BRIDGE | NO_BRIDGE);
        // A bridge of Open vSwitch is to the kernel an interface like any other.
        if here == there || !plain(here) && there == NO_BRIDGE {
            return Ok(());
        }
        Err(format!("is of kind `{here}` here and `{there}` there"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn link(switch: &str, island: bool, segment: &str) -> Link {
        let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Link { switch: told(switch), island, segment: told(segment) }
    }

    fn verdict(here: Link, there: Link) -> Option<Reason> {
        let network = Network::Interface("br0".to_owned());
        let attachment = Attachment { network, link: here, portgroup: None };
        let there = NetworkFacts { link: there, portgroups: BTreeSet::new() };
        attachment.fits(&there).err().map(|missing| missing.reason())
    }

    #[test]
    fn a_name_alone_makes_no_network_the_same() {
        let other = Some(Reason::OtherNetwork);
        for (here, there, found) in [
            (link("", false, ""), link("", false, ""), None),
            // NAT, isolated, or without a way out: on either side.
            (link("", true, ""), link("", true, ""), other),
            (link("", true, ""), link("", false, ""), other),
            (link("", false, ""), link("", true, ""), other),
            // The operator's word counts for more.
            (link("", true, "office"), link("", true, "office"), None),
            (link("", false, "office"), link("", false, "lab"), other),
            (link("", false, "office"), link("", false, ""), other),
            (link("", false, ""), link("", false, "office"), other),
            // The kind of switch.
            (link(LINUX_BRIDGE, false, ""), link(LINUX_BRIDGE, false, ""), None),
            (link("openvswitch", false, ""), link(LINUX_BRIDGE, false, ""), other),
            (link("openvswitch", false, ""), link(NO_BRIDGE, false, ""), None),
            (link(LINUX_BRIDGE, false, ""), link(NO_BRIDGE, false, ""), other),
            (link(LINUX_BRIDGE, false, ""), link("openvswitch", false, ""), other),
            (link("openvswitch", false, ""), link("openvswitch", false, ""), None),
        ] {
            assert_eq!(verdict(here.clone(), there.clone()), found, "{here:?} {there:?}");
        }
    }

    #[test]
    fn a_group_of_ports_has_to_be_there() {
        let network = Network::Virtual("trunk".to_owned());
        let portgroup = Some("vlan-120".to_owned());
        let attachment = Attachment { network, link: Link::default(), portgroup };
        let facts = |groups: &[&str]| NetworkFacts {
            portgroups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..NetworkFacts::default()
        };
        assert_eq!(attachment.fits(&facts(&["vlan-120"])), Ok(()));
        let missing = attachment.fits(&facts(&["vlan-7"])).unwrap_err();
        assert_eq!(missing.reason(), Reason::OtherNetwork);
        assert!(missing.to_string().contains("`vlan-120`"), "{missing}");
    }
}

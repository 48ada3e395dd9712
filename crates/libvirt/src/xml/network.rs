//! How networks are: what libvirt says of a virtual one, and what a domain's interfaces need of theirs.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_core::model::{Attachment, LINUX_BRIDGE, Link, Network, NetworkFacts};

use super::needs::{devices, network_of};
use super::tree::Element;

/// A virtual network: its name and how it is. `interfaces` tells how those of the host are.
pub(crate) fn described(
    network: &str,
    interfaces: &BTreeMap<String, Link>,
) -> Option<(String, NetworkFacts)> {
    let network = Element::parse(network).ok()?;
    let mode = network.find("forward").map(|forward| forward.attribute("mode").unwrap_or("nat"));
    let port = network.find("virtualport").and_then(|port| port.attribute("type"));
    let bridge = network.find("bridge").and_then(|bridge| bridge.attribute("name"));
    let below = bridge.and_then(|bridge| interfaces.get(bridge));
    // What libvirt makes by itself leads nowhere else: it is isolated, routed or translated.
    let own = !matches!(mode, Some("bridge" | "private" | "vepa" | "passthrough" | "hostdev"));
    let link = Link {
        switch: port.map(str::to_owned).or_else(|| below.and_then(|link| link.switch.clone())),
        island: own || below.is_some_and(|link| link.island),
        segment: None,
    };
    let groups = network.all("portgroup").filter_map(|group| group.attribute("name"));
    let portgroups: BTreeSet<String> = groups.map(str::to_owned).collect();
    Some((network.text_of("name").to_owned(), NetworkFacts { link, portgroups }))
}

/// What its interfaces need of their networks. How those are on its host is to be filled in.
pub(crate) fn attachments(domain: &Element) -> Vec<Attachment> {
    let mut found: Vec<Attachment> = Vec::new();
    for interface in devices(domain, "interface") {
        let Some(network) = network_of(interface) else { continue };
        let port = interface.find("virtualport").and_then(|port| port.attribute("type"));
        let bridged = interface.attribute("type") == Some("bridge");
        let switch = port.or_else(|| bridged.then_some(LINUX_BRIDGE)).map(str::to_owned);
        let portgroup = interface.find("source").and_then(|source| source.attribute("portgroup"));
        let portgroup = portgroup.map(str::to_owned);
        let attachment =
            Attachment { network, link: Link { switch, ..Link::default() }, portgroup };
        if !found.contains(&attachment) {
            found.push(attachment);
        }
    }
    found
}

/// The key of a network in what a host provides.
pub(crate) fn key(network: &Network) -> String {
    network.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(switch: Option<&str>, island: bool) -> Link {
        Link { switch: switch.map(str::to_owned), island, segment: None }
    }

    #[test]
    fn only_what_is_bridged_leads_out_of_its_host() {
        let interfaces = BTreeMap::from([
            ("br0".to_owned(), link(Some(LINUX_BRIDGE), false)),
            ("br9".to_owned(), link(Some(LINUX_BRIDGE), true)),
        ]);
        for (inner, found) in [
            ("<bridge name='virbr1'/>", link(None, true)),
            ("<forward mode='nat'/><bridge name='virbr0'/>", link(None, true)),
            ("<forward/><bridge name='virbr0'/>", link(None, true)),
            ("<forward mode='route'/>", link(None, true)),
            ("<forward mode='open'/>", link(None, true)),
            ("<forward mode='bridge'/><bridge name='br0'/>", link(Some(LINUX_BRIDGE), false)),
            ("<forward mode='bridge'/><bridge name='br9'/>", link(Some(LINUX_BRIDGE), true)),
            ("<forward mode='bridge'><interface dev='eth1'/></forward>", link(None, false)),
            (
                "<forward mode='bridge'/><bridge name='ovs0'/><virtualport type='openvswitch'/>",
                link(Some("openvswitch"), false),
            ),
        ] {
            let xml = format!("<network><name>n</name>{inner}</network>");
            assert_eq!(described(&xml, &interfaces).unwrap().1.link, found, "{inner}");
        }
        let trunk = "<network><name>trunk</name><forward mode='bridge'/><portgroup name='vlan-120'/>\
                     <portgroup name='vlan-7' default='yes'/></network>";
        let (name, facts) = described(trunk, &interfaces).unwrap();
        assert_eq!(name, "trunk");
        assert_eq!(facts.portgroups, ["vlan-120", "vlan-7"].map(str::to_owned).into());
    }

    #[test]
    fn the_kind_of_port_and_its_group_are_needs_as_names_are() {
        for (inner, network, switch, portgroup) in [
            (
                "<interface type='bridge'><source bridge='br-int'/><virtualport type='openvswitch'/></interface>",
                Network::Interface("br-int".to_owned()),
                Some("openvswitch"),
                None,
            ),
            (
                "<interface type='bridge'><source bridge='br0'/></interface>",
                Network::Interface("br0".to_owned()),
                Some(LINUX_BRIDGE),
                None,
            ),
            (
                "<interface type='network'><source network='trunk' portgroup='vlan-120'/></interface>",
                Network::Virtual("trunk".to_owned()),
                None,
                Some("vlan-120"),
            ),
            (
                "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
                Network::Interface("eth1".to_owned()),
                None,
                None,
            ),
        ] {
            let domain = format!("<domain><devices>{inner}</devices></domain>");
            let [found] = &attachments(&Element::parse(&domain).unwrap())[..] else {
                panic!("{inner}")
            };
            assert_eq!(found.network, network, "{inner}");
            assert_eq!(found.link.switch.as_deref(), switch, "{inner}");
            assert_eq!(found.portgroup.as_deref(), portgroup, "{inner}");
        }
    }
}

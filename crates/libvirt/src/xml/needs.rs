//! What a domain's description says that it needs of its host.

use evenkeel_core::model::{HugePages, Network};

use super::tree::Element;

/// Longest range of CPUs or NUMA nodes that is read; libvirt's own limit is far below.
const NUMBERS_MAX: u32 = 4096;

/// What its network interfaces are connected to.
pub(crate) fn networks(domain: &Element) -> Vec<Network> {
    let mut found = Vec::new();
    for interface in devices(domain, "interface") {
        found.extend(network_of(interface).filter(|network| !found.contains(network)));
    }
    found
}

/// What an interface is connected to, if it is anything that has a name.
pub(crate) fn network_of(interface: &Element) -> Option<Network> {
    let source = |name| interface.find("source").and_then(|s| s.attribute(name));
    // A network that is a bridge makes its interface one of that bridge as long as the machine runs.
    let kind = source("network").map_or(interface.attribute("type"), |_| Some("network"));
    match kind {
        Some("network") => source("network").map(|name| Network::Virtual(name.to_owned())),
        Some("bridge") => source("bridge").map(|name| Network::Interface(name.to_owned())),
        Some("direct") => source("dev").map(|name| Network::Interface(name.to_owned())),
        // Of these libvirt or QEMU makes what is needed, or a device of the host is.
        _ => None,
    }
}

/// Devices of its host that are passed through to it, in words.
pub(crate) fn passed_through(domain: &Element) -> Vec<String> {
    let mut found: Vec<String> =
        devices(domain, "hostdev").filter(|device| !is_failover(device)).map(hostdev).collect();
    for interface in devices(domain, "interface").filter(|device| !is_failover(device)) {
        let kind = interface.attribute("type").filter(|kind| matches!(*kind, "hostdev" | "vdpa"));
        found.extend(kind.map(|kind| {
            let mac = interface.find("mac").and_then(|mac| mac.attribute("address"));
            format!("the network interface `{}` ({kind})", mac.unwrap_or("?"))
        }));
    }
    found.extend(devices(domain, "filesystem").map(|shared| {
        let place = shared.find("source").and_then(|source| {
            ["dir", "file", "dev", "name"].iter().find_map(|key| source.attribute(key))
        });
        format!("the directory `{}` of its host", place.unwrap_or("?"))
    }));
    let nvme = devices(domain, "disk").filter(|disk| disk.attribute("type") == Some("nvme"));
    found.extend(nvme.map(|disk| format!("the NVMe drive behind `{}`", target(disk))));
    let tpm = devices(domain, "tpm").filter_map(|tpm| tpm.find("backend"));
    let tpm = tpm.filter(|backend| backend.attribute("type") == Some("passthrough"));
    found.extend(tpm.map(|_| "the TPM of its host".to_owned()));
    if let Some(security) = domain.find("launchSecurity") {
        let kind = security.attribute("type").unwrap_or("?");
        found.push(format!("the encryption of its memory (`{kind}`) by its host's processor"));
    }
    found
}

/// Whether it is unplugged before a migration and plugged in again behind it, while another
/// interface stands in.
fn is_failover(device: &Element) -> bool {
    let teaming = device.find("teaming").and_then(|teaming| teaming.attribute("type"));
    teaming == Some("transient")
}

fn hostdev(device: &Element) -> String {
    let of = |path: &str, name: &str| {
        device.find(path).and_then(|element| element.attribute(name)).unwrap_or("?").to_owned()
    };
    let hex = |name| of("source/address", name).trim_start_matches("0x").to_owned();
    match device.attribute("type").unwrap_or("?") {
        "pci" => format!(
            "the PCI device {}:{}:{}.{}",
            hex("domain"),
            hex("bus"),
            hex("slot"),
            hex("function")
        ),
        "usb" if device.find("source/vendor").is_some() => {
            format!("the USB device {}:{}", of("source/vendor", "id"), of("source/product", "id"))
        }
        "usb" => format!("the USB device at bus {}, device {}", hex("bus"), hex("device")),
        "mdev" => format!("the mediated device {}", of("source/address", "uuid")),
        "scsi" => format!("the SCSI device at {}", of("source/adapter", "name")),
        kind => format!("a device of its host ({kind})"),
    }
}

/// Huge pages that its memory of `memory_bytes` is made of.
pub(crate) fn huge_pages(domain: &Element, memory_bytes: f64) -> Vec<HugePages> {
    let Some(backing) = domain.find("memoryBacking/hugepages") else { return Vec::new() };
    // Of several sizes for several guest nodes, which takes how much is not told apart: each must be
    // had, the first one for all of it.
    let mut bytes = memory_bytes as u64;
    let mut found: Vec<HugePages> = Vec::new();
    for page in backing.all("page") {
        let Some(kib) = page_kib(page).filter(|kib| found.iter().all(|f| f.kib != *kib)) else {
            continue;
        };
        found.push(HugePages { kib, bytes });
        bytes = kib.saturating_mul(1024);
    }
    if found.is_empty() { vec![HugePages { kib: 0, bytes }] } else { found }
}

fn page_kib(page: &Element) -> Option<u64> {
    let size: u64 = page.attribute("size")?.parse().ok()?;
    Some(match page.attribute("unit").unwrap_or("KiB") {
        "k" | "KiB" => size,
        "M" | "MiB" => size.saturating_mul(1 << 10),
        "G" | "GiB" => size.saturating_mul(1 << 20),
        "b" | "bytes" => size / 1024,
        _ => return None,
    })
}

/// NUMA nodes of its host that its memory is bound to.
pub(crate) fn numa_nodes(domain: &Element) -> Vec<u32> {
    let mut found = Vec::new();
    for binding in domain.find("numatune").into_iter().flat_map(|tune| &tune.children) {
        let strict = matches!(binding.attribute("mode"), None | Some("strict" | "restrictive"));
        if let (true, Some(set)) = (strict, binding.attribute("nodeset")) {
            found.extend(numbers(set));
        }
    }
    sorted(found)
}

/// CPUs of its host that it is bound to.
pub(crate) fn host_cpus(domain: &Element) -> Vec<u32> {
    let mut found = Vec::new();
    let vcpu = domain.find("vcpu").into_iter();
    let pins = domain.find("cputune").into_iter().flat_map(|tune| &tune.children);
    for binding in vcpu.chain(pins) {
        found.extend(binding.attribute("cpuset").into_iter().flat_map(numbers));
    }
    sorted(found)
}

pub(crate) fn sorted(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(NUMBERS_MAX as usize);
    numbers
}

/// A set such as `0-3,^2,7`.
pub(crate) fn numbers(set: &str) -> Vec<u32> {
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for part in set.split(',') {
        let part = part.trim();
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < NUMBERS_MAX);
        if let Some(one) = part.strip_prefix('^') {
            without.extend(number(one));
        } else if let Some((first, last)) = part.split_once('-') {
            if let (Some(first), Some(last)) = (number(first), number(last)) {
                found.extend(first..=last);
            }
        } else {
            found.extend(number(part));
        }
    }
    found.retain(|one| !without.contains(one));
    sorted(found)
}

/// What the machine calls a disk.
pub(crate) fn target(disk: &Element) -> &str {
    disk.find("target").and_then(|target| target.attribute("dev")).unwrap_or("?")
}

pub(crate) fn devices<'a>(
    domain: &'a Element,
    name: &'a str,
) -> impl Iterator<Item = &'a Element> + use<'a> {
    domain.find("devices").into_iter().flat_map(move |all| all.all(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(inner: &str) -> Element {
        Element::parse(&format!("<domain>{inner}</domain>")).unwrap()
    }

    fn with_devices(inner: &str) -> Element {
        domain(&format!("<devices>{inner}</devices>"))
    }

    #[test]
    fn networks_are_named_by_what_the_host_must_have() {
        let network = |name: &str| Network::Virtual(name.to_owned());
        let interface = |name: &str| Network::Interface(name.to_owned());
        for (xml, found) in [
            ("", vec![]),
            ("<interface type='user'/>", vec![]),
            (
                "<interface type='network'><source network='lan' bridge='virbr0'/></interface>\
                 <interface type='network'><source network='lan'/></interface>",
                vec![network("lan")],
            ),
            ("<interface type='bridge'><source bridge='br0'/></interface>", vec![interface("br0")]),
            (
                "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>",
                vec![interface("eth1")],
            ),
            ("<interface type='bridge'/>", vec![]),
            (
                "<interface type='bridge'><source network='lan' portid='x' bridge='br0'/></interface>",
                vec![network("lan")],
            ),
            (
                "<interface type='direct'><source network='lan' dev='eth1'/></interface>",
                vec![network("lan")],
            ),
        ] {
            assert_eq!(networks(&with_devices(xml)), found, "{xml}");
        }
    }

    #[test]
    fn every_kind_of_passthrough_is_named() {
        for (xml, words) in [
            (
                "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x03' \
                 slot='0x00' function='0x1'/></source></hostdev>",
                "the PCI device 0000:03:00.1",
            ),
            (
                "<hostdev type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source>\
                 </hostdev>",
                "the USB device 0x1234:0xbeef",
            ),
            (
                "<hostdev type='mdev'><source><address uuid='c2177883'/></source></hostdev>",
                "the mediated device c2177883",
            ),
            (
                "<interface type='hostdev'><mac address='52:54:00:00:00:01'/></interface>",
                "the network interface `52:54:00:00:00:01` (hostdev)",
            ),
            (
                "<filesystem type='mount'><source dir='/home'/></filesystem>",
                "the directory `/home` of its host",
            ),
            ("<disk type='nvme'><target dev='vdb'/></disk>", "the NVMe drive behind `vdb`"),
            ("<tpm><backend type='passthrough'/></tpm>", "the TPM of its host"),
        ] {
            assert_eq!(passed_through(&with_devices(xml)), [words], "{xml}");
        }
        let failover =
            "<hostdev type='pci'><teaming type='transient' persistent='ua-1'/></hostdev>";
        let emulated = "<tpm><backend type='emulator'/></tpm><disk type='file'/>";
        for xml in [failover, emulated] {
            assert_eq!(passed_through(&with_devices(xml)), [] as [String; 0], "{xml}");
        }
        let sealed = domain("<launchSecurity type='sev'/>");
        assert!(passed_through(&sealed)[0].contains("`sev`"));
    }

    #[test]
    fn bindings_to_pages_nodes_and_cpus_are_read() {
        let pages = |kib, bytes| HugePages { kib, bytes };
        for (xml, found) in [
            ("", vec![]),
            ("<memoryBacking/>", vec![]),
            ("<memoryBacking><hugepages/></memoryBacking>", vec![pages(0, 4096)]),
            (
                "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>",
                vec![pages(2048, 4096)],
            ),
            (
                "<memoryBacking><hugepages><page size='1' unit='G' nodeset='0'/>\
                 <page size='2048' unit='KiB' nodeset='1'/></hugepages></memoryBacking>",
                vec![pages(1 << 20, 4096), pages(2048, 1 << 30)],
            ),
        ] {
            assert_eq!(huge_pages(&domain(xml), 4096.0), found, "{xml}");
        }
        let tune = "<numatune><memory mode='strict' nodeset='0-1'/><memnode cellid='0' \
                    mode='preferred' nodeset='7'/></numatune>";
        assert_eq!(numa_nodes(&domain(tune)), [0, 1]);
        let pinned = "<vcpu cpuset='1-4,^3'>4</vcpu><cputune><vcpupin vcpu='0' cpuset='9'/>\
                      <shares>1</shares></cputune>";
        assert_eq!(host_cpus(&domain(pinned)), [1, 2, 4, 9]);
        assert_eq!(host_cpus(&domain("<vcpu>4</vcpu>")), [] as [u32; 0]);
        assert_eq!(numbers("0-4294967295,x,-,^"), [] as [u32; 0]);
    }
}

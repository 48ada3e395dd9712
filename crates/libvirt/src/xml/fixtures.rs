//! What a domain's description says that must be on its host under the same name or path, and what
//! keeps it there.

use std::net::IpAddr;

use evenkeel_core::model::{FileUse, HostFile, Missing, Secret};

use super::needs::{devices, numbers, sorted, target};
use super::tree::Element;

/// Most files that are looked for; a domain names a handful.
const FILES_MAX: usize = 32;

/// Files that it must find on its host, its disks aside.
pub(crate) fn files(domain: &Element) -> Vec<HostFile> {
    let mut found = Vec::new();
    let mut add = |path: &str, what: String, usage| {
        let known = found.iter().any(|file: &HostFile| file.path == path);
        if path.starts_with('/') && !known && found.len() < FILES_MAX {
            found.push(HostFile { path: path.to_owned(), what, usage, bytes: None });
        }
    };
    for (name, what) in [
        ("kernel", "its kernel"),
        ("initrd", "its initial file system"),
        ("dtb", "its device tree"),
        ("loader", "its firmware"),
        ("shim", "its boot loader"),
    ] {
        add(domain.text_of(&format!("os/{name}")), what.to_owned(), FileUse::Read);
    }
    if let Some(acpi) = domain.find("os/acpi") {
        acpi.all("table").for_each(|t| add(&t.text, "a table of its ACPI".into(), FileUse::Read));
    }
    if let Some(nvram) = domain.find("os/nvram") {
        let path = nvram.find("source").and_then(|source| source.attribute("file"));
        add(path.unwrap_or(&nvram.text), "variables of its firmware".into(), FileUse::Made);
    }
    for entry in domain.all("sysinfo").flat_map(|info| info.all("entry")) {
        let what = || format!("`{}` of its fw_cfg", entry.attribute("name").unwrap_or("?"));
        if let Some(file) = entry.attribute("file") {
            add(file, what(), FileUse::Read);
        }
    }
    for (name, file) in on_command_line(domain) {
        add(file, format!("`{name}` of its fw_cfg"), FileUse::Read);
    }
    for interface in
        devices(domain, "interface").filter(|i| i.attribute("type") == Some("vhostuser"))
    {
        let source = interface.find("source").filter(|s| s.attribute("mode") == Some("client"));
        let mac = interface.find("mac").and_then(|mac| mac.attribute("address")).unwrap_or("?");
        let path = source.and_then(|source| source.attribute("path"));
        add(path.unwrap_or(""), format!("the socket of its interface `{mac}`"), FileUse::Read);
    }
    for memory in devices(domain, "memory") {
        add(memory.text_of("source/path"), "a memory device".into(), FileUse::Read);
    }
    for (kind, port) in ports(domain) {
        let Some(source) = port.find("source") else { continue };
        let connects = source.attribute("mode") == Some("connect");
        let read = match port.attribute("type") {
            Some("pipe") => true,
            Some("unix") => connects,
            _ => false,
        };
        if read {
            let path = source.attribute("path").unwrap_or("");
            add(path, format!("what its {kind} port is connected to"), FileUse::Read);
        }
    }
    found
}

/// Values of `fw_cfg` on the command line of its QEMU that are in files: their names and the files.
fn on_command_line(domain: &Element) -> Vec<(&str, &str)> {
    let arguments = domain.all("commandline").flat_map(|line| line.all("arg"));
    let arguments: Vec<&str> = arguments.filter_map(|arg| arg.attribute("value")).collect();
    let told = arguments.windows(2).filter(|pair| pair[0] == "-fw_cfg").filter_map(|pair| {
        let part = |key: &str| {
            let mut parts = pair[1].split(',');
            parts.find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
        };
        Some((part("name").unwrap_or("?"), part("file")?))
    });
    told.collect()
}

/// Serial ports, consoles and the like.
fn ports(domain: &Element) -> impl Iterator<Item = (&'static str, &Element)> {
    ["serial", "console", "parallel", "channel"]
        .into_iter()
        .flat_map(move |kind| devices(domain, kind).map(move |port| (kind, port)))
}

/// Secrets that its disks and its TPM are opened with.
pub(crate) fn secrets(domain: &Element) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    let mut add = |secret: Option<Secret>| {
        found.extend(secret.filter(|secret| !found.contains(secret)));
    };
    for disk in devices(domain, "disk") {
        disk.walk(&mut |element| {
            if element.name == "secret" {
                add(secret(element));
            }
        });
    }
    for encryption in devices(domain, "tpm").filter_map(|tpm| tpm.find("backend/encryption")) {
        add(encryption.attribute("secret").map(|uuid| Secret::Uuid(uuid.to_owned())));
    }
    found
}

fn secret(element: &Element) -> Option<Secret> {
    if let Some(uuid) = element.attribute("uuid") {
        return Some(Secret::Uuid(uuid.to_owned()));
    }
    let kind = match element.attribute("type")? {
        "passphrase" => "volume",
        kind => kind,
    };
    Some(Secret::Usage(kind.to_owned(), element.attribute("usage")?.to_owned()))
}

/// Addresses of its host that it listens at: of no other host are they known to be.
pub(crate) fn addresses(domain: &Element) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |address: Option<&str>| {
        let parsed = address.and_then(|text| text.parse::<IpAddr>().ok());
        let own = parsed.filter(|address| !address.is_unspecified() && !address.is_loopback());
        let text = own.map(|address| address.to_string());
        found.extend(text.filter(|text| !found.contains(text)));
    };
    for graphics in devices(domain, "graphics") {
        let listens: Vec<&Element> = graphics.all("listen").collect();
        // A network gives its address on each host; the attribute repeats it.
        for listen in listens.iter().filter(|l| l.attribute("type") == Some("address")) {
            add(listen.attribute("address"));
        }
        if listens.is_empty() {
            add(graphics.attribute("listen"));
        }
    }
    for (_, port) in
        ports(domain).filter(|(_, p)| matches!(p.attribute("type"), Some("tcp" | "udp")))
    {
        let bound = port.all("source").filter(|s| s.attribute("mode") == Some("bind"));
        bound.for_each(|source| add(source.attribute("host")));
    }
    found
}

/// CPUs of its host that it is to have for itself: its virtual CPUs are pinned to no more of them than
/// there are virtual ones.
pub(crate) fn dedicated_cpus(domain: &Element) -> Vec<u32> {
    let pins: Vec<&Element> =
        domain.find("cputune").into_iter().flat_map(|tune| tune.all("vcpupin")).collect();
    let cpus = pins.iter().filter_map(|pin| pin.attribute("cpuset")).flat_map(numbers);
    let cpus = sorted(cpus.collect());
    if cpus.len() <= pins.len() { cpus } else { Vec::new() }
}

/// What of it libvirt never migrates live.
pub(crate) fn not_migratable(domain: &Element) -> Vec<Missing> {
    let mut found: Vec<String> = devices(domain, "shmem")
        .map(|memory| {
            let name = memory.attribute("name").unwrap_or("?");
            format!("memory `{name}` that it shares with other machines of its host")
        })
        .collect();
    let transient = devices(domain, "disk").filter(|disk| disk.find("transient").is_some());
    found.extend(transient.map(|disk| format!("the transient disk `{}`", target(disk))));
    let cpu = domain.find("cpu").into_iter();
    let invariant = cpu.flat_map(|cpu| cpu.all("feature")).any(|feature| {
        feature.attribute("name") == Some("invtsc")
            && !matches!(feature.attribute("policy"), Some("disable" | "forbid"))
    });
    let mut timers = domain.find("clock").into_iter().flat_map(|clock| clock.all("timer"));
    let fixed = timers.any(|timer| {
        timer.attribute("name") == Some("tsc") && timer.attribute("frequency").is_some()
    });
    if invariant && !fixed {
        found.push("the CPU feature `invtsc` without a frequency of its `tsc` timer".to_owned());
    }
    found.into_iter().map(Missing::NotMigratable).collect()
}

/// Managers that would start a machine again which they miss on its host, by what is in the namespaces
/// of their metadata.
const MANAGERS: [(&str, &str); 12] = [
    ("openstack.org", "nova"),
    ("ovirt.org", "oVirt"),
    ("kubevirt.io", "KubeVirt"),
    ("harvesterhci.io", "Harvester"),
    ("opennebula.org", "OpenNebula"),
    ("proxmox", "Proxmox"),
    ("cloudstack", "CloudStack"),
    ("clusterlabs.org", "Pacemaker"),
    ("pacemaker", "Pacemaker"),
    ("ganeti", "Ganeti"),
    ("nutanix", "Nutanix"),
    ("virtuozzo", "Virtuozzo"),
];

/// The same by what they write as the product of the machine.
const PRODUCTS: [(&str, &str); 5] = [
    ("openstack nova", "nova"),
    ("ovirt node", "oVirt"),
    ("rhev hypervisor", "oVirt"),
    ("cloudstack", "CloudStack"),
    ("kubevirt", "KubeVirt"),
];

/// The names of all managers whose machines are known by their descriptions or by resource agents.
#[must_use = "an iterator"]
pub fn managers() -> impl Iterator<Item = &'static str> {
    MANAGERS.iter().chain(&PRODUCTS).map(|(_, manager)| *manager)
}

/// Who else manages it, as its description says.
pub(crate) fn manager(domain: &Element) -> Option<&'static str> {
    let mut spaces = Vec::new();
    if let Some(metadata) = domain.find("metadata") {
        metadata.walk(&mut |element| spaces.push(element.namespace.to_lowercase()));
    }
    let owner = MANAGERS.iter().find(|(part, _)| spaces.iter().any(|space| space.contains(part)));
    let mut products = Vec::new();
    for info in domain.all("sysinfo") {
        info.walk(&mut |element| {
            if matches!(element.attribute("name"), Some("product" | "manufacturer" | "family")) {
                products.push(element.text.to_lowercase());
            }
        });
    }
    let sold = || PRODUCTS.iter().find(|(part, _)| products.iter().any(|text| text.contains(part)));
    owner.or_else(sold).map(|(_, manager)| *manager)
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
    fn files_of_the_host_are_found_wherever_they_are_named() {
        for (inner, path, what, usage) in [
            ("<os><kernel>/boot/k</kernel></os>", "/boot/k", "its kernel", FileUse::Read),
            ("<os><initrd>/boot/i</initrd></os>", "/boot/i", "initial file system", FileUse::Read),
            (
                "<os><loader readonly='yes' type='pflash'>/usr/share/OVMF/C.fd</loader></os>",
                "/usr/share/OVMF/C.fd",
                "its firmware",
                FileUse::Read,
            ),
            ("<os><nvram>/nv/a.fd</nvram></os>", "/nv/a.fd", "variables", FileUse::Made),
            (
                "<os><nvram type='file'><source file='/nv/b.fd'/></nvram></os>",
                "/nv/b.fd",
                "variables",
                FileUse::Made,
            ),
            (
                "<sysinfo type='fwcfg'><entry name='opt/com.coreos/config' file='/ign/1.ign'/></sysinfo>",
                "/ign/1.ign",
                "`opt/com.coreos/config` of its fw_cfg",
                FileUse::Read,
            ),
            (
                "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
                 <q:arg value='-fw_cfg'/><q:arg value='name=opt/x,file=/ign/2.ign'/></q:commandline>",
                "/ign/2.ign",
                "`opt/x` of its fw_cfg",
                FileUse::Read,
            ),
            (
                "<devices><interface type='vhostuser'><mac address='52:54:00:00:00:03'/>\
                 <source type='unix' path='/run/ovs/vhu-1' mode='client'/></interface></devices>",
                "/run/ovs/vhu-1",
                "interface `52:54:00:00:00:03`",
                FileUse::Read,
            ),
            (
                "<devices><channel type='unix'><source mode='connect' path='/run/x'/></channel></devices>",
                "/run/x",
                "channel port",
                FileUse::Read,
            ),
        ] {
            let [found] = &files(&domain(inner))[..] else { panic!("{inner}") };
            assert_eq!((found.path.as_str(), found.usage), (path, usage), "{inner}");
            assert!(found.what.contains(what), "{found:?}");
        }
        for inner in [
            "<os><type>hvm</type></os>",
            "<os firmware='efi'/><sysinfo type='smbios'><system><entry name='product'>x</entry></system></sysinfo>",
            "<devices><interface type='vhostuser'><source type='unix' path='/x' mode='server'/></interface></devices>",
            "<devices><channel type='unix'><source mode='bind' path='/run/x'/></channel>\
             <serial type='pty'><source path='/dev/pts/3'/></serial></devices>",
        ] {
            assert_eq!(files(&domain(inner)), [], "{inner}");
        }
    }

    #[test]
    fn secrets_are_named_as_libvirt_looks_them_up() {
        let uuid = |uuid: &str| Secret::Uuid(uuid.to_owned());
        for (disk, secret) in [
            ("<auth username='u'><secret type='ceph' uuid='1-2'/></auth>", uuid("1-2")),
            (
                "<source><auth username='u'><secret type='iscsi' usage='san'/></auth></source>",
                Secret::Usage("iscsi".to_owned(), "san".to_owned()),
            ),
            (
                "<source file='/a'><encryption format='luks'><secret type='passphrase' uuid='3'/></encryption></source>",
                uuid("3"),
            ),
        ] {
            let found = secrets(&with_devices(&format!("<disk>{disk}</disk><disk>{disk}</disk>")));
            assert_eq!(found, [secret], "{disk}");
        }
        let tpm = "<tpm><backend type='emulator'><encryption secret='4'/></backend></tpm>";
        assert_eq!(secrets(&with_devices(tpm)), [uuid("4")]);
    }

    #[test]
    fn only_addresses_of_one_host_are_needed() {
        for (inner, found) in [
            ("<graphics type='vnc' listen='10.0.0.5'/>", Some("10.0.0.5")),
            (
                "<graphics type='vnc' listen='fd00::5'><listen type='address' address='fd00::5'/></graphics>",
                Some("fd00::5"),
            ),
            (
                "<serial type='tcp'><source mode='bind' host='10.0.0.5' service='1'/></serial>",
                Some("10.0.0.5"),
            ),
            ("<graphics type='vnc' listen='0.0.0.0'/>", None),
            (
                "<graphics type='spice' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>",
                None,
            ),
            (
                "<graphics type='vnc' listen='10.0.0.5'><listen type='network' address='10.0.0.5' network='m'/></graphics>",
                None,
            ),
            ("<graphics type='vnc'><listen type='socket' socket='/x'/></graphics>", None),
            (
                "<serial type='tcp'><source mode='connect' host='10.0.0.9' service='1'/></serial>",
                None,
            ),
        ] {
            let expected: Vec<String> = found.map(str::to_owned).into_iter().collect();
            assert_eq!(addresses(&with_devices(inner)), expected, "{inner}");
        }
    }

    #[test]
    fn cpus_are_dedicated_where_there_are_no_more_of_them_than_virtual_ones() {
        for (pins, found) in [
            ("<vcpupin vcpu='0' cpuset='1'/>", vec![1]),
            ("<vcpupin vcpu='0' cpuset='1-2'/><vcpupin vcpu='1' cpuset='1-2'/>", vec![1, 2]),
            ("<vcpupin vcpu='0' cpuset='0-7'/>", vec![]),
            ("<emulatorpin cpuset='3'/>", vec![]),
        ] {
            let pinned = domain(&format!("<cputune>{pins}</cputune>"));
            assert_eq!(dedicated_cpus(&pinned), found, "{pins}");
        }
    }

    #[test]
    fn what_libvirt_never_migrates_is_named() {
        for (inner, words) in [
            ("<devices><shmem name='box'/></devices>", "`box`"),
            ("<devices><disk><target dev='vda'/><transient/></disk></devices>", "`vda`"),
            ("<cpu><feature policy='require' name='invtsc'/></cpu>", "invtsc"),
        ] {
            let [found] = &not_migratable(&domain(inner))[..] else { panic!("{inner}") };
            assert!(found.to_string().contains(words), "{found}");
        }
        let fixed = "<cpu><feature policy='require' name='invtsc'/></cpu>\
                     <clock><timer name='tsc' frequency='3000000000'/></clock>";
        assert_eq!(not_migratable(&domain(fixed)), []);
    }

    #[test]
    fn other_managers_are_known_by_their_metadata_and_tools_are_none() {
        for (inner, manager_of_it) in [
            (
                "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>",
                Some("nova"),
            ),
            ("<metadata xmlns:v='http://ovirt.org/vm/1.0'><v:vm/></metadata>", Some("oVirt")),
            (
                "<metadata><k:kubevirt xmlns:k='http://kubevirt.io'><uid/></k:kubevirt></metadata>",
                Some("KubeVirt"),
            ),
            (
                "<metadata><p:vm xmlns:p='https://www.proxmox.com/xmlns'/></metadata>",
                Some("Proxmox"),
            ),
            (
                "<sysinfo type='smbios'><system><entry name='product'>CloudStack KVM Hypervisor</entry></system></sysinfo>",
                Some("CloudStack"),
            ),
            (
                "<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
                 <l:os id='http://debian.org/debian/12'/></l:libosinfo></metadata>",
                None,
            ),
            ("<metadata><e:entry xmlns:e='https://evenkeel.dev/entry'/></metadata>", None),
            ("", None),
        ] {
            assert_eq!(manager(&domain(inner)), manager_of_it, "{inner}");
        }
    }
}

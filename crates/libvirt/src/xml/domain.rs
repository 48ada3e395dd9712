//! What a domain's description says of a machine.

use evenkeel_core::model::{CpuNeed, Entry, MachineFacts, MachineId, Requirements};

use super::host::fnv1a;
use super::tree::Element;
use super::{entry, fixtures, needs, network};
use crate::locks::names_something;
use crate::storage::Storage;

/// A domain's description, understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Description {
    /// What the core knows of the machine.
    pub(crate) facts: MachineFacts,
    /// Whether it is emulated in software (TCG).
    pub(crate) emulated: bool,
    /// Whether it has disks with something in them.
    pub(crate) has_disks: bool,
    /// Whether it has network interfaces.
    pub(crate) has_interfaces: bool,
    /// Whether it is a copy that waits to be claimed, if it is paused.
    pub(crate) held: bool,
    /// Who else manages it, if anybody.
    pub(crate) manager: Option<&'static str>,
}

/// Reads a domain's description. `cpu_signature` is that of the host, which a machine needs whose
/// CPU is the host's own.
pub(crate) fn describe(
    xml: &str,
    persistent: bool,
    storage: &Storage,
    cpu_signature: &str,
) -> Result<Description, String> {
    let domain = Element::parse(xml).map_err(|error| error.to_string())?;
    let id = MachineId::new(domain.text_of("uuid")).map_err(|error| error.to_string())?;
    let vcpus = domain.find("vcpu").map_or(Some(1), vcpus);
    let vcpus = vcpus.ok_or_else(|| format!("domain `{id}` has no number of virtual CPUs"))?;
    let memory = domain.find("memory").and_then(bytes);
    let memory_bytes = memory.ok_or_else(|| format!("domain `{id}` has no amount of memory"))?;
    let needs = requirements(xml, &domain, memory_bytes, storage, cpu_signature);
    let entry: Result<Entry, String> = entry::of_domain(&domain);
    let facts = MachineFacts {
        id,
        name: domain.text_of("name").into(),
        vcpus,
        memory_bytes,
        needs,
        persistent,
        autostart: false,
        locks: storage.locks(&domain),
        entry,
    };
    let devices = |name| domain.find("devices").into_iter().flat_map(move |all| all.all(name));
    let has_disks = devices("disk").any(|disk| disk.find("source").is_some_and(names_something));
    let has_interfaces = devices("interface").next().is_some();
    let emulated = domain.attribute("type") == Some("qemu");
    let held = entry::is_held(&domain);
    let manager = fixtures::manager(&domain);
    Ok(Description { facts, emulated, has_disks, has_interfaces, held, manager })
}

/// What it needs of a host.
fn requirements(
    xml: &str,
    domain: &Element,
    memory_bytes: f64,
    storage: &Storage,
    cpu_signature: &str,
) -> Requirements {
    let of_type = |name| domain.find("os/type").and_then(|os| os.attribute(name));
    let mut disks = storage.needs(domain);
    disks.keeps.extend(fixtures::not_migratable(domain));
    disks.files.extend(fixtures::files(domain));
    let devices = needs::passed_through(domain);
    let cpu = cpu_need(domain.find("cpu"), cpu_signature);
    // What is passed through or left to QEMU is described on no other host by the same words.
    let spelled_out = domain.find("cpu").filter(|_| matches!(cpu, CpuNeed::Model(_)));
    let definition = spelled_out.map(|cpu| &xml[cpu.span.clone()]);
    Requirements {
        arch: of_type("arch").unwrap_or("").to_owned(),
        cpu,
        storage: disks.shared.into_iter().collect(),
        local_storage: !disks.local.is_empty() || !devices.is_empty(),
        cpu_digest: definition.map(|text| fnv1a(text.as_bytes())),
        machine_type: of_type("machine").map(str::to_owned),
        virt_type: domain.attribute("type").map(str::to_owned),
        networks: some(needs::networks(domain)),
        devices: some(devices),
        huge_pages: some(needs::huge_pages(domain, memory_bytes)),
        numa_nodes: some(needs::numa_nodes(domain)),
        host_cpus: some(needs::host_cpus(domain)),
        local_disks: some(disks.local),
        special: some(crate::carried::special(xml)),
        vcpus: domain.find("vcpu").and_then(|vcpu| vcpu.text.parse().ok()),
        attachments: some(network::attachments(domain)),
        host_uuid: None,
        files: some(disks.files),
        secrets: some(fixtures::secrets(domain)),
        addresses: some(fixtures::addresses(domain)),
        dedicated_cpus: some(fixtures::dedicated_cpus(domain)),
        emulated_tpm: has_emulated_tpm(domain).then_some(true),
        keeps: disks.keeps,
        cpu_definition: definition.map(Into::into),
    }
}

fn has_emulated_tpm(domain: &Element) -> bool {
    let backends = needs::devices(domain, "tpm").filter_map(|tpm| tpm.find("backend"));
    backends.into_iter().any(|backend| backend.attribute("type") == Some("emulator"))
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Virtual CPUs in use; more may be plugged in, which makes for new facts.
fn vcpus(vcpu: &Element) -> Option<u32> {
    let count = vcpu.attribute("current").unwrap_or(&vcpu.text).parse().ok();
    count.filter(|&count| count > 0)
}

/// An amount of memory, in bytes; KiB where no unit is given.
fn bytes(memory: &Element) -> Option<f64> {
    bytes_of(&memory.text, memory.attribute("unit").unwrap_or("KiB"))
}

/// So many of a unit as libvirt writes it, in bytes.
pub(crate) fn bytes_of(amount: &str, unit: &str) -> Option<f64> {
    let unit = match unit {
        "b" | "bytes" => 1.0,
        "KB" => 1e3,
        "k" | "KiB" => 1024.0,
        "MB" => 1e6,
        "M" | "MiB" => 1_048_576.0,
        "GB" => 1e9,
        "G" | "GiB" => 1_073_741_824.0,
        "TB" => 1e12,
        "T" | "TiB" => 1_099_511_627_776.0,
        _ => return None,
    };
    amount.parse::<u64>().ok().map(|amount| amount as f64 * unit)
}

/// The CPU that a machine has to find on another host. While it runs, libvirt describes `host-model`
/// as the model that it came out as; what is not spelled out is the host's own.
fn cpu_need(cpu: Option<&Element>, host_signature: &str) -> CpuNeed {
    let Some(cpu) = cpu else { return CpuNeed::Any };
    match (cpu.attribute("mode").unwrap_or("custom"), cpu.text_of("model")) {
        ("custom", "") => CpuNeed::Any,
        ("custom", model) => CpuNeed::Model(model.to_owned()),
        _ => CpuNeed::Signature(host_signature.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "11111111-2222-4333-8444-000000000001";

    fn described(inner: &str) -> Result<Description, String> {
        let xml = format!(
            "<domain type='qemu' id='3'><name>web-1</name><uuid>{ID}</uuid>{inner}\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        );
        describe(&xml, true, &Storage::default(), "this very CPU")
    }

    const ROOM: &str = "<memory unit='KiB'>65536</memory><vcpu current='2'>4</vcpu>";

    #[test]
    fn a_description_says_what_a_machine_is_and_needs() {
        let found = described(ROOM).unwrap();
        let facts = found.facts;
        assert_eq!((facts.id.as_str(), &*facts.name, facts.vcpus), (ID, "web-1", 2));
        assert!((facts.memory_bytes - 67_108_864.0).abs() < 0.5);
        assert!(found.emulated && !found.has_disks && facts.persistent);
        assert_eq!((facts.needs.arch.as_str(), facts.entry), ("x86_64", Ok(Entry::default())));
    }

    #[test]
    fn the_cpu_needed_is_the_model_or_the_hosts_own() {
        let model = |name: &str| CpuNeed::Model(name.to_owned());
        let own = || CpuNeed::Signature("this very CPU".to_owned());
        for (cpu, need) in [
            ("", CpuNeed::Any),
            ("<cpu><topology sockets='1'/></cpu>", CpuNeed::Any),
            ("<cpu mode='custom'><model fallback='forbid'>qemu64</model></cpu>", model("qemu64")),
            (
                "<cpu match='exact'><model>EPYC-Rome</model><feature name='x'/></cpu>",
                model("EPYC-Rome"),
            ),
            ("<cpu mode='host-passthrough' migratable='on'/>", own()),
            ("<cpu mode='host-model'/>", own()),
            ("<cpu mode='maximum'/>", own()),
        ] {
            assert_eq!(described(&format!("{ROOM}{cpu}")).unwrap().facts.needs.cpu, need, "{cpu}");
        }
    }

    #[test]
    fn a_description_without_the_essentials_is_refused() {
        for inner in [
            "<memory>1</memory><vcpu>0</vcpu>",
            "<memory>1</memory><vcpu>many</vcpu>",
            "<memory unit='furlong'>1</memory><vcpu>1</vcpu>",
            "<memory>-1</memory><vcpu>1</vcpu>",
            "<vcpu>1</vcpu>",
        ] {
            assert!(described(inner).is_err(), "{inner}");
        }
        assert!(describe("<domain/>", true, &Storage::default(), "").is_err());
        assert!(describe("hello", true, &Storage::default(), "").is_err());
    }

    proptest! {
        #[test]
        fn no_description_makes_the_reader_panic(inner in "[ -~]{0,120}") {
            let _ = described(&inner);
            let _ = describe(&inner, false, &Storage::default(), "");
        }
    }
}

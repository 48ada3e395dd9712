//! What libvirt's capabilities say of a host.

use std::collections::BTreeSet;

use super::tree::{Element, XmlError};

/// A host's capabilities, as far as they matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostDescription {
    /// Its architecture.
    pub(crate) arch: String,
    /// What libvirt calls it.
    pub(crate) uuid: String,
    /// What its CPU is: equal texts, equal CPUs.
    pub(crate) cpu_signature: String,
    /// The types of domains that it runs, such as `kvm` and `qemu`.
    pub(crate) domain_types: BTreeSet<String>,
    /// The types of virtual hardware that they can have.
    pub(crate) machine_types: BTreeSet<String>,
    /// Its NUMA nodes.
    pub(crate) numa_nodes: BTreeSet<u32>,
    /// Its CPUs.
    pub(crate) cpus: BTreeSet<u32>,
}

impl HostDescription {
    /// From what `virConnectGetCapabilities` returns.
    pub(crate) fn read(capabilities: &str) -> Result<Self, XmlError> {
        let root = Element::parse(capabilities)?;
        let arch = root.text_of("host/cpu/arch").to_owned();
        let own_guests = || {
            let guests = root.all("guest").filter_map(|guest| guest.find("arch"));
            guests.filter(|guest| guest.attribute("name") == Some(&arch))
        };
        let domains = || own_guests().flat_map(|guest| guest.all("domain"));
        let domain_types =
            domains().filter_map(|domain| domain.attribute("type").map(str::to_owned)).collect();
        let of_domains = domains().flat_map(|domain| domain.all("machine"));
        let machines = own_guests().flat_map(|guest| guest.all("machine")).chain(of_domains);
        let machine_types = machines.flat_map(machine_names).collect();
        let cpu_signature = root.find("host/cpu").map_or_else(String::new, signature);
        let cells = || {
            let cells = root.find("host/topology/cells");
            cells.into_iter().flat_map(|cells| cells.all("cell"))
        };
        let id = |element: &Element| element.attribute("id").and_then(|id| id.parse().ok());
        let cpus = cells().filter_map(|cell| cell.find("cpus")).flat_map(|cpus| cpus.all("cpu"));
        let (numa_nodes, cpus) = (cells().filter_map(id).collect(), cpus.filter_map(id).collect());
        let uuid = root.text_of("host/uuid").to_owned();
        Ok(Self { uuid, cpu_signature, domain_types, machine_types, numa_nodes, cpus, arch })
    }
}

/// A type of virtual hardware, and what else it is called.
fn machine_names(machine: &Element) -> impl Iterator<Item = String> {
    let canonical = machine.attribute("canonical").map(str::to_owned);
    std::iter::once(machine.text.clone()).chain(canonical)
}

/// Vendor, model, stepping and features: what a machine sees to which the CPU is passed through.
/// Empty where libvirt describes nothing of it, as of many ARM processors: then no two are known to be alike.
/// Microcode is left out, since it changes under running machines without their noticing.
fn signature(cpu: &Element) -> String {
    let mut features: Vec<&str> =
        cpu.all("feature").filter_map(|feature| feature.attribute("name")).collect();
    features.sort_unstable();
    let stepping = cpu.find("signature").map_or_else(String::new, |signature| {
        let part = |name| signature.attribute(name).unwrap_or("?");
        format!("{}-{}-{}", part("family"), part("model"), part("stepping"))
    });
    let (vendor, model) = (cpu.text_of("vendor"), cpu.text_of("model"));
    if vendor.is_empty() && model.is_empty() && features.is_empty() && stepping.is_empty() {
        return String::new();
    }
    format!("{vendor} {model} {stepping} {:016x}", fnv1a(features.join(",").as_bytes()))
}

/// A digest that is the same in every build: not against malice, only to keep the text short.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The CPU models that domains can have, from what `virConnectGetDomainCapabilities` returns.
pub(crate) fn usable_cpu_models(domain_capabilities: &str) -> Result<BTreeSet<String>, XmlError> {
    let root = Element::parse(domain_capabilities)?;
    let modes = root.find("cpu").into_iter().flat_map(|cpu| cpu.all("mode"));
    let custom = modes.filter(|mode| mode.attribute("name") == Some("custom"));
    let models = custom.flat_map(|mode| mode.all("model"));
    let usable = models.filter(|model| model.attribute("usable") != Some("no"));
    Ok(usable.map(|model| model.text.clone()).collect())
}

/// Whether domains can have a TPM in software, from the same.
pub(crate) fn emulates_tpm(domain_capabilities: &str) -> Option<bool> {
    let root = Element::parse(domain_capabilities).ok()?;
    let tpm = root.find("devices/tpm")?;
    let mut backends = tpm.all("enum").filter(|e| e.attribute("name") == Some("backendModel"));
    let has = backends.any(|backend| backend.all("value").any(|value| value.text == "emulator"));
    Some(has && tpm.attribute("supported") != Some("no"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(stepping: &str, features: [&str; 2]) -> String {
        format!(
            "<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch><model>Skylake</model>\
             <vendor>Intel</vendor><microcode version='1'/>\
             <signature family='6' model='85' stepping='{stepping}'/>\
             <feature name='{}'/><feature name='{}'/></cpu><topology><cells><cell id='0'><cpus>\
             <cpu id='0'/><cpu id='3'/></cpus></cell></cells></topology></host>\
             <guest><os_type>hvm</os_type><arch name='i686'><domain type='xen'/></arch></guest>\
             <guest><os_type>hvm</os_type><arch name='x86_64'>\
             <machine canonical='pc-q35-9.2'>q35</machine><domain type='qemu'/>\
             <domain type='kvm'/></arch></guest></capabilities>",
            features[0], features[1]
        )
    }

    #[test]
    fn hosts_with_the_same_cpu_have_the_same_signature() {
        let read =
            |stepping, features| HostDescription::read(&capabilities(stepping, features)).unwrap();
        let host = read("7", ["vmx", "aes"]);
        let types: Vec<&str> = host.domain_types.iter().map(String::as_str).collect();
        assert_eq!((host.arch.as_str(), types), ("x86_64", vec!["kvm", "qemu"]));
        assert_eq!(host.machine_types, ["pc-q35-9.2", "q35"].map(str::to_owned).into());
        assert_eq!((host.numa_nodes, host.cpus), ([0].into(), [0, 3].into()));
        assert_eq!(host.cpu_signature, read("7", ["aes", "vmx"]).cpu_signature);
        assert_ne!(host.cpu_signature, read("4", ["aes", "vmx"]).cpu_signature);
        assert_ne!(host.cpu_signature, read("7", ["aes", "avx"]).cpu_signature);
    }

    #[test]
    fn hosts_of_whose_cpus_nothing_is_told_are_not_alike() {
        for cpu in ["<cpu><arch>aarch64</arch></cpu>", "<cpu/>", ""] {
            let text = format!("<capabilities><host>{cpu}</host></capabilities>");
            assert_eq!(HostDescription::read(&text).unwrap().cpu_signature, "", "{cpu}");
        }
    }

    #[test]
    fn models_are_listed_unless_they_cannot_run() {
        let text = "<domainCapabilities><cpu><mode name='host-passthrough' supported='yes'/>\
            <mode name='host-model'><model fallback='forbid'>X</model></mode><mode name='custom'>\
            <model usable='yes'>qemu64</model><model usable='no'>EPYC</model>\
            <model usable='unknown'>old</model></mode></cpu></domainCapabilities>";
        let models: Vec<String> = usable_cpu_models(text).unwrap().into_iter().collect();
        assert_eq!(models, ["old", "qemu64"]);
        assert!(usable_cpu_models("nothing").is_err());
    }
}

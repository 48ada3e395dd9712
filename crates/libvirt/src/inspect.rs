//! What libvirt says of a host to whoever wants to know whether it is in order.

use crate::basis::memory_bytes;
use crate::emulator::{QemuVersion, processor_virtualizes};
use crate::ffi::{CallError, Connection, run_event_loop};
use crate::xml::Element;
use crate::xml::host::HostDescription;

/// What libvirt says of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// libvirt's version: 1,000,000 × major + 1,000 × minor + release.
    pub libvirt: u64,
    /// QEMU's version, counted alike.
    pub qemu: u64,
    /// Whether machines have the processor's help (KVM).
    pub hardware: bool,
    /// How it executes machines by preference: `kvm`, `qemu`.
    pub virt_type: String,
    /// The richest CPU that it can give to such machines, as XML; empty if it does not tell.
    pub cpu: String,
    /// The model of that.
    pub cpu_model: String,
    /// Machines that are emulated in software, running or not.
    pub emulated_machines: u32,
    /// What libvirt calls the host.
    pub host_uuid: String,
    /// Memory that machines are reckoned with here, in bytes.
    pub memory_bytes: u64,
}

impl Inspection {
    /// QEMU's version as people write it.
    #[must_use]
    pub const fn qemu_version(&self) -> QemuVersion {
        QemuVersion::from_libvirt(self.qemu)
    }
}

fn open(uri: &str, read_only: bool) -> Result<Connection, CallError> {
    run_event_loop()?;
    Connection::open(uri, read_only)
}

/// Looks at the host behind `uri`, which must be this one. Blocks while libvirt answers.
///
/// # Errors
/// Why libvirt did not answer, in its own words.
pub fn inspect(uri: &str) -> Result<Inspection, String> {
    look(uri).map_err(|error| error.to_string())
}

fn look(uri: &str) -> Result<Inspection, CallError> {
    let connection = open(uri, false)?;
    let capabilities = connection.capabilities()?;
    let host = HostDescription::read(&capabilities).unwrap_or_default();
    // libvirt goes by the device, which is there on machines whose processor cannot use it.
    let hardware = host.domain_types.contains("kvm") && processor_virtualizes();
    let virt_type = if hardware { "kvm" } else { "qemu" }.to_owned();
    let offered = connection.domain_capabilities(&virt_type).unwrap_or_default();
    let (cpu, cpu_model) = host_model(&offered).unwrap_or_default();
    let emulated = |xml: &String| {
        Element::parse(xml).is_ok_and(|domain| domain.attribute("type") == Some("qemu"))
    };
    let emulated = connection.descriptions()?.iter().filter(|xml| emulated(xml)).count();
    Ok(Inspection {
        libvirt: connection.library_version()?,
        qemu: connection.hypervisor_version()?,
        hardware,
        virt_type,
        cpu,
        cpu_model,
        emulated_machines: u32::try_from(emulated).unwrap_or(u32::MAX),
        host_uuid: host.uuid,
        memory_bytes: memory_bytes(uri, connection.node_info()?.memory_kib.saturating_mul(1024)),
    })
}

/// What `host-model` stands for, from what domains can have: as a CPU of its own, and its model.
fn host_model(domain_capabilities: &str) -> Option<(String, String)> {
    let root = Element::parse(domain_capabilities).ok()?;
    let mut modes = root.find("cpu")?.all("mode");
    let mode = modes.find(|mode| {
        mode.attribute("name") == Some("host-model") && mode.attribute("supported") != Some("no")
    })?;
    let inner = &domain_capabilities[mode.start_tag.end..mode.span.end];
    let inner = inner.strip_suffix("</mode>")?;
    let model = mode.text_of("model").to_owned();
    Some((format!("<cpu mode='custom' match='exact'>{inner}</cpu>"), model))
}

/// Whether a libvirt answers at `uri`: over a connection that may change nothing, closed at once.
///
/// # Errors
/// Why not, in its client's words.
pub fn reaches(uri: &str) -> Result<(), String> {
    let reached = open(uri, true).and_then(|connection| connection.library_version());
    reached.map(drop).map_err(|error| error.to_string())
}

/// The richest CPU that all hosts with these CPUs can give to machines of this type, as the libvirt
/// at `uri` works it out: its model, and how many features it has besides.
///
/// # Errors
/// Why there is none, in libvirt's words.
pub fn baseline_cpu(
    uri: &str,
    virt_type: &str,
    cpus: &[String],
) -> Result<(String, usize), String> {
    let connection = open(uri, false).map_err(|error| error.to_string())?;
    let mut cpus = cpus.to_vec();
    let found = loop {
        match connection.baseline_cpu(&cpus, virt_type) {
            Ok(found) => break found,
            // A newer libvirt names features that this one does not know: what all hosts can run is
            // told without them.
            Err(error) => {
                let unknown = unknown_feature(&error.message);
                let without = unknown.and_then(|name| without_feature(&cpus, &name));
                cpus = without.ok_or_else(|| error.to_string())?;
            }
        }
    };
    let cpu = Element::parse(&found).map_err(|error| error.to_string())?;
    let required = |feature: &&Element| feature.attribute("policy") != Some("disable");
    Ok((cpu.text_of("model").to_owned(), cpu.all("feature").filter(required).count()))
}

/// The feature that libvirt says it does not know: `unknown CPU feature: x`, `Unknown CPU feature x`.
fn unknown_feature(message: &str) -> Option<String> {
    let at = message.to_lowercase().find("unknown cpu feature")?;
    let rest = message.get(at + "unknown cpu feature".len()..)?;
    let name = rest.split([' ', ':', '\'', '"']).find(|part| !part.is_empty())?;
    Some(name.to_owned())
}

/// These CPUs without a feature; nothing if none of them has it.
fn without_feature(cpus: &[String], name: &str) -> Option<Vec<String>> {
    let mut found = false;
    let mut without = Vec::new();
    for cpu in cpus {
        let mut text = cpu.clone();
        let root = Element::parse(cpu).ok()?;
        let named = root.all("feature").filter(|feature| feature.attribute("name") == Some(name));
        for feature in named.collect::<Vec<_>>().into_iter().rev() {
            text.replace_range(feature.span.clone(), "");
            found = true;
        }
        without.push(text);
    }
    found.then_some(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_libvirt_does_not_know_is_left_out() {
        for (message, name) in [
            ("internal error: unknown CPU feature: vmx-new", Some("vmx-new")),
            ("invalid argument: Unknown CPU feature 'x-y'", Some("x-y")),
            ("something else", None),
        ] {
            assert_eq!(unknown_feature(message).as_deref(), name, "{message}");
        }
        let cpu = "<cpu><model>A</model><feature policy='require' name='x'/>\
                   <feature policy='require' name='y'/></cpu>";
        let without = without_feature(&[cpu.to_owned()], "x").unwrap();
        assert_eq!(without, ["<cpu><model>A</model><feature policy='require' name='y'/></cpu>"]);
        assert_eq!(without_feature(&without, "x"), None, "not for ever");
    }

    #[test]
    fn the_hosts_own_model_is_taken_out_as_a_cpu() {
        let text = "<domainCapabilities><cpu><mode name='maximum' supported='yes'/>\
            <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model>\
            <feature policy='require' name='ss'/></mode></cpu></domainCapabilities>";
        let cpu = "<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model>\
                   <feature policy='require' name='ss'/></cpu>";
        assert_eq!(host_model(text), Some((cpu.to_owned(), "EPYC".to_owned())));
        assert_eq!(host_model(&text.replace("supported='yes'", "supported='no'")), None);
        assert_eq!(host_model("nothing"), None);
    }
}

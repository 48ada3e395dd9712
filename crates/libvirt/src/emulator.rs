//! Whether machines can be migrated here without losing their memory.

use std::fmt;

use crate::ffi::{CallError, Connection, run_event_loop};
use crate::xml::host::HostDescription;

/// Below this version QEMU's software emulation (TCG) corrupts a guest's memory when it is migrated
/// live.
const QEMU_MAJOR_MIN_FOR_TCG: u64 = 9;

/// QEMU's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// The 10 of 10.0.2.
    pub major: u64,
    /// The first 0.
    pub minor: u64,
    /// The 2.
    pub release: u64,
}

impl QemuVersion {
    pub(crate) const fn from_libvirt(version: u64) -> Self {
        let (major, rest) = (version / 1_000_000, version % 1_000_000);
        Self { major, minor: rest / 1000, release: rest % 1000 }
    }

    /// Whether it migrates machines intact that it emulates in software.
    #[must_use]
    pub const fn migrates_emulated_machines(self) -> bool {
        self.major >= QEMU_MAJOR_MIN_FOR_TCG
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// What runs the machines of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// Its version.
    pub qemu: QemuVersion,
    /// Whether it has the processor's help (KVM).
    pub hardware: bool,
}

/// Why machines are not to be run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmulatorError {
    /// libvirt does not answer. Nothing is known then.
    #[error(
        "libvirt at `{uri}` does not answer: {detail}; see that its daemon runs and that this user may connect to it"
    )]
    Unreachable {
        /// Where it was looked for.
        uri: String,
        /// Its client's words.
        detail: String,
    },
    /// Software emulation that corrupts memory.
    #[error(
        "this host has no usable KVM, and QEMU {0} corrupts the memory of machines that it emulates \
         when they are migrated: install QEMU {QEMU_MAJOR_MIN_FOR_TCG} or later (on Debian 12 from \
         bookworm-backports)"
    )]
    CorruptsMemory(QemuVersion),
}

/// Looks at what runs the machines of the host behind `uri`, which must be this one. Blocks while
/// libvirt answers.
///
/// # Errors
/// When libvirt cannot be reached, or when migrations would corrupt the memory of machines.
pub fn check_emulator(uri: &str) -> Result<Emulator, EmulatorError> {
    let unreachable = |error: CallError| EmulatorError::Unreachable {
        uri: uri.to_owned(),
        detail: error.to_string(),
    };
    run_event_loop().map_err(unreachable)?;
    let connection = Connection::open(uri, false).map_err(unreachable)?;
    let version = connection.hypervisor_version().map_err(unreachable)?;
    let capabilities = connection.capabilities().map_err(unreachable)?;
    let host = HostDescription::read(&capabilities).unwrap_or_default();
    // libvirt goes by the device, which is there on machines whose processor cannot use it.
    let hardware = host.domain_types.contains("kvm") && processor_virtualizes();
    judge(Emulator { qemu: QemuVersion::from_libvirt(version), hardware })
}

fn judge(emulator: Emulator) -> Result<Emulator, EmulatorError> {
    if emulator.hardware || emulator.qemu.migrates_emulated_machines() {
        Ok(emulator)
    } else {
        Err(EmulatorError::CorruptsMemory(emulator.qemu))
    }
}

/// Whether the processor has the extensions that KVM needs; on architectures that do not list them
/// so, libvirt's word is taken.
pub(crate) fn processor_virtualizes() -> bool {
    if !cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
        return true;
    }
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = cpus.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_ascii_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_emulation_is_refused_below_qemu_9() {
        for (version, hardware, fine) in [
            (7_002_000, false, false),
            (8_002_002, false, false),
            (8_002_002, true, true),
            (9_000_000, false, true),
            (10_000_002, false, true),
        ] {
            let qemu = QemuVersion::from_libvirt(version);
            let judged = judge(Emulator { qemu, hardware });
            assert_eq!(judged.is_ok(), fine, "{version}, {hardware}");
        }
        let text = EmulatorError::CorruptsMemory(QemuVersion::from_libvirt(7_002_000)).to_string();
        assert!(text.contains("QEMU 7.2.0") && text.contains("QEMU 9 or later"), "{text}");
    }
}

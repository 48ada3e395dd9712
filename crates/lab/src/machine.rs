//! What this machine can do: which programs are there, and whether guests can use KVM.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError};
use crate::user::LabUser;

/// The guest in `guest/`, compiled by this crate's build script; empty on other platforms.
pub(crate) const GUEST_IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

/// Below this version, software emulation loses guest memory in live migration.
const QEMU_MAJOR_MIN_FOR_TCG: u32 = 9;
const QEMU: &str = "qemu-system-x86_64";
const SETUP_HINT: &str = "scripts/setup installs it";

/// How guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// On the processor's virtualization extensions.
    Kvm,
    /// By software emulation; QEMU 9 or later.
    Tcg,
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation (TCG)",
        })
    }
}

/// The programs a lab is made of, and how guests run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) acceleration: Acceleration,
    pub(crate) qemu: PathBuf,
    pub(crate) libvirtd: PathBuf,
    pub(crate) virsh: PathBuf,
}

impl Machine {
    /// Looks at this machine as the lab's user will see it.
    ///
    /// # Errors
    /// [`LabError::NoHypervisor`], naming the package to install.
    pub(crate) fn inspect(user: &LabUser) -> Result<Self, LabError> {
        if GUEST_IMAGE.is_empty() {
            return Err(LabError::NoHypervisor {
                reason: "the lab's guest runs on x86_64 Linux only".to_owned(),
                hint: "use an x86_64 machine with Linux".to_owned(),
            });
        }
        let machine = Self {
            acceleration: if kvm_usable(user) { Acceleration::Kvm } else { Acceleration::Tcg },
            qemu: find(QEMU, "qemu-system-x86")?,
            libvirtd: find("libvirtd", "libvirt-daemon")?,
            virsh: find("virsh", "libvirt-clients")?,
        };
        let major = qemu_major(&machine.qemu)?;
        if machine.acceleration == Acceleration::Tcg && major < QEMU_MAJOR_MIN_FOR_TCG {
            return Err(LabError::NoHypervisor {
                reason: format!(
                    "there is no usable KVM, and QEMU {major} loses guest memory in live migration without it"
                ),
                hint: format!(
                    "install qemu-system-x86, version {QEMU_MAJOR_MIN_FOR_TCG} or later; {SETUP_HINT}"
                ),
            });
        }
        Ok(machine)
    }
}

fn find(program: &str, package: &str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| LabError::NoHypervisor {
            reason: format!("`{program}` is not installed"),
            hint: format!("install the package {package}; {SETUP_HINT}"),
        })
}

/// `/dev/kvm` alone means nothing: it exists on machines whose processor has no virtualization
/// extensions, and guests never reach their first line there.
fn kvm_usable(user: &LabUser) -> bool {
    let device = user.may(Path::new("/dev/kvm"), 6).unwrap_or(false);
    device
        && fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpus| {
            cpus.lines().filter(|line| line.starts_with("flags")).any(|line| {
                line.split_ascii_whitespace().any(|flag| flag == "svm" || flag == "vmx")
            })
        })
}

fn qemu_major(qemu: &Path) -> Result<u32, LabError> {
    let output = Command::new(qemu)
        .arg("--version")
        .output()
        .attempt(|| format!("run `{}`", qemu.display()))?;
    parse_qemu_major(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        LabError::NoHypervisor {
            reason: format!("`{}` does not say its version", qemu.display()),
            hint: format!("reinstall the package qemu-system-x86; {SETUP_HINT}"),
        }
    })
}

fn parse_qemu_major(text: &str) -> Option<u32> {
    text.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read_from_what_distributions_print() {
        for (text, major) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n", Some(10)),
            ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.4)\nCopyright", Some(8)),
            ("QEMU emulator version 9.0.50\n", Some(9)),
            ("qemu: not found", None),
        ] {
            assert_eq!(parse_qemu_major(text), major, "{text}");
        }
    }
}

//! What a host lacks for a machine, or what keeps a machine on its host: in words, with its reason.

use super::{Attachment, Network, NetworkFacts, Secret};
use crate::reason::Reason;

/// What a host lacks for a machine: the first thing that is missing, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Missing {
    /// It has a device of its present host.
    #[error("{0} is passed through to it")]
    Passthrough(String),
    /// Something that the host does not admit.
    #[error("the host does not admit it through agents: {0}")]
    NotAdmitted(String),
    /// Another architecture.
    #[error("it needs the architecture `{needs}`, and the host has `{has}`")]
    Arch {
        /// The machine's.
        needs: String,
        /// The host's.
        has: String,
    },
    /// Not executed like this.
    #[error("the host runs no machines of type `{0}`")]
    VirtType(String),
    /// No such virtual hardware.
    #[error("the host's QEMU has no machine type `{0}`")]
    MachineType(String),
    /// Its CPU model.
    #[error("the host cannot run the CPU model `{0}`")]
    CpuModel(String),
    /// Its CPU is that of its host.
    #[error("its CPU is its present host's own, and the other host has another one")]
    CpuOfHost,
    /// The same, of which nothing is known.
    #[error(
        "its CPU is its present host's own, which libvirt does not describe: it may be like none other"
    )]
    CpuNotDescribed,
    /// Features of its CPU, in the hypervisor's words.
    #[error("{0}")]
    CpuFeatures(String),
    /// Shared storage.
    #[error("the host does not reach the storage `{0}`")]
    Storage(String),
    /// A disk that is nowhere else and is not copied.
    #[error("{0}")]
    LocalDisk(String),
    /// A place for the copy of a disk.
    #[error("{0}")]
    DiskRoom(String),
    /// A network.
    #[error("the host has no {0}")]
    Network(Network),
    /// A network of the same name that is another one.
    #[error("network `{}` {how}", .network.name())]
    OtherNetwork {
        /// The network.
        network: Network,
        /// In what it differs.
        how: String,
    },
    /// A group of ports of a virtual network.
    #[error("network `{}` has no port group `{group}` on the host", .network.name())]
    Portgroup {
        /// The network.
        network: Network,
        /// The group.
        group: String,
    },
    /// A network that reaches only what is on its host.
    #[error("network `{}` reaches only what is on its host (NAT, isolated, or no way out)", .0.name())]
    Island(Network),
    /// A file of its host.
    #[error("the host has not the file `{path}` ({what})")]
    File {
        /// Its path.
        path: String,
        /// What it is for.
        what: String,
    },
    /// The file of a disk that is on shared storage.
    #[error(
        "the file `{path}` of its disk `{disk}` is not on the host: is the storage mounted there?"
    )]
    DiskFile {
        /// Its path.
        path: String,
        /// The disk.
        disk: String,
    },
    /// A file of its host that is another one there.
    #[error("`{path}` has {has} bytes on the host and {needs} here ({what})")]
    FileSize {
        /// Its path.
        path: String,
        /// What it is for.
        what: String,
        /// How large it is to be.
        needs: u64,
        /// How large it is.
        has: u64,
    },
    /// A secret of its host's hypervisor.
    #[error("the host's libvirt has no secret {0}")]
    Secret(Secret),
    /// An address of its host that it listens at.
    #[error("it listens at `{0}`, which is no address of the host")]
    Address(String),
    /// Its name.
    #[error("a machine of the name `{name}` is on the host, with the UUID {other}")]
    NameTaken {
        /// The name.
        name: String,
        /// The other machine.
        other: String,
    },
    /// CPUs that another machine has for itself.
    #[error("CPU {cpu} of the host is pinned to machine `{machine}` there, and to it")]
    CpuPinned {
        /// The CPU.
        cpu: u32,
        /// The machine there.
        machine: String,
    },
    /// The two hosts say that they are one.
    #[error("both hosts have the UUID {0}, and libvirt takes them for one")]
    SameHost(String),
    /// An emulator of a TPM.
    #[error("the host's libvirt has no emulator of a TPM (swtpm)")]
    TpmEmulator,
    /// Snapshots that the hypervisor keeps of it.
    #[error("libvirt keeps {0} snapshots of it and migrates no machine that has any")]
    Snapshots(u32),
    /// Checkpoints of its backups.
    #[error("libvirt keeps {0} checkpoints of it for incremental backups, which a migration loses")]
    Checkpoints(u32),
    /// Another manager that has it.
    #[error("`{0}` manages it, as its description says")]
    Managed(String),
    /// Something of it that the hypervisor never migrates.
    #[error("it has {0}, which libvirt does not migrate")]
    NotMigratable(String),
    /// Storage that the hypervisor does not take for shared.
    #[error(
        "its disk `{disk}` (`{path}`) is on a file system that libvirt does not take for shared (`{kind}`)"
    )]
    UnsafeStorage {
        /// The disk.
        disk: String,
        /// Its file.
        path: String,
        /// The file system.
        kind: String,
    },
    /// Huge pages.
    #[error(
        "it needs {needs} MiB in huge pages of {kib} KiB (0: the default size), and the host has {free} MiB free"
    )]
    HugePages {
        /// Their size; 0 is the default.
        kib: u64,
        /// In MiB.
        needs: u64,
        /// In MiB.
        free: u64,
    },
    /// A NUMA node.
    #[error("its memory is bound to NUMA node {0}, which the host does not have")]
    NumaNode(u32),
    /// A CPU.
    #[error("it is bound to CPU {0} of its host, which the other host does not have")]
    HostCpu(u32),
}

impl Missing {
    /// The reason code of it.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Passthrough(_) => Reason::Passthrough,
            Self::NotAdmitted(_) => Reason::NotAdmitted,
            Self::Arch { .. } | Self::CpuModel(_) | Self::CpuOfHost | Self::CpuNotDescribed => {
                Reason::NoCpuModel
            }
            Self::VirtType(_) | Self::MachineType(_) => Reason::NoMachineType,
            Self::CpuFeatures(_) => Reason::NoCpuFeature,
            Self::Storage(_) => Reason::NoStorage,
            Self::LocalDisk(_) => Reason::LocalDisk,
            Self::DiskRoom(_) => Reason::NoDiskRoom,
            Self::Network(_) => Reason::NoNetwork,
            Self::HugePages { .. } => Reason::NoHugePages,
            Self::NumaNode(_) | Self::HostCpu(_) => Reason::NoNumaNode,
            Self::OtherNetwork { .. } | Self::Portgroup { .. } | Self::Island(_) => {
                Reason::OtherNetwork
            }
            Self::File { .. } | Self::FileSize { .. } | Self::TpmEmulator => Reason::NoFile,
            Self::DiskFile { .. } => Reason::NoStorage,
            Self::Secret(_) => Reason::NoSecret,
            Self::Address(_) => Reason::NoAddress,
            Self::NameTaken { .. } => Reason::NameTaken,
            Self::CpuPinned { .. } => Reason::CpuPinned,
            Self::SameHost(_) => Reason::SameHostUuid,
            Self::Snapshots(_) => Reason::Snapshots,
            Self::Checkpoints(_) => Reason::Checkpoints,
            Self::Managed(_) => Reason::OtherManager,
            Self::NotMigratable(_) => Reason::NotMigratable,
            Self::UnsafeStorage { .. } => Reason::UnsafeStorage,
        }
    }
}

impl Attachment {
    /// Whether an interface so attached finds the same on a host where its network is as in `there`.
    ///
    /// # Errors
    /// What it would not find.
    pub fn fits(&self, there: &NetworkFacts) -> Result<(), Missing> {
        let network = || self.network.clone();
        let differs = |how| Missing::OtherNetwork { network: network(), how };
        self.link.connects_to(&there.link).map_err(differs)?;
        self.link.leads_to(&there.link).map_err(differs)?;
        match &self.portgroup {
            Some(group) if !there.portgroups.contains(group) => {
                Err(Missing::Portgroup { network: network(), group: group.clone() })
            }
            _ => Ok(()),
        }
    }

    /// What keeps a machine so attached on its host, wherever it would go.
    #[must_use]
    pub fn keeps(&self) -> Option<Missing> {
        let alone = self.link.island && self.link.segment.is_none();
        alone.then(|| Missing::Island(self.network.clone()))
    }
}

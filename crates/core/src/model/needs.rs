//! What a machine needs of a host besides room, and what a host provides: whether the one could run
//! on the other, judged by names before any byte moves.
//!
//! What is not known refuses nothing here. The other host's hypervisor is asked in the end
//! ([`crate::port::Order::Examine`]): it looks for itself, and compares CPUs feature by feature.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Attachment, Missing, Network, NetworkFacts, Secret};

/// The virtual CPU that a machine was defined with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuNeed {
    /// Nothing particular.
    #[default]
    #[n(0)]
    Any,
    /// A named model, such as `qemu64` or `EPYC-Rome`.
    #[n(1)]
    Model(#[n(0)] String),
    /// The physical CPU passed through: the other host must have the same.
    #[n(2)]
    Signature(#[n(0)] String),
}

/// What a machine needs of a host besides room. Of what is `None` its host did not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// Architecture in libvirt's spelling; empty when not known.
    #[n(0)]
    pub arch: String,
    /// Its CPU.
    #[n(1)]
    pub cpu: CpuNeed,
    /// Ids of the shared storage that its disks are on.
    #[n(2)]
    pub storage: Vec<String>,
    /// Whether a disk of it is where only its present host reaches it, or it holds on to its host in
    /// another way.
    #[n(3)]
    pub local_storage: bool,
    /// A digest of the CPU that it runs with, every feature included: machines with the same digest
    /// run on the same hosts.
    #[n(4)]
    pub cpu_digest: Option<u64>,
    /// The type of its virtual hardware, such as `pc-q35-9.2`.
    #[n(5)]
    pub machine_type: Option<String>,
    /// How it is executed: `kvm`, `qemu`.
    #[n(6)]
    pub virt_type: Option<String>,
    /// What its network interfaces are connected to on its host.
    #[n(7)]
    pub networks: Option<Vec<Network>>,
    /// Devices of its host that are passed through to it, in words. A machine that has any cannot be
    /// moved live.
    #[n(8)]
    pub devices: Option<Vec<String>>,
    /// Huge pages that its memory is made of.
    #[n(9)]
    pub huge_pages: Option<Vec<HugePages>>,
    /// NUMA nodes of its host that its memory is bound to.
    #[n(10)]
    pub numa_nodes: Option<Vec<u32>>,
    /// CPUs of its host that it is bound to.
    #[n(11)]
    pub host_cpus: Option<Vec<u32>>,
    /// Disks that only its present host reaches. Told to another host only if the operator lets them
    /// be copied.
    #[n(12)]
    pub local_disks: Option<Vec<LocalDisk>>,
    /// What of it another host has to admit by its configuration, such as `tpm`; or, in words, what no
    /// host lets in through agents.
    #[n(13)]
    pub special: Option<Vec<String>>,
    /// Most virtual CPUs that it may come to have.
    #[n(14)]
    pub vcpus: Option<u32>,
    /// How the networks that it is connected to are on its present host.
    #[n(15)]
    pub attachments: Option<Vec<Attachment>>,
    /// What its present host's hypervisor calls that host. It moves between no two of the same UUID.
    #[n(16)]
    pub host_uuid: Option<String>,
    /// Files that it must find on its host, and what for.
    #[n(17)]
    pub files: Option<Vec<HostFile>>,
    /// Secrets that its hypervisor must know.
    #[n(18)]
    pub secrets: Option<Vec<Secret>>,
    /// Addresses of its host at which it is listened for: of consoles and serial ports.
    #[n(19)]
    pub addresses: Option<Vec<String>>,
    /// CPUs of its host that no other machine is to be pinned to.
    #[n(20)]
    pub dedicated_cpus: Option<Vec<u32>>,
    /// Whether it has a TPM in software.
    #[n(21)]
    pub emulated_tpm: Option<bool>,
    /// What keeps it on its present host, whatever the other one has. It stays there, so that no other
    /// host is told.
    #[cbor(skip)]
    #[serde(skip)]
    pub keeps: Vec<Missing>,
    /// The CPU that it runs with, in the hypervisor's own words, for the other host's hypervisor to
    /// compare. Too long for an offer of many machines: it goes along with the one that was chosen.
    #[cbor(skip)]
    #[serde(skip)]
    pub cpu_definition: Option<Arc<str>>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct HugePages {
    /// Their size in KiB; 0 is the host's default size.
    #[n(0)]
    pub kib: u64,
    /// Memory that is made of them, in bytes.
    #[n(1)]
    pub bytes: u64,
}

/// A file that a machine must find on its host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct HostFile {
    /// Its path.
    #[n(0)]
    pub path: String,
    /// What for, in words; of a disk its name.
    #[n(1)]
    pub what: String,
    /// How it is used.
    #[n(2)]
    pub usage: FileUse,
    /// How large it is here, in bytes, where the other one must be as large.
    #[n(3)]
    pub bytes: Option<u64>,
}

/// How a machine uses a file of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum FileUse {
    /// It reads it, or connects to it.
    #[n(0)]
    Read,
    /// Its disk is in it, on storage that both hosts reach.
    #[n(1)]
    Disk,
    /// It is made where it is not there. Its directory must be, and a file that is there must be as large.
    #[n(2)]
    Made,
}

/// A disk that only one host reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct LocalDisk {
    /// What the machine calls it, such as `vda`.
    #[n(0)]
    pub name: String,
    /// Its file on its present host.
    #[n(1)]
    pub path: String,
    /// The hypervisor's storage pool that the file is in. The copy goes into the pool of that name.
    #[n(2)]
    pub pool: String,
    /// Its size as the machine sees it, in bytes: what its copy may come to take.
    #[n(3)]
    pub bytes: u64,
    /// What of it is in use, in bytes: what is sent.
    #[n(4)]
    pub used_bytes: u64,
    /// Why it cannot be copied, in words, if so.
    #[n(5)]
    pub obstacle: Option<String>,
}

/// Where the copy of a local disk goes on the other host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct DiskPlace {
    /// [`LocalDisk::name`].
    #[n(0)]
    pub name: String,
    /// Its file there.
    #[n(1)]
    pub path: String,
}

/// What machines may need of a host besides room. An empty set of what is always there (models,
/// types) is one that is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provides {
    /// Architecture in libvirt's spelling (`x86_64`); empty when not known.
    pub arch: String,
    /// Named CPU models that this host can run.
    pub cpu_models: BTreeSet<String>,
    /// What the physical CPU is: equal on hosts between which a passed-through CPU can move.
    pub cpu_signature: String,
    /// Storage that other hosts reach under the same id.
    pub storage: BTreeSet<String>,
    /// How it executes machines: `kvm`, `qemu`.
    pub virt_types: BTreeSet<String>,
    /// Types of virtual hardware.
    pub machine_types: BTreeSet<String>,
    /// What network interfaces can be connected to; `None` if that was not told.
    pub networks: Option<BTreeSet<Network>>,
    /// Storage pools of its own that copies of disks can go into.
    pub pools: BTreeSet<String>,
    /// Free memory in huge pages by their size in KiB, in bytes; 0 stands for the default size.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Its NUMA nodes.
    pub numa_nodes: BTreeSet<u32>,
    /// Its CPUs.
    pub host_cpus: BTreeSet<u32>,
    /// How its networks are.
    pub links: BTreeMap<String, NetworkFacts>,
    /// What its hypervisor calls it; empty when not known.
    pub host_uuid: String,
    /// Whether machines here can have a TPM in software; `None` if that was not told.
    pub emulated_tpm: Option<bool>,
    /// What it admits of [`Requirements::special`]; `None` where machines come by other ways than
    /// through agents, and it lets everything in.
    pub admits: Option<BTreeSet<String>>,
}

const MIB: u64 = 1 << 20;

impl Requirements {
    /// What keeps the machine on its present host whatever the other one has; `copies` if its local
    /// disks may be copied.
    ///
    /// # Errors
    /// The first of it.
    pub fn movable(&self, copies: bool) -> Result<(), Missing> {
        if let Some(device) = self.devices.iter().flatten().next() {
            return Err(Missing::Passthrough(device.clone()));
        }
        if let Some(missing) = self.keeps.first() {
            return Err(missing.clone());
        }
        if !self.local_storage {
            return Ok(());
        }
        let Some(disk) = self.local_disks.iter().flatten().next() else {
            let words = "a disk of it is where only its present host reaches it";
            return Err(Missing::LocalDisk(words.to_owned()));
        };
        if !copies {
            let LocalDisk { name, path, .. } = disk;
            let words = format!(
                "its disk `{name}` (`{path}`) is on its present host alone, and nobody has said \
                 that it may be copied"
            );
            return Err(Missing::LocalDisk(words));
        }
        let obstacle = |disk: &LocalDisk| {
            let why = disk.obstacle.as_ref()?;
            Some(Missing::LocalDisk(format!("its disk `{}` cannot be copied: {why}", disk.name)))
        };
        self.local_disks.iter().flatten().find_map(obstacle).map_or(Ok(()), Err)
    }

    /// What its local disks add to what its migration sends, in bytes.
    #[must_use]
    pub fn copied_bytes(&self) -> f64 {
        self.local_disks.iter().flatten().map(|disk| disk.used_bytes as f64).sum()
    }

    /// Whether there is anything that the other host's hypervisor can be asked about.
    #[must_use]
    pub fn can_be_examined(&self) -> bool {
        *self != Self::default()
    }

    /// What the machine needs now and did not when it was `agreed` on, in words. Its CPU cannot
    /// change while it runs, and what its disks hold may.
    #[must_use]
    pub fn beyond(&self, agreed: &Self) -> Option<String> {
        let new = |now: &[String], before: &[String]| {
            now.iter().find(|one| !before.contains(one)).cloned()
        };
        fn told<T>(list: &Option<Vec<T>>) -> &[T] {
            list.as_deref().unwrap_or_default()
        }
        if let Some(device) = new(told(&self.devices), told(&agreed.devices)) {
            return Some(format!("{device} is passed through to it"));
        }
        if let Some(id) = new(&self.storage, &agreed.storage) {
            return Some(format!("a disk on the storage `{id}`"));
        }
        let is_agreed = |disk: &&LocalDisk| {
            let same = |other: &LocalDisk| (&other.name, &other.path) == (&disk.name, &disk.path);
            told(&agreed.local_disks).iter().any(same)
        };
        if let Some(disk) = told(&self.local_disks).iter().find(|disk| !is_agreed(disk)) {
            return Some(format!("a disk `{}` (`{}`)", disk.name, disk.path));
        }
        if self.local_storage && !agreed.local_storage {
            return Some("a disk that only its present host reaches".to_owned());
        }
        let network = told(&self.networks).iter().find(|n| !told(&agreed.networks).contains(n));
        if let Some(network) = network {
            return Some(format!("a {network}"));
        }
        if let Some(file) = told(&self.files).iter().find(|f| {
            // Disks were compared above.
            f.usage != FileUse::Disk && !told(&agreed.files).iter().any(|a| a.path == f.path)
        }) && agreed.files.is_some()
        {
            return Some(format!("the file `{}` ({})", file.path, file.what));
        }
        if let Some(special) = new(told(&self.special), told(&agreed.special)) {
            return Some(special);
        }
        // An agent of an earlier version did not tell.
        match (self.vcpus, agreed.vcpus) {
            (Some(now), Some(before)) if now > before => Some(format!("{now} virtual CPUs")),
            _ => None,
        }
    }
}

impl Provides {
    /// Whether a machine with these requirements could run here.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn meets(&self, needs: &Requirements) -> Result<(), Missing> {
        if !needs.arch.is_empty() && !self.arch.is_empty() && needs.arch != self.arch {
            let (needs, has) = (needs.arch.clone(), self.arch.clone());
            return Err(Missing::Arch { needs, has });
        }
        if let Some(uuid) = needs.host_uuid.as_ref().filter(|uuid| **uuid == self.host_uuid) {
            return Err(Missing::SameHost(uuid.clone()));
        }
        self.runs(needs)?;
        if let Some(id) = needs.storage.iter().find(|id| !self.storage.contains(*id)) {
            return Err(Missing::Storage(id.clone()));
        }
        // Without the operator's yes its disks are not told.
        if needs.local_storage {
            needs.movable(true)?;
        }
        self.copies(needs)?;
        if let Some(admits) = &self.admits {
            let special = needs.special.iter().flatten().find(|one| !admits.contains(*one));
            special.map_or(Ok(()), |one| Err(Missing::NotAdmitted(one.clone())))?;
        }
        if let Some(networks) = &self.networks {
            let absent = needs.networks.iter().flatten().find(|n| !networks.contains(n));
            absent.map_or(Ok(()), |network| Err(Missing::Network(network.clone())))?;
        }
        for attachment in needs.attachments.iter().flatten() {
            // What its host did not tell refuses nothing.
            if let Some(there) = self.links.get(&attachment.network.to_string()) {
                attachment.fits(there)?;
            }
        }
        if needs.emulated_tpm == Some(true) && self.emulated_tpm == Some(false) {
            return Err(Missing::TpmEmulator);
        }
        self.has_memory(needs)
    }

    /// Whether its CPU model is one that this host can run, by name: where its hypervisor compares no
    /// CPUs.
    ///
    /// # Errors
    /// If it is not.
    pub fn names_cpu(&self, needs: &Requirements) -> Result<(), Missing> {
        match &needs.cpu {
            CpuNeed::Model(model)
                if !self.cpu_models.is_empty() && !self.cpu_models.contains(model) =>
            {
                Err(Missing::CpuModel(model.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether its CPU and virtual hardware are to be had.
    fn runs(&self, needs: &Requirements) -> Result<(), Missing> {
        let lacks = |known: &BTreeSet<String>, wanted: &str| {
            !known.is_empty() && !wanted.is_empty() && !known.contains(wanted)
        };
        if let Some(virt) = needs.virt_type.as_ref().filter(|v| lacks(&self.virt_types, v)) {
            return Err(Missing::VirtType(virt.clone()));
        }
        if let Some(kind) = needs.machine_type.as_ref().filter(|t| lacks(&self.machine_types, t)) {
            return Err(Missing::MachineType(kind.clone()));
        }
        match &needs.cpu {
            // A CPU that is spelled out is for the hypervisor to compare: a model whose name is not
            // usable here may well be without the features that the machine runs without.
            CpuNeed::Model(model)
                if needs.cpu_digest.is_none() && lacks(&self.cpu_models, model) =>
            {
                Err(Missing::CpuModel(model.clone()))
            }
            CpuNeed::Signature(signature) if signature.is_empty() => Err(Missing::CpuNotDescribed),
            CpuNeed::Signature(signature) if *signature != self.cpu_signature => {
                Err(Missing::CpuOfHost)
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a pool for every disk that is to be copied.
    fn copies(&self, needs: &Requirements) -> Result<(), Missing> {
        let homeless = needs.local_disks.iter().flatten().find(|d| !self.pools.contains(&d.pool));
        homeless.map_or(Ok(()), |LocalDisk { name, pool, .. }| {
            let words = format!(
                "the host has no active storage pool `{pool}`, where the copy of its disk \
                 `{name}` would go"
            );
            Err(Missing::DiskRoom(words))
        })
    }

    fn has_memory(&self, needs: &Requirements) -> Result<(), Missing> {
        for &HugePages { kib, bytes } in needs.huge_pages.iter().flatten() {
            let free = self.huge_pages.get(&kib).copied().unwrap_or(0);
            if free < bytes {
                return Err(Missing::HugePages { kib, needs: bytes / MIB, free: free / MIB });
            }
        }
        let absent = |wanted: &Option<Vec<u32>>, known: &BTreeSet<u32>| {
            let mut wanted = wanted.iter().flatten();
            wanted.find(|one| !known.is_empty() && !known.contains(one)).copied()
        };
        if let Some(node) = absent(&needs.numa_nodes, &self.numa_nodes) {
            return Err(Missing::NumaNode(node));
        }
        absent(&needs.host_cpus, &self.host_cpus).map_or(Ok(()), |c| Err(Missing::HostCpu(c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn host() -> Provides {
        Provides {
            arch: "x86_64".to_owned(),
            cpu_models: set(&["qemu64"]),
            cpu_signature: "this one".to_owned(),
            storage: set(&["nfs"]),
            virt_types: set(&["kvm", "qemu"]),
            machine_types: set(&["pc-q35-9.2"]),
            networks: Some(BTreeSet::from([
                Network::Virtual("lan".to_owned()),
                Network::Interface("br0".to_owned()),
            ])),
            pools: set(&["images"]),
            huge_pages: BTreeMap::from([(2048, 64 * MIB), (0, 64 * MIB)]),
            numa_nodes: BTreeSet::from([0]),
            host_cpus: BTreeSet::from([0, 1]),
            links: BTreeMap::new(),
            host_uuid: "this host".to_owned(),
            emulated_tpm: Some(false),
            admits: Some(set(&["tpm"])),
        }
    }

    fn disk(pool: &str, obstacle: Option<&str>) -> Requirements {
        let disk = LocalDisk {
            name: "vda".to_owned(),
            path: "/srv/a.qcow2".to_owned(),
            pool: pool.to_owned(),
            obstacle: obstacle.map(str::to_owned),
            ..LocalDisk::default()
        };
        Requirements {
            local_storage: true,
            local_disks: Some(vec![disk]),
            ..Requirements::default()
        }
    }

    /// Needs, and what the host above lacks for them.
    fn cases() -> Vec<(Requirements, Option<(Reason, &'static str)>)> {
        let any = Requirements::default;
        let text = |text: &str| Some(text.to_owned());
        let model = |name: &str| CpuNeed::Model(name.to_owned());
        let network = |network| Some(vec![network]);
        let pages = |kib, bytes| Some(vec![HugePages { kib, bytes }]);
        vec![
            (any(), None),
            (Requirements { arch: "x86_64".to_owned(), ..any() }, None),
            (
                Requirements { arch: "aarch64".to_owned(), ..any() },
                Some((Reason::NoCpuModel, "`aarch64`, and the host has `x86_64`")),
            ),
            (
                Requirements { virt_type: text("xen"), ..any() },
                Some((Reason::NoMachineType, "`xen`")),
            ),
            (Requirements { machine_type: text("pc-q35-9.2"), ..any() }, None),
            (
                Requirements { machine_type: text("pc-q35-10.1"), ..any() },
                Some((Reason::NoMachineType, "`pc-q35-10.1`")),
            ),
            (Requirements { cpu: model("qemu64"), ..any() }, None),
            (Requirements { cpu: model("EPYC"), ..any() }, Some((Reason::NoCpuModel, "`EPYC`"))),
            // Spelled out, it is compared by the hypervisor: a name that is not usable says nothing.
            (Requirements { cpu: model("EPYC"), cpu_digest: Some(7), ..any() }, None),
            (
                Requirements { cpu: CpuNeed::Signature(String::new()), ..any() },
                Some((Reason::NoCpuModel, "does not describe")),
            ),
            (
                Requirements { host_uuid: text("this host"), ..any() },
                Some((Reason::SameHostUuid, "this host")),
            ),
            (Requirements { host_uuid: text("that host"), ..any() }, None),
            (
                Requirements { emulated_tpm: Some(true), ..any() },
                Some((Reason::NoFile, "emulator of a TPM")),
            ),
            (
                Requirements { cpu: CpuNeed::Signature("another".to_owned()), ..any() },
                Some((Reason::NoCpuModel, "its present host's own")),
            ),
            (Requirements { storage: vec!["nfs".to_owned()], ..any() }, None),
            (
                Requirements { storage: vec!["nfs".to_owned(), "san".to_owned()], ..any() },
                Some((Reason::NoStorage, "`san`")),
            ),
            (
                Requirements { local_storage: true, ..any() },
                Some((Reason::LocalDisk, "only its present host")),
            ),
            (disk("images", None), None),
            (disk("other", None), Some((Reason::NoDiskRoom, "pool `other`"))),
            (disk("images", Some("it is raw")), Some((Reason::LocalDisk, "`vda`"))),
            (Requirements { networks: network(Network::Virtual("lan".into())), ..any() }, None),
            (
                Requirements { networks: network(Network::Interface("lan".into())), ..any() },
                Some((Reason::NoNetwork, "no bridge or interface `lan`")),
            ),
            (
                Requirements { networks: network(Network::Virtual("dmz".into())), ..any() },
                Some((Reason::NoNetwork, "network `dmz`")),
            ),
            (Requirements { huge_pages: pages(2048, 64 * MIB), ..any() }, None),
            (
                Requirements { huge_pages: pages(2048, 65 * MIB), ..any() },
                Some((Reason::NoHugePages, "65 MiB in huge pages of 2048 KiB")),
            ),
            (
                Requirements { huge_pages: pages(1 << 20, MIB), ..any() },
                Some((Reason::NoHugePages, "0 MiB free")),
            ),
            (Requirements { special: Some(vec!["tpm".to_owned()]), ..any() }, None),
            (
                Requirements { special: Some(vec!["sockets".to_owned()]), ..any() },
                Some((Reason::NotAdmitted, "admit it through agents: sockets")),
            ),
            (
                Requirements { numa_nodes: Some(vec![0, 1]), ..any() },
                Some((Reason::NoNumaNode, "NUMA node 1")),
            ),
            (
                Requirements { host_cpus: Some(vec![1, 7]), ..any() },
                Some((Reason::NoNumaNode, "CPU 7")),
            ),
        ]
    }

    #[test]
    fn what_a_host_lacks_is_named_with_its_reason() {
        for (needs, lacks) in cases() {
            match (host().meets(&needs), lacks) {
                (Ok(()), None) => {}
                (Err(missing), Some((reason, words))) => {
                    assert_eq!(missing.reason(), reason, "{missing}");
                    assert!(missing.to_string().contains(words), "{missing}: {words}");
                }
                (found, expected) => panic!("{needs:?}: {found:?}, {expected:?}"),
            }
        }
    }

    #[test]
    fn a_host_of_which_nothing_is_known_refuses_only_what_it_must_have() {
        let unknown = Provides::default();
        let must = [Reason::NoStorage, Reason::LocalDisk, Reason::NoDiskRoom, Reason::NoHugePages];
        for (needs, lacks) in cases() {
            let known = lacks.map(|(reason, _)| reason).filter(|reason| must.contains(reason));
            let of_host = matches!(needs.cpu, CpuNeed::Signature(_));
            let own = !needs.storage.is_empty()
                || needs.huge_pages.is_some()
                || needs.local_storage
                || of_host;
            assert_eq!(unknown.meets(&needs).is_err(), known.is_some() || own, "{needs:?}");
        }
    }

    #[test]
    fn a_device_or_a_disk_without_a_yes_keeps_a_machine_where_it_is() {
        let device = Some(vec!["the PCI device 0000:03:00.0".to_owned()]);
        let bound = Requirements { devices: device, ..Requirements::default() };
        let missing = bound.movable(true).unwrap_err();
        assert_eq!(missing.reason(), Reason::Passthrough);
        assert!(missing.to_string().contains("0000:03:00.0"), "{missing}");
        let local = disk("images", None);
        assert_eq!(local.movable(true), Ok(()));
        let missing = local.movable(false).unwrap_err();
        assert_eq!(missing.reason(), Reason::LocalDisk);
        assert!(missing.to_string().contains("`/srv/a.qcow2`"), "{missing}");
        assert!(disk("images", Some("why")).movable(true).is_err());
    }

    #[test]
    fn what_was_added_since_it_was_agreed_on_is_named() {
        let agreed = Requirements { storage: vec!["nfs".to_owned()], ..Requirements::default() };
        assert_eq!(agreed.beyond(&agreed), None);
        assert_eq!(Requirements::default().beyond(&agreed), None, "less is fine");
        let network = Some(vec![Network::Interface("br7".to_owned())]);
        for (now, words) in [
            (Requirements { storage: vec!["san".to_owned()], ..agreed.clone() }, "`san`"),
            (Requirements { networks: network, ..agreed.clone() }, "`br7`"),
            (Requirements { devices: Some(vec!["a stick".to_owned()]), ..agreed.clone() }, "stick"),
            (Requirements { local_storage: true, ..agreed.clone() }, "present host"),
            (Requirements { special: Some(vec!["tpm".to_owned()]), ..agreed.clone() }, "tpm"),
            (disk("images", None), "`vda`"),
        ] {
            let new = now.beyond(&agreed).unwrap_or_default();
            assert!(new.contains(words), "{new}: {words}");
        }
        let grown =
            LocalDisk { used_bytes: 9, ..disk("images", None).local_disks.unwrap()[0].clone() };
        let grown = Requirements { local_disks: Some(vec![grown]), ..disk("images", None) };
        assert_eq!(grown.beyond(&disk("images", None)), None, "disks fill up");
    }
}

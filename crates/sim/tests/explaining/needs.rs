//! Situations in which a machine stays because the other host lacks what it needs.

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{
    Attachment, HugePages, Link, LocalDisk, Missing, Network, NetworkFacts, Provides, Requirements,
};
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_hypervisor::memory::{Aftermath, Fault};
use evenkeel_sim::Cluster;

use crate::common::*;
use crate::stage::{Stage, after};
use crate::{Situation, Told};

pub(crate) const SITUATIONS: &[Situation] = &[
    (Reason::NoCpuModel, no_cpu_model, Told::First),
    (Reason::NoStorage, no_storage, Told::First),
    (Reason::Passthrough, passthrough, Told::First),
    (Reason::NotAdmitted, not_admitted, Told::First),
    (Reason::NoMachineType, no_machine_type, Told::First),
    (Reason::NoNetwork, no_network, Told::First),
    (Reason::NoHugePages, no_huge_pages, Told::First),
    (Reason::NoNumaNode, no_numa_node, Told::First),
    (Reason::LocalDisk, local_disk, Told::First),
    (Reason::NoDiskRoom, no_disk_room, Told::First),
    (Reason::OtherNetwork, other_network, Told::First),
    (Reason::NoFile, no_file, Told::First),
    (Reason::NameTaken, name_taken, Told::First),
    (Reason::CpuPinned, cpu_pinned, Told::First),
    (Reason::SameHostUuid, same_host_uuid, Told::First),
    (Reason::Snapshots, snapshots, Told::First),
    (Reason::Checkpoints, checkpoints, Told::First),
    (Reason::OtherManager, other_manager, Told::First),
    (Reason::NotMigratable, not_migratable, Told::First),
    (Reason::UnsafeStorage, unsafe_storage, Told::First),
    (Reason::JobUnderWay, job_under_way, Told::First),
];

/// A machine that needs something of a host which has of everything but that.
fn needing(change: impl FnOnce(&mut Requirements)) -> Stage {
    let mut needs = Requirements::default();
    change(&mut needs);
    let told = Provides {
        arch: "x86_64".to_owned(),
        machine_types: ["pc".to_owned()].into(),
        networks: Some([Network::Virtual("default".to_owned())].into()),
        numa_nodes: [0].into(),
        admits: Some([].into()),
        ..Provides::default()
    };
    Stage::new().edit(|s| s.m.needs = needs).there_has(|facts| facts.provides = told)
}

fn no_cpu_model() -> Cluster {
    needing(|needs| needs.arch = "aarch64".to_owned()).minute()
}

fn no_storage() -> Cluster {
    needing(|needs| needs.storage = vec!["nfs1".to_owned()]).minute()
}

fn passthrough() -> Cluster {
    needing(|needs| needs.devices = Some(vec!["a USB stick".to_owned()])).minute()
}

fn not_admitted() -> Cluster {
    needing(|needs| needs.special = Some(vec!["tpm".to_owned()])).minute()
}

fn no_machine_type() -> Cluster {
    needing(|needs| needs.machine_type = Some("pc-q35-10.1".to_owned())).minute()
}

fn no_network() -> Cluster {
    needing(|needs| needs.networks = Some(vec![Network::Interface("lan".to_owned())])).minute()
}

fn no_huge_pages() -> Cluster {
    let pages = vec![HugePages { kib: 2048, bytes: 1 << 30 }];
    needing(|needs| needs.huge_pages = Some(pages)).minute()
}

fn no_numa_node() -> Cluster {
    needing(|needs| needs.numa_nodes = Some(vec![1])).minute()
}

/// A machine with a disk that only its present host reaches.
fn with_disk() -> Stage {
    let disk = LocalDisk {
        name: "vda".to_owned(),
        path: "/images/m".to_owned(),
        pool: "images".to_owned(),
        bytes: 1 << 20,
        ..LocalDisk::default()
    };
    needing(|needs| {
        needs.local_storage = true;
        needs.local_disks = Some(vec![disk]);
    })
}

fn local_disk() -> Cluster {
    with_disk().minute()
}

fn no_disk_room() -> Cluster {
    with_disk().configured(|c| c.copy_storage = true).minute()
}

/// A network of the same name that lacks the group of ports.
fn other_network() -> Cluster {
    let network = || Network::Virtual("default".to_owned());
    let portgroup = Some("vlan-120".to_owned());
    let attachment = Attachment { network: network(), link: Link::default(), portgroup };
    needing(|needs| needs.attachments = Some(vec![attachment]))
        .there_has(|facts| {
            let links = [(network().to_string(), NetworkFacts::default())];
            facts.provides.links = links.into();
        })
        .minute()
}

fn no_file() -> Cluster {
    needing(|needs| needs.emulated_tpm = Some(true))
        .there_has(|facts| facts.provides.emulated_tpm = Some(false))
        .minute()
}

/// Another machine on the second host.
fn beside(change: impl FnOnce(&mut evenkeel_core::model::MachineFacts)) -> Stage {
    let mut other = facts("other", 1.0);
    change(&mut other);
    Stage::new().edit(|s| s.others.push((1, 0.1, other)))
}

fn name_taken() -> Cluster {
    beside(|other| other.name = "m".into()).minute()
}

fn cpu_pinned() -> Cluster {
    let pinned = |needs: &mut Requirements| needs.dedicated_cpus = Some(vec![1]);
    beside(|other| pinned(&mut other.needs)).edit(|s| pinned(&mut s.m.needs)).minute()
}

fn same_host_uuid() -> Cluster {
    needing(|needs| needs.host_uuid = Some("same".to_owned()))
        .there_has(|facts| facts.provides.host_uuid = "same".to_owned())
        .minute()
}

fn kept(missing: Missing) -> Cluster {
    needing(|needs| needs.keeps = vec![missing]).minute()
}

fn snapshots() -> Cluster {
    kept(Missing::Snapshots(1))
}

fn checkpoints() -> Cluster {
    kept(Missing::Checkpoints(1))
}

fn other_manager() -> Cluster {
    kept(Missing::Managed("nova".to_owned()))
}

fn not_migratable() -> Cluster {
    kept(Missing::NotMigratable("a transient disk".to_owned()))
}

fn unsafe_storage() -> Cluster {
    let (disk, path, kind) = ("vda".to_owned(), "/srv/a".to_owned(), "ext4".to_owned());
    kept(Missing::UnsafeStorage { disk, path, kind })
}

/// A backup is under way whenever the machine is to be moved: it waits, and is not held in quarantine.
fn job_under_way() -> Cluster {
    let mut cluster = Stage::new().start();
    let failure = Failure::new(FailureKind::Busy, "another job is under way on it");
    let fault = Fault { failure, after: 0.5, leaves: Aftermath::Here };
    cluster.cloud_mut().fail_migrations_of(&machine_id("m"), Some(fault)).unwrap();
    after(cluster, 120)
}

//! Situations in which a machine stays because the other host lacks what it needs.

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{HugePages, LocalDisk, Network, Provides, Requirements};
use evenkeel_sim::Cluster;

use crate::stage::Stage;
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

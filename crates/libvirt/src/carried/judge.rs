//! A domain's description against what the two hosts have agreed on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use evenkeel_core::model::{DiskPlace, Entry, MachineId, Requirements};
use evenkeel_core::port::Stamp;

use super::Sockets;
use super::closed::{Listed, listed, listed_cpu};
use super::document::{Content, Node, clean};
use super::here::Here;
use crate::xml::domain::{bytes_of, describe};

/// What the two hosts have agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreed {
    /// Where the machine's memory and disks go.
    pub sockets: Sockets,
    /// libvirt of this host, such as `qemu:///system`.
    pub uri: String,
    /// The machine.
    pub machine: MachineId,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Its schedule entry as it shall read on the target.
    pub entry: Entry,
    /// Whether it arrives paused.
    pub paused: bool,
    /// Memory that it may come to occupy, in bytes.
    pub memory_bytes: f64,
    /// What it needs.
    pub needs: Requirements,
    /// Disks that are copied, and to where.
    pub disks: Vec<DiskPlace>,
}

/// A description that may be passed on, written anew, and the name in it.
pub(super) fn description(
    root: &Node,
    agreed: &Agreed,
    here: Option<&Here>,
) -> Result<(Node, String), String> {
    let Listed { mut root, keys, named } = listed(root).map_err(|error| error.0)?;
    if root.name != "domain" {
        return Err(format!("`{}` is no domain", clean(&root.name)));
    }
    without_dynamic_labels(&mut root);
    let text_of = |name: &str| root.find(name).map(Node::text).unwrap_or_default();
    let (uuid, name) = (text_of("uuid"), text_of("name"));
    if !uuid.eq_ignore_ascii_case(agreed.machine.as_str()) {
        return Err(format!("it describes machine `{}`, not `{}`", clean(&uuid), agreed.machine));
    }
    if agreed.name.as_ref().is_some_and(|agreed| *agreed != name) {
        return Err(format!("it describes machine `{}` by another name", clean(&name)));
    }
    let Some(here) = here else { return Ok((root, name)) };
    if let Some((key, by)) = here.declines(&keys) {
        return Err(format!(
            "`{by}` is let in only where `{key}` is in `migration.admit`; take it out of the machine, \
             or admit it on the receiving host"
        ));
    }
    let files = disks(&root, here)?;
    loader(&root)?;
    interfaces(&root)?;
    here.may_have(&named, &files, &name, agreed)?;
    if numa_bytes(&root)? > agreed.memory_bytes {
        return Err("its NUMA nodes have more memory than was agreed on".to_owned());
    }
    as_agreed(&root.write(), agreed, here)?;
    Ok((root, name))
}

/// Labels that libvirt makes up are those of the other host, and it ignores them.
fn without_dynamic_labels(domain: &mut Node) {
    for content in &mut domain.content {
        if let Content::Node(node) = content
            && node.name == "seclabel"
            && !matches!(node.attribute("type"), Some("static"))
        {
            node.content
                .retain(|inner| !matches!(inner, Content::Node(node) if node.name == "label"));
        }
    }
}

/// The files of a domain's disks.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Those that are written to.
    pub(super) writes: BTreeSet<PathBuf>,
    /// Those that may refer to others, which libvirt then follows.
    pub(super) images: BTreeSet<PathBuf>,
    /// Those that are named by a pool and a volume of it.
    pub(super) volumes: BTreeSet<PathBuf>,
}

/// All files that its disks name, in whatever way, with the chains of images that are spelled out. libvirt
/// reads the rest of a chain from its last image.
fn disks(domain: &Node, here: &Here) -> Result<Files, String> {
    let mut files = Files::default();
    let devices = domain.find("devices");
    for disk in devices.iter().flat_map(|devices| devices.all("disk")) {
        let writes = disk.find("readonly").is_none() && disk.find("shareable").is_none();
        let of_driver = disk.find("driver").and_then(|driver| driver.attribute("type"));
        files.image(disk, of_driver, writes, here)?;
        let mut next = disk.find("backingStore");
        while let Some(backing) = next {
            let format = backing.find("format").and_then(|format| format.attribute("type"));
            files.image(backing, format, false, here)?;
            next = backing.find("backingStore");
        }
    }
    Ok(files)
}

impl Files {
    /// Takes in what one image is in. Of two attributes that name files the type of the disk says which
    /// one counts; here both do.
    fn image(
        &mut self,
        node: &Node,
        format: Option<&str>,
        writes: bool,
        here: &Here,
    ) -> Result<(), String> {
        let Some(source) = node.find("source") else { return Ok(()) };
        let format = format.ok_or("a disk of it does not say of which format it is")?;
        let named = ["file", "dev"].iter().filter_map(|name| source.attribute(name));
        let mut paths: Vec<PathBuf> = named.map(PathBuf::from).collect();
        if let (Some(pool), Some(volume)) = (source.attribute("pool"), source.attribute("volume")) {
            let path = here.storage().volume(pool, volume).ok_or_else(|| {
                format!(
                    "its disk is volume `{}` of storage pool `{}`, which is no directory of this host: \
                     describe it as a disk of type `file`, `block` or `network`",
                    clean(volume),
                    clean(pool)
                )
            })?;
            self.volumes.insert(path.clone());
            paths.push(path);
        } else if source.attribute("pool").or(source.attribute("volume")).is_some() {
            return Err("a disk of it names half a volume".to_owned());
        }
        for path in paths {
            if writes {
                self.writes.insert(path.clone());
            }
            if format != "raw" {
                self.images.insert(path);
            }
        }
        Ok(())
    }
}

/// Memory of the guest's own NUMA nodes, in bytes, which QEMU takes whatever the whole is said to be.
fn numa_bytes(domain: &Node) -> Result<f64, String> {
    let numa = domain.find("cpu").and_then(|cpu| cpu.find("numa"));
    let mut all = 0.0;
    for cell in numa.iter().flat_map(|numa| numa.all("cell")) {
        let (amount, unit) = (cell.attribute("memory").unwrap_or("0"), cell.attribute("unit"));
        let bytes = bytes_of(amount, unit.unwrap_or("KiB"));
        all += bytes.ok_or("it has a NUMA node with no amount of memory")?;
    }
    Ok(all)
}

/// An interface names what it is connected to by its type: what else it names is another host's.
fn interfaces(domain: &Node) -> Result<(), String> {
    let devices = domain.find("devices");
    for interface in devices.iter().flat_map(|devices| devices.all("interface")) {
        let network = interface.find("source").and_then(|source| source.attribute("network"));
        if let Some(network) = network.filter(|_| interface.attribute("type") != Some("network")) {
            return Err(format!(
                "an interface of it is on network `{}`, and of another type than that",
                clean(network)
            ));
        }
    }
    Ok(())
}

/// Firmware is only read.
fn loader(domain: &Node) -> Result<(), String> {
    let loader = domain.find("os").and_then(|os| os.find("loader"));
    let written = loader.is_some_and(|loader| {
        let flash = loader.attribute("type") == Some("pflash");
        loader.attribute("readonly") != Some("yes")
            && (flash || loader.attribute("readonly").is_some())
    });
    if written { Err("`domain/os/loader` is to be written to".to_owned()) } else { Ok(()) }
}

/// Whether a description, as it is passed on, is of the machine that was agreed on.
fn as_agreed(text: &str, agreed: &Agreed, here: &Here) -> Result<(), String> {
    let described = describe(text, true, here.storage(), "")?;
    let facts = described.facts;
    if facts.memory_bytes > agreed.memory_bytes {
        let mib = |bytes: f64| (bytes / f64::from(1 << 20)).ceil();
        return Err(format!(
            "it has {} MiB of memory, and {} MiB were agreed on",
            mib(facts.memory_bytes),
            mib(agreed.memory_bytes)
        ));
    }
    let stamp = facts.entry.as_ref().map(Stamp::of).map_err(Clone::clone)?;
    if stamp != Stamp::of(&agreed.entry) || described.held != agreed.paused {
        return Err("its schedule entry is not the one that was agreed on".to_owned());
    }
    let mut needs = facts.needs;
    if needs.vcpus.is_none() {
        return Err("it does not say how many virtual CPUs it may come to have".to_owned());
    }
    // Copies are where this host said, and nowhere else.
    for disk in needs.local_disks.iter().flatten() {
        let placed = |place: &DiskPlace| (&place.name, &place.path) == (&disk.name, &disk.path);
        if !agreed.disks.iter().any(placed) {
            return Err(format!(
                "its disk `{}` is on no storage that was agreed on",
                clean(&disk.name)
            ));
        }
    }
    needs.local_disks = None;
    needs.local_storage = false;
    needs.special = None;
    match needs.beyond(&agreed.needs) {
        Some(more) => Err(format!("it needs what was not agreed on: {more}")),
        None => Ok(()),
    }
}

/// The description of a CPU that another host has sent, written anew for this host's libvirt to compare.
///
/// # Errors
/// What is not listed, in words.
pub(crate) fn cpu(text: &str) -> Result<String, String> {
    let root = Node::parse(text)?;
    listed_cpu(&root).map(|cpu| cpu.write()).map_err(|error| error.0)
}

/// What of a machine has to be admitted by a host that it is carried to: keys, or the first thing that
/// no host lets in, in words.
pub(crate) fn special(text: &str) -> Vec<String> {
    match Node::parse(text).map_err(super::closed::Unlisted).and_then(|root| listed(&root)) {
        Ok(found) => found.keys.into_keys().collect(),
        Err(unlisted) => vec![unlisted.0],
    }
}

//! A domain's description against what the two hosts have agreed on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use evenkeel_core::model::{DiskPlace, Entry, MachineId, Requirements};
use evenkeel_core::port::Stamp;

use super::Sockets;
use super::closed::{Listed, listed};
use super::document::{Content, Node, clean};
use super::here::Here;
use crate::xml::domain::describe;

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
    let (writes, images) = disks(&root)?;
    loader(&root)?;
    here.may_have(&named, &writes, &images, &name, agreed)?;
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

/// Files that its disks write to, and those that may refer to others.
fn disks(domain: &Node) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>), String> {
    let (mut writes, mut images) = (BTreeSet::new(), BTreeSet::new());
    let devices = domain.find("devices");
    for disk in devices.iter().flat_map(|devices| devices.all("disk")) {
        let Some(source) = disk.find("source") else { continue };
        let Some(format) = disk.find("driver").and_then(|driver| driver.attribute("type")) else {
            return Err("a disk of it does not say of which format it is".to_owned());
        };
        let path = ["file", "dev"].iter().find_map(|name| source.attribute(name));
        let Some(path) = path.map(PathBuf::from) else { continue };
        if disk.find("readonly").is_none() && disk.find("shareable").is_none() {
            writes.insert(path.clone());
        }
        if format == "qcow2" {
            images.insert(path);
        }
    }
    Ok((writes, images))
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

/// What of a machine has to be admitted by a host that it is carried to: keys, or the first thing that
/// no host lets in, in words.
pub(crate) fn special(text: &str) -> Vec<String> {
    match Node::parse(text).map_err(super::closed::Unlisted).and_then(|root| listed(&root)) {
        Ok(found) => found.keys.into_keys().collect(),
        Err(unlisted) => vec![unlisted.0],
    }
}

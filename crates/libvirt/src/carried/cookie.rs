//! The cookie of a migration: XML that one libvirt has the other one read.

use super::closed::listed;
use super::document::{Content, Node, clean};
use super::here::Here;
use super::judge::{Agreed, description};

/// Longest cookie, in bytes (`REMOTE_MIGRATE_COOKIE_MAX`).
pub(super) const BYTES_MAX: usize = 4 << 20;

/// Whose cookie it is.
#[derive(Clone, Copy)]
pub(super) enum Author<'a> {
    /// The source's. With what this host has, if its libvirt is to read it.
    Source(Option<&'a Here>),
    /// The target's. It never holds a definition, and nobody looks at the files that one would name.
    Target,
}

/// A cookie, written anew.
pub(super) fn judged(bytes: &[u8], agreed: &Agreed, author: Author<'_>) -> Result<Vec<u8>, String> {
    // libvirt sends the NUL at the end along.
    let Some(text) = bytes.strip_suffix(b"\0") else {
        return if bytes.is_empty() {
            Ok(Vec::new())
        } else {
            Err("its cookie has no end".to_owned())
        };
    };
    let text = std::str::from_utf8(text).map_err(|_| "its cookie is not UTF-8".to_owned())?;
    let root = Node::parse(text).map_err(|why| format!("its cookie cannot be read: {why}"))?;
    if root.name != "qemu-migration" {
        return Err(format!("its cookie is a `{}`", clean(&root.name)));
    }
    let (domains, rest): (Vec<Content>, Vec<Content>) = root
        .content
        .into_iter()
        .partition(|content| matches!(content, Content::Node(node) if node.name == "domain"));
    let rest = Node { name: root.name, attributes: root.attributes, content: rest };
    let found = listed(&rest).map_err(|error| format!("in its cookie {}", error.0))?;
    if let Some(key) = found.keys.keys().next() {
        return Err(format!("in its cookie something needs `{key}`"));
    }
    let mut out = found.root;
    names_the_machine(&out, agreed)?;
    keep_copied(&mut out, agreed)?;
    let here = match (domains.len(), author) {
        (0, _) => None,
        (1, Author::Source(here)) => here,
        (1, Author::Target) => return Err("its cookie has a definition".to_owned()),
        _ => return Err("its cookie has two definitions".to_owned()),
    };
    for content in domains {
        let Content::Node(domain) = content else { continue };
        let (domain, _) = description(&domain, agreed, here)
            .map_err(|why| format!("in the definition in its cookie, {why}"))?;
        out.content.push(Content::Node(domain));
    }
    let mut written = out.write().into_bytes();
    written.push(0);
    Ok(written)
}

/// Leaves those disks in the cookie that were agreed to be copied, none larger than agreed: libvirt makes
/// files of that size. A source's libvirt lists all disks of a machine of which it copies one.
fn keep_copied(cookie: &mut Node, agreed: &Agreed) -> Result<(), String> {
    let copied = |disk: &Node| {
        let name = disk.attribute("target");
        agreed.disks.iter().any(|place| Some(place.name.as_str()) == name)
    };
    for content in &mut cookie.content {
        let Content::Node(nbd) = content else { continue };
        if nbd.name != "nbd" {
            continue;
        }
        for disk in nbd.all("disk").filter(|disk| agreed.disks.is_empty() || copied(disk)) {
            no_larger(disk, agreed)?;
        }
        nbd.content.retain(|content| match content {
            Content::Node(node) => node.name != "disk" || copied(node),
            _ => true,
        });
    }
    Ok(())
}

fn no_larger(disk: &Node, agreed: &Agreed) -> Result<(), String> {
    let (name, size) = (disk.attribute("target"), disk.attribute("capacity"));
    let told = agreed.needs.local_disks.iter().flatten();
    let told = told.filter(|disk| Some(disk.name.as_str()) == name).map(|disk| disk.bytes).next();
    let told = told.filter(|_| !agreed.disks.is_empty());
    let fits = size.and_then(|size| size.parse::<u64>().ok()).zip(told);
    if fits.is_some_and(|(size, told)| size <= told) {
        return Ok(());
    }
    Err(format!(
        "it copies a disk `{}` of {} bytes, and {} were agreed on",
        clean(name.unwrap_or_default()),
        clean(size.unwrap_or("?")),
        told.unwrap_or_default()
    ))
}

fn names_the_machine(cookie: &Node, agreed: &Agreed) -> Result<(), String> {
    let text_of = |name: &str| cookie.find(name).map(Node::text).unwrap_or_default();
    let (uuid, name) = (text_of("uuid"), text_of("name"));
    let named = agreed.name.as_ref().is_none_or(|agreed| *agreed == name);
    if named && uuid.eq_ignore_ascii_case(agreed.machine.as_str()) {
        return Ok(());
    }
    Err(format!("its cookie is of machine `{}` ({})", clean(&name), clean(&uuid)))
}

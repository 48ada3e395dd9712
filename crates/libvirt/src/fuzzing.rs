//! What `evenkeel-fuzz` does to the decoders that are private here.

use evenkeel_core::model::DiskPlace;

use crate::carried;
use crate::storage::Storage;
use crate::xml::{Element, disks, domain, entry, host};

/// A domain's description: an entry that is put into it is the one that is read from it, and what
/// else is in it stays.
pub fn domain(xml: &str) {
    let Ok(described) = domain::describe(xml, true, &Storage::new(&[], &[]), "") else { return };
    let elsewhere = DiskPlace { name: "vda".to_owned(), path: "/else & where".to_owned() };
    if let Ok(moved) = disks::placed(xml, &[elsewhere]) {
        let moved = domain::describe(&moved, true, &Storage::new(&[], &[]), "");
        assert_eq!(moved.map(|d| d.facts.id), Ok(described.facts.id.clone()), "{xml}");
    }
    let Ok(before) = described.facts.entry.clone() else { return };
    let Ok(written) = entry::replaced_in(xml, &before, false) else { return };
    let again = domain::describe(&written, true, &Storage::new(&[], &[]), "");
    // What agents would not carry may have been in the entry that was replaced.
    let listed = |described: domain::Description| {
        let mut described = described;
        described.facts.needs.special = None;
        described
    };
    assert_eq!(again.map(listed), Ok(listed(described)), "{written}");
}

/// A host's capabilities, a domain's capabilities and a storage pool.
pub fn host(xml: &str) {
    let _ = host::HostDescription::read(xml);
    let _ = host::usable_cpu_models(xml);
    let _ = Storage::new(&[], &[xml.to_owned()]);
    if let Ok(root) = Element::parse(xml) {
        assert!(root.span.end <= xml.len() && xml.is_char_boundary(root.span.start));
    }
}

/// What the source's libvirt and the target's say to each other: what is passed on does not depend on
/// how it is cut, and what was passed on would be passed on again as it is.
pub fn control(bytes: &[u8]) {
    carried::fuzzing::control(bytes);
}

/// A description of another host's: what is passed on of it reads the same again.
pub fn description(text: &str) {
    carried::fuzzing::description(text);
}

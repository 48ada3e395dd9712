//! What `evenkeel-fuzz` does to the decoders that are private here.

use evenkeel_core::model::DiskPlace;

use crate::carried::Filter;
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
    assert_eq!(again, Ok(described), "{written}");
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

/// What another host's libvirt says: what is let pass does not depend on how it is cut.
pub fn control(bytes: &[u8]) {
    let whole = Filter::default().inspect(bytes);
    for size in [1, 7, 28, 100] {
        let mut filter = Filter::default();
        let cut = bytes.chunks(size).try_for_each(|chunk| filter.inspect(chunk));
        assert_eq!(cut, whole, "in pieces of {size}");
    }
}

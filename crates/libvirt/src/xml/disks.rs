//! A domain's description with its disks somewhere else.

use evenkeel_core::model::DiskPlace;

use super::needs::{devices, target};
use super::tree::{Element, escaped};

/// A description in which these disks are files at these places.
///
/// # Errors
/// When it cannot be read, or has no such disk that is a file.
pub(crate) fn placed(domain: &str, places: &[DiskPlace]) -> Result<String, String> {
    if places.is_empty() {
        return Ok(domain.to_owned());
    }
    let root = Element::parse(domain).map_err(|error| error.to_string())?;
    let mut edits = Vec::new();
    for place in places {
        let disk = devices(&root, "disk").find(|disk| target(disk) == place.name);
        let source = disk.and_then(|disk| disk.find("source"));
        let source = source.filter(|source| source.attribute("file").is_some());
        let source = source.ok_or_else(|| format!("it has no disk `{}` in a file", place.name))?;
        edits.push((source.start_tag.clone(), tag_with(domain, source, &place.path)?));
    }
    // From the end, so that the places before stay right.
    edits.sort_by_key(|(tag, _)| std::cmp::Reverse(tag.start));
    let mut out = domain.to_owned();
    for (tag, text) in edits {
        out.replace_range(tag, &text);
    }
    Ok(out)
}

/// The start tag of a disk's source with another file in it.
fn tag_with(domain: &str, source: &Element, file: &str) -> Result<String, String> {
    let mut tag = "<source".to_owned();
    for (name, value) in &source.attributes {
        let value = if name == "file" { file } else { value };
        let value = escaped(value).ok_or_else(|| format!("`{value}` cannot be written in XML"))?;
        tag.push_str(&format!(" {name}=\"{value}\""));
    }
    let empty = domain[source.start_tag.clone()].ends_with("/>");
    tag.push_str(if empty { "/>" } else { ">" });
    Ok(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_the_disks_named_change() {
        let xml = "<domain><devices>\
            <disk type='file'><source file='/a&amp;b' index='1'/><target dev='vda'/></disk>\
            <disk type='file'><source file='/c'><seclabel/></source><target dev='vdb'/></disk>\
            <disk type='network'><source name='p/i'/><target dev='vdc'/></disk>\
            </devices></domain>";
        let place = |name: &str, path: &str| DiskPlace { name: name.into(), path: path.into() };
        let moved = placed(xml, &[place("vda", "/new <1>"), place("vdb", "/d")]).unwrap();
        let expected = xml
            .replace(
                "<source file='/a&amp;b' index='1'/>",
                "<source file=\"/new &lt;1&gt;\" index=\"1\"/>",
            )
            .replace("<source file='/c'>", "<source file=\"/d\">");
        assert_eq!(moved, expected);
        assert_eq!(placed(xml, &[]).unwrap(), xml);
        for name in ["vdc", "vdz"] {
            assert!(placed(xml, &[place(name, "/x")]).unwrap_err().contains(name));
        }
    }
}

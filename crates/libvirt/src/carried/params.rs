//! Parameters and flags of a migration (`libvirt-domain.h`).

use super::xdr::{Reader, Writer, XdrError};

/// `REMOTE_DOMAIN_MIGRATE_PARAM_LIST_MAX`.
const COUNT_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 80;
/// Longest text among them, a description; libvirt's own limit is 4 MiB.
const TEXT_BYTES_MAX: usize = super::document::DOCUMENT_BYTES_MAX;
/// `VIR_TYPED_PARAM_ULLONG` and `VIR_TYPED_PARAM_STRING`.
const NUMBER: i32 = 4;
const TEXT: i32 = 7;

/// `VIR_MIGRATE_LIVE` and `VIR_MIGRATE_PEER2PEER`, which every migration between hosts has.
const ALWAYS: u32 = 1 << 0 | 1 << 1;
const PERSIST_DEST: u32 = 1 << 3;
const UNDEFINE_SOURCE: u32 = 1 << 4;
const PAUSED: u32 = 1 << 5;
const NON_SHARED_DISK: u32 = 1 << 6;
const CHANGE_PROTECTION: u32 = 1 << 8;
const ABORT_ON_ERROR: u32 = 1 << 12;
const AUTO_CONVERGE: u32 = 1 << 13;

/// What a migration is asked for with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) destination_xml: Option<String>,
    pub(super) persistent_xml: Option<String>,
    pub(super) destination_name: Option<String>,
    pub(super) migrate_uri: Option<String>,
    pub(super) disks_uri: Option<String>,
    /// In MiB per second.
    pub(super) bandwidth: Option<u64>,
    pub(super) disks: Vec<String>,
}

impl Parameters {
    /// Reads the list; nothing but what is known, and each but the disks once.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, String> {
        let broken = |error: XdrError| format!("its parameters cannot be read: {error}");
        let mut found = Self::default();
        for _ in 0..reader.count(COUNT_MAX).map_err(broken)? {
            let name = reader.text(NAME_BYTES_MAX).map_err(broken)?;
            let kind = reader.i32().map_err(broken)?;
            let place = match (name, kind) {
                ("bandwidth", NUMBER) => {
                    let number = reader.u64().map_err(broken)?;
                    if found.bandwidth.replace(number).is_some() {
                        return Err("the parameter `bandwidth` is there twice".to_owned());
                    }
                    continue;
                }
                ("migrate_disks", TEXT) => {
                    found.disks.push(reader.text(NAME_BYTES_MAX).map_err(broken)?.to_owned());
                    continue;
                }
                ("destination_xml", TEXT) => &mut found.destination_xml,
                ("persistent_xml", TEXT) => &mut found.persistent_xml,
                ("destination_name", TEXT) => &mut found.destination_name,
                ("migrate_uri", TEXT) => &mut found.migrate_uri,
                ("disks_uri", TEXT) => &mut found.disks_uri,
                _ => {
                    let name = super::document::clean(name);
                    return Err(format!("the parameter `{name}` (type {kind}) is not listed"));
                }
            };
            let text = reader.text(TEXT_BYTES_MAX).map_err(broken)?.to_owned();
            if place.replace(text).is_some() {
                return Err(format!("the parameter `{name}` is there twice"));
            }
        }
        Ok(found)
    }

    pub(super) fn write(&self, writer: Writer) -> Writer {
        let texts = [
            ("destination_xml", &self.destination_xml),
            ("persistent_xml", &self.persistent_xml),
            ("destination_name", &self.destination_name),
            ("migrate_uri", &self.migrate_uri),
            ("disks_uri", &self.disks_uri),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        let texts = texts.chain(self.disks.iter().map(|disk| ("migrate_disks", disk)));
        let texts: Vec<_> = texts.collect();
        let count = texts.len() + usize::from(self.bandwidth.is_some());
        let mut writer = writer.u32(count as u32);
        for (name, text) in texts {
            writer = writer.text(name).i32(TEXT).text(text);
        }
        match self.bandwidth {
            Some(bandwidth) => writer.text("bandwidth").i32(NUMBER).u64(bandwidth),
            None => writer,
        }
    }
}

/// The flags of a migration that was agreed on, or what is wrong with them.
pub(super) fn flags(flags: u32, paused: bool, copies: bool) -> Result<u32, String> {
    let may = ALWAYS
        | PERSIST_DEST
        | UNDEFINE_SOURCE
        | PAUSED
        | NON_SHARED_DISK
        | CHANGE_PROTECTION
        | ABORT_ON_ERROR
        | AUTO_CONVERGE;
    let other = flags & !may;
    if other != 0 || flags & ALWAYS != ALWAYS {
        return Err(format!(
            "the flags {flags:#x} are not those of a live migration between hosts"
        ));
    }
    if (flags & PAUSED != 0) != paused {
        let arrives = if paused { "paused" } else { "running" };
        return Err(format!("the flags {flags:#x} say otherwise, and it is to arrive {arrives}"));
    }
    if (flags & NON_SHARED_DISK != 0) != copies {
        return Err(format!("the flags {flags:#x} say otherwise than agreed of copying disks"));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_a_closed_list_each_once() {
        let all = Parameters {
            destination_xml: Some("<domain/>".to_owned()),
            persistent_xml: Some("<domain/>".to_owned()),
            destination_name: Some("web".to_owned()),
            migrate_uri: Some("unix:///m".to_owned()),
            disks_uri: Some("unix:///d".to_owned()),
            bandwidth: Some(7),
            disks: vec!["vda".to_owned(), "vdb".to_owned()],
        };
        let body = all.write(Writer::default()).done();
        assert_eq!(Parameters::read(&mut Reader::new(&body)), Ok(all));
        for name in [
            "listen_address",
            "disks_port",
            "graphics_uri",
            "compression",
            "tls.destination",
            "parallel.connections",
            "bandwidth",
        ] {
            let body = Writer::default().u32(1).text(name).i32(TEXT).text("x").done();
            let error = Parameters::read(&mut Reader::new(&body)).unwrap_err();
            assert!(error.contains("not listed"), "{name}: {error}");
        }
        let twice = Writer::default().u32(2);
        let twice = twice.text("migrate_uri").i32(TEXT).text("unix:///m");
        let twice = twice.text("migrate_uri").i32(TEXT).text("tcp:9.9.9.9").done();
        assert!(Parameters::read(&mut Reader::new(&twice)).unwrap_err().contains("twice"));
        let many = Writer::default().u32(65).done();
        assert!(Parameters::read(&mut Reader::new(&many)).is_err());
    }

    #[test]
    fn a_machine_arrives_paused_exactly_if_that_was_agreed() {
        let plain = ALWAYS | PERSIST_DEST | UNDEFINE_SOURCE | ABORT_ON_ERROR | AUTO_CONVERGE;
        assert_eq!(flags(plain, false, false), Ok(plain));
        assert_eq!(flags(plain | PAUSED, true, false), Ok(plain | PAUSED));
        assert_eq!(flags(plain | NON_SHARED_DISK, false, true), Ok(plain | NON_SHARED_DISK));
        for (wrong, paused, copies) in [
            (plain, true, false),
            (plain | PAUSED, false, false),
            (plain | NON_SHARED_DISK, false, false),
            (plain, false, true),
            (plain & !1, false, false),
            (plain & !2, false, false),
            (plain | 1 << 2, false, false),
            (plain | 1 << 7, false, false),
            (plain | 1 << 9, false, false),
            (plain | 1 << 10, false, false),
            (plain | 1 << 14, false, false),
            (plain | 1 << 15, false, false),
            (plain | 1 << 16, false, false),
            (plain | 1 << 31, false, false),
        ] {
            assert!(flags(wrong, paused, copies).is_err(), "{wrong:#x}");
        }
    }
}

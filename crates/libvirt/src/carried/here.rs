//! What this host has, as far as a machine of another host may use it: emulators, firmware, storage, and
//! none of what other machines use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_core::model::MachineId;

use super::closed::{Class, Named, is_plain_path};
use super::image;
use super::judge::{Agreed, Files};
use crate::LibvirtConfig;
use crate::ffi::Connection;
use crate::storage::Storage;
use crate::surroundings;
use crate::worker::connect;
use crate::xml::Element;

/// Where systems install what QEMU reads and nobody but an administrator writes.
const FIRMWARE: &str = "/usr/share";
/// Where libvirt keeps the firmware's variables, for the whole host.
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram";
/// Where libvirt has QEMU write its own log, for the whole host.
const LOGS: &str = "/var/log/libvirt/qemu";
/// Longest chain of images.
const CHAIN_MAX: usize = 64;

/// What an operator lets machines of other hosts have besides what every machine may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Keys of [`Admission::known`].
    pub keys: BTreeSet<String>,
    /// Directories in which descriptions may name files: kernels, firmware, logs, sockets.
    pub directories: Vec<PathBuf>,
    /// Emulators besides those that libvirt found.
    pub emulators: BTreeSet<String>,
}

impl Admission {
    /// What can be admitted.
    #[must_use]
    pub fn known() -> BTreeSet<&'static str> {
        super::closed::keys()
    }
}

/// What this host has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Here {
    pub(super) admission: Admission,
    pub(super) emulators: BTreeSet<String>,
    pub(super) nvram: Option<PathBuf>,
    pub(super) storage: Storage,
    /// Files that other machines of this host use, and whether one of them writes to it.
    pub(super) taken: BTreeMap<PathBuf, bool>,
}

impl Here {
    /// Looks at this host, for a machine that is to come. Blocks while libvirt answers.
    ///
    /// # Errors
    /// Why libvirt did not answer, in its own words.
    pub fn look(config: &LibvirtConfig, machine: &MachineId) -> Result<Self, String> {
        let connection = connect(config).map_err(|error| error.to_string())?;
        Self::of(&connection, config, machine).map_err(|error| error.to_string())
    }

    fn of(
        connection: &Connection,
        config: &LibvirtConfig,
        machine: &MachineId,
    ) -> Result<Self, crate::ffi::CallError> {
        let mut emulators = config.admission.emulators.clone();
        if let Ok(root) = Element::parse(&connection.capabilities()?) {
            root.walk(&mut |element| {
                if element.name == "emulator" {
                    emulators.insert(element.text.clone());
                }
            });
        }
        let storage = surroundings::storage(connection, config);
        let mut taken = BTreeMap::new();
        for text in connection.descriptions()? {
            let Ok(domain) = Element::parse(&text) else { continue };
            if domain.text_of("uuid") != machine.as_str() {
                take(&domain, &storage, &mut taken);
            }
        }
        Ok(Self {
            admission: config.admission.clone(),
            emulators,
            nvram: nvram(&config.uri),
            storage,
            taken,
        })
    }

    /// What is not admitted here, if anything: the key, and who needs it.
    pub(super) fn declines<'a>(
        &self,
        keys: &'a BTreeMap<String, String>,
    ) -> Option<(&'a str, &'a str)> {
        let missing = keys.iter().find(|(key, _)| !self.admission.keys.contains(*key));
        missing.map(|(key, by)| (key.as_str(), by.as_str()))
    }

    /// Whether a machine may have the files that it names, those of its disks among them.
    pub(super) fn may_have(
        &self,
        named: &[Named],
        files: &Files,
        name: &str,
        agreed: &Agreed,
    ) -> Result<(), String> {
        for one in named {
            let path = Path::new(&one.path);
            let found = match one.class {
                Class::Emulator => self.emulators.contains(&one.path),
                Class::Firmware => {
                    self.is_below(path, &[FIRMWARE.into()]) || self.is_admitted(path)
                }
                Class::Nvram => {
                    self.is_nvram(path, name)
                        || self.is_admitted(path)
                        || self.is_shared(path, agreed)
                }
                Class::Disk => self.is_disk(path, agreed),
                _ => self.is_admitted(path),
            };
            if !found {
                return Err(self.not_had(one));
            }
            let writing = one.class != Class::Disk || files.writes.contains(path);
            let shares = matches!(one.class, Class::Emulator | Class::Firmware);
            if !shares && self.is_taken(path, writing) {
                return Err(format!(
                    "`{}` names `{}`, which another machine of this host uses",
                    one.by, one.path
                ));
            }
        }
        for path in &files.volumes {
            if !self.is_disk(path, agreed) {
                let path = path.display();
                return Err(format!(
                    "its disk is `{path}`, which is on no storage that was agreed on"
                ));
            }
            if self.is_taken(path, files.writes.contains(path)) {
                let path = path.display();
                return Err(format!(
                    "its disk is `{path}`, which another machine of this host uses"
                ));
            }
        }
        files.images.iter().try_for_each(|image| self.chain(image, agreed))
    }

    fn not_had(&self, one: &Named) -> String {
        let Named { by, path, class } = one;
        let remedy = match class {
            Class::Emulator => {
                "libvirt here knows no such emulator: install it, or name it under `migration.emulators`"
            }
            Class::Disk => "it is on no storage that was agreed on",
            Class::Nvram => {
                "it is neither where libvirt keeps that machine's variables nor below `migration.files`"
            }
            Class::Firmware => "it is neither below `/usr/share` nor below `migration.files`",
            _ => "it is not below `migration.files`",
        };
        format!("`{by}` names `{path}`, and {remedy}")
    }

    /// Whether a path is below one of these, also where symbolic links lead.
    fn is_below(&self, path: &Path, directories: &[PathBuf]) -> bool {
        let real = real(path);
        directories.iter().any(|directory| {
            let there = fs::canonicalize(directory).unwrap_or_else(|_| directory.clone());
            path.starts_with(directory) && real.as_ref().is_some_and(|real| real.starts_with(there))
        })
    }

    fn is_admitted(&self, path: &Path) -> bool {
        self.is_below(path, &self.admission.directories)
    }

    fn is_nvram(&self, path: &Path, name: &str) -> bool {
        let names = ["fd", "qcow2"].map(|ending| format!("{name}_VARS.{ending}"));
        let own =
            path.file_name().is_some_and(|file| names.iter().any(|name| file == name.as_str()));
        own && path.parent() == self.nvram.as_deref() && !path.is_symlink()
    }

    fn is_shared(&self, path: &Path, agreed: &Agreed) -> bool {
        let Some(shared) = self.storage.shared_at(path) else { return false };
        let device = path.starts_with("/dev");
        agreed.needs.storage.contains(&shared.id)
            && (device && real(path).is_some_and(|real| real.starts_with("/dev"))
                || self.is_below(path, std::slice::from_ref(&shared.path)))
    }

    fn is_disk(&self, path: &Path, agreed: &Agreed) -> bool {
        let copy = agreed.disks.iter().any(|place| Path::new(&place.path) == path);
        copy && !path.is_symlink() || self.is_shared(path, agreed)
    }

    fn is_taken(&self, path: &Path, writing: bool) -> bool {
        let real = real(path);
        let uses = [Some(path), real.as_deref()].into_iter().flatten();
        uses.filter_map(|path| self.taken.get(path)).any(|theirs| writing || *theirs)
    }

    /// Whether all images that this one refers to may be had, too.
    fn chain(&self, image: &Path, agreed: &Agreed) -> Result<(), String> {
        let mut next = image.to_owned();
        for _ in 0..CHAIN_MAX {
            // One that is copied is not there yet.
            if !next.exists() {
                return Ok(());
            }
            let broken = |why: std::io::Error| {
                format!("the disk image `{}` cannot be taken: {why}", next.display())
            };
            let Some(backing) = image::backing_file(&next).map_err(broken)? else { return Ok(()) };
            let plain = backing.to_str().is_some_and(is_plain_path);
            if !plain || !self.is_disk(&backing, agreed) || self.is_taken(&backing, false) {
                return Err(format!(
                    "the disk image `{}` refers to `{}`, which is on no storage that was agreed on",
                    next.display(),
                    super::document::clean(&backing.display().to_string())
                ));
            }
            // Which format that has is for its own description to say: raw data have no magic.
            if image::backing_file(&backing).is_err() {
                return Ok(());
            }
            next = backing;
        }
        Err(format!("the disk image `{}` has a chain of more than {CHAIN_MAX}", image.display()))
    }

    /// What of its storage is shared.
    pub(super) const fn storage(&self) -> &Storage {
        &self.storage
    }
}

/// A path without symbolic links; of one that is not there, its directory's.
fn real(path: &Path) -> Option<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Some(real);
    }
    // One that leads nowhere is no new file: whoever makes it follows the link.
    if path.is_symlink() {
        return None;
    }
    Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?))
}

/// Where libvirt keeps the firmware's variables for a connection.
fn nvram(uri: &str) -> Option<PathBuf> {
    if super::mode(uri) != "session" {
        return Some(NVRAM.into());
    }
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    Some(config?.join("libvirt/qemu/nvram"))
}

/// Takes in the files that a domain uses.
fn take(domain: &Element, storage: &Storage, taken: &mut BTreeMap<PathBuf, bool>) {
    let mut add = |path: &str, writes: bool| {
        for path in [Some(PathBuf::from(path)), fs::canonicalize(path).ok()].into_iter().flatten() {
            *taken.entry(path).or_default() |= writes;
        }
    };
    let devices = domain.find("devices");
    for disk in devices.iter().flat_map(|devices| devices.all("disk")) {
        let shares = disk.find("readonly").is_some() || disk.find("shareable").is_some();
        let own = disk.find("source");
        disk.walk(&mut |element| {
            let writes = !shares && own == Some(element);
            if element.name != "source" {
                return;
            }
            let paths = ["file", "dev"].iter().filter_map(|name| element.attribute(name));
            paths.for_each(|path| add(path, writes));
            let volume = element.attribute("pool").zip(element.attribute("volume"));
            let path = volume.and_then(|(pool, volume)| storage.volume(pool, volume));
            if let Some(path) = path.as_ref().and_then(|path| path.to_str()) {
                add(path, writes);
            }
        });
    }
    if let Some(nvram) = domain.find("os/nvram") {
        let file = nvram.find("source").and_then(|source| source.attribute("file"));
        add(file.unwrap_or(&nvram.text), true);
    }
    // What QEMU says of it, which libvirt and this agent believe.
    add(&format!("{LOGS}/{}.log", domain.text_of("name")), true);
    for device in devices.iter().flat_map(|devices| &devices.children) {
        let log = device.find("log").and_then(|log| log.attribute("file"));
        let socket = device.find("source").and_then(|source| source.attribute("path"));
        log.into_iter().chain(socket).for_each(|path| add(path, true));
    }
}

//! Whether a disk image refers to another file, which QEMU would open, and libvirt give to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"QFI\xfb";
/// The incompatible feature of a QCOW2 image that keeps its data in another file.
const EXTERNAL_DATA: u64 = 1 << 2;
/// QEMU's own limit.
const NAME_BYTES_MAX: u32 = 1023;

/// What a QCOW2 image refers to, if anything.
///
/// # Errors
/// When it cannot be read, keeps its data elsewhere, or names no file.
pub(super) fn backing_file(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(path)?;
    let mut header = [0; 80];
    let length = file.read(&mut header)?;
    if length < 24 || header[..4] != *MAGIC {
        return Err(io::Error::other("it is no QCOW2 image"));
    }
    let u32_at = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
    if u32_at(4) >= 3 && length == header.len() && u64_at(72) & EXTERNAL_DATA != 0 {
        return Err(io::Error::other("it keeps its data in another file"));
    }
    let (offset, size) = (u64_at(8), u32_at(16));
    if offset == 0 || size == 0 {
        return Ok(None);
    }
    if size > NAME_BYTES_MAX {
        return Err(io::Error::other("the name of its backing file is too long"));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut name = vec![0; size as usize];
    file.read_exact(&mut name)?;
    let name =
        String::from_utf8(name).map_err(|_| io::Error::other("its backing file has no name"))?;
    if name.contains('\0') || name.split('/').next().is_some_and(|first| first.contains(':')) {
        return Err(io::Error::other("its backing file is not named by a path"));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(Some(directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: u32, features: u64, name: &str) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        if !name.is_empty() {
            bytes[8..16].copy_from_slice(&104_u64.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        }
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn what_an_image_refers_to_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        for (bytes, found) in [
            (image(3, 0, ""), Ok(None)),
            (image(2, 0, "base"), Ok(Some(dir.path().join("base")))),
            (image(3, 0, "/etc/shadow"), Ok(Some("/etc/shadow".into()))),
            (image(3, EXTERNAL_DATA, ""), Err("another file")),
            (image(3, 0, "nbd://10.0.0.1/x"), Err("not named by a path")),
            (image(3, 0, "json:{}"), Err("not named by a path")),
            (b"raw".to_vec(), Err("no QCOW2")),
        ] {
            std::fs::write(&path, bytes).unwrap();
            match (backing_file(&path), found) {
                (Ok(file), Ok(wanted)) => assert_eq!(file, wanted),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (file, wanted) => panic!("{file:?} where {wanted:?} was expected"),
            }
        }
    }
}

//! Certificates and keys as files, and the errors that name the file and the remedy.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// Nothing of ours is larger.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// Why keys and certificates cannot be used or made. Nothing was changed unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is not there.
    #[error("there is no `{}`: {remedy}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What makes one.
        remedy: &'static str,
    },
    /// A file is there that would be overwritten.
    #[error("`{}` exists already and is left as it is: {remedy}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// A private key can be read or written by others.
    #[error(
        "the private key `{}` can be read or changed by others (mode {mode:04o}): \
         run `chmod 600 {}`; if somebody may have read it, make a new one", path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system said no.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("`{}` {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        what: String,
    },
    /// A certificate or key could not be made.
    #[error("cannot {doing}: {why}")]
    Crypto {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        why: String,
    },
}

/// For `map_err`: a failure to make something.
pub(crate) fn crypto(doing: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |e| PkiError::Crypto { doing, why: e.to_string() }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::File { doing, path: path.to_owned(), source }
}

pub(crate) fn content(path: &Path, what: impl Into<String>) -> PkiError {
    PkiError::Content { path: path.to_owned(), what: what.into() }
}

pub(crate) fn read(path: &Path, remedy: &'static str) -> Result<Vec<u8>, PkiError> {
    read_up_to(path, remedy, FILE_BYTES_MAX)
}

pub(crate) fn read_up_to(
    path: &Path,
    remedy: &'static str,
    bytes_max: u64,
) -> Result<Vec<u8>, PkiError> {
    let size = match fs::metadata(path) {
        Ok(facts) => facts.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(PkiError::Missing { path: path.to_owned(), remedy });
        }
        Err(e) => return Err(failed("look at", path)(e)),
    };
    if size > bytes_max {
        return Err(content(path, format!("has {size} bytes, which no certificate or key has")));
    }
    fs::read(path).map_err(failed("read", path))
}

/// Reads a certificate.
pub(crate) fn read_certificate(
    path: &Path,
    remedy: &'static str,
) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(&read(path, remedy)?)
        .map_err(|e| content(path, format!("holds no certificate in PEM ({e}): {remedy}")))
}

/// Reads a private key that nobody else can read.
pub(crate) fn read_key(
    path: &Path,
    remedy: &'static str,
) -> Result<PrivatePkcs8KeyDer<'static>, PkiError> {
    let bytes = read(path, remedy)?;
    let mode = fs::metadata(path).map_err(failed("look at", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PkiError::Exposed { path: path.to_owned(), mode });
    }
    PrivatePkcs8KeyDer::from_pem_slice(&bytes)
        .map_err(|e| content(path, format!("holds no private key in PEM ({e}): {remedy}")))
}

/// Makes a directory for keys, and those above it. They are on disk when this returns.
pub(crate) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let missing: Vec<_> = dir.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make", dir))?;
    missing.into_iter().try_for_each(|made| sync_entry(made).map_err(failed("make", made)))
}

/// Has the entry of a file in its directory be on disk: a file that was synced is not found after a
/// power cut unless its directory was, too.
fn sync_entry(path: &Path) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    fs::File::open(dir)?.sync_all()
}

/// Writes a new file and refuses to overwrite one. It is on disk when this returns.
pub(crate) fn write_new(
    path: &Path,
    text: &str,
    mode: u32,
    remedy: &'static str,
) -> Result<(), PkiError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PkiError::Exists { path: path.to_owned(), remedy });
        }
        Err(e) => return Err(failed("make", path)(e)),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // Half a key is worse than none. If it cannot be removed either, it fails to parse.
        let _ = fs::remove_file(path);
        return Err(failed("write", path)(e));
    }
    sync_entry(path).map_err(failed("write", path))
}

/// Writes a file in the place of one that may be there: whoever reads it finds the one or the other,
/// also after a crash. It is on disk when this returns.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".tmp");
    let fresh = PathBuf::from(fresh);
    let write = || {
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        rename(&fresh, path)
    };
    write().map_err(failed("write", path))
}

/// Gives a file another name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_entry(to)
}

/// The text form of what `label` says.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&b| char::from(b)));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// Whose entries this thread has had written to disk.
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn keys_and_what_leads_to_them_are_on_disk_before_they_are_used() {
        let name = format!("evenkeel-files-{}", std::process::id());
        let above = std::env::temp_dir().join(name);
        let dir = above.join("identity");
        make_dir(&dir).unwrap();
        write_new(&dir.join("host.key"), "secret", 0o600, "").unwrap();
        replace(&dir.join("host.crt"), "certificate", 0o644).unwrap();
        let synced = SYNCED.take();
        fs::remove_dir_all(&above).unwrap();
        for made in [above, dir.clone(), dir.join("host.key"), dir.join("host.crt")] {
            assert!(synced.contains(&made), "`{}` is not in {synced:?}", made.display());
        }
    }
}

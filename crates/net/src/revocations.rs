//! Which certificates are good no longer: an X.509 revocation list that hosts pass on.
//!
//! The authority signs the list, and its number grows with every host that is removed. Whoever has
//! a newer one gives it to whomever it talks to, so that after a few rounds every host has it, also
//! one that slept meanwhile, and nobody has to be asked. `openssl crl -in revoked.crl -text` shows
//! what is in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::files::{self, PkiError};

/// The list, beside a host's certificate.
pub const REVOCATIONS_FILE: &str = "revoked.crl";
/// Largest list in bytes: some six thousand removed hosts.
pub(crate) const LIST_BYTES_MAX: usize = 256 << 10;
/// Bytes of a serial number.
pub(crate) const SERIAL_BYTES: usize = 16;

/// A certificate's number, unique to the key that it certifies.
pub(crate) type Serial = [u8; SERIAL_BYTES];

/// The serial number of a certificate for the key with this SHA-256 of its public key.
pub(crate) fn serial_of(key_sha256: &[u8]) -> Serial {
    let mut serial = [0; SERIAL_BYTES];
    for (to, from) in serial.iter_mut().zip(key_sha256) {
        *to = *from;
    }
    // Positive, and of full length, as numbers in DER are written.
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

/// One state of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revocations {
    /// Grows with every list; 0 is that there is none.
    pub(crate) number: u64,
    /// Since when each is good no longer.
    pub(crate) revoked: BTreeMap<Serial, SystemTime>,
    /// As signed, for those who do not have it.
    pub(crate) der: Vec<u8>,
}

impl Revocations {
    /// Reads a list that the authority has signed, or says in a phrase what is wrong with it.
    pub(crate) fn read(der: &[u8], ca: &CertificateDer<'_>) -> Result<Self, String> {
        if der.len() > LIST_BYTES_MAX {
            return Err(format!("it has {} bytes and may have {LIST_BYTES_MAX}", der.len()));
        }
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| "it is malformed".to_owned())?;
        let (_, ca) = X509Certificate::from_der(ca).map_err(|_| "the authority is malformed")?;
        if !rest.is_empty() {
            return Err("something follows it".to_owned());
        }
        list.verify_signature(ca.public_key())
            .map_err(|_| "this cluster's authority has not signed it".to_owned())?;
        let number = list.crl_number().ok_or("it has no number")?;
        let number = u64::try_from(number).map_err(|_| "its number is too large".to_owned())?;
        let mut revoked = BTreeMap::new();
        for entry in list.iter_revoked_certificates() {
            let since = u64::try_from(entry.revocation_date.timestamp()).unwrap_or_default();
            // A number of another length is of no certificate that we would believe anyway.
            if let Ok(serial) = Serial::try_from(entry.raw_serial()) {
                revoked.insert(serial, UNIX_EPOCH + Duration::from_secs(since));
            }
        }
        Ok(Self { number, revoked, der: der.to_vec() })
    }

    /// Reads the list in a directory; an empty one if there is none.
    pub(crate) fn load(dir: &Path, ca: &CertificateDer<'_>) -> Result<Self, PkiError> {
        const REMEDY: &str = "remove it: other hosts give this one theirs";
        let path = dir.join(REVOCATIONS_FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let list = CertificateRevocationListDer::from_pem_slice(&files::read(&path, REMEDY)?)
            .map_err(|e| files::content(&path, format!("holds no list in PEM ({e}): {REMEDY}")))?;
        Self::read(&list, ca)
            .map_err(|why| files::content(&path, format!("cannot be used, {why}: {REMEDY}")))
    }

    /// Writes the list into a directory, in the place of the one before. It is on disk when this
    /// returns.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), PkiError> {
        files::replace(&dir.join(REVOCATIONS_FILE), &files::pem("X509 CRL", &self.der), 0o644)
    }
}

/// The newest list that this host knows, which every handshake looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked(Arc<RwLock<Arc<Revocations>>>);

impl Revoked {
    pub(crate) fn new(list: Revocations) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(list))))
    }

    pub(crate) fn list(&self) -> Arc<Revocations> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a certificate of this number is good no longer.
    pub(crate) fn holds(&self, serial: &[u8]) -> bool {
        Serial::try_from(serial).is_ok_and(|serial| self.list().revoked.contains_key(&serial))
    }

    /// Goes by a list from now on if it is newer than the one before. Answers whether it was.
    pub(crate) fn learn(&self, list: Revocations) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let newer = list.number > known.number;
        if newer {
            *known = Arc::new(list);
        }
        newer
    }
}

//! The certificates of other hosts that this one has seen: proof that a name is that of a host.
//!
//! Anybody can name a host that there is not. A name that others have told counts once this host has
//! seen a certificate of it, on a connection or because another host has shown it: that is signed by
//! the authority and cannot be made up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use evenkeel_core::model::HostId;
use rustls::pki_types::CertificateDer;

/// Largest certificate of a host in bytes; ours have some 500.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 2048;
/// Certificates that are asked for, or shown, at once.
pub(crate) const SHOWN_MAX: usize = 64;

/// As many as the authority has signed certificates for hosts.
#[derive(Default)]
pub(crate) struct Book(Mutex<HashMap<HostId, Page>>);

#[derive(Clone)]
struct Page {
    certificate: Vec<u8>,
    issued: SystemTime,
}

impl Book {
    /// Takes in a certificate that was verified. Answers whether it is newer than what was known.
    pub(crate) fn learn(
        &self,
        host: &HostId,
        certificate: &CertificateDer<'_>,
        issued: SystemTime,
    ) -> bool {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = pages.get(host).is_none_or(|known| known.issued < issued);
        let fits = certificate.len() <= CERTIFICATE_BYTES_MAX;
        if newer && fits {
            pages.insert(host.clone(), Page { certificate: certificate.to_vec(), issued });
        }
        newer && fits
    }

    /// When the newest certificate of a host was issued, if one was seen.
    pub(crate) fn issued(&self, host: &HostId) -> Option<SystemTime> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.get(host).map(|page| page.issued)
    }

    /// The newest certificate of a host, if one was seen.
    pub(crate) fn show(&self, host: &HostId) -> Option<Vec<u8>> {
        let pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pages.get(host).map(|page| page.certificate.clone())
    }

    pub(crate) fn forget(&self, host: &HostId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

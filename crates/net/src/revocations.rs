//! Which certificates are good no longer: an X.509 revocation list that hosts pass on.
//!
//! The authority signs the list, and its number grows with every host that is removed. Whoever has
//! a newer one gives it to whomever it talks to, so that after a few rounds every host has it, also
//! one that slept meanwhile, and nobody has to be asked. `openssl crl -in revoked.crl -text` shows
//! what is in it.
//!
//! # Hosts and keys
//!
//! An entry is the number of a certificate, which is unique to its key, or the *mark* of a host: from
//! the first byte on no number of a certificate, made of the host's name. A mark revokes every
//! certificate of that host that was issued until the entry's date. So the list does not grow with the
//! keys that a host has had. The newest of those are in it as well, for agents that know no marks.
//!
//! # Several lists
//!
//! Whatever the authority has signed counts: a host goes by the newest list and by what only earlier
//! ones hold. An authority that was restored from a backup may sign a list that lacks what the lost
//! one had signed; both are in force, and once the authority hears of the other, it signs one that
//! holds all of it. A list's number is at least the time at which it was signed, so that no two
//! have one number.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::HostId;
use ring::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::ca::CLOCK_SLACK;
use crate::enroller::KEY_MEMORY;
use crate::files::{self, PkiError};

/// The list, beside a host's certificate.
pub const REVOCATIONS_FILE: &str = "revoked.crl";
/// Largest list in bytes: some six thousand removed hosts.
pub(crate) const LIST_BYTES_MAX: usize = 256 << 10;
/// Bytes of a serial number.
pub(crate) const SERIAL_BYTES: usize = 16;

/// How many keys of one host are in a list beside its mark.
pub(crate) const KEYS_OF_HOST_MAX: usize = 64;
/// Entries that fit into a list, each with its date and reason.
pub(crate) const ENTRIES_MAX: usize = (LIST_BYTES_MAX - 1024) / 52;
/// Lists beside the newest that are kept for what only they hold.
const EARLIER_MAX: usize = 3;
/// Largest file of lists in bytes, as text.
const LISTS_FILE_BYTES_MAX: u64 = 2 << 20;

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

/// What stands in a list for every certificate of a host.
pub(crate) fn mark_of(host: &HostId) -> Serial {
    let mut mark = serial_of(digest::digest(&digest::SHA256, host.as_str().as_bytes()).as_ref());
    mark[0] = mark[0] & 0x1f | 0x20;
    mark
}

/// When a certificate was issued, by the time from which it is valid.
pub(crate) fn issued(begins: SystemTime) -> SystemTime {
    begins + CLOCK_SLACK
}

/// Entries of a list: since when each is good no longer.
pub(crate) type Entries = BTreeMap<Serial, SystemTime>;

/// Adds entries to others: of two dates the later counts.
pub(crate) fn unite(all: &mut Entries, more: &Entries) {
    for (serial, since) in more {
        let known = all.entry(*serial).or_insert(*since);
        *known = (*known).max(*since);
    }
}

/// Whether these entries say all that those say.
pub(crate) fn cover(all: &Entries, others: &Entries) -> bool {
    others.iter().all(|(serial, since)| all.get(serial).is_some_and(|known| known >= since))
}

/// One list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Revocations {
    /// Grows with every list; 0 is that there is none.
    pub(crate) number: u64,
    /// Since when each is good no longer.
    pub(crate) revoked: Entries,
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

    /// Which of two the newer is; of two with one number everybody has to say the same.
    fn rank(&self) -> (u64, &[u8]) {
        (self.number, &self.der)
    }
}

/// Every list that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) newest: Revocations,
    /// Those that hold what the newest does not, the newer first.
    earlier: Vec<Revocations>,
    /// What all of them hold.
    pub(crate) revoked: Entries,
}

impl Lists {
    /// Takes a list in. Answers whether that changed anything.
    pub(crate) fn add(&mut self, mut list: Revocations) -> bool {
        // What has expired is nobody's, in no list.
        let now = SystemTime::now();
        let all = [&mut self.revoked, &mut self.newest.revoked, &mut list.revoked];
        let earlier = self.earlier.iter_mut().map(|list| &mut list.revoked);
        for entries in all.into_iter().chain(earlier) {
            entries.retain(|_, since| *since + KEY_MEMORY > now);
        }
        let newer = list.rank() > self.newest.rank();
        if !newer && cover(&self.revoked, &list.revoked) {
            return false;
        }
        unite(&mut self.revoked, &list.revoked);
        self.earlier.push(if newer { std::mem::replace(&mut self.newest, list) } else { list });
        let newest = &self.newest.revoked;
        self.earlier.retain(|earlier| !cover(newest, &earlier.revoked));
        self.earlier.sort_by(|a, b| b.rank().cmp(&a.rank()));
        self.earlier.truncate(EARLIER_MAX);
        true
    }

    /// Each of them, the newest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Revocations> {
        std::iter::once(&self.newest).chain(&self.earlier)
    }

    /// Whether the newest holds all there is.
    pub(crate) fn is_one(&self) -> bool {
        cover(&self.newest.revoked, &self.revoked)
    }

    /// Whether a host's certificate with this number, issued then, is good no longer.
    pub(crate) fn revokes(&self, host: &HostId, serial: &[u8], issued: SystemTime) -> bool {
        Serial::try_from(serial).is_ok_and(|serial| self.revoked.contains_key(&serial))
            || self.since(host).is_some_and(|since| issued <= since)
    }

    /// Until when certificates of a host are good no longer, if it was ever removed.
    pub(crate) fn since(&self, host: &HostId) -> Option<SystemTime> {
        self.revoked.get(&mark_of(host)).copied()
    }

    /// Reads the lists in a directory; none if there are none.
    pub(crate) fn load(dir: &Path, ca: &CertificateDer<'_>) -> Result<Self, PkiError> {
        const REMEDY: &str = "remove it: other hosts give this one theirs";
        let path = dir.join(REVOCATIONS_FILE);
        let mut lists = Self::default();
        if !path.exists() {
            return Ok(lists);
        }
        let text = files::read_up_to(&path, REMEDY, LISTS_FILE_BYTES_MAX)?;
        let malformed = |e: &dyn std::fmt::Display| {
            files::content(&path, format!("holds no list in PEM ({e}): {REMEDY}"))
        };
        for list in CertificateRevocationListDer::pem_slice_iter(&text) {
            let list = list.map_err(|e| malformed(&e))?;
            let list = Revocations::read(&list, ca)
                .map_err(|why| files::content(&path, format!("cannot be used, {why}: {REMEDY}")))?;
            lists.add(list);
        }
        if lists == Self::default() { Err(malformed(&"there is none in it")) } else { Ok(lists) }
    }

    /// Writes the lists into a directory, in the place of those before; the newest first, which is all
    /// that earlier versions read. They are on disk when this returns.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), PkiError> {
        let text: String = self.all().map(|list| files::pem("X509 CRL", &list.der)).collect();
        files::replace(&dir.join(REVOCATIONS_FILE), &text, 0o644)
    }
}

/// What this host knows to be revoked, which every handshake looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked(Arc<RwLock<Arc<Lists>>>);

impl Revoked {
    pub(crate) fn new(lists: Lists) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(lists))))
    }

    pub(crate) fn lists(&self) -> Arc<Lists> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a host's certificate with this number, issued then, is good no longer.
    pub(crate) fn revokes(&self, host: &HostId, serial: &[u8], issued: SystemTime) -> bool {
        self.lists().revokes(host, serial, issued)
    }

    /// Goes by a list from now on, too. Answers all lists if that changed anything.
    pub(crate) fn learn(&self, list: Revocations) -> Option<Arc<Lists>> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut known).add(list).then(|| known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1000;
        UNIX_EPOCH + Duration::from_secs(began + seconds)
    }

    fn list(number: u64, entries: &[(u8, u64)]) -> Revocations {
        let revoked = entries.iter().map(|(n, since)| ([*n; SERIAL_BYTES], at(*since)));
        Revocations { number, revoked: revoked.collect(), der: vec![number as u8] }
    }

    #[test]
    fn what_any_list_of_the_authority_has_revoked_stays_revoked() {
        let mut lists = Lists::default();
        assert!(lists.add(list(5, &[(1, 10)])));
        // Of a restored authority: newer, and without what the lost one had signed.
        assert!(lists.add(list(6, &[(2, 20)])));
        assert!(!lists.is_one() && lists.earlier.len() == 1);
        assert_eq!(lists.revoked.len(), 2);
        assert!(!lists.add(list(4, &[(1, 9)])), "an older one that says nothing new");
        assert!(lists.add(list(4, &[(3, 9)])), "an older one that does");
        assert!(lists.add(list(7, &[(1, 10), (2, 20), (3, 9)])));
        assert!(lists.is_one() && lists.earlier.is_empty());
    }

    #[test]
    fn a_mark_revokes_what_a_host_had_and_not_what_it_is_given_later() {
        let host = |name| HostId::new(name).unwrap();
        let mut lists = Lists::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        lists.revoked.insert(mark_of(&host("b")), at(100));
        for (name, issued, revoked) in
            [("b", 99, true), ("b", 100, true), ("b", 101, false), ("c", 1, false)]
        {
            assert_eq!(lists.revokes(&host(name), &[0x41; SERIAL_BYTES], at(issued)), revoked);
        }
    }
}

//! The side of the authority: who may have a certificate, and who no longer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use evenkeel_core::model::HostId;
use rustls::pki_types::CertificateDer;

use crate::ca::{ClusterCa, key_sha256};
use crate::name::TokenId;
use crate::revocations::{Lists, Revoked, Serial, serial_of};

/// A wish to join, as it is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The token that was shown. Good for one host.
    pub token: TokenId,
    /// The host id wished for. Taken by at most one host.
    pub host: HostId,
    /// SHA-256 of the public key, in hexadecimal.
    pub key: String,
}

/// A key that has had a certificate, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedKey {
    /// Whose it is.
    pub host: HostId,
    /// SHA-256 of the public key, in hexadecimal.
    pub key: String,
    /// When it had its certificate, unless that was before such was recorded.
    pub issued: Option<SystemTime>,
    /// Whether its host was removed since.
    pub removed: bool,
}

impl IssuedKey {
    /// The number of its certificate; none if the record is malformed, which then is of no
    /// certificate that was ever signed.
    pub(crate) fn serial(&self) -> Option<Serial> {
        unhex(&self.key).map(|sha256| serial_of(&sha256))
    }
}

/// How long what has had a certificate is to be remembered, from when it was issued: as long as the
/// certificate is good, by any clock.
pub const KEY_MEMORY: Duration = Duration::from_secs(10 * 365 * 24 * 3600 + 24 * 3600);

/// Why a host is not admitted. The text is told to the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefused {
    /// The token has brought in another host, or another key.
    #[error(
        "join token `{0}` has been used already: make another with `evenkeel cluster join-token`"
    )]
    TokenUsed(TokenId),
    /// There is such a host.
    #[error(
        "the name `{0}` is taken by a host of this cluster: join under another name \
         (`init --name`, `agent --host-id`), or remove that host first with `evenkeel cluster remove {0}`"
    )]
    HostTaken(HostId),
    /// There is no such host, or it has been removed.
    #[error("no certificate for host `{0}` is on record here")]
    NotAMember(HostId),
    /// It has had so many new keys lately that it has to wait.
    #[error(
        "host `{host}` has had {most} certificates within a day, and may have the next one a day \
         after the first of these: its present one stays good"
    )]
    TooOften {
        /// Which.
        host: HostId,
        /// How many.
        most: u32,
    },
    /// It could not be recorded, and so must not happen.
    #[error("the agent cannot record it: {0}")]
    NotRecorded(String),
}

/// Remembers who belongs to the cluster, and with which keys. Every change is durable before the
/// method returns; each blocks as long as it must, on a thread of its own.
pub trait Registrar: Send + Sync + 'static {
    /// Admits a host; its certificate is sent afterwards. The very same admission again must
    /// succeed: the certificate may not have arrived.
    ///
    /// # Errors
    /// When the token was used for another host or key, the id is taken, or it cannot be recorded.
    fn admit(&self, admission: &Admission) -> Result<(), AdmissionRefused>;

    /// Records another key (SHA-256, hexadecimal) of a host that has shown a valid certificate. The
    /// same key again must succeed.
    ///
    /// # Errors
    /// When the host was removed, has had too many keys lately, or it cannot be recorded.
    fn renew(&self, host: &HostId, key: &str) -> Result<(), AdmissionRefused>;

    /// The keys of a host, and of every host that was ever removed, but for what was issued longer ago
    /// than [`KEY_MEMORY`].
    ///
    /// # Errors
    /// When there was never such a host, or the record cannot be read.
    fn keys(&self, host: &HostId) -> Result<Vec<IssuedKey>, AdmissionRefused>;

    /// Removes a host, whose id may then be taken by another: the list without it is signed. Removing
    /// it again must succeed.
    ///
    /// # Errors
    /// When there was never such a host, or it cannot be recorded.
    fn remove(&self, host: &HostId) -> Result<(), AdmissionRefused>;
}

/// What an agent needs to bring others in, and to remove them.
#[derive(Clone)]
pub struct Enroller {
    ca: Arc<ClusterCa>,
    registrar: Arc<dyn Registrar>,
    /// One at a time: between what is read for a list and that it is in force, nobody gets a
    /// certificate that the list would lack.
    one: Arc<Mutex<()>>,
}

impl Enroller {
    /// With the authority's key, and a memory of who has joined.
    pub fn new(ca: ClusterCa, registrar: impl Registrar) -> Self {
        Self { ca: Arc::new(ca), registrar: Arc::new(registrar), one: Arc::default() }
    }

    /// Signs a certificate for a host that has shown a join token.
    pub(crate) fn admit(
        &self,
        token: TokenId,
        host: &HostId,
        signing_request: &[u8],
        revoked: &Revoked,
    ) -> Result<CertificateDer<'static>, String> {
        let key = ClusterCa::requested_key(signing_request)?;
        let admission = Admission { token, host: host.clone(), key: hex(&key_sha256(&key)) };
        let _one = self.one();
        self.registrar.admit(&admission).map_err(|e| e.to_string())?;
        let removed = revoked.lists().since(host);
        self.ca.sign_requested(host, &key, removed).map_err(|e| e.to_string())
    }

    /// Signs a certificate for another key of a host that has shown this one, which has to be good
    /// still.
    pub(crate) fn renew(
        &self,
        host: &HostId,
        is_good: impl FnOnce() -> Result<(), String>,
        signing_request: &[u8],
        revoked: &Revoked,
    ) -> Result<CertificateDer<'static>, String> {
        let key = ClusterCa::requested_key(signing_request)?;
        let _one = self.one();
        is_good()?;
        self.registrar.renew(host, &hex(&key_sha256(&key))).map_err(|e| e.to_string())?;
        let removed = revoked.lists().since(host);
        self.ca.sign_requested(host, &key, removed).map_err(|e| e.to_string())
    }

    /// Signs the list without a host, records that, and goes by it: in this order, so that nothing is
    /// recorded of what could not be signed. Answers the list if it is news.
    pub(crate) fn remove(
        &self,
        host: &HostId,
        revoked: &Revoked,
    ) -> Result<Option<Arc<Lists>>, String> {
        let _one = self.one();
        let keys = self.registrar.keys(host).map_err(|e| e.to_string())?;
        let before = revoked.lists();
        let list = self.ca.revoke(&before, Some(host), &keys).map_err(|e| e.to_string())?;
        self.registrar.remove(host).map_err(|e| e.to_string())?;
        Ok(revoked.learn(list))
    }

    /// Signs a list that holds what all lists hold, if none does.
    pub(crate) fn unite(&self, revoked: &Revoked) -> Result<Option<Arc<Lists>>, String> {
        let _one = self.one();
        let before = revoked.lists();
        if before.is_one() {
            return Ok(None);
        }
        let list = self.ca.revoke(&before, None, &[]).map_err(|e| e.to_string())?;
        Ok(revoked.learn(list))
    }

    fn one(&self) -> MutexGuard<'_, ()> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

//! The side of the authority: who may have a certificate, and who no longer.

use std::sync::Arc;

use evenkeel_core::model::HostId;
use rustls::pki_types::CertificateDer;

use crate::ca::{ClusterCa, key_sha256};
use crate::name::TokenId;
use crate::revocations::Revocations;

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
        "host id `{0}` is taken: choose another with `--host-id`, or remove that host first with \
         `evenkeel cluster remove {0}`"
    )]
    HostTaken(HostId),
    /// There is no such host, or it has been removed.
    #[error("no certificate for host `{0}` is on record here")]
    NotAMember(HostId),
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

    /// Records another key (SHA-256, hexadecimal) of a host that has shown a valid certificate.
    ///
    /// # Errors
    /// When it cannot be recorded.
    fn renew(&self, host: &HostId, key: &str) -> Result<(), AdmissionRefused>;

    /// Removes a host, whose id may then be taken by another. Answers the keys of every host that
    /// was ever removed. Removing it again must succeed: the list may not have been signed.
    ///
    /// # Errors
    /// When there was never such a host, or it cannot be recorded.
    fn remove(&self, host: &HostId) -> Result<Vec<String>, AdmissionRefused>;
}

/// What an agent needs to bring others in, and to remove them.
#[derive(Clone)]
pub struct Enroller {
    ca: Arc<ClusterCa>,
    registrar: Arc<dyn Registrar>,
}

impl Enroller {
    /// With the authority's key, and a memory of who has joined.
    pub fn new(ca: ClusterCa, registrar: impl Registrar) -> Self {
        Self { ca: Arc::new(ca), registrar: Arc::new(registrar) }
    }

    /// Signs a certificate for a host that has shown a join token.
    pub(crate) fn admit(
        &self,
        token: TokenId,
        host: &HostId,
        signing_request: &[u8],
    ) -> Result<CertificateDer<'static>, String> {
        let key = ClusterCa::requested_key(signing_request)?;
        let admission = Admission { token, host: host.clone(), key: hex(&key_sha256(&key)) };
        self.registrar.admit(&admission).map_err(|e| e.to_string())?;
        self.ca.sign_requested(host, &key).map_err(|e| e.to_string())
    }

    /// Signs a certificate for another key of a host that has shown a valid certificate.
    pub(crate) fn renew(
        &self,
        host: &HostId,
        signing_request: &[u8],
    ) -> Result<CertificateDer<'static>, String> {
        let key = ClusterCa::requested_key(signing_request)?;
        self.registrar.renew(host, &hex(&key_sha256(&key))).map_err(|e| e.to_string())?;
        self.ca.sign_requested(host, &key).map_err(|e| e.to_string())
    }

    /// Signs the list without a host; the one that follows `before`.
    pub(crate) fn remove(
        &self,
        host: &HostId,
        before: &Revocations,
    ) -> Result<Revocations, String> {
        let keys = self.registrar.remove(host).map_err(|e| e.to_string())?;
        let keys = keys.iter().map(|key| unhex(key)).collect::<Option<Vec<_>>>();
        let keys = keys.ok_or("a key on record is malformed")?;
        self.ca.revoke(before, keys).map_err(|e| e.to_string())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

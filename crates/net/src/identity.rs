//! Who this host is: its certificate, its key and the authority that it trusts.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::HostId;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};

use crate::ca::CLOCK_SLACK;
use crate::files::{self, PkiError};
use crate::name::{ClusterId, Facts, Name};
use crate::revocations::{Lists, Revoked};
use crate::tls::Trust;

/// The authority's certificate, on every host.
pub const CA_CERTIFICATE_FILE: &str = "ca.crt";
/// The host's own certificate.
pub const HOST_CERTIFICATE_FILE: &str = "host.crt";
/// The host's private key.
pub const HOST_KEY_FILE: &str = "host.key";
/// A private key for which a certificate has been asked.
pub(crate) const NEXT_KEY_FILE: &str = "host.key.next";

const REMEDY: &str = "make a cluster with `evenkeel cluster init`, or join one with \
                      `evenkeel agent --join TOKEN`";

/// What a host proves itself with. Its files are checked when it is loaded.
pub struct Identity {
    pub(crate) host: HostId,
    pub(crate) cluster: ClusterId,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    pub(crate) begins: SystemTime,
    pub(crate) expires: SystemTime,
    /// What was revoked when it was loaded.
    pub(crate) revocations: Lists,
    /// Where its files are, if they are.
    pub(crate) dir: Option<PathBuf>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.host, self.cluster)
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            host: self.host.clone(),
            cluster: self.cluster.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            begins: self.begins,
            expires: self.expires,
            revocations: self.revocations.clone(),
            dir: self.dir.clone(),
        }
    }
}

impl Identity {
    /// The host that the certificate names.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// When the certificate expires. From then on every peer refuses this host.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// When the certificate was issued, by the clock of the host that holds the authority's key.
    #[must_use]
    pub fn issued(&self) -> SystemTime {
        self.begins + CLOCK_SLACK
    }

    /// When it is to be renewed: after two thirds of its time.
    #[must_use]
    pub fn renewal_due(&self) -> SystemTime {
        let span = self.expires.duration_since(self.begins).unwrap_or_default();
        self.begins + span.mul_f64(2.0 / 3.0)
    }

    /// Reads `ca.crt`, `host.crt` and `host.key` from a directory and checks that they belong
    /// together and are valid now.
    ///
    /// # Errors
    /// The file that is missing, readable by others, malformed, expired or does not fit the rest.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let ca = files::read_certificate(&dir.join(CA_CERTIFICATE_FILE), REMEDY)?;
        let path = dir.join(HOST_CERTIFICATE_FILE);
        let certificate = files::read_certificate(&path, REMEDY)?;
        finish_renewal(dir, &certificate)?;
        let key = files::read_key(&dir.join(HOST_KEY_FILE), REMEDY)?;
        let revocations = Lists::load(dir, &ca)?;
        let identity = Self::checked(ca, certificate, key);
        let identity = identity.map_err(|what| files::content(&path, what))?;
        Ok(Self { revocations, dir: Some(dir.to_owned()), ..identity })
    }

    /// Writes the three files into a directory, which is made if it is missing.
    ///
    /// # Errors
    /// When one of them exists already, or cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PkiError> {
        const TAKEN: &str = "a host has one identity; use another directory, or move it away";
        files::make_dir(dir)?;
        let key = rcgen::KeyPair::try_from(&self.key)
            .map_err(files::crypto("write the private key as text"))?;
        files::write_new(&dir.join(HOST_KEY_FILE), &key.serialize_pem(), 0o600, TAKEN)?;
        self.save_certificates(dir)
    }

    /// Writes the two certificates; the key is there already.
    pub(crate) fn save_certificates(&self, dir: &Path) -> Result<(), PkiError> {
        const TAKEN: &str = "a host is in one cluster; use another directory, or move it away";
        let ca = dir.join(CA_CERTIFICATE_FILE);
        // The host that made the cluster has it already.
        let same = files::read_certificate(&ca, REMEDY).is_ok_and(|there| there == self.ca);
        if !same {
            files::write_new(&ca, &files::pem("CERTIFICATE", &self.ca), 0o644, TAKEN)?;
        }
        let host = dir.join(HOST_CERTIFICATE_FILE);
        files::write_new(&host, &files::pem("CERTIFICATE", &self.certificate), 0o644, TAKEN)
    }

    /// Checks that the three belong together, or says in a phrase after the certificate's name what
    /// is wrong.
    pub(crate) fn checked(
        ca: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, String> {
        let trust = Trust::new(&ca, Revoked::default())
            .map_err(|e| format!("has no usable authority beside it: {e}"))?;
        let name = trust.verify(&certificate, UnixTime::now()).map_err(|e| {
            format!("cannot be used: {e}; get a new one with `evenkeel agent --join TOKEN`")
        })?;
        let Name::Host(cluster, host) = name else {
            return Err(format!("is not a host's certificate but names `{name}`"));
        };
        let own_key = key.clone_key().into();
        crate::tls::certified_key(certificate.clone(), &own_key)
            .map_err(|e| format!("does not belong to the private key beside it ({e}); {REMEDY}"))?;
        let facts = Facts::of(&certificate).map_err(|e| e.to_string())?;
        let at = |unix_s: i64| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_s).unwrap_or_default())
        };
        let (begins, expires) = (at(facts.begins_unix_s), at(facts.expires_unix_s));
        let (revocations, dir) = (Lists::default(), None);
        Ok(Self { host, cluster, ca, certificate, key, begins, expires, revocations, dir })
    }
}

/// A renewal writes the new key beside the old one, then the certificate for it, and then gives the
/// key its name. If it ended between the last two, that is done now.
fn finish_renewal(dir: &Path, certificate: &CertificateDer<'static>) -> Result<(), PkiError> {
    let fresh = dir.join(NEXT_KEY_FILE);
    if !fresh.exists() {
        return Ok(());
    }
    let key = files::read_key(&fresh, REMEDY)?.into();
    if crate::tls::certified_key(certificate.clone(), &key).is_err() {
        return Ok(());
    }
    let path = dir.join(HOST_KEY_FILE);
    files::rename(&fresh, &path).map_err(|source| PkiError::File { doing: "replace", path, source })
}

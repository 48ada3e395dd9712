//! The cluster's own certificate authority.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::HostId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use ring::digest;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use crate::enroller::{IssuedKey, KEY_MEMORY};
use crate::files::{self, PkiError, crypto};
use crate::identity::{CA_CERTIFICATE_FILE, Identity};
use crate::name::{ClusterId, Facts, Name, TokenId};
use crate::revocations::{
    ENTRIES_MAX, Entries, KEYS_OF_HOST_MAX, Lists, Revocations, Serial, mark_of, serial_of, unite,
};
use crate::token::JoinToken;

/// The authority's private key, on the host that brings others in.
pub const CA_KEY_FILE: &str = "ca.key";

/// How long an authority and its hosts' certificates are good.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far the clocks of two hosts may lie apart when one joins.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_secs(3600);

const REMEDY: &str = "it is on the host where `evenkeel cluster init` ran";

/// The authority of one cluster: whoever holds it decides which hosts belong.
pub struct ClusterCa {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterCa({})", self.cluster)
    }
}

impl ClusterCa {
    /// Makes the authority of a new cluster and writes `ca.crt` and `ca.key` into a directory.
    ///
    /// # Errors
    /// When there is an authority already, or the files cannot be written.
    pub fn init(dir: &Path) -> Result<Self, PkiError> {
        const TAKEN: &str =
            "a cluster was made here already; `evenkeel cluster join-token` brings hosts into it";
        let doing = "make the authority of a cluster";
        let cluster = ClusterId::draw().ok_or_else(|| no_randomness(doing))?;
        let key = generate_key()?;
        let (from, until) = valid_for(VALIDITY);
        let mut params = params(&Name::Authority(cluster), from, until)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(crypto(doing))?;
        files::make_dir(dir)?;
        files::write_new(&dir.join(CA_KEY_FILE), &key.serialize_pem(), 0o600, TAKEN)?;
        files::write_new(&dir.join(CA_CERTIFICATE_FILE), &certificate.pem(), 0o644, TAKEN)?;
        Self::load(dir)
    }

    /// Reads `ca.crt` and `ca.key` from a directory.
    ///
    /// # Errors
    /// The file that is missing, readable by others, malformed or does not fit the other.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(CA_CERTIFICATE_FILE);
        let certificate = files::read_certificate(&path, REMEDY)?;
        let key = files::read_key(&dir.join(CA_KEY_FILE), REMEDY)?;
        let facts = Facts::of(&certificate).map_err(|e| files::content(&path, e.to_string()))?;
        let Name::Authority(cluster) = facts.name else {
            return Err(files::content(&path, format!("names `{}`, no authority", facts.name)));
        };
        crate::tls::certified_key(certificate.clone(), &key.clone_key().into()).map_err(|e| {
            files::content(&path, format!("does not belong to `{CA_KEY_FILE}` beside it ({e})"))
        })?;
        let key = KeyPair::try_from(&key).map_err(crypto("use the authority's key"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|e| files::content(&path, format!("cannot issue certificates: {e}")))?;
        Ok(Self { cluster, certificate, issuer })
    }

    /// The cluster that this is the authority of.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Makes a key and a certificate for a host.
    ///
    /// # Errors
    /// When the system has no randomness or the key cannot sign.
    pub fn issue(&self, host: &HostId) -> Result<Identity, PkiError> {
        let (from, until) = valid_for(VALIDITY);
        self.issue_within(host, from, until)
    }

    /// Like [`Self::issue`], for a span of one's own choice.
    ///
    /// # Errors
    /// As there, and when the span does not include the present.
    pub fn issue_within(
        &self,
        host: &HostId,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Identity, PkiError> {
        let key = generate_key()?;
        let certificate = self.sign_host(host, &key, from, until)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Identity {
            host: host.clone(),
            cluster: self.cluster.clone(),
            ca: self.certificate.clone(),
            certificate,
            key,
            begins: from,
            expires: until,
            revocations: Lists::default(),
            dir: None,
        })
    }

    /// Makes a token with which one host can join within `valid_for`, by asking one of `seeds`.
    ///
    /// # Errors
    /// When the system has no randomness or the key cannot sign.
    pub fn mint_token(
        &self,
        seeds: Vec<SocketAddr>,
        valid_for: Duration,
    ) -> Result<JoinToken, PkiError> {
        let doing = "make a join token";
        let now = SystemTime::now();
        let token = TokenId::draw().ok_or_else(|| no_randomness(doing))?;
        let key = generate_key()?;
        let until = now + valid_for;
        let name = Name::Enrolment(self.cluster.clone(), token.clone());
        let mut params = params(&name, now - CLOCK_SLACK, until)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto(doing))?;
        Ok(JoinToken {
            id: token,
            cluster: self.cluster.clone(),
            ca: self.certificate.clone(),
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            seeds,
            begins: now - CLOCK_SLACK,
            expires: until,
        })
    }

    /// Reads a certificate signing request: whose key it is, having checked that the sender holds
    /// it. Nothing else in it counts.
    pub(crate) fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, String> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request)
            .map_err(|e| format!("the signing request is malformed: {e}"))?;
        if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
            return Err("the signing request's key is not an ECDSA P-256 key".to_owned());
        }
        Ok(request.public_key)
    }

    /// The list that follows `before`, without `host` and all hosts that were removed earlier, whose
    /// keys these are. Without a host to be removed, it holds what all lists before hold.
    pub(crate) fn revoke(
        &self,
        before: &Lists,
        host: Option<&HostId>,
        keys: &[IssuedKey],
    ) -> Result<Revocations, PkiError> {
        let now = SystemTime::now();
        let mut entries = before.revoked.clone();
        entries.retain(|_, since| *since + KEY_MEMORY > now);
        let mut of_marked = Entries::new();
        let mut hosts: BTreeMap<&HostId, Vec<&IssuedKey>> = BTreeMap::new();
        keys.iter().for_each(|key| hosts.entry(&key.host).or_default().push(key));
        for (removed, mut keys) in hosts {
            let is_back = host != Some(removed) && keys.iter().any(|key| !key.removed);
            keys.retain(|key| key.removed || host == Some(removed));
            keys.sort_by_key(|key| std::cmp::Reverse(key.issued));
            let newest = keys.iter().filter_map(|key| key.issued).max();
            let since = if is_back { newest } else { Some(newest.map_or(now, |at| at.max(now))) };
            let mark = mark_of(removed);
            // What was marked at its removal stays so.
            let marked = before.revoked.get(&mark).copied().filter(|_| host != Some(removed));
            if let Some(since) = marked.or(since) {
                unite(&mut entries, &[(mark, since)].into());
            }
            let serials = keys.iter().filter_map(|key| Some((key.serial()?, now)));
            let is_marked = entries.contains_key(&mark);
            let most = if is_marked { KEYS_OF_HOST_MAX } else { usize::MAX };
            for (serial, now) in serials.take(most) {
                let since = *entries.entry(serial).or_insert(now);
                if is_marked {
                    of_marked.insert(serial, since);
                }
            }
        }
        self.sign_list(before.newest.number, &fitting(entries, &of_marked), now)
    }

    fn sign_list(
        &self,
        before: u64,
        entries: &Entries,
        now: SystemTime,
    ) -> Result<Revocations, PkiError> {
        let doing = "sign the list of removed hosts";
        let entry = |(serial, since): (&Serial, &SystemTime)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: (*since).into(),
            reason_code: Some(RevocationReason::CessationOfOperation),
            invalidity_date: None,
        };
        // An authority that was restored has forgotten numbers, and not what time it is.
        let ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let number = u64::try_from(ms).unwrap_or_default().max(before.saturating_add(1));
        let params = CertificateRevocationListParams {
            this_update: now.into(),
            // A list is good until there is a newer one.
            next_update: (now + VALIDITY).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.issuer).map_err(crypto(doing))?;
        Revocations::read(signed.der(), &self.certificate)
            .map_err(|why| PkiError::Crypto { doing, why })
    }

    /// A certificate for a host whose key is elsewhere. If the host was `removed` earlier, the list
    /// does not count for it.
    pub(crate) fn sign_requested(
        &self,
        host: &HostId,
        key: &rcgen::PublicKey,
        removed: Option<SystemTime>,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let (mut from, until) = valid_for(VALIDITY);
        // A list tells by the second of issue what a host had before it was removed.
        if let Some(removed) = removed {
            from = from.max(removed + Duration::from_secs(1) - CLOCK_SLACK);
        }
        self.sign_host(host, key, from, until)
    }

    fn sign_host(
        &self,
        host: &HostId,
        key: &impl PublicKeyData,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = params(&Name::Host(self.cluster.clone(), host.clone()), from, until)?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&serial_of(&key_sha256(key))));
        let signed = params.signed_by(key, &self.issuer);
        Ok(signed.map_err(crypto("sign a host's certificate"))?.der().clone())
    }
}

/// The entries without the oldest of these where there are too many.
fn fitting(mut entries: Entries, dispensable: &Entries) -> Entries {
    let too_many = entries.len().saturating_sub(ENTRIES_MAX);
    let mut oldest: Vec<_> = dispensable.iter().map(|(serial, since)| (*since, *serial)).collect();
    oldest.sort_unstable();
    for (_, serial) in oldest.into_iter().take(too_many) {
        entries.remove(&serial);
    }
    entries
}

/// By which a key is known: SHA-256 of its public part with the algorithm.
pub(crate) fn key_sha256(key: &impl PublicKeyData) -> Vec<u8> {
    digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref().to_vec()
}

fn valid_for(span: Duration) -> (SystemTime, SystemTime) {
    let now = SystemTime::now();
    (now - CLOCK_SLACK, now + span)
}

pub(crate) fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("make a private key"))
}

fn no_randomness(doing: &'static str) -> PkiError {
    PkiError::Crypto { doing, why: "the system gives no random bytes".to_owned() }
}

/// What is common to every certificate of ours.
fn params(name: &Name, from: SystemTime, until: SystemTime) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let uri = Ia5String::try_from(name.to_string()).map_err(crypto("name a certificate"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Evenkeel");
    let common = match name {
        Name::Authority(cluster) => format!("cluster {cluster}"),
        Name::Host(_, host) => host.to_string(),
        Name::Enrolment(_, token) => format!("join token {token}"),
    };
    params.distinguished_name.push(DnType::CommonName, common);
    params.not_before = from.into();
    params.not_after = until.into();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

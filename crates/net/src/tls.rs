//! Mutual TLS: whom we believe to be who, and what we show.
//!
//! A chain is verified against the cluster's authority by webpki, as on the web; but a peer is
//! known by the name in its certificate, not by the address where it is found. Nothing is resumed:
//! every connection shows its certificate.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::HostId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName,
    RootCertStore, ServerConfig, SignatureScheme, version,
};

use crate::name::{ClusterId, Facts, Name};
use crate::revocations::{Revoked, issued};

/// The protocol spoken inside QUIC, negotiated in the handshake.
pub(crate) const ALPN: &[u8] = b"evenkeel/1";
/// The protocol spoken inside TCP.
pub(crate) const STREAM_ALPN: &[u8] = b"evenkeel-stream/1";
/// A server name must be given; none is looked at.
pub(crate) const SERVER_NAME: &str = "evenkeel";

/// Why a peer is not believed. The texts are told to the peer, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Not signed by this cluster's authority.
    #[error("the certificate is not from the authority of this cluster (`{cluster}`)")]
    OtherAuthority {
        /// Our cluster.
        cluster: ClusterId,
    },
    /// Signed by this cluster's authority, for another cluster.
    #[error("the certificate is for cluster `{found}`, and this is `{cluster}`")]
    OtherCluster {
        /// Our cluster.
        cluster: ClusterId,
        /// The peer's.
        found: ClusterId,
    },
    /// No longer valid.
    #[error("the certificate has expired, or a clock is wrong")]
    Expired,
    /// Not valid yet.
    #[error("the certificate is not valid yet, or a clock is wrong")]
    NotYetValid,
    /// Another host than the one that was called.
    #[error("host `{found}` answers where host `{expected}` was expected")]
    OtherHost {
        /// Whom we called.
        expected: HostId,
        /// Who answered.
        found: HostId,
    },
    /// A member of the cluster under this very host's name.
    #[error("two hosts have the id `{0}`: give one of them another")]
    OwnName(HostId),
    /// A host that was removed from the cluster, or a certificate that was replaced for it.
    #[error(
        "host `{0}` was removed from the cluster: to let it in again, move its identity away and \
         join with a token"
    )]
    Removed(HostId),
    /// A certificate that is no host's.
    #[error("the certificate names `{0}`, which is no host")]
    NoHost(String),
    /// Anything else that webpki finds.
    #[error("the certificate is refused: {0}")]
    Invalid(String),
}

/// The authority that we believe.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) cluster: ClusterId,
    revoked: Revoked,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts an authority's certificate, but for what is revoked, or says why it is none.
    pub(crate) fn new(ca: &CertificateDer<'static>, revoked: Revoked) -> Result<Self, String> {
        let facts = Facts::of(ca).map_err(|e| e.to_string())?;
        let Name::Authority(cluster) = facts.name else {
            return Err(format!("`{}` is not the authority of a cluster", facts.name));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).map_err(|e| e.to_string())?;
        let algorithms = provider::default_provider().signature_verification_algorithms;
        Ok(Self { cluster, revoked, roots: Arc::new(roots), algorithms })
    }

    /// Verifies a host's certificate and says whom it names.
    pub(crate) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<Name, PeerRefused> {
        ParsedCertificate::try_from(certificate)
            .and_then(|parsed| {
                let all = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &[], now, all)
            })
            .map_err(|e| self.refusal(&e))?;
        self.named(certificate)
    }

    /// Whether this is a certificate that the authority has given a host of this cluster, valid now or
    /// not, and not revoked; which host, and when it was issued.
    pub(crate) fn vouch(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<(HostId, SystemTime), PeerRefused> {
        let facts = Facts::of(certificate).map_err(|e| PeerRefused::Invalid(e.to_string()))?;
        let then = facts.begins() + Duration::from_secs(1);
        let then = then.duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.verify(certificate, UnixTime::since_unix_epoch(then))? {
            Name::Host(_, host) => Ok((host, issued(facts.begins()))),
            other => Err(PeerRefused::NoHost(other.to_string())),
        }
    }

    /// Whom a verified certificate names, if it is somebody of this cluster.
    pub(crate) fn named(&self, certificate: &CertificateDer<'_>) -> Result<Name, PeerRefused> {
        let facts = Facts::of(certificate).map_err(|e| PeerRefused::Invalid(e.to_string()))?;
        let issued = issued(facts.begins());
        let name = facts.name;
        match &name {
            Name::Host(cluster, host)
                if *cluster == self.cluster
                    && self.revoked.revokes(host, &facts.serial, issued) =>
            {
                Err(PeerRefused::Removed(host.clone()))
            }
            Name::Host(cluster, _) | Name::Enrolment(cluster, _) if *cluster == self.cluster => {
                Ok(name)
            }
            Name::Host(found, _) | Name::Enrolment(found, _) => Err(PeerRefused::OtherCluster {
                cluster: self.cluster.clone(),
                found: found.clone(),
            }),
            Name::Authority(_) => Err(PeerRefused::NoHost(name.to_string())),
        }
    }

    fn refusal(&self, e: &rustls::Error) -> PeerRefused {
        use CertificateError as E;
        match e {
            rustls::Error::InvalidCertificate(E::Expired | E::ExpiredContext { .. }) => {
                PeerRefused::Expired
            }
            rustls::Error::InvalidCertificate(E::NotValidYet | E::NotValidYetContext { .. }) => {
                PeerRefused::NotYetValid
            }
            rustls::Error::InvalidCertificate(
                E::UnknownIssuer | E::BadSignature | E::InvalidPurpose,
            ) => PeerRefused::OtherAuthority { cluster: self.cluster.clone() },
            other => PeerRefused::Invalid(other.to_string()),
        }
    }
}

/// A certificate with its key, checked to belong together.
pub(crate) fn certified_key(
    certificate: CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let provider = provider::default_provider();
    CertifiedKey::from_der(vec![certificate], key.clone_key(), &provider).map(Arc::new)
}

/// What one side shows and believes.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    own: Arc<SingleCertAndKey>,
}

/// Where a verifier leaves what it found, since TLS itself only tells an alert.
pub(crate) type Refusal = Arc<OnceLock<PeerRefused>>;

impl Credentials {
    pub(crate) fn new(
        ca: &CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
        revoked: Revoked,
    ) -> Result<Self, String> {
        let own = certified_key(certificate, key).map_err(|e| e.to_string())?;
        Ok(Self {
            trust: Arc::new(Trust::new(ca, revoked)?),
            provider: Arc::new(provider::default_provider()),
            own: Arc::new(SingleCertAndKey::from(own)),
        })
    }

    /// For calling a host, or whichever host answers.
    pub(crate) fn client(
        &self,
        expected: Option<HostId>,
        refusal: &Refusal,
    ) -> Result<QuicClientConfig, String> {
        let config = self.calling(expected, refusal, ALPN)?;
        QuicClientConfig::try_from(config).map_err(|e| e.to_string())
    }

    /// For being called.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, String> {
        QuicServerConfig::try_from(self.called(ALPN)?).map_err(|e| e.to_string())
    }

    /// For calling a host to have a stream with it.
    pub(crate) fn calling_for_stream(
        &self,
        host: &HostId,
        refusal: &Refusal,
    ) -> Result<ClientConfig, String> {
        // As strong as the keys that it comes from, and faster than the one that is first otherwise.
        let mut provider = provider::default_provider();
        provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let fast = Self { provider: Arc::new(provider), ..self.clone() };
        fast.calling(Some(host.clone()), refusal, STREAM_ALPN)
    }

    /// For calling a host, or whichever host answers, to speak a protocol.
    fn calling(
        &self,
        expected: Option<HostId>,
        refusal: &Refusal,
        protocol: &[u8],
    ) -> Result<ClientConfig, String> {
        let verifier =
            HostVerifier { trust: self.trust.clone(), expected, refusal: refusal.clone() };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }

    /// For being called by who speaks a protocol.
    pub(crate) fn called(&self, protocol: &[u8]) -> Result<ServerConfig, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(
            self.trust.roots.clone(),
            self.provider.clone(),
        )
        .clear_root_hint_subjects()
        .build()
        .map_err(|e| e.to_string())?;
        let verifier = CallerVerifier { trust: self.trust.clone(), chain };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|e| e.to_string())?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.own.clone());
        config.alpn_protocols = vec![protocol.to_vec()];
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

fn tls12_is_off() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// Verifies whom we called.
#[derive(Debug)]
struct HostVerifier {
    trust: Arc<Trust>,
    expected: Option<HostId>,
    refusal: Refusal,
}

impl HostVerifier {
    fn verify(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), PeerRefused> {
        match (self.trust.verify(certificate, now)?, &self.expected) {
            (Name::Host(_, found), Some(expected)) if found != *expected => {
                Err(PeerRefused::OtherHost { expected: expected.clone(), found })
            }
            (Name::Host(..), _) => Ok(()),
            (other, _) => Err(PeerRefused::NoHost(other.to_string())),
        }
    }
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, now).map(|()| ServerCertVerified::assertion()).map_err(|why| {
            let error = rustls::Error::General(why.to_string());
            // The first finding is the one that ends the handshake.
            let _ = self.refusal.set(why);
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// Verifies who calls us.
#[derive(Debug)]
struct CallerVerifier {
    trust: Arc<Trust>,
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for CallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = |why: PeerRefused| rustls::Error::General(why.to_string());
        let verified = self
            .chain
            .verify_client_cert(end_entity, &[], now)
            .map_err(|e| refused(self.trust.refusal(&e)))?;
        self.trust.named(end_entity).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

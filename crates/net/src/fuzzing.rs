//! What `evenkeel-fuzz` does to the decoders that are private here.

use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;

use crate::enrol::{Answer, Request};
use crate::name::{Facts, Name};
use crate::revocations::Revocations;
use crate::token::JoinToken;

/// A certificate that a peer shows: whom it names reads back as it is written.
pub fn certificate(bytes: &[u8]) {
    if let Ok(facts) = Facts::of(&CertificateDer::from(bytes)) {
        let name = facts.name.to_string().parse::<Name>();
        assert_eq!(name.ok(), Some(facts.name));
    }
}

/// A name in a certificate.
pub fn name(text: &str) {
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.to_string(), text);
    }
}

/// A list of removed hosts that a peer gives: nothing that the authority has not signed counts.
pub fn revocations(bytes: &[u8]) {
    static AUTHORITY: OnceLock<Option<CertificateDer<'static>>> = OnceLock::new();
    let make = || {
        let key = crate::ca::generate_key().ok()?;
        let params = rcgen::CertificateParams::default();
        params.self_signed(&key).ok().map(|certificate| certificate.der().clone())
    };
    if let Some(authority) = AUTHORITY.get_or_init(make) {
        assert!(Revocations::read(bytes, authority).is_err());
    }
}

/// What is said when a host joins or renews its certificate.
pub fn enrolment(bytes: &[u8]) {
    if let Ok(request) = minicbor::decode::<Request>(bytes) {
        let _ = crate::ca::ClusterCa::requested_key(&request.signing_request);
        let again = crate::enrol::encode(&request);
        assert!(minicbor::decode::<Request>(&again).is_ok());
    }
    let _ = minicbor::decode::<Answer>(bytes);
}

/// A join token as text.
pub fn token(text: &str) {
    if let Ok(token) = text.parse::<JoinToken>() {
        let again = token.to_text().parse::<JoinToken>().map(|t| t.to_text());
        assert_eq!(again.ok(), Some(token.to_text()));
    }
}

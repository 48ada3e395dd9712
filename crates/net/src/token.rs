//! Join tokens: everything that a new host needs, in one line of text.
//!
//! `ek1.` and base64url of a CBOR map: the authority's certificate, a short-lived certificate that
//! can do nothing but enrol, its key, and where to ask. Whoever has the line can bring one host of
//! any name into the cluster until it expires or is used.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::name::{ClusterId, Facts, Name, TokenId};

const PREFIX: &str = "ek1.";
/// Longest token in characters.
const TEXT_MAX: usize = 8 * 1024;
/// Most seeds in a token.
const SEEDS_MAX: usize = 64;

/// Why a text is no join token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error(
        "this is not a join token: one begins with `{PREFIX}` and is what \
         `evenkeel cluster join-token` prints"
    )]
    Prefix,
    /// It begins as one.
    #[error("the join token is damaged ({0}): copy it whole, as one line")]
    Damaged(String),
}

/// Lets one host join. Keep it as secret as a password.
pub struct JoinToken {
    pub(crate) id: TokenId,
    pub(crate) cluster: ClusterId,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    pub(crate) seeds: Vec<SocketAddr>,
    /// From when its certificate is good: somewhat before it was made.
    pub(crate) begins: SystemTime,
    pub(crate) expires: SystemTime,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} of {})", self.id, self.cluster)
    }
}

impl JoinToken {
    /// The token, without what makes it secret.
    #[must_use]
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The cluster that it leads into.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The agents to ask, which are also the first members to know.
    #[must_use]
    pub fn seeds(&self) -> &[SocketAddr] {
        &self.seeds
    }

    /// When it is no longer good.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// The token as text, secret included.
    #[must_use]
    pub fn to_text(&self) -> String {
        let body = Body {
            ca: self.ca.to_vec(),
            certificate: self.certificate.to_vec(),
            key: self.key.secret_pkcs8_der().to_vec(),
            seeds: self.seeds.iter().map(ToString::to_string).collect(),
        };
        let mut bytes = Vec::new();
        // A vector takes everything, and no field of ours fails to encode.
        let encoded = minicbor::encode(&body, &mut bytes);
        debug_assert!(encoded.is_ok());
        PREFIX.to_owned() + &URL_SAFE_NO_PAD.encode(bytes)
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Body {
    #[cbor(n(0), with = "minicbor::bytes")]
    ca: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    certificate: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    key: Vec<u8>,
    #[n(3)]
    seeds: Vec<String>,
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let damaged = |what: &str| TokenError::Damaged(what.to_owned());
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() > TEXT_MAX {
            return Err(damaged("too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|e| TokenError::Damaged(e.to_string()))?;
        let body: Body =
            minicbor::decode(&bytes).map_err(|e| TokenError::Damaged(e.to_string()))?;
        if body.seeds.is_empty() || body.seeds.len() > SEEDS_MAX {
            return Err(damaged("it names no agent to ask, or too many"));
        }
        let seeds: Result<Vec<SocketAddr>, _> = body.seeds.iter().map(|s| s.parse()).collect();
        let certificate = CertificateDer::from(body.certificate);
        let facts = Facts::of(&certificate).map_err(|e| TokenError::Damaged(e.to_string()))?;
        let begins = facts.begins();
        let Name::Enrolment(cluster, id) = facts.name else {
            return Err(damaged("its certificate is not for joining"));
        };
        let expires_s = u64::try_from(facts.expires_unix_s).map_err(|_| damaged("its expiry"))?;
        Ok(Self {
            id,
            cluster,
            ca: CertificateDer::from(body.ca),
            certificate,
            key: PrivatePkcs8KeyDer::from(body.key),
            seeds: seeds.map_err(|_| damaged("an address of an agent"))?,
            begins,
            expires: UNIX_EPOCH + Duration::from_secs(expires_s),
        })
    }
}

//! What a certificate says of its holder: one URI as subject alternative name.
//!
//! ```text
//! evenkeel://CLUSTER/ca            the authority of a cluster
//! evenkeel://CLUSTER/host/HOST     a host of it
//! evenkeel://CLUSTER/enrol/TOKEN   somebody who may ask for a host certificate, once
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::HostId;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Bytes of a drawn id, which is written with 16 hexadecimal digits.
const ID_BYTES: usize = 8;

/// Why a text or a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is no id of a cluster or token.
    #[error("`{0}` is not an id: 16 hexadecimal digits are")]
    Id(String),
    /// The certificate cannot be read.
    #[error("the certificate is malformed")]
    Malformed,
    /// The certificate was not made by Evenkeel, or for something else.
    #[error("the certificate names nobody that Evenkeel knows ({0})")]
    Unknown(String),
}

macro_rules! drawn_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// A new one, drawn from the system's randomness; none if that fails.
            pub(crate) fn draw() -> Option<Self> {
                let mut id = [0; ID_BYTES];
                SystemRandom::new().fill(&mut id).ok()?;
                Some(Self(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let wrong = || NameError::Id(text.chars().take(40).collect());
                let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() != 2 * ID_BYTES || !text.bytes().all(lower_hex) {
                    return Err(wrong());
                }
                let value = u64::from_str_radix(text, 16).map_err(|_| wrong())?;
                Ok(Self(value.to_be_bytes()))
            }
        }
    };
}

drawn_id! {
    /// A cluster, drawn when its authority was made.
    ClusterId
}

drawn_id! {
    /// A join token, which is good for one host.
    TokenId
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Authority(ClusterId),
    Host(ClusterId, HostId),
    Enrolment(ClusterId, TokenId),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(cluster) => write!(f, "evenkeel://{cluster}/ca"),
            Self::Host(cluster, host) => write!(f, "evenkeel://{cluster}/host/{host}"),
            Self::Enrolment(cluster, token) => write!(f, "evenkeel://{cluster}/enrol/{token}"),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, NameError> {
        let unknown = || NameError::Unknown(uri.chars().take(100).collect());
        let path = uri.strip_prefix("evenkeel://").ok_or_else(unknown)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [cluster, "ca"] => Ok(Self::Authority(cluster.parse()?)),
            [cluster, "host", host] => {
                Ok(Self::Host(cluster.parse()?, HostId::new(host).map_err(|_| unknown())?))
            }
            [cluster, "enrol", token] => Ok(Self::Enrolment(cluster.parse()?, token.parse()?)),
            _ => Err(unknown()),
        }
    }
}

/// What we read of a certificate beyond what the chain's verification reads.
pub(crate) struct Facts {
    pub(crate) name: Name,
    /// Its number.
    pub(crate) serial: Vec<u8>,
    /// Seconds since the Unix epoch from which it is valid.
    pub(crate) begins_unix_s: i64,
    /// Seconds since the Unix epoch at which it expires.
    pub(crate) expires_unix_s: i64,
}

impl Facts {
    /// From when it is valid.
    pub(crate) fn begins(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.begins_unix_s).unwrap_or_default())
    }

    /// Reads a certificate. Its signature and validity are not looked at.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, NameError> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| NameError::Malformed)?;
        if !rest.is_empty() {
            return Err(NameError::Malformed);
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| NameError::Malformed)?
            .map(|san| san.value.general_names.as_slice());
        let Some([GeneralName::URI(uri)]) = names else {
            return Err(NameError::Unknown("it holds no single URI".to_owned()));
        };
        Ok(Self {
            name: uri.parse()?,
            serial: parsed.raw_serial().to_vec(),
            begins_unix_s: parsed.validity().not_before.timestamp(),
            expires_unix_s: parsed.validity().not_after.timestamp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_written_and_nothing_else_does() {
        for good in [
            "evenkeel://0123456789abcdef/ca",
            "evenkeel://0123456789abcdef/host/kvm-1.example.com",
            "evenkeel://0123456789abcdef/enrol/fedcba9876543210",
        ] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "https://0123456789abcdef/host/a",
            "evenkeel://0123456789abcde/host/a",
            "evenkeel://0123456789ABCDEF/host/a",
            "evenkeel://+123456789abcdef/host/a",
            "evenkeel://0123456789abcdef/host/",
            "evenkeel://0123456789abcdef/host/a/b",
            "evenkeel://0123456789abcdef/host/a b",
            "evenkeel://0123456789abcdef/enrol/a",
            "evenkeel://0123456789abcdef",
        ] {
            assert!(bad.parse::<Name>().is_err(), "`{bad}` was taken");
        }
    }
}

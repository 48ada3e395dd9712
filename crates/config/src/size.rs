//! Sizes and addresses as people write them.

use std::fmt;
use std::net::SocketAddr;

use bytesize::ByteSize;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A size with its unit: `"4GiB"`, `"100MB"`. Without one nobody knows whether bytes were meant.
///
/// # Errors
/// When it is none, or has no unit.
pub fn to_size(text: &str) -> Result<ByteSize, String> {
    let wanted = || format!("write \"4GiB\" or \"100MB\", not {text:?}");
    let number = text.trim();
    let has_unit = number.ends_with(|c: char| c.is_ascii_alphabetic());
    if !has_unit && number.parse() != Ok(0_u8) {
        return Err(format!("{}: a size has a unit", wanted()));
    }
    number.parse().map_err(|_| wanted())
}

/// The same in a configuration.
///
/// # Errors
/// As [`to_size`].
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = ByteSize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as \"4GiB\"")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
            to_size(text).map_err(E::custom)
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<ByteSize, E> {
            if number == 0 {
                return Ok(ByteSize(0));
            }
            Err(E::custom(format!("write \"4GiB\" or \"100MB\", not {number}: a size has a unit")))
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<ByteSize, E> {
            self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
        }
    }
    deserializer.deserialize_any(Size)
}

/// The same where there need not be one.
///
/// # Errors
/// As [`to_size`].
pub fn some_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ByteSize>, D::Error> {
    size(d).map(Some)
}

/// An address with its port.
///
/// # Errors
/// When it is none, such as the name of a host.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    to_address(&text).map_err(D::Error::custom)
}

/// The same where there need not be one.
///
/// # Errors
/// As [`address`].
pub fn some_address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    address(d).map(Some)
}

/// Several of them.
///
/// # Errors
/// As [`address`].
pub fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| to_address(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn to_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let what = if text.parse::<std::net::IpAddr>().is_ok() {
            "the port is missing"
        } else {
            "an address is wanted, and not the name of a host"
        };
        format!("write \"192.0.2.1:7946\", not {text:?}: {what}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_unless_it_is_nothing() {
        assert_eq!(to_size("4GiB"), Ok(ByteSize::gib(4)));
        assert_eq!(to_size("100 MB"), Ok(ByteSize::mb(100)));
        assert_eq!(to_size("0"), Ok(ByteSize(0)));
        for wrong in ["4096", "1e9", "4 gallons", "", "-1GiB"] {
            let said = to_size(wrong).unwrap_err();
            assert!(said.contains("write \"4GiB\"") && said.contains(wrong), "{said}");
        }
    }

    #[test]
    fn an_address_has_a_port_and_is_no_name() {
        assert!(to_address("192.0.2.1:7946").is_ok() && to_address("[2001:db8::1]:7946").is_ok());
        for (wrong, what) in [("192.0.2.1", "port is missing"), ("kvm1:7946", "name of a host")] {
            let said = to_address(wrong).unwrap_err();
            assert!(said.contains(wrong) && said.contains(what), "{said}");
        }
    }
}

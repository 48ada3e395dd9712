//! The wire format: versions, limits, and the one place where a message is decoded.
//!
//! A frame is CBOR: `[version, [kind, [id, body…]]]`. The two outer levels and the id are the same
//! in every version, so that an agent can decline a frame of a version that it does not speak; the
//! body has numbered fields, which a decoder skips where it does not know them. What [`decode`]
//! returns is trustworthy in form: ids are ids, numbers are finite and in range, lists and texts are
//! bounded. It is never trustworthy in content.

mod check;

use evenkeel_core::message::{Appraisal, Message, Pass, Talk};
use evenkeel_core::model::ExchangeId;
use minicbor::{Decoder, Encoder};

use check::check;

/// The version that this agent speaks.
pub const VERSION: u16 = 1;

/// The oldest version that it understands.
pub const VERSION_MIN: u16 = 1;

/// Largest frame in bytes: an offer of [`OFFER_MAX`](evenkeel_core::message::OFFER_MAX) machines with long names fits several times.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;

/// Longest text in a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Longest name of a machine, in bytes: no file of libvirt's could have a longer one.
pub const NAME_BYTES_MAX: usize = 255;

/// Largest amount of anything, in its unit: an exabyte of memory is none that a host has.
pub const AMOUNT_MAX: f64 = 1e18;

/// Most entries in a list of groups, hosts or storage ids.
pub const LIST_MAX: usize = 64;

/// Most CPUs of a host, or NUMA nodes, that a machine is bound to.
pub const CPUS_MAX: usize = 4096;

/// Largest load or price: a host a thousand times over is not a host.
pub const LOAD_MAX: f64 = 1000.0;

/// Why a frame was refused. The frame is dropped; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It is too large.
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// It is of a version that this agent does not speak.
    #[error(
        "protocol version {version}, and this agent speaks {VERSION_MIN} to {VERSION}: upgrade the older of the two"
    )]
    Version {
        /// The version that it is of.
        version: u16,
        /// The exchange that it belongs to, if to one.
        exchange: Option<ExchangeId>,
    },
    /// It is not a message.
    #[error("not a message: {0}")]
    Malformed(String),
    /// A field is out of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

/// Encodes a message into a frame. Words for people that are too long are cut: a refusal is no
/// reason to be misunderstood.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    if has_too_many_words(message) {
        let mut message = message.clone();
        for text in words(&mut message) {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|&at| text.is_char_boundary(at));
            text.truncate(end.unwrap_or(0));
        }
        return encode(&message);
    }
    let mut bytes = Vec::with_capacity(256);
    let mut encoder = Encoder::new(&mut bytes);
    let done = encoder.array(2).and_then(|e| e.u16(VERSION)).and_then(|e| e.encode(message));
    // Writing to a `Vec` has no error to return.
    debug_assert!(done.is_ok());
    bytes
}

fn has_too_many_words(message: &Message) -> bool {
    let long = |text: &String| text.len() > TEXT_BYTES_MAX;
    match message {
        Message::Exchange(_, Talk::Decline { detail, .. }) => long(detail),
        Message::Exchange(
            _,
            Talk::Quotes { quotes, .. } | Talk::Appraisal(Appraisal { quotes, .. }),
        ) => quotes.iter().any(|quote| quote.detail.as_ref().is_some_and(long)),
        Message::Handoff(_, Pass::Refused { detail, .. }) => detail.as_ref().is_some_and(long),
        _ => false,
    }
}

/// The words for people in a message.
fn words(message: &mut Message) -> Box<dyn Iterator<Item = &mut String> + '_> {
    match message {
        Message::Exchange(_, Talk::Decline { detail, .. }) => Box::new(std::iter::once(detail)),
        Message::Exchange(
            _,
            Talk::Quotes { quotes, .. } | Talk::Appraisal(Appraisal { quotes, .. }),
        ) => Box::new(quotes.iter_mut().filter_map(|quote| quote.detail.as_mut())),
        Message::Handoff(_, Pass::Refused { detail, .. }) => Box::new(detail.iter_mut()),
        _ => Box::new(std::iter::empty()),
    }
}

/// Decodes a frame into a message and checks every limit.
///
/// # Errors
/// When it is too large, of another version, malformed or out of range.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLarge(frame.len()));
    }
    let malformed = |e: minicbor::decode::Error| WireError::Malformed(e.to_string());
    let mut decoder = Decoder::new(frame);
    if decoder.array().map_err(malformed)? != Some(2) {
        return Err(WireError::Malformed("no frame".to_owned()));
    }
    let version = decoder.u16().map_err(malformed)?;
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(WireError::Version { version, exchange: exchange_of(&mut decoder) });
    }
    let message: Message = decoder.decode().map_err(malformed)?;
    if decoder.position() != frame.len() {
        return Err(WireError::Malformed("something follows the message".to_owned()));
    }
    check(&message)?;
    Ok(message)
}

/// The exchange that a frame of any version belongs to, if to one.
fn exchange_of(decoder: &mut Decoder<'_>) -> Option<ExchangeId> {
    let kind = decoder.array().ok().and_then(|_| decoder.u32().ok())?;
    let fields = decoder.array().ok()?;
    (kind == 0 && fields != Some(0)).then(|| decoder.u64().ok().map(ExchangeId)).flatten()
}

#[cfg(test)]
mod tests;

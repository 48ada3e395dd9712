//! Frames of libvirt's protocol, and the bodies that a migration needs (`virnetprotocol.x`,
//! `remote_protocol.x`, `virkeepaliveprotocol.x`).

use super::document::clean;
use super::xdr::{Reader, Writer, XdrError};

/// A frame begins with its length, itself included, and a header of six numbers, all of 4 bytes, most
/// significant first: program, version, procedure, type, serial, status.
const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = LENGTH_BYTES + 24;
/// Largest frame: two descriptions and a cookie of 4 MiB each. libvirt's own limit is 32 MiB.
const FRAME_BYTES_MAX: usize = 13 << 20;
/// The program of connections and domains, and that of keepalives; both of version 1.
pub(super) const REMOTE: u32 = 0x2000_8086;
pub(super) const KEEPALIVE: u32 = 0x6b65_6570;
const VERSION: u32 = 1;

pub(super) const CALL: u32 = 0;
pub(super) const REPLY: u32 = 1;
pub(super) const MESSAGE: u32 = 2;

/// What a source's libvirt calls on the target's for a peer-to-peer migration.
pub(super) const OPEN: u32 = 1;
pub(super) const CLOSE: u32 = 2;
pub(super) const GET_URI: u32 = 41;
pub(super) const SUPPORTS_FEATURE: u32 = 60;
pub(super) const AUTH_LIST: u32 = 66;
pub(super) const AUTH_POLKIT: u32 = 70;
pub(super) const PREPARE: u32 = 303;
pub(super) const FINISH: u32 = 306;
pub(super) const REGISTER_CLOSE: u32 = 360;
pub(super) const UNREGISTER_CLOSE: u32 = 361;
/// The one event that it may hear: that the target's libvirt closes the connection.
pub(super) const CLOSED: u32 = 363;

/// Longest message of an error, in characters.
const ERROR_CHARS_MAX: usize = 2048;
const ERROR_BYTES_MAX: usize = 1 << 20;
const NAME_BYTES_MAX: usize = 4096;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) program: u32,
    pub(super) procedure: u32,
    pub(super) kind: u32,
    pub(super) serial: u32,
    pub(super) status: u32,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
}

impl Frame {
    pub(super) fn write(&self) -> Vec<u8> {
        let Header { program, procedure, kind, serial, status } = self.header;
        let length = (HEADER_BYTES + self.body.len()) as u32;
        let header = Writer::default().u32(length).u32(program).u32(VERSION).u32(procedure);
        header.u32(kind).u32(serial).u32(status).fixed(&self.body).done()
    }
}

/// Finds frames in bytes, however they are cut.
#[derive(Debug, Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next frame that is complete.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some(length) = self.0.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
        else {
            return Ok(None);
        };
        if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(format!("it sends a frame of {length} bytes"));
        }
        if self.0.len() < length {
            return Ok(None);
        }
        let rest = self.0.split_off(length);
        let frame = std::mem::replace(&mut self.0, rest);
        let mut reader = Reader::new(&frame[LENGTH_BYTES..]);
        let mut number = || reader.u32().map_err(|error| error.to_string());
        let (program, version) = (number()?, number()?);
        let header = Header {
            program,
            procedure: number()?,
            kind: number()?,
            serial: number()?,
            status: number()?,
        };
        if version != VERSION {
            return Err(format!("it speaks version {version} of program {program:#x}"));
        }
        Ok(Some(Frame { header, body: frame[HEADER_BYTES..].to_vec() }))
    }
}

/// A body without anything in it.
pub(super) fn nothing(body: &[u8]) -> Result<(), XdrError> {
    Reader::new(body).end()
}

/// A body that is one number.
pub(super) fn number(body: &[u8]) -> Result<i32, XdrError> {
    let mut reader = Reader::new(body);
    let number = reader.i32()?;
    reader.end()?;
    Ok(number)
}

/// A number as a body.
pub(super) fn number_body(number: i32) -> Vec<u8> {
    Writer::default().i32(number).done()
}

/// What a connection is opened as: its name and flags.
pub(super) fn open(body: &[u8]) -> Result<(Option<&str>, u32), XdrError> {
    let mut reader = Reader::new(body);
    let (name, flags) = (reader.maybe_text(NAME_BYTES_MAX)?, reader.u32()?);
    reader.end()?;
    Ok((name, flags))
}

pub(super) fn open_body(name: &str) -> Vec<u8> {
    Writer::default().maybe_text(Some(name)).u32(0).done()
}

/// The ways to authenticate that a reply offers.
pub(super) fn ways(body: &[u8]) -> Result<Vec<i32>, XdrError> {
    let mut reader = Reader::new(body);
    let count = reader.count(20)?;
    let ways = (0..count).map(|_| reader.i32()).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(ways)
}

pub(super) fn ways_body(ways: &[i32]) -> Vec<u8> {
    let counted = Writer::default().u32(ways.len() as u32);
    ways.iter().fold(counted, |writer, way| writer.i32(*way)).done()
}

/// A reply that is a text, which is not used.
pub(super) fn text(body: &[u8]) -> Result<(), XdrError> {
    let mut reader = Reader::new(body);
    reader.text(NAME_BYTES_MAX)?;
    reader.end()
}

pub(super) fn text_body(text: &str) -> Vec<u8> {
    Writer::default().text(text).done()
}

/// An error of libvirt's: its code, its source, its level and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) code: i32,
    pub(super) domain: i32,
    pub(super) level: i32,
    pub(super) message: String,
}

impl Error {
    /// Reads one. Of what it may refer to besides (a domain, a network, texts) nothing is kept.
    pub(super) fn read(body: &[u8]) -> Result<Self, XdrError> {
        let mut reader = Reader::new(body);
        let (code, domain) = (reader.i32()?, reader.i32()?);
        let message = reader.maybe_text(ERROR_BYTES_MAX)?.unwrap_or_default();
        let level = reader.i32()?;
        if reader.bool()? {
            reader.text(NAME_BYTES_MAX)?;
            reader.fixed::<16>()?;
            reader.i32()?;
        }
        for _ in 0..3 {
            reader.maybe_text(ERROR_BYTES_MAX)?;
        }
        reader.i32()?;
        reader.i32()?;
        if reader.bool()? {
            reader.text(NAME_BYTES_MAX)?;
            reader.fixed::<16>()?;
        }
        reader.end()?;
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let message = message.chars().map(plain).take(ERROR_CHARS_MAX).collect();
        Ok(Self { code, domain, level: level.clamp(0, 2), message })
    }

    /// `VIR_ERR_OPERATION_DENIED` of the RPC layer (`VIR_FROM_RPC`), in these words.
    pub(super) fn denied(why: &str) -> Self {
        Self { code: 29, domain: 7, level: 2, message: why.to_owned() }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let Self { code, domain, level, message } = self;
        let head = Writer::default().i32(*code).i32(*domain).maybe_text(Some(message)).i32(*level);
        // No domain, no further texts, numbers or network.
        head.u32(0).u32(0).u32(0).u32(0).i32(0).i32(0).u32(0).done()
    }
}

/// What a reply says of a domain: its name, UUID and id.
pub(super) fn domain(reader: &mut Reader<'_>) -> Result<(String, [u8; 16], i32), XdrError> {
    let name = reader.text(NAME_BYTES_MAX)?.to_owned();
    Ok((name, reader.fixed::<16>()?, reader.i32()?))
}

/// Words for a body that cannot be read.
pub(super) fn unreadable(what: &str) -> impl FnOnce(XdrError) -> String + '_ {
    move |error| format!("its {} cannot be read: {error}", clean(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(procedure: u32, body: &[u8]) -> Frame {
        let header = Header { program: REMOTE, procedure, kind: CALL, serial: 7, status: 0 };
        Frame { header, body: body.to_vec() }
    }

    #[test]
    fn a_frame_of_an_impossible_length_or_version_is_an_error() {
        for length in [0, 27, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut bytes = frame(OPEN, &[]).write();
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            let mut frames = Frames::default();
            frames.add(&bytes);
            assert!(frames.next().unwrap_err().contains("bytes"), "{length}");
        }
        let mut bytes = frame(OPEN, &[]).write();
        bytes[11] = 2;
        let mut frames = Frames::default();
        frames.add(&bytes);
        assert!(frames.next().unwrap_err().contains("version 2"));
    }

    #[test]
    fn an_error_keeps_its_words_and_nothing_that_a_terminal_obeys() {
        let error = Error { message: "no\u{1b}[2J room\n".to_owned(), ..Error::denied("") };
        let read = Error::read(&error.body()).unwrap();
        assert_eq!(read.message, "no [2J room ");
        let long = Error::denied(&"x".repeat(100_000));
        assert_eq!(Error::read(&long.body()).unwrap().message.len(), ERROR_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_are_cut(
            bodies in prop::collection::vec(0usize..50, 1..8),
            cut in 1usize..60,
        ) {
            let sent: Vec<_> = bodies.iter().map(|n| frame(PREPARE, &vec![1; *n])).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(Frame::write).collect();
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.add(piece);
                while let Some(frame) = frames.next().unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, sent);
        }
    }
}

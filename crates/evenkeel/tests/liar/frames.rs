//! libvirt's protocol, as far as a member has to speak it to lie.

use std::io::{self, Read, Write};

/// Procedures of libvirt's main program.
pub const OPEN: u32 = 1;
pub const AUTH_LIST: u32 = 66;
pub const PREPARE: u32 = 303;
pub const FINISH: u32 = 306;
/// That program, and the types of its frames.
pub const REMOTE: u32 = 0x2000_8086;
pub const CALL: u32 = 0;
pub const REPLY: u32 = 1;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub program: u32,
    pub procedure: u32,
    pub kind: u32,
    pub serial: u32,
    pub status: u32,
    pub body: Vec<u8>,
}

impl Frame {
    /// A call; its serial is its procedure's number.
    pub fn call(procedure: u32, body: Vec<u8>) -> Self {
        Self { program: REMOTE, procedure, kind: CALL, serial: procedure, status: 0, body }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let Self { program, procedure, kind, serial, status, body } = self;
        let words = [28 + body.len() as u32, *program, 1, *procedure, *kind, *serial, *status];
        words.iter().flat_map(|word| word.to_be_bytes()).chain(body.iter().copied()).collect()
    }

    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.bytes())
    }

    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut word = || {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes))
        };
        let length = word()?;
        let (program, _version, procedure) = (word()?, word()?, word()?);
        let (kind, serial, status) = (word()?, word()?, word()?);
        let mut body = vec![0; (length as usize).saturating_sub(28)];
        from.read_exact(&mut body)?;
        Ok(Self { program, procedure, kind, serial, status, body })
    }
}

/// A text as the protocol writes it.
pub fn text(text: &str) -> Vec<u8> {
    bytes(text.as_bytes())
}

/// Bytes as the protocol writes them.
pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Numbers as the protocol writes them.
pub fn numbers<const N: usize>(all: [u32; N]) -> Vec<u8> {
    all.map(u32::to_be_bytes).concat()
}

/// What opens a connection.
pub fn open(name: &str, flags: u32) -> Frame {
    Frame::call(OPEN, [numbers([1]), text(name), numbers([flags])].concat())
}

/// Parameters of a migration that are texts.
pub fn parameters(all: &[(&str, String)]) -> Vec<u8> {
    let mut out = numbers([all.len() as u32]);
    for (name, value) in all {
        out.extend([text(name), numbers([7]), text(value)].concat());
    }
    out
}

/// A cookie as libvirt sends it, with the NUL at its end; nothing if there is none.
pub fn cookie(text: &str) -> Vec<u8> {
    if text.is_empty() { bytes(b"") } else { bytes(format!("{text}\0").as_bytes()) }
}

/// What prepares a migration.
pub fn prepare(all: &[(&str, String)], said: &str, flags: u32) -> Frame {
    Frame::call(PREPARE, [parameters(all), cookie(said), numbers([flags])].concat())
}

/// What finishes one.
pub fn finish(all: &[(&str, String)], flags: u32, cancelled: u32) -> Frame {
    Frame::call(FINISH, [parameters(all), cookie(""), numbers([flags, cancelled])].concat())
}

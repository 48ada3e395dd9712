//! Membership datagrams as bytes: CBOR arrays whose unknown further elements are skipped, so that a
//! newer version may append fields.
//!
//! ```text
//! member   [host, ip (4 or 16 bytes), port, generation]
//! header   [source member, its incarnation, target member, kind, probe number, third member]
//! update   [member, incarnation, state]
//! ```
//! The last two elements of a header are there for the kinds that need them. What follows the
//! header (a count and that many updates) is foca's.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut};
use evenkeel_core::model::HostId;
use foca::{Header, Message, State};
use minicbor::{Decoder, Encoder};

use crate::Member;

/// Elements that an array may hold, known and unknown.
const FIELDS_MAX: u64 = 16;

/// Why bytes are no membership datagram, or a datagram no bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// Not CBOR, or CBOR of another shape.
    #[error("{0}")]
    Cbor(#[from] minicbor::decode::Error),
    /// Well-formed, with a value that cannot be.
    #[error("{0}")]
    Value(&'static str),
    /// The packet is full; foca leaves the item for the next one.
    #[error("the packet is full")]
    Full,
}

/// Reads and writes headers and updates.
#[derive(Default)]
pub(crate) struct Codec {
    scratch: Vec<u8>,
}

impl Codec {
    fn put(&mut self, mut buf: impl BufMut) -> Result<(), CodecError> {
        if buf.remaining_mut() < self.scratch.len() {
            return Err(CodecError::Full);
        }
        buf.put_slice(&self.scratch);
        Ok(())
    }

    fn encoder(&mut self) -> Encoder<&mut Vec<u8>> {
        self.scratch.clear();
        Encoder::new(&mut self.scratch)
    }
}

impl foca::Codec<Member> for Codec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Member>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        put_header(&mut self.encoder(), header).map_err(|_| CodecError::Full)?;
        self.put(buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Member>, CodecError> {
        let mut d = Decoder::new(buf.chunk());
        let header = header(&mut d)?;
        let used = d.position();
        buf.advance(used);
        Ok(header)
    }

    fn encode_member(
        &mut self,
        update: &foca::Member<Member>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        put_update(&mut self.encoder(), update).map_err(|_| CodecError::Full)?;
        self.put(buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Member>, CodecError> {
        let mut d = Decoder::new(buf.chunk());
        let update = update(&mut d)?;
        let used = d.position();
        buf.advance(used);
        Ok(update)
    }
}

/// A datagram's header, and its bytes without what it says of members that are not to be kept.
pub(crate) fn without(
    bytes: &[u8],
    mut keeps: impl FnMut(&Member) -> bool,
) -> Result<(Header<Member>, Cow<'_, [u8]>), CodecError> {
    let mut d = Decoder::new(bytes);
    let header = header(&mut d)?;
    let (head, mut rest) = bytes.split_at(d.position());
    if rest.len() < 2 {
        return Ok((header, Cow::Borrowed(bytes)));
    }
    let count = rest.get_u16();
    let (mut kept, mut updates) = (0_u16, Vec::with_capacity(rest.len()));
    for _ in 0..count {
        let mut d = Decoder::new(rest);
        let of = update(&mut d)?;
        let (one, more) = rest.split_at(d.position());
        if keeps(of.id()) {
            kept += 1;
            updates.extend_from_slice(one);
        }
        rest = more;
    }
    if kept == count {
        return Ok((header, Cow::Borrowed(bytes)));
    }
    let bytes = [head, &kept.to_be_bytes(), &updates, rest].concat();
    Ok((header, Cow::Owned(bytes)))
}

#[cfg(test)]
/// The header of a datagram.
pub(crate) fn header_of(bytes: &[u8]) -> Result<Header<Member>, CodecError> {
    header(&mut Decoder::new(bytes))
}

type Put = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn put_member(e: &mut Encoder<&mut Vec<u8>>, member: &Member) -> Put {
    e.array(4)?.str(member.host.as_str())?;
    match member.addr.ip().to_canonical() {
        IpAddr::V4(ip) => e.bytes(&ip.octets())?,
        IpAddr::V6(ip) => e.bytes(&ip.octets())?,
    };
    e.u16(member.addr.port())?.u64(member.generation)?.ok()
}

fn put_update(e: &mut Encoder<&mut Vec<u8>>, update: &foca::Member<Member>) -> Put {
    e.array(3)?;
    put_member(e, update.id())?;
    let state = match update.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    };
    e.u16(update.incarnation())?.u8(state)?.ok()
}

fn put_header(e: &mut Encoder<&mut Vec<u8>>, header: &Header<Member>) -> Put {
    let (kind, probe, third) = parts(&header.message);
    e.array(4 + u64::from(probe.is_some()) + u64::from(third.is_some()))?;
    put_member(e, &header.src)?;
    e.u16(header.src_incarnation)?;
    put_member(e, &header.dst)?;
    e.u8(kind)?;
    if let Some(probe) = probe {
        e.u8(probe)?;
    }
    if let Some(third) = third {
        put_member(e, third)?;
    }
    Ok(())
}

fn parts(message: &Message<Member>) -> (u8, Option<u8>, Option<&Member>) {
    match message {
        Message::Ping(n) => (0, Some(*n), None),
        Message::Ack(n) => (1, Some(*n), None),
        Message::PingReq { target, probe_number } => (2, Some(*probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(*probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(*probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(*probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    }
}

/// The third member that a message speaks of, if it does.
pub(crate) fn third(message: &Message<Member>) -> Option<&Member> {
    parts(message).2
}

/// Opens an array of at least `known` elements and says how many more there are to skip.
fn open(d: &mut Decoder<'_>, known: u64) -> Result<u64, CodecError> {
    match d.array()? {
        Some(n) if (known..=FIELDS_MAX).contains(&n) => Ok(n - known),
        _ => Err(CodecError::Value("an array of another length than expected")),
    }
}

fn close(d: &mut Decoder<'_>, unknown: u64) -> Result<(), CodecError> {
    for _ in 0..unknown {
        d.skip()?;
    }
    Ok(())
}

fn member(d: &mut Decoder<'_>) -> Result<Member, CodecError> {
    let unknown = open(d, 4)?;
    let host: HostId = d.decode()?;
    let octets = d.bytes()?;
    let ip: IpAddr = match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
        (Ok(v4), _) => v4.into(),
        (_, Ok(v6)) => IpAddr::from(v6).to_canonical(),
        _ => return Err(CodecError::Value("an address of neither 4 nor 16 bytes")),
    };
    let port = d.u16()?;
    if port == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(CodecError::Value("an address that nobody can listen on"));
    }
    let generation = d.u64()?;
    close(d, unknown)?;
    Ok(Member { host, addr: SocketAddr::new(ip, port), generation })
}

fn update(d: &mut Decoder<'_>) -> Result<foca::Member<Member>, CodecError> {
    let unknown = open(d, 3)?;
    let id = member(d)?;
    let incarnation = d.u16()?;
    let state = match d.u8()? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(CodecError::Value("an unknown state of a member")),
    };
    close(d, unknown)?;
    Ok(foca::Member::new(id, incarnation, state))
}

fn header(d: &mut Decoder<'_>) -> Result<Header<Member>, CodecError> {
    let mut left = open(d, 4)?;
    let src = member(d)?;
    let src_incarnation = d.u16()?;
    let dst = member(d)?;
    let kind = d.u8()?;
    let mut needs = |n: u64| {
        left = left.checked_sub(n).ok_or(CodecError::Value("a header that ends too early"))?;
        Ok::<(), CodecError>(())
    };
    let message = match kind {
        0 | 1 => {
            needs(1)?;
            let n = d.u8()?;
            if kind == 0 { Message::Ping(n) } else { Message::Ack(n) }
        }
        2..=5 => {
            needs(2)?;
            let probe_number = d.u8()?;
            let third = member(d)?;
            match kind {
                2 => Message::PingReq { target: third, probe_number },
                3 => Message::IndirectPing { origin: third, probe_number },
                4 => Message::IndirectAck { target: third, probe_number },
                _ => Message::ForwardedAck { origin: third, probe_number },
            }
        }
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(CodecError::Value("an unknown kind of datagram")),
    };
    close(d, left)?;
    Ok(Header { src, src_incarnation, dst, message })
}

#[cfg(test)]
mod tests {
    use foca::Codec as _;

    use super::*;

    fn member(host: &str, addr: &str) -> Member {
        Member { host: HostId::new(host).unwrap(), addr: addr.parse().unwrap(), generation: 7 }
    }

    #[test]
    fn every_kind_of_datagram_reads_back_as_written() {
        let (a, b) = (member("a", "10.0.0.1:7000"), member("b", "[2001:db8::1]:7000"));
        let third = member(&"c".repeat(63), "[2001:db8::2]:65535");
        let n = 200;
        for message in [
            Message::Ping(n),
            Message::Ack(n),
            Message::PingReq { target: third.clone(), probe_number: n },
            Message::IndirectPing { origin: third.clone(), probe_number: n },
            Message::IndirectAck { target: third.clone(), probe_number: n },
            Message::ForwardedAck { origin: third, probe_number: n },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ] {
            let header = Header { src: a.clone(), src_incarnation: 3, dst: b.clone(), message };
            let mut bytes = Vec::new();
            Codec::default().encode_header(&header, &mut bytes).unwrap();
            assert_eq!(header_of(&bytes).unwrap(), header);
        }
    }

    #[test]
    fn fields_appended_by_a_newer_version_are_skipped() {
        let mut bytes = Vec::new();
        let mut e = Encoder::new(&mut bytes);
        e.array(5).unwrap().str("a").unwrap().bytes(&[10, 0, 0, 1]).unwrap();
        e.u16(7000).unwrap().u64(7).unwrap().map(1).unwrap().u8(1).unwrap().str("new").unwrap();
        assert_eq!(super::member(&mut Decoder::new(&bytes)).unwrap(), member("a", "10.0.0.1:7000"));
    }

    #[test]
    fn a_member_takes_at_most_102_bytes_of_a_packet() {
        let mut longest = member(&"h".repeat(63), "[2001:db8::1]:65535");
        longest.generation = u64::MAX;
        let mut bytes = Vec::new();
        let update = foca::Member::new(longest, u16::MAX, State::Down);
        Codec::default().encode_member(&update, &mut bytes).unwrap();
        assert!(bytes.len() <= 102, "{}", bytes.len());
    }
}

//! The control connection of one migration: what a source's libvirt may call on the target's, in which
//! order, and what the target's may answer.
//!
//! ```text
//!  AUTH_LIST ─ (AUTH_POLKIT) ─ OPEN ─ PREPARE ─ FINISH ─ CLOSE
//!            features, close callbacks and the URI in between; keepalives at any time
//! ```
//!
//! Both agents run one: the target's against a source that lies, the source's against a target that
//! lies. Frames are parsed, compared with what was agreed on, and written anew; no byte is passed on that
//! was not parsed.

use std::collections::VecDeque;

use super::cookie::Author;
use super::document::{Node, clean};
use super::here::Here;
pub use super::judge::Agreed;
use super::judge::description;
use super::message::{
    self as m, CALL, Error, Frame, Frames, Header, KEEPALIVE, MESSAGE, REMOTE, REPLY,
};
use super::params::{self, Parameters};
use super::xdr::{Reader, Writer, XdrError};
use super::{cookie, mode};

/// Calls that may wait for their answers at once; libvirt itself has one or two.
const PENDING_MAX: usize = 8;
/// Calls of a connection altogether; a migration has some 15.
const CALLS_MAX: usize = 200;
/// The flags that a source's libvirt opens with: by its own socket (`1 << 1`), which it may start
/// (`1 << 2`). They are for its own use, and not passed on.
const OPEN_FLAGS: u32 = 1 << 1 | 1 << 2;
/// `REMOTE_AUTH_NONE` and `REMOTE_AUTH_POLKIT`.
const WAYS: [i32; 2] = [0, 2];

/// Why a connection is cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// In words.
    pub why: String,
    /// What is to be told the other host's libvirt before that: an error in place of an answer.
    pub answer: Vec<u8>,
}

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    procedure: u32,
    serial: u32,
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    asked_how: bool,
    opened: bool,
    prepare: bool,
    prepared: bool,
    finish: bool,
    closed: bool,
}

/// One control connection.
#[derive(Debug)]
pub struct Control {
    agreed: Agreed,
    /// On the target: what this host has.
    here: Option<Box<Here>>,
    from_source: Frames,
    from_target: Frames,
    pending: VecDeque<Pending>,
    calls: usize,
    steps: Steps,
}

impl Control {
    /// For a machine on its way from or to here; `here` is what this host has, if it comes.
    #[must_use]
    pub fn new(agreed: Agreed, here: Option<Here>) -> Self {
        Self {
            agreed,
            here: here.map(Box::new),
            from_source: Frames::default(),
            from_target: Frames::default(),
            pending: VecDeque::new(),
            calls: 0,
            steps: Steps::default(),
        }
    }

    /// What is passed on to the target's libvirt of these bytes of the source's.
    ///
    /// # Errors
    /// What is not allowed. Nothing of these bytes is to be passed on, and nothing after them.
    pub fn from_source(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        self.from_source.add(bytes);
        let mut out = Vec::new();
        while let Some(frame) = self.from_source.next().map_err(plainly)? {
            let header = frame.header;
            let judged =
                self.called(&frame).map_err(|why| Refused { answer: denied(header, &why), why })?;
            out.extend(judged.write());
        }
        Ok(out)
    }

    /// What is passed on to the source's libvirt of these bytes of the target's.
    ///
    /// # Errors
    /// As there.
    pub fn from_target(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        self.from_target.add(bytes);
        let mut out = Vec::new();
        while let Some(frame) = self.from_target.next().map_err(plainly)? {
            out.extend(self.answered(&frame).map_err(plainly)?.write());
        }
        Ok(out)
    }

    /// Something that the source's libvirt says.
    fn called(&mut self, frame: &Frame) -> Result<Frame, String> {
        let Header { program, procedure, kind, serial, status } = frame.header;
        if program == KEEPALIVE {
            return keepalive(frame);
        }
        if (program, kind, status) != (REMOTE, CALL, 0) {
            return Err(format!(
                "it sends procedure {procedure} (type {kind}, status {status}) of libvirt's program \
                 {program:#x}, which no migration needs"
            ));
        }
        self.calls += 1;
        let again = self.pending.iter().any(|pending| pending.serial == serial);
        if self.pending.len() >= PENDING_MAX || self.calls > CALLS_MAX || again || self.steps.closed
        {
            return Err(format!("it calls procedure {procedure} out of turn"));
        }
        let body = self.call(procedure, &frame.body)?;
        self.pending.push_back(Pending { procedure, serial });
        Ok(Frame { header: frame.header, body })
    }

    /// The body of a call, written anew.
    fn call(&mut self, procedure: u32, body: &[u8]) -> Result<Vec<u8>, String> {
        let broken =
            |error: XdrError| format!("its call of procedure {procedure} cannot be read: {error}");
        let before = |allowed: bool| {
            let turn = || format!("it calls procedure {procedure} out of turn");
            if allowed { Ok(()) } else { Err(turn()) }
        };
        let steps = self.steps;
        match procedure {
            m::AUTH_LIST | m::AUTH_POLKIT => {
                before(!steps.opened && (procedure == m::AUTH_POLKIT || !steps.asked_how))?;
                self.steps.asked_how = true;
                m::nothing(body).map(|()| Vec::new()).map_err(broken)
            }
            m::SUPPORTS_FEATURE => m::number(body).map(m::number_body).map_err(broken),
            m::OPEN => {
                before(steps.asked_how && !steps.opened)?;
                let (name, flags) = m::open(body).map_err(broken)?;
                let here = self.uri();
                if name != Some(here.as_str()) || flags & !OPEN_FLAGS != 0 {
                    let name = name.map_or_else(|| "nothing".to_owned(), clean);
                    return Err(format!("it opens `{name}` with flags {flags:#x}, not `{here}`"));
                }
                self.steps.opened = true;
                Ok(m::open_body(&here))
            }
            m::GET_URI | m::REGISTER_CLOSE | m::UNREGISTER_CLOSE => {
                before(steps.opened)?;
                m::nothing(body).map(|()| Vec::new()).map_err(broken)
            }
            m::CLOSE => {
                before(steps.opened)?;
                self.steps.closed = true;
                m::nothing(body).map(|()| Vec::new()).map_err(broken)
            }
            m::PREPARE => {
                before(steps.opened && !steps.prepare)?;
                self.steps.prepare = true;
                self.migration(body, false)
            }
            m::FINISH => {
                before(steps.prepared && !steps.finish)?;
                self.steps.finish = true;
                self.migration(body, true)
            }
            other => Err(format!("it calls procedure {other}, which no migration needs")),
        }
    }

    /// The arguments of *prepare* and *finish*: parameters, a cookie, flags, and with *finish* whether
    /// it was cancelled.
    fn migration(&mut self, body: &[u8], finish: bool) -> Result<Vec<u8>, String> {
        let broken = |error: XdrError| format!("its migration cannot be read: {error}");
        let mut reader = Reader::new(body);
        let parameters = Parameters::read(&mut reader)?;
        let cookie = reader.bytes(cookie::BYTES_MAX).map_err(broken)?;
        let flags = reader.u32().map_err(broken)?;
        let cancelled = finish.then(|| reader.i32()).transpose().map_err(broken)?;
        reader.end().map_err(broken)?;
        let parameters = self.parameters(parameters)?;
        let author = Author::Source(self.here.as_deref());
        let cookie = cookie::judged(cookie, &self.agreed, author)?;
        let flags = params::flags(flags, self.agreed.paused, !self.agreed.disks.is_empty())?;
        let writer = parameters.write(Writer::default()).bytes(&cookie).u32(flags);
        match cancelled {
            None => Ok(writer.done()),
            Some(cancelled @ (0 | 1)) => Ok(writer.i32(cancelled).done()),
            Some(other) => Err(format!("it finishes with {other}")),
        }
    }

    fn parameters(&mut self, asked: Parameters) -> Result<Parameters, String> {
        let sockets = &self.agreed.sockets;
        let copies = !self.agreed.disks.is_empty();
        let Parameters { destination_xml, persistent_xml, destination_name, .. } = &asked;
        let same = |what: &str, said: &Option<String>, agreed: Option<String>| {
            let words = || format!("its `{what}` is {said:?}, and {agreed:?} was agreed on");
            if *said == agreed { Ok(()) } else { Err(words()) }
        };
        same("migrate_uri", &asked.migrate_uri, Some(sockets.migrate_uri()))?;
        same("disks_uri", &asked.disks_uri, copies.then(|| sockets.disks_uri()))?;
        let placed = |disk: &String| self.agreed.disks.iter().any(|place| place.name == *disk);
        if asked.disks.len() != self.agreed.disks.len() || !asked.disks.iter().all(placed) {
            return Err("it copies other disks than was agreed on".to_owned());
        }
        let text = destination_xml.as_ref().ok_or("it describes no machine")?;
        let (destination, name) = self.described(text)?;
        if destination_name.as_ref().is_some_and(|other| *other != name) {
            return Err("it gives the machine another name".to_owned());
        }
        let persistent = match persistent_xml {
            Some(text) => Some(self.described(text)?.0),
            None => None,
        };
        // What the source's libvirt calls it is what the target's answer must.
        self.agreed.name = Some(name);
        Ok(Parameters { destination_xml: Some(destination), persistent_xml: persistent, ..asked })
    }

    fn described(&self, text: &str) -> Result<(String, String), String> {
        let unread = |why: String| format!("its description cannot be read: {why}");
        let root = Node::parse(text).map_err(unread)?;
        let (root, name) = description(&root, &self.agreed, self.here.as_deref())
            .map_err(|why| format!("machine `{}` cannot be taken: {why}", self.agreed.machine))?;
        Ok((root.write(), name))
    }

    /// What the connection is opened as.
    fn uri(&self) -> String {
        format!("qemu:///{}", mode(&self.agreed.uri))
    }

    /// Something that the target's libvirt says.
    fn answered(&mut self, frame: &Frame) -> Result<Frame, String> {
        let Header { program, procedure, kind, serial, status } = frame.header;
        let header = frame.header;
        if program == KEEPALIVE {
            return keepalive(frame);
        }
        if (program, kind, procedure, status) == (REMOTE, MESSAGE, m::CLOSED, 0) {
            let body = m::number(&frame.body).map_err(m::unreadable("message"))?;
            return Ok(Frame { header, body: m::number_body(body) });
        }
        let pending = self.pending.iter().position(|p| *p == Pending { procedure, serial });
        let (true, Some(index), 0 | 1) = ((program, kind) == (REMOTE, REPLY), pending, status)
        else {
            return Err(format!(
                "it answers with procedure {procedure} (type {kind}, status {status}) of libvirt's \
                 program {program:#x}, which nobody has called"
            ));
        };
        self.pending.remove(index);
        if status == 1 {
            let error = Error::read(&frame.body).map_err(m::unreadable("error"))?;
            return Ok(Frame { header, body: error.body() });
        }
        let body = self.reply(procedure, &frame.body)?;
        if procedure == m::PREPARE {
            self.steps.prepared = true;
        }
        Ok(Frame { header, body })
    }

    /// The body of a reply, written anew.
    fn reply(&self, procedure: u32, body: &[u8]) -> Result<Vec<u8>, String> {
        let broken = |error: XdrError| {
            format!("its answer to procedure {procedure} cannot be read: {error}")
        };
        match procedure {
            m::AUTH_LIST => {
                let ways = m::ways(body).map_err(broken)?;
                let known: Vec<i32> = ways.into_iter().filter(|way| WAYS.contains(way)).collect();
                if known.is_empty() {
                    return Err("its libvirt wants a password, which agents do not carry: set \
                                `auth_unix_rw` there to `none` or `polkit`"
                        .to_owned());
                }
                Ok(m::ways_body(&known))
            }
            m::AUTH_POLKIT | m::SUPPORTS_FEATURE => {
                m::number(body).map(m::number_body).map_err(broken)
            }
            m::GET_URI => m::text(body).map(|()| m::text_body(&self.uri())).map_err(broken),
            m::PREPARE => {
                let mut reader = Reader::new(body);
                let cookie = reader.bytes(cookie::BYTES_MAX).map_err(broken)?;
                let uri = reader.maybe_text(4096).map_err(broken)?;
                reader.end().map_err(broken)?;
                let ours = self.agreed.sockets.migrate_uri();
                if uri.is_some_and(|uri| uri != ours) {
                    let uri = clean(uri.unwrap_or_default());
                    return Err(format!("it wants the memory to be sent to `{uri}`, not `{ours}`"));
                }
                let cookie = cookie::judged(cookie, &self.agreed, Author::Target)?;
                Ok(Writer::default().bytes(&cookie).maybe_text(uri).done())
            }
            m::FINISH => {
                let mut reader = Reader::new(body);
                let (name, uuid, id) = m::domain(&mut reader).map_err(broken)?;
                let cookie = reader.bytes(cookie::BYTES_MAX).map_err(broken)?;
                reader.end().map_err(broken)?;
                let ours = uuid_bytes(self.agreed.machine.as_str());
                if self.agreed.name.as_ref() != Some(&name) || Some(uuid) != ours {
                    return Err(format!("it answers of another machine, `{}`", clean(&name)));
                }
                let cookie = cookie::judged(cookie, &self.agreed, Author::Target)?;
                Ok(Writer::default().text(&name).fixed(&uuid).i32(id).bytes(&cookie).done())
            }
            _ => m::nothing(body).map(|()| Vec::new()).map_err(broken),
        }
    }
}

/// A ping or a pong.
fn keepalive(frame: &Frame) -> Result<Frame, String> {
    let Header { procedure, kind, status, serial, .. } = frame.header;
    if !matches!(procedure, 1 | 2)
        || (kind, status, serial) != (MESSAGE, 0, 0)
        || !frame.body.is_empty()
    {
        return Err("it sends a keepalive that is none".to_owned());
    }
    Ok(frame.clone())
}

fn plainly(why: String) -> Refused {
    Refused { why, answer: Vec::new() }
}

/// An error in place of an answer to a call.
fn denied(header: Header, why: &str) -> Vec<u8> {
    if (header.program, header.kind) != (REMOTE, CALL) {
        return Vec::new();
    }
    let header = Header { kind: REPLY, status: 1, ..header };
    Frame { header, body: Error::denied(why).body() }.write()
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

//! What a running lab can be asked to do, over a socket in its directory.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Event;
use crate::error::{Attempt, LabError};

/// One line of JSON; longer ones are refused.
const MESSAGE_BYTES_MAX: u64 = 1 << 16;
/// Longer than anything the supervisor does for one request.
pub(crate) const REPLY_LIMIT: Duration = Duration::from_secs(90);

/// A wish, and the host it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Kill everything of a host: agent, libvirt daemon, guests.
    KillHost(String),
    /// Start the libvirt daemon of a host that was killed.
    StartHost(String),
    /// Start the agents of all hosts that are alive and have none.
    StartAgents,
    /// Start the agent of one host.
    StartAgent(String),
    /// Ask the agent of a host to stop, and wait until it has.
    StopAgent(String),
    /// Kill the agent of a host.
    KillAgent(String),
}

pub(crate) type Reply = Result<(), String>;

/// Asks the supervisor of the lab with this socket.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<(), LabError> {
    let action = || format!("ask the lab's supervisor through `{}`", socket.display());
    let mut stream = UnixStream::connect(socket).attempt(action)?;
    stream.set_read_timeout(Some(REPLY_LIMIT)).attempt(action)?;
    let mut line = serde_json::to_vec(request).attempt(action)?;
    line.push(b'\n');
    stream.write_all(&line).attempt(action)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MESSAGE_BYTES_MAX)).read_line(&mut answer).attempt(action)?;
    let reply: Reply = serde_json::from_str(&answer).attempt(action)?;
    reply.map_err(LabError::Supervisor)
}

/// Listens for requests, one after the other, and passes them on as events.
pub(super) fn listen(socket: &Path, events: SyncSender<Event>) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that misbehaves gets no answer; the next one is served.
            let _ = serve(&stream, &events);
        }
    })?;
    Ok(())
}

fn serve(stream: &UnixStream, events: &SyncSender<Event>) -> io::Result<()> {
    const REQUEST_LIMIT: Duration = Duration::from_secs(5);
    stream.set_read_timeout(Some(REQUEST_LIMIT))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(MESSAGE_BYTES_MAX)).read_line(&mut line)?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = sync_channel(1);
            let asked = events.send(Event::Asked(request, answer));
            let gone = || Err("the lab is being taken down".to_owned());
            asked.map_or_else(|_| gone(), |()| answered.recv().unwrap_or_else(|_| gone()))
        }
        Err(error) => Err(format!("not a request: {error}")),
    };
    let mut out = serde_json::to_vec(&reply)?;
    out.push(b'\n');
    let mut stream = stream;
    stream.write_all(&out)
}

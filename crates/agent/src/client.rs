//! The other end of the local API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_core::appraisal::Fit;
use evenkeel_core::decision::Decision;
use evenkeel_core::explain::{HostExplained, MachineExplained};
use evenkeel_core::model::{HostId, HostState, MachineId, MoveId};
use evenkeel_core::printable::printable;
use evenkeel_doctor::Facts;
use evenkeel_store::Wanted;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::NEXT;
use crate::error::with_causes;
use crate::request::{DrainRequest, PauseWish, PlaceRequest, Placement, Problem, Reset, RulesWish};
use crate::status::{MoveStatus, RecommendationStatus, Status};

/// Largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long an answer may take: longer than anything that an agent itself waits for.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error(
        "no agent answers at `{socket}`: {source}; check that `evenkeel agent` runs and that you \
         are its user, or name its socket with --socket"
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("the agent at `{socket}` did not answer: {detail}; its log may say why")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        detail: String,
    },
    /// The agent says no.
    #[error("{0}")]
    Refused(String),
}

/// A client of one agent's local API, and by it of any other host's agent. Every call is a connection
/// of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// Whose agent is asked, where it is not the one that listens.
    host: Option<HostId>,
    /// Whether what it says goes to people, and not to programs.
    printable: bool,
}

impl Client {
    /// A client of the agent that listens on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), host: None, printable: false }
    }

    /// The same, whose answers go to people: texts in them, which may be anybody's, are
    /// [printable](evenkeel_core::printable).
    #[must_use]
    pub fn for_people(self) -> Self {
        Self { printable: true, ..self }
    }

    /// The same for the agent of a host, which the one that listens asks.
    #[must_use]
    pub fn of(&self, host: &HostId) -> Self {
        Self { host: Some(host.clone()), ..self.clone() }
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Method::GET, "/api/v1/status", Bytes::new()).await
    }

    /// The newest decision records, newest first, at most `limit`.
    ///
    /// # Errors
    /// When it is not reached, or its store cannot be read.
    pub async fn decisions(&self, limit: u32) -> Result<Vec<Decision>, ClientError> {
        self.records(&Wanted::newest(limit)).await
    }

    /// What there is to know about the host for whoever judges it.
    ///
    /// # Errors
    /// When it is not reached, or its libvirt takes too long.
    pub async fn facts(&self) -> Result<Facts, ClientError> {
        self.call(Method::GET, "/api/v1/facts", Bytes::new()).await
    }

    /// Why the host does not reach the libvirt of another one, if it does not.
    ///
    /// # Errors
    /// When it is not reached, or that other one is not.
    pub async fn reach(&self, other: &HostId) -> Result<Option<String>, ClientError> {
        self.call(Method::GET, &format!("/api/v1/reach/{other}"), Bytes::new()).await
    }

    /// The decision records that are wanted, newest first.
    ///
    /// # Errors
    /// When it is not reached, or its store cannot be read.
    pub async fn records(&self, wanted: &Wanted) -> Result<Vec<Decision>, ClientError> {
        let mut path = format!("/api/v1/decisions?limit={}&moves={}", wanted.limit, wanted.moves);
        if let Some(since) = wanted.since {
            path += &format!("&since={}", since.unix_ms());
        }
        if let Some(machine) = &wanted.machine {
            path += &format!("&machine={machine}");
        }
        if let Some(exchange) = wanted.exchange {
            path += &format!("&exchange={exchange}");
        }
        let mut found: Vec<Decision> = Vec::new();
        let mut before = wanted.before;
        loop {
            let page = before.map_or_else(|| path.clone(), |seq| format!("{path}&before={seq}"));
            let (records, next): (Vec<Decision>, _) = self.page(&page).await?;
            let none = records.is_empty();
            found.extend(records);
            found.truncate(wanted.limit as usize);
            // A host of an earlier version gives all at once.
            before = next.filter(|_| !none && found.len() < wanted.limit as usize);
            if before.is_none() {
                return Ok(found);
            }
        }
    }

    /// Why a machine of the agent's host is where it is; by its name or id.
    ///
    /// # Errors
    /// When it is not reached, or has no such machine.
    pub async fn explain_machine(&self, name: &str) -> Result<MachineExplained, ClientError> {
        let name = escaped(name);
        self.call(Method::GET, &format!("/api/v1/explain/machines/{name}"), Bytes::new()).await
    }

    /// Why the agent's host does not give.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn explain_host(&self) -> Result<HostExplained, ClientError> {
        self.call(Method::GET, "/api/v1/explain/host", Bytes::new()).await
    }

    /// Programs a target load for a machine, or removes it.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn set_target(
        &self,
        machine: &MachineId,
        target: Option<f64>,
    ) -> Result<(), ClientError> {
        // JSON writes what is no number as `null`, which would remove the target.
        if let Some(load) = target.filter(|load| !load.is_finite()) {
            return Err(ClientError::Refused(format!("a target load of {load} is no load")));
        }
        let path = format!("/api/v1/machines/{machine}/target");
        let body = serde_json::to_vec(&target).map_err(|e| self.broken(&e))?;
        self.call(Method::PUT, &path, body.into()).await
    }

    /// Gives a machine of the host these rules, if its rules still are what was read before. Returns
    /// once they were read back.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn set_rules(
        &self,
        machine: &MachineId,
        wish: &RulesWish,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/machines/{machine}/rules");
        let body = serde_json::to_vec(wish).map_err(|e| self.broken(&e))?;
        self.call(Method::PUT, &path, body.into()).await
    }

    /// Has the host take no machines from now on, or take part again.
    ///
    /// # Errors
    /// When it is not reached, or cannot keep that in mind: then nothing has changed.
    pub async fn set_state(&self, state: HostState) -> Result<(), ClientError> {
        let body = serde_json::to_vec(&state).map_err(|e| self.broken(&e))?;
        self.call(Method::PUT, "/api/v1/state", body.into()).await
    }

    /// Has the host be emptied, if the rest of the cluster can hold its machines and then spare
    /// another host. The answer says whether it begins.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn drain(&self, request: &DrainRequest) -> Result<Fit, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| self.broken(&e))?;
        self.call(Method::POST, "/api/v1/drain", body.into()).await
    }

    /// Asks where a new machine fits best.
    ///
    /// # Errors
    /// When it is not reached, or no machine can be like that.
    pub async fn place(&self, wanted: &PlaceRequest) -> Result<Placement, ClientError> {
        let body = serde_json::to_vec(wanted).map_err(|e| self.broken(&e))?;
        self.call(Method::POST, "/api/v1/place", body.into()).await
    }

    /// Has the agent, which must hold the authority's key, remove a host from the cluster.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn remove_host(&self, host: &HostId) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/api/v1/hosts/{host}"), Bytes::new()).await
    }

    /// Has the agent of another host, which must hold the authority's key, remove this one.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn leave(&self) -> Result<(), ClientError> {
        self.call(Method::POST, "/api/v1/leave", Bytes::new()).await
    }

    /// Has the agent forget a name, of which no host is alive.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn forget(&self, host: &HostId) -> Result<(), ClientError> {
        self.call(Method::DELETE, &format!("/api/v1/names/{host}"), Bytes::new()).await
    }

    /// Has the agent forget what others have said of something.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn reset(&self, what: Reset) -> Result<(), ClientError> {
        let path = format!("/api/v1/reset/{}", what.name());
        self.call(Method::POST, &path, Bytes::new()).await
    }

    /// Has the agent get a new key and certificate. Answers when that expires, in RFC 3339.
    ///
    /// # Errors
    /// When it is not reached, or nobody could sign one: the present one then stays in use.
    pub async fn renew_certificate(&self) -> Result<String, ClientError> {
        self.call(Method::POST, "/api/v1/certificate", Bytes::new()).await
    }

    /// Takes a machine for the agent's own, whose other host was fenced: that runs nothing, and never
    /// will without being told to.
    ///
    /// # Errors
    /// When it is not reached, or refuses because the word of that host is not what it waits for:
    /// then nothing has changed.
    pub async fn claim(&self, machine: &MachineId, fenced: &HostId) -> Result<(), ClientError> {
        let path = format!("/api/v1/machines/{machine}/claim");
        let body = serde_json::to_vec(fenced).map_err(|e| self.broken(&e))?;
        self.call(Method::POST, &path, body.into()).await
    }

    /// Moves a machine to a host, or to wherever it fits best. Answers at once, how far that is.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn migrate(
        &self,
        machine: &MachineId,
        to: Option<&HostId>,
    ) -> Result<MoveStatus, ClientError> {
        let body = serde_json::to_vec(&to).map_err(|e| self.broken(&e))?;
        let path = format!("/api/v1/machines/{machine}/move");
        self.call(Method::POST, &path, body.into()).await
    }

    /// How far a move is that an operator has ordered.
    ///
    /// # Errors
    /// When it is not reached, or knows nothing of it.
    pub async fn directed(&self, id: MoveId) -> Result<MoveStatus, ClientError> {
        self.call(Method::GET, &format!("/api/v1/moves/{id}"), Bytes::new()).await
    }

    /// What the host recommends, oldest first.
    ///
    /// # Errors
    /// When it is not reached.
    pub async fn recommendations(&self) -> Result<Vec<RecommendationStatus>, ClientError> {
        self.call(Method::GET, "/api/v1/recommendations", Bytes::new()).await
    }

    /// Has a recommended move made, if it still helps. Answers at once, how far that is.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn approve(&self, id: MoveId) -> Result<MoveStatus, ClientError> {
        let path = format!("/api/v1/recommendations/{id}/approve");
        self.call(Method::POST, &path, Bytes::new()).await
    }

    /// Drops a recommended move.
    ///
    /// # Errors
    /// When it is not reached, or knows nothing of it.
    pub async fn skip(&self, id: MoveId) -> Result<(), ClientError> {
        let path = format!("/api/v1/recommendations/{id}");
        self.call(Method::DELETE, &path, Bytes::new()).await
    }

    /// Pauses the whole cluster, or with `None` ends the pause.
    ///
    /// # Errors
    /// When it is not reached, or refuses: then nothing has changed.
    pub async fn pause(&self, wish: Option<&PauseWish>) -> Result<(), ClientError> {
        let path = "/api/v1/pause";
        let Some(wish) = wish else {
            return self.call(Method::DELETE, path, Bytes::new()).await;
        };
        let body = serde_json::to_vec(wish).map_err(|e| self.broken(&e))?;
        self.call(Method::PUT, path, body.into()).await
    }

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.ask(method, path, body).await.map(|(answer, _)| answer)
    }

    /// A part of a longer answer, and how to ask for the next.
    async fn page<T: DeserializeOwned>(&self, path: &str) -> Result<(T, Option<u64>), ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(T, Option<u64>), ClientError> {
        let answered = tokio::time::timeout(ANSWER_TIME_MAX, self.converse(method, path, body));
        let late = |_| self.broken(&format!("nothing came within {ANSWER_TIME_MAX:?}"));
        answered.await.map_err(late)?
    }

    async fn converse<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(T, Option<u64>), ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.broken(&with_causes(&e)))?;
        // Ends with the request, whose error says what went wrong.
        tokio::spawn(connection);
        let path = match &self.host {
            Some(host) => path.replacen("/api/v1", &format!("/api/v1/hosts/{host}"), 1),
            None => path.to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "evenkeel")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(&e))?;
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|e| self.broken(&with_causes(&e)))?;
        let ok = response.status().is_success();
        let next = response.headers().get(NEXT).and_then(|next| next.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|e| self.broken(&e))?.to_bytes();
        if ok {
            let answer = self.read(&bytes).map_err(|e| self.broken(&e))?;
            return Ok((answer, next));
        }
        let said = serde_json::from_slice(&bytes).map_or_else(
            |_| String::from_utf8_lossy(&bytes).into_owned(),
            |problem: Problem| problem.error,
        );
        // Another host's words, perhaps, and on their way to a terminal.
        Err(ClientError::Refused(printable(&said)))
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, serde_json::Error> {
        if !self.printable {
            return serde_json::from_slice(bytes);
        }
        let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
        make_printable(&mut value);
        serde_json::from_value(value)
    }

    fn broken(&self, detail: &impl std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), detail: detail.to_string() }
    }
}

/// A name as one segment of a path: every byte that may mean something there is written as a number.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let byte =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(byte).collect()
}

/// Makes every text in a value printable.
fn make_printable(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(map) => {
            let fields = std::mem::take(map).into_iter().map(|(name, mut value)| {
                make_printable(&mut value);
                (printable(&name), value)
            });
            *map = fields.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

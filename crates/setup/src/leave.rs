//! Takes a host out of its cluster, with its machines where they are.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_agent::{Client, Config, Status};
use evenkeel_core::model::{HostId, HostState};
use evenkeel_net::{HOST_CERTIFICATE_FILE, Identity};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::error::{Attempt, SetupError};
use crate::install::forget_identity;
use crate::{Places, service};

/// How long handoffs under way may take to end, and then the agent.
const HANDOFFS_TIME_MAX: Duration = Duration::from_secs(300);
const STOP_TIME_MAX: Duration = Duration::from_secs(100);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What a host says to one that was removed.
const REMOVED: &str = "removed from the cluster";
/// What is kept of a member bears this behind its name.
const KEPT: &str = "left";

/// A host that has left.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Its name in the cluster.
    pub host: HostId,
    /// The cluster.
    pub cluster: String,
    /// Who took it out of the cluster's list; nobody if it left by itself.
    pub removed_by: Option<HostId>,
    /// Whether other members were known when it left.
    pub others: bool,
    /// How many machines it has, which stay.
    pub machines: usize,
    /// What is kept, and where.
    pub kept: Vec<PathBuf>,
}

/// Takes this host out of its cluster. With `force` also without its agent, without the authority's
/// word, and with the authority's key.
///
/// # Errors
/// Why it stays: see [`SetupError`].
pub async fn leave(places: &Places, force: bool) -> Result<Left, SetupError> {
    let identity_dir = places.identity();
    if !identity_dir.join(HOST_CERTIFICATE_FILE).exists() {
        return Err(SetupError::NoMember(identity_dir.join(HOST_CERTIFICATE_FILE)));
    }
    let identity = Identity::load(&identity_dir)?;
    let host = identity.host().clone();
    let authority = Config::load(&places.config).ok().and_then(|config| config.authority_dir());
    let client = Client::new(&places.socket);
    let status = match client.status().await {
        Ok(status) => Some(status),
        Err(_) if force => None,
        Err(error) => return Err(SetupError::NoAgent(error)),
    };
    let has_others = |s: &Status| !s.members.is_empty() || !s.silent.is_empty();
    let others = status.as_ref().is_some_and(has_others);
    if let Some(dir) = authority.filter(|_| others && !force) {
        return Err(SetupError::HoldsAuthority { host, dir });
    }
    let removed_by = match &status {
        Some(status) if others => depart(&client, status, force).await?,
        _ => None,
    };
    if status.is_some() {
        stop(places).await?;
    }
    let kept = put_away(places)?;
    Ok(Left {
        host,
        cluster: identity.cluster().to_string(),
        removed_by,
        others,
        machines: status.map_or(0, |status| status.machines.len()),
        kept,
    })
}

/// Ends what is under way, and has the authority take this host off the cluster's list.
async fn depart(
    client: &Client,
    status: &Status,
    force: bool,
) -> Result<Option<HostId>, SetupError> {
    let host = &status.host;
    client.set_state(HostState::Cordoned).await?;
    let departed = async {
        await_handoffs(client, host).await?;
        remove(client, status).await
    };
    match departed.await {
        Err(SetupError::NoAuthority { .. }) if force => Ok(None),
        Err(error @ SetupError::NoAuthority { .. }) => {
            client.set_state(status.state).await?;
            Err(error)
        }
        other => other.map(Some),
    }
}

async fn await_handoffs(client: &Client, host: &HostId) -> Result<(), SetupError> {
    let limit = Instant::now() + HANDOFFS_TIME_MAX;
    loop {
        let count = client.status().await?.handoffs.len();
        if count == 0 {
            return Ok(());
        }
        if Instant::now() >= limit {
            let waited = HANDOFFS_TIME_MAX.as_secs();
            return Err(SetupError::UnderWay { host: host.clone(), count, waited });
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Asks one member after the other until one does it. Each agent removes only whoever asks.
async fn remove(client: &Client, status: &Status) -> Result<HostId, SetupError> {
    let mut why = String::new();
    for member in &status.members {
        match client.of(member).leave().await {
            Ok(()) => return Ok(member.clone()),
            // It closes the connection of whom it has removed, and the answer may be overtaken by that.
            Err(error) if error.to_string().contains(REMOVED) => return Ok(member.clone()),
            Err(error) => why += &format!("\n  {member}: {error}"),
        }
    }
    Err(SetupError::NoAuthority { host: status.host.clone(), why })
}

/// Stops the agent, and waits until nobody answers at its socket any more.
async fn stop(places: &Places) -> Result<(), SetupError> {
    if places.are_usual() && service::is_managed() {
        return tokio::task::spawn_blocking(service::stop)
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    }
    let socket = &places.socket;
    let pid = agent_at(socket).attempt("find the process that serves", socket)?;
    kill_process(pid, Signal::TERM)
        .map_err(io::Error::from)
        .attempt("stop the agent that serves", socket)?;
    let limit = Instant::now() + STOP_TIME_MAX;
    while UnixStream::connect(socket).is_ok() {
        if Instant::now() >= limit {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it still answers");
            return Err(error).attempt("stop the agent that serves", socket);
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn agent_at(socket: &Path) -> io::Result<Pid> {
    let stream = UnixStream::connect(socket)?;
    Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid)
}

/// Removes the certificate and puts the rest aside: records of one cluster mean nothing in another.
fn put_away(places: &Places) -> Result<Vec<PathBuf>, SetupError> {
    let mut kept = Vec::new();
    for (path, kept_as) in [
        (places.config.clone(), beside(&places.config)),
        (places.authority(), beside(&places.authority())),
        (places.state_dir.join("state.sqlite"), places.state_dir.join("state.sqlite.left")),
        (places.state_dir.join("state.sqlite-wal"), places.state_dir.join("state.sqlite.left-wal")),
    ] {
        if !path.exists() {
            continue;
        }
        // What was kept of an earlier cluster makes room.
        if kept_as.is_dir() {
            fs::remove_dir_all(&kept_as).attempt("remove", &kept_as)?;
        }
        fs::rename(&path, &kept_as).attempt("put aside", &path)?;
        kept.push(kept_as);
    }
    forget_identity(places)?;
    Ok(kept)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{KEPT}"));
    PathBuf::from(name)
}

//! Sets a host up: all of it, or nothing.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use evenkeel_agent::{Client, Config, Status, facts};
use evenkeel_core::model::HostId;
use evenkeel_doctor::{Finding, host};
use evenkeel_net::{ClusterCa, EnrolError, Identity, JoinToken, Limits, enrol};
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::answers::{Answers, Way};
use crate::circumstances::{can_listen, check_storage};
use crate::error::{Attempt, SetupError};
use crate::undo::Undo;
use crate::{Places, service};

/// How long a token is good that is printed for the next host.
const TOKEN_TIME: Duration = Duration::from_secs(3600);
/// Clocks that differ by more than this are trouble: the same as for the doctor.
const SKEW_MAX: Duration = Duration::from_secs(30);
/// How long an agent that has started may take to answer, and then to hear of another one.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const MEMBERS_TIME_MAX: Duration = Duration::from_secs(15);
/// Agents give no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What became of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// systemd runs it, now and after each boot.
    Started,
    /// Somebody has to start it.
    Manual,
}

/// A host that was set up.
#[derive(Debug)]
pub struct Installed {
    /// Its name.
    pub host: HostId,
    /// Its cluster.
    pub cluster: String,
    /// Whether its agent runs.
    pub service: Service,
    /// What its agent says; nothing where none was started.
    pub status: Option<Status>,
    /// What the doctor has found.
    pub findings: Vec<Finding>,
    /// Lets the next host in, for an hour; on the host that made the cluster.
    pub token: Option<JoinToken>,
}

/// Sets this host up. `start` is whether the service is to be started, where there is one.
///
/// # Errors
/// Why it is not set up: see [`SetupError`]. Nothing of it is left then.
pub async fn install(
    places: &Places,
    answers: Answers,
    start: bool,
) -> Result<Installed, SetupError> {
    let (text, config) = answers.configuration(places)?;
    can_listen(answers.address)?;
    check_storage(&answers.storage)?;
    if let Way::Join(token) = &answers.way {
        token.is_timely(SystemTime::now())?;
    }
    let mut undo = Undo::new();
    make_dir(places.dir(), &mut undo)?;
    // Before a token is used up: what cannot be written is not asked for.
    write_new(&places.config, &text, &mut undo)?;
    let (identity, authority) = identify(places, &answers, &mut undo).await?;
    let managed = start && places.are_usual() && service::is_managed();
    if let Some(account) = Account::of_agent().filter(|_| places.are_usual()) {
        account.let_read(&places.config)?;
        account.give(&places.identity())?;
        if authority.is_some() {
            account.give(&places.authority())?;
        }
    }
    let status = if managed {
        let started = start_agent(places, &answers, &mut undo).await;
        Some(started.map_err(|error| named(error, &answers))?)
    } else {
        None
    };
    let token = authority.map(|ca| ca.mint_token(vec![answers.address], TOKEN_TIME)).transpose()?;
    let findings = examine(config, status.as_ref()).await;
    undo.keep();
    Ok(Installed {
        host: answers.name,
        cluster: identity.cluster().to_string(),
        service: if managed { Service::Started } else { Service::Manual },
        status,
        findings,
        token,
    })
}

async fn start_agent(
    places: &Places,
    answers: &Answers,
    undo: &mut Undo,
) -> Result<Status, SetupError> {
    service::start(undo)?;
    await_agent(places, matches!(answers.way, Way::Join(_))).await
}

/// A host that was let in and is not set up after all has used up its token and taken its name.
fn named(error: SetupError, answers: &Answers) -> SetupError {
    match (error, &answers.way) {
        (SetupError::Service { why, journal }, Way::Join(_)) => {
            let name = &answers.name;
            let hint = format!(
                "\nhint: nothing is left here, but the cluster has the name `{name}`: before you join again, run \
                 `evenkeel cluster remove {name}` and `evenkeel cluster join-token` on the host that made it"
            );
            SetupError::Service { why, journal: journal + &hint }
        }
        (error, _) => error,
    }
}

/// Gives the host a certificate: by a new authority, or by that of the cluster that it joins.
async fn identify(
    places: &Places,
    answers: &Answers,
    undo: &mut Undo,
) -> Result<(Identity, Option<ClusterCa>), SetupError> {
    let (identity_dir, authority_dir) = (places.identity(), places.authority());
    match &answers.way {
        Way::First => {
            undo.dir(&identity_dir);
            undo.dir(&authority_dir);
            let authority = ClusterCa::init(&authority_dir)?;
            let identity = authority.issue(&answers.name)?;
            identity.save(&identity_dir)?;
            Ok((identity, Some(authority)))
        }
        Way::Join(token) => {
            let mut key = Undo::new();
            key.dir(&identity_dir);
            let joined = enrol(token, &answers.name, &identity_dir, &Limits::default()).await;
            let identity = match joined {
                Ok(identity) => identity,
                Err(error) => {
                    // The host may have been let in, with a key that must not be lost then.
                    if matches!(error, EnrolError::Lost { .. }) {
                        key.keep();
                    }
                    return Err(error.into());
                }
            };
            check_clock(&answers.name, identity.issued(), SystemTime::now())?;
            key.keep();
            undo.dir_with_contents(&identity_dir);
            Ok((identity, None))
        }
    }
}

/// The certificate tells what the cluster's clock shows.
fn check_clock(host: &HostId, there: SystemTime, here: SystemTime) -> Result<(), SetupError> {
    let (skew, ahead) = match here.duration_since(there) {
        Ok(skew) => (skew, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    if skew <= SKEW_MAX {
        return Ok(());
    }
    Err(SetupError::Clock { host: host.clone(), seconds: skew.as_secs(), ahead })
}

fn make_dir(dir: &Path, undo: &mut Undo) -> Result<(), SetupError> {
    undo.dir(dir);
    DirBuilder::new().recursive(true).mode(0o755).create(dir).attempt("make", dir)
}

/// Writes the configuration, which is on disk when this returns. The agent's group may read it.
fn write_new(path: &Path, text: &str, undo: &mut Undo) -> Result<(), SetupError> {
    undo.file(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path);
    let mut file = opened.attempt("make", path)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).attempt("write", path)
}

/// Waits until the agent has measured its host, and has heard of another one where there is one.
async fn await_agent(places: &Places, expects_others: bool) -> Result<Status, SetupError> {
    let client = Client::new(&places.socket);
    let limit = Instant::now() + ANSWER_TIME_MAX;
    let status = loop {
        match client.status().await {
            Ok(status) if status.unknown.is_none() => break status,
            // One that has no word of its load yet works all the same; one that is silent does not.
            Ok(status) if Instant::now() >= limit => break status,
            Err(error) if Instant::now() >= limit || !service::is_active() => {
                return Err(SetupError::Service {
                    why: error.to_string(),
                    journal: service::journal(),
                });
            }
            Ok(_) | Err(_) => sleep(LOOK_AGAIN).await,
        }
    };
    let limit = Instant::now() + MEMBERS_TIME_MAX;
    let mut status = status;
    while expects_others && status.members.is_empty() && Instant::now() < limit {
        sleep(LOOK_AGAIN).await;
        status = client.status().await?;
    }
    Ok(status)
}

/// What the doctor says of the host as it is now.
async fn examine(config: Config, status: Option<&Status>) -> Vec<Finding> {
    let gathered = tokio::task::spawn_blocking(move || facts::gather(&config)).await;
    let Ok(mut found) = gathered else { return Vec::new() };
    found.agent = status.map(facts::of_agent);
    host::examine(&found)
}

/// Removes what is left of a host's certificates.
pub(crate) fn forget_identity(places: &Places) -> Result<(), SetupError> {
    let dir = places.identity();
    fs::remove_dir_all(&dir).attempt("remove", &dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_a_day_is_named_with_its_direction() {
        let (host, now) = (HostId::new("kvm2").unwrap(), SystemTime::now());
        let day = Duration::from_secs(86_400);
        check_clock(&host, now, now + SKEW_MAX).unwrap();
        for (here, words) in [(now + day, "ahead of"), (now - day, "behind")] {
            let wrong = check_clock(&host, now, here).unwrap_err().to_string();
            for said in ["86400 s", words, "timedatectl", "cluster remove kvm2"] {
                assert!(wrong.contains(said), "{wrong}");
            }
        }
    }
}

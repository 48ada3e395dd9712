//! Certificates while the agent runs: who is let in and put out here, and the renewal of one's own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use evenkeel_core::model::HostId;
use evenkeel_net::{
    Admission, AdmissionRefused, ClusterCa, Enroller, Identity, IssuedKey, Net, PkiError, Registrar,
};
use evenkeel_store::{Admissions, Admitted, Key, RENEWALS_PER_DAY_MAX, Renewed, Store, StoreError};
use tracing::{info, warn};

use crate::config::Config;
use crate::error::AgentError;

/// Longest wait before it is seen whether the certificate is to be renewed: clocks are set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What brings other hosts into the cluster, on a host that has the cluster's CA.
pub(crate) fn enroller(config: &Config, store: &Store) -> Result<Option<Enroller>, AgentError> {
    let Some(directory) = config.authority_dir() else { return Ok(None) };
    let authority = match ClusterCa::load(&directory) {
        Ok(authority) => authority,
        // A copy that is not for the agent to use is no reason to balance nothing.
        Err(error) if config.ca_dir.is_none() => {
            warn!(%error, "this agent lets no hosts in");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let registrar = StoreRegistrar(store.admissions()?);
    Ok(Some(Enroller::new(authority, registrar)))
}

struct StoreRegistrar(Admissions);

impl Registrar for StoreRegistrar {
    fn admit(&self, admission: &Admission) -> Result<(), AdmissionRefused> {
        let Admission { token, host, key } = admission;
        match self.0.admit(&token.to_string(), host, key).map_err(|e| not_recorded(&e))? {
            Admitted::Yes => Ok(()),
            Admitted::TokenUsed => Err(AdmissionRefused::TokenUsed(token.clone())),
            Admitted::HostTaken => Err(AdmissionRefused::HostTaken(host.clone())),
        }
    }

    fn renew(&self, host: &HostId, key: &str) -> Result<(), AdmissionRefused> {
        match self.0.renew(host, key).map_err(|e| not_recorded(&e))? {
            Renewed::Yes => Ok(()),
            Renewed::Removed => Err(AdmissionRefused::NotAMember(host.clone())),
            Renewed::TooOften => {
                let (host, most) = (host.clone(), RENEWALS_PER_DAY_MAX);
                Err(AdmissionRefused::TooOften { host, most })
            }
        }
    }

    fn keys(&self, host: &HostId) -> Result<Vec<IssuedKey>, AdmissionRefused> {
        let keys = self.0.keys(host).map_err(|e| not_recorded(&e))?;
        let keys = keys.ok_or_else(|| AdmissionRefused::NotAMember(host.clone()))?;
        let issued = |Key { host, key, issued, removed }| IssuedKey { host, key, issued, removed };
        Ok(keys.into_iter().map(issued).collect())
    }

    fn remove(&self, host: &HostId) -> Result<(), AdmissionRefused> {
        let known = self.0.remove(host).map_err(|e| not_recorded(&e))?;
        known.then_some(()).ok_or_else(|| AdmissionRefused::NotAMember(host.clone()))
    }
}

fn not_recorded(error: &StoreError) -> AdmissionRefused {
    AdmissionRefused::NotRecorded(error.to_string())
}

/// Gets a new key and certificate now, and answers when the certificate expires.
pub(crate) async fn renew(net: Net, directory: PathBuf) -> Result<SystemTime, String> {
    let identity = load(directory).await.map_err(|e| e.to_string())?;
    let expires = net.renew(&identity).await.map_err(|e| e.to_string())?;
    info!(expires = %jiff::Timestamp::try_from(expires).unwrap_or_default(), "certificate renewed");
    Ok(expires)
}

/// Renews the certificate whenever it is time, for ever.
pub(crate) async fn keep_renewed(net: Net, directory: PathBuf) {
    loop {
        let due = match load(directory.clone()).await {
            Ok(identity) => identity.renewal_due(),
            Err(error) => {
                warn!(%error, "cannot see when the certificate is to be renewed");
                SystemTime::now() + LOOK_EVERY
            }
        };
        match due.duration_since(SystemTime::now()) {
            Ok(wait) => tokio::time::sleep(wait.min(LOOK_EVERY)).await,
            Err(_) => {
                if let Err(error) = renew(net.clone(), directory.clone()).await {
                    warn!(error, "certificate not renewed; trying again in an hour");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }
}

async fn load(directory: PathBuf) -> Result<Identity, PkiError> {
    let loaded = tokio::task::spawn_blocking(move || Identity::load(&directory)).await;
    // It is cancelled only with the whole runtime.
    loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

//! Who is served by the local API, and how.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// What other members of the cluster may ask for.
    pub members: Members,
    /// How it is served over TCP, if at all.
    pub tcp: Option<TcpConfig>,
}

/// What other members of the cluster may ask of this host's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Members {
    /// Nothing.
    None,
    /// What it knows.
    #[default]
    Read,
    /// To act, too: a member that was taken over can then have this host give its machines away.
    Operate,
}

/// `[api.tcp]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate to show, in PEM, with those between it and its authority.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The file that holds the token.
    pub token_file: PathBuf,
}

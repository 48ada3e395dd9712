//! Why an agent cannot run.

use std::net::SocketAddr;
use std::path::PathBuf;

use evenkeel_core::model::HostId;
use evenkeel_net::{NetError, PkiError};
use evenkeel_store::StoreError;

use crate::config::ConfigError;

/// An error with its causes. What a library calls a `connection error` has the reason behind it.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

/// Why an agent cannot run. Nothing was begun that would be left behind.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Identity(#[from] PkiError),
    /// The network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The API cannot be served over TCP.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The configuration and the certificate name different hosts.
    #[error(
        "the configuration names host `{configured}`, and the certificate in `{directory}` host \
         `{certified}`: make them agree"
    )]
    OtherHost {
        /// In the configuration.
        configured: String,
        /// In the certificate.
        certified: HostId,
        /// Where the certificate is.
        directory: PathBuf,
    },
    /// The socket of the local API cannot be made.
    #[error("cannot serve the local API at `{path}`: {source}")]
    Api {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent serves the local API there.
    #[error(
        "another agent serves the local API at `{0}` and goes on undisturbed: one agent runs on a \
         host; stop that one first, or give this one another `api_socket`"
    )]
    ApiInUse(PathBuf),
    /// The sockets of migrations cannot be made.
    #[error("cannot make the sockets of migrations in `{path}`: {source}")]
    Carrier {
        /// Their directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent works with the same libvirt.
    #[error(
        "another agent works with the libvirt whose sockets are in `{0}`, with another state directory, \
         and goes on undisturbed: one agent runs on a host; stop that one first (`lslocks` shows who \
         holds the directory)"
    )]
    LibvirtInUse(PathBuf),
    /// Whether another agent works with the same libvirt cannot be found out.
    #[error("cannot hold `{path}`, by which agents of one libvirt find each other: {source}")]
    Libvirt {
        /// The directory of libvirt's sockets.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody knows where libvirt listens.
    #[error(
        "machines are to come through this agent, and where libvirt listens is not known from \
         `{0}`: set `migration.libvirt_socket`"
    )]
    NoLibvirtSocket(String),
    /// The signals cannot be watched.
    #[error("cannot watch signals: {0}")]
    Signals(std::io::Error),
    /// The threads that talk to libvirt cannot be started.
    #[error("cannot start the threads that talk to libvirt: {0}")]
    Threads(std::io::Error),
}

/// Why the API cannot be served over TCP.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// A file cannot be used.
    #[error("cannot use `{path}` for the API over TCP: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The certificate and its key do not work together.
    #[error("cannot speak TLS with the certificate `{certificate}`: {why}")]
    Tls {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        why: String,
    },
    /// The port cannot be had.
    #[error("cannot listen on TCP {addr} for the API: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

//! Why a host could not be set up, or could not leave.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use evenkeel_agent::ClientError;
use evenkeel_core::model::HostId;
use evenkeel_net::{EnrolError, PkiError};

/// Why. The host is as it was, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// libvirt does not answer.
    #[error("libvirt at `{uri}` does not answer: {why}\nhint: {hint}")]
    Libvirt {
        /// Where it was asked.
        uri: String,
        /// Its words.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// The address is not one of this host.
    #[error("{0} is no address of this host\nhint: give one of these with --address: {1}")]
    NoSuchAddress(SocketAddr, String),
    /// No other host would reach it.
    #[error(
        "other hosts do not reach this one at {0}\nhint: give an address of this host with --address"
    )]
    Unreachable(SocketAddr),
    /// Somebody listens there.
    #[error(
        "{protocol} port {addr} is taken: another program of this host listens there\n\
         hint: `ss -lnptu` says which; end it, or give another port: --address {}:PORT", addr.ip()
    )]
    PortTaken {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Where.
        addr: SocketAddr,
    },
    /// The port cannot be had.
    #[error("cannot listen on {protocol} {addr}: {source}")]
    Port {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The host is a member of another cluster.
    #[error(
        "this host is `{host}` of cluster {cluster} already\nhint: take it out with `evenkeel leave`, \
         then run this again"
    )]
    OtherCluster {
        /// Its name there.
        host: HostId,
        /// Which.
        cluster: String,
    },
    /// The host has another name.
    #[error(
        "this host is called `{is}` in its cluster, and not `{wanted}`\nhint: `evenkeel leave` first"
    )]
    OtherName {
        /// Its name.
        is: HostId,
        /// What was given.
        wanted: HostId,
    },
    /// There is half of a member.
    #[error(
        "`{}` is there and `{}` is not, so that this host is half set up; nothing was changed\n\
         hint: remove the one, or bring the other back from a copy, and run this again",
        there.display(), missing.display()
    )]
    Half {
        /// What is there.
        there: PathBuf,
        /// What is not.
        missing: PathBuf,
    },
    /// The answers make no configuration.
    #[error("{0}")]
    Answers(String),
    /// The clocks of this host and of the cluster differ.
    #[error(
        "the clock of this host is {seconds} s {ahead} that of the cluster: nothing is set up\n\
         hint: set it (`timedatectl set-ntp true`); then run on the host that made the cluster \
         `evenkeel cluster remove {host}`, and join with another token"
    )]
    Clock {
        /// The name that was given here.
        host: HostId,
        /// By how much.
        seconds: u64,
        /// `ahead of` or `behind`.
        ahead: &'static str,
    },
    /// Nobody lets it in.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The file system said no.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The service does not run.
    #[error("the agent does not run: {why}\n{journal}")]
    Service {
        /// What was tried and how it ended.
        why: String,
        /// What the agent has said.
        journal: String,
    },
    /// The agent of this host does not answer.
    #[error("{0}\nhint: start the agent first; or leave without it: `evenkeel leave --force`")]
    NoAgent(ClientError),
    /// Nobody takes the host out of the cluster's list.
    #[error(
        "host `{host}` stays in its cluster, and nothing was changed: no host that answers holds the \
         authority's key{why}\nhint: start the agent of the host that made the cluster; or leave with \
         `evenkeel leave --force`, and run there afterwards: `evenkeel cluster remove {host}`"
    )]
    NoAuthority {
        /// This host.
        host: HostId,
        /// What was answered.
        why: String,
    },
    /// The authority would go with the host.
    #[error(
        "host `{host}` holds the key of the cluster's authority in `{}`: without it nobody can join, be \
         removed or renew a certificate; nothing was changed\nhint: copy that directory to another \
         host, at the same place and for its agent's user, start that agent again, and run this with \
         --force", dir.display()
    )]
    HoldsAuthority {
        /// This host.
        host: HostId,
        /// Where.
        dir: PathBuf,
    },
    /// Machines are on their way.
    #[error(
        "{count} handoffs of host `{host}` are under way and have not ended within {waited} s; it is \
         cordoned and still a member\nhint: see `evenkeel status`; then run this again, or \
         `evenkeel uncordon`"
    )]
    UnderWay {
        /// This host.
        host: HostId,
        /// How many.
        count: usize,
        /// How long was waited.
        waited: u64,
    },
    /// There is nothing to leave.
    #[error("this host is in no cluster: there is no `{}`", .0.display())]
    NoMember(PathBuf),
    /// The agent says no.
    #[error(transparent)]
    Agent(#[from] ClientError),
}

/// Says what was attempted when the operating system refuses it.
pub(crate) trait Attempt<T> {
    fn attempt(self, doing: &'static str, path: &Path) -> Result<T, SetupError>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, doing: &'static str, path: &Path) -> Result<T, SetupError> {
        self.map_err(|source| SetupError::File { doing, path: path.to_owned(), source })
    }
}

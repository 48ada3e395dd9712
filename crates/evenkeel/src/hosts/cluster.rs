//! `evenkeel cluster`: its certificate authority, and tokens for hosts that join.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use evenkeel_agent::{Config, Reset};
use evenkeel_core::model::HostId;
use evenkeel_net::ClusterCa;

use super::{AskArgs, block_on};
use crate::output::{self, Failure};

/// Where the configuration is, unless told otherwise.
pub(super) const CONFIG: &str = "/etc/evenkeel/agent.toml";
const CA_DIR: &str = "/etc/evenkeel/ca";
const IDENTITY_DIR: &str = "/etc/evenkeel/identity";

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster: its certificate authority and the identity of its first host
    #[command(after_help = "Example:\n  evenkeel cluster init --host kvm1\n\n\
        The authority's key stays in --ca-dir on this host. Keep a copy where it is safe: whoever \
        has it can let hosts in.")]
    Init {
        /// The first host's name
        #[arg(long)]
        host: HostId,
        /// Where the authority goes: an agent finds it there
        #[arg(long, value_name = "DIR", default_value = CA_DIR)]
        ca_dir: PathBuf,
        /// Where the first host's certificate and key go
        #[arg(long, value_name = "DIR", default_value = IDENTITY_DIR)]
        identity_dir: PathBuf,
    },
    /// Print a token with which one host can join
    #[command(after_help = "Examples:\n  evenkeel cluster join-token\n  \
        evenkeel cluster join-token --valid-for 24h > token\n\n\
        On the host that joins: evenkeel init --join TOKEN. A token is good for one host.")]
    JoinToken {
        /// This host's configuration, which says where its agent listens
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Where the authority is, if not where the configuration has it
        #[arg(long, value_name = "DIR")]
        ca_dir: Option<PathBuf>,
        /// Address of an agent that has the authority's key, if not this host's; may be given more
        /// than once
        #[arg(long = "seed", value_name = "ADDRESS:PORT")]
        seeds: Vec<SocketAddr>,
        /// How long the token is good, such as `1h` or `30m`
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
        valid_for: Duration,
    },
    /// Remove a host from the cluster: its certificates are good nowhere from now on
    #[command(after_help = "Example:\n  evenkeel cluster remove kvm3\n\n\
        Run it where the authority's key is (`ca_dir`), while the agent runs. The other hosts hear \
        of it from this one and from each other. The machines of the removed host stay where they \
        are and run on; its name may then be taken by another host.")]
    Remove {
        /// The host's name
        #[arg(id = "removed", value_name = "HOST")]
        host: HostId,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Have an agent forget a name that no host has any more, or never had
    #[command(after_help = "Example:\n  evenkeel cluster forget kvm9\n\n\
        A host that was ever seen is asked before machines of an anti-affinity group move, and its \
        silence holds\nthem up. That is what keeps two of them apart: have a name forgotten only if \
        there is no such host.\nA host that is gone for good is removed instead, with \
        `evenkeel cluster remove`, which all others hear of.\nEach agent forgets for itself: run it on \
        every host that is held up.")]
    Forget {
        /// The name
        #[arg(id = "name", value_name = "HOST")]
        host: HostId,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Have an agent forget what other hosts have said, and learn it anew
    #[command(after_help = "Examples:\n  \
        evenkeel cluster reset pause    what it knows of pauses; hosts that know of one tell it\n  \
        evenkeel cluster reset mean     its fair share of the load; it moves nothing until it has \
        learnt it\n\n\
        What cannot be is not believed in the first place. This is for when it was believed by an \
        earlier version,\nor a host has lied within what can be.")]
    Reset {
        /// What to forget
        #[arg(value_enum)]
        what: What,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Give this host a new key and certificate now, without a restart
    ///
    /// Agents do so by themselves after two thirds of a certificate's time.
    #[command(after_help = "Example:\n  evenkeel cluster renew")]
    Renew {
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// What an agent can be had to forget.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// Whether the cluster is paused
    Pause,
    /// The mean load of the cluster
    Mean,
}

impl From<What> for Reset {
    fn from(what: What) -> Self {
        match what {
            What::Pause => Self::Pause,
            What::Mean => Self::Mean,
        }
    }
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "write `1h`, `30m` or `90s`")?;
    Duration::try_from(span).map_err(|_| "must not be negative".to_owned())
}

pub(crate) fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init { host, ca_dir, identity_dir } => {
            let ca = ClusterCa::init(&ca_dir)?;
            ca.issue(&host)?.save(&identity_dir)?;
            output::say!("{}", ca.cluster())?;
            crate::output::tell!(
                "made cluster {} with the authority in `{}` and host `{host}` in `{}`\n\
                 hint: let others in with `evenkeel cluster join-token`",
                ca.cluster(),
                ca_dir.display(),
                identity_dir.display()
            );
        }
        ClusterCommand::JoinToken { config, ca_dir, mut seeds, valid_for } => {
            let read = || Config::load(&config);
            if seeds.is_empty() {
                let hint = |error| format!("{error}\nhint: or say where an agent listens: --seed");
                seeds.push(read().map_err(hint)?.advertised());
            }
            let configured = || read().ok().and_then(|config| config.authority_dir());
            let ca_dir = ca_dir.or_else(configured).unwrap_or_else(|| CA_DIR.into());
            let token = ClusterCa::load(&ca_dir)?.mint_token(seeds, valid_for)?;
            output::say!("{}", token.to_text())?;
        }
        ClusterCommand::Remove { host, ask } => block_on(async {
            ask.client().remove_host(&host).await?;
            output::print(ask.format, &host, || format!("host `{host}` is removed"))
        })?,
        ClusterCommand::Forget { host, ask } => block_on(async {
            ask.client().forget(&host).await?;
            output::print(ask.format, &host, || format!("the name `{host}` is forgotten"))
        })?,
        ClusterCommand::Reset { what, ask } => block_on(async {
            let what = Reset::from(what);
            ask.client().reset(what).await?;
            output::print(ask.format, &what, || format!("{} is forgotten", what.name()))
        })?,
        ClusterCommand::Renew { ask } => block_on(async {
            let expires = ask.client().renew_certificate().await?;
            output::print(ask.format, &expires, || format!("the certificate expires {expires}"))
        })?,
    }
    Ok(())
}

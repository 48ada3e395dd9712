//! `evenkeel plan`: what would move, before anything does.

mod input;
mod table;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evenkeel_config::{BalanceConfig, CeilingsConfig, PolicyConfig};
use evenkeel_core::balancer::Config;
use evenkeel_core::select::Policy;
use evenkeel_sim::foresee::{Foresight, foresee};
use evenkeel_sim::plan::{Options, plan_watched};
use evenkeel_sim::snapshot::Snapshot;

use crate::output::{self, Failure, Format};
use crate::progress::Progress;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
     evenkeel plan                                     the cluster of this host's agent\n  \
     evenkeel plan -c qemu+ssh://kvm1/system -c qemu+ssh://kvm2/system\n  \
     evenkeel snapshot -c qemu+ssh://kvm1/system -c qemu+ssh://kvm2/system > now.json\n  \
     evenkeel plan now.json --ideal\n  \
     evenkeel plan now.json --format json | jq .moves";

#[derive(Debug, Args)]
#[command(
    override_usage = "evenkeel plan [OPTIONS] [SNAPSHOT]\n       evenkeel plan [OPTIONS] -c <[NAME=]URI>..."
)]
pub(crate) struct PlanArgs {
    /// A cluster as `evenkeel snapshot` writes it; `-` is standard input. Without it: the cluster that
    /// the agent of this host knows
    #[arg(conflicts_with = "connect")]
    snapshot: Option<PathBuf>,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = crate::hosts::AGENT_SOCKET,
        conflicts_with_all = ["snapshot", "connect"])]
    socket: PathBuf,
    #[command(flatten)]
    libvirt: crate::hosts::snapshot::LibvirtArgs,
    /// What reproduces the plan exactly
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How well the cluster could be levelled, instead of what agents would come to
    #[arg(long)]
    ideal: bool,
    /// An agent's configuration: its `[balance]` and `[ceilings]` are what agents would go by
    #[arg(long, value_name = "FILE", conflicts_with = "ideal")]
    config: Option<PathBuf>,
    /// How much is moved for how little, from 1 to 5, instead of what the configuration says
    #[arg(long, value_name = "N", conflicts_with = "ideal",
        value_parser = clap::value_parser!(u8).range(1..=5))]
    aggressiveness: Option<u8>,
    /// By which rule hosts select machines, instead of what the configuration says
    #[arg(long, value_enum)]
    policy: Option<PolicyName>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The rules by which hosts select.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyName {
    /// Few machines that bring hosts to their fair share of the cluster's load
    #[default]
    MeanAware,
    /// The machine whose load is nearest to half the difference of two hosts
    HalfDifference,
}

impl From<PolicyName> for PolicyConfig {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::MeanAware => Self::MeanAware,
            PolicyName::HalfDifference => Self::HalfDifference,
        }
    }
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::MeanAware => Self::default(),
            PolicyName::HalfDifference => Self::HalfDifference,
        }
    }
}

pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let snapshot = snapshot(args)?;
    let (hosts, machines) = (snapshot.hosts.len(), snapshot.vms.len());
    let mut progress = Progress::new();
    let plan = if args.ideal {
        let policy = args.policy.unwrap_or_default().into();
        let options = Options { seed: args.seed, policy, ..Options::default() };
        plan_watched(&snapshot, &options, |round, passed| {
            progress.say(|| {
                format!(
                    "{hosts} hosts, {machines} machines: round {round}, entries passed on {passed} \
                     times"
                )
            });
        })?
    } else {
        let how = Foresight { seed: args.seed, config: agents(args)?, ..Foresight::default() };
        foresee(&snapshot, &how, |minute, moves| {
            progress.say(|| {
                format!("{hosts} hosts, {machines} machines: minute {minute}, {moves} moves")
            });
        })?
    };
    progress.end();
    output::print(args.format, &plan, || table::table(&snapshot, &plan))
}

/// What of an agent's configuration matters here; the rest of it is not read.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct AgentConfig {
    balance: BalanceConfig,
    ceilings: CeilingsConfig,
}

/// How agents would balance.
fn agents(args: &PlanArgs) -> Result<Config, Failure> {
    let mut config = AgentConfig::default();
    if let Some(file) = &args.config {
        let named = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|why| format!("cannot read the configuration `{named}`: {why}"))?;
        config = evenkeel_config::parse(&text).map_err(|why| format!("`{named}`: {why}"))?;
    }
    if let Some(degree) = args.aggressiveness {
        config.balance.aggressiveness = degree;
    }
    if let Some(policy) = args.policy {
        config.balance.policy = policy.into();
    }
    config.balance.check()?;
    config.ceilings.check()?;
    Ok(Config { ceilings: config.ceilings.ceilings(), ..config.balance.balancer() })
}

fn snapshot(args: &PlanArgs) -> Result<Snapshot, Failure> {
    match &args.snapshot {
        Some(file) => input::read(file),
        None if args.libvirt.is_empty() => crate::hosts::snapshot::of_cluster(&args.socket),
        None => args.libvirt.read(),
    }
}

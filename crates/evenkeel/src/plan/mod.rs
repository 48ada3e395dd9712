//! `evenkeel plan`: what would move, before anything does.

mod input;
mod table;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evenkeel_core::select::Policy;
use evenkeel_sim::plan::{Options, plan_watched};
use evenkeel_sim::snapshot::Snapshot;

use crate::output::{self, Failure, Format};
use crate::progress::Progress;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
     evenkeel plan                                     the cluster of this host's agent\n  \
     evenkeel plan -c qemu+ssh://kvm1/system -c qemu+ssh://kvm2/system\n  \
     evenkeel snapshot -c qemu+ssh://kvm1/system -c qemu+ssh://kvm2/system > now.json\n  \
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
    /// By which rule hosts select machines
    #[arg(long, value_enum, default_value_t)]
    policy: PolicyName,
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
    let options = Options { seed: args.seed, policy: args.policy.into(), ..Options::default() };
    let (hosts, machines) = (snapshot.hosts.len(), snapshot.vms.len());
    let mut progress = Progress::new();
    let plan = plan_watched(&snapshot, &options, |round, passed| {
        progress.say(|| {
            format!(
                "{hosts} hosts, {machines} machines: round {round}, entries passed on {passed} times"
            )
        });
    })?;
    progress.end();
    output::print(args.format, &plan, || table::table(&snapshot, &plan))
}

fn snapshot(args: &PlanArgs) -> Result<Snapshot, Failure> {
    match &args.snapshot {
        Some(file) => input::read(file),
        None if args.libvirt.is_empty() => crate::hosts::snapshot::of_cluster(&args.socket),
        None => args.libvirt.read(),
    }
}

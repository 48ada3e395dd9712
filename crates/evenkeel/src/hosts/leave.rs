//! `evenkeel leave`: out of the cluster, with all machines where they are.

use clap::Args;
use evenkeel_setup::{Left, leave};

use super::block_on;
use super::init::PlacesArgs;
use crate::output::{self, Failure, Format};

pub(crate) const EXAMPLES: &str = "Example:\n  evenkeel leave\n\n\
    Handoffs under way end first. Then the host that holds the authority's key takes this one off the \
    cluster's\nlist, and the agent stops. Machines run on; none is moved or stopped. `evenkeel init` \
    sets the host up again.";

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Also without this host's agent or the authority's word, and with the authority's key
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    places: PlacesArgs,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(args: &LeaveArgs) -> Result<(), Failure> {
    let places = args.places.places()?;
    let left = block_on(async { Ok(leave(&places, args.force).await?) })?;
    output::print(args.format, &left, || report(&left))
}

fn report(left: &Left) -> String {
    let Left { host, cluster, removed_by, others, machines, kept } = left;
    let mut text =
        format!("host `{host}` has left cluster {cluster}; its {machines} machines stay\n");
    text += &match removed_by {
        Some(by) => format!("host `{by}` has taken it off the cluster's list\n"),
        None if *others => format!(
            "it is on the cluster's list still: run `evenkeel cluster remove {host}` on the host that \
             made the cluster\n"
        ),
        None => String::new(),
    };
    for path in kept {
        text += &format!("kept: {}\n", path.display());
    }
    text
}

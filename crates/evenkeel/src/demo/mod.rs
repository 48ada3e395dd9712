//! `evenkeel demo`: three hosts, all guests on the first, and how they level.
//!
//! On real machines where this computer can run them; otherwise the same core over the in-memory
//! hypervisor, which is said.

mod frame;
mod real;
mod screen;
mod simulated;

use clap::Args;
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::HostId;

use crate::output::{Failure, percent};
use crate::scene::Scene;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    scene: Scene,
    /// Leave the lab running
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let missing = match real::run(args)? {
        real::Outcome::Shown => return Ok(()),
        real::Outcome::NoHypervisor(why) => why,
    };
    crate::output::tell!("{missing}\n\nShowing the same core over in-memory hosts.\n");
    if args.keep {
        crate::output::tell!(
            "--keep has no meaning here: nothing is left when a simulation ends.\n"
        );
    }
    simulated::run(&args.scene)
}

/// A migration, told by its donor's record.
fn told(decision: &Decision) -> String {
    let peer = decision.peer.as_ref().map_or("?", HostId::as_str);
    let machine = decision.chosen().map_or("?", |c| c.name.as_str());
    let moved = format!("{} → {peer}  {machine}", decision.host);
    let Some(pair) = decision.pair else { return moved };
    let (donor, receiver) = (percent(pair.donor), percent(pair.receiver));
    let prices = decision.chosen().and_then(|c| c.at_donor.zip(c.at_receiver));
    let load = prices.map_or(0.0, |(here, there)| f64::midpoint(here, there));
    let loads = format!(
        "{moved:<16} loads {donor} and {receiver}, half the difference {}, the machine {}",
        percent(pair.wanted()),
        percent(load)
    );
    match (decision.ending, decision.stats) {
        (Reason::Moved, Some(s)) => {
            format!("{loads}; {} ms, of which it stood still {} ms", s.elapsed_ms, s.downtime_ms)
        }
        (ending, _) => format!("{loads}; {ending} {}", decision.detail),
    }
}

//! `evenkeel demo`: three hosts, all guests on the first, and how they level.
//!
//! On real machines where this computer can run them; otherwise the same core over the in-memory
//! hypervisor, which is said.

mod screen;
mod simulated;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use evenkeel_agent::Status;
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::model::{ExchangeId, HostId};
use evenkeel_lab::{Lab, LabError};

use crate::lab::{self, UpArgs};
use crate::output::Failure;
use crate::{block_on, report};
use screen::{Frame, HostBar, Screen};

/// When a lab that does not come to rest is given up.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the agents are asked.
const FRAME: Duration = Duration::from_millis(250);
/// At rest is a lab in which every host has ended this many exchanges in a row without a move.
const QUIET_EXCHANGES: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    up: UpArgs,
    /// Leave the lab running
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let lab = match lab::up(&args.up, &mut |line| anstream::println!("  {line}")) {
        Ok(lab) => lab,
        Err(failure) => match failure.downcast_ref::<LabError>() {
            Some(LabError::NoHypervisor { .. }) => {
                anstream::eprintln!("{failure}\n\nShowing the same core over in-memory hosts.\n");
                return simulated::run(args.up.hosts, args.up.vms);
            }
            _ => return Err(failure),
        },
    };
    let watched = block_on(watch(&lab));
    let verified = watched.and_then(|frames| verify(&lab, &frames));
    if args.keep {
        anstream::println!(
            "\nThe lab goes on. Look: evenkeel lab status --dir {0}\nEnd it: evenkeel lab down --dir {0}",
            lab.dir().display()
        );
    } else {
        lab.down()?;
    }
    verified
}

/// What the hosts looked like at the beginning and at the end.
struct Frames {
    before: Frame,
    after: Frame,
}

/// Shows how the hosts level until they are at rest.
async fn watch(lab: &Lab) -> Result<Frames, Failure> {
    let hosts: Vec<_> = lab.status()?.hosts.into_iter().map(|h| h.id).collect();
    let mut screen = Screen::new();
    let mut before = None;
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + LIMIT;
    let mut ticks = tokio::time::interval(FRAME);
    loop {
        ticks.tick().await;
        if Instant::now() > deadline {
            return Err(
                format!("the hosts did not come to rest within {} s", LIMIT.as_secs()).into()
            );
        }
        let mut statuses = Vec::new();
        let mut decisions = Vec::new();
        for host in &hosts {
            let client = lab::client(lab, host);
            // An agent that is still starting has no socket yet.
            let (Ok(status), Ok(newest)) = (client.status().await, client.decisions(64).await)
            else {
                continue;
            };
            statuses.push(status);
            decisions.push(newest);
        }
        let frame = frame(&statuses);
        if before.is_none() && frame.is_known(hosts.len()) {
            before = Some(frame.clone());
        }
        for decision in news(&decisions, &mut seen) {
            screen.say(&told(decision));
        }
        screen.draw(&frame);
        if let Some(before) = &before
            && decisions.len() == hosts.len()
            && decisions.iter().all(|d| is_quiet(d))
        {
            screen.end();
            return Ok(Frames { before: before.clone(), after: frame });
        }
    }
}

/// The migrations that were not told yet, oldest first, as the donor saw them.
fn news<'d>(decisions: &'d [Vec<Decision>], seen: &mut BTreeSet<ExchangeId>) -> Vec<&'d Decision> {
    let mut new: Vec<_> = decisions
        .iter()
        .flatten()
        .filter(|d| d.role == Some(Role::Donor) && d.handoff.is_some() && seen.insert(d.exchange))
        .collect();
    new.sort_by_key(|d| d.ended);
    new
}

fn is_quiet(newest: &[Decision]) -> bool {
    let at_rest = |d: &Decision| {
        matches!(d.ending, Reason::WithinDeadBand | Reason::NoCandidate | Reason::Busy)
    };
    newest.len() >= QUIET_EXCHANGES && newest.iter().take(QUIET_EXCHANGES).all(at_rest)
}

fn told(decision: &Decision) -> String {
    let peer = decision.peer.as_ref().map_or("?", HostId::as_str);
    let machine = decision.chosen().map_or("?", |c| c.name.as_str());
    let moved = format!("{} → {peer}  {machine}", decision.host);
    let Some(pair) = decision.pair else { return moved };
    let (donor, receiver) = (report::percent(pair.donor), report::percent(pair.receiver));
    let prices = decision.chosen().and_then(|c| c.at_donor.zip(c.at_receiver));
    let load = prices.map_or(0.0, |(here, there)| f64::midpoint(here, there));
    let loads = format!(
        "{moved:<16} loads {donor} and {receiver}, half the difference {}, the machine {}",
        report::percent(pair.wanted()),
        report::percent(load)
    );
    match (decision.ending, decision.stats) {
        (Reason::Moved, Some(s)) => {
            format!("{loads}; {} ms, of which it stood still {} ms", s.elapsed_ms, s.downtime_ms)
        }
        (ending, _) => format!("{loads}; {ending} {}", decision.detail),
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

fn frame(statuses: &[Status]) -> Frame {
    let bar = |s: &Status| HostBar {
        host: s.host.to_string(),
        load: s.load,
        machines: sorted(s.machines.iter().map(|m| m.name.clone())),
    };
    Frame { hosts: statuses.iter().map(bar).collect() }
}

/// Compares before and after, and has every guest's console prove that it lived through it.
fn verify(lab: &Lab, frames: &Frames) -> Result<(), Failure> {
    let Frames { before, after } = frames;
    anstream::println!("{}", screen::compare(before, after));
    let mut harmed = Vec::new();
    let (mut reports, mut pages) = (0, 0_u64);
    let guests: Vec<_> = lab.status()?.hosts.into_iter().flat_map(|h| h.guests).collect();
    for guest in &guests {
        let verdict = lab.console(guest)?.verify();
        reports += verdict.reports;
        pages += u64::from(verdict.pages_checked);
        if !verdict.is_unharmed() {
            harmed.push(format!("{guest}: {verdict:?}"));
        }
    }
    if !harmed.is_empty() {
        return Err(format!("guests were harmed:\n{}", harmed.join("\n")).into());
    }
    anstream::println!(
        "All {} guests live: {reports} reports without a gap, {pages} pages of memory verified.",
        guests.len()
    );
    let spread = |frame: &Frame| frame.spread();
    if spread(after) >= spread(before) {
        return Err("the hosts did not end closer together than they began".into());
    }
    Ok(())
}

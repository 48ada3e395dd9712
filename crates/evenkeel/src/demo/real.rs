//! The demo on real machines.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use evenkeel_agent::Status;
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::model::ExchangeId;
use evenkeel_lab::{Lab, LabError};

use super::frame::{Frame, HostBar, compare};
use super::screen::Screen;
use super::{DemoArgs, told};
use crate::hosts::{block_on, lab};
use crate::output::{Failure, say};

/// When a lab that does not come to rest is given up.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the agents are asked.
const FRAME: Duration = Duration::from_millis(250);
/// At rest is a lab in which every host has ended this many exchanges in a row without a move.
const QUIET_EXCHANGES: usize = 5;

/// How far the demo on real machines got.
pub(super) enum Outcome {
    /// All was shown and verified.
    Shown,
    /// This computer cannot run the lab's guests, and why.
    NoHypervisor(String),
}

pub(super) fn run(args: &DemoArgs) -> Result<Outcome, Failure> {
    let lab = match lab::up(&args.scene, &mut |line| drop(say!("  {line}"))) {
        Ok(lab) => lab,
        Err(failure) => match failure.downcast_ref::<LabError>() {
            Some(missing @ LabError::NoHypervisor { .. }) => {
                return Ok(Outcome::NoHypervisor(missing.to_string()));
            }
            _ => return Err(failure),
        },
    };
    let watched = block_on(watch(&lab));
    let verified = watched.and_then(|frames| verify(&lab, &frames));
    if args.keep {
        // Not on the path of somebody who has just built it.
        let program = std::env::current_exe()?;
        let (program, dir) = (program.display(), lab.dir().display());
        say!(
            "\nThe lab goes on. Look: {program} lab status --dir {dir}\n\
             End it: {program} lab down --dir {dir}"
        )?;
    } else {
        lab.down()?;
    }
    verified.map(|()| Outcome::Shown)
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
        .filter(|d| d.role == Some(Role::Source) && d.handoff.is_some() && seen.insert(d.exchange))
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
    say!("{}", compare(before, after))?;
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
    say!(
        "All {} guests live: {reports} reports without a gap, {pages} pages of memory verified.",
        guests.len()
    )?;
    let spread = |frame: &Frame| frame.spread();
    if spread(after) >= spread(before) {
        return Err("the hosts did not end closer together than they began".into());
    }
    Ok(())
}

//! A rolling upgrade: agents of the previous protocol and of this one side by side, replaced one by one
//! while guests move between them in both directions. No guest notices, and balancing never stops.
//!
//! The previous agent is built from the history of the repository:
//!
//! ```sh
//! EVENKEEL_PREVIOUS=$(scripts/previous) cargo test -p evenkeel --test upgrade -- --nocapture
//! ```

mod chaos;
mod daemon;
mod skips;
mod support;
mod swing;

use std::path::PathBuf;
use std::time::Duration;

use daemon::EVENKEEL;
use evenkeel_core::decision::{Decision, Role};
use support::LIMIT;
use support::records::moves;
use swing::{Swing, swinger};

const HOSTS: usize = 3;
const GUESTS: usize = 6;
/// What both programs understand; a guest has a commit point of its own.
const BOTH: &str = "[handoff]\nmode = 'strict'\n";
const BOUND: Duration = Duration::from_secs(120);

/// The handoffs from one of these hosts to one of those that have succeeded so far.
fn moved(swing: &Swing, from: &[String], to: &[String]) -> usize {
    let among = |hosts: &[String], id: &str| hosts.iter().any(|host| host == id);
    let fits = |d: &&Decision| {
        let peer = d.peer.as_ref().is_some_and(|peer| among(to, peer.as_str()));
        peer && among(from, d.host.as_str())
    };
    let decisions = swing.cluster.decisions();
    moves(&decisions, Role::Source).into_iter().filter(fits).count()
}

/// Makes guests move from these hosts to those, and waits until one has.
fn drive(swing: &Swing, from: &[String], to: &[String]) {
    let before = moved(swing, from, to);
    swing.tip(&from.iter().map(String::as_str).collect::<Vec<_>>());
    swing.cluster.until(LIMIT, &format!("a guest on its way from {from:?} to {to:?}"), |_| {
        (moved(swing, from, to) > before).then_some(())
    });
}

#[test]
fn agents_are_upgraded_one_by_one_while_guests_move_between_them() {
    let Some(previous) = std::env::var_os("EVENKEEL_PREVIOUS").map(PathBuf::from) else {
        skips::skip("EVENKEEL_PREVIOUS names no agent of the previous protocol");
        return;
    };
    let guests = (1..=GUESTS).map(|n| swinger(&format!("guest{n}"), "h1", 2)).collect();
    let mut swing = Swing::with_program(HOSTS, guests, BOTH, &previous);
    let hosts = swing.hosts();
    drive(&swing, &hosts[..1], &hosts[1..]);
    for (count, host) in hosts.iter().enumerate() {
        // Guests go on moving between the others, and to and from it until it stops.
        swing.stop(host);
        let place = swing.places.get_mut(host).expect("a host");
        (place.program, place.earlier) = (EVENKEEL.into(), false);
        swing.start(host);
        swing.cluster.until(LIMIT, "a load", |cluster| cluster.status(host)?.load);
        let (new, old) = hosts.split_at(count + 1);
        if old.is_empty() {
            break;
        }
        drive(&swing, old, new);
        drive(&swing, new, old);
        let (there, back) = (moved(&swing, old, new), moved(&swing, new, old));
        eprintln!(
            "{} of {HOSTS} upgraded: {there} guests came to new agents, {back} left them",
            count + 1
        );
    }
    drive(&swing, &hosts[2..], &hosts[..2]);
    drive(&swing, &hosts[..2], &hosts[2..]);
    swing.tip(&[]);
    swing.settle("the upgrade", BOUND);
    swing.assert_unharmed();
    let all = swing.cluster.decisions();
    eprintln!("{} handoffs in all, {GUESTS} guests unharmed", moves(&all, Role::Source).len());
}

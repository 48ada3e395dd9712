//! `evenkeel top`: what whoever watches a cluster sees.

mod daemon;
mod pair;
mod support;

use std::time::{Duration, Instant};

use daemon::{LIMIT, Place, evenkeel};
use pair::{BANDWIDTH, Pair};
use rustix::process::Signal;

/// Looks through the agent of a host until everything that is wanted is seen at once.
fn see(place: &Place, wanted: &[&[&str]]) -> String {
    let deadline = Instant::now() + LIMIT;
    let socket = place.socket.to_str().expect("text");
    loop {
        let seen = evenkeel(&["top", "--times", "1", "--socket", socket]);
        let seen = seen.done();
        let has = |parts: &&[&str]| seen.lines().any(|line| parts.iter().all(|p| line.contains(p)));
        if wanted.iter().all(has) {
            return seen.to_owned();
        }
        assert!(Instant::now() < deadline, "{wanted:?} are not in time in\n{seen}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn top_shows_every_host_what_moves_and_who_does_not_answer() {
    let pair = Pair::up(BANDWIDTH);
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    see(&pair.h1, &[&["h1", "active", "0.0 %", "2"], &["h2", "active", "0"], &["nothing moves"]]);
    pair.tip();
    let seen = see(&pair.h2, &[&["mover: h1 → h2, transferring for", "MiB sent"]]);
    assert!(seen.starts_with("2 hosts, contention "), "{seen}");
    assert_eq!(seen.matches("mover: ").count(), 1, "shown of both its hosts:\n{seen}");
    pair.rests_on("h2");
    see(&pair.h1, &[&["h1", "40.0 %"], &["h2", "40.0 %"], &["nothing moves"]]);

    // A host that stands still is there until the others find that it is gone.
    target.signal(Signal::STOP);
    let seen = see(&pair.h1, &[&["h2", "no answer"]]);
    assert!(seen.contains("40.0 %"), "the others are shown as ever:\n{seen}");
    target.signal(Signal::CONT);
    see(&pair.h1, &[&["h2", "active", "40.0 %"]]);
}

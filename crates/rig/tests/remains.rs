//! What a rig leaves behind.

#[path = "../../evenkeel/tests/skips/mod.rs"]
mod skips;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_rig::{Rig, Spec};

#[test]
fn nothing_remains_of_a_rig_that_was_killed_while_it_came_up_or_that_went_down() {
    if let Err(error) = Rig::fitness() {
        return skips::skip(&error.to_string());
    }
    let name = Spec::default().name;
    if !Rig::remains(&name).expect("readable").is_empty() {
        return skips::skip("a rig that was brought up by hand is up");
    }
    // The directory, the switch, and then network and cgroup of each host.
    for progress in [1, 2, 4] {
        let mut up =
            Command::new(env!("CARGO_BIN_EXE_evenkeel-rig")).arg("up").spawn().expect("it");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Rig::remains(&name).expect("readable").len() < progress {
            assert!(Instant::now() < deadline, "no rig came up");
            thread::sleep(Duration::from_millis(5));
        }
        up.kill().expect("ours");
        up.wait().expect("ours");
        Rig::sweep(&name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Rig::remains(&name).expect("readable"), Vec::<String>::new());
    }
    let rig = Rig::up(&Spec::default()).unwrap_or_else(|error| panic!("{error}"));
    assert!(Rig::up(&Spec::default()).is_err(), "a second rig of the same name");
    rig.down().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Rig::remains(&name).expect("readable"), Vec::<String>::new());
}

//! Tests that cannot run on a machine say so where somebody sees it.
//!
//! Where `CI` is set, a skip fails its test unless `allowed.txt` names the test and the reason. Elsewhere
//! the test passes, and `make test` ends with the list of what was skipped: the skips are written to the
//! file that `EVENKEEL_SKIPS` names.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    reason = "a module of tests, and a test that fails panics"
)]

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// What CI may skip: a line `TEST: REASON` for each; `#` begins a comment.
const ALLOWED: &str = include_str!("allowed.txt");

/// Says that the test which calls this cannot run here, and why.
///
/// # Panics
/// Where `CI` is set and the list does not name the test.
pub fn skip(why: &str) {
    let thread = thread::current();
    let test = thread.name().expect("a test has a thread of its name");
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(file) = std::env::var_os("EVENKEEL_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(file).expect("writable");
        writeln!(file, "{test}: {why}").expect("written");
    }
    let ci = std::env::var_os("CI").is_some_and(|ci| ci != "false");
    assert!(!ci || is_allowed(ALLOWED, test), "CI must not skip `{test}`: {why}");
}

fn is_allowed(list: &str, test: &str) -> bool {
    let mut entries = list.lines().filter(|line| !line.starts_with('#'));
    entries.any(|line| line.split_once(": ").is_some_and(|(name, _)| name == test))
}

#[test]
fn only_a_test_that_the_list_names_with_a_reason_may_be_skipped_in_ci() {
    let list = "# a comment: too\nlinks::cut: needs a kernel with X\nwithout_reason\n";
    assert!(is_allowed(list, "links::cut"));
    for refused in ["cut", "links::cut_twice", "without_reason", "# a comment"] {
        assert!(!is_allowed(list, refused), "{refused}");
    }
}

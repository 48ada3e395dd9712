use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const QUARANTINE: Duration = Duration::from_secs(600);

fn at(minutes: u64) -> Time {
    Time::from_unix_ms(minutes * 60_000)
}

fn host(name: impl std::fmt::Display) -> HostId {
    HostId::new(&format!("h{name}")).unwrap()
}

fn machine(name: impl std::fmt::Display) -> MachineId {
    MachineId::new(&format!("m{name}")).unwrap()
}

/// A host's failures, and what it may try.
#[derive(Default)]
struct Host(Failures);

impl Host {
    fn fails(&mut self, m: u32, h: u32, minutes: u64) {
        self.0.begins(&host(h), QUARANTINE, at(minutes));
        let pair = (&machine(m), &host(h));
        self.0.gave_in_vain(pair, &host("own"), "no such network", QUARANTINE, at(minutes));
    }

    fn may(&self, m: u32, h: u32, minutes: u64) -> Result<(), Reason> {
        self.0.may_try(&machine(m), &host(h), QUARANTINE, at(minutes))
    }

    fn left_out(&self, minutes: u64) -> Vec<LeftOut> {
        self.0.left_out(&host("own"), at(minutes)).collect()
    }
}

#[test]
fn one_failure_is_held_against_the_pair_and_nobody_else() {
    let mut own = Host::default();
    own.fails(1, 1, 0);
    assert_eq!(own.may(1, 1, 9), Err(Reason::FailedThere));
    assert_eq!(own.may(1, 2, 0), Ok(()), "another host is tried at once");
    assert_eq!(own.may(2, 1, 0), Ok(()), "another machine is tried there at once");
    assert_eq!(own.may(1, 1, 10), Ok(()));
    own.fails(1, 1, 10);
    assert_eq!(own.may(1, 1, 29), Err(Reason::FailedThere), "for twice as long");
    assert_eq!(own.may(1, 1, 30), Ok(()));
}

#[test]
fn a_host_at_which_different_machines_fail_is_left_out_and_said_to_be() {
    let mut own = Host::default();
    own.fails(1, 1, 0);
    assert!(own.left_out(0).is_empty());
    own.fails(2, 1, 1);
    assert_eq!(own.may(3, 1, 1), Err(Reason::TargetFails));
    assert_eq!(own.may(1, 2, 1), Ok(()));
    assert_eq!(own.may(2, 2, 1), Ok(()), "no machine is quarantined for it");
    let [said] = &own.left_out(1)[..] else { panic!() };
    assert_eq!((&said.host, said.since, said.until), (&host(1), at(1), at(11)));
    assert_eq!(said.machines, [machine(1), machine(2)]);
    assert_eq!(said.detail, "no such network");
}

#[test]
fn one_machine_tries_a_host_that_was_left_out_and_decides() {
    let mut own = Host::default();
    own.fails(1, 1, 0);
    own.fails(2, 1, 0);
    assert_eq!(own.may(1, 1, 11), Err(Reason::FailedThere), "another machine goes first");
    assert_eq!(own.may(3, 1, 11), Ok(()));
    own.0.begins(&host(1), QUARANTINE, at(11));
    assert_eq!(own.may(4, 1, 11), Err(Reason::TargetFails), "one is enough");
    let pair = (&machine(3), &host(1));
    own.0.gave_in_vain(pair, &host("own"), "again", QUARANTINE, at(12));
    assert_eq!(own.may(4, 1, 31), Err(Reason::TargetFails), "for twice as long");
    assert_eq!(own.may(4, 1, 32), Ok(()));
    own.0.begins(&host(1), QUARANTINE, at(32));
    own.0.undecided(&host(1), at(32));
    assert_eq!(own.may(4, 1, 32), Ok(()), "what says nothing keeps nobody away");
    own.0.begins(&host(1), QUARANTINE, at(32));
    own.0.gave(&machine(4), &host(1));
    assert!(own.left_out(33).is_empty());
    assert_eq!(own.may(3, 1, 33), Ok(()), "what failed there failed because of the host");
}

#[test]
fn a_host_is_tried_again_within_hours_however_often_it_has_failed() {
    let mut own = Host::default();
    own.fails(1, 1, 0);
    own.fails(2, 1, 0);
    let (mut now, mut longest) = (0, 0);
    for m in 3..40 {
        let since = now;
        while own.may(m, 1, now).is_err() {
            now += 1;
        }
        longest = longest.max(now - since);
        own.fails(m, 1, now);
    }
    assert_eq!(longest, 160);
}

#[test]
fn a_machine_that_fails_at_different_hosts_is_quarantined_and_the_hosts_are_not_left_out() {
    let mut own = Host::default();
    for (m, minutes) in [(1, 0), (2, 1)] {
        own.fails(m, 1, minutes);
        own.fails(m, 2, minutes);
        assert_eq!(own.may(m, 3, minutes), Err(Reason::Quarantined));
    }
    assert!(own.left_out(1).is_empty());
    assert_eq!(own.may(3, 1, 1), Ok(()));
    assert_eq!(own.may(3, 2, 1), Ok(()));
}

#[test]
fn machines_that_fail_everywhere_acquit_the_hosts_that_were_left_out_for_them() {
    let mut own = Host::default();
    for h in 1..=3 {
        own.fails(1, h, 0);
        own.fails(2, h, 0);
    }
    assert_eq!(own.may(1, 4, 0), Err(Reason::Quarantined));
    assert_eq!(own.may(2, 4, 0), Err(Reason::Quarantined));
    assert!(own.left_out(0).is_empty(), "{:?}", own.left_out(0));
    assert_eq!(own.may(3, 1, 0), Ok(()));
}

#[test]
fn a_machine_that_fails_to_move_is_tried_ever_more_seldom() {
    let (mut own, mut tries, mut now) = (Host::default(), 0, 0);
    // Tried again as soon as it may, at whichever of ten hosts, for a year.
    while now < 365 * 24 * 60 {
        match (0..10).find(|h| own.may(1, *h, now).is_ok()) {
            Some(h) => {
                own.fails(1, h, now);
                tries += 1;
            }
            None => now += 10,
        }
    }
    assert!((10..20).contains(&tries), "{tries}");
    own.0.gave(&machine(1), &host(3));
    assert_eq!(own.may(1, 3, now), Ok(()));
}

#[test]
fn a_host_takes_nothing_after_failures_from_different_hosts_and_no_single_one_can_stop_it() {
    let mut own = Failures::default();
    for m in 0..10 {
        own.took_in_vain((&machine(m), &host(1)), "", QUARANTINE, at(0));
    }
    assert_eq!(own.may_take(at(0)), Ok(()), "one host may be broken itself, or lie");
    own.took_in_vain((&machine(20), &host(2)), "no space", QUARANTINE, at(1));
    assert_eq!(own.may_take(at(1)), Err(Reason::TargetFails));
    assert_eq!(
        own.left_out(&host("own"), at(1)).map(|l| l.host).collect::<Vec<_>>(),
        [host("own")]
    );
    assert_eq!(own.may_take(at(11)), Ok(()));
    own.arrives(QUARANTINE, at(11));
    assert_eq!(own.may_take(at(11)), Err(Reason::TargetFails), "one is enough");
    own.took(&machine(21));
    assert_eq!(own.may_take(at(11)), Ok(()));
}

#[test]
fn what_failed_long_ago_is_no_evidence() {
    let mut own = Host::default();
    own.fails(1, 1, 0);
    own.fails(2, 1, 60);
    assert!(own.left_out(60).is_empty());
}

/// Whatever is broken: no sound machine is kept from a sound host for long, and few tries fail.
#[test]
fn the_broken_ones_are_told_from_the_sound_ones() {
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (hosts, machines) = (rng.random_range(3..20u32), rng.random_range(3..20u32));
        let bad_hosts = rng.random_range(0..3.min(hosts - 1));
        let bad_machines = rng.random_range(0..3.min(machines - 1));
        let mut own = Host::default();
        let mut failures = 0;
        // An hour in which every machine tries to go somewhere once a minute, in any order.
        for minute in 0..60 {
            for _ in 0..machines {
                let (m, h) = (rng.random_range(0..machines), rng.random_range(0..hosts));
                if own.may(m, h, minute).is_err() {
                    continue;
                }
                own.0.begins(&host(h), QUARANTINE, at(minute));
                if h < bad_hosts || m < bad_machines {
                    own.fails(m, h, minute);
                    failures += 1;
                } else {
                    own.0.gave(&machine(m), &host(h));
                }
            }
        }
        let context = format!(
            "seed {seed}: {bad_hosts} of {hosts} hosts and {bad_machines} of {machines} machines \
             are bad, {failures} failures"
        );
        // Each bad host: two machines, then one after each pause; each bad machine the same.
        let most = 8 * (bad_hosts + bad_machines);
        assert!(failures <= most, "{context}");
        for m in bad_machines..machines {
            for h in bad_hosts..hosts {
                assert_eq!(own.may(m, h, 60), Ok(()), "{context}: m{m} to h{h}");
            }
        }
    }
}

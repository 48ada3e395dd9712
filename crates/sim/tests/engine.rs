//! What keeps hosts from harm while they balance, in simulation: ceilings and restraint.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use common::*;
use evenkeel_core::balancer::Config;
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::Resource;
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_core::restraint::Restraint;
use evenkeel_hypervisor::memory::{Aftermath, Fault};

/// A resource over its ceiling is shed although the weighted load of its host is the lower one, and
/// nothing is pushed over a ceiling because of it.
#[test]
fn a_host_over_a_ceiling_sheds_that_resource_though_its_load_is_below_the_mean() {
    let config = Config { restraint: Restraint::default(), ..mean_aware() };
    let mut cluster = cluster(1, 3, &config);
    for index in 0..8 {
        let name = format!("cpu{index}");
        cluster.place(&host_id(0), facts(&name, 1.0), work(1.9, 0.5, 0.0)).unwrap();
    }
    for (host, name) in [(1, "a"), (1, "b"), (2, "c"), (2, "d")] {
        cluster.place(&host_id(host), facts(name, 60.0), work(0.1, 60.0, 0.0)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster.run_until(at(600));
    let share = |host: usize| {
        let gauge = cluster.balancer(&host_id(host)).unwrap().host().gauge(cluster.now()).unwrap();
        gauge.used.cpu_cores / 16.0
    };
    assert!((0..3).all(|host| share(host) <= 0.9), "{:?}", [share(0), share(1), share(2)]);
    let shed = |d: &&Decision| d.measure == Some(Resource::Cpu) && d.ending == Reason::Moved;
    assert!(cluster.records().iter().any(|d| shed(&d)), "{:?}", loads(&cluster));
    assert_sound(&mut cluster);
}

/// A machine that cannot be migrated is left alone for longer and longer, and others go instead.
#[test]
fn a_machine_whose_migration_fails_is_not_tried_again_and_again() {
    let config = Config { restraint: Restraint::default(), ..mean_aware() };
    let mut cluster = crowded(1, 2, &config, &[2.0, 2.0, 2.0]);
    let mut tries = 0;
    for minute in 0..24 * 60 {
        let failure = Failure::new(FailureKind::Other, "no");
        cluster
            .cloud_mut()
            .fail_next_migration(
                &host_id(0),
                Fault { failure, after: 0.5, leaves: Aftermath::Here },
            )
            .unwrap();
        cluster.run_until(at(minute * 60));
        tries = cluster.records().iter().filter(|d| d.ending == Reason::MigrationFailed).count();
    }
    // On record at both hosts. Another machine has gone instead, and the hosts are as level as three can be.
    assert!((2..=60).contains(&tries), "{tries} records of failures in a day");
    let loads = loads(&cluster);
    assert!((loads[0] - loads[1]).abs() < 0.06 && loads[1] > 0.04, "{loads:?}");
}

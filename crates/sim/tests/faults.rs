//! Lost messages and killed agents at every phase: everything ends, and with a reason.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::handoff::Phase;
use evenkeel_core::message::{Message, Pass, Talk};
use evenkeel_core::model::HostId;
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_hypervisor::memory::Fault;
use evenkeel_sim::{Cluster, Line, What};

fn pair(seed: u64) -> Cluster {
    let mut cluster = crowded(seed, 2, &eager(), &[2.0, 2.0, 1.0]);
    cluster.keep_log();
    cluster
}

fn phase_of(cluster: &Cluster, host: &HostId) -> Option<Phase> {
    let mut handoffs = cluster.balancer(host)?.handoffs();
    handoffs.next().map(|h| h.phase)
}

fn levelled(cluster: &mut Cluster) {
    let until = cluster.now() + Duration::from_secs(2000);
    cluster.run_until(until);
    assert!(cluster.on_their_way().is_empty(), "still on its way");
    assert_ne!(home(cluster, "v000"), home(cluster, "v001"), "not levelled");
    assert!(cluster.stored(&host_id(0)).chain(cluster.stored(&host_id(1))).next().is_none());
    assert_sound(cluster);
}

#[test]
fn an_agent_killed_in_any_phase_finds_out_where_its_machine_is() {
    let phases =
        [Phase::Offered, Phase::Transferring, Phase::Released, Phase::Reserved, Phase::Claiming];
    for phase in phases {
        for downtime in [1, 20, 300] {
            let (source, target) = (host_id(0), host_id(1));
            let mut cluster = pair(1);
            let mut victim = None;
            let found = cluster.run_while(at(600), |c| {
                victim =
                    [&source, &target].into_iter().find(|h| phase_of(c, h) == Some(phase)).cloned();
                victim.is_none()
            });
            // Looking at the hypervisor takes no time in memory, so that nothing can hit Claiming.
            if phase == Phase::Claiming {
                assert!(!found);
                continue;
            }
            assert!(found, "never {phase:?}");
            let victim = victim.unwrap();
            cluster.kill(&victim);
            let until = cluster.now() + Duration::from_secs(downtime);
            cluster.run_until(until);
            assert_sound(&mut cluster);
            cluster.restart(&victim);
            levelled(&mut cluster);
        }
    }
}

fn is_lost(line: &Line) -> bool {
    matches!(line.what, What::Lost(..))
}

type Kind = fn(&Message) -> bool;

/// Every kind of message that makes up a successful exchange and handoff.
const KINDS: [(&str, Kind); 9] = [
    ("inquire", |m| matches!(m, Message::Exchange(_, Talk::Inquire(_)))),
    ("accept", |m| matches!(m, Message::Exchange(_, Talk::Accept(_)))),
    ("offer", |m| matches!(m, Message::Exchange(_, Talk::Offer { .. }))),
    ("quotes", |m| matches!(m, Message::Exchange(_, Talk::Quotes { .. }))),
    ("close", |m| matches!(m, Message::Exchange(_, Talk::Close { .. }))),
    ("reserve", |m| matches!(m, Message::Handoff(_, Pass::Reserve { .. }))),
    ("reserved", |m| matches!(m, Message::Handoff(_, Pass::Reserved { .. }))),
    ("released", |m| matches!(m, Message::Handoff(_, Pass::Released { .. }))),
    ("claimed", |m| matches!(m, Message::Handoff(_, Pass::Claimed))),
];

#[test]
fn a_lost_message_of_any_kind_ends_with_a_reason() {
    for (name, kind) in KINDS {
        let lost = (0..20).any(|seed| {
            let mut cluster = pair(seed);
            cluster.network.loses = Some(kind);
            if !cluster.run_while(at(200), |c| !c.log().iter().rev().take(8).any(is_lost)) {
                return false;
            }
            cluster.network.loses = None;
            levelled(&mut cluster);
            let known = cluster.records().iter().all(|d| Reason::ALL.contains(&d.ending));
            assert!(known, "after {name}");
            true
        });
        assert!(lost, "no run said `{name}`");
    }
}

#[test]
fn what_is_said_twice_is_done_once() {
    for seed in 0..20 {
        let mut cluster = pair(seed);
        cluster.network.duplication = 1.0;
        cluster.network.delay_max = Duration::from_secs(3);
        levelled(&mut cluster);
        assert_eq!(cluster.tally().migrations, 1);
    }
}

#[test]
fn what_is_said_twice_is_no_breach_of_the_protocol() {
    for seed in 0..20 {
        let mut cluster = pair(seed);
        cluster.network.duplication = 1.0;
        levelled(&mut cluster);
        assert_eq!(cluster.tally().migrations, 1);
        let broken = cluster.records().iter().find(|d| d.ending == Reason::Protocol);
        assert_eq!(broken, None, "seed {seed}");
    }
}

#[test]
fn a_migration_that_fails_leaves_the_machine_where_it_was() {
    for after in [0.0, 0.5, 1.0] {
        let mut cluster = pair(5);
        let failure = Failure::new(FailureKind::Other, "out of luck");
        let fault = Fault { failure, after };
        cluster.cloud_mut().fail_next_migration(&host_id(0), fault).unwrap();
        let failed = |c: &Cluster| c.records().iter().any(|d| d.ending == Reason::MigrationFailed);
        assert!(cluster.run_while(at(600), |c| !failed(c)));
        assert_eq!(home(&cluster, "v000"), home(&cluster, "v001"));
        let record = cluster.records().iter().find(|d| d.ending == Reason::MigrationFailed);
        assert_eq!(record.unwrap().detail, "out of luck");
        levelled(&mut cluster);
    }
}

#[test]
fn a_full_disk_moves_nothing_and_loses_nothing() {
    for host in [0, 1] {
        let mut cluster = pair(6);
        cluster.set_store_fails(&host_id(host), true);
        cluster.run_until(at(300));
        assert_eq!(cluster.tally().migrations, 0, "with the disk of host {host} full");
        assert!(cluster.records().iter().any(|d| d.ending == Reason::StoreFailed));
        cluster.set_store_fails(&host_id(host), false);
        levelled(&mut cluster);
    }
}

#[test]
fn an_agent_that_is_stopped_hands_back_what_is_under_way() {
    for (input, moved) in [(Input::Stop, true), (Input::StopNow, false)] {
        let mut cluster = pair(7);
        let source = host_id(0);
        assert!(cluster.run_while(at(600), |c| phase_of(c, &source) != Some(Phase::Transferring)));
        cluster.input(&source, input);
        let until = cluster.now() + Duration::from_secs(60);
        cluster.run_until(until);
        assert!(cluster.balancer(&source).is_none(), "it did not stop");
        assert_eq!(home(&cluster, "v000") != home(&cluster, "v001"), moved);
        assert_sound(&mut cluster);
        cluster.restart(&source);
        levelled(&mut cluster);
    }
}

#[test]
fn a_slow_disk_delays_and_loses_nothing() {
    let mut cluster = pair(8);
    for host in [0, 1] {
        cluster.set_store_takes(&host_id(host), Duration::from_millis(1500));
    }
    levelled(&mut cluster);
    assert!(cluster.records().iter().all(|d| d.ending != Reason::StoreFailed));
}

#[test]
fn a_clock_that_jumps_between_two_starts_hinders_nothing() {
    for ahead_ms in [-40_000, 3_600_000] {
        let mut cluster = pair(9);
        cluster.run_until(at(60));
        cluster.kill(&host_id(1));
        cluster.set_wall_clock(&host_id(1), ahead_ms);
        cluster.restart(&host_id(1));
        levelled(&mut cluster);
    }
}

#[test]
fn a_host_that_loses_power_comes_back_with_its_machines_unless_its_disk_is_gone() {
    for disk in [true, false] {
        let mut cluster = pair(10);
        cluster.run_until(at(5));
        let lost = home(&cluster, "v000");
        let machines = cluster.cloud().machines_on(&lost).count();
        cluster.power_off(&lost).unwrap();
        if !disk {
            cluster.lose_disk(&lost).unwrap();
        }
        cluster.run_until(at(30));
        cluster.power_on(&lost).unwrap();
        cluster.run_until(at(31));
        let run = cluster.cloud().machines_on(&lost).filter(|(_, p)| p.is_resident()).count();
        assert_eq!(run, if disk { machines } else { 0 }, "with disk: {disk}");
        assert_sound(&mut cluster);
    }
}

//! Lost messages and killed agents at every phase: everything ends, and with a reason.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::balancer::Config;
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::effect::Input;
use evenkeel_core::handoff::{Mode, Phase};
use evenkeel_core::message::{Message, Pass, Talk};
use evenkeel_core::model::{HostId, Locks, MachineFacts};
use evenkeel_core::port::{Event, Failure, FailureKind, MigrationStats, Presence};
use evenkeel_hypervisor::memory::{Aftermath, Fault};
use evenkeel_sim::{Cluster, Invariant, Line, What};

fn pair(seed: u64) -> Cluster {
    let mut cluster = crowded(seed, 2, &eager(), &[2.0, 2.0, 1.0]);
    cluster.keep_log();
    cluster
}

/// Every commit point, and how it comes about.
fn moods() -> [(Mode, Locks); 4] {
    let none = || Locks::None("a raw device".to_owned());
    [
        (Mode::Strict, none()),
        (Mode::Fast, Locks::Shared),
        (Mode::Auto, none()),
        (Mode::Auto, Locks::Manager),
    ]
}

/// The same pair, whose machines are started at boot, have these locks and are moved in this mode.
fn pair_in(seed: u64, (mode, locks): &(Mode, Locks)) -> Cluster {
    let mut cluster = cluster(seed, 2, &Config { commit: *mode, ..eager() });
    for (name, cpu) in [("v000", 2.0), ("v001", 2.0), ("v002", 1.0)] {
        let facts = MachineFacts { autostart: true, locks: locks.clone(), ..facts(name, 2.0) };
        cluster.place(&host_id(0), facts, work(cpu, 2.0, cpu * 1e7)).unwrap();
    }
    cluster.keep_records();
    cluster.keep_log();
    cluster.start();
    cluster
}

/// Every machine is started at boot by the host that it is on.
fn assert_all_start_at_boot(cluster: &Cluster) {
    let tail = || cluster.log().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for host in [host_id(0), host_id(1)] {
        for (machine, presence) in cluster.cloud().machines_on(&host) {
            assert!(machine.autostart, "{} on {host} ({presence:?})\n{}", machine.id, tail());
        }
    }
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
    let phases = [Phase::Offered, Phase::Transferring, Phase::Released, Phase::Reserved];
    let downtimes = [1, 20, 300];
    let cases = moods().into_iter().flat_map(|mood| phases.map(|phase| (mood.clone(), phase)));
    for (mood, phase) in cases {
        for downtime in downtimes {
            let (source, target) = (host_id(0), host_id(1));
            let mut cluster = pair_in(1, &mood);
            let mut victim = None;
            let found = cluster.run_while(at(600), |c| {
                victim =
                    [&source, &target].into_iter().find(|h| phase_of(c, h) == Some(phase)).cloned();
                victim.is_none()
            });
            assert!(found, "never {phase:?}");
            let victim = victim.unwrap();
            cluster.kill(&victim);
            let until = cluster.now() + Duration::from_secs(downtime);
            cluster.run_until(until);
            assert_sound(&mut cluster);
            cluster.restart(&victim);
            levelled(&mut cluster);
            assert_all_start_at_boot(&cluster);
        }
    }
}

const AFTERMATHS: [Aftermath; 6] = [
    Aftermath::Here,
    Aftermath::Moved,
    Aftermath::Both,
    Aftermath::Stranded,
    Aftermath::StrandedAlone,
    Aftermath::Ended,
];

/// Lets the first migration leave that behind, and goes on until the hypervisor has said so.
fn break_off(cluster: &mut Cluster, leaves: Aftermath) {
    let failure = Failure::new(FailureKind::Other, "out of luck");
    let fault = Fault { failure, after: 1.0, leaves };
    cluster.cloud_mut().fail_next_migration(&host_id(0), fault).unwrap();
    let told = |line: &Line| matches!(&line.what, What::Noticed(Event::MigrationEnded(_, Err(_))));
    assert!(cluster.run_while(at(600), |c| !c.log().iter().rev().take(30).any(told)));
}

/// Starts what has ended, as its owner would.
fn start_what_ended(cluster: &mut Cluster) {
    for name in ["v000", "v001", "v002"] {
        let (_, presence) = cluster.cloud().locate(&machine_id(name)).unwrap();
        if presence == Presence::Defined {
            cluster.cloud_mut().start(&machine_id(name)).unwrap();
        }
    }
}

#[test]
fn whatever_a_migration_leaves_behind_ends_with_one_machine() {
    for mood in moods() {
        for leaves in AFTERMATHS {
            let mut cluster = pair_in(3, &mood);
            break_off(&mut cluster, leaves);
            let until = cluster.now() + Duration::from_secs(120);
            cluster.run_until(until);
            start_what_ended(&mut cluster);
            levelled(&mut cluster);
            assert_all_start_at_boot(&cluster);
        }
    }
}

#[test]
fn whatever_a_migration_leaves_behind_is_found_by_agents_that_were_killed_meanwhile() {
    for mood in moods() {
        for leaves in AFTERMATHS {
            for victims in [&[0][..], &[1], &[0, 1]] {
                let mut cluster = pair_in(4, &mood);
                break_off(&mut cluster, leaves);
                for &victim in victims {
                    cluster.kill(&host_id(victim));
                }
                let until = cluster.now() + Duration::from_secs(40);
                cluster.run_until(until);
                if leaves != Aftermath::Ended {
                    assert_sound(&mut cluster);
                }
                for &victim in victims {
                    cluster.restart(&host_id(victim));
                }
                let until = cluster.now() + Duration::from_secs(120);
                cluster.run_until(until);
                start_what_ended(&mut cluster);
                levelled(&mut cluster);
                assert_all_start_at_boot(&cluster);
            }
        }
    }
}

#[test]
fn a_machine_whose_source_has_died_is_held_until_an_operator_claims_it() {
    let (source, target) = (host_id(0), host_id(1));
    let mut cluster = pair_in(5, &moods()[0]);
    // It is complete there, and the source dies before it can say so.
    break_off(&mut cluster, Aftermath::Stranded);
    cluster.kill(&source);
    let held = |c: &Cluster| phase_of(c, &target) == Some(Phase::Holding);
    assert!(cluster.run_while(at(900), |c| !held(c)));
    let machine = cluster.balancer(&target).unwrap().handoffs().next().unwrap().machine.clone();
    cluster.power_off(&source).unwrap();
    let until = cluster.now() + Duration::from_secs(100_000);
    cluster.run_until(until);
    assert_sound(&mut cluster);
    assert_eq!(
        cluster.cloud().locate(&machine),
        Some((&target, Presence::Held)),
        "never by itself"
    );
    let balancer = cluster.balancer(&target).unwrap();
    assert!(balancer.handoffs().next().unwrap().is_alarming(cluster.now()));
    assert_eq!(balancer.can_claim(&machine, &source), Ok(()));
    cluster.input(&target, Input::Claim { machine: machine.clone(), fenced: source.clone() });
    let until = cluster.now() + Duration::from_secs(60);
    cluster.run_until(until);
    assert_eq!(cluster.cloud().locate(&machine), Some((&target, Presence::Running)));
    // The source comes back, asks, and clears away what it has.
    cluster.cloud_mut().reconnect(&source).unwrap();
    cluster.restart(&source);
    let until = cluster.now() + Duration::from_secs(600);
    cluster.run_until(until);
    assert!(cluster.stored(&source).chain(cluster.stored(&target)).next().is_none());
    assert_sound(&mut cluster);
}

#[test]
fn a_link_that_is_cut_at_the_worst_moment_leaves_the_machine_held_until_it_heals() {
    for seconds in [5, 300, 20_000] {
        let mut cluster = pair_in(6, &moods()[0]);
        let released = |m: &Message| matches!(m, Message::Handoff(_, Pass::Released { .. }));
        cluster.network.loses = Some(released);
        assert!(cluster.run_while(at(600), |c| phase_of(c, &host_id(0)) != Some(Phase::Released)));
        let until = cluster.now() + Duration::from_secs(seconds);
        cluster.run_until(until);
        assert_sound(&mut cluster);
        let running = |p: Presence| matches!(p, Presence::Running | Presence::Leaving);
        let copies = ["v000", "v001", "v002"].map(|name| {
            let machine = machine_id(name);
            cluster.cloud().copies(&machine).filter(|(_, s)| running(s.presence)).count()
        });
        assert_eq!(copies.iter().sum::<usize>(), 2, "one of three is held: {copies:?}");
        cluster.network.loses = None;
        levelled(&mut cluster);
        assert_all_start_at_boot(&cluster);
    }
}

fn is_lost(line: &Line) -> bool {
    matches!(line.what, What::Lost(..))
}

type Kind = fn(&Message) -> bool;

/// Every kind of message that makes up a successful exchange and handoff.
const KINDS: [(&str, Kind); 9] = [
    ("inquire", |m| matches!(m, Message::Exchange(_, Talk::Inquire(..)))),
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
        let fault = Fault { failure, after, leaves: Aftermath::Here };
        cluster.cloud_mut().fail_next_migration(&host_id(0), fault).unwrap();
        let told = |d: &&Decision| d.ending == Reason::MigrationFailed && d.host == host_id(0);
        let failed = |c: &Cluster| c.records().iter().any(|d| told(&d));
        assert!(cluster.run_while(at(600), |c| !failed(c)));
        assert_eq!(home(&cluster, "v000"), home(&cluster, "v001"));
        let record = cluster.records().iter().find(told);
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

/// Runs until a host is in this phase of a handoff.
fn until_phase(cluster: &mut Cluster, host: &HostId, phase: Phase) {
    let found = cluster.run_while(at(900), |c| phase_of(c, host) != Some(phase));
    assert!(found, "never {phase:?}");
}

#[test]
fn what_is_started_at_boot_runs_again_whichever_host_of_its_handoff_loses_power() {
    let (source, target) = (host_id(0), host_id(1));
    let moments = [
        (&source, Phase::Offered),
        (&source, Phase::Transferring),
        (&source, Phase::Released),
        (&target, Phase::Reserved),
    ];
    let victims = [&[0][..], &[1], &[0, 1]];
    for mood in moods() {
        for (host, phase) in moments {
            for (victims, downtime) in victims.into_iter().flat_map(|v| [(v, 1), (v, 900)]) {
                let mut cluster = pair_in(11, &mood);
                until_phase(&mut cluster, host, phase);
                for &victim in victims {
                    cluster.power_off(&host_id(victim)).unwrap();
                }
                let until = cluster.now() + Duration::from_secs(downtime);
                cluster.run_until(until);
                assert_sound(&mut cluster);
                for &victim in victims {
                    cluster.power_on(&host_id(victim)).unwrap();
                }
                levelled(&mut cluster);
                cluster.check_at_rest();
                assert_sound(&mut cluster);
                assert_all_start_at_boot(&cluster);
            }
        }
    }
}

#[test]
fn what_a_migration_left_behind_and_is_started_at_boot_runs_again_after_a_power_cut() {
    for mood in moods() {
        for leaves in AFTERMATHS.into_iter().filter(|leaves| *leaves != Aftermath::Ended) {
            for victims in [&[0][..], &[1], &[0, 1]] {
                let mut cluster = pair_in(12, &mood);
                break_off(&mut cluster, leaves);
                for &victim in victims {
                    cluster.power_off(&host_id(victim)).unwrap();
                }
                let until = cluster.now() + Duration::from_secs(60);
                cluster.run_until(until);
                for &victim in victims {
                    cluster.power_on(&host_id(victim)).unwrap();
                }
                let until = cluster.now() + Duration::from_secs(60);
                cluster.run_until(until);
                assert_sound(&mut cluster);
                // Nobody saw whether it ran on at the source after it was complete at the target.
                let unproved = keep_what_is_unproved(&mut cluster);
                assert!(!unproved || mood.0 != Mode::Fast && victims.contains(&0), "{leaves:?}");
                levelled(&mut cluster);
                cluster.check_at_rest();
                assert_sound(&mut cluster);
                assert_all_start_at_boot(&cluster);
            }
        }
    }
}

/// Has an operator keep a machine of which its source cannot tell whether it ran on there. Answers whether
/// there was one.
fn keep_what_is_unproved(cluster: &mut Cluster) -> bool {
    let source = host_id(0);
    let unproved = {
        let mut handoffs = cluster.balancer(&source).unwrap().handoffs();
        let unproved = handoffs.find(|handoff| handoff.waits_for_proof());
        unproved.map(|handoff| (handoff.machine.clone(), handoff.peer.clone()))
    };
    let Some((machine, fenced)) = unproved else { return false };
    cluster.input(&source, Input::Claim { machine, fenced });
    true
}

/// A migration after which the source's machine runs on beside a complete copy, while its agent is dead.
fn runs_on_unobserved(seed: u64) -> Cluster {
    let (source, target) = (host_id(0), host_id(1));
    let mut cluster = pair_in(seed, &moods()[0]);
    let failure = Failure::new(FailureKind::Other, "the answer was lost");
    let fault = Fault { failure, after: 1.0, leaves: Aftermath::Both };
    cluster.cloud_mut().fail_next_migration(&source, fault).unwrap();
    until_phase(&mut cluster, &source, Phase::Transferring);
    cluster.kill(&source);
    until_phase(&mut cluster, &target, Phase::Holding);
    cluster
}

#[test]
fn a_source_that_cannot_tell_whether_its_machine_ran_on_releases_nothing_until_an_operator_decides()
{
    let (source, target) = (host_id(0), host_id(1));
    let mut cluster = runs_on_unobserved(13);
    let machine = cluster.balancer(&target).unwrap().handoffs().next().unwrap().machine.clone();
    assert_eq!(cluster.cloud().locate(&machine), Some((&source, Presence::Running)));
    cluster.power_off(&source).unwrap();
    let until = cluster.now() + Duration::from_secs(60);
    cluster.run_until(until);
    cluster.power_on(&source).unwrap();
    let until = cluster.now() + Duration::from_secs(100_000);
    cluster.run_until(until);
    assert_sound(&mut cluster);
    assert_eq!(cluster.cloud().locate(&machine), Some((&target, Presence::Held)));
    let balancer = cluster.balancer(&source).unwrap();
    let handoff = balancer.handoffs().next().unwrap();
    assert!(handoff.waits_for_proof() && handoff.is_alarming(cluster.now()));
    assert!(cluster.waits_for_a_person(handoff));
    // It is kept: what the target holds is discarded, and the source starts it as at boot.
    cluster.input(&source, Input::Claim { machine: machine.clone(), fenced: target });
    let until = cluster.now() + Duration::from_secs(120);
    cluster.run_until(until);
    levelled(&mut cluster);
    cluster.check_at_rest();
    assert_sound(&mut cluster);
    assert_all_start_at_boot(&cluster);
}

#[test]
fn stale_memory_that_is_let_run_is_found() {
    fn lie(message: &mut Message) {
        if let Message::Handoff(_, pass @ Pass::Cancel { .. }) = message {
            let Pass::Cancel { machine: Some(machine), .. } = pass.clone() else { return };
            let stats = MigrationStats::default();
            *pass = Pass::Released { machine, stats, autostart: None, unanswered: None };
        }
    }
    let mut cluster = runs_on_unobserved(14);
    cluster.network.forges = Some(lie);
    cluster.restart(&host_id(0));
    let until = cluster.now() + Duration::from_secs(60);
    cluster.run_until(until);
    let found = cluster.violations().iter().map(|violation| violation.invariant);
    assert!(found.collect::<Vec<_>>().contains(&Invariant::MemoryFresh));
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

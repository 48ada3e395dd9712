//! Situations in which an exchange ends in some way.

use std::time::Duration;

use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::handoff::Phase;
use evenkeel_core::message::{Message, Talk};
use evenkeel_core::model::{HostId, HostState};
use evenkeel_core::port::{Failure, FailureKind};
use evenkeel_hypervisor::memory::Fault;
use evenkeel_sim::{Cluster, What};

use crate::common::*;
use crate::stage::{Stage, after, is_pairwise, once};
use crate::verdicts::refused;
use crate::{Situation, Told, last};

pub(crate) const SITUATIONS: &[Situation] = &[
    (Reason::Moved, moved, Told::Last),
    (Reason::NoCandidate, no_candidate, Told::Last),
    (Reason::NoRoom, no_room, Told::Last),
    (Reason::Busy, busy, Told::Last),
    (Reason::Stopping, stopping, Told::Last),
    (Reason::Version, version, Told::Last),
    (Reason::TimedOut, timed_out, Told::First),
    (Reason::Unreachable, unreachable, Told::Last),
    (Reason::Protocol, protocol, Told::Last),
    (Reason::StoreFailed, store_failed, Told::First),
    (Reason::MigrationFailed, migration_failed, Told::First),
    (Reason::MigrationTooLong, migration_too_long, Told::Among),
    (Reason::ReservationExpired, reservation_expired, Told::LastOfOther),
    (Reason::Ended, ended, Told::Last),
    (Reason::NeedsChanged, needs_changed, Told::First),
    (Reason::Returning, returning, Told::Last),
];

/// The cluster as soon as the last record of the first host ended so.
fn ending(cluster: Cluster, code: Reason) -> Cluster {
    once(cluster, |c| last(c, &host_id(0)) == Some(code))
}

fn moved() -> Cluster {
    ending(Stage::new().start(), Reason::Moved)
}

fn no_candidate() -> Cluster {
    ending(Stage::new().edit(|s| s.others.clear()).start(), Reason::NoCandidate)
}

fn no_room() -> Cluster {
    // The only other host is busy with a migration that takes its time.
    let stage = Stage::mean_aware().configured(|c| c.handoffs_max = 2).edit(|s| {
        s.here.hypervisor.link_bytes_per_s = 1e7;
        s.others.push((0, 2.0, facts("more", 2.0)));
    });
    ending(stage.start(), Reason::NoRoom)
}

fn busy() -> Cluster {
    let mut cluster = crowded(3, 3, &eager(), &[1.0; 12]);
    cluster.network.delay_min = Duration::from_millis(500);
    cluster.network.delay_max = Duration::from_millis(900);
    ending(cluster, Reason::Busy)
}

/// A slow network, and the moment at which the first host waits for the answer to its inquiry.
fn inquiring() -> Cluster {
    let stage = Stage::new();
    assert!(is_pairwise(&stage.config));
    let mut cluster = stage.start();
    cluster.network.delay_min = Duration::from_millis(900);
    cluster.network.delay_max = Duration::from_millis(1000);
    let asks = |c: &Cluster| asked(c).is_some() && talks(c, &host_id(0));
    once(cluster, asks)
}

fn talks(cluster: &Cluster, host: &HostId) -> bool {
    cluster.balancer(host).is_some_and(|b| b.talking_to().is_some())
}

/// The last inquiry of the first host.
fn asked(cluster: &Cluster) -> Option<evenkeel_core::model::ExchangeId> {
    let said = cluster.log().iter().filter(|line| line.host == host_id(0));
    let inquiry = |what: &What| match what {
        What::Said(_, Message::Exchange(id, Talk::Inquire(..))) => Some(*id),
        _ => None,
    };
    said.filter_map(|line| inquiry(&line.what)).next_back()
}

/// The other host answers the inquiry with this.
fn answered(talk: Talk) -> Cluster {
    let mut cluster = inquiring();
    let id = asked(&cluster).unwrap();
    cluster.input(&host_id(0), Input::Message(host_id(1), Message::Exchange(id, talk)));
    cluster
}

fn stopping() -> Cluster {
    let stage = Stage::new().start();
    let mut cluster = once(stage, |c| talks(c, &host_id(0)) && talks(c, &host_id(1)));
    cluster.input(&host_id(1), Input::Stop);
    ending(cluster, Reason::Stopping)
}

fn version() -> Cluster {
    let detail = "version 9 is not understood here".to_owned();
    answered(Talk::Decline { reason: Reason::Version, detail, report: None })
}

fn timed_out() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.network.loses =
        Some(|message| matches!(message, Message::Exchange(_, Talk::Quotes { .. })));
    after(cluster, 60)
}

fn unreachable() -> Cluster {
    let mut cluster = inquiring();
    cluster.input(&host_id(0), Input::Undelivered(host_id(1), "no route to host".to_owned()));
    cluster
}

fn protocol() -> Cluster {
    let cluster = inquiring();
    let report = cluster.balancer(&host_id(1)).unwrap().host().report(None, cluster.now()).unwrap();
    answered(Talk::Quotes { report, quotes: Vec::new() })
}

fn store_failed() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.set_store_fails(&host_id(0), true);
    after(cluster, 60)
}

fn migration_failed() -> Cluster {
    let mut cluster = Stage::new().start();
    cluster.cloud_mut().fail_next_migration(&host_id(0), refused()).unwrap();
    ending(cluster, Reason::MigrationFailed)
}

fn migration_too_long() -> Cluster {
    let stage = Stage::new().configured(|c| {
        c.limits.migration_time_max = Duration::from_secs(5);
        c.costing.link_bytes_per_s = 1e12;
    });
    let slow = stage.edit(|s| s.here.hypervisor.link_bytes_per_s = 1e6);
    ending(slow.start(), Reason::MigrationTooLong)
}

fn reservation_expired() -> Cluster {
    let reserved = |c: &Cluster| {
        let mut handoffs = c.balancer(&host_id(1)).unwrap().handoffs();
        handoffs.any(|h| h.phase == Phase::Reserved)
    };
    let mut cluster = once(Stage::new().start(), reserved);
    cluster.power_off(&host_id(0)).unwrap();
    once(cluster, |c| last(c, &host_id(1)) == Some(Reason::ReservationExpired))
}

fn ended() -> Cluster {
    let mut cluster = once(Stage::new().start(), |c| !c.on_their_way().is_empty());
    cluster.stop(&machine_id("m")).unwrap();
    ending(cluster, Reason::Ended)
}

fn needs_changed() -> Cluster {
    let mut cluster = Stage::new().start();
    let failure = Failure::new(FailureKind::NeedsChanged, "it has come to need a USB stick");
    let fault = Fault { failure, ..refused() };
    cluster.cloud_mut().fail_next_migration(&host_id(0), fault).unwrap();
    ending(cluster, Reason::NeedsChanged)
}

fn returning() -> Cluster {
    let mut cluster = Stage::new()
        .edit(|s| {
            s.there.config.restraint.return_time = Duration::from_secs(3600);
            s.there.config.restraint.return_per_minute_max = 0;
        })
        .start();
    for state in [HostState::Cordoned, HostState::Active] {
        cluster.input(&host_id(1), Input::SetState(state));
    }
    ending(cluster, Reason::Returning)
}

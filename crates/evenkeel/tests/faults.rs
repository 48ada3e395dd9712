//! What happens to a machine on its way when an agent or a libvirt is stopped or killed, or a disk
//! is full: it runs on exactly one host, unharmed, and the records of both hosts say so.

mod chaos;
mod daemon;
mod pair;
mod skips;
mod support;

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::handoff::Phase;
use pair::{BANDWIDTH, Pair, open_exchanges};
use rustix::process::Signal;
use support::{Cluster, LIMIT};

#[test]
fn agents_that_are_told_to_stop_finish_their_migration_first() {
    let pair = Pair::up(BANDWIDTH);
    let (mut source, mut target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    let exchange = pair.under_way();
    for agent in [&source, &target] {
        agent.signal(Signal::TERM);
        agent.await_notice("STOPPING=1");
    }
    assert_eq!((source.ended(), target.ended()), (Some(0), Some(0)));
    assert_eq!(pair.cluster.domains("h2"), ["mover"], "it has arrived");

    // What one of them could not tell the other any more, it tells it now.
    let _agents = (pair.start(&pair.h1), pair.start(&pair.h2));
    assert_eq!(pair.endings(exchange), [Reason::Moved, Reason::Moved]);
    pair.rests_on("h2");
}

#[test]
fn an_agent_out_of_grace_or_told_twice_to_stop_aborts_its_migration() {
    let mut pair = Pair::up(BANDWIDTH);
    pair.settle_memory(0);
    pair.h1.stop_grace = "1s".to_owned();
    let (mut source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.tip();
    let late = pair.under_way();
    source.signal(Signal::TERM);
    assert_eq!(source.ended(), Some(0));
    source.await_log(&["outlast the grace"]);

    pair.h1.stop_grace = "60s".to_owned();
    let mut source = pair.start(&pair.h1);
    assert_eq!(pair.endings(late), [Reason::Stopping, Reason::Stopping]);
    let twice = pair.under_way();
    source.signal(Signal::TERM);
    source.await_notice("STOPPING=1");
    source.signal(Signal::TERM);
    assert_eq!(source.ended(), Some(0));

    // A target that is told twice does not wait for a migration that is not its own to abort.
    let mut source = pair.start(&pair.h1);
    assert_eq!(pair.endings(twice), [Reason::Stopping, Reason::Stopping]);
    pair.under_way();
    let mut target = target;
    target.signal(Signal::TERM);
    target.await_notice("STOPPING=1");
    target.signal(Signal::TERM);
    assert_eq!(target.ended(), Some(0));
    source.signal(Signal::TERM);
    source.await_notice("STOPPING=1");
    source.signal(Signal::TERM);
    assert_eq!(source.ended(), Some(0));
    let state = pair.cluster.virsh("h1", &["domstate", "mover"]).expect("it is there");
    assert_eq!(state.trim(), "running");
    assert_eq!(pair.cluster.domains("h2"), Vec::<String>::new());
    pair.cluster.assert_unharmed(&["mover", "stayer"]);
}

#[test]
fn a_source_killed_in_the_middle_settles_the_handoff_by_looking_when_it_is_back() {
    let pair = Pair::up(BANDWIDTH);
    let (source, _target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    let exchange = pair.under_way();
    drop(source);
    let _source = pair.start(&pair.h1);
    let [here, there] = pair.closed(exchange);
    assert_eq!(here.ending, there.ending);
    match here.ending {
        Reason::Moved => {}
        Reason::MigrationFailed => assert!(here.detail.contains("started again"), "{here:?}"),
        other => panic!("{other}: {here:?}"),
    }
    // And the pair goes on levelling.
    pair.rests_on("h2");
}

#[test]
fn a_target_killed_while_its_agent_carries_costs_a_migration_and_no_more() {
    let pair = Pair::up(BANDWIDTH);
    if pair.h1.lab.is_none() {
        skips::skip("agents do not carry machines here");
        return;
    }
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    let exchange = pair.under_way();
    drop(target);
    pair.cluster.until(LIMIT, "that it stays", |cluster| {
        let status = cluster.status("h1")?;
        (status.handoffs.first()?.phase == Phase::Cancelling).then_some(())
    });
    let state = pair.cluster.virsh("h1", &["domstate", "mover"]).expect("it is there");
    assert_eq!(state.trim(), "running");
    let _target = pair.start(&pair.h2);
    let [here, there] = pair.closed(exchange);
    assert_eq!((here.ending, there.ending), (Reason::MigrationFailed, Reason::MigrationFailed));
    assert!(here.detail.contains("the connection with host `h2` broke off"), "{}", here.detail);
    pair.rests_on("h2");
}

#[test]
fn a_target_killed_in_the_middle_claims_what_has_arrived_when_it_is_back() {
    let pair = Pair::direct(BANDWIDTH);
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    let exchange = pair.under_way();
    drop(target);
    pair.cluster.until(LIMIT, "the machine has left", |cluster| {
        let status = cluster.status("h1")?;
        (status.handoffs.first()?.phase == Phase::Released).then_some(())
    });
    let _target = pair.start(&pair.h2);
    assert_eq!(pair.endings(exchange), [Reason::Moved, Reason::Moved]);
    pair.rests_on("h2");
}

#[test]
fn a_targets_libvirt_killed_in_the_middle_costs_a_migration_and_is_used_again_when_it_is_back() {
    let pair = Pair::up(BANDWIDTH);
    let (_source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    pair.tip();
    let exchange = pair.under_way();
    let libvirt = chaos::libvirtd(pair.cluster.lab(), "h2").expect("it runs");
    assert!(chaos::signal(libvirt, Signal::KILL));
    target.await_log(&["libvirt is not reached"]);
    let unknown = pair.h2.until("why its load is not known", |status| status["load"].is_null());
    assert!(unknown["unknown"].as_str().is_some_and(|why| why.contains("libvirt")), "{unknown}");
    pair.cluster.assert_unharmed(&["mover"]);

    pair.cluster.lab().start_host("h2").expect("it starts");
    target.await_log(&["libvirt is reached"]);
    // Only now the target knows that nothing of it is left there.
    let [here, there] = pair.closed(exchange);
    assert_eq!((here.ending, there.ending), (Reason::MigrationFailed, Reason::MigrationFailed));
    assert!(here.detail.contains("mover") || here.detail.contains("h2"), "{}", here.detail);
    pair.rests_on("h2");
}

#[test]
fn without_room_for_a_record_no_machine_is_given_or_taken_until_there_is_room_again() {
    let pair = Pair::up(BANDWIDTH);
    let (source, target) = (pair.start(&pair.h1), pair.start(&pair.h2));
    pair.settle_memory(1);
    // Nothing is to be moved yet, and both stores are larger than this already.
    for agent in [&source, &target] {
        agent.limit_files(Some(4096));
    }
    pair.tip();
    target.await_log(&["mover", "not made durable"]);
    let refused = |host: &str| {
        let what = format!("a record of {host} that there was no room");
        pair.cluster.until(LIMIT, &what, |cluster| {
            let ending = |d: &Decision| d.ending == Reason::StoreFailed;
            cluster.decisions_of(host).into_iter().find(ending)
        })
    };
    // The source can write that the target cannot.
    source.limit_files(None);
    refused("h1");
    assert_eq!(pair.cluster.scheduled_on("mover").as_deref(), Some("h1"));
    // And the other way round.
    source.limit_files(Some(4096));
    target.limit_files(None);
    source.await_log(&["mover", "not made durable"]);
    refused("h2");
    assert_eq!(pair.cluster.domains("h2"), Vec::<String>::new());
    pair.cluster.assert_unharmed(&["mover"]);

    source.limit_files(None);

    // What has begun is finished, and its record is closed as soon as there is room.
    let exchange = pair.under_way();
    target.limit_files(Some(4096));
    pair.cluster.until(LIMIT, "the guest running on h2", |cluster| {
        let there = cluster.virsh("h2", &["domstate", "mover"]).ok()?;
        (there.trim() == "running" && cluster.domains("h1") == ["stayer"]).then_some(())
    });
    assert_eq!(open_exchanges(&pair.h2), [exchange]);
    target.limit_files(None);
    pair.rests_on("h2");
    for place in [&pair.h1, &pair.h2] {
        let closed = |_: &Cluster| open_exchanges(place).is_empty().then_some(());
        pair.cluster.until(LIMIT, "no open record", closed);
    }
}

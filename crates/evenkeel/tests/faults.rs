//! What happens to a machine on its way when an agent or a libvirt is stopped or killed, or a disk
//! is full: it runs on exactly one host, unharmed, and the records of both hosts say so.

mod daemon;
mod support;

use std::time::Duration;

use daemon::{Daemon, Place, Site};
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::model::ExchangeId;
use evenkeel_core::select::Calm;
use evenkeel_lab::{Dirty, GuestSpec};
use rustix::process::{Pid, Signal, kill_process};
use support::{Cluster, LIMIT, alike, balance, idle};

/// Memory of the guest that moves, in MiB: at [`BANDWIDTH`] it takes seconds to send.
const MEMORY_MIB: u32 = 48;
const BANDWIDTH: &str = "migration_bandwidth = '8MB'\n";
const NAMESPACE: &str = "https://evenkeel.dev/schedule/1";

/// Two hosts with agents that this test starts and ends, and two guests on the first, of which one
/// may move.
struct Pair {
    cluster: Cluster,
    /// Where the agents have their files.
    _site: Site,
    h1: Place,
    h2: Place,
}

impl Pair {
    fn up(more: &str) -> Self {
        let mut mover = GuestSpec::new("mover", "h1", 0);
        mover.memory_mib = MEMORY_MIB + 16;
        mover.dirty = Dirty { mib: MEMORY_MIB, mib_per_s: 0 };
        let guests = vec![mover, idle("stayer", "h1")];
        let cluster = Cluster::try_up(alike(2, 2.0), guests, None);
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let site = Site::new();
        let place = |host: &str| {
            let mut place = site.host(host);
            place.socket = cluster.lab().agent_socket(host);
            place.libvirt = cluster.lab().uri(host).expect("a host of the lab");
            place.stop_grace = "60s".to_owned();
            let calm = Calm { dead_band: 0.1, difference_min: 0.05, gain_min: 0.05 };
            place.tables = balance(Duration::from_millis(500), &calm) + more;
            place
        };
        let (h1, h2) = (place("h1"), place("h2"));
        let pair = Self { cluster, _site: site, h1, h2 };
        pair.edit("mover", "<entry target-load='0'/>");
        pair.edit("stayer", "<entry ignore='yes' target-load='0'/>");
        pair
    }

    /// Writes a guest's schedule entry by hand, on the first host.
    fn edit(&self, guest: &str, entry: &str) {
        let edit = ["metadata", guest, NAMESPACE, "--key", "evenkeel", "--live", "--config"];
        let edited = self.cluster.virsh("h1", &[&edit[..], &["--set", entry]].concat());
        edited.unwrap_or_else(|error| panic!("{guest}: {error}"));
    }

    fn start(&self, place: &Place) -> Daemon {
        place.start(&[if place.name == "h1" { self.h2.listen } else { self.h1.listen }])
    }

    /// Has the guest touch all of its memory, and then dirty it at this rate.
    fn settle_memory(&self, mib_per_s: u32) {
        let touched = |cluster: &Cluster| {
            let console = cluster.lab().console("mover").ok()?;
            (console.last()?.pages_checked > MEMORY_MIB * 256).then_some(())
        };
        self.cluster.until(LIMIT, "all of its memory verified once", touched);
        let dirty = Dirty { mib: MEMORY_MIB, mib_per_s };
        self.cluster.lab().set_dirty("mover", dirty).expect("the guest obeys");
    }

    /// Programs loads under which the one guest is to move to the second host.
    fn tip(&self) {
        for host in ["h1", "h2"] {
            self.cluster.until(LIMIT, "a load", |cluster| cluster.status(host)?.load);
        }
        // In this order: the only load of a host has nowhere better to be.
        self.cluster.set_targets(&[("mover", 0.4)]);
        self.edit("stayer", "<entry ignore='yes' target-load='0.4'/>");
    }

    /// Waits until the memory of the guest is on its way; returns the exchange that agreed on it.
    fn under_way(&self) -> ExchangeId {
        self.cluster.until(LIMIT, "a migration under way", |cluster| {
            let status = cluster.status("h1")?;
            let [handoff] = &status.handoffs[..] else { return None };
            let sent = handoff.progress.is_some_and(|p| p.bytes_done > 1 << 20);
            (handoff.phase == Phase::Transferring && sent).then_some(())
        });
        // The record of it is closed with the handoff; the open one is in both stores.
        let (source, target) = (open_exchanges(&self.h1), open_exchanges(&self.h2));
        let ([here], [there]) = (&source[..], &target[..]) else {
            panic!("open records: {source:?} and {target:?}")
        };
        assert_eq!(here, there, "the two hosts' open records");
        *here
    }

    /// Waits until both hosts have closed their record of an exchange, and returns how.
    fn closed(&self, exchange: ExchangeId) -> [Decision; 2] {
        ["h1", "h2"].map(|host| {
            let what = format!("one closed record of {exchange} on {host}");
            self.cluster.until(LIMIT, &what, |cluster| {
                let all = cluster.decisions_of(host);
                let mut of_it = all.into_iter().filter(|d| d.exchange == exchange);
                of_it.next().filter(|_| of_it.next().is_none())
            })
        })
    }

    fn endings(&self, exchange: ExchangeId) -> [Reason; 2] {
        self.closed(exchange).map(|decision| decision.ending)
    }

    /// Waits until the guest runs on a host, has its definition nowhere else, and nothing is under
    /// way; asserts that both guests are unharmed.
    fn rests_on(&self, host: &str) {
        self.cluster.until(LIMIT, &format!("the guest at rest on {host}"), |cluster| {
            let idle = cluster.statuses().iter().all(|status| status.handoffs.is_empty());
            (idle && cluster.scheduled_on("mover").as_deref() == Some(host)).then_some(())
        });
        for other in ["h1", "h2"] {
            let there = self.cluster.domains(other).contains(&"mover".to_owned());
            assert_eq!(there, other == host, "its definition on {other}");
        }
        let state = self.cluster.virsh(host, &["domstate", "mover"]).expect("it is there");
        assert_eq!(state.trim(), "running");
        self.cluster.assert_unharmed(&["mover", "stayer"]);
    }
}

/// The exchanges of the handoffs that are open in a host's store, which anybody may read.
fn open_exchanges(place: &Place) -> Vec<ExchangeId> {
    let store = place.dir.join("state/state.sqlite");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(store, flags).expect("a store");
    let select = "SELECT record FROM handoff WHERE open = 1";
    let mut select = store.prepare(select).expect("there is such a table");
    let records = select.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    let exchange = |record: rusqlite::Result<String>| {
        let record: Handoff = serde_json::from_str(&record.expect("a text")).expect("JSON");
        record.decision.exchange
    };
    records.map(exchange).collect()
}

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
fn a_target_killed_in_the_middle_claims_what_has_arrived_when_it_is_back() {
    let pair = Pair::up(BANDWIDTH);
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
    kill_libvirt(&pair, 1);
    target.await_log(&["libvirt is not reached"]);
    let [here, there] = pair.closed(exchange);
    assert_eq!((here.ending, there.ending), (Reason::MigrationFailed, Reason::MigrationFailed));
    assert!(here.detail.contains("mover") || here.detail.contains("h2"), "{}", here.detail);
    let unknown = pair.h2.until("why its load is not known", |status| status["load"].is_null());
    assert!(unknown["unknown"].as_str().is_some_and(|why| why.contains("libvirt")), "{unknown}");
    pair.cluster.assert_unharmed(&["mover"]);

    pair.cluster.lab().start_host("h2").expect("it starts");
    target.await_log(&["libvirt is reached"]);
    pair.rests_on("h2");
}

fn kill_libvirt(pair: &Pair, host_index: usize) {
    let lab = std::fs::read(pair.cluster.lab().dir().join("lab.json")).expect("a lab");
    let lab: serde_json::Value = serde_json::from_slice(&lab).expect("JSON");
    let pid = lab["hosts"][host_index]["libvirtd"]["pid"].as_i64().expect("a number");
    let pid = Pid::from_raw(i32::try_from(pid).expect("small")).expect("positive");
    kill_process(pid, Signal::KILL).expect("it is there, and ours");
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
    pair.rests_on("h2");
    assert_eq!(open_exchanges(&pair.h2), [exchange]);
    target.limit_files(None);
    for place in [&pair.h1, &pair.h2] {
        let closed = |_: &Cluster| open_exchanges(place).is_empty().then_some(());
        pair.cluster.until(LIMIT, "no open record", closed);
    }
}

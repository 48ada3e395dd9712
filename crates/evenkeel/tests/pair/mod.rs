//! Two hosts with agents that a test starts and ends, and a guest that is to move between them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

use std::time::Duration;

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::handoff::{Handoff, Phase};
use evenkeel_core::model::ExchangeId;
use evenkeel_core::select::Calm;
use evenkeel_lab::{Dirty, GuestSpec, Lab};

use crate::daemon::{Daemon, Place, Site};
use crate::support::{Cluster, LIMIT, alike, balance, idle};

/// Memory of the guest that moves, in MiB: at [`BANDWIDTH`] it takes seconds to send.
pub const MEMORY_MIB: u32 = 48;
pub const BANDWIDTH: &str = "migration_bandwidth = '8MB'\n";
const NAMESPACE: &str = "https://evenkeel.dev/schedule/1";

/// Two hosts with agents that this test starts and ends, and two guests on the first, of which one
/// may move.
pub struct Pair {
    pub cluster: Cluster,
    /// Where the agents have their files.
    _site: Site,
    pub h1: Place,
    pub h2: Place,
}

impl Pair {
    pub fn up(more: &str) -> Self {
        Self::bring_up(more, Place::put_on)
    }

    /// The same with machines that go from libvirt to libvirt without the agents.
    pub fn direct(more: &str) -> Self {
        Self::bring_up(more, Place::put_apart_on)
    }

    fn bring_up(more: &str, put_on: fn(&mut Place, &Lab, &str)) -> Self {
        let mut mover = GuestSpec::new("mover", "h1", 0);
        mover.memory_mib = MEMORY_MIB + 16;
        mover.dirty = Dirty { mib: MEMORY_MIB, mib_per_s: 0 };
        let guests = vec![mover, idle("stayer", "h1")];
        let cluster = Cluster::try_up(alike(2, 2.0), guests, None);
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let site = Site::new();
        let place = |host: &str| {
            let mut place = site.host(host);
            put_on(&mut place, cluster.lab(), host);
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
    pub fn edit(&self, guest: &str, entry: &str) {
        let edit = ["metadata", guest, NAMESPACE, "--key", "evenkeel", "--live", "--config"];
        let edited = self.cluster.virsh("h1", &[&edit[..], &["--set", entry]].concat());
        edited.unwrap_or_else(|error| panic!("{guest}: {error}"));
    }

    pub fn start(&self, place: &Place) -> Daemon {
        place.start(&[if place.name == "h1" { self.h2.listen } else { self.h1.listen }])
    }

    /// Has the guest touch all of its memory, and then dirty it at this rate.
    pub fn settle_memory(&self, mib_per_s: u32) {
        let touched = |cluster: &Cluster| {
            let console = cluster.lab().console("mover").ok()?;
            (console.last()?.pages_checked > MEMORY_MIB * 256).then_some(())
        };
        self.cluster.until(LIMIT, "all of its memory verified once", touched);
        let dirty = Dirty { mib: MEMORY_MIB, mib_per_s };
        self.cluster.lab().set_dirty("mover", dirty).expect("the guest obeys");
    }

    /// Programs loads under which the one guest is to move to the second host.
    pub fn tip(&self) {
        for host in ["h1", "h2"] {
            self.cluster.until(LIMIT, "a load", |cluster| cluster.status(host)?.load);
        }
        // In this order: the only load of a host has nowhere better to be.
        self.cluster.set_targets(&[("mover", 0.4)]);
        self.edit("stayer", "<entry ignore='yes' target-load='0.4'/>");
    }

    /// Waits until the memory of the guest is on its way; returns the exchange that agreed on it.
    pub fn under_way(&self) -> ExchangeId {
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
    pub fn closed(&self, exchange: ExchangeId) -> [Decision; 2] {
        ["h1", "h2"].map(|host| {
            let what = format!("one closed record of {exchange} on {host}");
            self.cluster.until(LIMIT, &what, |cluster| {
                let all = cluster.decisions_of(host);
                let mut of_it = all.into_iter().filter(|d| d.exchange == exchange);
                of_it.next().filter(|_| of_it.next().is_none())
            })
        })
    }

    pub fn endings(&self, exchange: ExchangeId) -> [Reason; 2] {
        self.closed(exchange).map(|decision| decision.ending)
    }

    /// Waits until the guest runs on a host, has its definition nowhere else, and nothing is under
    /// way; asserts that both guests are unharmed.
    pub fn rests_on(&self, host: &str) {
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
pub fn open_exchanges(place: &Place) -> Vec<ExchangeId> {
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

//! Bad input of every kind, to the program as it is run: a clear error, and nothing lost.

mod daemon;
mod skips;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use daemon::{Daemon, Place, Ran, Site, evenkeel};
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::message::{Message, Pass, Report, Talk};
use evenkeel_core::model::{ExchangeId, HandoffId, HostId, HostState, MachineId};
use evenkeel_core::port::MigrationStats;
use evenkeel_core::select::Calm;
use evenkeel_net::{Limits, Net, NetEvent};
use support::{Cluster, LIMIT, alike, balance, idle};
use tokio::sync::mpsc;

#[test]
fn wrong_usage_ends_with_2_and_a_failure_with_1_and_both_leave_standard_output_alone() {
    let nowhere = "/tmp/no-agent-here.sock";
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&["balance"], 2, &["unrecognized subcommand 'balance'"]),
        (&["status", "--jason"], 2, &["unexpected argument '--jason'"]),
        (&["status", "--format", "yaml"], 2, &["invalid value 'yaml'", "table, json"]),
        (&["agent"], 2, &["--config <FILE>"]),
        (&["target", "vm1"], 2, &["<LOAD>"]),
        (&["target", "vm1", "much"], 2, &["'much'", "such as 0.25 for a quarter, or `none`"]),
        (&["target", "vm1", "nan"], 2, &["'nan'", "such as 0.25"]),
        (&["target", "vm1", "-1"], 2, &["'-1'", "such as 0.25"]),
        (&["target", "vm1", "25"], 2, &["'25'", "such as 0.25"]),
        (&["status", "--socket", nowhere], 1, &["error:", nowhere, "--socket"]),
        (&["history", "--socket", nowhere], 1, &["no agent answers at", nowhere]),
        (&["target", "vm1", "0.5", "--socket", nowhere], 1, &["no agent answers at", nowhere]),
        (&["agent", "--config", "/tmp/none.toml"], 1, &["cannot read", "/tmp/none.toml"]),
        (
            &["cluster", "join-token", "--ca-dir", "/tmp/no-ca", "--seed", "127.0.0.1:1"],
            1,
            &["/tmp/no-ca", "evenkeel cluster init"],
        ),
    ];
    for (arguments, code, says) in cases {
        evenkeel(arguments).refused(code, says);
    }
    let help = evenkeel(&["help"]);
    assert!(help.done().contains("Usage: evenkeel") && help.stderr.is_empty(), "{help:?}");
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_by_key_before_anything_is_made() {
    let site = Site::new();
    let place = site.host("h1");
    let base = place.base(&[]);
    let cases: [(&str, &[&str]); 8] = [
        ("[balance]\ndead_bnad = 0.1", &["agent.toml", "dead_bnad", "did you mean `dead_band`?"]),
        ("stop_grce = '1s'", &["stop_grce", "did you mean `stop_grace`?"]),
        ("[balance]\nround = '0s'", &["agent.toml", "balance.round", "at least 100ms"]),
        ("[capacity]\ncpu_cores = 0", &["agent.toml", "capacity of 0 for cpu", "weight to 0"]),
        ("[capacity]\nmemory = '0B'", &["capacity of 0 for memory", "declare its capacity"]),
        ("[capacity]\ncpu_cores = nan", &["capacity of NaN for cpu"]),
        ("[weights]\ncpu = 0\nmemory = 0\nio = 0", &["agent.toml", "weights"]),
        ("[balance", &["agent.toml", "line 9"]),
    ];
    for (more, says) in cases {
        place.write(&format!("{base}{more}\n"));
        place.refusal().refused(1, says);
    }
    place.write(&base.replace("h1'\n", "h2'\n"));
    place.refusal().refused(1, &["`h2`", "`h1`", "identity", "make them agree"]);
    assert!(!place.dir.join("state").exists() && !place.socket.exists());
}

#[test]
fn an_identity_that_cannot_be_used_is_refused_by_file_with_what_to_do() {
    let site = Site::new();
    let broken = |name: &str, spoil: &dyn Fn(&Place)| -> Ran {
        let place = site.stranger(name);
        place.configure(&[]);
        spoil(&place);
        place.refusal()
    };
    let save = |place: &Place| {
        site.identity(&place.name).save(&place.dir.join("identity")).expect("saved");
    };
    broken("none", &|_| {}).refused(1, &["ca.crt", "evenkeel cluster init", "--join TOKEN"]);

    let exposed = broken("open", &|place| {
        save(place);
        let key = place.dir.join("identity/host.key");
        std::fs::set_permissions(key, PermissionsExt::from_mode(0o640)).expect("changed");
    });
    exposed.refused(1, &["host.key", "read or changed by others (mode 0640)", "chmod 600"]);

    let expired = broken("late", &|place| {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let host = HostId::new(&place.name).expect("an id");
        let identity = site.ca.issue_within(&host, now - 2 * hour, now - hour).expect("issued");
        identity.save(&place.dir.join("identity")).expect("saved");
    });
    expired.refused(1, &["host.crt", "expired", "--join TOKEN"]);

    let mixed = broken("mixed", &|place| {
        save(place);
        let other = Site::new().host("mixed").dir.join("identity");
        // The directory is gone with its cluster by now: make the authority's file another one's.
        assert!(!other.exists());
        let stranger = Site::new();
        std::fs::copy(stranger.dir().join("ca/ca.crt"), place.dir.join("identity/ca.crt"))
            .expect("copied");
    });
    mixed.refused(1, &["host.crt", "cannot be used"]);
}

#[test]
fn an_agent_that_cannot_write_its_state_is_refused_and_goes_on_with_it_when_it_can() {
    let site = Site::new();
    let place = site.host("h1");
    if daemon::read_only::mounted(&place.dir).is_none() {
        skips::skip("nobody may mount here");
        return;
    }
    let state = place.dir.join("state");
    let file = state.join("state.sqlite");
    let named = state.display().to_string();
    let remedy = "have it mounted read-write, with room, and writable for the agent's user";
    place.configure(&[]);
    // None yet, and no place to make one.
    place.refusal_beside(&place.dir).refused(1, &[&named, "Read-only file system", remedy]);
    assert!(!state.exists());

    assert_eq!(place.start(&[]).stop(), Some(0));
    let before = std::fs::read(&file).expect("a store");
    place.refusal_beside(&state).refused(1, &[&named, "Read-only file system", remedy]);
    // The file alone.
    place.refusal_beside(&file).refused(1, &[&named, "Read-only file system", remedy]);
    assert!(std::fs::read(&file).expect("a store") == before, "a store that was not to be written");
    assert!(!place.socket.exists(), "a refused agent leaves its socket behind");
    assert_eq!(place.start(&[]).stop(), Some(0));
}

#[test]
fn a_second_agent_on_a_host_is_refused_and_the_first_one_goes_on() {
    let site = Site::new();
    let first = site.host("h1");
    let mut agent = first.start(&[]);

    first.refusal().refused(1, &["h1/state", "in use by another agent"]);

    // Another directory for its state, then another port, then the same socket only.
    let mut second = first.clone();
    second.dir = first.dir.join("second");
    second.socket = second.dir.join("agent.sock");
    std::fs::create_dir(&second.dir).expect("a directory");
    site.identity("h1").save(&second.dir.join("identity")).expect("saved");
    second.configure(&[]);
    let port = first.listen.to_string();
    second.refusal().refused(1, &["cannot listen on UDP", &port, "another agent"]);
    assert!(!second.socket.exists(), "a refused agent leaves its socket behind");

    second.listen = daemon::free_address();
    second.configure(&[]);
    let config = std::fs::read_to_string(second.config()).expect("written");
    let socket = |place: &Place| place.socket.display().to_string();
    second.write(&config.replace(&socket(&second), &socket(&first)));
    second.refusal().refused(1, &[&socket(&first), "another agent serves", "api_socket"]);

    assert!(agent.is_running());
    assert_eq!(first.status()["host"], "h1");
    assert_eq!(agent.stop(), Some(0));
    assert!(!first.socket.exists(), "a socket that nobody serves");
}

#[test]
fn an_agent_whose_libvirt_is_unreachable_stays_up_and_says_so() {
    let site = Site::new();
    let place = site.host("h1");
    let agent = place.start(&[]);
    agent.await_log(&["libvirt is not reached", &place.libvirt]);
    let status = place.until("why its load is not known", |status| {
        status["unknown"].as_str().is_some_and(|why| why.contains("does not answer"))
    });
    assert_eq!(status["load"], serde_json::Value::Null);
    assert!(status["unknown"].as_str().expect("text").contains(&place.libvirt), "{status}");
    let socket = place.socket;
    let table = evenkeel(&["status", "--socket", socket.to_str().expect("text")]);
    assert!(table.done().contains("load unknown: measuring failed: libvirt at"), "{table:?}");
    let target = ["target", "vm1", "0.5", "--socket", socket.to_str().expect("text")];
    evenkeel(&target).refused(1, &["`h1`", "no machine `vm1`"]);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn an_agent_that_must_learn_its_capacity_waits_for_libvirt_and_says_so() {
    let site = Site::new();
    let place = site.host("h1");
    place.write(&format!("{}[libvirt]\nuri = '{}'\n", place.base(&[]), place.libvirt));
    let agent = place.start_as_configured(&[]);
    agent.await_log(&["waiting for libvirt", "does not answer"]);
    place.ask().refused(1, &["waits for libvirt", &place.libvirt, "does not answer"]);
    assert_eq!(agent.stop(), Some(0), "it stops as promptly as any other");
}

#[test]
fn an_agent_of_another_cluster_is_refused_by_name_and_its_own_cluster_goes_on() {
    let (ours, theirs) = (Site::new(), Site::new());
    let (h1, h2, other) = (ours.host("h1"), ours.host("h2"), theirs.host("h3"));
    let stranger = other.start(&[h1.listen]);
    let first = h1.start(&[]);
    let second = h2.start(&[other.listen, h1.listen]);
    let cluster = ours.ca.cluster().to_string();
    second.await_log(&["refused the agent at", &other.listen.to_string(), &cluster]);
    stranger.await_log(&["refused the agent at", &h1.listen.to_string()]);
    first.await_log(&["refused", "remote=127.0.0.1:"]);
    h1.until_members(&["h2"]);
    h2.until_members(&["h1"]);
    assert_eq!(other.status()["members"], serde_json::json!([]));
}

/// A member of the cluster that says whatever it likes.
struct Peer {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    runtime: tokio::runtime::Runtime,
}

impl Peer {
    /// With the agent of `place`, which has it for a seed.
    fn beside(site: &Site, place: &Place) -> (Self, Daemon) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let limits = Limits {
            message_bytes_max: 4 << 20,
            messages_to_peer_max: 100_000,
            delivery: daemon::LIMIT,
            ..Limits::default()
        };
        let inside = runtime.enter();
        let addr = daemon::free_address();
        let (net, events) = Net::bind(addr, &site.identity("odd"), limits, None).expect("bound");
        drop(inside);
        let agent = place.start(&[addr]);
        let mut peer = Self { net, events, runtime };
        // It announces itself once it knows who is there.
        peer.next(|event| matches!(event, NetEvent::Datagram { .. }).then_some(()));
        (peer, agent)
    }

    fn send(&self, to: &Place, frame: Vec<u8>) {
        let host = HostId::new(&to.name).expect("an id");
        self.net.send(&host, to.listen, frame).expect("it is sent");
    }

    /// Waits for an event that is wanted.
    fn next<T>(&mut self, wanted: impl Fn(NetEvent) -> Option<T>) -> T {
        let events = &mut self.events;
        let found = async {
            loop {
                let event = events.recv().await.expect("the net is open");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        let found =
            self.runtime.block_on(async { tokio::time::timeout(daemon::LIMIT, found).await });
        found.expect("an answer in time")
    }

    /// Waits until the exchange is declined, and returns why.
    fn declined(&mut self, id: ExchangeId) -> (Reason, String) {
        self.next(|event| match event {
            NetEvent::Message { bytes, .. } => match evenkeel_wire::decode(&bytes) {
                Ok(Message::Exchange(heard, Talk::Decline { reason, detail, .. }))
                    if heard == id =>
                {
                    Some((reason, detail))
                }
                _ => None,
            },
            _ => None,
        })
    }
}

fn inquiry(id: u64) -> Vec<u8> {
    let (protocol, contention, mends, mode) = (None, None, None, None);
    let state = HostState::Active;
    let report = Report { load: 0.5, state, protocol, contention, mends, mode };
    evenkeel_wire::encode(&Message::Exchange(ExchangeId(id), Talk::Inquire(report, None)))
}

#[test]
fn a_peer_of_another_protocol_version_is_declined_with_the_reason() {
    let site = Site::new();
    let place = site.host("h1");
    let (mut peer, mut agent) = Peer::beside(&site, &place);
    let mut frame = inquiry(7);
    frame[1] = 9;
    peer.send(&place, frame);
    let (reason, detail) = peer.declined(ExchangeId(7));
    assert_eq!(reason, Reason::Version);
    assert!(detail.contains("version 9") && detail.contains("upgrade"), "{detail}");
    agent.await_log(&["odd", "frame refused", "version 9"]);

    // The next one of this version is answered as ever: its libvirt is missing.
    peer.send(&place, inquiry(8));
    assert_eq!(peer.declined(ExchangeId(8)).0, Reason::UnknownLoad);
    assert!(agent.is_running());
}

#[test]
fn a_flood_of_malformed_oversize_and_out_of_turn_frames_is_dropped_and_logged_at_a_limited_rate() {
    const FLOOD: usize = 3000;
    let site = Site::new();
    let place = site.host("h1");
    let (mut peer, mut agent) = Peer::beside(&site, &place);
    let machine = MachineId::new("nobody").expect("an id");
    let passes = [
        Pass::Claimed,
        Pass::Cancel { reason: Reason::Stopping, machine: Some(machine.clone()) },
        Pass::Reserved {
            uri: "qemu:///system".to_owned(),
            protocol: None,
            ticket: None,
            machine: None,
            disks: None,
        },
        Pass::Released {
            machine,
            stats: MigrationStats::default(),
            autostart: None,
            unanswered: None,
        },
    ];
    let mut out_of_turn = (0..)
        .zip(passes.iter().cycle())
        .map(|(id, pass)| evenkeel_wire::encode(&Message::Handoff(HandoffId(id), pass.clone())));
    for n in 0..FLOOD {
        let frame = match n % 4 {
            0 => vec![0xff; n % 700],
            1 => inquiry(n as u64)[..n % 9].to_vec(),
            2 => out_of_turn.next().expect("without end"),
            _ => [inquiry(n as u64), vec![0]].concat(),
        };
        peer.send(&place, frame);
    }
    // Too large for a message, and too large to be taken from the network at all.
    peer.send(&place, vec![0; evenkeel_wire::FRAME_BYTES_MAX + 1]);
    peer.send(&place, vec![0; 2 << 20]);
    peer.next(|event| matches!(event, NetEvent::Undelivered { .. }).then_some(()));

    peer.send(&place, inquiry(u64::MAX));
    assert_eq!(peer.declined(ExchangeId(u64::MAX)).0, Reason::UnknownLoad);
    assert!(agent.is_running());
    assert_eq!(place.status()["handoffs"], serde_json::json!([]));
    let refused = agent.log_lines("frame refused");
    assert!((1..FLOOD / 10).contains(&refused), "{refused} lines for {FLOOD} frames");
}

#[test]
fn what_a_hand_or_a_missing_libvirt_spoils_is_left_alone_while_the_rest_is_balanced() {
    let calm = Calm { dead_band: 0.1, difference_min: 0.05, gain_min: 0.05 };
    let extra = balance(Duration::from_millis(500), &calm);
    let guests = ["spoilt", "b", "c"].map(|name| idle(name, "h1")).to_vec();
    let cluster = Cluster::up(alike(2, 2.0), guests, &extra);
    let edit = |entry: &str| {
        let namespace = "https://evenkeel.dev/schedule/1";
        let edit = ["metadata", "spoilt", namespace, "--key", "evenkeel", "--live", "--config"];
        cluster.virsh("h1", &[&edit[..], &["--set", entry]].concat()).expect("edited");
    };

    // An agent that starts before its libvirt is up, says so, and is sent nothing.
    cluster.lab().kill_host("h2").expect("killed");
    cluster.lab().start_agent("h2").expect("it starts without libvirt");
    edit("<entry target-load='lots'/>");
    cluster.set_targets(&[("b", 0.2), ("c", 0.2)]);
    let entry_error = cluster.until(LIMIT, "what is wrong with the entry", |cluster| {
        let machines = cluster.status("h1")?.machines;
        machines.into_iter().find(|machine| machine.name == "spoilt")?.entry_error
    });
    assert!(entry_error.contains("target-load=\"lots\""), "{entry_error}");
    cluster.until(LIMIT, "the other host's load asked for in vain", |cluster| {
        let asked = |d: &Decision| d.ending == Reason::UnknownLoad && d.peer.is_some();
        cluster.decisions_of("h1").into_iter().find(asked)
    });
    let unknown = cluster.status("h2").expect("it answers").unknown.expect("not known");
    assert!(unknown.contains("libvirt at") && unknown.contains("does not answer"), "{unknown}");
    let socket = cluster.lab().agent_socket("h1");
    let socket = socket.to_str().expect("text");
    let target = evenkeel(&["target", "spoilt", "0.3", "--socket", socket]);
    target.refused(1, &["`spoilt`", "cannot be read", "target-load=\"lots\""]);

    // Its libvirt comes, and with it a machine, but not the one whose entry nobody understands.
    cluster.lab().start_host("h2").expect("it starts");
    let moved = |cluster: &Cluster, count: usize| {
        let moved = |d: &Decision| d.ending == Reason::Moved && d.host.as_str() == "h1";
        let all: Vec<_> = cluster.decisions_of("h1").into_iter().filter(moved).collect();
        (all.len() >= count).then_some(all)
    };
    let verdict = |decision: &Decision| {
        let of_it = decision.candidates.iter().find(|c| c.name == "spoilt");
        of_it.map(|c| (c.verdict, c.at_donor.is_some()))
    };
    let first = cluster.until(LIMIT, "a machine moved", |cluster| moved(cluster, 1));
    assert_eq!(verdict(&first[0]).map(|v| v.0), Some(Reason::EntryInvalid));
    assert_eq!(cluster.scheduled_on("spoilt").as_deref(), Some("h1"));

    // Mended, it counts again, and the other one moves because of it.
    edit("<entry target-load='0.3'/>");
    let both = cluster.until(LIMIT, "another machine moved", |cluster| moved(cluster, 2));
    let judged = verdict(&both[1]).expect("it was considered");
    assert!(judged.0 != Reason::EntryInvalid && judged.1, "{:?}", both[1]);
    cluster.assert_unharmed(&["spoilt", "b", "c"]);
}

//! Members that lie and names that are more than names, to whole agents. See `docs/security.md`.

mod daemon;
#[path = "liar/gossip.rs"]
mod gossip;

use daemon::{Place, Site, evenkeel};
use evenkeel_membership::{Config, Input, Member, Membership, Output};
use evenkeel_net::{Limits, Net, NetEvent};
use gossip::{Gossip, host, now};
use tokio::sync::mpsc;

/// A member with a valid certificate that gossips as others do, and believes in a host that there is
/// not.
fn gossip(site: &Site, name: &str, invented: &str) -> (Gossip, mpsc::Receiver<NetEvent>) {
    let addr = daemon::free_address();
    let (net, events) =
        Net::bind(addr, &site.identity(name), Limits::default(), None).expect("bound");
    let mut gossip = Gossip::new(net, name, addr);
    // It has heard of one from itself, under a certificate that only it has seen.
    let generation = now().unix_ms();
    let ghost = Member { host: host(invented), addr: daemon::free_address(), generation };
    let mut ghost = Membership::new(ghost, Config::default(), 2);
    let join = Input::Join { host: host(name), addr };
    for output in ghost.handle(join, now()) {
        if let Output::Send { bytes, .. } = output {
            gossip.hear(Input::Datagram { from: host(invented), bytes: &bytes });
        }
    }
    (gossip, events)
}

/// The names that an agent has written down as those of hosts.
fn written_down(place: &Place) -> Vec<String> {
    let store = rusqlite::Connection::open(place.dir.join("state/state.sqlite")).expect("a store");
    let select = "SELECT host FROM member UNION SELECT host FROM acquaintance ORDER BY host";
    let mut statement = store.prepare(select).expect("a schema");
    let names = statement.query_map([], |row| row.get(0)).expect("rows");
    names.collect::<Result<_, _>>().expect("names")
}

#[test]
fn a_host_that_a_member_has_invented_is_no_member_and_no_witness_and_a_name_can_be_forgotten() {
    let site = Site::new();
    let place = site.host("h1");
    let agent = place.start(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let inside = runtime.enter();
    let (mut liar, events) = gossip(&site, "odd", "ghost");
    liar.hear(Input::Join { host: host("h1"), addr: place.listen });
    drop(inside);
    let liar = runtime.spawn(liar.run(events, |_| {}));
    // Told of both, and called both.
    agent.await_log(&["member is alive", "host=ghost"]);
    let status = place.until("the liar is a member", |status| {
        status["members"].as_array().is_some_and(|members| members.iter().any(|m| m == "odd"))
    });
    assert_eq!(status["members"].as_array().map(Vec::len), Some(1), "{status}");
    agent.await_log(&["member is gone", "host=ghost"]);
    assert_eq!(written_down(&place), ["odd"]);

    let forget = |name: &str| evenkeel(&["cluster", "forget", name, "--socket", text(&place)]);
    forget("odd").refused(1, &["`odd` is alive", "evenkeel cluster remove odd"]);
    forget("ghost").refused(1, &["`h1` knows no `ghost`"]);
    liar.abort();
    agent.await_log(&["member is gone", "host=odd"]);
    place.until("it is gone", |status| status["members"].as_array().is_some_and(Vec::is_empty));
    assert!(forget("odd").done().contains("forgotten"));
    assert!(written_down(&place).is_empty());
    assert_eq!(agent.stop(), Some(0));
}

fn text(place: &Place) -> &str {
    place.socket.to_str().expect("UTF-8")
}

#[test]
fn what_others_write_stays_in_its_line_on_a_terminal_and_in_the_log_and_as_it_is_in_json() {
    let site = Site::new();
    let place = site.host("h1");
    let agent = place.start(&[]);
    let reason =
        "switch\n2026-01-01T00:00:00Z  INFO forged\x1b[2J\x1b]0;owned\x07\u{202e}\u{200b}end";
    let ask = |arguments: &[&str]| evenkeel(&[arguments, &["--socket", text(&place)]].concat());
    ask(&["pause", "--for", "1h", "--reason", reason]).done();
    let escaped = "switch\\n2026-01-01T00:00:00Z  INFO forged\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\u{202e}\\u{200b}end";
    let line = agent.await_log(&["the cluster is paused"]);
    // A text is quoted in the log, by which its own escapes are escaped; what matters is what is not.
    assert!(line.contains("forged") && line.contains("owned"), "{line}");
    assert!(
        line.chars().all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{200b}'),
        "{line:?}"
    );
    assert_eq!(agent.log_lines("forged"), 1);

    let ran = ask(&["status"]);
    let told = ran.done();
    let paused = told.lines().find(|line| line.contains("PAUSED")).expect("it says so");
    assert!(paused.ends_with(escaped), "{paused:?}");
    let json = ask(&["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(json.done()).expect("JSON");
    assert_eq!(status["operation"]["pause"]["reason"], reason);
    let refused = ask(&["migrate", reason]);
    assert_eq!(refused.code, Some(1));
    assert!(!refused.stderr.contains('\x1b') && refused.stderr.trim_end().lines().count() <= 2);

    assert!(ask(&["cluster", "reset", "pause"]).done().contains("pause is forgotten"));
    assert!(!ask(&["status"]).done().contains("PAUSED"));
    assert!(ask(&["cluster", "reset", "mean"]).done().contains("mean is forgotten"));
}

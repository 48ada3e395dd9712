//! Real hosts, guests and agents: a host is taken out for maintenance from another one, says what
//! keeps it from being empty, ends up empty with every guest unharmed, and takes part again.

mod daemon;
mod support;

use std::time::Duration;

use daemon::{Ran, evenkeel};
use evenkeel_core::decision::Reason;
use evenkeel_core::model::HostState;
use evenkeel_core::select::Calm;
use evenkeel_lab::{GuestSpec, HostSpec};
use serde_json::Value;
use support::{Cluster, LIMIT, balance, idle};

/// Nothing moves by itself.
const CALM: Calm = Calm { dead_band: 10.0, difference_min: 10.0, gain_min: 10.0 };
const ROUND: Duration = Duration::from_secs(2);
/// Where Evenkeel keeps a schedule entry in a domain's metadata.
const ENTRY: &str = "https://evenkeel.dev/schedule/1";

fn enter(cluster: &Cluster, guest: &str, entry: &str) {
    let arguments =
        ["metadata", guest, ENTRY, "--key", "evenkeel", "--set", entry, "--live", "--config"];
    cluster.virsh("h1", &arguments).unwrap_or_else(|error| panic!("{guest}: {error}"));
}

/// Runs a command by way of a host's agent.
fn at(cluster: &Cluster, host: &str, command: &[&str]) -> Ran {
    let socket = cluster.lab().agent_socket(host);
    let socket = socket.to_str().expect("text");
    evenkeel(&[command, &["--socket", socket]].concat())
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(ran.done()).expect("JSON")
}

/// Why machines of a host stay, by name, while it is being emptied.
fn staying(cluster: &Cluster, host: &str) -> Option<Vec<(String, Reason)>> {
    let drain = cluster.status(host)?.drain?;
    let mut staying: Vec<_> = drain.staying.into_iter().map(|l| (l.name, l.reason)).collect();
    staying.sort();
    Some(staying)
}

#[test]
fn a_host_is_emptied_from_another_one_under_load_and_says_what_keeps_it() {
    let sized = |name: &str, memory_mib| HostSpec { memory_mib, ..HostSpec::new(name, 0.8) };
    let hosts = vec![sized("h1", 640), sized("h2", 224), sized("h3", 224)];
    let guests = vec![
        GuestSpec::new("busy", "h1", 300),
        GuestSpec { memory_mib: 256, ..idle("large", "h1") },
        idle("ignored", "h1"),
        idle("pinned", "h1"),
        idle("idle", "h1"),
    ];
    let operate = "[api]\nmembers = 'operate'\n";
    let cluster = Cluster::up(hosts, guests, &format!("{operate}{}", balance(ROUND, &CALM)));
    enter(&cluster, "ignored", r#"<entry ignore="yes"/>"#);
    enter(&cluster, "pinned", r#"<entry><pinned-to host="h1"/></entry>"#);
    cluster.until(LIMIT, "hosts that know each other, their loads and the rules", |c| {
        let known = c.statuses().iter().all(|s| s.load.is_some() && s.members.len() == 2);
        let ruled = |name: &str| c.machine_on("h1", name).is_some_and(|m| m.rules != default());
        (known && c.statuses().len() == 3 && ruled("ignored") && ruled("pinned")).then_some(())
    });

    // From one host, of another.
    let status = json(&at(&cluster, "h1", &["status", "--host", "h2", "--format", "json"]));
    assert_eq!(status["host"], "h2");
    let nobody = at(&cluster, "h1", &["status", "--host", "nobody"]);
    nobody.refused(1, &["host `nobody` has never been seen here", "evenkeel status"]);
    at(&cluster, "h1", &["cordon", "h3"]).done();

    // What it says a cordoned host is stays so when its agent is killed.
    cluster.lab().kill_agent("h3").expect("it ran");
    cluster.lab().start_agent("h3").expect("it starts");
    cluster.until(LIMIT, "h3 back, known and cordoned", |c| {
        let status = c.status("h3")?;
        (status.state == HostState::Cordoned && status.load.is_some()).then_some(())
    });

    // Where a new machine fits.
    let place = ["place", "--memory", "64MiB", "--cpu", "0.1", "--format", "json"];
    let places = cluster.until(LIMIT, "all three answering", |c| {
        let places = json(&at(c, "h2", &place));
        (places["hosts"].as_array()?.len() == 3).then_some(places)
    });
    assert_eq!(places["hosts"][0]["host"], "h2", "idle, and not cordoned: {places}");
    assert_eq!(places["hosts"][2]["refusal"], "CORDONED", "{places}");

    // Not while the rest cannot hold it, and nothing changes.
    let refused = at(&cluster, "h2", &["drain", "h1"]);
    refused.refused(
        1,
        &[
            "host `h1` is not emptied, and nothing has changed",
            "`ignored` stays: RULE_IGNORED",
            "`pinned` stays: RULE_PINNED",
            "`large` stays: NO_MEMORY",
            "NO_SPARE",
            "`--force`",
        ],
    );
    assert_eq!(cluster.status("h1").expect("it answers").state, HostState::Active);
    at(&cluster, "h1", &["uncordon", "h3"]).done();

    // What can go goes, and each that stays says why.
    at(&cluster, "h2", &["drain", "h1", "--force", "--no-wait"]).done();
    let stay = [
        ("ignored".to_owned(), Reason::RuleIgnored),
        ("large".to_owned(), Reason::NoMemory),
        ("pinned".to_owned(), Reason::RulePinned),
    ];
    cluster.until(LIMIT, "only those left that cannot go", |c| {
        let left = c.status("h1")?.drain?.machines_left;
        (left == 3 && staying(c, "h1")? == stay).then_some(())
    });
    let waited = at(&cluster, "h2", &["drain", "h1", "--timeout", "1s"]);
    waited.refused(
        1,
        &[
            "host `h1` is not empty yet: 3 machines are left",
            "`large` stays: NO_MEMORY (refused: NO_MEMORY by 2)",
            "`evenkeel rule MACHINE remove ignore`",
            "it goes on trying; `evenkeel uncordon h1` ends that",
        ],
    );

    // Once they can go, they do. Also that it is being emptied outlasts its agent.
    cluster.lab().kill_agent("h1").expect("it ran");
    enter(&cluster, "ignored", "<entry/>");
    enter(&cluster, "pinned", "<entry/>");
    cluster.virsh("h1", &["destroy", "large"]).expect("it ran");
    cluster.lab().start_agent("h1").expect("it starts");
    cluster.until(LIMIT, "h1 back", |c| c.status("h1").map(|_| ()));
    let emptied = at(&cluster, "h2", &["drain", "h1", "--timeout", "2m", "--format", "json"]);
    assert_eq!(json(&emptied)["empty"], true, "{emptied:?}");
    assert_eq!(cluster.domains("h1"), ["large"], "defined, and not running");
    cluster.assert_unharmed(&["busy", "idle", "ignored", "pinned"]);

    at(&cluster, "h2", &["uncordon", "h1"]).done();
    assert_eq!(cluster.status("h1").expect("it answers").state, HostState::Active);
}

fn default<T: Default>() -> T {
    T::default()
}

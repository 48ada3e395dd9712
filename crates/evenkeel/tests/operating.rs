//! Real hosts, real guests, real agents: what operators say about moving machines.

mod support;

use std::process::Command;
use std::time::Duration;

use evenkeel_core::control::{Authority, Autonomy};
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::select::Calm;
use evenkeel_lab::GuestSpec;
use serde_json::Value;
use support::{Cluster, EVENKEEL, LIMIT, balance, cpu_hosts};

const ROUND: Duration = Duration::from_millis(700);
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.03, gain_min: 0.05 };

/// Tables for agents of this mode that do for each other what an operator asks of one of them.
fn tables(mode: Autonomy) -> String {
    let operation = format!("[operation]\nmode = '{mode}'\n[api]\nmembers = 'operate'\n");
    operation + &balance(ROUND, &CALM)
}

/// Runs `evenkeel` against a host's agent: what it printed, or what it said instead.
fn evenkeel(cluster: &Cluster, host: &str, arguments: &[&str]) -> Result<String, String> {
    let socket = cluster.lab().agent_socket(host);
    let mut command = Command::new(EVENKEEL);
    command.args(arguments).arg("--socket").arg(socket).env("USER", "eve").env_remove("SUDO_USER");
    let output = command.output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    if output.status.success() { Ok(stdout) } else { Err(stderr) }
}

#[track_caller]
fn refused(result: Result<String, String>, says: &[&str]) {
    let said = result.expect_err("it was done");
    for part in says {
        assert!(said.contains(part), "`{said}` does not say `{part}`");
    }
}

fn given(cluster: &Cluster, ending: Reason) -> Vec<Decision> {
    let mut decisions = cluster.decisions();
    decisions.retain(|d| d.role == Some(Role::Source) && d.ending == ending);
    decisions
}

/// One lab, from its first start to what an operator approves of: nothing moves before.
#[test]
fn a_cluster_moves_nothing_until_it_is_told_approved_or_automatic() {
    let guests = [("a", 120), ("b", 90), ("c", 60)];
    let guests = guests.map(|(name, burn)| GuestSpec::new(name, "h1", burn)).to_vec();
    let cluster = Cluster::up(cpu_hosts(3), guests, &tables(Autonomy::Observe));
    let names = ["a", "b", "c"];

    // It observes: decides, says so, and moves nothing.
    let would = cluster.until(LIMIT, "what it would move", |c| {
        let said = given(c, Reason::Observing);
        said.into_iter().find(|d| d.chosen().is_some())
    });
    assert_eq!(would.authority, Authority::Observe);
    let status = evenkeel(&cluster, "h1", &["status"]).expect("it answers");
    assert!(status.contains("mode: observe"), "{status}");
    let listed = evenkeel(&cluster, "h2", &["recommendations"]).expect("it answers");
    assert!(listed.contains("nothing is recommended"), "{listed}");
    assert_eq!(cluster.domains("h1").len(), 3, "nothing has moved");

    // An operator's word moves a machine all the same, asked for on a host that does not have it.
    let moved = evenkeel(&cluster, "h3", &["migrate", "a", "h2", "--format", "json"]);
    let moved: Value = serde_json::from_str(&moved.expect("moved")).expect("JSON");
    assert_eq!((&moved["reason"], &moved["to"]), (&"MOVED".into(), &"h2".into()), "{moved}");
    assert_eq!(cluster.domains("h2"), ["a"]);
    let record = &given(&cluster, Reason::Moved)[0];
    assert_eq!((record.host.as_str(), record.authority), ("h1", Authority::Told));

    // What must not be is refused, with what to do, and leaves the machine where it is.
    let entry = r#"<entry><pinned-to host="h1"/></entry>"#;
    let metadata = ["metadata", "b", "https://evenkeel.dev/schedule/1", "--key", "evenkeel"];
    let set = [&metadata[..], &["--set", entry, "--live", "--config"]].concat();
    cluster.virsh("h1", &set).expect("written");
    cluster.until(LIMIT, "the rule known", |c| {
        (!c.machine_on("h1", "b")?.rules.pinned_to.is_empty()).then_some(())
    });
    let migrate =
        |arguments: &[&str]| evenkeel(&cluster, "h1", &[&["migrate"], arguments].concat());
    refused(migrate(&["b", "h2"]), &["`b`", "`h1`", "RULE_PINNED", "left as it was", "hint:"]);
    refused(migrate(&["b", "h9"]), &["no live host is called `h9`", "stays on `h1`"]);
    refused(migrate(&["x"]), &["no host that was asked has a machine `x`"]);
    assert!(cluster.domains("h1").contains(&"b".to_owned()));
    cluster.assert_unharmed(&names);
}

/// One lab whose agents ask first.
#[test]
fn what_is_recommended_moves_when_it_is_approved_and_a_pause_holds_everywhere() {
    let guests = [("a", 120), ("b", 90), ("c", 60)];
    let guests = guests.map(|(name, burn)| GuestSpec::new(name, "h1", burn)).to_vec();
    let cluster = Cluster::up(cpu_hosts(2), guests, &tables(Autonomy::Approve));

    let listed = cluster.until(LIMIT, "a recommendation", |c| {
        let listed = evenkeel(c, "h2", &["recommendations", "--format", "json"]).ok()?;
        let listed: Value = serde_json::from_str(&listed).ok()?;
        listed.as_array().filter(|all| !all.is_empty()).cloned()
    });
    assert_eq!(cluster.domains("h1").len(), 3, "nothing moves before it is approved");
    let (id, machine) = (&listed[0]["id"], &listed[0]["name"]);
    let id = id.as_str().expect("an id");
    let approved = evenkeel(&cluster, "h2", &["approve", &id[..8]]).expect("approved");
    let says = format!("machine `{}` runs on host `h2`", machine.as_str().expect("a name"));
    assert!(approved.contains(&says), "{approved}");
    assert_eq!(cluster.domains("h2").len(), 1);
    assert_eq!(given(&cluster, Reason::Moved)[0].authority, Authority::Ordered);
    refused(evenkeel(&cluster, "h1", &["approve", &id[..8]]), &["no host recommends"]);

    // Paused on one host, known on both, by whom and why; resumed on the other.
    let paused = ["pause", "--for", "2h", "--reason", "switch maintenance"];
    let said = evenkeel(&cluster, "h2", &paused).expect("paused");
    assert!(said.contains("2 live hosts know"), "{said}");
    for host in ["h1", "h2"] {
        let status = evenkeel(&cluster, host, &["status"]).expect("it answers");
        assert!(status.contains("by eve: switch maintenance"), "{status}");
    }
    cluster.until(LIMIT, "a decision not to act", |c| {
        c.decisions().iter().any(|d| d.ending == Reason::Paused).then_some(())
    });
    evenkeel(&cluster, "h1", &["resume"]).expect("resumed");
    let status = evenkeel(&cluster, "h2", &["status"]).expect("it answers");
    assert!(!status.contains("PAUSED"), "{status}");
    cluster.assert_unharmed(&["a", "b", "c"]);
}

//! Operators ask real agents why things are as they are, and get the right codes.

mod support;

use std::process::Command;
use std::time::Duration;

use evenkeel_core::select::Calm;
use serde_json::Value;
use support::{Cluster, EVENKEEL, LIMIT, balance, cpu_hosts, idle};

const ROUND: Duration = Duration::from_millis(500);
const CALM: Calm = Calm { dead_band: 0.1, difference_min: 0.05, gain_min: 0.05 };
/// Where Evenkeel keeps a schedule entry in a domain's metadata.
const ENTRY: &str = "https://evenkeel.dev/schedule/1";

/// What a command prints as JSON that asks the agent of this host.
fn ask(cluster: &Cluster, host: &str, arguments: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(EVENKEEL);
    command.args(arguments).args(["--format", "json", "--socket"]);
    let output = command.arg(cluster.lab().agent_socket(host)).output().expect("it can be run");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("JSON on standard output"))
}

/// The reason that decides on a machine, asked on the second host.
fn verdict(cluster: &Cluster, guest: &str) -> Option<(String, String)> {
    let told = ask(cluster, "h2", &["explain", "vm", guest]).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some((text(&told["reasons"][0]["code"])?, text(&told["host"])?))
}

fn await_verdict(cluster: &Cluster, guest: &str, code: &str, host: &str) {
    let wanted = Some((code.to_owned(), host.to_owned()));
    cluster.until(LIMIT, &format!("`{guest}` explained by {code} on {host}"), |c| {
        (verdict(c, guest) == wanted).then_some(())
    });
}

#[test]
fn operators_are_told_why_machines_stay_and_what_was_decided() {
    let names = ["goes", "pinned", "ignored", "paused"];
    let guests = names.map(|name| idle(name, "h1")).to_vec();
    // Nothing moves before its entry is written: machines are known late.
    let late = balance(ROUND, &CALM).replace("warm_up = 1", "warm_up = 20");
    let config = late.replace("cool_down = '2s'", "cool_down = '1h'");
    let cluster = Cluster::up(cpu_hosts(2), guests, &config);
    let enter = |guest: &str, entry: &str| {
        let edit = ["metadata", guest, ENTRY, "--key", "evenkeel", "--set", entry];
        for part in ["--live", "--config"] {
            let done = cluster.virsh("h1", &[&edit[..], &[part]].concat());
            done.unwrap_or_else(|error| panic!("{guest}: {error}"));
        }
    };
    cluster.virsh("h1", &["suspend", "paused"]).unwrap_or_else(|error| panic!("{error}"));
    enter("pinned", r#"<entry target-load="0.1"><pinned-to host="h1"/></entry>"#);
    enter("ignored", r#"<entry target-load="0.3" ignore="yes"/>"#);
    enter("goes", r#"<entry target-load="0.2"/>"#);

    await_verdict(&cluster, "pinned", "RULE_PINNED", "h1");
    await_verdict(&cluster, "ignored", "RULE_IGNORED", "h1");
    await_verdict(&cluster, "paused", "NOT_RUNNING", "h1");
    await_verdict(&cluster, "goes", "COOL_DOWN", "h2");
    let refused = ask(&cluster, "h2", &["explain", "vm", "nobody"]).unwrap_err();
    assert!(refused.contains("`nobody`") && refused.contains("nor has any other"), "{refused}");

    let host = ask(&cluster, "h2", &["explain", "host", "h1"]).expect("h1 is asked through h2");
    assert_eq!(host["host"], "h1");
    assert_eq!(host["machines"].as_array().map(Vec::len), Some(3), "{host:#}");

    // Both records of the one migration are one entry, whichever host is asked.
    for asked in ["h1", "h2"] {
        let history = cluster.until(LIMIT, "both records of the migration", |c| {
            let told = ask(c, asked, &["history", "--since", "1d", "--vm", "goes"]).ok()?;
            (!told["decisions"][0]["other"].is_null()).then_some(told)
        });
        let moves = history["decisions"].as_array().expect("a list");
        assert_eq!(moves.len(), 1, "{history:#}");
        assert_eq!(
            (&moves[0]["record"]["host"], &moves[0]["other"]["host"]),
            (&"h1".into(), &"h2".into())
        );
        assert_eq!(
            (&moves[0]["record"]["ending"], &moves[0]["other"]["ending"]),
            (&"MOVED".into(), &"MOVED".into())
        );
        assert!(
            history["missing"].as_object().is_some_and(serde_json::Map::is_empty),
            "{history:#}"
        );
    }
    let last = ask(&cluster, "h1", &["explain", "last"]).expect("h1 has decided something");
    assert!(last["record"]["ending"].is_string(), "{last:#}");
}

/// Two guests burn more than the host has: what they go without is measured, and is not measured of
/// one that is paused.
#[test]
fn what_machines_go_without_is_measured_and_scored() {
    let burning = |name: &str| evenkeel_lab::GuestSpec::new(name, "h1", 900);
    let guests = vec![burning("a"), burning("b"), idle("still", "h1")];
    let calm = Calm { dead_band: 10.0, difference_min: 10.0, gain_min: 10.0 };
    let cluster = Cluster::up(cpu_hosts(1), guests, &balance(ROUND, &calm));
    cluster.virsh("h1", &["suspend", "still"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.until(LIMIT, "two guests that lack CPU, and a host that knows it", |c| {
        let status = c.status("h1")?;
        let score = |name: &str| {
            status.machines.iter().find(|m| m.name == name).and_then(|m| m.contention_score)
        };
        let starved = score("a")? >= 20 && score("b")? >= 20;
        let host = status.contention_score? >= 20 && status.cluster_contention?.hosts == 1;
        (starved && host && score("still").is_none_or(|score| score < 20)).then_some(())
    });
}

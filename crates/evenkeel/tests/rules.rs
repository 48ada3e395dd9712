//! Real hosts, real guests, real agents: rules are given by the command line, and what breaks one where
//! it is goes to where it breaks none, although no load wants it to.

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::Rules;
use evenkeel_core::select::Calm;
use evenkeel_lab::HostSpec;
use support::{Cluster, EVENKEEL, LIMIT, balance, cpu_hosts, idle};

const ROUND: Duration = Duration::from_secs(1);
/// No difference of loads is worth a move here.
const CALM: Calm = Calm { dead_band: 10.0, difference_min: 10.0, gain_min: 10.0 };

/// Runs `evenkeel rule` against the agent of a host.
fn run(cluster: &Cluster, host: &str, guest: &str, words: &[&str]) -> Output {
    Command::new(EVENKEEL)
        .args(["rule", guest, "--format", "json", "--socket"])
        .arg(cluster.lab().agent_socket(host))
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The same; the rules that the machine has then.
fn rule(cluster: &Cluster, host: &str, guest: &str, words: &[&str]) -> Rules {
    let out = run(cluster, host, guest, words);
    assert!(out.status.success(), "{guest} {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}"))
}

fn repaired(decisions: &[Decision], guest: &str) -> bool {
    let of = |d: &Decision| {
        d.chosen().is_some_and(|c| c.name == guest && c.verdict == Reason::RuleRepaired)
    };
    decisions.iter().any(|d| d.ending == Reason::Moved && of(d))
}

fn refused(decisions: &[Decision], guest: &str, reason: Reason) -> bool {
    let mut judged = decisions.iter().flat_map(|d| &d.candidates);
    judged.any(|c| c.name == guest && c.verdict == reason)
}

#[test]
fn what_breaks_a_rule_goes_to_where_it_breaks_none_and_what_cannot_go_stays_with_its_reason() {
    let rack = |(host, rack): (HostSpec, &str)| HostSpec {
        labels: [("rack".to_owned(), rack.to_owned())].into(),
        ..host
    };
    let hosts = cpu_hosts(3).into_iter().zip(["r1", "r2", "r2"]).map(rack).collect();
    let names = ["place", "apart1", "apart2", "mate1", "large", "live"];
    let mut guests: Vec<_> = names.iter().map(|name| idle(name, "h1")).collect();
    guests.push(idle("mate2", "h2"));
    let cluster = Cluster::up(hosts, guests, &balance(ROUND, &CALM));
    cluster.until(LIMIT, "all know each other and their machines", |c| {
        let statuses = c.statuses();
        let members = statuses.iter().all(|s| s.members.len() == 2);
        let scheduled: usize = statuses.iter().map(|s| s.machines.len()).sum();
        (statuses.len() == 3 && members && scheduled == 7).then_some(())
    });
    cluster.set_targets(&[("large", 0.3)]);

    // By label and by host, wanted and not: the only host that is right is the third.
    let rules = rule(&cluster, "h1", "place", &["set", "pinned-to=rack=r2", "pinned-to=!h2"]);
    assert_eq!(rules.pinned_to.len(), 2);
    for guest in ["apart1", "apart2"] {
        rule(&cluster, "h1", guest, &["set", "anti-affinity=db"]);
    }
    rule(&cluster, "h1", "mate1", &["set", "affinity=shop"]);
    rule(&cluster, "h2", "mate2", &["set", "affinity=shop"]);
    // Both would have to go, and neither may.
    rule(&cluster, "h1", "large", &["set", "pinned-to=!h1", "max-share=0.2"]);
    rule(&cluster, "h1", "live", &["set", "pinned-to=!h1", "never-live"]);

    let decisions = cluster.until(LIMIT, "every rule holds that can", |c| {
        let on = |guest: &str| c.scheduled_on(guest);
        let apart = on("apart1")? != on("apart2")?;
        let together = on("mate1")? == on("mate2")?;
        let decisions = c.decisions();
        let kept = refused(&decisions, "large", Reason::RuleMaxShare);
        (on("place")? == "h3" && apart && together && kept).then_some(decisions)
    });
    assert!(repaired(&decisions, "place"));
    assert!(repaired(&decisions, "apart1") || repaired(&decisions, "apart2"));
    assert!(repaired(&decisions, "mate1") || repaired(&decisions, "mate2"));
    for guest in ["large", "live"] {
        assert_eq!(cluster.scheduled_on(guest).as_deref(), Some("h1"), "{guest}");
    }
    let taken = rule(&cluster, "h1", "live", &["remove", "never-live"]);
    assert!(!taken.never_live);
    cluster.until(LIMIT, "what may be migrated again to go", |c| {
        (c.scheduled_on("live")? != "h1").then_some(())
    });
    scripted(&cluster);
    typos(&cluster);
    cluster.assert_unharmed(&["place", "apart1", "apart2", "mate1", "mate2", "live", "large"]);
}

/// Commands that follow each other as fast as a script is, and side by side: none undoes another.
fn scripted(cluster: &Cluster) {
    for _ in 0..5 {
        rule(cluster, "h1", "large", &["set", "pinned-to=h1"]);
        rule(cluster, "h1", "large", &["remove", "all"]);
        rule(cluster, "h1", "large", &["remove", "all"]);
        rule(cluster, "h1", "large", &["set", "anti-affinity=alone"]);
        let rules = rule(cluster, "h1", "large", &["set", "priority=5"]);
        let shown = rule(cluster, "h1", "large", &["list"]);
        assert_eq!(shown, rules, "what was written is what is shown at once");
        assert_eq!((rules.pinned_to.len(), rules.anti_affinity.len(), rules.priority), (0, 1, 5));
    }
    std::thread::scope(|scope| {
        for number in 0..8 {
            let group = format!("anti-affinity=group{number}");
            scope.spawn(move || rule(cluster, "h1", "large", &["set", &group]));
        }
    });
    let rules = rule(cluster, "h1", "large", &["list"]);
    let groups: Vec<_> = rules.anti_affinity.iter().map(ToString::to_string).collect();
    for number in 0..8 {
        assert!(groups.contains(&format!("group{number}")), "one of eight is lost: {groups:?}");
    }
    let described = cluster.dumpxml("h1", "large", false).expect("it is there");
    assert!((0..8).all(|number| described.contains(&format!("group{number}"))), "{described}");
    rule(cluster, "h1", "large", &["remove", "all"]);
}

/// What no host is called, or has, is told at once.
fn typos(cluster: &Cluster) {
    for (word, says) in [
        ("pinned-to=h22", "no host that is alive is called `h22`; did you mean `h2`?"),
        (
            "anti-affinity=web@rakc",
            "no host that is alive has the label `rakc`; did you mean `rack`?",
        ),
        ("pinned-to=rack=r9", "no host that is alive has `rack=r9`"),
        ("pinned-to=rack=r1", ""),
    ] {
        let out = run(cluster, "h1", "large", &["set", word]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.contains(says), "{word}: {said}");
        assert_eq!(said.contains("warning"), !says.is_empty(), "{word}: {said}");
        rule(cluster, "h1", "large", &["remove", "all"]);
    }
}

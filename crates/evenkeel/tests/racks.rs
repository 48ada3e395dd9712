//! Real hosts, real guests, real agents: a rule across a label, and several agents that act at once.

mod support;

use std::time::Duration;

use evenkeel_core::decision::Reason;
use evenkeel_core::select::Calm;
use evenkeel_lab::HostSpec;
use support::{Cluster, LIMIT, balance, cpu_hosts, idle};

const ROUND: Duration = Duration::from_secs(1);
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.1, gain_min: 0.05 };
/// Where Evenkeel keeps a schedule entry in a domain's metadata.
const ENTRY: &str = "https://evenkeel.dev/schedule/1";

fn enter(cluster: &Cluster, host: &str, guest: &str, entry: &str) {
    let arguments =
        ["metadata", guest, ENTRY, "--key", "evenkeel", "--set", entry, "--live", "--config"];
    cluster.virsh(host, &arguments).unwrap_or_else(|error| panic!("{guest}: {error}"));
}

/// Machines of the group that are on hosts of the third rack.
fn inside(cluster: &Cluster) -> Vec<String> {
    let there = ["h3", "h4"].into_iter().flat_map(|host| cluster.domains(host));
    there.filter(|guest| guest.starts_with("web")).collect()
}

fn has_refused(cluster: &Cluster, reason: Reason) -> bool {
    cluster.decisions().iter().any(|decision| decision.ending == reason)
}

/// Two hosts, each in a rack of its own, want to give a machine of the same group to the two hosts of
/// a third rack.
#[test]
fn two_pairs_that_act_at_once_bring_one_machine_of_a_group_into_a_rack() {
    let rack = |(host, rack): (HostSpec, &str)| HostSpec {
        labels: [("rack".to_owned(), rack.to_owned())].into(),
        ..host
    };
    let hosts = cpu_hosts(4).into_iter().zip(["r1", "r2", "r3", "r3"]).map(rack).collect();
    let guests =
        vec![idle("web1", "h1"), idle("rest1", "h1"), idle("web2", "h2"), idle("rest2", "h2")];
    let cluster = Cluster::up(hosts, guests, &balance(ROUND, &CALM));
    cluster.until(LIMIT, "all know each other", |c| {
        let statuses = c.statuses();
        let all = statuses.len() == 4 && statuses.iter().all(|s| s.members.len() == 3);
        all.then_some(())
    });

    // One host of the rack is silent: whether it has a machine of the group, nobody can say.
    cluster.lab().stop_agent("h4").expect("stopped");
    for (host, web, rest) in [("h1", "web1", "rest1"), ("h2", "web2", "rest2")] {
        enter(&cluster, host, rest, r#"<entry target-load="0.4"><pinned-to host="HOST"/></entry>"#
            .replace("HOST", host).as_str());
        let apart =
            r#"<entry target-load="0.3"><anti-affinity group="web" across="rack"/></entry>"#;
        enter(&cluster, host, web, apart);
    }
    cluster.until(LIMIT, "a refusal for a silent witness", |c| {
        has_refused(c, Reason::WitnessSilent).then_some(())
    });
    assert_eq!(inside(&cluster), Vec::<String>::new());

    cluster.lab().start_agent("h4").expect("started");
    cluster.until(LIMIT, "one machine in the rack, and the other refused", |c| {
        let there = inside(c);
        assert!(there.len() <= 1, "{there:?} are in one rack");
        (there.len() == 1 && has_refused(c, Reason::RuleAcross)).then_some(())
    });
    cluster.assert_unharmed(&["web1", "web2", "rest1", "rest2"]);
}

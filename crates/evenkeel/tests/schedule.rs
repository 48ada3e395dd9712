//! Real hosts, real guests, real agents: what a migration does to the two schedules, and that
//! afterwards the machine depends in nothing on where it came from.

mod support;

use std::time::Duration;

use evenkeel_core::decision::Role;
use evenkeel_core::model::Epoch;
use evenkeel_core::select::Calm;
use evenkeel_lab::GuestSpec;
use support::records::{assert_agreed, moves};
use support::{Cluster, LIMIT, balance, cpu_hosts, idle};

const ROUND: Duration = Duration::from_millis(700);
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.1, gain_min: 0.05 };
/// So many exchanges in a row without a move are rest.
const QUIET: usize = 5;
/// Where Evenkeel keeps a schedule entry in a domain's metadata.
const ENTRY: &str = "https://evenkeel.dev/schedule/1";

/// Writes metadata of a guest of the first host: as it runs, and as it is defined if it is.
fn annotate(cluster: &Cluster, guest: &str, namespace: &str, key: &str, element: &str, kept: bool) {
    let mut arguments =
        vec!["metadata", guest, namespace, "--key", key, "--set", element, "--live"];
    arguments.extend(kept.then_some("--config"));
    cluster.virsh("h1", &arguments).unwrap_or_else(|error| panic!("{guest}: {error}"));
}

/// What `virsh dominfo` calls this.
fn info(cluster: &Cluster, host: &str, guest: &str, what: &str) -> String {
    let all = cluster.virsh(host, &["dominfo", guest]).unwrap_or_else(|error| panic!("{error}"));
    let line = all.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {what} in {all}")).trim().to_owned()
}

/// Claims 13, 22, 33.
#[test]
fn a_migration_deletes_the_schedule_entry_here_and_inserts_it_there_with_all_that_is_in_it() {
    let transient = GuestSpec { persistent: false, ..idle("transient", "h1") };
    let guests = vec![idle("persistent", "h1"), transient, idle("pinned", "h1")];
    let cluster = Cluster::up(cpu_hosts(2), guests, &balance(ROUND, &CALM));
    let owner = r#"<owner name="eve"/>"#;
    let uuids = [("persistent", true), ("transient", false)].map(|(guest, kept)| {
        annotate(&cluster, guest, "https://example.org/owner", "owner", owner, kept);
        (guest, info(&cluster, "h1", guest, "UUID"))
    });
    let enter = |guest: &str, entry: &str, kept: bool| {
        let entry = entry.replace("GUEST", guest);
        annotate(&cluster, guest, ENTRY, "evenkeel", &entry, kept);
    };
    // From here on each may leave as soon as its entry is there. With the one that stays, the first
    // host carries four times what either of them does, so that both have a reason to.
    let entry = r#"<entry epoch="6" target-load="0.2"><anti-affinity group="GUEST"/></entry>"#;
    enter("persistent", entry, true);
    enter("transient", entry, false);
    enter("pinned", r#"<entry target-load="0.4"><pinned-to host="h1"/></entry>"#, true);

    let decisions = cluster.until(LIMIT, "both machines moved, and rest", |c| {
        let moved = |guest: &str| c.scheduled_on(guest).is_some_and(|host| host == "h2");
        let all = moved("persistent") && moved("transient") && c.is_quiet(QUIET);
        all.then(|| c.decisions())
    });

    assert_eq!(cluster.domains("h1"), ["pinned"]);
    let mut there = cluster.domains("h2");
    there.sort();
    assert_eq!(there, ["persistent", "transient"]);
    for (guest, uuid) in uuids {
        assert!(cluster.virsh("h1", &["dominfo", guest]).is_err(), "{guest} is still defined");
        assert!(cluster.machine_on("h1", guest).is_none(), "{guest} is still scheduled");
        assert_eq!(info(&cluster, "h2", guest, "UUID"), uuid);
        assert_eq!(info(&cluster, "h2", guest, "State"), "running");
        let keeps = if guest == "persistent" { "yes" } else { "no" };
        assert_eq!(info(&cluster, "h2", guest, "Persistent"), keeps);

        let scheduled = cluster.machine_on("h2", guest).expect("it is in the schedule");
        assert_eq!((scheduled.epoch, scheduled.target_load), (Epoch(7), Some(0.2)));
        let moved = decisions.iter().find(|d| {
            d.host.as_str() == "h1"
                && d.handoff.is_some()
                && d.chosen().is_some_and(|c| c.name == guest)
        });
        assert_agreed(moved.expect("a record of its move"), &decisions);
        // As it runs, and as it will be started again.
        let definitions: &[bool] = if guest == "persistent" { &[false, true] } else { &[false] };
        for inactive in definitions {
            let xml = cluster.dumpxml("h2", guest, *inactive).expect("it is there");
            let entry = format!("group=\"{guest}\"").replace('"', "'");
            let xml = xml.replace('"', "'");
            for part in
                ["epoch='7'", "target-load='0.2'", "last-move", "from='h1'", "name='eve'", &entry]
            {
                assert!(xml.contains(part), "{guest}: no {part} in {xml}");
            }
        }
    }
    assert!(cluster.dumpxml("h1", "pinned", true).is_ok_and(|xml| !xml.contains("last-move")));
    cluster.assert_unharmed(&["persistent", "transient", "pinned"]);
}

/// Claims 2, 15, 25: everything of the host that a machine was launched on and migrated away from
/// is killed. The machine runs on, and the others go on balancing without it.
#[test]
fn a_migrated_machine_outlives_the_host_it_was_launched_on_and_the_others_balance_on() {
    let names: Vec<_> = (1..=5).map(|n| format!("vm{n}")).collect();
    let guests = names.iter().map(|name| idle(name, "h1")).collect();
    let cluster = Cluster::up(cpu_hosts(3), guests, &balance(ROUND, &CALM));
    let loads: Vec<_> = names.iter().map(|name| (name.as_str(), 0.15)).collect();
    cluster.set_targets(&loads);
    // One survivor has two at least, so that it has something to give.
    cluster.until(LIMIT, "machines on all hosts, and rest", |c| {
        let counts: Vec<_> = c.hosts().iter().map(|host| c.domains(host).len()).collect();
        let spread = counts.iter().all(|&n| n > 0) && counts[1].max(counts[2]) >= 2;
        (spread && c.is_quiet(QUIET)).then_some(())
    });
    let (second, third) = (cluster.domains("h2"), cluster.domains("h3"));

    cluster.lab().kill_host("h1").expect("it can be killed");
    let dead = &cluster.lab().status().expect("the lab goes on").hosts[0];
    assert!(!dead.alive && !dead.agent_alive, "{dead:?}");

    let moved: Vec<_> = second.iter().chain(&third).map(String::as_str).collect();
    let first = cluster.assert_unharmed(&moved);
    for host in ["h2", "h3"] {
        cluster.until(LIMIT, &format!("the loss of h1 known to {host}"), |c| {
            let members = c.status(host)?.members;
            members.iter().all(|member| member.as_str() != "h1").then_some(())
        });
    }
    let (busy, has) = if second.len() >= 2 { ("h2", &second) } else { ("h3", &third) };
    let known = cluster.decisions_of(busy).len();
    cluster.set_targets(&[(&has[0], 0.5), (&has[1], 0.4)]);
    cluster.until(LIMIT, "a move between the two that are left", |c| {
        let decisions = c.decisions_of(busy);
        let given = moves(&decisions[known..], Role::Source);
        given.iter().any(|d| d.chosen().is_some_and(|m| has.contains(&m.name))).then_some(())
    });
    // It did not only live once more, but goes on living.
    let later = cluster.assert_unharmed(&moved);
    for (guest, verdict) in &first {
        assert!(later[guest].reports > verdict.reports, "{guest} stands still");
    }
}

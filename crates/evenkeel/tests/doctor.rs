//! `evenkeel doctor` on real hosts: a sound cluster is found sound, and each of several ills is found
//! by its own check, with a remedy and exit code 1.

mod daemon;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use daemon::{Ran, Site, evenkeel};
use evenkeel_core::model::HostId;
use serde_json::Value;
use support::{Cluster, LIMIT, alike};

/// Check, host and level of what is not as it should be, and what was found.
fn ills(ran: &Ran) -> Vec<(String, String, String, String)> {
    let findings: Vec<Value> = serde_json::from_str(&ran.stdout).expect("JSON");
    assert!(findings.len() > 8, "{ran:?}");
    let ill = findings.iter().filter(|finding| finding["level"] != "ok");
    ill.map(|finding| {
        let text = |key: &str| finding[key].as_str().unwrap_or("all").to_owned();
        assert!(text("remedy").len() > 10, "no remedy: {finding}");
        (text("check"), text("host"), text("level"), text("what"))
    })
    // A directory of tests may be in memory.
    .filter(|(check, _, level, _)| !(check == "STORE" && level == "warning"))
    .collect()
}

fn doctor(arguments: &[&str]) -> Ran {
    evenkeel(&[&["doctor", "--format", "json"], arguments].concat())
}

fn has(ills: &[(String, String, String, String)], check: &str, level: &str, words: &str) {
    let found = ills.iter().any(|(c, _, l, what)| c == check && l == level && what.contains(words));
    assert!(found, "no {level} of {check} that says `{words}`: {ills:#?}");
}

#[test]
fn a_sound_cluster_is_found_sound_and_its_ills_are_found_by_their_checks() {
    let cluster = Cluster::up(alike(2, 1.0), Vec::new(), "");
    cluster.until(LIMIT, "both hosts known to each other", |cluster| {
        let knows = |host| cluster.status(host).is_some_and(|s| s.members.len() == 1);
        (knows("h1") && knows("h2") && cluster.loads().is_some()).then_some(())
    });
    let socket = cluster.lab().agent_socket("h1");
    let socket = ["--socket", socket.to_str().expect("text")];
    let config = cluster.lab().agent_config("h1");
    let by_config = ["--config", config.to_str().expect("text")];

    // By its agent, by its configuration, and all hosts.
    for arguments in [&socket[..], &by_config, &[&["--cluster"], &socket[..]].concat()] {
        let ran = doctor(arguments);
        assert_eq!((ran.code, ills(&ran)), (Some(0), Vec::new()), "{arguments:?}: {}", ran.stdout);
    }
    let whole = doctor(&[&["--cluster"], &socket[..]].concat()).stdout;
    for said in ["reaches the libvirt of host `h2`", "all hosts can run the same"] {
        assert!(whole.contains(said), "`{said}` is not in {whole}");
    }
    // No host opens connections on another's word: the other way is asked on `h2`.
    assert!(!whole.contains("reaches the libvirt of host `h1`"), "{whole}");
    let (h1, h2) = (HostId::new("h1").expect("a name"), HostId::new("h2").expect("a name"));
    let asked = cluster.block_on(cluster.client("h1").of(&h2).reach(&h1));
    let refused = asked.expect_err("h2 does not do that for h1").to_string();
    assert!(refused.contains("only when it is asked on that host itself"), "{refused}");
    assert_eq!(
        cluster.block_on(cluster.client("h2").reach(&h1)).expect("on the host itself"),
        None
    );
    let table = evenkeel(&[&["doctor"], &socket[..]].concat());
    assert!(table.done().contains("MIGRATION_PORTS"), "{table:?}");

    // A configuration that is wrong in several ways, and no agent of it.
    let ill = cluster.lab().dir().join("ill.toml");
    let direct = "migration_uri = 'qemu+unix:///session?socket=/none'";
    let sick = fs::read_to_string(&config).expect("it is there");
    let line = |key: &str| sick.lines().find(|l| l.starts_with(key)).expect("a line").to_owned();
    let sick = sick
        .replace(&line("uri = "), "uri = 'qemu+unix:///session?socket=/nonexistent'")
        .replace(&line("state_dir = "), "state_dir = '/nonexistent/state'")
        .replace(&line("api_socket = "), "api_socket = '/nonexistent/agent.sock'")
        .replace(&line("memory = "), "memory = '900TiB'");
    // libvirt by itself, whoever carries machines in this lab.
    let sick = match sick.lines().find(|line| line.starts_with("migration_uri = ")) {
        Some(line) => sick.replace(line, direct),
        None => sick.replace("[migration]", &format!("{direct}\n[migration]\ncarrier = 'direct'")),
    };
    fs::write(&ill, sick + "\n[storage]\n'/nonexistent/vm' = 'nfs1'\n").expect("written");
    let ran = doctor(&["--config", ill.to_str().expect("text")]);
    let found = ills(&ran);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    has(&found, "AGENT", "warning", "no agent");
    has(&found, "LIBVIRT", "error", "/nonexistent");
    has(&found, "MIGRATION_URI", "error", "/none");
    has(&found, "STORE", "error", "/nonexistent/state");
    has(&found, "STORAGE", "error", "`nfs1`");
    has(&found, "MEMORY", "error", "are declared");
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(ran.stderr.contains("5 of"), "{}", ran.stderr);

    // A host whose libvirt has died, seen from the other one.
    cluster.lab().kill_host("h2").expect("killed");
    cluster.lab().start_agent("h2").expect("it starts without libvirt");
    cluster.until(LIMIT, "both agents known to each other again", |cluster| {
        let knows = |host| cluster.status(host).is_some_and(|s| s.members.len() == 1);
        (knows("h1") && knows("h2")).then_some(())
    });
    let ran = doctor(&[&["--cluster"], &socket[..]].concat());
    let found = ills(&ran);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    has(&found, "LIBVIRT", "error", "does not answer");
    assert!(found.iter().any(|(c, h, ..)| c == "MIGRATION_URI" && h == "h2"), "{found:#?}");
    has(&found, "CPU", "warning", "`h2`");
}

#[test]
fn a_key_that_others_may_read_and_a_certificate_that_has_expired_are_found_by_file() {
    let site = Site::new();
    let (open, late) = (site.host("open"), site.stranger("late"));
    let key = open.dir.join("identity/host.key");
    fs::set_permissions(key, PermissionsExt::from_mode(0o644)).expect("changed");
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let expired =
        site.ca.issue_within(&HostId::new("late").expect("an id"), now - 2 * hour, now - hour);
    expired.expect("issued").save(&late.dir.join("identity")).expect("saved");
    for (place, words) in [(open, ["host.key", "mode 0644"]), (late, ["host.crt", "expired"])] {
        place.configure(&[]);
        let config = place.config();
        let config: &Path = config.as_ref();
        let ran = doctor(&["--config", config.to_str().expect("text")]);
        let found = ills(&ran);
        assert_eq!(ran.code, Some(1));
        for word in words {
            has(&found, "IDENTITY", "error", word);
        }
    }
}

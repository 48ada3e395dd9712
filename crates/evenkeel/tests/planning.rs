//! Plans and snapshots, through the program: of files, of running agents, and of libvirt hosts that
//! have no agent.

mod daemon;
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use daemon::{EVENKEEL, Ran, evenkeel};
use serde_json::{Value, json};
use support::{Cluster, LIMIT, alike, idle};

const UNIFORM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/uniform-20x200.json");
const MIXED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/mixed-20x200.json");

fn plan_of(snapshot: &str) -> Ran {
    let mut child = Command::new(EVENKEEL)
        .args(["plan", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(snapshot.as_bytes()).expect("it reads all of it");
    drop(stdin);
    child.wait_with_output().expect("it ends").into()
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(ran.done()).expect("JSON")
}

fn read(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).expect("it is shipped")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// Load of every host by the formula of the format, computed from the JSON alone.
fn loads(snapshot: &Value, places: &BTreeMap<&str, &str>) -> BTreeMap<String, f64> {
    let mut loads = BTreeMap::new();
    for host in list(&snapshot["hosts"]) {
        let (capacity, weights) = (&host["capacity"], &host["weights"]);
        let weight = |r: &str| number(&weights[r]);
        let sum = weight("cpu") + weight("memory") + weight("io");
        let here = list(&snapshot["vms"]).iter().filter(|vm| places[text(&vm["id"])] == host["id"]);
        let load = |vm: &Value| {
            let used = &vm["usage"];
            let cores = number(&capacity["cpu_cores"]) * number(&host["cpu_speed"]);
            let share = |r: &str| number(&used[r]) / number(&capacity[r]);
            (weight("cpu") * number(&used["cpu_cores"]) / cores
                + weight("memory") * share("memory_bytes")
                + weight("io") * share("io_bytes_per_s"))
                / sum
        };
        loads.insert(text(&host["id"]).to_owned(), here.map(load).sum::<f64>());
    }
    loads
}

/// Three hosts of 16 cores and 64 GiB, the first in this state, and machines by name, host, what they
/// use in GiB, what they were promised, and their rules.
fn snapshot(state: &str, machines: &[(&str, &str, f64, f64, Value)]) -> String {
    const GIB: f64 = 1_073_741_824.0;
    let capacity =
        json!({ "cpu_cores": 16.0, "memory_bytes": 64.0 * GIB, "io_bytes_per_s": 1.25e9 });
    let hosts = [("k1", state), ("k2", "active"), ("k3", "active")];
    let hosts = hosts.map(|(id, state)| json!({ "id": id, "state": state, "capacity": capacity }));
    let machine = |(name, host, uses, promised, rules): &(&str, &str, f64, f64, Value)| {
        json!({ "id": name, "host": host, "vcpus": 4, "memory_bytes": promised * GIB, "rules": rules,
            "usage": { "cpu_cores": if *host == "k1" { 1.5 } else { 0.2 },
                "memory_bytes": uses * GIB, "io_bytes_per_s": 0.0 } })
    };
    let machines: Vec<_> = machines.iter().map(machine).collect();
    json!({ "format": "evenkeel.snapshot/v1", "hosts": hosts, "vms": machines }).to_string()
}

#[test]
fn a_plan_says_what_stays_on_a_host_that_is_to_be_emptied_and_that_it_is_not_empty() {
    let apart = || json!({ "anti_affinity": ["etcd"] });
    let ran = plan_of(&snapshot(
        "draining",
        &[
            ("etcd-1", "k1", 4.0, 4.0, apart()),
            ("etcd-2", "k2", 4.0, 4.0, apart()),
            ("etcd-3", "k3", 4.0, 4.0, apart()),
            ("huge", "k1", 40.0, 70.0, json!({})),
            ("free", "k1", 4.0, 4.0, json!({})),
        ],
    ));
    let said = ran.done();
    for line in [
        "host `k1` is to be emptied and is NOT EMPTY: 2 machines stay",
        "`etcd-1` stays: RULE_ANTI_AFFINITY (RULE_ANTI_AFFINITY by 2):",
        "`huge` stays: NO_MEMORY (NO_MEMORY by 2):",
    ] {
        assert!(said.contains(line), "no `{line}` in: {said}");
    }
    let empty = plan_of(&snapshot("draining", &[("free", "k1", 4.0, 4.0, json!({}))]));
    assert!(!empty.done().contains("NOT EMPTY"), "{}", empty.done());
}

#[test]
fn a_plan_that_moves_nothing_says_what_keeps_the_machines() {
    let names: Vec<_> = (0..30).map(|index| format!("m{index}")).collect();
    let machines: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.as_str(), ["k1", "k2", "k3"][index % 3], 2.5, 8.0, json!({})))
        .collect();
    let ran = plan_of(&snapshot("active", &machines));
    let said = ran.done();
    assert!(said.contains("what keeps the machines of `k1`, the most loaded host"), "{said}");
    assert!(said.contains("10 by NO_MEMORY"), "{said}");
}

#[test]
fn a_plan_levels_the_hosts_by_steps_that_each_find_room() {
    for (file, worst_over_bound) in [(UNIFORM, 1.05), (MIXED, 1.2)] {
        let plan = json(&evenkeel(&["plan", "--ideal", file, "--seed", "3", "--format", "json"]));
        assert_eq!((&plan["format"], &plan["seed"]), (&json!("evenkeel.plan/v1"), &json!(3)));
        let snapshot = read(file);
        let mut places: BTreeMap<&str, &str> = BTreeMap::new();
        let mut free: BTreeMap<&str, f64> = BTreeMap::new();
        let mut memory: BTreeMap<&str, f64> = BTreeMap::new();
        for host in list(&snapshot["hosts"]) {
            let has = number(&host["capacity"]["memory_bytes"]);
            free.insert(text(&host["id"]), has - number(&host["reserved_memory_bytes"]));
        }
        for vm in list(&snapshot["vms"]) {
            places.insert(text(&vm["id"]), text(&vm["host"]));
            memory.insert(text(&vm["id"]), number(&vm["memory_bytes"]));
            *free.get_mut(text(&vm["host"])).expect("a host") -= number(&vm["memory_bytes"]);
        }
        let before = loads(&snapshot, &places);
        let mut moved = std::collections::BTreeSet::new();
        for (index, step) in list(&plan["moves"]).iter().enumerate() {
            let (vm, from, to) = (text(&step["vm"]), text(&step["from"]), text(&step["to"]));
            assert_eq!(step["seq"], json!(index + 1));
            let pair_max = |places: &BTreeMap<&str, &str>| {
                let loads = loads(&snapshot, places);
                loads[from].max(loads[to])
            };
            let high = pair_max(&places);
            assert_eq!(places.insert(vm, to), Some(from), "{step} starts elsewhere");
            assert!(pair_max(&places) <= high + 1e-9, "{step} lifts the maximum of its pair");
            assert!(moved.insert(vm), "{vm} moves twice");
            assert!(free[to] >= memory[vm], "{step} has no room");
            *free.get_mut(to).expect("a host") -= memory[vm];
            *free.get_mut(from).expect("a host") += memory[vm];
        }
        let after = loads(&snapshot, &places);
        for (told, loads) in [(&plan["before"], &before), (&plan["after"], &after)] {
            let max = loads.values().copied().fold(0.0, f64::max);
            assert!((number(&told["max"]) - max).abs() < 1e-9, "{file}: {} or {max}", told["max"]);
            for host in list(&told["hosts"]) {
                let load = loads[text(&host["id"])];
                assert!((number(&host["load"]) - load).abs() < 1e-9, "{host} has {load}");
            }
        }
        let over = number(&plan["after"]["max"]) / number(&plan["bounds"]["max"]);
        assert!((1.0 - 1e-9..worst_over_bound).contains(&over), "{file}: {over} of the bound");
    }
}

#[test]
fn the_same_seed_makes_the_same_plan_and_another_policy_another() {
    let plan = |more: &[&str]| {
        let mut plan =
            json(&evenkeel(&[&["plan", "--ideal", UNIFORM, "--format", "json"], more].concat()));
        plan.as_object_mut().expect("an object").remove("elapsed_ms");
        plan
    };
    assert_eq!(plan(&["--seed", "7"]), plan(&["--seed", "7"]));
    let (aware, half) = (plan(&[]), plan(&["--policy", "half-difference"]));
    let count = |plan: &Value| list(&plan["moves"]).len();
    assert!(count(&aware) < count(&half), "{} and {} moves", count(&aware), count(&half));
}

/// Without `--ideal` it is told what agents would do, and when; they leave what is not worth its price.
#[test]
fn a_plan_tells_what_agents_would_do_and_when() {
    let plan =
        |more: &[&str]| json(&evenkeel(&[&["plan", UNIFORM, "--format", "json"], more].concat()));
    let (agents, nothing, ideal) =
        (plan(&[]), plan(&["--aggressiveness", "1"]), plan(&["--ideal"]));
    let ends = number(&agents["ends_s"]);
    let times: Vec<_> = list(&agents["moves"]).iter().map(|m| number(&m["ends_s"])).collect();
    assert!(times.is_sorted() && times.last() == Some(&ends), "{times:?}, {ends}");
    assert!(number(&agents["after"]["max_over_mean"]) < number(&agents["before"]["max_over_mean"]));
    // What is over a ceiling moves by any degree.
    assert!(list(&nothing["moves"]).len() < list(&agents["moves"]).len());
    assert_eq!(&ideal["ends_s"], &Value::Null);
    let table = evenkeel(&["plan", UNIFORM]);
    assert!(table.done().contains("what agents would do: "), "{}", table.done());
}

#[test]
fn people_get_a_table_with_before_and_after_bounds_and_a_reason_for_every_move() {
    let printed = evenkeel(&["plan", UNIFORM]);
    let table = printed.done();
    let plan = json(&evenkeel(&["plan", UNIFORM, "--format", "json"]));
    for part in ["before", "after", "bound", "largest load", "rounds", "messages a host"] {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    for step in list(&plan["moves"]) {
        let line = table.lines().find(|line| line.contains(text(&step["vm"])));
        let line = line.unwrap_or_else(|| panic!("{step} is not in {table}"));
        for part in [&step["from"], &step["to"], &step["reason"]] {
            assert!(line.contains(text(part)), "{line} does not say {part}");
        }
    }
    assert_eq!(printed.stderr, "");
}

/// The smallest snapshot there is, changed at one place.
fn changed(change: impl Fn(&mut Value)) -> String {
    let amounts = |n: f64| json!({ "cpu_cores": n, "memory_bytes": n, "io_bytes_per_s": n });
    let mut snapshot = json!({
        "format": "evenkeel.snapshot/v1",
        "hosts": [{ "id": "h1", "capacity": amounts(8.0) }, { "id": "h2", "capacity": amounts(8.0) }],
        "vms": [{ "id": "v1", "host": "h1", "usage": amounts(1.0) }],
    });
    change(&mut snapshot);
    snapshot.to_string()
}

#[test]
fn a_snapshot_that_cannot_be_used_is_refused_by_what_is_wrong_with_it() {
    assert_eq!(plan_of(&changed(|_| {})).code, Some(0), "everything optional may be left out");
    let whole = changed(|_| {});
    let cut = &whole[..whole.len() / 2];
    let nan = whole.replacen("8.0", "NaN", 1);
    let huge = whole.replacen("8.0", "1e999", 1);
    let twice = |key: &'static str| {
        changed(move |s| {
            let first = s[key][0].clone();
            s[key].as_array_mut().expect("a list").push(first);
        })
    };
    let cases: [(String, &[&str]); 13] = [
        (String::new(), &["it is empty"]),
        ("hosts: []".to_owned(), &["line 1 column 1", "JSON is wanted"]),
        (cut.to_owned(), &["EOF", "line 1"]),
        (nan, &["line 1 column", "plain decimal numbers"]),
        (huge, &["out of range", "line 1 column"]),
        (changed(|s| s["format"] = json!("evenkeel.snapshot/v9")), &["snapshot/v9", "snapshot/v1"]),
        (changed(|s| s["hosts"] = json!([])), &["no hosts"]),
        (twice("hosts"), &["host `h1` is there twice"]),
        (twice("vms"), &["machine `v1` is there twice"]),
        (
            changed(|s| s["vms"][0]["host"] = json!("h9")),
            &["machine `v1`", "host `h9`", "list that host"],
        ),
        (
            changed(|s| s["vms"][0]["usage"]["cpu_cores"] = json!(-1)),
            &["machine `v1`", "usage.cpu_cores", "-1", "not below 0"],
        ),
        (
            changed(|s| s["hosts"][1]["capacity"]["cpu_cores"] = json!(0)),
            &["host `h2`", "capacity of 0 for cpu"],
        ),
        (
            changed(|s| drop(s["vms"][0].as_object_mut().map(|vm| vm.remove("usage")))),
            &["missing field `usage`"],
        ),
    ];
    for (snapshot, says) in cases {
        plan_of(&snapshot).refused(1, &[&["standard input"], says].concat());
    }
    evenkeel(&["plan", "/tmp/no-such-snapshot.json"])
        .refused(1, &["cannot read", "/tmp/no-such-snapshot.json"]);
}

/// The format is extended by adding fields: what a later version knows is no error, and what is
/// mistyped does not pass in silence.
#[test]
fn a_field_that_is_not_read_is_named_and_the_plan_made_all_the_same() {
    let cases = [
        (changed(|s| s["hosts"][0]["cpu_sped"] = json!(2)), "hosts.0.cpu_sped", "cpu_speed"),
        (changed(|s| s["vms"][0]["usage"]["gpu"] = json!(2)), "vms.0.usage.gpu", "cpu_cores"),
    ];
    for (snapshot, field, hint) in cases {
        let printed = plan_of(&snapshot);
        printed.done();
        for part in ["warning:", "standard input", field, hint] {
            assert!(printed.stderr.contains(part), "`{}` does not say `{part}`", printed.stderr);
        }
    }
}

#[test]
fn wrong_flags_of_plan_and_snapshot_end_with_2() {
    let cases: [(&[&str], &str); 6] = [
        (&["plan", UNIFORM, "-c", "qemu:///system"], "cannot be used with"),
        (&["plan", UNIFORM, "--seed", "x"], "'x'"),
        (&["plan", UNIFORM, "--policy", "best"], "mean-aware, half-difference"),
        (&["plan", "-c", "kvm1"], "qemu+ssh://kvm1/system"),
        (&["plan", "-c", "qemu:///system", "--interval", "1ms"], "500ms"),
        (&["snapshot", "--format", "table"], "--format"),
    ];
    for (arguments, says) in cases {
        evenkeel(arguments).refused(2, &[says]);
    }
}

#[test]
fn hosts_that_cannot_be_read_are_named_by_how_they_were_to_be_reached() {
    let nowhere = "qemu+unix:///session?socket=/tmp/no-libvirt-here";
    for command in ["plan", "snapshot"] {
        evenkeel(&[command, "-c", &format!("h1={nowhere}")])
            .refused(1, &["host `h1`", nowhere, "No such file", "virsh -r -c"]);
    }
    evenkeel(&["snapshot", "--socket", "/tmp/no-agent-here.sock"])
        .refused(1, &["no agent answers at", "/tmp/no-agent-here.sock"]);
}

/// Everything that libvirt says of the guests, as far as nothing of it changes by itself.
fn definitions(cluster: &Cluster) -> Vec<String> {
    let hosts = cluster.hosts().iter();
    let guests =
        hosts.flat_map(|host| cluster.domains(host).into_iter().map(move |guest| (host, guest)));
    guests
        .map(|(host, guest)| {
            format!("{host}: {}", cluster.dumpxml(host, &guest, false).expect("XML"))
        })
        .collect()
}

#[test]
fn libvirt_hosts_without_agents_are_planned_for_and_nothing_is_changed() {
    let names = ["a", "b", "c", "d"];
    let guests = names.iter().map(|name| idle(name, "h1")).collect();
    let cluster =
        Cluster::try_up(alike(2, 1.0), guests, None).unwrap_or_else(|error| panic!("{error}"));
    for name in names {
        let running = cluster.lab().await_report(name, LIMIT);
        running.unwrap_or_else(|error| panic!("{error}"));
    }
    let before = definitions(&cluster);
    let source = |host: &str| format!("{host}={}", cluster.lab().uri(host).expect("a URI"));
    let (h1, h2) = (source("h1"), source("h2"));

    let plan = evenkeel(&["plan", "--ideal", "-c", &h1, "-c", &h2, "--format", "json"]);
    for part in ["2 hosts over libvirt, read-only", "host h1: 4 machines", "host h2: 0 machines"] {
        assert!(plan.stderr.contains(part), "`{}` does not say `{part}`", plan.stderr);
    }
    let plan = json(&plan);
    let moves = list(&plan["moves"]);
    assert!(!moves.is_empty(), "{plan}");
    for step in moves {
        assert_eq!((&step["from"], &step["to"]), (&json!("h1"), &json!("h2")));
    }
    assert!(number(&plan["after"]["max"]) < number(&plan["before"]["max"]));

    let snapshot = evenkeel(&["snapshot", "-c", &h1, "-c", &h2]);
    let planned = json(&snapshot);
    let mut found: Vec<_> = list(&planned["vms"]).iter().map(|vm| text(&vm["name"])).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    for vm in list(&planned["vms"]) {
        assert!(number(&vm["usage"]["memory_bytes"]) > 0.0, "{vm}");
    }
    plan_of(snapshot.done()).done();

    assert_eq!(definitions(&cluster), before);
    evenkeel(&[
        "plan",
        "-c",
        &h1,
        "-c",
        &format!("other={}", cluster.lab().uri("h1").expect("a URI")),
    ])
    .refused(1, &["runs on `h1` and on `other`", "same host given twice"]);
    cluster.assert_unharmed(&names);
}

#[test]
fn agents_tell_what_a_plan_needs_of_their_hosts() {
    let cluster =
        Cluster::up(alike(1, 1.0), vec![idle("a", "h1")], "[balance]\nsample = '400ms'\n");
    let socket = cluster.lab().agent_socket("h1");
    let known = |snapshot: &Value| {
        let vms = list(&snapshot["vms"]);
        (vms.len() == 1 && vms[0]["movable"] == json!(true)).then(|| vms[0].clone())
    };
    let machine = cluster.until(LIMIT, "the agent has measured", |_| {
        known(&json(&evenkeel(&["snapshot".as_ref(), "--socket".as_ref(), socket.as_os_str()])))
    });
    assert_eq!((text(&machine["name"]), text(&machine["host"])), ("a", "h1"));
    for field in [&machine["memory_bytes"], &machine["vcpus"], &machine["usage"]["memory_bytes"]] {
        assert!(number(field) > 0.0, "{machine}");
    }
}

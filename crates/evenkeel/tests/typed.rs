//! Commands as people type them: about the asked host itself, about a host that is silent, on narrow
//! screens, in other locales, into pipes that nobody reads and onto disks that are full.

mod support;

use std::fs::File;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{Cluster, EVENKEEL, LIMIT, alike};

/// What a command printed.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

fn command(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = Command::new(EVENKEEL);
    command.args(words).arg("--socket").arg(cluster.lab().agent_socket("h1"));
    command
}

fn typed(cluster: &Cluster, words: &[&str]) -> Ran {
    command(cluster, words).output().expect("it starts").into()
}

/// Every command that shows something of a cluster.
const SHOWING: [&[&str]; 7] = [
    &["status"],
    &["top", "--times", "1"],
    &["history", "--all"],
    &["doctor", "--cluster"],
    &["explain", "host"],
    &["recommendations"],
    &["plan"],
];

#[test]
fn commands_say_what_they_know_wherever_and_however_they_are_typed() {
    let cluster = Cluster::up(alike(2, 1.0), Vec::new(), "");
    cluster.until(LIMIT, "both hosts known to each other", |cluster| {
        let knows = |host| cluster.status(host).is_some_and(|s| s.members.len() == 1);
        (knows("h1") && knows("h2") && cluster.loads().is_some()).then_some(())
    });
    // A host is asked by its name, also the one that is asked anyway: `for h in h1 h2; do … --host $h`.
    for host in ["h1", "h2"] {
        for words in [
            &["status"][..],
            &["history"],
            &["doctor"],
            &["explain", "last"],
            &["explain", "host"],
            &["recommendations"],
            &["cordon"],
            &["uncordon"],
        ] {
            if host == "h2" && words[0].ends_with("cordon") {
                continue; // It takes no orders from others.
            }
            let ran = typed(&cluster, &[words, &["--host", host]].concat());
            let why = format!("{words:?} --host {host}: {}", ran.stderr);
            // A directory of tests may be in memory, of which the doctor warns.
            assert!(ran.code == Some(0), "{why}");
        }
    }
    let planned = typed(&cluster, &["plan", "--format", "json"]);
    let plan: Value = serde_json::from_str(&planned.stdout).expect("JSON");
    assert!(plan["moves"].is_array(), "{}", planned.stderr);
    assert!(planned.stderr.contains("host h1") && planned.stderr.contains("host h2"));

    for words in SHOWING {
        on_a_narrow_screen(&cluster, words);
        into_nothing(&cluster, words);
    }

    // A member that dies stays a member, everywhere.
    cluster.lab().kill_agent("h2").expect("killed");
    cluster.until(LIMIT, "its silence", |cluster| {
        let status = cluster.status("h1")?;
        (status.members.is_empty() && status.silent.len() == 1).then_some(())
    });
    for (words, code, says) in [
        (&["status"][..], 0, &["SILENT: h2 since 20"][..]),
        (&["top", "--times", "1"], 0, &["2 hosts", "h2", "no answer"]),
        (&["history"], 0, &["host h2 is missing"]),
        (&["doctor"], 1, &["host `h2` has not answered", "cluster remove h2"]),
        (&["doctor", "--cluster"], 1, &["h2", "errors"]),
        (&["recommendations"], 0, &["host `h2` is silent since 20"]),
        (&["plan"], 0, &["host h2 is left out", "1 hosts"]),
    ] {
        let ran = typed(&cluster, words);
        let said = ran.stdout + &ran.stderr;
        assert_eq!(ran.code, Some(code), "{words:?}: {said}");
        for part in says {
            assert!(said.contains(part), "{words:?} does not say `{part}`: {said}");
        }
    }
}

/// Nothing is wider than the screen, and where the locale has only ASCII nothing else is drawn.
fn on_a_narrow_screen(cluster: &Cluster, words: &[&str]) {
    for columns in ["60", "80", "200"] {
        let ran: Ran = command(cluster, words)
            .env("COLUMNS", columns)
            .env("LC_ALL", "C")
            .env("NO_COLOR", "1")
            .output()
            .expect("it starts")
            .into();
        let width: usize = columns.parse().expect("a number");
        for line in ran.stdout.lines().filter(|line| line.starts_with(['|', '+', '│', '┌'])) {
            assert!(line.chars().count() <= width, "{words:?} at {columns}: {line}");
            assert!(line.is_ascii(), "{words:?} in C: {line}");
        }
        assert!(!ran.stdout.contains('\x1b'), "{words:?}: {}", ran.stdout);
    }
}

/// A disk that is full is an error with words; a reader that has seen enough is none.
fn into_nothing(cluster: &Cluster, words: &[&str]) {
    let full = File::options().write(true).open("/dev/full").expect("it is there");
    let ran = command(cluster, words).stdout(full).stderr(Stdio::piped()).output();
    let ran: Ran = ran.expect("it starts").into();
    assert_eq!(ran.code, Some(1), "{words:?}: {}", ran.stderr);
    assert!(ran.stderr.contains("No space left on device"), "{words:?}: {}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{words:?}: {}", ran.stderr);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ran = command(cluster, words).stdout(writer).stderr(Stdio::piped()).output();
    let ran: Ran = ran.expect("it starts").into();
    assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("error"), "{}", ran.stderr);
    let silent = File::options().write(true).open("/dev/full").expect("it is there");
    let ran = command(cluster, words).stdout(Stdio::null()).stderr(silent).status();
    assert_eq!(
        ran.expect("it starts").code(),
        Some(0),
        "{words:?} with a standard error that is full"
    );
}

//! What is installed beside the program.

mod skips;

use std::process::Command;

/// Exposure in `systemd-analyze`'s tenths: it calls up to 20 "OK" and above 40 "MEDIUM".
const EXPOSURE_MAX: &str = "20";

#[test]
fn the_systemd_unit_is_a_tight_sandbox() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/evenkeel.service");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let analyze = ["security", "--offline=true", "--no-pager", &threshold, unit];
    match Command::new("systemd-analyze").args(analyze).output() {
        Ok(ran) => {
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains("Overall exposure"), "{ran:?}");
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            // Elsewhere than where systemd is, nobody can tell.
            skips::skip("`systemd-analyze` is not installed");
        }
        Err(e) => panic!("cannot run systemd-analyze: {e}"),
    }
}

/// The unit that empties a host before it is shut down runs a command that there is, is stopped while
/// everything is still there that the command needs, and is given the time that it takes.
#[test]
fn the_unit_that_empties_a_host_is_stopped_before_what_it_needs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/evenkeel-drain.service");
    let unit = std::fs::read_to_string(path).expect("the unit is there");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key} in {path}"))
    };
    for needed in ["evenkeel.service", "libvirtd.service", "libvirt-guests.service"] {
        assert!(value("After").split(' ').any(|unit| unit == needed), "not before {needed}");
    }
    assert!(!unit.contains("Requires="), "an agent that is restarted must not empty its host");
    let mut words = value("ExecStop").split(' ');
    assert_eq!(words.next(), Some("-/usr/bin/evenkeel"));
    let ran = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(words)
        .args(["--socket", "/tmp/no-agent-here.sock"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(1) && said.contains("no agent answers"), "{said}");
}

/// One program for hosts and for laptops: it starts where there is no libvirt.
#[test]
fn the_program_is_not_linked_with_libvirt() {
    let read = Command::new("readelf").args(["-d", env!("CARGO_BIN_EXE_evenkeel")]).output();
    let read = read.expect("readelf comes with the compiler");
    let needed = String::from_utf8_lossy(&read.stdout);
    assert!(needed.contains("NEEDED") && needed.contains("libc.so"), "{read:?}");
    // A function that the table of `ffi/sys.rs` lacks is linked, and named here.
    let read = Command::new("nm").args(["-D", "-u", env!("CARGO_BIN_EXE_evenkeel")]).output();
    let undefined = read.expect("nm comes with the compiler").stdout;
    let undefined = String::from_utf8_lossy(&undefined);
    let linked: Vec<_> = undefined.lines().filter(|line| line.contains(" vir")).collect();
    assert!(!needed.contains("libvirt") && linked.is_empty(), "{linked:?}, {needed}");
}

#[test]
fn where_there_is_no_libvirt_the_program_says_which_package_to_install() {
    // An empty file in the place of the library, for this process alone.
    let hide = "mount --bind /dev/null \"$(ldconfig -p | sed -n 's/.*libvirt.so.0 .*=> //p')\"";
    let hidden = Command::new("unshare").args(["--mount", "sh", "-c", hide]).output();
    if !hidden.is_ok_and(|hidden| hidden.status.success()) {
        return skips::skip("nobody may mount here");
    }
    let run = format!("{hide} && exec \"$0\" snapshot -c qemu:///system");
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", &run, env!("CARGO_BIN_EXE_evenkeel")])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    for word in ["libvirt is not installed", "`libvirt0`", "`libvirt-libs`"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
}

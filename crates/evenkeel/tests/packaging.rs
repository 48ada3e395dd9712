//! What is installed beside the program.

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
            eprintln!("SKIPPED: `systemd-analyze` is not installed");
        }
        Err(e) => panic!("cannot run systemd-analyze: {e}"),
    }
}

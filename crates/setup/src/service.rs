//! The agent as a service of systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::group_of_qemu;
use crate::error::{Attempt, SetupError};
use crate::undo::Undo;

/// The service.
pub(crate) const UNIT: &str = "evenkeel.service";
/// Where the unit of a package, or of somebody who builds the program, may be.
const UNIT_DIRS: [&str; 3] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// What this host adds to it.
const DROP_IN: &str = "/etc/systemd/system/evenkeel.service.d/host.conf";
/// What AppArmor lets QEMU do, and what this host adds to that. Later versions of libvirt include the
/// package's own file besides.
const APPARMOR: &str = "/etc/apparmor.d/abstractions/libvirt-qemu";
const APPARMOR_LOCAL: &str = "/etc/apparmor.d/local/abstractions/libvirt-qemu";
const APPARMOR_RULE: &str = "/run/evenkeel/handoffs/** rw,";
/// Lines of the agent's log that are shown when it does not start.
const LINES: &str = "12";

/// Whether systemd runs this host and has the service.
#[must_use]
pub fn is_managed() -> bool {
    let has_unit = UNIT_DIRS.iter().any(|dir| Path::new(dir).join(UNIT).exists());
    Path::new("/run/systemd/system").is_dir() && has_unit
}

/// Says in which group QEMU runs on this host, enables the service and starts it. It is up when this
/// returns: the agent says when it is.
pub(crate) fn start(undo: &mut Undo) -> Result<(), SetupError> {
    if let Some(group) = group_of_qemu() {
        let path = PathBuf::from(DROP_IN);
        let dir = path.parent().unwrap_or(&path).to_owned();
        undo.dir(&dir);
        undo.file(&path);
        let text = format!(
            "# Written by `evenkeel init`: QEMU runs in this group (`group` in /etc/libvirt/qemu.conf),\n\
             # and agents share the sockets of machines that arrive with it.\n\
             [Service]\nGroup={group}\n"
        );
        fs::create_dir_all(&dir).attempt("make", &dir)?;
        fs::write(&path, text).attempt("write", &path)?;
    }
    let_qemu_reach_sockets(undo)?;
    undo.act(|| {
        // What was enabled or started is not, and whatever else went wrong is said already.
        let _ = systemctl(&["disable", "--now", UNIT]);
        let _ = systemctl(&["reset-failed", UNIT]);
    });
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNIT])?;
    systemctl(&["restart", UNIT])
}

/// Where AppArmor confines QEMU and does not read the package's rule for it, adds that rule.
fn let_qemu_reach_sockets(undo: &mut Undo) -> Result<(), SetupError> {
    let path = Path::new(APPARMOR_LOCAL);
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let (rules, own) = (read(Path::new(APPARMOR)), read(path));
    if !rules.contains("local/abstractions/libvirt-qemu") || knows_rule(&rules, &own) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(path);
    undo.dir(dir);
    undo.file(path);
    undo.restore(path);
    fs::create_dir_all(dir).attempt("make", dir)?;
    fs::write(path, format!("{own}{APPARMOR_RULE}\n")).attempt("write", path)
}

/// Whether QEMU is let to the sockets of migrations already.
fn knows_rule(rules: &str, own: &str) -> bool {
    rules.contains("abstractions/libvirt-qemu.d") || own.contains(APPARMOR_RULE)
}

/// Stops the service; it is not started at boot either.
pub(crate) fn stop() -> Result<(), SetupError> {
    systemctl(&["disable", "--now", UNIT])
}

/// Whether it runs.
pub(crate) fn is_active() -> bool {
    is_managed() && systemctl(&["is-active", UNIT]).is_ok()
}

fn systemctl(words: &[&str]) -> Result<(), SetupError> {
    let line = format!("systemctl {}", words.join(" "));
    let ran = Command::new("systemctl").arg("--quiet").args(words).output();
    let ran = ran.attempt("run", Path::new("systemctl"))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    let why = format!("`{line}` failed: {said}");
    Err(SetupError::Service { why, journal: journal() })
}

/// What the agent has said last.
pub(crate) fn journal() -> String {
    let words = ["--unit", UNIT, "--no-pager", "--output", "cat", "--lines", LINES];
    let ran = Command::new("journalctl").args(words).output();
    ran.map(|ran| String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_added_where_nothing_else_has_it() {
        let old = "  #include <local/abstractions/libvirt-qemu>\n";
        let new = "  include if exists <abstractions/libvirt-qemu.d>\n";
        assert!(!knows_rule(old, "") && !knows_rule(old, "/srv/vm/** rw,\n"));
        assert!(knows_rule(new, "") && knows_rule(old, "/run/evenkeel/handoffs/** rw,\n"));
    }
}

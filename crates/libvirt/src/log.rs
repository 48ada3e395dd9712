//! What libvirt has written into a machine's log of how its QEMU ended.
//!
//! libvirt forgets why a domain is off when it is started again, and so after every boot. The log of the
//! domain keeps it: a line when QEMU is started, and one when it has ended, with the reason. That a
//! machine left is believed only if the log says so last; a log that is missing, cannot be read or has
//! lost its end in a power cut proves nothing.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// How much of the end of a log is looked at.
const TAIL_BYTES: u64 = 64 << 10;

/// Whether the log says last of this machine that it ended because it was migrated away.
pub(crate) fn tells_that_it_left(name: &str) -> bool {
    if name.is_empty() || name.contains('/') {
        return false;
    }
    let home =
        |variable, rest: &str| std::env::var_os(variable).map(|dir| PathBuf::from(dir).join(rest));
    let session = home("XDG_CACHE_HOME", "libvirt/qemu/log")
        .or_else(|| home("HOME", ".cache/libvirt/qemu/log"));
    // Where both have one, neither is known to be the right one.
    let dirs = [Some(PathBuf::from("/var/log/libvirt/qemu")), session];
    let logs = dirs.into_iter().flatten().map(|dir| dir.join(format!("{name}.log")));
    let mut found = logs.filter_map(|path| tail(&path).ok());
    let (Some(log), None) = (found.next(), found.next()) else { return false };
    says_last_that_it_left(&log)
}

fn tail(path: &PathBuf) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn says_last_that_it_left(log: &str) -> bool {
    // QEMU and its guest may write there, too: only what has the form of libvirt's own lines counts.
    let of_libvirt =
        |line: &&str| line.len() > 24 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    let of_its_life =
        |line: &&str| line.contains(": starting up") || line.contains(": shutting down, reason=");
    let last = log.lines().filter(of_libvirt).rfind(of_its_life);
    last.is_some_and(|line| line.ends_with(": shutting down, reason=migrated"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_log_that_says_so_last_proves_that_a_machine_left() {
        let start = "2026-11-30 01:00:00.000+0000: starting up libvirt version: 9.0.0\n";
        let noise = "char device redirected to /dev/pts/1 (label charserial0)\n";
        let end = |why| format!("2026-11-30 01:00:09.123+0000: shutting down, reason={why}\n");
        for (log, left) in [
            (format!("{start}{noise}{}", end("migrated")), true),
            (format!("{start}{}{noise}", end("migrated")), true),
            (format!("{}{start}", end("migrated")), false),
            (format!("{start}{}", end("shutdown")), false),
            (format!("{start}{}{}", end("migrated"), end("crashed")), false),
            (format!("{start}qemu: x: shutting down, reason=migrated\n"), false),
            (start.to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(says_last_that_it_left(&log), left, "{log}");
        }
        assert!(!tells_that_it_left("../../etc/passwd") && !tells_that_it_left(""));
    }
}

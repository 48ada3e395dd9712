//! Whether a socket is that of the process that libvirt runs a machine in.
//!
//! Every QEMU of a host runs as the same user, so that one that a guest has escaped into can put a socket
//! of its own in the place of another machine's. The kernel tells which process listens at a socket, and
//! libvirt writes down which process runs which machine, where only its own user may write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evenkeel_core::model::MachineId;
use tokio::net::UnixStream;

/// The process that runs a machine of this host.
pub(super) struct Emulator {
    /// Where libvirt listens.
    pub(super) libvirt: PathBuf,
    pub(super) machine: MachineId,
    pub(super) name: String,
}

impl Emulator {
    /// Whether it is what calls.
    ///
    /// # Errors
    /// When it is another process.
    pub(super) fn calls(&self, socket: &UnixStream) -> io::Result<()> {
        runs(socket.peer_cred()?.pid(), &self.libvirt, &self.machine, &self.name)
    }
}

/// Whether the process that listens, or calls, is the one that runs the machine.
///
/// # Errors
/// When it is another one, or it is not told which one listens.
pub(super) fn runs(
    listener: Option<i32>,
    libvirt: &Path,
    machine: &MachineId,
    name: &str,
) -> io::Result<()> {
    let Some(pid) = listener.filter(|pid| *pid > 0) else {
        return Err(io::Error::other("the kernel does not tell which process is at that socket"));
    };
    let found = match written(libvirt, name) {
        Some(running) => running == pid,
        None => is_told(pid, machine),
    };
    let other = || {
        let why =
            format!("process {pid}, which is at that socket, does not run machine `{machine}`");
        io::Error::new(io::ErrorKind::PermissionDenied, why)
    };
    if found { Ok(()) } else { Err(other()) }
}

/// The process that libvirt says runs a machine, if it says so beside its socket.
fn written(libvirt: &Path, name: &str) -> Option<i32> {
    // Another host says the name; libvirt takes none with a slash.
    if name.contains('/') {
        return None;
    }
    let beside = libvirt.parent()?.join("qemu");
    // Of the whole host, and of a user.
    let files = [beside.join(format!("{name}.pid")), beside.join(format!("run/{name}.pid"))];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
    text.trim().parse().ok()
}

/// Whether libvirt has told a process the UUID of the machine as its argument. A process can overwrite
/// its arguments: this is for libvirt daemons whose own word is not found.
fn is_told(pid: i32, machine: &MachineId) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
    arguments.windows(2).any(|pair| pair == [b"-uuid".as_slice(), machine.as_str().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

    #[test]
    fn only_the_process_that_libvirt_names_counts() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("libvirt-sock");
        let machine = MachineId::new(MACHINE).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let runs = |pid| runs(pid, &socket, &machine, "web").is_ok();
        assert!(!runs(Some(own)), "a process without that argument");
        assert!(!runs(None) && !runs(Some(0)));
        for place in ["qemu", "qemu/run"] {
            fs::create_dir_all(dir.path().join(place)).unwrap();
            let file = dir.path().join(place).join("web.pid");
            fs::write(&file, format!("{own}\n")).unwrap();
            assert!(runs(Some(own)), "{place}");
            assert!(!runs(Some(own + 1)), "{place}");
            fs::remove_file(&file).unwrap();
        }
        let outside = dir.path().join("outside.pid");
        fs::write(&outside, format!("{own}\n")).unwrap();
        assert_eq!(written(&socket, "../outside"), None);
    }
}

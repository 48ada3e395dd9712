//! What guests boot: the distribution's kernel, its drivers, busybox, and the program that proves
//! that the guest lives.

use std::fs;
use std::path::Path;

use crate::command::run;
use crate::error::{Attempt, RigError};

const PROOF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/proof"));
const INIT: &str = include_str!("../../../guest/linux/init");
/// Drivers, of which the kernel may have some built in.
const DRIVERS: &[&str] = &[
    "virtio_pci",
    "virtio_balloon",
    "virtio_blk",
    "virtio_net",
    "ext4",
    "crc32c_generic",
    "virtio_scsi",
    "sr_mod",
    "isofs",
];

/// Writes `vmlinuz` and `initramfs` into a directory, from a kernel package that was unpacked.
pub(crate) fn build(kernel: &Path, to: &Path) -> Result<(), RigError> {
    let modules = kernel.join("lib/modules");
    let mut versions = fs::read_dir(&modules).attempt("read", &modules)?.flatten();
    let version = versions.next().ok_or_else(|| RigError::Unfit {
        reason: format!("there is no kernel in {}", kernel.display()),
        hint: "run scripts/setup".to_owned(),
    })?;
    let version = version.file_name().to_string_lossy().into_owned();
    let image = kernel.join("boot").join(format!("vmlinuz-{version}"));
    fs::copy(&image, to.join("vmlinuz")).attempt("copy", &image)?;

    let root = to.join("root");
    for dir in ["bin", "proc", "sys", "dev", "data", "cd", "lib"] {
        fs::create_dir_all(root.join(dir)).attempt("make", root.join(dir))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).attempt("copy", "/bin/busybox")?;
    write_program(&root.join("bin/proof"), PROOF)?;
    write_program(&root.join("init"), INIT.as_bytes())?;
    copy_drivers(kernel, &version, &root)?;
    pack(&root, &to.join("initramfs"))?;
    fs::remove_dir_all(&root).attempt("remove", &root)
}

fn write_program(path: &Path, content: &[u8]) -> Result<(), RigError> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).attempt("write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).attempt("make a program of", path)
}

/// Copies the drivers and what they need, and lists them in the order in which they load.
fn copy_drivers(kernel: &Path, version: &str, root: &Path) -> Result<(), RigError> {
    let kernel = kernel.display().to_string();
    let mut list = Vec::<String>::new();
    for driver in DRIVERS {
        let query = ["modprobe", "-d", &kernel, "-S", version, "--show-depends", driver];
        for line in run(&query)?.lines() {
            let Some(path) = line.strip_prefix("insmod ").map(str::trim) else { continue };
            let name = path.rsplit('/').next().unwrap_or(path);
            let inside = format!("/lib/{name}");
            if !list.contains(&inside) {
                fs::copy(path, root.join("lib").join(name)).attempt("copy", path)?;
                list.push(inside);
            }
        }
    }
    let order = root.join("modules");
    fs::write(&order, list.join("\n") + "\n").attempt("write", &order)
}

fn pack(root: &Path, to: &Path) -> Result<(), RigError> {
    let script = "cd \"$1\" && find . | cpio --quiet -o -H newc >\"$2\"";
    let (root, to) = (root.display().to_string(), to.display().to_string());
    run(&["sh", "-c", script, "sh", &root, &to]).map(drop)
}

//! Compiles the guest in `guest/`, so that the program carries its own guest image.
//!
//! Only on x86_64 Linux; elsewhere the image stays empty, and bringing up a lab says why it cannot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// `-m32` code generation needs no 32-bit libraries, because nothing is linked to it.
const FLAGS: &[&str] = &[
    "-m32",
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
    "-mgeneral-regs-only",
    "-mno-red-zone",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",
    "-s",
    "-Wl,--build-id=none",
    "-Wl,-z,max-page-size=0x1000",
    "-Wl,--no-warn-rwx-segments",
];

fn main() {
    // Asked when it runs: a build directory that two checkouts share runs one program for both.
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let guest = here.join("../../guest");
    let image =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("guest.elf");
    println!("cargo::rerun-if-changed={}", guest.display());
    println!("cargo::rerun-if-env-changed=CC");
    let target = |part| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("ARCH") == "x86_64" && target("OS") == "linux" {
        compile(&guest, &image);
    } else {
        fs::write(&image, []).expect("OUT_DIR is writable");
    }
}

fn compile(guest: &Path, image: &Path) {
    let compiler = env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    let status = Command::new(&compiler)
        .args(FLAGS)
        .arg(format!("-Wl,-T,{}", guest.join("link.ld").display()))
        .args(["boot.S", "hardware.c", "main.c", "memory.c", "text.c"].map(|file| guest.join(file)))
        .arg("-o")
        .arg(image)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            panic!("`{compiler}` could not compile the guest in {}: {status}", guest.display())
        }
        Err(error) => panic!(
            "cannot run `{compiler}` to compile the guest: {error} (hint: run scripts/setup)"
        ),
    }
}

//! Compiles the guests' program in `guest/linux/`: static, for an initramfs that holds no library.
//!
//! Only on x86_64 Linux; elsewhere it stays empty, and bringing up a rig says why it cannot.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const FLAGS: &[&str] =
    &["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-s"];

fn main() {
    // Asked when it runs: a build directory that two checkouts share runs one program for both.
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let source = here.join("../../guest/linux/proof.c");
    let program = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("proof");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=CC");
    let target = |part| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("ARCH") != "x86_64" || target("OS") != "linux" {
        fs::write(&program, []).expect("OUT_DIR is writable");
        return;
    }
    let compiler = env::var("CC").unwrap_or_else(|_| "gcc".to_owned());
    let mut command = Command::new(&compiler);
    match command.args(FLAGS).arg("-o").arg(&program).arg(&source).status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("`{compiler}` could not compile {}: {status}", source.display()),
        Err(error) => panic!("cannot run `{compiler}`: {error} (hint: run scripts/setup)"),
    }
}

//! Hosts with systemd and system-mode libvirt on one machine, in namespaces of their own.
//!
//! A *rig* is what the lab is not: each host is a root file system with systemd as PID 1 and the
//! libvirt of the distribution in system mode, so that the shipped unit of the agent runs
//! unchanged. A host has mount, network, UTS, IPC, PID and cgroup namespaces, and its own address
//! on a bridge that all hosts share. Its root is an overlay over the root of this machine, or over
//! another directory, with what it writes in memory. Guests are a Linux kernel of the distribution
//! with a program that proves its own life, memory and disk (`guest/linux/`).
//!
//! ```text
//! network namespace NAME-sw: bridge sw0, 10.77.0.254 ◀── tests speak to guests from here
//!    ├── NAME-h1: br0 10.77.0.1 ── systemd ── libvirtd ── QEMU ── guest 10.77.0.101
//!    │                                └────── agent, by dist/evenkeel.service
//!    ├── NAME-h2: br0 10.77.0.2 …
//! ```
//!
//! Everything that a rig makes bears its name: namespaces, cgroups, and one directory, on which an
//! in-memory file system is mounted. So [`Rig::sweep`] finds what a rig left that was killed, with
//! no record that could be stale. Nothing outside these is touched.

mod command;
mod domain;
mod error;
mod guest;
mod host;
mod initramfs;
mod network;
mod rig;

pub use domain::Domain;
pub use error::RigError;
pub use guest::{Figures, Guest};
pub use host::{Host, Output};
pub use rig::{Rig, Spec};

/// Port at which a guest echoes what it receives.
pub const ECHO_PORT: u16 = 7000;

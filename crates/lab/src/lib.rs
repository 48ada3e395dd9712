//! Several libvirt hosts on one machine, with guests that burn what they are told.
//!
//! A *lab* is a directory, a supervisor process, and for every host a libvirt daemon in session
//! mode with directories and a UUID of its own. Nothing in it runs as root: root's labs run as
//! `nobody`. Guests are the few kilobytes in `guest/`, compiled into this crate; their consoles
//! prove that they lived through what was done to them.
//!
//! ```text
//! Lab (any process) ──────── lab.json, control.sock ───────▶ supervisor ──▶ libvirtd per host ──▶ QEMU per guest
//!    └── virsh: define, start, migrate ──────────────────────────────────────▲   └──▶ agent per host
//! ```
//!
//! The supervisor is the child subreaper of everything below it, owns [`lab.json`](Lab::status),
//! and takes everything down in order on `SIGTERM`. If it is killed itself, [`Lab::down`] finds
//! what is left by the numbers and start times in the file, and touches nothing else.

mod agents;
mod capacity;
mod console;
mod domain;
mod error;
mod lab;
mod layout;
mod libvirtd;
mod machine;
mod process;
mod spec;
mod state;
mod supervisor;
mod terminal;
mod up;
mod user;
mod view;
mod virsh;

pub use capacity::Capacity;
pub use console::{Console, Report, Verdict};
pub use error::LabError;
pub use lab::{HostStatus, Lab, Launcher, Progress, Status};
pub use machine::Acceleration;
pub use spec::{AgentsSpec, Dirty, GuestSpec, HostSpec, LabSpec, Weights};
pub use state::Phase;
pub use supervisor::supervise;

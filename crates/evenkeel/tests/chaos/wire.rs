//! A cable between two hosts: each has a network namespace of its own, with nothing in it but one end.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The port of both agents.
const PORT: u16 = 7946;
/// What is sent to this address arrives nowhere.
const NOBODY: &str = "02:00:00:00:00:fe";

/// A cable, and the namespaces at its ends.
pub struct Wire {
    ends: [End; 2],
}

struct End {
    namespace: String,
    address: &'static str,
    hardware: &'static str,
}

/// How a wire fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is pulled, and both ends see it.
    Pulled,
    /// It carries nothing, and no end is told so.
    Silent,
    /// It carries nothing from this end, the first or the second, and all that is sent to it.
    OneWay(usize),
}

impl Wire {
    /// Lays one, if this user may.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn lay() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let end = |name, address, hardware| {
            let namespace = format!("evenkeel-{}-{number}{name}", std::process::id());
            End { namespace, address, hardware }
        };
        let ends = [
            end("a", "198.18.0.1", "02:00:00:00:00:01"),
            end("b", "198.18.0.2", "02:00:00:00:00:02"),
        ];
        // From here on whatever was made is removed again.
        let wire = Self { ends };
        let [a, b] = &wire.ends;
        for end in [a, b] {
            ip(&["netns", "add", &end.namespace])?;
        }
        let there = ["peer", "name", "wire", "netns", &b.namespace];
        ip(&[&["-n", &a.namespace, "link", "add", "wire", "type", "veth"], &there[..]].concat())?;
        for end in [a, b] {
            let address = format!("{}/24", end.address);
            ip(&["-n", &end.namespace, "address", "add", &address, "dev", "wire"])?;
            ip(&["-n", &end.namespace, "link", "set", "wire", "address", end.hardware])?;
            ip(&["-n", &end.namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", &end.namespace, "link", "set", "wire", "up"])?;
        }
        wire.mend();
        Ok(wire)
    }

    /// The namespace at an end, the first or the second.
    pub fn namespace(&self, end: usize) -> &str {
        &self.ends[end].namespace
    }

    /// Where the agent at an end listens.
    pub fn address(&self, end: usize) -> SocketAddr {
        let address = self.ends[end].address.parse().expect("an address");
        SocketAddr::new(address, PORT)
    }

    pub fn cut(&self, fault: Fault) {
        match fault {
            Fault::Pulled => self.set("down"),
            Fault::Silent => [0, 1].into_iter().for_each(|end| self.speak_to(end, NOBODY)),
            Fault::OneWay(end) => self.speak_to(end, NOBODY),
        }
    }

    pub fn mend(&self) {
        self.set("up");
        for end in [0, 1] {
            self.speak_to(end, self.ends[1 - end].hardware);
        }
    }

    fn set(&self, state: &str) {
        must(&["-n", &self.ends[0].namespace, "link", "set", "wire", state]);
    }

    /// Has an end send what is for the other to a network card, of that one or of nobody.
    fn speak_to(&self, end: usize, hardware: &str) {
        let (namespace, other) = (&self.ends[end].namespace, self.ends[1 - end].address);
        let card = ["lladdr", hardware, "nud", "permanent", "dev", "wire"];
        must(&[&["-n", namespace, "neighbour", "replace", other], &card[..]].concat());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in &self.ends {
            // One that was not made cannot be removed.
            let _ = ip(&["netns", "delete", &end.namespace]);
        }
    }
}

#[track_caller]
fn must(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|error| panic!("{error}"));
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let what = || format!("`ip {}`", arguments.join(" "));
    let ran = Command::new("ip").args(arguments).output();
    let ran = ran.map_err(|error| format!("{}: {error}", what()))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", what(), String::from_utf8_lossy(&ran.stderr).trim()))
}

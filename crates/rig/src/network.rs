//! The bridge between hosts, their cables, and a way onto it for tests.

use std::fs::File;
use std::thread;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::run;
use crate::error::{Attempt, RigError};

/// The bridge's own address, from which tests speak to guests.
const SWITCH_ADDRESS: &str = "10.77.0.254/24";

/// The network namespaces of one rig.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// The rig's name.
    pub(crate) name: String,
}

impl Network {
    pub(crate) fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    pub(crate) fn of_host(&self, number: u8) -> String {
        format!("{}-h{number}", self.name)
    }

    fn port(number: u8) -> String {
        format!("port{number}")
    }

    /// All network namespaces that bear the rig's name.
    pub(crate) fn all(&self) -> Result<Vec<String>, RigError> {
        let prefix = format!("{}-", self.name);
        let list = run(&["ip", "netns", "list"])?;
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
    }

    pub(crate) fn make_switch(&self) -> Result<(), RigError> {
        let switch = self.switch();
        run(&["ip", "netns", "add", &switch])?;
        let ip = ["ip", "-n", &switch];
        run(&[&ip[..], &["link", "set", "lo", "up"]].concat())?;
        let bridge = ["link", "add", "sw0", "type", "bridge", "forward_delay", "0"];
        run(&[&ip[..], &bridge].concat())?;
        run(&[&ip[..], &["link", "set", "sw0", "up"]].concat())?;
        run(&[&ip[..], &["address", "add", SWITCH_ADDRESS, "dev", "sw0"]].concat()).map(drop)
    }

    /// Makes a host's namespace: its bridge, to which guests attach, and a cable to the switch.
    pub(crate) fn make_host(&self, number: u8) -> Result<(), RigError> {
        let (host, switch, port) = (self.of_host(number), self.switch(), Self::port(number));
        let address = format!("10.77.0.{number}/24");
        run(&["ip", "netns", "add", &host])?;
        let cable = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host];
        run(&[&["ip", "-n", &switch][..], &cable].concat())?;
        run(&["ip", "-n", &switch, "link", "set", &port, "master", "sw0", "up"])?;
        for words in [
            &["link", "set", "lo", "up"][..],
            &["link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0"],
            &["link", "set", "eth0", "master", "br0", "up"],
            &["link", "set", "br0", "up"],
            &["address", "add", &address, "dev", "br0"],
        ] {
            run(&[&["ip", "-n", &host][..], words].concat())?;
        }
        Ok(())
    }

    /// Plugs a host's cable in, or pulls it.
    pub(crate) fn set_cable(&self, number: u8, up: bool) -> Result<(), RigError> {
        let state = if up { "up" } else { "down" };
        run(&["ip", "-n", &self.switch(), "link", "set", &Self::port(number), state]).map(drop)
    }

    /// Runs something in the switch's network, in a thread of its own.
    pub(crate) fn on_switch<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, RigError> + Send,
    ) -> Result<T, RigError> {
        thread::scope(|scope| {
            let work = scope.spawn(move || {
                enter(&self.switch())?;
                work()
            });
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Moves the calling thread into a network namespace, for good.
pub(crate) fn enter(namespace: &str) -> Result<(), RigError> {
    let path = format!("/run/netns/{namespace}");
    let namespace = File::open(&path).attempt("open", &path)?;
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), network).attempt("enter", &path)
}

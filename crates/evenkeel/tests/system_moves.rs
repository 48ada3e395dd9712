//! Moves between hosts with systemd and system-mode libvirt, agents under the shipped unit.

mod hosts;
mod skips;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use evenkeel_rig::{Domain, ECHO_PORT, Rig, RigError};
use hosts::{Hosts, LIMIT, is_whole};

const MEMORY_MIB: u32 = 32;

#[test]
fn agents_without_privileges_carry_a_machine_there_and_back() {
    let Some(hosts) = Hosts::up("") else { return };
    let user = ["ps", "-C", "evenkeel", "-o", "user="];
    for number in 1..=3 {
        assert_eq!(hosts.must(number, &user).trim(), "evenkeel", "the agent of kvm{number}");
    }
    let guest = hosts.start(1, &Domain::new("web", 1));
    assert_eq!(
        hosts.must(1, &["ps", "-C", "qemu-system-x86_64", "-o", "user:20="]).trim(),
        "libvirt-qemu"
    );
    guest.dirty(MEMORY_MIB, 8).expect("it obeys");
    let before = hosts.until("all of its memory verified once", || {
        let figures = guest.figures().map_err(|error| error.to_string())?;
        if figures.pages_checked > u64::from(MEMORY_MIB) * 256 {
            Ok(figures)
        } else {
            Err(format!("{figures:?}"))
        }
    });
    hosts.migrate("web", 1, 2);
    hosts.migrate("web", 2, 1);
    let after = hosts.until("its memory verified again", || {
        let figures = guest.figures().map_err(|error| error.to_string())?;
        let pass = before.pages_checked + 2 * u64::from(MEMORY_MIB) * 256;
        if figures.pages_checked > pass { Ok(figures) } else { Err(format!("{figures:?}")) }
    });
    assert!(is_whole(&after) && after.ticks > before.ticks, "{before:?} {after:?}");
}

#[test]
fn a_connection_through_the_bridge_survives_a_move() {
    let Some(hosts) = Hosts::up("") else { return };
    let guest = hosts.start(1, &Domain::new("web", 1));
    let connection = connect(hosts.rig(), guest.address(ECHO_PORT)).expect("it answers");
    let mut echo = Echo::new(connection);
    echo.exchange();
    // Its console must say something on the source, too.
    hosts.until("a guest that has run for a while", || {
        let figures = guest.figures().map_err(|error| error.to_string())?;
        if figures.ticks > 20 { Ok(()) } else { Err(format!("{figures:?}")) }
    });
    hosts.migrate("web", 1, 3);
    for _ in 0..20 {
        echo.exchange();
    }
    hosts.ticks_continue("web", &[1, 3]);
}

/// One connection to a guest's echo service.
struct Echo {
    reader: BufReader<TcpStream>,
    lines: u32,
}

impl Echo {
    fn new(connection: TcpStream) -> Self {
        Self { reader: BufReader::new(connection), lines: 0 }
    }

    /// Sends the next line, and must get the very same back.
    fn exchange(&mut self) {
        self.lines += 1;
        let line = format!("{}\n", self.lines);
        self.reader.get_mut().write_all(line.as_bytes()).expect("the connection holds");
        let mut echoed = String::new();
        self.reader.read_line(&mut echoed).expect("the connection holds");
        assert_eq!(echoed, line);
    }
}

/// A socket stays in the network in which it was made.
fn connect(rig: &Rig, address: std::net::SocketAddr) -> Result<TcpStream, RigError> {
    rig.on_switch(|| {
        let failed =
            |error| RigError::System { action: "reach", path: address.to_string().into(), error };
        let stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(10)).map_err(failed)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
        Ok(stream)
    })
}

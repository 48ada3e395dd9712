//! Brings a rig up and down by hand, and runs commands on its hosts.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use evenkeel_rig::{Domain, Rig, RigError, Spec};

const USAGE: &str = "\
usage: evenkeel-rig COMMAND
  up [HOSTS]                bring up hosts kvm1, kvm2, … (3)
  guest HOST NAME NUMBER    start a guest with the address 10.77.0.(100 + NUMBER)
  on HOST COMMAND…          run a command on a host, as root; HOST is its number
  power HOST off|on|reboot  pull the plug of a host, start it, or restart it as an operator does
  cable HOST up|down        plug a host's cable in, or pull it
  down                      take everything down, also what a rig left that was killed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the words were a command.
fn obey(words: &[&str]) -> Result<bool, RigError> {
    let spec = Spec::default();
    let open = || Rig::open(&spec.name);
    match words {
        ["up"] => drop(Rig::up(&spec)?),
        ["up", hosts] => {
            let Some(hosts) = number(hosts) else { return Ok(false) };
            drop(Rig::up(&Spec { hosts, ..spec.clone() })?);
        }
        ["down"] => Rig::sweep(&spec.name)?,
        [command, host, rest @ ..] => {
            let rig = open()?;
            let Some(n) = number(host).filter(|n| usize::from(*n) <= rig.hosts().len()) else {
                return Err(RigError::Off(format!("kvm{host}")));
            };
            let host = rig.host(n.into());
            match (*command, rest) {
                ("on", [_, ..]) => {
                    let error = host.command(rest)?.exec();
                    return Err(RigError::System { action: "run", path: "timeout".into(), error });
                }
                ("guest", [name, id]) => {
                    let Some(id) = number(id) else { return Ok(false) };
                    rig.start_guest(n.into(), &Domain::new(name, id))?;
                }
                ("power", ["off"]) => host.cut_power()?,
                ("power", ["on"]) => host.boot()?,
                ("power", ["reboot"]) => host.reboot()?,
                ("cable", ["up"]) => host.set_cable(true)?,
                ("cable", ["down"]) => host.set_cable(false)?,
                _ => return Ok(false),
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn number(word: &str) -> Option<u8> {
    word.parse().ok().filter(|n| (1..=9).contains(n))
}

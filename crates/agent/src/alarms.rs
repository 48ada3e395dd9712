//! What somebody has to look at now, wherever they look: the log, the status, `top`, metrics, the doctor.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::balancer::Balancer;
use evenkeel_core::failures::LeftOut;
use evenkeel_core::handoff::Handoff;
use evenkeel_core::load::Machine;
use evenkeel_core::model::{HostId, MachineId, Time};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

/// How often it is said again.
const REMIND_EVERY: Duration = Duration::from_secs(300);
/// A machine of which the hypervisor has told nothing for so long does not only have a job under way.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// What an alarm is about: a closed list. A code once published keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AlarmCode {
    /// A machine runs on two hosts.
    RunsTwice,
    /// A machine that runs on another host is defined here, too.
    Leftover,
    /// A handoff waits longer than it should.
    Unresolved,
    /// The hypervisor tells nothing of a machine.
    Silent,
}

impl AlarmCode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RunsTwice, Self::Leftover, Self::Unresolved, Self::Silent];

    /// As it is written.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::RunsTwice => "RUNS_TWICE",
            Self::Leftover => "LEFTOVER",
            Self::Unresolved => "UNRESOLVED",
            Self::Silent => "SILENT",
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// What it is about.
    pub code: AlarmCode,
    /// The machine.
    pub machine: MachineId,
    /// Its name.
    pub name: String,
    /// The other host, if there is one.
    pub peer: Option<HostId>,
    /// Since when it is known.
    pub since: Time,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is alarming on this host now.
pub(crate) fn of(balancer: &Balancer, now: Time) -> Vec<Alarm> {
    let (here, machines) = (balancer.host().id(), balancer.host().view.machines());
    let mut alarms: Vec<Alarm> = balancer.twins().map(|(id, twin)| {
        let name = name_of(machines, id);
        Alarm {
            code: AlarmCode::RunsTwice,
            machine: id.clone(),
            peer: Some(twin.peer.clone()),
            since: twin.since,
            what: format!("machine `{name}` runs on host `{here}` and on host `{}`", twin.peer),
            remedy: format!(
                "stop the copy that is wrong, on its host: `virsh destroy {}`; look at its disks after \
                 that",
                quoted(&name)
            ),
            name,
        }
    }).collect();
    alarms.extend(balancer.leftovers().map(|(id, left)| leftover(here, machines, id, left)));
    let silent = machines.values().filter_map(|machine| {
        let since = machine.silent_since.filter(|since| now.since(*since) >= SILENT_FOR)?;
        Some(silent(here, machine, since))
    });
    alarms.extend(silent);
    let handoffs = balancer.handoffs().filter(|handoff| handoff.is_alarming(now));
    alarms.extend(handoffs.map(unresolved));
    alarms
}

fn name_of(machines: &BTreeMap<MachineId, Machine>, id: &MachineId) -> String {
    machines.get(id).map_or_else(|| id.to_string(), |machine| machine.facts.name.to_string())
}

fn leftover(
    here: &HostId,
    machines: &BTreeMap<MachineId, Machine>,
    id: &MachineId,
    left: &evenkeel_core::balancer::Leftover,
) -> Alarm {
    let name = name_of(machines, id);
    let starts = machines.get(id).is_some_and(|machine| machine.facts.autostart);
    let then = if starts { ", and starts a second copy when this host boots" } else { "" };
    Alarm {
        code: AlarmCode::Leftover,
        machine: id.clone(),
        peer: Some(left.peer.clone()),
        since: left.since,
        what: format!(
            "machine `{name}` runs on host `{}`, and host `{here}` has a definition of it{then}",
            left.peer
        ),
        remedy: format!(
            "remove it on host `{here}`: `virsh undefine --keep-nvram --snapshots-metadata {}`",
            quoted(&name)
        ),
        name,
    }
}

fn silent(here: &HostId, machine: &Machine, since: Time) -> Alarm {
    let name = machine.facts.name.to_string();
    Alarm {
        code: AlarmCode::Silent,
        machine: machine.facts.id.clone(),
        peer: None,
        since,
        what: format!("libvirt on host `{here}` tells nothing of machine `{name}`: its QEMU hangs"),
        remedy: format!(
            "see whether its QEMU is stopped or waits for storage (`virsh domblkerror {}`, `ps -C \
             qemu-system-x86_64 -o pid,stat,cmd`); the other machines of the host go on",
            quoted(&name)
        ),
        name,
    }
}

fn unresolved(handoff: &Handoff) -> Alarm {
    let Handoff { name, machine, peer, since, .. } = handoff;
    Alarm {
        code: AlarmCode::Unresolved,
        machine: machine.clone(),
        name: name.clone(),
        peer: Some(peer.clone()),
        since: *since,
        what: format!("handoff unresolved: machine `{name}`, with host `{peer}`"),
        remedy: format!("it waits for {}", handoff.waits_for()),
    }
}

/// A name as a shell takes it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '+');
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        return name.to_owned();
    }
    format!("-- '{}'", name.replace('\'', r"'\''"))
}

/// What was said in the log, and when.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    told: BTreeMap<(AlarmCode, MachineId, Option<HostId>), Time>,
    left_out: BTreeMap<HostId, Time>,
}

impl Alarms {
    /// Tells of what is alarming now, and of what no longer is.
    pub(crate) fn tell(&mut self, alarms: &[Alarm], now: Time) {
        let mut before = std::mem::take(&mut self.told);
        for alarm in alarms {
            let key = (alarm.code, alarm.machine.clone(), alarm.peer.clone());
            let said = before.remove(&key);
            let due = said.is_none_or(|said| now.since(said) >= REMIND_EVERY);
            if due {
                let Alarm { code, name, what, remedy, .. } = alarm;
                let age_s = now.since(alarm.since).as_secs();
                error!(alarm = code.code(), machine = name, age_s, remedy, "{what}");
            }
            self.told.insert(key, if due { now } else { said.unwrap_or(now) });
        }
        for (code, machine, _) in before.keys() {
            info!(alarm = code.code(), %machine, "is no alarm any more");
        }
    }

    /// Tells of hosts that are left out now, and of those that no longer are.
    pub(crate) fn tell_left_out(&mut self, hosts: impl Iterator<Item = LeftOut>) {
        let mut before = std::mem::take(&mut self.left_out);
        for LeftOut { host, until, machines, detail, .. } in hosts {
            if before.remove(&host) != Some(until) {
                let machines = machines.len();
                warn!(%host, machines, last = detail, "ALARM: left out, because migrations to it fail");
            }
            self.left_out.insert(host, until);
        }
        for host in before.keys() {
            info!(%host, "is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_any_machine_so_that_a_shell_takes_it() {
        for (name, taken) in [
            ("web-1", "web-1"),
            ("a b", "-- 'a b'"),
            ("-f", "-- '-f'"),
            ("it's", r"-- 'it'\''s'"),
            ("$(x)", "-- '$(x)'"),
            ("", "-- ''"),
        ] {
            assert_eq!(quoted(name), taken);
        }
    }

    #[test]
    fn codes_are_written_as_they_are_sent() {
        for code in AlarmCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{}\"", code.code()));
        }
    }
}

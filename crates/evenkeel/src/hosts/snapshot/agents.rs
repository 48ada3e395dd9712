//! Hosts with an agent: what it says of itself.

use std::path::{Path, PathBuf};

use evenkeel_agent::status::MachineStatus;
use evenkeel_agent::{Client, Status};
use evenkeel_core::model::{HostId, Resources, Weights};
use evenkeel_core::printable::Printable;
use evenkeel_sim::snapshot::{SnapshotHost, SnapshotMachine};

use super::Host;
use crate::hosts::block_on;
use crate::hosts::everybody::{everybody, side_by_side};
use crate::output::{Failure, tell};

/// Asks the agent at every socket.
pub(super) fn read(sockets: &[PathBuf]) -> Result<Vec<Host>, Failure> {
    let one = |socket: &PathBuf| {
        block_on(async { Ok(Client::new(socket).status().await?) }).and_then(|s| describe(&s))
    };
    sockets.iter().map(one).collect()
}

/// Asks every host of the cluster that the agent at a socket knows.
pub(super) fn read_cluster(socket: &Path) -> Result<Vec<Host>, Failure> {
    block_on(async {
        let all = everybody(Client::new(socket)).await?;
        let ask = |(host, client): (HostId, Client)| async move { (host, client.status().await) };
        let mut hosts = Vec::new();
        for (host, answer) in side_by_side(all, ask).await? {
            match answer {
                Ok(status) => hosts.push(describe(&status)?),
                Err(why) => tell!("host {host} is left out: {}", Printable(&why.to_string())),
            }
        }
        Ok(hosts)
    })
}

fn describe(status: &Status) -> Result<Host, Failure> {
    let id = &status.host;
    if let Some(why) = &status.unknown {
        crate::output::tell!("the load of host `{id}` is not known: {}", Printable(why));
    }
    let running = status.machines.iter().filter(|m| m.presence.is_resident());
    let machines: Vec<_> = running.map(|m| machine(id, m)).collect();
    crate::output::tell!("host {id}: {} machines run", machines.len());
    Ok((host(status)?, machines))
}

fn host(status: &Status) -> Result<SnapshotHost, Failure> {
    Ok(SnapshotHost {
        id: status.host.clone(),
        capacity: status.capacity,
        cpu_speed: status.cpu_speed,
        weights: Weights::new(status.weights)?,
        reserved_memory_bytes: status.reserved_memory_bytes,
        state: status.state,
        labels: status.labels.clone(),
        background: None,
    })
}

fn machine(host: &HostId, machine: &MachineStatus) -> SnapshotMachine {
    if machine.usage.is_none() {
        let why = machine.unknown.as_deref().unwrap_or("what it uses is not known");
        crate::output::tell!(
            "machine `{}` on `{host}` stays where it is: {}",
            Printable(&machine.name),
            Printable(why)
        );
    }
    let memory = Resources { memory_bytes: machine.memory_bytes, ..Resources::ZERO };
    SnapshotMachine {
        id: machine.id.clone(),
        name: machine.name.clone(),
        host: host.clone(),
        vcpus: machine.vcpus,
        memory_bytes: machine.memory_bytes,
        usage: machine.usage.unwrap_or(memory),
        target_load: machine.target_load,
        dirty_bytes_per_s: 0.0,
        movable: machine.usage.is_some() && machine.entry_error.is_none(),
        rules: machine.rules.clone(),
    }
}

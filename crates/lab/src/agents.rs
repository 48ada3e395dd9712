//! The agents of a lab: their configuration and their command line, and nothing else about them.

use std::ffi::OsString;

use crate::layout::Layout;
use crate::spec::AgentsSpec;
use crate::state::{Ports, State};

/// The configuration file of the agent on one host.
pub(crate) fn config(state: &State, agents: &AgentsSpec, host_index: usize) -> String {
    let spec = &state.spec.hosts[host_index];
    let layout = state.layout().host(&spec.id);
    let ports = |index| Ports::of(state.first_port, index);
    let peers: Vec<String> = (0..state.spec.hosts.len())
        .filter(|index| *index != host_index)
        .map(|index| format!("\"127.0.0.1:{}\"", ports(index).agent))
        .collect();
    let weights = spec.weights.map_or_else(String::new, |weights| {
        format!(
            "weights = {{ cpu = {}, memory = {}, io = {} }}\n",
            weights.cpu, weights.memory, weights.io
        )
    });
    format!(
        "host = \"{id}\"
listen = \"127.0.0.1:{port}\"
peers = [{peers}]
libvirt = \"{uri}\"
migration_uri = \"tcp://127.0.0.1\"
state = \"{state_dir}\"

[capacity]
cpu_cores = {cores}
memory_mib = {memory_mib}
io_mib_s = {io_mib_s}
cpu_speed = {cpu_speed}
{weights}{extra}",
        id = spec.id,
        port = ports(host_index).agent,
        peers = peers.join(", "),
        uri = layout.uri(),
        state_dir = layout.dir.join("agent").display(),
        cores = spec.cpu_cores,
        memory_mib = spec.memory_mib,
        io_mib_s = spec.io_mib_s,
        cpu_speed = spec.cpu_speed,
        extra = agents.extra_config,
    )
}

/// The arguments of the `evenkeel` program for the agent on this host.
pub(crate) fn arguments(layout: &Layout, host: &str) -> Vec<OsString> {
    vec!["agent".into(), "--config".into(), layout.host(host).agent_config().into()]
}

//! The agents of a lab: their identities, configuration and command line, and nothing else.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use evenkeel_core::model::HostId;
use evenkeel_net::{ClusterCa, PkiError};

use crate::error::{Attempt, LabError};
use crate::layout::HostLayout;
use crate::spec::AgentsSpec;
use crate::state::{Ports, State};
use crate::user::LabUser;
use crate::view::View;

/// How long the hosts of a lab can be let into its cluster.
const JOIN_TIME: Duration = Duration::from_secs(24 * 3600);

/// Makes a cluster for the lab, as an operator does: its authority and an identity on the first
/// host, and for every other host a token with which it joins.
pub(crate) fn make_cluster(state: &State) -> Result<(), LabError> {
    if state.spec.agents.is_none() {
        return Ok(());
    }
    let layout = state.layout();
    let failed = |error: PkiError| {
        LabError::Specification(format!("no cluster can be made for the agents: {error}"))
    };
    let first = layout.host(&state.hosts[0].id);
    let first_id = HostId::new(&state.hosts[0].id)
        .map_err(|error| LabError::Specification(error.to_string()))?;
    state.user.make_dir(&first.dir)?;
    let ca = ClusterCa::init(&first.authority()).map_err(failed)?;
    ca.issue(&first_id).and_then(|identity| identity.save(&first.identity())).map_err(failed)?;
    own_all(&state.user, &first.authority())?;
    own_all(&state.user, &first.identity())?;
    for host in &state.hosts[1..] {
        let token = ca.mint_token(vec![address(state, 0)], JOIN_TIME).map_err(failed)?;
        let host = layout.host(&host.id);
        state.user.make_dir(&host.dir)?;
        state.user.write(&host.join_token(), token.to_text())?;
        fs::set_permissions(host.join_token(), fs::Permissions::from_mode(0o600))
            .attempt(|| format!("protect `{}`", host.join_token().display()))?;
    }
    Ok(())
}

/// Where the agent of a host listens.
fn address(state: &State, host_index: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, Ports::of(state.first_port, host_index).agent))
}

fn own_all(user: &LabUser, dir: &Path) -> Result<(), LabError> {
    user.own(dir)?;
    let entries = fs::read_dir(dir).attempt(|| format!("read `{}`", dir.display()))?;
    entries.flatten().try_for_each(|entry| user.own(&entry.path()))
}

/// The configuration file of the agent on one host.
pub(crate) fn config(state: &State, agents: &AgentsSpec, host_index: usize) -> String {
    let spec = &state.spec.hosts[host_index];
    let host = state.layout().host(&spec.id);
    let seeds: Vec<String> = (0..state.spec.hosts.len())
        .filter(|index| *index != host_index)
        .map(|index| format!("'{}'", address(state, index)))
        .collect();
    let authority = if host_index == 0 {
        format!("ca_dir = '{}'\n", host.authority().display())
    } else {
        String::new()
    };
    let weights = spec.weights.map_or_else(String::new, |weights| {
        let crate::Weights { cpu, memory, io } = weights;
        format!("\n[weights]\ncpu = {cpu:?}\nmemory = {memory:?}\nio = {io:?}\n")
    });
    let labels = spec.labels.iter().map(|(label, value)| format!("{label} = '{value}'\n"));
    let labels: String = labels.collect();
    format!(
        "host = '{id}'
listen = '{listen}'
seeds = [{seeds}]
state_dir = '{state_dir}'
identity_dir = '{identity}'
{authority}api_socket = '{api}'
stop_grace = '10s'

[libvirt]
uri = '{uri}'
{way}
[capacity]
cpu_cores = {cores:?}
memory = '{memory_mib}MiB'
io_per_s = '{io_bytes}B'
cpu_speed = {cpu_speed:?}
background = {background}
{weights}
[labels]
{labels}
{operation}{extra}",
        background = agents.background,
        operation = operation(&agents.extra_config),
        id = spec.id,
        listen = address(state, host_index),
        seeds = seeds.join(", "),
        state_dir = host.agent_state().display(),
        identity = host.identity().display(),
        api = host.agent_socket().display(),
        uri = host.uri(),
        way = way(state, &host),
        cores = spec.cpu_cores,
        memory_mib = spec.memory_mib,
        io_bytes = (spec.io_mib_s * f64::from(1 << 20)) as u64,
        cpu_speed = spec.cpu_speed,
        extra = agents.extra_config,
    )
}

/// In a lab agents act at once, unless told otherwise.
fn operation(extra_config: &str) -> &'static str {
    let told = extra_config.lines().any(|line| line.trim() == "[operation]");
    if told { "" } else { "[operation]\nmode = 'automatic'\n\n" }
}

/// How machines come to a host: through its agent, where it sees sockets of its own.
fn way(state: &State, host: &HostLayout) -> String {
    match state.view {
        View::Shared => format!(
            "migration_uri = '{}'\nmigrate_address = 'tcp://127.0.0.1'\n\
             listen_address = '127.0.0.1'\n\n[migration.peers]\n{}",
            host.uri(),
            peers(state),
        ),
        // A guest's kernel and console are files of the lab's.
        View::Root | View::User => format!(
            "\n[migration]\nsocket_dir = '{}'\nfiles = ['{}']\n",
            state.layout().handoffs().display(),
            state.layout().dir.display(),
        ),
    }
}

/// By which URI each host of the lab reaches the others directly.
fn peers(state: &State) -> String {
    let uri = |host: &str| state.layout().host(host).uri();
    state.hosts.iter().map(|host| format!("{} = '{}'\n", host.id, uri(&host.id))).collect()
}

/// The arguments of the `evenkeel` program for the agent of this host.
pub(crate) fn arguments(state: &State, host_index: usize) -> Vec<OsString> {
    let host = state.layout().host(&state.hosts[host_index].id);
    let mut arguments = vec!["agent".into(), "--config".into(), host.agent_config().into()];
    if host_index > 0 {
        arguments.extend(["--join-file".into(), host.join_token().into()]);
    }
    arguments
}

//! One libvirt daemon in session mode, made a host of its own by its own directories and UUID.

use std::process::Command;

use crate::error::LabError;
use crate::state::{Ports, State};

/// Writes the daemon's configuration.
///
/// `migration_host` and `migration_address` are left alone: set to the loopback address they end
/// the daemon, so whoever migrates passes the address with the migration.
pub(crate) fn configure(state: &State, host_index: usize) -> Result<(), LabError> {
    let host = &state.hosts[host_index];
    let layout = state.layout().host(&host.id);
    let (first_port, last_port) = Ports::of(state.first_port, host_index).migration;
    for dir in layout.all().iter().chain([&layout.libvirt_config()]) {
        state.user.make_dir(dir)?;
    }
    state.user.write(
        &layout.libvirtd_conf(),
        format!(
            "host_uuid = \"{}\"\nlog_level = 3\nlog_outputs = \"3:file:{}\"\n",
            host.uuid,
            layout.libvirtd_log().display()
        ),
    )?;
    state.user.write(
        &layout.libvirt_config().join("qemu.conf"),
        format!(
            "security_driver = \"none\"\nstdio_handler = \"file\"\n\
             migration_port_min = {first_port}\nmigration_port_max = {last_port}\n"
        ),
    )
}

/// The command that runs the daemon in the foreground.
pub(crate) fn command(state: &State, host_index: usize) -> Command {
    let host = &state.hosts[host_index].id;
    let layout = state.layout().host(host);
    let mut command = state.command_on(host, &state.machine.libvirtd);
    command.arg("--config").arg(layout.libvirtd_conf());
    command
}

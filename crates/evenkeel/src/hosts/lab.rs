//! `evenkeel lab`: several libvirt hosts on this machine.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use evenkeel_agent::Client;
use evenkeel_lab::{
    Acceleration, AgentsSpec, Capacity, Dirty, GuestSpec, HostSpec, Lab, LabSpec, Launcher,
    Progress, Weights, supervise,
};
use serde_json::json;

use super::block_on;
use crate::output::{self, Failure, Format, percent};
use crate::scene::{Place, Scene};

/// A lab lives for minutes: it samples and asks far more often than a host in earnest.
const AGENT_CONFIG: &str = "
[balance]
round = '2s'
sample = '1s'
stale_after = '10s'
smoothing = 0.4
difference_min = 0.03
cool_down = '60s'
";

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Bring up hosts, guests and agents
    #[command(after_help = "Example:\n  evenkeel lab up --hosts 3 --vms 9\n  \
        evenkeel lab status\n  evenkeel lab down")]
    Up(Scene),
    /// Show what runs where
    Status {
        #[command(flatten)]
        place: Place,
        /// How to print it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// End everything of the lab
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// What a lab's processes are started by
    #[command(hide = true)]
    Supervise {
        /// The lab's directory
        dir: PathBuf,
    },
}

pub(crate) fn run(command: LabCommand) -> Result<(), Failure> {
    match command {
        LabCommand::Up(scene) => {
            let lab = up(&scene, &mut |line| crate::output::tell!("{line}"))?;
            output::say!("{}", lab.dir().display())?;
            crate::output::tell!(
                "hint: watch it with `evenkeel lab status`, end it with `evenkeel lab down`"
            );
            Ok(())
        }
        LabCommand::Status { place, format } => status(&Lab::open(&place.dir)?, format),
        LabCommand::Down { place } => Ok(Lab::open(&place.dir)?.down()?),
        LabCommand::Supervise { dir } => Ok(supervise(&dir)?),
    }
}

/// Brings up a lab whose guests are all on its first host, and says how it goes.
pub(crate) fn up(scene: &Scene, say: &mut dyn FnMut(&str)) -> Result<Lab, Failure> {
    let program = std::env::current_exe()?;
    let launcher = Launcher {
        program: program.clone(),
        arguments: vec!["lab".to_owned(), "supervise".to_owned()],
        tied: false,
    };
    let lab = Lab::up(&spec(scene, program)?, &launcher, &mut |progress| match progress {
        Progress::Machine(Acceleration::Kvm) => say("guests run under KVM"),
        Progress::Machine(Acceleration::Tcg) => say("guests run under TCG, QEMU's emulation"),
        Progress::HostReady { host, capacity } => {
            say(&format!("host {host} is up: {}", enforced(Some(&capacity))));
        }
        Progress::GuestStarted { guest, host } => say(&format!("guest {guest} runs on {host}")),
        Progress::AgentsReady => say("an agent runs on every host"),
    })?;
    Ok(lab)
}

fn spec(scene: &Scene, program: PathBuf) -> Result<LabSpec, Failure> {
    let names = scene.host_names();
    let host = |name: &String| HostSpec {
        memory_mib: 1024.max(64 * scene.vms as u64),
        weights: Some(Weights { cpu: 4.0, memory: 1.0, io: 1.0 }),
        ..HostSpec::new(name, scene.cores)
    };
    let first = names.first().map_or("", String::as_str);
    let guest = |(index, (name, burn)): (usize, (String, u32))| {
        let dirty = Dirty { mib: 4 + 4 * (index as u32 % 3), mib_per_s: 2 };
        GuestSpec { dirty, ..GuestSpec::new(&name, first, burn) }
    };
    Ok(LabSpec {
        dir: std::path::absolute(&scene.place.dir)?,
        hosts: names.iter().map(host).collect(),
        guests: scene.guests().into_iter().enumerate().map(guest).collect(),
        agents: Some(AgentsSpec {
            program,
            extra_config: AGENT_CONFIG.to_owned(),
            background: true,
        }),
    })
}

fn enforced(capacity: Option<&Capacity>) -> String {
    match capacity {
        None => "not up yet".to_owned(),
        Some(Capacity::Enforced { .. }) => "CPU capacity enforced".to_owned(),
        Some(Capacity::Declared { reason }) => format!("CPU capacity declared only ({reason})"),
    }
}

/// The client of a lab host's agent.
pub(crate) fn client(lab: &Lab, host: &str) -> Client {
    Client::new(&lab.agent_socket(host))
}

fn status(lab: &Lab, format: Format) -> Result<(), Failure> {
    let status = lab.status()?;
    let mut lines = vec![format!("lab in {}, {:?}", lab.dir().display(), status.phase)];
    let mut hosts = Vec::new();
    for host in &status.hosts {
        let load =
            block_on(async { Ok(client(lab, &host.id).status().await?) }).ok().and_then(|s| s.load);
        let shown = load.map_or_else(|| "?".to_owned(), percent);
        let agent = if host.agent_alive { "" } else { ", no agent" };
        let dead = if host.alive { "" } else { ", dead" };
        lines.push(format!(
            "{}  load {shown:>7}  {} guests: {}{dead}{agent}",
            host.id,
            host.guests.len(),
            host.guests.join(" ")
        ));
        hosts.push(json!({
            "id": host.id, "alive": host.alive, "agent_alive": host.agent_alive, "load": load,
            "cpu_cores": host.cpu_cores, "capacity": enforced(host.capacity.as_ref()),
            "guests": host.guests, "agent_socket": socket(lab, &host.id),
        }));
    }
    let data = json!({ "dir": lab.dir(), "hosts": hosts });
    output::print(format, &data, || lines.join("\n"))
}

fn socket(lab: &Lab, host: &str) -> String {
    Path::display(&lab.agent_socket(host)).to_string()
}

//! `evenkeel lab`: several libvirt hosts on this machine.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use evenkeel_agent::Client;
use evenkeel_lab::{
    Acceleration, AgentsSpec, Capacity, Dirty, GuestSpec, HostSpec, Lab, LabSpec, Launcher,
    Progress, Weights, supervise,
};
use serde_json::json;

use crate::block_on;
use crate::output::{self, Failure, Format};
use crate::report::percent;

/// Short, because socket paths are.
const DIR: &str = "/tmp/evenkeel-lab";

/// Share of a CPU that guests burn, in permille: unlike on purpose. With more guests they repeat.
pub(crate) const BURNS: [u32; 9] = [200, 150, 120, 90, 70, 50, 40, 30, 20];

/// A lab lives for minutes: it samples and asks far more often than a host in earnest.
const AGENT_CONFIG: &str = "
[balance]
round = '2s'
sample = '1s'
stale_after = '10s'
smoothing = 0.4
dead_band = 0.15
difference_min = 0.03
gain_min = 0.05
cool_down = '10s'
";

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Bring up hosts, guests and agents
    #[command(after_help = "Example:\n  evenkeel lab up --hosts 3 --vms 9\n  \
        evenkeel lab status\n  evenkeel lab down")]
    Up(UpArgs),
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

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The lab's directory
    #[arg(long, value_name = "DIR", default_value = DIR)]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// How many hosts, 1 to 16
    #[arg(long, default_value_t = 3)]
    pub(crate) hosts: usize,
    /// How many guests, up to 200; they all start on the first host
    #[arg(long, default_value_t = 9)]
    pub(crate) vms: usize,
    /// CPU capacity of each host, in cores
    #[arg(long, default_value_t = 0.9)]
    pub(crate) cores: f64,
}

pub(crate) fn run(command: LabCommand) -> Result<(), Failure> {
    match command {
        LabCommand::Up(args) => {
            let lab = up(&args, &mut |line| anstream::eprintln!("{line}"))?;
            anstream::println!("{}", lab.dir().display());
            anstream::eprintln!(
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
pub(crate) fn up(args: &UpArgs, say: &mut dyn FnMut(&str)) -> Result<Lab, Failure> {
    let program = std::env::current_exe()?;
    let launcher = Launcher {
        program: program.clone(),
        arguments: vec!["lab".to_owned(), "supervise".to_owned()],
        tied: false,
    };
    let lab = Lab::up(&spec(args, program)?, &launcher, &mut |progress| match progress {
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

fn spec(args: &UpArgs, program: PathBuf) -> Result<LabSpec, Failure> {
    let hosts: Vec<_> = (1..=args.hosts)
        .map(|index| HostSpec {
            memory_mib: 1024.max(64 * args.vms as u64),
            weights: Some(Weights { cpu: 4.0, memory: 1.0, io: 1.0 }),
            ..HostSpec::new(&format!("h{index}"), args.cores)
        })
        .collect();
    let guests = (0..args.vms)
        .map(|index| {
            let burn = BURNS[index % BURNS.len()];
            let name = format!("vm{}", index + 1);
            let dirty = Dirty { mib: 4 + 4 * (index as u32 % 3), mib_per_s: 2 };
            GuestSpec { dirty, ..GuestSpec::new(&name, "h1", burn) }
        })
        .collect();
    let agents = Some(AgentsSpec { program, extra_config: AGENT_CONFIG.to_owned() });
    Ok(LabSpec { dir: std::path::absolute(&args.place.dir)?, hosts, guests, agents })
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

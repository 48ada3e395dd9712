//! The commands that need hosts: the agent, its clients and the lab.

mod cluster;
mod doctor;
mod drain;
mod everybody;
mod explain;
mod history;
mod init;
pub(crate) mod lab;
mod leave;
mod naming;
mod operating;
mod report;
mod rule;
pub(crate) mod snapshot;
mod top;
mod ui;

use std::fmt::Debug;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use evenkeel_agent::{Client, Config};
use evenkeel_core::model::{HostId, HostState, MachineId, TARGET_LOAD_MAX};
use evenkeel_core::printable::Printable;
use evenkeel_net::{EnrolError, JoinToken, Limits, enrol};
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::output::{self, Failure, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Run the agent of this host
    #[command(after_help = "Examples:\n  \
        evenkeel agent --config /etc/evenkeel/agent.toml\n  \
        evenkeel agent --config /etc/evenkeel/agent.toml --join ek1.… --host-id kvm2")]
    Agent(AgentArgs),
    /// Set this host up: make a cluster with it, or join one
    #[command(after_help = init::EXAMPLES)]
    Init(init::InitArgs),
    /// Take this host out of its cluster; its machines stay where they are and run on
    #[command(after_help = leave::EXAMPLES)]
    Leave(leave::LeaveArgs),
    /// Make a cluster, or let hosts into it
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show this host's load, schedule and handoffs, or another's
    #[command(
        after_help = "Examples:\n  evenkeel status --format json | jq .load\n  evenkeel status --host kvm2"
    )]
    Status(AskArgs),
    /// Say in plain words why a machine stays, a host gives nothing, or something was decided
    #[command(subcommand)]
    Explain(explain::ExplainCommand),
    /// Watch every host of the cluster: load, contention, and what moves
    #[command(after_help = "Examples:\n  evenkeel top\n  evenkeel top --every 5 --times 3")]
    Top(top::TopArgs),
    /// Open the operator's desk: the cluster as a page in a browser on this computer
    #[command(after_help = "Examples:\n  evenkeel ui\n  evenkeel ui --ssh root@kvm1\n  \
        evenkeel ui --replay faults.rec --speed 60\n\n\
        It prints a link that lets a browser in once. Nothing is configured, and nobody else is let in. \
        docs/desk.md\nsays more.")]
    Ui(ui::UiArgs),
    /// Show what was decided in the cluster, from every host's own store, each migration once
    #[command(after_help = "Examples:\n  evenkeel history --since 2d\n  \
        evenkeel history --since 12h --vm web-1\n  \
        evenkeel history --host kvm2 --all --limit 50 --format json")]
    History(history::HistoryArgs),
    /// Look for what will be trouble on this host, or in the cluster, and say what to do about it
    #[command(after_help = "Examples:\n  \
        evenkeel doctor                                      this host, by its agent\n  \
        evenkeel doctor --config /etc/evenkeel/agent.toml    without an agent\n  \
        evenkeel doctor --cluster --format json\n\n\
        It changes nothing. Exits with 1 if anything is an error.")]
    Doctor(doctor::DoctorArgs),
    /// Write what the cluster looks like now, as `evenkeel plan` reads it
    #[command(after_help = "Examples:\n  \
        evenkeel snapshot -c qemu+ssh://kvm1/system -c qemu+ssh://kvm2/system > now.json\n  \
        evenkeel snapshot | jq .vms\n  evenkeel plan now.json")]
    Snapshot(snapshot::SnapshotArgs),
    /// Program a target load for a machine of this host, which then counts instead of what is
    /// measured
    #[command(after_help = "Examples:\n  \
        evenkeel target web-1 0.25     count it as a quarter of this host\n  \
        evenkeel target web-1 none     count what is measured again")]
    Target {
        /// The machine's name or UUID
        machine: String,
        /// A share of this host, from 0 to 10, such as 0.25 for a quarter; or `none`
        #[arg(allow_negative_numbers = true, value_parser = target_load)]
        load: Target,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Show what may happen to a machine of this host, or change it
    #[command(after_help = "Examples:\n  \
        evenkeel rule web-1                                 its rules\n  \
        evenkeel rule web-1 set anti-affinity=web@rack      no two of `web` in one rack\n  \
        evenkeel rule web-1 set affinity=shop? priority=10  with `shop`, if it can be\n  \
        evenkeel rule web-1 set pinned-to=rack=r7 pinned-to=!kvm3\n  \
        evenkeel rule web-1 remove priority pinned-to=!kvm3\n\n\
        What ends in `?` is soft: it yields to draining and to ceilings. docs/rules.md says more.")]
    Rule(rule::RuleArgs),
    #[command(flatten)]
    Operate(operating::OperateCommand),
    /// Empty a host for maintenance: every machine goes to another one
    #[command(after_help = "Examples:\n  \
        evenkeel drain kvm2                          empty it and wait until it is\n  \
        evenkeel drain --until-boot --timeout 15m    this host, before it is booted anew\n\n\
        It begins only if the rest can hold the machines and then still do without any one of \
        them, or with\n--force. `evenkeel uncordon` ends it, also once the host is empty.")]
    Drain(drain::DrainArgs),
    /// Have a host take no machines
    #[command(after_help = "Example:\n  evenkeel cordon kvm2")]
    Cordon(drain::HostArgs),
    /// Have a host take part again that was cordoned or emptied
    #[command(after_help = "Example:\n  evenkeel uncordon kvm2")]
    Uncordon(drain::HostArgs),
    /// Say where a new machine fits best
    #[command(after_help = "Example:\n  \
        evenkeel place --memory 4GiB --cpu 2 --format json | jq -r '.hosts[0].host'")]
    Place(drain::PlaceArgs),
    /// Let a machine run here that waits for the word of a host which is lost for good
    #[command(after_help = "Example:\n  evenkeel claim web-1 --i-have-fenced kvm3\n\n\
        A machine that has arrived waits, paused, until its source has let go of it. If that host \
        is lost\nbefore, only you can know that it does not run the machine: cut its power or its \
        storage first.\nOn the wrong word the machine runs twice and ruins its disks.\n\n\
        It must not have run on there either after it had arrived here: its memory here would be \
        older\nthan its disks. A source that cannot tell says so in its status. There, this command \
        with the\ntarget's name keeps the machine on the source, off, and has the target discard its \
        copy.")]
    Claim {
        /// The machine's name or UUID
        machine: String,
        /// The host that was fenced: it runs nothing, and never will without being told to
        #[arg(long, value_name = "HOST")]
        i_have_fenced: HostId,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Several libvirt hosts on this machine, to try things out
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

/// Where an agent listens for local clients, unless configured otherwise.
pub(crate) const AGENT_SOCKET: &str = "/run/evenkeel/agent.sock";

/// How long a joining host waits for an agent that lets it in.
const JOIN_TIME_MAX: Duration = Duration::from_secs(60);
/// How often it asks.
const JOIN_RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Join the cluster with this token first, unless this host has an identity already
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// The same with the token in a file, where it does not show in the list of processes
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// The name to join under; the configuration's `host` otherwise
    #[arg(long, value_name = "NAME")]
    host_id: Option<HostId>,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = AGENT_SOCKET)]
    socket: PathBuf,
    /// The host to ask, by way of this one's agent; this host itself otherwise
    #[arg(long, value_name = "HOST")]
    host: Option<HostId>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl AskArgs {
    /// A client of the agent that is asked.
    fn client(&self) -> Client {
        let client = self.client_here();
        self.host.as_ref().map_or_else(|| client.clone(), |host| client.of(host))
    }

    /// The same, whose texts are as they are: for what is written back.
    fn exact_client(&self) -> Client {
        let client = Client::new(&self.socket);
        self.host.as_ref().map_or_else(|| client.clone(), |host| client.of(host))
    }

    /// A client of the agent of this host.
    fn client_here(&self) -> Client {
        let client = Client::new(&self.socket);
        if self.format == Format::Table { client.for_people() } else { client }
    }
}

/// Writes what agents and the lab say of themselves to standard error.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("EVENKEEL_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .fmt_fields(debug_fn(printable_field).delimited(" "))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A standard error that is gone is no reason to panic.
        .log_internal_errors(false)
        .init();
}

/// One field of a line in the log, its message among them. Whatever is in it, it stays in its line: see
/// [`evenkeel_core::printable`].
fn printable_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    let text = Printable(&text);
    if field.name() == "message" {
        write!(writer, "{text}")
    } else {
        write!(writer, "{field}={text}")
    }
}

pub(crate) fn run(command: HostCommand) -> Result<(), Failure> {
    match command {
        HostCommand::Agent(args) => block_on(agent(args)),
        HostCommand::Init(args) => init::run(args),
        HostCommand::Leave(args) => leave::run(&args),
        HostCommand::Cluster(command) => cluster::run(command),
        HostCommand::Status(ask) => block_on(async {
            let status = ask.client().status().await?;
            output::print(ask.format, &status, || report::status(&status))
        }),
        HostCommand::Explain(command) => block_on(explain::run(command)),
        HostCommand::History(args) => block_on(history::run(args)),
        HostCommand::Ui(args) => block_on(ui::run(args)),
        HostCommand::Top(args) => block_on(top::run(args)),
        HostCommand::Target { machine, load: Target(load), ask } => {
            block_on(target(&machine, load, &ask))
        }
        HostCommand::Rule(args) => block_on(rule::run(&args)),
        HostCommand::Drain(args) => block_on(drain::drain(&args)),
        HostCommand::Cordon(args) => block_on(drain::set_state(&args, HostState::Cordoned)),
        HostCommand::Uncordon(args) => block_on(drain::set_state(&args, HostState::Active)),
        HostCommand::Place(args) => block_on(drain::place(&args)),
        HostCommand::Claim { machine, i_have_fenced, ask } => {
            block_on(claim(&machine, &i_have_fenced, &ask))
        }
        HostCommand::Operate(command) => operating::run(command),
        HostCommand::Doctor(args) => block_on(doctor::doctor(args)),
        HostCommand::Snapshot(args) => snapshot::run(&args),
        HostCommand::Lab(command) => lab::run(command),
    }
}

/// One thread does for all that a host's agent, or a client, has to do.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(future)
}

async fn agent(args: AgentArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    let token = match (&args.join, &args.join_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(read_token(path)?),
        (None, None) => None,
    };
    if let Some(text) = token {
        join(text.trim(), args.host_id, &config).await?;
    }
    Ok(evenkeel_agent::run(config).await?)
}

/// Joins the cluster, unless this host has an identity: so that a unit file may keep its token.
async fn join(text: &str, name: Option<HostId>, config: &Config) -> Result<(), Failure> {
    if config.identity_dir.join(evenkeel_net::HOST_CERTIFICATE_FILE).exists() {
        tracing::info!("this host has an identity already: not joining again");
        return Ok(());
    }
    let host = match (name, &config.host) {
        (Some(name), _) => name,
        (None, Some(configured)) => HostId::new(configured)?,
        (None, None) => return Err("under which name? Give --host-id NAME".into()),
    };
    let token: JoinToken = text.parse()?;
    let deadline = tokio::time::Instant::now() + JOIN_TIME_MAX;
    loop {
        match enrol(&token, &host, &config.identity_dir, &Limits::default()).await {
            Ok(identity) => {
                let cluster = identity.cluster();
                tracing::info!(host = %identity.host(), %cluster, "joined the cluster");
                return Ok(());
            }
            // The hosts of a cluster may be started together.
            Err(EnrolError::Unreachable(why) | EnrolError::Lost { why, .. })
                if tokio::time::Instant::now() < deadline =>
            {
                tracing::info!(why, "waiting for an agent that lets hosts in");
                tokio::time::sleep(JOIN_RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_token(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read the join token `{}`: {e}", path.display()).into())
}

/// What a machine is to count as; none for what is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target(Option<f64>);

fn target_load(text: &str) -> Result<Target, String> {
    if text == "none" {
        return Ok(Target(None));
    }
    let load = text.parse::<f64>().ok().filter(|load| (0.0..=TARGET_LOAD_MAX).contains(load));
    let wanted = "give a share of the host, such as 0.25 for a quarter, or `none`";
    load.map(|load| Target(Some(load))).ok_or_else(|| wanted.to_owned())
}

async fn target(machine: &str, target: Option<f64>, ask: &AskArgs) -> Result<(), Failure> {
    let client = ask.client();
    let status = client.status().await?;
    let named =
        |m: &&evenkeel_agent::status::MachineStatus| m.name == machine || m.id.as_str() == machine;
    let found = status.machines.iter().find(named).ok_or_else(|| {
        format!("host `{}` has no machine `{machine}` in its schedule", status.host)
    })?;
    client.set_target(&found.id, target).await?;
    let done = match target {
        Some(load) => {
            format!("machine `{}` counts as {load} of host `{}`", found.name, status.host)
        }
        None => format!("machine `{}` counts as measured", found.name),
    };
    output::print(ask.format, &target, || done)
}

async fn claim(machine: &str, fenced: &HostId, ask: &AskArgs) -> Result<(), Failure> {
    let client = ask.client();
    let status = client.status().await?;
    let named = |name: &str, id: &MachineId| name == machine || id.as_str() == machine;
    // One that is on its way first: it need not be in the schedule.
    let moving = status.handoffs.iter().map(|h| (&h.name, &h.machine));
    let machines = status.machines.iter().map(|m| (&m.name, &m.id));
    let found = moving.chain(machines).find(|(name, id)| named(name, id));
    let (name, id) = found.ok_or_else(|| {
        format!(
            "host `{}` has no machine `{machine}`, and none of that name on its way",
            status.host
        )
    })?;
    client.claim(id, fenced).await?;
    let done = format!("machine `{name}` belongs to host `{}` from now on", status.host);
    output::print(ask.format, &serde_json::json!({ "claimed": id }), || done)
}

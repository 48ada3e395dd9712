//! `evenkeel drain`, `cordon`, `uncordon` and `place`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use evenkeel_agent::config::to_size;
use evenkeel_agent::{Client, DrainRequest, PlaceRequest, Placement};
use evenkeel_core::appraisal::{Fit, Lacking};
use evenkeel_core::balancer::Drain;
use evenkeel_core::decision::Reason;
use evenkeel_core::model::{Group, HostId, HostState, MachineId, Place, Rules};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::AskArgs;
use super::cluster::span;
use crate::output::{self, Failure, percent, table};
use crate::progress::Progress;

/// How often a host that is being emptied is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// The host; this one if none is named
    #[arg(value_name = "HOST")]
    name: Option<HostId>,
    #[command(flatten)]
    ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Also if the rest cannot hold all of its machines, or could then not spare another host
    #[arg(long)]
    force: bool,
    /// Say that it begins, and do not wait for its end
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Wait for so long, such as `15m`; without end otherwise. The drain goes on in any case
    #[arg(long, value_name = "TIME", value_parser = span)]
    timeout: Option<Duration>,
    /// The host takes part again by itself once it has been booted
    #[arg(long)]
    until_boot: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Memory of the machine, such as `4GiB`
    #[arg(long, value_name = "SIZE", value_parser = to_size)]
    memory: ByteSize,
    /// Cores that it will use
    #[arg(long, value_name = "CORES", default_value_t = 0.0)]
    cpu: f64,
    /// Disk and network transfer that it will cause per second, such as `20MB`
    #[arg(long, value_name = "SIZE", default_value = "0B", value_parser = to_size)]
    io: ByteSize,
    /// A group whose members stay apart, as in a rule; may be given more than once
    #[arg(long, value_name = "GROUP")]
    anti_affinity: Vec<Group>,
    /// A group whose members stay together; may be given more than once
    #[arg(long, value_name = "GROUP")]
    affinity: Vec<Group>,
    /// A host or LABEL=VALUE on which it must be, or with `!` before it must not; may be given more
    /// than once
    #[arg(long = "on", value_name = "PLACE")]
    places: Vec<Place>,
    #[command(flatten)]
    ask: AskArgs,
}

impl HostArgs {
    fn client(&self) -> Client {
        let client = self.ask.client();
        self.name.as_ref().map_or_else(|| client.clone(), |host| client.of(host))
    }
}

pub(super) async fn set_state(args: &HostArgs, state: HostState) -> Result<(), Failure> {
    let client = args.client();
    client.set_state(state).await?;
    let host = client.status().await?.host;
    let done = match state {
        HostState::Active => format!("host `{host}` takes part again, and is filled gently"),
        _ => format!("host `{host}` takes no machines until `evenkeel uncordon {host}`"),
    };
    output::print(args.ask.format, &json!({ "host": host, "state": state }), || done)
}

pub(super) async fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let (client, format) = (args.host.client(), args.host.ask.format);
    let host = client.status().await?.host;
    let request = DrainRequest { force: args.force, until_boot: args.until_boot };
    let fit = client.drain(&request).await?;
    if !fit.begins {
        return Err(refusal(&host, &fit).into());
    }
    if args.no_wait {
        let done = format!("host `{host}` is being emptied: see `evenkeel status --host {host}`");
        return output::print(format, &fit, || done);
    }
    let began = Instant::now();
    let deadline = args.timeout.map(|timeout| began + timeout);
    let mut progress = Progress::new();
    let mut told = BTreeMap::new();
    let mut last: Option<Drain> = None;
    loop {
        let status = client.status().await?;
        if status.state != HostState::Draining {
            progress.end();
            return Err(format!("host `{host}` is not emptied any more: somebody ended it").into());
        }
        if let Some(drain) = status.drain {
            if drain.machines_left == 0 {
                progress.end();
                let seconds = began.elapsed().as_secs_f64();
                let moved = drain.machines;
                let data = json!({
                    "format": "evenkeel.drain/v1", "host": host, "empty": true,
                    "machines": moved, "bytes": drain.bytes, "seconds": seconds,
                });
                let done = format!("host `{host}` is empty: {moved} machines in {seconds:.0} s");
                return output::print(format, &data, || done);
            }
            tell(&drain, &mut told, &mut progress);
            progress.say(|| how_far(&drain));
            last = Some(drain);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            progress.end();
            return Err(not_empty(&host, last.as_ref()).into());
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            interrupt = tokio::signal::ctrl_c() => {
                progress.end();
                interrupt?;
                return Err(format!(
                    "interrupted: host `{host}` is emptied on without this command; `evenkeel status \
                     --host {host}` shows how far it is, and `evenkeel uncordon {host}` ends it"
                )
                .into());
            }
        }
    }
}

/// Says once of each machine why it stays, and again when that changes.
fn tell(drain: &Drain, told: &mut BTreeMap<MachineId, Reason>, progress: &mut Progress) {
    for lacking in &drain.staying {
        if told.insert(lacking.machine.clone(), lacking.reason) != Some(lacking.reason) {
            progress.end();
            crate::output::tell!("{}", why(lacking));
        }
    }
}

pub(super) fn how_far(drain: &Drain) -> String {
    let left = ByteSize::b(drain.bytes_left.max(0.0) as u64);
    let mut text = format!("{} of {} machines left, {left}", drain.machines_left, drain.machines);
    if let Some(seconds) = drain.seconds_left {
        text += &format!(", about {} s", seconds.round());
    }
    if !drain.staying.is_empty() {
        text += &format!("; {} cannot go as things are", drain.staying.len());
    }
    text
}

/// Why a machine stays, and what to do.
pub(super) fn why(lacking: &Lacking) -> String {
    let Lacking { name, reason, detail, refusals, .. } = lacking;
    let detail = if detail.is_empty() { String::new() } else { format!(" [{detail}]") };
    let counted: Vec<_> =
        refusals.iter().map(|(reason, hosts)| format!("{reason} by {hosts}")).collect();
    let refused = match counted.as_slice() {
        [] => String::new(),
        counted => format!(" (refused: {})", counted.join(", ")),
    };
    let to_do = output::to_do(*reason).map_or_else(String::new, |to_do| format!(" {to_do}"));
    format!("`{name}` stays: {reason}{refused}: {}{detail}{to_do}", reason.meaning())
}

fn refusal(host: &HostId, fit: &Fit) -> String {
    let mut lines = vec![format!("host `{host}` is not emptied, and nothing has changed:")];
    lines.extend(fit.lacking.iter().map(|lacking| format!("  {}", why(lacking))));
    if let Some(short) = &fit.no_spare {
        lines.push(format!(
            "  {}: {} If `{}` failed then, {} of memory would be missing.",
            Reason::NoSpare,
            Reason::NoSpare.meaning(),
            short.host,
            ByteSize::b(short.memory_bytes.max(0.0) as u64),
        ));
    }
    if !fit.silent.is_empty() {
        let silent: Vec<_> = fit.silent.iter().map(HostId::as_str).collect();
        lines.push(format!("  not counted, because they have not answered: {}", silent.join(", ")));
    }
    lines.push("`--force` empties it as far as that goes".to_owned());
    lines.join("\n")
}

fn not_empty(host: &HostId, drain: Option<&Drain>) -> String {
    let left = drain.map_or_else(|| "?".to_owned(), |drain| drain.machines_left.to_string());
    let mut lines = vec![format!("host `{host}` is not empty yet: {left} machines are left")];
    let staying = drain.map(|drain| &drain.staying[..]).unwrap_or_default();
    lines.extend(staying.iter().map(|lacking| format!("  {}", why(lacking))));
    lines.push(format!("it goes on trying; `evenkeel uncordon {host}` ends that"));
    lines.join("\n")
}

pub(super) async fn place(args: &PlaceArgs) -> Result<(), Failure> {
    let wanted = PlaceRequest {
        memory_bytes: args.memory.as_u64() as f64,
        cpu_cores: args.cpu,
        io_bytes_per_s: args.io.as_u64() as f64,
        rules: Rules {
            anti_affinity: args.anti_affinity.clone(),
            affinity: args.affinity.clone(),
            pinned_to: args.places.clone(),
            ..Rules::default()
        },
    };
    let placement = args.ask.client().place(&wanted).await?;
    output::print(args.ask.format, &placement, || places(&placement))?;
    match placement.hosts.first() {
        Some(best) if best.refusal.is_none() => Ok(()),
        _ => Err(format!(
            "none of the {} hosts asked takes it: the table says why each does not",
            placement.asked
        )
        .into()),
    }
}

fn places(placement: &Placement) -> String {
    let mut table = table(&["host", "load", "with it", "free memory", "takes it"]);
    for place in &placement.hosts {
        table.add_row([
            place.host.to_string(),
            percent(place.load),
            percent(place.load + place.price),
            ByteSize::b(place.free_memory_bytes.max(0.0) as u64).to_string(),
            place.refusal.map_or_else(
                || "yes".to_owned(),
                |reason| format!("no: {reason}\n{}", reason.meaning()),
            ),
        ]);
    }
    output::align(&mut table, &[1, 2, 3]);
    table.to_string()
}

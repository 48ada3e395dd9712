//! Commands of an operator who moves machines, approves of moves, or pauses them.

mod waiting;

use std::time::Duration;

use clap::{Args, Subcommand};
use evenkeel_agent::status::{MachineStatus, SilentMember};
use evenkeel_agent::status::{MoveStatus, RecommendationStatus};
use evenkeel_agent::{Client, Status};
use evenkeel_agent::{PAUSE_MAX, PauseWish};
use evenkeel_core::model::HostId;

use super::report::clock_time;
use super::{AskArgs, block_on};
use crate::output::{self, Failure, percent, table};

/// How long a pause may take to be known everywhere before it is said where it is not.
const SPREAD_TIME_MAX: Duration = Duration::from_secs(5);
/// Agents give no notice.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Digits of an id that are shown: enough to tell recommendations apart.
const ID_SHOWN: usize = 8;

#[derive(Debug, Subcommand)]
pub(crate) enum OperateCommand {
    /// Move a machine to another host, or to wherever it fits best, whatever the loads
    #[command(
        after_help = "Examples:\n  evenkeel migrate web-1 kvm2\n  evenkeel migrate web-1\n\n\
        Rules, room and what the machine needs of a host hold as ever. Interrupted, the command \
        leaves the move\ngoing on."
    )]
    Migrate {
        /// The machine's name or UUID, on whichever host
        machine: String,
        /// Where to; to wherever it fits best otherwise
        to: Option<HostId>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Show which moves wait for an operator, on all hosts
    #[command(after_help = "Examples:\n  evenkeel recommendations\n  \
        evenkeel recommendations --format json")]
    Recommendations(AskArgs),
    /// Have recommended moves made, if they still help
    #[command(after_help = "Examples:\n  evenkeel approve 3f0a91c2\n  evenkeel approve --all")]
    Approve {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Drop recommended moves
    #[command(after_help = "Examples:\n  evenkeel skip 3f0a91c2\n  evenkeel skip --all")]
    Skip {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Let no host move anything by itself for a while, in the whole cluster
    #[command(after_help = "Example:\n  evenkeel pause --for 2h --reason 'switch maintenance'\n\n\
        What is under way ends as usual, and what an operator orders is done.")]
    Pause {
        /// For how long, such as `2h` or `30m`; up to 30 days
        #[arg(long = "for", value_name = "TIME", value_parser = span)]
        span: Duration,
        /// Why, for others to read
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// End a pause before its time
    #[command(after_help = "Example:\n  evenkeel resume")]
    Resume(AskArgs),
}

/// Which recommendations.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The beginning of an id, as `evenkeel recommendations` shows it
    id: Option<String>,
    /// All of them
    #[arg(long)]
    all: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|span| (Duration::from_secs(1)..=PAUSE_MAX).contains(span))
        .ok_or_else(|| "write `2h` or `30m`, from `1s` to `720h`".to_owned())
}

pub(super) fn run(command: OperateCommand) -> Result<(), Failure> {
    match command {
        OperateCommand::Migrate { machine, to, ask } => {
            block_on(migrate(&machine, to.as_ref(), &ask))
        }
        OperateCommand::Recommendations(ask) => block_on(recommendations(&ask)),
        OperateCommand::Approve { which, ask } => block_on(approve(&which, &ask)),
        OperateCommand::Skip { which, ask } => block_on(skip(&which, &ask)),
        OperateCommand::Pause { span, reason, ask } => {
            let wish = PauseWish { seconds: span.as_secs(), by: user(), reason };
            block_on(pause(Some(wish), &ask))
        }
        OperateCommand::Resume(ask) => block_on(pause(None, &ask)),
    }
}

/// Who runs this, as the system calls them.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "somebody".to_owned())
}

/// The hosts of the cluster: the one asked first, and those that did not answer it.
struct Cluster {
    statuses: Vec<(Client, Status)>,
    silent: Vec<String>,
}

impl Cluster {
    async fn ask(ask: &AskArgs) -> Result<Self, Failure> {
        let client = ask.client();
        let here = client.status().await?;
        let mut members = here.members.clone();
        members.retain(|member| *member != here.host);
        let gone =
            |s: &SilentMember| format!("host `{}` is silent since {}", s.host, clock_time(s.since));
        let silent = here.silent.iter().map(gone).collect();
        let mut cluster = Self { statuses: vec![(client.clone(), here)], silent };
        for member in &members {
            let other = client.of(member);
            match other.status().await {
                Ok(status) => cluster.statuses.push((other, status)),
                Err(why) => cluster.silent.push(format!("host `{member}` was not asked: {why}")),
            }
        }
        Ok(cluster)
    }

    /// Where a machine is.
    fn find(&self, machine: &str) -> Result<(&Client, &Status, &MachineStatus), Failure> {
        let named = |m: &&MachineStatus| m.name == machine || m.id.as_str() == machine;
        let found = self.statuses.iter().flat_map(|(client, status)| {
            status.machines.iter().filter(named).map(move |m| (client, status, m))
        });
        let found: Vec<_> = found.collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => {
                let silent = self.silent.iter().map(|why| format!("\n{why}")).collect::<String>();
                Err(format!("no host that was asked has a machine `{machine}`{silent}").into())
            }
            several => {
                let hosts: Vec<_> = several.iter().map(|(_, s, _)| s.host.as_str()).collect();
                let hosts = hosts.join(", ");
                let hint = "ask one of them with --host, or name the machine by its UUID";
                Err(format!("machine `{machine}` is on {hosts}; {hint}").into())
            }
        }
    }

    /// Every recommendation, with the host that made it.
    async fn recommendations(&self) -> Result<Vec<(&Client, RecommendationStatus)>, Failure> {
        let mut all = Vec::new();
        for (client, status) in &self.statuses {
            if status.operation.recommendations > 0 {
                let of_host = client.recommendations().await?;
                all.extend(of_host.into_iter().map(|one| (client, one)));
            }
        }
        all.sort_by_key(|(_, one)| one.since);
        Ok(all)
    }

    fn say_who_is_silent(&self) {
        for why in &self.silent {
            crate::output::tell!("{why}");
        }
    }
}

async fn migrate(machine: &str, to: Option<&HostId>, ask: &AskArgs) -> Result<(), Failure> {
    let client = ask.client();
    let here = client.status().await?;
    let is = |m: &&MachineStatus| m.name == machine || m.id.as_str() == machine;
    let (client, id) = match here.machines.iter().find(is) {
        Some(found) => (client, found.id.clone()),
        None => {
            let cluster = Cluster::ask(ask).await?;
            let (client, _, found) = cluster.find(machine)?;
            (client.clone(), found.id.clone())
        }
    };
    let ordered = client.migrate(&id, to).await?;
    let moved = waiting::for_end(&client, ordered).await?;
    output::print(ask.format, &moved, || waiting::done(&moved))
}

async fn recommendations(ask: &AskArgs) -> Result<(), Failure> {
    let cluster = Cluster::ask(ask).await?;
    let all: Vec<_> = cluster.recommendations().await?.into_iter().map(|(_, one)| one).collect();
    cluster.say_who_is_silent();
    output::print(ask.format, &all, || match all.as_slice() {
        [] => "nothing is recommended".to_owned(),
        all => listed(all),
    })
}

fn listed(all: &[RecommendationStatus]) -> String {
    let header = ["id", "machine", "from", "to", "loads", "the machine", "to send", "expires"];
    let mut table = table(&header);
    for one in all {
        let pair = one.pair.as_ref();
        let loads =
            pair.map(|pair| format!("{} → {}", percent(pair.donor), percent(pair.receiver)));
        let price = one.price.as_ref();
        let price = price
            .map(|price| format!("{} / {}", percent(price.at_donor), percent(price.at_receiver)));
        let back = one.in_return.as_ref().map(|name| format!("\nfor {name}"));
        table.add_row([
            shown(one).to_owned(),
            format!("{}{}", one.name, back.unwrap_or_default()),
            one.from.to_string(),
            one.to.to_string(),
            loads.unwrap_or_default(),
            price.unwrap_or_default(),
            one.bytes.map_or_else(String::new, |bytes| format!("{:.0} MiB", bytes / 1048576.0)),
            clock_time(one.until),
        ]);
    }
    output::align(&mut table, &[6]);
    table.to_string()
}

fn shown(one: &RecommendationStatus) -> String {
    one.id.to_string()[..ID_SHOWN].to_owned()
}

/// The recommendations that are meant.
async fn meant<'c>(
    which: &Which,
    cluster: &'c Cluster,
) -> Result<Vec<(&'c Client, RecommendationStatus)>, Failure> {
    let mut all = cluster.recommendations().await?;
    let Some(id) = which.id.as_deref() else { return Ok(all) };
    all.retain(|(_, one)| one.id.to_string().starts_with(&id.to_ascii_lowercase()));
    match all.len() {
        1 => Ok(all),
        0 => {
            cluster.say_who_is_silent();
            Err(format!("no host recommends a move `{id}`; it may have expired").into())
        }
        count => Err(format!("{count} recommendations begin with `{id}`: give more of it").into()),
    }
}

async fn approve(which: &Which, ask: &AskArgs) -> Result<(), Failure> {
    let cluster = Cluster::ask(ask).await?;
    let mut moved: Vec<MoveStatus> = Vec::new();
    let mut failed = Vec::new();
    for (client, one) in meant(which, &cluster).await? {
        let begun = async { waiting::for_end(client, client.approve(one.id).await?).await };
        match begun.await {
            Ok(status) => moved.push(status),
            Err(why) => failed.push(why.to_string()),
        }
    }
    if !moved.is_empty() || failed.is_empty() {
        output::print(ask.format, &moved, || match moved.as_slice() {
            [] => "nothing is recommended".to_owned(),
            moved => moved.iter().map(|m| waiting::done(m) + "\n").collect(),
        })?;
    }
    // What has moved stands first: an error does not undo it.
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

async fn skip(which: &Which, ask: &AskArgs) -> Result<(), Failure> {
    let cluster = Cluster::ask(ask).await?;
    let mut skipped = Vec::new();
    for (client, one) in meant(which, &cluster).await? {
        client.skip(one.id).await?;
        skipped.push(one);
    }
    output::print(ask.format, &skipped, || {
        let line = |one: &RecommendationStatus| {
            format!("machine `{}` stays on host `{}`\n", one.name, one.from)
        };
        skipped.iter().map(line).collect()
    })
}

/// Pauses or resumes, and waits until it is known everywhere.
async fn pause(wish: Option<PauseWish>, ask: &AskArgs) -> Result<(), Failure> {
    let client = ask.client();
    client.pause(wish.as_ref()).await?;
    let deadline = tokio::time::Instant::now() + SPREAD_TIME_MAX;
    let (all, ignorant) = loop {
        let cluster = Cluster::ask(ask).await?;
        let here = cluster.statuses[0].1.operation.pause.clone();
        let differs = |(_, status): &&(Client, Status)| status.operation.pause != here;
        let differing = cluster.statuses.iter().filter(differs);
        let mut ignorant: Vec<_> = differing
            .map(|(_, status)| format!("host `{}` has not heard of it yet", status.host))
            .collect();
        ignorant.extend(cluster.silent);
        if ignorant.is_empty() || tokio::time::Instant::now() >= deadline {
            break (cluster.statuses.into_iter().map(|(_, s)| s).collect::<Vec<_>>(), ignorant);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    for why in &ignorant {
        crate::output::tell!("{why}");
    }
    let known = all.len() - ignorant.len().min(all.len() - 1);
    let pause = all[0].operation.pause.clone();
    output::print(ask.format, &pause, || match &pause {
        Some(pause) => {
            let until = clock_time(pause.until);
            format!("no host moves anything by itself until {until}; {known} live hosts know")
        }
        None => format!("hosts move machines again as configured; {known} live hosts know"),
    })
}

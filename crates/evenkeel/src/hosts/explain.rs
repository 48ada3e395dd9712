//! `evenkeel explain`: why a machine is where it is, why a host does not give, what was decided last.

use clap::Subcommand;
use evenkeel_agent::Wanted;
use evenkeel_core::decision::{Decision, Judged, Role};
use evenkeel_core::explain::{About, HostExplained, MachineExplained, Why};
use evenkeel_core::model::{HostId, Resources};
use serde::Serialize;

use super::AskArgs;
use super::everybody::everybody;
use super::report::{clock_time, score};
use crate::output::{self, Failure, percent, table};

const UNKNOWN: &str = "?";

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Why a machine is where it is
    #[command(after_help = "Examples:\n  evenkeel explain vm web-1\n  \
        evenkeel explain vm web-1 --format json | jq -r '.reasons[0].code'")]
    Vm {
        /// The machine's name or UUID, on whatever host it is
        machine: String,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Why a host gives nothing away, and what keeps each of its machines
    #[command(after_help = "Example:\n  evenkeel explain host kvm2")]
    Host {
        /// The host; the one that is asked otherwise
        name: Option<HostId>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// What was decided last, on which figures, and whether both hosts agree
    #[command(after_help = "Example:\n  evenkeel explain last --host kvm2")]
    Last {
        #[command(flatten)]
        ask: AskArgs,
    },
}

pub(super) async fn run(command: ExplainCommand) -> Result<(), Failure> {
    match command {
        ExplainCommand::Vm { machine, ask } => {
            let explained = machine_anywhere(&machine, &ask).await?;
            output::print(ask.format, &explained, || of_machine(&explained))
        }
        ExplainCommand::Host { name, ask } => {
            let client = name.map_or_else(|| ask.client(), |host| ask.client_here().of(&host));
            let explained = client.explain_host().await?;
            output::print(ask.format, &explained, || of_host(&explained))
        }
        ExplainCommand::Last { ask } => {
            let last = last(&ask).await?;
            output::print(ask.format, &last, || of_last(&last))
        }
    }
}

/// The last decision, from both hosts that took part.
#[derive(Serialize)]
struct Last {
    record: Option<Decision>,
    /// The other host's record of the same exchange, where it was to be had.
    other: Option<Decision>,
}

async fn last(ask: &AskArgs) -> Result<Last, Failure> {
    let record = ask.client().records(&Wanted::newest(1)).await?.into_iter().next();
    let mut other = None;
    if let Some((record, peer)) = record.as_ref().and_then(|r| Some((r, r.peer.as_ref()?))) {
        let wanted = Wanted { exchange: Some(record.exchange), ..Wanted::newest(4) };
        // The other host may be gone, or keep no record of what it declined.
        let found = ask.client_here().of(peer).records(&wanted).await.unwrap_or_default();
        other = found.into_iter().find(|theirs| theirs.handoff == record.handoff);
    }
    Ok(Last { record, other })
}

/// Asks the host that was named, or else every host until one has the machine.
async fn machine_anywhere(machine: &str, ask: &AskArgs) -> Result<MachineExplained, Failure> {
    let first = ask.client().explain_machine(machine).await;
    let why = match first {
        Ok(explained) => return Ok(explained),
        Err(why) => why,
    };
    if ask.host.is_some() {
        return Err(why.into());
    }
    for (_, client) in everybody(ask.client_here()).await?.into_iter().skip(1) {
        if let Ok(explained) = client.explain_machine(machine).await {
            return Ok(explained);
        }
    }
    Err(format!("{why}, nor has any other host that answers").into())
}

fn about(why: &Why, own: &HostId) -> String {
    match &why.about {
        About::Machine => "the machine".to_owned(),
        About::Host => format!("host {own}"),
        About::Peer(peer) => format!("going to {peer}"),
        About::Record(Some(peer)) => format!("last time, with {peer}"),
        About::Record(None) => "last time".to_owned(),
    }
}

fn reasons(reasons: &[Why], own: &HostId) -> String {
    let line = |why: &Why| {
        let detail =
            if why.detail.is_empty() { String::new() } else { format!("\n    {}", why.detail) };
        let remedy = if why.remedy == "Nothing." { "" } else { &why.remedy };
        let remedy =
            if remedy.is_empty() { String::new() } else { format!("\n    To do: {remedy}") };
        format!("  {} ({}): {}{detail}{remedy}\n", why.code, about(why, own), why.meaning)
    };
    reasons.iter().map(line).collect()
}

fn of_machine(explained: &MachineExplained) -> String {
    let MachineExplained { name, host, .. } = explained;
    let load = explained.load.map_or_else(|| UNKNOWN.to_owned(), percent);
    let mut text = format!("machine {name} is on host {host}, of which it takes {load}\n");
    text += &match explained.reasons.as_slice() {
        [] => "Nothing keeps it here: its host looks for one to give to.\n".to_owned(),
        all => format!("why it stays:\n{}", reasons(all, host)),
    };
    if let Some(expected) = &explained.expected {
        text += &format!(
            "forecast: {}; it may come to use {} more; taken to last {:.0} s\n",
            usage(expected),
            usage(&explained.margin),
            explained.lasting_s
        );
    }
    text += &format!("contention: {}\n", score(explained.contention.score()));
    text += &explained.cost.map_or_else(String::new, |cost| {
        format!(
            "moving it is predicted to take {:.1} s, {:.0} MiB and {:.0} ms of standing still\n",
            cost.seconds,
            cost.bytes / 1_048_576.0,
            cost.downtime_ms
        )
    });
    for (rule, meaning) in super::rule::lines(&explained.rules) {
        text += &format!("rule {rule}: {meaning}\n");
    }
    if !explained.prospects.is_empty() {
        let mut hosts = table(&["host", "heard", "load", "state", "it would load it", "verdict"]);
        for prospect in &explained.prospects {
            hosts.add_row([
                prospect.peer.to_string(),
                clock_time(prospect.heard),
                percent(prospect.load),
                format!("{:?}", prospect.state).to_lowercase(),
                prospect.at_receiver.map_or_else(|| UNKNOWN.to_owned(), percent),
                prospect.verdict.to_string(),
            ]);
        }
        text += &format!("{hosts}\n");
    }
    if let Some(record) = &explained.record {
        text += &format!("the last record that judged it:\n{}", decision(record, Some(name)));
    }
    text
}

fn of_host(explained: &HostExplained) -> String {
    let share = |load: Option<f64>| load.map_or_else(|| UNKNOWN.to_owned(), percent);
    let mut text = format!(
        "host {} ({:?}) is loaded {}; its fair share is {}, and it gives above {}\n",
        explained.host,
        explained.state,
        share(explained.load),
        share(explained.target),
        share(explained.limit)
    );
    text += &match explained.reasons.as_slice() {
        [] => "It looks for hosts to give to.\n".to_owned(),
        all => format!("why it gives nothing away:\n{}", reasons(all, &explained.host)),
    };
    let mut machines = table(&["machine", "load", "contention", "reason", "meaning"]);
    for machine in &explained.machines {
        machines.add_row([
            machine.name.clone(),
            share(machine.load),
            score(machine.contention_score),
            machine.why.code.to_string(),
            machine.why.meaning.clone(),
        ]);
    }
    text += &format!("{machines}\n");
    if !explained.peers.is_empty() {
        let mut peers = table(&["host", "heard", "load", "state", "contention"]);
        for peer in &explained.peers {
            peers.add_row([
                peer.peer.to_string(),
                clock_time(peer.heard),
                percent(peer.load),
                format!("{:?}", peer.state).to_lowercase(),
                score(peer.contention_score),
            ]);
        }
        text += &format!("{peers}\n");
    }
    if let Some(record) = &explained.record {
        text += &format!("its last record:\n{}", decision(record, None));
    }
    text
}

fn of_last(last: &Last) -> String {
    let Some(record) = &last.record else { return "nothing decided yet".to_owned() };
    let mut text = decision(record, None);
    text += &match &last.other {
        None if record.peer.is_none() => String::new(),
        None => "the other host has no record of it, or does not answer\n".to_owned(),
        Some(other) => agreement(record, other),
    };
    text
}

/// Whether both hosts' records of an exchange say the same.
fn agreement(own: &Decision, other: &Decision) -> String {
    let chosen = |d: &Decision| d.chosen().map(|c| c.machine.clone());
    let differs: Vec<_> = [
        (own.ending != other.ending, "how it ended"),
        (chosen(own) != chosen(other), "the machine chosen"),
        (own.pair != other.pair, "the two loads"),
    ]
    .into_iter()
    .filter_map(|(differs, what)| differs.then_some(what))
    .collect();
    if differs.is_empty() {
        return format!("host {} has recorded the same\n", other.host);
    }
    let what = differs.join(", ");
    format!("host {} has recorded otherwise ({what}):\n{}", other.host, decision(other, None))
}

/// One record in words; of its machines only `machine` if it is named.
fn decision(record: &Decision, machine: Option<&str>) -> String {
    let peer = record.peer.as_ref().map_or("nobody", HostId::as_str);
    let part = match record.role {
        Some(Role::Source) => format!("{} would give to {peer}", record.host),
        Some(Role::Target) => format!("{} would take from {peer}", record.host),
        None => format!("{} asked {peer}", record.host),
    };
    let mut text = format!(
        "  {}: {part}, and it ended {}: {}\n",
        clock_time(record.ended),
        record.ending,
        record.ending.meaning()
    );
    if !record.detail.is_empty() {
        text += &format!("    {}\n", record.detail);
    }
    if let Some(pair) = &record.pair {
        text += &format!(
            "    loads: donor {}, receiver {}; half the difference is {}{}\n",
            percent(pair.donor),
            percent(pair.receiver),
            percent(pair.wanted()),
            record.measure.map_or_else(String::new, |of| format!(", of {}", of.name())),
        );
    }
    let named = |judged: &&Judged| machine.is_none_or(|name| judged.name == name);
    for judged in record.candidates.iter().filter(named) {
        let price = |load: Option<f64>| load.map_or_else(|| UNKNOWN.to_owned(), percent);
        text += &format!(
            "    {}: loads the donor {}, the receiver {}: {}: {}\n",
            judged.name,
            price(judged.at_donor),
            price(judged.at_receiver),
            judged.verdict,
            judged.verdict.meaning()
        );
    }
    text + &costs(record)
}

/// What a migration was predicted to cost, and what it did cost.
fn costs(record: &Decision) -> String {
    let mut text = String::new();
    if let Some(cost) = record.predicted {
        text += &format!(
            "    predicted: {:.1} s, {:.0} MiB, {:.0} ms of standing still\n",
            cost.seconds,
            cost.bytes / 1_048_576.0,
            cost.downtime_ms
        );
    }
    if let Some(stats) = record.stats {
        text += &format!(
            "    it took: {:.1} s, {:.0} MiB, {} ms of standing still\n",
            stats.elapsed_ms as f64 / 1e3,
            stats.bytes as f64 / 1_048_576.0,
            stats.downtime_ms
        );
    }
    text
}

fn usage(usage: &Resources) -> String {
    format!(
        "{:.2} cores, {:.0} MiB, {:.1} MB/s",
        usage.cpu_cores,
        usage.memory_bytes / 1_048_576.0,
        usage.io_bytes_per_s / 1e6
    )
}

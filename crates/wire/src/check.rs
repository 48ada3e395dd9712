//! What a message may hold: numbers in range, lists and texts of bounded length.

use evenkeel_core::ceiling::Gauge;
use evenkeel_core::control::{PAUSE_WORDS_BYTES_MAX, Pause};
use evenkeel_core::cost::Prediction;
use evenkeel_core::estimate::Estimate;
use evenkeel_core::history::Track;
use evenkeel_core::message::{
    CPU_BYTES_MAX, Candidate, FLOCKS_MAX, HOSTS_MAX, Message, OFFER_MAX, Pass, Quote, RUNNING_MAX,
    Report, Room, Talk, Watch, Witness,
};
use evenkeel_core::model::{
    CpuNeed, DiskPlace, Entry, Network, Requirements, Resource, Resources, Rules, Secret,
};
use evenkeel_core::rules::Labels;

use crate::{AMOUNT_MAX, CPUS_MAX, LIST_MAX, LOAD_MAX, NAME_BYTES_MAX, TEXT_BYTES_MAX, WireError};

/// Checks every limit.
///
/// # Errors
/// What is out of its range.
pub(crate) fn check(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Exchange(_, talk) => check_talk(talk),
        Message::Handoff(_, pass) => check_pass(pass),
        Message::Watch(Watch::Running(machines, flocks)) => {
            within(machines.len() <= RUNNING_MAX, "the number of machines that run")?;
            let flocks = flocks.as_deref().unwrap_or_default();
            within(flocks.len() <= FLOCKS_MAX, "the number of groups")?;
            let mut values = flocks.iter().filter_map(|flock| flock.value.as_ref());
            values.try_for_each(|value| text(value, "the value of a label"))
        }
        Message::Watch(Watch::Runs(_)) => Ok(()),
        Message::Watch(Watch::Pause(register)) => {
            let Some(Pause { by, reason, .. }) = &register.pause else { return Ok(()) };
            let short = |words: &str| words.len() <= PAUSE_WORDS_BYTES_MAX;
            within(short(by) && short(reason), "who pauses, or why")
        }
        Message::Witness(_, witness) => check_witness(witness),
    }
}

fn check_witness(witness: &Witness) -> Result<(), WireError> {
    let labels = |labels: &Labels| {
        within(labels.len() <= LIST_MAX, "the number of labels")?;
        let mut texts = labels.iter().flat_map(|(label, value)| [label, value]);
        texts.try_for_each(|value| text(value, "a label"))
    };
    match witness {
        Witness::Ask(ask) => {
            within(ask.seats.len() <= LIST_MAX, "the number of seats")?;
            ask.seats.iter().try_for_each(|seat| text(&seat.value, "a label's value"))?;
            labels(&ask.labels)
        }
        Witness::Answer(answer) => {
            let hosts = answer.hosts.len().max(answer.removed.len());
            within(hosts <= HOSTS_MAX, "the number of hosts")?;
            labels(&answer.labels)
        }
        Witness::Removed(_) => Ok(()),
    }
}

fn check_talk(talk: &Talk) -> Result<(), WireError> {
    match talk {
        Talk::Inquire(report, room) => {
            check_report(report)?;
            room.as_ref().map_or(Ok(()), |room| check_room(room))
        }
        Talk::Accept(report) => check_report(report),
        Talk::Decline { detail, report, .. } => {
            text(detail, "a detail")?;
            report.as_ref().map_or(Ok(()), check_report)
        }
        Talk::Offer { report, candidates, gauge, .. } => {
            gauge.as_ref().map_or(Ok(()), check_gauge)?;
            within(candidates.len() <= OFFER_MAX, "the number of candidates")?;
            check_report(report)?;
            candidates.iter().try_for_each(check_candidate)
        }
        Talk::Quotes { report, quotes } => {
            within(quotes.len() <= OFFER_MAX, "the number of quotes")?;
            check_report(report)?;
            quotes.iter().try_for_each(check_quote)
        }
        Talk::Close { verdicts, .. } => {
            within(verdicts.len() <= OFFER_MAX, "the number of verdicts")
        }
        Talk::Probe(probe) => probe.estimate.as_ref().map_or(Ok(()), check_estimate),
        Talk::Standing(standing) => {
            check_report(&standing.report)?;
            standing.estimate.as_ref().map_or(Ok(()), check_estimate)?;
            standing.room.as_ref().map_or(Ok(()), check_room)
        }
        Talk::Appraise(asked) => {
            within(asked.candidates.len() <= OFFER_MAX, "the number of candidates")?;
            asked.gauge.as_ref().map_or(Ok(()), check_gauge)?;
            asked.candidates.iter().try_for_each(check_candidate)
        }
        Talk::Appraisal(said) => {
            check_report(&said.report)?;
            within(said.quotes.len() <= OFFER_MAX, "the number of quotes")?;
            said.quotes.iter().try_for_each(check_quote)?;
            let memory = [said.free_memory_bytes, said.promised_memory_bytes];
            within(memory.into_iter().all(amount), "a host's memory")?;
            said.gauge.as_ref().map_or(Ok(()), check_gauge)
        }
    }
}

fn check_pass(pass: &Pass) -> Result<(), WireError> {
    match pass {
        Pass::Reserve { entry, verdicts, cpu, past, .. } => {
            within(past.as_ref().is_none_or(|past| past.is_sound()), "what a machine used")?;
            within(verdicts.len() <= OFFER_MAX, "the number of verdicts")?;
            let short = cpu.as_ref().is_none_or(|cpu| cpu.len() <= CPU_BYTES_MAX);
            within(short, "the description of a CPU")?;
            check_entry(entry)
        }
        Pass::Reserved { uri, disks, .. } => {
            text(uri, "a migration URI")?;
            list(disks.as_deref(), "the number of disks", |DiskPlace { name, path }| {
                text(name, "a disk's name")?;
                text(path, "a disk's path")
            })
        }
        Pass::Refused { detail, .. } => maybe(detail.as_ref(), "what is missing"),
        Pass::Released { .. }
        | Pass::Claimed
        | Pass::Missing
        | Pass::Cancel { .. }
        | Pass::Discarded
        | Pass::Where { .. }
        | Pass::Holding { .. }
        | Pass::Arriving => Ok(()),
    }
}

fn check_report(report: &Report) -> Result<(), WireError> {
    within(report.contention.is_none_or(|score| score <= 100), "a score of contention")?;
    load(report.load, "a load")
}

fn check_estimate(estimate: &Estimate) -> Result<(), WireError> {
    // A mean of others' figures may be a rounding error below zero, but is always a number.
    let finite = |of: &Resources| Resource::ALL.iter().all(|&r| amount(of[r]));
    let advantage = estimate.advantage.is_none_or(|advantage| {
        finite(&advantage.rates) && amount(advantage.least) && amount(advantage.fair)
    });
    within(finite(&estimate.usage) && finite(&estimate.capacity) && advantage, "an estimate")
}

fn check_gauge(gauge: &Gauge) -> Result<(), WireError> {
    let amounts = [&gauge.capacity, &gauge.used, &gauge.margin];
    // What is used is a difference of sums, and may be a rounding error below zero.
    let finite = |of: &Resources| Resource::ALL.iter().all(|&r| amount(of[r]));
    let ceilings = Resource::ALL.iter().all(|&r| amount(gauge.ceilings[r]));
    within(amounts.into_iter().all(finite) && ceilings, "how full a host is")
}

fn check_quote(quote: &Quote) -> Result<(), WireError> {
    maybe(quote.detail.as_ref(), "what is missing")?;
    load(quote.at_receiver, "a price")
}

fn check_room(room: &Room) -> Result<(), WireError> {
    load(room.target, "a target")?;
    load(room.limit, "a limit")?;
    within(plausible(&room.rates), "a price per unit")?;
    within(amount(room.free_memory_bytes), "a host's free memory")?;
    room.gauge.as_ref().map_or(Ok(()), check_gauge)?;
    within(room.past.as_ref().is_none_or(Track::is_sound), "what a host was loaded with")?;
    if let Some(labels) = &room.labels {
        within(labels.len() <= LIST_MAX, "the number of labels")?;
        labels.iter().flat_map(|(a, b)| [a, b]).try_for_each(|of| text(of, "a label"))?;
    }
    within(room.tenants.len() <= OFFER_MAX, "the number of tenants")?;
    room.tenants.iter().try_for_each(|tenant| check_candidate(&tenant.candidate))
}

fn check_candidate(candidate: &Candidate) -> Result<(), WireError> {
    within(candidate.name.len() <= NAME_BYTES_MAX, "a machine's name")?;
    load(candidate.at_donor, "a price")?;
    within(plausible(&candidate.factors), "a load factor")?;
    let memory = candidate.memory_bytes;
    within(amount(memory) && memory >= 0.0, "a machine's memory")?;
    within(candidate.margin.as_ref().is_none_or(plausible), "a margin")?;
    let finite = |cost: &Prediction| amount(cost.bytes) && amount(cost.seconds);
    within(candidate.cost.as_ref().is_none_or(finite), "a prediction")?;
    check_needs(&candidate.needs)?;
    within(candidate.anti_affinity.len() <= LIST_MAX, "the number of groups")?;
    let ties = candidate.ties.as_deref().unwrap_or_default();
    within(ties.len() <= LIST_MAX, "the number of affinity groups")?;
    let mut values = ties.iter().filter_map(|tie| tie.value.as_ref());
    values.try_for_each(|value| text(value, "the value of a label"))?;
    candidate.rules.as_ref().map_or(Ok(()), check_rules)
}

fn check_needs(needs: &Requirements) -> Result<(), WireError> {
    text(&needs.arch, "an architecture")?;
    if let CpuNeed::Model(name) | CpuNeed::Signature(name) = &needs.cpu {
        text(name, "a CPU")?;
    }
    texts(&needs.storage, "a storage id")?;
    maybe(needs.machine_type.as_ref(), "a machine type")?;
    maybe(needs.virt_type.as_ref(), "a type of machines")?;
    list(needs.networks.as_deref(), "the number of networks", |network| match network {
        Network::Virtual(name) | Network::Interface(name) => text(name, "a network"),
    })?;
    list(needs.devices.as_deref(), "the number of devices", |name| text(name, "a device"))?;
    list(needs.special.as_deref(), "the number of special needs", |need| text(need, "a need"))?;
    list(needs.huge_pages.as_deref(), "the number of page sizes", |_| Ok(()))?;
    let few = |list: &Option<Vec<u32>>| list.as_ref().is_none_or(|l| l.len() <= CPUS_MAX);
    let few_cpus = few(&needs.host_cpus) && few(&needs.dedicated_cpus);
    within(few(&needs.numa_nodes) && few_cpus, "the number of CPUs")?;
    list(needs.attachments.as_deref(), "the number of attachments", |attachment| {
        text(attachment.network.name(), "a network")?;
        maybe(attachment.link.switch.as_ref(), "a kind of network")?;
        maybe(attachment.link.segment.as_ref(), "a segment")?;
        maybe(attachment.portgroup.as_ref(), "a group of ports")
    })?;
    maybe(needs.host_uuid.as_ref(), "a host's UUID")?;
    list(needs.files.as_deref(), "the number of files", |file| {
        text(&file.path, "a file")?;
        text(&file.what, "what a file is for")
    })?;
    list(needs.secrets.as_deref(), "the number of secrets", |secret| match secret {
        Secret::Uuid(uuid) => text(uuid, "a secret"),
        Secret::Usage(kind, name) => text(kind, "a secret").and_then(|()| text(name, "a secret")),
    })?;
    list(needs.addresses.as_deref(), "the number of addresses", |at| text(at, "an address"))?;
    list(needs.local_disks.as_deref(), "the number of disks", |disk| {
        text(&disk.name, "a disk's name")?;
        text(&disk.path, "a disk's path")?;
        text(&disk.pool, "a pool")?;
        maybe(disk.obstacle.as_ref(), "what keeps a disk")
    })
}

fn check_entry(entry: &Entry) -> Result<(), WireError> {
    if let Some(target) = entry.target_load {
        load(target, "a target load")?;
    }
    check_rules(&entry.rules)
}

fn check_rules(rules: &Rules) -> Result<(), WireError> {
    within(rules.check().is_ok(), "the rules of a machine")
}

fn within(holds: bool, what: &'static str) -> Result<(), WireError> {
    if holds { Ok(()) } else { Err(WireError::OutOfRange(what)) }
}

/// Whether it is an amount of anything that there is, and sums of such amounts are numbers, too.
fn amount(value: f64) -> bool {
    value.abs() <= AMOUNT_MAX
}

fn plausible(of: &Resources) -> bool {
    of.is_plausible() && Resource::ALL.iter().all(|&r| amount(of[r]))
}

fn load(value: f64, what: &'static str) -> Result<(), WireError> {
    within(value.is_finite() && (0.0..=LOAD_MAX).contains(&value), what)
}

fn text(value: &str, what: &'static str) -> Result<(), WireError> {
    within(value.len() <= TEXT_BYTES_MAX, what)
}

fn maybe(value: Option<&String>, what: &'static str) -> Result<(), WireError> {
    value.map_or(Ok(()), |value| text(value, what))
}

fn list<T>(
    values: Option<&[T]>,
    what: &'static str,
    check: impl Fn(&T) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let values = values.unwrap_or_default();
    within(values.len() <= LIST_MAX, what)?;
    values.iter().try_for_each(check)
}

fn texts(values: &[String], what: &'static str) -> Result<(), WireError> {
    within(values.len() <= LIST_MAX, what)?;
    values.iter().try_for_each(|value| text(value, what))
}

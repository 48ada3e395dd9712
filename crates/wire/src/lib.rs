//! The wire format: versions, limits, and the one place where a message is decoded.
//!
//! A frame is CBOR: `[version, [kind, [id, body…]]]`. The two outer levels and the id are the same
//! in every version, so that an agent can decline a frame of a version that it does not speak; the
//! body has numbered fields, which a decoder skips where it does not know them. What [`decode`]
//! returns is trustworthy in form: ids are ids, numbers are finite and in range, lists and texts are
//! bounded. It is never trustworthy in content.

use evenkeel_core::ceiling::Gauge;
use evenkeel_core::control::Pause;
use evenkeel_core::cost::Prediction;
use evenkeel_core::estimate::Estimate;
use evenkeel_core::message::{
    Appraisal, CPU_BYTES_MAX, Candidate, FLOCKS_MAX, HOSTS_MAX, Message, OFFER_MAX, Pass, Quote,
    RUNNING_MAX, Report, Room, Talk, Watch, Witness,
};
use evenkeel_core::model::{
    CpuNeed, DiskPlace, Entry, ExchangeId, Network, Requirements, Resource, Resources, Rules,
};
use evenkeel_core::rules::Labels;
use minicbor::{Decoder, Encoder};

/// The version that this agent speaks.
pub const VERSION: u16 = 1;

/// The oldest version that it understands.
pub const VERSION_MIN: u16 = 1;

/// Largest frame in bytes: an offer of [`OFFER_MAX`] machines with long names fits several times.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;

/// Longest text in a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Most entries in a list of groups, hosts or storage ids.
pub const LIST_MAX: usize = 64;

/// Most CPUs of a host, or NUMA nodes, that a machine is bound to.
pub const CPUS_MAX: usize = 4096;

/// Largest load or price: a host a thousand times over is not a host.
pub const LOAD_MAX: f64 = 1000.0;

/// Why a frame was refused. The frame is dropped; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It is too large.
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// It is of a version that this agent does not speak.
    #[error(
        "protocol version {version}, and this agent speaks {VERSION_MIN} to {VERSION}: upgrade the older of the two"
    )]
    Version {
        /// The version that it is of.
        version: u16,
        /// The exchange that it belongs to, if to one.
        exchange: Option<ExchangeId>,
    },
    /// It is not a message.
    #[error("not a message: {0}")]
    Malformed(String),
    /// A field is out of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
}

/// Encodes a message into a frame. Words for people that are too long are cut: a refusal is no
/// reason to be misunderstood.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    if has_too_many_words(message) {
        let mut message = message.clone();
        for text in words(&mut message) {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|&at| text.is_char_boundary(at));
            text.truncate(end.unwrap_or(0));
        }
        return encode(&message);
    }
    let mut bytes = Vec::with_capacity(256);
    let mut encoder = Encoder::new(&mut bytes);
    let done = encoder.array(2).and_then(|e| e.u16(VERSION)).and_then(|e| e.encode(message));
    // Writing to a `Vec` has no error to return.
    debug_assert!(done.is_ok());
    bytes
}

fn has_too_many_words(message: &Message) -> bool {
    let long = |text: &String| text.len() > TEXT_BYTES_MAX;
    match message {
        Message::Exchange(_, Talk::Decline { detail, .. }) => long(detail),
        Message::Exchange(
            _,
            Talk::Quotes { quotes, .. } | Talk::Appraisal(Appraisal { quotes, .. }),
        ) => quotes.iter().any(|quote| quote.detail.as_ref().is_some_and(long)),
        Message::Handoff(_, Pass::Refused { detail, .. }) => detail.as_ref().is_some_and(long),
        _ => false,
    }
}

/// The words for people in a message.
fn words(message: &mut Message) -> Box<dyn Iterator<Item = &mut String> + '_> {
    match message {
        Message::Exchange(_, Talk::Decline { detail, .. }) => Box::new(std::iter::once(detail)),
        Message::Exchange(
            _,
            Talk::Quotes { quotes, .. } | Talk::Appraisal(Appraisal { quotes, .. }),
        ) => Box::new(quotes.iter_mut().filter_map(|quote| quote.detail.as_mut())),
        Message::Handoff(_, Pass::Refused { detail, .. }) => Box::new(detail.iter_mut()),
        _ => Box::new(std::iter::empty()),
    }
}

/// Decodes a frame into a message and checks every limit.
///
/// # Errors
/// When it is too large, of another version, malformed or out of range.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLarge(frame.len()));
    }
    let malformed = |e: minicbor::decode::Error| WireError::Malformed(e.to_string());
    let mut decoder = Decoder::new(frame);
    if decoder.array().map_err(malformed)? != Some(2) {
        return Err(WireError::Malformed("no frame".to_owned()));
    }
    let version = decoder.u16().map_err(malformed)?;
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(WireError::Version { version, exchange: exchange_of(&mut decoder) });
    }
    let message: Message = decoder.decode().map_err(malformed)?;
    if decoder.position() != frame.len() {
        return Err(WireError::Malformed("something follows the message".to_owned()));
    }
    check(&message)?;
    Ok(message)
}

/// The exchange that a frame of any version belongs to, if to one.
fn exchange_of(decoder: &mut Decoder<'_>) -> Option<ExchangeId> {
    let kind = decoder.array().ok().and_then(|_| decoder.u32().ok())?;
    let fields = decoder.array().ok()?;
    (kind == 0 && fields != Some(0)).then(|| decoder.u64().ok().map(ExchangeId)).flatten()
}

fn check(message: &Message) -> Result<(), WireError> {
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
            text(by, "who pauses")?;
            text(reason, "why it is paused")
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
        Talk::Inquire(report) | Talk::Accept(report) => check_report(report),
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
            within(memory.into_iter().all(f64::is_finite), "a host's memory")?;
            said.gauge.as_ref().map_or(Ok(()), check_gauge)
        }
    }
}

fn check_pass(pass: &Pass) -> Result<(), WireError> {
    match pass {
        Pass::Reserve { entry, verdicts, cpu, .. } => {
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
    let finite = |of: &Resources| Resource::ALL.iter().all(|&r| of[r].is_finite());
    let advantage = estimate.advantage.is_none_or(|advantage| {
        finite(&advantage.rates) && advantage.least.is_finite() && advantage.fair.is_finite()
    });
    within(finite(&estimate.usage) && finite(&estimate.capacity) && advantage, "an estimate")
}

fn check_gauge(gauge: &Gauge) -> Result<(), WireError> {
    let amounts = [&gauge.capacity, &gauge.used, &gauge.margin];
    // What is used is a difference of sums, and may be a rounding error below zero.
    let finite = |of: &Resources| Resource::ALL.iter().all(|&r| of[r].is_finite());
    let ceilings = Resource::ALL.iter().all(|&r| gauge.ceilings[r].is_finite());
    within(amounts.into_iter().all(finite) && ceilings, "how full a host is")
}

fn check_quote(quote: &Quote) -> Result<(), WireError> {
    maybe(quote.detail.as_ref(), "what is missing")?;
    load(quote.at_receiver, "a price")
}

fn check_room(room: &Room) -> Result<(), WireError> {
    load(room.target, "a target")?;
    load(room.limit, "a limit")?;
    within(room.rates.is_plausible(), "a price per unit")?;
    within(room.free_memory_bytes.is_finite(), "a host's free memory")?;
    room.gauge.as_ref().map_or(Ok(()), check_gauge)?;
    if let Some(labels) = &room.labels {
        within(labels.len() <= LIST_MAX, "the number of labels")?;
        labels.iter().flat_map(|(a, b)| [a, b]).try_for_each(|of| text(of, "a label"))?;
    }
    within(room.tenants.len() <= OFFER_MAX, "the number of tenants")?;
    room.tenants.iter().try_for_each(|tenant| check_candidate(&tenant.candidate))
}

fn check_candidate(candidate: &Candidate) -> Result<(), WireError> {
    text(&candidate.name, "a machine's name")?;
    load(candidate.at_donor, "a price")?;
    within(candidate.factors.is_plausible(), "a load factor")?;
    let memory = candidate.memory_bytes;
    within(memory.is_finite() && memory >= 0.0, "a machine's memory")?;
    within(candidate.margin.is_none_or(|m| m.is_plausible()), "a margin")?;
    let finite = |cost: &Prediction| cost.bytes.is_finite() && cost.seconds.is_finite();
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
    list(needs.huge_pages.as_deref(), "the number of page sizes", |_| Ok(()))?;
    let few = |list: &Option<Vec<u32>>| list.as_ref().is_none_or(|l| l.len() <= CPUS_MAX);
    within(few(&needs.numa_nodes) && few(&needs.host_cpus), "the number of CPUs")?;
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

#[cfg(test)]
mod tests {
    use evenkeel_core::control::{Authority, Autonomy, PauseRegister};
    use evenkeel_core::decision::Reason;
    use evenkeel_core::flocks::Flock;
    use evenkeel_core::handoff::Ticket;
    use evenkeel_core::load::Basis;
    use evenkeel_core::message::{Answer, Appraise, Ask, Probe, Standing, Tenant, Verdict};
    use evenkeel_core::model::{ClaimId, HostId, HostState, HugePages, LocalDisk, MachineId, Time};
    use evenkeel_core::port::{Commit, HandoffId, MigrationStats};
    use evenkeel_core::rules::Tie;
    use evenkeel_core::witness::Seat;
    use proptest::prelude::*;

    use super::*;
    use evenkeel_core::model::PerResource;

    fn report(load: f64) -> Report {
        let mode = Some(Autonomy::Approve);
        let (state, protocol) = (HostState::Active, Some(3));
        Report { load, state, protocol, contention: Some(50), mends: Some(true), mode }
    }

    fn needs() -> Requirements {
        Requirements {
            arch: "x86_64".to_owned(),
            cpu_digest: Some(u64::MAX),
            networks: Some(vec![Network::Interface("br0".to_owned())]),
            huge_pages: Some(vec![HugePages { kib: 2048, bytes: 1 << 30 }]),
            local_disks: Some(vec![LocalDisk { name: "vda".to_owned(), ..LocalDisk::default() }]),
            ..Requirements::default()
        }
    }

    fn candidate() -> Candidate {
        Candidate {
            machine: MachineId::new("m-1").unwrap(),
            name: "web 1".to_owned(),
            basis: Basis::Actual,
            factors: Resources { cpu_cores: 0.5, memory_bytes: 1e9, io_bytes_per_s: 0.0 },
            at_donor: 0.25,
            memory_bytes: 2e9,
            needs: needs(),
            anti_affinity: vec!["web".parse().unwrap()],
            rules: Some(Rules {
                pinned_to: vec!["!rack=r7?".parse().unwrap()],
                max_share: Some(0.5),
                priority: -3,
                ..Rules::default()
            }),
            ties: Some(vec![Tie { mates: 2, value: Some("r7".to_owned()) }]),
            mends: Some(false),
            margin: Some(Resources { cpu_cores: 0.1, ..Resources::ZERO }),
            cost: Some(Prediction { bytes: 1e9, seconds: 1.0, ..Prediction::default() }),
        }
    }

    fn gauge() -> Gauge {
        Gauge {
            capacity: Resources { cpu_cores: 8.0, memory_bytes: 1e10, io_bytes_per_s: 1e9 },
            used: Resources { cpu_cores: 1.5, memory_bytes: 1e9, io_bytes_per_s: 0.0 },
            margin: Resources::ZERO,
            ceilings: PerResource { cpu: 0.9, memory: 1.0, io: 0.9 },
        }
    }

    fn offer(report: Report, candidates: Vec<Candidate>) -> Talk {
        let authority = Some(Authority::Told);
        Talk::Offer { report, candidates, measure: None, gauge: Some(gauge()), authority }
    }

    fn appraisal(quotes: usize) -> Appraisal {
        Appraisal {
            report: report(0.3),
            quotes: vec![Quote { at_receiver: 0.1, refusal: None, detail: None }; quotes],
            free_memory_bytes: 1e9,
            promised_memory_bytes: 2e9,
            gauge: Some(gauge()),
            busy: false,
        }
    }

    fn messages() -> Vec<Message> {
        let talks = [
            Talk::Inquire(report(0.5)),
            Talk::Accept(report(0.0)),
            Talk::Decline {
                reason: Reason::Busy,
                detail: "ü".to_owned(),
                report: Some(report(1.0)),
            },
            offer(report(0.9), vec![candidate(); 3]),
            Talk::Quotes {
                report: report(0.1),
                quotes: vec![Quote {
                    at_receiver: 0.2,
                    refusal: Some(Reason::NoNetwork),
                    detail: Some("no bridge `br0`".to_owned()),
                }],
            },
            Talk::Close { reason: Reason::NoCandidate, verdicts: vec![Reason::GainSmall] },
            Talk::Probe(Probe {
                estimate: Some(Estimate::default()),
                giving: true,
                measure: Some(Resource::Cpu),
                protocol: Some(3),
                authority: Some(Authority::Ordered),
            }),
            Talk::Standing(Standing {
                report: report(0.5),
                estimate: None,
                room: Some(Room {
                    target: 0.4,
                    limit: 0.41,
                    rates: Resources { cpu_cores: 0.02, memory_bytes: 1e-12, io_bytes_per_s: 0.0 },
                    free_memory_bytes: 1e9,
                    tenants: vec![Tenant { candidate: candidate(), origin: None }],
                    gauge: Some(gauge()),
                    labels: Some([("rack".to_owned(), "r7".to_owned())].into()),
                }),
                refusal: Some(Reason::Busy),
            }),
            Talk::Appraise(Appraise {
                candidates: vec![candidate(); 2],
                giver: HostState::Draining,
                gauge: Some(gauge()),
            }),
            Talk::Appraisal(appraisal(2)),
        ];
        let passes = [
            Pass::Reserve {
                exchange: ExchangeId(7),
                machine: MachineId::new("m-1").unwrap(),
                entry: Entry { target_load: Some(0.25), ..Entry::default() },
                verdicts: vec![Reason::Chosen],
                in_return: Some(MachineId::new("m-2").unwrap()),
                commit: Some(Commit::Strict),
                autostart: Some(true),
                ticket: Some(Ticket { life: u64::MAX, number: 1 }),
                cpu: Some("<cpu/>".to_owned()),
            },
            Pass::Reserved {
                uri: "qemu+unix:///session".to_owned(),
                protocol: Some(2),
                ticket: None,
                machine: MachineId::new("m-1").ok(),
                disks: Some(vec![DiskPlace { name: "vda".into(), path: "/srv/a".into() }]),
            },
            Pass::Refused { reason: Reason::NoMemory, detail: Some("full".to_owned()) },
            Pass::Released {
                machine: MachineId::new("m-1").unwrap(),
                stats: MigrationStats { elapsed_ms: 1, downtime_ms: 2, bytes: 3 },
                autostart: Some(false),
            },
            Pass::Claimed,
            Pass::Missing,
            Pass::Cancel { reason: Reason::Stopping, machine: MachineId::new("m-1").ok() },
            Pass::Discarded,
            Pass::Where { machine: MachineId::new("m-1").unwrap() },
            Pass::Holding { machine: MachineId::new("m-1").unwrap(), ticket: None },
            Pass::Arriving,
        ];
        let talks = talks.into_iter().map(|t| Message::Exchange(ExchangeId(u64::MAX), t));
        let labels: Labels = [("rack".to_owned(), "r1".to_owned())].into();
        let seat = Seat { group: "web@rack".parse().unwrap(), value: "r1".to_owned() };
        let machine = || MachineId::new("m-1").unwrap();
        let host = || HostId::new("h-1").unwrap();
        let verdicts = [
            Verdict::Clear,
            Verdict::Unsure,
            Verdict::Claimed { by: machine(), hard: true },
            Verdict::Taken { by: machine(), hard: false },
        ];
        let answers = verdicts.map(|verdict| {
            let (hosts, removed) = (vec![host()], vec![host()]);
            Witness::Answer(Answer { verdict, labels: labels.clone(), hosts, removed })
        });
        let ask =
            Ask { machine: Some(machine()), seats: vec![seat], labels: labels.clone(), known: 7 };
        let witnesses = answers.into_iter().chain([Witness::Ask(ask), Witness::Removed(host())]);
        let group = "web@rack".parse().unwrap();
        let flock = Flock { group, members: 2, value: Some("r7".to_owned()) };
        let pause = |until| Pause {
            until: Time::from_unix_ms(until),
            by: "eve".to_owned(),
            reason: "ü".to_owned(),
        };
        let register = |pause| PauseRegister {
            at: Time::from_unix_ms(1),
            on: HostId::new("h1").unwrap(),
            pause,
        };
        let watches = [
            Watch::Running(vec![0, u64::MAX], Some(vec![flock])),
            Watch::Runs(MachineId::new("m-1").unwrap()),
            Watch::Pause(register(Some(pause(u64::MAX)))),
            Watch::Pause(register(None)),
        ];
        talks
            .chain(passes.into_iter().map(|p| Message::Handoff(HandoffId(9), p)))
            .chain(watches.map(Message::Watch))
            .chain(witnesses.map(|w| Message::Witness(ClaimId(u64::MAX), w)))
            .collect()
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        for message in messages() {
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn a_frame_of_another_version_is_refused_and_its_exchange_known() {
        let mut frame = encode(&messages()[0]);
        assert_eq!(frame[1], VERSION as u8, "the version is the second byte");
        frame[1] = 9;
        let exchange = Some(ExchangeId(u64::MAX));
        assert_eq!(decode(&frame), Err(WireError::Version { version: 9, exchange }));
    }

    #[test]
    fn a_field_that_a_later_version_adds_is_skipped() {
        // An inquiry whose report has a tenth field, as a later agent would send it.
        let mut frame = Vec::new();
        let mut e = Encoder::new(&mut frame);
        e.array(2).unwrap().u16(VERSION).unwrap();
        e.array(2).unwrap().u32(0).unwrap();
        e.array(2).unwrap().u64(5).unwrap();
        e.array(2).unwrap().u32(0).unwrap();
        e.array(1).unwrap();
        e.array(10).unwrap().f64(0.5).unwrap().encode(HostState::Active).unwrap();
        for _ in 2..9 {
            e.null().unwrap();
        }
        e.f64(7.0).unwrap();
        let known =
            Report { protocol: None, contention: None, mends: None, mode: None, ..report(0.5) };
        let inquiry = Message::Exchange(ExchangeId(5), Talk::Inquire(known));
        assert_eq!(decode(&frame), Ok(inquiry));
    }

    #[test]
    fn an_inquiry_of_an_agent_that_says_no_protocol_is_understood() {
        let mut frame = Vec::new();
        let mut e = Encoder::new(&mut frame);
        e.array(2).unwrap().u16(VERSION).unwrap();
        e.array(2).unwrap().u32(0).unwrap();
        e.array(2).unwrap().u64(5).unwrap();
        e.array(2).unwrap().u32(0).unwrap();
        e.array(1).unwrap();
        e.array(2).unwrap().f64(0.5).unwrap().encode(HostState::Active).unwrap();
        let report =
            Report { protocol: None, contention: None, mends: None, mode: None, ..report(0.5) };
        let inquiry = Message::Exchange(ExchangeId(5), Talk::Inquire(report));
        assert_eq!(decode(&frame), Ok(inquiry));
    }

    #[test]
    fn what_witnesses_are_asked_and_answer_is_less_than_150_bytes() {
        let machine = || MachineId::new("11111111-2222-4333-8444-000000000001").unwrap();
        let labels: Labels = [("rack".to_owned(), "r17".to_owned())].into();
        let seat = Seat { group: "frontend@rack".parse().unwrap(), value: "r17".to_owned() };
        let (known, seats) = (u64::MAX, vec![seat]);
        let ask = Ask { machine: Some(machine()), seats, labels: labels.clone(), known };
        let verdict = Verdict::Taken { by: machine(), hard: true };
        let answer = Answer { verdict, labels, hosts: Vec::new(), removed: Vec::new() };
        for said in [Witness::Ask(ask), Witness::Answer(answer)] {
            let bytes = encode(&Message::Witness(ClaimId(u64::MAX), said)).len();
            assert!(bytes < 150, "{bytes}");
        }
    }

    #[test]
    fn a_kind_of_message_that_a_later_version_adds_is_refused_and_no_more() {
        let mut frame = Vec::new();
        let mut e = Encoder::new(&mut frame);
        e.array(2).unwrap().u16(VERSION).unwrap();
        e.array(2).unwrap().u32(99).unwrap().array(1).unwrap().u64(5).unwrap();
        assert!(matches!(decode(&frame), Err(WireError::Malformed(_))));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, -0.1, 1e9] {
            let inquiry = Message::Exchange(ExchangeId(1), Talk::Inquire(report(bad)));
            assert_eq!(decode(&encode(&inquiry)), Err(WireError::OutOfRange("a load")));
            let offer = offer(report(0.1), vec![Candidate { at_donor: bad, ..candidate() }]);
            let offer = Message::Exchange(ExchangeId(1), offer);
            assert_eq!(decode(&encode(&offer)), Err(WireError::OutOfRange("a price")));
        }
        for (said, what) in [
            (appraisal(OFFER_MAX + 1), "the number of quotes"),
            (Appraisal { free_memory_bytes: f64::NAN, ..appraisal(1) }, "a host's memory"),
            (Appraisal { report: report(-1.0), ..appraisal(1) }, "a load"),
        ] {
            let said = Message::Exchange(ExchangeId(1), Talk::Appraisal(said));
            assert_eq!(decode(&encode(&said)), Err(WireError::OutOfRange(what)));
        }
        let asked = Appraise {
            candidates: vec![candidate(); OFFER_MAX + 1],
            giver: HostState::Active,
            gauge: None,
        };
        let asked = Message::Exchange(ExchangeId(1), Talk::Appraise(asked));
        assert_eq!(decode(&encode(&asked)), Err(WireError::OutOfRange("the number of candidates")));
        let offer = offer(report(0.1), vec![candidate(); OFFER_MAX + 1]);
        let refused = decode(&encode(&Message::Exchange(ExchangeId(1), offer)));
        assert_eq!(refused, Err(WireError::OutOfRange("the number of candidates")));
    }

    #[test]
    fn a_refusal_in_too_many_words_is_understood_all_the_same() {
        let detail = format!("x{}", "ü".repeat(TEXT_BYTES_MAX));
        let decline = Talk::Decline { reason: Reason::UnknownLoad, detail, report: None };
        let heard = decode(&encode(&Message::Exchange(ExchangeId(1), decline)));
        let Ok(Message::Exchange(_, Talk::Decline { detail, .. })) = heard else {
            panic!("{heard:?}")
        };
        assert_eq!(detail.len(), TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn a_frame_that_is_cut_or_followed_by_something_is_refused() {
        for message in messages() {
            let frame = encode(&message);
            for cut in 0..frame.len() {
                assert!(decode(&frame[..cut]).is_err());
            }
            let longer = [frame.as_slice(), &[0]].concat();
            assert!(decode(&longer).is_err());
        }
        assert!(matches!(decode(&vec![0; FRAME_BYTES_MAX + 1]), Err(WireError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_flipped_bytes_make_it_panic(
            which in 0..messages().len(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut frame = encode(&messages()[which]);
            for (at, byte) in flips {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            let _ = decode(&frame);
        }
    }
}

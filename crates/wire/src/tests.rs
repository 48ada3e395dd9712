use evenkeel_core::ceiling::Gauge;
use evenkeel_core::control::Pause;
use evenkeel_core::control::{Authority, Autonomy, PauseRegister};
use evenkeel_core::cost::Prediction;
use evenkeel_core::decision::Reason;
use evenkeel_core::estimate::Estimate;
use evenkeel_core::flocks::Flock;
use evenkeel_core::history::{History, Track};
use evenkeel_core::load::Basis;
use evenkeel_core::message::{Answer, Appraise, Ask, Probe, Standing, Tenant, Verdict};
use evenkeel_core::message::{
    Appraisal, Candidate, OFFER_MAX, Pass, Quote, Report, Room, Watch, Witness,
};
use evenkeel_core::model::{ClaimId, HostId, HostState, HugePages, LocalDisk, MachineId, Time};
use evenkeel_core::model::{
    DiskPlace, Entry, Network, PerResource, Requirements, Resource, Resources, Rules, Ticket,
};
use evenkeel_core::port::{Commit, HandoffId, MigrationStats};
use evenkeel_core::rules::Labels;
use evenkeel_core::rules::Tie;
use evenkeel_core::witness::Seat;
use proptest::prelude::*;

use super::*;

fn history() -> History {
    let mut history = History::default();
    let used = Resources { cpu_cores: 0.5, memory_bytes: 1e9, io_bytes_per_s: 0.0 };
    for minute in 0..3 {
        history.observe(Time::from_unix_ms(minute * 60_000), &used);
    }
    history.told()
}

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
        Talk::Inquire(report(0.5), None),
        Talk::Accept(report(0.0)),
        Talk::Decline { reason: Reason::Busy, detail: "ü".to_owned(), report: Some(report(1.0)) },
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
                past: Some(Track::of([(7, 0.5), (8, 0.25)])),
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
            past: Some(Box::new(history())),
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
            unanswered: Some(true),
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
    let ask = Ask { machine: Some(machine()), seats: vec![seat], labels: labels.clone(), known: 7 };
    let witnesses = answers.into_iter().chain([Witness::Ask(ask), Witness::Removed(host())]);
    let group = "web@rack".parse().unwrap();
    let flock = Flock { group, members: 2, value: Some("r7".to_owned()) };
    let pause = |until| Pause {
        until: Time::from_unix_ms(until),
        by: "eve".to_owned(),
        reason: "ü".to_owned(),
    };
    let register =
        |pause| PauseRegister { at: Time::from_unix_ms(1), on: HostId::new("h1").unwrap(), pause };
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
    let known = Report { protocol: None, contention: None, mends: None, mode: None, ..report(0.5) };
    let inquiry = Message::Exchange(ExchangeId(5), Talk::Inquire(known, None));
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
    let inquiry = Message::Exchange(ExchangeId(5), Talk::Inquire(report, None));
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
fn a_frame_that_is_nested_as_deep_as_it_is_long_is_an_error() {
    // In the place of a message, and of a field that this version does not know and skips.
    let deep = [vec![0x81; FRAME_BYTES_MAX - 64], vec![0]].concat();
    let maps = [[0xa1, 0].repeat((FRAME_BYTES_MAX - 64) / 2), vec![0]].concat();
    let endless = vec![0x9f; FRAME_BYTES_MAX - 64];
    for nested in [deep, maps, endless] {
        for start in [&[0x82, 1][..], &[0x82, 1, 0x82, 0], &[0x82, 1, 0x82, 0, 0x99, 0x40, 0]] {
            let frame = [start, &nested].concat();
            assert!(matches!(decode(&frame), Err(WireError::Malformed(_))));
        }
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
        let inquiry = Message::Exchange(ExchangeId(1), Talk::Inquire(report(bad), None));
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
    let Ok(Message::Exchange(_, Talk::Decline { detail, .. })) = heard else { panic!("{heard:?}") };
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

#[test]
fn amounts_that_no_host_has_are_out_of_range() {
    let estimate = |usage: f64| {
        let usage = Resources { cpu_cores: usage, ..Resources::ZERO };
        let estimate = Some(Estimate { usage, ..Estimate::default() });
        let probe =
            Probe { estimate, giving: false, measure: None, protocol: None, authority: None };
        Message::Exchange(ExchangeId(1), Talk::Probe(probe))
    };
    let offered = |candidate| Message::Exchange(ExchangeId(1), offer(report(0.1), vec![candidate]));
    let name = "n".repeat(NAME_BYTES_MAX + 1);
    for (message, what) in [
        (estimate(f64::MAX), "an estimate"),
        (estimate(-1e19), "an estimate"),
        (offered(Candidate { memory_bytes: 1e300, ..candidate() }), "a machine's memory"),
        (offered(Candidate { name, ..candidate() }), "a machine's name"),
    ] {
        assert_eq!(decode(&encode(&message)), Err(WireError::OutOfRange(what)));
    }
    assert!(decode(&encode(&estimate(1e9))).is_ok());
}

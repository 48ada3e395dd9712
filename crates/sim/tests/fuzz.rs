//! Anything at all said to a balancer: it neither panics nor breaks what it promised.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use common::*;
use evenkeel_core::balancer::Balancer;
use evenkeel_core::ceiling::{Gauge, Measure};
use evenkeel_core::control::{Authority, Autonomy, Pause, PauseRegister};
use evenkeel_core::cost::Prediction;
use evenkeel_core::decision::{Reason, Role};
use evenkeel_core::effect::{Effect, Input, MoveOrder, Timer};
use evenkeel_core::handoff::{Phase, Recovered};
use evenkeel_core::load::Basis;
use evenkeel_core::message::{
    Candidate, Message, Pass, Probe, Quote, Report, Standing, Talk, Watch,
};
use evenkeel_core::model::{
    Entry, Epoch, ExchangeId, HostState, MachineId, Missing, MoveId, PerResource, Requirements,
    Resource, Resources, Ticket, Time,
};
use evenkeel_core::port::{
    Commit, Counters, Event, Failure, FailureKind, HandoffId, HandoffKey, HostSample, LookId,
    MachineSample, MigrationStats, Order, Presence, Sight, Stamp, Unfit,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn any_machine() -> impl Strategy<Value = MachineId> {
    (0..4u8).prop_map(|i| machine_id(&format!("v{i}")))
}

/// Mostly sensible numbers, and every other one.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.0..2.0f64, 1 => any::<f64>()]
}

fn mode() -> impl Strategy<Value = Option<Autonomy>> {
    use Autonomy::{Approve, Automatic, Observe};
    prop::option::of(prop::sample::select(vec![Observe, Approve, Automatic]))
}

fn authority() -> impl Strategy<Value = Option<Authority>> {
    use Authority::{Approve, Automatic, Observe, Ordered, Told};
    prop::option::of(prop::sample::select(vec![Observe, Approve, Automatic, Ordered, Told]))
}

fn pause() -> impl Strategy<Value = Option<Pause>> {
    prop::option::of(any::<u64>().prop_map(|until| Pause {
        until: Time::from_unix_ms(until),
        by: "eve".to_owned(),
        reason: String::new(),
    }))
}

fn report() -> impl Strategy<Value = Report> {
    let state =
        prop_oneof![Just(HostState::Active), Just(HostState::Cordoned), Just(HostState::Draining)];
    let (protocol, score) = (prop::option::of(1..5u16), prop::option::of(any::<u8>()));
    let asks = (protocol, score, prop::option::of(any::<bool>()), mode());
    (number(), state, asks).prop_map(|(load, state, (protocol, contention, mends, mode))| Report {
        load,
        state,
        protocol,
        contention,
        mends,
        mode,
    })
}

fn reason() -> impl Strategy<Value = Reason> {
    prop::sample::select(Reason::ALL)
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (any_machine(), number(), number(), number()).prop_map(|(machine, cpu, at_donor, memory)| {
        Candidate {
            name: machine.to_string(),
            machine,
            basis: Basis::Actual,
            factors: Resources { cpu_cores: cpu, memory_bytes: memory, io_bytes_per_s: cpu },
            at_donor,
            memory_bytes: memory,
            // Half of them are examined before there is a promise.
            needs: Requirements { cpu_digest: (cpu > 1.0).then_some(7), ..Requirements::default() },
            anti_affinity: vec!["g".parse().unwrap()],
            rules: None,
            ties: None,
            mends: None,
            margin: Some(Resources { cpu_cores: at_donor, ..Resources::ZERO }),
            cost: Some(Prediction { bytes: memory, seconds: cpu, ..Prediction::default() }),
        }
    })
}

fn measure() -> impl Strategy<Value = Measure> {
    prop::option::of(prop::sample::select(Resource::ALL.to_vec()))
}

fn talk() -> impl Strategy<Value = Talk> {
    let quote = (number(), prop::option::of(reason())).prop_map(|(at_receiver, refusal)| Quote {
        at_receiver,
        refusal,
        detail: None,
    });
    let quotes = prop::collection::vec(quote, 0..5);
    let candidates = prop::collection::vec(candidate(), 0..5);
    let verdicts = prop::collection::vec(reason(), 0..5);
    prop_oneof![
        report().prop_map(|report| Talk::Inquire(report, None)),
        report().prop_map(Talk::Accept),
        (reason(), prop::option::of(report())).prop_map(|(reason, report)| Talk::Decline {
            reason,
            detail: String::new(),
            report
        }),
        (report(), candidates, measure(), number(), authority()).prop_map(
            |(report, candidates, measure, used, authority)| {
                let gauge = Some(Gauge {
                    capacity: Resources { cpu_cores: 4.0, memory_bytes: used, io_bytes_per_s: 0.0 },
                    used: Resources { cpu_cores: used, ..Resources::ZERO },
                    margin: Resources::ZERO,
                    ceilings: PerResource { cpu: used, memory: 1.0, io: 0.9 },
                });
                Talk::Offer { report, candidates, measure, gauge, authority }
            }
        ),
        (any::<bool>(), measure(), authority()).prop_map(|(giving, measure, authority)| {
            Talk::Probe(Probe { estimate: None, giving, measure, protocol: None, authority })
        }),
        (report(), prop::option::of(reason())).prop_map(|(report, refusal)| {
            Talk::Standing(Standing { report, estimate: None, room: None, refusal })
        }),
        (report(), quotes).prop_map(|(report, quotes)| Talk::Quotes { report, quotes }),
        (reason(), verdicts).prop_map(|(reason, verdicts)| Talk::Close { reason, verdicts }),
    ]
}

fn pass() -> impl Strategy<Value = Pass> {
    let verdicts = prop::collection::vec(reason(), 0..5);
    prop_oneof![
        (0..4u64, any_machine(), verdicts).prop_map(|(exchange, machine, verdicts)| {
            Pass::Reserve {
                exchange: ExchangeId(exchange),
                machine,
                entry: Entry::default(),
                verdicts,
                in_return: None,
                commit: Some(Commit::Strict),
                autostart: Some(true),
                ticket: Some(Ticket { life: exchange % 2, number: exchange }),
                cpu: None,
                past: None,
            }
        }),
        (prop::option::of(Just(2)), prop::option::of(any_machine())).prop_map(
            |(protocol, machine)| Pass::Reserved {
                uri: "memory:///n001".to_owned(),
                protocol,
                ticket: None,
                disks: None,
                machine,
            }
        ),
        reason().prop_map(|reason| Pass::Refused { reason, detail: None }),
        (any_machine(), any::<Option<bool>>()).prop_map(|(machine, unanswered)| Pass::Released {
            machine,
            stats: MigrationStats::default(),
            autostart: None,
            unanswered,
        }),
        Just(Pass::Claimed),
        Just(Pass::Missing),
        (reason(), prop::option::of(any_machine()))
            .prop_map(|(reason, machine)| Pass::Cancel { reason, machine }),
        any_machine().prop_map(|machine| Pass::Where { machine }),
        (any_machine(), any::<bool>(), 0..4u64).prop_map(|(machine, known, number)| {
            Pass::Holding { machine, ticket: known.then_some(Ticket { life: 0, number }) }
        }),
        Just(Pass::Discarded),
        Just(Pass::Arriving),
    ]
}

fn presence() -> impl Strategy<Value = Presence> {
    use Presence::{Absent, Defined, Held, Incoming, Leaving, Paused, Running, Stranded};
    prop::sample::select(vec![Absent, Defined, Incoming, Held, Paused, Stranded, Leaving, Running])
}

fn sight() -> impl Strategy<Value = Sight> {
    (presence(), prop::option::of(0..4u64), 0..3u64).prop_map(|(presence, handoff, epoch)| {
        let stamp = Stamp { epoch: Epoch(epoch), handoff: handoff.map(HandoffId) };
        Sight::new(presence, stamp)
    })
}

fn done() -> impl Strategy<Value = Result<(), Failure>> {
    prop_oneof![3 => Just(Ok(())), 1 => Just(Err(Failure::new(FailureKind::Other, "no")))]
}

fn event() -> impl Strategy<Value = Event> {
    let failure = || Failure::new(FailureKind::Other, "no");
    let machine = (0..4u8, presence(), any::<Option<(u64, u64)>>(), 0..9u32).prop_map(
        |(index, presence, counters, vcpus)| MachineSample {
            arrived: false,
            facts: {
                let mut facts = facts(&format!("v{index}"), 1.0);
                facts.vcpus = vcpus;
                facts.into()
            },
            presence,
            counters: counters.map(|(cpu_time_ns, io_bytes)| Counters {
                dirty_bytes_per_s: None,
                cpu_time_ns,
                io_bytes,
                ..Counters::default()
            }),
        },
    );
    let sample = (any::<u32>(), prop::collection::vec(machine, 0..5)).prop_map(|(at, machines)| {
        let at = Time::from_unix_ms(u64::from(at));
        let (facts, pressure) = Default::default();
        Event::Sampled(Ok(HostSample { at, facts, background: None, pressure, machines }))
    });
    prop_oneof![
        4 => sample,
        1 => Just(Event::Sampled(Err(failure()))),
        1 => (0..4u64, any::<bool>()).prop_map(move |(id, ok)| {
            let result = if ok { Ok(MigrationStats::default()) } else { Err(failure()) };
            Event::MigrationEnded(HandoffId(id), result)
        }),
        1 => (0..4u64).prop_map(|id| Event::EmulatorGone(HandoffId(id))),
        2 => (any_machine(), 0..9u64, sight())
            .prop_map(|(m, look, sight)| Event::Looked(m, LookId(look), Ok(sight))),
        1 => (any_machine(), done()).prop_map(|(m, done)| Event::Resumed(m, done)),
        1 => (any_machine(), done()).prop_map(|(m, done)| Event::Discarded(m, done)),
        1 => (any_machine(), any::<bool>(), done())
            .prop_map(|(m, wanted, done)| Event::AutostartSet(m, wanted, done)),
        1 => (any_machine(), done()).prop_map(|(m, done)| Event::Started(m, done)),
        1 => (0..4u64, any::<bool>()).prop_map(|(id, fits)| {
            let lacks = || Unfit::Lacks(Missing::Storage("nfs".to_owned()));
            Event::Examined(HandoffId(id), if fits { Ok(Vec::new()) } else { Err(lacks()) })
        }),
        1 => any_machine().prop_map(Event::ScheduleChanged),
        1 => Just(Event::Disconnected("gone".to_owned())),
        1 => Just(Event::Connected),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let from = || (0..4usize).prop_map(host_id);
    let timer = prop_oneof![
        1 => Just(Timer::Sample),
        4 => Just(Timer::Round),
        1 => (0..4u64).prop_map(|id| Timer::Exchange(ExchangeId(id))),
        1 => (0..4u64).prop_map(|id| Timer::Handoff(HandoffId(id))),
        1 => Just(Timer::Watch),
        1 => Just(Timer::Directed),
    ];
    let order = (any_machine(), prop::option::of(from()))
        .prop_map(|(machine, to)| Input::Migrate(MoveOrder { id: MoveId(1), machine, to }));
    let register = (from(), any::<u64>(), pause()).prop_map(|(from, at, pause)| {
        let register = PauseRegister { at: Time::from_unix_ms(at), on: from.clone(), pause };
        Input::Message(from, Message::Watch(Watch::Pause(register)))
    });
    prop_oneof![
        1 => prop::collection::vec(from(), 0..5).prop_map(Input::Members),
        6 => (from(), 0..4u64, talk())
            .prop_map(|(from, id, talk)| Input::Message(from, Message::Exchange(ExchangeId(id), talk))),
        6 => (from(), 0..4u64, pass())
            .prop_map(|(from, id, pass)| Input::Message(from, Message::Handoff(HandoffId(id), pass))),
        1 => from().prop_map(|from| Input::Undelivered(from, "no route".to_owned())),
        4 => timer.prop_map(Input::Timer),
        6 => event().prop_map(Input::Hypervisor),
        1 => (0..4u64, from())
            .prop_map(|(id, from)| (HandoffKey::new(HandoffId(id), &from), "full".to_owned()))
            .prop_map(|(key, why)| Input::StoreFailed(key, why)),
        1 => (0..4u64).prop_map(|id| Input::FinishPassed(HandoffId(id))),
        1 => Just(Input::SetState(HostState::Draining)),
        1 => Just(Input::SetState(HostState::Active)),
        1 => pause().prop_map(Input::Pause),
        1 => register,
        1 => any::<bool>().prop_map(Input::Closed),
        2 => order,
        1 => (0..4u64).prop_map(|id| Input::Approve(MoveId(id))),
        1 => (0..4u64).prop_map(|id| Input::Skip(MoveId(id))),
    ]
}

/// Answers a conversation with the id that the balancer itself has drawn, so that the deeper phases
/// are reached.
fn align(input: Input, talking: Option<ExchangeId>, handing: Option<HandoffId>) -> Input {
    match input {
        Input::Message(from, Message::Exchange(ExchangeId(id), talk)) if id < 3 => {
            let id = talking.unwrap_or(ExchangeId(id));
            Input::Message(from, Message::Exchange(id, talk))
        }
        Input::Message(from, Message::Handoff(HandoffId(id), mut pass)) if id < 3 => {
            if let Pass::Reserve { exchange, .. } = &mut pass {
                *exchange = talking.unwrap_or(*exchange);
            }
            Input::Message(from, Message::Handoff(handing.unwrap_or(HandoffId(id)), pass))
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// No sequence of inputs makes a balancer panic, whatever peers and the hypervisor claim; it keeps
    /// its bound on handoffs, orders no migration that it did not make durable first, and promises no
    /// memory that it does not have.
    #[test]
    fn no_sequence_of_inputs_breaks_a_balancer(
        seed in any::<u64>(),
        inputs in prop::collection::vec((input(), 0..4000u64), 0..120),
    ) {
        let mut balancer = Balancer::new(eager(), profile(0), Recovered::default());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut now, mut out) = (0, Vec::new());
        let (mut talking, mut handing) = (None, None);
        balancer.handle(Input::Start, Time::from_unix_ms(now), &mut rng, &mut out);
        for (input, wait) in inputs {
            now += wait;
            let input = align(input, talking, handing);
            out.clear();
            balancer.handle(input, Time::from_unix_ms(now), &mut rng, &mut out);
            let mut durable = Vec::new();
            for effect in &out {
                match effect {
                    Effect::Persist(handoff) => {
                        durable.push(handoff.id);
                        let promised = (handoff.role, handoff.phase) == (Role::Target, Phase::Reserved);
                        let free = balancer.host().free_memory_bytes();
                        prop_assert!(!promised || free >= 0.0, "{free} bytes left after {handoff:?}");
                    }
                    Effect::Order(Order::Migrate(m)) => prop_assert!(durable.contains(&m.handoff)),
                    Effect::Send(_, Message::Exchange(id, _)) => talking = Some(*id),
                    Effect::Send(_, Message::Handoff(id, _)) => handing = Some(*id),
                    _ => {}
                }
            }
            prop_assert!(balancer.handoffs().count() <= 200);
        }
    }
}

//! A member that lies: what it cannot make another host do. See `docs/security.md`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::control::{Pause, PauseRegister};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::estimate::Estimate;
use evenkeel_core::handoff::Recovered;
use evenkeel_core::message::{
    Answer, Ask, Candidate, Message, Pass, Probe, Report, Standing, Talk, Verdict, Watch, Witness,
};
use evenkeel_core::model::{ClaimId, Entry, Epoch, ExchangeId, HostId, HostState, Resources, Time};
use evenkeel_core::port::{Commit, Event, HandoffId, HostSample, MigrationStats, Order, Sight};
use evenkeel_core::rules::Labels;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// An honest host without machines, and what it waits for.
struct Honest {
    balancer: Balancer,
    rng: ChaCha8Rng,
    now: Time,
    timers: BTreeMap<Timer, Time>,
    said: Vec<Message>,
    /// Which member speaks to it.
    speaker: usize,
    kept: usize,
}

impl Honest {
    fn new() -> Self {
        let config = Config { handoffs_max: 64, ..eager() };
        let mut host = Self {
            balancer: Balancer::new(config, profile(0), Recovered::default()),
            rng: ChaCha8Rng::seed_from_u64(3),
            now: at(1),
            timers: BTreeMap::new(),
            said: Vec::new(),
            speaker: 1,
            kept: 0,
        };
        host.feed(Input::Start);
        host.measure();
        host
    }

    fn measure(&mut self) {
        let (facts, pressure) = Default::default();
        let machines = Vec::new();
        let sample = HostSample { at: self.now, facts, background: None, pressure, machines };
        self.feed(Input::Hypervisor(Event::Sampled(Ok(sample))));
    }

    /// Takes an input, with a hypervisor at which nothing ever arrives.
    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            self.balancer.handle(input, self.now, &mut self.rng, &mut out);
            for effect in out {
                match effect {
                    Effect::SetTimer(timer, at) => drop(self.timers.insert(timer, at)),
                    Effect::Send(_, message) => self.said.push(message),
                    Effect::Keep(_) | Effect::Acquaint(_) => self.kept += 1,
                    Effect::Order(Order::Look(machine, look)) => {
                        let sight = Sight::default();
                        let looked = Event::Looked(machine, look, Ok(sight));
                        inputs.push(Input::Hypervisor(looked));
                    }
                    Effect::Order(order) => {
                        assert!(!matches!(order, Order::Migrate(_)), "it has nothing to give");
                    }
                    _ => {}
                }
            }
        }
    }

    /// The liar says something; what it is answered.
    fn hear(&mut self, message: Message) -> Option<Message> {
        self.said.clear();
        self.feed(Input::Message(host_id(self.speaker), message));
        self.said.pop()
    }

    fn free_gib(&self) -> f64 {
        self.balancer.host().free_memory_bytes() / GIB
    }

    /// Lets time pass, and whatever is due happen.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((&timer, &at)) = self.timers.iter().min_by_key(|(_, at)| **at)
            && at <= end
        {
            self.timers.remove(&timer);
            self.now = self.now.max(at);
            self.feed(Input::Timer(timer));
        }
        self.now = end;
    }

    /// Takes the liar's machine as far as a promise, whose answer this returns.
    fn ask_for_room(&mut self, number: u64, memory_gib: f64) -> Pass {
        self.ask_by(HandoffId(number), number, memory_gib, Epoch(0))
    }

    /// The same, for a machine that has moved so often.
    fn ask_for_room_at(&mut self, number: u64, memory_gib: f64, epoch: Epoch) -> Pass {
        self.ask_by(HandoffId(number), number, memory_gib, epoch)
    }

    /// The same, by a handoff of this id.
    fn ask_by(&mut self, handoff: HandoffId, number: u64, memory_gib: f64, epoch: Epoch) -> Pass {
        let (protocol, contention, mends, mode) = (None, None, None, None);
        let (load, state) = (1000.0, HostState::Active);
        let report = Report { load, state, protocol, contention, mends, mode };
        let exchange = ExchangeId(number);
        let machine = machine_id(&format!("m{number}"));
        let candidate = Candidate {
            factors: Resources { cpu_cores: 1e-6, ..Resources::ZERO },
            at_donor: 999.0,
            memory_bytes: memory_gib * GIB,
            ..Candidate::new(machine.clone(), &format!("lie{number}"))
        };
        let say = |talk| Message::Exchange(exchange, talk);
        let accepted = self.hear(say(Talk::Inquire(report, None)));
        assert!(matches!(accepted, Some(Message::Exchange(_, Talk::Accept(_)))), "{accepted:?}");
        let candidates = vec![candidate];
        let offer = Talk::Offer { report, candidates, gauge: None, measure: None, authority: None };
        let quoted = self.hear(say(offer));
        assert!(matches!(quoted, Some(Message::Exchange(_, Talk::Quotes { .. }))), "{quoted:?}");
        let reserve = Pass::Reserve {
            exchange,
            machine,
            entry: Entry { epoch, ..Entry::default() },
            verdicts: vec![Reason::Chosen],
            in_return: None,
            commit: Some(Commit::Strict),
            autostart: None,
            ticket: None,
            cpu: None,
            past: None,
        };
        match self.hear(Message::Handoff(handoff, reserve)) {
            Some(Message::Handoff(_, pass)) => pass,
            other => panic!("{other:?} instead of an answer"),
        }
    }
}

#[test]
fn a_peer_cannot_have_more_memory_promised_than_there_is() {
    let mut host = Honest::new();
    let all = host.free_gib();
    let promised = (1..=10).filter(|number| match host.ask_for_room(*number, all / 3.5) {
        Pass::Reserved { .. } => true,
        Pass::Refused { reason, .. } => {
            assert_eq!(reason, Reason::NoMemory);
            false
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(promised.count(), 3);
    assert!(host.free_gib() >= 0.0 && host.free_gib() < all / 3.5);
}

#[test]
fn a_member_cannot_speak_of_another_members_handoff_nor_take_its_id_or_machine() {
    let mut host = Honest::new();
    assert!(matches!(host.ask_for_room(1, 1.0), Pass::Reserved { .. }));
    let kept = |host: &Honest| {
        let mut handoffs = host.balancer.handoffs();
        let handoff = handoffs.next().unwrap();
        assert!(handoffs.next().is_none());
        (handoff.id, handoff.peer.clone(), handoff.machine.clone(), handoff.phase)
    };
    let before = kept(&host);
    host.speaker = 2;
    let refused = host.ask_by(HandoffId(1), 2, 1.0, Epoch(0));
    let Pass::Refused { reason: Reason::AlreadyHere, detail: Some(detail) } = refused else {
        panic!("{refused:?}")
    };
    assert!(detail.contains("0000000000000001"), "{detail}");
    let machine = Some(machine_id("m1"));
    for pass in [
        Pass::Cancel { reason: Reason::MigrationFailed, machine },
        Pass::Refused { reason: Reason::TimedOut, detail: None },
        Pass::Released {
            machine: machine_id("m1"),
            stats: MigrationStats::default(),
            autostart: None,
            unanswered: None,
        },
    ] {
        host.hear(Message::Handoff(HandoffId(1), pass));
        assert_eq!(kept(&host), before);
    }
}

#[test]
fn a_peer_cannot_keep_room_that_it_does_not_use() {
    let mut host = Honest::new();
    let all = host.free_gib();
    for number in 1..=3 {
        assert!(matches!(host.ask_for_room(number, all / 3.5), Pass::Reserved { .. }));
    }
    let kept = host.balancer.handoffs().count();
    assert_eq!((kept, host.free_gib() < all / 3.0), (3, true));
    // Longer than any reservation; nothing has arrived, which is seen by looking.
    host.pass(Duration::from_secs(3600));
    assert_eq!(host.balancer.handoffs().count(), 0);
    assert!((host.free_gib() - all).abs() < 1e-6, "{} of {all} GiB", host.free_gib());
}

#[test]
fn a_peer_cannot_reserve_what_it_did_not_offer_or_what_was_refused() {
    let mut host = Honest::new();
    let all = host.free_gib();
    let refused = host.ask_for_room(1, 2.0 * all);
    assert!(matches!(refused, Pass::Refused { reason: Reason::NoMemory, .. }), "{refused:?}");
    let reserve = Pass::Reserve {
        exchange: ExchangeId(99),
        machine: machine_id("never-offered"),
        entry: Entry::default(),
        verdicts: vec![Reason::Chosen],
        in_return: None,
        commit: None,
        autostart: None,
        ticket: None,
        cpu: None,
        past: None,
    };
    let answer = host.hear(Message::Handoff(HandoffId(99), reserve));
    assert!(matches!(answer, Some(Message::Handoff(_, Pass::Refused { .. }))), "{answer:?}");
    assert!((host.free_gib() - all).abs() < 1e-6);
}

/// A word about pauses as the liar may say it.
fn register(at: Time, until: Option<Time>) -> Message {
    let words = || "liar".to_owned();
    let pause = until.map(|until| Pause { until, by: words(), reason: words() });
    Message::Watch(Watch::Pause(PauseRegister { at, on: host_id(1), pause }))
}

#[test]
fn a_peer_cannot_pause_the_cluster_beyond_an_operators_reach() {
    let mut host = Honest::new();
    let (now, end) = (host.now, Time::from_unix_ms(u64::MAX));
    let year = Duration::from_secs(365 * 24 * 3600);
    for word in [
        register(end, Some(end)),
        register(end, None),
        register(now + year, Some(now + 2 * year)),
        // In time, and for ever.
        register(now, Some(end)),
        register(now, Some(now + year)),
    ] {
        host.hear(word.clone());
        assert_eq!(host.balancer.pause(), None, "{word:?}");
    }
    // What it may say, an operator's word wins over.
    host.hear(register(now + Duration::from_secs(3600), Some(now + Duration::from_secs(7200))));
    assert!(host.balancer.pause().unwrap().pause.is_some());
    host.feed(Input::Pause(None));
    let known = host.balancer.pause().unwrap().clone();
    assert_eq!((&known.on, &known.pause), (&host_id(0), &None));
    host.feed(Input::ForgetPause);
    assert_eq!(host.balancer.pause(), None);
}

#[test]
fn a_pause_that_cannot_be_is_not_taken_up_from_an_earlier_life() {
    let end = Time::from_unix_ms(u64::MAX);
    let Message::Watch(Watch::Pause(stored)) = register(end, Some(end)) else { unreachable!() };
    let mut host = Honest::new();
    let recovered = Recovered { pause: Some(stored), ..Recovered::default() };
    host.balancer = Balancer::new(eager(), profile(0), recovered);
    host.feed(Input::Start);
    assert_eq!(host.balancer.pause(), None);
}

#[test]
fn a_peer_that_changes_its_mind_about_pauses_is_written_down_a_few_times_a_minute() {
    let mut host = Honest::new();
    for n in 0..1_000 {
        let at = host.now + Duration::from_millis(n);
        host.hear(register(at, (n % 2 == 0).then(|| at + Duration::from_secs(60))));
    }
    assert!((1..=12).contains(&host.kept), "{} writes", host.kept);
    host.pass(Duration::from_secs(61));
    let at = host.now + Duration::from_secs(1);
    host.hear(register(at, None));
    assert_eq!(host.balancer.pause().unwrap().at, at, "what is said again later is heard");
}

#[test]
fn a_peer_cannot_end_the_averaging_of_the_mean() {
    let mut host = Honest::new();
    let probe = |epoch| {
        let estimate = Some(Estimate { epoch, ..Estimate::default() });
        Talk::Probe(Probe {
            estimate,
            giving: false,
            measure: None,
            protocol: None,
            authority: None,
        })
    };
    let mut epoch_of = |epoch| match host.hear(Message::Exchange(ExchangeId(1), probe(epoch))) {
        Some(Message::Exchange(_, Talk::Standing(Standing { estimate, .. }))) => {
            estimate.map(|estimate| estimate.epoch)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(epoch_of(u32::MAX), None, "it is not averaged with");
    assert_eq!(epoch_of(3), Some(3));
    host.feed(Input::ForgetMean);
    assert_eq!(host.balancer.host().averaging.told().epoch, 0);
}

#[test]
fn a_peer_cannot_give_a_machine_the_last_of_all_epochs() {
    let mut host = Honest::new();
    for (number, epoch) in [(1, u64::MAX), (2, u64::MAX - 1), (3, 1_000_000)] {
        let refused = host.ask_for_room_at(number, 1.0, Epoch(epoch));
        let Pass::Refused { reason, detail } = refused else { panic!("{refused:?}") };
        assert_eq!(reason, Reason::EntryInvalid);
        assert!(detail.unwrap().contains("epoch"));
        // The exchange is over.
        host.pass(Duration::from_secs(60));
        host.measure();
    }
    assert!(matches!(host.ask_for_room_at(200, 1.0, Epoch(5)), Pass::Reserved { .. }));
}

fn ask(labels: Labels) -> Message {
    let ask = Ask { machine: None, seats: Vec::new(), labels, known: 0 };
    Message::Witness(ClaimId(1), Witness::Ask(ask))
}

#[test]
fn a_peer_cannot_have_another_host_left_out_by_saying_that_it_was_removed() {
    let mut host = Honest::new();
    let third = host_id(2);
    host.feed(Input::Members(vec![host_id(1), third.clone()]));
    host.feed(Input::Members(vec![host_id(1)]));
    let knows = |host: &Honest| host.balancer.known_hosts().any(|known| *known == host_id(2));
    assert!(knows(&host), "whoever was a member is a witness");
    host.hear(Message::Witness(ClaimId(0), Witness::Removed(third.clone())));
    let (verdict, labels, hosts) = (Verdict::Clear, Labels::new(), Vec::<HostId>::new());
    let answer = Answer { verdict, labels, hosts, removed: vec![third.clone()] };
    host.hear(Message::Witness(ClaimId(1), Witness::Answer(answer)));
    assert!(knows(&host));
    // The authority's list says so, or an operator that there is no such host.
    host.feed(Input::Revoked(third));
    assert!(!knows(&host));
    host.feed(Input::Members(vec![host_id(1), host_id(3)]));
    host.feed(Input::Forget(host_id(3)));
    assert!(host.balancer.known_hosts().any(|known| *known == host_id(3)), "it is alive");
    host.feed(Input::Members(vec![host_id(1)]));
    host.feed(Input::Forget(host_id(3)));
    assert!(host.balancer.known_hosts().all(|known| *known != host_id(3)));
}

#[test]
fn a_peer_that_changes_its_labels_all_the_time_is_not_written_down_each_time() {
    let mut host = Honest::new();
    host.feed(Input::Members(vec![host_id(1)]));
    let before = host.kept;
    let answered = (0..1_000).filter(|n| {
        let labels: Labels = [("rack".to_owned(), format!("r{n}"))].into();
        host.hear(ask(labels)).is_some()
    });
    assert!((1..=2).contains(&answered.count()));
    assert!(host.kept - before <= 2, "{} writes", host.kept - before);
    host.pass(Duration::from_secs(11));
    assert!(host.hear(ask([("rack".to_owned(), "r7".to_owned())].into())).is_some());
}

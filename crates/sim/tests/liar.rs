//! A member that lies: what it cannot make another host do. See `docs/security.md`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::Recovered;
use evenkeel_core::message::{Candidate, Message, Pass, Report, Talk};
use evenkeel_core::model::{Entry, ExchangeId, HostState, Resources, Time};
use evenkeel_core::port::{Commit, Event, HandoffId, HostSample, MigrationStats, Order, Sight};
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
        self.ask_by(HandoffId(number), number, memory_gib)
    }

    /// The same, by a handoff of this id.
    fn ask_by(&mut self, handoff: HandoffId, number: u64, memory_gib: f64) -> Pass {
        let (protocol, contention, mends, mode) = (None, None, None, None);
        let (load, state) = (1000.0, HostState::Active);
        let report = Report { load, state, protocol, contention, mends, mode };
        let exchange = ExchangeId(number);
        let machine = machine_id(&format!("m{number}"));
        let candidate = Candidate {
            factors: Resources { cpu_cores: 1e-6, ..Resources::ZERO },
            at_donor: 999.0,
            memory_bytes: memory_gib * GIB,
            ..Candidate::new(machine.clone(), "lie")
        };
        let say = |talk| Message::Exchange(exchange, talk);
        let accepted = self.hear(say(Talk::Inquire(report)));
        assert!(matches!(accepted, Some(Message::Exchange(_, Talk::Accept(_)))), "{accepted:?}");
        let candidates = vec![candidate];
        let offer = Talk::Offer { report, candidates, gauge: None, measure: None, authority: None };
        let quoted = self.hear(say(offer));
        assert!(matches!(quoted, Some(Message::Exchange(_, Talk::Quotes { .. }))), "{quoted:?}");
        let reserve = Pass::Reserve {
            exchange,
            machine,
            entry: Entry::default(),
            verdicts: vec![Reason::Chosen],
            in_return: None,
            commit: Some(Commit::Strict),
            autostart: None,
            ticket: None,
            cpu: None,
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
    let refused = host.ask_by(HandoffId(1), 2, 1.0);
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
    };
    let answer = host.hear(Message::Handoff(HandoffId(99), reserve));
    assert!(matches!(answer, Some(Message::Handoff(_, Pass::Refused { .. }))), "{answer:?}");
    assert!((host.free_gib() - all).abs() < 1e-6);
}

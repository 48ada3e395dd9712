//! Hosts find out what runs twice, and what somebody else has moved.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::{Mark, MarkKind, Recovered};
use evenkeel_core::host::Toward;
use evenkeel_core::message::Message;
use evenkeel_core::model::{Entry, Epoch, HandoffId, MachineId, Time};
use evenkeel_core::port::{
    Counters, Event, HostSample, MachineSample, Order, Presence, Sight, Stamp,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::Pair;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Two agents, and which machines run on their hosts.
struct Two {
    balancers: [Balancer; 2],
    running: [Vec<(MachineId, Entry)>; 2],
    /// What is defined and off, and what came by somebody's migration.
    defined: [Vec<MachineId>; 2],
    arrived: bool,
    now: Time,
    rng: ChaCha8Rng,
    /// Every order to rewrite an entry.
    written: Vec<(MachineId, Entry)>,
    /// How many messages of the watch were said.
    said: usize,
}

impl Two {
    fn new(recovered: Recovered) -> Self {
        let cool_down = Duration::from_secs(300);
        let restraint = Restraint { cool_down, ..eager().restraint };
        let mut config = Config { restraint, ..eager() };
        config.metering.forecasting.warm_up = 1;
        let balancer = |i, recovered| Balancer::new(config.clone(), profile(i), recovered);
        let mut two = Self {
            balancers: [balancer(0, recovered), balancer(1, Recovered::default())],
            running: [Vec::new(), Vec::new()],
            defined: [Vec::new(), Vec::new()],
            arrived: false,
            now: at(0),
            rng: ChaCha8Rng::seed_from_u64(7),
            written: Vec::new(),
            said: 0,
        };
        for host in [0, 1] {
            two.feed(host, Input::Start);
            two.feed(host, Input::Members(vec![host_id(0), host_id(1)]));
        }
        two
    }

    /// Gives an input to a host, and what comes of it to whom it is for, until nothing does.
    fn feed(&mut self, host: usize, input: Input) {
        let mut inputs = vec![(host, input)];
        while let Some((host, input)) = inputs.pop() {
            let mut out = Vec::new();
            self.balancers[host].handle(input, self.now, &mut self.rng, &mut out);
            for effect in out {
                match effect {
                    Effect::Send(to, message @ Message::Watch(_)) => {
                        self.said += 1;
                        assert!(self.said < 1000, "it never ends");
                        let to_index = usize::from(to == host_id(1));
                        inputs.push((to_index, Input::Message(host_id(host), message)));
                    }
                    Effect::Order(Order::Look(machine, look)) => {
                        let runs = self.running[host].iter().any(|(id, _)| *id == machine);
                        let presence = match () {
                            () if runs => Presence::Running,
                            () if self.defined[host].contains(&machine) => Presence::Defined,
                            () => Presence::Absent,
                        };
                        let sight = Sight::new(presence, Stamp::default());
                        let looked = Event::Looked(machine, look, Ok(sight));
                        inputs.push((host, Input::Hypervisor(looked)));
                    }
                    Effect::Order(Order::WriteEntry(machine, rewrite)) => {
                        self.written.push((machine, rewrite.entry));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Both hosts measure, and a minute later tell each other what they run.
    fn pass_a_minute(&mut self) {
        self.now = self.now + Duration::from_secs(60);
        for host in [0, 1] {
            let machine = |(id, entry): &(MachineId, Entry)| {
                let mut facts = facts(id.as_str(), 1.0);
                facts.entry = Ok(entry.clone());
                MachineSample {
                    facts: facts.into(),
                    presence: Presence::Running,
                    arrived: self.arrived,
                    counters: Some(Counters::default()),
                }
            };
            let off = |id: &MachineId| MachineSample {
                facts: facts(id.as_str(), 1.0).into(),
                presence: Presence::Defined,
                arrived: false,
                counters: None,
            };
            let machines = self.running[host].iter().map(machine);
            let machines = machines.chain(self.defined[host].iter().map(off)).collect();
            let at = self.now;
            let (facts, pressure) = Default::default();
            let sample = HostSample { at, facts, background: None, pressure, machines };
            self.feed(host, Input::Hypervisor(Event::Sampled(Ok(sample))));
        }
        for host in [0, 1] {
            self.feed(host, Input::Timer(Timer::Watch));
        }
    }

    fn twins(&self, host: usize) -> Vec<&str> {
        self.balancers[host].twins().map(|(id, _)| id.as_str()).collect()
    }

    fn leftovers(&self, host: usize) -> Vec<&str> {
        self.balancers[host].leftovers().map(|(id, _)| id.as_str()).collect()
    }

    fn verdict(&self, host: usize, machine: &str) -> Option<Reason> {
        let pair = Pair { donor: 1.0, receiver: 0.0 };
        let host_of = self.balancers[host].host();
        let peer = &host_id(1 - host);
        let (judged, _) = host_of.candidates(None, &Toward::of(peer), &pair, self.now);
        judged.iter().find(|j| j.machine == machine_id(machine)).map(|j| j.verdict)
    }
}

fn moved_entry() -> Entry {
    Entry { epoch: Epoch(4), handoff: Some(HandoffId(9)), ..Entry::default() }
}

#[test]
fn a_machine_that_runs_on_two_hosts_is_known_to_both_and_moved_by_neither_until_one_stops() {
    let mut two = Two::new(Recovered::default());
    let entry = |name: &str| (machine_id(name), Entry::default());
    two.running = [vec![entry("a"), entry("b")], vec![entry("b"), entry("c")]];
    for _ in 0..5 {
        two.pass_a_minute();
        assert_eq!((two.twins(0), two.twins(1)), (vec!["b"], vec!["b"]));
        assert_eq!(two.verdict(0, "b"), Some(Reason::RunsTwice));
        assert_eq!(two.verdict(1, "b"), Some(Reason::RunsTwice));
    }
    two.running[1].remove(0);
    for _ in 0..5 {
        two.pass_a_minute();
    }
    assert_eq!((two.twins(0), two.twins(1)), (vec![], vec![]));
    assert_ne!(two.verdict(0, "b"), Some(Reason::RunsTwice));
}

#[test]
fn hosts_that_run_different_machines_raise_no_alarm() {
    let mut two = Two::new(Recovered::default());
    let entry = |name: &str| (machine_id(name), Entry::default());
    two.running = [vec![entry("a")], vec![entry("b")]];
    for _ in 0..5 {
        two.pass_a_minute();
    }
    assert_eq!((two.twins(0), two.twins(1)), (vec![], vec![]));
    assert_eq!(two.said, 10, "one message a minute from each");
}

#[test]
fn a_machine_that_somebody_else_has_moved_here_gets_a_new_epoch_and_is_left_alone() {
    let mut two = Two::new(Recovered::default());
    two.pass_a_minute();
    two.running[0].push((machine_id("m"), moved_entry()));
    two.pass_a_minute();
    let [(machine, entry)] = &two.written[..] else { panic!("{:?}", two.written) };
    assert_eq!((machine, entry.epoch, entry.handoff), (&machine_id("m"), Epoch(5), None));
    two.running[0] = two.written.clone();
    two.pass_a_minute();
    assert_eq!(two.written.len(), 1, "once");
    assert_eq!(two.verdict(0, "m"), Some(Reason::OtherMover));
}

#[test]
fn a_machine_that_never_moved_before_is_noticed_when_somebody_else_moves_it_here() {
    for leftover in [false, true] {
        let mut two = Two::new(Recovered::default());
        two.pass_a_minute();
        // Its definition may have been here all the time, from an earlier move of theirs.
        if leftover {
            two.defined[0].push(machine_id("m"));
            two.pass_a_minute();
        }
        two.defined[0].clear();
        two.running[0].push((machine_id("m"), Entry::default()));
        two.arrived = true;
        two.pass_a_minute();
        let [(_, entry)] = &two.written[..] else { panic!("{:?}", two.written) };
        assert_eq!((entry.epoch, entry.handoff), (Epoch(1), None));
        two.running[0] = two.written.clone();
        two.pass_a_minute();
        assert_eq!(two.written.len(), 1, "once");
        assert_eq!(two.verdict(0, "m"), Some(Reason::OtherMover));
    }
}

#[test]
fn a_definition_that_is_left_behind_is_told_by_its_host_until_it_is_gone() {
    let mut two = Two::new(Recovered::default());
    two.running[1].push((machine_id("m"), Entry::default()));
    two.defined[0].push(machine_id("m"));
    two.defined[0].push(machine_id("off-everywhere"));
    two.pass_a_minute();
    assert_eq!((two.leftovers(0), two.leftovers(1)), (vec!["m"], vec![]));
    assert_eq!((two.twins(0), two.twins(1)), (vec![], vec![]));
    two.defined[0].clear();
    two.pass_a_minute();
    two.pass_a_minute();
    assert_eq!(two.leftovers(0), [] as [&str; 0]);
}

#[test]
fn what_was_here_at_the_start_was_defined_here_or_was_claimed_is_no_move_by_somebody_else() {
    let mark = Mark {
        kind: MarkKind::Claimed,
        machine: machine_id("claimed"),
        epoch: Epoch(4),
        handoff: HandoffId(9),
        peer: host_id(1),
    };
    let mut two = Two::new(Recovered { marks: vec![mark], ..Recovered::default() });
    let other = Entry { handoff: Some(HandoffId(8)), ..moved_entry() };
    two.running[0].push((machine_id("before"), other));
    two.pass_a_minute();
    two.running[0].push((machine_id("claimed"), moved_entry()));
    two.running[0].push((machine_id("new"), Entry::default()));
    two.pass_a_minute();
    assert_eq!(two.written, []);
}

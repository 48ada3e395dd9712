//! Two balancers in memory, and the script of what they say to each other.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::effect::{Effect, Input, MoveOrder, Timer};
use evenkeel_core::handoff::{Handoff, Phase, Recovered};
use evenkeel_core::message::{Message, Pass, Report, Talk};
use evenkeel_core::model::{
    Entry, ExchangeId, HostId, HostProfile, HostState, Locks, MachineFacts, MachineId, MoveId,
    Requirements, Resources, Time,
};
use evenkeel_core::port::{
    Counters, Event, HostSample, MachineSample, Migration, MigrationStats, Order, Presence, Sight,
    Stamp,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::{Calm, Policy};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const GIB: f64 = 1_073_741_824.0;

fn host_id(index: usize) -> HostId {
    HostId::new(&format!("h{index}")).unwrap()
}

fn machine_id(name: &str) -> MachineId {
    MachineId::new(name).unwrap()
}

/// Acts on every difference, by the rule of half the difference.
fn eager() -> Config {
    let mut config = Config {
        calm: Calm::NONE,
        restraint: Restraint::NONE,
        policy: Policy::HalfDifference,
        ..Config::default()
    };
    config.metering.forecasting.warm_up = 1;
    config
}

/// A machine that a hypervisor has.
#[derive(Clone, Debug)]
struct Copy {
    presence: Presence,
    entry: Entry,
    cores: f64,
}

/// Two hosts, their hypervisors, and what is on its way between the two.
struct Two {
    balancers: [Balancer; 2],
    here: [BTreeMap<MachineId, Copy>; 2],
    inputs: VecDeque<(usize, Input)>,
    /// What was said, in order: who, and what.
    script: Vec<String>,
    records: [Vec<Decision>; 2],
    /// The newest record of each host's handoff.
    stored: [Option<Handoff>; 2],
    timers: [Vec<(Timer, Time)>; 2],
    /// Whether what is said from now on is lost.
    deaf: bool,
    now: Time,
    rng: ChaCha8Rng,
}

impl Two {
    /// Machines by the cores that they use, all on the first host; measured, and members of a cluster.
    fn new(config: &Config, cores: &[f64]) -> Self {
        let capacity =
            Resources { cpu_cores: 16.0, memory_bytes: 128.0 * GIB, io_bytes_per_s: 1e9 };
        let balancer = |index| {
            let profile = HostProfile::new(host_id(index), capacity);
            Balancer::new(config.clone(), profile, Recovered::default())
        };
        let copy = |cores| Copy { presence: Presence::Running, entry: Entry::default(), cores };
        let machines = cores.iter().enumerate();
        let machines =
            machines.map(|(index, cores)| (machine_id(&format!("m{index}")), copy(*cores)));
        let mut two = Self {
            balancers: [balancer(0), balancer(1)],
            here: [machines.collect(), BTreeMap::new()],
            inputs: VecDeque::new(),
            script: Vec::new(),
            records: Default::default(),
            stored: [None, None],
            timers: Default::default(),
            deaf: false,
            now: Time::from_unix_ms(1_700_000_000_000),
            rng: ChaCha8Rng::seed_from_u64(7),
        };
        for host in [0, 1] {
            two.feed(host, Input::Start);
            two.feed(host, Input::Members(vec![host_id(0), host_id(1)]));
        }
        for _ in 0..3 {
            two.measure();
        }
        two
    }

    /// Both hosts measure, ten seconds later.
    fn measure(&mut self) {
        self.now = self.now + Duration::from_secs(10);
        for host in [0, 1] {
            let machines = self.here[host].iter().map(|(id, copy)| sample(id, copy, self.now));
            let sample = HostSample {
                at: self.now,
                facts: Default::default(),
                background: None,
                pressure: Default::default(),
                machines: machines.collect(),
            };
            self.feed(host, Input::Hypervisor(Event::Sampled(Ok(sample))));
        }
    }

    /// Gives an input to a host, and what comes of it to whom it is for, in order, until nothing does.
    fn feed(&mut self, host: usize, input: Input) {
        self.inputs.push_back((host, input));
        let mut steps = 0;
        while let Some((host, input)) = self.inputs.pop_front() {
            steps += 1;
            assert!(steps < 1000, "it never ends: {:#?}", self.script);
            let mut out = Vec::new();
            self.balancers[host].handle(input, self.now, &mut self.rng, &mut out);
            out.into_iter().for_each(|effect| self.carry_out(host, effect));
        }
    }

    fn carry_out(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Send(to, message) => {
                self.script.push(format!("{} {}", host_id(host), name_of(&message)));
                self.check_is_durable(host, &message);
                let known = [0, 1].into_iter().find(|index| host_id(*index) == to);
                if let Some(to) = known.filter(|_| !self.deaf) {
                    self.inputs.push_back((to, Input::Message(host_id(host), message)));
                }
            }
            Effect::Order(order) => self.obey(host, order),
            Effect::Persist(handoff) => self.stored[host] = Some(handoff),
            Effect::Record(decision) => self.records[host].push(decision),
            Effect::SetTimer(timer, at) => {
                self.timers[host].retain(|(set, _)| *set != timer);
                self.timers[host].push((timer, at));
            }
            _ => {}
        }
    }

    /// What is said of a handoff's end stands in a record before.
    fn check_is_durable(&self, host: usize, message: &Message) {
        let phase = self.stored[host].as_ref().map(|handoff| handoff.phase);
        match message {
            Message::Handoff(_, Pass::Released { .. }) => assert_eq!(phase, Some(Phase::Released)),
            Message::Handoff(_, Pass::Claimed) => {
                assert!(matches!(phase, Some(Phase::Claimed | Phase::Done)), "{phase:?}");
            }
            _ => {}
        }
    }

    fn sight(&self, host: usize, machine: &MachineId) -> Sight {
        let copy = self.here[host].get(machine);
        copy.map_or_else(Sight::default, |copy| Sight::new(copy.presence, Stamp::of(&copy.entry)))
    }

    /// The hypervisor of a host does what it is ordered to.
    fn obey(&mut self, host: usize, order: Order) {
        let phase = self.stored[host].as_ref().map(|handoff| handoff.phase);
        let event = match order {
            Order::Look(machine, look) => {
                let sight = self.sight(host, &machine);
                Event::Looked(machine, look, Ok(sight))
            }
            Order::Examine(wanted) => Event::Examined(wanted.handoff, Ok(Vec::new())),
            Order::SetAutostart(machine, wanted) => Event::AutostartSet(machine, wanted, Ok(())),
            Order::Migrate(migration) => {
                assert_eq!(phase, Some(Phase::Transferring), "no migration without a record");
                self.migrate(host, &migration);
                Event::MigrationEnded(migration.handoff, Ok(MigrationStats::default()))
            }
            Order::Resume(machine, stamp) => {
                assert_eq!(phase, Some(Phase::Claimed), "nothing is let run without a record");
                let copy = self.here[host].get_mut(&machine).unwrap();
                assert_eq!(Stamp::of(&copy.entry), stamp);
                copy.presence = Presence::Running;
                Event::Resumed(machine, Ok(()))
            }
            Order::Sample => return,
            other => panic!("nobody should order {other:?}"),
        };
        self.inputs.push_back((host, Input::Hypervisor(event)));
    }

    fn migrate(&mut self, from: usize, migration: &Migration) {
        let to = 1 - from;
        assert_eq!(migration.to, host_id(to));
        let mut copy = self.here[from].remove(&migration.machine).unwrap();
        copy.entry = migration.entry.clone();
        copy.presence = Presence::Held;
        self.here[to].insert(migration.machine.clone(), copy);
    }

    /// Wakes a host by a timer that it has set for itself, when it is due.
    fn wake(&mut self, host: usize, is_it: impl Fn(&Timer) -> bool) {
        let due = self.timers[host].iter().find(|(timer, _)| is_it(timer)).copied();
        let (timer, at) = due.unwrap_or_else(|| panic!("of {:?}", self.timers[host]));
        self.timers[host].retain(|(set, _)| *set != timer);
        self.now = self.now.max(at);
        self.feed(host, Input::Timer(timer));
    }

    /// The next round of a host, and what was said in it. What is written down of it begins anew.
    fn round(&mut self, host: usize) -> Vec<String> {
        self.records = Default::default();
        self.script.clear();
        self.wake(host, |timer| *timer == Timer::Round);
        std::mem::take(&mut self.script)
    }

    fn load(&self, host: usize) -> f64 {
        self.balancers[host].host().load(self.now).unwrap()
    }

    fn endings(&self, host: usize) -> Vec<Reason> {
        self.records[host].iter().map(|record| record.ending).collect()
    }

    fn machines(&self, host: usize) -> Vec<&str> {
        self.here[host].keys().map(MachineId::as_str).collect()
    }
}

fn sample(id: &MachineId, copy: &Copy, now: Time) -> MachineSample {
    let facts = MachineFacts {
        id: id.clone(),
        name: id.as_str().into(),
        vcpus: 8,
        memory_bytes: GIB,
        needs: Requirements::default(),
        persistent: true,
        autostart: false,
        locks: Locks::default(),
        entry: Ok(copy.entry.clone()),
    };
    let counters = Counters {
        cpu_time_ns: (copy.cores * 1e6) as u64 * now.unix_ms(),
        memory_bytes: GIB as u64,
        ..Counters::default()
    };
    let (presence, counters) = (copy.presence, Some(counters));
    MachineSample { facts: facts.into(), presence, arrived: false, counters }
}

fn name_of(message: &Message) -> String {
    let whole = match message {
        Message::Exchange(_, Talk::Decline { reason, .. }) => return format!("Decline {reason}"),
        Message::Exchange(_, talk) => format!("{talk:?}"),
        Message::Handoff(_, pass) => format!("{pass:?}"),
        other => format!("{other:?}"),
    };
    whole.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// What both say where a handoff goes well.
const HANDOFF: [&str; 4] = ["h0 Reserve", "h1 Reserved", "h0 Released", "h1 Claimed"];

#[test]
fn a_machine_moves_by_this_script_whoever_begins() {
    for (first, talk) in [
        (0, ["h0 Inquire", "h1 Accept", "h0 Offer", "h1 Quotes"].as_slice()),
        (1, ["h1 Inquire", "h0 Offer", "h1 Quotes"].as_slice()),
    ] {
        let mut two = Two::new(&eager(), &[2.0, 2.0, 2.0]);
        assert!(two.load(0) > 0.1 && two.load(1) < 0.01, "{} {}", two.load(0), two.load(1));
        let script = two.round(first);
        assert_eq!(script, [talk, &HANDOFF].concat(), "host {first} begins");
        for (host, role) in [(0, Role::Source), (1, Role::Target)] {
            assert_eq!(two.endings(host), [Reason::Moved], "of h{host}");
            assert_eq!(two.records[host][0].role, Some(role));
            assert_eq!(two.balancers[host].handoffs().count(), 0);
        }
        assert_eq!((two.machines(0).len(), two.machines(1).len()), (2, 1));
        let came = two.here[1].values().next().unwrap();
        assert_eq!(came.presence, Presence::Running);
        assert_eq!(came.entry.epoch, Entry::default().epoch.next());
    }
}

#[test]
fn two_that_are_alike_part_without_a_move() {
    let mut two = Two::new(&eager(), &[]);
    assert_eq!(two.round(0), ["h0 Inquire", "h1 Decline WITHIN_DEAD_BAND"]);
    assert_eq!(two.endings(0), [Reason::WithinDeadBand]);
}

#[test]
fn a_host_that_knows_the_mean_asks_how_others_stand_before_it_offers() {
    let config = Config { policy: Policy::default(), ..eager() };
    let mut two = Two::new(&config, &[2.0, 2.0, 2.0, 2.0]);
    let mut talk = Vec::new();
    for _ in 0..100 {
        talk = two.round(0);
        two.measure();
        if talk.len() > 2 {
            break;
        }
        assert_eq!(talk, ["h0 Probe", "h1 Standing"], "it learns, or holds back");
    }
    let probe = ["h0 Probe", "h1 Standing", "h0 Offer", "h1 Quotes"];
    assert_eq!(talk[..8], [&probe[..], &HANDOFF].concat());
}

#[test]
fn a_host_that_is_in_an_exchange_declines_another() {
    let mut two = Two::new(&eager(), &[2.0, 2.0, 2.0]);
    two.deaf = true;
    assert_eq!(two.round(0), ["h0 Inquire"]);
    assert_eq!(two.balancers[0].talking_to(), Some(&host_id(1)));
    let report = two.balancers[1].host().report(None, two.now).unwrap();
    let inquire = |report: Report| Message::Exchange(ExchangeId(5), Talk::Inquire(report, None));
    two.feed(0, Input::Message(host_id(8), inquire(report)));
    assert_eq!(two.script, ["h0 Decline BUSY"]);
    // Nothing was written down of it: it never began.
    assert_eq!(two.endings(0), []);
}

#[test]
fn a_host_that_falls_silent_is_given_up_and_heard_no_more() {
    let mut two = Two::new(&eager(), &[2.0, 2.0, 2.0]);
    two.deaf = true;
    two.round(0);
    two.deaf = false;
    two.wake(0, |timer| matches!(timer, Timer::Exchange(_)));
    assert_eq!(two.endings(0), [Reason::TimedOut]);
    assert_eq!(two.balancers[0].talking_to(), None);
    // What it says to that exchange now comes too late.
    let report = two.balancers[1].host().report(None, two.now).unwrap();
    let exchange = two.records[0][0].exchange;
    two.script.clear();
    let late = Message::Exchange(exchange, Talk::Accept(report));
    two.feed(0, Input::Message(host_id(1), late));
    assert_eq!(two.script, Vec::<String>::new());
    two.measure();
    assert_eq!(two.round(0)[..2], ["h0 Inquire", "h1 Accept"], "and the next round is like any");
}

#[test]
fn only_the_host_that_was_asked_is_heard() {
    let mut two = Two::new(&eager(), &[2.0, 2.0, 2.0]);
    two.deaf = true;
    two.round(0);
    let report = two.balancers[1].host().report(None, two.now).unwrap();
    let timer = two.timers[0].iter().find_map(|(timer, _)| match timer {
        Timer::Exchange(id) => Some(*id),
        _ => None,
    });
    let accept = Message::Exchange(timer.unwrap(), Talk::Accept(report));
    two.feed(0, Input::Message(host_id(8), accept.clone()));
    assert_eq!(two.script, Vec::<String>::new(), "another host's word for it");
    two.feed(0, Input::Message(host_id(1), accept));
    assert_eq!(two.script, ["h0 Offer"]);
}

#[test]
fn what_an_operator_orders_goes_to_the_host_named_whatever_the_loads() {
    let mut two = Two::new(&eager(), &[0.1]);
    let order = MoveOrder { id: MoveId(1), machine: machine_id("m0"), to: Some(host_id(1)) };
    assert_eq!(two.balancers[0].can_migrate(&order.machine, order.to.as_ref()), Ok(()));
    two.records = Default::default();
    two.script.clear();
    two.feed(0, Input::Migrate(order));
    let talk = ["h0 Probe", "h1 Standing", "h0 Offer", "h1 Quotes"];
    assert_eq!(two.script, [&talk[..], &HANDOFF].concat());
    assert_eq!((two.endings(0), two.machines(1)), (vec![Reason::Moved], vec!["m0"]));
}

#[test]
fn a_host_that_is_emptied_gives_one_machine_after_the_other() {
    let mut two = Two::new(&eager(), &[1.0, 2.0]);
    two.script.clear();
    two.feed(0, Input::SetState(HostState::Draining));
    let given = ["h0 Offer", "h1 Quotes"];
    let given = [&given[..], &HANDOFF].concat();
    let first = [&["h0 Appraise", "h1 Appraisal"][..], &given].concat();
    assert_eq!(two.script[..first.len()], first);
    assert_eq!(two.machines(0).len(), 1, "the other waits for its turn");
    for _ in 0..20 {
        if two.machines(0).is_empty() {
            break;
        }
        two.measure();
        two.wake(0, |timer| *timer == Timer::Empty);
    }
    assert_eq!(two.machines(1), ["m0", "m1"]);
    two.measure();
    assert_eq!(two.balancers[0].drain(two.now).unwrap().machines_left, 0);
}

#[test]
fn a_target_that_is_stopping_keeps_no_room() {
    let mut two = Two::new(&eager(), &[2.0, 2.0, 2.0]);
    two.feed(1, Input::Stop);
    assert_eq!(two.round(0), ["h0 Inquire", "h1 Decline STOPPING"]);
    assert_eq!(two.endings(0), [Reason::Stopping]);
}

//! What an exchange costs: time to decide, messages, bytes.
//!
//! `cargo bench -p evenkeel-wire --bench exchange`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::balancer::{Balancer, Config};
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::{Effect, Input, Timer};
use evenkeel_core::handoff::Recovered;
use evenkeel_core::model::{
    Entry, HostFacts, HostId, HostProfile, Locks, MachineFacts, MachineId, Requirements, Resources,
    Time,
};
use evenkeel_core::port::{Counters, Event, HostSample, MachineSample, Presence};
use evenkeel_core::select::{Calm, Policy};
use evenkeel_wire::{decode, encode};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

const REPEATS: usize = 200;

fn main() {
    println!("machines on the source  decide, median   decide, p99   messages   bytes   ending");
    for machines in [10, 100, 1000] {
        let runs: Vec<Run> = (0..REPEATS).map(|seed| run(machines, seed as u64)).collect();
        let mut times: Vec<_> = runs.iter().map(|r| r.decide).collect();
        times.sort_unstable();
        let Run { messages, bytes, ending, .. } = runs[0];
        println!(
            "{machines:>21}   {:>12.3?}   {:>11.3?}   {messages:>8}   {bytes:>5}   {ending}",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
    }
    println!(
        "\ndecide: from the inquiry until room is reserved, on both hosts together, with every"
    );
    println!("message encoded and decoded; messages and bytes likewise.");
}

/// What one exchange cost.
struct Run {
    decide: Duration,
    messages: usize,
    bytes: usize,
    ending: Reason,
}

/// One exchange between a host with `machines` and an empty one, up to the reservation.
fn run(machines: u32, seed: u64) -> Run {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut hosts: Vec<_> = [("donor", machines), ("receiver", 0)]
        .into_iter()
        .map(|(name, machines)| measured_host(name, machines, &mut rng))
        .collect();
    let now = Time::from_unix_ms(10_000);
    let ids: Vec<_> = hosts.iter().map(|h| h.host().id().clone()).collect();
    let (mut messages, mut bytes) = (0, 0);
    // What has no record yet has gone on to the handoff.
    let mut ending = Reason::Chosen;
    let began = Instant::now();
    let mut pending = vec![(0, Input::Timer(Timer::Round))];
    while let Some((index, input)) = pending.pop() {
        let mut effects = Vec::new();
        hosts[index].handle(input, now, &mut rng, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(_, message) => {
                    let frame = encode(&message);
                    messages += 1;
                    bytes += frame.len();
                    let message = decode(&frame).expect("a frame of ours");
                    pending.push((1 - index, Input::Message(ids[index].clone(), message)));
                }
                Effect::Record(decision) => ending = decision.ending,
                _ => {}
            }
        }
    }
    Run { decide: began.elapsed(), messages, bytes, ending }
}

/// A host that has been measured twice, with machines of unlike load.
fn measured_host(name: &str, machines: u32, rng: &mut ChaCha12Rng) -> Balancer {
    let id = HostId::new(name).expect("an id");
    let capacity = Resources { cpu_cores: 64.0, memory_bytes: 4e12, io_bytes_per_s: 1e9 };
    // Every difference counts, so that the exchange goes all the way.
    let policy = Policy::HalfDifference;
    let config = Config { calm: Calm::NONE, policy, ..Config::default() };
    let mut balancer = Balancer::new(config, HostProfile::new(id, capacity), Recovered::default());
    let members = ["donor", "receiver"].map(|n| HostId::new(n).expect("an id"));
    let mut ignored = Vec::new();
    balancer.handle(Input::Members(members.to_vec()), Time::from_unix_ms(0), rng, &mut ignored);
    for seconds in [5_u64, 10] {
        let machine = |index: u32| MachineSample {
            arrived: false,
            facts: Arc::new(MachineFacts {
                id: MachineId::new(&format!("00000000-0000-4000-8000-{index:012}")).expect("an id"),
                name: Arc::from(format!("machine-{index}")),
                vcpus: 4,
                memory_bytes: 4e9,
                needs: Requirements { arch: "x86_64".to_owned(), ..Requirements::default() },
                persistent: true,
                autostart: false,
                locks: Locks::default(),
                entry: Ok(Entry::default()),
            }),
            presence: Presence::Running,
            counters: Some(Counters {
                dirty_bytes_per_s: None,
                cpu_time_ns: seconds * 1_000_000 * u64::from(10 + index % 97),
                cpu_delay_ns: None,
                io_bytes: 0,
                memory_bytes: 2_000_000_000,
                pressure: Default::default(),
            }),
        };
        let sample = HostSample {
            at: Time::from_unix_ms(seconds * 1000),
            facts: Arc::new(HostFacts::default()),
            background: None,
            pressure: Default::default(),
            machines: (0..machines).map(machine).collect(),
        };
        let event = Input::Hypervisor(Event::Sampled(Ok(sample)));
        balancer.handle(event, Time::from_unix_ms(seconds * 1000), rng, &mut ignored);
    }
    balancer
}

//! Membership over the real link: hosts find each other from one address.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Agent, cluster, host};
use evenkeel_core::model::{HostId, Time};
use evenkeel_membership::{Config, Input, Member, Membership, Output, Timer};
use evenkeel_net::{ClusterCa, NetEvent};
use tokio::sync::watch;

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Time::from_unix_ms(since.as_millis() as u64)
}

/// The smallest driver: one agent, its membership and its timers.
struct Driver {
    agent: Agent,
    membership: Membership,
    timers: BTreeMap<(Time, u64), Timer>,
    count: u64,
    seen: watch::Sender<Vec<HostId>>,
}

impl Driver {
    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { to, bytes } => {
                    self.agent.net.send_datagram(&to.host, to.addr, bytes);
                }
                Output::SetTimer { timer, at } => {
                    self.count += 1;
                    self.timers.insert((at, self.count), timer);
                }
                Output::Changed(_) => {
                    let seen = self.membership.members().map(|m| m.host.clone()).collect();
                    self.seen.send_replace(seen);
                }
                Output::Refused { why, .. } => panic!("{why}"),
            }
        }
    }

    async fn run(mut self, seed: Option<SocketAddr>) {
        if let Some(addr) = seed {
            let host = self.agent.net.identify(addr).await.expect("the seed answers");
            let outputs = self.membership.handle(Input::Join { host, addr }, now());
            self.carry_out(outputs);
        }
        loop {
            let due = self.timers.first_key_value().map(|((at, _), _)| *at);
            let wait = due.map_or(Duration::from_secs(1), |at| at.since(now()));
            let outputs = tokio::select! {
                event = self.agent.events.recv() => match event {
                    Some(NetEvent::Datagram { from, bytes }) => {
                        self.membership.handle(Input::Datagram { from, bytes: &bytes }, now())
                    }
                    Some(NetEvent::Met { .. }) => Vec::new(),
                    Some(other) => panic!("{other:?}"),
                    None => return,
                },
                () = tokio::time::sleep(wait) => match due.filter(|at| *at <= now()) {
                    Some(_) => {
                        let (_, timer) = self.timers.pop_first().expect("one is due");
                        self.membership.handle(Input::Timer(timer), now())
                    }
                    None => continue,
                },
            };
            self.carry_out(outputs);
        }
    }
}

struct Running {
    addr: SocketAddr,
    seen: watch::Receiver<Vec<HostId>>,
    task: tokio::task::JoinHandle<()>,
}

fn start(ca: &ClusterCa, name: &str, seed: Option<SocketAddr>) -> Running {
    let agent = Agent::start(&ca.issue(&host(name)).expect("a certificate"));
    let addr = agent.addr;
    let me = Member { host: host(name), addr, generation: now().unix_ms() };
    let membership = Membership::new(me, Config::default(), u64::from(addr.port()));
    let (sender, seen) = watch::channel(Vec::new());
    let driver = Driver { agent, membership, timers: BTreeMap::new(), count: 0, seen: sender };
    Running { addr, seen, task: tokio::spawn(driver.run(seed)) }
}

fn start_all(ca: &ClusterCa, names: &[&str]) -> Vec<Running> {
    let first = start(ca, names[0], None);
    let seed = first.addr;
    let rest = names[1..].iter().map(|name| start(ca, name, Some(seed)));
    std::iter::once(first).chain(rest).collect()
}

async fn sees(running: &mut Running, count: usize, limit: Duration) {
    tokio::time::timeout(limit, running.seen.wait_for(|seen| seen.len() == count))
        .await
        .expect("in time")
        .expect("it runs");
}

#[tokio::test]
async fn four_hosts_that_know_one_address_find_each_other_and_miss_the_one_that_ends() {
    let ca = cluster();
    let mut all = start_all(&ca, &["a", "b", "c", "d"]);
    for running in &mut all {
        sees(running, 3, Duration::from_secs(10)).await;
    }
    let last = all.pop().expect("four of them");
    last.task.abort();
    for running in &mut all {
        sees(running, 2, Duration::from_secs(20)).await;
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("after the name").split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

/// Memory of this process that is its own and in use.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("kB") * 1024
}

/// `cargo test --release -p evenkeel-net --test membership -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement of a minute"]
#[expect(clippy::print_stdout, reason = "the figure is the result")]
async fn what_an_idle_agent_costs() {
    let ca = cluster();
    let names = ["a", "b", "c", "d", "e"];
    let before = resident_bytes();
    let mut all = start_all(&ca, &names);
    for running in &mut all {
        sees(running, names.len() - 1, Duration::from_secs(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (span, began) = (Duration::from_secs(60), cpu());
    tokio::time::sleep(span).await;
    let agents = names.len() as f64;
    let share = (cpu() - began).as_secs_f64() / span.as_secs_f64() / agents * 100.0;
    let memory = (resident_bytes() - before) as f64 / agents / 1e6;
    println!("an idle agent of {agents}: {share:.3} % of a core, {memory:.2} MB");
    assert!(share < 0.2, "{share} % of a core");
}

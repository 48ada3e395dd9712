//! The agents' own membership: every host runs it, and its datagrams take the simulated network.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_core::model::{HostId, Time};
use evenkeel_membership::{Config, Input, Member, Output, Timer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Membership, Outcome};

/// Changes within this time are told at once.
const TELL_AFTER: Duration = Duration::from_millis(100);
/// The first so many hosts are the seeds that every other one joins by.
const SEEDS: usize = 3;
const PORT: u16 = 7946;

/// SWIM, as agents run it.
pub struct Swim {
    config: Config,
    rng: ChaCha8Rng,
    hosts: Vec<Host>,
    alarms: BTreeMap<u64, (usize, u64, Alarm)>,
    alarms_set: u64,
}

struct Host {
    id: HostId,
    /// Counts the starts of its agent: what was meant for an earlier one is void.
    life: u64,
    running: Option<evenkeel_membership::Membership>,
    telling: bool,
}

enum Alarm {
    Timer(Timer),
    Tell,
}

impl Swim {
    /// Nobody yet. `seed` decides every random choice.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            hosts: Vec::new(),
            alarms: BTreeMap::new(),
            alarms_set: 0,
        }
    }

    fn start(&mut self, host: usize, clock: Time, now: Time, out: &mut Vec<Outcome>) {
        let id = self.hosts[host].id.clone();
        let me = Member { host: id.clone(), addr: addr(host), generation: clock.unix_ms() };
        let running =
            evenkeel_membership::Membership::new(me, self.config.clone(), self.rng.next_u64());
        let it = &mut self.hosts[host];
        it.life += 1;
        it.running = Some(running);
        it.telling = false;
        for seed in (0..SEEDS.min(self.hosts.len())).filter(|&seed| seed != host) {
            let (host_id, addr) = (self.hosts[seed].id.clone(), addr(seed));
            self.feed(host, Input::Join { host: host_id, addr }, now, out);
        }
        // Also a host that nobody joins knows that it is alone.
        self.tell_soon(host, now, out);
    }

    fn feed(&mut self, host: usize, input: Input<'_>, now: Time, out: &mut Vec<Outcome>) {
        let Some(running) = &mut self.hosts[host].running else { return };
        let mut changed = false;
        for output in running.handle(input, now) {
            match output {
                Output::Send { to, bytes } => {
                    out.push(Outcome::Send { from: host, to: number(to.addr), bytes });
                }
                Output::SetTimer { timer, at } => self.set(host, Alarm::Timer(timer), at, out),
                Output::Changed(_) => changed = true,
                // An agent writes a line to its log.
                Output::Refused { .. } => {}
            }
        }
        if changed {
            self.tell_soon(host, now, out);
        }
    }

    fn set(&mut self, host: usize, alarm: Alarm, at: Time, out: &mut Vec<Outcome>) {
        self.alarms.insert(self.alarms_set, (host, self.hosts[host].life, alarm));
        out.push(Outcome::Wake(self.alarms_set, at));
        self.alarms_set += 1;
    }

    fn tell_soon(&mut self, host: usize, now: Time, out: &mut Vec<Outcome>) {
        if !std::mem::replace(&mut self.hosts[host].telling, true) {
            self.set(host, Alarm::Tell, now + TELL_AFTER, out);
        }
    }

    fn tell(&mut self, host: usize, now: Time, out: &mut Vec<Outcome>) {
        let it = &mut self.hosts[host];
        it.telling = false;
        let Some(running) = &it.running else { return };
        let others = running.members().map(|member| member.host.clone());
        let mut members: Vec<_> = others.chain([it.id.clone()]).collect();
        members.sort_unstable();
        let members: Arc<[HostId]> = members.into();
        out.push(Outcome::Tell { host, at: now, members });
    }
}

impl Membership for Swim {
    fn add(&mut self, host: &HostId) {
        self.hosts.push(Host { id: host.clone(), life: 0, running: None, telling: false });
    }

    fn started(&mut self, hosts: &[usize], clocks: &[Time], now: Time, out: &mut Vec<Outcome>) {
        for (&host, &clock) in hosts.iter().zip(clocks) {
            self.start(host, clock, now, out);
        }
    }

    fn ended(&mut self, host: usize, _: Time, _: &mut Vec<Outcome>) {
        self.hosts[host].running = None;
    }

    fn heard(&mut self, at: usize, from: usize, bytes: &[u8], now: Time, out: &mut Vec<Outcome>) {
        let from = self.hosts[from].id.clone();
        self.feed(at, Input::Datagram { from, bytes }, now, out);
    }

    fn woke(&mut self, alarm: u64, now: Time, out: &mut Vec<Outcome>) {
        let Some((host, life, alarm)) = self.alarms.remove(&alarm) else { return };
        if self.hosts[host].life != life {
            return;
        }
        match alarm {
            Alarm::Timer(timer) => self.feed(host, Input::Timer(timer), now, out),
            Alarm::Tell => self.tell(host, now, out),
        }
    }
}

/// Where a host listens: its number is its address.
fn addr(host: usize) -> SocketAddr {
    let [_, a, b, c] = (host as u32 + 1).to_be_bytes();
    SocketAddr::from(([10, a, b, c], PORT))
}

/// The number of the host that listens there.
fn number(addr: SocketAddr) -> usize {
    let IpAddr::V4(ip) = addr.ip() else { return usize::MAX };
    let [_, a, b, c] = ip.octets();
    (u32::from(Ipv4Addr::new(0, a, b, c)) as usize).wrapping_sub(1)
}

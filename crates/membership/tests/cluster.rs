//! Membership over a network in memory and in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use evenkeel_core::model::{HostId, Time};
use evenkeel_membership::{
    Change, Config, Input, Member, Membership, Output, PACKET_BYTES_MAX, Timer, UNPROVEN_MAX,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn host(n: usize) -> HostId {
    HostId::new(&format!("n{n:03}")).expect("letters and digits")
}

fn member(n: usize, generation: u64) -> Member {
    let addr = SocketAddr::from(([10, 0, (n / 256) as u8, (n % 256) as u8], 7400));
    Member { host: host(n), addr, generation }
}

enum Event {
    Packet {
        from: HostId,
        to: Member,
        bytes: Vec<u8>,
    },
    /// For the life of a host that set it, not for a later one.
    Timer {
        host: HostId,
        life: u64,
        timer: Timer,
    },
}

/// A network, its hosts and the time.
struct Cluster {
    now: Time,
    rng: ChaCha8Rng,
    loss: f64,
    hosts: BTreeMap<HostId, (u64, Membership)>,
    cut: BTreeSet<(HostId, HostId)>,
    events: BTreeMap<(Time, u64), Event>,
    count: u64,
    changes: Vec<(Time, HostId, Change)>,
    refused: Vec<String>,
    packet_max: usize,
    packets: usize,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self {
            now: Time::from_unix_ms(1_000_000),
            rng: ChaCha8Rng::seed_from_u64(seed),
            loss: 0.0,
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
            events: BTreeMap::new(),
            count: 0,
            changes: Vec::new(),
            refused: Vec::new(),
            packet_max: 0,
            packets: 0,
        }
    }

    /// Hosts `0..n`, each knowing only the first.
    fn of(n: usize, seed: u64, loss: f64) -> Self {
        let mut cluster = Self::new(seed);
        cluster.loss = loss;
        for i in 0..n {
            cluster.start(i, 1);
        }
        cluster
    }

    fn start(&mut self, n: usize, generation: u64) {
        self.start_as(member(n, generation), member(usize::from(n == 0), 0));
    }

    fn start_as(&mut self, me: Member, seed: Member) {
        self.count += 1;
        let host = me.host.clone();
        let membership = Membership::new(me, Config::default(), self.rng.random());
        self.hosts.insert(host.clone(), (self.count, membership));
        self.feed(&host, Input::Join { host: seed.host, addr: seed.addr });
    }

    fn feed(&mut self, at: &HostId, input: Input<'_>) {
        let Some((life, membership)) = self.hosts.get_mut(at) else {
            return;
        };
        let (life, outputs) = (*life, membership.handle(input, self.now));
        for output in outputs {
            match output {
                Output::Send { to, bytes } => {
                    assert_ne!(to.host, *at, "a host writes to itself");
                    self.packets += 1;
                    self.packet_max = self.packet_max.max(bytes.len());
                    let lost = self.rng.random_bool(self.loss)
                        || self.cut.contains(&(at.clone(), to.host.clone()));
                    if !lost {
                        let after = Duration::from_millis(self.rng.random_range(1..20));
                        self.push(self.now + after, Event::Packet { from: at.clone(), to, bytes });
                    }
                }
                Output::SetTimer { timer, at: when } => {
                    self.push(when, Event::Timer { host: at.clone(), life, timer });
                }
                Output::Changed(change) => self.changes.push((self.now, at.clone(), change)),
                Output::Refused { why, .. } => self.refused.push(why),
            }
        }
    }

    fn push(&mut self, at: Time, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn step(&mut self) {
        let ((at, _), event) = self.events.pop_first().expect("an idle cluster still probes");
        self.now = at;
        match event {
            Event::Packet { from, to, bytes } => {
                let listens = self.hosts.get(&to.host).is_some_and(|(_, m)| m.me().addr == to.addr);
                if listens {
                    self.feed(&to.host, Input::Datagram { from, bytes: &bytes });
                }
            }
            Event::Timer { host, life, timer } => {
                if self.hosts.get(&host).is_some_and(|(current, _)| *current == life) {
                    self.feed(&host, Input::Timer(timer));
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// How long it takes until `done`, or a panic that says what is not.
    fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            self.step();
            assert!(self.now.since(start) <= limit, "not within {limit:?}: {what}");
        }
        self.now.since(start)
    }

    /// Whether every host that runs sees every other one that runs, and nobody else.
    fn agrees(&self) -> bool {
        self.hosts.iter().all(|(at, (_, membership))| {
            let seen: Vec<_> = membership.members().collect();
            let there: Vec<_> =
                self.hosts.iter().filter(|(h, _)| *h != at).map(|(_, (_, m))| m.me()).collect();
            seen == there
        })
    }

    fn downs(&self) -> usize {
        self.changes.iter().filter(|(_, _, c)| matches!(c, Change::Down(_))).count()
    }
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn hosts_that_know_one_seed_find_all_others() {
    for (hosts, limit) in [(2, 3), (5, 5), (40, 40)] {
        let mut cluster = Cluster::of(hosts, 1, 0.0);
        cluster.until(secs(limit), "everybody sees everybody", Cluster::agrees);
        cluster.run(secs(120));
        assert!(cluster.agrees() && cluster.downs() == 0, "calm does not last");
        assert!(cluster.refused.is_empty(), "{:?}", cluster.refused);
    }
}

#[test]
fn a_host_that_is_killed_is_found_dead_within_15_seconds_by_all_of_five() {
    let mut worst = Duration::ZERO;
    for seed in 0..50 {
        let mut cluster = Cluster::of(5, seed, 0.0);
        cluster.until(secs(5), "five hosts agree", Cluster::agrees);
        cluster.hosts.remove(&host(3));
        worst = worst.max(cluster.until(secs(15), "the dead one is gone", Cluster::agrees));
        assert_eq!(cluster.downs(), 4, "one for each survivor and nobody else");
    }
    // Two probe periods at most until somebody probes it, a failed probe, the suspicion, the news.
    assert!(worst < secs(9), "the worst of 50 took {worst:?}");
}

#[test]
fn a_fifth_of_all_packets_lost_does_not_keep_hosts_apart() {
    for seed in 0..20 {
        let mut cluster = Cluster::of(5, seed, 0.2);
        cluster.until(secs(60), "five hosts agree", Cluster::agrees);
        cluster.hosts.remove(&host(3));
        cluster.until(secs(60), "the dead one is gone", Cluster::agrees);
    }
}

#[test]
fn a_restarted_host_is_back_at_once_and_the_others_see_its_new_life() {
    let mut cluster = Cluster::of(5, 1, 0.0);
    cluster.until(secs(5), "five hosts agree", Cluster::agrees);
    cluster.start(3, 2);
    cluster.until(secs(5), "the new life is known", Cluster::agrees);
    let replaced = Change::Replaced { before: member(3, 1), after: member(3, 2) };
    assert!(cluster.changes.iter().any(|(_, at, c)| *at == host(0) && *c == replaced));
    assert_eq!(cluster.downs(), 0, "a quick restart takes nobody down");
}

#[test]
fn a_host_declared_dead_comes_back_with_its_next_life() {
    let mut cluster = Cluster::of(5, 1, 0.0);
    cluster.until(secs(5), "five hosts agree", Cluster::agrees);
    cluster.hosts.remove(&host(3));
    cluster.until(secs(15), "the dead one is gone", Cluster::agrees);
    cluster.start(3, 2);
    cluster.until(secs(5), "it is back", Cluster::agrees);
}

#[test]
fn a_host_whose_clock_went_back_outlives_what_others_remember() {
    for dead_first in [false, true] {
        let mut cluster = Cluster::of(5, 1, 0.0);
        cluster.start(3, 1_000_000);
        cluster.until(secs(10), "five hosts agree", Cluster::agrees);
        if dead_first {
            cluster.hosts.remove(&host(3));
            cluster.until(secs(15), "the dead one is gone", Cluster::agrees);
        }
        cluster.start(3, 7);
        cluster.until(secs(60), "it is back", Cluster::agrees);
        assert!(cluster.hosts[&host(3)].1.me().generation > 1_000_000);
    }
}

#[test]
fn a_host_that_was_cut_off_comes_back_when_the_cut_heals() {
    let mut cluster = Cluster::of(5, 1, 0.0);
    cluster.until(secs(5), "five hosts agree", Cluster::agrees);
    for other in [0, 1, 2, 4] {
        cluster.cut.insert((host(3), host(other)));
        cluster.cut.insert((host(other), host(3)));
    }
    cluster.run(secs(60));
    assert_eq!(cluster.hosts[&host(3)].1.members().len(), 0);
    assert_eq!(cluster.hosts[&host(0)].1.members().len(), 3);
    cluster.cut.clear();
    cluster.until(secs(60), "all five agree again", Cluster::agrees);
}

#[test]
fn a_host_that_leaves_is_gone_within_two_seconds_and_stays_gone() {
    for seed in 0..20 {
        let mut cluster = Cluster::of(5, seed, 0.0);
        cluster.until(secs(5), "five hosts agree", Cluster::agrees);
        cluster.feed(&host(3), Input::Leave);
        let (_, mut left) = cluster.hosts.remove(&host(3)).unwrap();
        let probe = Input::Join { host: host(1), addr: member(1, 0).addr };
        assert!(left.handle(probe, cluster.now).is_empty(), "it is silent after leaving");
        cluster.until(secs(2), "it is gone", Cluster::agrees);
        cluster.run(secs(60));
        assert!(cluster.agrees());
    }
}

#[test]
fn the_last_two_hosts_find_each_other_again_after_both_restarted() {
    let mut cluster = Cluster::of(2, 1, 0.0);
    cluster.until(secs(5), "two hosts agree", Cluster::agrees);
    cluster.hosts.clear();
    cluster.start(0, 2);
    cluster.run(secs(30));
    cluster.start(1, 2);
    cluster.until(secs(5), "they agree again", Cluster::agrees);
}

#[test]
fn packets_stay_within_their_limit_with_the_longest_names() {
    let longest = |n: u16| Member {
        host: HostId::new(&format!("{n:063}")).unwrap(),
        addr: SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], u16::MAX)),
        generation: u64::MAX / 2,
    };
    let mut cluster = Cluster::new(1);
    cluster.now = Time::from_unix_ms(u64::MAX / 2);
    for n in 0..40 {
        cluster.start_as(longest(n), longest(u16::from(n == 0)));
    }
    cluster.until(secs(40), "everybody sees everybody", Cluster::agrees);
    // A full packet is one with whole updates: nobody refuses any.
    assert!(cluster.refused.is_empty(), "{:?}", cluster.refused);
    let max = cluster.packet_max;
    assert!((1000..=PACKET_BYTES_MAX).contains(&max), "the largest packet has {max} bytes");
}

#[test]
fn an_idle_pair_of_hosts_sends_few_packets() {
    let mut cluster = Cluster::of(2, 1, 0.0);
    cluster.run(secs(60));
    let before = cluster.packets;
    cluster.run(secs(60));
    let per_host_second = (cluster.packets - before) as f64 / 120.0;
    assert!(per_host_second < 2.2, "{per_host_second:.2} packets per host and second");
}

#[test]
fn a_datagram_under_another_name_is_refused() {
    let mut cluster = Cluster::of(3, 1, 0.0);
    cluster.until(secs(5), "three hosts agree", Cluster::agrees);
    let outputs = cluster.hosts.get_mut(&host(2)).unwrap().1.handle(Input::Leave, cluster.now);
    let Some(Output::Send { bytes, .. }) = outputs.first() else { panic!("{outputs:?}") };
    let (_, victim) = cluster.hosts.get_mut(&host(0)).unwrap();
    let outputs = victim.handle(Input::Datagram { from: host(1), bytes }, cluster.now);
    assert!(
        matches!(&outputs[..], [Output::Refused { from: Some(from), why }]
            if *from == host(1) && why.contains("`n002`")),
        "{outputs:?}"
    );
    assert!(victim.member(&host(2)).is_some());
}

#[test]
fn a_flood_of_invented_hosts_ends_at_the_limit() {
    let config = Config { members_max: 50, ..Config::default() };
    let mut victim = Membership::new(member(0, 1), config, 1);
    let mut refused = 0;
    for n in 1..500 {
        // Each newcomer announces itself, as a real one does.
        let mut newcomer = Membership::new(member(n, 1), Config::default(), 1);
        let join = Input::Join { host: host(0), addr: member(0, 1).addr };
        for output in newcomer.handle(join, Time::from_unix_ms(1)) {
            if let Output::Send { bytes, .. } = output {
                let input = Input::Datagram { from: host(n), bytes: &bytes };
                let outputs = victim.handle(input, Time::from_unix_ms(1));
                refused += usize::from(matches!(outputs[..], [Output::Refused { .. }]));
            }
        }
    }
    assert_eq!((victim.members().len(), refused), (50, 449));
}

/// A datagram in which a member of the cluster tells of another one, whether there is one or not.
fn told(liar: usize, of: &Member, by: &mut Membership, now: Time) -> Vec<u8> {
    let mut ghost = Membership::new(of.clone(), Config::default(), 1);
    let me = by.me().clone();
    let join = Input::Join { host: me.host.clone(), addr: me.addr };
    for output in ghost.handle(join, now) {
        if let Output::Send { bytes, .. } = output {
            by.handle(Input::Datagram { from: of.host.clone(), bytes: &bytes }, now);
        }
    }
    // What it tells whoever joins is what it knows.
    let mut joins = Membership::new(member(0, 1), Config::default(), 1);
    let join = Input::Join { host: host(liar), addr: me.addr };
    let announced = joins.handle(join, now).into_iter().find_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    let bytes = announced.expect("an announcement");
    let feed = by.handle(Input::Datagram { from: host(0), bytes: &bytes }, now);
    feed.into_iter()
        .rev()
        .find_map(|output| match output {
            Output::Send { to, bytes } if to.host == host(0) => Some(bytes),
            _ => None,
        })
        .expect("a liar answers")
}

#[test]
fn a_member_cannot_give_another_one_a_life_that_it_would_never_outlive() {
    let mut cluster = Cluster::of(3, 1, 0.0);
    cluster.until(secs(5), "three hosts agree", Cluster::agrees);
    let now = cluster.now;
    // It says of the third that it is in the last of all lives.
    let mut liar = Membership::new(member(1, 1), Config::default(), 2);
    let last = Member { generation: u64::MAX, ..member(2, 1) };
    // The liar keeps to no limit: it has lived long enough to believe itself.
    let bytes = told(1, &last, &mut liar, Time::from_unix_ms(u64::MAX));
    let before = cluster.hosts[&host(0)].1.member(&host(2)).cloned();
    assert!(before.is_some());
    cluster.feed(&host(0), Input::Datagram { from: host(1), bytes: &bytes });
    assert_eq!(cluster.hosts[&host(0)].1.member(&host(2)).cloned(), before);
    assert!(now <= cluster.now);
    // It goes down and comes back, as ever.
    cluster.hosts.remove(&host(2));
    cluster.run(secs(30));
    cluster.start(2, 2);
    cluster.until(secs(10), "they agree again", Cluster::agrees);
}

#[test]
fn invented_hosts_are_few_and_soon_forgotten_and_those_that_speak_are_known_all_the_same() {
    let mut victim = Membership::new(member(0, 1), Config::default(), 1);
    let now = Time::from_unix_ms(1_000_000);
    let mut liar = Membership::new(member(1, 1), Config::default(), 2);
    for n in 2..1_200 {
        let bytes = told(1, &member(n, 1), &mut liar, now);
        victim.handle(Input::Datagram { from: host(1), bytes: &bytes }, now);
    }
    let known = victim.members().len();
    assert!(known <= UNPROVEN_MAX + 1, "{known} hosts");
    assert!(known > UNPROVEN_MAX / 2, "{known} hosts, and the liar has told of more");
    // One of which nothing was heard but that it speaks itself.
    let mut real = Membership::new(member(5_000, 1), Config::default(), 3);
    let join = Input::Join { host: host(0), addr: member(0, 1).addr };
    for output in real.handle(join, now) {
        if let Output::Send { bytes, .. } = output {
            victim.handle(Input::Datagram { from: host(5_000), bytes: &bytes }, now);
        }
    }
    assert!(victim.member(&host(5_000)).is_some());
    let refused = victim.handle(Input::Forget(host(5_000)), now);
    assert!(matches!(&refused[..], [Output::Refused { .. }]), "{refused:?}");
}

/// A packet as a member would send it, to be damaged.
fn packets() -> Vec<(HostId, Vec<u8>)> {
    let mut cluster = Cluster::of(4, 1, 0.0);
    cluster.run(secs(8));
    let mut found = Vec::new();
    while found.len() < 32 {
        if let Some((_, Event::Packet { from, to, bytes })) = cluster.events.first_key_value()
            && to.host == host(0)
        {
            found.push((from.clone(), bytes.clone()));
        }
        cluster.step();
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_never_panic_and_never_grow_without_bound(
        raw in proptest::collection::vec(any::<u8>(), 0..1300),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        pick in any::<prop::sample::Index>(),
    ) {
        thread_local!(static PACKETS: Vec<(HostId, Vec<u8>)> = packets());
        let (from, mut bytes) = PACKETS.with(|packets| pick.get(packets).clone());
        let mut cluster = Cluster::of(4, 1, 0.0);
        cluster.run(secs(3));
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        cluster.feed(&host(0), Input::Datagram { from: from.clone(), bytes: &bytes });
        cluster.feed(&host(0), Input::Datagram { from, bytes: &raw });
        // What came of it must not break anything later either.
        cluster.run(secs(10));
        prop_assert!(cluster.hosts[&host(0)].1.members().len() <= 8);
    }
}

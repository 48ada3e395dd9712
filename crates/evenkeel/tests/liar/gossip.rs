//! Membership as agents have it, over a network of one's own.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    reason = "a module of tests, and a test that fails panics"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_core::model::{HostId, Time};
use evenkeel_membership::{Config, Input, Member, Membership, Output, Timer};
use evenkeel_net::{Net, NetEvent};
use tokio::sync::mpsc;

/// Now, as members count it.
pub fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    Time::from_unix_ms(now.as_millis() as u64)
}

/// The id of a host.
pub fn host(name: &str) -> HostId {
    HostId::new(name).expect("letters and digits")
}

/// A member that gossips as others do.
pub struct Gossip {
    net: Net,
    membership: Membership,
    timers: BTreeMap<(Time, u64), Timer>,
    count: u64,
}

impl Gossip {
    /// A member that knows nobody yet.
    pub fn new(net: Net, name: &str, addr: SocketAddr) -> Self {
        let me = Member { host: host(name), addr, generation: now().unix_ms() };
        let membership = Membership::new(me, Config::default(), 1);
        Self { net, membership, timers: BTreeMap::new(), count: 0 }
    }

    /// Takes something in, and says what follows.
    pub fn hear(&mut self, input: Input<'_>) {
        for output in self.membership.handle(input, now()) {
            match output {
                Output::Send { to, bytes } => self.net.send_datagram(&to.host, to.addr, bytes),
                Output::SetTimer { timer, at } => {
                    self.count += 1;
                    self.timers.insert((at, self.count), timer);
                }
                Output::Changed(_) | Output::Refused { .. } => {}
            }
        }
    }

    /// Gossips until nothing more can come. What is no gossip goes to `other`.
    pub async fn run(mut self, mut events: mpsc::Receiver<NetEvent>, other: impl Fn(NetEvent)) {
        loop {
            let due = self.timers.first_key_value().map(|((at, _), _)| *at);
            let wait = due.map_or(Duration::from_secs(1), |at| at.since(now()));
            tokio::select! {
                event = events.recv() => match event {
                    Some(NetEvent::Datagram { from, bytes }) => {
                        self.hear(Input::Datagram { from, bytes: &bytes });
                    }
                    Some(event) => other(event),
                    None => return,
                },
                () = tokio::time::sleep(wait) => {
                    if due.is_some_and(|at| at <= now()) {
                        let (_, timer) = self.timers.pop_first().expect("one is due");
                        self.hear(Input::Timer(timer));
                    }
                }
            }
        }
    }
}

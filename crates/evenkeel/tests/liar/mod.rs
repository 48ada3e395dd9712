//! A member with a valid certificate that says whatever it is told, in the place of a host's agent.
//!
//! It has the host's identity and address: it gossips as agents do, so that the others count it among
//! themselves, and leaves everything else to the test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

pub mod frames;
pub mod gossip;
pub mod lies;

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use evenkeel_core::control::Authority;
use evenkeel_core::decision::Reason;
use evenkeel_core::message::{Candidate, Message, PROTOCOL, Pass, Report, Talk};
use evenkeel_core::model::{
    Entry, Epoch, ExchangeId, HandoffId, HostId, HostState, MachineId, Requirements, Resources,
};
use evenkeel_core::port::Commit;
use evenkeel_membership::Input;
use evenkeel_net::{Caller, Identity, Limits, Net, NetEvent, StreamError};
use tokio::runtime::{Builder, Runtime};

use crate::hosts::{Hosts, LIMIT};
use gossip::{Gossip, host};

/// How long it waits before it offers a machine again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// For what a stream is; see the agent's carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Control = 1,
    Memory = 2,
    Disks = 3,
}

/// A machine that the member says it has.
#[derive(Clone, Debug)]
pub struct Machine {
    pub uuid: String,
    pub name: String,
    pub memory_mib: u64,
    pub needs: Requirements,
    pub commit: Commit,
}

impl Machine {
    /// One of 16 MiB without a disk, unlike any that was before.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let needs = Requirements {
            arch: "x86_64".to_owned(),
            virt_type: Some("qemu".to_owned()),
            vcpus: Some(1),
            ..Requirements::default()
        };
        Self {
            uuid: format!("11111111-2222-4333-8444-{number:012}"),
            name: format!("lie{number}"),
            memory_mib: 16,
            needs,
            commit: Commit::Strict,
        }
    }

    pub fn id(&self) -> MachineId {
        MachineId::new(&self.uuid).expect("an id")
    }
}

/// The member.
pub struct Liar {
    runtime: Runtime,
    net: Net,
    heard: mpsc::Receiver<(HostId, Message)>,
    callers: mpsc::Receiver<Caller>,
    next: AtomicU64,
}

impl Liar {
    /// In the place of a host's agent, which is stopped.
    pub fn in_place_of(hosts: &Hosts, number: usize) -> Self {
        hosts.must(number, &["systemctl", "stop", "evenkeel"]);
        let at = hosts.host(number);
        let dir = at.seen_from_outside("/etc/evenkeel/identity").expect("it is on");
        let identity = Identity::load(&dir).expect("its identity");
        let name = identity.host().to_string();
        let addr: SocketAddr = format!("{}:7946", at.address()).parse().expect("an address");
        let enter = at.network_entrance();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || enter().expect("the host's network"))
            .build()
            .expect("a runtime");
        let (saying, heard) = mpsc::channel();
        let (calling, callers) = mpsc::channel();
        // Sockets belong to the network of the thread that makes them.
        let made = runtime.spawn(async move {
            let (net, events) =
                Net::bind(addr, &identity, Limits::default(), None).expect("the port is free");
            let mut streams = net.listen_streams().await.expect("the port is free");
            let mut gossip = Gossip::new(net.clone(), &name, addr);
            for other in (1..=3).filter(|other| *other != number) {
                let (host, addr) = there(other);
                gossip.hear(Input::Join { host, addr });
            }
            tokio::spawn(gossip.run(events, move |event| {
                let NetEvent::Message { from, bytes } = event else { return };
                if let Ok(message) = evenkeel_wire::decode(&bytes) {
                    let _ = saying.send((from, message));
                }
            }));
            tokio::spawn(async move {
                while let Some(caller) = streams.recv().await {
                    let _ = calling.send(caller);
                }
            });
            net
        });
        let net = runtime.block_on(made).expect("it is bound");
        Self { runtime, net, heard, callers, next: AtomicU64::new(1 << 32) }
    }

    /// An id that it has not used.
    pub fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Says something to an agent.
    pub fn say(&self, to: usize, message: &Message) {
        let (host, addr) = there(to);
        self.net.send(&host, addr, evenkeel_wire::encode(message)).expect("it is sent");
    }

    /// Takes what was said next, by whomever; nothing if nothing was for so long.
    pub fn next_said(&self, within: Duration) -> Option<(HostId, Message)> {
        self.heard.recv_timeout(within).ok()
    }

    /// Waits for something that an agent says. What others say meanwhile is not heard.
    pub fn await_from<T>(&self, from: usize, pick: impl Fn(Message) -> Option<T>) -> T {
        let (host, _) = there(from);
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.next_said(deadline.saturating_duration_since(Instant::now()));
            let (who, message) = said.unwrap_or_else(|| panic!("kvm{from} did not answer"));
            if who == host
                && let Some(picked) = pick(message)
            {
                return picked;
            }
        }
    }

    /// Has a host keep room for a machine, on the word of an operator that there is not. Returns the
    /// handoff, or why there is none.
    #[expect(clippy::result_large_err, reason = "a test has time")]
    pub fn reserve(&self, to: usize, machine: &Machine) -> Result<HandoffId, Pass> {
        let handoff = HandoffId(self.fresh());
        let exchange = self.offer(to, machine)?;
        let reserve = Pass::Reserve {
            exchange,
            machine: machine.id(),
            entry: Entry { epoch: Epoch(1), ..Entry::default() },
            verdicts: vec![Reason::Chosen],
            in_return: None,
            commit: Some(machine.commit),
            autostart: None,
            ticket: None,
            cpu: None,
            past: None,
        };
        self.say(to, &Message::Handoff(handoff, reserve));
        let answer = self.await_from(to, |message| match message {
            Message::Handoff(id, pass) if id == handoff => Some(pass),
            _ => None,
        });
        if matches!(answer, Pass::Reserved { .. }) { Ok(handoff) } else { Err(answer) }
    }

    /// Offers a machine until it is priced. Returns the exchange, or why it is not taken.
    #[expect(clippy::result_large_err, reason = "a test has time")]
    fn offer(&self, to: usize, machine: &Machine) -> Result<ExchangeId, Pass> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let exchange = ExchangeId(self.fresh());
            let candidate = Candidate {
                factors: Resources { cpu_cores: 1e-6, ..Resources::ZERO },
                at_donor: 0.9,
                memory_bytes: (machine.memory_mib << 20) as f64,
                needs: machine.needs.clone(),
                ..Candidate::new(machine.id(), &machine.name)
            };
            let offer = Talk::Offer {
                report: report(0.9),
                candidates: vec![candidate],
                measure: None,
                gauge: None,
                authority: Some(Authority::Told),
            };
            self.say(to, &Message::Exchange(exchange, offer));
            let answer = self.await_from(to, |message| match message {
                Message::Exchange(id, talk) if id == exchange => Some(talk),
                _ => None,
            });
            match answer {
                Talk::Quotes { quotes, .. } => match quotes[0].refusal {
                    None => return Ok(exchange),
                    Some(reason) => {
                        let detail = quotes[0].detail.clone();
                        return Err(Pass::Refused { reason, detail });
                    }
                },
                // It is in an exchange of its own, or has not measured all yet.
                Talk::Decline { reason: Reason::Busy | Reason::UnknownLoad, detail, .. } => {
                    assert!(Instant::now() < deadline, "kvm{to} takes nothing: {detail}");
                    std::thread::sleep(ASK_AGAIN);
                }
                Talk::Decline { reason, detail, .. } => {
                    return Err(Pass::Refused { reason, detail: Some(detail) });
                }
                other => panic!("{other:?} in answer to an offer"),
            }
        }
    }

    /// Gives a handoff up, and waits until nothing is left of it there.
    pub fn cancel(&self, to: usize, handoff: HandoffId, machine: &Machine) {
        let cancel = Pass::Cancel { reason: Reason::MigrationFailed, machine: Some(machine.id()) };
        self.say(to, &Message::Handoff(handoff, cancel));
        self.await_from(to, |message| match message {
            Message::Handoff(id, Pass::Discarded | Pass::Missing) if id == handoff => Some(()),
            _ => None,
        });
    }

    /// Opens a stream with an agent.
    pub fn open(
        &self,
        to: usize,
        channel: Channel,
        handoff: HandoffId,
    ) -> Result<UnixStream, StreamError> {
        let request = [&[channel as u8], handoff.0.to_be_bytes().as_slice()].concat();
        self.request(to, request)
    }

    /// Opens a stream with an agent by any request.
    pub fn request(&self, to: usize, request: Vec<u8>) -> Result<UnixStream, StreamError> {
        let (net, (host, addr)) = (self.net.clone(), there(to));
        let opened = self.on(async move { net.open_stream(&host, addr, &request).await })?;
        let (near, far) = pair();
        self.runtime.spawn(async move { opened.join(into_tokio(far), None).await });
        Ok(near)
    }

    /// The next stream that an agent wants.
    pub fn caller(&self, within: Duration) -> Option<Caller> {
        self.callers.recv_timeout(within).ok()
    }

    /// Takes a stream.
    pub fn take(&self, caller: Caller) -> UnixStream {
        let stream = self.on(caller.accept()).expect("it is taken");
        let (near, far) = pair();
        self.runtime.spawn(async move { stream.join(into_tokio(far), None).await });
        near
    }

    /// Takes a stream, and joins it to a socket.
    pub fn join(&self, caller: Caller, socket: UnixStream) {
        let stream = self.on(caller.accept()).expect("it is taken");
        self.runtime.spawn(async move { stream.join(into_tokio(socket), None).await });
    }

    /// Listens at a port of the host that it is in the place of.
    pub fn listen(&self, port: u16) -> std::net::TcpListener {
        let bind = async move { std::net::TcpListener::bind(("0.0.0.0", port)) };
        self.on(bind).expect("the port is free")
    }

    fn on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(work)).expect("it does not panic")
    }
}

/// Who is at a host, and where.
pub fn there(number: usize) -> (HostId, SocketAddr) {
    let addr = format!("10.77.0.{number}:7946").parse().expect("an address");
    (host(&format!("kvm{number}")), addr)
}

/// What it says of itself, with this load.
pub fn report(load: f64) -> Report {
    let (protocol, contention, mends, mode) = (Some(PROTOCOL), None, None, None);
    Report { load, state: HostState::Active, protocol, contention, mends, mode }
}

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    near.set_read_timeout(Some(LIMIT)).expect("a limit");
    (near, far)
}

/// Within the runtime.
fn into_tokio(socket: UnixStream) -> tokio::net::UnixStream {
    socket.set_nonblocking(true).expect("it can be");
    tokio::net::UnixStream::from_std(socket).expect("within a runtime")
}

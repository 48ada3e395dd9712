//! The daemon: one driver of the core over real time, libvirt, QUIC and SQLite.

mod accusations;
pub mod alarms;
mod api;
mod authority;
mod carrier;
pub mod client;
mod clock;
pub mod config;
mod driver;
mod error;
pub mod facts;
mod hours;
mod ledger;
mod looks;
mod page;
mod request;
mod silent;
mod sole;
pub mod status;
mod timers;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_core::balancer::Balancer;
use evenkeel_core::model::{HostId, Resources};
use evenkeel_core::port::{Event, Failure, HostSample, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor, SharedStorage};
use evenkeel_membership::{Config as MembershipConfig, Member, Membership};
use evenkeel_net::{DialError, Identity, Limits, Net, kept_seeds};
use evenkeel_store::Store;
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::alarms::Alarms;
use crate::api::Tcp;
use crate::carrier::{Carrier, Libvirt};
pub use crate::client::{Client, ClientError};
use crate::clock::Clock;
use crate::config::CarrierKind;
pub use crate::config::{Config, ConfigError, Members, TcpConfig};
use crate::driver::{Driver, Edits, Refusals, Sources, Vouching, Wishes, notify};
pub use crate::error::{AgentError, TcpError};
use crate::hours::OpenHours;
use crate::ledger::Ledger;
pub use crate::page::page;
use crate::request::Request;
pub use crate::request::{
    DrainRequest, PAUSE_MAX, PauseWish, PlaceRequest, Placement, Problem, Reset, RulesWish,
};
use crate::silent::Silences;
use crate::sole::Sole;
pub use crate::status::Status;
use crate::timers::Timers;
use crate::watchdog::Watchdog;
pub use evenkeel_store::Wanted;

/// Removed hosts of which the driver has not heard yet.
const REMOVED_MAX: usize = 16;
/// Migrations of whose end the driver has not heard yet.
const FINISHED_MAX: usize = 64;
/// Events that may wait for the driver; further ones wait with the hypervisor.
const EVENTS_MAX: usize = 1024;
/// I/O capacity of a host that declares none: a common 10 Gbit/s link, in bytes per second.
const IO_BYTES_PER_S_DEFAULT: f64 = 1.25e9;
/// How often it is said of a seed that it does not answer.
const WARN_EVERY: Duration = Duration::from_secs(3600);
/// First and longest wait between attempts to reach a seed or libvirt.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Runs the agent until it is told to stop by `SIGTERM` or `SIGINT`.
///
/// # Errors
/// When it cannot start: see [`AgentError`]. A libvirt that is not reached is no error; the agent
/// waits for it.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let clock = Clock::start();
    let identity = identity(&config)?;
    let host = identity.host().clone();
    let told = config.seeds.iter().copied().chain(kept_seeds(&config.identity_dir));
    let others: BTreeSet<_> = told.filter(|seed| *seed != config.advertised()).collect();
    let others: Vec<_> = others.into_iter().collect();
    let mut store = Store::open(&config.state_dir)?;
    store.retain(config.history.retention());
    let enroller = authority::enroller(&config, &store)?;
    let (net, net_events) = Net::bind(config.listen, &identity, Limits::default(), enroller)?;
    let tcp = match &config.api.tcp {
        Some(tcp) => Some(Tcp::open(tcp).await?),
        None => None,
    };
    net.remember(store.certificates()?);
    let history = Arc::new(store.history()?);
    let (here, may) = (host.clone(), config.api.members);
    let peers = api::Peers { here, net: net.clone(), may, tcp, history, clock };
    let (_socket, mut requests) = api::serve(&config, peers)?;
    let mut stop = stop_signals()?;

    let sole = Sole::of(config.libvirt_dir())?;
    let mut carrier = carrier(&config, &net).await?;
    let (finishing, finished) = mpsc::channel(FINISHED_MAX);
    carrier.tell_finished(finishing);
    let (events, mut hypervisor_events) = mpsc::channel(EVENTS_MAX);
    let mut hypervisor = connect(&config, events, clock)?;
    let addr = config.advertised();
    info!(%host, address = %addr, libvirt = config.libvirt.uri, "agent is up");
    notify(sd_notify::NotifyState::Ready);
    let mut watchdog = Watchdog::start();
    let mut found = Resources::ZERO;
    if !config.declares_all() {
        let waiting = Waiting {
            uri: &config.libvirt.uri,
            hypervisor: &mut hypervisor,
            events: &mut hypervisor_events,
            requests: &mut requests,
            stop: &mut stop,
            watchdog: &mut watchdog,
        };
        let Some(capacity) = waiting.for_capacity().await else {
            info!("agent has stopped while it waited for libvirt");
            return Ok(());
        };
        found = capacity;
    }
    let profile = config.profile_of(host.clone(), config.declared_or(found))?;

    let mut rng: ChaCha12Rng = rand::make_rng();
    let (removing, removed) = mpsc::channel(REMOVED_MAX);
    let (vouching, proved) = Vouching::new();
    let me = Member { host, addr, generation: clock.now().unix_ms() };
    let (wishes, standing) = Wishes::recover(&mut store, boot_id())?;
    let mut driver = Driver {
        membership: Membership::new(me, MembershipConfig::default(), rng.next_u64()),
        balancer: Balancer::new(config.balancer(), profile, store.recovered(boot_id())?),
        rng,
        clock,
        addresses: store.members()?.into_iter().collect(),
        store,
        net: net.clone(),
        hypervisor: Box::new(hypervisor),
        carrier,
        ways: config.ways(),
        timers: Timers::default(),
        seeded: !others.is_empty(),
        unremembered: BTreeMap::new(),
        removed: removing,
        vouching,
        ledger: Ledger::default(),
        progress: BTreeMap::new(),
        wishes,
        edits: Edits::default(),
        refusals: Refusals::of_frames(),
        gossip: Refusals::of_members(),
        silences: Silences::new(clock.now()),
        unclosed: VecDeque::new(),
        hours: OpenHours::new(config.operation.hours()),
        alarms: Alarms::default(),
        unmeasured: None,
        identity_dir: config.identity_dir.clone(),
        sole,
        stop_grace: config.stop_grace,
        stopped: false,
    };
    standing.into_iter().for_each(|input| driver.feed(input));
    driver.join_remembered();
    tokio::spawn(authority::keep_renewed(net.clone(), config.identity_dir.clone()));
    // One list of seeds may serve all hosts: this one is no news to itself.
    let seeds = find_seeds(&net, others);
    let hypervisor = hypervisor_events;
    let sources =
        Sources { net: net_events, hypervisor, requests, seeds, removed, finished, proved, stop };
    driver.run(sources, watchdog).await;
    info!("agent has stopped");
    Ok(())
}

/// The identity of this host, which must be the one that the configuration names, if it names one.
fn identity(config: &Config) -> Result<Identity, AgentError> {
    let identity = Identity::load(&config.identity_dir)?;
    match &config.host {
        Some(configured) if configured != identity.host().as_str() => Err(AgentError::OtherHost {
            configured: configured.clone(),
            certified: identity.host().clone(),
            directory: config.identity_dir.clone(),
        }),
        _ => Ok(identity),
    }
}

/// Makes ready to carry machines.
async fn carrier(config: &Config, net: &Net) -> Result<Carrier, AgentError> {
    let migration = &config.migration;
    let path = &migration.socket_dir;
    let bandwidth = migration.bandwidth_max.map(|bytes| bytes.as_u64());
    let mut carrier = Carrier::new(net.clone(), path.clone(), bandwidth);
    if config.carrier() == CarrierKind::Agents {
        let unknown = || AgentError::NoLibvirtSocket(config.libvirt.uri.clone());
        let libvirt = config.libvirt_socket().ok_or_else(unknown)?;
        carrier
            .let_in(net.listen_streams().await?, Libvirt::new(settings(config), libvirt))
            .map_err(|source| AgentError::Carrier { path: path.clone(), source })?;
    }
    Ok(carrier)
}

/// Connects to libvirt; the only place that names it.
fn connect(
    config: &Config,
    events: mpsc::Sender<Event>,
    clock: Clock,
) -> Result<LibvirtHypervisor, AgentError> {
    // The hypervisor calls it on a thread of its own. When the driver is gone, nobody is left to tell.
    let sink = move |event| drop(events.blocking_send(event));
    LibvirtHypervisor::new(settings(config), sink, move || clock.now()).map_err(AgentError::Threads)
}

/// How libvirt is reached, and what it is asked with.
fn settings(config: &Config) -> LibvirtConfig {
    let libvirt = &config.libvirt;
    let shared =
        |(path, id): (&PathBuf, &String)| SharedStorage { path: path.clone(), id: id.clone() };
    LibvirtConfig {
        migrate_uri: libvirt.migrate_address.clone(),
        listen_address: libvirt.listen_address.clone(),
        carried: config.migration.socket_dir.clone(),
        storage: config.storage.iter().map(shared).collect(),
        lock_manager: config.handoff.lock_manager.clone(),
        admission: config.admission(),
        segments: config.networks.clone(),
        move_managed: config.migration.move_managed.clone(),
        lose_checkpoints: config.handoff.lose_checkpoints,
        background: config.capacity.background,
        ..LibvirtConfig::new(libvirt.uri.clone(), config.migration_uri())
    }
}

/// An agent that cannot begin before libvirt has said what the host has, because the configuration
/// does not declare all of it.
struct Waiting<'a> {
    uri: &'a str,
    hypervisor: &'a mut LibvirtHypervisor,
    events: &'a mut mpsc::Receiver<Event>,
    requests: &'a mut mpsc::Receiver<Request>,
    stop: &'a mut mpsc::Receiver<()>,
    watchdog: &'a mut Watchdog,
}

impl Waiting<'_> {
    /// What the first sample that succeeds has found; nothing if the agent is to stop before.
    async fn for_capacity(mut self) -> Option<Resources> {
        let mut wait = RETRY.0;
        let mut why = "it has not answered yet".to_owned();
        loop {
            self.hypervisor.submit(Order::Sample);
            let limit = tokio::time::Instant::now() + wait;
            match self.sampled(&why).await? {
                Ok(sample) => {
                    let found = sample.facts.capacity;
                    let io_bytes_per_s = match found.io_bytes_per_s {
                        told if told > 0.0 => told,
                        _ => IO_BYTES_PER_S_DEFAULT,
                    };
                    return Some(Resources { io_bytes_per_s, ..found });
                }
                Err(failure) => why = failure.detail,
            }
            warn!(why, "waiting for libvirt");
            // Every order is answered, so that until the next one there is nothing to hear.
            let rest = tokio::time::timeout_at(limit, self.sampled(&why));
            if let Ok(None) = rest.await {
                return None;
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// The answer to a sample; nothing if the agent is to stop. Meanwhile whoever asks the agent is
    /// told `why` it waits.
    async fn sampled(&mut self, why: &str) -> Option<Result<HostSample, Failure>> {
        loop {
            self.watchdog.turn(Instant::now());
            tokio::select! {
                () = driver::sleep_until(self.watchdog.next()) => {}
                Some(()) = self.stop.recv() => return None,
                Some(request) = self.requests.recv() => request.refuse(&format!(
                    "this agent waits for libvirt at `{}` to learn what the host has, and nothing \
                     is balanced meanwhile: {why}",
                    self.uri
                )),
                Some(event) = self.events.recv() => {
                    if let Event::Sampled(result) = event {
                        return Some(result);
                    }
                }
            }
        }
    }
}

/// Finds out which hosts answer at the configured addresses; asks each until it answers.
fn find_seeds(net: &Net, addresses: Vec<SocketAddr>) -> mpsc::Receiver<(HostId, SocketAddr)> {
    let (found, receiver) = mpsc::channel(addresses.len().max(1));
    for addr in addresses {
        let (net, found) = (net.clone(), found.clone());
        tokio::spawn(async move {
            let (mut wait, mut warned) = (RETRY.0, None::<Instant>);
            loop {
                match net.identify(addr).await {
                    Ok(host) => return found.send((host, addr)).await,
                    // Silence at first is usual: hosts are started together.
                    Err(error)
                        if (wait >= RETRY.1 || refused(&error) && wait == RETRY.0)
                            && warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) =>
                    {
                        warned = Some(Instant::now());
                        warn!(%error, "seed not asked; trying again, and telling again in an hour");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        });
    }
    receiver
}

/// Which boot of the host this is, as Linux tells; nothing where it does not.
fn boot_id() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    told.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Whether somebody answered whom this host does not believe.
const fn refused(error: &DialError) -> bool {
    matches!(error, DialError::Refused { .. })
}

/// A message for every `SIGTERM` and `SIGINT`.
fn stop_signals() -> Result<mpsc::Receiver<()>, AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let (stop, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

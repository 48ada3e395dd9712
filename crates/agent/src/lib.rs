//! The daemon: one driver of the core over real time, libvirt, QUIC and SQLite.

mod api;
pub mod client;
mod clock;
pub mod config;
mod driver;
pub mod status;
mod timers;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use evenkeel_core::balancer::Balancer;
use evenkeel_core::model::{HostId, Resources};
use evenkeel_core::port::{Event, Order};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor, SharedStorage};
use evenkeel_membership::{Config as MembershipConfig, Member, Membership};
use evenkeel_net::{
    Admission, AdmissionRefused, ClusterCa, Enroller, Identity, Limits, Net, NetError, PkiError,
    Registrar,
};
use evenkeel_store::{Admissions, Admitted, Store, StoreError};
use rand::Rng;
use rand_chacha::ChaCha12Rng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use crate::api::Problem;
pub use crate::client::{Client, ClientError};
use crate::clock::Clock;
pub use crate::config::{Config, ConfigError};
use crate::driver::{Driver, Sources};
pub use crate::status::Status;
use crate::timers::Timers;

/// Events that may wait for the driver; the hypervisor's threads wait beyond that.
const EVENTS_MAX: usize = 1024;
/// I/O capacity of a host that declares none: a common 10 Gbit/s link, in bytes per second.
const IO_BYTES_PER_S_DEFAULT: f64 = 1.25e9;
/// First and longest wait between attempts to reach a seed or libvirt.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Why an agent cannot run. Nothing was begun that would be left behind.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Identity(#[from] PkiError),
    /// The network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The configuration and the certificate name different hosts.
    #[error(
        "the configuration names host `{configured}`, and the certificate in `{directory}` host \
         `{certified}`: make them agree"
    )]
    OtherHost {
        /// In the configuration.
        configured: String,
        /// In the certificate.
        certified: HostId,
        /// Where the certificate is.
        directory: PathBuf,
    },
    /// The socket of the local API cannot be made.
    #[error("cannot serve the local API at `{path}`: {source}")]
    Api {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The signals cannot be watched.
    #[error("cannot watch signals: {0}")]
    Signals(std::io::Error),
    /// The threads that talk to libvirt cannot be started.
    #[error("cannot start the threads that talk to libvirt: {0}")]
    Threads(std::io::Error),
    /// The agent was stopped before it had begun.
    #[error("stopped while waiting for libvirt at `{0}`")]
    StoppedEarly(String),
}

/// Runs the agent until it is told to stop by `SIGTERM` or `SIGINT`.
///
/// # Errors
/// When it cannot start: see [`AgentError`]. A libvirt that is not reached is no error; the agent
/// waits for it.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let clock = Clock::start();
    let identity = identity(&config)?;
    let host = identity.host().clone();
    let store = Store::open(&config.state_dir)?;
    let requests = api::serve(&config.api_socket)?;
    let mut stop = stop_signals()?;

    let (events, mut hypervisor_events) = mpsc::channel(EVENTS_MAX);
    let mut hypervisor = connect(&config, events, clock)?;
    let found = capacity(&config, &mut hypervisor, &mut hypervisor_events, &mut stop).await?;
    let profile = config.profile_of(host.clone(), config.declared_or(found))?;

    let enroller = enroller(&config, &store)?;
    let (net, net_events) = Net::bind(config.listen, &identity, Limits::default(), enroller)?;
    let addr = config.advertised();
    info!(%host, address = %addr, libvirt = config.libvirt.uri, "agent is up");

    let mut rng: ChaCha12Rng = rand::make_rng();
    let me = Member { host, addr, generation: clock.now().unix_ms() };
    let mut driver = Driver {
        membership: Membership::new(me, MembershipConfig::default(), rng.next_u64()),
        balancer: Balancer::new(config.balancer(), profile, store.open_handoffs()?),
        rng,
        clock,
        addresses: store.members()?.into_iter().collect(),
        store,
        net: net.clone(),
        hypervisor: Box::new(hypervisor),
        timers: Timers::default(),
        progress: BTreeMap::new(),
        writers: BTreeMap::new(),
        stop_grace: config.stop_grace,
        stopped: false,
    };
    driver.join_remembered();
    let seeds = find_seeds(&net, &config.seeds);
    notify(sd_notify::NotifyState::Ready);
    let sources = Sources { net: net_events, hypervisor: hypervisor_events, requests, seeds, stop };
    driver.run(sources).await;
    notify(sd_notify::NotifyState::Stopping);
    // A socket that nobody serves would only puzzle.
    let _ = std::fs::remove_file(&config.api_socket);
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

/// What brings other hosts into the cluster, on a host that has the cluster's CA.
fn enroller(config: &Config, store: &Store) -> Result<Option<Enroller>, AgentError> {
    let Some(directory) = &config.ca_dir else { return Ok(None) };
    let registrar = StoreRegistrar(store.admissions()?);
    Ok(Some(Enroller::new(ClusterCa::load(directory)?, registrar)))
}

struct StoreRegistrar(Admissions);

impl Registrar for StoreRegistrar {
    fn admit(&self, admission: &Admission) -> Result<(), AdmissionRefused> {
        let Admission { token, host, key } = admission;
        match self.0.admit(&token.to_string(), host, key) {
            Ok(Admitted::Yes) => Ok(()),
            Ok(Admitted::TokenUsed) => Err(AdmissionRefused::TokenUsed(token.clone())),
            Ok(Admitted::HostTaken) => Err(AdmissionRefused::HostTaken(host.clone())),
            Err(error) => Err(AdmissionRefused::NotRecorded(error.to_string())),
        }
    }
}

/// Connects to libvirt; the only place that names it.
fn connect(
    config: &Config,
    events: mpsc::Sender<Event>,
    clock: Clock,
) -> Result<LibvirtHypervisor, AgentError> {
    let libvirt = &config.libvirt;
    let reached = libvirt.migration_uri.clone().unwrap_or_else(|| match config.advertised().ip() {
        IpAddr::V4(ip) => format!("qemu+tls://{ip}/system"),
        IpAddr::V6(ip) => format!("qemu+tls://[{ip}]/system"),
    });
    let shared =
        |(path, id): (&PathBuf, &String)| SharedStorage { path: path.clone(), id: id.clone() };
    let settings = LibvirtConfig {
        migrate_uri: libvirt.migrate_address.clone(),
        listen_address: libvirt.listen_address.clone(),
        storage: config.storage.iter().map(shared).collect(),
        ..LibvirtConfig::new(libvirt.uri.clone(), reached)
    };
    // When the driver is gone, nobody is left to tell.
    let sink = move |event| drop(events.blocking_send(event));
    LibvirtHypervisor::new(settings, sink, move || clock.now()).map_err(AgentError::Threads)
}

/// What this host has, where the configuration does not declare all of it: waits for the first
/// sample that succeeds.
async fn capacity(
    config: &Config,
    hypervisor: &mut LibvirtHypervisor,
    events: &mut mpsc::Receiver<Event>,
    stop: &mut mpsc::Receiver<()>,
) -> Result<Resources, AgentError> {
    let mut wait = RETRY.0;
    while !config.declares_all() {
        hypervisor.submit(Order::Sample);
        let sampled = loop {
            tokio::select! {
                Some(()) = stop.recv() => {
                    return Err(AgentError::StoppedEarly(config.libvirt.uri.clone()));
                }
                Some(event) = events.recv() => if let Event::Sampled(result) = event { break result },
            }
        };
        match sampled {
            Ok(sample) => {
                let found = sample.facts.capacity;
                let io_bytes_per_s = match found.io_bytes_per_s {
                    told if told > 0.0 => told,
                    _ => IO_BYTES_PER_S_DEFAULT,
                };
                return Ok(Resources { io_bytes_per_s, ..found });
            }
            Err(failure) => warn!(why = failure.detail, "waiting for libvirt"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
    Ok(Resources::ZERO)
}

/// Finds out which hosts answer at the configured addresses; asks each until it answers.
fn find_seeds(net: &Net, addresses: &[SocketAddr]) -> mpsc::Receiver<(HostId, SocketAddr)> {
    let (found, receiver) = mpsc::channel(addresses.len().max(1));
    for addr in addresses.iter().copied() {
        let (net, found) = (net.clone(), found.clone());
        tokio::spawn(async move {
            let mut wait = RETRY.0;
            loop {
                match net.identify(addr).await {
                    Ok(host) => return found.send((host, addr)).await,
                    Err(error) if wait >= RETRY.1 => warn!(%error, "seed does not answer"),
                    Err(_) => {}
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        });
    }
    receiver
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

/// Tells the service manager, if there is one.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager could not be told");
    }
}

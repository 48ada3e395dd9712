//! The configuration file of an agent.
//!
//! Every key has a default but `listen` where the host has no fixed address; an unknown key is an
//! error that names the nearest known one. `docs/configuration.md` describes each key.

mod api;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use evenkeel_config::{
    BalanceConfig, CeilingsConfig, OperationConfig, SPAN_MAX, SPAN_MIN, ValueError, address,
    addresses, check, duration, size, some_address, some_size,
};
use evenkeel_core::balancer;
use evenkeel_core::handoff::{Limits, Mode};
use evenkeel_core::model::{
    HostId, HostProfile, IdError, PerResource, ProfileError, Resources, RuleError, Weights,
    WeightsError, check_label,
};
use evenkeel_core::rules::Labels;
use evenkeel_libvirt::{Admission, carried_uri, socket_of};
use evenkeel_net::CA_KEY_FILE;
use evenkeel_store::Retention;
use serde::Deserialize;

use crate::carrier::Ways;

pub use api::{ApiConfig, Members, TcpConfig};
pub use evenkeel_config::to_size;

/// The port that agents listen on unless told otherwise.
pub const PORT: u16 = 7946;

/// The name of the authority's directory, beside that of the host's identity.
pub const AUTHORITY_DIR: &str = "ca";

/// Most labels of a host.
const LABELS_MAX: usize = 64;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or a key or value of it is not known.
    #[error("in the configuration `{path}`: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what, and the nearest known key.
        detail: String,
    },
    /// It says something that makes no sense.
    #[error("in the configuration `{path}`: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What.
        what: Box<ConfigError>,
    },
    /// A value is of the right kind and makes no sense.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The host's name is no host id.
    #[error("`host`: {0}")]
    Host(#[from] IdError),
    /// The weights cannot be used.
    #[error("`weights`: {0}")]
    Weights(#[from] WeightsError),
    /// A label cannot be used.
    #[error("`labels`: {0}")]
    Label(#[from] RuleError),
    /// The host cannot be reckoned with.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// An agent's configuration file, as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This host's name in the cluster; the one in its certificate.
    pub host: Option<String>,
    /// Where the store is.
    pub state_dir: PathBuf,
    /// Where the certificates and the key are.
    pub identity_dir: PathBuf,
    /// Where the cluster's authority is, on the host that lets others in, if not beside `identity_dir`.
    pub ca_dir: Option<PathBuf>,
    /// UDP address to listen on.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Address at which the other hosts reach this one, where it differs from `listen`.
    #[serde(deserialize_with = "some_address")]
    pub advertise: Option<SocketAddr>,
    /// Addresses of other agents; one that is alive is enough.
    #[serde(deserialize_with = "addresses")]
    pub seeds: Vec<SocketAddr>,
    /// UNIX socket of the local API.
    pub api_socket: PathBuf,
    /// Who may ask it what, besides its own user.
    pub api: ApiConfig,
    /// How long a stopping agent waits for migrations under way before it aborts them.
    #[serde(deserialize_with = "duration")]
    pub stop_grace: Duration,
    /// The hypervisor.
    pub libvirt: LibvirtConfig,
    /// What the host has, where that is to be declared rather than found.
    pub capacity: CapacityConfig,
    /// How much each resource counts in this host's load.
    pub weights: WeightsConfig,
    /// How much of each resource may be in use.
    pub ceilings: CeilingsConfig,
    /// How this host balances.
    pub balance: BalanceConfig,
    /// How much it does by itself, and when.
    pub operation: OperationConfig,
    /// How machines are handed over.
    pub handoff: HandoffConfig,
    /// By which way they come.
    pub migration: MigrationConfig,
    /// How long decision records are kept.
    pub history: HistoryConfig,
    /// Paths on storage that other hosts reach too, and the id under which they know it.
    pub storage: BTreeMap<PathBuf, String>,
    /// What the operator calls segments, by the name of a virtual network, bridge or interface.
    pub networks: BTreeMap<String, String>,
    /// Labels of this host, such as `rack = "r7"`, by which rules name it and go across.
    pub labels: Labels,
    /// What becomes of broken rules.
    pub rules: RulesConfig,
}

/// `[rules]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesConfig {
    /// Whether machines that break a rule where they are, by somebody else's doing, are moved.
    pub repair: bool,
}

impl Default for RulesConfig {
    fn default() -> Self {
        Self { repair: true }
    }
}

/// `[history]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// Days for which decision records are kept.
    pub days: u32,
    /// Most decision records kept.
    pub records: u32,
    /// Most bytes of them.
    #[serde(deserialize_with = "size")]
    pub bytes: ByteSize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        let Retention { days, records, bytes } = Retention::default();
        Self { days, records, bytes: ByteSize(bytes) }
    }
}

impl HistoryConfig {
    /// As the store knows it.
    #[must_use]
    pub const fn retention(&self) -> Retention {
        Retention { days: self.days, records: self.records, bytes: self.bytes.0 }
    }

    fn check(&self) -> Result<(), ValueError> {
        let Self { days, records, bytes } = *self;
        let large = bytes >= ByteSize::mib(16);
        check(large, "history.bytes", &bytes, "16 MiB and more")?;
        check((1..=36_500).contains(&days), "history.days", &days, "from 1 to 36500")?;
        let in_range = (1000..=10_000_000).contains(&records);
        check(in_range, "history.records", &records, "from 1000 to 10000000")
    }
}

/// `[libvirt]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LibvirtConfig {
    /// The connection of this host.
    pub uri: String,
    /// The connection by which other hosts' libvirt daemons reach this one.
    pub migration_uri: Option<String>,
    /// Where the guests' memory is sent to, as in `virsh migrate --migrateuri`.
    pub migrate_address: Option<String>,
    /// Where an incoming migration listens, as in `virsh migrate --listen-address`.
    pub listen_address: Option<String>,
}

/// `[capacity]`. What is not declared is what the host has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityConfig {
    /// Cores.
    pub cpu_cores: Option<f64>,
    /// Memory, such as `"64GiB"`.
    #[serde(deserialize_with = "some_size")]
    pub memory: Option<ByteSize>,
    /// Disk and network transfer per second, such as `"1GB"`.
    #[serde(deserialize_with = "some_size")]
    pub io_per_s: Option<ByteSize>,
    /// Speed of a core relative to the cluster's reference core.
    pub cpu_speed: Option<f64>,
    /// Memory that no machine may take.
    #[serde(deserialize_with = "some_size")]
    pub reserved_memory: Option<ByteSize>,
    /// Whether what the host does besides its machines counts in its load.
    pub background: bool,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            cpu_cores: None,
            memory: None,
            io_per_s: None,
            cpu_speed: None,
            reserved_memory: None,
            background: true,
        }
    }
}

/// `[weights]`; only the proportions matter.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightsConfig {
    /// Of CPU time.
    pub cpu: f64,
    /// Of memory occupied.
    pub memory: f64,
    /// Of disk and network transfer.
    pub io: f64,
}

/// `[handoff]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoffConfig {
    /// Which commit point machines are handed over by.
    pub mode: Mode,
    /// The lock manager that leases every disk of every machine, on storage that all hosts reach.
    pub lock_manager: Option<String>,
    /// How long a machine that a strict handoff left paused here waits for the other host's answer
    /// before it runs on here.
    #[serde(deserialize_with = "duration")]
    pub doubt_time_max: Duration,
    /// Whether disks that are on this host alone are copied when their machine moves.
    pub copy_storage: bool,
    /// Whether machines move although libvirt keeps checkpoints of them, which are lost then.
    pub lose_checkpoints: bool,
}

/// `[migration]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationConfig {
    /// Who connects other hosts' libvirt and QEMU to those of this host.
    pub carrier: Option<CarrierKind>,
    /// Most that all machines together that leave through agents may send per second.
    #[serde(deserialize_with = "some_size")]
    pub bandwidth_max: Option<ByteSize>,
    /// Where the sockets of migrations through agents are: the same on every host.
    pub socket_dir: PathBuf,
    /// Where libvirt listens on this host, if not where its connection says.
    pub libvirt_socket: Option<PathBuf>,
    /// What machines that come through agents may have besides what every machine may have.
    pub admit: BTreeSet<String>,
    /// Directories in which their descriptions may name files.
    pub files: Vec<PathBuf>,
    /// Emulators that they may name besides those that libvirt knows.
    pub emulators: BTreeSet<String>,
    /// Other managers whose machines are moved all the same.
    pub move_managed: BTreeSet<String>,
    /// By which URI this host's libvirt reaches that of another host which is reached directly.
    pub peers: BTreeMap<String, String>,
}

/// Who carries machines to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CarrierKind {
    /// The agents, through their own link.
    Agents,
    /// libvirt and QEMU, through links of their own.
    Direct,
}

impl Default for MigrationConfig {
    fn default() -> Self {
        Self {
            carrier: None,
            bandwidth_max: None,
            socket_dir: PathBuf::from("/run/evenkeel/handoffs"),
            libvirt_socket: None,
            admit: BTreeSet::new(),
            files: Vec::new(),
            emulators: BTreeSet::new(),
            move_managed: BTreeSet::new(),
            peers: BTreeMap::new(),
        }
    }
}

/// What can be admitted.
const ADMITTED: &str =
    "one of network-disks, realtime, seclabel, secrets, sockets, tpm, user-networks";

/// Managers that are known.
const MANAGERS: &str = "one of CloudStack, Ganeti, Harvester, KubeVirt, Nutanix, OpenNebula, Pacemaker, \
                        Proxmox, Virtuozzo, nova, oVirt";

impl MigrationConfig {
    fn check(&self) -> Result<(), ValueError> {
        let known = Admission::known();
        for key in &self.admit {
            check(known.contains(key.as_str()), "migration.admit", key, ADMITTED)?;
        }
        for path in &self.files {
            // Below the root everything would be.
            let narrow = path.is_absolute() && path.components().count() > 1;
            check(narrow, "migration.files", &path.display(), "an absolute path other than `/`")?;
        }
        for emulator in &self.emulators {
            let absolute = Path::new(emulator).is_absolute();
            check(absolute, "migration.emulators", emulator, "an absolute path")?;
        }
        for name in &self.move_managed {
            let known = evenkeel_libvirt::managers().any(|manager| manager == name);
            check(known, "migration.move_managed", name, MANAGERS)?;
        }
        for (host, uri) in &self.peers {
            let named = HostId::new(host).is_ok();
            check(named, "migration.peers", host, "the name of a host")?;
            check(uri.contains("://"), "migration.peers", uri, "a URI of libvirt's")?;
        }
        Ok(())
    }
}

impl Default for HandoffConfig {
    fn default() -> Self {
        let limits = Limits::default();
        let doubt_time_max = limits.doubt_time_max;
        Self {
            mode: Mode::default(),
            lock_manager: None,
            doubt_time_max,
            copy_storage: false,
            lose_checkpoints: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: None,
            state_dir: PathBuf::from("/var/lib/evenkeel"),
            identity_dir: PathBuf::from("/etc/evenkeel/identity"),
            ca_dir: None,
            listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
            advertise: None,
            seeds: Vec::new(),
            api_socket: PathBuf::from("/run/evenkeel/agent.sock"),
            api: ApiConfig::default(),
            stop_grace: Duration::from_secs(60),
            libvirt: LibvirtConfig::default(),
            capacity: CapacityConfig::default(),
            weights: WeightsConfig::default(),
            ceilings: CeilingsConfig::default(),
            history: HistoryConfig::default(),
            balance: BalanceConfig::default(),
            operation: OperationConfig::default(),
            handoff: HandoffConfig::default(),
            migration: MigrationConfig::default(),
            storage: BTreeMap::new(),
            networks: BTreeMap::new(),
            labels: Labels::new(),
            rules: RulesConfig::default(),
        }
    }
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            migration_uri: None,
            migrate_address: None,
            listen_address: None,
        }
    }
}

impl Default for WeightsConfig {
    fn default() -> Self {
        Self { cpu: 1.0, memory: 1.0, io: 1.0 }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// When it cannot be read, or says something that cannot be used; names the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_text(&text, path)
    }

    /// The same with the text of a file that has been read.
    ///
    /// # Errors
    /// As there.
    pub fn from_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config = evenkeel_config::parse::<Self>(text)
            .map_err(|detail| ConfigError::Parse { path: path.to_owned(), detail })?;
        let unusable = |what| ConfigError::Unusable { path: path.to_owned(), what: Box::new(what) };
        config.check().map_err(unusable)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.balance.check()?;
        self.ceilings.check()?;
        self.operation.check()?;
        self.history.check()?;
        let grace = format!("{:?}", self.stop_grace);
        check(self.stop_grace <= SPAN_MAX, "stop_grace", &grace, "at most 8760h")?;
        let doubt = self.handoff.doubt_time_max;
        let in_range = (SPAN_MIN..=SPAN_MAX).contains(&doubt);
        let want = "at least 100ms and at most 8760h";
        check(in_range, "handoff.doubt_time_max", &format!("{doubt:?}"), want)?;
        let many = format!("{} labels", self.labels.len());
        check(self.labels.len() <= LABELS_MAX, "labels", &many, "at most 64")?;
        let absolute = self.migration.socket_dir.is_absolute();
        let dir = self.migration.socket_dir.display();
        check(absolute, "migration.socket_dir", &dir, "an absolute path")?;
        // A handoff's own directory and the longest name in it, within what a socket's name may have.
        let short = dir.to_string().len() <= 80;
        check(short, "migration.socket_dir", &dir, "a path of at most 80 bytes")?;
        self.migration.check()?;
        self.check_paths()?;
        let advertised = self.advertised();
        let reachable = !advertised.ip().is_unspecified();
        let want = "an address that the other hosts can reach: set `advertise`";
        check(reachable, "listen", &self.listen, want)?;
        let host = self.host.as_deref().unwrap_or("here");
        self.profile_of(
            HostId::new(host)?,
            self.declared_or(Resources { cpu_cores: 1.0, memory_bytes: 1.0, io_bytes_per_s: 1.0 }),
        )?;
        Ok(())
    }

    /// A path means the same wherever the agent is started, and on every host.
    fn check_paths(&self) -> Result<(), ValueError> {
        for path in self.storage.keys() {
            let want = "an absolute path, such as \"/srv/vm\"";
            check(path.is_absolute(), "storage", &format!("{:?}", path.display()), want)?;
        }
        for (key, path) in [("state_dir", &self.state_dir), ("identity_dir", &self.identity_dir)] {
            check(path.is_absolute(), key, &path.display(), "an absolute path")?;
        }
        check(
            self.api_socket.is_absolute(),
            "api_socket",
            &self.api_socket.display(),
            "an absolute path",
        )?;
        let named = self.storage.values().find(|id| id.trim().is_empty());
        check(named.is_none(), "storage", &"\"\"", "a name that the storage has on every host")
    }

    /// Where the key of the cluster's authority is, if it is on this host: where the configuration says,
    /// or else beside the identity, where `evenkeel cluster init` puts it.
    #[must_use]
    pub fn authority_dir(&self) -> Option<PathBuf> {
        let beside = || {
            let dir = self.identity_dir.parent()?.join(AUTHORITY_DIR);
            dir.join(CA_KEY_FILE).exists().then_some(dir)
        };
        self.ca_dir.clone().or_else(beside)
    }

    /// Who carries machines to this host: the agents, unless a way for libvirt is configured.
    #[must_use]
    pub fn carrier(&self) -> CarrierKind {
        let otherwise = match self.libvirt.migration_uri {
            Some(_) => CarrierKind::Direct,
            None => CarrierKind::Agents,
        };
        self.migration.carrier.unwrap_or(otherwise)
    }

    /// The address at which other hosts reach this agent.
    #[must_use]
    pub fn advertised(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    /// By which URI other hosts' libvirt reaches the one of this host.
    #[must_use]
    pub fn migration_uri(&self) -> String {
        match (self.carrier(), &self.libvirt.migration_uri, self.advertised().ip()) {
            (CarrierKind::Agents, ..) => carried_uri(&self.libvirt.uri),
            (CarrierKind::Direct, Some(uri), _) => uri.clone(),
            (CarrierKind::Direct, None, IpAddr::V4(ip)) => format!("qemu+tls://{ip}/system"),
            (CarrierKind::Direct, None, IpAddr::V6(ip)) => format!("qemu+tls://[{ip}]/system"),
        }
    }

    /// How other hosts' libvirt is reached from here.
    pub(crate) fn ways(&self) -> Ways {
        let peers = self.migration.peers.iter();
        let peers = peers.filter_map(|(host, uri)| Some((HostId::new(host).ok()?, uri.clone())));
        Ways { direct: self.carrier() == CarrierKind::Direct, peers: peers.collect() }
    }

    /// What machines that come through agents may have besides what every machine may have.
    #[must_use]
    pub fn admission(&self) -> Admission {
        let MigrationConfig { admit, files, emulators, .. } = &self.migration;
        Admission { keys: admit.clone(), directories: files.clone(), emulators: emulators.clone() }
    }

    /// Where libvirt listens on this host for what agents carry to it, if that is known.
    #[must_use]
    pub fn libvirt_socket(&self) -> Option<PathBuf> {
        self.migration.libvirt_socket.clone().or_else(|| socket_of(&self.libvirt.uri))
    }

    /// The directory of the sockets of the libvirt that this agent works with, if it is on this host.
    #[must_use]
    pub fn libvirt_dir(&self) -> Option<PathBuf> {
        socket_of(&self.libvirt.uri).and_then(|socket| socket.parent().map(PathBuf::from))
    }

    /// The capacity declared, and of what is not declared, what was `found`.
    #[must_use]
    pub fn declared_or(&self, found: Resources) -> Resources {
        let bytes = |size: ByteSize| size.as_u64() as f64;
        Resources {
            cpu_cores: self.capacity.cpu_cores.unwrap_or(found.cpu_cores),
            memory_bytes: self.capacity.memory.map_or(found.memory_bytes, bytes),
            io_bytes_per_s: self.capacity.io_per_s.map_or(found.io_bytes_per_s, bytes),
        }
    }

    /// Whether nothing of the capacity has to be found.
    #[must_use]
    pub const fn declares_all(&self) -> bool {
        let CapacityConfig { cpu_cores, memory, io_per_s, .. } = &self.capacity;
        cpu_cores.is_some() && memory.is_some() && io_per_s.is_some()
    }

    /// This host as the arithmetic sees it, with the given capacity.
    ///
    /// # Errors
    /// When loads on it would be no numbers.
    pub fn profile_of(&self, id: HostId, capacity: Resources) -> Result<HostProfile, ConfigError> {
        let WeightsConfig { cpu, memory, io } = self.weights;
        let profile = HostProfile {
            cpu_speed: self.capacity.cpu_speed.unwrap_or(1.0),
            weights: Weights::new(PerResource { cpu, memory, io })?,
            reserved_memory_bytes: self.capacity.reserved_memory.map_or(0.0, |b| b.as_u64() as f64),
            labels: self.labels.clone(),
            ..HostProfile::new(id, capacity)
        };
        self.labels.iter().try_for_each(|(label, value)| check_label(label, value))?;
        profile.check()?;
        Ok(profile)
    }

    /// How the core shall balance.
    #[must_use]
    pub fn balancer(&self) -> balancer::Config {
        let balance = self.balance.balancer();
        let limits = Limits { doubt_time_max: self.handoff.doubt_time_max, ..balance.limits };
        let HandoffConfig { mode: commit, copy_storage, .. } = self.handoff;
        let ceilings = self.ceilings.ceilings();
        let OperationConfig { mode, recommendation_time, .. } = self.operation;
        let told =
            balancer::Config { mode, recommendation_time, repair: self.rules.repair, ..balance };
        balancer::Config { ceilings, limits, commit, copy_storage, ..told }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, says: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        for part in says {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    }

    #[test]
    fn a_typo_is_named_with_the_nearest_key() {
        check("[balance]\ndead_bnad = 0.1\n", &["dead_bnad", "did you mean `dead_band`"]);
        check("hots = 'a'\n", &["line 1", "did you mean `host`"]);
        check("[libvirt]\nurl = 'x'\n", &["did you mean `uri`"]);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_named_with_what_it_must_be() {
        check("[balance]\nround = '0s'\n", &["balance.round", "at least 100ms"]);
        check("[balance]\nround = '99999999h'\n", &["balance.round", "at most 8760h"]);
        check("stop_grace = '99999999h'\n", &["`stop_grace`", "at most 8760h"]);
        check("listen = '127.0.0.1:1'\nhost = 'a b'\n", &["`host`", "a b"]);
        check("[balance]\nround = 'soon'\n", &["`soon` is no duration", "30s"]);
        check("[operation]\nmode = 'manual'\n", &["manual", "observe", "automatic"]);
        check("[operation]\ntime_zone = 'Mars/Olympus'\n", &["operation.time_zone", "Mars"]);
        check("[operation]\nwindows = ['nights']\n", &["`nights`", "mon-fri 22:00-06:00"]);
        check("[handoff]\nmode = 'quick'\n", &["quick", "strict"]);
        check("[migration]\nmove_managed = ['novva']\n", &["migration.move_managed", "nova"]);
        check("[migration]\ncarrier = 'pigeon'\n", &["pigeon", "agents", "direct"]);
        check("[migration]\nsocket_dir = 'run'\n", &["migration.socket_dir", "absolute"]);
        check("[api.tcp]\nlisten = '127.0.0.1:1'\n", &["missing field `certificate`"]);
        check("[api]\nmembers = 'all'\n", &["all", "none", "read", "operate"]);
        check("[handoff]\ndoubt_time_max = '1ms'\n", &["handoff.doubt_time_max", "100ms"]);
        check("[balance]\njitter = 1.5\n", &["balance.jitter", "1.5", "below 1"]);
        check("[balance]\nsample = '60s'\n", &["stale_after", "longer than balance.sample"]);
        check("listen = '0.0.0.0:7946'\n", &["`listen` is 0.0.0.0:7946", "advertise"]);
        check("listen = '127.0.0.1:1'\n[capacity]\ncpu_cores = 0\n", &["capacity of 0 for cpu"]);
        check("listen = '127.0.0.1:1'\n[weights]\ncpu = -1\n", &["weights", "cpu is -1"]);
        check("listen = '127.0.0.1:1'\n[labels]\nrack = 'a?'\n", &["`labels`", "a?"]);
        check("[rules]\nrepare = true\n", &["did you mean `repair`"]);
        check("not toml", &["agent.toml", "line 1"]);
    }

    #[test]
    fn every_manager_that_is_known_is_named_where_one_is_not() {
        for manager in evenkeel_libvirt::managers() {
            assert!(MANAGERS.contains(manager), "{manager}");
        }
    }

    #[test]
    fn what_has_a_unit_is_written_with_it_and_addresses_are_no_names() {
        let base = "listen = '127.0.0.1:1'\n";
        for (text, says) in [
            ("[balance]\nround = 30\n", ["`balance.round`: write \"30s\", not 30", "line 3"]),
            ("stop_grace = 5\n", ["`stop_grace`: write \"5s\", not 5", "unit"]),
            ("[capacity]\nmemory = 4096\n", ["`capacity.memory`: write \"4GiB\"", "not 4096"]),
            ("[capacity]\nio_per_s = '1e9'\n", ["`capacity.io_per_s`", "not \"1e9\""]),
            ("seeds = ['kvm2:7946']\n", ["`seeds`: write \"192.0.2.1:7946\"", "name of a host"]),
            ("advertise = '192.0.2.1'\n", ["`advertise`", "port is missing"]),
            ("[ceilings]\ncpu = 90\n", ["`ceilings.cpu` is 90", "write 0.9 for 90 %"]),
            ("[storage]\nvm = 'nfs1'\n", ["`storage` is \"vm\"", "absolute path"]),
            ("state_dir = 'state'\n", ["`state_dir` is state", "absolute path"]),
            ("[ceilings]\ncpu = 1e300\n", ["`ceilings.cpu` is 1000", "0…"]),
        ] {
            check(&format!("{base}{text}"), &says);
        }
    }

    #[test]
    fn agents_carry_machines_unless_a_way_for_libvirt_is_configured() {
        for (text, carrier) in [
            ("", CarrierKind::Agents),
            ("[libvirt]\nmigration_uri = 'qemu+tls://a/system'\n", CarrierKind::Direct),
            ("[migration]\ncarrier = 'direct'\n", CarrierKind::Direct),
            (
                "[libvirt]\nmigration_uri = 'x'\n[migration]\ncarrier = 'agents'\n",
                CarrierKind::Agents,
            ),
        ] {
            let config = evenkeel_config::parse::<Config>(text).unwrap();
            assert_eq!(config.carrier(), carrier, "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/agent.toml"), "{error}");
    }

    #[test]
    fn a_whole_configuration_is_taken_as_written() {
        let config = evenkeel_config::parse::<Config>(
            "host = 'kvm1'\nlisten = '127.0.0.1:7001'\nseeds = ['127.0.0.1:7002']\n\
             [capacity]\ncpu_cores = 0.5\nmemory = '4GiB'\nio_per_s = '100MB'\ncpu_speed = 1.5\n\
             [weights]\ncpu = 2\n[balance]\nround = '1m 30s'\n[storage]\n'/srv/vm' = 'nfs1'\n\
             [labels]\nrack = 'r7'\n",
        )
        .unwrap();
        config.check().unwrap();
        let capacity = config.declared_or(Resources::ZERO);
        assert_eq!(
            capacity,
            Resources { cpu_cores: 0.5, memory_bytes: 4294967296.0, io_bytes_per_s: 1e8 }
        );
        assert_eq!(config.balancer().round, Duration::from_secs(90));
        let profile = config.profile_of(HostId::new("kvm1").unwrap(), capacity).unwrap();
        assert_eq!(profile.weights.get().cpu, 0.5);
        assert!(config.declares_all());
    }
}

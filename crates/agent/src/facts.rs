//! What is to be known of this host by whoever judges whether it is in order: see
//! [`evenkeel_doctor`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_doctor::{
    AgentFacts, CapacityFacts, Facts, IdentityFacts, LibvirtFacts, MigrationFacts, Sharing,
    StorageFacts, StoreFacts, Version,
};
use evenkeel_libvirt::{
    Inspection, Sharing as Told, inspect, memory_bytes, mounted_at, reaches, sharing,
};
use evenkeel_net::Identity;

use crate::config::{CarrierKind, Config};
use crate::looks::Looks;
use crate::status::Status;

/// libvirt's configuration of QEMU on a host, and what it is without a word there.
const QEMU_CONF: &str = "/etc/libvirt/qemu.conf";
const MIGRATION_PORTS: (u16, u16) = (49152, 49215);
/// Where ssh listens unless told otherwise, and how long it is waited for.
const SSH_PORT: u16 = 22;
const SSH_TIME_MAX: Duration = Duration::from_secs(5);
/// So many of the ports are tried.
const PORTS_TRIED: u16 = 8;
/// How long libvirt may take to be looked at, or to be reached: an unprivileged client whose daemon is
/// gone tries for half a minute to start one.
const LIBVIRT_TIME_MAX: Duration = Duration::from_secs(8);

/// Finds out what there is to know about this host, its agent aside. Blocks while libvirt answers.
/// Nothing is changed, but for a file in the state directory that is made and removed.
#[must_use]
pub fn gather(config: &Config) -> Facts {
    let identity = Identity::load(&config.identity_dir).map_err(|error| error.to_string());
    let certified = identity.as_ref().ok().map(|identity| identity.host().to_string());
    let host = config.host.clone().or(certified).unwrap_or_else(|| "this host".to_owned());
    let qemu_conf = fs::read_to_string(QEMU_CONF).ok();
    let found = INSPECTIONS.share(&config.libvirt.uri, LIBVIRT_TIME_MAX, inspect);
    let qemu_conf = qemu_conf.filter(|_| config.libvirt.uri.ends_with("/system"));
    Facts {
        host,
        at_ms: millis(SystemTime::now()),
        evenkeel: env!("CARGO_PKG_VERSION").to_owned(),
        agent: None,
        libvirt: found.clone().map(|found| libvirt(config, found, qemu_conf.as_deref())),
        migration: migration(config, qemu_conf.as_deref()),
        identity: identity.map(|identity| IdentityFacts {
            host: identity.host().to_string(),
            cluster: identity.cluster().to_string(),
            expires_ms: millis(identity.expires()),
            renewal_due_ms: millis(identity.renewal_due()),
        }),
        capacity: CapacityFacts {
            // What the agent goes by.
            memory: found
                .as_ref()
                .map_or_else(
                    // Of this host, where libvirt does not answer.
                    |_| Some(memory_bytes(&config.libvirt.uri, u64::MAX)).filter(|b| *b < u64::MAX),
                    |found| Some(found.memory_bytes),
                )
                .unwrap_or(0),
            declared: config.capacity.memory.map(|size| size.as_u64()),
            reserved: config.capacity.reserved_memory.map_or(0, |size| size.as_u64()),
        },
        store: store(&config.state_dir),
        storage: storage(config),
        lock_manager: config.handoff.lock_manager.clone(),
        pressure: Path::new("/proc/pressure/memory").exists(),
    }
}

/// What an agent says of itself, as far as it matters here.
#[must_use]
pub fn of_agent(status: &Status) -> AgentFacts {
    AgentFacts {
        unknown: status.unknown.clone(),
        members: status.members.iter().map(ToString::to_string).collect(),
        knows_others: status.knows_others,
        alarms: status.alarms.iter().map(|a| (a.what.clone(), a.remedy.clone())).collect(),
        kept: status
            .machines
            .iter()
            .filter_map(|machine| Some((machine.name.clone(), machine.kept.clone()?)))
            .collect(),
        silent: status.silent.iter().map(|s| (s.host.to_string(), s.since.unix_ms())).collect(),
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

static INSPECTIONS: Looks<Inspection> = Looks::new();
static REACHES: Looks<()> = Looks::new();

fn libvirt(config: &Config, found: Inspection, qemu_conf: Option<&str>) -> LibvirtFacts {
    LibvirtFacts {
        uri: config.libvirt.uri.clone(),
        version: Version(found.libvirt),
        qemu: Version(found.qemu),
        hardware: found.hardware,
        virt_type: found.virt_type,
        cpu: found.cpu,
        cpu_model: found.cpu_model,
        emulated_machines: found.emulated_machines,
        lock_manager: qemu_conf.and_then(|text| setting(text, "lock_manager")),
        host_uuid: found.host_uuid,
    }
}

fn migration(config: &Config, qemu_conf: Option<&str>) -> MigrationFacts {
    let uri = config.migration_uri();
    if config.carrier() == CarrierKind::Agents {
        let unreached = match config.libvirt_socket() {
            None => Some(format!("where it listens is not known from `{}`", config.libvirt.uri)),
            Some(path) => {
                let opened = UnixStream::connect(&path);
                opened.err().map(|error| format!("`{}`: {error}", path.display()))
            }
        };
        return MigrationFacts { carried: true, uri, unreached, ..MigrationFacts::default() };
    }
    let port = |name, otherwise| {
        let said = qemu_conf.and_then(|text| setting(text, name));
        said.and_then(|port| port.parse().ok()).unwrap_or(otherwise)
    };
    let (first, last) = (
        port("migration_port_min", MIGRATION_PORTS.0),
        port("migration_port_max", MIGRATION_PORTS.1),
    );
    let address = config.libvirt.listen_address.as_ref().and_then(|at| at.parse().ok());
    let address: IpAddr = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let tried = first..=last.min(first.saturating_add(PORTS_TRIED - 1));
    let free = tried.clone().filter(|port| TcpListener::bind((address, *port)).is_ok()).count();
    let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    MigrationFacts {
        carried: false,
        unreached: reached(&uri),
        uri,
        ports: (first, last),
        free: (count(free), count(tried.count())),
    }
}

/// Why a libvirt is not reached, if it is not.
pub(crate) fn reached(uri: &str) -> Option<String> {
    // libvirt runs ssh, as its own user and outside of the agent's sandbox: whether that user is let in
    // cannot be tried from here, and whether anybody listens can.
    if let Some((host, port)) = by_ssh(uri) {
        return listens(&host, port).err();
    }
    REACHES.share(uri, LIBVIRT_TIME_MAX, reaches).err()
}

/// Where a libvirt is reached by ssh, if it is.
fn by_ssh(uri: &str) -> Option<(String, u16)> {
    let (scheme, rest) = uri.split_once("://")?;
    let transport = scheme.split_once('+')?.1;
    if !matches!(transport, "ssh" | "libssh" | "libssh2") {
        return None;
    }
    let place = rest.split(['/', '?']).next()?;
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    Some((host.to_owned(), port.map_or(Some(SSH_PORT), |port| port.parse().ok())?))
}

/// Whether anybody listens there.
fn listens(host: &str, port: u16) -> Result<(), String> {
    let failed =
        |error: std::io::Error| format!("nobody is reached at `{host}`, port {port}: {error}");
    let addresses = (host, port).to_socket_addrs().map_err(failed)?;
    let mut why = format!("`{host}` has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, SSH_TIME_MAX) {
            Ok(_) => return Ok(()),
            Err(error) => why = failed(error),
        }
    }
    Err(why)
}

/// A setting in a file of libvirt's: `name = "value"` or `name = value`.
fn setting(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut values = lines.filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"').to_owned())
    });
    values.next()
}

fn store(directory: &Path) -> StoreFacts {
    // The agent, or systemd for it, makes the last part of the path.
    let parent = directory.parent().filter(|parent| !directory.exists() && parent.is_dir());
    let written = |at: &Path| {
        let trial = at.join(format!(".doctor-{}", std::process::id()));
        fs::write(&trial, b"").and_then(|()| fs::remove_file(&trial))
    };
    let fault = match parent {
        Some(_) => None,
        None => written(directory).err().map(|error| error.to_string()),
    };
    let there = parent.unwrap_or(directory);
    let room = rustix::fs::statvfs(there).map_or(0, |room| {
        let block: u64 = room.f_frsize;
        room.f_bavail.saturating_mul(block)
    });
    StoreFacts {
        path: directory.display().to_string(),
        fault,
        file_system: mounted_at(there).map_or_else(String::new, |(_, kind)| kind),
        free: room,
    }
}

fn storage(config: &Config) -> BTreeMap<String, StorageFacts> {
    let facts = config.storage.iter().map(|(path, id)| {
        let (source, file_system) = mounted_at(path).unwrap_or_default();
        // A prefix of device names is no directory.
        let told = match sharing(path) {
            Told::Shared => Sharing::Shared,
            Told::Local => Sharing::Local,
            Told::Unknown => Sharing::Unknown,
            Told::Nothing => Sharing::Nothing,
            Told::Silent => Sharing::Silent,
        };
        let found = told == Sharing::Silent || path.exists();
        let of_devices = path.starts_with("/dev");
        let sharing = if of_devices { Sharing::Unknown } else { told };
        let path = path.display().to_string();
        (id.clone(), StorageFacts { path, found, source, file_system, sharing })
    });
    facts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_libvirt_are_read_unless_they_are_remarks() {
        let text = "# lock_manager = \"sanlock\"\nlock_manager = \"lockd\"\nmigration_port_min=5\n";
        assert_eq!(setting(text, "lock_manager").as_deref(), Some("lockd"));
        assert_eq!(setting(text, "migration_port_min").as_deref(), Some("5"));
        assert_eq!(setting(text, "migration_port"), None);
    }

    #[test]
    fn of_a_libvirt_behind_ssh_only_the_port_is_tried() {
        for (uri, at) in [
            ("qemu+ssh://kvm2/system", Some(("kvm2", 22))),
            ("qemu+ssh://root@kvm2:2222/system?keyfile=/a", Some(("kvm2", 2222))),
            ("qemu+libssh2://[2001:db8::1]:23/system", Some(("2001:db8::1", 23))),
            ("qemu+tls://kvm2/system", None),
            ("qemu:///system", None),
        ] {
            let found = by_ssh(uri);
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), at, "{uri}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(reached(&format!("qemu+ssh://127.0.0.1:{port}/system")), None);
        drop(listener);
        let why = reached(&format!("qemu+ssh://127.0.0.1:{port}/system")).unwrap();
        assert!(why.contains(&port.to_string()), "{why}");
    }

    #[test]
    fn a_state_directory_is_there_or_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let there = store(directory.path());
        assert_eq!((there.fault, fs::read_dir(&directory).unwrap().count()), (None, 0));
        assert!(there.free > 0 && !there.file_system.is_empty());
        assert!(store(&directory.path().join("none")).fault.is_none(), "the agent makes it");
        assert!(store(&directory.path().join("none/none")).fault.is_some());
    }
}

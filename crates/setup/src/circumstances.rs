//! What a host is like before it is set up, and what is proposed for it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use evenkeel_agent::config::PORT;
use evenkeel_core::model::HostId;
use evenkeel_libvirt::{Found, find_storage, inspect};
use evenkeel_net::{HOST_CERTIFICATE_FILE, Identity};

use crate::Places;
use crate::error::SetupError;

/// How long libvirt may take: an unprivileged client whose daemon is gone tries for half a minute to
/// start one.
const LIBVIRT_TIME_MAX: Duration = Duration::from_secs(15);

/// Links of libvirt, containers and the like, behind which no other host is.
const INNER_LINKS: [&str; 12] = [
    "br-", "cali", "cni", "docker", "flannel", "kube", "lxc", "lxdbr", "podman", "tap", "veth",
    "vnet",
];

/// A host that is a member of a cluster already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub host: HostId,
    /// Its cluster.
    pub cluster: String,
}

/// What there is to know of a host before it is set up.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The cluster that it is in, if it is.
    pub member: Option<Member>,
    /// Its addresses, the one first at which other hosts most likely reach it.
    pub addresses: Vec<IpAddr>,
    /// Storage that it shares with others.
    pub storage: Found,
}

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The host's name: the first part of what the system calls it.
    pub name: Option<HostId>,
    /// Where other hosts reach it.
    pub address: Option<SocketAddr>,
    /// Directories that other hosts share, and what they call them.
    pub storage: BTreeMap<PathBuf, String>,
}

impl Circumstances {
    /// Finds out whether the host is set up already. Changes nothing.
    ///
    /// # Errors
    /// When it is half set up, or its identity cannot be read.
    pub fn member(places: &Places) -> Result<Option<Member>, SetupError> {
        let (config, identity) = (&places.config, places.identity());
        let certificate = identity.join(HOST_CERTIFICATE_FILE);
        match (config.exists(), certificate.exists()) {
            (false, false) => Ok(None),
            (true, true) => {
                let identity = Identity::load(&identity)?;
                let (host, cluster) = (identity.host().clone(), identity.cluster().to_string());
                Ok(Some(Member { host, cluster }))
            }
            (true, false) => Err(SetupError::Half { there: config.clone(), missing: certificate }),
            (false, true) => Err(SetupError::Half { there: certificate, missing: config.clone() }),
        }
    }

    /// Looks at a host that is not set up. Changes nothing. `towards` is another host, if one is known.
    ///
    /// # Errors
    /// When libvirt does not answer.
    pub fn look(places: &Places, towards: Option<SocketAddr>) -> Result<Self, SetupError> {
        let storage = libvirt(&places.libvirt)?;
        Ok(Self { member: None, addresses: addresses(towards), storage })
    }

    /// What is proposed for it.
    #[must_use]
    pub fn proposed(&self) -> Proposed {
        let all = &self.storage.directories;
        // Where machines' disks lie already counts; of mounts that hold none yet all may be meant.
        let pooled = all.iter().any(|found| found.pooled);
        let chosen = all.iter().filter(|found| found.pooled || !pooled);
        Proposed {
            name: host_name(),
            address: self.addresses.first().map(|ip| SocketAddr::new(*ip, PORT)),
            storage: chosen.map(|found| (found.path.clone(), found.id.clone())).collect(),
        }
    }
}

/// The first part of the system's name for this host, if that is a host's name.
fn host_name() -> Option<HostId> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    HostId::new(name.trim().split('.').next().unwrap_or_default()).ok()
}

/// Asks libvirt for what it knows of storage, which shows that it answers whoever runs this.
fn libvirt(uri: &str) -> Result<Found, SetupError> {
    let (answer, answered) = mpsc::channel();
    let asked = uri.to_owned();
    // One that hangs is left behind: the process ends soon.
    thread::spawn(move || {
        let found = inspect(&asked).and_then(|_| find_storage(&asked));
        drop(answer.send(found));
    });
    let late = || format!("nothing came within {} s", LIBVIRT_TIME_MAX.as_secs());
    let found = answered.recv_timeout(LIBVIRT_TIME_MAX).unwrap_or_else(|_| Err(late()));
    found.map_err(|why| SetupError::Libvirt { uri: uri.to_owned(), hint: hint(&why), why })
}

/// What to do about a libvirt that does not answer, by its own words.
fn hint(why: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if says(&["not installed"]) {
        "install libvirt and QEMU first: `apt install libvirt-daemon-system qemu-system-x86`, or \
         `dnf install libvirt-daemon-kvm`"
    } else if says(&["ermission denied", "denied", "uthentication", "not authorized"]) {
        "run this as root, or as a user who may manage libvirt (`virsh -c URI list` must work)"
    } else if says(&["No such file", "refused", "not found"]) {
        "start libvirt: `systemctl enable --now libvirtd.socket` (or `virtqemud.socket`); Debian's \
         package is libvirt-daemon-system"
    } else {
        "`virsh -c URI list` must work before Evenkeel can"
    }
}

/// The addresses of this host, best first: the one by which `towards` is reached, then by which the
/// rest of the world is, then the others.
fn addresses(towards: Option<SocketAddr>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let anywhere = SocketAddr::from(([192, 0, 2, 1], 9));
    found.extend([towards, Some(anywhere)].into_iter().flatten().filter_map(source_towards));
    let links = if_addrs::get_if_addrs().unwrap_or_default();
    let usable = links.into_iter().filter(|link| !link.is_loopback() && !link.is_link_local());
    let (inner, outer): (Vec<_>, Vec<_>) = usable.partition(|link| is_inner(&link.name));
    let mut rest: Vec<_> = outer.iter().chain(&inner).map(if_addrs::Interface::ip).collect();
    rest.sort_by_key(IpAddr::is_ipv6);
    found.extend(rest);
    let mut seen = Vec::new();
    found.retain(|ip| {
        !seen.contains(ip) && {
            seen.push(*ip);
            true
        }
    });
    found
}

fn is_inner(link: &str) -> bool {
    link.starts_with("virbr") || INNER_LINKS.iter().any(|prefix| link.starts_with(prefix))
}

/// From which address this host would speak to another one. Nothing is sent.
fn source_towards(other: SocketAddr) -> Option<IpAddr> {
    let any = if other.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(other).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// Whether an agent could listen there.
pub(crate) fn can_listen(addr: SocketAddr) -> Result<(), SetupError> {
    if addr.ip().is_unspecified() || addr.port() == 0 {
        return Err(SetupError::Unreachable(addr));
    }
    let failed = |protocol, source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => SetupError::PortTaken { protocol, addr },
        ErrorKind::AddrNotAvailable => {
            let all: Vec<_> = addresses(None).iter().map(ToString::to_string).collect();
            SetupError::NoSuchAddress(addr, all.join(", "))
        }
        _ => SetupError::Port { protocol, addr, source },
    };
    UdpSocket::bind(addr).map_err(|error| failed("UDP", error))?;
    TcpListener::bind(addr).map_err(|error| failed("TCP", error))?;
    Ok(())
}

/// The directories that are declared, of which each must be there.
pub(crate) fn check_storage(storage: &BTreeMap<PathBuf, String>) -> Result<(), SetupError> {
    let is_missing = |path: &&PathBuf| !Path::is_dir(path);
    match storage.keys().find(is_missing) {
        None => Ok(()),
        Some(path) => Err(SetupError::Answers(format!(
            "`--storage {}`: there is no such directory on this host\nhint: mount it first, on every \
             host at the same path",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_libvirt::FoundStorage;

    fn at(storage: &[(&str, bool)]) -> Vec<PathBuf> {
        let found = storage.iter().map(|(path, pooled)| FoundStorage {
            path: path.into(),
            id: format!("netfs:{path}"),
            pooled: *pooled,
        });
        let storage = Found { directories: found.collect(), pools: Vec::new() };
        let addresses = vec!["192.0.2.7".parse().unwrap()];
        let proposed = Circumstances { member: None, addresses, storage }.proposed();
        assert_eq!(proposed.address, Some("192.0.2.7:7946".parse().unwrap()));
        proposed.storage.into_keys().collect()
    }

    #[test]
    fn mounts_with_pools_on_them_are_proposed_or_else_all_that_can_be_shared() {
        assert_eq!(at(&[("/home", false), ("/srv/vm", true)]), [PathBuf::from("/srv/vm")]);
        assert_eq!(at(&[("/a", false), ("/b", false)]).len(), 2);
        assert!(at(&[]).is_empty());
    }

    #[test]
    fn a_port_that_somebody_has_or_an_address_of_another_host_is_named_before_it_is_used() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = udp.local_addr().unwrap();
        let taken = can_listen(addr).unwrap_err().to_string();
        assert!(taken.contains(&format!("UDP port {addr} is taken")), "{taken}");
        drop(udp);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        let taken = can_listen(addr).unwrap_err().to_string();
        assert!(taken.contains(&format!("TCP port {addr} is taken")), "{taken}");
        drop(tcp);
        can_listen(addr).unwrap();
        let foreign = can_listen("192.0.2.9:7946".parse().unwrap()).unwrap_err();
        assert!(matches!(foreign, SetupError::NoSuchAddress(..)), "{foreign}");
        assert!(can_listen("0.0.0.0:7946".parse().unwrap()).is_err());
    }

    #[test]
    fn what_libvirt_says_leads_to_what_to_do() {
        for (why, what) in [
            ("libvirt is not installed on this host: install the package", "apt install"),
            ("Failed to connect socket to '/x': Permission denied", "as root"),
            ("authentication unavailable: no polkit agent", "as root"),
            ("Failed to connect socket to '/x': No such file or directory", "systemctl"),
            ("something else", "virsh -c"),
        ] {
            assert!(hint(why).contains(what), "{why}: {}", hint(why));
        }
    }
}

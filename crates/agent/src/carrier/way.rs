//! By which way a host is reached, which it says itself, and what libvirt is told to open for it, which
//! it does not.
//!
//! What another host says is read as one of a few ways. The URI is made here: libvirt's own client would
//! run a command for some (`qemu+ssh://…?command=`), or open whatever socket another names.

use evenkeel_core::model::HostId;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

/// How other hosts' libvirt is reached from this one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// Whether machines may go from libvirt to libvirt without the agents.
    pub(crate) direct: bool,
    /// Hosts that the operator of this one has said a URI for.
    pub(crate) peers: BTreeMap<HostId, String>,
}

/// A way that a host may say that it is reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// Through its agent.
    Carried { daemon: &'static str },
    /// From libvirt to libvirt.
    Direct { transport: &'static str, host: String, port: Option<u16>, daemon: &'static str },
}

impl Ways {
    /// What libvirt is told to open, for a host that says this of itself.
    ///
    /// # Errors
    /// Why nothing is, in words.
    pub(crate) fn uri(&self, to: &HostId, said: &str) -> Result<String, String> {
        let way = Way::read(said);
        if let Some(Way::Carried { daemon }) = way {
            return Ok(evenkeel_libvirt::carried_uri(&format!("qemu:///{daemon}")));
        }
        if let Some(configured) = self.peers.get(to) {
            return Ok(configured.clone());
        }
        let shown: String =
            said.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect();
        match way {
            Some(Way::Direct { .. }) if !self.direct => Err(format!(
                "host `{to}` says that its libvirt is reached at `{shown}`, and this host sends machines \
                 through agents: set `carrier = \"agents\"` there, or `direct` here"
            )),
            Some(Way::Direct { transport, host, port, daemon }) => {
                let port = port.map_or_else(String::new, |port| format!(":{port}"));
                Ok(format!("qemu+{transport}://{host}{port}/{daemon}"))
            }
            _ => Err(format!(
                "host `{to}` says that its libvirt is reached at `{shown}`, which is no way that is \
                 taken from another host: name its URI under `[migration.peers]` here"
            )),
        }
    }
}

impl Way {
    fn read(said: &str) -> Option<Self> {
        let (transport, rest) = said.strip_prefix("qemu+")?.split_once("://")?;
        let (authority, daemon) = rest.split_once('/')?;
        let daemon = ["system", "session"].into_iter().find(|known| *known == daemon)?;
        if transport == "evenkeel" && authority.is_empty() {
            return Some(Self::Carried { daemon });
        }
        let transport = ["tls", "ssh", "tcp"].into_iter().find(|known| *known == transport)?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(number(port)?)),
            _ => (authority, None),
        };
        is_host(host).then(|| Self::Direct { transport, host: host.to_owned(), port, daemon })
    }
}

fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A name or an address; nothing that a program could take for an option.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.len() <= 255
        && host.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_one_of_a_few_ways_and_no_uri() {
        let to = HostId::new("h2").unwrap();
        let ways = Ways { direct: true, ..Ways::default() };
        for same in [
            "qemu+evenkeel:///system",
            "qemu+evenkeel:///session",
            "qemu+tls://kvm1/system",
            "qemu+ssh://kvm1.example.org:2222/system",
            "qemu+tcp://192.0.2.1/session",
            "qemu+tls://[2001:db8::1]/system",
            "qemu+tls://[2001:db8::1]:16514/system",
        ] {
            assert_eq!(ways.uri(&to, same).as_deref(), Ok(same));
        }
        for said in [
            "",
            "qemu:///system",
            "qemu+ssh://x/system?command=/bin/sh&keyfile=x",
            "qemu+ssh://x/system?",
            "qemu+ssh://x/system#y",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+ssh://root@x/system",
            "qemu+ext://x/system?command=/bin/sh",
            "qemu+unix:///system?socket=/run/x",
            "qemu+libssh2://x/system",
            "qemu+evenkeel://x/system",
            "qemu+evenkeel:///system?socket=/x",
            "qemu+tls://x:0x10/system",
            "qemu+tls://x:99999/system",
            "qemu+tls://x/embed",
            "qemu+tls://x\n/system",
            "qemu+tls:///system",
            "test:///default",
            "lxc:///",
            "esx://x/?no_verify=1",
        ] {
            assert!(ways.uri(&to, said).is_err(), "{said}");
        }
    }

    #[test]
    fn machines_go_directly_only_where_this_host_is_configured_for_it() {
        let (h2, h3) = (HostId::new("h2").unwrap(), HostId::new("h3").unwrap());
        let named = "qemu+unix:///session?socket=/srv/h3";
        let ways = Ways { direct: false, peers: BTreeMap::from([(h3.clone(), named.to_owned())]) };
        let said = "qemu+tls://kvm/system";
        assert!(ways.uri(&h2, said).unwrap_err().contains("through agents"));
        assert_eq!(ways.uri(&h3, said).as_deref(), Ok(named), "the operator's own word");
        assert_eq!(ways.uri(&h3, "qemu+ext://x/system?command=y").as_deref(), Ok(named));
        let carried = "qemu+evenkeel:///system";
        assert_eq!(ways.uri(&h3, carried).as_deref(), Ok(carried));
    }
}

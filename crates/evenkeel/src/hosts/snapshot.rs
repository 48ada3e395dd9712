//! `evenkeel snapshot`: what a cluster looks like now, from its agents or, without any, from libvirt
//! over connections that cannot change anything.

mod agents;
mod libvirt;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use evenkeel_core::model::HostId;
use evenkeel_sim::snapshot::{FORMAT, Snapshot, SnapshotHost, SnapshotMachine};

use crate::output::Failure;

/// Where libvirt is asked, and how.
#[derive(Debug, Args)]
pub(crate) struct LibvirtArgs {
    /// libvirt of a host, such as `qemu+ssh://kvm1/system` or `kvm1=qemu:///system`; read-only, no
    /// agent needed; may be given more than once
    #[arg(short = 'c', long, value_name = "[NAME=]URI")]
    connect: Vec<Source>,
    /// Time between the two measurements that make a rate
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = interval)]
    interval: Duration,
}

impl LibvirtArgs {
    /// Whether no libvirt is named.
    pub(crate) const fn is_empty(&self) -> bool {
        self.connect.is_empty()
    }

    /// Reads every host.
    pub(crate) fn read(&self) -> Result<Snapshot, Failure> {
        snapshot(libvirt::read(&self.connect, self.interval)?)
    }
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The socket of a running agent, which is asked for its own host; may be given more than once.
    /// Without this and without --connect: all hosts that the agent of this one knows
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    #[command(flatten)]
    libvirt: LibvirtArgs,
}

/// A libvirt, and the name of its host if it was given.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: Option<HostId>,
    uri: String,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A URI may hold `=`, but not before its first `:`, `/` or `?`.
        let name = text.split_once('=').filter(|(name, _)| !name.contains([':', '/', '?']));
        let (name, uri) = match name {
            Some((name, uri)) => (Some(HostId::new(name).map_err(|e| e.to_string())?), uri),
            None => (None, text),
        };
        if !uri.contains(":/") {
            return Err("give a libvirt URI, such as `qemu+ssh://kvm1/system`".to_owned());
        }
        Ok(Self { name, uri: uri.to_owned() })
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let span: Option<jiff::SignedDuration> = text.parse().ok();
    span.and_then(|span| Duration::try_from(span).ok())
        .filter(|span| (Duration::from_millis(500)..=Duration::from_secs(300)).contains(span))
        .ok_or_else(|| "write `3s`, from `500ms` to `300s`".to_owned())
}

pub(super) fn run(args: &SnapshotArgs) -> Result<(), Failure> {
    if args.socket.is_empty() && args.libvirt.connect.is_empty() {
        let json = of_cluster(Path::new(super::AGENT_SOCKET))?.to_json()?;
        return crate::output::say!("{json}");
    }
    let mut hosts = agents::read(&args.socket)?;
    if !args.libvirt.connect.is_empty() {
        hosts.extend(libvirt::read(&args.libvirt.connect, args.libvirt.interval)?);
    }
    let json = snapshot(hosts)?.to_json()?;
    crate::output::say!("{json}")
}

/// The whole cluster, as the agent at this socket knows it.
pub(crate) fn of_cluster(socket: &Path) -> Result<Snapshot, Failure> {
    snapshot(agents::read_cluster(socket)?)
}

/// A host that was read, with its machines.
type Host = (SnapshotHost, Vec<SnapshotMachine>);

fn snapshot(read: Vec<Host>) -> Result<Snapshot, Failure> {
    let (mut hosts, mut vms) = (Vec::new(), Vec::<SnapshotMachine>::new());
    for (host, machines) in read {
        for machine in machines {
            if let Some(other) = vms.iter().find(|vm| vm.id == machine.id) {
                return Err(format!(
                    "machine `{}` runs on `{}` and on `{}`\nhint: is the same host given twice, \
                     or is the machine just being migrated?",
                    machine.name, other.host, machine.host
                )
                .into());
            }
            vms.push(machine);
        }
        hosts.push(host);
    }
    let taken_at = Some(jiff::Timestamp::now().to_string());
    let snapshot = Snapshot { format: FORMAT.to_owned(), taken_at, hosts, vms };
    snapshot.check()?;
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_uri_with_or_without_a_name() {
        let cases = [
            ("qemu:///system", None, "qemu:///system"),
            ("kvm1=qemu+ssh://kvm1/system", Some("kvm1"), "qemu+ssh://kvm1/system"),
            ("qemu+unix:///session?socket=/s", None, "qemu+unix:///session?socket=/s"),
            ("a=qemu+unix:///session?socket=/s", Some("a"), "qemu+unix:///session?socket=/s"),
        ];
        for (text, name, uri) in cases {
            let source: Source = text.parse().expect(text);
            assert_eq!(
                (source.name.as_ref().map(HostId::as_str), source.uri.as_str()),
                (name, uri)
            );
        }
        for wrong in ["kvm1", "a b=qemu:///system", ""] {
            assert!(wrong.parse::<Source>().is_err(), "{wrong}");
        }
    }
}

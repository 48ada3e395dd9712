//! Hosts without an agent: two samples over read-only connections, all hosts at the same time.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use evenkeel_core::load::{Machine, Metering, View};
use evenkeel_core::model::{HostId, HostProfile, HostState, IdError, Resources, Time};
use evenkeel_core::port::{Event, HostSample, ORDER_TIME_MAX, Order};
use evenkeel_core::printable::{Printable, printable};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor};
use evenkeel_sim::snapshot::{SnapshotHost, SnapshotMachine};

use super::{Host, Source};
use crate::output::Failure;

/// Longest wait for a sample: an order is answered within its own limit, and connecting comes first.
const SAMPLE_TIME_MAX: Duration = Duration::from_secs(ORDER_TIME_MAX.as_secs() + 15);

/// A connection to one host.
struct Link {
    id: HostId,
    uri: String,
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
}

/// Reads every host twice, `interval` apart.
pub(super) fn read(sources: &[Source], interval: Duration) -> Result<Vec<Host>, Failure> {
    let mut links = Vec::with_capacity(sources.len());
    for (id, source) in names(sources)?.into_iter().zip(sources) {
        links.push(Link::open(id, &source.uri)?);
    }
    crate::output::tell!(
        "reading {} over libvirt, read-only, for {:.1} s …",
        if links.len() == 1 { "1 host".to_owned() } else { format!("{} hosts", links.len()) },
        interval.as_secs_f64()
    );
    let first = sample_all(&mut links)?;
    std::thread::sleep(interval);
    let second = sample_all(&mut links)?;
    let hosts = links.iter().zip(first.into_iter().zip(second));
    Ok(hosts.map(|(link, (first, second))| describe(&link.id, first, second)).collect())
}

/// The names given, or the hosts in the URIs; of those alike all but the first get a number.
fn names(sources: &[Source]) -> Result<Vec<HostId>, Failure> {
    let mut counts: BTreeMap<HostId, u32> = BTreeMap::new();
    let mut names = Vec::with_capacity(sources.len());
    for source in sources {
        let base = source.name.clone().map_or_else(|| host_of(&source.uri), Ok)?;
        let count = counts.entry(base.clone()).or_default();
        *count += 1;
        names.push(match *count {
            1 => base,
            n => HostId::new(&format!("{base}-{n}")).map_err(|why| unnamed(&source.uri, &why))?,
        });
    }
    Ok(names)
}

fn unnamed(uri: &str, why: &IdError) -> Failure {
    format!("`{uri}` gives no name for its host: {why}\nhint: name it yourself: -c NAME={uri}")
        .into()
}

/// The host that a URI names; this one if it names none.
fn host_of(uri: &str) -> Result<HostId, Failure> {
    let authority = uri.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // An address of IPv6 has colons itself, and stands in brackets.
    let host =
        if host.starts_with('[') { host } else { host.split(':').next().unwrap_or_default() };
    let unnamed = |why: IdError| unnamed(uri, &why);
    if !host.is_empty() {
        return HostId::new(host).map_err(unnamed);
    }
    let here = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let here = if here.trim().is_empty() { "localhost" } else { here.trim() };
    HostId::new(here).map_err(unnamed)
}

impl Link {
    fn open(id: HostId, uri: &str) -> Result<Self, Failure> {
        let config = LibvirtConfig { read_only: true, ..LibvirtConfig::new(uri, uri) };
        let (sink, events) = mpsc::channel();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (start, began) = (Time::from_unix_ms(0) + wall, Instant::now());
        let clock = move || start + began.elapsed();
        let hypervisor = LibvirtHypervisor::new(config, move |e| drop(sink.send(e)), clock)
            .map_err(|e| format!("no threads for the connection to `{uri}`: {e}"))?;
        Ok(Self { id, uri: uri.to_owned(), hypervisor, events })
    }

    fn await_sample(&self) -> Result<HostSample, Failure> {
        let end = Instant::now() + SAMPLE_TIME_MAX;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let why = match self.events.recv_timeout(left) {
                Ok(Event::Sampled(Ok(sample))) => return Ok(sample),
                Ok(Event::Sampled(Err(failure))) => failure.detail,
                Ok(Event::Disconnected(reason)) => reason,
                Ok(_) => continue,
                Err(_) => format!("no answer within {} s", SAMPLE_TIME_MAX.as_secs()),
            };
            return Err(format!(
                "host `{}` at `{}` could not be read: {why}\nhint: does `virsh -r -c {} list` work?",
                self.id, self.uri, self.uri
            )
            .into());
        }
    }
}

fn sample_all(links: &mut [Link]) -> Result<Vec<HostSample>, Failure> {
    for link in &mut *links {
        link.hypervisor.submit(Order::Sample);
    }
    links.iter().map(Link::await_sample).collect()
}

/// What two samples say of a host and of its machines that run.
fn describe(id: &HostId, first: HostSample, second: HostSample) -> Host {
    let capacity = second.facts.capacity;
    let profile = HostProfile::new(id.clone(), capacity);
    let mut view = View::new(Metering::plain());
    view.observe(first, &profile);
    view.observe(second, &profile);
    let host = SnapshotHost {
        id: id.clone(),
        capacity,
        cpu_speed: 1.0,
        weights: profile.weights,
        reserved_memory_bytes: 0.0,
        state: HostState::Active,
        labels: BTreeMap::new(),
        background: None,
    };
    let running = view.machines().values().filter(|m| m.presence.is_resident());
    let machines: Vec<_> = running.map(|m| machine(id, m)).collect();
    crate::output::tell!("host {id}: {} machines run", machines.len());
    (host, machines)
}

fn machine(host: &HostId, machine: &Machine) -> SnapshotMachine {
    let facts = &machine.facts;
    // What is not known is taken to use its memory, and to stay.
    let (usage, known) = match machine.measured() {
        Ok(usage) => (usage, true),
        Err(why) => {
            crate::output::tell!(
                "machine `{}` on `{host}` stays where it is: {}",
                Printable(&facts.name),
                printable(&why.to_string())
            );
            (Resources { memory_bytes: facts.memory_bytes, ..Resources::ZERO }, false)
        }
    };
    let entry = machine.entry();
    if let Err(why) = &facts.entry {
        crate::output::tell!(
            "machine `{}` on `{host}` stays: its entry is {}",
            Printable(&facts.name),
            Printable(why)
        );
    }
    SnapshotMachine {
        id: facts.id.clone(),
        name: facts.name.to_string(),
        host: host.clone(),
        vcpus: facts.vcpus,
        memory_bytes: facts.memory_bytes,
        usage,
        target_load: entry.and_then(|entry| entry.target_load),
        dirty_bytes_per_s: 0.0,
        movable: known && entry.is_some() && !facts.needs.local_storage,
        rules: entry.map(|entry| entry.rules.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_as_their_uris_name_them_and_never_alike() {
        let sources = [
            "qemu+ssh://root@kvm1.example.org:22/system?keyfile=/k",
            "qemu+tls://kvm2/system",
            "a=qemu:///system",
            "a=qemu:///session",
        ];
        let sources: Vec<Source> = sources.map(|s| s.parse().expect(s)).to_vec();
        let names = names(&sources).expect("names");
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["kvm1.example.org", "kvm2", "a", "a-2"]);
    }

    #[test]
    fn a_host_whose_name_is_no_id_is_refused_with_words_and_not_called_like_this_one() {
        let long = "compute-0042.rack17.room3.frankfurt-2.prod.internal.example-company.example";
        for (host, says) in [(long, "longer than 63"), ("[2001:db8::7]", "holds `[`")] {
            let source: Source = format!("qemu+ssh://root@{host}/system").parse().expect(host);
            let error = names(&[source]).expect_err(host).to_string();
            assert!(error.contains(says) && error.contains("-c NAME=qemu+ssh://"), "{error}");
        }
        let long: Source = format!("{}=qemu:///system", "h".repeat(63)).parse().expect("a name");
        let alike = [long.clone(), long];
        assert!(names(&alike).expect_err("no room for a number").to_string().contains("NAME="));
    }
}

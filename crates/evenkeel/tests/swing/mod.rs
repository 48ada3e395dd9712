//! Hosts between which guests swing to and fro, while processes and links are taken away.
//!
//! Every host has an *anchor*, a guest that stays and whose target load is programmed: the host with
//! the heavy anchor gives its other guests away.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "every test file uses its own part of this, and a test that fails panics"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use evenkeel_agent::Status;
use evenkeel_agent::status::HandoffStatus;
use evenkeel_core::decision::Role;
use evenkeel_core::handoff::Phase;
use evenkeel_core::select::Calm;
use evenkeel_lab::{Dirty, GuestSpec};
use rustix::process::{Pid, Signal};

use crate::chaos::links::{self, Link};
use crate::chaos::wire::Wire;
use crate::chaos::{self, Events};
use crate::daemon::{Daemon, EVENKEEL, Place, Site, free_address};
use crate::support::{Cluster, LIMIT, alike, balance, idle};

const NAMESPACE: &str = "https://evenkeel.dev/schedule/1";
/// Target loads of an anchor that drives guests away, and of one that does not.
const HEAVY: f64 = 4.0;
const LIGHT: f64 = 0.0;
/// Target load of a guest that swings.
const SWINGER: f64 = 0.2;

/// What a process is to a machine on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Agent,
    Libvirt,
    Qemu,
}

/// What happens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is killed, and started again once its end was noticed.
    Kill,
    /// It is stopped, and goes on later.
    Stop,
}

/// How long a process that is stopped stands still.
const STOPPED_FOR: Duration = Duration::from_secs(2);

pub struct Swing {
    pub daemons: BTreeMap<String, Option<Daemon>>,
    pub events: BTreeMap<String, Events>,
    pub cluster: Cluster,
    pub places: BTreeMap<String, Place>,
    pub links: Links,
    pub guests: Vec<String>,
    _site: Site,
}

/// What is between the agents.
#[derive(Clone, Copy)]
enum Between<'a> {
    Nothing,
    /// Nothing, and agents of an earlier version carry machines.
    Earlier,
    /// Links that can be cut.
    Links,
    /// A cable; then all that goes from host to host goes through the agents.
    Wire(&'a Wire),
}

/// The links between the hosts.
#[derive(Clone, Default)]
pub struct Links {
    /// From agent to agent.
    pub agents: Link,
    /// From libvirt to libvirt; where agents carry machines, from the target's agent to its libvirt.
    pub libvirts: Link,
    /// From QEMU to QEMU; where agents carry machines, everything that they carry.
    pub memory: Link,
}

impl Links {
    /// Has a host reached by the others through these links, and reach them so.
    fn run_through(&self, place: &mut Place, cluster: &Cluster, host: &str) {
        let advertised = free_address();
        links::udp(advertised, place.listen, &self.agents);
        place.advertise = Some(advertised);
        let dir = cluster.lab().dir().join(host);
        let proxy = dir.join("proxy.sock");
        links::unix(&proxy, dir.join("run/libvirt/libvirt-sock"), &self.libvirts);
        if place.lab.is_some() {
            // Everything that agents carry comes by the TCP port with the number of the UDP port.
            links::tcp(place.address(), place.listen, &self.memory);
            place.libvirt_socket = Some(proxy);
            return;
        }
        place.reached = Some(format!("qemu+unix:///session?socket={}", proxy.display()));
        // Two addresses of this machine: QEMU listens at the one, and is sent to at the other.
        let port = free_address().port();
        let (near, far) = (([127, 0, 0, 2], port).into(), ([127, 0, 0, 1], port).into());
        links::tcp(near, far, &self.memory);
        place.migrate_address = format!("tcp://127.0.0.2:{port}");
    }
}

/// A guest that swings, of so much memory in MiB.
pub fn swinger(name: &str, host: &str, memory_mib: u32) -> GuestSpec {
    GuestSpec {
        memory_mib: memory_mib + 8,
        dirty: Dirty { mib: memory_mib, mib_per_s: 4 },
        ..GuestSpec::new(name, host, 0)
    }
}

impl Swing {
    /// Brings up so many hosts, with these guests on the first, and starts their agents. `more` ends
    /// their configuration and begins within `[balance]`.
    pub fn up(hosts: usize, guests: Vec<GuestSpec>, more: &str) -> Self {
        Self::bring_up(hosts, guests, Some(more), Between::Links, Path::new(EVENKEEL))
    }

    /// The same with two hosts and a cable between them.
    pub fn on_wire(guests: Vec<GuestSpec>, more: &str, wire: &Wire) -> Self {
        let between = Between::Wire(wire);
        let swing = Self::bring_up(2, guests, Some(more), between, Path::new(EVENKEEL));
        assert!(swing.places["h1"].lab.is_some(), "machines do not go through the agents here");
        swing
    }

    /// The same with links that cannot be cut and agents that are another program.
    pub fn with_program(hosts: usize, guests: Vec<GuestSpec>, more: &str, program: &Path) -> Self {
        Self::bring_up(hosts, guests, Some(more), Between::Nothing, program)
    }

    /// The same with two hosts and links that cannot be cut; without agents if there is nothing for
    /// their configuration to end with.
    pub fn direct(guests: Vec<GuestSpec>, more: Option<&str>) -> Self {
        Self::bring_up(2, guests, more, Between::Nothing, Path::new(EVENKEEL))
    }

    /// The same with agents of an earlier version that carry machines, too.
    pub fn direct_before(guests: Vec<GuestSpec>, more: &str, program: &Path) -> Self {
        Self::bring_up(2, guests, Some(more), Between::Earlier, program)
    }

    fn bring_up(
        hosts: usize,
        guests: Vec<GuestSpec>,
        more: Option<&str>,
        between: Between<'_>,
        program: &Path,
    ) -> Self {
        let names: Vec<String> = guests.iter().map(|guest| guest.name.clone()).collect();
        let anchors = (1..=hosts).map(|n| idle(&format!("anchor{n}"), &format!("h{n}")));
        let all = guests.into_iter().chain(anchors).collect();
        let cluster = Cluster::try_up(alike(hosts, 2.0), all, None);
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let site = Site::new();
        let links = Links::default();
        let calm = Calm { dead_band: 0.1, difference_min: 0.02, gain_min: 0.05 };
        let tables = balance(Duration::from_millis(400), &calm)
            .replace("cool_down = '2s'", "cool_down = '0s'")
            .replace("reply_time_max = '20s'", "reply_time_max = '3s'")
            .replace("stale_after = '30s'", "stale_after = '10s'\nreservation_time = '2s'");
        let places = cluster.hosts().iter().enumerate().map(|(index, host)| {
            let mut place = site.host(host);
            place.program = program.to_owned();
            place.earlier = program != Path::new(EVENKEEL);
            if !place.earlier || matches!(between, Between::Earlier) {
                place.put_on(cluster.lab(), host);
            } else {
                // It carries nothing either.
                place.put_apart_on(cluster.lab(), host);
            }
            match between {
                Between::Nothing | Between::Earlier => {}
                Between::Links => links.run_through(&mut place, &cluster, host),
                Between::Wire(wire) => {
                    place.namespace = Some(wire.namespace(index).to_owned());
                    place.listen = wire.address(index);
                }
            }
            place.tables = format!("{tables}{}", more.unwrap_or_default());
            (host.clone(), place)
        });
        let mut places: BTreeMap<String, Place> = places.collect();
        let reached = |place: &Place| place.reached.clone().unwrap_or(place.libvirt.clone());
        let peers: Vec<_> =
            places.iter().map(|(host, place)| (host.clone(), reached(place))).collect();
        places.values_mut().for_each(|place| place.peers.clone_from(&peers));
        let events = cluster.hosts().iter().map(|h| (h.clone(), Events::of(cluster.lab(), h)));
        let events = events.collect();
        let daemons = cluster.hosts().iter().map(|host| (host.clone(), None)).collect();
        let mut swing =
            Self { daemons, events, cluster, places, links, guests: names, _site: site };
        for guest in swing.guests.clone() {
            swing.edit("h1", &guest, &format!("<entry target-load='{SWINGER}'/>"));
        }
        for host in swing.hosts() {
            let anchor = format!("anchor{}", &host[1..]);
            swing.edit(&host, &anchor, "<entry ignore='yes' target-load='0'/>");
        }
        if more.is_none() {
            return swing;
        }
        for host in swing.hosts() {
            swing.start(&host);
        }
        for host in swing.hosts() {
            swing.cluster.until(LIMIT, "a load", |cluster| cluster.status(&host)?.load);
        }
        swing
    }

    pub fn hosts(&self) -> Vec<String> {
        self.cluster.hosts().to_vec()
    }

    fn edit(&self, host: &str, guest: &str, entry: &str) {
        let edit = ["metadata", guest, NAMESPACE, "--key", "evenkeel", "--live", "--config"];
        let edited = self.cluster.virsh(host, &[&edit[..], &["--set", entry]].concat());
        edited.unwrap_or_else(|error| panic!("{guest}: {error}"));
    }

    /// Starts the agent of a host, if it does not run.
    pub fn start(&mut self, host: &str) {
        if self.daemons[host].is_none() {
            let seeds: Vec<_> = self.places.values().map(Place::address).collect();
            let daemon = self.places[host].start(&seeds);
            self.daemons.insert(host.to_owned(), Some(daemon));
        }
    }

    pub fn daemon(&self, host: &str) -> &Daemon {
        self.daemons[host].as_ref().expect("it was started")
    }

    /// Makes the anchors of these hosts heavy, and the others light.
    pub fn tip(&self, heavy: &[&str]) {
        let hosts = self.hosts();
        let (down, up): (Vec<_>, Vec<_>) =
            hosts.iter().partition(|host| !heavy.contains(&host.as_str()));
        for (hosts, load) in [(down, LIGHT), (up, HEAVY)] {
            for host in hosts {
                let anchor = format!("anchor{}", &host[1..]);
                self.cluster.until(LIMIT, &format!("{anchor} at {load}"), |cluster| {
                    let machine = cluster.machine_on(host, &anchor)?;
                    if machine.target_load == Some(load) {
                        return Some(());
                    }
                    let client = cluster.client(host);
                    cluster.block_on(client.set_target(&machine.id, Some(load))).ok()
                });
            }
        }
    }

    /// Stops the agent of a host as a service manager does: what is under way is finished.
    pub fn stop(&mut self, host: &str) {
        let daemon = self.daemons.insert(host.to_owned(), None).flatten();
        let ended = daemon.expect("it was started").stop();
        assert_eq!(ended, Some(0), "the agent of {host}");
    }

    /// The process of a host that is meant, if it runs.
    pub fn pid(&self, host: &str, process: Process, guest: &str) -> Option<Pid> {
        let lab = self.cluster.lab();
        match process {
            Process::Agent => self.daemons[host].as_ref().map(Daemon::pid),
            Process::Libvirt => chaos::libvirtd(lab, host),
            Process::Qemu => chaos::qemu(lab, host, guest),
        }
    }

    /// Lets a fault befall a process. False if there is none, or it has gone.
    pub fn strike(&mut self, host: &str, process: Process, guest: &str, fault: Fault) -> bool {
        let Some(pid) = self.pid(host, process, guest) else { return false };
        match (process, fault) {
            (Process::Agent, Fault::Kill) => self.daemons.insert(host.to_owned(), None).is_some(),
            (_, Fault::Kill) => chaos::signal(pid, Signal::KILL),
            (_, Fault::Stop) => chaos::signal(pid, Signal::STOP),
        }
    }

    /// Undoes what [`Self::strike`] did to a process, after the time that it is to last.
    pub fn heal(&mut self, host: &str, process: Process, pid: Option<Pid>, fault: Fault) {
        match (process, fault) {
            (_, Fault::Stop) => {
                thread::sleep(STOPPED_FOR);
                if let Some(pid) = pid {
                    chaos::signal(pid, Signal::CONT);
                }
            }
            (Process::Agent, Fault::Kill) => self.start(host),
            (Process::Libvirt, Fault::Kill) => {
                chaos::revive_libvirt(self.cluster.lab(), host);
                self.events.insert(host.to_owned(), Events::of(self.cluster.lab(), host));
            }
            (Process::Qemu, Fault::Kill) => {}
        }
    }

    /// Cuts a host's power, and gives it back: agent, libvirt and QEMUs are killed, what a boot
    /// clears is gone, and libvirt and the agent are started in another boot.
    pub fn power_cycle(&mut self, host: &str) {
        self.daemons.insert(host.to_owned(), None);
        let lab = self.cluster.lab();
        lab.kill_host(host).expect("it can be killed");
        let runtime = lab.dir().join(host).join("run/libvirt/qemu/run");
        std::fs::remove_dir_all(&runtime).expect("libvirt has run here");
        let place = self.places.get_mut(host).expect("a host");
        let boot_id = place.dir.join("boot-id");
        let number = std::fs::read_to_string(&boot_id).map_or(1, |id| id.len());
        std::fs::write(&boot_id, "b".repeat(number + 1)).expect("written");
        place.boot_id = Some(boot_id);
        lab.start_host(host).expect("libvirt starts");
        self.events.insert(host.to_owned(), Events::of(self.cluster.lab(), host));
        self.start(host);
    }

    /// How a guest is on a host: libvirt's word, or `absent`.
    pub fn state(&self, host: &str, guest: &str) -> String {
        let state = self.cluster.virsh(host, &["domstate", guest]);
        state.map_or_else(|_| "absent".to_owned(), |state| state.trim().to_owned())
    }

    /// The one host on which a guest runs while no other has as much as its definition.
    pub fn home(&self, guest: &str) -> Option<String> {
        let states = self.hosts().into_iter().map(|host| (self.state(&host, guest), host));
        let mut there = states.filter(|(state, _)| state != "absent");
        let (state, host) = there.next()?;
        (state == "running" && there.next().is_none()).then_some(host)
    }

    /// Decides, as an operator, what nothing but a person can settle after a power cut: a source that
    /// cannot tell whether its machine ran on there keeps it.
    fn keep_what_is_unproved(&self, statuses: &[Status]) {
        for status in statuses {
            let unproved = |h: &&HandoffStatus| {
                h.role == Role::Source
                    && h.phase == Phase::Doubt
                    && h.waits_for.starts_with("an operator")
            };
            for handoff in status.handoffs.iter().filter(unproved) {
                let socket = self.cluster.lab().agent_socket(status.host.as_str());
                let mut claim = Command::new(EVENKEEL);
                claim.args(["claim", &handoff.name, "--i-have-fenced", handoff.peer.as_str()]);
                // Settled meanwhile, it is refused, which is as good.
                let said = claim.arg("--socket").arg(socket).output().expect("it starts");
                eprintln!("{} is kept on {}: {said:?}", handoff.name, status.host);
            }
        }
    }

    /// Waits until nothing is under way and every guest runs on one host, without a trace of it on
    /// any other, and decides as an operator where somebody has to. Returns how long that took.
    pub fn settle_with_an_operator(&self, what: &str, limit: Duration) -> Duration {
        self.settle_by(what, limit, |statuses| self.keep_what_is_unproved(statuses))
    }

    /// The same without a person.
    pub fn settle(&self, what: &str, limit: Duration) -> Duration {
        self.settle_by(what, limit, |_| {})
    }

    fn settle_by(&self, what: &str, limit: Duration, decide: impl Fn(&[Status])) -> Duration {
        let began = Instant::now();
        // What was agreed on before may only be beginning, so that once is not enough.
        let mut seen = 0;
        self.cluster.until(limit, &format!("everything at rest after {what}"), |cluster| {
            let statuses = cluster.statuses();
            decide(&statuses);
            let all = statuses.len() == self.places.len();
            let idle = |s: &Status| s.handoffs.is_empty() && s.talking_to.is_none();
            let at_rest = all && statuses.iter().all(idle);
            let at_home = at_rest && self.guests.iter().all(|guest| self.home(guest).is_some());
            seen = if at_home { seen + 1 } else { 0 };
            (seen == 2).then_some(())
        });
        began.elapsed()
    }

    /// The hosts that start a guest when they boot.
    pub fn autostarted_on(&self, guest: &str) -> Vec<String> {
        let list = ["list", "--all", "--name", "--autostart"];
        let has = |host: &String| {
            let names = self.cluster.virsh(host, &list).expect("libvirt answers");
            names.split_whitespace().any(|name| name == guest)
        };
        self.hosts().into_iter().filter(has).collect()
    }

    /// Asserts that the guests, the anchors too, lived through everything.
    pub fn assert_unharmed(&self) {
        let anchors = (1..=self.places.len()).map(|n| format!("anchor{n}"));
        let all: Vec<String> = self.guests.iter().cloned().chain(anchors).collect();
        self.cluster.assert_unharmed(&all.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

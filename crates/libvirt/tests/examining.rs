//! What libvirt says of a machine before it comes, on a real daemon.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{DiskPlace, LocalDisk, MachineId, Network, Requirements};
use evenkeel_core::port::{
    Event, Examination, HandoffId, HostSample, ORDER_TIME_MAX, Order, Unfit,
};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::GuestSpec;
use evenkeel_libvirt::LibvirtHypervisor;
use support::{clock, config, lab, virsh};

struct Asked {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
    count: u64,
    machine: &'static str,
}

impl Asked {
    fn new(lab: &evenkeel_lab::Lab, host: &str) -> Self {
        let (sink, events) = mpsc::channel();
        let sink = move |event| drop(sink.send(event));
        let hypervisor = LibvirtHypervisor::new(config(lab, host), sink, clock());
        let hypervisor = hypervisor.expect("there are threads");
        Self { hypervisor, events, count: 0, machine: "web" }
    }

    fn sample(&mut self) -> HostSample {
        self.hypervisor.submit(Order::Sample);
        self.until(|event| match event {
            Event::Sampled(sampled) => Some(sampled.expect("it is measured")),
            _ => None,
        })
    }

    fn until<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(ORDER_TIME_MAX).expect("it is told in time");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn needs(&mut self, name: &str) -> Requirements {
        let machines = self.sample().machines;
        let found = machines.into_iter().find(|m| &*m.facts.name == name);
        found.expect("it is in the sample").facts.needs.clone()
    }

    fn examine(&mut self, needs: Requirements) -> Result<Vec<DiskPlace>, Unfit> {
        self.count += 1;
        let handoff = HandoffId(self.count);
        let machine = MachineId::new(self.machine).expect("an id");
        self.hypervisor.submit(Order::Examine(Examination { handoff, machine, name: None, needs }));
        self.until(|event| match event {
            Event::Examined(id, verdict) if id == handoff => Some(verdict),
            _ => None,
        })
    }

    fn refuses(&mut self, needs: Requirements, reason: Reason, words: &str) {
        match self.examine(needs) {
            Err(Unfit::Lacks(missing)) => {
                assert_eq!(missing.reason(), reason, "{missing}");
                assert!(missing.to_string().contains(words), "{missing}: {words}");
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[test]
fn a_machine_is_examined_by_libvirts_own_compare_and_by_what_is_there_now() {
    let lab = lab();
    lab.add_guest(&GuestSpec::new("web", "h1", 100)).expect("it starts");
    let mut h1 = Asked::new(&lab, "h1");
    let needs = h1.needs("web");
    // Also before anything else is known of the host.
    let mut h2 = Asked::new(&lab, "h2");
    assert_eq!(h2.examine(needs.clone()), Ok(Vec::new()), "{needs:?}");

    // The CPU that it runs with, and one with a feature that no QEMU emulates.
    let cpu = needs.cpu_definition.clone().expect("libvirt spells it out");
    assert!(cpu.contains("check='full'") && cpu.contains("<feature"), "{cpu}");
    let more = "<feature policy='require' name='amx-tile'/></cpu>";
    let amx = Some(cpu.replace("</cpu>", more).into());
    let amx = Requirements { cpu_definition: amx, ..needs.clone() };
    h2.refuses(amx, Reason::NoCpuFeature, "amx-tile");
    let nonsense = Requirements { cpu_definition: Some("<cpu".into()), ..needs.clone() };
    h2.refuses(nonsense, Reason::NoCpuFeature, "cannot be read");

    let old = Requirements { machine_type: Some("pc-i440fx-0.1".to_owned()), ..needs.clone() };
    h2.refuses(old, Reason::NoMachineType, "pc-i440fx-0.1");
    let bound = Requirements { numa_nodes: Some(vec![77]), ..needs.clone() };
    h2.refuses(bound, Reason::NoNumaNode, "NUMA node 77");

    // A network that one host has. It is looked for when it is asked, not when it was sampled last.
    let uri = |host| lab.uri(host).expect("the lab has this host");
    let lan = Some(vec![Network::Virtual("lan".to_owned())]);
    let lan = Requirements { networks: lan, ..needs.clone() };
    h2.refuses(lan.clone(), Reason::NoNetwork, "network `lan`");
    let file = lab.dir().join("lan.xml");
    let network =
        "<network><name>lan</name><forward mode='bridge'/><bridge name='br-lan'/></network>";
    std::fs::write(&file, network).expect("written");
    virsh(&uri("h2"), &["net-create", file.to_str().expect("text")]);
    assert_eq!(h2.examine(lan.clone()), Ok(Vec::new()));
    let here = Requirements { host_uuid: None, ..lan };
    h1.refuses(here, Reason::NoNetwork, "network `lan`");
    h1.refuses(needs.clone(), Reason::SameHostUuid, "for one");
    let bridge = Some(vec![Network::Interface("br-none".to_owned())]);
    h2.refuses(
        Requirements { networks: bridge, ..needs.clone() },
        Reason::NoNetwork,
        "interface `br-none`",
    );

    copies_of_disks_need_a_pool_with_room(&mut h2, &uri("h2"), lab.dir(), &needs);
}

fn copies_of_disks_need_a_pool_with_room(
    host: &mut Asked,
    uri: &str,
    dir: &Path,
    needs: &Requirements,
) {
    let local = |bytes, path: &str| {
        let disk = LocalDisk {
            name: "vda".to_owned(),
            path: path.to_owned(),
            pool: "disks".to_owned(),
            bytes,
            ..LocalDisk::default()
        };
        Requirements { local_storage: true, local_disks: Some(vec![disk]), ..needs.clone() }
    };
    host.refuses(local(1, "/x/web.raw"), Reason::NoDiskRoom, "storage pool `disks`");
    let place = dir.join("disks");
    std::fs::create_dir(&place).expect("a directory");
    std::fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).expect("changed");
    let target = place.to_str().expect("text");
    virsh(uri, &["pool-create-as", "disks", "dir", "--target", target]);
    let there = place.join("web.raw").display().to_string();
    let places = host.examine(local(1, "/x/web.raw"));
    assert_eq!(places, Ok(vec![DiskPlace { name: "vda".to_owned(), path: there }]));
    host.refuses(local(u64::MAX, "/x/web.raw"), Reason::NoDiskRoom, "MiB free");
    host.refuses(local(1, "/x/.."), Reason::NoDiskRoom, "no place");
    // Each disk would have room, and both together would not; nor what is promised to another machine.
    let free =
        std::process::Command::new("df").args(["--output=avail", "-B1"]).arg(&place).output();
    let free = String::from_utf8(free.expect("df can be run").stdout).expect("text");
    let free: u64 = free.lines().last().expect("a figure").trim().parse().expect("a number");
    let two = |bytes| {
        let mut needs = local(bytes, "/x/a.raw");
        let mut second = needs.local_disks.clone().expect("one").remove(0);
        (second.name, second.path) = ("vdb".to_owned(), "/x/b.raw".to_owned());
        needs.local_disks.as_mut().expect("one").push(second);
        needs
    };
    assert!(host.examine(local(free / 10 * 6, "/x/a.raw")).is_ok(), "one has room");
    host.refuses(two(free / 10 * 6), Reason::NoDiskRoom, "beside its other disks");
    assert!(host.examine(two(free / 10 * 3)).is_ok());
    host.machine = "another";
    host.refuses(local(free / 10 * 6, "/x/c.raw"), Reason::NoDiskRoom, "nobody was promised");
    host.machine = "web";
    std::fs::write(place.join("web.raw"), "somebody's").expect("written");
    host.refuses(local(1, "/x/web.raw"), Reason::NoDiskRoom, "exists");
}

#[test]
#[ignore = "the supervisor of the labs of these tests, not a test"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

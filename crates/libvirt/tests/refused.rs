//! What libvirt would refuse for certain is named before, and what it would not is let go: on real daemons,
//! with machines as people have reported them.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{DiskPlace, MachineFacts, MachineId};
use evenkeel_core::port::{Event, Examination, HandoffId, ORDER_TIME_MAX, Order, Unfit};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::{GuestSpec, Lab};
use evenkeel_libvirt::{LibvirtConfig, LibvirtHypervisor};
use support::{clock, config, lab, virsh};

struct Host {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
    uri: String,
    asked: u64,
}

impl Host {
    fn new(lab: &Lab, name: &str, change: impl FnOnce(&mut LibvirtConfig)) -> Self {
        let mut config = config(lab, name);
        change(&mut config);
        let (uri, (sink, events)) = (config.uri.clone(), mpsc::channel());
        let sink = move |event| drop(sink.send(event));
        let hypervisor = LibvirtHypervisor::new(config, sink, clock()).expect("there are threads");
        Self { hypervisor, events, uri, asked: 0 }
    }

    fn until<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(ORDER_TIME_MAX * 2).expect("it is told in time");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    /// What is known of a machine by the next sample.
    fn facts(&mut self, name: &str) -> MachineFacts {
        self.hypervisor.submit(Order::Sample);
        self.until(|event| match event {
            Event::Sampled(sampled) => {
                let machines = sampled.expect("it is measured").machines;
                let found = machines.into_iter().find(|m| &*m.facts.name == name);
                Some((*found.expect("it is in the sample").facts).clone())
            }
            _ => None,
        })
    }

    /// Samples until the description of a machine is as wanted, which some event brings about.
    fn facts_until(&mut self, name: &str, wanted: impl Fn(&MachineFacts) -> bool) {
        let end = std::time::Instant::now() + ORDER_TIME_MAX;
        while !wanted(&self.facts(name)) {
            assert!(std::time::Instant::now() < end, "{:?}", self.facts(name));
        }
    }

    fn examine(&mut self, facts: &MachineFacts) -> Result<Vec<DiskPlace>, Unfit> {
        self.asked += 1;
        let handoff = HandoffId(self.asked);
        let (machine, name) = (facts.id.clone(), Some(facts.name.to_string()));
        let needs = facts.needs.clone();
        let order = Order::Examine(Examination { handoff, machine, name, needs });
        self.hypervisor.submit(order);
        self.until(|event| match event {
            Event::Examined(id, verdict) if id == handoff => Some(verdict),
            _ => None,
        })
    }

    fn refuses(&mut self, facts: &MachineFacts, reason: Reason, words: &str) {
        match self.examine(facts) {
            Err(Unfit::Lacks(missing)) => {
                assert_eq!(missing.reason(), reason, "{missing}");
                assert!(missing.to_string().contains(words), "{missing}: {words}");
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

/// Why a machine stays, if it does.
fn kept(facts: &MachineFacts) -> Option<Reason> {
    facts.needs.movable(true).err().map(|missing| missing.reason())
}

/// Starts a machine like the guest `web` of the lab, under another name, with something else in it.
fn like_web(lab: &Lab, uri: &str, name: &str, change: &dyn Fn(&str) -> String) {
    let xml = virsh(uri, &["dumpxml", "--inactive", "web"]);
    let uuid = virsh(uri, &["domuuid", "web"]);
    let own = format!(
        "{}{:06}",
        &uuid[..30],
        name.len() * 1000 + name.bytes().map(usize::from).sum::<usize>()
    );
    let xml = xml.replace("<name>web</name>", &format!("<name>{name}</name>")).replace(&uuid, &own);
    // Its console is a file of `web`'s.
    let xml = xml.replace("web.", &format!("{name}."));
    let file = lab.dir().join(format!("{name}.xml"));
    std::fs::write(&file, change(&xml)).expect("written");
    virsh(uri, &["define", file.to_str().expect("text")]);
    virsh(uri, &["start", name]);
}

fn image(path: &Path) {
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg("8M").status();
    assert!(made.expect("qemu-img can be run").success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, open).expect("changed");
}

fn into_devices(more: &str) -> impl Fn(&str) -> String + use<> {
    let more = format!("{more}</devices>");
    move |xml| xml.replace("</devices>", &more)
}

#[test]
fn a_host_model_moves_where_libvirts_own_compare_finds_nothing_missing() {
    let lab = lab();
    lab.add_guest(&GuestSpec::new("web", "h1", 100)).expect("it starts");
    let (mut h1, mut h2) = (Host::new(&lab, "h1", |_| {}), Host::new(&lab, "h2", |_| {}));
    let uri = h1.uri.clone();
    like_web(&lab, &uri, "model", &|xml| {
        let (before, rest) = xml.split_once("<cpu").expect("it has a CPU");
        let rest = rest
            .split_once("</cpu>")
            .map_or_else(|| rest.split_once("/>").expect("it ends").1, |(_, rest)| rest);
        format!("{before}<cpu mode='host-model'/>{rest}")
    });
    let facts = h1.facts("model");
    assert!(facts.needs.cpu_digest.is_some(), "libvirt spells it out: {:?}", facts.needs.cpu);
    assert_eq!(h2.examine(&facts), Ok(Vec::new()));
}

#[test]
fn what_libvirt_keeps_of_a_machine_keeps_it() {
    let lab = lab();
    lab.add_guest(&GuestSpec::new("web", "h1", 100)).expect("it starts");
    let mut gives_up = Host::new(&lab, "h1", |config| config.lose_checkpoints = true);
    let uri = gives_up.uri.clone();
    let disk = lab.dir().join("snap.qcow2");
    image(&disk);
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
         <target dev='vdz' bus='virtio'/></disk>",
        disk.display()
    );
    like_web(&lab, &uri, "snap", &into_devices(&disk));
    assert_eq!(kept(&Host::new(&lab, "h1", |_| {}).facts("web")), None);
    virsh(&uri, &["checkpoint-create-as", "snap", "cp1"]);
    // Of checkpoints and snapshots libvirt tells nothing; whoever looks for the first time sees them.
    let mut h1 = Host::new(&lab, "h1", |_| {});
    for (host, expected) in [(&mut h1, Some(Reason::Checkpoints)), (&mut gives_up, None)] {
        let facts = host.facts("snap");
        let by_libvirt =
            facts.needs.keeps.iter().map(evenkeel_core::model::Missing::reason).collect::<Vec<_>>();
        assert_eq!(by_libvirt.first().copied(), expected, "{:?}", facts.needs.keeps);
    }
    virsh(&uri, &["checkpoint-delete", "snap", "cp1"]);
    virsh(&uri, &["snapshot-create-as", "snap", "s1"]);
    let mut anew = Host::new(&lab, "h1", |_| {});
    assert_eq!(kept(&anew.facts("snap")), Some(Reason::Snapshots));
}

#[test]
fn what_another_host_has_not_is_named_before_memory_is_sent() {
    let lab = lab();
    lab.add_guest(&GuestSpec::new("web", "h1", 100)).expect("it starts");
    let (mut h1, mut h2) = (Host::new(&lab, "h1", |_| {}), Host::new(&lab, "h2", |_| {}));
    let (uri, there) = (h1.uri.clone(), h2.uri.clone());
    // A file that a machine is started from, and that is gone, as on a host that never had it.
    let ignition = lab.dir().join("node1.ign");
    std::fs::write(&ignition, "{}").expect("written");
    let entry = format!("<entry name='opt/com.coreos/config' file='{}'/>", ignition.display());
    like_web(&lab, &uri, "coreos", &|xml| {
        xml.replace("<os>", &format!("<sysinfo type='fwcfg'>{entry}</sysinfo><os>"))
    });
    let facts = h1.facts("coreos");
    assert_eq!(h2.examine(&facts), Ok(Vec::new()));
    std::fs::remove_file(&ignition).expect("it is there");
    h2.refuses(&facts, Reason::NoFile, "node1.ign");
    // A name that another machine has there.
    let web = h1.facts("web");
    assert_eq!(h2.examine(&web), Ok(Vec::new()));
    let xml = virsh(&uri, &["dumpxml", "--inactive", "web"]);
    let other = format!("{}00000f", &web.id.as_str()[..30]);
    let file = lab.dir().join("other.xml");
    std::fs::write(&file, xml.replace(web.id.as_str(), &other)).expect("written");
    virsh(&there, &["define", file.to_str().expect("text")]);
    h2.refuses(&web, Reason::NameTaken, &other);
    // Addresses and secrets that no other host has.
    let mut odd = facts.clone();
    odd.needs.files = None;
    odd.needs.addresses = Some(vec!["192.0.2.77".to_owned()]);
    h2.refuses(&odd, Reason::NoAddress, "192.0.2.77");
    odd.needs.addresses = None;
    let secret = "11111111-2222-4333-8444-5555555555ff";
    odd.needs.secrets = Some(vec![evenkeel_core::model::Secret::Uuid(secret.to_owned())]);
    h2.refuses(&odd, Reason::NoSecret, secret);
}

#[test]
fn an_ejected_medium_and_another_managers_word_are_seen_at_once() {
    let lab = lab();
    lab.add_guest(&GuestSpec::new("web", "h1", 100)).expect("it starts");
    let mut h1 = Host::new(&lab, "h1", |_| {});
    let mut allows = Host::new(&lab, "h1", |config| {
        config.move_managed.insert("nova".to_owned());
    });
    let uri = h1.uri.clone();
    let iso = lab.dir().join("seed.iso");
    std::fs::write(&iso, vec![0; 4096]).expect("written");
    let drive = format!(
        "<disk type='file' device='cdrom'><source file='{}'/><target dev='hdc' bus='ide'/>\
         <readonly/></disk>",
        iso.display()
    );
    like_web(&lab, &uri, "iso", &into_devices(&drive));
    assert_eq!(kept(&h1.facts("iso")), Some(Reason::LocalDisk));
    virsh(&uri, &["change-media", "iso", "hdc", "--eject", "--force"]);
    h1.facts_until("iso", |facts| kept(facts).is_none());
    let space = "http://openstack.org/xmlns/libvirt/nova/1.1";
    let instance = ["--uri", space, "--key", "nova", "--set", "<instance/>", "--live", "--config"];
    virsh(&uri, &[&["metadata", "web"], &instance[..]].concat());
    h1.facts_until("web", |facts| kept(facts) == Some(Reason::OtherManager));
    assert_eq!(kept(&allows.facts("web")), None, "its operator allows it");
    assert!(MachineId::new("web").is_ok());
}

#[test]
#[ignore = "the supervisor of the labs of these tests, not a test"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

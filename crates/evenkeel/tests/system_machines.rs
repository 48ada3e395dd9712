//! What ordinary machines have: each of it is moved through the agents between hosts as they are installed,
//! or refused with a reason and a remedy.

#![expect(clippy::print_stdout, reason = "the cases are what `--nocapture` shows")]

mod hosts;
mod skips;

use evenkeel_rig::Domain;
use hosts::{Hosts, is_whole};

const TABLES: &str = "admit = ['network-disks']\n[handoff]\ncopy_storage = true\n";
/// How many pages of 2 MiB there are for machines that want such.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// A machine.
#[derive(Clone, Copy, Default)]
struct Kind {
    name: &'static str,
    /// In its `os`.
    os: &'static str,
    /// Beside its devices.
    more: &'static str,
    devices: &'static str,
    /// What is done to it once it runs: arguments of `virsh`, `VM` for its name.
    then: &'static [&'static str],
    /// What its description says where it has arrived.
    keeps: &'static [&'static str],
    /// The reason code with which it is refused, and words of the remedy.
    refused: Option<(&'static str, &'static str)>,
}

const fn moves(name: &'static str, devices: &'static str, keeps: &'static [&'static str]) -> Kind {
    let (os, more, then, refused) = ("", "", &[] as &[&str], None);
    Kind { name, os, more, devices, then, keeps, refused }
}

const fn refused(
    name: &'static str,
    devices: &'static str,
    why: (&'static str, &'static str),
) -> Kind {
    Kind { refused: Some(why), ..moves(name, devices, &[]) }
}

const KINDS: &[Kind] = &[
    moves(
        "nothing but a balloon",
        "<memballoon model='virtio'><stats period='5'/></memballoon>",
        &["period='5'"],
    ),
    // libvirt takes the file system that hosts of the rig share for one host's own.
    refused(
        "shared disks on a file system that libvirt does not know as shared",
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/><source file='/srv/rig/images/a.raw'/><target dev='vda' bus='virtio'/><serial>disk-a</serial></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' discard='unmap' iothread='1'/><source file='/srv/rig/images/b.qcow2'/><target dev='vdb' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/srv/rig/images/c.qcow2'/><target dev='sda' bus='scsi'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw' cache='directsync'/><source file='/srv/rig/images/d.raw'/><target dev='sdb' bus='sata'/></disk>\
         <controller type='scsi' index='0' model='virtio-scsi'/>",
        ("UNSAFE_STORAGE", "images/"),
    ),
    refused(
        "such a disk with a backing file",
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/srv/rig/images/overlay.qcow2'/><target dev='vda' bus='virtio'/></disk>",
        ("UNSAFE_STORAGE", "images/"),
    ),
    moves(
        "a disk that is copied",
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/srv/local/copied.raw'/><target dev='vda' bus='virtio'/></disk>",
        &["/srv/local/copied.raw"],
    ),
    moves(
        "a CD, and a drive without one",
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/srv/rig/images/cd.iso'/><target dev='sda' bus='sata'/><readonly/></disk>\
         <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>",
        &["cd.iso", "sdb"],
    ),
    Kind {
        os: "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
             <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>",
        ..moves("UEFI with variables of its own", "", &["OVMF_CODE_4M.fd", "_VARS.fd"])
    },
    moves(
        "an interface on a bridge",
        "<interface type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='br0'/><model type='virtio'/><driver name='vhost' queues='1'/><link state='down'/></interface>",
        &["52:54:00:12:34:56", "bridge='br0'", "state='down'"],
    ),
    moves(
        "an interface on a network of libvirt's",
        "<interface type='network'><source network='lan'/><model type='e1000'/></interface>",
        &["network='lan'"],
    ),
    moves(
        "a watchdog, random numbers, a panic device",
        "<watchdog model='i6300esb' action='reset'/><rng model='virtio'><rate bytes='1024' period='1000'/><backend model='random'>/dev/urandom</backend></rng><panic model='isa'/>",
        &["i6300esb", "/dev/urandom", "panic"],
    ),
    moves(
        "channels of the guest agent and of SPICE",
        "<controller type='virtio-serial' index='0'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>\
         <graphics type='spice' autoport='yes'><listen type='address' address='127.0.0.1'/><image compression='off'/></graphics><video><model type='qxl' vram='16384' heads='1'/></video>\
         <redirdev bus='usb' type='spicevmc'/><sound model='ich9'/><input type='tablet' bus='usb'/>",
        &["org.qemu.guest_agent.0", "com.redhat.spice.0", "type='spice'"],
    ),
    moves(
        "VNC",
        "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/><video><model type='virtio'/></video>",
        &["type='vnc'"],
    ),
    moves(
        "a serial port and consoles with logs",
        "<serial type='pty'><log file='/var/log/libvirt/qemu/serial.log' append='on'/><target port='0'/></serial>\
         <console type='pty'><target type='virtio' port='1'/></console>",
        &["serial.log"],
    ),
    Kind {
        more: "<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model><feature policy='require' name='x2apic'/></cpu>",
        ..moves("a named CPU model with a feature", "", &["x2apic"])
    },
    Kind {
        more: "<cpu mode='host-model'/>",
        ..moves("the CPU model of its host", "", &["<model"])
    },
    Kind {
        more: "<cpu mode='maximum' migratable='on'/>",
        ..moves("all that its CPU can be", "", &["maximum"])
    },
    Kind {
        more: "<memoryBacking><hugepages/></memoryBacking>",
        ..moves("huge pages", "", &["hugepages"])
    },
    Kind {
        more: "<cpu><numa><cell id='0' cpus='0' memory='48' unit='MiB'/></numa></cpu>\
               <numatune><memory mode='strict' nodeset='0'/></numatune>",
        ..moves("NUMA, of its own and of its host", "", &["<numatune>", "cell id='0'"])
    },
    Kind {
        more: "<cputune><vcpupin vcpu='0' cpuset='0'/><shares>512</shares></cputune>",
        ..moves("a processor of its host", "", &["cpuset='0'"])
    },
    Kind {
        then: &["snapshot-create-as VM kept"],
        ..refused(
            "a snapshot that libvirt keeps",
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/srv/local/kept.qcow2'/><target dev='vda' bus='virtio'/></disk>",
            ("SNAPSHOTS", "snapshot"),
        )
    },
    refused(
        "an emulated TPM",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        ("NOT_ADMITTED", "tpm"),
    ),
    refused(
        "a directory of its host",
        "<filesystem type='mount' accessmode='mapped'><source dir='/srv/local'/><target dir='x'/></filesystem>",
        ("PASSTHROUGH", "Detach the device"),
    ),
    refused(
        "a network that reaches its host",
        "<interface type='user'><model type='virtio'/></interface>",
        ("NOT_ADMITTED", "user-networks"),
    ),
    refused(
        "a console over TCP",
        "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='5555'/><protocol type='raw'/></serial>",
        ("NOT_ADMITTED", "sockets"),
    ),
    Kind {
        more: "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-name'/>\
               <qemu:arg value='guest=x,debug-threads=on'/></qemu:commandline>",
        ..refused("arguments of QEMU's", "", ("NOT_ADMITTED", "xmlns:qemu"))
    },
];

impl Kind {
    fn xml(&self, name: &str, number: usize) -> String {
        let Self { os, more, devices, .. } = self;
        let iothreads = if devices.contains("iothread=") { "<iothreads>1</iothreads>" } else { "" };
        let (balloon, usb) = if devices.contains("memballoon") {
            ("", "")
        } else {
            ("<memballoon model='none'/>", "")
        };
        let domain = "<domain type='qemu'>";
        format!(
            "{domain}<name>{name}</name><uuid>7e570000-0000-4000-8000-0000000001{number:02}</uuid>\
             <memory unit='MiB'>48</memory><vcpu>1</vcpu>{iothreads}<os>\
             <type arch='x86_64' machine='q35'>hvm</type>{os}</os><features><acpi/></features>{more}\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}{usb}{balloon}</devices>\
             </domain>"
        )
    }

    /// Has it run on the first host, be told to go to the second one, and looks at what becomes of it.
    fn is_as_promised(&self, hosts: &Hosts, number: usize) -> Result<(), String> {
        let name = format!("vm{number}");
        let file = format!("/root/{name}.xml");
        hosts.host(1).write(&file, &self.xml(&name, number)).map_err(|e| e.to_string())?;
        let virsh = |host: usize, words: &[&str]| {
            hosts.host(host).virsh(words).map_err(|error| error.to_string())
        };
        virsh(1, &["define", &file])?;
        virsh(1, &["start", &name])?;
        for command in self.then {
            let command = command.replace("VM", &name);
            virsh(1, &command.split(' ').collect::<Vec<_>>())?;
        }
        let moved = hosts.try_migrate(&name, 1, 2);
        let said = format!("{}{}", moved.stdout, moved.stderr);
        match self.refused {
            None if !moved.success => {
                return Err(format!(
                    "it was not moved: {said}\n{}\n{}",
                    hosts.journal(1),
                    hosts.journal(2)
                ));
            }
            None => {
                hosts.runs_only_on(&name, 2);
                let there = virsh(2, &["dumpxml", &name])?;
                let lost = self.keeps.iter().find(|kept| !there.contains(**kept));
                if let Some(lost) = lost {
                    return Err(format!("`{lost}` was lost: {there}"));
                }
            }
            Some((code, words)) => {
                if moved.success || !said.contains(code) || !said.contains(words) {
                    return Err(format!("not refused with {code} and `{words}`: {said}"));
                }
                hosts.runs_only_on(&name, 1);
            }
        }
        let at = if self.refused.is_some() { 1 } else { 2 };
        virsh(at, &["destroy", &name])?;
        hosts
            .host(at)
            .run(&["virsh", "undefine", &name, "--nvram", "--snapshots-metadata"])
            .map_err(|e| e.to_string())?;
        Ok(())
    }
}

/// What the machines find on their hosts.
fn equip(hosts: &Hosts) {
    let images = "cd /srv/rig/images; umask 0; truncate -s 1M a.raw d.raw cd.iso; \
         for name in b c base; do qemu-img create -q -f qcow2 $name.qcow2 1M; done; \
         qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2; chmod 666 *";
    hosts.must(1, &["bash", "-ec", images]);
    let network = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>";
    for host in [1, 2] {
        hosts.host(host).write("/root/lan.xml", network).expect("written");
        hosts.virsh(host, &["net-define", "/root/lan.xml"]);
        hosts.virsh(host, &["net-start", "lan"]);
        hosts.must(host, &["mkdir", "-p", "/srv/local", "/dev/hugepages"]);
        hosts.virsh(host, &["pool-create-as", "local", "dir", "--target", "/srv/local"]);
        hosts.must(host, &["mount", "-t", "hugetlbfs", "hugetlbfs", "/dev/hugepages"]);
        hosts.must(host, &["systemctl", "restart", "libvirtd"]);
        hosts.virsh(host, &["pool-refresh", "local"]);
    }
    hosts
        .must(1, &["bash", "-c", "truncate -s 1M /srv/local/copied.raw; qemu-img create -q -f qcow2 /srv/local/kept.qcow2 1M; \
         virsh pool-refresh local"]);
}

/// Huge pages of this machine, which all hosts share; they are given back.
struct HugePages(String);

impl HugePages {
    fn reserve(pages: u32) -> Self {
        let before = std::fs::read_to_string(HUGE_PAGES).expect("this kernel has them");
        std::fs::write(HUGE_PAGES, pages.to_string()).expect("root may");
        Self(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(HUGE_PAGES, &self.0) {
            eprintln!("{HUGE_PAGES}: {error}");
        }
    }
}

#[test]
fn an_ordinary_machine_goes_through_the_agents_or_is_refused_with_a_remedy() {
    let Some(hosts) = Hosts::up(TABLES) else { return };
    let _pages = HugePages::reserve(64);
    equip(&hosts);
    let mut wrong = Vec::new();
    for (number, kind) in (1..).zip(KINDS) {
        if let Err(why) = kind.is_as_promised(&hosts, number) {
            wrong.push(format!("{}: {why}", kind.name));
        } else {
            println!("{}: {}", kind.name, kind.refused.map_or("moved", |(code, _)| code));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), KINDS.len(), wrong.join("\n"));
    for host in [1, 2] {
        let status = hosts.evenkeel(host, &["status"]);
        assert!(!status.stdout.contains("has said what no member may"), "{}", status.stdout);
    }
}

/// A disk that a third host serves to all.
fn served(hosts: &Hosts, image: &str) -> String {
    let serve = ["systemd-run", "--unit=nbd", "qemu-nbd", "--persistent", "--shared=8"];
    let what = ["--format=raw", "--cache=none", "--bind=10.77.0.3", "--port=10809", image];
    hosts.must(3, &[&serve[..], &what].concat());
    "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>\
     <source protocol='nbd' name=''><host name='10.77.0.3' port='10809'/></source>\
     <target dev='vda' bus='virtio'/></disk>"
        .to_owned()
}

#[test]
fn what_a_guest_writes_to_shared_and_copied_disks_is_there_after_a_move() {
    let Some(hosts) = Hosts::up(TABLES) else { return };
    for host in [1, 2] {
        hosts.must(host, &["mkdir", "-p", "/srv/local"]);
        hosts.virsh(host, &["pool-create-as", "local", "dir", "--target", "/srv/local"]);
    }
    let image = |name: &str| hosts.rig().make_disk(name, "raw", 64).expect("an image");
    let shared = served(&hosts, &image("shared.raw"));
    hosts.must(1, &["cp", &image("copied.raw"), "/srv/local/copied.raw"]);
    hosts.virsh(1, &["pool-refresh", "local"]);
    let shared = Domain { devices: shared, ..Domain::new("shared", 1) };
    let copied = Domain::new("copied", 2).disk("/srv/local/copied.raw", "raw");
    for domain in [shared, copied] {
        let name = domain.name.clone();
        let guest = hosts.start(1, &domain);
        guest.write(256).expect("it obeys");
        let written = |least: u64| {
            hosts.until("records on the disk", || {
                let figures = guest.figures().map_err(|error| error.to_string())?;
                if figures.records >= least { Ok(figures) } else { Err(format!("{figures:?}")) }
            })
        };
        let before = written(8);
        hosts.migrate(&name, 1, 2);
        let after = written(before.records + 8);
        let verified = guest.verify().expect("it answers");
        assert!(is_whole(&after) && is_whole(&verified), "{name}: {before:?} {verified:?}");
    }
}

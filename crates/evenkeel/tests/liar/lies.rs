//! What a source can say to another host's libvirt that it must not.

use evenkeel_core::model::{Network, Requirements};
use evenkeel_core::port::HandoffId;

use super::Machine;
use super::frames::{Frame, prepare};

/// Where hosts of a rig share images.
pub const IMAGES: &str = "/srv/rig/images";
/// Live, peer-to-peer, paused, stopped by errors.
pub const FLAGS: u32 = 1 | 1 << 1 | 1 << 5 | 1 << 12;
const COPIES: u32 = 1 << 6;

/// What a machine's migration is prepared with.
#[derive(Clone, Debug)]
pub struct Saying {
    pub xml: String,
    pub migrate_uri: String,
    pub parameters: Vec<(&'static str, String)>,
    pub cookie: String,
    pub flags: u32,
}

impl Saying {
    /// The truth about a machine.
    pub fn of(machine: &Machine, handoff: HandoffId) -> Self {
        Self {
            xml: xml(machine, handoff),
            migrate_uri: format!("unix:///run/evenkeel/handoffs/{handoff}/memory"),
            parameters: Vec::new(),
            cookie: cookie(machine, ""),
            flags: FLAGS,
        }
    }

    pub fn call(&self) -> Frame {
        let mut all = vec![("destination_xml", self.xml.clone())];
        if !self.migrate_uri.is_empty() {
            all.push(("migrate_uri", self.migrate_uri.clone()));
        }
        all.extend(self.parameters.iter().cloned());
        prepare(&all, &self.cookie, self.flags)
    }
}

/// The description of a machine without disks.
pub fn xml(machine: &Machine, handoff: HandoffId) -> String {
    let Machine { uuid, name, memory_mib, .. } = machine;
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>\
         <evenkeel:entry xmlns:evenkeel='https://evenkeel.dev/schedule/1' epoch='1' \
         handoff='{handoff}' held='yes'/>\
         </metadata><memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu><os>\
         <type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>\
         <on_crash>destroy</on_crash><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <controller type='usb' model='none'/><serial type='pty'><target port='0'/></serial>\
         <memballoon model='none'/></devices></domain>"
    )
}

/// The cookie of a machine's migration, with more in it.
pub fn cookie(machine: &Machine, more: &str) -> String {
    let Machine { uuid, name, .. } = machine;
    format!(
        "<qemu-migration><name>{name}</name><uuid>{uuid}</uuid><hostname>kvm3</hostname>\
         <hostuuid>99999999-2222-3333-4444-555555555555</hostuuid>{more}</qemu-migration>"
    )
}

type Change = Box<dyn Fn(&Machine, &mut Saying)>;

/// Something that is not so, or must not be.
pub struct Lie {
    pub name: String,
    /// What it tells when it offers the machine, besides the truth.
    pub told: Option<fn(&mut Requirements)>,
    pub change: Change,
}

fn lie(name: &str, change: impl Fn(&Machine, &mut Saying) + 'static) -> Lie {
    Lie { name: name.to_owned(), told: None, change: Box::new(change) }
}

/// A part of the description is another one.
fn part(part: &'static str, other: impl Into<String>) -> Lie {
    let other = other.into();
    lie(&format!("{part} -> {other}"), move |_, saying| {
        assert!(saying.xml.contains(part), "no {part}");
        saying.xml = saying.xml.replacen(part, &other, 1);
    })
}

/// It has a device besides.
fn device(xml: &str) -> Lie {
    part("<memballoon model='none'/>", format!("{xml}<memballoon model='none'/>"))
}

/// It has something besides, before its devices.
fn element(xml: &str) -> Lie {
    part("<devices>", format!("{xml}<devices>"))
}

/// It has something at its end, such as what is of QEMU's namespace.
fn ending(xml: &str) -> Lie {
    part("</domain>", format!("{xml}</domain>"))
}

/// It says that it has a disk on the storage that hosts share.
fn on_shared_storage(lie: Lie) -> Lie {
    Lie { told: Some(|needs| needs.storage = vec!["images".to_owned()]), ..lie }
}

fn disk(format: &str, inner: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>{inner}\
         <target dev='vda' bus='virtio'/></disk>"
    )
}

/// Files, sockets and programs of the host that a description can name.
pub fn files() -> Vec<Lie> {
    let mut all = vec![
        ending("<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>"),
        ending("<seclabel type='static' model='dac' relabel='yes'><label>+0:+0</label></seclabel>"),
        ending("<seclabel type='none'/>"),
        ending("<seclabel type='none' model='apparmor'/>"),
        ending(
            "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <qemu:arg value='-name'/><qemu:arg value='guest=x,debug-threads=on'/></qemu:commandline>",
        ),
        ending(
            "<q:override xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:device alias='x'/>\
             </q:override>",
        ),
        part("<os>", "<bootloader>/bin/sh</bootloader><os>"),
        part("</os>", "<kernel>/etc/shadow</kernel></os>"),
        part("</os>", "<kernel>/boot/x</kernel><initrd>/etc/shadow</initrd></os>"),
        part("</os>", "<dtb>/etc/shadow</dtb></os>"),
        part("</os>", "<acpi><table type='slic'>/etc/shadow</table></acpi></os>"),
        part("</os>", "<loader readonly='yes' type='pflash'>/etc/shadow</loader></os>"),
        part("</os>", "<loader type='rom'>/etc/shadow</loader></os>"),
        part(
            "</os>",
            "<loader readonly='no' type='pflash'>/usr/share/seabios/bios-256k.bin</loader></os>",
        ),
        part(
            "</os>",
            "<loader readonly='yes' type='pflash'>/usr/share/seabios/bios-256k.bin</loader>\
             <nvram template='/etc/shadow'/></os>",
        ),
        part(
            "</os>",
            "<loader readonly='yes' type='pflash'>/usr/share/seabios/bios-256k.bin</loader>\
             <nvram>/etc/cron.d/evil</nvram></os>",
        ),
        part("/usr/bin/qemu-system-x86_64", "/bin/sh"),
        part("/usr/bin/qemu-system-x86_64", "/usr/bin/../bin/sh"),
        part("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64"),
        part(
            "<vcpu>",
            "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo><vcpu>",
        ),
        part(
            "<target port='0'/>",
            "<log file='/root/made-by-root.log' append='on'/><target port='0'/>",
        ),
        element(
            "<idmap><uid start='0' target='0' count='1'/><gid start='0' target='0' count='1'/></idmap>",
        ),
        element("<resource><partition>/system.slice</partition></resource>"),
        element(
            "<blkiotune><device><path>/dev/vda</path><weight>100</weight></device></blkiotune>",
        ),
        element(
            "<launchSecurity type='sev'><cbitpos>1</cbitpos><reducedPhysBits>1</reducedPhysBits><policy>0</policy></launchSecurity>",
        ),
        part("<on_crash>destroy<", "<on_crash>coredump-destroy<"),
    ];
    all.extend(character_devices());
    all.extend(other_devices());
    all
}

fn character_devices() -> Vec<Lie> {
    let sources = [
        ("file", "<source path='/etc/cron.d/evil'/>"),
        ("dev", "<source path='/dev/mem'/>"),
        ("pipe", "<source path='/run/x'/>"),
        ("unix", "<source mode='bind' path='/run/evil.sock'/>"),
        ("unix", "<source mode='connect' path='/run/libvirt/libvirt-sock'/>"),
        ("tcp", "<source mode='bind' host='0.0.0.0' service='2222'/><protocol type='raw'/>"),
        ("tcp", "<source mode='connect' host='127.0.0.1' service='22'/><protocol type='raw'/>"),
        ("udp", "<source mode='connect' host='127.0.0.1' service='53'/>"),
        ("qemu-vdagent", "<source><log file='/x'/></source>"),
    ];
    let mut all = Vec::new();
    for (kind, source) in sources {
        all.push(device(&format!("<parallel type='{kind}'>{source}</parallel>")));
        all.push(device(&format!(
            "<channel type='{kind}'>{source}<target type='virtio' name='x'/></channel>"
        )));
        all.push(device(&format!(
            "<console type='{kind}'>{source}<target type='virtio' port='1'/></console>"
        )));
    }
    all.push(device(
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='80'/></channel>",
    ));
    all
}

fn other_devices() -> Vec<Lie> {
    [
        "<filesystem type='mount'><driver type='virtiofs'/><binary path='/root/binary'/><source dir='/'/><target dir='x'/></filesystem>",
        "<filesystem type='mount'><driver type='virtiofs'/><source socket='/run/x'/><target dir='x'/></filesystem>",
        "<filesystem type='mount' accessmode='passthrough'><source dir='/'/><target dir='x'/></filesystem>",
        "<hostdev mode='subsystem' type='usb'><source><vendor id='1'/><product id='2'/></source></hostdev>",
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='0' slot='3' function='0'/></source></hostdev>",
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source></hostdev>",
        "<hostdev mode='subsystem' type='scsi_host' ><source protocol='vhost' wwpn='naa.5123456789abcde0'/></hostdev>",
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>",
        "<interface type='hostdev'><source><address type='pci' domain='0' bus='0' slot='3' function='0'/></source></interface>",
        "<interface type='ethernet'><script path='/root/script'/></interface>",
        "<interface type='bridge'><source bridge='br0'/><script path='/root/script'/></interface>",
        "<interface type='bridge'><source bridge='br0'/><backend tap='/dev/mem' vhost='/dev/mem'/></interface>",
        "<interface type='bridge'><source bridge='br9'/></interface>",
        "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>",
        "<interface type='direct'><source dev='eth0' mode='passthrough'/></interface>",
        "<interface type='vhostuser'><source type='unix' path='/run/x' mode='client'/><model type='virtio'/></interface>",
        "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
        "<interface type='network'><source network='default'/></interface>",
        "<interface type='server'><source address='0.0.0.0' port='5558'/></interface>",
        "<interface type='udp'><source address='127.0.0.1' port='1'><local address='127.0.0.1' port='2'/></source></interface>",
        "<interface type='user'/>",
        "<interface type='user'><backend type='passt' logFile='/root/log'/></interface>",
        "<interface type='user'><portForward proto='tcp'><range start='22'/></portForward></interface>",
        "<rng model='virtio'><backend model='egd' type='unix'><source mode='connect' path='/run/libvirt/libvirt-sock'/></backend></rng>",
        "<rng model='virtio'><backend model='random'>/etc/shadow</backend></rng>",
        "<smartcard mode='host'/>",
        "<smartcard mode='host-certificates'><certificate>a</certificate><certificate>b</certificate><certificate>c</certificate><database>/etc</database></smartcard>",
        "<smartcard mode='passthrough' type='tcp'><source mode='bind' host='0.0.0.0' service='1'/></smartcard>",
        "<input type='evdev'><source dev='/dev/input/event0'/></input>",
        "<input type='passthrough' bus='virtio'><source evdev='/dev/input/event0'/></input>",
        "<shmem name='../../etc/x'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>",
        "<shmem name='x'><model type='ivshmem-doorbell'/><server path='/run/x'/></shmem>",
        "<tpm model='tpm-crb'><backend type='passthrough'><device path='/dev/mem'/></backend></tpm>",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        "<tpm model='tpm-crb'><backend type='external'><source type='unix' mode='connect' path='/run/x'/></backend></tpm>",
        "<audio id='1' type='file' path='/root/audio'/>",
        "<audio id='1' type='alsa'><input dev='/dev/mem'/></audio>",
        "<audio id='1' type='oss'><input dev='/dev/mem'/></audio>",
        "<graphics type='sdl' display=':0' xauth='/root/.Xauthority'/>",
        "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
        "<graphics type='vnc' socket='/root/vnc'/>",
        "<graphics type='vnc'><listen type='socket' socket='/root/vnc'/></graphics>",
        "<graphics type='spice'><gl enable='yes' rendernode='/dev/mem'/></graphics>",
        "<graphics type='dbus' address='unix:path=/run/dbus/system_bus_socket'/>",
        "<graphics type='rdp' autoport='yes'/>",
        "<memory model='nvdimm'><source><path>/etc/shadow</path></source><target><size unit='M'>1</size></target></memory>",
        "<memory model='virtio-pmem'><source><path>/etc/shadow</path></source><target><size unit='M'>1</size></target></memory>",
        "<memory model='sgx-epc'><target><size unit='M'>1</size></target></memory>",
        "<video><driver name='vhostuser'/><model type='virtio'/></video>",
        "<lease><lockspace>x</lockspace><key>y</key><target path='/etc/shadow'/></lease>",
        "<watchdog model='i6300esb' action='dump'/>",
        "<crypto model='virtio' type='qemu'><backend model='lkcf'/></crypto>",
        "<pstore backend='acpi-erst'><path>/etc/shadow</path><size>8192</size></pstore>",
        "<redirdev bus='usb' type='tcp'><source mode='connect' host='127.0.0.1' service='22'/></redirdev>",
    ]
    .map(device)
    .into()
}

/// Disks that are not those of the machine.
pub fn disks() -> Vec<Lie> {
    let file = |format: &str, path: &str| disk(format, &format!("<source file='{path}'/>"));
    let block = |source: &str| {
        format!(
            "<disk type='block' device='disk'><driver name='qemu' type='qcow2'/>{source}\
             <target dev='vda' bus='virtio'/></disk>"
        )
    };
    let volume = |pool: &str, volume: &str, format: &str| {
        format!(
            "<disk type='volume' device='disk'><driver name='qemu' type='{format}'/>\
             <source pool='{pool}' volume='{volume}'/><target dev='vda' bus='virtio'/></disk>"
        )
    };
    let shared = |name: &str| format!("{IMAGES}/{name}");
    let good = shared("good.qcow2");
    let chain = |inner: &str| {
        disk(
            "qcow2",
            &format!("<source file='{good}'/><backingStore type='file'>{inner}</backingStore>"),
        )
    };
    [
        file("raw", "/etc/shadow"),
        file("raw", "/root/secret.img"),
        file("raw", &shared("../secret.img")),
        file("raw", &shared("link.img")),
        file("raw", &shared("bystander.raw")),
        file("vmdk", &shared("good.raw")),
        // Its header names another file.
        file("qcow2", &shared("evil.qcow2")),
        file("qcow2", &shared("data.qcow2")),
        file("qcow2", &shared("json.qcow2")),
        // The other attribute names another one than the one that counts.
        block(&format!("<source file='{good}' dev='{}'/>", shared("evil.qcow2"))),
        block(&format!("<source file='{good}' dev='{}'/>", shared("bystander.raw"))),
        block("<source dev='/dev/vda'/>"),
        // The end of the chain that is spelled out, where libvirt reads the rest itself.
        chain(&format!("<format type='qcow2'/><source file='{}'/>", shared("evil.qcow2"))),
        chain(&format!("<source file='{}'/>", shared("evil.qcow2"))),
        chain("<format type='raw'/><source file='/etc/shadow'/><backingStore/>"),
        chain(&format!("<format type='raw'/><source file='{}'/><backingStore/>", shared("bystander.raw"))),
        // What a pool has is a file as well.
        volume("local", "secret.img", "raw"),
        volume("shared", "bystander.raw", "raw"),
        volume("shared", "evil.qcow2", "qcow2"),
        "<disk type='dir' device='floppy'><driver name='qemu' type='fat'/><source dir='/root'/><target dev='fda'/></disk>".to_owned(),
        "<disk type='nvme'><source type='pci' managed='yes' namespace='1'><address domain='0' bus='1' slot='0' function='0'/></source><target dev='vda'/></disk>".to_owned(),
        "<disk type='vhostuser'><source type='unix' path='/run/x'/><target dev='vda'/></disk>".to_owned(),
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'><host name='127.0.0.1' port='1'/></source><target dev='vda'/></disk>".to_owned(),
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd'><host transport='unix' socket='/run/x'/></source><target dev='vda'/></disk>".to_owned(),
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='ssh' name='/etc/shadow'><host name='127.0.0.1'/></source><target dev='vda'/></disk>".to_owned(),
        format!("<disk type='block' device='lun' rawio='yes'><driver name='qemu' type='raw'/><source dev='{good}'><reservations managed='yes'/></source><target dev='sda' bus='scsi'/></disk>"),
        disk("raw", &format!("<source file='{}'><seclabel model='dac' relabel='yes'><label>+0:+0</label></seclabel></source>", shared("good.raw"))),
        disk("raw", &format!("<source file='{}'><encryption format='luks'><secret type='passphrase' usage='x'/></encryption></source>", shared("good.raw"))),
        disk("raw", &format!("<source file='{}'/><mirror type='file' job='copy'><source file='/etc/shadow'/></mirror>", shared("good.raw"))),
        disk("raw", &format!("<source file='{}'/><transient/>", shared("good.raw"))),
    ]
    .map(|xml| on_shared_storage(device(&xml)))
    .into()
}

/// Other machines, more than was agreed on, numbers that libvirt counts to, and documents that two parsers
/// may read differently.
pub fn claims() -> Vec<Lie> {
    let twin = "7e570000-0000-4000-8000-000000000001";
    vec![
        lie("the name of another machine", |machine, saying| {
            saying.xml = saying.xml.replace(&machine.name, "bystander");
        }),
        lie("the id of another machine", move |machine, saying| {
            saying.xml = saying.xml.replace(&machine.uuid, twin);
        }),
        part("<name>", "<name>../"),
        part(">16</memory>", ">16384</memory>"),
        part(">16</memory>", ">0x10</memory>"),
        part("<vcpu>1<", "<vcpu>64<"),
        part("<vcpu>1<", "<vcpu current='1'>0x40<"),
        element("<cpu><numa><cell id='0' cpus='0' memory='1048576' unit='MiB'/></numa></cpu>"),
        element("<iothreads>2000000000</iothreads>"),
        device("<controller type='scsi' index='2000000000' model='virtio-scsi'/>"),
        device("<controller type='virtio-serial' index='0' ports='2000000000'/>"),
        on_shared_storage(device(&format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{IMAGES}/good.raw'/><target dev='sda' bus='scsi'/>\
             <address type='drive' controller='2000000000' bus='0' target='0' unit='0'/></disk>"
        ))),
        part("held='yes'", "held='no'"),
        part("epoch='1'", "epoch='7'"),
        part("<domain ", "<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/shadow'>]><domain "),
        part("<domain ", "<?xml version='1.0' encoding='utf-16'?><domain "),
        part("<domain ", "<domain xmlns='http://example.org/' "),
        part("<domain ", "<domain id='1' id='2' "),
        part("</domain>", "</domain><domain type='qemu'/>"),
        part("<metadata>", format!("<metadata>{}", "<a>".repeat(100_000))),
        part("<metadata>", format!("<metadata>{}", "<a/>".repeat(200_000))),
        part("<os>", "<memory unit='MiB'>16</memory><os>"),
    ]
}

/// Parameters, flags and cookies.
pub fn terms() -> Vec<Lie> {
    let parameter = |name: &'static str, value: &'static str| {
        lie(&format!("{name}={value}"), move |_, saying| {
            saying.parameters.push((name, value.to_owned()));
        })
    };
    let uri = |uri: &'static str| {
        lie(&format!("memory from {uri}"), move |_, saying| uri.clone_into(&mut saying.migrate_uri))
    };
    let flag = |bit: u32| lie(&format!("flag {bit}"), move |_, saying| saying.flags ^= 1 << bit);
    let told = |more: &'static str| {
        lie(&format!("cookie with {more}"), move |machine, saying| {
            saying.cookie = cookie(machine, more);
        })
    };
    let mut all = vec![
        parameter("listen_address", "0.0.0.0"),
        parameter("disks_uri", "unix:///root/nbd.sock"),
        parameter("disks_uri", "tcp://0.0.0.0:9999"),
        parameter("migrate_disks", "vda"),
        parameter("compression", "mt"),
        parameter("tls.destination", "x"),
        parameter("graphics_uri", "spice://127.0.0.1:1"),
        parameter("destination_name", "bystander"),
        parameter("persistent_xml", "<domain type='qemu'><name>x</name></domain>"),
        parameter("migrate_uri", "tcp:0.0.0.0:4444"),
        parameter("nothing.that.there.is", "x"),
        uri(""),
        uri("tcp:0.0.0.0:4444"),
        uri("tcp://0.0.0.0:4444"),
        uri("rdma://0.0.0.0:4444"),
        uri("unix:///root/memory.sock"),
        uri("fd:3"),
        uri("exec:touch /root/PWNED"),
        lie("a definition in its cookie", |machine, saying| {
            let evil = saying.xml.replacen(
                "<memballoon",
                "<parallel type='file'><source path='/etc/cron.d/evil'/></parallel><memballoon",
                1,
            );
            saying.cookie = cookie(machine, &format!("<feature name='persistent'/>{evil}"));
        }),
        lie("the cookie of another machine", |machine, saying| {
            saying.cookie = cookie(machine, "").replace(&machine.name, "bystander");
        }),
        lie("an exported disk", |_, saying| {
            let disk = disk("raw", &format!("<source file='{IMAGES}/bystander.raw'/>"));
            saying.xml = saying.xml.replacen("<memballoon", &format!("{disk}<memballoon"), 1);
            saying.flags |= COPIES;
            saying.parameters.push(("migrate_disks", "vda".to_owned()));
            saying.parameters.push(("disks_uri", "unix:///root/nbd.sock".to_owned()));
        }),
        told("<nbd port='9999'/>"),
        told("<nbd><disk target='vda' capacity='4611686018427387904'/></nbd>"),
        told("<graphics type='spice' port='1' listen='evil; rm'/>"),
        told("<feature name='tls'/>"),
        told("<script>x</script>"),
    ];
    // Offline, tunnelled, running, copying, in parts, unsafe, whatever else there is.
    all.extend([0, 1, 2, 5, 6, 7, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 31].map(flag));
    all
}

/// What an honest member says that its machine needs, and this one lies about.
pub fn needs_of_a_network(needs: &mut Requirements) {
    needs.networks = Some(vec![Network::Interface("br9".to_owned())]);
}

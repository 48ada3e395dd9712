//! A lying member before the carrier, and a real libvirt behind it: it has a valid certificate and a
//! handoff under way, and says whatever it likes.
//!
//! Every case is refused; no file of the host, no process and no other machine is touched; and the member
//! is named. That an ordinary machine passes is shown by the first test, with the same description.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use evenkeel_lab::{GuestSpec, HostSpec, Lab, LabSpec, Launcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::tests::{HANDOFF, LIMIT, MACHINE, Rig, call, ends, opening};
use super::*;

/// The test that the lab's supervisor is started as: these tests are the program of their own lab.
const SUPERVISOR: &str = "carrier::hostile::the_supervisor_of_the_labs_of_these_tests";
/// Live, peer-to-peer, paused, stopped by errors.
const FLAGS: u32 = 0x1023;
const BYSTANDER: &str = "bystander";

#[test]
#[ignore = "started by the tests' own lab"]
fn the_supervisor_of_the_labs_of_these_tests() {
    let last = std::env::args_os().next_back().map(PathBuf::from);
    if let Some(dir) = last.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        evenkeel_lab::supervise(&dir).unwrap();
    }
}

/// A libvirt with a machine of its own, and a carrier before it.
struct Stage {
    rig: Rig,
    lab: Lab,
    /// A directory that the lab's user may write to, which stands for the rest of the host.
    host: PathBuf,
}

impl Stage {
    async fn set(name: &str) -> Self {
        let dir = PathBuf::from(format!("/tmp/ek-lie-{name}-{}", std::process::id()));
        let spec = LabSpec {
            dir,
            hosts: vec![HostSpec::new("h1", 1.0)],
            guests: vec![GuestSpec::new(BYSTANDER, "h1", 0)],
            agents: None,
        };
        let arguments = [SUPERVISOR, "--exact", "--ignored", "--nocapture"].map(str::to_owned);
        let program = std::env::current_exe().unwrap();
        let launcher = Launcher { program, arguments: arguments.to_vec(), tied: true };
        let up = move || Lab::up(&spec, &launcher, &mut |_| {}).unwrap();
        let lab = tokio::task::spawn_blocking(up).await.unwrap();
        let uri = lab.uri("h1").unwrap();
        let socket = evenkeel_libvirt::socket_of(&uri).unwrap();
        let config = LibvirtConfig::new(uri.clone(), "qemu+evenkeel:///session");
        let rig = Rig::before(Some(Libvirt::new(config, socket))).await;
        let host = lab.dir().join("rest-of-the-host");
        fs::create_dir(&host).unwrap();
        fs::set_permissions(&host, Permissions::from_mode(0o777)).unwrap();
        fs::write(host.join("victim.img"), vec![7; 4096]).unwrap();
        fs::set_permissions(host.join("victim.img"), Permissions::from_mode(0o666)).unwrap();
        // QEMU runs as the lab's user, which stands for the group that it shares with the agent.
        let owner = fs::metadata(lab.dir()).unwrap();
        let sockets = rig.memory().parent().unwrap().to_owned();
        for path in [rig.dir.path(), sockets.parent().unwrap()] {
            fs::set_permissions(path, Permissions::from_mode(0o711)).unwrap();
        }
        chown(sockets, Some(owner.uid()), Some(owner.gid())).unwrap();
        Self { rig, lab, host }
    }

    fn virsh(&self, arguments: &[&str]) -> String {
        let uri = self.lab.uri("h1").unwrap();
        let mut virsh = Command::new("virsh");
        let ran = virsh.args(["--quiet", "--connect", &uri]).args(arguments).output().unwrap();
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Says this after a connection was opened, and reads until an answer to the last call has come or
    /// the connection is cut. Whether it was an answer without an error.
    async fn says(&self, calls: &[Vec<u8>]) -> Option<bool> {
        // A handoff of its own for each: the two libvirts speak once.
        self.rig.expect(&[]);
        self.rig.expect(&[(HANDOFF, true)]);
        self.own_sockets();
        let request = Channel::Control.request(HANDOFF);
        let mut socket = self.rig.call(&self.rig.source, &request).await.unwrap();
        let mut last = None;
        for said in calls {
            socket.write_all(said).await.unwrap();
            let mut length = [0; 4];
            let read = timeout(LIMIT, socket.read_exact(&mut length)).await.expect("an answer");
            if read.is_err() {
                return None;
            }
            let mut frame = vec![0; u32::from_be_bytes(length) as usize - 4];
            timeout(LIMIT, socket.read_exact(&mut frame)).await.expect("an answer").unwrap();
            last = Some(frame[23] == 0);
        }
        last
    }

    fn own_sockets(&self) {
        let owner = fs::metadata(self.lab.dir()).unwrap();
        let sockets = self.rig.memory().parent().unwrap().to_owned();
        chown(sockets, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Nothing of the host is touched, and the member is named as often as it has lied.
    fn is_untouched(&self, lies: u64, name: &str) {
        assert_eq!(self.virsh(&["list", "--all", "--name"]), BYSTANDER, "{name}");
        assert_eq!(self.virsh(&["domstate", BYSTANDER]), "running", "{name}");
        let files: Vec<_> =
            fs::read_dir(&self.host).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files, ["victim.img"], "{name}");
        assert_eq!(fs::read(self.host.join("victim.img")).unwrap(), vec![7; 4096], "{name}");
        let accused = self.rig.carrier.accused();
        let [accused] = &accused[..] else { panic!("{name}: {accused:?}") };
        assert_eq!((&accused.host, accused.times), (&self.rig.source.id, lies), "{name}");
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// What *prepare* is called with.
fn prepare(stage: &Stage, xml: &str, more: &[(&str, String)], cookie: &str, flags: u32) -> Vec<u8> {
    let uri = format!("unix://{}", stage.rig.memory().display());
    let mut parameters = vec![("destination_xml", xml.to_owned())];
    if !more.iter().any(|(name, _)| *name == "migrate_uri") {
        parameters.push(("migrate_uri", uri));
    }
    parameters.extend(more.iter().cloned());
    let mut body = (parameters.len() as u32).to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([text(name), 7_u32.to_be_bytes().to_vec(), text(&value)].concat());
    }
    let cookie = if cookie.is_empty() { String::new() } else { format!("{cookie}\0") };
    body.extend([text(&cookie), flags.to_be_bytes().to_vec()].concat());
    call(303, &body)
}

fn xml() -> String {
    format!(
        "<domain type='qemu'><name>web</name><uuid>{MACHINE}</uuid><metadata>\
         <evenkeel:entry xmlns:evenkeel='https://evenkeel.dev/schedule/1' epoch='0' held='yes'/>\
         </metadata><memory unit='KiB'>16384</memory><vcpu>1</vcpu><os>\
         <type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot>\
         <on_crash>destroy</on_crash><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <controller type='usb' model='none'/><serial type='pty'><target port='0'/></serial>\
         <memballoon model='none'/></devices></domain>"
    )
}

fn opened() -> Vec<Vec<u8>> {
    vec![call(66, &[]), opening("qemu:///session")]
}

#[tokio::test]
async fn an_ordinary_machine_is_prepared_and_its_memory_goes_to_its_own_process() {
    let stage = Stage::set("fine").await;
    let cookie = format!(
        "<qemu-migration><name>web</name><uuid>{MACHINE}</uuid><hostname>liar</hostname>\
         <hostuuid>99999999-2222-3333-4444-555555555555</hostuuid></qemu-migration>"
    );
    stage.rig.expect(&[]);
    stage.rig.expect(&[(HANDOFF, true)]);
    stage.own_sockets();
    let request = Channel::Control.request(HANDOFF);
    let mut control = stage.rig.call(&stage.rig.source, &request).await.unwrap();
    for said in [opened(), vec![prepare(&stage, &xml(), &[], &cookie, FLAGS)]].concat() {
        control.write_all(&said).await.unwrap();
        let mut length = [0; 4];
        timeout(LIMIT, control.read_exact(&mut length)).await.expect("an answer").unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize - 4];
        timeout(LIMIT, control.read_exact(&mut frame)).await.expect("an answer").unwrap();
        assert_eq!(frame[23], 0, "{}", String::from_utf8_lossy(&frame));
    }
    // Its QEMU listens, and libvirt says that it is the machine's.
    let memory = Channel::Memory.request(HANDOFF);
    let mut memory = stage.rig.call(&stage.rig.source, &memory).await.unwrap();
    memory.write_all(b"no migration").await.unwrap();
    drop(memory);
    assert_eq!(stage.rig.carrier.accused(), []);
    assert!(stage.virsh(&["domstate", BYSTANDER]) == "running");
}

#[tokio::test]
async fn libvirt_opens_nothing_for_a_member_but_itself() {
    let stage = Stage::set("open").await;
    let marker = stage.host.join("PWNED");
    let shell = format!("-Sbash%20-c%20%27touch%20{}%27", marker.display());
    let uris = [
        format!("qemu+ssh://x/session?command=/usr/bin/env&keyfile={shell}"),
        "qemu+ext:///session?command=/usr/bin/env".to_owned(),
        "qemu+unix:///session?socket=/run/x".to_owned(),
        "test:///default".to_owned(),
        "qemu:///system".to_owned(),
    ];
    for (lies, uri) in (1..).zip(uris) {
        assert_ne!(stage.says(&[call(66, &[]), opening(&uri)]).await, Some(true), "{uri}");
        stage.is_untouched(lies, &uri);
    }
}

/// A name, the description with a lie in it, more parameters, a cookie and flags.
type Lie = (&'static str, String, Vec<(&'static str, String)>, String, u32);

fn lies(stage: &Stage) -> Vec<Lie> {
    let at = |name: &str| stage.host.join(name).display().to_string();
    let with = |part: &str, other: &str| xml().replacen(part, other, 1);
    let device = |device: &str| with("<memballoon", &format!("{device}<memballoon"));
    let (disk, log) = (at("victim.img"), at("root-made-this.log"));
    let disk = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    let filesystem = format!(
        "<filesystem type='mount'><driver type='virtiofs'/><binary path='{}'/><source dir='/'/>\
         <target dir='x'/></filesystem>",
        at("binary")
    );
    let command = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
                   <qemu:arg value='-S'/></qemu:commandline></domain>";
    let label =
        "<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>";
    let exports = vec![
        ("migrate_disks", "vda".to_owned()),
        ("disks_uri", format!("unix://{}", at("nbd.sock"))),
    ];
    let definition = device(&format!("<console type='file'><source path='{log}'/></console>"));
    let cookie = format!(
        "<qemu-migration><name>web</name><uuid>{MACHINE}</uuid><hostname>l</hostname>\
         <hostuuid>{MACHINE}</hostuuid>{definition}</qemu-migration>"
    );
    let plain = |name, xml| (name, xml, Vec::new(), String::new(), FLAGS);
    vec![
        plain("QEMU as root", with("</domain>", label)),
        plain("arguments of QEMU's", with("</domain>", command)),
        plain(
            "a log",
            with("<target port='0'/>", &format!("<log file='{log}'/><target port='0'/>")),
        ),
        plain("a disk of the host's", device(&disk)),
        ("a disk exported", device(&disk), exports, String::new(), FLAGS | 1 << 6),
        plain("a program of its choice", device(&filesystem)),
        plain("another emulator", with("/usr/bin/qemu-system-x86_64", "/bin/sh")),
        plain(
            "a device",
            device(
                "<hostdev mode='subsystem' type='usb'><source><vendor id='1'/><product id='2'/></source></hostdev>",
            ),
        ),
        plain("a kernel", with("</os>", "<kernel>/etc/passwd</kernel></os>")),
        plain(
            "a socket",
            device(&format!(
                "<channel type='unix'><source mode='bind' path='{}'/><target type='virtio' name='x'/></channel>",
                at("socket")
            )),
        ),
        plain("another machine", with(MACHINE, "11111111-2222-3333-4444-555555555555")),
        plain("another's name", with("<name>web<", &format!("<name>{BYSTANDER}<"))),
        plain("more memory", with(">16384<", ">16777216<")),
        plain(
            "a document type",
            format!("<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>{}", xml()),
        ),
        plain("no held copy", with("held='yes'", "held='no'")),
        ("it is to run", xml(), Vec::new(), String::new(), FLAGS & !0x20),
        ("a definition in the cookie", xml(), Vec::new(), cookie, FLAGS),
        (
            "memory from elsewhere",
            xml(),
            vec![("migrate_uri", "tcp:0:4444".to_owned())],
            String::new(),
            FLAGS,
        ),
        (
            "a parameter",
            xml(),
            vec![("listen_address", "0.0.0.0".to_owned())],
            String::new(),
            FLAGS,
        ),
    ]
}

#[tokio::test]
async fn libvirt_prepares_nothing_for_a_member_but_the_machine_that_was_agreed_on() {
    let stage = Stage::set("prepare").await;
    for (count, (name, xml, more, cookie, flags)) in (1..).zip(lies(&stage)) {
        let said = [opened(), vec![prepare(&stage, &xml, &more, &cookie, flags)]].concat();
        assert_ne!(stage.says(&said).await, Some(true), "{name}");
        stage.is_untouched(count, name);
    }
}

#[tokio::test]
async fn libvirt_finishes_nothing_that_was_not_prepared_and_obeys_no_other_call() {
    let stage = Stage::set("finish").await;
    // Parameters: a name. No cookie, no flags, not cancelled.
    let named =
        [1_u32.to_be_bytes().to_vec(), text("destination_name"), 7_u32.to_be_bytes().to_vec()];
    let finish = [named.concat(), text(BYSTANDER), vec![0; 12]].concat();
    // To list, to look up, to define, to create, to migrate by other ways.
    let others =
        [37, 23, 11, 10, 211, 212, 301, 302, 305].map(|procedure| call(procedure, &[0; 16]));
    for (lies, said) in (1..).zip([vec![call(306, &finish)], others.to_vec()].concat()) {
        let said = [opened(), vec![said]].concat();
        assert_ne!(stage.says(&said).await, Some(true), "{lies}");
        stage.is_untouched(lies, "a call");
    }
    let mut again = {
        let request = Channel::Control.request(HANDOFF);
        stage.rig.expect(&[]);
        stage.rig.expect(&[(HANDOFF, true)]);
        stage.rig.call(&stage.rig.source, &request).await.unwrap()
    };
    again.write_all(&[0; 64]).await.unwrap();
    assert_eq!(ends(&mut again).await, b"");
}

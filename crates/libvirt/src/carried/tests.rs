//! A recorded migration passes, and no lie of either side does.
//!
//! `recorded/source` and `recorded/target` are what two libvirtd 9.0 said to each other when they migrated
//! a machine with most of what machines have; `recorded/q35.xml` is its description.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_core::model::{Entry, HandoffId, MachineId, Requirements};

use super::message::{
    self as m, AUTH_LIST, AUTH_POLKIT, CALL, CLOSE, Error, FINISH, Frame, Frames, GET_URI, Header,
    KEEPALIVE, MESSAGE, OPEN, PREPARE, REGISTER_CLOSE, REMOTE, REPLY, SUPPORTS_FEATURE,
};
use super::params::Parameters;
use super::xdr::{Reader, Writer};
use super::*;
use crate::storage::{SharedStorage, Storage};

pub(super) const MACHINE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
const MEMORY_URI: &str = "unix:///run/evenkeel/handoffs/00000000000000ab/memory";
/// Live, peer-to-peer, persistent there, undefined here, aborted on errors, slowed down.
pub(super) const FLAGS: u32 = 0x301b;

/// A target with storage of its own.
pub(super) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) here: Here,
    pub(super) agreed: Agreed,
}

impl Rig {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::create_dir_all(&shared).unwrap();
        fs::create_dir_all(dir.path().join("firmware")).unwrap();
        for name in ["top.qcow2", "c.raw", "cd.iso"] {
            let mut image = vec![0; 104];
            image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
            fs::write(shared.join(name), image).unwrap();
        }
        let storage = SharedStorage { id: "shared".to_owned(), path: shared };
        let here = Here {
            admission: Admission {
                directories: vec![dir.path().join("firmware")],
                // The recorded machine has one.
                keys: BTreeSet::from(["user-networks".to_owned()]),
                ..Admission::default()
            },
            emulators: BTreeSet::from(["/usr/bin/qemu-system-x86_64".to_owned()]),
            nvram: Some("/var/lib/libvirt/qemu/nvram".into()),
            storage: Storage::new(&[storage], &[]),
            taken: BTreeMap::new(),
        };
        let agreed = Agreed {
            sockets: Sockets::of(Path::new("/run/evenkeel/handoffs"), HandoffId(0xab)),
            uri: "qemu:///system".to_owned(),
            machine: MachineId::new(MACHINE).unwrap(),
            name: Some("big".to_owned()),
            entry: Entry::default(),
            paused: false,
            memory_bytes: f64::from(64 << 20),
            needs: Requirements {
                storage: vec!["shared".to_owned()],
                vcpus: Some(2),
                ..Requirements::default()
            },
            disks: Vec::new(),
        };
        Self { dir, here, agreed }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A text of the recording with the paths of this rig.
    fn here(&self, text: &str) -> String {
        let text = text.replace("/usr/share/OVMF", &self.path("firmware"));
        text.replace("/srv/shared", &self.path("shared"))
    }

    pub(super) fn xml(&self) -> String {
        self.here(include_str!("recorded/q35.xml"))
    }

    /// A connection that is open.
    fn opened(&self) -> Control {
        let mut control = Control::new(self.agreed.clone(), Some(self.here.clone()));
        for frame in [call(AUTH_LIST, vec![]), call(OPEN, m::open_body("qemu:///system"))] {
            control.from_source(&frame.write()).unwrap();
        }
        control
    }

    pub(super) fn prepares(
        &self,
        parameters: &Parameters,
        cookie: &str,
        flags: u32,
    ) -> Result<String, String> {
        let cookie = if cookie.is_empty() { String::new() } else { format!("{cookie}\0") };
        let body = parameters.write(Writer::default()).bytes(cookie.as_bytes()).u32(flags).done();
        let passed = self.opened().from_source(&call(PREPARE, body).write());
        passed.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|why| why.why)
    }

    /// What becomes of this description.
    pub(super) fn takes(&self, xml: &str) -> Result<String, String> {
        self.prepares(&parameters(xml), "", FLAGS)
    }

    /// What becomes of the description with a part of it replaced.
    pub(super) fn takes_with(&self, part: &str, other: &str) -> Result<String, String> {
        let xml = self.xml();
        assert!(xml.contains(part), "{part}");
        self.takes(&xml.replacen(part, other, 1))
    }
}

pub(super) fn parameters(xml: &str) -> Parameters {
    Parameters {
        destination_xml: Some(xml.to_owned()),
        migrate_uri: Some(MEMORY_URI.to_owned()),
        ..Parameters::default()
    }
}

fn frame(kind: u32, procedure: u32, status: u32, body: Vec<u8>) -> Frame {
    Frame { header: Header { program: REMOTE, procedure, kind, serial: procedure, status }, body }
}

fn call(procedure: u32, body: Vec<u8>) -> Frame {
    frame(CALL, procedure, 0, body)
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut frames, mut found) = (Frames::default(), Vec::new());
    frames.add(bytes);
    while let Some(frame) = frames.next().unwrap() {
        found.push(frame);
    }
    found
}

/// The recording with the paths of a rig: calls, and the answer to each.
fn recorded(rig: &Rig) -> Vec<(Frame, Frame)> {
    let answers = frames(include_bytes!("recorded/target"));
    let calls = frames(include_bytes!("recorded/source"));
    let calls = calls.into_iter().map(|mut call| {
        if matches!(call.header.procedure, PREPARE | FINISH) {
            call.body = moved(rig, &call);
        }
        call
    });
    let answer = |call: &Frame| {
        let found = answers.iter().find(|answer| answer.header.serial == call.header.serial);
        found.unwrap().clone()
    };
    calls.map(|call| (call.clone(), answer(&call))).collect()
}

/// The body of a call to prepare or finish with other paths.
fn moved(rig: &Rig, call: &Frame) -> Vec<u8> {
    let mut reader = Reader::new(&call.body);
    let mut parameters = Parameters::read(&mut reader).unwrap();
    parameters.destination_xml = parameters.destination_xml.map(|xml| rig.here(&xml));
    let cookie = String::from_utf8(reader.bytes(1 << 20).unwrap().to_vec()).unwrap();
    let cookie = rig.here(&cookie);
    let writer = parameters.write(Writer::default()).bytes(cookie.as_bytes());
    let writer = writer.u32(reader.u32().unwrap());
    if call.header.procedure == PREPARE {
        return writer.done();
    }
    writer.i32(reader.i32().unwrap()).done()
}

#[test]
fn a_recorded_migration_passes_on_both_sides_and_is_written_anew() {
    let rig = Rig::new();
    for here in [Some(rig.here.clone()), None] {
        let mut control = Control::new(rig.agreed.clone(), here);
        let mut passed = Vec::new();
        for (call, answer) in recorded(&rig) {
            let asked = control.from_source(&call.write()).unwrap_or_else(|why| panic!("{why}"));
            passed.push((call, frames(&asked).remove(0)));
            let said = control.from_target(&answer.write()).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(frames(&said)[0].header, answer.header);
        }
        let procedures: Vec<u32> = passed.iter().map(|(_, asked)| asked.header.procedure).collect();
        assert_eq!(procedures, [66, 60, 1, 60, 60, 360, 60, 60, 60, 303, 306, 361, 2]);
        let opened = &passed[2].1;
        assert_eq!(m::open(&opened.body), Ok((Some("qemu:///system"), 0)), "the flags are its own");
        for (call, asked) in passed.iter().filter(|(call, _)| call.header.procedure == FINISH) {
            assert_ne!(call.body, asked.body, "the description is written anew");
            let mut reader = Reader::new(&asked.body);
            let again = Parameters::read(&mut reader).unwrap();
            assert_eq!(again.destination_name.as_deref(), Some("big"));
            let cookie = String::from_utf8_lossy(reader.bytes(1 << 20).unwrap());
            assert!(
                cookie.contains("<domain type=\"kvm\">")
                    || cookie.contains("<domain type=\"qemu\">")
            );
        }
    }
}

#[test]
fn what_is_passed_on_says_what_was_said() {
    let rig = Rig::new();
    let described = |xml: &str| {
        let mut found = crate::xml::domain::describe(xml, true, &rig.here.storage, "").unwrap();
        // The words of it, spaces included.
        (found.facts.needs.cpu_definition, found.facts.needs.cpu_digest) = (None, None);
        found
    };
    let passed = rig.takes(&rig.xml()).unwrap();
    let start = passed.find("<domain").unwrap();
    let end = passed.find("</domain>").unwrap() + "</domain>".len();
    assert_eq!(described(&passed[start..end]), described(&rig.xml()));
    for kept in ["A title", "<a:b xmlns:a=\"urn:x\">", "org.qemu.guest_agent.0", "i6300esb"] {
        assert!(passed.contains(kept), "{kept}");
    }
}

#[test]
fn only_the_one_connection_is_opened_and_everything_has_its_turn() {
    let rig = Rig::new();
    let open = |uri: &str, flags: u32| {
        call(OPEN, Writer::default().maybe_text(Some(uri)).u32(flags).done())
    };
    let lists = || call(AUTH_LIST, vec![]);
    let opens = || open("qemu:///system", 0);
    let unnamed = call(OPEN, Writer::default().maybe_text(None).u32(0).done());
    for (name, said) in [
        ("a command", vec![lists(), open("qemu+ssh://x/system?command=/bin/sh", 0)]),
        ("a program", vec![lists(), open("qemu+ext://x/system?command=/bin/sh", 0)]),
        ("a socket", vec![lists(), open("qemu+unix:///system?socket=/x", 0)]),
        ("the other daemon", vec![lists(), open("qemu:///session", 0)]),
        ("a query", vec![lists(), open("qemu:///system?", 0)]),
        ("another driver", vec![lists(), open("test:///default", 0)]),
        ("no name", vec![lists(), unnamed]),
        ("read-only", vec![lists(), open("qemu:///system", 1)]),
        ("another flag", vec![lists(), open("qemu:///system", 8)]),
        ("before it asks how", vec![opens()]),
        ("twice", vec![lists(), opens(), opens()]),
        ("after the end", vec![lists(), opens(), call(CLOSE, vec![]), call(GET_URI, vec![])]),
        ("finish without prepare", vec![lists(), opens(), call(FINISH, vec![])]),
        ("an event", vec![lists(), frame(MESSAGE, GET_URI, 0, vec![])]),
        ("a reply", vec![lists(), frame(REPLY, AUTH_LIST, 0, vec![])]),
        ("a stream", vec![lists(), opens(), frame(3, PREPARE, 0, vec![])]),
        ("a call with a status", vec![frame(CALL, AUTH_LIST, 1, vec![])]),
        ("SASL", vec![lists(), call(68, vec![])]),
        ("a body that has none", vec![call(AUTH_LIST, vec![0; 4])]),
        (
            "one serial twice",
            vec![
                lists(),
                opens(),
                call(SUPPORTS_FEATURE, vec![0; 4]),
                call(SUPPORTS_FEATURE, vec![0; 4]),
            ],
        ),
    ] {
        let mut control = Control::new(rig.agreed.clone(), Some(rig.here.clone()));
        let (last, before) = said.split_last().unwrap();
        for frame in before {
            control.from_source(&frame.write()).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        let refused = control.from_source(&last.write()).expect_err(name);
        if last.header.kind == CALL {
            let answer = &frames(&refused.answer)[0];
            assert_eq!(answer.header, Header { kind: REPLY, status: 1, ..last.header });
            assert_eq!(Error::read(&answer.body).unwrap().message, refused.why);
        }
    }
}

#[test]
fn no_procedure_but_those_of_a_migration_passes() {
    let rig = Rig::new();
    let known = [2, 41, 60, 303, 360, 361];
    for procedure in (0..1000).filter(|procedure| !known.contains(procedure)) {
        let refused = rig.opened().from_source(&call(procedure, vec![0; 8]).write());
        assert!(refused.is_err(), "{procedure}");
    }
    for program in [0x2000_8087, 0x2000_8088, 0x0666_6666, 0] {
        let mut other = call(GET_URI, vec![]);
        other.header.program = program;
        assert!(rig.opened().from_source(&other.write()).is_err(), "{program:#x}");
    }
    let mut ping = frame(MESSAGE, 1, 0, vec![]);
    (ping.header.program, ping.header.serial) = (KEEPALIVE, 0);
    assert_eq!(rig.opened().from_source(&ping.write()).unwrap(), ping.write());
    ping.body = vec![0; 4];
    assert!(rig.opened().from_source(&ping.write()).is_err());
    let mut control = Control::new(rig.agreed.clone(), None);
    control.from_source(&call(AUTH_LIST, vec![]).write()).unwrap();
    let polkit = call(AUTH_POLKIT, vec![]).write();
    assert_eq!(control.from_source(&polkit).unwrap(), polkit, "where libvirt there asks for it");
}

#[test]
fn a_machine_is_prepared_once_with_the_sockets_and_flags_that_were_agreed_on() {
    let rig = Rig::new();
    let xml = rig.xml();
    let all = parameters(&xml);
    rig.prepares(&all, "", FLAGS).unwrap();
    let text = |text: &str| Some(text.to_owned());
    for (other, words) in [
        (Parameters { migrate_uri: text("tcp://192.0.2.9:9"), ..all.clone() }, "migrate_uri"),
        (Parameters { migrate_uri: text("unix:///run/x"), ..all.clone() }, "migrate_uri"),
        (Parameters { migrate_uri: text("exec:/bin/sh"), ..all.clone() }, "migrate_uri"),
        (Parameters { migrate_uri: None, ..all.clone() }, "migrate_uri"),
        (Parameters { disks_uri: text("unix:///tmp/nbd.sock"), ..all.clone() }, "disks_uri"),
        (Parameters { disks: vec!["vda".to_owned()], ..all.clone() }, "copies other disks"),
        (Parameters { destination_name: text("other"), ..all.clone() }, "another name"),
        (Parameters { destination_xml: None, ..all.clone() }, "describes no machine"),
        (Parameters { persistent_xml: text("<domain/>"), ..all.clone() }, "cannot be taken"),
    ] {
        let why = rig.prepares(&other, "", FLAGS).unwrap_err();
        assert!(why.contains(words), "{words}: {why}");
    }
    for flags in [FLAGS | 1 << 5, FLAGS | 1 << 6, FLAGS | 1 << 2, FLAGS & !1, 0, u32::MAX] {
        assert!(rig.prepares(&all, "", flags).unwrap_err().contains("flags"), "{flags:#x}");
    }
    let body = all.write(Writer::default()).bytes(b"").u32(FLAGS).done();
    let mut control = rig.opened();
    control.from_source(&call(PREPARE, body.clone()).write()).unwrap();
    let again = control.from_source(&call(PREPARE, body.clone()).write()).unwrap_err();
    assert!(again.why.contains("out of turn"), "{again}");
    // Not before the answer.
    let early = rig.opened().from_source(&call(FINISH, body).write()).unwrap_err();
    assert!(early.why.contains("out of turn"), "{early}");
}

#[test]
fn a_description_is_of_the_machine_that_was_agreed_on() {
    let rig = Rig::new();
    let other = MACHINE.replace('4', "5");
    let stamp =
        "<metadata><evenkeel:entry xmlns:evenkeel='https://evenkeel.dev/schedule/1' epoch='7'/>";
    for (part, with, words) in [
        (MACHINE, other.as_str(), "not `"),
        ("<name>big<", "<name>web<", "another name"),
        (">65536</memory>", ">131072</memory>", "64 MiB were agreed on"),
        (">2</vcpu>", ">3</vcpu>", "3 virtual CPUs"),
        ("<metadata>", stamp, "schedule entry"),
        ("<interface type='user'>", "<interface type='bridge'><source bridge='br9'/>", "br9"),
        ("c.raw", "../c.raw", "not listed"),
        ("<emulator>/usr/bin/", "<emulator>/tmp/", "no such emulator"),
    ] {
        let why = rig.takes_with(part, with).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[test]
fn a_description_names_no_file_of_the_host_but_what_it_may_have() {
    let mut rig = Rig::new();
    let shared = rig.path("shared");
    let outside = rig.path("outside");
    fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, format!("{shared}/link")).unwrap();
    std::os::unix::fs::symlink(rig.path("nowhere"), format!("{shared}/dangling")).unwrap();
    rig.here.taken = BTreeMap::from([
        (PathBuf::from(format!("{shared}/theirs")), true),
        (PathBuf::from(format!("{shared}/cd-of-all")), false),
    ]);
    fs::write(format!("{shared}/cd-of-all"), "").unwrap();
    let at = |name: &str| format!("{shared}/{name}");
    let logs = |path: &str| format!("<serial type='pty'><log file='{path}' append='on'/>");
    let serial = "<serial type='pty'>";
    for (part, with) in [
        (at("c.raw"), "/etc/shadow".to_owned()),
        (at("c.raw"), at("link")),
        (at("c.raw"), at("dangling")),
        (at("c.raw"), at("theirs")),
        (at("c.raw"), at("cd-of-all")),
        (at("cd.iso"), at("theirs")),
        (at("cd.iso"), "/etc/shadow".to_owned()),
        (serial.to_owned(), logs("/root/.ssh/authorized_keys")),
        (serial.to_owned(), logs(&at("log"))),
        (serial.to_owned(), "<serial type='unix'><source mode='bind' path='/run/x'/>".to_owned()),
        (serial.to_owned(), "<serial type='file'><source path='/etc/cron.d/x'/>".to_owned()),
        (format!("template='{}/OVMF_VARS.fd'", rig.path("firmware")), "template='/etc/shadow'".to_owned()),
        ("/var/lib/libvirt/qemu/nvram/big_VARS.fd".to_owned(), "/var/lib/libvirt/qemu/nvram/other_VARS.fd".to_owned()),
        ("/var/lib/libvirt/qemu/nvram/big_VARS.fd".to_owned(), "/etc/shadow".to_owned()),
        (format!("'>{}/OVMF_CODE.fd", rig.path("firmware")), "'>/etc/shadow".to_owned()),
        ("<loader readonly='yes'".to_owned(), "<loader readonly='no'".to_owned()),
        ("<loader readonly='yes'".to_owned(), "<loader".to_owned()),
        ("<boot dev='hd'/>".to_owned(), "<kernel>/boot/vmlinuz</kernel>".to_owned()),
        ("<boot dev='hd'/>".to_owned(), "<initrd>/etc/shadow</initrd>".to_owned()),
        ("<boot dev='hd'/>".to_owned(), "<acpi><table type='raw'>/etc/shadow</table></acpi>".to_owned()),
        ("<driver name='qemu' type='raw' cache='none'/>".to_owned(), "<driver name='qemu'/>".to_owned()),
        ("<backingStore/>".to_owned(), "<backingStore type='file'><format type='raw'/><source file='/etc/shadow'/></backingStore>".to_owned()),
    ] {
        assert!(rig.takes_with(&part, &with).is_err(), "{part} -> {with}");
    }
    // What all read, all may read.
    rig.takes_with(&at("cd.iso"), &at("cd-of-all")).unwrap();
    // Where the operator says so.
    rig.here.admission.directories.push(rig.dir.path().to_owned());
    rig.takes_with(serial, &logs(&rig.path("console.log"))).unwrap();
}

#[test]
fn a_disk_image_refers_to_nothing_outside_of_what_was_agreed_on() {
    let rig = Rig::new();
    let image = |backing: &str| {
        let mut bytes = vec![0; 104];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[8..16].copy_from_slice(&104_u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes.extend_from_slice(backing.as_bytes());
        fs::write(rig.path("shared/top.qcow2"), bytes).unwrap();
    };
    for backing in ["/etc/shadow", "../../etc/shadow", "nbd:unix:/run/x", "json:{\"file\":{}}"] {
        image(backing);
        let why = rig.takes(&rig.xml()).expect_err(backing);
        assert!(why.contains("disk image"), "{why}");
    }
    for backing in [rig.path("shared/c.raw"), "c.raw".to_owned()] {
        image(&backing);
        rig.takes(&rig.xml()).unwrap_or_else(|why| panic!("{backing}: {why}"));
    }
}

#[test]
fn what_needs_an_admission_is_let_in_with_it_and_refused_with_a_remedy_without() {
    let mut rig = Rig::new();
    let tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm><panic";
    let tcp = "<serial type='tcp'><source mode='bind' host='127.0.0.1' service='7'/>\
               <protocol type='raw'/></serial><panic";
    let label = "<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel>";
    for (part, with, key) in [
        ("<panic", tpm, "tpm"),
        ("<panic", tcp, "sockets"),
        ("</domain>", &format!("{label}</domain>"), "seclabel"),
        (
            "<vcpu ",
            "<cputune><vcpusched vcpus='0' scheduler='fifo' priority='9'/></cputune><vcpu ",
            "realtime",
        ),
    ] {
        let why = rig.takes_with(part, with).expect_err(key);
        assert!(why.contains(&format!("`{key}` is in `migration.admit`")), "{why}");
        rig.here.admission.keys.insert(key.to_owned());
        rig.takes_with(part, with).unwrap_or_else(|why| panic!("{key}: {why}"));
        rig.here.admission.keys.remove(key);
    }
    // Labels that libvirt has made up over there mean nothing here.
    let dynamic =
        "<seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label></seclabel>";
    let passed = rig.takes_with("</domain>", &format!("{dynamic}</domain>")).unwrap();
    assert!(!passed.contains("+0:+0"), "{passed}");
}

#[test]
fn a_cookie_holds_nothing_but_what_is_listed() {
    let rig = Rig::new();
    let cookie = |more: &str| {
        format!(
            "<qemu-migration><name>big</name><uuid>{MACHINE}</uuid><hostname>h1</hostname>\
                 <hostuuid>{MACHINE}</hostuuid>{more}</qemu-migration>"
        )
    };
    let prepares = |cookie: &str| rig.prepares(&parameters(&rig.xml()), cookie, FLAGS);
    let definition = rig.xml();
    prepares(&cookie(&format!("<feature name='persistent'/>{definition}"))).unwrap();
    let evil =
        definition.replacen("<serial type='pty'>", "<serial type='file'><source path='/x'/>", 1);
    let double = format!("{definition}{definition}");
    for (more, words) in [
        (evil.as_str(), "definition in its cookie"),
        (&double, "two definitions"),
        ("<nbd port='1'/>", "nbd"),
        ("<script>x</script>", "script"),
        ("<graphics type='vnc' port='1' listen='h; rm'/>", "listen"),
        (
            "<network><interface index='0' vporttype='openvswitch'><portdata>a b</portdata></interface></network>",
            "portdata",
        ),
        ("<name>big</name>", "more often"),
        ("<feature name='tls'/>", "feature"),
    ] {
        let why = prepares(&cookie(more)).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }
    assert!(prepares(&cookie("").replace("big", "web")).unwrap_err().contains("of machine"));
    assert!(prepares("<domain/>").unwrap_err().contains("is a `domain`"));
    let body = parameters(&rig.xml()).write(Writer::default());
    let body = body.bytes(b"<qemu-migration>").u32(FLAGS).done();
    let unended = rig.opened().from_source(&call(PREPARE, body).write()).unwrap_err();
    assert!(unended.why.contains("no end"), "{unended}");
}

/// What the source's libvirt hears of an answer to a call.
fn hears(calls: &[Frame], answer: &Frame) -> Result<Frame, String> {
    let mut rig = Rig::new();
    rig.agreed.name = None;
    let mut control = Control::new(rig.agreed.clone(), None);
    for call in calls {
        control.from_source(&call.write()).unwrap();
    }
    control.from_target(&answer.write()).map(|bytes| frames(&bytes).remove(0)).map_err(|r| r.why)
}

#[test]
fn a_target_cannot_have_memory_sent_elsewhere() {
    let rig = Rig::new();
    let body = parameters(&rig.xml()).write(Writer::default()).bytes(b"").u32(FLAGS).done();
    let calls =
        [call(AUTH_LIST, vec![]), call(OPEN, m::open_body("qemu:///system")), call(PREPARE, body)];
    let answer = |uri: Option<&str>, cookie: &[u8]| {
        frame(REPLY, PREPARE, 0, Writer::default().bytes(cookie).maybe_text(uri).done())
    };
    hears(&calls, &answer(None, b"")).unwrap();
    hears(&calls, &answer(Some(MEMORY_URI), b"")).unwrap();
    for uri in ["tcp://192.0.2.9:4444", "unix:///run/other", "", "rdma:x", "fd:3"] {
        let why = hears(&calls, &answer(Some(uri), b"")).expect_err(uri);
        assert!(why.contains("wants the memory"), "{why}");
    }
    for cookie in
        [&b"<x/>\0"[..], b"<qemu-migration>", b"<qemu-migration><nbd port='1'/></qemu-migration>\0"]
    {
        assert!(hears(&calls, &answer(None, cookie)).is_err());
    }
}

#[test]
fn a_target_answers_only_what_was_asked_and_in_words_that_are_safe() {
    let lists = [call(AUTH_LIST, vec![])];
    let ways = |ways: &[i32]| frame(REPLY, AUTH_LIST, 0, m::ways_body(ways));
    assert_eq!(hears(&lists, &ways(&[1, 2])).unwrap().body, m::ways_body(&[2]));
    assert!(hears(&lists, &ways(&[1])).unwrap_err().contains("password"));
    let error = Error { message: "\u{1b}]0;owned\u{7}no".to_owned(), ..Error::denied("") };
    let heard = hears(&lists, &frame(REPLY, AUTH_LIST, 1, error.body())).unwrap();
    assert_eq!(Error::read(&heard.body).unwrap().message, " ]0;owned no");
    let opens =
        [lists[0].clone(), call(OPEN, m::open_body("qemu:///system")), call(GET_URI, vec![])];
    let says = frame(REPLY, GET_URI, 0, m::text_body("qemu+ssh://evil/"));
    assert_eq!(hears(&opens, &says).unwrap().body, m::text_body("qemu:///system"));
    for answer in [
        frame(REPLY, OPEN, 0, vec![]),
        frame(REPLY, AUTH_LIST, 2, vec![]),
        frame(CALL, AUTH_LIST, 0, vec![]),
        frame(MESSAGE, 318, 0, vec![0; 8]),
        frame(3, AUTH_LIST, 0, vec![]),
        frame(REPLY, AUTH_LIST, 0, vec![0xff; 8]),
        frame(REPLY, AUTH_LIST, 1, vec![0xff; 64]),
        frame(REPLY, REGISTER_CLOSE, 0, vec![]),
    ] {
        assert!(hears(&lists, &answer).is_err(), "{answer:?}");
    }
    let closed = frame(MESSAGE, 363, 0, m::number_body(1));
    assert_eq!(hears(&lists, &closed).as_ref(), Ok(&closed));
}

#[test]
fn the_sockets_of_a_handoff_are_found_from_either_side() {
    let sockets = Sockets::of(Path::new("/run/evenkeel/handoffs"), HandoffId(0xab));
    let dir = "/run/evenkeel/handoffs/00000000000000ab";
    for (uri, announced, destination) in [
        ("qemu:///system", "qemu+evenkeel:///system", "qemu+unix:///system"),
        ("qemu+unix:///session?socket=/x/y", "qemu+evenkeel:///session", "qemu+unix:///session"),
        ("qemu+unix:///system?mode=direct", "qemu+evenkeel:///system", "qemu+unix:///system"),
    ] {
        assert_eq!(carried_uri(uri), announced);
        assert!(is_carried(announced) && !is_carried(uri));
        let want = format!("{destination}?socket={dir}/control");
        assert_eq!(sockets.destination(announced), want);
    }
    assert_eq!(sockets.migrate_uri(), format!("unix://{dir}/memory"));
    assert_eq!(sockets.disks_uri(), format!("unix://{dir}/disks"));
    assert_eq!(socket_of("qemu+unix:///session?socket=/x/y"), Some("/x/y".into()));
}

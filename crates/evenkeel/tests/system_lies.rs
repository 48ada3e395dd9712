//! A member that lies as the source of machines, before hosts as they are installed: their agents under the
//! shipped unit, libvirt in system mode as root. See `docs/security.md`.
//!
//! Every case is refused: libvirt has no other machine than before, no file of the host is touched, no
//! process was started, and the member is named. With `EVENKEEL_BEFORE`, the program of an earlier version,
//! these tests show what that let through: see `scripts/lies-before`.

#![expect(clippy::print_stdout, reason = "the cases are what `--nocapture` shows")]

mod hosts;
mod liar;
mod skips;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use evenkeel_core::message::{Message, Pass};
use evenkeel_core::port::HandoffId;
use hosts::Hosts;
use liar::frames::{self, AUTH_LIST, Frame, REMOTE, numbers, text};
use liar::lies::{self, IMAGES, Lie, Saying};
use liar::{Channel, Liar, Machine};

/// Who is lied to, and who lies.
const TARGET: usize = 2;
const SOURCE: usize = 3;
/// How long libvirt may take to clear up.
const CLEARS_UP: Duration = Duration::from_secs(10);
const BYSTANDER: &str = "bystander";
/// A machine that is nobody's business but its host's.
const BYSTANDER_XML: &str = "<domain type='qemu'><name>bystander</name>\
    <uuid>7e570000-0000-4000-8000-000000000001</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><devices>\
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>\
    <source file='/srv/rig/images/bystander.raw'/><target dev='vda' bus='virtio'/></disk>\
    <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>";
/// What a host writes by itself.
const OWN: &[&str] = &[
    "/var/lib/evenkeel",
    "/var/log",
    "/var/cache/libvirt",
    "/var/lib/systemd",
    "/var/lib/libvirt/qemu/domain-",
    "/root/before",
];

/// A host with a machine and files that others must not touch, and a member that lies to it.
struct Stage {
    hosts: Hosts,
    liar: Liar,
    /// The member has been named so often.
    accused: u64,
    /// What was not refused, or by nobody's name.
    harm: Vec<String>,
    unnamed: Vec<String>,
    before: bool,
}

impl Stage {
    fn set() -> Option<Self> {
        let before = std::env::var_os("EVENKEEL_BEFORE").map(PathBuf::from);
        let hosts = match &before {
            Some(program) => Hosts::with_program(program, "")?,
            None => Hosts::up("")?,
        };
        prepare_files(&hosts);
        hosts.host(TARGET).write("/root/bystander.xml", BYSTANDER_XML).expect("written");
        hosts.virsh(TARGET, &["define", "/root/bystander.xml"]);
        hosts.virsh(TARGET, &["start", BYSTANDER]);
        let liar = Liar::in_place_of(&hosts, SOURCE);
        hosts.must(TARGET, &["touch", "/root/before"]);
        let before = before.is_some();
        Some(Self { hosts, liar, accused: 0, harm: Vec::new(), unnamed: Vec::new(), before })
    }

    /// A connection to libvirt for a handoff that was agreed on.
    fn connect(&mut self, machine: &Machine) -> (HandoffId, Conversation) {
        let handoff = self.liar.reserve(TARGET, machine);
        let handoff = handoff.unwrap_or_else(|why| panic!("{}: {why:?}", machine.name));
        let control = self.liar.open(TARGET, Channel::Control, handoff);
        (handoff, Conversation(control.unwrap_or_else(|why| panic!("{why}"))))
    }

    /// Says all of this over a connection of its own for this machine, and sees that the last of it is
    /// refused.
    fn says(&mut self, name: &str, machine: &Machine, calls: impl FnOnce(HandoffId) -> Vec<Frame>) {
        println!("{name}");
        let (handoff, mut control) = self.connect(machine);
        let answered = calls(handoff).iter().map(|call| control.ask(call)).last().flatten();
        if let Some(answer) = answered.filter(|answer| answer.status == 0) {
            self.harm.push(format!("{name}: answered with {} bytes", answer.body.len()));
        }
        drop(control);
        self.judge(name);
        self.liar.cancel(TARGET, handoff, machine);
    }

    /// What libvirt has that it had not. It clears up after a connection only once that has ended.
    fn left_over(&self) -> Vec<String> {
        let limit = Instant::now() + CLEARS_UP;
        loop {
            let all = self.hosts.virsh(TARGET, &["list", "--all", "--name"]);
            let names = all.lines().map(str::trim).filter(|name| !name.is_empty());
            let others: Vec<_> =
                names.filter(|name| *name != BYSTANDER).map(str::to_owned).collect();
            if others.is_empty() || Instant::now() >= limit {
                return others;
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Whether libvirt has what it had, and the member was named again.
    fn judge(&mut self, name: &str) {
        for other in self.left_over() {
            self.harm.push(format!("{name}: libvirt has `{other}`"));
        }
        let (accused, why) = accused(&self.hosts, TARGET, SOURCE);
        if accused <= self.accused {
            self.unnamed.push(name.to_owned());
        }
        // What is true of it is no reason.
        if why.contains("schedule entry") && !name.contains("epoch") && !name.contains("held") {
            self.harm.push(format!("{name}: refused for another reason: {why}"));
        }
        self.accused = accused;
    }

    /// Each of these is refused.
    fn are_refused(&mut self, lies: Vec<Lie>) {
        for lie in lies {
            let mut machine = Machine::new();
            if let Some(told) = lie.told {
                told(&mut machine.needs);
            }
            let honest = machine.clone();
            self.says(&lie.name, &machine, move |handoff| {
                let mut saying = Saying::of(&honest, handoff);
                (lie.change)(&honest, &mut saying);
                vec![auth_list(), frames::open("qemu:///system", 0), saying.call()]
            });
        }
    }

    /// Nothing of the host was touched.
    fn ends_unharmed(mut self) {
        let state = self.hosts.virsh(TARGET, &["domstate", BYSTANDER]);
        if state.trim() != "running" {
            self.harm.push(format!("the bystander is {}", state.trim()));
        }
        self.harm.extend(touched(&self.hosts));
        let qemus = self.hosts.must(TARGET, &["ps", "-C", "qemu-system-x86_64", "-o", "user:20="]);
        if qemus.trim() != "libvirt-qemu" {
            self.harm.push(format!("QEMUs of other users, or more of them: {qemus:?}"));
        }
        let said = |all: &[String]| all.iter().map(|one| format!("  {one}\n")).collect::<String>();
        if self.before {
            println!("{} cases harmed this version:\n{}", self.harm.len(), said(&self.harm));
        }
        assert!(self.harm.is_empty(), "not refused:\n{}", said(&self.harm));
        assert!(self.unnamed.is_empty(), "refused without a name:\n{}", said(&self.unnamed));
    }
}

/// How often a host has named another one, and why it did last.
fn accused(hosts: &Hosts, at: usize, whom: usize) -> (u64, String) {
    let status = hosts.evenkeel(at, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    let mut all = status["accused"].as_array().into_iter().flatten();
    let found = all.find(|accused| accused["host"] == format!("kvm{whom}"));
    let of = |found: &serde_json::Value| {
        (found["times"].as_u64().unwrap_or(0), found["last"].as_str().unwrap_or("").to_owned())
    };
    found.map(of).unwrap_or_default()
}

/// A conversation with a libvirt behind an agent.
struct Conversation(std::os::unix::net::UnixStream);

impl Conversation {
    /// Asks, and waits for the answer; nothing if the connection is cut instead.
    fn ask(&mut self, call: &Frame) -> Option<Frame> {
        call.write(&mut self.0).ok()?;
        loop {
            let frame = Frame::read(&mut self.0).ok()?;
            if frame.program == REMOTE {
                return Some(frame);
            }
        }
    }
}

fn auth_list() -> Frame {
    Frame::call(AUTH_LIST, Vec::new())
}

/// Files of the host, and what lies on the storage that a member can write to.
fn prepare_files(hosts: &Hosts) {
    let script = format!(
        "set -e; umask 077; echo secret > /root/secret.img; truncate -s 1M /root/secret.img; \
         mkdir -p /srv/local; echo secret > /srv/local/secret.img; truncate -s 1M /srv/local/secret.img; \
         cd {IMAGES}; umask 0; truncate -s 1M good.raw bystander.raw; \
         qemu-img create -q -f qcow2 good.qcow2 1M; \
         qemu-img create -q -f qcow2 -u -b /root/secret.img -F raw evil.qcow2 1M; \
         qemu-img create -q -f qcow2 -u -b 'json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\
         \"filename\":\"/root/secret.img\"}}}}' -F raw json.qcow2 1M; \
         qemu-img create -q -f qcow2 -o data_file={IMAGES}/outside.raw data.qcow2 1M; \
         ln -s /root/secret.img link.img"
    );
    hosts.must(TARGET, &["bash", "-c", &script]);
    for (pool, dir) in [("local", "/srv/local"), ("shared", IMAGES)] {
        hosts.virsh(TARGET, &["pool-create-as", pool, "dir", "--target", dir]);
    }
}

/// What has changed on the host since the member came, but for what the host writes by itself.
fn touched(hosts: &Hosts) -> Vec<String> {
    let written = hosts.host(TARGET).written();
    let since = written.join("root/before");
    let images = hosts.rig().shared().join("images");
    let mut find = Command::new("find");
    find.args([&written, &images]).arg("-newercm").arg(since).args(["!", "-type", "d"]);
    let found = find.output().expect("find starts");
    assert!(found.status.success(), "{found:?}");
    let all = String::from_utf8_lossy(&found.stdout).into_owned();
    let inside = |path: &str| path.replacen(&written.display().to_string(), "", 1);
    let own = |path: &String| OWN.iter().any(|own| path.starts_with(own));
    let all: BTreeSet<String> = all.lines().map(inside).filter(|path| !own(path)).collect();
    all.into_iter().map(|path| format!("`{path}` was touched")).collect()
}

#[test]
fn what_is_agreed_on_is_prepared_and_nothing_else_is_opened_or_called() {
    let Some(mut stage) = Stage::set() else { return };
    let machine = Machine::new();
    let (handoff, mut control) = stage.connect(&machine);
    let truth =
        [auth_list(), frames::open("qemu:///system", 0), Saying::of(&machine, handoff).call()];
    for call in truth {
        let answer = control.ask(&call).expect("an answer");
        assert_eq!(answer.status, 0, "{}", String::from_utf8_lossy(&answer.body));
    }
    assert_eq!(accused(&stage.hosts, TARGET, SOURCE), (0, String::new()));
    stage.hosts.virsh(TARGET, &["domid", &machine.name]);
    // Its own machine it may destroy, and nothing is left of it.
    drop(control);
    stage.liar.cancel(TARGET, handoff, &machine);
    stage.hosts.until("nothing of it is left", || {
        let all = stage.hosts.virsh(TARGET, &["list", "--all", "--name"]);
        if all.contains(&machine.name) { Err(all) } else { Ok(()) }
    });
    opens(&mut stage);
    calls(&mut stage);
    finishes(&mut stage);
    stage.ends_unharmed();
}

fn opens(stage: &mut Stage) {
    let shell = "-Sbash%20-c%20%27id%20%3E%20/root/PWNED%27";
    let uris = [
        format!("qemu+ssh://x/system?command=/usr/bin/env&keyfile={shell}"),
        "qemu+ext:///system?command=/root/program".to_owned(),
        "qemu+libssh2://127.0.0.1/system?known_hosts=/root/x".to_owned(),
        "qemu+unix:///system?socket=/run/x".to_owned(),
        "qemu+tls://127.0.0.1/system?pkipath=/root".to_owned(),
        "qemu:///system?log=/root/x".to_owned(),
        "qemu:///system#x".to_owned(),
        "qemu:///system ".to_owned(),
        "QEMU:///system".to_owned(),
        "qemu:///session".to_owned(),
        "qemu:///embed?root=/root/embedded".to_owned(),
        "qemu:///".to_owned(),
        "test:///default".to_owned(),
        "test:////etc/shadow".to_owned(),
        "lxc:///system".to_owned(),
        "interface:///system".to_owned(),
        "storage:///system".to_owned(),
        "secret:///system".to_owned(),
        String::new(),
    ];
    for uri in uris {
        let calls = |_| vec![auth_list(), frames::open(&uri, 0)];
        stage.says(&format!("opens `{uri}`"), &Machine::new(), calls);
    }
    let open = || frames::open("qemu:///system", 0);
    let nobody = Frame::call(frames::OPEN, numbers([0, 0]));
    for (name, calls) in [
        ("opens nothing in particular", vec![auth_list(), nobody]),
        ("opens before it asks how", vec![open()]),
        ("opens to read", vec![auth_list(), frames::open("qemu:///system", 1)]),
        ("opens with an unknown flag", vec![auth_list(), frames::open("qemu:///system", 1 << 9)]),
        ("opens twice", vec![auth_list(), open(), open()]),
        ("authenticates by SASL", vec![auth_list(), Frame::call(67, Vec::new())]),
    ] {
        stage.says(name, &Machine::new(), |_| calls);
    }
}

/// Everything that libvirt's main program, QEMU's and others have, as far as a call can be begun.
fn calls(stage: &mut Stage) {
    let known = [2, 41, 60, 360, 361];
    // To create, define, destroy, look up and save; to open consoles and files of guests; storage,
    // networks, filters, secrets; streams; other ways to migrate.
    let calls = [
        3, 5, 7, 9, 10, 11, 12, 13, 14, 16, 18, 21, 22, 23, 24, 25, 27, 33, 35, 37, 44, 48, 52, 56,
        57, 68, 72, 74, 77, 80, 87, 91, 92, 99, 105, 109, 118, 124, 136, 141, 149, 155, 163, 173,
        176, 181, 186, 196, 201, 208, 209, 211, 212, 216, 222, 235, 240, 253, 258, 267, 273, 280,
        284, 292, 299, 300, 301, 302, 304, 305, 316, 330, 345, 350, 365, 380, 400, 420, 440, 1000,
    ];
    let opened = || vec![auth_list(), frames::open("qemu:///system", 0)];
    for procedure in calls.into_iter().filter(|procedure| !known.contains(procedure)) {
        let call = Frame::call(procedure, [text(BYSTANDER), vec![0; 64]].concat());
        let name = format!("calls procedure {procedure}");
        stage.says(&name, &Machine::new(), |_| [opened(), vec![call]].concat());
    }
    // QEMU's monitor, LXC, the administration of libvirt, keepalives that are none.
    for program in [0x2000_8087, 0x2000_8088, 0x0666_6666, 0x6b65_6570, 0] {
        let call = Frame { program, ..Frame::call(1, text(BYSTANDER)) };
        let name = format!("calls program {program:#x}");
        stage.says(&name, &Machine::new(), |_| [opened(), vec![call]].concat());
    }
    // What is no call: an answer, an event, data of a stream.
    for kind in 1..=5 {
        let frame = Frame { kind, ..Frame::call(frames::PREPARE, vec![0; 32]) };
        let name = format!("sends a frame of type {kind}");
        stage.says(&name, &Machine::new(), |_| [opened(), vec![frame]].concat());
    }
}

/// What finishes a migration, of whatever machine, when none was prepared; and streams that nobody has.
fn finishes(stage: &mut Stage) {
    let opened = || vec![auth_list(), frames::open("qemu:///system", 0)];
    let of = |machine: &Machine| {
        let xml = lies::xml(machine, HandoffId(0));
        let all = [("destination_name", BYSTANDER.to_owned()), ("destination_xml", xml)];
        [frames::finish(&all[..1], lies::FLAGS, 0), frames::finish(&all, lies::FLAGS, 1)]
    };
    let machine = Machine::new();
    for finish in of(&machine) {
        stage.says("finishes what was not prepared", &machine, |_| {
            [opened(), vec![finish]].concat()
        });
    }
    let machine = Machine::new();
    let [finish, _] = of(&machine);
    stage.says("finishes another machine than it has prepared", &machine.clone(), |handoff| {
        [opened(), vec![Saying::of(&machine, handoff).call(), finish]].concat()
    });
    let machine = Machine::new();
    stage.says("prepares twice", &machine.clone(), |handoff| {
        let prepare = Saying::of(&machine, handoff).call();
        [opened(), vec![prepare.clone(), prepare]].concat()
    });
    // Other streams: for nothing, for a handoff that is not there, for one that is another's.
    let machine = Machine::new();
    let handoff = stage.liar.reserve(TARGET, &machine).expect("there is room");
    let unknown = HandoffId(stage.liar.fresh());
    for (channel, handoff) in [
        (Channel::Memory, handoff),
        (Channel::Disks, handoff),
        (Channel::Control, unknown),
        (Channel::Memory, unknown),
    ] {
        if stage.liar.open(TARGET, channel, handoff).is_ok() {
            stage.harm.push(format!("{channel:?} of {handoff} was let in"));
        }
    }
    for request in [Vec::new(), vec![0; 9], vec![9; 64], b"/run/libvirt/libvirt-sock".to_vec()] {
        if stage.liar.request(TARGET, request.clone()).is_ok() {
            stage.harm.push(format!("a stream of {request:?} was let in"));
        }
    }
    stage.liar.cancel(TARGET, handoff, &machine);
}

#[test]
fn a_machine_names_nothing_of_its_host_but_what_was_agreed_on() {
    let Some(mut stage) = Stage::set() else { return };
    stage.are_refused(lies::files());
    stage.are_refused(lies::disks());
    stage.are_refused(lies::claims());
    stage.are_refused(lies::terms());
    stage.ends_unharmed();
}

#[test]
fn a_member_speaks_of_no_machine_and_no_handoff_but_its_own() {
    let Some(stage) = Stage::set() else { return };
    // A machine that is here, by its id and by the id of a handoff that is known.
    let there =
        Machine { uuid: "7e570000-0000-4000-8000-000000000001".to_owned(), ..Machine::new() };
    let refused = stage.liar.reserve(TARGET, &there).expect_err("it is here");
    assert!(
        matches!(&refused, Pass::Refused { reason, .. } if reason.code() == "ALREADY_HERE"),
        "{refused:?}"
    );
    let machine = there.id();
    let handoff = HandoffId(stage.liar.fresh());
    for pass in [
        Pass::Cancel {
            reason: evenkeel_core::decision::Reason::MigrationFailed,
            machine: Some(machine.clone()),
        },
        Pass::Released {
            machine: machine.clone(),
            stats: evenkeel_core::port::MigrationStats::default(),
            autostart: Some(true),
            unanswered: None,
        },
        Pass::Holding { machine: machine.clone(), ticket: None },
        Pass::Claimed,
        Pass::Discarded,
        Pass::Where { machine },
    ] {
        stage.liar.say(TARGET, &Message::Handoff(handoff, pass));
    }
    // It has heard all of that once it answers what came after it.
    let machine = Machine::new();
    let handoff = stage.liar.reserve(TARGET, &machine).expect("there is room");
    stage.liar.cancel(TARGET, handoff, &machine);
    stage.ends_unharmed();
}

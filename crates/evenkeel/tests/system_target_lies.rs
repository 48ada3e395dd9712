//! A member that lies as the target of a machine, to a host as it is installed: its agent under the shipped
//! unit, libvirt in system mode as root. See `docs/security.md`.
//!
//! Behind the member is its real libvirt: what it says is the truth up to the lie. Whatever it is, the
//! machine runs on where it is, and nothing is opened or sent elsewhere.

#![expect(clippy::print_stdout, reason = "the cases are what `--nocapture` shows")]

mod hosts;
mod liar;
mod skips;

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use evenkeel_core::decision::Reason;
use evenkeel_core::message::{Message, PROTOCOL, Pass, Quote, Room, Standing, Talk};
use evenkeel_core::model::{DiskPlace, Resources};
use evenkeel_core::port::{HandoffId, MigrationStats};
use evenkeel_net::Caller;
use hosts::Hosts;
use liar::frames::{AUTH_LIST, CALL, FINISH, Frame, OPEN, PREPARE, REPLY, bytes, numbers, text};
use liar::{Liar, Machine, lies, report};

const SOURCE: usize = 1;
const TARGET: usize = 3;
const MACHINE: &str = "web";
const UUID: &str = "7e570000-0000-4000-8000-000000000007";
/// Where nothing of the machine may ever come.
const TRAP: u16 = 4444;
/// How often a lie is told until it is heard.
const ATTEMPTS: usize = 5;
const LIBVIRT: &str = "/run/libvirt/libvirt-sock";

type Answer = Arc<dyn Fn(&mut Frame) -> Vec<u8> + Send + Sync>;

/// What the member does instead of what it should.
#[derive(Clone)]
enum Lie {
    /// It says that it is reached otherwise.
    Reached(String),
    /// It answers a call of this procedure otherwise.
    Answers(u32, Answer),
    /// It says something else in place of *Reserved*.
    Says(Pass),
}

struct Stage {
    hosts: Hosts,
    liar: Liar,
    trap: TcpListener,
    accused: u64,
    wrong: Vec<String>,
}

impl Stage {
    fn set() -> Option<Self> {
        let hosts = match std::env::var_os("EVENKEEL_BEFORE").map(PathBuf::from) {
            Some(program) => Hosts::with_program(&program, "")?,
            None => Hosts::up("")?,
        };
        let machine = Machine { uuid: UUID.to_owned(), name: MACHINE.to_owned(), ..Machine::new() };
        let xml = lies::xml(&machine, HandoffId(0));
        let (start, end) = (xml.find("<metadata>"), xml.find("</metadata>"));
        let (start, end) = (start.expect("one"), end.expect("one") + "</metadata>".len());
        let plain = format!("{}{}", &xml[..start], &xml[end..]);
        hosts.host(SOURCE).write("/root/web.xml", &plain).expect("written");
        hosts.virsh(SOURCE, &["define", "/root/web.xml"]);
        hosts.virsh(SOURCE, &["start", MACHINE]);
        let liar = Liar::in_place_of(&hosts, TARGET);
        let trap = liar.listen(TRAP);
        trap.set_nonblocking(true).expect("it can be");
        Some(Self { hosts, liar, trap, accused: 0, wrong: Vec::new() })
    }

    /// Has the source migrate its machine to the member, which lies.
    fn tells(&mut self, name: &str, lie: &Lie, is_named: bool) {
        let (wrong, moved) = (0..ATTEMPTS)
            .map(|_| self.attempt(name, lie))
            // Where this machine is busy, the lie was not heard in time.
            .find(|(_, moved)| !is_named || !moved.stderr.contains("TIMED_OUT"))
            .unwrap_or_else(|| panic!("{name}: the source does not get as far"));
        self.wrong.extend(wrong);
        self.judge(&format!("{name} ({})", moved.stderr.trim()), is_named);
    }

    fn attempt(&self, name: &str, lie: &Lie) -> (Vec<String>, evenkeel_rig::Output) {
        thread::scope(|scope| {
            let (hosts, mut wrong) = (&self.hosts, Vec::new());
            let moving = scope.spawn(move || hosts.try_migrate(MACHINE, SOURCE, 3));
            while !moving.is_finished() {
                self.serve(lie, scope);
            }
            let moved = moving.join().expect("it does not panic");
            if moved.success {
                wrong.push(format!("{name}: it was moved: {moved:?}"));
            }
            // What is left to be said of it.
            let idle = (0..200).any(|_| {
                self.serve(lie, scope);
                let status = hosts.evenkeel(SOURCE, &["status", "--format", "json"]).stdout;
                status.contains("\"handoffs\": []") || status.contains("\"handoffs\":[]")
            });
            if !idle {
                wrong.push(format!("{name}: the handoff does not end"));
            }
            (wrong, moved)
        })
    }

    /// Answers what is asked, with the lie where it belongs.
    fn serve<'s>(&'s self, lie: &Lie, scope: &'s thread::Scope<'s, '_>) {
        while let Some(caller) = self.liar.caller(Duration::ZERO) {
            self.call(caller, lie, scope);
        }
        let Some((from, message)) = self.liar.next_said(Duration::from_millis(20)) else { return };
        if from.as_str() != "kvm1" {
            return;
        }
        let answer = match message {
            Message::Exchange(id, Talk::Probe(_)) => Message::Exchange(id, standing()),
            Message::Exchange(id, Talk::Inquire(..)) => {
                let (reason, detail) = (Reason::Busy, String::new());
                Message::Exchange(id, Talk::Decline { reason, detail, report: None })
            }
            Message::Exchange(id, Talk::Offer { candidates, .. }) => {
                let quote = Quote { at_receiver: 0.01, refusal: None, detail: None };
                let quotes = vec![quote; candidates.len()];
                Message::Exchange(id, Talk::Quotes { report: report(0.01), quotes })
            }
            Message::Handoff(handoff, Pass::Reserve { machine, ticket, .. }) => {
                let uri = match lie {
                    Lie::Reached(uri) => uri.clone(),
                    _ => "qemu+evenkeel:///system".to_owned(),
                };
                let machine = Some(machine);
                let reserved =
                    Pass::Reserved { uri, protocol: Some(PROTOCOL), ticket, machine, disks: None };
                let pass = if let Lie::Says(pass) = lie { pass.clone() } else { reserved };
                Message::Handoff(handoff, pass)
            }
            // It was believed: the test says so, and goes on.
            Message::Handoff(id, Pass::Released { .. }) => Message::Handoff(id, Pass::Claimed),
            Message::Handoff(id, Pass::Where { .. }) => Message::Handoff(id, Pass::Missing),
            Message::Handoff(id, Pass::Cancel { .. }) => Message::Handoff(id, Pass::Discarded),
            _ => return,
        };
        self.liar.say(SOURCE, &answer);
    }

    /// Takes a stream: libvirt's goes to libvirt here, through the lie, and memory to QEMU.
    fn call<'s>(&'s self, caller: Caller, lie: &Lie, scope: &'s thread::Scope<'s, '_>) {
        let (kind, handoff) = caller.request.split_first().expect("a request");
        let handoff = u64::from_be_bytes(handoff.try_into().expect("an id"));
        let dir = format!("/run/evenkeel/handoffs/{}", HandoffId(handoff));
        let seen = |path: &str| self.hosts.host(TARGET).seen_from_outside(path).expect("it is on");
        if *kind != 1 {
            match UnixStream::connect(seen(&format!("{dir}/memory"))) {
                Ok(socket) => self.liar.join(caller, socket),
                Err(_) => drop(caller),
            }
            return;
        }
        let script = format!("mkdir -p {dir} && chgrp libvirt-qemu {dir} && chmod 770 {dir}");
        self.hosts.must(TARGET, &["bash", "-c", &script]);
        let theirs = self.liar.take(caller);
        let ours = UnixStream::connect(seen(LIBVIRT)).expect("libvirt listens");
        let (mut asks, mut asked) =
            (theirs.try_clone().expect("a copy"), ours.try_clone().expect("a copy"));
        scope.spawn(move || {
            while let Ok(frame) = Frame::read(&mut asks) {
                if frame.write(&mut asked).is_err() {
                    break;
                }
            }
            let _ = asked.shutdown(std::net::Shutdown::Both);
        });
        let lie = lie.clone();
        scope.spawn(move || {
            let (mut answers, mut answered) = (ours, theirs);
            while let Ok(mut frame) = Frame::read(&mut answers) {
                let said = match &lie {
                    Lie::Answers(procedure, answer)
                        if frame.procedure == *procedure && frame.kind == REPLY =>
                    {
                        answer(&mut frame)
                    }
                    _ => frame.bytes(),
                };
                if std::io::Write::write_all(&mut answered, &said).is_err() {
                    break;
                }
            }
            let _ = answered.shutdown(std::net::Shutdown::Both);
        });
    }

    /// The machine runs where it was, nothing has come elsewhere, and the member is named if it is to be.
    fn judge(&mut self, name: &str, is_named: bool) {
        println!("{name}");
        let state = self.hosts.host(SOURCE).run(&["virsh", "domstate", MACHINE]).expect("it runs");
        if state.stdout.trim() != "running" {
            self.wrong.push(format!("{name}: at the source it is {state:?}"));
            // The next lie needs it.
            self.hosts.must(SOURCE, &["bash", "-c", "virsh define /root/web.xml; virsh start web"]);
        }
        if self.trap.accept().is_ok() {
            self.wrong.push(format!("{name}: something was sent to the trap"));
        }
        let accused = times_accused(&self.hosts);
        if is_named && accused <= self.accused {
            self.wrong.push(format!("{name}: nobody is named"));
        }
        self.accused = accused;
        // Its own copy it may keep for itself.
        let script = format!("virsh destroy {MACHINE}; virsh undefine {MACHINE}; true");
        self.hosts.must(TARGET, &["bash", "-c", &script]);
    }

    fn ends_unharmed(self) {
        for path in ["/root/PWNED", "/root/program.ran"] {
            assert!(self.hosts.host(SOURCE).read(path).is_err(), "{path} was made");
        }
        let elsewhere = self.hosts.virsh(2, &["list", "--all", "--name"]);
        assert_eq!(elsewhere.trim(), "", "on a third host");
        let said: String = self.wrong.iter().map(|one| format!("  {one}\n")).collect();
        assert!(self.wrong.is_empty(), "{} cases:\n{said}", self.wrong.len());
    }
}

fn times_accused(hosts: &Hosts) -> u64 {
    let status = hosts.evenkeel(SOURCE, &["status", "--format", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    let accused = status["accused"].as_array().into_iter().flatten();
    let of = |accused: &&serde_json::Value| accused["host"] == "kvm3";
    accused.filter(of).filter_map(|accused| accused["times"].as_u64()).sum()
}

/// "All is well here, and there is room."
fn standing() -> Talk {
    let room = Room {
        past: None,
        target: 1.0,
        limit: 1.0,
        rates: Resources { cpu_cores: 1e-3, ..Resources::ZERO },
        free_memory_bytes: 1e12,
        tenants: Vec::new(),
        gauge: None,
        labels: None,
    };
    Talk::Standing(Standing {
        report: report(0.01),
        estimate: None,
        room: Some(room),
        refusal: None,
    })
}

#[test]
fn a_source_opens_nothing_that_its_target_says() {
    let Some(mut stage) = Stage::set() else { return };
    for uri in [
        "qemu+ssh://10.77.0.3/system?command=/usr/bin/env&keyfile=-Sbash%20-c%20%27id%20%3E%20/root/PWNED%27",
        "qemu+ssh://-oProxyCommand=touch%20/root/PWNED/system",
        "qemu+ssh://10.77.0.3:4444/system",
        "qemu+tcp://10.77.0.3:4444/system",
        "qemu+tls://10.77.0.3:4444/system",
        "qemu+unix:///system?socket=/run/libvirt/libvirt-sock",
        "qemu+ext:///system?command=/root/program",
        "qemu+evenkeel:///system?socket=/run/x",
        "qemu+evenkeel://10.77.0.3:4444/system",
        "qemu:///system",
        "test:///default",
        "",
    ] {
        stage.tells(&format!("reached at `{uri}`"), &Lie::Reached(uri.to_owned()), true);
    }
    stage.ends_unharmed();
}

#[test]
fn a_sources_libvirt_hears_no_answer_that_is_none() {
    let Some(mut stage) = Stage::set() else { return };
    for (name, procedure, answer) in answers() {
        stage.tells(name, &Lie::Answers(procedure, answer), true);
    }
    stage.ends_unharmed();
}

/// A body instead of the true one.
fn body(body: Vec<u8>) -> Answer {
    Arc::new(move |frame| {
        frame.body.clone_from(&body);
        frame.bytes()
    })
}

/// The frame with something else in it.
fn frame(change: impl Fn(&mut Frame) + Send + Sync + 'static) -> Answer {
    Arc::new(move |frame| {
        change(frame);
        frame.bytes()
    })
}

/// What *prepare* is answered with: a cookie, and where memory is to go.
fn prepared(cookie: &str, uri: Option<&str>) -> Vec<u8> {
    let uri = uri.map_or_else(|| numbers([0]), |uri| [numbers([1]), text(uri)].concat());
    [liar::frames::cookie(cookie), uri].concat()
}

/// What *finish* is answered with: a domain and a cookie.
fn finished(name: &str, uuid: u128, cookie: &str) -> Vec<u8> {
    let uuid = uuid.to_be_bytes().to_vec();
    [text(name), uuid, numbers([1]), liar::frames::cookie(cookie)].concat()
}

fn answers() -> Vec<(&'static str, u32, Answer)> {
    let own = Machine { uuid: UUID.to_owned(), name: MACHINE.to_owned(), ..Machine::new() };
    let cookie = |more: &str| lies::cookie(&own, more);
    let evil = lies::xml(&own, HandoffId(0)).replacen(
        "<memballoon",
        "<parallel type='file'><source path='/root/PWNED'/></parallel><memballoon",
        1,
    );
    let uuid = u128::from_str_radix(&UUID.replace('-', ""), 16).expect("digits");
    let trap = format!("tcp://10.77.0.3:{TRAP}");
    let event = Frame { kind: 2, serial: 0, ..Frame::call(318, vec![0; 32]) };
    let asks =
        Frame { kind: CALL, ..Frame::call(OPEN, text("qemu+ext:///x?command=/root/program")) };
    vec![
        ("asks for a password", AUTH_LIST, body(numbers([1, 1]))),
        ("lets nobody in", AUTH_LIST, body(numbers([0]))),
        ("ways without end", AUTH_LIST, body(numbers([u32::MAX, 0]))),
        ("says more than it was asked", AUTH_LIST, body(numbers([1, 0, 7]))),
        ("answers another call", AUTH_LIST, frame(|frame| frame.serial += 1)),
        ("answers another procedure", AUTH_LIST, frame(|frame| frame.procedure = 9)),
        ("answers for another program", AUTH_LIST, frame(|frame| frame.program = 0x2000_8087)),
        ("answers with a status of its own", AUTH_LIST, frame(|frame| frame.status = 2)),
        ("answers with data of a stream", AUTH_LIST, frame(|frame| frame.kind = 3)),
        (
            "tells of an event",
            AUTH_LIST,
            Arc::new(move |frame| [event.bytes(), frame.bytes()].concat()),
        ),
        ("calls itself", AUTH_LIST, Arc::new(move |frame| [asks.bytes(), frame.bytes()].concat())),
        ("a frame of 4 GiB", AUTH_LIST, Arc::new(|_| vec![0xff; 64])),
        ("a frame of nothing", AUTH_LIST, Arc::new(|_| vec![0; 64])),
        ("opens with words", OPEN, body(text("and now?"))),
        ("answers twice", OPEN, Arc::new(|frame| [frame.bytes(), frame.bytes()].concat())),
        (
            "an error that is none",
            OPEN,
            frame(|frame| (frame.status, frame.body) = (1, vec![0xff; 64])),
        ),
        ("memory to the trap", PREPARE, body(prepared(&cookie(""), Some(&trap)))),
        ("memory to a port", PREPARE, body(prepared(&cookie(""), Some("tcp:10.77.0.3:4444")))),
        ("memory to a socket", PREPARE, body(prepared(&cookie(""), Some("unix:///root/PWNED")))),
        ("memory by RDMA", PREPARE, body(prepared(&cookie(""), Some("rdma://10.77.0.3:4444")))),
        (
            "memory to a program",
            PREPARE,
            body(prepared(&cookie(""), Some("exec:touch /root/PWNED"))),
        ),
        ("memory to nowhere", PREPARE, body(prepared(&cookie(""), Some("")))),
        ("a cookie with a port", PREPARE, body(prepared(&cookie("<nbd port='4444'/>"), None))),
        (
            "a cookie that copies",
            PREPARE,
            body(prepared(&cookie("<nbd><disk target='vda' capacity='1'/></nbd>"), None)),
        ),
        ("a cookie with a machine", PREPARE, body(prepared(&cookie(&evil), None))),
        (
            "a cookie with a document type",
            PREPARE,
            body(prepared(&format!("<!DOCTYPE d []>{}", cookie("")), None)),
        ),
        (
            "another machine's cookie",
            PREPARE,
            body(prepared(&cookie("").replace(MACHINE, "db"), None)),
        ),
        (
            "a cookie without an end",
            PREPARE,
            body([bytes(cookie("").as_bytes()), numbers([0])].concat()),
        ),
        ("another machine is finished", FINISH, body(finished("db", uuid, ""))),
        ("another id is finished", FINISH, body(finished(MACHINE, uuid + 1, ""))),
        (
            "it is finished with more",
            FINISH,
            body([finished(MACHINE, uuid, ""), vec![0; 8]].concat()),
        ),
        ("it is finished with a cookie", FINISH, body(finished(MACHINE, uuid, &cookie(&evil)))),
    ]
}

#[test]
fn a_source_lets_its_machine_run_whatever_the_target_says_of_the_handoff() {
    let Some(mut stage) = Stage::set() else { return };
    let vda = DiskPlace { name: "vda".to_owned(), path: "/etc/shadow".to_owned() };
    let placed = Pass::Reserved {
        uri: "qemu+evenkeel:///system".to_owned(),
        protocol: Some(PROTOCOL),
        ticket: None,
        machine: None,
        disks: Some(vec![vda]),
    };
    for (name, pass) in [
        ("claimed at once", Pass::Claimed),
        ("discarded at once", Pass::Discarded),
        ("missing", Pass::Missing),
        ("arriving", Pass::Arriving),
        (
            "held before it was sent",
            Pass::Holding {
                machine: Machine { uuid: UUID.to_owned(), ..Machine::new() }.id(),
                ticket: None,
            },
        ),
        ("a place for a disk that there is not", placed),
        (
            "released by the target",
            Pass::Released {
                machine: Machine { uuid: UUID.to_owned(), ..Machine::new() }.id(),
                stats: MigrationStats::default(),
                autostart: Some(true),
                unanswered: None,
            },
        ),
        (
            "refused in words that a terminal obeys",
            Pass::Refused {
                reason: Reason::NoMemory,
                detail: Some("\u{1b}]0;owned\u{7}\n forged".to_owned()),
            },
        ),
    ] {
        stage.tells(name, &Lie::Says(pass), false);
    }
    stage.ends_unharmed();
}

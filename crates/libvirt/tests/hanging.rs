//! A machine whose QEMU hangs is unknown alone, on real daemons: the others are measured, looked at and
//! changed meanwhile.

mod support;

use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use evenkeel_core::model::{Entry, MachineId};
use evenkeel_core::port::{Event, HostSample, LookId, ORDER_TIME_MAX, Order, Presence};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::{GuestSpec, Lab};
use evenkeel_libvirt::LibvirtHypervisor;
use rustix::process::{Pid, Signal, kill_process};
use support::{clock, config, lab, virsh};

const SOON: Duration = Duration::from_secs(30);

struct Host {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
}

impl Host {
    fn until<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        loop {
            let event =
                self.events.recv_timeout(ORDER_TIME_MAX + SOON).expect("it is told in time");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn sample(&mut self) -> HostSample {
        self.hypervisor.submit(Order::Sample);
        self.until(|event| match event {
            Event::Sampled(sampled) => Some(sampled.expect("the others are measured")),
            _ => None,
        })
    }
}

fn boot(lab: &Lab, name: &str) -> MachineId {
    lab.add_guest(&GuestSpec::new(name, "h1", 200)).expect("it starts");
    lab.await_report(name, SOON).expect("it executes");
    let uri = lab.uri("h1").expect("the lab has this host");
    MachineId::new(&virsh(&uri, &["domuuid", name])).expect("a UUID")
}

/// The process of a machine, which goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn machine(lab: &Lab, name: &str) -> Self {
        // Of this lab alone: others run side by side.
        let pattern = format!("guest={name},.*{}", lab.dir().display());
        let found =
            Command::new("pgrep").args(["-f", &pattern]).output().expect("pgrep can be run");
        let text = String::from_utf8(found.stdout).expect("text");
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        let pid = pid.and_then(Pid::from_raw).expect("its process is found");
        kill_process(pid, Signal::STOP).expect("it is stopped");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn a_machine_whose_qemu_hangs_is_unknown_alone() {
    let lab = lab();
    let (hung, well) = (boot(&lab, "hung"), boot(&lab, "well"));
    let (sink, events) = mpsc::channel();
    let sink = move |event| drop(sink.send(event));
    let hypervisor = LibvirtHypervisor::new(config(&lab, "h1"), sink, clock());
    let mut host = Host { hypervisor: hypervisor.expect("there are threads"), events };
    assert_eq!(host.sample().machines.len(), 2);
    let stopped = Stopped::machine(&lab, "hung");
    // Something waits for it in libvirt for good: whoever asks for its figures does.
    let uri = lab.uri("h1").expect("the lab has this host");
    let mut waits = Command::new("virsh")
        .args([
            "--quiet",
            "--connect",
            &uri,
            "qemu-monitor-command",
            "--hmp",
            "hung",
            "info status",
        ])
        .spawn()
        .expect("virsh can be run");
    let counts = |sample: &HostSample, id: &MachineId| {
        let machine = sample.machines.iter().find(|m| m.facts.id == *id).expect("it is listed");
        machine.counters.map(|counters| counters.cpu_time_ns)
    };
    // It is found to hang, rather than to be busy, after a while; the other one counts in every sample.
    let end = std::time::Instant::now() + ORDER_TIME_MAX * 3;
    let mut before = None;
    loop {
        let sample = host.sample();
        let now = counts(&sample, &well).expect("the other machine is measured");
        assert!(before.is_none_or(|before| now >= before), "it goes on");
        before = Some(now);
        if counts(&sample, &hung).is_none() {
            break;
        }
        assert!(std::time::Instant::now() < end, "it is never found to hang");
    }
    // Orders about the one that hangs hold up none about the other.
    let entry = Entry { target_load: Some(0.25), ..Entry::default() };
    host.hypervisor.submit(Order::WriteEntry(hung.clone(), entry.clone().into()));
    host.hypervisor.submit(Order::WriteEntry(well.clone(), entry.into()));
    host.until(|event| match event {
        Event::EntryWritten(machine, written) if machine == well => Some(written),
        _ => None,
    })
    .expect("the other one's is written");
    host.hypervisor.submit(Order::Look(well.clone(), LookId(1)));
    let seen = host.until(|event| match event {
        Event::Looked(_, _, seen) => Some(seen.expect("it is seen")),
        _ => None,
    });
    assert_eq!(seen.presence, Presence::Running);
    drop(stopped);
    waits.wait().expect("it has an answer");
    let end = std::time::Instant::now() + ORDER_TIME_MAX * 2;
    while counts(&host.sample(), &hung).is_none() {
        assert!(std::time::Instant::now() < end, "it answers and is not measured");
    }
}

#[test]
#[ignore = "the supervisor of the labs of these tests, not a test"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

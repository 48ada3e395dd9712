//! What holds for libvirt beyond what holds for every hypervisor, on real daemons and guests.

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use evenkeel_core::model::{Entry, HostId, MachineId, Requirements};
use evenkeel_core::port::{
    Commit, Event, Failure, FailureKind, HandoffId, LookId, Migration, MigrationStats,
    ORDER_TIME_MAX, Order, Presence,
};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::{Dirty, GuestSpec, Lab};
use evenkeel_libvirt::{EmulatorError, LibvirtConfig, LibvirtHypervisor, check_emulator};
use rustix::process::{Signal, kill_process};
use support::{clock, config, lab, read_pid, virsh};

const SOON: Duration = Duration::from_secs(30);

/// A hypervisor and what it tells.
struct Heard {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
}

impl Heard {
    fn new(config: LibvirtConfig) -> Self {
        let (sink, events) = mpsc::channel();
        let sink = move |event| drop(sink.send(event));
        let hypervisor = LibvirtHypervisor::new(config, sink, clock()).expect("there are threads");
        Self { hypervisor, events }
    }

    fn until<T>(&self, wanted: impl Fn(Event) -> Option<T>) -> T {
        await_event(&self.events, wanted)
    }

    fn sample(&mut self) -> Result<usize, FailureKind> {
        self.hypervisor.submit(Order::Sample);
        self.until(|event| match event {
            Event::Sampled(sampled) => Some(sampled),
            _ => None,
        })
        .map(|sample| sample.machines.len())
        .map_err(|failure| failure.kind)
    }

    fn look(&mut self, machine: &MachineId) -> Result<Presence, Failure> {
        self.hypervisor.submit(Order::Look(machine.clone(), LookId(1)));
        self.until(|event| match event {
            Event::Looked(_, _, looked) => Some(looked.map(|sight| sight.presence)),
            _ => None,
        })
    }

    fn ended(&self) -> Result<MigrationStats, Failure> {
        self.until(|event| match event {
            Event::MigrationEnded(_, outcome) => Some(outcome),
            _ => None,
        })
    }

    fn began(&self) {
        self.until(|event| matches!(event, Event::Progress(..)).then_some(()));
    }
}

fn await_event<T>(events: &Receiver<Event>, wanted: impl Fn(Event) -> Option<T>) -> T {
    let end = Instant::now() + SOON + ORDER_TIME_MAX;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let event = events.recv_timeout(left).expect("it is told in time");
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

/// A guest of this name on the first host that writes memory at 16 MiB/s.
fn boot(lab: &Lab, name: &str) -> MachineId {
    let dirty = Dirty { mib: 16, mib_per_s: 16 };
    lab.add_guest(&GuestSpec { dirty, ..GuestSpec::new(name, "h1", 200) }).expect("it starts");
    lab.await_report(name, SOON).expect("it executes");
    let uri = lab.uri("h1").expect("the lab has this host");
    MachineId::new(&virsh(&uri, &["domuuid", name])).expect("a UUID")
}

fn migration(lab: &Lab, machine: &MachineId, bandwidth_bytes_per_s: Option<u64>) -> Order {
    Order::Migrate(Migration {
        handoff: HandoffId(1),
        machine: machine.clone(),
        to: HostId::new("h2").expect("a name"),
        uri: lab.uri("h2").expect("the lab has this host"),
        entry: Entry::default(),
        commit: Commit::Fast,
        bandwidth_bytes_per_s,
        needs: Requirements::default(),
        disks: Vec::new(),
    })
}

/// An operator's own migration, slow enough to be watched.
fn migrate_by_hand(lab: &Lab, name: &str) -> Child {
    let uri = |host| lab.uri(host).expect("the lab has this host");
    let (from, to) = (uri("h1"), uri("h2"));
    let mut command = Command::new("virsh");
    command.args(["--quiet", "--connect", &from, "migrate", "--live", "--p2p", "--persistent"]);
    command.args(["--undefinesource", "--bandwidth", "1", "--migrateuri", "tcp://127.0.0.1"]);
    command.args(["--listen-address", "127.0.0.1", name, &to]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("virsh can be run")
}

#[test]
fn a_guest_lives_through_its_migration_and_the_cost_is_told() {
    let lab = lab();
    let machine = boot(&lab, "mover");
    let mut here = Heard::new(config(&lab, "h1"));
    here.hypervisor.submit(migration(&lab, &machine, None));
    let stats = here.ended().expect("it is migrated");
    assert!(stats.downtime_ms > 0 && stats.downtime_ms < stats.elapsed_ms, "{stats:?}");
    assert!(stats.bytes > 1 << 20, "{stats:?}");
    // Until it has come round to what it wrote before it was moved.
    let end = Instant::now() + SOON;
    loop {
        let verdict = lab.await_report("mover", SOON).expect("it runs on").verify();
        assert!(verdict.is_unharmed() && Instant::now() < end, "{verdict}");
        if verdict.pages_checked > 0 {
            break;
        }
    }
}

#[test]
fn a_read_only_connection_measures_and_is_refused_every_change() {
    let lab = lab();
    let machine = boot(&lab, "a");
    let uri = lab.uri("h1").expect("the lab has this host");
    let before = virsh(&uri, &["dumpxml", "a"]);
    let mut reader = Heard::new(LibvirtConfig { read_only: true, ..config(&lab, "h1") });
    assert_eq!(reader.sample(), Ok(1));
    assert_eq!(reader.look(&machine), Ok(Presence::Running));

    let entry = Entry { target_load: Some(0.5), ..Entry::default() };
    reader.hypervisor.submit(Order::WriteEntry(machine.clone(), entry.into()));
    let written = reader.until(|event| match event {
        Event::EntryWritten(_, written) => Some(written),
        _ => None,
    });
    reader.hypervisor.submit(migration(&lab, &machine, None));
    for refused in [written.map(drop), reader.ended().map(drop)] {
        let failure = refused.expect_err("it may only look");
        assert!(failure.detail.contains("operation forbidden"), "{failure:?}");
    }
    assert_eq!(virsh(&uri, &["dumpxml", "a"]), before);
}

#[test]
fn a_libvirt_that_is_not_there_is_named_and_found_when_it_comes() {
    let lab = lab();
    lab.kill_host("h1").expect("it is killed");
    let config = config(&lab, "h1");
    let uri = config.uri.clone();
    assert!(matches!(check_emulator(&uri), Err(EmulatorError::Unreachable { .. })));
    let mut here = Heard::new(config);
    let reason = here.until(|event| match event {
        Event::Disconnected(reason) => Some(reason),
        _ => None,
    });
    assert!(reason.contains(&uri), "{reason}");
    assert_eq!(here.sample(), Err(FailureKind::Unreachable));
    lab.start_host("h1").expect("it comes back");
    here.until(|event| matches!(event, Event::Connected).then_some(()));
    assert_eq!(here.sample(), Ok(0));
    check_emulator(&uri).expect("this machine can run a lab");
}

#[test]
fn a_libvirt_that_hangs_keeps_nobody_waiting() {
    let lab = lab();
    let machine = boot(&lab, "kept");
    let mut here = Heard::new(config(&lab, "h1"));
    assert_eq!(here.sample(), Ok(1));
    let daemon = read_pid(&lab.dir().join("h1/run/libvirt/libvirtd.pid"));
    kill_process(daemon, Signal::STOP).expect("it is stopped");
    // Both calls return, and the second has an answer, while the daemon still stands.
    here.hypervisor.submit(Order::Look(machine.clone(), LookId(1)));
    assert_eq!(here.sample(), Err(FailureKind::Unreachable));
    kill_process(daemon, Signal::CONT).expect("it goes on");
    // Whether it was missed for so long that it counts as gone depends on how fast this went.
    let end = Instant::now() + SOON + ORDER_TIME_MAX;
    while here.look(&machine) != Ok(Presence::Running) {
        assert!(Instant::now() < end, "it answers again and is not heard");
    }
}

#[test]
fn a_migration_of_somebody_else_is_seen_and_can_be_aborted() {
    let lab = lab();
    let machine = boot(&lab, "mover");
    let mut here = Heard::new(config(&lab, "h1"));
    let mut by_hand = migrate_by_hand(&lab, "mover");
    let end = Instant::now() + SOON;
    while here.look(&machine) != Ok(Presence::Leaving) {
        assert!(Instant::now() < end, "it is never seen to leave");
    }
    here.hypervisor.submit(Order::WriteEntry(machine.clone(), Entry::default().into()));
    let written = here.until(|event| match event {
        Event::EntryWritten(_, written) => Some(written),
        _ => None,
    });
    assert_eq!(written.map_err(|failure| failure.kind), Err(FailureKind::Busy));
    here.hypervisor.submit(migration(&lab, &machine, None));
    assert_eq!(here.ended().map_err(|failure| failure.kind), Err(FailureKind::Busy));
    here.hypervisor.submit(Order::Abort(machine.clone()));
    assert!(!by_hand.wait().expect("virsh ends").success(), "it was not aborted");
    assert_eq!(here.look(&machine), Ok(Presence::Running));
}

#[test]
fn a_hypervisor_that_is_given_up_answers_and_leaves_the_migration_to_libvirt() {
    let lab = lab();
    let machine = boot(&lab, "mover");
    let mut here = Heard::new(config(&lab, "h1"));
    here.hypervisor.submit(migration(&lab, &machine, Some(1 << 20)));
    here.began();
    let Heard { hypervisor, events } = here;
    drop(hypervisor);
    let ended = await_event(&events, |event| match event {
        Event::MigrationEnded(_, outcome) => Some(outcome.map_err(|failure| failure.kind)),
        _ => None,
    });
    assert_eq!(ended, Err(FailureKind::Unreachable));
    let mut again = Heard::new(config(&lab, "h1"));
    assert_eq!(again.look(&machine), Ok(Presence::Leaving));
    again.hypervisor.submit(Order::Abort(machine.clone()));
    let end = Instant::now() + SOON;
    while again.look(&machine) != Ok(Presence::Running) {
        assert!(Instant::now() < end, "it does not run on here");
    }
}

#[test]
#[ignore = "no test, but the supervisor of the labs of the others, which start it"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

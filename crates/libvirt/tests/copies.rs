//! What is destroyed of a copy on a real libvirt, what is left alone, and what libvirt says of one that
//! has left.

mod support;

use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use evenkeel_core::model::MachineId;
use evenkeel_core::port::{
    Event, Failure, FailureKind, LookId, ORDER_TIME_MAX, Order, Presence, Sight, Stamp,
};
use evenkeel_hypervisor::Hypervisor;
use evenkeel_lab::{GuestSpec, Lab};
use evenkeel_libvirt::LibvirtHypervisor;
use support::{clock, config, lab, virsh};

const SOON: Duration = Duration::from_secs(30);

struct Side {
    hypervisor: LibvirtHypervisor,
    events: Receiver<Event>,
    uri: String,
}

impl Side {
    fn new(lab: &Lab) -> Self {
        let (sink, events) = mpsc::channel();
        let sink = move |event| drop(sink.send(event));
        let hypervisor = LibvirtHypervisor::new(config(lab, "h1"), sink, clock());
        let uri = lab.uri("h1").expect("the lab has this host");
        Self { hypervisor: hypervisor.expect("there are threads"), events, uri }
    }

    fn answer<T>(&mut self, order: Order, wanted: impl Fn(Event) -> Option<T>) -> T {
        self.hypervisor.submit(order);
        loop {
            let event = self.events.recv_timeout(ORDER_TIME_MAX + SOON).expect("it is answered");
            if let Some(answer) = wanted(event) {
                return answer;
            }
        }
    }

    fn look(&mut self, machine: &MachineId) -> Sight {
        let looked = self.answer(Order::Look(machine.clone(), LookId(1)), |event| match event {
            Event::Looked(_, _, sight) => Some(sight),
            _ => None,
        });
        looked.expect("libvirt answers")
    }

    fn discard(&mut self, machine: &MachineId) -> Result<(), Failure> {
        let order = Order::Discard(machine.clone(), Stamp::default());
        self.answer(order, |event| match event {
            Event::Discarded(_, result) => Some(result),
            _ => None,
        })
    }

    fn virsh(&self, arguments: &[&str]) -> String {
        virsh(&self.uri, arguments)
    }
}

/// A persistent guest on the first host.
fn boot(lab: &Lab, name: &str) -> MachineId {
    lab.add_guest(&GuestSpec::new(name, "h1", 200)).expect("it starts");
    lab.await_report(name, SOON).expect("it executes");
    let uri = lab.uri("h1").expect("the lab has this host");
    MachineId::new(&virsh(&uri, &["domuuid", name])).expect("a UUID")
}

#[test]
fn a_memory_that_libvirt_has_saved_is_left_alone_with_its_definition() {
    let lab = lab();
    let machine = boot(&lab, "saved");
    let mut side = Side::new(&lab);
    side.virsh(&["managedsave", "saved"]);
    let refused = side.discard(&machine).expect_err("its memory would be lost");
    assert_eq!(refused.kind, FailureKind::Refused);
    assert!(refused.detail.contains("virsh managedsave-remove"), "{refused:?}");
    assert!(side.virsh(&["dominfo", "saved"]).contains("Managed save:   yes"));
    side.virsh(&["managedsave-remove", "saved"]);
    assert_eq!(side.discard(&machine), Ok(()));
}

#[test]
fn libvirt_says_of_a_machine_that_is_off_whether_it_has_left() {
    let lab = lab();
    let machine = boot(&lab, "mover");
    let mut side = Side::new(&lab);
    let there = lab.uri("h2").expect("the lab has this host");
    // As an operator moves it who keeps the definition.
    let mut migrate = Command::new("virsh");
    migrate.args(["--quiet", "--connect", &side.uri, "migrate", "--live", "--p2p"]);
    migrate.args(["--migrateuri", "tcp://127.0.0.1", "--listen-address", "127.0.0.1"]);
    let moved = migrate.args(["mover", &there]).status().expect("virsh can be run");
    assert!(moved.success(), "it was not moved");
    let sight = side.look(&machine);
    assert_eq!((sight.presence, sight.left), (Presence::Defined, true));
    virsh(&there, &["destroy", "mover"]);
    side.virsh(&["start", "mover"]);
    assert_eq!(side.look(&machine).presence, Presence::Running);
    side.virsh(&["destroy", "mover"]);
    let sight = side.look(&machine);
    assert_eq!((sight.presence, sight.left), (Presence::Defined, false), "it ran here since");
}

#[test]
#[ignore = "no test, but the supervisor of the labs of the others, which start it"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

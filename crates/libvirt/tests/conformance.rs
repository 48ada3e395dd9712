//! libvirt does what every hypervisor has to do: the conformance suite against two real libvirts
//! with real guests.

mod support;

evenkeel_hypervisor::conformance_tests!(support::LibvirtRig::boxed);

#[test]
#[ignore = "no test, but the supervisor of the labs of the others, which start it"]
fn the_supervisor_of_the_labs_of_these_tests() {
    support::supervise();
}

//! Claims about judging machines before they come.

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{DiskPlace, MachineId, Network, Requirements};
use evenkeel_core::port::{Event, Examination, HandoffId, Order, Unfit};

use super::watch::Watch;
use super::{ANSWER_MAX, Guest, Rig};

/// A machine that fits is told so, another one what the host lacks for it; nothing changes by it.
pub fn what_a_host_lacks_for_a_machine_is_told_by_name(rig: &mut dyn Rig) {
    let mut w = Watch::new(rig);
    let (a, b) = (w.a.clone(), w.b.clone());
    let id = w.rig.boot(&a, &Guest::new("kept"));
    let found = w.measured(&a, &id);
    let needs = found.unwrap_or_else(|| panic!("`{id}` is not in the sample")).facts.needs.clone();
    assert_eq!(examine(&mut w, 1, &id, needs.clone()), Ok(Vec::new()), "it fits: {needs:?}");

    let network = Some(vec![Network::Virtual("no-such-network".to_owned())]);
    for (number, lacks, reason, named) in [
        (
            2,
            Requirements { machine_type: Some("no-such-type".to_owned()), ..needs.clone() },
            Reason::NoMachineType,
            "no-such-type",
        ),
        (
            3,
            Requirements { networks: network, ..needs.clone() },
            Reason::NoNetwork,
            "no-such-network",
        ),
        (
            4,
            Requirements { storage: vec!["no-such-storage".to_owned()], ..needs.clone() },
            Reason::NoStorage,
            "no-such-storage",
        ),
    ] {
        match examine(&mut w, number, &id, lacks) {
            Err(Unfit::Lacks(missing)) => {
                assert_eq!(missing.reason(), reason);
                assert!(missing.to_string().contains(named), "{missing}");
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
    w.assert_runs_only_on(&a, &b, &id);
}

/// Asks the second host.
fn examine(
    w: &mut Watch<'_>,
    number: u64,
    machine: &MachineId,
    needs: Requirements,
) -> Result<Vec<DiskPlace>, Unfit> {
    let (host, handoff) = (w.b.clone(), HandoffId(number));
    let examination = Examination { handoff, machine: machine.clone(), name: None, needs };
    w.rig.submit(&host, Order::Examine(examination));
    w.until(&host, "the verdict on a machine", ANSWER_MAX, |event| match event {
        Event::Examined(id, verdict) if *id == handoff => Some(verdict.clone()),
        _ => None,
    })
}

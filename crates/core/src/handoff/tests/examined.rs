//! What the hypervisors say before anything moves.

use super::*;
use crate::model::{DiskPlace, LocalDisk, Missing};
use crate::port::{Examination, Unfit};

const CPU: &str = "<cpu><model>EPYC</model></cpu>";

fn needs() -> Requirements {
    Requirements {
        cpu_digest: Some(7),
        cpu_definition: Some(CPU.into()),
        local_storage: true,
        local_disks: Some(vec![LocalDisk::default()]),
        ..Requirements::default()
    }
}

fn place() -> DiskPlace {
    DiskPlace { name: "vda".to_owned(), path: "/srv/there".to_owned() }
}

/// A target that was asked for room for a machine which needs something.
fn asked() -> (Side, Vec<Effect>) {
    let mut side = Side::new("target");
    let mut agreement = agreement(&side.host);
    agreement.candidate.needs = needs();
    let ticket = Some(Ticket { life: LIFE, number: 1 });
    let offer = Offer { agreement, commit: Commit::Strict, autostart: false, ticket, past: None };
    side.act(|handoffs, turn| handoffs.take(ID, offer, "qemu:///t".to_owned(), turn));
    let out = side.saw(Sight::default());
    (side, out)
}

fn examined(side: &mut Side, verdict: Result<Vec<DiskPlace>, Unfit>) -> Vec<Effect> {
    side.act(|handoffs, turn| handoffs.examined(ID, verdict, turn))
}

#[test]
fn room_is_promised_only_after_the_hypervisor_has_examined_the_machine() {
    let (mut side, out) = asked();
    let name = Some(side.handoff().name.clone());
    let examination = Examination { handoff: ID, machine: machine(), name, needs: needs() };
    assert_eq!(orders(&out), [&Order::Examine(examination)]);
    assert!(said(&out).is_empty() && stored(&out).handoffs.is_empty(), "{out:?}");
    assert_eq!(side.host.holds.incoming.len(), 1, "the room is kept meanwhile");

    let out = examined(&mut side, Ok(vec![place()]));
    assert_durable_first(&out, Phase::Reserved);
    let promised = |pass: &&Pass| {
        matches!(pass, Pass::Reserved { uri, disks: Some(disks), .. }
            if uri == "qemu:///t" && *disks == [place()])
    };
    assert!(matches!(said(&out)[..], [ref pass] if promised(pass)), "{out:?}");
    assert_eq!(examined(&mut side, Ok(Vec::new())), [], "asked once, answered once");
}

#[test]
fn what_was_agreed_on_outlives_a_restart_of_the_target() {
    let (mut side, _) = asked();
    let out = examined(&mut side, Ok(vec![place()]));
    let records = stored(&out).handoffs;
    let [record] = &records[..] else { panic!("{out:?}") };
    let kept = serde_json::to_string(record).unwrap();
    let again: Handoff = serde_json::from_str(&kept).unwrap();
    // The words of its CPU were compared when it was asked for, and are not needed again.
    let agreed = Requirements { cpu_definition: None, ..needs() };
    assert_eq!((again.needs(), again.places()), (&agreed, &[place()][..]));
    // A record of an earlier version says nothing of it: nothing is agreed on then, and what comes with
    // more is refused in words.
    let mut earlier: serde_json::Value = serde_json::from_str(&kept).unwrap();
    for field in ["needs", "disks"] {
        assert!(earlier.as_object_mut().unwrap().remove(field).is_some(), "{kept}");
    }
    let earlier: Handoff = serde_json::from_value(earlier).unwrap();
    assert_eq!((earlier.needs(), earlier.places()), (&Requirements::default(), &[][..]));
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_remembered_for_the_next_quote() {
    let lacks = Unfit::Lacks(Missing::CpuFeatures("no avx512f".to_owned()));
    let silent = Unfit::NotTold(Failure::new(FailureKind::Unreachable, "libvirt is gone"));
    for (unfit, reason, words, known) in [
        (lacks, Reason::NoCpuFeature, "avx512f", true),
        (silent, Reason::FitUnknown, "libvirt is gone", false),
    ] {
        let (mut side, _) = asked();
        let out = examined(&mut side, Err(unfit));
        let refused = |pass: &&Pass| {
            matches!(pass, Pass::Refused { reason: told, detail: Some(detail) }
                if *told == reason && detail.contains(words))
        };
        assert!(matches!(said(&out)[..], [ref pass] if refused(pass)), "{out:?}");
        assert_eq!((ending(&out), side.phase()), (Some(reason), None));
        assert!(side.host.holds.incoming.is_empty(), "the room is free again");
        let other = MachineId::new("another-of-that-cpu").unwrap();
        let recalled = side.host.unfit.recall(&other, &needs(), side.now);
        assert_eq!(recalled.is_err(), known, "{reason}");
    }
}

#[test]
fn a_source_that_has_given_up_hears_no_promise() {
    let (mut side, _) = asked();
    side.hear(cancelled());
    let out = examined(&mut side, Ok(Vec::new()));
    assert_eq!((out, side.phase()), (Vec::new(), Some(Phase::Discarding)));
}

#[test]
fn a_source_sends_its_cpu_along_and_carries_out_what_was_agreed() {
    let mut side = Side::new("source");
    let mut agreed = agreement(&side.host);
    agreed.candidate.needs = needs();
    let terms = terms(Commit::Strict, false);
    let out = side.act(|handoffs, turn| handoffs.give(ID, agreed, terms, turn));
    assert!(
        matches!(said(&out)[..], [Pass::Reserve { cpu: Some(cpu), .. }] if cpu == CPU),
        "{out:?}"
    );
    let reserved = Pass::Reserved {
        uri: "qemu:///t".to_owned(),
        protocol: Some(PROTOCOL),
        ticket: Some(TICKET),
        machine: None,
        disks: Some(vec![place()]),
    };
    let out = side.hear(reserved);
    let [Order::Migrate(migration)] = orders(&out)[..] else { panic!("{out:?}") };
    assert_eq!((&migration.needs, &migration.disks), (&needs(), &vec![place()]));

    // Something was attached to it meanwhile: it stays, and that is no fault of its.
    let failure = Failure::new(FailureKind::NeedsChanged, "it has come to need a USB stick");
    side.act(|handoffs, turn| handoffs.migrated(ID, Err(failure), turn));
    side.looked(Presence::Running);
    let out = side.hear(Pass::Discarded);
    assert_eq!(ending(&out), Some(Reason::NeedsChanged));
    let detail = out.iter().find_map(|effect| match effect {
        Effect::Record(decision) => Some(decision.detail.as_str()),
        _ => None,
    });
    assert!(detail.is_some_and(|words| words.contains("USB stick")), "{out:?}");
}

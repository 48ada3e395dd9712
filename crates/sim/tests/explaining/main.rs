//! Every reason code has a situation here that brings it about, and an explanation that names it.
//!
//! **A new code needs a situation**: a line in the table of `verdicts.rs` (what keeps a machine, or a
//! host) or `endings.rs` (how an exchange ends), with a function that prepares a cluster, mostly two
//! hosts with [`Stage`], and says where the code is to be found. `Told::First` asks most: that it is
//! the reason that decides in `evenkeel explain vm`. A code that no cluster of the simulator can be
//! brought to goes to [`ELSEWHERE`], with the test that shows it.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[path = "../common/mod.rs"]
mod common;
mod endings;
mod needs;
mod rules;
mod stage;
mod verdicts;

use std::collections::BTreeSet;

use common::*;
use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::explain::MachineExplained;
use evenkeel_core::model::HostId;
use evenkeel_core::select::Policy;
use evenkeel_sim::Cluster;

/// Where a code is to be found.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// It is the reason that decides on the machine `m`.
    First,
    /// It is among the reasons on the machine `m`.
    Among,
    /// The last record of `n000` ended with it.
    Last,
    /// The last record of `n001` ended with it.
    LastOfOther,
    /// It is a verdict in a record.
    Verdict,
}

/// A code, what brings it about, and where it is told.
type Situation = (Reason, fn() -> Cluster, Told);

/// Codes that are shown by another test: what is told by a command alone, or by a real hypervisor.
const ELSEWHERE: &[(Reason, &str)] = &[
    (Reason::NoSpare, "evenkeel/tests/draining.rs"),
    (Reason::NoCpuFeature, "core/src/handoff/tests/examined.rs"),
    (Reason::FitUnknown, "core/src/handoff/tests/examined.rs"),
    (Reason::AlreadyHere, "core/src/handoff/tests/strangers.rs"),
    (Reason::NoSecret, "libvirt/tests/refused.rs"),
    (Reason::NoAddress, "libvirt/tests/refused.rs"),
];

/// What `evenkeel explain vm` would say, with the last record that judged the machine.
fn explained(cluster: &Cluster, machine: &str) -> MachineExplained {
    let (host, id) = (home(cluster, machine), machine_id(machine));
    let mut explained =
        cluster.balancer(&host).unwrap().explain(&id, cluster.now()).expect("it is here");
    let judged = |d: &&Decision| d.host == host && d.candidates.iter().any(|c| c.machine == id);
    if let Some(record) = cluster.records().iter().rfind(judged) {
        explained.remember(record.clone());
    }
    explained
}

fn last(cluster: &Cluster, host: &HostId) -> Option<Reason> {
    cluster.records().iter().rfind(|d| d.host == *host).map(|d| d.ending)
}

fn check((code, prepare, told): &Situation) -> Result<(), String> {
    let prepared = std::panic::catch_unwind(prepare);
    let cluster = prepared.map_err(|_| format!("{code} could not be brought about"))?;
    let (found, said) = match told {
        Told::First => {
            let explained = explained(&cluster, "m");
            (explained.verdict() == Some(*code), format!("{:#?}", explained.reasons))
        }
        Told::Among => {
            let reasons = explained(&cluster, "m").reasons;
            (reasons.iter().any(|why| why.code == *code), format!("{reasons:#?}"))
        }
        Told::Last => {
            let last = last(&cluster, &host_id(0));
            (last == Some(*code), format!("{last:?}"))
        }
        Told::LastOfOther => {
            let last = last(&cluster, &host_id(1));
            (last == Some(*code), format!("{last:?}"))
        }
        Told::Verdict => {
            let verdicts: BTreeSet<_> =
                cluster.records().iter().flat_map(|d| &d.candidates).map(|c| c.verdict).collect();
            (verdicts.contains(code), format!("{verdicts:?}"))
        }
    };
    if found { Ok(()) } else { Err(format!("{code} is not told {told:?}: {said}")) }
}

fn situations() -> Vec<Situation> {
    let of_machines = verdicts::SITUATIONS.iter().chain(rules::SITUATIONS).chain(needs::SITUATIONS);
    of_machines.chain(endings::SITUATIONS).copied().collect()
}

#[test]
fn every_code_has_a_situation() {
    let prepared = situations().into_iter().map(|(code, ..)| code);
    let prepared: BTreeSet<_> = prepared.chain(ELSEWHERE.iter().map(|(code, _)| *code)).collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|code| !prepared.contains(code)).collect();
    assert!(
        missing.is_empty(),
        "these codes need a situation, see the top of this file: {missing:?}"
    );
}

#[test]
fn what_is_shown_elsewhere_is_named_there() {
    for (code, file) in ELSEWHERE {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
        let names = [code.code().to_owned(), format!("Reason::{code:?}")];
        assert!(names.iter().any(|name| text.contains(name)), "{file} does not name {code}");
    }
}

#[test]
fn an_explanation_names_the_code_of_every_situation() {
    let wrong: Vec<_> = situations().iter().filter_map(|s| check(s).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn by_every_policy_every_machine_that_stays_has_a_reason() {
    for policy in [Policy::HalfDifference, mean_aware().policy] {
        let config = evenkeel_core::balancer::Config { policy, ..eager() };
        let cpus: Vec<f64> = (1..25).map(|i| 0.1 * f64::from((i * 7) % 23)).collect();
        let mut cluster = crowded(11, 4, &config, &cpus);
        for seconds in [1, 5, 30, 200, 900] {
            cluster.run_until(at(seconds));
            for index in 0..cpus.len() {
                let machine = format!("v{index:03}");
                let giving = {
                    let host = home(&cluster, &machine);
                    let balancer = cluster.balancer(&host).unwrap();
                    let giving = balancer.host().is_overloaded(cluster.now()) == Some(true);
                    giving && balancer.heard().next().is_none()
                };
                let told = explained(&cluster, &machine);
                assert!(giving || told.verdict().is_some(), "{machine} at {seconds} s: {told:#?}");
            }
        }
    }
}

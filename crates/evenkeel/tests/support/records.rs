//! What decision records say, recomputed from the figures in them.
//!
//! The arithmetic is spelled out once more here on purpose: a test that called the core's own would
//! find nothing wrong with it.

use evenkeel_core::decision::{Decision, Judged, Reason, Role};
use evenkeel_core::model::{HostId, Resources};
use evenkeel_core::select::Calm;
use evenkeel_lab::HostSpec;

/// Records travel as decimal text.
const ROUNDING: f64 = 1e-9;

/// Whether two figures are the same but for rounding.
pub fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= ROUNDING * (1.0 + a.abs().max(b.abs()))
}

/// The records of this role in which a machine was chosen and moved.
pub fn moves(decisions: &[Decision], role: Role) -> Vec<&Decision> {
    let moved = |d: &&Decision| d.role == Some(role) && d.ending == Reason::Moved;
    decisions.iter().filter(moved).collect()
}

/// Both prices of a machine, where both hosts have priced it.
pub fn prices(judged: &Judged) -> Option<(f64, f64)> {
    judged.at_donor.zip(judged.at_receiver)
}

/// What `usage` loads a host, from what its specification says.
pub fn price(host: &HostSpec, usage: &Resources) -> f64 {
    const MIB: f64 = 1_048_576.0;
    let weights = host.weights.expect("the test gives every host weights");
    let sum = weights.cpu + weights.memory + weights.io;
    let cpu = usage.cpu_cores / (host.cpu_cores * host.cpu_speed);
    let memory = usage.memory_bytes / (host.memory_mib as f64 * MIB);
    let io = usage.io_bytes_per_s / (host.io_mib_s * MIB);
    (weights.cpu * cpu + weights.memory * memory + weights.io * io) / sum
}

/// How far a pair would be apart after a machine with these prices has moved, if that is an
/// improvement: strict, both at the mean of the prices and at the receiver's, and large enough.
fn improved(pair: (f64, f64), prices: (f64, f64), calm: &Calm) -> bool {
    let difference = pair.0 - pair.1;
    let load = f64::midpoint(prices.0, prices.1);
    let strict = 0.0 < load && load < difference && prices.1 < difference;
    let gain = difference - (difference - prices.0 - prices.1).abs();
    strict && gain > calm.gain_min * f64::midpoint(pair.0, pair.1)
}

/// Asserts that the machine chosen in a donor's record is, of all that improve the balance of the
/// pair, the one whose load is nearest to half the difference, and that each other one has a verdict
/// that is true.
pub fn assert_nearest(decision: &Decision, calm: &Calm) {
    let pair = decision.pair.expect("a choice has both loads");
    let (difference, mean) = (pair.donor - pair.receiver, f64::midpoint(pair.donor, pair.receiver));
    let band = (calm.dead_band * mean).max(calm.difference_min);
    assert!(difference > band, "it acted within its dead band: {decision:#?}");
    let distance = |judged: &Judged| {
        prices(judged).map(|(a, b)| (f64::midpoint(a, b) - difference / 2.0).abs())
    };
    let chosen = decision.chosen().expect("somebody was chosen");
    let least = distance(chosen).expect("what was chosen has both prices");
    for judged in &decision.candidates {
        let Some(both) = prices(judged) else {
            assert!(!matches!(judged.verdict, Reason::Chosen | Reason::Farther), "{judged:?}");
            continue;
        };
        let improves = improved((pair.donor, pair.receiver), both, calm);
        let is_true = match judged.verdict {
            Reason::Chosen => improves && judged.machine == chosen.machine,
            Reason::Farther => improves && distance(judged) >= Some(least - ROUNDING),
            Reason::NoImprovement | Reason::GainSmall => !improves,
            _ => true,
        };
        assert!(is_true, "{judged:?} is not true in {decision:#?}");
    }
}

/// Asserts that the receiver has a record of the donor's exchange, which agrees with it figure by
/// figure, and returns it.
pub fn assert_agreed<'d>(donor: &Decision, decisions: &'d [Decision]) -> &'d Decision {
    let of_receiver =
        |d: &&Decision| d.exchange == donor.exchange && Some(&d.host) == donor.peer.as_ref();
    let receiver = decisions.iter().find(of_receiver);
    let receiver = receiver.unwrap_or_else(|| panic!("the receiver has no record of {donor:#?}"));
    let differ = || format!("the records differ:\n{donor:#?}\n{receiver:#?}");
    assert_eq!(receiver.role, Some(Role::Target), "{}", differ());
    assert_eq!(receiver.peer.as_ref(), Some(&donor.host), "{}", differ());
    assert_eq!(receiver.initiator, donor.initiator, "{}", differ());
    assert!([&donor.host, &receiver.host].contains(&&donor.initiator), "{}", differ());
    assert_eq!(receiver.handoff, donor.handoff, "{}", differ());
    assert_eq!(receiver.ending, donor.ending, "{}", differ());
    let (ours, theirs) = (donor.pair.expect("known"), receiver.pair.expect("known"));
    assert!(same(ours.donor, theirs.donor) && same(ours.receiver, theirs.receiver), "{}", differ());
    let offered: Vec<_> = donor.candidates.iter().filter(|c| c.at_receiver.is_some()).collect();
    assert_eq!(offered.len(), receiver.candidates.len(), "{}", differ());
    for (ours, theirs) in offered.iter().zip(&receiver.candidates) {
        assert_eq!(
            (&ours.machine, &ours.name, ours.basis, ours.verdict),
            (&theirs.machine, &theirs.name, theirs.basis, theirs.verdict),
            "{}",
            differ()
        );
        let figures = |j: &Judged| {
            let f = j.factors.expect("offered with factors");
            let (at_donor, at_receiver) = prices(j).expect("priced by both");
            [f.cpu_cores, f.memory_bytes, f.io_bytes_per_s, at_donor, at_receiver]
        };
        let agree = figures(ours).into_iter().zip(figures(theirs)).all(|(a, b)| same(a, b));
        assert!(agree, "{}", differ());
    }
    receiver
}

/// The records of the exchanges that a host began itself, in their order.
pub fn own<'d>(decisions: &'d [Decision], host: &HostId) -> Vec<&'d Decision> {
    let mut own: Vec<_> =
        decisions.iter().filter(|d| d.host == *host && d.initiator == *host).collect();
    own.sort_by_key(|d| d.began);
    own
}

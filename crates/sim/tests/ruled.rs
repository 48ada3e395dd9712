//! No act of the balancer breaks a hard rule, however many hosts decide at once, and what somebody
//! else has broken is repaired. `examples/rules.rs` does the same with as many seeds as wanted.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::Duration;

use evenkeel_core::select::Policy;
use evenkeel_sim::ruled::{Blind, Ruled};

fn ruled(hosts: usize, machines: usize, policy: Policy) -> Ruled {
    let (disturbed, watched) = (Duration::from_secs(60), Duration::from_secs(240));
    Ruled { hosts, machines, disturbed, watched, policy, blind: None }
}

#[test]
fn no_act_of_the_balancer_breaks_a_hard_rule_and_what_is_broken_is_repaired() {
    for policy in [Policy::default(), Policy::HalfDifference] {
        for seed in 1..4 {
            let tally = ruled(24, 72, policy).run(seed).unwrap();
            assert_eq!(tally.violations, Vec::<String>::new(), "{policy:?}, seed {seed}");
            assert!(tally.moves > 20 && tally.meddled > 5, "{tally:?}");
            assert!(tally.broken_after * 5 <= tally.broken_before, "{policy:?} {tally:?}");
        }
    }
}

#[test]
fn a_judge_that_is_blind_to_a_kind_of_rule_is_caught() {
    for (blind, named) in
        [(Blind::Apart, "anti-affinity"), (Blind::Together, "affinity"), (Blind::Places, "a place")]
    {
        let ruled = Ruled { blind: Some(blind), ..ruled(16, 96, Policy::HalfDifference) };
        let tally = ruled.run(1).unwrap();
        assert!(tally.violations.iter().any(|v| v.starts_with(named)), "{blind:?}: {tally:?}");
    }
}

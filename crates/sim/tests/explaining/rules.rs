//! Situations in which a machine stays, or goes, because of its rules.

use evenkeel_core::decision::Reason;
use evenkeel_core::model::Rules;
use evenkeel_sim::Cluster;
use serde_json::json;

use crate::common::*;
use crate::stage::{Stage, once, staying};
use crate::{Situation, Told, last};

pub(crate) const SITUATIONS: &[Situation] = &[
    (Reason::RulePinned, pinned, Told::First),
    (Reason::RuleIgnored, ignored, Told::First),
    (Reason::RuleAffinity, affinity, Told::First),
    (Reason::RuleAntiAffinity, anti_affinity, Told::First),
    (Reason::RuleSoft, soft, Told::First),
    (Reason::RuleNeverLive, never_live, Told::First),
    (Reason::RuleMaxShare, max_share, Told::First),
    (Reason::RuleNoLabel, no_label, Told::First),
    (Reason::RuleRepaired, repaired, Told::Verdict),
    (Reason::RuleUnrepaired, unrepaired, Told::Last),
];

/// Rules as they are written in JSON.
fn rules(text: serde_json::Value) -> Rules {
    serde_json::from_value(text).unwrap()
}

/// A minute with a machine of these rules, and beside it others: their host and rules.
fn minute(own: serde_json::Value, others: &[(usize, serde_json::Value)]) -> Cluster {
    staged(own, others).minute()
}

fn staged(own: serde_json::Value, others: &[(usize, serde_json::Value)]) -> Stage {
    Stage::new().ruled(rules(own)).edit(|s| {
        for (index, (host, text)) in others.iter().enumerate() {
            let facts = with_rules(&format!("other{index}"), rules(text.clone()));
            s.others.push((*host, 0.1, facts));
        }
    })
}

fn pinned() -> Cluster {
    minute(json!({ "pinned_to": ["n000"] }), &[])
}

fn ignored() -> Cluster {
    minute(json!({ "ignore": true }), &[])
}

fn affinity() -> Cluster {
    let mate = json!({ "affinity": ["web"], "ignore": true });
    minute(json!({ "affinity": ["web"] }), &[(0, mate)])
}

fn anti_affinity() -> Cluster {
    let rival = json!({ "anti_affinity": ["web"], "ignore": true });
    minute(json!({ "anti_affinity": ["web"] }), &[(1, rival)])
}

fn soft() -> Cluster {
    let rival = json!({ "anti_affinity": ["web?"], "ignore": true });
    minute(json!({ "anti_affinity": ["web?"] }), &[(1, rival)])
}

fn never_live() -> Cluster {
    minute(json!({ "never_live": true }), &[])
}

fn max_share() -> Cluster {
    let small = staged(json!({ "max_share": 0.15 }), &[]).edit(|s| {
        s.there.profile.capacity.cpu_cores = 4.0;
        s.there.hypervisor.facts.capacity.cpu_cores = 4.0;
    });
    small.minute()
}

fn no_label() -> Cluster {
    let stage = staged(json!({ "anti_affinity": ["web@rack"] }), &[]);
    let racked =
        |s: &mut Stage| drop(s.here.profile.labels.insert("rack".to_owned(), "r1".to_owned()));
    stage.edit(racked).minute()
}

/// Two machines are together that must not be; so is one on the other host, if `full`.
fn together(full: bool) -> Cluster {
    let apart = || rules(json!({ "anti_affinity": ["web"] }));
    let stage = Stage::mean_aware().ruled(apart()).edit(|s| {
        s.others.push((0, 0.1, with_rules("rival", apart())));
        // No load would make any of them move.
        s.others.push((1, 12.0, staying("balances")));
        if full {
            s.others.push((1, 0.1, with_rules("there", apart())));
        }
    });
    stage.start()
}

fn repaired() -> Cluster {
    once(together(false), |c| last(c, &host_id(0)) == Some(Reason::Moved))
}

fn unrepaired() -> Cluster {
    once(together(true), |c| last(c, &host_id(0)) == Some(Reason::RuleUnrepaired))
}

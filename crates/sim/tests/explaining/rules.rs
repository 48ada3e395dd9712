//! Situations in which a machine stays, or goes, because of its rules.

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{HostState, Rules};
use evenkeel_sim::{Cluster, HostSpec};
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
    (Reason::RuleAcross, across, Told::First),
    (Reason::WitnessSilent, witness_silent, Told::First),
    (Reason::WitnessUnsure, witness_unsure, Told::First),
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

/// Three hosts, the last two of one rack, of which the last takes nothing and has a machine of the
/// same group if `rival`. All know each other.
fn racks(rival: bool) -> Cluster {
    let mut cluster = Cluster::new(1);
    for (index, rack) in ["r1", "r2", "r2"].into_iter().enumerate() {
        let mut spec = HostSpec::new(profile(index), eager());
        spec.profile.labels.insert("rack".to_owned(), rack.to_owned());
        if index == 2 {
            spec.state = HostState::Cordoned;
        }
        cluster.add_host(spec).unwrap();
    }
    let apart = || rules(json!({ "anti_affinity": ["web@rack"] }));
    cluster.place(&host_id(0), with_rules("m", apart()), work(3.0, 2.0, 1e6)).unwrap();
    cluster.place(&host_id(0), staying("stays"), work(5.0, 1.0, 1e6)).unwrap();
    if rival {
        cluster.place(&host_id(2), with_rules("rival", apart()), work(0.1, 1.0, 1e6)).unwrap();
    }
    cluster.keep_records();
    cluster.introduce(|_| true);
    for index in [0, 1] {
        cluster.restart(&host_id(index));
    }
    cluster
}

fn across() -> Cluster {
    let mut cluster = racks(true);
    cluster.restart(&host_id(2));
    once(cluster, |c| last(c, &host_id(0)) == Some(Reason::RuleAcross))
}

fn witness_silent() -> Cluster {
    once(racks(false), |c| last(c, &host_id(0)) == Some(Reason::WitnessSilent))
}

fn witness_unsure() -> Cluster {
    let mut cluster = racks(false);
    cluster.cloud_mut().disconnect(&host_id(2)).unwrap();
    cluster.restart(&host_id(2));
    once(cluster, |c| last(c, &host_id(0)) == Some(Reason::WitnessUnsure))
}

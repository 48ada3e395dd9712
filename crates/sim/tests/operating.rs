//! What operators say: modes, recommendations, pauses, hours and directed moves.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use evenkeel_core::balancer::{Balancer, Config, Outcome, Stage};
use evenkeel_core::control::{Authority, Autonomy, Pause};
use evenkeel_core::decision::{Decision, Reason, Role};
use evenkeel_core::effect::{Input, MoveOrder};
use evenkeel_core::handoff::Phase;
use evenkeel_core::model::{Group, HostId, HostState, MoveId, Rules};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::Calm;
use evenkeel_sim::{Cluster, HostSpec};

const MINUTE: u64 = 60;

fn with_mode(mode: Autonomy) -> [Config; 2] {
    [eager(), mean_aware()].map(|config| Config { mode, ..config })
}

/// The donors' records that ended so.
fn endings(cluster: &Cluster, ending: Reason) -> Vec<&Decision> {
    let is = |d: &&Decision| d.ending == ending && d.role == Some(Role::Source);
    cluster.records().iter().filter(is).collect()
}

fn pause(seconds: u64) -> Option<Pause> {
    Some(Pause { until: at(seconds), by: "eve".to_owned(), reason: "because".to_owned() })
}

fn order(id: u64, machine: &str, to: Option<usize>) -> Input {
    let (machine, to) = (machine_id(machine), to.map(host_id));
    Input::Migrate(MoveOrder { id: MoveId(id), machine, to })
}

/// What a directed move has ended with.
fn outcome(cluster: &Cluster, host: usize, id: u64) -> Option<Outcome> {
    let mut directed = cluster.balancer(&host_id(host))?.directed();
    directed.find(|d| d.id == MoveId(id)).and_then(|d| match &d.stage {
        Stage::Ended(outcome) => Some(outcome.clone()),
        _ => None,
    })
}

/// Orders a move and lets it end.
fn migrate(cluster: &mut Cluster, machine: &str, to: Option<usize>) -> Outcome {
    let from = home(cluster, machine);
    let index = cluster.hosts().position(|host| *host == from).unwrap();
    let (id, end) = (cluster.now().unix_ms(), cluster.now() + Duration::from_secs(700));
    cluster.input(&from, order(id, machine, to));
    cluster.run_while(end, |c| outcome(c, index, id).is_none());
    let ended = outcome(cluster, index, id).unwrap();
    // The next one has another id.
    cluster.run_until(cluster.now() + Duration::from_millis(1));
    ended
}

#[test]
fn a_cluster_that_observes_moves_nothing_and_says_once_what_it_would_do() {
    for config in with_mode(Autonomy::Observe) {
        let mut cluster = crowded(3, 3, &config, &[4.0, 3.0, 2.0, 1.0, 0.5]);
        cluster.run_until(at(10 * MINUTE));
        assert_eq!(cluster.tally().migrations, 0);
        let said = endings(&cluster, Reason::Observing);
        let machines: BTreeSet<_> = said.iter().map(|d| &d.chosen().unwrap().machine).collect();
        assert!((1..5).contains(&said.len()) && machines.len() == said.len(), "{}", said.len());
        assert!(said.iter().all(|d| d.authority == Authority::Observe && d.pair.is_some()));
        let first = cluster.balancer(&host_id(0)).unwrap();
        assert_eq!(first.recommendations().count(), 0, "there is nothing to approve");
        assert_eq!(loads(&cluster)[1], 0.0);
        assert_sound(&mut cluster);
    }
}

#[test]
fn what_is_recommended_moves_once_it_is_approved_and_levels_the_hosts() {
    for config in with_mode(Autonomy::Approve) {
        let mut cluster = crowded(3, 3, &config, &[4.0, 3.0, 2.0, 1.0, 0.5]);
        cluster.run_until(at(10 * MINUTE));
        assert_eq!(cluster.tally().migrations, 0);
        let before = loads(&cluster);
        let ids = |c: &Cluster| -> Vec<MoveId> {
            c.balancer(&host_id(0)).unwrap().recommendations().map(|r| r.id).collect()
        };
        let (found, mut approved) = (ids(&cluster), 0);
        assert!((1..5).contains(&found.len()), "{found:?}");
        for id in &found {
            cluster.input(&host_id(0), Input::Approve(*id));
            let end = cluster.now() + Duration::from_secs(30);
            cluster.run_while(end, |c| outcome(c, 0, id.0).is_none());
            let outcome = outcome(&cluster, 0, id.0).unwrap();
            approved += u64::from(outcome.ending == Reason::Moved);
        }
        assert!(approved > 0 && cluster.tally().migrations == approved, "{approved}");
        assert!(endings(&cluster, Reason::Moved).iter().all(|d| d.authority == Authority::Ordered));
        assert!(loads(&cluster)[0] < before[0] - 0.05, "{before:?} {:?}", loads(&cluster));
        assert!(ids(&cluster).iter().all(|id| !found.contains(id)));
        assert_sound(&mut cluster);
    }
}

#[test]
fn what_is_approved_is_judged_anew_and_does_not_move_if_it_no_longer_helps() {
    let calm = Calm { gain_min: 0.1, ..Calm::NONE };
    for config in with_mode(Autonomy::Approve).map(|config| Config { calm, ..config }) {
        let mut cluster = crowded(3, 2, &config, &[4.0, 3.0]);
        cluster.run_until(at(5 * MINUTE));
        let found = cluster.balancer(&host_id(0)).unwrap().recommendations().next().unwrap();
        let (id, machine) = (found.id, found.machine.clone());
        // What it shared its host with has nothing to do any more.
        let other = ["v000", "v001"].map(machine_id).into_iter().find(|m| *m != machine).unwrap();
        cluster.cloud_mut().set_workload(&other, work(0.0, 0.01, 0.0)).unwrap();
        cluster.run_until(at(15 * MINUTE));
        cluster.input(&host_id(0), Input::Approve(id));
        cluster.run_until(at(16 * MINUTE));
        let outcome = outcome(&cluster, 0, id.0).unwrap();
        let weak = [Reason::NoImprovement, Reason::GainSmall];
        assert!(weak.contains(&outcome.ending), "{machine}: {outcome:?}");
        assert_eq!(cluster.tally().migrations, 0);
    }
}

#[test]
fn a_repair_that_is_approved_is_made_whatever_it_does_to_the_loads() {
    for config in with_mode(Autonomy::Approve) {
        let calm = Calm { gain_min: 0.5, difference_min: 0.5, dead_band: 0.5 };
        let mut cluster = cluster(3, 2, &Config { calm, ..config });
        let elsewhere = Rules { pinned_to: vec![host_id(1).into()], ..Rules::default() };
        // Both hosts are loaded alike: by loads alone nothing would be worth a move.
        for (host, name, rules) in
            [(0, "astray", elsewhere), (0, "a", Rules::default()), (1, "b", Rules::default())]
        {
            let facts = with_rules(name, rules);
            cluster.place(&host_id(host), facts, work(1.0, 2.0, 0.0)).unwrap();
        }
        cluster.keep_records();
        cluster.start();
        let open = |c: &Cluster| c.balancer(&host_id(0))?.recommendations().next().map(|r| r.id);
        cluster.run_while(at(10 * MINUTE), |c| open(c).is_none());
        let id = open(&cluster).expect("the repair is recommended");
        cluster.input(&host_id(0), Input::Approve(id));
        let end = cluster.now() + Duration::from_secs(60);
        cluster.run_while(end, |c| outcome(c, 0, id.0).is_none());
        assert_eq!(outcome(&cluster, 0, id.0).unwrap().ending, Reason::Moved);
        assert_eq!(home(&cluster, "astray"), host_id(1));
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_recommendation_expires_and_one_that_was_skipped_is_not_found_again_before() {
    let [_, config] = with_mode(Autonomy::Approve);
    let config = Config { recommendation_time: Duration::from_secs(300), ..config };
    let mut cluster = crowded(3, 2, &config, &[4.0, 3.0]);
    let open = |c: &Cluster| -> Vec<MoveId> {
        c.balancer(&host_id(0)).unwrap().recommendations().map(|r| r.id).collect()
    };
    cluster.run_while(at(5 * MINUTE), |c| open(c).is_empty());
    let (found, began) = (open(&cluster), cluster.now());
    cluster.input(&host_id(0), Input::Skip(found[0]));
    cluster.run_until(began + Duration::from_secs(290));
    assert_eq!(open(&cluster), []);
    cluster.run_until(began + Duration::from_secs(400));
    let again = open(&cluster);
    assert!(again.len() == 1 && again != found, "{again:?}");
}

#[test]
fn a_host_that_observes_neither_gives_nor_takes_among_others_that_act() {
    for config in [eager(), mean_aware()] {
        let mut cluster = cluster(5, 0, &config);
        for (index, mode) in
            [Autonomy::Automatic, Autonomy::Observe, Autonomy::Automatic, Autonomy::Observe]
                .into_iter()
                .enumerate()
        {
            let config = Config { mode, ..config.clone() };
            cluster.add_host(HostSpec::new(profile(index), config)).unwrap();
        }
        for (host, name) in [(0, "a"), (0, "b"), (0, "c"), (3, "d"), (3, "e"), (3, "f")] {
            cluster.place(&host_id(host), facts(name, 2.0), work(3.0, 2.0, 1e7)).unwrap();
        }
        cluster.keep_records();
        cluster.start();
        cluster.run_until(at(20 * MINUTE));
        let homes: Vec<_> = ["d", "e", "f"].iter().map(|m| home(&cluster, m)).collect();
        assert_eq!(homes, vec![host_id(3); 3]);
        let acted: BTreeSet<HostId> = ["a", "b", "c"].iter().map(|m| home(&cluster, m)).collect();
        assert_eq!(acted, BTreeSet::from([host_id(0), host_id(2)]), "those that act level");
        let vain = cluster.records().iter().filter(|d| d.handoff.is_some());
        assert!(vain.clone().all(|d| d.ending == Reason::Moved));
        // One that would give learns why the others do not take.
        assert!(cluster.records().iter().any(|d| d.ending == Reason::Observing));
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_machine_has_a_mode_of_its_own() {
    for (mode, expected) in [(Autonomy::Observe, 0), (Autonomy::Approve, 1)] {
        for config in [eager(), mean_aware()] {
            let mut cluster = cluster(5, 2, &config);
            let rules = Rules { mode: Some(mode), ..Rules::default() };
            for name in ["a", "b"] {
                let facts = with_rules(name, rules.clone());
                cluster.place(&host_id(0), facts, work(4.0, 1.0, 1e7)).unwrap();
            }
            cluster.keep_records();
            cluster.start();
            cluster.run_until(at(10 * MINUTE));
            assert_eq!(cluster.tally().migrations, 0);
            let first = cluster.balancer(&host_id(0)).unwrap();
            let waits = first.recommendations().count();
            assert!(waits >= expected && (waits > 0) == (expected > 0), "{mode}: {waits}");
        }
    }
}

#[test]
fn a_pause_reaches_every_host_also_where_messages_are_lost_and_ends_everywhere() {
    for (seed, loss) in (0..10).flat_map(|seed| [(seed, 0.0), (seed, 0.4)]) {
        let mut cluster = crowded(seed, 30, &mean_aware(), &[0.1; 3]);
        cluster.run_until(at(MINUTE));
        cluster.kill(&host_id(7));
        cluster.run_until(at(2 * MINUTE));
        cluster.network.loss = loss;
        cluster.input(&host_id(4), Input::Pause(pause(3600)));
        let knows = |c: &Cluster, index| {
            let balancer = c.balancer(&host_id(index));
            balancer.is_some_and(|b| b.host().control.pause_at(c.now()).is_some())
        };
        let all = |c: &Cluster| (0..30).filter(|i| knows(c, *i)).count();
        let told = |c: &Cluster| all(c) == 29;
        if loss == 0.0 {
            cluster.run_until(at(2 * MINUTE + 1));
            assert!(told(&cluster), "at once: {}", all(&cluster));
        }
        let soon = cluster.now() + Duration::from_secs(30 * MINUTE);
        cluster.run_while(soon, |c| !told(c));
        assert!(told(&cluster), "seed {seed}, loss {loss}: {} know", all(&cluster));
        // One that was away, and one that has lost its store.
        cluster.start();
        cluster.lose_store(&host_id(9));
        cluster.restart(&host_id(9));
        let soon = cluster.now() + Duration::from_secs(30 * MINUTE);
        cluster.run_while(soon, |c| all(c) < 30);
        assert_eq!(all(&cluster), 30, "seed {seed}, loss {loss}");
        cluster.input(&host_id(9), Input::Pause(None));
        let soon = cluster.now() + Duration::from_secs(30 * MINUTE);
        cluster.run_while(soon, |c| all(c) > 0);
        assert_eq!(all(&cluster), 0, "seed {seed}, loss {loss}");
    }
}

#[test]
fn nothing_moves_by_itself_in_a_pause_and_hosts_act_again_after_it() {
    for config in [eager(), mean_aware()] {
        let mut cluster = crowded(3, 4, &config, &[4.0, 3.0, 2.0, 1.0]);
        cluster.run_until(at(1));
        cluster.input(&host_id(2), Input::Pause(pause(20 * MINUTE)));
        // The host that would give has not heard of it: those that it asks tell.
        cluster.network.cut_off.insert(host_id(0));
        cluster.run_until(at(3));
        cluster.network.cut_off.clear();
        cluster.kill(&host_id(3));
        cluster.run_until(at(10 * MINUTE));
        cluster.restart(&host_id(1));
        cluster.run_until(at(20 * MINUTE));
        assert_eq!(cluster.tally().migrations, 0);
        let said = cluster.records().iter().filter(|d| d.ending == Reason::Paused);
        assert!(said.count() > 0);
        cluster.run_until(at(40 * MINUTE));
        assert!(cluster.tally().migrations > 0, "it has ended by itself");
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_handoff_that_is_under_way_when_a_pause_begins_ends_as_usual() {
    let mut cluster = crowded(3, 2, &eager(), &[4.0, 3.0]);
    let under_way = |c: &Cluster| {
        let handoffs = c.hosts().filter_map(|host| c.balancer(host)).flat_map(Balancer::handoffs);
        handoffs.into_iter().any(|handoff| handoff.phase == Phase::Transferring)
    };
    assert!(cluster.run_while(at(5 * MINUTE), |c| !under_way(c)));
    cluster.input(&host_id(1), Input::Pause(pause(3600)));
    cluster.run_until(at(20 * MINUTE));
    assert_eq!((cluster.tally().migrations, cluster.tally().migrations_failed), (1, 0));
    assert!(!under_way(&cluster));
    assert_sound(&mut cluster);
}

#[test]
fn a_host_neither_gives_nor_takes_outside_its_hours() {
    for config in [eager(), mean_aware()] {
        for closed in [0, 1] {
            let mut cluster = crowded(3, 2, &config, &[4.0, 3.0, 2.0]);
            cluster.input(&host_id(closed), Input::Closed(true));
            cluster.run_until(at(20 * MINUTE));
            assert_eq!(cluster.tally().migrations, 0, "host {closed} is closed");
            assert!(cluster.records().iter().any(|d| d.ending == Reason::OutsideHours));
            cluster.input(&host_id(closed), Input::Closed(false));
            cluster.run_until(at(40 * MINUTE));
            assert!(cluster.tally().migrations > 0);
        }
    }
}

#[test]
fn a_machine_moves_as_it_is_told_whatever_loads_modes_pauses_and_limits_say() {
    for mode in [Autonomy::Observe, Autonomy::Approve, Autonomy::Automatic] {
        let restraint =
            Restraint { given_per_hour_max: 0, taken_per_hour_max: 0, ..eager().restraint };
        let cool_down = Duration::from_secs(7200);
        let restraint = Restraint { cool_down, cool_down_max: cool_down, ..restraint };
        let config = Config { mode, restraint, ..mean_aware() };
        let mut cluster = crowded(3, 3, &config, &[1.0]);
        cluster.run_until(at(MINUTE));
        cluster.input(&host_id(1), Input::Pause(pause(36_000)));
        cluster.input(&host_id(2), Input::Closed(true));
        for to in [1, 2, 1, 0] {
            assert_eq!(
                migrate(&mut cluster, "v000", Some(to)).ending,
                Reason::Moved,
                "{mode} {to}"
            );
            assert_eq!(home(&cluster, "v000"), host_id(to));
        }
        let told = endings(&cluster, Reason::Moved);
        assert!(told.len() == 4 && told.iter().all(|d| d.authority == Authority::Told));
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_directed_move_is_refused_for_what_must_hold_and_leaves_the_machine_where_it_is() {
    let group: Group = "web".parse().unwrap();
    let apart = Rules { anti_affinity: vec![group], ..Rules::default() };
    let pinned = Rules { pinned_to: vec![host_id(0).into()], ..Rules::default() };
    let mut cluster = cluster(3, 3, &mean_aware());
    for (host, facts) in [
        (0, with_rules("a", apart.clone())),
        (1, with_rules("b", apart)),
        (0, with_rules("pinned", pinned)),
        (0, facts("large", 100.0)),
        (1, facts("fills", 100.0)),
        (0, facts("free", 1.0)),
    ] {
        cluster.place(&host_id(host), facts, work(0.5, 0.5, 1e6)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster.input(&host_id(1), Input::Pause(pause(36_000)));
    cluster.run_until(at(MINUTE));
    for (machine, to, ending) in [
        ("a", Some(1), Reason::RuleAntiAffinity),
        ("pinned", Some(1), Reason::RulePinned),
        ("pinned", None, Reason::NoCandidate),
        ("large", Some(1), Reason::NoMemory),
        ("a", Some(2), Reason::Moved),
        ("large", None, Reason::Moved),
    ] {
        let before = home(&cluster, machine);
        let outcome = migrate(&mut cluster, machine, to);
        assert_eq!(outcome.ending, ending, "{machine}: {outcome:?}");
        let stays = ending != Reason::Moved;
        assert_eq!(home(&cluster, machine) == before, stays, "{machine}");
    }
    assert_eq!(home(&cluster, "large"), host_id(2), "where there is room");
    cluster.input(&host_id(2), Input::SetState(HostState::Cordoned));
    assert_eq!(migrate(&mut cluster, "free", Some(2)).ending, Reason::Cordoned);
    let first = cluster.balancer(&host_id(0)).unwrap();
    for (machine, to, says) in [
        ("free", 9, "no live host is called `n009`"),
        ("free", 0, "is on host `n000` already"),
        ("b", 2, "host `n000` has no machine `b`"),
    ] {
        let why = first.can_migrate(&machine_id(machine), Some(&host_id(to))).unwrap_err();
        assert!(why.contains(says), "{why}");
    }
    assert_sound(&mut cluster);
}

#[test]
fn a_machine_told_to_go_anywhere_goes_to_the_least_loaded_host() {
    let mut cluster = cluster(3, 5, &mean_aware());
    for (host, name, cpu) in
        [(0, "m", 1.0), (1, "x", 6.0), (2, "y", 2.0), (3, "z", 4.0), (4, "w", 8.0)]
    {
        cluster.place(&host_id(host), facts(name, 2.0), work(cpu, 2.0, 1e7)).unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster.input(&host_id(1), Input::Pause(pause(36_000)));
    cluster.run_until(at(MINUTE));
    let outcome = migrate(&mut cluster, "m", None);
    assert_eq!((outcome.ending, outcome.peer), (Reason::Moved, Some(host_id(2))));
}

#[test]
fn directed_moves_wait_for_each_other_and_for_busy_hosts_and_all_get_done() {
    for seed in 0..20 {
        let mut cluster = crowded(seed, 4, &mean_aware(), &[0.5; 8]);
        cluster.network.duplication = 0.2;
        cluster.input(&host_id(1), Input::Pause(pause(360_000)));
        cluster.run_until(at(MINUTE));
        for index in 0..8 {
            let name = format!("v{index:03}");
            cluster.input(&host_id(0), order(index, &name, Some(1 + index as usize % 3)));
        }
        let open = |c: &Cluster| (0..8).any(|id| outcome(c, 0, id).is_none());
        cluster.run_while(at(20 * MINUTE), open);
        for id in 0..8 {
            assert_eq!(outcome(&cluster, 0, id).unwrap().ending, Reason::Moved, "{seed} {id}");
        }
        assert_sound(&mut cluster);
    }
}

#[test]
fn a_directed_move_always_ends_also_where_messages_are_lost_and_agents_die() {
    for seed in 0..40 {
        let mut cluster = crowded(seed, 3, &mean_aware(), &[0.5; 4]);
        cluster.input(&host_id(1), Input::Pause(pause(360_000)));
        cluster.run_until(at(MINUTE));
        cluster.network.loss = 0.3;
        for index in 0..4 {
            let to = Some(1 + index as usize % 2).filter(|_| index < 3);
            cluster.input(&host_id(0), order(index, &format!("v{index:03}"), to));
        }
        cluster.run_until(at(MINUTE + 3));
        cluster.restart(&host_id(1));
        cluster.run_until(at(40 * MINUTE));
        let first = cluster.balancer(&host_id(0)).unwrap();
        for directed in first.directed() {
            assert!(matches!(directed.stage, Stage::Ended(_)), "seed {seed}: {directed:?}");
        }
        assert_sound(&mut cluster);
    }
}

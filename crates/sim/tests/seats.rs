//! Rules across a label: hosts of many racks that decide at once, while everything fails.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stdout, reason = "how much was tried is what a reader wants to know")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::decision::Reason;
use evenkeel_core::effect::Input;
use evenkeel_core::message::{Message, Verdict, Witness};
use evenkeel_core::model::{Entry, HostId, MachineFacts, Rules};
use evenkeel_hypervisor::memory::Workload;
use evenkeel_sim::generate::{Recipe, generate};
use evenkeel_sim::{Cluster, HostSpec, Invariant};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Hosts in racks, and machines in groups of which one may be in each rack. The last hosts have no
/// machines, and their agents do not run yet.
fn racks(seed: u64, recipe: &Recipe, introduced: bool) -> Cluster {
    let snapshot = generate(recipe, seed).unwrap();
    let mut cluster = Cluster::new(seed);
    for host in &snapshot.hosts {
        let mut profile = host.profile();
        profile.reserved_memory_bytes = 0.0;
        cluster.add_host(HostSpec::new(profile, eager())).unwrap();
    }
    for vm in &snapshot.vms {
        let entry = Ok(Entry { rules: vm.rules.clone(), ..Entry::default() });
        let facts =
            MachineFacts { memory_bytes: vm.memory_bytes, entry, ..facts(vm.id.as_str(), 1.0) };
        let wants = Workload { wants: vm.usage, dirty_bytes_per_s: vm.dirty_bytes_per_s };
        cluster.place(&vm.host, facts, wants).unwrap();
    }
    cluster.keep_records();
    let spare = spare(&cluster, recipe);
    if introduced {
        cluster.introduce(|host| !spare.contains(host));
    }
    cluster.start_those(|host| !spare.contains(host));
    cluster
}

fn spare(cluster: &Cluster, recipe: &Recipe) -> Vec<HostId> {
    cluster.hosts().skip(recipe.hosts - recipe.spare).cloned().collect()
}

/// Lets agents die, hosts be cut off and spare hosts join, at random.
fn trouble(cluster: &mut Cluster, seed: u64, recipe: &Recipe, minutes: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let hosts: Vec<_> = cluster.hosts().cloned().collect();
    let mut spare = spare(cluster, recipe);
    cluster.network.loss = 0.01;
    cluster.network.duplication = 0.05;
    cluster.network.delay_max = Duration::from_millis(300);
    let mut down: Vec<HostId> = Vec::new();
    for second in (0..minutes * 60).step_by(5) {
        cluster.run_until(at(second));
        let host = hosts[rng.random_range(0..hosts.len() - recipe.spare)].clone();
        match rng.random_range(0..10) {
            0..3 => {
                cluster.kill(&host);
                down.push(host);
            }
            3 => drop(cluster.network.cut_off.insert(host)),
            4 => cluster.network.cut_off.clear(),
            5 if !spare.is_empty() => cluster.restart(&spare.pop().unwrap()),
            6 => cluster.set_store_fails(&host, true),
            7 => hosts.iter().for_each(|host| cluster.set_store_fails(host, false)),
            _ => {}
        }
        for host in down.split_off(down.len().min(3)) {
            cluster.restart(&host);
        }
        if rng.random_bool(0.3) {
            down.drain(..).for_each(|host| cluster.restart(&host));
        }
    }
}

fn refusals(cluster: &Cluster) -> usize {
    let across = [Reason::RuleAcross, Reason::WitnessSilent, Reason::WitnessUnsure];
    cluster.records().iter().filter(|record| across.contains(&record.ending)).count()
}

const RACKS: Recipe = Recipe { racks: 8, group: 6, spare: 4, ..Recipe::uniform(48, 200) };

#[test]
fn no_two_machines_of_a_group_are_ever_in_one_rack_however_many_hosts_decide_at_once() {
    for seed in 0..4 {
        let mut cluster = racks(seed, &RACKS, seed % 2 == 0);
        trouble(&mut cluster, seed, &RACKS, 10);
        let (tally, refused) = (cluster.tally(), refusals(&cluster));
        println!(
            "seed {seed}: {} migrations, {refused} refusals, {} messages about seats",
            tally.migrations, tally.witness_messages
        );
        assert!(tally.migrations > 20 && refused > 0, "nothing was tried");
        assert_sound(&mut cluster);
    }
}

/// By `SEEDS` seeds (1,000 unless set) from `FIRST` (0): 200 hosts in 20 racks, 800 machines, all of
/// which are to be moved at once, for `MINUTES` (1) of virtual time.
#[test]
#[ignore = "long: run it with --release --ignored"]
fn no_seed_of_many_breaks_a_rule_across_a_label() {
    let number = |name: &str, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let (first, seeds): (u64, u64) = (number("FIRST", 0), number("SEEDS", 1000));
    let minutes = number("MINUTES", 1);
    let recipe = Recipe { racks: 20, group: 12, spare: 10, ..Recipe::uniform(200, 800) };
    let (mut migrations, mut refused, mut messages, mut broken) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        let mut cluster = racks(seed, &recipe, true);
        trouble(&mut cluster, seed, &recipe, minutes);
        cluster.check_all();
        for violation in cluster.violations() {
            println!("seed {seed}: {violation}");
        }
        migrations += cluster.tally().migrations;
        messages += cluster.tally().witness_messages;
        refused += refusals(&cluster);
        broken += cluster.violations().len();
        if (seed + 1 - first).is_multiple_of(50) {
            println!("{}: {migrations} migrations so far, {broken} violations", seed + 1 - first);
        }
    }
    println!(
        "{seeds} seeds, {migrations} migrations, {refused} claims refused, {messages} messages \
         about seats, {broken} violations"
    );
    assert!(migrations > seeds && refused > 0 && broken == 0);
}

#[test]
fn witnesses_that_always_say_yes_let_rules_be_broken() {
    let lie = |message: &mut Message| {
        if let Message::Witness(_, Witness::Answer(answer)) = message {
            answer.verdict = Verdict::Clear;
        }
    };
    let mut cluster = racks(1, &RACKS, true);
    cluster.network.forges = Some(lie);
    trouble(&mut cluster, 1, &RACKS, 10);
    let broken = |v: &&evenkeel_sim::Violation| v.invariant == Invariant::SeatsHold;
    let broken = cluster.violations().iter().filter(broken).count();
    println!("{broken} violations of {} migrations", cluster.tally().migrations);
    assert!(broken > 0, "a test that cannot fail shows nothing");
}

/// Hosts in these racks, and on each of the first ones a machine of the group and one that stays.
fn webs(racks: &[&str], machines: usize) -> Cluster {
    let mut cluster = Cluster::new(7);
    for (index, rack) in racks.iter().enumerate() {
        let mut profile = profile(index);
        profile.labels.insert("rack".to_owned(), (*rack).to_owned());
        cluster.add_host(HostSpec::new(profile, eager())).unwrap();
    }
    let web = Rules { anti_affinity: vec!["web@rack".parse().unwrap()], ..Rules::default() };
    let stays = Rules { ignore: true, ..Rules::default() };
    for index in 0..machines {
        let (name, rest) = (format!("web{index}"), format!("rest{index}"));
        cluster
            .place(&host_id(index), with_rules(&name, web.clone()), work(2.0, 1.0, 0.0))
            .unwrap();
        cluster
            .place(&host_id(index), with_rules(&rest, stays.clone()), work(3.0, 1.0, 0.0))
            .unwrap();
    }
    cluster.keep_records();
    cluster.start();
    cluster
}

#[test]
fn a_dead_host_keeps_its_rack_closed_until_an_operator_removes_it() {
    let mut cluster = webs(&["r0", "r1", "r1"], 1);
    cluster.run_until(at(5));
    cluster.kill(&host_id(2));
    cluster.run_until(at(300));
    assert_eq!(home(&cluster, "web0"), host_id(0));
    let silent = |d: &&evenkeel_core::decision::Decision| d.ending == Reason::WitnessSilent;
    let why = &cluster.records().iter().find(silent).unwrap().detail;
    assert!(why.contains("`n002`"), "{why}");
    // That another host says so counts for nothing, or a liar could have witnesses left out.
    cluster.input(&host_id(0), Input::Removed(host_id(2)));
    cluster.run_until(at(350));
    assert_eq!(home(&cluster, "web0"), host_id(0));
    // The list of removed hosts, which the authority signs, is passed from host to host.
    cluster.input(&host_id(1), Input::Revoked(host_id(2)));
    cluster.run_until(at(400));
    assert_eq!(home(&cluster, "web0"), host_id(1));
    assert_sound(&mut cluster);
}

#[test]
fn of_two_machines_that_somebody_has_put_into_one_rack_one_makes_room() {
    let mut cluster = webs(&["r0", "r0", "r1", "r2"], 2);
    cluster.run_until(at(1200));
    let racks = ["r0", "r0", "r1", "r2"];
    let rack = |machine| racks[(0..4).find(|i| host_id(*i) == home(&cluster, machine)).unwrap()];
    assert_ne!(rack("web0"), rack("web1"));
    assert!(cluster.tally().migrations >= 1);
    assert_sound(&mut cluster);
}

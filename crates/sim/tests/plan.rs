//! What holds for every plan, recomputed from what it prints and from nothing else.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeMap;

use evenkeel_core::decision::Reason;
use evenkeel_core::model::{HostId, HostState, MachineId, PerResource, Resources, Rules, Weights};
use evenkeel_core::select::Policy;
use evenkeel_sim::generate::{Recipe, generate};
use evenkeel_sim::plan::{Options, Plan, plan, trace};
use evenkeel_sim::snapshot::{Snapshot, SnapshotMachine};
use proptest::prelude::*;

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::default()), Just(Policy::HalfDifference)]
}

/// A generated cluster with some rules on it.
fn ruled(seed: u64, mixed: bool, rules: &[u8]) -> Snapshot {
    let recipe = if mixed { Recipe::mixed(6, 40) } else { Recipe::uniform(6, 40) };
    let mut snapshot = generate(&recipe, seed).unwrap();
    let mut group_on: BTreeMap<(HostId, u8), ()> = BTreeMap::new();
    for (index, host) in snapshot.hosts.iter_mut().enumerate() {
        host.labels.insert("rack".to_owned(), format!("r{}", index % 3));
    }
    let racks: BTreeMap<_, _> = snapshot
        .hosts
        .iter()
        .map(|h| (h.id.clone(), HostId::new(&h.labels["rack"]).unwrap()))
        .collect();
    for (vm, &rule) in snapshot.vms.iter_mut().zip(rules) {
        vm.rules = match rule {
            0 => Rules { ignore: true, ..Rules::default() },
            1 => Rules { pinned_to: vec![vm.host.clone().into()], ..Rules::default() },
            2 => Rules { affinity: vec!["pair".parse().unwrap()], ..Rules::default() },
            // A group begins with at most one member on each host.
            3 | 4 if group_on.insert((vm.host.clone(), rule), ()).is_none() => Rules {
                anti_affinity: vec![format!("g{rule}").parse().unwrap()],
                ..Rules::default()
            },
            // And one across racks with at most one in each.
            6 | 7 if group_on.insert((racks[&vm.host].clone(), rule), ()).is_none() => Rules {
                anti_affinity: vec![format!("g{rule}@rack").parse().unwrap()],
                ..Rules::default()
            },
            _ => Rules::default(),
        };
        vm.movable = rule != 5;
    }
    snapshot
}

/// Carries a plan out, step by step, and checks each.
fn carry_out(snapshot: &Snapshot, plan: &Plan) -> Result<BTreeMap<HostId, f64>, TestCaseError> {
    let profiles: BTreeMap<_, _> =
        snapshot.hosts.iter().map(|h| (h.id.clone(), h.profile())).collect();
    let mut place: BTreeMap<_, _> =
        snapshot.vms.iter().map(|vm| (vm.id.clone(), vm.host.clone())).collect();
    let mut used: BTreeMap<_, Resources> =
        snapshot.hosts.iter().map(|h| (&h.id, h.background.unwrap_or_default())).collect();
    for vm in &snapshot.vms {
        *used.get_mut(&vm.host).unwrap() += vm.usage;
    }
    let emptied = |id: &HostId| {
        snapshot.hosts.iter().any(|host| host.id == *id && host.state == HostState::Draining)
    };
    for (index, step) in plan.moves.iter().enumerate() {
        prop_assert_eq!(step.seq, index as u64 + 1);
        let load = |id: &HostId, used: &BTreeMap<_, _>| profiles[id].price(&used[id]);
        let before = load(&step.from, &used);
        let cpu = |id: &HostId, used: &BTreeMap<_, _>| profiles[id].shares(&used[id]).cpu;
        let cpu_before = cpu(&step.from, &used);
        let vm = snapshot.vms.iter().find(|vm| vm.id == step.vm).unwrap();
        prop_assert!(vm.movable && !vm.rules.ignore, "{} may not move", vm.id);
        *used.get_mut(&step.from).unwrap() = used[&step.from] - vm.usage;
        *used.get_mut(&step.to).unwrap() += vm.usage;
        let there = load(&step.to, &used);
        prop_assert!(there < before || emptied(&step.from), "{step:?}: {there} after {before}");
        let cpu = cpu(&step.to, &used);
        prop_assert!(cpu <= 1.0 + 1e-9 || cpu < cpu_before, "{} at {cpu} of its CPU", step.to);
        for group in &vm.rules.affinity {
            let mate = |other: &&SnapshotMachine| {
                other.id != vm.id && other.rules.affinity.contains(group)
            };
            let on = |host: &HostId| {
                snapshot.vms.iter().filter(mate).filter(|other| place[&other.id] == *host).count()
            };
            let (left, joined) = (on(&step.from), on(&step.to));
            prop_assert!(left <= joined, "{} leaves {left} mates for {joined}", vm.id);
        }
        let pinned = &vm.rules.pinned_to;
        prop_assert!(pinned.is_empty() || pinned.contains(&step.to.clone().into()));
        prop_assert_eq!(place.insert(vm.id.clone(), step.to.clone()), Some(step.from.clone()));
        let there: Vec<_> = snapshot.vms.iter().filter(|vm| place[&vm.id] == step.to).collect();
        let memory: f64 = there.iter().map(|vm| vm.promised_memory_bytes()).sum();
        prop_assert!(memory <= profiles[&step.to].usable_memory_bytes(), "{} is full", step.to);
        for group in &vm.rules.anti_affinity {
            let zone = |host: &HostId| match group.label() {
                Some(label) => profiles[host].labels[label].clone(),
                None => host.to_string(),
            };
            let mates = snapshot.vms.iter().filter(|m| {
                m.rules.anti_affinity.contains(group) && zone(&place[&m.id]) == zone(&step.to)
            });
            let mates = mates.count();
            prop_assert_eq!(mates, 1, "{} shares {}", group, step.to);
        }
    }
    let mut loads: BTreeMap<_, _> = profiles.keys().map(|id| (id.clone(), 0.0)).collect();
    for vm in &snapshot.vms {
        *loads.get_mut(&place[&vm.id]).unwrap() += profiles[&place[&vm.id]].price(&vm.usage);
    }
    Ok(loads)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_of_a_plan_fits_and_breaks_no_rule(
        seed in 0..1000u64,
        mixed in any::<bool>(),
        rules in prop::collection::vec(0..12u8, 40),
        policy in policies(),
    ) {
        let snapshot = ruled(seed, mixed, &rules);
        let options = Options { seed, policy, ..Options::default() };
        let plan = plan(&snapshot, &options).unwrap();
        let loads = carry_out(&snapshot, &plan)?;
        for host in &plan.after.hosts {
            prop_assert!((host.load - loads[&host.id]).abs() < 1e-9, "{} as printed", host.id);
        }
        prop_assert!(plan.after.max <= plan.before.max + 1e-9);
        prop_assert_eq!(trace(&snapshot, &options).unwrap().violations, vec![]);
    }

    /// Not the order in the file and not the units of what is measured.
    #[test]
    fn what_does_not_matter_changes_nothing(
        seed in 0..1000u64, turn in 1..40usize, exponent in -4..5i32, policy in policies(),
    ) {
        let options = Options { seed, policy, ..Options::default() };
        let recipe = Recipe { mixed: seed % 2 == 0, ..Recipe::uniform(8, 40) };
        let snapshot = generate(&recipe, seed).unwrap();
        let whole = |snapshot: &Snapshot| {
            Plan { elapsed_ms: 0.0, ..plan(snapshot, &options).unwrap() }
        };
        let moves = |snapshot: &Snapshot| {
            whole(snapshot).moves.into_iter().map(|m| (m.vm, m.from, m.to)).collect::<Vec<_>>()
        };
        let mut permuted = snapshot.clone();
        permuted.hosts.rotate_left(turn % 8);
        permuted.vms.rotate_left(turn);
        permuted.vms.reverse();
        prop_assert_eq!(&whole(&permuted), &whole(&snapshot), "another order in the file");
        let expected = moves(&snapshot);
        let mut scaled = snapshot;
        let factor = 2f64.powi(exponent);
        for host in &mut scaled.hosts {
            host.capacity = host.capacity.scaled(factor);
            host.reserved_memory_bytes *= factor;
        }
        for vm in &mut scaled.vms {
            vm.usage = vm.usage.scaled(factor);
            vm.memory_bytes *= factor;
        }
        prop_assert_eq!(&moves(&scaled), &expected, "another unit");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the policy that knows the mean is there for, on inputs that nobody has tuned it to.
#[test]
fn a_plan_is_nearly_as_good_as_any_plan_can_be() {
    for (recipe, moves_max, maximum_max) in
        [(Recipe::uniform(20, 200), 1.10, 1.02), (Recipe::mixed(20, 200), 1.45, 1.05)]
    {
        let plans: Vec<_> = (100..109)
            .map(|seed| {
                let snapshot = generate(&recipe, seed).unwrap();
                plan(&snapshot, &Options { seed, ..Options::default() }).unwrap()
            })
            .collect();
        let of = |figure: fn(&Plan) -> f64| median(plans.iter().map(figure).collect());
        let moves = of(|p| p.moves.len() as f64 / p.bounds.moves as f64);
        let maximum = of(|p| p.after.max / p.bounds.max);
        assert!(moves <= moves_max && maximum <= maximum_max, "{moves} × moves, {maximum} × max");
        let messages = of(|p| p.messages as f64 / 20.0);
        assert!(messages < 150.0, "{messages} messages a host");
    }
}

/// The spread of a pair that the bare rule leaves is at most its smallest movable machine.
#[test]
fn half_difference_ends_where_no_machine_helps_any_pair() {
    let mut settled = 0;
    for seed in 1..9 {
        let snapshot = generate(&Recipe::uniform(10, 60), seed).unwrap();
        let options = Options { seed, policy: Policy::HalfDifference, ..Options::default() };
        let plan = plan(&snapshot, &options).unwrap();
        // What no order brings to its place is on record, and out of the rule's hands.
        if !plan.kept.is_empty() {
            continue;
        }
        settled += 1;
        let mut place: BTreeMap<_, _> = snapshot.vms.iter().map(|vm| (&vm.id, &vm.host)).collect();
        plan.moves.iter().for_each(|m| _ = place.insert(&m.vm, &m.to));
        let profile = snapshot.hosts[0].profile();
        for high in &plan.after.hosts {
            let own = snapshot.vms.iter().filter(|vm| *place[&vm.id] == high.id);
            let fits = |vm: &&SnapshotMachine, low: &HostId| {
                let there = snapshot.vms.iter().filter(|vm| place[&vm.id] == low);
                let used: f64 = there.map(SnapshotMachine::promised_memory_bytes).sum();
                used + vm.promised_memory_bytes() <= profile.usable_memory_bytes()
            };
            for low in &plan.after.hosts {
                let movable = own.clone().filter(|vm| fits(vm, &low.id));
                let smallest = movable.map(|vm| profile.price(&vm.usage)).fold(f64::MAX, f64::min);
                assert!(high.load - low.load <= smallest + 1e-6, "{} and {}", high.id, low.id);
            }
        }
    }
    assert!(settled > 4, "{settled}");
}

/// Although all others are more loaded than it is by then.
#[test]
fn a_draining_host_is_emptied_where_rules_allow_and_a_cordoned_one_takes_nothing() {
    for seed in 1..6 {
        let mut snapshot = generate(&Recipe::uniform(8, 40), seed).unwrap();
        let (drained, cordoned) = (snapshot.hosts[0].id.clone(), snapshot.hosts[1].id.clone());
        snapshot.hosts[0].state = HostState::Draining;
        snapshot.hosts[1].state = HostState::Cordoned;
        let mut own = snapshot.vms.iter_mut().filter(|vm| vm.host == drained);
        let pinned = own.next().map(|vm| {
            vm.rules.pinned_to = vec![drained.clone().into()];
            vm.id.clone()
        });
        for policy in [Policy::default(), Policy::HalfDifference] {
            let plan = plan(&snapshot, &Options { seed, policy, ..Options::default() }).unwrap();
            carry_out(&snapshot, &plan).unwrap();
            assert!(plan.moves.iter().all(|m| m.to != drained && m.to != cordoned));
            let gone = |id: &MachineId| plan.moves.iter().any(|m| m.vm == *id);
            for vm in snapshot.vms.iter().filter(|vm| vm.host == drained) {
                assert_eq!(gone(&vm.id), Some(&vm.id) != pinned.as_ref(), "{seed}, {}", vm.id);
            }
        }
    }
}

/// Memory that is nearly full, CPUs that are nearly full, unlike hosts: what is printed can be done.
#[test]
fn no_step_of_a_plan_lifts_the_maximum_of_its_pair_or_overdraws_a_host() {
    let mut moves = 0;
    for seed in 1..25 {
        for (mixed, memory, cpu) in [
            (false, 1.0, 1.0),
            (true, 1.0, 1.0),
            (false, 1.5, 1.0),
            (true, 1.3, 1.0),
            (false, 1.0, 2.0),
            (true, 1.0, 2.2),
        ] {
            let recipe = Recipe { mixed, ..Recipe::uniform(12, 90) };
            let mut snapshot = generate(&recipe, seed).unwrap();
            snapshot.hosts.iter_mut().for_each(|host| host.reserved_memory_bytes *= memory * 4.0);
            for vm in &mut snapshot.vms {
                vm.memory_bytes *= memory;
                vm.usage.cpu_cores *= cpu;
            }
            let plan = plan(&snapshot, &Options { seed, ..Options::default() }).unwrap();
            carry_out(&snapshot, &plan).unwrap();
            moves += plan.moves.len();
        }
    }
    assert!(moves > 2000, "{moves}");
}

#[test]
fn what_rules_keep_is_named_with_its_rule() {
    let mut snapshot = generate(&Recipe::uniform(4, 20), 5).unwrap();
    let host = snapshot.vms[0].host.clone();
    snapshot.vms[0].rules.pinned_to = vec![host.into()];
    snapshot.vms[1].movable = false;
    let plan = plan(&snapshot, &Options::default()).unwrap();
    let kept: Vec<_> = plan.kept.iter().map(|k| (k.vm.as_str(), k.reason)).collect();
    assert_eq!(kept, [("v0000", Reason::RulePinned), ("v0001", Reason::RuleIgnored)]);
}

#[test]
fn a_snapshot_that_makes_no_sense_is_refused_by_name() {
    let good = generate(&Recipe::uniform(3, 6), 6).unwrap();
    // Weights are normalised as they are read, which is exact only the second time.
    let good = Snapshot::parse(&good.to_json().unwrap()).unwrap();
    assert_eq!(Snapshot::parse(&good.to_json().unwrap()).unwrap(), good);
    type Spoil = fn(&mut Snapshot);
    let cases: [(&str, Spoil); 7] = [
        ("evenkeel.snapshot/v9", |s| s.format = "evenkeel.snapshot/v9".to_owned()),
        ("no hosts", |s| s.hosts.clear()),
        ("host `n000` is there twice", |s| s.hosts[1].id = s.hosts[0].id.clone()),
        ("machine `v0000` is there twice", |s| s.vms[1].id = s.vms[0].id.clone()),
        ("`n000` has a capacity of 0 for cpu", |s| s.hosts[0].capacity.cpu_cores = 0.0),
        ("machine `v0002`: usage.cpu_cores is -1", |s| s.vms[2].usage.cpu_cores = -1.0),
        ("host `nowhere`, which is not", |s| s.vms[0].host = HostId::new("nowhere").unwrap()),
    ];
    for (expected, spoil) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = Snapshot::parse(&bad.to_json().unwrap()).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    }
    let error = Snapshot::parse("{\"format\": 3").unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

/// Nothing that is legal but odd makes a plan fail, go on for ever or move what must stay.
#[test]
fn odd_clusters_are_planned_like_any_other() {
    type Odd = fn(&mut Snapshot);
    let stays: [(&str, Odd); 5] = [
        ("a single host", |s| {
            s.hosts.truncate(1);
            s.vms.iter_mut().for_each(|vm| vm.host = s.hosts[0].id.clone());
        }),
        ("no machines", |s| s.vms.clear()),
        ("idle machines", |s| s.vms.iter_mut().for_each(|vm| vm.usage = Resources::ZERO)),
        ("every machine pinned", |s| {
            s.vms.iter_mut().for_each(|vm| vm.rules.pinned_to = vec![vm.host.clone().into()]);
        }),
        ("every host cordoned", |s| {
            s.hosts.iter_mut().for_each(|host| host.state = HostState::Cordoned);
        }),
    ];
    let moves: [(&str, Odd); 3] = [
        ("two hosts", |s| {
            s.hosts.truncate(2);
            for vm in &mut s.vms {
                vm.memory_bytes /= 8.0;
                vm.usage.memory_bytes /= 8.0;
                vm.host = s.hosts[0].id.clone();
            }
        }),
        ("one machine as large as a host", |s| {
            s.vms[0].usage.cpu_cores = s.hosts[0].capacity.cpu_cores;
        }),
        ("a resource that nobody has and nobody counts", |s| {
            for host in &mut s.hosts {
                host.capacity.io_bytes_per_s = 0.0;
                let weights = PerResource { cpu: 1.0, memory: 1.0, io: 0.0 };
                host.weights = Weights::new(weights).unwrap();
            }
        }),
    ];
    let cases = stays.map(|case| (case, false)).into_iter().chain(moves.map(|case| (case, true)));
    for ((name, odd), expected) in cases {
        let mut snapshot = generate(&Recipe::uniform(5, 30), 7).unwrap();
        odd(&mut snapshot);
        for policy in [Policy::default(), Policy::HalfDifference] {
            let plan = plan(&snapshot, &Options { policy, ..Options::default() }).unwrap();
            assert_eq!(!plan.moves.is_empty(), expected, "{name}: {:?}", plan.moves);
            carry_out(&snapshot, &plan).unwrap();
            assert!(plan.after.max <= plan.before.max + 1e-9, "{name}");
        }
    }
}

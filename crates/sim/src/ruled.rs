//! Clusters full of rules, and an observer that judges by itself whether one is broken.
//!
//! Hosts have racks; machines are in groups that stay apart or together, are pinned or kept off, by
//! host and by rack, hard and soft. They begin anywhere, so that many rules are broken to begin with,
//! and somebody else goes on moving machines about for a while. The observer knows where everything
//! is, which no host does, and looks at every machine that arrives by a handoff: by that act no hard
//! rule may be broken. It shares no code with the judge that hosts have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::{
    Entry, Group, HostId, HostProfile, IdError, Locks, MachineFacts, MachineId, Place,
    Requirements, Resources, RuleError, Rules,
};
use evenkeel_core::restraint::Restraint;
use evenkeel_core::select::{Calm, Policy};
use evenkeel_hypervisor::memory::{CloudError, Workload};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cluster::{Cluster, HostSpec, Moved};

const GIB: f64 = 1_073_741_824.0;
/// Hosts of one rack.
const RACK: usize = 8;
/// The label that rules go across.
const LABEL: &str = "rack";

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ruled {
    /// Hosts.
    pub hosts: usize,
    /// Machines.
    pub machines: usize,
    /// For how long somebody else moves machines about.
    pub disturbed: Duration,
    /// How long it is watched after that.
    pub watched: Duration,
    /// By which rule hosts select.
    pub policy: Policy,
    /// A part of the rules that hosts do not know, to see that the observer finds what they break.
    pub blind: Option<Blind>,
}

/// What hosts do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// Which machines stay apart.
    Apart,
    /// Which stay together.
    Together,
    /// Where machines are pinned to.
    Places,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Machines that came to another host by a handoff, each looked at.
    pub moves: u64,
    /// Moves by somebody else.
    pub meddled: u64,
    /// Arrivals that somebody else's act during the migration makes impossible to blame on anybody.
    pub excused: u64,
    /// Hard rules that were broken when it began.
    pub broken_before: u64,
    /// Hard rules that are broken at its end.
    pub broken_after: u64,
    /// Hard rules that an act of the balancer has broken, in words.
    pub violations: Vec<String>,
}

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RuledError {
    /// A name is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A rule is none.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// The hypervisors refused.
    #[error(transparent)]
    Cloud(#[from] CloudError),
}

/// What is true, whatever hosts believe.
struct Truth {
    rules: BTreeMap<MachineId, Rules>,
    racks: BTreeMap<HostId, String>,
}

impl Ruled {
    /// Runs it with one seed.
    ///
    /// # Errors
    /// When a name or rule made up here is none, or a machine does not fit.
    pub fn run(&self, seed: u64) -> Result<Tally, RuledError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut cluster, truth) = self.furnish(seed, &mut rng)?;
        let mut tally = Tally { broken_before: truth.broken(&cluster), ..Tally::default() };
        cluster.start_acquainted();
        let (calm, end) = (self.disturbed, self.disturbed + self.watched);
        let began = cluster.now();
        let mut meddle_at = began;
        let mut disturbed = BTreeSet::new();
        while cluster.now() < began + end && cluster.step() {
            for moved in cluster.take_moves() {
                tally.moves += 1;
                if disturbed.remove(&moved.machine) {
                    tally.excused += 1;
                } else {
                    tally.violations.extend(truth.judge(&cluster, &moved));
                }
            }
            if cluster.now() >= meddle_at && cluster.now() < began + calm {
                meddle_at = cluster.now() + Duration::from_secs(5);
                tally.meddled += u64::from(meddle(&mut cluster, &truth, &mut rng)?);
                disturbed = cluster.on_their_way();
            }
        }
        tally.broken_after = truth.broken(&cluster);
        Ok(tally)
    }

    fn furnish(&self, seed: u64, rng: &mut impl Rng) -> Result<(Cluster, Truth), RuledError> {
        let config = Config {
            round: Duration::from_secs(10),
            sample: Duration::from_secs(5),
            calm: Calm::NONE,
            restraint: Restraint::NONE,
            policy: self.policy,
            ..Config::default()
        };
        let mut cluster = Cluster::new(seed);
        let (mut racks, mut hosts) = (BTreeMap::new(), Vec::new());
        for index in 0..self.hosts {
            let id = HostId::new(&format!("n{index:03}"))?;
            let capacity =
                Resources { cpu_cores: 16.0, memory_bytes: 64.0 * GIB, io_bytes_per_s: 1.0e9 };
            let mut profile = HostProfile::new(id.clone(), capacity);
            let rack = format!("r{}", index / RACK);
            profile.labels.insert(LABEL.to_owned(), rack.clone());
            racks.insert(id.clone(), rack);
            cluster.add_host(HostSpec::new(profile, config.clone()))?;
            hosts.push(id);
        }
        let mut rules = BTreeMap::new();
        for index in 0..self.machines {
            let id = MachineId::new(&format!("v{index:04}"))?;
            let its = self.rules(index, &hosts, &racks, rng)?;
            let entry = Entry { rules: self.known(its.clone()), ..Entry::default() };
            let facts = MachineFacts {
                id: id.clone(),
                name: id.as_str().into(),
                vcpus: 4,
                memory_bytes: 2.0 * GIB,
                needs: Requirements::default(),
                persistent: true,
                autostart: false,
                locks: Locks::default(),
                entry: Ok(entry),
            };
            let wants = Resources {
                cpu_cores: rng.random_range(0.1..4.0),
                memory_bytes: 1.0 * GIB,
                io_bytes_per_s: 0.0,
            };
            // Most are crowded on some hosts, so that loads want to be levelled, too.
            let among = if rng.random_bool(0.5) { hosts.len() / 4 } else { hosts.len() };
            let host = &hosts[rng.random_range(0..among.max(1))];
            cluster.place(host, facts, Workload { wants, dirty_bytes_per_s: 1.0e6 })?;
            rules.insert(id, its);
        }
        Ok((cluster, Truth { rules, racks }))
    }

    fn rules(
        &self,
        index: usize,
        hosts: &[HostId],
        racks: &BTreeMap<HostId, String>,
        rng: &mut impl Rng,
    ) -> Result<Rules, RuleError> {
        let soft = if rng.random_bool(0.25) { "?" } else { "" };
        let host = &hosts[rng.random_range(0..hosts.len())];
        let rack = &racks[host];
        let group = |text: String| -> Result<Vec<Group>, RuleError> { Ok(vec![text.parse()?]) };
        let place = |text: String| -> Result<Vec<Place>, RuleError> { Ok(vec![text.parse()?]) };
        let default = Rules::default();
        Ok(match index % 8 {
            0 | 1 => Rules { anti_affinity: group(format!("a{}{soft}", index / 64))?, ..default },
            2 => Rules { affinity: group(format!("t{}{soft}", index / 24))?, ..default },
            3 => Rules { pinned_to: place(format!("{LABEL}={rack}{soft}"))?, ..default },
            4 => Rules { pinned_to: place(format!("!{host}{soft}"))?, ..default },
            5 => Rules {
                anti_affinity: group(format!("b{}{soft}", index / 64))?,
                pinned_to: place(format!("!{LABEL}={rack}{soft}"))?,
                ..default
            },
            _ => Rules { priority: rng.random_range(-2..3), ..default },
        })
    }

    /// What hosts know of it.
    fn known(&self, rules: Rules) -> Rules {
        match self.blind {
            None => rules,
            Some(Blind::Apart) => Rules { anti_affinity: Vec::new(), ..rules },
            Some(Blind::Together) => Rules { affinity: Vec::new(), ..rules },
            Some(Blind::Places) => Rules { pinned_to: Vec::new(), ..rules },
        }
    }
}

/// Somebody else moves a machine, wherever that is.
fn meddle(cluster: &mut Cluster, truth: &Truth, rng: &mut impl Rng) -> Result<bool, CloudError> {
    let machine = truth.rules.keys().nth(rng.random_range(0..truth.rules.len().max(1)));
    let host = truth.racks.keys().nth(rng.random_range(0..truth.racks.len().max(1)));
    let (Some(machine), Some(host)) = (machine, host) else { return Ok(false) };
    if cluster.on_their_way().contains(machine) || !cluster.has_room(host, machine) {
        return Ok(false);
    }
    cluster.cloud_mut().relocate(machine, host)?;
    Ok(true)
}

impl Truth {
    /// Machines that a host executes, and those that are arriving there.
    fn on<'a>(&'a self, cluster: &'a Cluster, host: &HostId) -> Vec<(MachineId, &'a Rules)> {
        let machines = cluster.cloud().machines_on(host);
        let resident = machines.filter(|(_, presence)| presence.is_resident());
        let known = |id: &MachineId| Some((id.clone(), self.rules.get(id)?));
        resident.filter_map(|(facts, _)| known(&facts.id)).collect()
    }

    fn is_right(&self, rules: &Rules, host: &HostId) -> bool {
        let hard = || rules.pinned_to.iter().map(ToString::to_string).filter(|p| !p.ends_with('?'));
        let (own, rack) = (host.to_string(), format!("{LABEL}={}", self.racks[host]));
        let names = |place: &str| place == own || place == rack;
        let wanted: Vec<_> = hard().filter(|place| !place.starts_with('!')).collect();
        let avoided = hard().any(|place| place.strip_prefix('!').is_some_and(names));
        !avoided && (wanted.is_empty() || wanted.iter().any(|place| names(place)))
    }

    /// Hard rules that are broken by a machine that has just come.
    fn judge(&self, cluster: &Cluster, moved: &Moved) -> Vec<String> {
        let Some(rules) = self.rules.get(&moved.machine) else { return Vec::new() };
        let (mut found, here) = (Vec::new(), self.on(cluster, &moved.to));
        let mut found_one = |what: &str| found.push(format!("{what}: {moved:?}, {rules:?}"));
        if !self.is_right(rules, &moved.to) {
            found_one("a place");
        }
        let others = || here.iter().filter(|(id, _)| *id != moved.machine);
        let clash = |theirs: &Rules| clash(rules, theirs);
        if others().any(|(_, theirs)| clash(theirs)) {
            found_one("anti-affinity");
        }
        for group in rules.affinity.iter().filter(|group| !group.is_soft()) {
            let is_mate = |rules: &Rules| rules.affinity.iter().any(|g| g.name() == group.name());
            let mates = |on: &[(MachineId, &Rules)], host: &HostId| {
                let mates = on.iter().filter(|(id, rules)| {
                    *id != moved.machine && is_mate(rules) && self.is_right(rules, host)
                });
                mates.count()
            };
            let left = self.on(cluster, &moved.from);
            if mates(&here, &moved.to) < mates(&left, &moved.from) {
                found_one("affinity");
            }
        }
        found
    }

    /// Hard rules that are broken now: machines where they must not be, pairs that must not be
    /// together, and groups that are not.
    fn broken(&self, cluster: &Cluster) -> u64 {
        let mut count = 0;
        let mut flocks: BTreeMap<&str, BTreeSet<&HostId>> = BTreeMap::new();
        for host in self.racks.keys() {
            let here = self.on(cluster, host);
            count += here.iter().filter(|(_, rules)| !self.is_right(rules, host)).count();
            for (index, (_, rules)) in here.iter().enumerate() {
                count += here[..index].iter().filter(|(_, other)| clash(rules, other)).count();
                for group in rules.affinity.iter().filter(|group| !group.is_soft()) {
                    flocks.entry(group.name()).or_default().insert(host);
                }
            }
        }
        count += flocks.values().map(|hosts| hosts.len() - 1).sum::<usize>();
        count as u64
    }
}

fn clash(a: &Rules, b: &Rules) -> bool {
    let shared = |x: &Group| {
        b.anti_affinity.iter().any(|y| x.name() == y.name() && !(x.is_soft() && y.is_soft()))
    };
    a.anti_affinity.iter().any(shared)
}

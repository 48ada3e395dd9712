//! Two hosts, the machine `m` on the first of them, and what else is to be there.

use std::time::Duration;

use evenkeel_core::balancer::Config;
use evenkeel_core::model::{Entry, HostFacts, MachineFacts, Rules};
use evenkeel_core::select::Policy;
use evenkeel_sim::{Cluster, HostSpec};

use crate::common::*;

/// What is prepared.
pub(crate) struct Stage {
    /// How the first host balances.
    pub(crate) config: Config,
    /// The first host.
    pub(crate) here: HostSpec,
    /// The second host.
    pub(crate) there: HostSpec,
    /// The machine asked about.
    pub(crate) m: MachineFacts,
    /// What it wants, in cores.
    pub(crate) cpu: f64,
    /// Other machines: their host, what they want in cores, and what they are.
    pub(crate) others: Vec<(usize, f64, MachineFacts)>,
}

impl Stage {
    /// Eager hosts, the one with `m`, which wants three cores, and a machine of five cores that stays.
    pub(crate) fn new() -> Self {
        Self::with(eager())
    }

    /// The same with the policy that knows the mean.
    pub(crate) fn mean_aware() -> Self {
        Self::with(mean_aware())
    }

    pub(crate) fn with(config: Config) -> Self {
        let spec = |index| HostSpec::new(profile(index), config.clone());
        Self {
            here: spec(0),
            there: spec(1),
            m: facts("m", 2.0),
            cpu: 3.0,
            others: vec![(0, 5.0, staying("stays"))],
            config,
        }
    }

    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The machine with these rules.
    pub(crate) fn ruled(self, rules: Rules) -> Self {
        self.edit(|s| s.m.entry = Ok(Entry { rules, ..Entry::default() }))
    }

    /// The first host balances otherwise.
    pub(crate) fn configured(self, change: impl FnOnce(&mut Config)) -> Self {
        self.edit(|s| {
            change(&mut s.config);
            s.here.config = s.config.clone();
        })
    }

    /// The second host's hypervisor has other facts.
    pub(crate) fn there_has(self, change: impl FnOnce(&mut HostFacts)) -> Self {
        self.edit(|s| change(&mut s.there.hypervisor.facts))
    }

    /// The cluster, started.
    pub(crate) fn start(self) -> Cluster {
        let mut cluster = Cluster::new(1);
        cluster.add_host(self.here).unwrap();
        cluster.add_host(self.there).unwrap();
        cluster.place(&host_id(0), self.m, work(self.cpu, 2.0, 1e6)).unwrap();
        for (host, cpu, facts) in self.others {
            cluster.place(&host_id(host), facts, work(cpu, 1.0, 1e6)).unwrap();
        }
        cluster.keep_records();
        cluster.keep_log();
        cluster.start();
        cluster
    }

    /// The same after a minute.
    pub(crate) fn minute(self) -> Cluster {
        after(self.start(), 60)
    }
}

/// A machine that nobody moves.
pub(crate) fn staying(name: &str) -> MachineFacts {
    let rules = Rules { ignore: true, ..Rules::default() };
    let mut facts = with_rules(name, rules);
    facts.vcpus = 16;
    facts
}

pub(crate) fn after(mut cluster: Cluster, seconds: u64) -> Cluster {
    let until = cluster.now() + Duration::from_secs(seconds);
    cluster.run_until(until);
    cluster
}

/// The cluster at the moment at which something is so.
pub(crate) fn once(mut cluster: Cluster, is_so: impl Fn(&Cluster) -> bool) -> Cluster {
    assert!(cluster.run_while(at(900), |c| !is_so(c)), "it never came to that");
    cluster
}

/// Only the policy that compares pairs asks without knowing the cluster.
pub(crate) const fn is_pairwise(config: &Config) -> bool {
    matches!(config.policy, Policy::HalfDifference)
}

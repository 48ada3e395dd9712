//! The agents' own membership in simulated clusters.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use evenkeel_core::model::Time;
use evenkeel_sim::{Cluster, HostSpec, Partition, Swim};

fn swimming(hosts: usize) -> Cluster {
    let swim = Box::new(Swim::new(evenkeel_membership::Config::default(), 1));
    let mut cluster = Cluster::beginning(Time::from_unix_ms(1_000_000), 1, swim);
    for index in 0..hosts {
        cluster.add_host(HostSpec::new(profile(index), eager())).unwrap();
    }
    cluster.start();
    cluster
}

/// How many others each host knows.
fn known(cluster: &Cluster) -> Vec<usize> {
    let known = |id| cluster.balancer(id).map_or(0, |b| b.members().len().saturating_sub(1));
    cluster.hosts().map(known).collect()
}

fn wait(cluster: &mut Cluster, seconds: u64) {
    cluster.run_until(cluster.now() + Duration::from_secs(seconds));
}

#[test]
fn hosts_find_each_other_and_notice_who_dies_and_who_returns() {
    let mut cluster = swimming(20);
    wait(&mut cluster, 30);
    assert_eq!(known(&cluster), vec![19; 20]);
    cluster.kill(&host_id(7));
    wait(&mut cluster, 60);
    assert!(known(&cluster).iter().enumerate().all(|(i, &n)| n == if i == 7 { 0 } else { 18 }));
    cluster.restart(&host_id(7));
    wait(&mut cluster, 60);
    assert_eq!(known(&cluster), vec![19; 20]);
}

#[test]
fn a_partition_is_noticed_on_both_sides_and_heals() {
    let mut cluster = swimming(10);
    wait(&mut cluster, 30);
    let inside = (0..4).map(host_id).collect();
    cluster.network.partitions.insert(1, Partition { inside, heard_outside: false });
    wait(&mut cluster, 120);
    let sides: Vec<_> = (0..10).map(|i| if i < 4 { 3 } else { 5 }).collect();
    assert_eq!(known(&cluster), sides);
    cluster.network.partitions.clear();
    wait(&mut cluster, 300);
    assert_eq!(known(&cluster), vec![9; 10]);
}

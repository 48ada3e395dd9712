//! Whether the rule of half the difference could still move anything, seen from above. No host knows
//! this; it only tells when watching may end.

use evenkeel_core::host::{Giver, Host, Toward};
use evenkeel_core::model::HostState;
use evenkeel_core::select::{Calm, Pair, Price, improves};

use crate::cluster::Cluster;

/// Whether there is a pair of hosts that a machine would bring closer together.
pub(crate) fn is_improvable(cluster: &Cluster) -> bool {
    let now = cluster.now();
    let load = |host: &Host| host.load(now).ok();
    let mut hosts: Vec<_> =
        cluster.live_hosts().filter_map(|host| Some((load(host)?, host))).collect();
    hosts.sort_by(|a, b| a.0.total_cmp(&b.0));
    hosts.iter().rev().any(|&(donor, giving)| {
        let receivers = hosts.iter().filter(|(_, host)| host.state == HostState::Active);
        // Once the difference is no more than the smallest machine, none helps.
        let (_, smallest) = offer(giving, giving, donor, 0.0, cluster);
        let emptied = giving.state == HostState::Draining;
        receivers
            .take_while(|(receiver, _)| emptied || donor - receiver > smallest)
            .any(|&(receiver, taking)| offer(giving, taking, donor, receiver, cluster).0)
    })
}

/// Whether one of a host's machines would help the pair, and half the least load of one of them: no
/// machine that is dearer on the other host helps at less than that.
fn offer(
    giving: &Host,
    taking: &Host,
    donor: f64,
    receiver: f64,
    cluster: &Cluster,
) -> (bool, f64) {
    let pair = Pair { donor, receiver };
    let labels = Some(&taking.profile.labels);
    let toward = Toward { labels, authority: giving.authority(), ..Toward::of(taking.id()) };
    let (_, candidates) = giving.candidates(None, &toward, &pair, cluster.now());
    let smallest = candidates.iter().map(|c| c.at_donor / 2.0).fold(f64::INFINITY, f64::min);
    let helps = candidates.iter().any(|candidate| {
        let gauge = giving.gauge(cluster.now());
        let emptied = giving.state == HostState::Draining;
        let (gauge, authority) = (gauge.as_ref(), giving.authority());
        let giver = Giver { gauge, pressing: emptied, authority };
        let quote = taking.quote(None, candidate, giver, cluster.now());
        let price = Price { at_donor: candidate.at_donor, at_receiver: quote.at_receiver };
        quote.refusal.is_none() && (emptied || improves(&pair, price, &Calm::NONE).is_ok())
    });
    (helps, smallest)
}

//! Real hosts and agents at rest: they ask at random, periodically, each by itself, and move nothing.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::decision::{Decision, Reason};
use evenkeel_core::model::HostId;
use evenkeel_core::select::Calm;
use support::records::own;
use support::{Cluster, LIMIT, alike, balance, idle};

/// What makes differences that a machine doing nothing causes none.
const CALM: Calm = Calm { dead_band: 0.2, difference_min: 0.1, gain_min: 0.1 };

/// Claims 1 and 5, the other way round: without a load that exceeds another there is nothing to do.
#[test]
fn an_idle_cluster_moves_nothing() {
    const COMPARED: usize = 30;
    let homes = ["h1", "h1", "h1", "h2", "h2", "h3"];
    let names: Vec<_> = (1..=homes.len()).map(|n| format!("idle{n}")).collect();
    let guests = names.iter().zip(homes).map(|(name, host)| idle(name, host)).collect();
    let round = Duration::from_millis(400);
    let cluster = Cluster::up(alike(3, 2.0), guests, &balance(round, &CALM));

    let compared = |d: &&Decision| d.pair.is_some();
    let decisions = cluster.until(LIMIT, "many comparisons by every host", |c| {
        let of_host = |host: &String| c.decisions_of(host).iter().filter(compared).count();
        c.hosts().iter().all(|host| of_host(host) >= COMPARED).then(|| c.decisions())
    });

    for decision in &decisions {
        assert_eq!(decision.handoff, None, "{decision:?}");
        assert!(decision.candidates.is_empty(), "a machine was considered: {decision:?}");
    }
    for decision in decisions.iter().filter(compared) {
        assert_eq!(decision.ending, Reason::WithinDeadBand, "{decision:?}");
    }
    for (name, home) in names.iter().zip(homes) {
        assert_eq!(cluster.scheduled_on(name).as_deref(), Some(home));
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    cluster.assert_unharmed(&names);
}

/// How often each peer follows in what a host asked, and the same peer twice in a row.
fn counts(asked: &[&HostId]) -> (BTreeMap<HostId, usize>, usize) {
    let mut counts = BTreeMap::new();
    for peer in asked {
        *counts.entry((*peer).clone()).or_default() += 1;
    }
    (counts, asked.windows(2).filter(|pair| pair[0] == pair[1]).count())
}

/// Claims 4, 17, 18, 27. Whom a host asks is as often one as another, and does not depend on whom it
/// asked before. The critical values are those that chance exceeds less than once in a million runs,
/// for all four hosts together.
#[test]
fn the_other_host_is_drawn_at_random_and_every_host_asks_periodically_by_itself() {
    const ASKED: usize = 120;
    const HOSTS: usize = 4;
    /// χ² with two degrees of freedom exceeds x with probability e^(−x/2), here 10⁻⁷; of 120 draws
    /// and more, reckoned exactly, with at most 1.25 · 10⁻⁷.
    const CHI_SQUARE_MAX: f64 = 32.24;
    /// A binomial number of 119 and more chances of a third is as far from its mean, in standard
    /// deviations, with a probability of at most 6 · 10⁻⁸.
    const SIGMAS_MAX: f64 = 5.6;
    let round = Duration::from_millis(200);
    let cluster = Cluster::up(alike(HOSTS, 0.8), Vec::new(), &balance(round, &CALM));
    cluster.until(LIMIT, "a cluster of four that have asked often enough", |c| {
        let enough = |host: &String| {
            let host = HostId::new(host).expect("the lab's names are ids");
            let decisions = c.decisions_of(host.as_str());
            asked_of_all(&decisions, &host, c.hosts()).len() >= ASKED
        };
        c.hosts().iter().all(enough).then_some(())
    });

    for name in cluster.hosts() {
        let host = HostId::new(name).expect("the lab's names are ids");
        let decisions = cluster.decisions_of(name);
        let rounds = asked_of_all(&decisions, &host, cluster.hosts());
        let asked: Vec<_> = rounds.iter().filter_map(|d| d.peer.as_ref()).collect();
        let (counts, repeats) = counts(&asked);
        let (draws, choices) = (asked.len() as f64, (HOSTS - 1) as f64);
        let expected = draws / choices;
        let squares = counts.values().map(|&n| (n as f64 - expected).powi(2) / expected);
        let never = (HOSTS - 1 - counts.len()) as f64 * expected;
        let chi_square = squares.sum::<f64>() + never;
        assert!(chi_square < CHI_SQUARE_MAX, "χ² {chi_square:.1} of {host}: {counts:?}");
        let (pairs, chance) = (draws - 1.0, 1.0 / choices);
        let sigma = (pairs * chance * (1.0 - chance)).sqrt();
        let off = (repeats as f64 - pairs * chance) / sigma;
        assert!(off.abs() < SIGMAS_MAX, "{host} asked the same again {repeats} times of {pairs}");
        assert_periodic(&rounds, round);
    }
    assert_goes_on_alone(&cluster);
}

/// What a host asked by itself, from when it knew all others.
fn asked_of_all<'d>(
    decisions: &'d [Decision],
    host: &HostId,
    hosts: &[String],
) -> Vec<&'d Decision> {
    let rounds = own(decisions, host);
    let mut unseen: Vec<_> = hosts.iter().filter(|name| name.as_str() != host.as_str()).collect();
    let known = rounds.iter().position(|round| {
        unseen.retain(|name| round.peer.as_ref().is_none_or(|peer| peer.as_str() != name.as_str()));
        unseen.is_empty()
    });
    known.map_or_else(Vec::new, |first| rounds[first + 1..].to_vec())
}

/// Claim 18: by the times in the records, rounds come no sooner than the jitter allows, most of them
/// come when they are due, and the jitter is there.
fn assert_periodic(rounds: &[&Decision], round: Duration) {
    /// Times are in whole milliseconds.
    const ROUNDING: Duration = Duration::from_millis(2);
    const JITTER: f64 = 0.25;
    let mut gaps: Vec<_> =
        rounds.windows(2).map(|pair| pair[1].began.since(pair[0].began)).collect();
    gaps.sort_unstable();
    let host = &rounds[0].host;
    let soonest = round.mul_f64(1.0 - JITTER) - ROUNDING;
    assert!(gaps[0] >= soonest, "{host} asked again after {:?}", gaps[0]);
    // A machine that is twice as late with half of its timers would be a machine that does nothing.
    let median = gaps[gaps.len() / 2];
    assert!(median <= round.mul_f64(2.0 * (1.0 + JITTER)), "{host} asks every {median:?}");
    // Being late makes a gap longer; only jitter makes one shorter than the mean.
    let earliest = round.mul_f64(1.0 - JITTER / 4.0);
    assert!(gaps[0] < earliest, "{host} asks without jitter, every {:?} and more", gaps[0]);
}

/// Claim 18: nobody tells a host when to ask. The last agent goes on when all others have ended.
fn assert_goes_on_alone(cluster: &Cluster) {
    let (last, others) = cluster.hosts().split_first().expect("there are hosts");
    for host in others {
        cluster.lab().stop_agent(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    let host = HostId::new(last).expect("the lab's names are ids");
    let known = own(&cluster.decisions_of(last), &host).len();
    cluster.until(LIMIT, "rounds of the last agent", |c| {
        let decisions = c.decisions_of(last);
        let rounds = own(&decisions, &host);
        let alone = rounds[known..].iter().filter(|d| d.ending == Reason::NoPeer).count();
        (alone >= 3).then_some(())
    });
}

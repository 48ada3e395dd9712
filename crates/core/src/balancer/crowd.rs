//! Who has just said to be full: of those drawn at random they are asked last.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{HostId, Time};

/// Hosts that are remembered; in larger clusters few are met again soon.
const KNOWN_MAX: usize = 64;

/// Loads of other hosts, as last heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd {
    loads: BTreeMap<HostId, (Time, f64)>,
}

impl Crowd {
    /// A host has told its load.
    pub(super) fn hear(&mut self, host: &HostId, load: f64, now: Time) {
        if self.loads.len() >= KNOWN_MAX && !self.loads.contains_key(host) {
            let oldest = self.loads.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| id.clone());
            oldest.map(|id| self.loads.remove(&id));
        }
        self.loads.insert(host.clone(), (now, load));
    }

    /// Keeps `count` of those drawn, hosts last that were above `load` no longer ago than `span`.
    pub(super) fn pick(
        &self,
        mut drawn: Vec<HostId>,
        count: usize,
        load: f64,
        span: Duration,
        now: Time,
    ) -> Vec<HostId> {
        let is_full = |host: &HostId| {
            self.loads.get(host).is_some_and(|(at, last)| now.since(*at) < span && *last > load)
        };
        drawn.sort_by_key(is_full);
        drawn.truncate(count);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(index: usize) -> HostId {
        HostId::new(&format!("h{index:03}")).unwrap()
    }

    #[test]
    fn hosts_known_to_be_full_are_asked_last_and_only_for_a_while() {
        let (mut crowded, second) = (Crowd::default(), Duration::from_secs(1));
        let at = |seconds: u64| Time::from_unix_ms(seconds * 1000);
        crowded.hear(&host(1), 0.9, at(0));
        crowded.hear(&host(2), 0.1, at(0));
        let pick = |crowded: &Crowd, count, now| {
            crowded.pick(vec![host(1), host(2), host(3)], count, 0.5, 10 * second, at(now))
        };
        assert_eq!(pick(&crowded, 2, 5), [host(2), host(3)]);
        assert_eq!(pick(&crowded, 3, 5), [host(2), host(3), host(1)]);
        assert_eq!(pick(&crowded, 2, 10), [host(1), host(2)]);
        crowded.hear(&host(1), 0.4, at(6));
        assert_eq!(pick(&crowded, 2, 7), [host(1), host(2)]);
    }

    #[test]
    fn no_more_hosts_are_remembered_than_the_bound_says() {
        let mut crowded = Crowd::default();
        for index in 0..500 {
            crowded.hear(&host(index), 1.0, Time::from_unix_ms(index as u64));
        }
        assert_eq!(crowded.loads.len(), KNOWN_MAX);
        assert!(crowded.loads.contains_key(&host(499)) && !crowded.loads.contains_key(&host(0)));
    }
}

//! What each host may cause, at a rate that is the host's: whichever of its connections it comes by,
//! and however often it connects anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel_core::model::HostId;

use crate::limits::Limits;
use crate::throttle::Bucket;

/// Something that a host can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Message,
    Datagram,
    /// A stream on which something is asked: a list of removed hosts, a certificate, a call.
    Request,
}

/// A host that was silent for so long has all of its rates again, and need not be remembered.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// Hosts are looked through for such ones when there are twice as many as were left the last time,
/// and not before there are so many.
const LOOK_THROUGH_MIN: usize = 64;

/// The rates of all hosts.
pub(crate) struct Rates(Mutex<State>);

struct State {
    hosts: HashMap<HostId, Buckets>,
    look_through_at: usize,
}

struct Buckets {
    messages: Bucket,
    datagrams: Bucket,
    requests: Bucket,
    heard: Instant,
}

impl Rates {
    pub(crate) fn new() -> Self {
        let (hosts, look_through_at) = (HashMap::new(), LOOK_THROUGH_MIN);
        Self(Mutex::new(State { hosts, look_through_at }))
    }

    /// Lets a host do one more of these now, or says how long it is to wait.
    pub(crate) fn take(
        &self,
        host: &HostId,
        deed: Deed,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.hosts.len() >= state.look_through_at {
            state.hosts.retain(|_, host| now.saturating_duration_since(host.heard) < FORGET_AFTER);
            state.look_through_at = (2 * state.hosts.len()).max(LOOK_THROUGH_MIN);
        }
        let buckets = state.hosts.entry(host.clone()).or_insert_with(|| Buckets {
            messages: Bucket::new(limits.messages_from_peer_per_s_max, now),
            datagrams: Bucket::new(limits.datagrams_from_peer_per_s_max, now),
            requests: Bucket::new(limits.requests_from_peer_per_s_max, now),
            heard: now,
        });
        buckets.heard = now;
        match deed {
            Deed::Message => buckets.messages.take(now),
            Deed::Datagram => buckets.datagrams.take(now),
            Deed::Request => buckets.requests.take(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_rate_and_is_forgotten_once_it_has_all_of_it_again() {
        let (rates, start) = (Rates::new(), Instant::now());
        let limits = Limits { messages_from_peer_per_s_max: 3, ..Limits::default() };
        let host = |n: usize| HostId::new(&format!("h{n}")).unwrap();
        let take = |n, at| rates.take(&host(n), Deed::Message, &limits, at).is_ok();
        assert_eq!((0..10).filter(|_| take(0, start)).count(), 3);
        assert!(take(1, start), "another host has its own");
        // As many as there are certificates, each once.
        for n in 0..10_000 {
            take(n, start + Duration::from_secs(n as u64));
        }
        let remembered = rates.0.lock().unwrap().hosts.len();
        assert!(remembered <= 2 * LOOK_THROUGH_MIN, "{remembered} hosts");
    }
}

//! What of decisions is written down. One that led to a handoff, or that this host began, always is.
//! Of those that others begin and that come to nothing, as many as a peer likes could be caused: of them
//! a few are written for each peer, and the rest is counted in the next that is.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::decision::Decision;
use evenkeel_core::model::{HostId, Time};

/// So many of a peer's are written at once.
const BURST: u32 = 16;
/// After that, one in this time.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Ledger(BTreeMap<HostId, Account>);

#[derive(Debug)]
struct Account {
    /// Written lately: one less for each [`EVERY`] that has passed.
    written: u32,
    since: Time,
    held: Option<Decision>,
}

impl Ledger {
    /// What is to be written of this decision now: itself, or nothing yet.
    pub(crate) fn take(&mut self, mut decision: Decision, now: Time) -> Option<Decision> {
        let peer = decision
            .peer
            .as_ref()
            .filter(|_| decision.handoff.is_none() && decision.initiator != decision.host);
        let Some(peer) = peer else { return Some(decision) };
        let account =
            self.0.entry(peer.clone()).or_insert(Account { written: 0, since: now, held: None });
        account.lapse(now);
        if let Some(held) = account.held.take() {
            decision.more = decision.more.saturating_add(held.more).saturating_add(1);
        }
        if account.written >= BURST {
            account.held = Some(decision);
            return None;
        }
        account.written += 1;
        Some(decision)
    }

    /// What was held back and may be written now. To be asked now and then.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Decision> {
        let mut due = Vec::new();
        for account in self.0.values_mut() {
            account.lapse(now);
            if account.written < BURST && account.held.is_some() {
                account.written += 1;
                due.extend(account.held.take());
            }
        }
        // As many stay as have caused something lately.
        self.0.retain(|_, account| account.written > 0 || account.held.is_some());
        due
    }

    /// All that is held back, for an agent that stops.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = Decision> {
        std::mem::take(&mut self.0).into_values().filter_map(|account| account.held)
    }
}

impl Account {
    fn lapse(&mut self, now: Time) {
        let passed = now.since(self.since).as_secs() / EVERY.as_secs();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.written = self.written.saturating_sub(passed);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_core::decision::Reason;
    use evenkeel_core::model::{ExchangeId, HandoffId};

    use super::*;

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time::from_unix_ms(seconds * 1000)
    }

    /// What a peer has begun and this host declined.
    fn declined(peer: &str) -> Decision {
        let (initiator, peer) = (host(peer), Some(host(peer)));
        Decision { initiator, peer, ..Decision::new(ExchangeId(1), host("a"), Reason::Busy, at(0)) }
    }

    #[test]
    fn what_a_peer_begins_in_vain_is_written_a_few_times_and_counted_after_that() {
        let mut ledger = Ledger::default();
        let written = (0..1_000).filter(|_| ledger.take(declined("liar"), at(1)).is_some()).count();
        assert_eq!(written as u32, BURST);
        assert!(ledger.take(declined("b"), at(1)).is_some(), "others are not held up");
        assert!(ledger.due(at(2)).is_empty());
        let due = ledger.due(at(61));
        assert_eq!(due.iter().map(|d| d.more + 1).collect::<Vec<_>>(), [1_000 - BURST]);
        ledger.take(declined("liar"), at(62));
        ledger.take(declined("liar"), at(62));
        assert_eq!(ledger.take(declined("liar"), at(125)).unwrap().more, 2);
        ledger.due(at(100_000));
        assert!(ledger.0.is_empty(), "whoever is silent is forgotten");
    }

    #[test]
    fn what_this_host_began_or_what_moved_is_always_written() {
        let mut ledger = Ledger::default();
        let own = Decision { initiator: host("a"), ..declined("b") };
        let moved = Decision { handoff: Some(HandoffId(1)), ..declined("b") };
        for decision in [own, moved] {
            assert!((0..100).all(|_| ledger.take(decision.clone(), at(1)).is_some()));
        }
    }
}

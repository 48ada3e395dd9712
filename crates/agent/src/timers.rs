//! The timers of one agent: those of the core, of which there is at most one of each kind, and
//! those of the membership, which come back in the order of their times.

use std::collections::BTreeMap;

use evenkeel_core::effect::Timer;
use evenkeel_core::model::Time;
use evenkeel_membership as membership;

/// What is due.
#[derive(Debug)]
pub(crate) enum Due {
    Core(Timer),
    Membership(membership::Timer),
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    core: BTreeMap<Timer, Time>,
    membership: BTreeMap<(Time, u64), membership::Timer>,
    counter: u64,
}

impl Timers {
    /// Sets a timer of the core, or moves it if it is set.
    pub(crate) fn set(&mut self, timer: Timer, at: Time) {
        self.core.insert(timer, at);
    }

    pub(crate) fn add(&mut self, timer: membership::Timer, at: Time) {
        self.counter += 1;
        self.membership.insert((at, self.counter), timer);
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        let core = self.core.values().min().copied();
        let membership = self.membership.keys().next().map(|(at, _)| *at);
        [core, membership].into_iter().flatten().min()
    }

    /// Takes out one that is due at `now`, the earliest first.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<Due> {
        let core = self.core.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at));
        let first = self.membership.first_key_value().map(|((at, _), _)| *at);
        if let Some((timer, at)) = core
            && at <= now
            && first.is_none_or(|other| at <= other)
        {
            self.core.remove(&timer);
            return Some(Due::Core(timer));
        }
        if first.is_some_and(|at| at <= now) {
            return self.membership.pop_first().map(|(_, timer)| Due::Membership(timer));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_again_moves_and_the_earliest_comes_first() {
        let at = Time::from_unix_ms;
        let mut timers = Timers::default();
        timers.set(Timer::Round, at(30));
        timers.set(Timer::Sample, at(20));
        timers.set(Timer::Round, at(10));
        assert_eq!(timers.next(), Some(at(10)));
        assert!(timers.take_due(at(9)).is_none());
        assert!(matches!(timers.take_due(at(25)), Some(Due::Core(Timer::Round))));
        assert!(matches!(timers.take_due(at(25)), Some(Due::Core(Timer::Sample))));
        assert!(timers.take_due(at(99)).is_none());
        assert_eq!(timers.next(), None);
    }
}

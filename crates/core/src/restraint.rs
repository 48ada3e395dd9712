//! What keeps a host from acting, although it could: holding, cooling down, quarantine, and limits.
//!
//! Loads flicker, moves cost, and migrations fail. A host therefore gives only when it has been
//! above its limit in enough of its latest samples, leaves a machine that has moved where it is for
//! a time that **doubles with every further move** and shrinks again while it rests, does not try
//! again soon what has failed (see [`crate::failures`]), and takes part in so many moves an hour only.
//! How often a machine has moved travels with it in its schedule entry; what failed stays with the
//! host that failed to move it, and is forgotten with its agent.
//!
//! A host that is being emptied is in a hurry: of all this only the quarantine holds there, and
//! nobody's limits hold it up. One that has come back is filled gently: so many machines a minute.

use std::collections::VecDeque;
use std::time::Duration;

use crate::failures::Failures;
use crate::model::{HostId, HostState, LastMove, Role, Time};
use crate::reason::Reason;

/// How restrained a host is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Restraint {
    /// In how many of the latest `hold_of` samples a host must have been above its limit before it
    /// gives; at most `hold_of`. 0 acts without a sample.
    pub hold: u32,
    /// From 1 to 32.
    pub hold_of: u32,
    /// How long a machine stays where it is after a first move. It doubles with every further one;
    /// it goes back to the host that it came from only after four times as long. From twenty
    /// minutes on no machine is back on a host within an hour of leaving it, by a detour neither.
    pub cool_down: Duration,
    /// The most that it grows to.
    pub cool_down_max: Duration,
    /// How long a machine is not tried again at a host where its migration failed, how long a machine
    /// that fails at different hosts is left alone, and a host at which different machines fail is left
    /// out. Doubles with every further failure: of a machine without end, of a host up to 16 times.
    pub quarantine: Duration,
    /// Most of an hour that a host spends on giving machines, and on taking some, as a share: what
    /// their migrations took, and ten times what they stood still.
    pub moving_share_max: f64,
    /// Most machines that a host gives within an hour.
    pub given_per_hour_max: usize,
    /// Most machines that a host takes within an hour.
    pub taken_per_hour_max: usize,
    /// For how long a host that has come back is filled gently.
    pub return_time: Duration,
    /// Most machines that it takes within a minute meanwhile.
    pub return_per_minute_max: usize,
}

impl Restraint {
    /// None: for plans, in which nothing flickers and nothing fails.
    pub const NONE: Self = Self {
        hold: 0,
        hold_of: 1,
        cool_down: Duration::ZERO,
        cool_down_max: Duration::ZERO,
        quarantine: Duration::ZERO,
        moving_share_max: f64::INFINITY,
        given_per_hour_max: usize::MAX,
        taken_per_hour_max: usize::MAX,
        return_time: Duration::ZERO,
        return_per_minute_max: usize::MAX,
    };
}

impl Default for Restraint {
    fn default() -> Self {
        Self {
            hold: 1,
            hold_of: 3,
            cool_down: Duration::from_secs(1800),
            cool_down_max: Duration::from_secs(4 * 3600),
            quarantine: Duration::from_secs(600),
            moving_share_max: 0.15,
            given_per_hour_max: MOVES_KEPT_MAX,
            taken_per_hour_max: MOVES_KEPT_MAX,
            return_time: Duration::from_secs(900),
            return_per_minute_max: 2,
        }
    }
}

/// How much longer a machine is kept from the host that it came from.
const RETURN_FACTOR: u32 = 4;
/// A move is forgotten after so many times the cool-down that it caused, without another.
const FORGET_FACTOR: u32 = 4;
/// The window of the limits on moves.
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

impl Restraint {
    /// How long a machine stays after the last of `moves` in close succession.
    #[must_use]
    pub fn cool_down_after(&self, moves: u32) -> Duration {
        let doubled = self.cool_down.saturating_mul(1 << moves.saturating_sub(1).min(20));
        doubled.min(self.cool_down_max.max(self.cool_down))
    }

    /// Moves in close succession that count once a machine moves at `now`, this one among them.
    #[must_use]
    pub fn moves_with(&self, last: Option<&LastMove>, now: Time) -> u32 {
        let Some(last) = last else { return 1 };
        let (mut moves, mut quiet) = (last.moves.unwrap_or(1), now.since(last.at));
        while moves > 0 {
            let forgotten = self.cool_down_after(moves).saturating_mul(FORGET_FACTOR);
            if quiet < forgotten || forgotten.is_zero() {
                break;
            }
            quiet -= forgotten;
            moves -= 1;
        }
        moves.saturating_add(1)
    }

    /// Whether a machine that last moved so must not go to `peer` yet.
    #[must_use]
    pub fn is_cooling(&self, last: &LastMove, peer: &HostId, now: Time) -> bool {
        let wait = self.cool_down_after(last.moves.unwrap_or(1));
        let back = if last.from == *peer { RETURN_FACTOR } else { 1 };
        // Further ahead than clocks differ, it was not written by a host, and would hold for ever.
        now.since(last.at) < wait.saturating_mul(back) && last.at <= now + wait
    }
}

/// A move, and what it took.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: Time,
    seconds: f64,
}

/// What a host remembers of its own moves and loads.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Whether it was above its limit in the latest samples, the newest in the lowest bit.
    above: u32,
    /// Migrations that failed.
    pub failures: Failures,
    given: VecDeque<Spent>,
    taken: VecDeque<Spent>,
    /// When it took part again.
    returned: Option<Time>,
}

/// Most moves that are remembered: the limits cannot be above it, unless there are none.
pub const MOVES_KEPT_MAX: usize = 1000;

impl Past {
    /// A sample has shown that this host is above its limit, or not.
    pub const fn sampled(&mut self, is_above: bool) {
        self.above = self.above << 1 | is_above as u32;
    }

    /// Whether it was above its limit for long enough to act.
    #[must_use]
    pub const fn has_held(&self, restraint: &Restraint) -> bool {
        let kept = match restraint.hold_of {
            0 => 1,
            32.. => u32::MAX,
            of => (1 << of) - 1,
        };
        (self.above & kept).count_ones() >= restraint.hold
    }

    /// A machine has moved.
    pub fn moved(&mut self, role: Role, seconds: f64, now: Time) {
        let moves = match role {
            Role::Source => &mut self.given,
            Role::Target => &mut self.taken,
        };
        moves.push_back(Spent { at: now, seconds });
        if moves.len() > MOVES_KEPT_MAX {
            moves.pop_front();
        }
    }

    /// It takes part again after it did not.
    pub const fn returned(&mut self, now: Time) {
        self.returned = Some(now);
    }

    /// Whether it has come back a short while ago and has taken as many machines within a minute as
    /// it then may, those `coming` among them.
    ///
    /// # Errors
    /// [`Reason::Returning`], if so.
    pub fn is_eased_in(
        &self,
        coming: usize,
        restraint: &Restraint,
        now: Time,
    ) -> Result<(), Reason> {
        if self.returned.is_none_or(|at| now.since(at) >= restraint.return_time) {
            return Ok(());
        }
        let recent = self.taken.iter().rev().take_while(|m| now.since(m.at) < MINUTE).count();
        let most = restraint.return_per_minute_max;
        if recent + coming >= most { Err(Reason::Returning) } else { Ok(()) }
    }

    /// Whether this host, which is in this state, may give: one that is being emptied always.
    ///
    /// # Errors
    /// [`Reason::MoveLimit`], if it may not.
    pub fn may_give(
        &self,
        state: HostState,
        restraint: &Restraint,
        now: Time,
    ) -> Result<(), Reason> {
        if state == HostState::Draining { Ok(()) } else { self.may(Role::Source, restraint, now) }
    }

    /// Whether this host has taken part in as many moves as it may.
    ///
    /// # Errors
    /// [`Reason::MoveLimit`], if it has.
    pub fn may(&self, role: Role, restraint: &Restraint, now: Time) -> Result<(), Reason> {
        let (moves, most) = match role {
            Role::Source => (&self.given, restraint.given_per_hour_max),
            Role::Target => (&self.taken, restraint.taken_per_hour_max),
        };
        let recent = || moves.iter().rev().take_while(|m| now.since(m.at) < HOUR);
        let spent: f64 = recent().map(|m| m.seconds).sum();
        let is_spent = spent >= restraint.moving_share_max * HOUR.as_secs_f64();
        if is_spent || recent().count() >= most { Err(Reason::MoveLimit) } else { Ok(()) }
    }
}

/// Why a host takes no machine, whatever the loads.
pub(crate) const fn unwilling(receiver: HostState) -> Option<Reason> {
    match receiver {
        HostState::Active => None,
        HostState::Cordoned => Some(Reason::Cordoned),
        HostState::Draining => Some(Reason::Draining),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(minutes: u64) -> Time {
        Time::from_unix_ms(minutes * 60_000)
    }

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn calm() -> Restraint {
        Restraint { cool_down: Duration::from_secs(900), ..Restraint::default() }
    }

    fn moved(minutes: u64, moves: u32) -> LastMove {
        LastMove {
            at: at(minutes),
            from: host("a"),
            moves: Some(moves),
            cost_percent: None,
            others: None,
        }
    }

    #[test]
    fn a_cool_down_doubles_with_every_move_and_shrinks_while_the_machine_rests() {
        let calm = calm();
        let minutes = |moves| calm.cool_down_after(moves).as_secs() / 60;
        assert_eq!((1..=7).map(minutes).collect::<Vec<_>>(), [15, 30, 60, 120, 240, 240, 240]);
        assert_eq!(calm.moves_with(None, at(0)), 1);
        assert_eq!(calm.moves_with(Some(&moved(0, 1)), at(20)), 2);
        // Forgotten after 2 h for the second and 1 h for the first.
        assert_eq!(calm.moves_with(Some(&moved(0, 2)), at(119)), 3);
        assert_eq!(calm.moves_with(Some(&moved(0, 2)), at(120)), 2);
        assert_eq!(calm.moves_with(Some(&moved(0, 2)), at(180)), 1);
    }

    #[test]
    fn a_machine_stays_after_a_move_and_longer_away_from_where_it_came_from() {
        let calm = calm();
        let last = moved(0, 1);
        let cooling = |peer: &str, minutes| calm.is_cooling(&last, &host(peer), at(minutes));
        assert!(cooling("b", 14) && !cooling("b", 15));
        assert!(cooling("a", 59) && !cooling("a", 60));
        assert!(!calm.is_cooling(&moved(100, 1), &host("b"), at(0)), "a clock far ahead");
    }

    #[test]
    fn by_default_no_machine_is_back_within_an_hour_whichever_way_it_goes() {
        let calm = Restraint::default();
        // Every way through three hosts, each move as soon as it may be made.
        for path in 0..3u32.pow(5) {
            let mut left = BTreeMap::from([(host("0"), at(0))]);
            let mut last = LastMove { from: host("0"), ..moved(0, 1) };
            let (mut here, mut now) = (host("1"), 0);
            for step in 0..5 {
                let next = host(&(path / 3u32.pow(step) % 3).to_string());
                if next == here {
                    continue;
                }
                while calm.is_cooling(&last, &next, at(now)) {
                    now += 1;
                }
                let back = left.get(&next).is_some_and(|&left| at(now).since(left) < HOUR);
                assert!(!back, "path {path}: back on {next} after {now} minutes");
                let moves = Some(calm.moves_with(Some(&last), at(now)));
                last = LastMove {
                    at: at(now),
                    from: here.clone(),
                    moves,
                    cost_percent: None,
                    others: None,
                };
                left.insert(here, at(now));
                here = next;
            }
        }
    }

    #[test]
    fn a_host_acts_only_after_enough_samples_above_its_limit() {
        let calm = Restraint { hold: 2, hold_of: 3, ..Restraint::default() };
        for (samples, acts) in [
            (&[true][..], false),
            (&[true, true], true),
            (&[true, false, true], true),
            (&[true, true, false, false], false),
        ] {
            let mut past = Past::default();
            samples.iter().for_each(|&above| past.sampled(above));
            assert_eq!(past.has_held(&calm), acts, "{samples:?}");
        }
    }

    #[test]
    fn a_host_takes_part_in_so_many_moves_an_hour() {
        let calm = Restraint { given_per_hour_max: 2, ..Restraint::default() };
        let mut past = Past::default();
        past.moved(Role::Source, 1.0, at(0));
        past.moved(Role::Source, 1.0, at(30));
        assert_eq!(past.may(Role::Source, &calm, at(59)), Err(Reason::MoveLimit));
        assert_eq!(past.may(Role::Target, &calm, at(59)), Ok(()));
        assert_eq!(past.may(Role::Source, &calm, at(60)), Ok(()));
        // Two that took 300 s each are too many, 200 small ones are not.
        let calm = Restraint::default();
        past.moved(Role::Source, 300.0, at(61));
        (0..200).for_each(|_| past.moved(Role::Source, 1.0, at(62)));
        assert_eq!(past.may(Role::Source, &calm, at(63)), Ok(()));
        past.moved(Role::Source, 300.0, at(63));
        assert_eq!(past.may(Role::Source, &calm, at(64)), Err(Reason::MoveLimit));
    }
}

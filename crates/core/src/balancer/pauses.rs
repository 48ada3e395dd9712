//! A pause holds everywhere: it is told to everybody at once, and passed on by whoever learns of it.
//!
//! ```text
//!   where it is said           every live member              a few others each
//!     │ ── Pause(register) ──────▶ │   news: keep it,
//!     │                            │ ── Pause(register) ────────▶ │   no news: said no further
//!
//!   a host that was away           any that knows
//!     │ ── Probe, Inquire, Offer ▶ │   takes nothing now,
//!     │ ◀───── Pause(register) ─── │   and says why
//! ```
//!
//! A host that comes back is told by its next neighbours, and every host tells one at random every
//! minute. Before it has heard it can move machines only to hosts that have not heard either.

use std::time::Duration;

use super::members::Members;
use crate::control::{Authority, Pause, PauseRegister};
use crate::effect::Effect;
use crate::message::{Message, Talk, Watch};
use crate::model::{HostId, Time};
use crate::turn::Turn;

/// To how many others news are passed on: enough that they reach everybody although a good part of
/// all messages is lost.
const PASSED_ON: usize = 3;
/// How many hosts tell one that comes back.
const NEIGHBOURS: usize = 3;

/// So many times a minute another host's word about pauses is taken in, written down and passed on.
/// Operators do not change their minds as often, and what was not taken in is said again.
const NEWS_PER_MINUTE_MAX: u32 = 12;

/// How much of others' word about pauses was taken in within the present minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pauses {
    since: Time,
    count: u32,
}

impl Pauses {
    fn pass(&mut self, now: Time) -> bool {
        if now.since(self.since) >= Duration::from_secs(60) {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= NEWS_PER_MINUTE_MAX
    }

    /// Another host says what it knows of pauses.
    pub(super) fn hear(
        &mut self,
        from: &HostId,
        register: PauseRegister,
        members: &Members,
        turn: &mut Turn<'_>,
    ) {
        if !register.can_be(turn.now) {
            return;
        }
        let known = turn.host.control.pause.clone().filter(|known| known.can_be(turn.now));
        if register.is_newer_than(known.as_ref()) {
            if !self.pass(turn.now) {
                return;
            }
            let others = members.draw(PASSED_ON, turn.host.id(), turn.rng);
            let news = told(&register);
            keep(register, turn);
            others.iter().filter(|to| *to != from).for_each(|to| turn.tell(to, news.clone()));
        } else if let Some(known) = known.filter(|known| known.is_newer_than(Some(&register))) {
            turn.tell(from, told(&known));
        }
    }
}

/// An operator pauses the cluster here, or ends the pause.
pub(super) fn set(pause: Option<Pause>, members: &Members, turn: &mut Turn<'_>) {
    // Clocks differ: what is said here comes after what is known here. Not after what cannot be,
    // which this host itself may have written while its clock was wrong.
    let known = turn.host.control.pause.as_ref().filter(|known| known.can_be(turn.now));
    let after = known.map(|known| Time::from_unix_ms(known.at.unix_ms().saturating_add(1)));
    let at = after.map_or(turn.now, |after| after.max(turn.now));
    let own = turn.host.id().clone();
    let register = PauseRegister { at, on: own.clone(), pause };
    let news = told(&register);
    keep(register, turn);
    members.others(&own).for_each(|other| turn.tell(other, news.clone()));
}

/// Forgets what cannot be of what was known of pauses in an earlier life.
pub(super) fn doubt(turn: &mut Turn<'_>) {
    let now = turn.now;
    turn.host.control.pause = turn.host.control.pause.take().filter(|known| known.can_be(now));
}

fn keep(register: PauseRegister, turn: &mut Turn<'_>) {
    turn.host.control.pause = Some(register.clone());
    turn.out.push(Effect::Keep(register));
}

/// Tells another host of a pause, if there is one to tell of.
pub(super) fn tell(to: &HostId, turn: &mut Turn<'_>) {
    if let Some(register) = &turn.host.control.pause {
        turn.tell(to, told(register));
    }
}

/// Tells one that wants to give although there is a pause.
pub(super) fn remind(to: &HostId, talk: &Talk, turn: &mut Turn<'_>) {
    let authority = match talk {
        Talk::Probe(probe) if probe.giving => probe.authority.unwrap_or_default(),
        Talk::Inquire(report, _) => report.authority(),
        Talk::Offer { report, authority, .. } => authority.unwrap_or_else(|| report.authority()),
        _ => Authority::Told,
    };
    if !authority.is_operators() && turn.host.control.pause_at(turn.now).is_some() {
        tell(to, turn);
    }
}

/// Members have changed from what they were `before`: its next neighbours tell one that has come.
pub(super) fn tell_newcomers(before: &[HostId], members: &[HostId], turn: &mut Turn<'_>) {
    if turn.host.control.pause.is_none() {
        return;
    }
    let own = turn.host.id().clone();
    let is_new = |member: &&HostId| **member != own && before.binary_search(member).is_err();
    for newcomer in members.iter().filter(is_new) {
        // How many lie between the two in a circle of all.
        let between =
            |low: &HostId, high: &HostId| members.iter().filter(|m| low < *m && *m < high).count();
        let away = if *newcomer < own {
            between(newcomer, &own)
        } else {
            let others = members.iter().filter(|m| **m != own && *m != newcomer).count();
            others - between(&own, newcomer)
        };
        if away < NEIGHBOURS {
            tell(newcomer, turn);
        }
    }
}

fn told(register: &PauseRegister) -> Message {
    Message::Watch(Watch::Pause(register.clone()))
}

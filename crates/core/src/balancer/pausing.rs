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

use rand::Rng;

use super::Balancer;
use crate::control::{Authority, Pause, PauseRegister};
use crate::effect::Effect;
use crate::message::{Message, Talk, Watch};
use crate::model::{HostId, Time};

/// To how many others news are passed on: enough that they reach everybody although a good part of
/// all messages is lost.
const PASSED_ON: usize = 3;
/// How many hosts tell one that comes back.
const NEIGHBOURS: usize = 3;

/// So many times a minute another host's word about pauses is taken in, written down and passed on.
/// Operators do not change their minds as often, and what was not taken in is said again.
const NEWS_PER_MINUTE_MAX: u32 = 12;

/// What was taken in within the present minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    since: Time,
    count: u32,
}

impl News {
    fn pass(&mut self, now: Time) -> bool {
        if now.since(self.since) >= Duration::from_secs(60) {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= NEWS_PER_MINUTE_MAX
    }
}

impl Balancer {
    /// What this host knows of pauses.
    #[must_use]
    pub const fn pause(&self) -> Option<&PauseRegister> {
        self.host.control.pause.as_ref()
    }

    /// An operator pauses the cluster here, or ends the pause.
    pub(super) fn set_pause(&mut self, pause: Option<Pause>, now: Time, out: &mut Vec<Effect>) {
        // Clocks differ: what is said here comes after what is known here. Not after what cannot be,
        // which this host itself may have written while its clock was wrong.
        let known = self.pause().filter(|known| known.can_be(now));
        let after = known.map(|known| Time::from_unix_ms(known.at.unix_ms().saturating_add(1)));
        let at = after.map_or(now, |after| after.max(now));
        let register = PauseRegister { at, on: self.host.id().clone(), pause };
        self.keep_pause(register.clone(), out);
        let others = self.members.iter().filter(|member| *member != self.host.id());
        let tell = |to: &HostId| Effect::Send(to.clone(), told(&register));
        out.extend(others.map(tell));
    }

    /// Forgets what cannot be of what was known of pauses in an earlier life.
    pub(super) fn doubt_pause(&mut self, now: Time) {
        self.host.control.pause = self.host.control.pause.take().filter(|known| known.can_be(now));
    }

    /// An operator has this host forget what it knows of pauses. It hears of them anew.
    pub(super) fn forget_pause(&mut self) {
        self.host.control.pause = None;
    }

    fn keep_pause(&mut self, register: PauseRegister, out: &mut Vec<Effect>) {
        self.host.control.pause = Some(register.clone());
        out.push(Effect::Keep(register));
    }

    /// Another host says what it knows of pauses.
    pub(super) fn hear_of_pause(
        &mut self,
        from: &HostId,
        register: PauseRegister,
        now: Time,
        rng: &mut impl Rng,
        out: &mut Vec<Effect>,
    ) {
        if !register.can_be(now) {
            return;
        }
        let known = self.pause().filter(|known| known.can_be(now));
        if register.is_newer_than(known) {
            if !self.pause_news.pass(now) {
                return;
            }
            let others = self.draw(PASSED_ON, rng);
            let tell = |to| Effect::Send(to, told(&register));
            let sends: Vec<_> = others.into_iter().filter(|to| to != from).map(tell).collect();
            self.keep_pause(register, out);
            out.extend(sends);
        } else if let Some(known) = known.filter(|known| known.is_newer_than(Some(&register))) {
            out.push(Effect::Send(from.clone(), told(known)));
        }
    }

    /// Tells another host of a pause, if there is one to tell of.
    pub(super) fn tell_of_pause(&self, to: &HostId, out: &mut Vec<Effect>) {
        if let Some(register) = self.pause() {
            out.push(Effect::Send(to.clone(), told(register)));
        }
    }

    /// Tells one that wants to give although there is a pause.
    pub(super) fn remind_of_pause(
        &self,
        to: &HostId,
        talk: &Talk,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let authority = match talk {
            Talk::Probe(probe) if probe.giving => probe.authority.unwrap_or_default(),
            Talk::Inquire(report, _) => report.authority(),
            Talk::Offer { report, authority, .. } => {
                authority.unwrap_or_else(|| report.authority())
            }
            _ => Authority::Told,
        };
        if !authority.is_operators() && self.host.control.pause_at(now).is_some() {
            self.tell_of_pause(to, out);
        }
    }

    /// Members have changed from what they were `before`: its next neighbours tell one that has come.
    pub(super) fn tell_newcomers(&self, before: &[HostId], out: &mut Vec<Effect>) {
        if self.pause().is_none() {
            return;
        }
        let (own, members) = (self.host.id(), &self.members);
        let is_new = |member: &&HostId| *member != own && before.binary_search(member).is_err();
        for newcomer in members.iter().filter(is_new) {
            // How many lie between the two in a circle of all.
            let between = |low: &HostId, high: &HostId| {
                members.iter().filter(|m| low < *m && *m < high).count()
            };
            let away = if newcomer < own {
                between(newcomer, own)
            } else {
                let others = members.iter().filter(|m| *m != own && *m != newcomer).count();
                others - between(own, newcomer)
            };
            if away < NEIGHBOURS {
                self.tell_of_pause(newcomer, out);
            }
        }
    }
}

fn told(register: &PauseRegister) -> Message {
    Message::Watch(Watch::Pause(register.clone()))
}

//! What a host remembers of handoffs that have ended.

use super::Host;
use crate::cost::{Prediction, Weight};
use crate::decision::{Reason, Role};
use crate::failures::LeftOut;
use crate::model::{HostId, MachineId, Time};
use crate::port::{FailureKind, MigrationStats};
use crate::record::Handoff;

/// A migration that has sent less than this has not begun, in bytes.
const SENT_MIN: u64 = 1 << 20;

impl Host {
    /// A handoff with this host begins.
    pub(crate) fn begins(&mut self, role: Role, peer: &HostId, now: Time) {
        let quarantine = self.settings.restraint.quarantine;
        match role {
            Role::Source => self.past.failures.begins(peer, quarantine, now),
            Role::Target => self.past.failures.arrives(quarantine, now),
        }
    }

    /// A handoff of this host has ended: remembers what that says for the next one.
    pub fn conclude(&mut self, handoff: &Handoff, ending: Reason, now: Time) {
        let (machine, peer) = (&handoff.machine, &handoff.peer);
        let (quarantine, words) =
            (self.settings.restraint.quarantine, handoff.decision.detail.as_str());
        let failures = &mut self.past.failures;
        match (handoff.role, ending) {
            (role, Reason::Moved) => {
                match role {
                    Role::Source => failures.gave(machine, peer),
                    Role::Target => failures.took(machine),
                }
                let seconds = handoff.decision.stats.as_ref().map_or(0.0, spent_s);
                self.past.moved(role, seconds, now);
                self.learn(handoff, now);
            }
            (Role::Source, Reason::MigrationFailed | Reason::FitUnknown)
                if !is_of_this_host(handoff.failed) =>
            {
                let pair = (machine, peer);
                failures.gave_in_vain(pair, &self.profile.id, words, quarantine, now);
            }
            (Role::Source, Reason::AlreadyHere) => {
                failures.pair_failed(machine, peer, now);
                failures.undecided(peer, now);
            }
            // A link that carries nothing at all is no slow link: something hangs there.
            (Role::Source, Reason::MigrationTooLong) if !has_sent(handoff) => {
                let pair = (machine, peer);
                failures.gave_in_vain(pair, &self.profile.id, words, quarantine, now);
            }
            (Role::Source, Reason::MigrationTooLong) => {
                failures.undecided(peer, now);
                let weight = self.weight_of(handoff);
                self.experience.aborted((machine, peer), &weight, handoff.sent.as_ref(), now);
            }
            (Role::Source, Reason::JobUnderWay) => {
                failures.undecided(peer, now);
                self.holds.busy.insert(machine.clone(), now);
            }
            (Role::Source, _) => failures.undecided(peer, now),
            (Role::Target, Reason::MigrationFailed) => {
                failures.took_in_vain((machine, peer), words, quarantine, now);
            }
            (Role::Target, _) => failures.arrived_undecided(now),
        }
    }

    /// What a migration has cost corrects the next prediction.
    fn learn(&mut self, handoff: &Handoff, now: Time) {
        let last = handoff.entry.last_move.as_ref();
        let told = last.and_then(|l| l.cost_percent).map(|p| f64::from(p) / 100.0);
        if let (Some(predicted), Some(stats)) =
            (&handoff.decision.predicted, &handoff.decision.stats)
        {
            let pair = (&handoff.machine, &handoff.peer);
            self.experience.learn(pair, told, predicted, stats, now);
        }
    }

    /// What is known of a machine that was to be migrated.
    fn weight_of(&self, handoff: &Handoff) -> Weight {
        let known = self.view.machines().get(&handoff.machine);
        let known = known.and_then(|machine| Some((machine, machine.entry()?)));
        match known {
            Some((machine, entry)) => self.weight(machine, entry, &handoff.usage),
            None => Weight {
                memory_bytes: handoff.usage.memory_bytes,
                cpu_cores: handoff.usage.cpu_cores,
                dirty_bytes_per_s: None,
                disk_bytes: handoff.needs.copied_bytes(),
                correction: self.correction(&handoff.machine, &handoff.entry),
            },
        }
    }

    /// Why a machine is predicted not to arrive over the link to `peer`, in words.
    pub(crate) fn why_not_converging(
        &self,
        id: &MachineId,
        peer: &HostId,
        now: Time,
    ) -> Option<String> {
        let machine = self.view.machines().get(id)?;
        let (_, factors) = machine.factors(&self.profile).ok()?;
        let weight = self.weight(machine, machine.entry()?, &factors);
        let link = self.experience.link_to(peer, now);
        let over = format!("over a link that carries {} MB/s", (link / 1e6).round());
        let aborted = self.experience.gives_up(id, &weight, link, now);
        if let Some(times) = aborted {
            return Some(format!("{times} migrations of it in a row were aborted {over}"));
        }
        let bounds = &self.settings.costing;
        let limit = bounds.time_max.as_secs();
        Some(match Prediction::of(&weight, link, bounds.downtime_max) {
            Some(cost) => {
                format!("it would take {:.0} s {over}, and may take {limit} s", cost.seconds)
            }
            None => {
                let dirty = weight.dirty_bytes_per_s() / 1e6;
                format!("it dirties {dirty:.0} MB/s, which never ends {over}")
            }
        })
    }

    /// The hosts to which nothing is given now because migrations to them have failed; this host itself
    /// if it takes nothing because of that.
    pub fn left_out(&self, now: Time) -> impl Iterator<Item = LeftOut> {
        self.past.failures.left_out(&self.profile.id, now)
    }
}

/// What a migration counts for where moves are limited, in seconds: a standstill weighs ten times.
fn spent_s(stats: &MigrationStats) -> f64 {
    (stats.elapsed_ms + 10 * stats.downtime_ms) as f64 / 1e3
}

/// Whether anything worth speaking of has gone over the link.
fn has_sent(handoff: &Handoff) -> bool {
    handoff.sent.is_some_and(|sent| sent.bytes_done >= SENT_MIN)
}

/// Whether a migration came to nothing because of its own host or a job of somebody else, which says
/// nothing of the other host.
const fn is_of_this_host(failed: Option<FailureKind>) -> bool {
    matches!(
        failed,
        Some(FailureKind::Unreachable | FailureKind::NotRunning | FailureKind::NoSuchMachine)
    )
}

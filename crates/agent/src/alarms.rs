//! Handoffs that wait longer than they should, and hosts that are left out, as the log tells of them.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_core::failures::LeftOut;
use evenkeel_core::handoff::Handoff;
use evenkeel_core::model::{HostId, Time};
use evenkeel_core::port::HandoffKey;
use tracing::{error, info, warn};

/// How often it is said again.
const REMIND_EVERY: Duration = Duration::from_secs(300);

/// What was said, and when.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    handoffs: BTreeMap<HandoffKey, Time>,
    left_out: BTreeMap<HostId, Time>,
}

impl Alarms {
    /// Tells of what is alarming now, and of what no longer is.
    pub(crate) fn tell<'a>(&mut self, handoffs: impl Iterator<Item = &'a Handoff>, now: Time) {
        let mut before = std::mem::take(&mut self.handoffs);
        for handoff in handoffs.filter(|handoff| handoff.is_alarming(now)) {
            let said = before.remove(&handoff.key());
            let due = said.is_none_or(|said| now.since(said) >= REMIND_EVERY);
            if due {
                let (age_s, waits_for) = (now.since(handoff.since).as_secs(), handoff.waits_for());
                let Handoff { id, name, peer, phase, last_error, .. } = handoff;
                error!(handoff = %id, machine = name, %peer, ?phase, age_s, waits_for, last_error, "handoff unresolved");
            }
            self.handoffs.insert(handoff.key(), if due { now } else { said.unwrap_or(now) });
        }
        for key in before.keys() {
            info!(handoff = %key.id, peer = %key.peer, "handoff is no alarm any more");
        }
    }

    /// Tells of hosts that are left out now, and of those that no longer are.
    pub(crate) fn tell_left_out(&mut self, hosts: impl Iterator<Item = LeftOut>) {
        let mut before = std::mem::take(&mut self.left_out);
        for LeftOut { host, until, machines, detail, .. } in hosts {
            if before.remove(&host) != Some(until) {
                let machines = machines.len();
                warn!(%host, machines, last = detail, "ALARM: left out, because migrations to it fail");
            }
            self.left_out.insert(host, until);
        }
        for host in before.keys() {
            info!(%host, "is tried again");
        }
    }
}

//! What an operator says of handoffs under way.

use super::{Handoffs, Next, cancelling, source, target};
use crate::decision::{Reason, Role};
use crate::message::Pass;
use crate::model::{HostId, MachineId};
use crate::port::Presence;
use crate::record::{Handoff, Phase};
use crate::turn::Turn;

impl Handoffs {
    /// Aborts what can be aborted, because the agent must stop now.
    pub fn abort_all(&mut self, turn: &mut Turn<'_>) {
        self.aborting = true;
        let keys: Vec<_> = self.live.keys().cloned().collect();
        for key in keys {
            self.with(&key, turn, |h, _, turn| {
                match h.phase {
                    Phase::Offered => {
                        let machine = Some(h.machine.clone());
                        turn.send(h, Pass::Cancel { reason: Reason::Stopping, machine });
                        return Next::Cancelled(Reason::Stopping);
                    }
                    Phase::Armed => cancelling::cancel_before(h, Reason::Stopping, turn),
                    Phase::Transferring => {
                        h.cancelled_for = Some(Reason::Stopping);
                        turn.abort(h);
                    }
                    _ => {}
                }
                Next::Stay
            });
        }
    }

    /// An operator has removed a host from the cluster: what nothing has come of will not come.
    pub fn removed(&mut self, host: &HostId, turn: &mut Turn<'_>) {
        let waits =
            |h: &&Handoff| h.role == Role::Target && h.phase == Phase::Reserved && h.peer == *host;
        let keys: Vec<_> = self.live.values().filter(waits).map(Handoff::key).collect();
        for key in keys {
            self.with(&key, turn, |h, _, turn| {
                target::hear(h, Pass::Refused { reason: Reason::Unreachable, detail: None }, turn)
            });
        }
    }

    /// Whether an operator's word that `fenced` runs nothing, and never will, would settle where a
    /// machine is.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn can_claim(&self, machine: &MachineId, fenced: &HostId) -> Result<(), String> {
        let found = self.live.values().find(|h| h.machine == *machine);
        let handoff = found.ok_or_else(|| {
            format!("machine `{machine}` is not on its way to or from this host: nothing to claim")
        })?;
        let (name, peer) = (&handoff.name, &handoff.peer);
        if peer != fenced {
            return Err(format!(
                "machine `{name}` is on its way between this host and `{peer}`, not `{fenced}`: only \
                 that `{peer}` was fenced would settle it"
            ));
        }
        match handoff.phase {
            Phase::Holding => Ok(()),
            Phase::Doubt if handoff.seen.is_some_and(|seen| seen != Presence::Absent) => Ok(()),
            Phase::Cancelling if handoff.waits_to_start() => Ok(()),
            phase => Err(format!(
                "machine `{name}` does not wait for `{peer}` with a copy here ({phase:?}: it waits \
                 for {})",
                handoff.waits_for()
            )),
        }
    }

    /// An operator says that `fenced` runs nothing, and never will: what is here of the machine is
    /// all that there is. Does nothing where [`Self::can_claim`] says no.
    pub fn claim(&mut self, machine: &MachineId, fenced: &HostId, turn: &mut Turn<'_>) {
        if self.can_claim(machine, fenced).is_err() {
            return;
        }
        self.with_machine(machine, turn, |h, _, turn| match h.role {
            Role::Source => {
                source::claim(h, turn);
                Next::Stay
            }
            Role::Target => target::claim_fenced(h, turn),
        });
    }
}

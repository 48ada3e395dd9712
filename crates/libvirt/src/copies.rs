//! The copies of a machine: which one is here and how it is, and what a handoff does to it.
//!
//! libvirt reports a copy that waits to be claimed as paused by a user, the same as a machine that
//! somebody has paused. So such a copy says itself what it is, by a mark in its metadata
//! ([`entry::is_held`]) that goes when it is resumed. The mark tells; it does not decide: what may
//! be resumed or destroyed is for whoever keeps the records.

use evenkeel_core::model::MachineId;
use evenkeel_core::port::{Failure, FailureKind, Presence, Sight, Stamp};
use virt_sys as sys;

use crate::failure::{classify, of_machine};
use crate::ffi::{CallError, Connection, Domain, Ending, Pause, State};
use crate::log;
use crate::xml::{Element, entry};

/// What a look found: the sight, and the domain if there is one.
type Found = (Sight, Option<Domain>);

/// Whether a machine is here, and which copy.
pub(crate) fn look(connection: &Connection, machine: &MachineId) -> Result<Sight, Failure> {
    find(connection, machine).map(|(sight, _)| sight)
}

fn find(connection: &Connection, machine: &MachineId) -> Result<Found, Failure> {
    let find = || {
        let domain = connection.domain(machine.as_str())?;
        let sight = see(&domain)?;
        Ok((sight, Some(domain)))
    };
    match find() {
        Err(CallError { code: sys::VIR_ERR_NO_DOMAIN, .. }) => Ok((Sight::default(), None)),
        found => found.map_err(|error: CallError| blame(connection, machine, &error)),
    }
}

fn see(domain: &Domain) -> Result<Sight, CallError> {
    // What it says of itself first: a copy that is discarded in between is then absent, and one
    // that begins to run has the state that is read last.
    let described = Element::parse(&domain.xml()?).ok();
    let read = described.as_ref().map(|domain| (entry::of_domain(domain), entry::is_held(domain)));
    let (stamp, from, held) = match &read {
        Some((Ok(entry), held)) => (Stamp::of(entry), entry.came_from().cloned(), *held),
        _ => (Stamp::default(), None, false),
    };
    let state = domain.state()?;
    let presence = match state {
        State::Off => Presence::Defined,
        State::Running | State::Paused(_) => match domain.job() {
            Ok(job) if job.active && job.migration_out => Presence::Leaving,
            Ok(job) => resident(state, job.active, held),
            // It stopped in between.
            Err(CallError { code: sys::VIR_ERR_OPERATION_INVALID, .. }) => Presence::Defined,
            Err(error) => return Err(error),
        },
    };
    let name = described.as_ref().map_or("", |domain| domain.text_of("name"));
    let left = presence == Presence::Defined && has_left(domain, name)?;
    Ok(Sight { from, left, ..Sight::new(presence, stamp) })
}

/// Whether a domain is off because it was migrated away: by libvirt's word, or where libvirt was started
/// since, by QEMU's log.
fn has_left(domain: &Domain, name: &str) -> Result<bool, CallError> {
    Ok(match domain.ending()? {
        Some(Ending::Migrated) => true,
        Some(Ending::Unknown) => log::tells_that_it_left(name),
        Some(Ending::Other) | None => false,
    })
}

/// How a domain is that is in memory and not being migrated away. `job` says whether some other job
/// is under way on it.
const fn resident(state: State, job: bool, held: bool) -> Presence {
    match state {
        State::Off => Presence::Defined,
        State::Running => Presence::Running,
        State::Paused(Pause::Starting) => Presence::Incoming,
        // libvirt calls a copy that arrives so once its QEMU is up. One that was left so by a
        // migration that was to send it has no job any more.
        State::Paused(Pause::Migrating) if job => Presence::Incoming,
        State::Paused(Pause::Migrating) => Presence::Stranded,
        // Its mark came with it; until its arrival is over, that is not complete.
        State::Paused(Pause::Other) if held && job => Presence::Incoming,
        State::Paused(Pause::Other) if held => Presence::Held,
        State::Paused(Pause::Other) => Presence::Paused,
    }
}

/// The same from figures that do not tell of jobs, where the mark has to stand for that of a copy
/// that arrives.
pub(crate) const fn presence_of(state: State, held: bool) -> Presence {
    resident(state, held && matches!(state, State::Paused(Pause::Migrating)), held)
}

/// Has a copy run that is paused and carries this stamp.
pub(crate) fn resume(
    connection: &Connection,
    machine: &MachineId,
    stamp: Stamp,
) -> Result<(), Failure> {
    let (sight, domain) = present(connection, machine)?;
    match sight.presence {
        Presence::Running if sight.stamp == stamp => Ok(()),
        Presence::Held | Presence::Paused | Presence::Stranded if sight.stamp == stamp => {
            domain.resume().map_err(|error| blame(connection, machine, &error))?;
            runs_now(&domain, machine);
            Ok(())
        }
        _ => Err(other_copy(machine, &sight, stamp)),
    }
}

/// Starts a machine that is defined and off and carries this stamp.
pub(crate) fn start(
    connection: &Connection,
    machine: &MachineId,
    stamp: Stamp,
) -> Result<(), Failure> {
    let (sight, domain) = present(connection, machine)?;
    match sight.presence {
        Presence::Running if sight.stamp == stamp => Ok(()),
        Presence::Defined if sight.stamp == stamp => {
            domain.create().map_err(|error| blame(connection, machine, &error))?;
            runs_now(&domain, machine);
            Ok(())
        }
        _ => Err(other_copy(machine, &sight, stamp)),
    }
}

/// What is here of a machine, of which there is to be something.
fn present(connection: &Connection, machine: &MachineId) -> Result<(Sight, Domain), Failure> {
    let (sight, domain) = find(connection, machine)?;
    let gone = || of_machine(FailureKind::NoSuchMachine, machine, "it is not on this host");
    Ok((sight, domain.ok_or_else(gone)?))
}

/// A copy that has begun to run is held no more.
fn runs_now(domain: &Domain, machine: &MachineId) {
    if let Err(error) = unmark(domain) {
        // A mark on what runs means nothing.
        tracing::warn!("machine `{machine}` keeps the mark of a held copy: {error}");
    }
}

/// Takes the mark of a held copy away, in its definition too.
fn unmark(domain: &Domain) -> Result<(), String> {
    let text = |error: CallError| error.to_string();
    let described = Element::parse(&domain.xml().map_err(text)?).map_err(|e| e.to_string())?;
    if !entry::is_held(&described) {
        return Ok(());
    }
    let element = entry::as_metadata(&entry::of_domain(&described)?).map_err(|e| e.to_string())?;
    let persistent = domain.is_persistent().map_err(text)?;
    domain.set_metadata(&element, entry::PREFIX, entry::NAMESPACE, true, persistent).map_err(text)
}

/// Destroys a copy that does not run and carries this stamp, and its definition with it.
///
/// libvirt has no call that destroys a domain only if it is paused: an operator who resumes it by
/// hand between our look and our call is not noticed.
pub(crate) fn discard(
    connection: &Connection,
    machine: &MachineId,
    stamp: Stamp,
) -> Result<(), Failure> {
    let (sight, domain) = find(connection, machine)?;
    let Some(domain) = domain else { return Ok(()) };
    if sight.stamp != stamp {
        return Err(other_copy(machine, &sight, stamp));
    }
    let spared = spared(&domain).map_err(|error| blame(connection, machine, &error))?;
    if let Some(why) = spared {
        return Err(of_machine(FailureKind::Refused, machine, why));
    }
    let destroyed = match sight.presence {
        Presence::Incoming | Presence::Held | Presence::Paused | Presence::Stranded => {
            domain.destroy()
        }
        // What is left of a copy that libvirt itself has ended.
        Presence::Defined => Ok(()),
        Presence::Absent | Presence::Leaving | Presence::Running => {
            return Err(other_copy(machine, &sight, stamp));
        }
    };
    match destroyed.and_then(|()| forget(&domain, stamp)) {
        // It was transient, or somebody was quicker.
        Err(CallError { code: sys::VIR_ERR_NO_DOMAIN, .. }) => Ok(()),
        done => done.map_err(|error| blame(connection, machine, &error)),
    }
}

/// What would be lost with a copy that is not its own, if anything.
fn spared(domain: &Domain) -> Result<Option<&'static str>, CallError> {
    let persistent = domain.is_persistent()?;
    if persistent && domain.has_saved_memory()? {
        return Ok(Some(
            "libvirt has saved an image of its memory here, and it was left alone: if that is stale, \
             run `virsh managedsave-remove`",
        ));
    }
    // libvirt deletes the state with a domain that has no definition, even where another host uses it.
    let described = Element::parse(&domain.xml()?).ok();
    let emulated = |tpm: &Element| {
        tpm.find("backend").is_some_and(|backend| backend.attribute("type") == Some("emulator"))
    };
    let has_tpm = described.as_ref().and_then(|domain| domain.find("devices"));
    let has_tpm = has_tpm.is_some_and(|devices| devices.all("tpm").any(emulated));
    Ok((!persistent && has_tpm).then_some(
        "with this copy, which has no definition, libvirt would delete the state of its TPM, and it was \
         left alone: if no other host uses that state, run `virsh destroy`",
    ))
}

/// Forgets the definition of a copy that was destroyed, if it has one of its own.
fn forget(domain: &Domain, stamp: Stamp) -> Result<(), CallError> {
    if !domain.is_persistent()? {
        return Ok(());
    }
    let defined = Element::parse(&domain.definition()?).ok();
    let defined = defined.and_then(|domain| entry::of_domain(&domain).ok());
    if defined.is_some_and(|entry| Stamp::of(&entry) == stamp) { domain.undefine() } else { Ok(()) }
}

/// Has the host start a machine when it boots, or not.
pub(crate) fn set_autostart(
    connection: &Connection,
    machine: &MachineId,
    wanted: bool,
) -> Result<(), Failure> {
    let blame = |error: CallError| blame(connection, machine, &error);
    let domain = connection.domain(machine.as_str()).map_err(blame)?;
    if domain.is_persistent().map_err(blame)? {
        return domain.set_autostart(wanted).map_err(blame);
    }
    if wanted {
        let what = "it is transient, and cannot be started when its host boots";
        return Err(of_machine(FailureKind::Refused, machine, what));
    }
    Ok(())
}

fn other_copy(machine: &MachineId, sight: &Sight, wanted: Stamp) -> Failure {
    let Sight { presence, stamp, .. } = sight;
    let what = format!(
        "what is here is {presence:?} with {stamp:?}, and was left alone: {wanted:?} was meant"
    );
    of_machine(FailureKind::Refused, machine, &what)
}

fn blame(connection: &Connection, machine: &MachineId, error: &CallError) -> Failure {
    of_machine(classify(error, connection, false), machine, &error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_waits_is_told_from_one_that_somebody_has_paused() {
        let paused = State::Paused;
        for (state, job, held, presence) in [
            (State::Running, false, true, Presence::Running),
            (paused(Pause::Starting), true, true, Presence::Incoming),
            (paused(Pause::Other), true, true, Presence::Incoming),
            (paused(Pause::Other), false, true, Presence::Held),
            (paused(Pause::Other), false, false, Presence::Paused),
            (paused(Pause::Other), true, false, Presence::Paused),
            (paused(Pause::Migrating), true, true, Presence::Incoming),
            (paused(Pause::Migrating), true, false, Presence::Incoming),
            (paused(Pause::Migrating), false, true, Presence::Stranded),
            (paused(Pause::Migrating), false, false, Presence::Stranded),
            (State::Off, false, true, Presence::Defined),
        ] {
            assert_eq!(resident(state, job, held), presence, "{state:?}, {job}, {held}");
        }
    }
}

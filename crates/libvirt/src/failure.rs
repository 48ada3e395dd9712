//! libvirt's errors, by what is to be done about them.

use evenkeel_core::model::MachineId;
use evenkeel_core::port::{Failure, FailureKind};
use virt_sys as sys;

use crate::ffi::{CallError, Connection};

/// What a call that failed means. `peer` says whether another host was involved.
pub(crate) fn classify(error: &CallError, connection: &Connection, peer: bool) -> FailureKind {
    if let Some(kind) = kind_of_code(error.code) {
        return kind;
    }
    // A broken connection and a broken link to the other host read the same; so ask.
    if !connection.answers() {
        return FailureKind::Unreachable;
    }
    if peer && is_of_the_peer(error) { FailureKind::PeerRefused } else { FailureKind::Other }
}

/// The meaning of codes that have only one.
pub(crate) fn kind_of_code(code: u32) -> Option<FailureKind> {
    match code {
        sys::VIR_ERR_NO_DOMAIN => Some(FailureKind::NoSuchMachine),
        sys::VIR_ERR_OPERATION_ABORTED => Some(FailureKind::Aborted),
        // "cannot acquire state change lock": somebody else's job is under way.
        sys::VIR_ERR_OPERATION_TIMEOUT => Some(FailureKind::Busy),
        _ => None,
    }
}

/// Whether it was the other host that could not be reached, or did not want the machine: when its
/// libvirt cannot be connected to, or refuses the domain before anything was sent.
fn is_of_the_peer(error: &CallError) -> bool {
    let refused = [
        sys::VIR_ERR_NO_CONNECT,
        sys::VIR_ERR_UNKNOWN_HOST,
        sys::VIR_ERR_INVALID_CONN,
        sys::VIR_ERR_AUTH_FAILED,
        sys::VIR_ERR_AUTH_CANCELLED,
        sys::VIR_ERR_AUTH_UNAVAILABLE,
        sys::VIR_ERR_SYSTEM_ERROR,
        sys::VIR_ERR_RPC,
        sys::VIR_ERR_CPU_INCOMPATIBLE,
        sys::VIR_ERR_CONFIG_UNSUPPORTED,
        sys::VIR_ERR_DOM_EXIST,
    ];
    let remote = [sys::VIR_FROM_RPC, sys::VIR_FROM_REMOTE];
    refused.contains(&error.code) || remote.contains(&error.origin)
}

/// A failure that names the machine.
pub(crate) fn of_machine(kind: FailureKind, machine: &MachineId, what: &str) -> Failure {
    Failure::new(kind, format!("machine `{machine}`: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_other_host_is_told_from_a_failure_here() {
        let error = |code, origin| CallError { code, origin, message: String::new() };
        for (error, peer) in [
            (error(sys::VIR_ERR_NO_CONNECT, 0), true),
            (error(sys::VIR_ERR_INTERNAL_ERROR, sys::VIR_FROM_RPC), true),
            (error(sys::VIR_ERR_CPU_INCOMPATIBLE, sys::VIR_FROM_QEMU), true),
            (error(sys::VIR_ERR_OPERATION_FAILED, sys::VIR_FROM_QEMU), false),
            (error(sys::VIR_ERR_MIGRATE_UNSAFE, sys::VIR_FROM_QEMU), false),
        ] {
            assert_eq!(is_of_the_peer(&error), peer, "{error:?}");
        }
        assert_eq!(kind_of_code(sys::VIR_ERR_NO_DOMAIN), Some(FailureKind::NoSuchMachine));
        assert_eq!(kind_of_code(sys::VIR_ERR_OPERATION_ABORTED), Some(FailureKind::Aborted));
    }
}

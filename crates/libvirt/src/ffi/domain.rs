//! Domains.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr::{self, NonNull};

use super::{CallError, Params, Value, check, sys, take_text, text};

/// A domain of a connection, which it keeps open.
pub(crate) struct Domain(NonNull<sys::_virDomain>);

// SAFETY: libvirt's domain handles are immutable (a connection, a UUID, a name, an id) but for
// their reference count, which is atomic; calls on them are calls on the connection.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// How a domain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It executes, or would if it had something to do.
    Running,
    /// It is in memory and does not execute.
    Paused(Pause),
    /// It is not in memory.
    Off,
}

/// Why a domain is off, as libvirt says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was migrated away.
    Migrated,
    /// libvirt was started after it had ended.
    Unknown,
    /// It was shut down, destroyed, crashed and so on.
    Other,
}

/// Why a domain in memory does not execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It is being started or, if its memory comes from another host, still arriving.
    Starting,
    /// It is being migrated away, or was when libvirt lost sight of it.
    Migrating,
    /// Somebody wished it, or something is wrong with it.
    Other,
}

impl Pause {
    fn from_raw(reason: u64) -> Self {
        const STARTING: u64 = sys::VIR_DOMAIN_PAUSED_STARTING_UP as u64;
        const MIGRATION: u64 = sys::VIR_DOMAIN_PAUSED_MIGRATION as u64;
        const POSTCOPY: u64 = sys::VIR_DOMAIN_PAUSED_POSTCOPY as u64;
        const POSTCOPY_FAILED: u64 = sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED as u64;
        match reason {
            STARTING => Self::Starting,
            MIGRATION | POSTCOPY | POSTCOPY_FAILED => Self::Migrating,
            _ => Self::Other,
        }
    }
}

impl State {
    /// From libvirt's numbers of a state and the reason for it.
    pub(crate) fn from_raw(state: u64, reason: u64) -> Self {
        const RUNNING: u64 = sys::VIR_DOMAIN_RUNNING as u64;
        const BLOCKED: u64 = sys::VIR_DOMAIN_BLOCKED as u64;
        // Asked to shut down and still executing.
        const SHUTDOWN: u64 = sys::VIR_DOMAIN_SHUTDOWN as u64;
        const PAUSED: u64 = sys::VIR_DOMAIN_PAUSED as u64;
        const SUSPENDED: u64 = sys::VIR_DOMAIN_PMSUSPENDED as u64;
        // Its guest has crashed and is preserved: QEMU lives and holds its memory. One that is not
        // preserved is off.
        const CRASHED: u64 = sys::VIR_DOMAIN_CRASHED as u64;
        match state {
            RUNNING | BLOCKED | SHUTDOWN => Self::Running,
            PAUSED => Self::Paused(Pause::from_raw(reason)),
            SUSPENDED | CRASHED => Self::Paused(Pause::Other),
            _ => Self::Off,
        }
    }
}

/// A job on a domain, or what is known of one that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Whether one is under way.
    pub(crate) active: bool,
    /// Whether it is a migration to another host.
    pub(crate) migration_out: bool,
    /// Bytes sent.
    pub(crate) bytes_done: u64,
    /// Bytes left to send.
    pub(crate) bytes_left: u64,
    /// How long the domain stood still, in milliseconds.
    pub(crate) downtime_ms: u64,
}

impl Job {
    pub(super) fn read(params: &Params<'_>) -> Self {
        let mut job = Self::default();
        for (name, value) in params.iter() {
            let Value::Number(number) = value else { continue };
            match name {
                "operation" => {
                    job.migration_out =
                        number == u64::from(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT);
                }
                "data_processed" => job.bytes_done = number,
                "data_remaining" => job.bytes_left = number,
                "downtime" => job.downtime_ms = number,
                _ => {}
            }
        }
        job
    }
}

/// The arguments of a peer-to-peer live migration.
#[derive(Clone, Debug, Default)]
pub(crate) struct MigrateCall {
    /// The other host's libvirt.
    pub(crate) destination: String,
    /// Where QEMU sends to, if libvirt shall not choose.
    pub(crate) migrate_uri: Option<String>,
    /// Where the other host's QEMU listens, if libvirt shall not choose.
    pub(crate) listen_address: Option<String>,
    /// Where QEMU copies disks to, if libvirt shall not choose.
    pub(crate) disks_uri: Option<String>,
    /// The domain as it shall be on the other host.
    pub(crate) live_xml: String,
    /// Its definition there; `None` for a domain that has none.
    pub(crate) persistent_xml: Option<String>,
    /// In MiB per second.
    pub(crate) bandwidth_mib_per_s: Option<u64>,
    /// Whether a domain that dirties memory too fast is slowed down.
    pub(crate) auto_converge: bool,
    /// Whether it arrives paused and stays so.
    pub(crate) paused: bool,
    /// Disks that are copied along; all others are reached from there.
    pub(crate) disks: Vec<String>,
    /// Whether blocks of zeros in them are not written out there, so that a thin disk stays thin.
    pub(crate) detect_zeroes: bool,
}

impl Domain {
    /// # Safety
    /// `domain` is null, with the error set, or a valid reference that becomes ours.
    pub(super) unsafe fn new(domain: sys::virDomainPtr) -> Result<Self, CallError> {
        NonNull::new(domain).map(Self).ok_or_else(CallError::last)
    }

    pub(super) fn as_ptr(&self) -> sys::virDomainPtr {
        self.0.as_ptr()
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> Option<String> {
        uuid(self.as_ptr())
    }

    /// How many snapshots libvirt keeps of it.
    pub(crate) fn snapshots(&self) -> Result<u32, CallError> {
        // SAFETY: the domain is valid.
        count(check(unsafe { sys::virDomainSnapshotNum(self.as_ptr(), 0) }))
    }

    /// How many checkpoints libvirt keeps of it.
    pub(crate) fn checkpoints(&self) -> Result<u32, CallError> {
        // SAFETY: the domain is valid; without a place for a list they are only counted.
        count(check(unsafe { sys::virDomainListAllCheckpoints(self.as_ptr(), ptr::null_mut(), 0) }))
    }

    pub(crate) fn state(&self) -> Result<State, CallError> {
        let (state, reason) = self.raw_state()?;
        Ok(State::from_raw(state, reason))
    }

    /// Why it is off, if it is.
    pub(crate) fn ending(&self) -> Result<Option<Ending>, CallError> {
        const OFF: u64 = sys::VIR_DOMAIN_SHUTOFF as u64;
        const UNKNOWN: u64 = sys::VIR_DOMAIN_SHUTOFF_UNKNOWN as u64;
        const MIGRATED: u64 = sys::VIR_DOMAIN_SHUTOFF_MIGRATED as u64;
        Ok(match self.raw_state()? {
            (OFF, MIGRATED) => Some(Ending::Migrated),
            (OFF, UNKNOWN) => Some(Ending::Unknown),
            (OFF, _) => Some(Ending::Other),
            _ => None,
        })
    }

    fn raw_state(&self) -> Result<(u64, u64), CallError> {
        let (mut state, mut reason): (c_int, c_int) = (0, 0);
        // SAFETY: the domain is valid, and so are the places for the answers.
        check(unsafe {
            sys::virDomainGetState(self.as_ptr(), &raw mut state, &raw mut reason, 0)
        })?;
        let number = |value: c_int| u64::try_from(value).unwrap_or(0);
        Ok((number(state), number(reason)))
    }

    pub(crate) fn is_persistent(&self) -> Result<bool, CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainIsPersistent(self.as_ptr()) }).map(|is| is == 1)
    }

    pub(crate) fn is_active(&self) -> Result<bool, CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainIsActive(self.as_ptr()) }).map(|is| is == 1)
    }

    /// Its description: as it runs, or its definition if it does not.
    pub(crate) fn xml(&self) -> Result<String, CallError> {
        self.described(0)
    }

    /// Its description as it is defined, whether it runs or not.
    pub(crate) fn definition(&self) -> Result<String, CallError> {
        self.described(sys::VIR_DOMAIN_XML_INACTIVE)
    }

    /// Its description for another host: as it runs.
    pub(crate) fn live_xml_for_migration(&self) -> Result<String, CallError> {
        self.described(sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE)
    }

    /// Its description for another host: as it is defined.
    pub(crate) fn definition_for_migration(&self) -> Result<String, CallError> {
        let inactive = sys::VIR_DOMAIN_XML_INACTIVE;
        self.described(sys::VIR_DOMAIN_XML_SECURE | sys::VIR_DOMAIN_XML_MIGRATABLE | inactive)
    }

    fn described(&self, flags: c_uint) -> Result<String, CallError> {
        // SAFETY: the domain is valid; the text is ours to free.
        unsafe { take_text(sys::virDomainGetXMLDesc(self.as_ptr(), flags)) }
    }

    /// The size of a disk as the domain sees it, and the size of what holds it on its host, in bytes.
    /// (What libvirt calls its allocation is, while it runs, only how far it has been written to.)
    pub(crate) fn disk_size(&self, disk: &str) -> Result<(u64, u64), CallError> {
        let disk = text("a disk", disk)?;
        // SAFETY: integers only.
        let mut info: sys::_virDomainBlockInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the domain, the text and the place for the answer are valid.
        check(unsafe {
            sys::virDomainGetBlockInfo(self.as_ptr(), disk.as_ptr(), &raw mut info, 0)
        })?;
        #[allow(clippy::useless_conversion, reason = "narrower on some systems")]
        Ok((info.capacity.into(), info.physical.into()))
    }

    /// Has its virtual CPUs execute.
    pub(crate) fn resume(&self) -> Result<(), CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainResume(self.as_ptr()) }).map(drop)
    }

    /// Starts it from its definition, or from an image of its memory that libvirt has saved.
    pub(crate) fn create(&self) -> Result<(), CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainCreate(self.as_ptr()) }).map(drop)
    }

    /// Ends it at once.
    pub(crate) fn destroy(&self) -> Result<(), CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainDestroyFlags(self.as_ptr(), 0) }).map(drop)
    }

    /// Whether libvirt has saved an image of its memory, to be started from.
    pub(crate) fn has_saved_memory(&self) -> Result<bool, CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainHasManagedSaveImage(self.as_ptr(), 0) }).map(|is| is == 1)
    }

    /// Forgets its definition, with what libvirt has noted of its snapshots and checkpoints. Not an
    /// image of its memory: with one it fails. Nor the variables of its firmware or the state of its
    /// TPM, which may be on storage that another host shares.
    pub(crate) fn undefine(&self) -> Result<(), CallError> {
        let flags = sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
            | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM;
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainUndefineFlags(self.as_ptr(), flags) }).map(drop)
    }

    /// Has it started when its host boots, or not.
    pub(crate) fn set_autostart(&self, wanted: bool) -> Result<(), CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetAutostart(self.as_ptr(), wanted.into()) }).map(drop)
    }

    /// Writes a metadata element, which has no namespace of its own: libvirt adds it.
    pub(crate) fn set_metadata(
        &self,
        element: &str,
        prefix: &str,
        namespace: &str,
        live: bool,
        config: bool,
    ) -> Result<(), CallError> {
        let (element, prefix, namespace) = (
            text("the metadata", element)?,
            text("the prefix", prefix)?,
            text("the namespace", namespace)?,
        );
        let affect = |yes: bool, flag: c_uint| if yes { flag } else { 0 };
        let flags = affect(live, sys::VIR_DOMAIN_AFFECT_LIVE)
            | affect(config, sys::VIR_DOMAIN_AFFECT_CONFIG);
        // SAFETY: the domain and the three texts are valid.
        check(unsafe {
            sys::virDomainSetMetadata(
                self.as_ptr(),
                sys::VIR_DOMAIN_METADATA_ELEMENT as c_int,
                element.as_ptr(),
                prefix.as_ptr(),
                namespace.as_ptr(),
                flags,
            )
        })
        .map(drop)
    }

    /// The job that is under way, if any.
    pub(crate) fn job(&self) -> Result<Job, CallError> {
        let (mut kind, mut count): (c_int, c_int) = (0, 0);
        let mut params: sys::virTypedParameterPtr = ptr::null_mut();
        // SAFETY: the domain is valid, and so are the places for the answers.
        let asked = check(unsafe {
            sys::virDomainGetJobStats(
                self.as_ptr(),
                &raw mut kind,
                &raw mut params,
                &raw mut count,
                0,
            )
        });
        match asked {
            // "Migration statistics are available only on the source host": it is arriving.
            Err(CallError { code: sys::VIR_ERR_OPERATION_UNSUPPORTED, .. }) => {
                return Ok(Job { active: true, ..Job::default() });
            }
            asked => asked?,
        };
        // SAFETY: the parameters are ours until freed below.
        let job = Job::read(&unsafe { Params::new(params, count) });
        // SAFETY: allocated by libvirt for us and not used after.
        unsafe { sys::virTypedParamsFree(params, count) };
        Ok(Job { active: kind != sys::VIR_DOMAIN_JOB_NONE as c_int, ..job })
    }

    /// Gives up the job under way; an error if there is none.
    pub(crate) fn abort_job(&self) -> Result<(), CallError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainAbortJob(self.as_ptr()) }).map(drop)
    }

    /// Migrates, and returns when that is over.
    pub(crate) fn migrate(&self, call: &MigrateCall) -> Result<(), CallError> {
        let destination = text("the destination", &call.destination)?;
        let mut params = OwnedParams::default();
        for (name, value) in [
            (sys::VIR_MIGRATE_PARAM_URI, &call.migrate_uri),
            (sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS, &call.listen_address),
            (sys::VIR_MIGRATE_PARAM_DISKS_URI, &call.disks_uri),
            (sys::VIR_MIGRATE_PARAM_PERSIST_XML, &call.persistent_xml),
        ] {
            if let Some(value) = value {
                params.add_text(name, &text("a migration parameter", value)?)?;
            }
        }
        let live_xml = text("the domain's description", &call.live_xml)?;
        params.add_text(sys::VIR_MIGRATE_PARAM_DEST_XML, &live_xml)?;
        for disk in &call.disks {
            let disk = text("a disk", disk)?;
            params.add_text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, &disk)?;
            if call.detect_zeroes {
                params.add_text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS_DETECT_ZEROES, &disk)?;
            }
        }
        if let Some(bandwidth) = call.bandwidth_mib_per_s {
            params.add_number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, bandwidth)?;
        }
        let mut flags: c_uint =
            sys::VIR_MIGRATE_LIVE | sys::VIR_MIGRATE_PEER2PEER | sys::VIR_MIGRATE_ABORT_ON_ERROR;
        if call.persistent_xml.is_some() {
            flags |= sys::VIR_MIGRATE_PERSIST_DEST | sys::VIR_MIGRATE_UNDEFINE_SOURCE;
        }
        if call.auto_converge {
            flags |= sys::VIR_MIGRATE_AUTO_CONVERGE;
        }
        if call.paused {
            flags |= sys::VIR_MIGRATE_PAUSED;
        }
        if !call.disks.is_empty() {
            flags |= sys::VIR_MIGRATE_NON_SHARED_DISK;
        }
        // SAFETY: the domain, the text and the parameters are valid for the call.
        check(unsafe {
            sys::virDomainMigrateToURI3(
                self.as_ptr(),
                destination.as_ptr(),
                params.params,
                params.count as c_uint,
                flags,
            )
        })
        .map(drop)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: gives up our reference, which is not used after.
        unsafe { sys::virDomainFree(self.as_ptr()) };
    }
}

/// How many there are; none where libvirt knows no such thing.
fn count(counted: Result<i32, CallError>) -> Result<u32, CallError> {
    match counted {
        Ok(count) => Ok(u32::try_from(count).unwrap_or(0)),
        Err(CallError { code: sys::VIR_ERR_NO_SUPPORT, .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The UUID of a domain, as text.
pub(super) fn uuid(domain: sys::virDomainPtr) -> Option<String> {
    const LENGTH: usize = sys::VIR_UUID_STRING_BUFLEN as usize;
    let mut buffer: [c_char; LENGTH] = [0; LENGTH];
    // SAFETY: libvirt checks the handle; the buffer has the length that it asks for.
    let returned = unsafe { sys::virDomainGetUUIDString(domain, buffer.as_mut_ptr()) };
    // SAFETY: the buffer is NUL-terminated: it was zeroed and libvirt writes a text.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    (returned == 0).then(|| text.to_string_lossy().into_owned())
}

/// What libvirt calls the present running of a domain: another number after each start.
pub(super) fn running_id(domain: sys::virDomainPtr) -> Option<u32> {
    // SAFETY: libvirt checks the handle.
    let id = unsafe { sys::virDomainGetID(domain) };
    (id != c_uint::MAX).then_some(id)
}

/// Named parameters that are ours.
struct OwnedParams {
    params: sys::virTypedParameterPtr,
    count: c_int,
    room: c_int,
}

impl Default for OwnedParams {
    fn default() -> Self {
        Self { params: ptr::null_mut(), count: 0, room: 0 }
    }
}

impl OwnedParams {
    fn add_text(&mut self, name: &CStr, value: &CString) -> Result<(), CallError> {
        let (params, count, room) = (&raw mut self.params, &raw mut self.count, &raw mut self.room);
        // SAFETY: list, count and room belong together; libvirt copies name and value.
        let returned = unsafe {
            sys::virTypedParamsAddString(params, count, room, name.as_ptr(), value.as_ptr())
        };
        check(returned).map(drop)
    }

    fn add_number(&mut self, name: &CStr, value: u64) -> Result<(), CallError> {
        let (params, count, room) = (&raw mut self.params, &raw mut self.count, &raw mut self.room);
        // SAFETY: list, count and room belong together; libvirt copies the name.
        let returned =
            unsafe { sys::virTypedParamsAddULLong(params, count, room, name.as_ptr(), value) };
        check(returned).map(drop)
    }
}

impl Drop for OwnedParams {
    fn drop(&mut self) {
        // SAFETY: built by libvirt's own functions, freed once; null is allowed.
        unsafe { sys::virTypedParamsFree(self.params, self.count) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_has_crashed_and_is_preserved_is_in_memory() {
        let crashed = u64::from(sys::VIR_DOMAIN_CRASHED);
        let panicked = u64::from(sys::VIR_DOMAIN_CRASHED_PANICKED);
        assert_eq!(State::from_raw(crashed, panicked), State::Paused(Pause::Other));
        // One that is not preserved is off, with a crash for the reason.
        let off = u64::from(sys::VIR_DOMAIN_SHUTOFF);
        let crash = u64::from(sys::VIR_DOMAIN_SHUTOFF_CRASHED);
        assert_eq!(State::from_raw(off, crash), State::Off);
    }
}

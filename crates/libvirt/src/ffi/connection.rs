//! Connections, and what is asked of a host.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int, c_uint, c_ulong};
use std::ptr::{self, NonNull};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{CallError, Domain, Params, check, sys, take_text, text};
use crate::answer::lock;

/// How many connections this process has.
static OPEN: Mutex<usize> = Mutex::new(0);
/// One of them was closed.
static CLOSED: Condvar = Condvar::new();

/// Waits until this process has closed all its connections, or so long. Whether it has.
///
/// A process must not end while libvirt answers one of its calls: a daemon that sees both at once may
/// free what it keeps of the client twice, and crash (seen with 9.0.0).
#[must_use]
pub fn all_closed(limit: Duration) -> bool {
    let closed = CLOSED.wait_timeout_while(lock(&OPEN), limit, |open| *open > 0);
    !closed.unwrap_or_else(PoisonError::into_inner).1.timed_out()
}

/// A connection to a libvirt daemon. Closed when dropped.
pub(crate) struct Connection(NonNull<sys::_virConnect>);

// SAFETY: libvirt's connections are safe to use from any thread and from several at once; the
// library does its own locking and counts references atomically.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

/// A host's processors and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    /// Logical processors that are active.
    pub(crate) cpus: u32,
    /// Memory in KiB.
    pub(crate) memory_kib: u64,
}

impl Connection {
    /// Opens a connection; over a read-only one libvirt refuses every change.
    pub(crate) fn open(uri: &str, read_only: bool) -> Result<Self, CallError> {
        let uri = text("the URI", uri)?;
        // SAFETY: a valid NUL-terminated text; libvirt initialises itself.
        let connection = unsafe {
            if read_only {
                sys::virConnectOpenReadOnly(uri.as_ptr())
            } else {
                sys::virConnectOpen(uri.as_ptr())
            }
        };
        let connection = NonNull::new(connection).ok_or_else(CallError::last)?;
        *lock(&OPEN) += 1;
        Ok(Self(connection))
    }

    pub(super) fn as_ptr(&self) -> sys::virConnectPtr {
        self.0.as_ptr()
    }

    /// Lets libvirt declare the connection dead when `count` probes, `interval_s` seconds apart,
    /// are not answered.
    pub(crate) fn set_keepalive(&self, interval_s: i32, count: u32) -> Result<(), CallError> {
        // SAFETY: the connection is valid.
        let returned = unsafe { sys::virConnectSetKeepAlive(self.as_ptr(), interval_s, count) };
        check(returned).map(drop)
    }

    /// Whether the daemon still answers: a round trip.
    pub(crate) fn answers(&self) -> bool {
        let mut version: c_ulong = 0;
        // SAFETY: the connection is valid, and so is the place for the answer.
        unsafe {
            sys::virConnectIsAlive(self.as_ptr()) == 1
                && sys::virConnectGetLibVersion(self.as_ptr(), &raw mut version) == 0
        }
    }

    /// Whether it is still connected, without a round trip.
    pub(crate) fn is_open(&self) -> bool {
        // SAFETY: the connection is valid.
        unsafe { sys::virConnectIsAlive(self.as_ptr()) == 1 }
    }

    /// The hypervisor's version: 1,000,000 × major + 1,000 × minor + release.
    pub(crate) fn hypervisor_version(&self) -> Result<u64, CallError> {
        let mut version: c_ulong = 0;
        // SAFETY: the connection is valid, and so is the place for the answer.
        check(unsafe { sys::virConnectGetVersion(self.as_ptr(), &raw mut version) })?;
        #[allow(clippy::useless_conversion, reason = "narrower on 32-bit systems")]
        Ok(version.into())
    }

    pub(crate) fn capabilities(&self) -> Result<String, CallError> {
        // SAFETY: the connection is valid; the text is ours to free.
        unsafe { take_text(sys::virConnectGetCapabilities(self.as_ptr())) }
    }

    /// What domains of a type (`kvm`, `qemu`) can have here.
    pub(crate) fn domain_capabilities(&self, kind: &str) -> Result<String, CallError> {
        let kind = text("the domain type", kind)?;
        // SAFETY: the connection is valid, null means the default, and the text is ours to free.
        unsafe {
            take_text(sys::virConnectGetDomainCapabilities(
                self.as_ptr(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
                kind.as_ptr(),
                0,
            ))
        }
    }

    pub(crate) fn node_info(&self) -> Result<NodeInfo, CallError> {
        let mut info = std::mem::MaybeUninit::<sys::_virNodeInfo>::zeroed();
        // SAFETY: the connection is valid, and so is the place for the answer.
        check(unsafe { sys::virNodeGetInfo(self.as_ptr(), info.as_mut_ptr()) })?;
        // SAFETY: integers only, zeroed before, filled in by the call that succeeded.
        let info = unsafe { info.assume_init() };
        #[allow(clippy::useless_conversion, reason = "narrower on 32-bit systems")]
        Ok(NodeInfo { cpus: info.cpus, memory_kib: info.memory.into() })
    }

    /// A domain by its UUID, running or not.
    pub(crate) fn domain(&self, uuid: &str) -> Result<Domain, CallError> {
        let uuid = text("the UUID", uuid)?;
        // SAFETY: the connection is valid; the reference returned is ours.
        unsafe { Domain::new(sys::virDomainLookupByUUIDString(self.as_ptr(), uuid.as_ptr())) }
    }

    /// Statistics of every domain, running or not, in one call: `each` gets its UUID, the id of its
    /// running (`None` if it does not run) and its figures. A domain whose QEMU is busy is not
    /// waited for: what would need it is left out. One whose QEMU hangs holds the call up until it has
    /// been found to be busy.
    pub(crate) fn domain_stats(
        &self,
        groups: u32,
        each: impl FnMut(String, Option<u32>, Params<'_>),
    ) -> Result<(), CallError> {
        let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        let nowait: c_uint = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        // SAFETY: the connection is valid, and so is the place for the list.
        let count = check(unsafe {
            sys::virConnectGetAllDomainStats(self.as_ptr(), groups, &raw mut records, nowait)
        })?;
        Records(records).each(count, each);
        Ok(())
    }

    /// The same of one domain.
    pub(crate) fn stats_of(
        &self,
        domain: &Domain,
        groups: u32,
        each: impl FnMut(String, Option<u32>, Params<'_>),
    ) -> Result<(), CallError> {
        let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        let nowait: c_uint = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        let mut list = [domain.as_ptr(), ptr::null_mut()];
        // SAFETY: the domain is valid, the list ends with a null, and the place for the answer is valid.
        let count = check(unsafe {
            sys::virDomainListGetStats(list.as_mut_ptr(), groups, &raw mut records, nowait)
        })?;
        Records(records).each(count, each);
        Ok(())
    }

    /// The UUIDs of the domains that the host starts when it boots.
    pub(crate) fn autostarted(&self) -> Result<BTreeSet<String>, CallError> {
        self.listed(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
    }

    /// The UUIDs of all domains.
    pub(crate) fn all(&self) -> Result<BTreeSet<String>, CallError> {
        self.listed(0)
    }

    fn listed(&self, wanted: c_uint) -> Result<BTreeSet<String>, CallError> {
        let mut domains: *mut sys::virDomainPtr = ptr::null_mut();
        // SAFETY: the connection is valid, and so is the place for the list.
        let count = check(unsafe {
            sys::virConnectListAllDomains(self.as_ptr(), &raw mut domains, wanted)
        })?;
        let mut uuids = BTreeSet::new();
        for index in 0..count as usize {
            // SAFETY: the list holds `count` domains, each ours to free, once.
            unsafe {
                let domain = *domains.add(index);
                uuids.extend(super::domain::uuid(domain));
                sys::virDomainFree(domain);
            }
        }
        // SAFETY: allocated by libvirt for us, null at worst, and not used after.
        unsafe { super::free(domains.cast()) };
        Ok(uuids)
    }

    /// The descriptions of all active storage pools.
    pub(crate) fn active_storage_pools(&self) -> Result<Vec<String>, CallError> {
        let mut pools: *mut sys::virStoragePoolPtr = ptr::null_mut();
        let active: c_uint = sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;
        // SAFETY: the connection is valid, and so is the place for the list.
        let count = check(unsafe {
            sys::virConnectListAllStoragePools(self.as_ptr(), &raw mut pools, active)
        })?;
        let mut described = Vec::new();
        for index in 0..count as usize {
            // SAFETY: the list holds `count` pools, each ours to free, once; a pool that went away
            // meanwhile has no description, which is no error.
            unsafe {
                let pool = *pools.add(index);
                described.extend(take_text(sys::virStoragePoolGetXMLDesc(pool, 0)));
                sys::virStoragePoolFree(pool);
            }
        }
        // SAFETY: allocated by libvirt for us, null at worst, and not used after.
        unsafe { super::free(pools.cast()) };
        Ok(described)
    }
}

impl Connection {
    /// Whether the host can run a CPU, as a domain that runs describes it, in domains of this kind:
    /// the error says what it lacks. `virt_type` and `machine` mean the default if they are empty.
    pub(crate) fn compare_cpu(
        &self,
        cpu: &str,
        virt_type: &str,
        machine: &str,
    ) -> Result<(), CallError> {
        let (cpu, virt_type, machine) = (
            text("the CPU", cpu)?,
            optional("the type", virt_type)?,
            optional("the machine", machine)?,
        );
        let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |t| t.as_ptr());
        let flags: c_uint = sys::VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE;
        // SAFETY: the connection is valid, null means the default, and the texts live for the call.
        check(unsafe {
            sys::virConnectCompareHypervisorCPU(
                self.as_ptr(),
                ptr::null(),
                ptr::null(),
                pointer(&machine),
                pointer(&virt_type),
                cpu.as_ptr(),
                flags,
            )
        })
        .map(drop)
    }

    /// The richest CPU that all hosts with these CPUs can give to domains of this type.
    pub(crate) fn baseline_cpu(
        &self,
        cpus: &[String],
        virt_type: &str,
    ) -> Result<String, CallError> {
        let cpus: Vec<CString> =
            cpus.iter().map(|cpu| text("a CPU", cpu)).collect::<Result<_, _>>()?;
        let mut pointers: Vec<*const c_char> = cpus.iter().map(|cpu| cpu.as_ptr()).collect();
        let count = c_uint::try_from(pointers.len()).unwrap_or(c_uint::MAX);
        let virt_type = optional("the type", virt_type)?;
        let virt_type = virt_type.as_ref().map_or(ptr::null(), |text| text.as_ptr());
        // SAFETY: the connection is valid, null means the default, the list holds `count` texts that
        // live for the call, and the text returned is ours to free.
        unsafe {
            take_text(sys::virConnectBaselineHypervisorCPU(
                self.as_ptr(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
                virt_type,
                pointers.as_mut_ptr(),
                count,
                0,
            ))
        }
    }

    /// The version of the libvirt that answers, as [`Self::hypervisor_version`] counts.
    pub(crate) fn library_version(&self) -> Result<u64, CallError> {
        let mut version: c_ulong = 0;
        // SAFETY: the connection is valid, and so is the place for the answer.
        check(unsafe { sys::virConnectGetLibVersion(self.as_ptr(), &raw mut version) })?;
        #[allow(clippy::useless_conversion, reason = "narrower on 32-bit systems")]
        Ok(version.into())
    }

    /// The descriptions of all domains, running or not. One that went away meanwhile has none.
    pub(crate) fn descriptions(&self) -> Result<Vec<String>, CallError> {
        let mut domains: *mut sys::virDomainPtr = ptr::null_mut();
        // SAFETY: the connection is valid, and so is the place for the list.
        let count =
            check(unsafe { sys::virConnectListAllDomains(self.as_ptr(), &raw mut domains, 0) })?;
        let mut described = Vec::new();
        for index in 0..count as usize {
            // SAFETY: the list holds `count` domains, each ours to free, once.
            unsafe {
                let domain = *domains.add(index);
                described.extend(take_text(sys::virDomainGetXMLDesc(domain, 0)));
                sys::virDomainFree(domain);
            }
        }
        // SAFETY: allocated by libvirt for us, null at worst, and not used after.
        unsafe { super::free(domains.cast()) };
        Ok(described)
    }

    /// The descriptions of all active virtual networks.
    pub(crate) fn active_networks(&self) -> Result<Vec<String>, CallError> {
        let mut networks: *mut sys::virNetworkPtr = ptr::null_mut();
        let active: c_uint = sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE;
        // SAFETY: the connection is valid, and so is the place for the list.
        let count = check(unsafe {
            sys::virConnectListAllNetworks(self.as_ptr(), &raw mut networks, active)
        })?;
        let mut described = Vec::new();
        for index in 0..count as usize {
            // SAFETY: the list holds `count` networks, each ours to free, once; one that went away
            // meanwhile has no description, which is no error.
            unsafe {
                let network = *networks.add(index);
                described.extend(take_text(sys::virNetworkGetXMLDesc(network, 0)));
                sys::virNetworkFree(network);
            }
        }
        // SAFETY: allocated by libvirt for us, null at worst, and not used after.
        unsafe { super::free(networks.cast()) };
        Ok(described)
    }

    /// Whether libvirt knows a secret by its UUID.
    pub(crate) fn has_secret(&self, uuid: &str) -> Result<bool, CallError> {
        let uuid = text("the UUID of a secret", uuid)?;
        // SAFETY: the connection and the text are valid.
        Self::secret(unsafe { sys::virSecretLookupByUUIDString(self.as_ptr(), uuid.as_ptr()) })
    }

    /// Whether libvirt knows a secret for this use, of a type of `VIR_SECRET_USAGE_TYPE_*`.
    pub(crate) fn has_secret_for(&self, usage: u32, name: &str) -> Result<bool, CallError> {
        let name = text("what a secret is for", name)?;
        let usage = usage as c_int;
        // SAFETY: the connection and the text are valid.
        Self::secret(unsafe { sys::virSecretLookupByUsage(self.as_ptr(), usage, name.as_ptr()) })
    }

    /// Whether there is one, of which a reference is given up.
    fn secret(found: sys::virSecretPtr) -> Result<bool, CallError> {
        if found.is_null() {
            return match CallError::last() {
                CallError { code: sys::VIR_ERR_NO_SECRET, .. } => Ok(false),
                error => Err(error),
            };
        }
        // SAFETY: our reference, not used after.
        unsafe { sys::virSecretFree(found) };
        Ok(true)
    }

    /// The UUID of the domain of a name, if there is one.
    pub(crate) fn named(&self, name: &str) -> Result<Option<String>, CallError> {
        let name = text("the name", name)?;
        // SAFETY: the connection and the text are valid; the reference returned is ours.
        let found =
            unsafe { Domain::new(sys::virDomainLookupByName(self.as_ptr(), name.as_ptr())) };
        match found {
            Ok(domain) => Ok(domain.uuid()),
            Err(CallError { code: sys::VIR_ERR_NO_DOMAIN, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a volume; that there is none is a success.
    pub(crate) fn delete_volume(&self, pool: &str, volume: &str) -> Result<(), CallError> {
        let (pool, volume) = (text("the pool", pool)?, text("the volume", volume)?);
        // SAFETY: the connection and the text are valid; the reference returned is ours.
        let pool = unsafe { sys::virStoragePoolLookupByName(self.as_ptr(), pool.as_ptr()) };
        if pool.is_null() {
            return Err(CallError::last());
        }
        // SAFETY: the pool and the text are valid; a volume that is found is ours to free, and so is
        // the pool.
        unsafe {
            let done = check(sys::virStoragePoolRefresh(pool, 0)).and_then(|_| {
                let found = sys::virStorageVolLookupByName(pool, volume.as_ptr());
                if found.is_null() {
                    return match CallError::last() {
                        CallError { code: sys::VIR_ERR_NO_STORAGE_VOL, .. } => Ok(0),
                        error => Err(error),
                    };
                }
                let deleted = check(sys::virStorageVolDelete(found, 0));
                sys::virStorageVolFree(found);
                deleted
            });
            sys::virStoragePoolFree(pool);
            done.map(drop)
        }
    }

    /// What is free in a storage pool, in bytes, and whether it has a volume of this name. Looks at
    /// the pool anew.
    pub(crate) fn pool_room(&self, pool: &str, volume: &str) -> Result<(u64, bool), CallError> {
        let (pool, volume) = (text("the pool", pool)?, text("the volume", volume)?);
        // SAFETY: the connection and the text are valid; the reference returned is ours.
        let pool = unsafe { sys::virStoragePoolLookupByName(self.as_ptr(), pool.as_ptr()) };
        if pool.is_null() {
            return Err(CallError::last());
        }
        // SAFETY: integers only.
        let mut info: sys::_virStoragePoolInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the pool is valid, and so are the place for the answer and the text; a volume that
        // is found is ours to free.
        let asked = unsafe {
            check(sys::virStoragePoolRefresh(pool, 0))
                .and_then(|_| check(sys::virStoragePoolGetInfo(pool, &raw mut info)))
                .and_then(|_| {
                    let found = sys::virStorageVolLookupByName(pool, volume.as_ptr());
                    if !found.is_null() {
                        sys::virStorageVolFree(found);
                        return Ok(true);
                    }
                    match CallError::last() {
                        CallError { code: sys::VIR_ERR_NO_STORAGE_VOL, .. } => Ok(false),
                        error => Err(error),
                    }
                })
        };
        // SAFETY: our reference, not used after.
        unsafe { sys::virStoragePoolFree(pool) };
        #[allow(clippy::useless_conversion, reason = "narrower on some systems")]
        asked.map(|there| (info.available.into(), there))
    }
}

/// A text for libvirt where an empty one means the default.
fn optional(what: &str, value: &str) -> Result<Option<CString>, CallError> {
    if value.is_empty() { Ok(None) } else { text(what, value).map(Some) }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: gives up the reference that `open` returned; it is not used after. Domains and
        // subscriptions hold references of their own.
        unsafe { sys::virConnectClose(self.as_ptr()) };
        *lock(&OPEN) -= 1;
        CLOSED.notify_all();
    }
}

/// A list of statistics, freed when dropped, also when a closure that looks at it panics.
struct Records(*mut sys::virDomainStatsRecordPtr);

impl Records {
    /// Shows each of `count` records.
    fn each(&self, count: i32, mut each: impl FnMut(String, Option<u32>, Params<'_>)) {
        for index in 0..count as usize {
            // SAFETY: the list holds `count` pointers to records, which live until it is freed.
            let record = unsafe { &**self.0.add(index) };
            let Some(uuid) = super::domain::uuid(record.dom) else { continue };
            let id = super::domain::running_id(record.dom);
            // SAFETY: the record's parameters live as long as it does.
            each(uuid, id, unsafe { Params::new(record.params, record.nparams) });
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the list that `virConnectGetAllDomainStats` returned, freed once.
            unsafe { sys::virDomainStatsRecordListFree(self.0) };
        }
    }
}
